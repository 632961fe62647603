//! The straight lines where there is only memory between the two ends.
//!
//! Memory loses nothing, keeps order and keeps bytes. So a message of one packet has the short
//! header ([`crate::wire::direct`]) and no checksum, and a call whose request and answer are such
//! messages arms nothing: the answer itself gives the slot back. A deadline has its timer; and
//! should something be lost all the same, because a receiver stood still for so long that its ring
//! was given up, the session's own timer, which asks for signs of life anyway, notices calls that
//! were there when it last looked, and has them repeated as over a network. A peer that died is
//! silent, and the end of its lease ends its calls.
//!
//! What is not as usual becomes a packet with the usual header, and takes its way.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::call::ATTEMPT_BITS;
use super::handshake::first_bits;
use super::host::{Body, CallId, Host, PendingCall, SessionId};
use super::outgoing::{Outgoing, Short};
use super::server::{Served, head_of, serve};
use super::settle::Refusal;
use super::straight::word_of;
use super::table::{CallState, ClientSlot, ServeState};
use super::transmit::{Io, Whole};
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::control::Features;
use crate::wire::direct::{DIRECT_REQUEST, Direct};
use crate::wire::message::{Arguments, RequestHeader};
use crate::wire::packet::{Flags, Header, Kind};
use crate::wire::template::Template;

/// Sends the message `whole` of a slot's buffer with the short header. Returns false if the device
/// has no room.
#[inline(always)]
pub(super) fn send_direct<T: Tx>(
    tx: &mut T,
    template: &Template,
    peer: SocketAddrV4,
    (request, slot): (u64, usize),
    whole: Whole,
    outgoing: &mut Outgoing,
) -> bool {
    let header = template.put_direct(request, slot as u16, whole.head);
    let sent = tx.put(peer, &header, &outgoing.inline[..usize::from(whole.bytes)]);
    if sent {
        outgoing.short = Short::Sent;
    }
    sent
}

impl ClientSlot {
    /// Whether the slot's call is under way with nothing armed for it but its deadline.
    fn is_untimed(&self) -> bool {
        self.state == CallState::Sent && self.due == self.deadline
    }
}

impl Endpoint<'_> {
    /// Takes in a packet with the short header.
    #[inline(always)]
    pub(super) fn direct_packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        datagram: &[u8],
    ) {
        let Some(direct) = Direct::parse(datagram) else {
            self.counters.bad_length += 1;
            return;
        };
        let done = if datagram[1] == DIRECT_REQUEST {
            self.direct_request(now, io, peer, &direct)
        } else {
            self.direct_response(now, io, peer, &direct)
        };
        if !done {
            self.odd_direct(now, io, peer, direct);
        }
    }

    /// Executes a request that nothing is special about. Returns false, and has done nothing, if it
    /// is not that.
    #[inline(always)]
    fn direct_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        direct: &Direct<'_>,
    ) -> bool {
        let session_index = direct.session();
        let Some(session) = self.server_sessions.get_mut(session_index) else { return false };
        let straight = &session.straight;
        let fits = direct.first == straight.first
            && direct.generation == straight.generation
            && word_of(peer) == straight.peer;
        if !fits || !session.template.is_direct() || session.waiting != 0 {
            return false;
        }
        let number = direct.slot;
        if number >= session.slots {
            return false;
        }
        let index = self.server_slots.at(session_index, number.into());
        let Some(slot) = self.server_slots.get_mut(index) else { return false };
        let rests = matches!(slot.state, ServeState::Idle | ServeState::Answered);
        if direct.request <= slot.request || !rests || slot.outgoing.source().is_some() {
            return false;
        }
        let Some((head, body)) = direct.message.split_at_checked(direct.head.into()) else {
            return false;
        };
        let Some((header, parameters)) = head.split_first_chunk() else { return false };
        let Some(header) = RequestHeader::parse_free(header) else { return false };
        let Ok(arguments) = Arguments::parse(header.args, parameters) else { return false };
        session.last_heard = now;
        slot.request = direct.request;
        slot.unasked = 0;
        let id = SessionId { index: session_index as u32, generation: direct.generation };
        let call = PendingCall { session: id, slot: number, request: direct.request };
        let head = head_of(now, call, &header, arguments);
        let served = serve(now, io.host, session, slot, &head, Body::Whole(body));
        if let Served::Busy = served {
            self.refuse(io, index, Refusal::NoRoom);
            return true;
        }
        self.counters.requests_executed += 1;
        match served {
            Served::Whole(whole) => {
                let id = (direct.request, usize::from(number));
                let template = &session.template;
                if send_direct(io.tx, template, peer, id, whole, &mut slot.outgoing) {
                    self.counters.packets_sent += 1;
                } else {
                    self.enqueue_server(index);
                }
            }
            Served::Long => self.transmit_reply(io, index),
            Served::Later | Served::Busy => {}
        }
        true
    }

    /// Completes a call that nothing is special about. Returns false, and has done nothing, if it
    /// is not that.
    #[inline(always)]
    fn direct_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        direct: &Direct<'_>,
    ) -> bool {
        let session_index = direct.session();
        let Some(session) = self.client_sessions.get_mut(session_index) else { return false };
        let straight = &session.straight;
        let fits = direct.first == straight.first
            && direct.generation == straight.generation
            && word_of(peer) == straight.peer;
        if !fits || !session.template.is_direct() || session.parked | session.behind != 0 {
            return false;
        }
        let number = direct.slot;
        if number >= session.slots {
            return false;
        }
        let index = self.client_slots.at(session_index, number.into());
        let Some(slot) = self.client_slots.get_mut(index) else { return false };
        if slot.request != direct.request
            || slot.state != CallState::Sent
            || slot.outgoing.source().is_some()
        {
            return false;
        }
        session.last_heard = now;
        let request = slot.request >> ATTEMPT_BITS;
        let (min, max) = (self.config.retransmit_min, self.config.retransmit_after);
        session.rtt.answered(number, now, min, max);
        slot.state = CallState::Free;
        if slot.take_room() {
            self.traffic.expected -= 1;
        }
        slot.settled = request as u32;
        slot.outgoing.short = Short::Sent;
        session.free |= 1 << number;
        session.free_count += 1;
        if self.ahead {
            self.waits.end(index);
        }
        self.counters.calls_completed += 1;
        let id = SessionId { index: session_index as u32, generation: session.generation };
        let call = CallId { session: id, slot: number, request };
        super::client::complete(now, io.host, call, slot.token, direct.message, direct.head);
        true
    }

    /// A packet with the short header that is not straight: as if it had come with the usual one.
    #[cold]
    #[inline(never)]
    fn odd_direct<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        direct: Direct<'_>,
    ) {
        let Some(header) = usual(&direct) else {
            self.counters.malformed += 1;
            return;
        };
        if header.kind == Kind::Request {
            let Some(session_index) = self.server_session_of(peer, &header) else {
                return self.reset(io, peer, &header);
            };
            let session = &mut self.server_sessions[session_index];
            let slots = session.slots;
            if session.features.contains(Features::DIRECT)
                && let Some(index) = self.server_slots.find(session_index, header.slot, slots)
            {
                self.server_sessions[session_index].last_heard = now;
                return self.odd_request(now, io, index, &header, direct.message);
            }
        } else {
            let Some(session_index) = self.client_session_of(peer, &header) else {
                self.counters.unknown_session += 1;
                return;
            };
            let session = &mut self.client_sessions[session_index];
            let slots = session.slots;
            if session.features.contains(Features::DIRECT)
                && let Some(index) = self.client_slots.find(session_index, header.slot, slots)
            {
                self.client_sessions[session_index].last_heard = now;
                return self.odd_response(now, io, index, &header, direct.message);
            }
        }
        self.counters.malformed += 1;
    }

    /// Looks for calls of a session that nothing is armed for, and that were under way when this
    /// was last asked: they are repeated from now on, in case they, or their answers, were lost.
    #[cold]
    pub(super) fn watch_untimed(&mut self, now: Instant, session_index: usize) {
        let session = &self.client_sessions[session_index];
        if !session.template.is_direct() {
            return;
        }
        // With thousands of sessions, slots without a call are in no cache.
        let mut busy = first_bits(session.slots) & !session.free;
        while busy != 0 {
            let index = self.client_slots.at(session_index, busy.trailing_zeros() as usize);
            busy &= busy - 1;
            let slot = &mut self.client_slots[index];
            if !slot.is_untimed() {
                continue;
            }
            if slot.backoff == 0 {
                slot.backoff = 1;
            } else {
                (slot.backoff, slot.due) = (0, now);
                self.wheel.arm(index as u32, now);
            }
        }
    }
}

/// The usual header of a message that came with the short one; `None` if that cannot be.
fn usual(direct: &Direct<'_>) -> Option<Header> {
    let [version, kind, flags @ ..] = (direct.first as u32).to_le_bytes();
    if version != crate::wire::packet::PROTOCOL_VERSION || flags != [0; 2] {
        return None;
    }
    let kind = match Kind::from_wire(kind) {
        Ok(kind @ (Kind::Request | Kind::Response)) => kind,
        _ => return None,
    };
    let bytes = u16::try_from(direct.message.len()).ok()?;
    if direct.head > bytes {
        return None;
    }
    Some(Header {
        flags: Flags::empty(),
        request: direct.request,
        slot: direct.slot,
        payload: bytes,
        message: bytes.into(),
        head: direct.head,
        ..Header::new(kind, direct.session() as u32, direct.generation)
    })
}
