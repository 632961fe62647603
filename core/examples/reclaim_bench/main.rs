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

/// The bars are 1 million frames and 500,000 references a second. A poll's 192 units are at most
/// 100,000 instructions (`count` asserts that), so a core that does 1.5 billion a second, half of
/// what today's do, does 2.88 million units: this many thousandths of one for each frame, and for
/// each reference with a page of its own.
const MILLI_UNITS_A_FRAME_MAX: u64 = 2_880;
const MILLI_UNITS_A_REFERENCE_MAX: u64 = 5_760;
/// Below so many, they are not asserted.
const FEW: u32 = 1_000;

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

/// What it took until nothing was pending.
#[derive(Default)]
struct Work {
    polls: u64,
    /// Units of all polls, and the most of one.
    units: u64,
    units_max: u32,
    seconds: f64,
}

fn poll_all(store: &mut PlainStore<'_>, now: Instant, units: u32) -> Work {
    let (begin, mut work) = (StdInstant::now(), Work::default());
    loop {
        let done = polled(one_poll(store, now, units));
        work.polls += 1;
        work.units += u64::from(done);
        work.units_max = work.units_max.max(done);
        if !store.pending() {
            work.seconds = begin.elapsed().as_secs_f64();
            return work;
        }
    }
}

/// Thousandths of a unit that each of `count` things took.
fn milli_units(work: &Work, count: u64) -> u64 {
    (work.units * 1_000).checked_div(count).unwrap_or(0)
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
    let frames_work = poll_all(&mut store, now, units);
    let kept = store.stats();
    assert_eq!(kept.entries.in_use, u64::from(references), "references outlive their owner");
    assert_eq!(kept.frames.in_use, u64::from(references));
    now = now + Duration::from_nanos(config.grace_ns);
    let entries_work = poll_all(&mut store, now, units);
    let after = store.stats();
    assert_eq!((after.entries.in_use, after.frames.in_use, after.versions.in_use), (0, 0, 0));
    if let Some(last) = last {
        assert!(store.ref_len(last).is_err(), "expired");
    }
    let each = (milli_units(&frames_work, pages), milli_units(&entries_work, references.into()));
    let (polls, seconds) =
        (frames_work.polls + entries_work.polls, frames_work.seconds + entries_work.seconds);
    println!(
        "{{\"app\":\"reclaim_bench\",\"references\":{references},\"pages\":{pages},\
         \"frames_per_s\":{:.0},\"references_per_s\":{:.0},\"polls\":{polls},\
         \"units_a_poll\":{units},\"units_max\":{},\"milli_units_a_frame\":{},\
         \"milli_units_a_reference\":{},\"us_per_poll\":{:.1}}}",
        pages as f64 / frames_work.seconds,
        f64::from(references) / entries_work.seconds,
        frames_work.units_max.max(entries_work.units_max),
        each.0,
        each.1,
        seconds * 1e6 / polls as f64,
    );
    let most = frames_work.units_max.max(entries_work.units_max);
    assert!(most <= units, "{most} units in a poll that may do {units}");
    // Few things are mostly the overhead of finding them.
    if references >= FEW && pages >= FEW.into() {
        assert!(each.0 <= MILLI_UNITS_A_FRAME_MAX, "{} milli-units a frame", each.0);
        assert!(each.1 <= MILLI_UNITS_A_REFERENCE_MAX, "{} milli-units a reference", each.1);
    }
    Ok(())
}
