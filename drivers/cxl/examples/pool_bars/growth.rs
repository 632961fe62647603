//! Whether operations cost the same in a large pool, among many references and participants.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dmrpc_core::store::{EntryId, HolderId, PAGE_BYTES, Store};
use dmrpc_core::time::Duration;
use dmrpc_cxl::latency;
use dmrpc_cxl::{Mapping, Pool, PoolMemory};
use dmrpc_host::clock::Clock;

use crate::bench::{self, Bar, Random, Row};
use crate::{Failure, number};

/// Regions that the references are of.
const REGIONS: u64 = 1000;
/// Operations that are timed together.
const BATCH: u64 = 16;
/// Batches of a block.
const BATCHES: u64 = 200;
/// Memory that random loads are from.
const CHASE_BYTES: u64 = 256 << 20;
/// Random loads that an operation may take longer.
const LOADS: f64 = 3.0;

/// A pool in which something grew.
struct Grown {
    name: &'static str,
    pool_gib: u64,
    refs: u64,
    participants: u32,
}

const CASES: [Grown; 4] = [
    Grown { name: "map_ref_hot", pool_gib: 1, refs: 1, participants: 2 },
    Grown { name: "map_ref_in_12_gib", pool_gib: 12, refs: 1, participants: 2 },
    Grown { name: "map_ref_of_1000000", pool_gib: 1, refs: 1_000_000, participants: 2 },
    Grown { name: "map_ref_among_64", pool_gib: 1, refs: 1, participants: 64 },
];

/// A store with references in it.
struct Laid {
    pool: Pool,
    store: Store<PoolMemory>,
    holder: HolderId,
    refs: Vec<EntryId>,
    random: Random,
    /// Participants that do nothing.
    _idle: Vec<Store<PoolMemory>>,
}

/// One operation on a reference: it is mapped, and the region freed.
#[inline(never)]
fn measured_operation(
    store: &mut Store<PoolMemory>,
    holder: HolderId,
    id: EntryId,
) -> dmrpc_core::store::Result<()> {
    let region = store.map_ref(holder, id, 0, PAGE_BYTES, true)?;
    store.free(holder, region)
}

impl Laid {
    fn new(grown: &Grown) -> Result<Self, Failure> {
        let pool = bench::pool(grown.pool_gib << 30)?;
        let mut store = bench::store(&pool, grown.participants)?;
        let holder = bench::holder(&mut store)?;
        let mut regions = Vec::new();
        for _ in 0..grown.refs.min(REGIONS) {
            regions.push(bench::region(&mut store, holder, PAGE_BYTES, 1)?);
        }
        let mut refs = Vec::new();
        for number in 0..grown.refs {
            let region = regions[(number % REGIONS) as usize];
            refs.push(store.create_ref(holder, region, 0, PAGE_BYTES)?);
        }
        let idle: Result<_, _> = (2..grown.participants)
            .map(|index| Store::attach(pool.store_memory(), index))
            .collect();
        Ok(Self { pool, store, holder, refs, random: Random(11), _idle: idle? })
    }

    fn operations(&mut self, count: u64) -> Result<(), Failure> {
        for _ in 0..count {
            let id = self.refs[self.random.below(self.refs.len() as u64) as usize];
            measured_operation(&mut self.store, self.holder, id)?;
        }
        Ok(())
    }

    /// Nanoseconds an operation, in batches, while the other core works on something of its own.
    fn time(&mut self, clock: &Clock) -> Result<Vec<f64>, Failure> {
        let mut samples = Vec::new();
        for _ in 0..BATCHES {
            let start = clock.now();
            self.operations(BATCH)?;
            samples.push(clock.now().since(start).as_nanos() as f64 / BATCH as f64);
            bench::reclaim(&mut self.store);
        }
        Ok(samples)
    }
}

pub(crate) fn measure(blocks: u64) -> Result<(), Failure> {
    let clock = Clock::new();
    let memory = Mapping::memfd("pool-bars-chase", CHASE_BYTES)?.memory(0, CHASE_BYTES);
    latency::prepare_chase(&memory, 0, CHASE_BYTES / 64, 3);
    let mut at = 0;
    let mut hot = Laid::new(&CASES[0])?;
    for grown in &CASES {
        let mut laid = Laid::new(grown)?;
        let mut row = Row::new(grown.name, PAGE_BYTES, BATCH);
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<(), Failure> {
            let other = laid.pool.store_memory();
            scope.spawn(|| {
                bench::pin_there();
                let mut other = Store::attach(other, 1).expect("it is free");
                let holder = bench::holder(&mut other).expect("room");
                let region = bench::region(&mut other, holder, PAGE_BYTES, 1).expect("room");
                while !over.load(Ordering::Acquire) {
                    let id = other.create_ref(holder, region, 0, PAGE_BYTES).expect("room");
                    other.drop_ref(holder, id).expect("its own");
                }
            });
            let mut measure = || -> Result<(), Failure> {
                for _ in 0..blocks {
                    let base = bench::quantile(&mut hot.time(&clock)?, 0.5);
                    // Short ones: a long one would count what other processes took of the core.
                    let mut loads: Vec<f64> =
                        (0..50).map(|_| latency::chase(&memory, &clock, &mut at, 100)).collect();
                    let load = bench::quantile(&mut loads, 0.5);
                    let allowed = base + LOADS * load;
                    row.block(laid.time(&clock)?, |median| median / allowed);
                }
                Ok(())
            };
            let result = measure();
            over.store(true, Ordering::Release);
            result
        })?;
        row.print("hot and 3 random loads", Some(Bar::AtMost(1.0)));
    }
    Ok(())
}

/// A pointer chase through the latency injector.
pub(crate) fn chase(blocks: u64) -> Result<(), Failure> {
    let clock = Clock::new();
    let mut mapping = Mapping::memfd("pool-bars-chase", CHASE_BYTES)?;
    latency::prepare_chase(&mapping.memory(0, CHASE_BYTES), 0, CHASE_BYTES / 64, 3);
    for asked in [400, 1000, 3000] {
        mapping.slow_down(Duration::from_nanos(asked));
        let delayed = mapping.memory(0, CHASE_BYTES);
        let name = match asked {
            400 => "chase_400_ns",
            1000 => "chase_1000_ns",
            _ => "chase_3000_ns",
        };
        let mut row = Row::new(name, 64, 200);
        let mut at = 0;
        for _ in 0..blocks {
            let samples = (0..50).map(|_| latency::chase(&delayed, &clock, &mut at, 200));
            // How far it is off, either way.
            row.block(samples.collect(), |median| (median / asked as f64 - 1.0).abs());
        }
        black_box(row.median());
        row.print("off the latency asked for", Some(Bar::AtMost(0.2)));
    }
    Ok(())
}

/// Operations for counting their instructions.
pub(crate) fn count() -> Result<(), Failure> {
    let grown = Grown {
        name: "",
        pool_gib: number("--pool-gib", 1),
        refs: number("--refs", 1),
        participants: number("--participants", 2) as u32,
    };
    let mut laid = Laid::new(&grown)?;
    for _ in 0..number("--rounds", 1000) / BATCH {
        laid.operations(BATCH)?;
        bench::reclaim(&mut laid.store);
    }
    Ok(())
}
