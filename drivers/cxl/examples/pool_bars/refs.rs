//! Making, mapping and dropping references, beside a cache line that goes to and fro.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use dmrpc_core::store::{EntryId, PAGE_BYTES, RegionId, Store};
use dmrpc_host::clock::Clock;

use crate::Failure;
use crate::bench::{self, Bar, Row, Yardstick};

/// Sizes of what is referred to.
const SIZES: [u64; 4] = [4 << 10, 1 << 20, 64 << 20, 1 << 30];
/// Operations that are timed together.
const BATCH: usize = 16;
/// Batches of a block.
const BATCHES: usize = 200;
/// Hand-overs of a block.
const HANDED: usize = 1000;

/// `create_ref`, `map_ref` and `drop_ref` of what the same core made.
pub(crate) fn own(blocks: u64) -> Result<(), Failure> {
    let pool = bench::pool(2 << 30)?;
    let yardstick = Yardstick::new()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            bench::pin_there();
            yardstick.answer();
        });
        let result = SIZES.iter().try_for_each(|size| own_of(&pool, &yardstick, *size, blocks));
        yardstick.end();
        result
    })
}

fn own_of(
    pool: &dmrpc_cxl::Pool,
    yardstick: &Yardstick,
    size: u64,
    blocks: u64,
) -> Result<(), Failure> {
    let mut store = bench::store(pool, 2)?;
    let holder = bench::holder(&mut store)?;
    let region = bench::region(&mut store, holder, size, 16)?;
    let clock = Clock::new();
    let mut rows = ["create_ref", "map_ref", "drop_ref"].map(|op| Row::new(op, size, BATCH as u64));
    let mut pings = Row::new("raw_pingpong", 64, 64);
    let mut refs: Vec<EntryId> = Vec::with_capacity(BATCH);
    let mut maps: Vec<RegionId> = Vec::with_capacity(BATCH);
    for _ in 0..blocks {
        let mut samples = [const { Vec::new() }; 3];
        for _ in 0..BATCHES {
            let start = clock.now();
            for _ in 0..BATCH {
                refs.push(store.create_ref(holder, region, 0, size)?);
            }
            let made = clock.now();
            for id in &refs {
                maps.push(store.map_ref(holder, *id, 0, size, true)?);
            }
            let mapped = clock.now();
            let mut first = [0; 8];
            store.read(holder, maps[0], 0, &mut first)?;
            for region in maps.drain(..) {
                store.free(holder, region)?;
            }
            let before = clock.now();
            for id in refs.drain(..) {
                store.drop_ref(holder, id)?;
            }
            let dropped = clock.now();
            for (samples, span) in samples.iter_mut().zip([
                made.since(start),
                mapped.since(made),
                dropped.since(before),
            ]) {
                samples.push(span.as_nanos() as f64 / BATCH as f64);
            }
            bench::reclaim(&mut store);
        }
        let asked: Vec<f64> = (0..50).map(|_| yardstick.ask(&clock)).collect();
        let ping = bench::quantile(&mut asked.clone(), 0.5);
        pings.block(asked, |_| 1.0);
        for (row, samples) in rows.iter_mut().zip(samples) {
            row.block(samples, |median| median / ping);
        }
    }
    pings.print("raw_pingpong", None);
    rows.into_iter().for_each(|row| row.print("raw_pingpong", Some(Bar::AtMost(0.5))));
    Ok(())
}

/// Has the other core make references, one at a time.
const MAKE: u32 = 1;
const MADE: u32 = 0;

/// `map_ref` of what another core just made.
pub(crate) fn handed_over(blocks: u64) -> Result<(), Failure> {
    let pool = bench::pool(256 << 20)?;
    let mut store = bench::store(&pool, 2)?;
    let holder = bench::holder(&mut store)?;
    let yardstick = Yardstick::new()?;
    let clock = Clock::new();
    let (turn, made) = (AtomicU32::new(MADE), Mutex::new(None::<EntryId>));
    thread::scope(|scope| -> Result<(), Failure> {
        scope.spawn(|| {
            bench::pin_there();
            let mut other = Store::attach(pool.store_memory(), 1).expect("it is free");
            let holder = bench::holder(&mut other).expect("room");
            let region = bench::region(&mut other, holder, PAGE_BYTES, 1).expect("room");
            yardstick.answer_or(|| {
                if turn.load(Ordering::Acquire) != MAKE {
                    return std::hint::spin_loop();
                }
                let mut made = made.lock().expect("nobody panics");
                if let Some(last) = made.take() {
                    other.drop_ref(holder, last).expect("it is its own");
                }
                // A version of its own, as what is handed over usually has.
                other.write(holder, region, 0, &[1; 8]).expect("room");
                *made = Some(other.create_ref(holder, region, 0, PAGE_BYTES).expect("room"));
                drop(made);
                turn.store(MADE, Ordering::Release);
            });
        });
        // What looking at the clock costs is not the operation's.
        let mut looks: Vec<f64> = (0..1000)
            .map(|_| {
                let start = clock.now();
                clock.now().since(start).as_nanos() as f64
            })
            .collect();
        let look = bench::quantile(&mut looks, 0.5);
        let mut row = Row::new("map_ref_of_another", PAGE_BYTES, 1);
        let mut measure = || -> Result<(), Failure> {
            for _ in 0..blocks {
                yardstick.switch(0);
                let mut asked: Vec<f64> = (0..50).map(|_| yardstick.ask(&clock)).collect();
                let ping = bench::quantile(&mut asked, 0.5);
                yardstick.switch(1);
                let mut samples = Vec::with_capacity(HANDED);
                for _ in 0..HANDED {
                    turn.store(MAKE, Ordering::Release);
                    while turn.load(Ordering::Acquire) != MADE {
                        std::hint::spin_loop();
                    }
                    let id = made.lock().expect("nobody panics").ok_or("nothing was made")?;
                    let start = clock.now();
                    let region = store.map_ref(holder, id, 0, PAGE_BYTES, true)?;
                    samples.push((clock.now().since(start).as_nanos() as f64 - look).max(0.0));
                    let mut bytes = [0; 8];
                    store.read(holder, region, 0, &mut bytes)?;
                    assert_eq!(bytes, [1; 8], "what the other core wrote");
                    store.free(holder, region)?;
                    bench::reclaim(&mut store);
                }
                row.block(samples, |median| median / ping);
            }
            Ok(())
        };
        let result = measure();
        yardstick.switch(2);
        result?;
        row.print("raw_pingpong", Some(Bar::AtMost(2.0)));
        Ok(())
    })
}
