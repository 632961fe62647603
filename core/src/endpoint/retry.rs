//! The calling end's patience: repeating, asking, giving up.

use super::Endpoint;
use super::call::deadline_us;
use super::host::{Body, CallError, Completion, Host, Response};
use super::table::{CallState, UNASKED_PACKETS};
use super::transmit::{Io, Seal, send, session_flags};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::message::{After, Arguments, RequestHeader, Status};
use crate::wire::packet::{Flags, Header, Kind};

impl Endpoint<'_> {
    #[cold]
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
        if slot.cancelled && slot.state == CallState::Unsent {
            return self.end_unsent(now, io, index);
        }
        if now >= slot.deadline {
            let error = match slot.state {
                CallState::Unsent if slot.refused => CallError::Busy,
                CallState::Unsent => CallError::DeadlineExceeded,
                _ => CallError::OutcomeUnknown,
            };
            return self.fail_call(now, io, index, error);
        }
        if now < slot.due {
            let due = slot.due;
            return self.wheel.arm(index as u32, due);
        }
        if slot.cancelled && slot.state == CallState::Sent {
            self.send_cancel(io, index);
        } else if self.is_too_early(index) {
            let slot = &mut self.client_slots[index];
            slot.due = (now + self.config.retransmit_after).min(slot.deadline);
            let due = slot.due;
            return self.wheel.arm(index as u32, due);
        } else {
            self.repeat(now, io, index);
        }
        let (session_index, number) = self.client_slots.place(index);
        let session = &mut self.client_sessions[session_index];
        let slot = &mut self.client_slots[index];
        let wait = session.rtt.timeout().as_nanos() << slot.backoff.min(16);
        session.rtt.ran_out(number as u16, self.config.retransmit_after);
        slot.backoff = slot.backoff.saturating_add(1);
        let wait = Duration::from_nanos(wait).min(self.config.retransmit_max);
        slot.due = (now + wait).min(slot.deadline);
        let due = slot.due;
        self.wheel.arm(index as u32, due);
    }

    /// Ends a cancelled call whose request is not under way: there is nobody to ask.
    fn end_unsent<T: Tx, H: Host>(&mut self, now: Instant, io: &mut Io<'_, T, H>, index: usize) {
        let call = self.end_call(io, index);
        self.give_up(now, index, false);
        let token = self.client_slots[index].token;
        let response = Response {
            status: Status::CANCELLED,
            arguments: Arguments::NONE,
            body: Body::Whole(&[]),
        };
        io.host.completed(now, Completion { call, token, result: Ok(response) });
    }

    fn send_cancel<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let (session_index, number) = self.client_slots.place(index);
        let session = &self.client_sessions[session_index];
        let slot = &mut self.client_slots[index];
        // The rest of the request is not wanted any more either.
        slot.outgoing.stop();
        let mut cancel = Header::new(Kind::Cancel, session.remote.index, session.remote.generation);
        cancel.flags = session_flags(session.features);
        cancel.slot = number as u16;
        cancel.request = slot.request;
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        send(io.tx, seal, session.peer, cancel, 0, |_| {});
    }

    /// Nothing was heard of a call for too long: repeat, or ask.
    fn repeat<T: Tx, H: Host>(&mut self, now: Instant, io: &mut Io<'_, T, H>, index: usize) {
        self.counters.packets_resent += 1;
        if self.client_slots[index].state == CallState::Answering {
            return self.acknowledge_response(now, io, index, Flags::PROBE);
        }
        self.refresh_deadline(now, index);
        let slot = &self.client_slots[index];
        if slot.state == CallState::Unsent || slot.outgoing.packets() == 1 {
            self.send_anew(index);
        } else {
            self.send_probe(io, index);
        }
    }

    /// Sends a request from its first packet on.
    fn send_anew(&mut self, index: usize) {
        let session_index = self.client_slots.session(index);
        let session = &mut self.client_sessions[session_index];
        session.behind &= !(1 << self.client_slots.number(index));
        let unasked = session.remote_window.min(UNASKED_PACKETS);
        let sending = self.client_slots[index].outgoing.sending();
        sending.start(sending.packets, unasked.into());
        self.enqueue_client(index);
    }

    /// The call that a slot's call must follow, if any.
    fn after_of(&self, index: usize) -> Option<After> {
        RequestHeader::parse(&self.client_slots[index].outgoing.inline).ok()?.after
    }

    /// Whether a call was refused for order's sake and what it must follow is not there yet, as
    /// far as is known here: then it is not time that it waits for.
    fn is_too_early(&self, index: usize) -> bool {
        let session_index = self.client_slots.session(index);
        let bit = 1 << self.client_slots.number(index);
        let behind = self.client_sessions[session_index].behind & bit != 0;
        let missing = |after: After| {
            let other = self.client_slots.at(session_index, after.slot.into());
            !self.client_slots[other].admitted && !self.is_settled(session_index, after)
        };
        behind && self.client_slots[index].early && self.after_of(index).is_some_and(missing)
    }

    /// Sends calls again that were refused, if what they must follow is settled, or, where they
    /// were refused for order's sake, if that is in a slot of `there`. Behind them, in order, come
    /// those that must follow them.
    #[cold]
    pub(super) fn send_behind(&mut self, now: Instant, session_index: usize, mut there: u64) {
        loop {
            let behind = self.client_sessions[session_index].behind;
            let mut left = behind;
            while left != 0 {
                let number = left.trailing_zeros() as usize;
                left &= left - 1;
                let index = self.client_slots.at(session_index, number);
                let early = self.client_slots[index].early;
                if self.after_of(index).is_none_or(|after| {
                    early && there & (1 << after.slot) != 0 || self.is_settled(session_index, after)
                }) {
                    there |= 1 << number;
                    self.send_again_now(now, index);
                }
            }
            if self.client_sessions[session_index].behind == behind {
                return;
            }
        }
    }

    pub(super) fn send_again_now(&mut self, now: Instant, index: usize) {
        self.counters.packets_resent += 1;
        self.refresh_deadline(now, index);
        self.send_anew(index);
        let slot = &mut self.client_slots[index];
        slot.due = (now + self.config.retransmit_after).min(slot.deadline);
        let due = slot.due;
        self.wheel.arm(index as u32, due);
    }

    /// Writes the time left into a request's head before it is sent again.
    fn refresh_deadline(&mut self, now: Instant, index: usize) {
        let slot = &mut self.client_slots[index];
        if slot.deadline < Instant::FAR_FUTURE
            && let Ok(header) = RequestHeader::parse(&slot.outgoing.inline)
        {
            let deadline_us = deadline_us(slot.deadline.since(now));
            RequestHeader { deadline_us, ..header }.emit(&mut slot.outgoing.inline);
        }
    }

    /// What becomes of a slot whose call has ended in doubt: it is held until the server has
    /// confirmed that the call is over, and so shuts out what is still under way of it. The server
    /// is told only when the call that this one had to follow is settled: until then the slot is
    /// parked. If part of an answer is here, `answering`, that call was executed long ago.
    #[cold]
    pub(super) fn give_up(&mut self, now: Instant, index: usize, answering: bool) {
        let session_index = self.client_slots.session(index);
        let bit = 1 << self.client_slots.number(index);
        let park = !answering && self.must_wait(session_index, index);
        let session = &mut self.client_sessions[session_index];
        session.free &= !bit;
        session.free_count -= 1;
        session.held |= bit;
        if park {
            session.parked |= bit;
        } else {
            self.owe_release(now, session_index, bit);
        }
    }

    /// The server has confirmed that the last call of a slot is over.
    pub(super) fn end_doubt(&mut self, now: Instant, index: usize) {
        let session_index = self.client_slots.session(index);
        let bit = 1 << self.client_slots.number(index);
        let session = &mut self.client_sessions[session_index];
        session.unreleased &= !bit;
        if session.held & !session.parked & bit != 0 {
            session.held &= !bit;
            session.free |= bit;
            session.free_count += 1;
        }
        self.settle_call(now, index, false);
    }

    /// Whether the call that a slot's call must follow is not settled.
    pub(super) fn must_wait(&self, session_index: usize, index: usize) -> bool {
        self.after_of(index).is_some_and(|after| !self.is_settled(session_index, after))
    }

    /// Asks the server about the parked slots whose wait is over.
    #[cold]
    pub(super) fn unpark(&mut self, now: Instant, session_index: usize) {
        let mut parked = self.client_sessions[session_index].parked;
        while parked != 0 {
            let number = parked.trailing_zeros() as usize;
            parked &= parked - 1;
            if self.must_wait(session_index, self.client_slots.at(session_index, number)) {
                continue;
            }
            let session = &mut self.client_sessions[session_index];
            session.parked &= !(1 << number);
            self.owe_release(now, session_index, 1 << number);
        }
    }

    /// The server will be told, before long, that the last call of the slot that `bit` stands for
    /// is over, unless the slot's next call tells it.
    pub(super) fn owe_release(&mut self, now: Instant, session_index: usize, bit: u64) {
        let session = &mut self.client_sessions[session_index];
        session.unreleased |= bit;
        session.due = session.due.min(now + self.config.release_after);
        let due = session.due;
        self.wheel.arm(self.client_session_timer_id(session_index), due);
    }

    /// Asks how much of a long request has arrived: a packet of it without payload.
    fn send_probe<T: Tx, H: Host>(&mut self, io: &mut Io<'_, T, H>, index: usize) {
        let session = &self.client_sessions[self.client_slots.session(index)];
        let slot = &self.client_slots[index];
        let mut probe = Header::new(Kind::Request, session.remote.index, session.remote.generation);
        probe.flags = session_flags(session.features) | Flags::PROBE;
        probe.slot = self.client_slots.number(index) as u16;
        probe.request = slot.request;
        probe.message = slot.outgoing.message();
        probe.head = slot.outgoing.head;
        let seal = Seal::new(self.crc, &self.keys, &session.guard);
        send(io.tx, seal, session.peer, probe, 0, |_| {});
    }
}
