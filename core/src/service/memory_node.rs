//! A memory node: the page store as a service.

use core::net::SocketAddrV4;

use super::detached::Detachments;
use super::failure::Failure;
use super::steps::Run;
use super::transfers::{Transfer, Transfers};
use crate::endpoint::Counters;
use crate::endpoint::host::{
    Admission, Body, Completion, Host, Outcome, PendingCall, Reply, RequestHead, SessionEvent,
    SessionId, Side, Sink, Source,
};
use crate::memory::{Loan, Memory};
use crate::store::{HolderId, Limits, PinId, RegionId, StageId, Store};
use crate::time::Instant;
use crate::wire::memory_op::{Steps, failure_parameters};
use crate::wire::message::{ArgEntry, Method, Status};
use crate::wire::reference::{RefKey, Sealer};

/// Who a memory node is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its number in the cluster.
    pub memory_node: u32,
    /// Which life of it.
    pub incarnation: u64,
    /// What it seals references with: random, and fresh for each life.
    pub key: RefKey,
}

/// What a memory node keeps for a session: who holds memory in its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionHolder {
    pub(super) generation: u32,
    /// Which life of the client; zero if there is no session.
    pub(super) incarnation: u64,
    /// Where the client is.
    pub(super) peer: Option<SocketAddrV4>,
    pub(super) holder: Option<HolderId>,
    /// Its answers that are pins.
    pub(super) pins: u32,
    /// Its writes of several packets that are coming in.
    pub(super) transfers: u32,
    /// Pages that those touch at most.
    pub(super) staged_pages: u64,
}

impl SessionHolder {
    /// No session.
    pub const EMPTY: Self = Self {
        generation: 0,
        incarnation: 0,
        peer: None,
        holder: None,
        pins: 0,
        transfers: 0,
        staged_pages: 0,
    };
}

/// What a poll loop counts for statistics.
pub const CORE_COUNTS: usize = 8;

/// The operations that are counted, in the order of their numbers on the wire.
pub const OPERATIONS: [&str; 11] = [
    "alloc",
    "free",
    "read",
    "write",
    "create_ref",
    "map_ref",
    "claim_ref",
    "detach",
    "drop_ref",
    "narrow",
    "read_ref",
];

/// Counts of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Steps that took effect.
    pub done: u64,
    /// Bytes that they read or wrote.
    pub bytes: u64,
    /// Steps that failed.
    pub failed: u64,
}

/// The service of a memory node. Give it to [`Endpoint::poll`](crate::endpoint::Endpoint::poll) as
/// the host, and call [`MemoryNode::reclaim`] after each poll.
pub struct MemoryNode<'m, M> {
    pub(super) store: Store<M>,
    pub(super) identity: Identity,
    /// The identity, as references are sealed with it.
    pub(super) sealer: Sealer,
    limits: Limits,
    /// Pages of writes in progress that one session may have.
    pub(super) staged_pages_max: u64,
    /// Writes in progress that one session may have.
    pub(super) transfers_max: usize,
    pub(super) detachments: Detachments<'m>,
    pub(super) sessions: &'m mut [SessionHolder],
    pub(super) transfers: Transfers<'m>,
    /// Whether participants are told where pages are.
    pub(super) hands_out: bool,
    pub(super) operations: [Operation; OPERATIONS.len()],
    /// Sessions that could not be given a holder.
    pub(super) refused_holders: u64,
    /// The endpoint's counters when they were last seen.
    pub(super) counters: Counters,
    /// Of the poll loop, as it last told.
    pub(super) core: [(&'static str, u64); CORE_COUNTS],
}

impl<'m, M: Memory> MemoryNode<'m, M> {
    /// A memory node over `store`. `sessions` has one entry for each server session of the
    /// endpoint; `transfers` bounds the writes of several packets that come in at a time. Each
    /// session may have what `limits` say.
    pub fn new(
        store: Store<M>,
        identity: Identity,
        limits: Limits,
        sessions: &'m mut [SessionHolder],
        transfers: &'m mut [Transfer],
    ) -> Self {
        sessions.fill(SessionHolder::default());
        Self {
            store,
            identity,
            sealer: Sealer::new(&identity.key, identity.memory_node, identity.incarnation),
            limits,
            staged_pages_max: u64::MAX,
            transfers_max: usize::MAX,
            detachments: Detachments::unbounded(),
            sessions,
            transfers: Transfers::new(transfers),
            hands_out: false,
            operations: [Operation::default(); OPERATIONS.len()],
            refused_holders: 0,
            counters: Counters::default(),
            core: [("", 0); CORE_COUNTS],
        }
    }

    /// Bounds the pages of writes in progress that one session may have. What comes beyond waits;
    /// a single write of more is refused.
    pub fn bound_staged_pages(&mut self, pages: u64) {
        self.staged_pages_max = pages;
    }

    /// Bounds the writes of several packets that one session may have in progress. What comes
    /// beyond waits.
    pub fn bound_transfers(&mut self, transfers: usize) {
        self.transfers_max = transfers;
    }

    /// Bounds the detached references that one session may have made. What comes beyond is
    /// refused.
    pub fn bound_detached(&mut self, detachments: Detachments<'m>) {
        self.detachments = detachments;
    }

    /// The page store.
    pub fn store(&self) -> &Store<M> {
        &self.store
    }

    /// Takes note of the endpoint's counters, for whoever asks for statistics: call it now and
    /// then.
    pub fn observe(&mut self, counters: &Counters) {
        self.counters = *counters;
    }

    /// Takes note of what the poll loop counts, each with a name, as [`MemoryNode::observe`] does.
    pub fn observe_core(&mut self, counts: [(&'static str, u64); CORE_COUNTS]) {
        self.core = counts;
    }

    /// Counts of each operation, in the order of [`OPERATIONS`].
    pub fn operations(&self) -> &[Operation; OPERATIONS.len()] {
        &self.operations
    }

    /// Recovers what a participant of the pool that is gone left: see [`Store::recover`]. False if
    /// another one has to be recovered first.
    pub fn recover(&mut self, participant: u32, now: Instant) -> bool {
        // A number that is no participant's of the store left nothing in it.
        self.store.recover(participant, now).unwrap_or(true)
    }

    /// Ends what sessions of an earlier life of this memory node held in the pool: see
    /// [`Store::end_earlier_holders`].
    pub fn end_earlier_sessions(&mut self, now: Instant) {
        self.store.end_earlier_holders(now);
    }

    /// Does up to `budget` steps of freeing. Returns how many there were to do.
    pub fn reclaim(&mut self, now: Instant, budget: u32) -> u32 {
        self.store.reclaim(now, budget)
    }

    /// In whose name a session's requests are done. A session that found no holder left when it
    /// was opened tries again with each request.
    ///
    /// # Errors
    /// No holder is left, or none now.
    pub(super) fn holder_of(&mut self, session: SessionId) -> Result<HolderId, Failure> {
        let entry = &mut self.sessions[session.index as usize];
        debug_assert_eq!(entry.generation, session.generation, "its beginning was told");
        if let Some(holder) = entry.holder {
            return Ok(holder);
        }
        let holder = self.store.holder_join(self.limits).map_err(|error| Failure::of(0, error))?;
        entry.holder = Some(holder);
        Ok(holder)
    }

    /// Runs the steps of a whole request and fills in the reply.
    #[inline(never)]
    pub(super) fn steps(
        &mut self,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let transfer = match body {
            Body::Whole(_) => None,
            Body::Absorbed { sink, .. } => Some(sink.0 as usize),
        };
        let staged = transfer.map(|index| *self.transfers.get(index));
        if let Some(transfer) = &staged {
            self.count_placed(transfer);
        }
        let ended = match (self.holder_of(head.call.session), staged) {
            (Err(failure), _) => Err(failure),
            (Ok(holder), staged) => {
                let staged = staged.and_then(|transfer| Some((transfer.staged?.1, transfer.made)));
                self.run(holder, head, body, staged, reply)
            }
        };
        match (transfer, &ended) {
            // Committed: only the slot remains to be freed.
            (Some(index), Ok(())) => {
                self.end_transfer(index);
            }
            (Some(index), Err(_)) => self.drop_transfer(index),
            (None, _) => {}
        }
        match ended {
            Ok(()) => Outcome::Replied,
            Err(failure) => failure.answer(reply),
        }
    }

    fn run(
        &mut self,
        holder: HolderId,
        head: &RequestHead<'_>,
        body: Body<'_>,
        staged: Option<(StageId, Option<RegionId>)>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Failure> {
        let steps = Steps::parse(head.arguments.parameters()).map_err(|_| Failure::MALFORMED)?;
        let mut run = Run::new(self, holder, head.arguments, reply.body_bytes_max());
        let (bytes, stage) = match (body, staged) {
            (Body::Whole(bytes), _) => (bytes, None),
            (Body::Absorbed { bytes, .. }, Some((stage, made))) => {
                if let Some(made) = made {
                    run.adopt_first(made);
                }
                (&[][..], Some((stage, bytes)))
            }
            (Body::Absorbed { .. }, None) => return Err(Failure::MALFORMED),
        };
        match run.all(steps, bytes, stage) {
            Ok(()) => {
                if let Some(pin) = run.answer(reply) {
                    self.keep(head.call.session, pin);
                }
                Ok(())
            }
            Err(failure) => {
                run.undo();
                debug_assert!(!failure.is_pending() || !run.changed(), "done twice");
                Err(failure)
            }
        }
    }
}

impl<M: Memory> Host for MemoryNode<'_, M> {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        if head.method != Method::MEMORY {
            return Admission::Reject(Status::UNKNOWN_METHOD);
        }
        match self.admit_write(head, body_bytes) {
            Ok(Some(index)) => Admission::Accept(Sink(index as u64)),
            Ok(None) => Admission::Busy,
            Err(failure) if failure.is_pending() => Admission::Busy,
            Err(failure) => {
                let (status, details) = failure.status();
                Admission::RejectWith(status, failure_parameters(failure.step, details))
            }
        }
    }

    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        self.absorb_in_transfer(sink.0 as usize, offset.into(), bytes);
    }

    #[inline]
    fn place(&mut self, sink: Sink, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        self.place_in_transfer(sink.0 as usize, offset.into(), bytes.into())
    }

    #[inline]
    fn placed(&mut self, sink: Sink, bytes: u32) {
        self.transfers.get_mut(sink.0 as usize).placed += u64::from(bytes);
    }

    fn abandon(&mut self, sink: Sink) {
        self.drop_transfer(sink.0 as usize);
    }

    #[inline]
    fn request(
        &mut self,
        _now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        match head.method {
            Method::MEMORY => self.serve_steps(head, body, reply),
            Method::PLACES => self.answer_places(head, reply),
            Method::STATISTICS => {
                self.statistics_page(head.arguments.parameters(), reply);
                Outcome::Replied
            }
            _ => {
                if let Body::Absorbed { sink, .. } = body {
                    self.abandon(sink);
                }
                reply.head(Status::UNKNOWN_METHOD, &[], &[]);
                Outcome::Replied
            }
        }
    }

    fn cancelled(&mut self, _call: PendingCall) {
        // Nothing is ever answered later here.
    }

    #[inline]
    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        let read = self.store.read_pin(PinId::from_raw(source.0), offset.into(), out);
        debug_assert!(read.is_ok(), "a source is pinned until it is released");
    }

    #[inline]
    fn lend(&mut self, source: Source, offset: u32, least: u32, most: u32) -> Option<Loan> {
        self.store.pin_loan(PinId::from_raw(source.0), offset.into(), (least, most))
    }

    fn release(&mut self, source: Source) {
        self.let_go(PinId::from_raw(source.0));
    }

    fn completed(&mut self, _now: Instant, _completion: Completion<'_>) {
        // A memory node makes no calls.
    }

    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        if side != Side::Server {
            return;
        }
        let entry = &mut self.sessions[session.index as usize];
        match event {
            SessionEvent::Accepted { incarnation, peer } => {
                let holder = self.store.holder_join(self.limits).ok();
                self.refused_holders += u64::from(holder.is_none());
                let generation = session.generation;
                let peer = Some(peer);
                let empty = SessionHolder::EMPTY;
                *entry = SessionHolder { generation, incarnation, peer, holder, ..empty };
            }
            SessionEvent::Closed(_) => {
                if let Some(holder) = core::mem::take(entry).holder {
                    self.transfers.forget_places(holder);
                    let left = self.store.holder_leave(holder, now);
                    debug_assert!(left.is_ok(), "a session's holder leaves once");
                }
            }
            _ => {}
        }
    }
}

/// The results of a request, for its answer.
pub(super) struct Results {
    pub(super) references: heapless::Vec<ArgEntry, { crate::wire::memory_op::STEPS_MAX }>,
    pub(super) regions: [u64; crate::wire::memory_op::STEPS_MAX],
}
