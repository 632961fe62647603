//! What all measurements share: the pool, the other core, rows.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use dmrpc_core::memory::Memory;
use dmrpc_core::store::{Config, HolderId, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_core::time::Instant;
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolMemory, pingpong};
use dmrpc_host::affinity::{available_cores, pin_to_core};
use dmrpc_host::clock::Clock;

use crate::Failure;

/// References that a store of the measurements has room for.
pub(crate) const ENTRIES: u32 = 1_100_000;
/// Round trips of the cache line in a sample: one alone is too short for the clock.
const PINGS: u32 = 64;

/// The two cores: a thread that is on one of them sees no other.
static CORES: OnceLock<[usize; 2]> = OnceLock::new();

/// Puts this thread on the first core.
pub(crate) fn pin_here() -> Result<(), Failure> {
    let [here, there, ..] = available_cores()?[..] else {
        return Err("two cores are needed".into());
    };
    Ok(pin_to_core(CORES.get_or_init(|| [here, there])[0])?)
}

/// Puts this thread on the second core.
pub(crate) fn pin_there() {
    let cores = CORES.get().expect("the first thread is on the first core");
    pin_to_core(cores[1]).expect("it was there before");
}

/// A pool of `bytes` bytes in memory of this program's.
pub(crate) fn pool(bytes: u64) -> Result<Pool, Failure> {
    let mapping = Mapping::memfd("pool-bars", bytes)?;
    let config = PoolConfig::default();
    Ok(Pool::format(mapping, Mode::Coherent, &config, (1, [7; 2]), Overwrite::Unused)?)
}

/// A store that fills `pool`, for `participants`, and its first participant.
pub(crate) fn store(pool: &Pool, participants: u32) -> Result<Store<PoolMemory>, Failure> {
    let memory = pool.store_memory();
    // Room for the participants' lines and the references.
    let spare = u64::from(participants) * (64 << 10) + u64::from(ENTRIES) * 72;
    let config = Config::for_pool_bytes(memory.len() - spare);
    let config = Config { participants, entries: ENTRIES, ..config };
    Ok(Store::format(memory, &config)?)
}

/// A region of `bytes` bytes of which `pages` pages, evenly apart, were written.
pub(crate) fn region<M: Memory>(
    store: &mut Store<M>,
    holder: HolderId,
    bytes: u64,
    pages: u64,
) -> Result<RegionId, Failure> {
    let region = store.alloc(holder, bytes)?;
    let all = bytes / PAGE_BYTES;
    for page in (0..all).step_by((all / pages.min(all)) as usize) {
        store.write(holder, region, page * PAGE_BYTES, &page.to_le_bytes())?;
    }
    Ok(region)
}

/// A holder without limits.
pub(crate) fn holder<M: Memory>(store: &mut Store<M>) -> Result<HolderId, Failure> {
    Ok(store.holder_join(Limits::NONE)?)
}

/// Frees all that is to be freed.
pub(crate) fn reclaim<M: Memory>(store: &mut Store<M>) {
    while store.reclaim(Instant::ZERO, 64) == 64 {}
}

/// A generator of random numbers (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The yardstick of two cores: a line of memory of its own, and who answers at it.
pub(crate) struct Yardstick {
    line: PoolMemory,
    /// Set while the other core is to do something else.
    away: AtomicU32,
}

impl Yardstick {
    pub(crate) fn new() -> Result<Self, Failure> {
        let line = Mapping::memfd("pool-bars-line", 4096)?.memory(0, 4096);
        Ok(Self { line, away: AtomicU32::new(0) })
    }

    /// Answers on the other core until [`Self::end`].
    pub(crate) fn answer(&self) {
        pingpong::answer(&self.line, 0);
    }

    /// Nanoseconds of a round trip, while the other core answers.
    pub(crate) fn ask(&self, clock: &Clock) -> f64 {
        pingpong::ask(&self.line, clock, 0, PINGS).as_nanos() as f64 / f64::from(PINGS)
    }

    /// Ends the answers.
    pub(crate) fn end(&self) {
        pingpong::stop(&self.line, 0);
    }

    /// Answers and does `work` by turns, as [`Self::switch`] says, until it says 2.
    pub(crate) fn answer_or(&self, mut work: impl FnMut()) {
        loop {
            match self.away.load(Ordering::Acquire) {
                0 => self.answer(),
                1 => work(),
                _ => return,
            }
        }
    }

    /// Has the other core answer (0), work (1), or end (2).
    pub(crate) fn switch(&self, task: u32) {
        self.line.store_u64(0, 0);
        self.away.store(task, Ordering::Release);
        if task != 0 {
            self.end();
        }
    }
}

/// The samples' value at share `q`.
pub(crate) fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * q) as usize]
}

/// What a ratio should be.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// A row of results.
pub(crate) struct Row {
    op: &'static str,
    bytes: u64,
    /// Nanoseconds of each operation, or of the average of a few.
    samples: Vec<f64>,
    /// Operations in each sample.
    batch: u64,
    /// Operations whose results were looked at.
    verified: u64,
    /// One a block.
    ratios: Vec<f64>,
}

impl Row {
    pub(crate) fn new(op: &'static str, bytes: u64, batch: u64) -> Self {
        Self { op, bytes, samples: vec![], batch, verified: 0, ratios: vec![] }
    }

    /// Takes in a block's samples; the median of which is compared by `ratio`.
    pub(crate) fn block(&mut self, mut samples: Vec<f64>, ratio: impl FnOnce(f64) -> f64) {
        self.ratios.push(ratio(quantile(&mut samples, 0.5)));
        self.verified += samples.len() as u64 * self.batch;
        self.samples.append(&mut samples);
    }

    /// The median of all samples.
    pub(crate) fn median(&mut self) -> f64 {
        quantile(&mut self.samples, 0.5)
    }

    /// Prints the row: the ratio is to `beside`.
    pub(crate) fn print(mut self, beside: &str, bar: Option<Bar>) {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| quantile(&mut self.samples, q));
        let [low, ratio, high] = [0.25, 0.5, 0.75].map(|q| quantile(&mut self.ratios, q));
        let (bar, met) = match bar {
            None => (String::new(), true),
            Some(Bar::AtMost(most)) => (format!("at most {most}"), ratio <= most),
            Some(Bar::AtLeast(least)) => (format!("at least {least}"), ratio >= least),
        };
        println!(
            "{{\"app\":\"pool_bars\",\"driver\":\"cxl\",\"mode\":\"coherent\",\"op\":\"{}\",\
             \"size_bytes\":{},\"concurrency\":1,\"count\":{},\"errors\":0,\"verified\":{},\
             \"p50_ns\":{p50:.0},\"p99_ns\":{p99:.0},\"p999_ns\":{p999:.0},\"ops_per_s\":{:.0},\
             \"gbit_per_s\":0.0,\"ratio\":{ratio:.3},\"ratio_low\":{low:.3},\
             \"ratio_high\":{high:.3},\"beside\":\"{beside}\",\"bar\":\"{bar}\",\"met\":{met}}}",
            self.op,
            self.bytes,
            self.samples.len() as u64 * self.batch,
            self.verified,
            1e9 / p50,
        );
    }
}
