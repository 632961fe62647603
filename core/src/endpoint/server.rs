//! The answering end: from a request's first packet to the answer's release.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::call::ATTEMPT_BITS;
use super::host::{Body, Host, Outcome, PendingCall, Reply, RequestHead, SessionId};
use super::table::ServeState;
use super::transmit::Io;
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::message::{
    After, Arguments, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX, REQUEST_HEADER_BYTES, RequestHeader,
};
use crate::wire::packet::{Flags, Header};

/// How far a call is that another must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Executed, or it never will be.
    Over,
    /// On its way in, with room for all of it: it will be executed without asking for more.
    Admitted,
    /// Nothing of it is here, or it was not admitted. What must follow it must not take room that
    /// it may need.
    Missing,
}

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
    pub(super) fn build_reply(
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
            if header.message as usize == payload.len() {
                self.begin(io, index, header.request);
                self.whole_request(now, io, index, header, payload);
            } else if is_probe(header, payload) {
                self.acknowledge_unseen(io, session_index, header);
            } else {
                self.first_packet(now, io, index, header, payload);
            }
        } else if header.request == current {
            self.more_of_request(now, io, index, header, payload);
        } else {
            self.counters.stale += 1;
        }
        if self.server_sessions[session_index].waiting != 0 {
            self.wake(now, io, session_index);
        }
    }

    /// Makes the slot ready for request `request`: whatever it held is over.
    #[inline]
    pub(super) fn begin<T, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize, request: u64) {
        if self.server_slots[index].state != ServeState::Idle {
            self.let_go(io, index);
        }
        let slot = &mut self.server_slots[index];
        slot.request = request;
        slot.state = ServeState::Idle;
    }

    /// Releases what a slot holds of the host's.
    #[inline]
    pub(super) fn let_go<T, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let slot = &mut self.server_slots[index];
        slot.outgoing.sending.stop();
        if let Some(source) = slot.outgoing.source.take() {
            io.host.release(source);
        }
        if slot.state != ServeState::Answered {
            self.let_go_unanswered(io, index);
        }
    }

    /// Releases what the slot of a call holds that has no answer yet.
    #[cold]
    fn let_go_unanswered<T, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        match self.server_slots[index].state {
            ServeState::Idle | ServeState::Answered | ServeState::Refused => {}
            ServeState::Executing => self.tell_cancelled(io, index),
            ServeState::Receiving | ServeState::Waiting => {
                if let Some(sink) = self.server_slots[index].incoming.sink.take() {
                    io.host.abandon(sink);
                }
                let bit = 1 << (index & ((1 << self.slot_shift) - 1));
                self.server_sessions[index >> self.slot_shift].waiting &= !bit;
            }
        }
    }

    /// Tells the service, once, that nobody wants the answer that it works on.
    pub(super) fn tell_cancelled<T, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        if !core::mem::replace(&mut self.server_slots[index].cancelled, true) {
            io.host.cancelled(self.pending_call(index));
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
            && self.order(index, after) != Order::Over
        {
            return self.refuse(io, index);
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
    pub(super) fn execute<T: Tx, H: Host>(
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
        let slot = &mut self.server_slots[index];
        slot.state = ServeState::Executing;
        slot.cancelled = false;
        slot.declined = false;
        let host = &mut *io.host;
        let outcome = self.build_reply(index, |reply| host.request(now, &head, body, reply));
        match outcome {
            Outcome::Replied => self.transmit_reply(io, index),
            Outcome::Later => {}
            Outcome::Busy => return self.refuse(io, index),
        }
        self.counters.requests_executed += 1;
    }

    #[inline]
    pub(super) fn head_of<'a>(
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

    pub(super) fn pending_call(&self, index: usize) -> PendingCall {
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
    pub(super) fn transmit_reply<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let (count, full) = self.transmit_server(io, index);
        self.counters.packets_sent += u64::from(count);
        if full || self.server_slots[index].outgoing.sending.due().is_some() {
            self.enqueue_server(index);
        }
    }

    /// How far the call is that another must follow.
    #[cold]
    pub(super) fn order(&self, index: usize, after: After) -> Order {
        let session_index = index >> self.slot_shift;
        let slots = self.server_sessions[session_index].slots;
        let Some(other) = self.slot_index(session_index, after.slot, slots) else {
            return Order::Over;
        };
        let slot = &self.server_slots[other];
        let ahead = ((slot.request >> ATTEMPT_BITS) as u32).wrapping_sub(after.call) as i32;
        match slot.state {
            _ if ahead > 0 => Order::Over,
            _ if ahead < 0 => Order::Missing,
            ServeState::Executing | ServeState::Idle => Order::Over,
            ServeState::Answered if !slot.declined => Order::Over,
            ServeState::Receiving | ServeState::Waiting => Order::Admitted,
            // A declined one may itself have had to follow another. Its client knows, and says
            // when it is over.
            ServeState::Answered | ServeState::Refused => Order::Missing,
        }
    }

    /// Executes requests that waited for another, as long as there is one that need not any more.
    #[cold]
    pub(super) fn wake<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        session_index: usize,
    ) {
        let mut left = self.server_sessions[session_index].waiting;
        while left != 0 {
            let number = left.trailing_zeros() as usize;
            left &= left - 1;
            if self.execute_absorbed(now, io, (session_index << self.slot_shift) + number) {
                // Others may have waited for this one.
                left = self.server_sessions[session_index].waiting;
            }
        }
    }
}

/// Whether a packet asks what has arrived of a long request.
#[inline]
pub(super) fn is_probe(header: &Header, payload: &[u8]) -> bool {
    header.flags.contains(Flags::PROBE) && payload.is_empty()
}
