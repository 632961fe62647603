//! What the page store costs, beside yardsticks of the same memory in the same run.
//!
//! Without flags: a table of times. With `--op`: one operation for counting instructions.

mod mapping;
mod one;
mod table;

use dmrpc_core::store::{Config, Layout};
use mapping::Mapping;

/// What to run, from the command line.
pub(crate) struct Options {
    /// Operation to run alone; none for the table.
    pub(crate) op: String,
    /// Bytes of a region.
    pub(crate) size: u64,
    /// Bytes of a read or write.
    pub(crate) bytes: u64,
    /// How often.
    pub(crate) iterations: u64,
    /// Regions to choose among.
    pub(crate) among_regions: u64,
    /// References to choose among.
    pub(crate) among_refs: u64,
    /// Pages of a region that are written before and chosen among.
    pub(crate) pages: u64,
}

/// A small generator of random numbers (splitmix64): the same every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(z ^ (z >> 31)) * u128::from(bound)) >> 64) as u64
    }
}

/// Memory and a configuration with room for `bytes` bytes of pages.
pub(crate) fn new_store(bytes: u64) -> Result<(Mapping, Config), Box<dyn std::error::Error>> {
    let mut config = Config::for_pool_bytes(bytes + bytes / 16 + (64 << 20));
    config.regions = config.regions.max(2_000);
    config.entries = config.entries.max(120_000);
    config.versions = config.versions.max(8_000);
    config.holds_max = 1 << 20;
    let mapping = Mapping::new(Layout::new(&config)?.bytes())?;
    Ok((mapping, config))
}

/// Reads a number of bytes such as `4096`, `32KiB`, `1MiB`, `64GiB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    for (unit, shift) in units {
        if let Some(number) = text.strip_suffix(unit)
            && let Ok(number) = number.parse::<u64>()
        {
            return Ok(number << shift);
        }
    }
    Err(format!("{text}: not a number of bytes such as 4096, 32KiB, 1MiB or 64GiB"))
}

fn parse() -> Result<Options, String> {
    let mut options = Options {
        op: String::new(),
        size: 1 << 20,
        bytes: 64,
        iterations: 1_000,
        among_regions: 1,
        among_refs: 1,
        pages: 256,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--op" => options.op = value,
            "--size" => options.size = parse_bytes(&value)?,
            "--bytes" => options.bytes = parse_bytes(&value)?,
            "--iterations" => options.iterations = parse_bytes(&value)?,
            "--among-regions" => options.among_regions = parse_bytes(&value)?.max(1),
            "--among-refs" => options.among_refs = parse_bytes(&value)?.max(1),
            "--pages" => options.pages = parse_bytes(&value)?.max(1),
            _ => return Err(format!("{flag}: no such flag")),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = parse().unwrap_or_else(|error| {
        eprintln!("store_bench: {error}");
        std::process::exit(2);
    });
    if options.op.is_empty() { table::run() } else { one::run(&options) }
}
