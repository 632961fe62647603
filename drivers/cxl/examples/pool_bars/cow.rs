//! The first write to a page after a reference to it was made, beside the kernel's copy-on-write.

use std::fs::OpenOptions;
use std::io::Write;

use dmrpc_core::store::PAGE_BYTES;
use dmrpc_cxl::Mapping;
use dmrpc_host::clock::Clock;

use crate::Failure;
use crate::bench::{self, Bar, Random, Row};
use crate::private;

/// Pages that are written in a sample.
const PAGES: u64 = 256;
/// Bytes written to each.
const WRITTEN: [u8; 64] = [9; 64];
/// Samples of a block.
const SAMPLES: u64 = 20;

/// Each page once, in random order.
fn shuffled(random: &mut Random) -> Vec<u64> {
    let mut pages: Vec<u64> = (0..PAGES).collect();
    for index in (1..pages.len()).rev() {
        pages.swap(index, random.below(index as u64 + 1) as usize);
    }
    pages
}

pub(crate) fn measure(blocks: u64) -> Result<(), Failure> {
    let pool = bench::pool(256 << 20)?;
    let mut store = bench::store(&pool, 2)?;
    let holder = bench::holder(&mut store)?;
    let region = bench::region(&mut store, holder, PAGES * PAGE_BYTES, PAGES)?;
    let bytes = (PAGES * PAGE_BYTES) as usize;
    // The same kind of memory, mapped privately.
    let shared = Mapping::memfd("pool-bars-private", bytes as u64)?;
    let mut file = OpenOptions::new().read(true).write(true).open(shared.path())?;
    file.write_all(&vec![1; bytes])?;
    let clock = Clock::new();
    let mut random = Random(7);
    let mut ours = Row::new("cow_write", PAGE_BYTES, PAGES);
    let mut theirs = Row::new("kernel_cow_write", PAGE_BYTES, PAGES);
    for _ in 0..blocks {
        let mut samples = [const { Vec::new() }; 2];
        for _ in 0..SAMPLES {
            let pages = shuffled(&mut random);
            let id = store.create_ref(holder, region, 0, bytes as u64)?;
            let start = clock.now();
            for page in &pages {
                store.write(holder, region, page * PAGE_BYTES, &WRITTEN)?;
            }
            samples[0].push(clock.now().since(start).as_nanos() as f64 / PAGES as f64);
            let mut found = [0; 64];
            store.read(holder, region, pages[0] * PAGE_BYTES, &mut found)?;
            assert_eq!(found, WRITTEN);
            store.drop_ref(holder, id)?;
            bench::reclaim(&mut store);

            let mut map = private::map(&file, bytes)?;
            // Mapped before it is written, as what a receiver has read.
            let sum: u64 = map.iter().step_by(PAGE_BYTES as usize).map(|b| u64::from(*b)).sum();
            assert_eq!(sum, PAGES, "the file's bytes, not what was written privately");
            let start = clock.now();
            for page in &pages {
                let at = (page * PAGE_BYTES) as usize;
                map[at..at + WRITTEN.len()].copy_from_slice(&WRITTEN);
            }
            samples[1].push(clock.now().since(start).as_nanos() as f64 / PAGES as f64);
        }
        let [own, kernel] = samples;
        let other = bench::quantile(&mut kernel.clone(), 0.5);
        ours.block(own, |median| other / median);
        theirs.block(kernel, |_| 1.0);
    }
    theirs.print("kernel_cow_write", None);
    ours.print("kernel_cow_write", Some(Bar::AtLeast(3.0)));
    Ok(())
}
