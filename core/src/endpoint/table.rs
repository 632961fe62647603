//! What an endpoint keeps for each session and slot, in memory that the caller hands in.

use core::net::{Ipv4Addr, SocketAddrV4};

use super::auth::Guard;
use super::book::Entry;
use super::congestion::{Arriving, Control};
use super::host::{SessionId, Sink};
use super::outgoing::Outgoing;
use super::parts::Incoming;
use super::queue::Queue;
use super::room::Room;
use super::rtt::Rtt;
use super::tag::Pad;
use super::waits::WaitEntries;
use super::wheel::TimerEntry;
use super::window::Reordering;
use crate::time::{Duration, Instant};
use crate::wire::control::Features;
use crate::wire::template::{Straight, Template};

/// The memory of an endpoint. The numbers of sessions are the caller's choice; the other lengths
/// follow from them, see [`StorageSize::new`].
pub struct Storage<'m> {
    /// Sessions in which this endpoint makes calls.
    pub client_sessions: &'m mut [ClientSession],
    /// Their slots: `slots_per_session` each.
    pub client_slots: &'m mut [ClientSlot],
    /// Sessions in which this endpoint answers calls.
    pub server_sessions: &'m mut [ServerSession],
    /// Their slots: `slots_per_session` each.
    pub server_slots: &'m mut [ServerSlot],
    /// One for each session of either kind and each client slot.
    pub timers: &'m mut [TimerEntry],
    /// Enough for the client slots.
    pub waits: &'m mut [WaitEntries],
}

impl Storage<'_> {
    /// How many of each structure there are.
    pub fn size(&self) -> StorageSize {
        StorageSize {
            client_sessions: self.client_sessions.len(),
            client_slots: self.client_slots.len(),
            server_sessions: self.server_sessions.len(),
            server_slots: self.server_slots.len(),
            timers: self.timers.len(),
            waits: self.waits.len(),
        }
    }
}

/// How many of each structure an endpoint needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageSize {
    /// Length of [`Storage::client_sessions`].
    pub client_sessions: usize,
    /// Length of [`Storage::client_slots`].
    pub client_slots: usize,
    /// Length of [`Storage::server_sessions`].
    pub server_sessions: usize,
    /// Length of [`Storage::server_slots`].
    pub server_slots: usize,
    /// Length of [`Storage::timers`].
    pub timers: usize,
    /// Length of [`Storage::waits`].
    pub waits: usize,
}

impl StorageSize {
    /// For so many sessions of each kind, with `slots_per_session` slots each.
    pub const fn new(clients: usize, servers: usize, slots_per_session: usize) -> Self {
        Self {
            client_sessions: clients,
            client_slots: clients * slots_per_session,
            server_sessions: servers,
            server_slots: servers * slots_per_session,
            // Client slots retransmit; sessions of both kinds keep alive and expire.
            timers: clients * slots_per_session + clients + servers,
            waits: WaitEntries::needed(clients * slots_per_session),
        }
    }

    /// The same in bytes.
    pub const fn bytes(&self) -> usize {
        self.client_sessions * size_of::<ClientSession>()
            + self.client_slots * size_of::<ClientSlot>()
            + self.server_sessions * size_of::<ServerSession>()
            + self.server_slots * size_of::<ServerSlot>()
            + self.timers * size_of::<TimerEntry>()
            + self.waits * size_of::<WaitEntries>()
    }
}

const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// Where a client session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientState {
    Free,
    Connecting,
    Up,
    Suspected,
    /// Over here; the server is told until it says that it has heard.
    Leaving,
}

/// A session in which this endpoint makes calls. The two lines at its front are all that a usual
/// call touches, and the one from `last_asked` on is all that its timer needs beside them.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct ClientSession {
    /// How usual answers begin.
    pub(super) straight: Straight,
    /// What the headers of its requests have in common.
    pub(super) template: Template,
    pub(super) generation: u32,
    /// Bit `i`: slot `i` has no call.
    pub(super) free: u64,
    pub(super) last_heard: Instant,
    /// Bit `i`: the server may hold something of the last call of slot `i`, which is over here.
    pub(super) unreleased: u64,
    /// Bit `i`: slot `i` is held, and the server has not even been asked, because the call that
    /// the last one had to follow is not settled: what follows the last one must not overtake.
    pub(super) parked: u64,
    /// Bit `i`: the call of slot `i` was refused and must follow one that was not settled then:
    /// the end of that one is a time to try again.
    pub(super) behind: u64,
    /// How long its answers take.
    pub(super) rtt: Rtt,
    pub(super) slots: u16,
    pub(super) free_count: u8,
    pub(super) state: ClientState,
    /// Slots with packets to send.
    pub(super) queue: Queue,
    pub(super) last_asked: Instant,
    /// When a pong came last that is newer than all before.
    pub(super) ponged: Instant,
    /// The longest that it goes without a ping, however much else is heard.
    pub(super) prove_every: Duration,
    pub(super) opened: Instant,
    pub(super) due: Instant,
    /// The server's index and generation of the session.
    pub(super) remote: SessionId,
    /// The server's clock as the newest pong told it (`alive.rs`); zero before.
    pub(super) server_clock: u32,
    pub(super) features: Features,
    pub(super) peer: SocketAddrV4,
    /// What its usual packets' tags depend on, if it has any.
    pub(super) pad: Pad,
    /// What shows whose its packets are, with a key.
    pub(super) guard: Option<Guard>,
    pub(super) remote_incarnation: u64,
    pub(super) payload_bytes: u32,
    /// Packets that the server takes ahead of its acknowledgement.
    pub(super) remote_window: u16,
    /// Refused by somebody who has not shown that they have the key.
    pub(super) refused: bool,
    /// From the server's challenge; zero before.
    pub(super) cookie: u64,
    /// How much of its answers may be under way.
    pub(super) control: Control,
    /// What comes in of it.
    pub(super) arriving: Arriving,
    /// How its requests' packets are reordered on their way.
    pub(super) reordering: Reordering,
    /// Bit `i`: the last call of slot `i` has ended in doubt, and the slot is not free before the
    /// server has confirmed that it is over.
    pub(super) held: u64,
    /// See [`ServerSlot`].
    pub(super) apart: [u64; 8],
}

impl ClientSession {
    /// No session.
    pub const EMPTY: Self = Self {
        state: ClientState::Free,
        generation: 0,
        peer: NOWHERE,
        remote: SessionId { index: 0, generation: 0 },
        remote_incarnation: 0,
        payload_bytes: 0,
        remote_window: 0,
        slots: 0,
        features: Features::empty(),
        template: Template::EMPTY,
        straight: Straight::NEVER,
        queue: Queue::EMPTY,
        pad: Pad::NONE,
        guard: None,
        cookie: 0,
        refused: false,
        rtt: Rtt::new(Duration::from_millis(5)),
        control: Control::None,
        arriving: Arriving::NONE,
        reordering: Reordering::NONE,
        free: 0,
        free_count: 0,
        unreleased: 0,
        held: 0,
        parked: 0,
        behind: 0,
        last_heard: Instant::ZERO,
        last_asked: Instant::ZERO,
        ponged: Instant::ZERO,
        prove_every: Duration::ZERO,
        server_clock: 0,
        opened: Instant::ZERO,
        due: Instant::FAR_FUTURE,
        apart: [0; 8],
    };
}

/// Where a call is in its life, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallState {
    /// Not a packet sent yet, or told that there was no room: certainly not executed. Zero, as is
    /// nearly all of a call that begins.
    Unsent,
    Free,
    /// Sent, in part or whole; nothing of the answer here.
    Sent,
    /// Part of the answer is here.
    Answering,
}

/// Packets of a message that may be sent before the receiver has granted any.
pub(super) const UNASKED_PACKETS: u16 = 8;

/// Packets of an answer that may be sent unasked to a receiver with this window, if the request
/// has said `unasked`; zero says nothing.
#[inline]
pub(super) fn unasked(window: u16, unasked: u8) -> u16 {
    let usual = window.min(UNASKED_PACKETS);
    if unasked == 0 { usual } else { usual.min(unasked.into()) }
}

/// Packets of a message of `bytes` bytes. Divides only where there are several.
#[inline]
pub(super) fn packets(bytes: u32, payload_bytes: u32) -> u32 {
    if bytes <= payload_bytes { 1 } else { bytes.div_ceil(payload_bytes) }
}

/// How far the sender of one message may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Packets beyond the first gap.
    pub(super) packets: u32,
    /// Packets under way.
    pub(super) share: u32,
}

/// A call that this endpoint makes. A usual one touches the line at the front and the message's
/// own.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct ClientSlot {
    pub(super) request: u64,
    pub(super) due: Instant,
    pub(super) deadline: Instant,
    pub(super) token: u64,
    /// Of the tag of the answer to this attempt, where packets have tags: of one that was sent as
    /// usual requests are, and not again.
    pub(super) mask: u64,
    /// In bytes, if there is room.
    sink_bytes: u32,
    /// The low bits of a number: the server has executed the slot's calls up to this one, or never
    /// will.
    pub(super) settled: u32,
    pub(super) state: CallState,
    /// Times that its wait ran out; of a call for which nothing is armed, whether the session's
    /// timer has seen it under way.
    pub(super) backoff: u8,
    /// The caller has cancelled.
    pub(super) cancelled: bool,
    /// The last attempt was refused.
    pub(super) refused: bool,
    /// It was refused only because what it must follow was not there.
    pub(super) early: bool,
    /// The server has told that this attempt is there and will be executed without asking for
    /// more room: what must follow it may come.
    pub(super) admitted: bool,
    /// Packets of the answer that may be sent unasked; zero for the usual number.
    pub(super) unasked: u8,
    /// For the answer's body.
    pub(super) room: Room,
    pub(super) outgoing: Outgoing,
    /// Where the room is, if it is for several packets.
    sink: Sink,
    pub(super) incoming: Incoming,
}

impl ClientSlot {
    /// No call.
    pub const EMPTY: Self = Self {
        state: CallState::Free,
        backoff: 0,
        cancelled: false,
        refused: false,
        early: false,
        admitted: false,
        request: 0,
        settled: 0,
        unasked: 0,
        token: 0,
        mask: 0,
        deadline: Instant::FAR_FUTURE,
        due: Instant::FAR_FUTURE,
        sink: Sink(0),
        sink_bytes: 0,
        room: Room::Nothing,
        incoming: Incoming::EMPTY,
        outgoing: Outgoing::EMPTY,
    };

    /// Room for the answer's body: how many bytes, and where, if it is for several packets.
    #[inline(always)]
    pub(super) fn sink(&self) -> (u32, Option<Sink>) {
        match self.room {
            Room::Nothing => (0, None),
            Room::Packet => (self.sink_bytes, None),
            Room::Packets => (self.sink_bytes, Some(self.sink)),
        }
    }

    #[inline(always)]
    pub(super) fn set_sink(&mut self, sink: Option<(Sink, u32)>, room: Room) {
        self.room = room;
        if let Some((sink, bytes)) = sink {
            self.sink_bytes = bytes;
            if room == Room::Packets {
                self.sink = sink;
            }
        }
    }

    /// The room is not the slot's any more. Returns whether it is for several packets.
    #[inline(always)]
    pub(super) fn take_room(&mut self) -> bool {
        core::mem::replace(&mut self.room, Room::Nothing) == Room::Packets
    }
}

/// A session in which this endpoint answers calls. The line at its front is all that a usual call
/// touches, and the one with the generation is all that a ping needs beside it.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct ServerSession {
    /// How usual requests begin.
    pub(super) straight: Straight,
    /// Bit `i`: slot `i` waits for another to be executed.
    pub(super) waiting: u64,
    pub(super) last_heard: Instant,
    /// What the headers of its responses have in common.
    pub(super) template: Template,
    pub(super) slots: u16,
    /// Packets that the client takes ahead of its acknowledgement.
    pub(super) remote_window: u16,
    /// What its usual packets' tags depend on, if it has any.
    pub(super) pad: Pad,
    /// What shows whose its packets are, with a key.
    pub(super) guard: Option<Guard>,
    pub(super) payload_bytes: u32,
    pub(super) generation: u32,
    pub(super) open: bool,
    pub(super) suspected: bool,
    pub(super) peer: SocketAddrV4,
    /// The client's index and generation of the session.
    pub(super) remote: SessionId,
    /// When the client has shown that it was alive: what its lease counts from. Never later than
    /// it was heard of.
    pub(super) proved: Instant,
    pub(super) features: Features,
    /// Slots with packets to send.
    pub(super) queue: Queue,
    pub(super) remote_incarnation: u64,
    /// From its hello; half of it names the client's life.
    pub(super) remote_nonce: u64,
    /// The session's secret bytes; zeros without a key.
    pub(super) secret: [u8; 16],
    /// How much of its requests may be under way.
    pub(super) control: Control,
    /// What comes in of it.
    pub(super) arriving: Arriving,
    /// How its answers' packets are reordered on their way.
    pub(super) reordering: Reordering,
    /// Its place in the book of sessions.
    pub(super) entry: Entry,
}

impl ServerSession {
    /// No session.
    pub const EMPTY: Self = Self {
        open: false,
        suspected: false,
        generation: 0,
        peer: NOWHERE,
        remote: SessionId { index: 0, generation: 0 },
        remote_incarnation: 0,
        remote_nonce: 0,
        payload_bytes: 0,
        remote_window: 0,
        slots: 0,
        features: Features::empty(),
        template: Template::EMPTY,
        straight: Straight::NEVER,
        queue: Queue::EMPTY,
        pad: Pad::NONE,
        guard: None,
        secret: [0; 16],
        control: Control::None,
        arriving: Arriving::NONE,
        reordering: Reordering::NONE,
        waiting: 0,
        last_heard: Instant::ZERO,
        proved: Instant::ZERO,
        entry: Entry::NONE,
    };
}

/// Where a call is in its life, as its service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServeState {
    /// Over, or never begun.
    Idle,
    /// Packets are missing.
    Receiving,
    /// All there, but another call must be executed first.
    Waiting,
    /// The service has it.
    Executing,
    /// Answered; the answer is kept until it is acknowledged.
    Answered,
    /// Not admitted, which is final for the request's number; the call may come again under a
    /// higher one.
    Refused,
}

/// A call that this endpoint answers. A usual one touches the front, to the end of a short answer:
/// one line, if that has up to 32 bytes.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct ServerSlot {
    /// Number of the last request seen.
    pub(super) request: u64,
    pub(super) state: ServeState,
    /// The service knows that the answer is not wanted.
    pub(super) cancelled: bool,
    /// Answered without being executed.
    pub(super) declined: bool,
    /// Packets of the answer that may be sent unasked; zero for the usual number.
    pub(super) unasked: u8,
    /// Refused only because what it must follow was not there.
    pub(super) early: bool,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    /// Makes it an odd number of cache lines: with a power of two, the fronts of all slots would
    /// share a few sets of each cache.
    apart: [u64; 6],
}

impl ServerSlot {
    /// No call.
    pub const EMPTY: Self = Self {
        state: ServeState::Idle,
        cancelled: false,
        declined: false,
        unasked: 0,
        early: false,
        request: 0,
        incoming: Incoming::EMPTY,
        outgoing: Outgoing::EMPTY,
        apart: [0; 6],
    };
}
