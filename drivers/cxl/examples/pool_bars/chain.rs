//! An argument through a chain of services on two cores: by reference, and copied hop by hop.
//!
//! The first service makes every byte of the argument and the last adds all of them up, each where
//! the bytes are; those between only forward it. Copied, each hop is one copy from the memory of a
//! service to that of the next by the system's memcpy; by reference, it is three words.

use std::sync::Mutex;
use std::thread;

use dmrpc_core::memory::Memory;
use dmrpc_core::store::{EntryId, HolderId, RegionId, Store};
use dmrpc_cxl::{Direct, Mapping, PoolMemory};
use dmrpc_host::clock::Clock;

use crate::Failure;
use crate::bench::{self, Bar, Row};
use crate::private;

/// Bytes of the argument.
const BYTES: usize = 1 << 20;
/// Most services.
const SERVICES_MAX: u64 = 7;
/// Calls of a block, of each kind.
const CALLS: u64 = 30;
/// The number of the first call: lines of zeros hold none yet.
const FIRST: u64 = 2;
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
        if is_copied(call) {
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
    direct: Direct,
}

/// Every other call's bytes are copied.
fn is_copied(call: u64) -> bool {
    !call.is_multiple_of(2)
}

/// What every byte of a call's argument is.
fn value(call: u64) -> u8 {
    (call / 2) as u8
}

/// The sum of the bytes' words, modulo 2^64.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

impl Ends {
    /// Makes the argument of a call and hands it on.
    fn begin(&mut self, hops: &Hops, call: u64) -> Result<EntryId, Failure> {
        if is_copied(call) {
            hops.buffers[0].lock().expect("nobody panics").fill(value(call));
            hops.forward(0, call);
            return Ok(EntryId { index: 0, generation: 0 });
        }
        let mut offset = 0;
        while offset < BYTES as u64 {
            let (place, bytes) = self.store.own_place(self.holder, self.region, offset)?;
            match place {
                Some(place) => {
                    private::fill(&self.direct, place, bytes, value(call));
                    offset += bytes;
                }
                None => self.store.own_page(self.holder, self.region, offset)?,
            }
        }
        let id = self.store.create_ref(self.holder, self.region, 0, BYTES as u64)?;
        hops.hand_on(1, call, [id.index.into(), id.generation]);
        Ok(id)
    }

    /// Adds up what has come.
    fn end(&mut self, hops: &Hops, last: u64, call: u64) -> Result<u64, Failure> {
        if is_copied(call) {
            return Ok(sum(&hops.buffers[last as usize].lock().expect("nobody panics")));
        }
        let [index, generation] = hops.reference(last);
        let id = EntryId { index: index as u32, generation };
        let region = self.store.map_ref(self.holder, id, 0, BYTES as u64, false)?;
        let pin = self.store.pin(self.holder, region, 0, BYTES as u64)?;
        let mut total = 0_u64;
        self.store.pin_runs(pin, 0, BYTES as u64, |place, bytes| {
            let part = place.map_or(0, |place| private::sum(&self.direct, place, bytes));
            total = total.wrapping_add(part);
        })?;
        self.store.unpin(pin)?;
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
    let mut ends = Ends { store, holder, region, direct: pool.store_direct() };
    let buffers = (0..=services).map(|_| Mutex::new(vec![0; BYTES])).collect();
    let hops = Hops { lines: Mapping::memfd("pool-bars-hops", 4096)?.memory(0, 4096), buffers };
    let clock = Clock::new();
    let last = services - 1;
    thread::scope(|scope| {
        scope.spawn(|| {
            bench::pin_there();
            // Odd services run here, even ones there.
            for call in FIRST.. {
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
        let mut call = FIRST;
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
            let word = u64::from_ne_bytes([value(call); 8]);
            assert_eq!(total, word.wrapping_mul(BYTES as u64 / 8), "every byte came");
            if !is_copied(call) {
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

/// What a service between does with an argument of whatever size: it becomes the owner of the
/// reference that came, and hands it on.
#[inline(never)]
fn measured_operation(
    store: &mut Store<PoolMemory>,
    holder: HolderId,
    hops: &Hops,
    call: u64,
) -> Result<(), Failure> {
    hops.await_call(1, call);
    let [index, generation] = hops.reference(1);
    let id = store.claim_ref(holder, EntryId { index: index as u32, generation })?;
    hops.hand_on(2, call, [id.index.into(), id.generation]);
    Ok(())
}

/// Forwards an argument of `bytes` bytes `rounds` times: for counting instructions.
pub(crate) fn count(bytes: u64, rounds: u64) -> Result<(), Failure> {
    let pool = bench::pool(2 * bytes + (256 << 20))?;
    let mut first = bench::store(&pool, 2)?;
    let owner = bench::holder(&mut first)?;
    let region = bench::region(&mut first, owner, bytes, 16)?;
    let id = first.create_ref(owner, region, 0, bytes)?;
    let mut between = Store::attach(pool.store_memory(), 1)?;
    let holder = bench::holder(&mut between)?;
    let lines = Mapping::memfd("pool-bars-hops", 4096)?.memory(0, 4096);
    let hops = Hops { lines, buffers: vec![] };
    hops.hand_on(2, FIRST, [id.index.into(), id.generation]);
    for call in FIRST..FIRST + rounds {
        hops.hand_on(1, call, hops.reference(2));
        measured_operation(&mut between, holder, &hops, call)?;
    }
    Ok(())
}
