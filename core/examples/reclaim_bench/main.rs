//! How fast the page store takes back what a dead compute node held, and how much work one poll
//! does of it at most.
//!
//! ```text
//! reclaim_bench [--references N] [--pages N] [--units N]
//! ```
//!
//! A holder has N references, each to a page of its own that nobody else has (a `put` each), and a
//! region of N pages (by default 100,000 and 162,144: together 1 GiB). It leaves; one call of
//! `reclaim` a poll, with so many units each, takes everything back: the region at once, the
//! references after their grace. Prints one JSON line with the rates. Under callgrind, with a dump
//! after each call of `one_poll`, `count` beside this file finds the most instructions of one.

use std::time::Instant as StdInstant;

use dmrpc_core::memory::Plain;
use dmrpc_core::store::{Config, Layout, Limits, RECLAIM_UNITS_A_POLL, Store};
use dmrpc_core::time::{Duration, Instant};

const PAGE: u64 = 4096;

struct Options {
    references: u32,
    pages: u64,
    units: u32,
}

fn parse() -> Result<Options, String> {
    let mut options = Options { references: 100_000, pages: 162_144, units: RECLAIM_UNITS_A_POLL };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<u32>().ok());
        let value = value.ok_or_else(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--references" => options.references = value,
            "--pages" => options.pages = value.into(),
            "--units" => options.units = value,
            _ => return Err(format!("{flag}: no such flag")),
        }
    }
    Ok(options)
}

type PlainStore<'m> = Store<Plain<'m>>;

/// What a memory node does after each poll of its endpoint.
#[inline(never)]
fn one_poll(store: &mut PlainStore<'_>, now: Instant, units: u32) -> u32 {
    store.reclaim(now, units)
}

/// Where the instructions of a poll end, for `count`.
#[inline(never)]
fn polled(done: u32) -> u32 {
    std::hint::black_box(done)
}

/// Polls until nothing is pending: how often, the most units of one poll, and how long it took.
fn poll_all(store: &mut PlainStore<'_>, now: Instant, units: u32) -> (u64, u32, f64) {
    let (begin, mut polls, mut most) = (StdInstant::now(), 0, 0);
    loop {
        let done = polled(one_poll(store, now, units));
        polls += 1;
        most = most.max(done);
        if !store.pending() {
            return (polls, most, begin.elapsed().as_secs_f64());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = parse().unwrap_or_else(|error| {
        eprintln!("reclaim_bench: {error}");
        std::process::exit(2);
    });
    let Options { references, pages, units } = options;
    let frames = u64::from(references) + pages;
    let mut config = Config::for_pool_bytes(frames * PAGE * 9 / 8 + (64 << 20));
    config.entries = config.entries.max(references + 1_000);
    config.versions = config.versions.max(references + 1_000);
    let words = Layout::new(&config)?.bytes().div_ceil(8);
    let mut memory = vec![0_u64; usize::try_from(words)?];
    let mut store = Store::format(Plain::new(&mut memory), &config)?;
    let holder = store.holder_join(Limits::NONE)?;
    let page = [7; PAGE as usize];
    let mut last = None;
    for _ in 0..references {
        let region = store.alloc(holder, PAGE)?;
        store.write(holder, region, 0, &page)?;
        last = Some(store.create_ref(holder, region, 0, PAGE)?);
        store.free(holder, region)?;
        store.reclaim(Instant::ZERO, units);
    }
    let region = store.alloc(holder, pages * PAGE)?;
    for number in 0..pages {
        store.write(holder, region, number * PAGE, &page)?;
    }
    let mut now = Instant::ZERO + Duration::from_secs(1);
    poll_all(&mut store, now, units);
    let before = store.stats();
    assert_eq!(before.frames.in_use, frames);

    store.holder_leave(holder, now)?;
    assert!(store.region_len(holder, region).is_err(), "unusable at once");
    let (polls, most_region, region_s) = poll_all(&mut store, now, units);
    let kept = store.stats();
    assert_eq!(kept.entries.in_use, u64::from(references), "references outlive their owner");
    assert_eq!(kept.frames.in_use, u64::from(references));
    now = now + Duration::from_nanos(config.grace_ns);
    let (entry_polls, most_entries, entries_s) = poll_all(&mut store, now, units);
    let after = store.stats();
    assert_eq!((after.entries.in_use, after.frames.in_use, after.versions.in_use), (0, 0, 0));
    if let Some(last) = last {
        assert!(store.ref_len(last).is_err(), "expired");
    }
    println!(
        "{{\"app\":\"reclaim_bench\",\"references\":{references},\"pages\":{pages},\
         \"frames_per_s\":{:.0},\"references_per_s\":{:.0},\"polls\":{},\"units_a_poll\":{units},\
         \"units_max\":{},\"us_per_poll\":{:.1}}}",
        pages as f64 / region_s,
        f64::from(references) / entries_s,
        polls + entry_polls,
        most_region.max(most_entries),
        (region_s + entries_s) * 1e6 / (polls + entry_polls) as f64,
    );
    Ok(())
}
