//! The answering end's control packets: acknowledged, released, cancelled, refused.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::Keys;
use super::host::Host;
use super::parts::report;
use super::table::{ServeState, UNASKED_PACKETS};
use super::transmit::{Io, Seal, send, session_flags};
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::control::{Beyond, Features};
use crate::wire::message::Status;
use crate::wire::packet::{Flags, Header, Kind};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The service has no room now.
    NoRoom,
    /// What it must follow is not here.
    Early,
}

impl Endpoint<'_> {
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
        let session = &mut self.server_sessions[self.server_slots.session(index)];
        let slot = &mut self.server_slots[index];
        if slot.state != ServeState::Answered {
            return;
        }
        let report = report(header, beyond);
        slot.outgoing.acknowledge(&report, &mut session.reordering);
        if slot.outgoing.due().is_some() {
            self.enqueue_server(index);
        }
    }

    /// The call is over for its client: it has the whole answer, or has given up. The slot lets
    /// go, and what is still under way of the call will not be executed.
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
        let slots = self.server_sessions[session_index].slots;
        let Some(index) = self.server_slots.find(session_index, header.slot, slots) else { return };
        if header.request >= self.server_slots[index].request {
            self.server_sessions[session_index].last_heard = now;
            self.begin(io, index, header.request);
        }
        self.pong(now, io, session_index, header);
        if self.server_sessions[session_index].waiting != 0 {
            self.wake(now, io, session_index);
        }
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
        let slots = self.server_sessions[session_index].slots;
        let Some(index) = self.server_slots.find(session_index, header.slot, slots) else { return };
        let slot = &self.server_slots[index];
        if header.request < slot.request {
            self.counters.stale += 1;
            return;
        }
        self.server_sessions[session_index].last_heard = now;
        if header.request > slot.request {
            // The request itself never came; whatever of it comes later finds it answered.
            self.begin(io, index, header.request);
            self.answer(io, index, Status::CANCELLED);
        } else {
            self.cancel_current(now, io, index);
        }
        if self.server_sessions[session_index].waiting != 0 {
            self.wake(now, io, session_index);
        }
    }

    /// Cancels the request that a slot is about.
    fn cancel_current<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
    ) {
        match self.server_slots[index].state {
            ServeState::Receiving | ServeState::Waiting => {
                self.let_go(io, index);
                self.answer(io, index, Status::CANCELLED);
            }
            ServeState::Refused => self.answer(io, index, Status::CANCELLED),
            ServeState::Executing => {
                self.tell_cancelled(io, index);
                self.acknowledge_request(now, io, index, Flags::empty());
            }
            ServeState::Answered => {
                let outgoing = &mut self.server_slots[index].outgoing;
                outgoing.resend_first(UNASKED_PACKETS.into());
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
        let slots = self.server_sessions[session_index].slots;
        let index = self.server_slots.find(session_index, header.slot, slots)?;
        if self.server_slots[index].request != header.request {
            self.counters.stale += 1;
            return None;
        }
        self.server_sessions[session_index].last_heard = now;
        Some(index)
    }

    /// Refuses a request; the refusal is final for its number.
    #[cold]
    pub(super) fn refuse<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        why: Refusal,
    ) {
        let slot = &mut self.server_slots[index];
        slot.state = ServeState::Refused;
        slot.early = why == Refusal::Early;
        self.counters.requests_refused += 1;
        self.send_busy(io, index);
    }

    pub(super) fn send_busy<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.server_sessions[self.server_slots.session(index)];
        let mut busy = Header::new(Kind::Busy, session.remote.index, session.remote.generation);
        busy.flags = session_flags(session.features);
        busy.flags.set(Flags::EARLY, self.server_slots[index].early);
        busy.slot = self.server_slots.number(index) as u16;
        busy.request = self.server_slots[index].request;
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        send(io.tx, seal, session.peer, busy, 0, |_| {});
    }

    #[cold]
    pub(super) fn refuse_malformed<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        self.counters.malformed += 1;
        self.answer(io, index, Status::MALFORMED);
    }

    /// Answers a request without asking the host.
    #[cold]
    #[inline(never)]
    pub(super) fn answer<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        status: Status,
    ) {
        self.answer_with(io, index, status, &[]);
    }

    /// The same with parameters.
    #[cold]
    pub(super) fn answer_with<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        index: usize,
        status: Status,
        parameters: &[u8],
    ) {
        self.server_slots[index].declined = true;
        self.build_reply(index, |reply| reply.head(status, &[], parameters));
        self.transmit_reply(io, index);
    }

    /// Tells a client that its session is not known here, unless many were told in this burst.
    #[cold]
    pub(super) fn reset<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        header: &Header,
    ) {
        self.counters.unknown_session += 1;
        if self.resets_left != 0 {
            self.resets_left -= 1;
            self.send_reset(io, peer, header);
        }
    }

    /// The same, uncounted. What it answers is named: that is how a client knows that the reset is
    /// not older than its question.
    #[cold]
    pub(super) fn send_reset<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        asked: &Header,
    ) {
        let mut reset = Header::new(Kind::Reset, asked.session, asked.generation);
        reset.flags = session_flags(self.config.features & Features::AUTHENTICATED);
        reset.request = asked.request;
        let guard = self.keys.as_ref().map(Keys::outside);
        let seal = Seal::new(self.crc, &self.keys, &guard);
        send(io.tx, seal, peer, reset, 0, |_| {});
    }
}
