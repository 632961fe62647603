//! What a poll loop does, counted: packets, bursts, time.
//!
//! Costs the loop no look at the clock of its own: it takes the time that the loop has read anyway.
//! Requests are timed one in [`SAMPLE`], which is less than one look at the clock a burst.

use dmrpc_core::endpoint::Polled;
use dmrpc_core::endpoint::host::{
    Admission, Body, Completion, Host, Outcome, PendingCall, Reply, RequestHead, SessionEvent,
    SessionId, Side, Sink, Source,
};
use dmrpc_core::memory::Loan;
use dmrpc_core::time::{Duration, Instant};

use crate::clock::Clock;

/// Of so many requests one is timed. A power of two; two looks at the clock each.
pub const SAMPLE: u64 = 128;

/// What a poll loop has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollCounts {
    /// Polls.
    pub polls: u64,
    /// Polls that found nothing to do.
    pub empty: u64,
    /// Polls that took in packets.
    pub bursts: u64,
    /// Packets taken in.
    pub packets: u64,
    /// Packets of messages sent.
    pub sent: u64,
    /// Time of polls that had something to do, each up to the next poll, in nanoseconds.
    pub busy_ns: u64,
}

/// Counts polls as they happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct PollMeter {
    counts: PollCounts,
    /// When the last poll began, if it had something to do.
    busy_since: Option<Instant>,
}

impl PollMeter {
    /// Counts a poll that began at `now`; `worked` if there was anything to do, in the endpoint or
    /// beside it.
    #[inline]
    pub fn count(&mut self, now: Instant, polled: Polled, worked: bool) {
        let counts = &mut self.counts;
        if let Some(before) = self.busy_since {
            counts.busy_ns += now.since(before).as_nanos();
        }
        counts.polls += 1;
        counts.empty += u64::from(!worked);
        counts.bursts += u64::from(polled.received > 0);
        counts.packets += u64::from(polled.received);
        counts.sent += u64::from(polled.sent);
        self.busy_since = worked.then_some(now);
    }

    /// Whether the last poll found nothing to do: then it does not matter to the next count when
    /// it began.
    #[inline]
    pub fn is_resting(&self) -> bool {
        self.busy_since.is_none()
    }

    /// Counts a poll that found nothing, after one that found nothing: see
    /// [`PollMeter::is_resting`].
    #[inline]
    pub fn count_empty(&mut self) {
        self.counts.polls += 1;
        self.counts.empty += 1;
    }

    /// Counts packets that were sent between two polls.
    #[inline]
    pub fn count_sent(&mut self, packets: u64) {
        self.counts.sent += packets;
    }

    /// What was counted so far.
    pub fn counts(&self) -> PollCounts {
        self.counts
    }
}

impl PollCounts {
    /// What happened since `before`, an earlier state of the same counts.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            polls: self.polls - before.polls,
            empty: self.empty - before.empty,
            bursts: self.bursts - before.bursts,
            packets: self.packets - before.packets,
            sent: self.sent - before.sent,
            busy_ns: self.busy_ns - before.busy_ns,
        }
    }

    /// Share of polls that found nothing to do: 0 to 1.
    pub fn empty_share(&self) -> f64 {
        share(self.empty, self.polls)
    }

    /// Packets of a burst, on average over bursts with any.
    pub fn burst_fill(&self) -> f64 {
        share(self.packets, self.bursts)
    }

    /// Length of a poll that had something to do, in nanoseconds, on average.
    pub fn busy_poll_ns(&self) -> f64 {
        share(self.busy_ns, self.polls - self.empty)
    }

    /// Hands `each` every count with its name, in an order that stays the same.
    pub fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
        each("polls", self.polls);
        each("empty", self.empty);
        each("bursts", self.bursts);
        each("packets", self.packets);
        each("sent", self.sent);
        each("busy_ns", self.busy_ns);
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Time spent in requests: measured for some, projected to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerTime {
    /// Requests.
    pub requests: u64,
    /// Those that were timed.
    pub timed: u64,
    /// Time that those took, in nanoseconds.
    pub timed_ns: u64,
}

impl HandlerTime {
    /// What happened since `before`, an earlier state of the same counts.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            timed: self.timed - before.timed,
            timed_ns: self.timed_ns - before.timed_ns,
        }
    }

    /// Time of one request in nanoseconds, on average over those that were timed.
    pub fn request_ns(&self) -> f64 {
        share(self.timed_ns, self.timed)
    }

    /// Time of all requests in nanoseconds, as those that were timed suggest.
    pub fn all_ns(&self) -> f64 {
        self.request_ns() * self.requests as f64
    }
}

/// A host whose requests are timed, one in [`SAMPLE`], the first among them.
#[derive(Debug)]
pub struct Sampled<H> {
    /// The host.
    pub host: H,
    clock: Clock,
    time: HandlerTime,
}

impl<H> Sampled<H> {
    /// Times requests to `host` by `clock`.
    pub fn new(host: H, clock: Clock) -> Self {
        Self { host, clock, time: HandlerTime::default() }
    }

    /// What was measured so far.
    pub fn time(&self) -> HandlerTime {
        self.time
    }
}

impl<H: Host> Host for Sampled<H> {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        self.host.admit(head, body_bytes)
    }

    #[inline]
    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        self.host.absorb(sink, offset, bytes);
    }

    #[inline]
    fn place(&mut self, sink: Sink, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        self.host.place(sink, offset, bytes)
    }

    #[inline(always)]
    fn placed(&mut self, sink: Sink, bytes: u32) {
        self.host.placed(sink, bytes);
    }

    #[inline]
    fn look(&self, source: Source, offset: u32, bytes: u32) -> Option<&[u8]> {
        self.host.look(source, offset, bytes)
    }

    fn abandon(&mut self, sink: Sink) {
        self.host.abandon(sink);
    }

    #[inline]
    fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let number = self.time.requests;
        self.time.requests += 1;
        if !number.is_multiple_of(SAMPLE) {
            return self.host.request(now, head, body, reply);
        }
        let begin = self.clock.now();
        let outcome = self.host.request(now, head, body, reply);
        let took: Duration = self.clock.now().since(begin);
        self.time.timed += 1;
        self.time.timed_ns += took.as_nanos();
        outcome
    }

    fn cancelled(&mut self, call: PendingCall) {
        self.host.cancelled(call);
    }

    #[inline]
    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        self.host.supply(source, offset, out);
    }

    #[inline]
    fn lend(&mut self, source: Source, offset: u32, least: u32, most: u32) -> Option<Loan> {
        self.host.lend(source, offset, least, most)
    }

    #[inline]
    fn release(&mut self, source: Source) {
        self.host.release(source);
    }

    #[inline]
    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        self.host.completed(now, completion);
    }

    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        self.host.session(now, side, session, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_counted_and_only_busy_ones_take_time() {
        let mut meter = PollMeter::default();
        let at = Instant::from_nanos;
        let (nothing, some) = (Polled::default(), Polled { received: 6, fired: 0, sent: 2 });
        meter.count(at(100), nothing, false);
        meter.count(at(400), some, true);
        meter.count(at(450), some, true);
        // Nothing for the endpoint, but something beside it.
        meter.count(at(470), nothing, true);
        meter.count(at(500), nothing, false);
        meter.count(at(9000), nothing, false);
        assert!(meter.is_resting());
        meter.count_empty();
        meter.count_sent(3);
        let counts = meter.counts();
        let expected =
            PollCounts { polls: 7, empty: 4, bursts: 2, packets: 12, sent: 7, busy_ns: 100 };
        assert_eq!(counts, expected);
        assert_eq!((counts.empty_share(), counts.burst_fill()), (4.0 / 7.0, 6.0));
        assert!((counts.busy_poll_ns() - 100.0 / 3.0).abs() < 1e-9);
        assert_eq!(counts.since(&counts), PollCounts::default());
        assert_eq!(PollCounts::default().burst_fill(), 0.0);
    }

    #[test]
    fn the_time_of_some_requests_stands_for_all() {
        let time = HandlerTime { requests: 1280, timed: 10, timed_ns: 2_000 };
        assert_eq!((time.request_ns(), time.all_ns()), (200.0, 256_000.0));
        assert_eq!(time.since(&time).all_ns(), 0.0);
    }
}
