//! The answering end: from a request's first packet to the answer's release.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::is_authentic;
use super::call::ATTEMPT_BITS;
use super::host::{Body, Finished, Host, Outcome, PendingCall, Reply, RequestHead, SessionId};
use super::settle::Refusal;
use super::table::{ServeState, ServerSession, ServerSlot, unasked};
use super::transmit::{Io, Whole};
use super::turn::Turn;
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::message::{
    After, Arguments, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX, REQUEST_HEADER_BYTES, RequestHeader,
};
use crate::wire::packet::{Flags, Header, Packet};

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
        let Some(index) = self.server_slots.find(session_index, call.slot, session.slots) else {
            return false;
        };
        let slot = &self.server_slots[index];
        if slot.request != call.request || slot.state != ServeState::Executing {
            return false;
        }
        self.build_reply(index, build);
        self.enqueue_server(index);
        true
    }

    /// Makes what `build` builds in a slot's buffer the slot's answer.
    pub(super) fn build_reply(&mut self, index: usize, build: impl FnOnce(&mut Reply<'_>)) {
        let session = &self.server_sessions[self.server_slots.session(index)];
        let slot = &mut self.server_slots[index];
        let mut reply = Reply::new(&mut slot.outgoing.inline, BODY_BYTES_MAX);
        build(&mut reply);
        let finished = reply.finish();
        let _ = answered(session, slot, finished);
    }

    /// A packet of a request that is not straight.
    pub(super) fn on_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        packet: Packet<'_>,
    ) {
        let header = packet.header();
        let Some(session_index) = self.server_session_of(peer, &header) else {
            return self.reset(io, peer, &header);
        };
        let session = &mut self.server_sessions[session_index];
        if !is_authentic(&self.keys, session.guard, packet) {
            self.counters.bad_tag += 1;
            return;
        }
        let slots = session.slots;
        let Some(index) = self.server_slots.find(session_index, header.slot, slots) else {
            self.counters.malformed += 1;
            return;
        };
        if header.request >= self.server_slots[index].request {
            self.server_sessions[session_index].last_heard = now;
        }
        self.odd_request(now, io, index, &header, packet.payload());
    }

    pub(super) fn odd_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let session_index = self.server_slots.session(index);
        let current = self.server_slots[index].request;
        if header.request < current {
            self.counters.stale += 1;
        } else if header.request == current {
            self.more_of_request(now, io, index, header, payload);
        } else if header.message as usize == payload.len() {
            self.begin(io, index, header.request);
            self.server_slots[index].unasked = header.grant.min(u8::MAX.into()) as u8;
            self.whole_request(now, io, index, header, payload);
        } else if is_probe(header, payload) {
            self.acknowledge_unseen(io, session_index, header);
        } else {
            self.first_packet(now, io, index, header, payload);
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
        slot.unasked = 0;
        slot.state = ServeState::Idle;
    }

    /// Releases what a slot holds of the host's.
    #[inline]
    pub(super) fn let_go<T, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let slot = &mut self.server_slots[index];
        slot.outgoing.stop();
        if let Some(source) = slot.outgoing.take_source()
            && self.loans.end(source)
        {
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
            state @ (ServeState::Receiving | ServeState::Waiting) => {
                if state == ServeState::Receiving {
                    let number = self.server_slots.number(index) as u32;
                    let session = &mut self.server_sessions[self.server_slots.session(index)];
                    self.traffic.ends(&mut session.arriving, number);
                }
                if let Some(sink) = self.server_slots[index].incoming.sink.take() {
                    io.host.abandon(sink);
                }
                let bit = 1 << self.server_slots.number(index);
                self.server_sessions[self.server_slots.session(index)].waiting &= !bit;
            }
        }
    }

    /// Tells the service, once, that nobody wants the answer that it works on.
    pub(super) fn tell_cancelled<T, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        if !core::mem::replace(&mut self.server_slots[index].cancelled, true) {
            io.host.cancelled(self.pending_call(index));
        }
    }

    /// A request in one packet.
    fn whole_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        header: &Header,
        payload: &[u8],
    ) {
        let Some((head, body)) = payload.split_at_checked(header.head.into()) else {
            return self.refuse_malformed(io, index);
        };
        let Ok(request) = RequestHeader::parse(head) else {
            return self.refuse_malformed(io, index);
        };
        match request.after.map_or(Order::Over, |after| self.order(index, after)) {
            Order::Over => {}
            Order::Admitted => return self.keep_whole(now, io, index, &request, head, body),
            Order::Missing => return self.refuse(io, index, Refusal::Early),
        }
        let rest = &head[REQUEST_HEADER_BYTES..];
        self.execute(now, io, index, &request, rest, Body::Whole(body));
    }

    /// Gives a request to the host, and sends the answer if there is one.
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
        let head = head_of(now, self.pending_call(index), request, arguments);
        let session = &self.server_sessions[self.server_slots.session(index)];
        let slot = &mut self.server_slots[index];
        match serve(now, io.host, session, slot, &head, body) {
            Served::Whole(_) => self.transmit_short_reply(io, index),
            Served::Long => self.transmit_reply(io, index),
            Served::Later => {}
            Served::Busy => return self.refuse(io, index, Refusal::NoRoom),
        }
        self.counters.requests_executed += 1;
    }

    pub(super) fn pending_call(&self, index: usize) -> PendingCall {
        let session_index = self.server_slots.session(index);
        PendingCall {
            session: SessionId {
                index: session_index as u32,
                generation: self.server_sessions[session_index].generation,
            },
            slot: self.server_slots.number(index) as u16,
            request: self.server_slots[index].request,
        }
    }

    /// Sends an answer's first packets at once, the rest through the ready queue.
    pub(super) fn transmit_reply<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let turn = self.transmit_server(io, index);
        self.sent(index, turn);
    }

    /// The same for an answer that is one packet.
    fn transmit_short_reply<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        match self.transmit_whole_reply(io, index) {
            Some(turn) => self.sent(index, turn),
            None => self.transmit_reply(io, index),
        }
    }

    /// A slot's answer has had a turn outside of the queue.
    #[inline]
    fn sent(&mut self, index: usize, turn: Turn) {
        self.counters.packets_sent += u64::from(turn.packets);
        if turn.full || turn.more {
            self.enqueue_server(index);
        }
    }

    /// How far the call is that another must follow.
    #[cold]
    pub(super) fn order(&self, index: usize, after: After) -> Order {
        let session_index = self.server_slots.session(index);
        let slots = self.server_sessions[session_index].slots;
        let Some(other) = self.server_slots.find(session_index, after.slot, slots) else {
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
            if self.execute_absorbed(now, io, self.server_slots.at(session_index, number)) {
                // Others may have waited for this one.
                left = self.server_sessions[session_index].waiting;
            }
        }
    }
}

/// A request's head as the host sees it.
#[inline(always)]
pub(super) fn head_of<'a>(
    now: Instant,
    call: PendingCall,
    request: &RequestHeader,
    arguments: Arguments<'a>,
) -> RequestHead<'a> {
    let deadline =
        (request.deadline_us != 0).then(|| now + Duration::from_micros(request.deadline_us.into()));
    RequestHead {
        call,
        method: request.method,
        depth: request.depth,
        deadline,
        trace: request.trace,
        arguments,
    }
}

/// What became of a request that was given to the host.
pub(super) enum Served {
    /// The slot has its answer, which is one packet.
    Whole(Whole),
    /// The slot has its answer, and the host the rest of it.
    Long,
    /// The answer will come.
    Later,
    /// Not admitted.
    Busy,
}

/// Gives a request to the host. If it replies, the slot has its answer.
#[inline(always)]
pub(super) fn serve<H: Host>(
    now: Instant,
    host: &mut H,
    session: &ServerSession,
    slot: &mut ServerSlot,
    head: &RequestHead<'_>,
    body: Body<'_>,
) -> Served {
    slot.cancelled = false;
    slot.declined = false;
    let mut reply = Reply::new(&mut slot.outgoing.inline, BODY_BYTES_MAX);
    let outcome = host.request(now, head, body, &mut reply);
    let finished = reply.finish();
    if outcome == Outcome::Replied {
        return answered(session, slot, finished);
    }
    slot.state = ServeState::Executing;
    // An earlier answer may be in the ready queue, to be sent again, and its buffer is gone.
    slot.outgoing.stop();
    if outcome == Outcome::Later { Served::Later } else { Served::Busy }
}

/// The slot's buffer holds an answer.
#[inline(always)]
fn answered(session: &ServerSession, slot: &mut ServerSlot, finished: Finished) -> Served {
    let Finished { head, inline, source } = finished;
    slot.state = ServeState::Answered;
    let unasked_packets = slot.unasked;
    slot.outgoing.start(head, inline, source, || {
        (session.payload_bytes, unasked(session.remote_window, unasked_packets))
    });
    match source {
        None => Served::Whole(Whole { head, bytes: inline }),
        Some(_) => Served::Long,
    }
}

/// Whether a packet asks what has arrived of a long request.
#[inline]
pub(super) fn is_probe(header: &Header, payload: &[u8]) -> bool {
    header.flags.contains(Flags::PROBE) && payload.is_empty()
}
