//! What an endpoint asks of the code around it: the [`Host`].
//!
//! The endpoint keeps no long message. Bodies longer than a head's buffer are *pulled* from a
//! [`Source`] packet by packet as they are sent, and *pushed* into a [`Sink`] as they arrive, so
//! that a memory node reads them out of its page frames and a client straight into its caller's
//! buffer.

use core::net::SocketAddrV4;

use crate::memory::Loan;
use crate::time::Instant;
use crate::wire::bytes::copy_short;
use crate::wire::message::{ARG_BYTES, ArgEntry, arguments_bytes, emit_arguments, emit_ref_entry};
use crate::wire::message::{
    Arguments, HEAD_BYTES_MAX, Method, RESPONSE_HEADER_BYTES, ResponseHeader, Status, TraceId,
};
use crate::wire::reference::{REF_BYTES, Ref};

/// The host's name for bytes that an outgoing message is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(pub u64);

/// The host's name for the place that an incoming message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sink(pub u64);

/// A session at this endpoint: an index and which use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Index in the endpoint's table.
    pub index: u32,
    /// Which use of that index.
    pub generation: u32,
}

/// A call that this endpoint made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    /// The session it was made in.
    pub session: SessionId,
    /// Its slot.
    pub slot: u16,
    /// Its number in that slot.
    pub request: u64,
}

/// A call that a service here has accepted and will answer later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PendingCall {
    /// The session it came in.
    pub session: SessionId,
    /// Its slot.
    pub slot: u16,
    /// Its number in that slot.
    pub request: u64,
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The call, for an answer given later.
    pub call: PendingCall,
    /// The operation asked for.
    pub method: Method,
    /// How many calls this one is nested in.
    pub depth: u8,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// The trace that the call belongs to.
    pub trace: TraceId,
    /// Arguments, references and parameters.
    pub arguments: Arguments<'a>,
}

/// Where the body of a message is.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Here, still in the packet it came in.
    Whole(&'a [u8]),
    /// In the sink, to the last byte.
    Absorbed {
        /// The sink.
        sink: Sink,
        /// Length in bytes.
        bytes: u32,
    },
}

/// Length of the parameters of [`Admission::RejectWith`], in bytes.
pub const REJECTION_BYTES: usize = 24;

/// Whether a message of several packets may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Into this sink.
    Accept(Sink),
    /// No room now: the caller's endpoint tries again until the call's deadline.
    Busy,
    /// Never: the call is answered with this status.
    Reject(Status),
    /// Never: the call is answered with this status, and these parameters say more.
    RejectWith(Status, [u8; REJECTION_BYTES]),
}

/// What a service made of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply is filled in.
    Replied,
    /// [`Endpoint::reply`](super::Endpoint::reply) will follow.
    Later,
    /// No room now; the request has had no effect and the caller's endpoint tries again.
    Busy,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The deadline passed, or the session ended, after the request was sent: it may have been
    /// executed or not.
    OutcomeUnknown,
    /// The deadline passed before the request was ever sent.
    DeadlineExceeded,
    /// The service had no room until the deadline, or for as many attempts as a call has: the
    /// request was not executed.
    Busy,
    /// The session ended while the request was not under way: it was not executed.
    SessionLost,
    /// The answer has more bytes than the call has room for.
    AnswerTooLarge {
        /// Length of the answer's body.
        bytes: u32,
        /// The room that the call gave.
        room: u32,
    },
    /// The answer's bytes make no sense.
    Malformed,
}

impl core::fmt::Display for CallError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutcomeUnknown => f.write_str(
                "no answer in time: the request may have been executed or not (outcome unknown)",
            ),
            Self::DeadlineExceeded => f.write_str("deadline passed before the request was sent"),
            Self::Busy => f.write_str("the service had no room until the deadline; not executed"),
            Self::SessionLost => {
                f.write_str("the session ended before the request was sent; not executed")
            }
            Self::AnswerTooLarge { bytes, room } => {
                write!(f, "the answer has {bytes} bytes where the call has room for {room}")
            }
            Self::Malformed => f.write_str("the answer's bytes make no sense"),
        }
    }
}

impl core::error::Error for CallError {}

/// The answer to a call.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// How the request ended.
    pub status: Status,
    /// Results: arguments, references and parameters.
    pub arguments: Arguments<'a>,
    /// The body.
    pub body: Body<'a>,
}

/// The end of a call.
#[derive(Clone, Copy, Debug)]
pub struct Completion<'a> {
    /// The call.
    pub call: CallId,
    /// What the caller attached to it.
    pub token: u64,
    /// The answer, or why there is none.
    pub result: Result<Response<'a>, CallError>,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Asked for, by either end.
    Bye,
    /// Silence for longer than the lease.
    LeaseExpired,
    /// The peer does not know the session: it has restarted.
    PeerRestarted,
    /// The server has no session left to give.
    NoSessions,
    /// The server gives an address no more sessions than this one has.
    AddressFull {
        /// How many that are.
        bound: u32,
    },
    /// The server knows a later life of this client.
    StaleIncarnation,
    /// No answer to the handshake in time.
    Unreachable,
    /// A later life of the same client has taken over.
    Superseded,
    /// One end has a key and the other has another one, or none.
    NotAuthenticated,
    /// One end encrypts its packets and the other does not.
    Encryption,
}

/// Something happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// A session that this endpoint asked for is open.
    Connected {
        /// Which life of the server.
        incarnation: u64,
    },
    /// A client has opened a session here.
    Accepted {
        /// Which life of the client.
        incarnation: u64,
        /// Where it is.
        peer: SocketAddrV4,
    },
    /// Nothing heard for a while: calls fail fast until something is.
    Suspected,
    /// Heard of again.
    Recovered,
    /// Over. Its calls have been completed or will not be answered.
    Closed(Closed),
}

/// Which end of a session this endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// It makes the calls.
    Client,
    /// It answers them.
    Server,
}

/// The code around an endpoint: its services, and the owner of its calls.
///
/// All methods are called from within [`Endpoint::poll`](super::Endpoint::poll) and run to
/// completion. What a host leaves out is what it has no need of: who answers short requests writes
/// [`Host::request`], who calls [`Host::completed`]; bodies of several packets need the methods of
/// sinks (coming in) and sources (going out), answers that take their time [`Host::cancelled`].
pub trait Host {
    /// May the message whose head has arrived come in? `body_bytes` will follow. Unless a host says
    /// otherwise, no message of more than one packet comes in.
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        let _ = (head, body_bytes);
        Admission::Reject(Status::UNKNOWN_METHOD)
    }

    /// Bytes of an incoming body, each exactly once, in any order. For hosts that admit messages,
    /// or give their calls a sink.
    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        let _ = (sink, offset, bytes);
    }

    /// Where `bytes` bytes of an incoming body from `offset` on belong, for an endpoint that copies
    /// them there while it checks them, instead of calling [`Host::absorb`]. If they turn out to be
    /// wrong, they are written again when they come again.
    #[inline]
    fn place(&mut self, sink: Sink, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        let _ = (sink, offset, bytes);
        None
    }

    /// The `bytes` bytes that were last asked a place for are there, and right.
    #[inline(always)]
    fn placed(&mut self, sink: Sink, bytes: u32) {
        let _ = (sink, bytes);
    }

    /// The rest of an incoming request will not come: forget it. The sink of a call is not
    /// abandoned: the call's completion ends it.
    fn abandon(&mut self, sink: Sink) {
        let _ = sink;
    }

    /// A whole request. On [`Body::Absorbed`] the sink passes to the service. A host without
    /// services answers that it does not know the method.
    fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let _ = (now, head, body);
        reply.head(Status::UNKNOWN_METHOD, &[], &[]);
        Outcome::Replied
    }

    /// The caller of an accepted call does not want the answer any more: answer soon, somehow.
    /// Told at most once a call, also when the session or the caller is gone, where
    /// [`Endpoint::reply`](super::Endpoint::reply) will say that nobody waits.
    fn cancelled(&mut self, call: PendingCall) {
        let _ = call;
    }

    /// Fills `out` with the bytes of an outgoing body that start at `offset`. The same bytes may
    /// be asked for again until the source is released. For hosts that name sources.
    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        let _ = (source, offset, out);
    }

    /// The `bytes` bytes of an outgoing body from `offset` on, where they lie together, for an
    /// endpoint that copies them while it sums them up, instead of calling [`Host::supply`].
    #[inline]
    fn look(&self, source: Source, offset: u32, bytes: u32) -> Option<&[u8]> {
        let _ = (source, offset, bytes);
        None
    }

    /// Lends bytes of an outgoing body from `offset` on, where they can be sent from the place that
    /// they lie in: until the source is released they stay as they are. At least `least` and at
    /// most `most`, all within the body: as many as lie together.
    #[inline]
    fn lend(&mut self, source: Source, offset: u32, least: u32, most: u32) -> Option<Loan> {
        let _ = (source, offset, least, most);
        None
    }

    /// An outgoing body is not needed any more, and no device has anything of it.
    fn release(&mut self, source: Source) {
        let _ = source;
    }

    /// A call has ended.
    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        let _ = (now, completion);
    }

    /// Something happened to a session.
    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        let _ = (now, side, session, event);
    }
}

/// An answer under construction, in the buffer that it will be kept in until it is acknowledged.
///
/// Starts as an empty answer with [`Status::OK`].
pub struct Reply<'a> {
    buffer: &'a mut [u8; HEAD_BYTES_MAX],
    head: u16,
    inline: u16,
    source: Option<(Source, u32)>,
    body_bytes_max: u32,
}

impl<'a> Reply<'a> {
    #[inline]
    pub(crate) fn new(buffer: &'a mut [u8; HEAD_BYTES_MAX], body_bytes_max: u32) -> Self {
        ResponseHeader { status: Status::OK, args: 0 }.emit(buffer);
        let head = RESPONSE_HEADER_BYTES as u16;
        Self { buffer, head, inline: head, source: None, body_bytes_max }
    }

    /// Makes it an answer of `status` with results and `parameters`, and no body yet.
    ///
    /// # Panics
    /// If the head would be longer than [`HEAD_BYTES_MAX`].
    #[inline]
    pub fn head(&mut self, status: Status, results: &[ArgEntry], parameters: &[u8]) {
        ResponseHeader { status, args: results.len() as u8 }.emit(self.buffer);
        let mut at = RESPONSE_HEADER_BYTES;
        if !results.is_empty() {
            assert!(at + arguments_bytes(results) <= HEAD_BYTES_MAX, "results fit the head");
            at += emit_arguments(results, &mut self.buffer[at..]);
        }
        self.buffer[at..at + parameters.len()].copy_from_slice(parameters);
        self.head = (at + parameters.len()) as u16;
        self.inline = self.head;
        self.source = None;
    }

    /// The same of [`Status::OK`], with one reference as its only result.
    #[inline(always)]
    pub fn one_ref(&mut self, reference: &Ref, parameters: &[u8; 8]) {
        const HEAD: usize = RESPONSE_HEADER_BYTES + ARG_BYTES + REF_BYTES + 8;
        ResponseHeader { status: Status::OK, args: 1 }.emit(self.buffer);
        let (table, rest) = self.buffer[RESPONSE_HEADER_BYTES..HEAD].split_at_mut(ARG_BYTES);
        emit_ref_entry(table);
        reference.emit(rest);
        rest[REF_BYTES..].copy_from_slice(parameters);
        self.head = HEAD as u16;
        self.inline = self.head;
        self.source = None;
    }

    /// Room for a body of up to so many bytes beside the head, without a source.
    pub fn inline_room(&self) -> usize {
        HEAD_BYTES_MAX - usize::from(self.head)
    }

    /// Longest body that an answer may have, in bytes.
    pub fn body_bytes_max(&self) -> u32 {
        self.body_bytes_max
    }

    /// Copies a short body into the answer.
    ///
    /// # Panics
    /// If `body` is longer than [`Reply::inline_room`].
    #[inline(always)]
    pub fn body(&mut self, body: &[u8]) {
        let head = usize::from(self.head);
        copy_short(&mut self.buffer[head..head + body.len()], body);
        self.inline = (head + body.len()) as u16;
        self.source = None;
    }

    /// Lets `fill` write a short body of `bytes` bytes into the answer.
    ///
    /// # Panics
    /// If `bytes` is more than [`Reply::inline_room`].
    #[inline]
    pub fn body_with<R>(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let head = usize::from(self.head);
        let result = fill(&mut self.buffer[head..head + bytes]);
        self.inline = (head + bytes) as u16;
        self.source = None;
        result
    }

    /// The body is `bytes` bytes that [`Host::supply`] gives.
    ///
    /// # Panics
    /// If `bytes` is more than [`Reply::body_bytes_max`].
    pub fn body_from(&mut self, source: Source, bytes: u32) {
        assert!(bytes <= self.body_bytes_max, "body of {bytes} bytes is longer than a message");
        self.inline = self.head;
        self.source = Some((source, bytes));
    }

    #[inline]
    pub(super) fn finish(self) -> Finished {
        Finished { head: self.head, inline: self.inline, source: self.source }
    }
}

/// The shape of a finished reply; its bytes are in the slot.
pub(super) struct Finished {
    pub(super) head: u16,
    pub(super) inline: u16,
    pub(super) source: Option<(Source, u32)>,
}
