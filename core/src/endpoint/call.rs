//! The calling end's beginning: calls are made and cancelled here.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::Keys;
use super::congestion::share;
use super::host::{CallId, SessionId, Sink, Source};
use super::outgoing::Short;
use super::room::Room;
use super::straight::address_of;
use super::table::{CallState, ClientSession, ClientSlot, ClientState, UNASKED_PACKETS};
use super::tag::UsualKey;
use super::transmit::{Line, Mask, Whole, send_whole};
use super::waits::Waits;
use super::wheel::Wheel;
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::bytes::copy_short;
use crate::wire::message::{
    After, ArgEntry, DEPTH_MAX, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX, Method, REQUEST_HEADER_BYTES,
    RequestHeader, TraceId, arguments_bytes, emit_arguments,
};

/// Attempts of one call, as a power of two: the low bits of a request number.
pub(super) const ATTEMPT_BITS: u32 = 8;
const ATTEMPTS: u64 = 1 << ATTEMPT_BITS;

/// A call to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The operation asked for.
    pub method: Method,
    /// Arguments, at most [`ARGS_MAX`](crate::wire::message::ARGS_MAX).
    pub arguments: &'a [ArgEntry],
    /// Small bytes that the service needs before the body.
    pub parameters: &'a [u8],
    /// A short body: head and body together fit [`HEAD_BYTES_MAX`]. Empty with a `source`.
    pub body: &'a [u8],
    /// A longer body, which [`Host::supply`](super::Host::supply) gives, and its length in bytes.
    pub source: Option<(Source, u32)>,
    /// Where an answer's body goes if it does not fit one packet, and the room there in bytes.
    pub sink: Option<(Sink, u32)>,
    /// How long the caller waits.
    pub deadline: Option<Duration>,
    /// The trace that the call belongs to.
    pub trace: TraceId,
    /// How many calls this one is nested in: that of the call it is made for, plus one.
    pub depth: u8,
    /// An earlier call of the same session, under way or over, that must be executed before, if it
    /// ever is. Order is handed on: what must follow a call also follows what that had to follow,
    /// even if the call in between ended without an answer.
    pub after: Option<CallId>,
    /// Handed back with the completion.
    pub token: u64,
}

impl Call<'_> {
    /// A call of `method` with nothing in it.
    pub const fn new(method: Method) -> Self {
        Self {
            method,
            arguments: &[],
            parameters: &[],
            body: &[],
            source: None,
            sink: None,
            deadline: None,
            trace: TraceId(0),
            depth: 0,
            after: None,
            token: 0,
        }
    }
}

/// Why a call cannot begin. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// No such session, or not any more.
    UnknownSession,
    /// The handshake is not over.
    Connecting,
    /// Nothing was heard from the peer for a while.
    Suspected,
    /// All slots that calls of this depth may use are in use: call again after a completion.
    NoSlot,
    /// Calls within calls go deeper than [`DEPTH_MAX`].
    TooDeep {
        /// The depth asked for.
        depth: u8,
    },
    /// Head and inline body are longer than [`HEAD_BYTES_MAX`].
    HeadTooLarge {
        /// Their length in bytes.
        bytes: usize,
    },
    /// The message is longer than [`MESSAGE_BYTES_MAX`].
    MessageTooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownSession => f.write_str("no such session, or it has ended: connect again"),
            Self::Connecting => f.write_str("the session is not open yet"),
            Self::Suspected => f.write_str("the peer is silent: it is suspected to be down"),
            Self::NoSlot => f.write_str("all slots of the session are in use"),
            Self::TooDeep { depth } => {
                write!(f, "a call at depth {depth}; calls nest at most {} deep", DEPTH_MAX - 1)
            }
            Self::HeadTooLarge { bytes } => {
                write!(f, "a head of {bytes} bytes; at most {HEAD_BYTES_MAX} fit")
            }
            Self::MessageTooLarge { bytes } => {
                write!(f, "a message of {bytes} bytes; at most {MESSAGE_BYTES_MAX} are carried")
            }
        }
    }
}

impl core::error::Error for StartError {}

impl Endpoint<'_> {
    /// Begins a call. Its packets leave in the next poll; its end is told by
    /// [`Host::completed`](super::Host::completed).
    ///
    /// # Errors
    /// [`StartError`]: nothing was sent and nothing will be completed.
    ///
    /// # Panics
    /// If there are more arguments than a message holds, or both a body and a source.
    // Part of its callers, for most of a call is constant there: with no source, no arguments and
    // nothing to follow it takes half as many instructions.
    #[inline(always)]
    pub fn call(
        &mut self,
        now: Instant,
        session_id: SessionId,
        call: &Call<'_>,
    ) -> Result<CallId, StartError> {
        self.begin_call(|| now, session_id, call, None::<&mut Nowhere>)
    }

    /// Begins a call, which leaves by `tx` at once if it can, before `clock` is asked.
    #[inline(always)]
    pub(super) fn begin_call<T: Tx>(
        &mut self,
        clock: impl FnOnce() -> Instant,
        session_id: SessionId,
        call: &Call<'_>,
        tx: Option<&mut T>,
    ) -> Result<CallId, StartError> {
        let session_index = session_id.index as usize;
        let session = self.client_session(session_id).ok_or(StartError::UnknownSession)?;
        match session.state {
            ClientState::Up => {}
            ClientState::Suspected => return Err(StartError::Suspected),
            _ => return Err(StartError::Connecting),
        }
        if call.depth >= DEPTH_MAX {
            return Err(StartError::TooDeep { depth: call.depth });
        }
        // Slots that deeper calls must find free; a session too small for that has none to give.
        let reserved = u16::from(DEPTH_MAX - 1 - call.depth);
        let free = u16::from(session.free_count);
        if free <= reserved && free < session.slots {
            return Err(StartError::NoSlot);
        }
        let head = REQUEST_HEADER_BYTES + arguments_bytes(call.arguments) + call.parameters.len();
        let inline = head + call.body.len();
        if inline > HEAD_BYTES_MAX {
            return Err(StartError::HeadTooLarge { bytes: inline });
        }
        let message = inline + call.source.map_or(0, |(_, bytes)| bytes as usize);
        if message > MESSAGE_BYTES_MAX {
            return Err(StartError::MessageTooLarge { bytes: message });
        }
        assert!(call.body.is_empty() || call.source.is_none(), "a body or a source, not both");
        let after = self.after(session_id, call.after);

        let session = &mut self.client_sessions[session_index];
        let slot_number = session.free.trailing_zeros() as u16;
        session.free &= session.free - 1;
        session.free_count -= 1;
        // A new request in the slot tells the server that the last call is over.
        if session.unreleased != 0 {
            session.unreleased &= !(1 << slot_number);
        }
        let index = self.client_slots.at(session_index, slot_number.into());
        let slot = &mut self.client_slots[index];
        slot.state = CallState::Unsent;
        slot.backoff = 0;
        slot.cancelled = false;
        slot.refused = false;
        slot.early = false;
        slot.admitted = false;
        slot.unasked = 0;
        let room = Room::of(call.sink, session);
        slot.set_sink(call.sink, room);
        // The next call's first attempt.
        slot.request = (slot.request | (ATTEMPTS - 1)) + 1;
        slot.token = call.token;
        let header = RequestHeader {
            method: call.method,
            depth: call.depth,
            args: call.arguments.len() as u8,
            deadline_us: call.deadline.map_or(0, deadline_us),
            trace: call.trace,
            after,
        };
        let buffer = &mut slot.outgoing.inline;
        header.emit(buffer);
        let mut at = REQUEST_HEADER_BYTES;
        if !call.arguments.is_empty() {
            at += emit_arguments(call.arguments, &mut buffer[at..]);
        }
        if !call.parameters.is_empty() {
            copy_short(&mut buffer[at..head], call.parameters);
        }
        copy_short(&mut buffer[head..inline], call.body);
        slot.outgoing.start(head as u16, inline as u16, call.source, || {
            (session.payload_bytes, session.remote_window)
        });
        if room == Room::Packets {
            self.traffic.expected += 1;
            let share = share(self.config.arriving_packets, self.traffic.expected);
            slot.unasked = if share < UNASKED_PACKETS.into() { share as u8 } else { 0 };
            // One that says so is not as usual.
            if slot.unasked != 0 {
                let _ = slot.outgoing.sending();
            }
        }
        let leaves = tx.is_some_and(|tx| {
            let outgoing = &slot.outgoing;
            let alone = self.ready.is_empty() && outgoing.short == Short::Unsent;
            alone
                && !outgoing.queued
                && leave(tx, &self.crc, (&self.keys, &self.usual_key), session, slot, slot_number)
        });
        let now = clock();
        slot.deadline = call.deadline.map_or(Instant::FAR_FUTURE, |span| now + span);
        if self.odd_timers {
            let is_short = call.source.is_none() && room != Room::Packets;
            let timers = Timers { wheel: &mut self.wheel, waits: &mut self.waits, now };
            note_oddly(timers, self.ahead, is_short, session, slot, (slot_number, index));
        } else {
            slot.due = (now + session.rtt.timeout()).min(slot.deadline);
            session.rtt.begin(slot_number, slot.request >> ATTEMPT_BITS, now);
            self.wheel.arm(index as u32, slot.due);
        }
        let request = slot.request;
        if leaves {
            self.counters.packets_sent += 1;
        } else if !slot.outgoing.queued {
            slot.outgoing.queued = true;
            session.queue.push(slot_number.into(), self.places);
            if !session.queue.linked {
                self.link(session_id.index);
            }
        }
        self.counters.calls_started += 1;
        Ok(CallId { session: session_id, slot: slot_number, request: request >> ATTEMPT_BITS })
    }

    /// Asks for a call to be ended early. Its completion still comes in a later poll: the answer
    /// if there is one, [`Status::CANCELLED`](crate::wire::message::Status::CANCELLED) if it was
    /// not executed. Does nothing if the call has ended.
    pub fn cancel(&mut self, now: Instant, call: CallId) {
        if let Some(index) = self.live_call(call) {
            let slot = &mut self.client_slots[index];
            slot.cancelled = true;
            // The timer sends it.
            slot.due = now;
            self.wheel.arm(index as u32, now);
        }
    }

    /// The slot of a call that has not ended.
    fn live_call(&self, call: CallId) -> Option<usize> {
        let session = self.client_session(call.session)?;
        let index =
            self.client_slots.find(call.session.index as usize, call.slot, session.slots)?;
        let slot = &self.client_slots[index];
        let live = slot.state != CallState::Free && slot.request >> ATTEMPT_BITS == call.request;
        live.then_some(index)
    }

    /// What a request says about the call that it must follow: nothing if that is settled.
    #[inline]
    fn after(&self, session: SessionId, call: Option<CallId>) -> Option<After> {
        let call = call.filter(|call| call.session == session)?;
        let after = After { slot: call.slot, call: call.request as u32 };
        (!self.is_settled(session.index as usize, after)).then_some(after)
    }

    /// Whether the server has executed a call of the session at `session_index`, or never will.
    #[inline]
    pub(super) fn is_settled(&self, session_index: usize, call: After) -> bool {
        let index = self.client_slots.at(session_index, call.slot.into());
        let settled = self.client_slots[index].settled;
        // Numbers of one slot that are not settled are close together.
        settled.wrapping_sub(call.call) as i32 >= 0
    }
}

/// What notes when a call is due.
struct Timers<'a, 'm> {
    wheel: &'a mut Wheel<'m>,
    waits: &'a mut Waits<'m>,
    now: Instant,
}

/// Notes when the call in slot `number` is due, where that may not be by the wheel: with many
/// sessions, or where nothing is lost.
#[inline(never)]
fn note_oddly(
    Timers { wheel, waits, now }: Timers<'_, '_>,
    ahead: bool,
    is_short: bool,
    session: &mut ClientSession,
    slot: &mut ClientSlot,
    (number, index): (u16, usize),
) {
    // Where nothing is lost, only what is long has timers.
    if session.template.is_direct() && is_short {
        slot.due = slot.deadline;
        return wheel.arm(index as u32, slot.due);
    }
    slot.due = (now + session.rtt.timeout()).min(slot.deadline);
    session.rtt.begin(number, slot.request >> ATTEMPT_BITS, now);
    if !ahead || !waits.join(index, now, slot.due) {
        wheel.arm(index as u32, slot.due);
    }
}

/// Sends a request that is one packet. Returns false if the device has no room.
#[inline(always)]
fn leave<T: Tx>(
    tx: &mut T,
    crc: &Crc32c,
    (keys, usual_key): (&Option<Keys<'_>>, &UsualKey),
    session: &ClientSession,
    slot: &mut ClientSlot,
    number: u16,
) -> bool {
    let outgoing = &mut slot.outgoing;
    let whole = Whole { head: outgoing.head, bytes: outgoing.inline_bytes };
    let peer = address_of(session.straight.peer);
    let by = (usual_key, &session.pad, &session.guard);
    let line = Line { crc, keys, by, peer, template: &session.template };
    let (id, mask) = ((slot.request, number.into()), Mask::OfAnswer(&mut slot.mask));
    if !send_whole(tx, &line, id, whole, outgoing, mask) {
        return false;
    }
    tx.flush();
    slot.state = CallState::Sent;
    true
}

/// Where calls leave by that do not leave at once.
enum Nowhere {}

impl Tx for Nowhere {
    fn push(&mut self, _: SocketAddrV4, _: usize) -> Option<&mut [u8]> {
        match *self {}
    }

    fn flush(&mut self) {
        match *self {}
    }
}

/// The time left as a request states it.
pub(super) fn deadline_us(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX).max(1)
}
