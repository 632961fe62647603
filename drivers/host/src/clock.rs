//! A cheap monotonic clock for the poll loop.
//!
//! Where the processor's time-stamp counter runs at a constant rate through all power states
//! ("invariant"), reading it and multiplying is cheaper than asking the system; elsewhere the clock
//! asks the system.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration as StdDuration, Instant as StdInstant};

use dmrpc_core::time::{Duration, Instant};

#[allow(unsafe_code)]
mod tsc;

/// How long [`Clock::new`] compares the counter with the system's clock.
const CALIBRATION: StdDuration = StdDuration::from_millis(10);

/// Where a clock takes the time from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// The processor's invariant time-stamp counter, calibrated against the system's clock.
    Counter,
    /// The system's `CLOCK_MONOTONIC`.
    System,
    /// Somebody who sets it, such as a simulation.
    Told,
    /// Nowhere: each reading is so much later than the one before.
    Steps,
}

impl fmt::Display for ClockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::System => "system",
            Self::Told => "told",
            Self::Steps => "steps",
        })
    }
}

/// What clocks that nobody tells the time have in its place.
static UNTOLD: AtomicU64 = AtomicU64::new(0);

/// A monotonic clock with its origin at its own creation. Each poll loop has one of its own.
#[derive(Clone, Debug)]
pub struct Clock {
    source: ClockSource,
    start: StdInstant,
    start_ticks: u64,
    /// Nanoseconds a tick, as a fraction of 2^32; of a clock that steps, nanoseconds a step.
    nanos_per_tick_q32: u64,
    /// Where it is told the time.
    told: &'static AtomicU64,
    /// The last reading: no later one is smaller, whatever core the thread was moved to.
    last_nanos: Cell<u64>,
}

impl Clock {
    /// The cheapest clock this machine has. Takes about 10 ms, for calibration.
    pub fn new() -> Self {
        if tsc::is_invariant() { Self::counter() } else { Self::system() }
    }

    /// A clock that asks the system every time.
    pub fn system() -> Self {
        Self {
            source: ClockSource::System,
            start: StdInstant::now(),
            start_ticks: 0,
            nanos_per_tick_q32: 0,
            told: &UNTOLD,
            last_nanos: Cell::new(0),
        }
    }

    /// A clock that shows what is stored in `nanos`, in nanoseconds since its own creation. Lower
    /// values than one shown before are not shown.
    pub fn told_by(nanos: &'static AtomicU64) -> Self {
        Self { source: ClockSource::Told, told: nanos, ..Self::system() }
    }

    /// A clock that every reading moves on by `step`, whatever time has passed: for counts that
    /// must not depend on how fast a program runs.
    pub fn steps(step: Duration) -> Self {
        let nanos_per_tick_q32 = step.as_nanos();
        Self { source: ClockSource::Steps, nanos_per_tick_q32, ..Self::system() }
    }

    fn counter() -> Self {
        let (start, start_ticks) = tsc::read_pair();
        std::thread::sleep(CALIBRATION);
        let (end, end_ticks) = tsc::read_pair();
        let nanos = (end - start).as_nanos();
        let ticks = u128::from(end_ticks.wrapping_sub(start_ticks));
        // Between 10 MHz and 100 GHz; a counter outside that does not count time.
        if ticks * 100 < nanos || ticks > nanos * 100 {
            return Self::system();
        }
        let nanos_per_tick_q32 = u64::try_from((nanos << 32) / ticks).expect("rate was checked");
        let source = ClockSource::Counter;
        Self { source, start, start_ticks, nanos_per_tick_q32, ..Self::system() }
    }

    /// Where this clock takes the time from.
    pub fn source(&self) -> ClockSource {
        self.source
    }

    /// How often the counter ticks in a nanosecond, on average; 1 where another is asked.
    pub fn ticks_a_nano(&self) -> f64 {
        match self.source {
            ClockSource::Counter => (1u64 << 32) as f64 / self.nanos_per_tick_q32 as f64,
            ClockSource::System | ClockSource::Told | ClockSource::Steps => 1.0,
        }
    }

    /// The time since the clock was made. Never less than an earlier reading of the same clock.
    #[inline]
    pub fn now(&self) -> Instant {
        let nanos = match self.source {
            ClockSource::Counter => {
                let ticks = tsc::read().wrapping_sub(self.start_ticks);
                ((u128::from(ticks) * u128::from(self.nanos_per_tick_q32)) >> 32) as u64
            }
            ClockSource::System => self.start.elapsed().as_nanos() as u64,
            ClockSource::Told => self.told.load(Ordering::Relaxed),
            ClockSource::Steps => self.last_nanos.get() + self.nanos_per_tick_q32,
        };
        // A counter that lags a little on another core would otherwise run back, or wrap.
        let last_nanos = self.last_nanos.get();
        if nanos.wrapping_sub(last_nanos) >= 1 << 63 {
            return Instant::from_nanos(last_nanos);
        }
        self.last_nanos.set(nanos);
        Instant::from_nanos(nanos)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far the clock and the system's are apart after 30 ms, as a share of that.
    fn deviation(clock: &Clock) -> f64 {
        let (start, begin) = (StdInstant::now(), clock.now());
        std::thread::sleep(StdDuration::from_millis(30));
        let ours = clock.now().since(begin).as_nanos() as f64;
        let theirs = start.elapsed().as_nanos() as f64;
        (ours / theirs - 1.0).abs()
    }

    fn agrees_with_the_system(clock: &Clock) {
        // Of a few tries, because the readings of a pair may be separated by a preemption.
        let best = (0..5).map(|_| deviation(clock)).fold(f64::MAX, f64::min);
        assert!(best < 0.01, "{best}");
    }

    #[test]
    fn both_sources_agree_with_the_system() {
        agrees_with_the_system(&Clock::new());
        agrees_with_the_system(&Clock::system());
        assert_eq!(Clock::system().source(), ClockSource::System);
    }

    #[test]
    fn one_that_is_told_shows_that() {
        static NANOS: AtomicU64 = AtomicU64::new(5);
        let clock = Clock::told_by(&NANOS);
        assert_eq!(clock.now(), Instant::from_nanos(5));
        NANOS.store(70, Ordering::Relaxed);
        assert_eq!(clock.now(), Instant::from_nanos(70));
        NANOS.store(60, Ordering::Relaxed);
        assert_eq!(clock.now(), Instant::from_nanos(70), "never back");
    }

    #[test]
    fn steps_are_as_long_as_asked_for() {
        let clock = Clock::steps(Duration::from_nanos(70));
        let first = clock.now();
        assert_eq!(clock.now().since(first), Duration::from_nanos(70));
        assert_eq!(clock.source(), ClockSource::Steps);
    }

    #[test]
    fn never_goes_back() {
        let clock = Clock::new();
        let mut last = Instant::ZERO;
        for _ in 0..100_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        clock.last_nanos.set(u64::MAX / 4);
        assert_eq!(clock.now(), Instant::from_nanos(u64::MAX / 4));
    }
}
