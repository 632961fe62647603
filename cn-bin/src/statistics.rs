//! What a node has done, counted.

use dmrpc_core::endpoint;
use dmrpc_host::polls::PollCounts;

/// What calls are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// A call of a service.
    Call,
    /// `alloc`.
    Alloc,
    /// `free`.
    Free,
    /// `read`.
    Read,
    /// `write`.
    Write,
    /// `create_ref`.
    CreateRef,
    /// `map_ref`.
    MapRef,
    /// `claim_ref`.
    ClaimRef,
    /// `detach`.
    Detach,
    /// `drop_ref`.
    DropRef,
    /// `narrow`.
    Narrow,
    /// `read_ref`.
    ReadRef,
    /// `put`.
    Put,
    /// `take`.
    Take,
    /// `take_region` and `take_and_write`.
    TakeRegion,
}

/// What an operation leaves with its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Makes {
    Nothing,
    Region,
    Ref,
}

impl Operation {
    /// All of them, in the order of [`Statistics::operations`].
    pub const ALL: [Self; 15] = [
        Self::Call,
        Self::Alloc,
        Self::Free,
        Self::Read,
        Self::Write,
        Self::CreateRef,
        Self::MapRef,
        Self::ClaimRef,
        Self::Detach,
        Self::DropRef,
        Self::Narrow,
        Self::ReadRef,
        Self::Put,
        Self::Take,
        Self::TakeRegion,
    ];

    /// The name used everywhere for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Alloc => "alloc",
            Self::Free => "free",
            Self::Read => "read",
            Self::Write => "write",
            Self::CreateRef => "create_ref",
            Self::MapRef => "map_ref",
            Self::ClaimRef => "claim_ref",
            Self::Detach => "detach",
            Self::DropRef => "drop_ref",
            Self::Narrow => "narrow",
            Self::ReadRef => "read_ref",
            Self::Put => "put",
            Self::Take => "take",
            Self::TakeRegion => "take_region",
        }
    }
}

/// Counts of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCount {
    /// Answered, with whatever status.
    pub done: u64,
    /// Ended without an answer.
    pub failed: u64,
    /// Bytes of bodies sent to the service.
    pub bytes_out: u64,
    /// Bytes of bodies received in answers.
    pub bytes_in: u64,
}

/// Counts of what a node serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedCount {
    /// Requests given to a handler.
    pub requests: u64,
    /// Requests refused because all tasks or buffers were in use.
    pub busy: u64,
    /// Requests that no handler was there for.
    pub unknown: u64,
    /// Bytes of bodies in requests.
    pub bytes_in: u64,
    /// Bytes of bodies in answers.
    pub bytes_out: u64,
    /// Requests cancelled while a handler was at work.
    pub cancelled: u64,
    /// Steps of handlers: from one `await` to the next, or a run of one that never waits.
    pub steps: u64,
    /// Time spent in them, in nanoseconds. Of those that never wait, the time of the polls that
    /// they ran in, each of which counts as one long step.
    pub step_ns: u64,
    /// The longest, in nanoseconds.
    pub step_ns_max: u64,
    /// Steps that took longer than [`SLOW_STEP_NS`].
    pub slow_steps: u64,
}

/// A handler's step longer than this, in nanoseconds, holds up all others: it is counted.
pub const SLOW_STEP_NS: u64 = 1_000_000;

/// Counts since a node was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Of each operation, in the order of [`Operation::ALL`].
    pub operations: [OperationCount; Operation::ALL.len()],
    /// Of requests served here.
    pub served: ServedCount,
    /// Of the endpoint.
    pub endpoint: endpoint::Counters,
    /// Calls outstanding or not finished by their caller, now.
    pub calls_outstanding: usize,
    /// Buffers free, now.
    pub buffers_free: usize,
    /// How often the poll loop slept.
    pub sleeps: u64,
    /// Of the poll loop. Time of handlers is in `served`.
    pub polls: PollCounts,
}

impl Statistics {
    /// Counts of one operation.
    pub fn of(&self, operation: Operation) -> OperationCount {
        self.operations[operation as usize]
    }

    /// Hands `each` every count with its name, in an order that stays the same.
    pub fn for_each(&self, mut each: impl FnMut(&str, &str, u64)) {
        for operation in Operation::ALL {
            let count = self.of(operation);
            let name = operation.name();
            each(name, "done", count.done);
            each(name, "failed", count.failed);
            each(name, "bytes_out", count.bytes_out);
            each(name, "bytes_in", count.bytes_in);
        }
        let served = &self.served;
        each("served", "requests", served.requests);
        each("served", "busy", served.busy);
        each("served", "unknown", served.unknown);
        each("served", "bytes_in", served.bytes_in);
        each("served", "bytes_out", served.bytes_out);
        each("served", "cancelled", served.cancelled);
        each("served", "steps", served.steps);
        each("served", "step_ns", served.step_ns);
        each("served", "step_ns_max", served.step_ns_max);
        each("served", "slow_steps", served.slow_steps);
        let counters = &self.endpoint;
        each("endpoint", "datagrams_received", counters.datagrams_received);
        each("endpoint", "packets_sent", counters.packets_sent);
        each("endpoint", "packets_resent", counters.packets_resent);
        each("endpoint", "duplicates", counters.duplicates);
        each("endpoint", "stale", counters.stale);
        each("endpoint", "malformed", counters.malformed);
        each("endpoint", "bad_checksum", counters.bad_checksum);
        each("endpoint", "leases_expired", counters.leases_expired);
        self.polls.for_each(|name, value| each("loop", name, value));
        each("loop", "sleeps", self.sleeps);
    }
}
