//! The calling end: from the first packet of an answer to completion.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::is_authentic;
use super::call::ATTEMPT_BITS;
use super::congestion::Controller;
use super::host::{Body, CallError, CallId, Completion, Host, Response, SessionId};
use super::parts::{Incoming, arriving_window, is_part, report, send_ack};
use super::room::Room;
use super::table::{CallState, packets, unasked};
use super::transmit::{Io, Seal, send, session_flags};
use super::window::Arrived;
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::bytes::u16_at;
use crate::wire::control::Beyond;
use crate::wire::message::{Arguments, RESPONSE_HEADER_BYTES, ResponseHeader, Status};
use crate::wire::packet::{Flags, Header, Kind, Packet};

impl Endpoint<'_> {
    /// A packet of an answer that is not straight.
    pub(super) fn on_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        packet: Packet<'_>,
    ) {
        let header = packet.header();
        let Some(session_index) = self.client_session_of(peer, &header) else {
            self.counters.unknown_session += 1;
            return;
        };
        let session = &mut self.client_sessions[session_index];
        if !is_authentic(&self.keys, session.guard, packet) {
            self.counters.bad_tag += 1;
            return;
        }
        let slots = session.slots;
        let Some(index) = self.client_slots.find(session_index, header.slot, slots) else {
            self.counters.malformed += 1;
            return;
        };
        self.odd_response(now, io, index, &header, packet.payload());
    }

    pub(super) fn odd_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let slot = &self.client_slots[index];
        if slot.request != header.request || slot.state == CallState::Free {
            self.stale_response(io, self.client_slots.session(index), header);
        } else if header.message as usize != payload.len() {
            self.part_of_response(now, io, index, header, payload);
        } else if slot.state == CallState::Sent {
            self.client_sessions[self.client_slots.session(index)].last_heard = now;
            let call = self.end_call(io, index);
            if header.flags.contains(Flags::DECLINED) {
                self.give_up(now, index, false);
            } else {
                self.settle_call(now, index, header.flags.contains(Flags::HOLDS));
            }
            let token = self.client_slots[index].token;
            complete(now, io.host, call, token, payload, header.head);
        } else {
            // In one packet, after others of more, or to a request that was never sent.
            self.counters.malformed += 1;
        }
    }

    fn part_of_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let session_index = self.client_slots.session(index);
        let payload_bytes = self.client_sessions[session_index].payload_bytes;
        if !is_part(header, payload.len(), payload_bytes) {
            self.counters.malformed += 1;
            return;
        }
        let slot = &mut self.client_slots[index];
        let (room, sink) = slot.sink();
        let incoming = &mut slot.incoming;
        if slot.state != CallState::Answering {
            let body = header.message - u32::from(header.head);
            if body > room {
                let error = CallError::AnswerTooLarge { bytes: body, room };
                return self.fail_call(now, io, index, error);
            }
            // The request has done its work; its buffer becomes that of the answer's head.
            slot.state = CallState::Answering;
            let (min, max) = (self.config.retransmit_min, self.config.retransmit_after);
            self.client_sessions[session_index].rtt.answered(header.slot, now, min, max);
            slot.outgoing.stop();
            let granted = unasked(self.config.window_packets, slot.unasked).into();
            *incoming = Incoming::new(header.message, header.head, payload_bytes, granted, sink);
            let arriving = &mut self.client_sessions[session_index].arriving;
            let expected = slot.room == Room::Packets;
            self.traffic.begins(arriving, header.slot.into(), expected);
            self.note_admitted(now, index);
        } else if header.message != incoming.message || header.head != incoming.head {
            self.counters.malformed += 1;
            return;
        }
        let number = u32::from(header.packet);
        let slot = &mut self.client_slots[index];
        let incoming = &mut slot.incoming;
        let arrived = incoming.receiving.arrived(number);
        if arrived == Arrived::Duplicate {
            self.counters.duplicates += 1;
        }
        let Arrived::Fresh { gap } = arrived else {
            if arrived == Arrived::Duplicate {
                self.acknowledge_response(now, io, index, Flags::DUPLICATE);
            }
            return;
        };
        let head = usize::from(header.head);
        let sink = incoming.sink.expect("a longer answer has a sink");
        if number == 0 {
            slot.outgoing.inline[..head].copy_from_slice(&payload[..head]);
            io.host.absorb(sink, 0, &payload[head..]);
        } else {
            io.host.absorb(sink, number * payload_bytes - u32::from(header.head), payload);
        }
        slot.backoff = 0;
        let session = &mut self.client_sessions[session_index];
        session.last_heard = now;
        slot.due = (now + session.rtt.timeout()).min(slot.deadline);
        if let Some(delay) = incoming.grant_delay(number, now) {
            session.control.on_delay(now, delay);
        }
        let of = (&session.arriving, header.slot.into());
        let window = arriving_window(&self.config, self.traffic, &session.control, of);
        let wants_grant = incoming.wants_grant(window);
        if incoming.receiving.contiguous == incoming.packets {
            self.end_of_response(now, io, index, header.flags.contains(Flags::HOLDS));
        } else if gap || wants_grant {
            self.acknowledge_response(now, io, index, Flags::empty());
        }
    }

    /// All packets of an answer are here.
    pub(super) fn end_of_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        holds: bool,
    ) {
        let call = self.end_call(io, index);
        self.settle_call(now, index, holds);
        let arriving = self.client_sessions[self.client_slots.session(index)].arriving;
        let next = arriving.next(self.traffic.share(self.config.arriving_packets));
        if let Some(next) = next {
            // It has its turn now.
            let next = self.client_slots.at(call.session.index as usize, next as usize);
            self.acknowledge_response(now, io, next, Flags::empty());
        }
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
    pub(super) fn end_call<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> CallId {
        let session_index = self.client_slots.session(index);
        let number = self.client_slots.number(index) as u16;
        let slot = &mut self.client_slots[index];
        let awaited = slot.take_room();
        if slot.state == CallState::Answering {
            let arriving = &mut self.client_sessions[session_index].arriving;
            self.traffic.ends(arriving, number.into());
        } else if awaited {
            self.traffic.expected -= 1;
        }
        slot.state = CallState::Free;
        if self.ahead {
            self.waits.end(index);
        }
        slot.admitted = false;
        slot.outgoing.stop();
        if let Some(source) = slot.outgoing.take_source()
            && self.loans.end(source)
        {
            io.host.release(source);
        }
        let request = slot.request >> ATTEMPT_BITS;
        let session = &mut self.client_sessions[session_index];
        session.rtt.forget(number);
        session.free |= 1 << number;
        session.free_count += 1;
        session.behind &= !(1 << number);
        self.counters.calls_completed += 1;
        let session = SessionId { index: session_index as u32, generation: session.generation };
        CallId { session, slot: number, request }
    }

    /// Notes that the server is done with the last call of a slot, but for its hold on the answer.
    #[inline]
    pub(super) fn settle_call(&mut self, now: Instant, index: usize, holds: bool) {
        let slot = &mut self.client_slots[index];
        slot.settled = (slot.request >> ATTEMPT_BITS) as u32;
        let session_index = self.client_slots.session(index);
        if holds {
            self.owe_release(now, session_index, 1 << self.client_slots.number(index));
        }
        let session = &self.client_sessions[session_index];
        let (parked, behind) = (session.parked, session.behind);
        if parked != 0 {
            self.unpark(now, session_index);
        }
        if behind != 0 {
            self.send_behind(now, session_index, 0);
        }
    }

    /// Ends a call without an answer. The server is told, and then lets go of what it holds: of
    /// an answer under way, of a request that has arrived in part, or of an earlier answer that
    /// this call would have released.
    pub(super) fn fail_call<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        error: CallError,
    ) {
        let answering = self.client_slots[index].state == CallState::Answering;
        let call = self.end_call(io, index);
        self.give_up(now, index, answering);
        let token = self.client_slots[index].token;
        io.host.completed(now, Completion { call, token, result: Err(error) });
    }

    /// An answer that nobody waits for any more. If the server holds anything for it, it is told.
    #[cold]
    fn stale_response<T: Tx, H: Host>(
        &mut self,
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
            let seal = Seal::new(self.crc, &self.keys, &session.guard);
            send(io.tx, seal, session.peer, done, 0, |_| {});
        }
    }

    /// Tells the server what has arrived of an answer. With [`Flags::PROBE`] it asks for all that
    /// is missing.
    pub(super) fn acknowledge_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        flags: Flags,
    ) {
        let (session_index, number) = self.client_slots.place(index);
        let session = &self.client_sessions[session_index];
        let slot = &mut self.client_slots[index];
        let incoming = &mut slot.incoming;
        let mut ack =
            Header::new(Kind::ResponseAck, session.remote.index, session.remote.generation);
        ack.flags = session_flags(session.features) | flags;
        ack.slot = number as u16;
        ack.request = slot.request;
        ack.packet = incoming.receiving.contiguous as u16;
        let of = (&session.arriving, ack.slot.into());
        let window = arriving_window(&self.config, self.traffic, &session.control, of);
        ack.grant = incoming.grant(now, window);
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        send_ack(io.tx, seal, session.peer, ack, incoming.receiving.beyond());
    }

    /// The server tells what has arrived of a request.
    pub(super) fn on_request_ack(
        &mut self,
        now: Instant,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(index) = self.current_call(peer, header) else { return };
        let Ok(beyond) = Beyond::parse(payload) else {
            self.counters.malformed += 1;
            return;
        };
        let session = &mut self.client_sessions[self.client_slots.session(index)];
        let slot = &mut self.client_slots[index];
        if slot.state != CallState::Sent || slot.cancelled {
            return;
        }
        let report = report(header, beyond);
        if slot.outgoing.acknowledge(&report, &mut session.reordering) {
            slot.backoff = 0;
            let (min, max) = (self.config.retransmit_min, self.config.retransmit_after);
            session.rtt.answered(header.slot, now, min, max);
            slot.due = (now + session.rtt.timeout()).min(slot.deadline);
        }
        if slot.outgoing.due().is_some() {
            self.enqueue_client(index);
        }
        // A server that has nothing of the request asks for its first packet.
        if header.flags.contains(Flags::WORKING) || header.packet > 0 {
            self.note_admitted(now, index);
        }
    }

    /// The server has a call that others may have to follow.
    fn note_admitted(&mut self, now: Instant, index: usize) {
        let session_index = self.client_slots.session(index);
        self.client_slots[index].admitted = true;
        if self.client_sessions[session_index].behind != 0 {
            self.send_behind(now, session_index, 1 << self.client_slots.number(index));
        }
    }

    /// The server had no room: this attempt was not and will not be executed.
    pub(super) fn on_busy<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        let Some(index) = self.current_call(peer, header) else { return };
        let session_index = self.client_slots.session(index);
        let session = &self.client_sessions[session_index];
        let slot = &mut self.client_slots[index];
        if slot.state != CallState::Sent {
            return;
        }
        slot.state = CallState::Unsent;
        slot.refused = true;
        slot.admitted = false;
        let attempts = (1 << ATTEMPT_BITS) - 1;
        if slot.request & attempts == attempts {
            return self.fail_call(now, io, index, CallError::Busy);
        }
        slot.request += 1;
        slot.early = header.flags.contains(Flags::EARLY);
        if !slot.early {
            slot.backoff = slot.backoff.saturating_add(1).min(10);
        }
        // Nothing is granted: not before the timer says so, or what goes before this call.
        let packets = packets(slot.outgoing.message(), session.payload_bytes);
        slot.outgoing.sending().start(packets, 0);
        // Timers may have raised it further.
        let backoff = slot.backoff.min(10);
        let wait = Duration::from_nanos(self.config.busy_retry_after.as_nanos() << backoff);
        slot.due = (now + wait.min(self.config.retransmit_max)).min(slot.deadline);
        let early = slot.early;
        let due = if slot.cancelled { now } else { slot.due };
        self.wheel.arm(index as u32, due);
        if self.must_wait(session_index, index) {
            self.client_sessions[session_index].behind |= 1 << header.slot;
        } else if early {
            self.send_again_now(now, index);
        }
    }

    /// The slot of the call that a control packet is about, if it is the current one. The packet
    /// may be a copy of one that came long ago, and so is no sign of life: the call may take long.
    fn current_call(&mut self, peer: SocketAddrV4, header: &Header) -> Option<usize> {
        let Some(session_index) = self.client_session_of(peer, header) else {
            self.counters.unknown_session += 1;
            return None;
        };
        let slots = self.client_sessions[session_index].slots;
        let index = self.client_slots.find(session_index, header.slot, slots)?;
        let slot = &self.client_slots[index];
        if slot.request != header.request || slot.state == CallState::Free {
            self.counters.stale += 1;
            return None;
        }
        Some(index)
    }
}

/// Hands an answer in one packet to the host.
#[inline(always)]
pub(super) fn complete<H: Host>(
    now: Instant,
    host: &mut H,
    call: CallId,
    token: u64,
    payload: &[u8],
    head: u16,
) {
    let result = match parse_response(payload, usize::from(head)) {
        Some((status, arguments)) => {
            let body = Body::Whole(&payload[usize::from(head)..]);
            Ok(Response { status, arguments, body })
        }
        None => Err(CallError::Malformed),
    };
    host.completed(now, Completion { call, token, result });
}

/// The fixed header and the rest of a response's head.
#[inline(always)]
fn parse_response(message: &[u8], head: usize) -> Option<(Status, Arguments<'_>)> {
    let (header, rest) = message.get(..head)?.split_first_chunk::<RESPONSE_HEADER_BYTES>()?;
    if header[2] == 0 {
        return Some((Status(u16_at(header, 0)), Arguments::none(rest)));
    }
    let header = ResponseHeader::parse(header).ok()?;
    Some((header.status, Arguments::parse(header.args, rest).ok()?))
}
