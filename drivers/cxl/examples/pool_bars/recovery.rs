//! Recovery of a participant that died with many references, and what others notice of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use dmrpc_core::memory::Counted;
use dmrpc_core::store::{PAGE_BYTES, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_host::clock::Clock;

use crate::Failure;
use crate::bench::{self, Bar, Row};

/// References of the one that dies.
const ENTRIES: u64 = 100_000;
/// Regions that they are of.
const REGIONS: usize = 1000;
/// Steps of reclaiming between two looks at whether all is done.
const STEPS: u32 = 1024;
/// Operations of the other that are looked at before anybody dies.
const QUIET: u64 = 100_000;
/// Words that the other's operations touched at most: before, and during the recovery.
static MOST: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

pub(crate) fn measure(blocks: u64) -> Result<(), Failure> {
    let pool = bench::pool(512 << 20)?;
    let mut store = bench::store(&pool, 3)?;
    let clock = Clock::new();
    let (during, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let done = AtomicU64::new(0);
    let mut row = Row::new("recover_100000", 0, ENTRIES);
    thread::scope(|scope| -> Result<(), Failure> {
        scope.spawn(|| {
            bench::pin_there();
            let memory = Counted::new(pool.store_memory(), || unreachable!("nobody dies here"));
            let mut store = Store::attach(memory, 2).expect("it is free");
            let holder = bench::holder(&mut store).expect("room");
            let region = bench::region(&mut store, holder, PAGE_BYTES, 1).expect("room");
            while !over.load(Ordering::Acquire) {
                let phase = usize::from(during.load(Ordering::Acquire));
                store.memory().reset();
                let id = store.create_ref(holder, region, 0, PAGE_BYTES).expect("room");
                store.drop_ref(holder, id).expect("its own");
                let touches = store.memory().touches();
                // One that spans the beginning or the end belongs to neither.
                if phase == usize::from(during.load(Ordering::Acquire)) {
                    MOST[phase].fetch_max(touches.loads + touches.stores, Ordering::Relaxed);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut measure = || -> Result<(), Failure> {
            let quiet = done.load(Ordering::Relaxed) + QUIET;
            while done.load(Ordering::Relaxed) < quiet {
                std::hint::spin_loop();
            }
            let mut now = Instant::ZERO;
            for _ in 0..blocks.min(21) {
                let mut dying = Store::attach(pool.store_memory(), 1)?;
                let holder = bench::holder(&mut dying)?;
                let mut regions = Vec::new();
                for _ in 0..REGIONS {
                    regions.push(bench::region(&mut dying, holder, PAGE_BYTES, 1)?);
                }
                for number in 0..ENTRIES as usize {
                    dying.create_ref(holder, regions[number % REGIONS], 0, PAGE_BYTES)?;
                }
                // It is gone without a word: its handle has nothing to say at its end.
                drop(dying);
                now = now + Duration::from_nanos(1);
                during.store(true, Ordering::Release);
                let start = clock.now();
                while !store.recover(1, now)? {}
                // The grace is over as soon as it began: what is measured is the work.
                now = now + Duration::from_nanos(store.config().grace_ns + 1);
                while store.pending() {
                    store.reclaim(now, STEPS);
                }
                let span = clock.now().since(start).as_nanos() as f64;
                during.store(false, Ordering::Release);
                let left = store.stats().entries.in_use;
                assert!(left <= 64, "{left} references are left");
                row.block(vec![span / ENTRIES as f64], |each| 1e3 / each);
            }
            Ok(())
        };
        let result = measure();
        over.store(true, Ordering::Release);
        result
    })?;
    row.print("a million a second", Some(Bar::AtLeast(1.0)));
    let [quiet, busy] = [0, 1].map(|phase| MOST[phase].load(Ordering::Relaxed) as f64);
    let mut others = Row::new("words_of_others_meanwhile", 0, 1);
    others.block(vec![busy], |_| busy / quiet);
    others.print("words before", Some(Bar::AtMost(1.0)));
    Ok(())
}
