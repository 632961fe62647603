//! What happened last: a ring of events that is always on, costs a few stores an event, and can be
//! read at any moment, by a dying process too.
//!
//! A ring has one writer, its poll loop, and needs no lock: each word is an atomic that is stored
//! plainly. A reader on another thread may see an event half written, but never a word that was
//! not there.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::endpoint::Host;
use crate::endpoint::host::{
    Admission, Body, Closed, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent,
    SessionId, Side, Sink, Source,
};
use crate::memory::Loan;
use crate::time::Instant;
use crate::wire::message::TraceId;

/// Events that a ring holds.
pub const EVENTS: usize = 256;
/// Words of an event.
const WORDS: usize = 6;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// A request was given to its service.
    Request = 1,
    /// A request had no room and is to come again.
    Busy = 2,
    /// A long request was refused at its first packet.
    Rejected = 3,
    /// A request was cancelled while its service had it.
    Cancelled = 4,
    /// A call made here has ended well.
    Completed = 5,
    /// A call made here has failed.
    Failed = 6,
    /// A session was opened.
    Opened = 7,
    /// A peer fell silent.
    Suspected = 8,
    /// It was heard of again.
    Recovered = 9,
    /// A session ended: asked for, by either end.
    ClosedBye = 10,
    /// A session ended: its peer was silent for the lease.
    ClosedLease = 11,
    /// A session ended: its peer does not know it.
    ClosedRestarted = 12,
    /// A session ended: a later life of its client took over.
    ClosedSuperseded = 13,
    /// A session was never opened: no answer, or one that says no.
    ClosedRefused = 14,
}

impl What {
    const ALL: [Self; 14] = [
        Self::Request,
        Self::Busy,
        Self::Rejected,
        Self::Cancelled,
        Self::Completed,
        Self::Failed,
        Self::Opened,
        Self::Suspected,
        Self::Recovered,
        Self::ClosedBye,
        Self::ClosedLease,
        Self::ClosedRestarted,
        Self::ClosedSuperseded,
        Self::ClosedRefused,
    ];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Busy => "busy",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Opened => "opened",
            Self::Suspected => "suspected",
            Self::Recovered => "recovered",
            Self::ClosedBye => "closed: goodbye",
            Self::ClosedLease => "closed: lease expired",
            Self::ClosedRestarted => "closed: peer restarted",
            Self::ClosedSuperseded => "closed: superseded",
            Self::ClosedRefused => "closed: refused",
        }
    }
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
    /// The session's index here.
    pub session: u32,
    /// The slot of the call, if it is about one.
    pub slot: u16,
    /// The number of the request in its slot, or the token of a call made here.
    pub request: u64,
    /// The trace of the call; zero if it has none.
    pub trace: TraceId,
}

/// The last [`EVENTS`] events.
#[derive(Debug)]
pub struct Ring {
    next: AtomicU64,
    events: [[AtomicU64; WORDS]; EVENTS],
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// An empty ring. `const`, so that it can be a `static` that a panic hook reads.
    pub const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            events: [const { [const { AtomicU64::new(0) }; WORDS] }; EVENTS],
        }
    }

    /// Remembers an event and forgets the oldest. For one thread only.
    #[inline]
    pub fn record(&self, event: &Event) {
        let number = self.next.load(Ordering::Relaxed);
        let slot = &self.events[number as usize % EVENTS];
        let place = u64::from(event.session) << 32 | u64::from(event.slot) << 8;
        let trace = event.trace.0;
        let words = [
            event.at.as_nanos(),
            place | event.what as u64,
            event.request,
            trace as u64,
            (trace >> 64) as u64,
            number + 1,
        ];
        for (slot, word) in slot.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.next.store(number + 1, Ordering::Release);
    }

    /// Events since the beginning, forgotten ones among them.
    pub fn count(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Calls `each` with what is remembered, the oldest first.
    pub fn for_each(&self, mut each: impl FnMut(Event)) {
        let end = self.count();
        for number in end.saturating_sub(EVENTS as u64)..end {
            let slot = &self.events[number as usize % EVENTS];
            let [at, place, request, low, high, stamp] =
                core::array::from_fn(|word| slot[word].load(Ordering::Relaxed));
            let what = What::ALL.into_iter().find(|what| *what as u64 == place & 0xFF);
            // Another event may have taken its place meanwhile.
            let Some(what) = what.filter(|_| stamp == number + 1) else { continue };
            each(Event {
                at: Instant::from_nanos(at),
                what,
                session: (place >> 32) as u32,
                slot: (place >> 8) as u16,
                request,
                trace: TraceId(u128::from(high) << 64 | u128::from(low)),
            });
        }
    }
}

/// A host, and a ring that remembers what it was asked and told.
#[derive(Debug)]
pub struct Traced<'r, H> {
    /// The host.
    pub host: H,
    ring: &'r Ring,
    now: Instant,
}

impl<'r, H: Host> Traced<'r, H> {
    /// Remembers in `ring` what happens to `host`.
    pub fn new(host: H, ring: &'r Ring) -> Self {
        Self { host, ring, now: Instant::ZERO }
    }

    /// The ring.
    pub fn ring(&self) -> &'r Ring {
        self.ring
    }

    fn call(&self, what: What, call: PendingCall, trace: TraceId) {
        let (session, slot, request) = (call.session.index, call.slot, call.request);
        self.ring.record(&Event { at: self.now, what, session, slot, request, trace });
    }
}

impl<H: Host> Host for Traced<'_, H> {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        let admission = self.host.admit(head, body_bytes);
        match admission {
            Admission::Accept(_) => {}
            Admission::Busy => self.call(What::Busy, head.call, head.trace),
            _ => self.call(What::Rejected, head.call, head.trace),
        }
        admission
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
        self.now = now;
        // Before it is served: if that panics, it is the one that matters.
        self.call(What::Request, head.call, head.trace);
        let outcome = self.host.request(now, head, body, reply);
        if outcome == Outcome::Busy {
            self.call(What::Busy, head.call, head.trace);
        }
        outcome
    }

    fn cancelled(&mut self, call: PendingCall) {
        self.call(What::Cancelled, call, TraceId(0));
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
        self.now = now;
        let what = if completion.result.is_ok() { What::Completed } else { What::Failed };
        let (session, slot) = (completion.call.session.index, completion.call.slot);
        let (request, trace) = (completion.token, TraceId(0));
        self.ring.record(&Event { at: now, what, session, slot, request, trace });
        self.host.completed(now, completion);
    }

    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        self.now = now;
        let (what, life) = match event {
            SessionEvent::Connected { incarnation }
            | SessionEvent::Accepted { incarnation, .. } => (What::Opened, incarnation),
            SessionEvent::Suspected => (What::Suspected, 0),
            SessionEvent::Recovered => (What::Recovered, 0),
            SessionEvent::Closed(Closed::Bye) => (What::ClosedBye, 0),
            SessionEvent::Closed(Closed::LeaseExpired) => (What::ClosedLease, 0),
            SessionEvent::Closed(Closed::PeerRestarted) => (What::ClosedRestarted, 0),
            SessionEvent::Closed(Closed::Superseded) => (What::ClosedSuperseded, 0),
            SessionEvent::Closed(_) => (What::ClosedRefused, 0),
        };
        let event_of = Event {
            at: now,
            what,
            session: session.index,
            slot: 0,
            // Which life of the peer, when it comes.
            request: life,
            trace: TraceId(0),
        };
        self.ring.record(&event_of);
        self.host.session(now, side, session, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn event(number: u64) -> Event {
        Event {
            at: Instant::from_nanos(number),
            what: What::ALL[number as usize % What::ALL.len()],
            session: number as u32 ^ 0xFFFF_0000,
            slot: number as u16 ^ 0xFF00,
            request: !number,
            trace: TraceId(u128::from(number) << 100 | 5),
        }
    }

    #[test]
    fn the_last_events_come_back_in_order() {
        let ring = Ring::new();
        for count in [0, 1, 200, 256, 257, 1000] {
            while ring.count() < count {
                ring.record(&event(ring.count()));
            }
            let mut seen = Vec::new();
            ring.for_each(|event| seen.push(event));
            let expected: Vec<_> = (count.saturating_sub(256)..count).map(event).collect();
            assert_eq!(seen, expected);
        }
    }
}
