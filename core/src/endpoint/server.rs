//! The answering end: from a request's first packet to the answer's release.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::client::{ATTEMPT_BITS, is_part, send_ack};
use super::host::{Admission, Body, Host, Outcome, PendingCall, Reply, RequestHead, SessionId};
use super::table::{Incoming, ServeState, UNASKED_PACKETS, packets};
use super::transmit::{Io, send, session_flags};
use super::window::{Arrived, Sending};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::control::Beyond;
use crate::wire::message::{
    After, Arguments, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX, REQUEST_HEADER_BYTES, RequestHeader,
    Status,
};
use crate::wire::packet::{Flags, Header, Kind};

/// Longest body of an answer, in bytes.
const BODY_BYTES_MAX: u32 = (MESSAGE_BYTES_MAX - HEAD_BYTES_MAX) as u32;

impl Endpoint<'_> {
    /// Answers a call that its service accepted for later. Returns false if nobody waits for the
    /// answer any more: then nothing was built and no source taken.
    pub fn reply(&mut self, call: PendingCall, build: impl FnOnce(&mut Reply<'_>)) -> bool {
        let session_index = call.session.index as usize;
        let Some(session) = self.server_sessions.get(session_index) else { return false };
        if !session.open || session.generation != call.session.generation {
            return false;
        }
        let Some(index) = self.slot_index(session_index, call.slot, session.slots) else {
            return false;
        };
        let slot = &self.server_slots[index];
        if slot.request != call.request || slot.state != ServeState::Executing {
            return false;
        }
        self.build_reply(index, |reply| {
            build(reply);
            Outcome::Replied
        });
        self.enqueue_server(index);
        true
    }

    /// Runs `build` on the slot's buffer and makes what it built the slot's answer.
    #[inline]
    fn build_reply(
        &mut self,
        index: usize,
        build: impl FnOnce(&mut Reply<'_>) -> Outcome,
    ) -> Outcome {
        let session = &self.server_sessions[index >> self.slot_shift];
        let slot = &mut self.server_slots[index];
        let mut reply = Reply::new(&mut slot.outgoing.inline, BODY_BYTES_MAX);
        let outcome = build(&mut reply);
        let finished = reply.finish();
        if outcome == Outcome::Replied {
            slot.state = ServeState::Answered;
            slot.outgoing.start(
                finished.head,
                finished.inline,
                finished.source,
                session.payload_bytes,
                session.remote_window,
            );
        }
        outcome
    }

    /// A packet of a request.
    #[inline]
    pub(super) fn on_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(session_index) = self.server_session_of(peer, header) else {
            return self.reset(io, peer, header);
        };
        let session = &mut self.server_sessions[session_index];
        session.last_heard = now;
        let slots = session.slots;
        let Some(index) = self.slot_index(session_index, header.slot, slots) else {
            self.counters.malformed += 1;
            return;
        };
        let current = self.server_slots[index].request;
        if header.request > current {
            let whole = header.message as usize == payload.len();
            let probe = header.flags.contains(Flags::PROBE) && payload.is_empty();
            if whole {
                self.begin(io, index, header.request);
                self.whole_request(now, io, index, header, payload);
            } else if probe {
                // Nothing of it is here: ask for it from the start.
                self.begin(io, index, current);
                self.acknowledge_unseen(io, session_index, header);
            } else {
                self.first_packet(now, io, index, header, payload);
            }
        } else if header.request == current {
            self.more_of_request(now, io, index, header, payload);
        } else {
            self.counters.stale += 1;
        }
    }

    /// Makes the slot ready for request `request`: whatever it held is over.
    #[inline]
    fn begin<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize, request: u64) {
        self.let_go(io, index);
        let slot = &mut self.server_slots[index];
        slot.request = request;
        slot.state = ServeState::Idle;
    }

    /// Releases what a slot holds of the host's.
    #[inline]
    pub(super) fn let_go<T, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let slot = &mut self.server_slots[index];
        slot.outgoing.sending = Sending::EMPTY;
        if let Some(source) = slot.outgoing.source.take() {
            io.host.release(source);
        }
        if matches!(slot.state, ServeState::Receiving | ServeState::Waiting) {
            if let Some(sink) = slot.incoming.sink.take() {
                io.host.abandon(sink);
            }
            let bit = 1 << (index & ((1 << self.slot_shift) - 1));
            self.server_sessions[index >> self.slot_shift].waiting &= !bit;
        }
    }

    /// The straight line: a request in one packet, executed where it lies.
    #[inline]
    fn whole_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let head = usize::from(header.head);
        let Some((head_bytes, body)) = payload.split_at_checked(head) else {
            return self.refuse_malformed(io, index);
        };
        let Ok(request) = RequestHeader::parse(head_bytes) else {
            return self.refuse_malformed(io, index);
        };
        if let Some(after) = request.after
            && !self.is_executed(index, after)
        {
            return self.refuse(io, index, Flags::ORDER);
        }
        self.execute(
            now,
            io,
            index,
            &request,
            &head_bytes[REQUEST_HEADER_BYTES..],
            Body::Whole(body),
        );
    }

    /// Gives a request to the host, and sends the answer if there is one.
    #[inline]
    fn execute<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        request: &RequestHeader,
        after_header: &[u8],
        body: Body<'_>,
    ) {
        let Ok(arguments) = Arguments::parse(request.args, after_header) else {
            if let Body::Absorbed { sink, .. } = body {
                io.host.abandon(sink);
            }
            return self.refuse_malformed(io, index);
        };
        let head = self.head_of(now, index, request, arguments);
        self.server_slots[index].state = ServeState::Executing;
        let host = &mut *io.host;
        let outcome = self.build_reply(index, |reply| host.request(now, &head, body, reply));
        match outcome {
            Outcome::Replied => self.transmit_reply(io, index),
            Outcome::Later => {}
            Outcome::Busy => return self.refuse(io, index, Flags::empty()),
        }
        self.counters.requests_executed += 1;
        let session_index = index >> self.slot_shift;
        if self.server_sessions[session_index].waiting != 0 {
            self.wake(now, io, session_index);
        }
    }

    #[inline]
    fn head_of<'a>(
        &self,
        now: Instant,
        index: usize,
        request: &RequestHeader,
        arguments: Arguments<'a>,
    ) -> RequestHead<'a> {
        let deadline = (request.deadline_us != 0)
            .then(|| now + Duration::from_micros(request.deadline_us.into()));
        RequestHead {
            call: self.pending_call(index),
            method: request.method,
            depth: request.depth,
            deadline,
            trace: request.trace,
            arguments,
        }
    }

    fn pending_call(&self, index: usize) -> PendingCall {
        let session_index = index >> self.slot_shift;
        PendingCall {
            session: SessionId {
                index: session_index as u32,
                generation: self.server_sessions[session_index].generation,
            },
            slot: (index & ((1 << self.slot_shift) - 1)) as u16,
            request: self.server_slots[index].request,
        }
    }

    /// Sends an answer's first packets at once, the rest through the ready queue.
    #[inline]
    fn transmit_reply<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let (count, full) = self.transmit_server(io, index);
        self.counters.packets_sent += u64::from(count);
        if full || self.server_slots[index].outgoing.sending.due().is_some() {
            self.enqueue_server(index);
        }
    }

    /// Whether the call that another must follow has been given to the host.
    fn is_executed(&self, index: usize, after: After) -> bool {
        let first = index >> self.slot_shift << self.slot_shift;
        let session = &self.server_sessions[index >> self.slot_shift];
        let Some(other) = self.slot_index(index >> self.slot_shift, after.slot, session.slots)
        else {
            return true;
        };
        if first + usize::from(after.slot) == index {
            return true;
        }
        let slot = &self.server_slots[other];
        let call = (slot.request >> ATTEMPT_BITS) as u32;
        match call.wrapping_sub(after.call) as i32 {
            0 => matches!(slot.state, ServeState::Executing | ServeState::Answered),
            ahead => ahead > 0,
        }
    }

    /// Executes requests that waited for one that has now been executed.
    fn wake<T: Tx, H: Host>(&mut self, now: Instant, io: &mut Io<'_, T, H>, session_index: usize) {
        let mut waiting = self.server_sessions[session_index].waiting;
        while waiting != 0 {
            let number = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            let index = (session_index << self.slot_shift) + number;
            // Executing one wakes those behind it, so bits may be gone by now.
            if self.server_sessions[session_index].waiting & (1 << number) != 0 {
                self.execute_absorbed(now, io, index);
            }
        }
    }

    /// The first packet seen of a request of several.
    fn first_packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let payload_bytes = self.server_sessions[index >> self.slot_shift].payload_bytes;
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
        let body = header.message - u32::from(header.head);
        let admission = io.host.admit(&self.head_of(now, index, &request, arguments), body);
        let sink = match admission {
            Admission::Accept(sink) => sink,
            Admission::Busy => return self.refuse(io, index, Flags::empty()),
            Admission::Reject(status) => return self.answer(io, index, status),
        };
        let slot = &mut self.server_slots[index];
        slot.outgoing.inline[..head.len()].copy_from_slice(head);
        slot.state = ServeState::Receiving;
        slot.incoming = Incoming {
            packets: packets(header.message, payload_bytes),
            message: header.message,
            head: header.head,
            sink: Some(sink),
            ..Incoming::EMPTY
        };
        self.part_of_request(now, io, index, header, payload);
    }

    /// A packet of a request that the slot already knows.
    fn more_of_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let probe = header.flags.contains(Flags::PROBE) && payload.is_empty();
        match self.server_slots[index].state {
            ServeState::Idle => {}
            ServeState::Receiving if probe => self.acknowledge_request(io, index, true),
            ServeState::Receiving => self.part_of_request(now, io, index, header, payload),
            ServeState::Waiting | ServeState::Executing => {
                self.counters.duplicates += 1;
                self.acknowledge_request(io, index, false);
            }
            ServeState::Answered => {
                self.counters.duplicates += 1;
                self.counters.packets_resent += 1;
                let sending = &mut self.server_slots[index].outgoing.sending;
                sending.resend_first(UNASKED_PACKETS.into());
                self.enqueue_server(index);
            }
            ServeState::Refused => {
                self.counters.duplicates += 1;
                self.send_busy(io, index, Flags::empty());
            }
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
        let payload_bytes = self.server_sessions[index >> self.slot_shift].payload_bytes;
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
                return self.acknowledge_request(io, index, false);
            }
            Arrived::Beyond => return,
        };
        let sink = incoming.sink.expect("a request that is being received has a sink");
        let head = u32::from(incoming.head);
        if number == 0 {
            io.host.absorb(sink, 0, &payload[head as usize..]);
        } else {
            io.host.absorb(sink, number * payload_bytes - head, payload);
        }
        let wants_grant = incoming.wants_grant(self.config.window_packets);
        if incoming.receiving.contiguous == incoming.packets {
            self.execute_absorbed(now, io, index);
        } else if gap || wants_grant {
            self.acknowledge_request(io, index, false);
        }
    }

    /// All of a long request is here: execute it, or let it wait for the one that it must follow.
    fn execute_absorbed<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) {
        let slot = &self.server_slots[index];
        // The answer is built in the buffer that holds the head.
        let buffer = slot.outgoing.inline;
        let head = &buffer[..usize::from(slot.incoming.head)];
        let bytes = slot.incoming.message - u32::from(slot.incoming.head);
        let bit = 1 << (index & ((1 << self.slot_shift) - 1));
        let request = RequestHeader::parse(head).expect("checked at the first packet");
        let ready = request.after.is_none_or(|after| self.is_executed(index, after));
        let session = &mut self.server_sessions[index >> self.slot_shift];
        let slot = &mut self.server_slots[index];
        if !ready {
            slot.state = ServeState::Waiting;
            session.waiting |= bit;
            return;
        }
        session.waiting &= !bit;
        let sink = slot.incoming.sink.take().expect("a long request has a sink");
        let body = Body::Absorbed { sink, bytes };
        self.execute(now, io, index, &request, &head[REQUEST_HEADER_BYTES..], body);
    }

    /// Tells the client what has arrived of its request, or that the service is at work.
    fn acknowledge_request<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        probe: bool,
    ) {
        let session = &self.server_sessions[index >> self.slot_shift];
        let slot = &mut self.server_slots[index];
        let incoming = &mut slot.incoming;
        let mut ack =
            Header::new(Kind::RequestAck, session.remote.index, session.remote.generation);
        ack.flags = session_flags(session.features);
        ack.flags.set(Flags::PROBE, probe);
        ack.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        ack.request = slot.request;
        if slot.state == ServeState::Receiving {
            ack.packet = incoming.receiving.contiguous as u16;
            ack.grant = incoming.grant(self.config.window_packets);
            send_ack(io.tx, self.crc, session.peer, ack, incoming.receiving.beyond());
        } else {
            ack.flags |= Flags::WORKING;
            send_ack(io.tx, self.crc, session.peer, ack, Beyond::default());
        }
    }

    /// Asks for a request of which nothing is here.
    fn acknowledge_unseen<T: Tx, H: Host>(
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
        ack.grant = UNASKED_PACKETS.into();
        send_ack(io.tx, self.crc, session.peer, ack, Beyond::default());
    }

    /// The client tells what has arrived of an answer.
    pub(super) fn on_response_ack<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(index) = self.current_request(now, io, peer, header) else { return };
        let Ok(beyond) = Beyond::parse(payload) else {
            self.counters.malformed += 1;
            return;
        };
        let slot = &mut self.server_slots[index];
        if slot.state != ServeState::Answered {
            return;
        }
        slot.outgoing.sending.acknowledge(
            header.packet.into(),
            header.grant,
            beyond,
            header.flags.contains(Flags::PROBE),
        );
        if slot.outgoing.sending.due().is_some() {
            self.enqueue_server(index);
        }
    }

    /// The client has the whole answer.
    pub(super) fn on_done<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        let Some(session_index) = self.server_session_of(peer, header) else {
            return self.reset(io, peer, header);
        };
        self.server_sessions[session_index].last_heard = now;
        let slots = self.server_sessions[session_index].slots;
        let Some(index) = self.slot_index(session_index, header.slot, slots) else { return };
        let slot = &mut self.server_slots[index];
        if slot.request == header.request && slot.state == ServeState::Answered {
            slot.outgoing.sending = Sending::EMPTY;
            if let Some(source) = slot.outgoing.source.take() {
                io.host.release(source);
            }
            slot.state = ServeState::Idle;
        }
        self.pong(io, session_index, header);
    }

    /// The client does not want the answer any more.
    pub(super) fn on_cancel<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        let Some(session_index) = self.server_session_of(peer, header) else {
            return self.reset(io, peer, header);
        };
        self.server_sessions[session_index].last_heard = now;
        let slots = self.server_sessions[session_index].slots;
        let Some(index) = self.slot_index(session_index, header.slot, slots) else { return };
        let slot = &self.server_slots[index];
        if header.request < slot.request {
            self.counters.stale += 1;
            return;
        }
        if header.request > slot.request {
            // The request itself never came; whatever of it comes later finds it answered.
            self.begin(io, index, header.request);
            return self.answer(io, index, Status::CANCELLED);
        }
        match slot.state {
            ServeState::Receiving | ServeState::Waiting => {
                self.let_go(io, index);
                self.answer(io, index, Status::CANCELLED);
            }
            ServeState::Refused => self.answer(io, index, Status::CANCELLED),
            ServeState::Executing => {
                let call = self.pending_call(index);
                io.host.cancelled(call);
                self.acknowledge_request(io, index, false);
            }
            ServeState::Answered => {
                let sending = &mut self.server_slots[index].outgoing.sending;
                sending.resend_first(UNASKED_PACKETS.into());
                self.enqueue_server(index);
            }
            ServeState::Idle => {}
        }
    }

    /// The slot of the request that a control packet is about, if it is the current one.
    fn current_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) -> Option<usize> {
        let Some(session_index) = self.server_session_of(peer, header) else {
            self.reset(io, peer, header);
            return None;
        };
        let session = &mut self.server_sessions[session_index];
        session.last_heard = now;
        let slots = session.slots;
        let index = self.slot_index(session_index, header.slot, slots)?;
        if self.server_slots[index].request != header.request {
            self.counters.stale += 1;
            return None;
        }
        Some(index)
    }

    /// Refuses a request; the refusal is final for its number.
    fn refuse<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize, flags: Flags) {
        self.server_slots[index].state = ServeState::Refused;
        self.counters.requests_refused += 1;
        self.send_busy(io, index, flags);
    }

    fn send_busy<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize, flags: Flags) {
        let session = &self.server_sessions[index >> self.slot_shift];
        let mut busy = Header::new(Kind::Busy, session.remote.index, session.remote.generation);
        busy.flags = session_flags(session.features) | flags;
        busy.slot = (index & ((1 << self.slot_shift) - 1)) as u16;
        busy.request = self.server_slots[index].request;
        send(io.tx, self.crc, session.peer, busy, 0, |_| {});
    }

    #[cold]
    fn refuse_malformed<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        self.counters.malformed += 1;
        self.answer(io, index, Status::MALFORMED);
    }

    /// Answers a request without asking the host.
    fn answer<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize, status: Status) {
        self.build_reply(index, |reply| {
            reply.head(status, &[], &[]);
            Outcome::Replied
        });
        self.transmit_reply(io, index);
    }

    /// Tells a client that its session is not known here.
    #[cold]
    pub(super) fn reset<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        self.counters.unknown_session += 1;
        let reset = Header::new(Kind::Reset, header.session, header.generation);
        send(io.tx, self.crc, peer, reset, 0, |_| {});
    }
}
