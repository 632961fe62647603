//! How long answers take, and so how long to wait for one before asking again: RFC 6298's
//! estimator with a datacenter's limits.
//!
//! One call in eight of each slot is timed, one at a time in a session; a call that was repeated
//! is not (Karn's rule). Time at the service counts, for its caller waits for that too.

use crate::time::{Duration, Instant};

/// No slot is being timed.
const NONE: u8 = u8::MAX;
/// Of the calls of a slot, one in so many is timed: a power of two.
const EVERY: u64 = 8;

/// The estimate of one session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    started: Instant,
    timeout_ns: u32,
    /// At most [`SPAN_NS_MAX`], as is the next.
    smoothed_ns: u32,
    variation_ns: u32,
    /// The slot whose call is being timed.
    slot: u8,
}

/// Nanoseconds of a timeout: at most four seconds.
const fn short_ns(span: Duration) -> u32 {
    let ns = span.as_nanos();
    if ns < u32::MAX as u64 { ns as u32 } else { u32::MAX }
}

/// Longer spans count as this long: longer than any timeout.
const SPAN_NS_MAX: u32 = 1 << 31;

impl Rtt {
    /// Nothing known: wait for `timeout`.
    pub(super) const fn new(timeout: Duration) -> Self {
        let timeout_ns = short_ns(timeout);
        Self { started: Instant::ZERO, timeout_ns, smoothed_ns: 0, variation_ns: 0, slot: NONE }
    }

    /// The wait before the first repetition.
    #[inline(always)]
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout_ns.into())
    }

    /// Call number `call` of `slot` begins.
    #[inline(always)]
    pub(super) fn begin(&mut self, slot: u16, call: u64, now: Instant) {
        if call % EVERY == 1 && self.slot == NONE {
            self.slot = slot as u8;
            self.started = now;
        }
    }

    /// The first of the answer to the slot's call is here.
    #[inline(always)]
    pub(super) fn answered(&mut self, slot: u16, now: Instant, min: Duration, max: Duration) {
        if self.slot == slot as u8 {
            self.sample(now.since(self.started), min, max);
        }
    }

    /// The slot's call was repeated, or has ended without an answer.
    #[inline]
    pub(super) fn forget(&mut self, slot: u16) {
        if self.slot == slot as u8 {
            self.slot = NONE;
        }
    }

    /// Nothing came in time of the slot's call. If that is the one being timed, waits are longer
    /// from now on until one has been timed (RFC 6298, 5.5): else answers that always take longer
    /// than the timeout would never be.
    pub(super) fn ran_out(&mut self, slot: u16, max: Duration) {
        if self.slot == slot as u8 {
            self.slot = NONE;
            self.timeout_ns = self.timeout_ns.saturating_mul(2).min(short_ns(max));
        }
    }

    #[inline(never)]
    pub(super) fn sample(&mut self, span: Duration, min: Duration, max: Duration) {
        self.slot = NONE;
        let span_ns = span.as_nanos().min(SPAN_NS_MAX.into()) as u32;
        if self.smoothed_ns == 0 {
            self.smoothed_ns = span_ns;
            self.variation_ns = span_ns / 2;
        } else {
            let error = span_ns.abs_diff(self.smoothed_ns);
            self.variation_ns = self.variation_ns - self.variation_ns / 4 + error / 4;
            self.smoothed_ns = self.smoothed_ns - self.smoothed_ns / 8 + span_ns / 8;
        }
        let timeout =
            Duration::from_nanos(u64::from(self.smoothed_ns) + 4 * u64::from(self.variation_ns));
        self.timeout_ns = short_ns(timeout.max(min).min(max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: fn(u64) -> Duration = Duration::from_micros;

    fn timed(rtt: &mut Rtt, span: Duration) {
        let now = Instant::from_nanos(1_000_000_000);
        rtt.begin(3, 1, now);
        rtt.answered(2, now + US(1), US(100), US(5_000));
        rtt.answered(3, now + span, US(100), US(5_000));
    }

    #[test]
    fn the_timeout_follows_the_answers_within_its_limits() {
        let mut rtt = Rtt::new(US(5_000));
        timed(&mut rtt, US(100));
        assert_eq!(rtt.timeout(), US(300), "the first: three times as long");
        for _ in 0..100 {
            timed(&mut rtt, US(10));
        }
        assert_eq!(rtt.timeout(), US(100), "no less than the least");
        for _ in 0..100 {
            timed(&mut rtt, US(1_000));
        }
        assert!(rtt.timeout() >= US(990) && rtt.timeout() <= US(1_100), "{:?}", rtt.timeout());
        timed(&mut rtt, US(900_000));
        assert_eq!(rtt.timeout(), US(5_000), "no more than the most");
    }

    #[test]
    fn repeated_calls_are_not_timed() {
        let mut rtt = Rtt::new(US(5_000));
        let now = Instant::from_nanos(5);
        rtt.begin(3, 1, now);
        rtt.forget(3);
        rtt.answered(3, now + US(50), US(100), US(5_000));
        assert_eq!(rtt.timeout(), US(5_000));
        rtt.timeout_ns = 300_000;
        rtt.ran_out(3, US(5_000));
        assert_eq!(rtt.timeout(), US(300), "it is another's answer that is timed");
        rtt.begin(3, 1, now);
        rtt.ran_out(3, US(5_000));
        assert_eq!(rtt.timeout(), US(600));
        rtt.timeout_ns = 5_000_000;
        rtt.begin(3, 2, now);
        rtt.answered(3, now + US(50), US(100), US(5_000));
        assert_eq!(rtt.timeout(), US(5_000), "only one call in eight");
    }
}
