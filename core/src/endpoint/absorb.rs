//! The answering end of requests that are not executed where they lie: of several packets, or too
//! early.

use super::Endpoint;
use super::congestion::Controller;
use super::host::{Admission, Body, Host, RequestHead, Sink};
use super::parts::{Incoming, arriving_window, is_part, send_ack};
use super::server::{Order, head_of, is_probe};
use super::settle::Refusal;
use super::table::{ServeState, UNASKED_PACKETS, unasked};
use super::transmit::{Io, Seal, session_flags};
use super::window::Arrived;
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::control::Beyond;
use crate::wire::message::{Arguments, HEAD_BYTES_MAX, REQUEST_HEADER_BYTES, RequestHeader};
use crate::wire::packet::{Flags, Header, Kind};

/// Bytes of a kept request that are taken out of its slot without the rest of the buffer: the heads
/// of most are no longer.
const SHORT_BYTES: usize = 128;

impl Endpoint<'_> {
    /// The first packet seen of a request of several.
    pub(super) fn first_packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let payload_bytes = self.server_sessions[self.server_slots.session(index)].payload_bytes;
        if !is_part(header, payload.len(), payload_bytes) {
            self.counters.malformed += 1;
            return;
        }
        if header.packet != 0 {
            // Only the head tells where the body goes. The client sends the rest again.
            self.counters.stale += 1;
            return;
        }
        self.begin(io, index, header.request);
        let head = &payload[..usize::from(header.head)];
        let parsed = RequestHeader::parse(head).ok().and_then(|request| {
            Some((request, Arguments::parse(request.args, &head[REQUEST_HEADER_BYTES..]).ok()?))
        });
        let Some((request, arguments)) = parsed else {
            return self.refuse_malformed(io, index);
        };
        if request.after.is_some_and(|after| self.order(index, after) == Order::Missing) {
            return self.refuse(io, index, Refusal::Early);
        }
        let body = header.message - u32::from(header.head);
        let head_seen = head_of(now, self.pending_call(index), &request, arguments);
        let Some(sink) = self.admit(io, index, &head_seen, body) else { return };
        let slot = &mut self.server_slots[index];
        slot.outgoing.inline[..head.len()].copy_from_slice(head);
        slot.state = ServeState::Receiving;
        let granted = self.config.window_packets.min(UNASKED_PACKETS).into();
        let (message, head) = (header.message, header.head);
        slot.incoming = Incoming::new(message, head, payload_bytes, granted, Some(sink));
        let (session_index, number) = self.server_slots.place(index);
        let arriving = &mut self.server_sessions[session_index].arriving;
        self.traffic.begins(arriving, number as u32, false);
        self.part_of_request(now, io, index, header, payload);
    }

    /// Asks the host for a place for a body of `bytes` bytes. Without one the request has its
    /// answer or refusal.
    fn admit<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        head: &RequestHead<'_>,
        bytes: u32,
    ) -> Option<Sink> {
        match io.host.admit(head, bytes) {
            Admission::Accept(sink) => return Some(sink),
            Admission::Busy => self.refuse(io, index, Refusal::NoRoom),
            Admission::Reject(status) => self.answer(io, index, status),
            Admission::RejectWith(status, parameters) => {
                self.answer_with(io, index, status, &parameters);
            }
        }
        None
    }

    /// A request in one packet that must follow another that is still coming in: it waits in its
    /// slot's buffer, or, where that is too small for the body, in a place of the host's.
    #[cold]
    pub(super) fn keep_whole<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        request: &RequestHeader,
        head: &[u8],
        body: &[u8],
    ) {
        let arguments = match Arguments::parse(request.args, &head[REQUEST_HEADER_BYTES..]) {
            Ok(arguments) if head.len() <= HEAD_BYTES_MAX => arguments,
            _ => return self.refuse_malformed(io, index),
        };
        let here = head.len() + body.len() <= HEAD_BYTES_MAX;
        let sink = if here {
            None
        } else {
            let head_seen = head_of(now, self.pending_call(index), request, arguments);
            let sink = self.admit(io, index, &head_seen, body.len() as u32);
            let Some(sink) = sink else { return };
            io.host.absorb(sink, 0, body);
            Some(sink)
        };
        let slot = &mut self.server_slots[index];
        slot.outgoing.inline[..head.len()].copy_from_slice(head);
        if here {
            slot.outgoing.inline[head.len()..][..body.len()].copy_from_slice(body);
        }
        let message = (head.len() + body.len()) as u32;
        slot.incoming = Incoming::whole(message, head.len() as u16, sink);
        slot.state = ServeState::Waiting;
        let (session_index, number) = self.server_slots.place(index);
        self.server_sessions[session_index].waiting |= 1 << number;
    }

    /// A packet of a request that the slot already knows.
    pub(super) fn more_of_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let probe = is_probe(header, payload);
        let state = self.server_slots[index].state;
        if state == ServeState::Receiving {
            return if probe {
                self.acknowledge_request(now, io, index, Flags::PROBE);
            } else {
                self.part_of_request(now, io, index, header, payload);
            };
        }
        self.counters.duplicates += 1;
        if !probe && header.packet != 0 {
            // What is still under way of a request that is decided. Only a packet that the client
            // repeats when it hears nothing is worth an answer.
            return;
        }
        match state {
            ServeState::Idle | ServeState::Receiving => {}
            ServeState::Waiting | ServeState::Executing => {
                self.acknowledge_request(now, io, index, Flags::empty());
            }
            ServeState::Answered => {
                let unasked_packets = self.server_slots[index].unasked;
                let outgoing = &mut self.server_slots[index].outgoing;
                outgoing.resend_first(unasked(UNASKED_PACKETS, unasked_packets).into());
                self.enqueue_server(index);
            }
            ServeState::Refused => self.send_busy(io, index),
        }
    }

    fn part_of_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let (session_index, place) = self.server_slots.place(index);
        let payload_bytes = self.server_sessions[session_index].payload_bytes;
        let slot = &mut self.server_slots[index];
        let incoming = &mut slot.incoming;
        if !is_part(header, payload.len(), payload_bytes)
            || header.message != incoming.message
            || header.head != incoming.head
        {
            self.counters.malformed += 1;
            return;
        }
        let number = u32::from(header.packet);
        let gap = match incoming.receiving.arrived(number) {
            Arrived::Fresh { gap } => gap,
            Arrived::Duplicate => {
                self.counters.duplicates += 1;
                return self.acknowledge_request(now, io, index, Flags::DUPLICATE);
            }
            Arrived::Beyond => return,
        };
        let sink = incoming.sink.expect("a request that is being received has a sink");
        let head = u32::from(incoming.head);
        if number == 0 {
            // Where a place is told, that of the next packets is looked up at the same time.
            let body = &payload[head as usize..];
            match io.host.place(sink, 0, body.len() as u32) {
                Some(place) => {
                    self.crc.copy(body, place);
                    io.host.placed(sink, body.len() as u32);
                }
                None => io.host.absorb(sink, 0, body),
            }
        } else {
            io.host.absorb(sink, number * payload_bytes - head, payload);
        }
        let session = &mut self.server_sessions[session_index];
        if let Some(delay) = incoming.grant_delay(number, now) {
            session.control.on_delay(now, delay);
        }
        let of = (&session.arriving, place as u32);
        let window = arriving_window(&self.config, self.traffic, &session.control, of);
        let wants_grant = incoming.wants_grant(window);
        if incoming.receiving.contiguous == incoming.packets {
            self.all_of_request(now, io, index);
        } else if gap || wants_grant {
            self.acknowledge_request(now, io, index, Flags::empty());
        }
    }

    /// All packets of a request are here.
    pub(super) fn all_of_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) {
        let (session_index, number) = self.server_slots.place(index);
        let session = &mut self.server_sessions[session_index];
        self.traffic.ends(&mut session.arriving, number as u32);
        let next = session.arriving.next(self.traffic.share(self.config.arriving_packets));
        self.server_slots[index].state = ServeState::Waiting;
        self.execute_absorbed(now, io, index);
        if let Some(next) = next {
            // It has its turn now.
            let next = self.server_slots.at(session_index, next as usize);
            self.acknowledge_request(now, io, next, Flags::empty());
        }
    }

    /// All of a request is in its slot: executes it, lets it wait for the one that it must follow,
    /// or refuses it if that has been refused meanwhile. Returns false if it waits.
    pub(super) fn execute_absorbed<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) -> bool {
        // What is in the slot's buffer is taken out: the answer is built there.
        let outgoing = &self.server_slots[index].outgoing;
        let incoming = &self.server_slots[index].incoming;
        let head = incoming.head.into();
        let here = if incoming.sink.is_some() { head } else { incoming.message as usize };
        if here <= SHORT_BYTES {
            let buffer: [u8; SHORT_BYTES] = *outgoing.inline.first_chunk().expect("it is longer");
            self.execute_kept(now, io, index, buffer[..here].split_at(head))
        } else {
            let buffer = outgoing.inline;
            self.execute_kept(now, io, index, buffer[..here].split_at(head))
        }
    }

    /// The same with the request's head, and with its body unless the host has that.
    fn execute_kept<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        (head, body): (&[u8], &[u8]),
    ) -> bool {
        let bytes = self.server_slots[index].incoming.message - head.len() as u32;
        let bit = 1 << self.server_slots.number(index);
        let request = RequestHeader::parse(head).expect("checked at the first packet");
        let order = request.after.map_or(Order::Over, |after| self.order(index, after));
        match order {
            Order::Over => {
                self.server_sessions[self.server_slots.session(index)].waiting &= !bit;
                let body = match self.server_slots[index].incoming.sink.take() {
                    Some(sink) => Body::Absorbed { sink, bytes },
                    None => Body::Whole(body),
                };
                self.execute(now, io, index, &request, &head[REQUEST_HEADER_BYTES..], body);
                true
            }
            Order::Admitted => {
                self.server_sessions[self.server_slots.session(index)].waiting |= bit;
                self.server_slots[index].state = ServeState::Waiting;
                false
            }
            Order::Missing => {
                self.let_go(io, index);
                self.refuse(io, index, Refusal::Early);
                true
            }
        }
    }

    /// Tells the client what has arrived of its request, or that the service is at work.
    pub(super) fn acknowledge_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        flags: Flags,
    ) {
        let (session_index, number) = self.server_slots.place(index);
        let session = &self.server_sessions[session_index];
        let slot = &mut self.server_slots[index];
        let incoming = &mut slot.incoming;
        let mut ack =
            Header::new(Kind::RequestAck, session.remote.index, session.remote.generation);
        ack.flags = session_flags(session.features) | flags;
        ack.slot = number as u16;
        ack.request = slot.request;
        if slot.state == ServeState::Receiving {
            ack.packet = incoming.receiving.contiguous as u16;
            let of = (&session.arriving, ack.slot.into());
            let window = arriving_window(&self.config, self.traffic, &session.control, of);
            ack.grant = incoming.grant(now, window);
            let seal = Seal::new(self.crc, &self.keys, &session.guard);
            send_ack(io.tx, seal, session.peer, ack, incoming.receiving.beyond());
        } else {
            ack.flags |= Flags::WORKING;
            let seal = Seal::new(self.crc, &self.keys, &session.guard);
            send_ack(io.tx, seal, session.peer, ack, Beyond::default());
        }
    }

    /// Asks for a request of which nothing is here.
    #[cold]
    pub(super) fn acknowledge_unseen<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        session_index: usize,
        header: &Header,
    ) {
        let session = &self.server_sessions[session_index];
        let mut ack =
            Header::new(Kind::RequestAck, session.remote.index, session.remote.generation);
        ack.flags = session_flags(session.features) | Flags::PROBE;
        ack.slot = header.slot;
        ack.request = header.request;
        ack.grant = self.config.window_packets.min(UNASKED_PACKETS).into();
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        send_ack(io.tx, seal, session.peer, ack, Beyond::default());
    }
}
