//! `address_translate`: from a page of a region to its frame, by the page store and by a hash map.
//!
//! The published system translates with a hash map a session. Here the same pages are looked up in
//! the store's tree and in a hash map with a fast hasher, over indices of their real size; frames
//! share a few pages of bytes, since no page is read.
#![forbid(unsafe_code)]

mod folded;
mod space;

use std::process::ExitCode;

use clap::Parser;
use dmrpc_host::clock::Clock;
use dmrpc_host::size::ByteSize;
use serde_json::json;

use space::{Failure, Op, Space};

/// Compares the page store's address translation with a hash map's.
///
/// A page at random: each page looked up depends on what the one before was found at, as the
/// translation of an access does. A range: 64 neighbouring pages from a random one on, an array
/// of all of their frames; `after`: each range known only when the one before was found, so that
/// all that is seen is how long the way down takes. Times are of batches, divided by lookups.
#[derive(Debug, Parser)]
#[command(
    name = "address_translate",
    version,
    after_help = "\
Examples:
  address_translate
      Address spaces of 1, 10 and 100 GiB; the largest takes about 1 GiB of memory.
  address_translate --sizes 1GiB --blocks 5 --json
      One of them, briefly, as JSON."
)]
struct Options {
    /// Address spaces to measure.
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "1GiB,10GiB,100GiB")]
    sizes: Vec<ByteSize>,

    /// Blocks in which the two are measured in turns.
    #[arg(long, default_value_t = 21, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    blocks: u32,

    /// Batches of each block.
    #[arg(long, default_value_t = 500, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batches: u32,

    /// Seed of everything random.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Print one JSON object a line for each row and nothing else.
    #[arg(long)]
    json: bool,
}

/// Smallest and largest address space.
const SIZES: (u64, u64) = (1 << 20, 1 << 40);

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

/// One operation on one space: the store's times, the map's, and the ratio of each block.
struct Row {
    op: Op,
    size: u64,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    ratios: Vec<f64>,
}

impl Row {
    fn measure(space: &mut Space<'_>, op: Op, options: &Options, clock: &Clock) -> Self {
        let size = space.bytes();
        let mut row = Self { op, size, ours: vec![], theirs: vec![], ratios: vec![] };
        for _ in 0..options.blocks {
            let mut ours: Vec<f64> =
                (0..options.batches).map(|_| space.by_store(op, clock)).collect();
            let mut theirs: Vec<f64> =
                (0..options.batches).map(|_| space.by_map(op, clock)).collect();
            ours.sort_by(f64::total_cmp);
            theirs.sort_by(f64::total_cmp);
            row.ratios.push(quantile(&ours, 0.5) / quantile(&theirs, 0.5));
            row.ours.append(&mut ours);
            row.theirs.append(&mut theirs);
        }
        row.ours.sort_by(f64::total_cmp);
        row.theirs.sort_by(f64::total_cmp);
        row.ratios.sort_by(f64::total_cmp);
        row
    }

    fn print(&self, json: bool) {
        let verified = self.ours.len() as u64;
        for (name, times) in [(self.op.name(), &self.ours), (self.op.map_name(), &self.theirs)] {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| quantile(times, q));
            let ratio = quantile(&self.ratios, 0.5);
            if json {
                let row = json!({
                    "app": "address_translate", "driver": "none", "op": name,
                    "size_bytes": self.size, "concurrency": 1,
                    "count": times.len() as u64 * self.op.lookups(), "errors": 0,
                    "verified": verified, "p50_ns": p50, "p99_ns": p99, "p999_ns": p999,
                    "ops_per_s": 1e9 / p50, "gbit_per_s": 0.0, "to_map": ratio,
                    "to_map_low": quantile(&self.ratios, 0.25),
                    "to_map_high": quantile(&self.ratios, 0.75),
                });
                println!("{row}");
            } else {
                let size = ByteSize(self.size).to_string();
                println!("{name:<22} {size:>8} {p50:>9.1} {p99:>9.1} {p999:>9.1} {ratio:>8.2}");
            }
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    if !options.json {
        let titles = ["p50 ns", "p99 ns", "p99.9 ns"];
        print!("{:<22} {:>8}", "op", "space");
        titles.iter().for_each(|title| print!(" {title:>9}"));
        println!(" {:>8}", "to map");
    }
    let clock = Clock::new();
    for size in &options.sizes {
        let mut words = space::memory(size.0)?;
        let mut space = Space::new(&mut words, size.0, options.seed)?;
        for op in [Op::Page, Op::Range, Op::RangeAfter] {
            space.verify(op, 1000)?;
            Row::measure(&mut space, op, options, &clock).print(options.json);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let options: Options = match dmrpc_host::cli::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    if let Some(size) = options.sizes.iter().find(|size| !(SIZES.0..=SIZES.1).contains(&size.0)) {
        let (least, most) = (ByteSize(SIZES.0), ByteSize(SIZES.1));
        eprintln!("address_translate: --sizes {size}: give {least} to {most}");
        return ExitCode::from(2);
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("address_translate: {error}");
            ExitCode::FAILURE
        }
    }
}
