//! The measuring of a block of operations.

use dmrpc_core::time::{Duration, Instant};
use dmrpc_host::clock::Clock;
use hdrhistogram::Histogram;

/// Longest time that a histogram tells from longer ones: a minute.
const TIME_NS_MAX: u64 = 60_000_000_000;

/// How much a block measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many operations.
    Count(u64),
    /// As many operations as begin within this time.
    Span(Duration),
}

/// A block being measured.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    budget: Budget,
    start: Instant,
}

impl Block {
    /// Starts a block now.
    pub fn start(clock: &Clock, budget: Budget) -> Self {
        Self { budget, start: clock.now() }
    }

    /// Starts it anew: what came before was to get going.
    pub fn restart(&mut self, clock: &Clock) {
        self.start = clock.now();
    }

    /// Whether another operation is to begin after `begun` of them. At least one is.
    #[inline]
    pub fn more(&self, clock: &Clock, begun: u64) -> bool {
        match self.budget {
            Budget::Count(count) => begun < count,
            Budget::Span(_) => self.more_at(clock.now(), begun),
        }
    }

    /// As [`Block::more`], at a time that is known.
    #[inline]
    pub fn more_at(&self, now: Instant, begun: u64) -> bool {
        match self.budget {
            Budget::Count(count) => begun < count,
            Budget::Span(span) => begun == 0 || now.since(self.start) < span,
        }
    }

    /// How much it measures.
    pub fn budget(&self) -> Budget {
        self.budget
    }
}

/// What was measured of one operation.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Times of single operations, in nanoseconds.
    pub histogram: Histogram<u64>,
    /// Operations that succeeded.
    pub count: u64,
    /// Operations that failed, or brought wrong bytes.
    pub errors: u64,
    /// Operations whose bytes were compared.
    pub verified: u64,
    /// Time in which they were done, in nanoseconds: of one at a time the sum of their times.
    pub elapsed_ns: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing measured yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, TIME_NS_MAX, 3).expect("legal bounds");
        Self { histogram, count: 0, errors: 0, verified: 0, elapsed_ns: 0 }
    }

    /// Counts an operation that was alone on its way.
    #[inline]
    pub fn record(&mut self, span: Duration) {
        self.record_concurrent(span);
        self.elapsed_ns += span.as_nanos();
    }

    /// Counts one of several on their way; whoever measures adds up `elapsed_ns`.
    #[inline]
    pub fn record_concurrent(&mut self, span: Duration) {
        self.count += 1;
        self.histogram.saturating_record(span.as_nanos());
    }

    /// Adds what another block measured.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("histograms of the same bounds");
        self.count += other.count;
        self.errors += other.errors;
        self.verified += other.verified;
        self.elapsed_ns += other.elapsed_ns;
    }

    /// Forgets the times, keeps the counts of errors and verified operations: after a warm-up.
    pub fn forget_times(&mut self) {
        self.histogram.reset();
        (self.count, self.elapsed_ns) = (0, 0);
    }

    /// Median time in nanoseconds.
    pub fn median_ns(&self) -> u64 {
        self.histogram.value_at_quantile(0.5)
    }

    /// Operations a second.
    pub fn ops_per_s(&self) -> f64 {
        self.count as f64 * 1e9 / self.elapsed_ns.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end() {
        let clock = Clock::new();
        let block = Block::start(&clock, Budget::Count(3));
        assert_eq!((0..10).take_while(|begun| block.more(&clock, *begun)).count(), 3);
        let block = Block::start(&clock, Budget::Span(Duration::from_millis(2)));
        assert!(block.more(&clock, 0));
        while block.more(&clock, 1) {}
        assert!(block.more(&clock, 0), "at least one operation whatever the time");
    }

    #[test]
    fn tallies_add_up() {
        let mut sum = Tally::new();
        for nanos in [1000, 3000] {
            let mut tally = Tally::new();
            tally.record(Duration::from_nanos(nanos));
            tally.verified = 1;
            sum.merge(&tally);
        }
        assert_eq!((sum.count, sum.verified, sum.elapsed_ns), (2, 2, 4000));
        assert!((sum.ops_per_s() - 500_000.0).abs() < 1.0);
        assert_eq!(sum.histogram.max() / 10, 300);
        sum.forget_times();
        assert_eq!((sum.count, sum.histogram.len(), sum.verified), (0, 0, 2));
    }
}
