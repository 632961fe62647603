//! The calling end: from `call` to completion.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::host::{Body, CallError, CallId, Completion, Host, Response, SessionId, Sink, Source};
use super::table::{CallState, ClientState, Incoming, packets};
use super::transmit::{Io, send, session_flags};
use super::window::{Arrived, Sending};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::control::{BEYOND_BYTES, Beyond};
use crate::wire::message::{
    After, ArgEntry, Arguments, DEPTH_MAX, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX, Method,
    REQUEST_HEADER_BYTES, RequestHeader, ResponseHeader, TraceId, arguments_bytes, emit_arguments,
};
use crate::wire::packet::{Flags, Header, Kind};

/// Attempts of one call, as a power of two: the low bits of a request number.
pub(super) const ATTEMPT_BITS: u32 = 8;

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
    /// A longer body, which [`Host::supply`] gives, and its length in bytes.
    pub source: Option<(Source, u32)>,
    /// Where an answer's body goes if it does not fit one packet, and the room there in bytes.
    pub sink: Option<(Sink, u32)>,
    /// How long the caller waits.
    pub deadline: Option<Duration>,
    /// The trace that the call belongs to.
    pub trace: TraceId,
    /// How many calls this one is nested in: that of the call it is made for, plus one.
    pub depth: u8,
    /// A call of the same session that must be executed before.
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
    /// [`Host::completed`].
    ///
    /// # Errors
    /// [`StartError`]: nothing was sent and nothing will be completed.
    ///
    /// # Panics
    /// If there are more arguments than a message holds, or both a body and a source.
    #[inline]
    pub fn call(
        &mut self,
        now: Instant,
        session_id: SessionId,
        call: &Call<'_>,
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
        let reserved = u16::from(DEPTH_MAX - 1 - call.depth).min(session.slots - 1);
        if u16::from(session.free_count) <= reserved {
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
        let after = self.after(call.after);

        let session = &mut self.client_sessions[session_index];
        let slot_number = session.free.trailing_zeros() as u16;
        session.free &= session.free - 1;
        session.free_count -= 1;
        // A new request in the slot tells the server that the last answer has arrived.
        session.unreleased &= !(1 << slot_number);
        let index = (session_index << self.slot_shift) + usize::from(slot_number);
        let slot = &mut self.client_slots[index];
        slot.state = CallState::Unsent;
        slot.backoff = 0;
        slot.cancelled = false;
        slot.ordered = false;
        slot.request = ((slot.request >> ATTEMPT_BITS) + 1) << ATTEMPT_BITS;
        slot.token = call.token;
        slot.deadline = call.deadline.map_or(Instant::FAR_FUTURE, |span| now + span);
        slot.due = (now + self.config.retransmit_after).min(slot.deadline);
        slot.sink = call.sink;
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
        buffer[at..head].copy_from_slice(call.parameters);
        buffer[head..inline].copy_from_slice(call.body);
        slot.outgoing.start(
            head as u16,
            inline as u16,
            call.source,
            session.payload_bytes,
            session.remote_window,
        );
        let (request, due) = (slot.request, slot.due);
        self.wheel.arm(index as u32, due);
        self.enqueue_client(index);
        self.counters.calls_started += 1;
        Ok(CallId { session: session_id, slot: slot_number, request: request >> ATTEMPT_BITS })
    }

    /// Asks for a call to be ended early. Its completion still comes: the answer if there is one,
    /// [`Status::CANCELLED`](crate::wire::message::Status::CANCELLED) if it was not executed.
    /// Does nothing if the call has ended.
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
        let index = self.slot_index(call.session.index as usize, call.slot, session.slots)?;
        let slot = &self.client_slots[index];
        let live = slot.state != CallState::Free && slot.request >> ATTEMPT_BITS == call.request;
        live.then_some(index)
    }

    fn after(&self, call: Option<CallId>) -> Option<After> {
        let call = call?;
        self.live_call(call)?;
        Some(After { slot: call.slot, call: call.request as u32 })
    }

    /// A packet of an answer.
    #[inline]
    pub(super) fn on_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(session_index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return;
        };
        let session = &mut self.client_sessions[session_index];
        let slots = session.slots;
        session.last_heard = now;
        let Some(index) = self.slot_index(session_index, header.slot, slots) else {
            self.counters.malformed += 1;
            return;
        };
        let slot = &self.client_slots[index];
        if slot.request != header.request || slot.state == CallState::Free {
            return self.stale_response(now, io, session_index, header);
        }
        if header.message as usize == payload.len() {
            if slot.state == CallState::Answering {
                self.counters.malformed += 1;
                return;
            }
            self.whole_response(now, io, index, header, payload);
        } else {
            self.part_of_response(now, io, index, header, payload);
        }
    }

    /// The straight line: an answer in one packet.
    #[inline]
    fn whole_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let call = self.end_call(io, index, header.flags.contains(Flags::HOLDS), now);
        let result = match parse_response(payload, usize::from(header.head)) {
            Some((status, arguments)) => Ok(Response {
                status,
                arguments,
                body: Body::Whole(&payload[usize::from(header.head)..]),
            }),
            None => Err(CallError::Malformed),
        };
        let token = self.client_slots[index].token;
        io.host.completed(now, Completion { call, token, result });
    }

    fn part_of_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let payload_bytes = self.client_sessions[index >> self.slot_shift].payload_bytes;
        if !is_part(header, payload.len(), payload_bytes) {
            self.counters.malformed += 1;
            return;
        }
        let slot = &mut self.client_slots[index];
        let incoming = &mut slot.incoming;
        if slot.state != CallState::Answering {
            let body = header.message - u32::from(header.head);
            let (sink, room) = slot.sink.map_or((None, 0), |(sink, room)| (Some(sink), room));
            if body > room {
                let error = CallError::AnswerTooLarge { bytes: body, room };
                let holds = header.flags.contains(Flags::HOLDS);
                return self.fail_call(now, io, index, error, holds);
            }
            // The request has done its work; its buffer becomes that of the answer's head.
            slot.state = CallState::Answering;
            slot.outgoing.sending = Sending::EMPTY;
            *incoming = Incoming {
                packets: packets(header.message, payload_bytes),
                message: header.message,
                head: header.head,
                sink,
                ..Incoming::EMPTY
            };
        } else if header.message != incoming.message || header.head != incoming.head {
            self.counters.malformed += 1;
            return;
        }
        let number = u32::from(header.packet);
        let arrived = incoming.receiving.arrived(number);
        if arrived == Arrived::Duplicate {
            self.counters.duplicates += 1;
        }
        let Arrived::Fresh { gap } = arrived else { return };
        let head = usize::from(header.head);
        let sink = incoming.sink.expect("a longer answer has a sink");
        if number == 0 {
            slot.outgoing.inline[..head].copy_from_slice(&payload[..head]);
            io.host.absorb(sink, 0, &payload[head..]);
        } else {
            io.host.absorb(sink, number * payload_bytes - u32::from(header.head), payload);
        }
        slot.backoff = 0;
        slot.due = (now + self.config.retransmit_after).min(slot.deadline);
        let wants_grant = incoming.wants_grant(self.config.window_packets);
        if incoming.receiving.contiguous == incoming.packets {
            self.end_of_response(now, io, index, header.flags.contains(Flags::HOLDS));
        } else if gap || wants_grant {
            self.acknowledge_response(io, index, false);
        }
    }

    /// All packets of an answer are here.
    fn end_of_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        holds: bool,
    ) {
        let call = self.end_call(io, index, holds, now);
        let slot = &self.client_slots[index];
        let Incoming { head, message, sink, .. } = slot.incoming;
        let sink = sink.expect("a longer answer has a sink");
        let head_bytes = &slot.outgoing.inline[..usize::from(head)];
        let result = match parse_response(head_bytes, usize::from(head)) {
            Some((status, arguments)) => Ok(Response {
                status,
                arguments,
                body: Body::Absorbed { sink, bytes: message - u32::from(head) },
            }),
            None => Err(CallError::Malformed),
        };
        io.host.completed(now, Completion { call, token: slot.token, result });
    }

    /// Frees a call's slot and lets go of its source. The token and the buffer stay readable.
    #[inline]
    fn end_call<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        holds: bool,
        now: Instant,
    ) -> CallId {
        let session_index = index >> self.slot_shift;
        let number = (index & ((1 << self.slot_shift) - 1)) as u16;
        let slot = &mut self.client_slots[index];
        slot.state = CallState::Free;
        slot.outgoing.sending = Sending::EMPTY;
        if let Some(source) = slot.outgoing.source.take() {
            io.host.release(source);
        }
        let request = slot.request >> ATTEMPT_BITS;
        let session = &mut self.client_sessions[session_index];
        session.free |= 1 << number;
        session.free_count += 1;
        if holds {
            session.unreleased |= 1 << number;
            session.due = session.due.min(now + self.config.release_after);
            let due = session.due;
            self.wheel.arm(self.client_session_timer_id(session_index), due);
        }
        self.counters.calls_completed += 1;
        let session = &self.client_sessions[session_index];
        let session = SessionId { index: session_index as u32, generation: session.generation };
        CallId { session, slot: number, request }
    }

    /// Ends a call without an answer.
    pub(super) fn fail_call<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        error: CallError,
        holds: bool,
    ) {
        let call = self.end_call(io, index, holds, now);
        let token = self.client_slots[index].token;
        io.host.completed(now, Completion { call, token, result: Err(error) });
    }

    /// An answer that nobody waits for any more. If the server holds anything for it, it is told.
    fn stale_response<T: Tx, H: Host>(
        &mut self,
        _now: Instant,
        io: &mut Io<'_, T, H>,
        session_index: usize,
        header: &Header,
    ) {
        self.counters.stale += 1;
        if header.flags.contains(Flags::HOLDS) {
            let session = &self.client_sessions[session_index];
            let mut done = Header::new(Kind::Done, session.remote.index, session.remote.generation);
            done.flags = session_flags(session.features);
            done.slot = header.slot;
            done.request = header.request;
            send(io.tx, self.crc, session.peer, done, 0, |_| {});
        }
    }

    /// Tells the server what has arrived of an answer. A probe asks for all that is missing.
    fn acknowledge_response<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        probe: bool,
    ) {
        let session = &self.client_sessions[index >> self.slot_shift];
        let slot = &mut self.client_slots[index];
        let incoming = &mut slot.incoming;
        let mut ack =
            Header::new(Kind::ResponseAck, session.remote.index, session.remote.generation);
        ack.flags = session_flags(session.features);
        ack.flags.set(Flags::PROBE, probe);
        ack.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        ack.request = slot.request;
        ack.packet = incoming.receiving.contiguous as u16;
        ack.grant = incoming.grant(self.config.window_packets);
        send_ack(io.tx, self.crc, session.peer, ack, incoming.receiving.beyond());
    }

    /// The server tells what has arrived of a request.
    pub(super) fn on_request_ack(
        &mut self,
        now: Instant,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(index) = self.current_call(now, peer, header) else { return };
        let Ok(beyond) = Beyond::parse(payload) else {
            self.counters.malformed += 1;
            return;
        };
        let slot = &mut self.client_slots[index];
        if slot.state != CallState::Sent {
            return;
        }
        let working = header.flags.contains(Flags::WORKING);
        let progress = slot.outgoing.sending.acknowledge(
            header.packet.into(),
            header.grant,
            beyond,
            header.flags.contains(Flags::PROBE) && !working,
        );
        if progress {
            slot.backoff = 0;
            slot.due = (now + self.config.retransmit_after).min(slot.deadline);
        }
        if slot.outgoing.sending.due().is_some() {
            self.enqueue_client(index);
        }
    }

    /// The server had no room: this attempt was not and will not be executed.
    pub(super) fn on_busy(&mut self, now: Instant, peer: SocketAddrV4, header: &Header) {
        let Some(index) = self.current_call(now, peer, header) else { return };
        let payload_bytes = self.client_sessions[index >> self.slot_shift].payload_bytes;
        let window = self.client_sessions[index >> self.slot_shift].remote_window;
        let slot = &mut self.client_slots[index];
        if slot.state != CallState::Sent {
            return;
        }
        slot.state = CallState::Unsent;
        slot.ordered = header.flags.contains(Flags::ORDER);
        slot.backoff = (slot.backoff + 1).min(10);
        // The last attempt's number stays: then only the deadline ends the call.
        if slot.request & ((1 << ATTEMPT_BITS) - 1) < (1 << ATTEMPT_BITS) - 1 {
            slot.request += 1;
        }
        let outgoing = &mut slot.outgoing;
        let inline = u32::from(outgoing.inline_bytes);
        let source = outgoing.source.map(|source| (source, outgoing.message - inline));
        outgoing.start(outgoing.head, outgoing.inline_bytes, source, payload_bytes, window);
        // Not before the timer says so.
        outgoing.sending.granted = 0;
        let wait = Duration::from_nanos(self.config.busy_retry_after.as_nanos() << slot.backoff);
        slot.due = (now + wait.min(self.config.retransmit_max)).min(slot.deadline);
        let due = slot.due;
        self.wheel.arm(index as u32, due);
    }

    /// The slot of the call that a control packet is about, if it is the current one.
    fn current_call(&mut self, now: Instant, peer: SocketAddrV4, header: &Header) -> Option<usize> {
        let Some(session_index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return None;
        };
        let session = &mut self.client_sessions[session_index];
        session.last_heard = now;
        let slots = session.slots;
        let index = self.slot_index(session_index, header.slot, slots)?;
        let slot = &self.client_slots[index];
        if slot.request != header.request || slot.state == CallState::Free {
            self.counters.stale += 1;
            return None;
        }
        Some(index)
    }

    pub(super) fn client_slot_timer<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) {
        let slot = &mut self.client_slots[index];
        if slot.state == CallState::Free {
            return;
        }
        if now >= slot.deadline {
            let error = match slot.state {
                CallState::Unsent if slot.backoff == 0 => CallError::DeadlineExceeded,
                CallState::Unsent => CallError::Busy,
                _ => CallError::OutcomeUnknown,
            };
            return self.fail_call(now, io, index, error, false);
        }
        if now < slot.due {
            let due = slot.due;
            return self.wheel.arm(index as u32, due);
        }
        if slot.cancelled {
            self.send_cancel(io, index);
        } else {
            self.repeat(io, index);
        }
        let slot = &mut self.client_slots[index];
        let wait = self.config.retransmit_after.as_nanos() << slot.backoff.min(16);
        slot.backoff = slot.backoff.saturating_add(1);
        let wait = Duration::from_nanos(wait).min(self.config.retransmit_max);
        slot.due = (now + wait).min(slot.deadline);
        let due = slot.due;
        self.wheel.arm(index as u32, due);
    }

    fn send_cancel<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.client_sessions[index >> self.slot_shift];
        let slot = &mut self.client_slots[index];
        // From here on the server may answer, though it may never see the request.
        slot.state = if slot.state == CallState::Unsent { CallState::Sent } else { slot.state };
        slot.outgoing.sending.granted = 0;
        let mut cancel = Header::new(Kind::Cancel, session.remote.index, session.remote.generation);
        cancel.flags = session_flags(session.features);
        cancel.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        cancel.request = slot.request;
        send(io.tx, self.crc, session.peer, cancel, 0, |_| {});
    }

    /// Nothing was heard of a call for too long: repeat, or ask.
    fn repeat<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let after = self.after_of(index);
        let session = &self.client_sessions[index >> self.slot_shift];
        let window = u32::from(session.remote_window);
        let slot = &mut self.client_slots[index];
        self.counters.packets_resent += 1;
        match slot.state {
            CallState::Free => {}
            CallState::Unsent => {
                if slot.ordered && after.is_none() {
                    clear_after(&mut slot.outgoing.inline);
                }
                let packets = slot.outgoing.sending.packets;
                let unasked = window.min(super::table::UNASKED_PACKETS.into());
                slot.outgoing.sending = Sending::new(packets, unasked);
                self.enqueue_client(index);
            }
            CallState::Sent if slot.outgoing.sending.packets == 1 => {
                slot.outgoing.sending = Sending::new(1, 1);
                self.enqueue_client(index);
            }
            CallState::Sent => self.send_probe(io, index),
            CallState::Answering => self.acknowledge_response(io, index, true),
        }
    }

    /// The call that this slot's call must follow, if that has not ended.
    fn after_of(&self, index: usize) -> Option<After> {
        let header = RequestHeader::parse(&self.client_slots[index].outgoing.inline).ok()?;
        let after = header.after?;
        let first = index >> self.slot_shift << self.slot_shift;
        let other = self.client_slots.get(first + usize::from(after.slot))?;
        let live =
            other.state != CallState::Free && (other.request >> ATTEMPT_BITS) as u32 == after.call;
        live.then_some(after)
    }

    /// Asks how much of a long request has arrived: a packet of it without payload.
    fn send_probe<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.client_sessions[index >> self.slot_shift];
        let slot = &self.client_slots[index];
        let mut probe = Header::new(Kind::Request, session.remote.index, session.remote.generation);
        probe.flags = session_flags(session.features) | Flags::PROBE;
        probe.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        probe.request = slot.request;
        probe.message = slot.outgoing.message;
        probe.head = slot.outgoing.head;
        send(io.tx, self.crc, session.peer, probe, 0, |_| {});
    }
}

fn deadline_us(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX).max(1)
}

fn parse_response(
    message: &[u8],
    head: usize,
) -> Option<(crate::wire::message::Status, Arguments<'_>)> {
    let head = message.get(..head)?;
    let header = ResponseHeader::parse(head).ok()?;
    let rest = &head[crate::wire::message::RESPONSE_HEADER_BYTES..];
    Some((header.status, Arguments::parse(header.args, rest).ok()?))
}

fn clear_after(head: &mut [u8; HEAD_BYTES_MAX]) {
    if let Ok(header) = RequestHeader::parse(head) {
        RequestHeader { after: None, ..header }.emit(head);
    }
}

/// Whether a packet of a message of several is what it must be: its number within the message, its
/// payload as long as its place says, the head within the first packet.
pub(super) fn is_part(header: &Header, payload: usize, payload_bytes: u32) -> bool {
    let message = header.message;
    let head = u32::from(header.head);
    if message as usize > MESSAGE_BYTES_MAX || message <= payload_bytes {
        return false;
    }
    if head as usize > HEAD_BYTES_MAX || head > payload_bytes {
        return false;
    }
    let start = u32::from(header.packet) * payload_bytes;
    start < message && payload as u32 == payload_bytes.min(message - start)
}

pub(super) fn send_ack<T: Tx>(
    tx: &mut T,
    crc: crate::crc32c::Crc32c,
    peer: SocketAddrV4,
    header: Header,
    beyond: Beyond,
) {
    let bytes = if beyond.is_empty() { 0 } else { BEYOND_BYTES };
    send(tx, crc, peer, header, bytes, |payload| {
        payload.copy_from_slice(&beyond.to_bytes()[..bytes]);
    });
}
