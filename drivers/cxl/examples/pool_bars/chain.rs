//! An argument through a chain of services on two cores: by reference, and copied hop by hop.
//!
//! The first service makes every byte of the argument and the last adds all of them up; those
//! between only forward it. Copied, each hop is one copy from buffer to buffer by the system's
//! memcpy; by reference, each hop forwards three words.

use std::sync::Mutex;
use std::thread;

use dmrpc_core::memory::Memory;
use dmrpc_core::store::{EntryId, HolderId, RegionId, Store};
use dmrpc_cxl::{Mapping, PoolMemory};
use dmrpc_host::clock::Clock;

use crate::Failure;
use crate::bench::{self, Bar, Row};

/// Bytes of the argument.
const BYTES: usize = 1 << 20;
/// The last and the first service work on so many bytes at a time.
const CHUNK: usize = 32 << 10;
/// Most services.
const SERVICES_MAX: u64 = 7;
/// Calls of a block, of each kind.
const CALLS: u64 = 30;
/// What a hop's first word is when its services are to end.
const END: u64 = u64::MAX;
/// Bytes from the line of one hop to the next.
const HOP: u64 = 128;

/// The hops' lines: {number of the call, a reference}, and the buffers of those that copy.
struct Hops {
    lines: PoolMemory,
    buffers: Vec<Mutex<Vec<u8>>>,
}

impl Hops {
    fn await_call(&self, hop: u64, call: u64) -> u64 {
        loop {
            let number = self.lines.load_u64(hop * HOP);
            if number == call || number == END {
                return number;
            }
            std::hint::spin_loop();
        }
    }

    fn hand_on(&self, hop: u64, call: u64, id: [u64; 2]) {
        self.lines.store_u64(hop * HOP + 8, id[0]);
        self.lines.store_u64(hop * HOP + 16, id[1]);
        self.lines.store_u64(hop * HOP, call);
    }

    fn reference(&self, hop: u64) -> [u64; 2] {
        [8, 16].map(|at| self.lines.load_u64(hop * HOP + at))
    }

    /// A service between: forwards the reference of a call, or copies its bytes. Odd calls copy.
    fn forward(&self, service: u64, call: u64) {
        if call % 2 == 1 {
            let from = self.buffers[service as usize].lock().expect("nobody panics");
            let mut to = self.buffers[service as usize + 1].lock().expect("nobody panics");
            to.copy_from_slice(&from);
        }
        self.hand_on(service + 1, call, self.reference(service));
    }
}

/// The first and the last service, which are one process's, and what they refer by.
struct Ends {
    store: Store<PoolMemory>,
    holder: HolderId,
    region: RegionId,
    chunk: Vec<u8>,
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

impl Ends {
    /// Makes the argument of a call and hands it on.
    fn begin(&mut self, hops: &Hops, call: u64) -> Result<EntryId, Failure> {
        let value = (call / 2) as u8;
        if call % 2 == 1 {
            hops.buffers[1].lock().expect("nobody panics").fill(value);
            hops.hand_on(1, call, [0, 0]);
            return Ok(EntryId { index: 0, generation: 0 });
        }
        for offset in (0..BYTES).step_by(CHUNK) {
            self.chunk.fill(value);
            self.store.write(self.holder, self.region, offset as u64, &self.chunk)?;
        }
        let id = self.store.create_ref(self.holder, self.region, 0, BYTES as u64)?;
        hops.hand_on(1, call, [id.index.into(), id.generation]);
        Ok(id)
    }

    /// Adds up what has come.
    fn end(&mut self, hops: &Hops, last: u64, call: u64) -> Result<u64, Failure> {
        if call % 2 == 1 {
            return Ok(sum(&hops.buffers[last as usize].lock().expect("nobody panics")));
        }
        let [index, generation] = hops.reference(last);
        let id = EntryId { index: index as u32, generation };
        let region = self.store.map_ref(self.holder, id, 0, BYTES as u64, false)?;
        let mut total = 0;
        for offset in (0..BYTES).step_by(CHUNK) {
            self.store.read(self.holder, region, offset as u64, &mut self.chunk)?;
            total += sum(&self.chunk);
        }
        self.store.free(self.holder, region)?;
        Ok(total)
    }
}

/// Chains of three and of seven services.
pub(crate) fn measure(blocks: u64) -> Result<(), Failure> {
    through(3, blocks, Bar::AtLeast(2.0))?;
    through(SERVICES_MAX, blocks, Bar::AtLeast(3.0))
}

fn through(services: u64, blocks: u64, bar: Bar) -> Result<(), Failure> {
    let pool = bench::pool(256 << 20)?;
    let mut store = bench::store(&pool, 2)?;
    let holder = bench::holder(&mut store)?;
    let region = store.alloc(holder, BYTES as u64)?;
    let mut ends = Ends { store, holder, region, chunk: vec![0; CHUNK] };
    let buffers = (0..=services).map(|_| Mutex::new(vec![0; BYTES])).collect();
    let hops = Hops { lines: Mapping::memfd("pool-bars-hops", 4096)?.memory(0, 4096), buffers };
    let clock = Clock::new();
    let last = services - 1;
    thread::scope(|scope| {
        scope.spawn(|| {
            bench::pin_there();
            // Odd services run here, even ones there.
            for call in 0.. {
                for service in (1..last).step_by(2) {
                    if hops.await_call(service, call) == END {
                        return;
                    }
                    hops.forward(service, call);
                }
            }
        });
        let names: [&'static str; 2] = match services {
            3 => ["pass_by_reference_3", "pass_by_copy_3"],
            _ => ["pass_by_reference_7", "pass_by_copy_7"],
        };
        let mut rows = names.map(|op| Row::new(op, BYTES as u64, 1));
        let mut call = 0;
        let mut one = |samples: &mut [Vec<f64>; 2]| -> Result<(), Failure> {
            let start = clock.now();
            let id = ends.begin(&hops, call)?;
            for service in (2..last).step_by(2) {
                hops.await_call(service, call);
                hops.forward(service, call);
            }
            hops.await_call(last, call);
            let total = ends.end(&hops, last, call)?;
            samples[(call % 2) as usize].push(clock.now().since(start).as_nanos() as f64);
            assert_eq!(total, u64::from((call / 2) as u8) * BYTES as u64, "every byte came");
            if call % 2 == 0 {
                ends.store.drop_ref(holder, id)?;
                bench::reclaim(&mut ends.store);
            }
            call += 1;
            Ok(())
        };
        for _ in 0..blocks {
            let mut samples = [const { Vec::new() }; 2];
            let block = (0..2 * CALLS).try_for_each(|_| one(&mut samples));
            if let Err(error) = block {
                (1..=last).for_each(|hop| hops.hand_on(hop, END, [0, 0]));
                return Err(error);
            }
            let [reference, copied] = samples;
            let copy = bench::quantile(&mut copied.clone(), 0.5);
            rows[0].block(reference, |median| copy / median);
            rows[1].block(copied, |_| 1.0);
        }
        (1..=last).for_each(|hop| hops.hand_on(hop, END, [0, 0]));
        let [reference, copied] = rows;
        copied.print("pass_by_copy", None);
        reference.print("pass_by_copy", Some(bar));
        Ok(())
    })
}
