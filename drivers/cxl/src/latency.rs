//! Memory that is slower by a chosen number of nanoseconds, to see what a slower pool would do.
//!
//! A load from a line that was not lately used takes as long as was asked for: `PoolMemory` does
//! the load and then waits for what is missing. Lately used lines are kept in a table of the size
//! of a first-level cache; loads from those are not delayed, as they would not be on real hardware.
//! Of a longer range the first new line takes the whole time and each further one an eighth of it,
//! since processors keep several loads on their way. Stores are posted and cost nothing more; a
//! compare-and-swap waits as a load does. A line that is looked at as a whole
//! ([`Memory::line`]) counts as loaded, once for all of its words.
//!
//! Lines that others write are not forgotten by the table: hand-overs between participants are
//! faster than they would be on such memory. References straight into the pool are not delayed.

use std::ops::RangeInclusive;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant as StdInstant;

use dmrpc_core::memory::{LINE_BYTES, Memory};
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;

/// Lines that are taken for cached: 32 KiB.
const LINES: usize = 512;
/// Loads on their way at a time.
const PARALLEL: u64 = 8;
/// What a load waits for while its overhead is measured.
const CALIBRATION_WAIT: Duration = Duration::from_nanos(200);
/// Loads of a try to measure it.
const CALIBRATION_LOADS: u64 = 64;
/// Tries.
const CALIBRATION_TRIES: u32 = 64;

/// How long loads are to take, and which lines were lately used. Used by one thread at a time; a
/// clone begins with no line used.
#[derive(Debug)]
pub(crate) struct Delay {
    wait: Duration,
    /// The line that each place of the table holds, plus one.
    lines: Box<[AtomicU64]>,
}

impl Clone for Delay {
    fn clone(&self) -> Self {
        Self::waiting(self.wait)
    }
}

impl Delay {
    /// For loads from `memory` to take `latency`. Takes some milliseconds, for calibration: what
    /// looking at the clock costs is left out of the waits.
    pub(crate) fn calibrated(memory: &impl Memory, latency: Duration) -> Self {
        let overhead = Self::waiting(CALIBRATION_WAIT).overhead(memory);
        Self::waiting(Duration::from_nanos(latency.as_nanos().saturating_sub(overhead)))
    }

    fn waiting(wait: Duration) -> Self {
        Self { wait, lines: (0..LINES).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Nanoseconds that a delayed load takes beyond what was waited for. The least of many tries:
    /// in the others something else took the core for a while.
    fn overhead(&self, memory: &impl Memory) -> u64 {
        let tries = (0..CALIBRATION_TRIES).map(|_| {
            let start = StdInstant::now();
            for _ in 0..CALIBRATION_LOADS {
                self.lines[0].store(0, Relaxed);
                std::hint::black_box(self.load(0, 8, || memory.load_u64(0)));
            }
            start.elapsed().as_nanos() as u64 / CALIBRATION_LOADS
        });
        tries.min().unwrap_or(0).saturating_sub(CALIBRATION_WAIT.as_nanos())
    }

    /// Whether a line was not lately used; from now on it was.
    #[inline]
    fn is_new(&self, line: u64) -> bool {
        let place = &self.lines[line as usize % LINES];
        let held = place.load(Relaxed);
        place.store(line + 1, Relaxed);
        held != line + 1
    }

    /// Runs `access`, which reads `bytes` bytes at `offset`, for as long as that has to take.
    #[inline(never)]
    pub(crate) fn load<R>(&self, offset: u64, bytes: u64, access: impl FnOnce() -> R) -> R {
        let new = lines(offset, bytes).filter(|line| self.is_new(*line)).count() as u64;
        if new == 0 {
            return access();
        }
        let start = StdInstant::now();
        let result = access();
        let nanos = self.wait.as_nanos() + (new - 1) * self.wait.as_nanos() / PARALLEL;
        while (start.elapsed().as_nanos() as u64) < nanos {
            std::hint::spin_loop();
        }
        result
    }

    /// What is stored is in the cache afterwards.
    pub(crate) fn stored(&self, offset: u64, bytes: u64) {
        lines(offset, bytes).for_each(|line| {
            self.is_new(line);
        });
    }

    /// What is flushed is not.
    pub(crate) fn forget(&self, offset: u64, bytes: u64) {
        lines(offset, bytes).for_each(|line| self.lines[line as usize % LINES].store(0, Relaxed));
    }
}

/// The lines that a range touches.
fn lines(offset: u64, bytes: u64) -> RangeInclusive<u64> {
    offset / LINE_BYTES..=offset.saturating_add(bytes.max(1) - 1) / LINE_BYTES
}

/// Links lines of `memory` from `offset` on into one ring in random order, for [`chase`].
///
/// # Panics
/// If `lines` is 0 or the memory is smaller.
pub fn prepare_chase(memory: &impl Memory, offset: u64, lines: u64, seed: u64) {
    let mut order: Vec<u64> = (0..lines).collect();
    let mut state = seed | 1;
    for index in (1..order.len()).rev() {
        // A xorshift generator: the order need only be one that no prefetcher guesses.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(index, (state % (index as u64 + 1)) as usize);
    }
    for (position, line) in order.iter().enumerate() {
        let next = order[(position + 1) % order.len()];
        memory.store_u64(offset + line * LINE_BYTES, offset + next * LINE_BYTES);
    }
}

/// Nanoseconds a load of a pointer chase that [`prepare_chase`] laid out, from `at` on: each load's
/// address is what the load before found. `at` is where the next chase goes on.
pub fn chase(memory: &impl Memory, clock: &Clock, at: &mut u64, loads: u32) -> f64 {
    let start = clock.now();
    for _ in 0..loads {
        *at = memory.load_u64(*at);
    }
    let span = clock.now().since(start);
    span.as_nanos() as f64 / f64::from(loads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{Mapping, PoolMemory};

    const MEMORY_BYTES: u64 = 8 << 20;

    /// Memory as pools have it, as slow as is asked for.
    fn slow(mapping: &mut Mapping, latency: Duration) -> PoolMemory {
        mapping.slow_down(latency);
        mapping.memory(0, MEMORY_BYTES)
    }

    fn mapping() -> Mapping {
        Mapping::memfd("dmrpc-latency", MEMORY_BYTES).expect("memory")
    }

    #[test]
    fn a_chase_takes_the_latency_asked_for() {
        let mut mapping = mapping();
        let plain = mapping.memory(0, MEMORY_BYTES);
        prepare_chase(&plain, 0, MEMORY_BYTES / LINE_BYTES, 7);
        let clock = Clock::new();
        for nanos in [400, 1000, 3000] {
            let delayed = slow(&mut mapping, Duration::from_nanos(nanos));
            // Other processes take the core away now and then: the best of some tries counts.
            let mut at = 0;
            let tries = (0..100).map(|_| chase(&delayed, &clock, &mut at, 200));
            let found = tries.fold(f64::INFINITY, f64::min);
            let share = found / nanos as f64;
            assert!((0.8..1.2).contains(&share), "{found:.0} ns instead of {nanos}");
        }
    }

    #[test]
    fn lines_lately_used_are_not_delayed() {
        let delayed = slow(&mut mapping(), Duration::from_millis(5));
        let mut target = [0; 64];
        delayed.store_u64(0, 1);
        let start = std::time::Instant::now();
        for _ in 0..1000 {
            delayed.read(0, &mut target);
        }
        assert!(start.elapsed() < std::time::Duration::from_millis(500));
        delayed.flush(0, 64);
        let start = std::time::Instant::now();
        assert_eq!(delayed.compare_exchange_u64(0, 1, 2), Ok(1));
        assert!(start.elapsed() >= std::time::Duration::from_millis(4), "forgotten by the flush");
    }
}
