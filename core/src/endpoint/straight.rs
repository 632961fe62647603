//! The straight lines: a request, and an answer, of one packet with nothing special about it.
//!
//! Each looks at the header a word at a time. Whatever is not exactly as expected goes the long
//! way round, untouched: here only what is certain is done. Packets that came encrypted take the
//! same lines once they are opened (`OPENED`), which has verified them.

use core::net::{Ipv4Addr, SocketAddrV4};

use super::Endpoint;
use super::call::ATTEMPT_BITS;
use super::client::complete;
use super::host::{Body, CallId, Host, PendingCall, SessionId};
use super::outgoing::Short;
use super::server::{Served, head_of, serve};
use super::settle::Refusal;
use super::table::{CallState, ServeState};
use super::tag::{self, Pad, UsualKey};
use super::transmit::{Io, Line, Mask, Whole, send_whole, session_flags};
use crate::crc32c::{Begun, Crc32c};
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::bytes::{u16_at, u32_at, u64_at};
use crate::wire::control::Features;
use crate::wire::message::{Arguments, RequestHeader};
use crate::wire::packet::{CHECK_AT, CHECKED, Flags, HEADER_BYTES, Header, Kind, TAG_AT, TAGGED};
use crate::wire::template::{Straight, Template, both_lengths};

/// What all packets of `kind` in a session with `remote` have in common.
pub(super) fn template(kind: Kind, remote: SessionId, features: Features, crc: Crc32c) -> Template {
    let header = Header::new(kind, remote.index, remote.generation);
    let template = Template::new(&Header { flags: session_flags(features), ..header }, crc);
    if features.contains(Features::DIRECT) { template.direct(crc) } else { template }
}

/// How the usual packets of `kind` begin that come in from `peer` for session `local`: where they
/// are encrypted, as none does that was not opened before.
pub(super) fn straight(
    kind: Kind,
    local: SessionId,
    features: Features,
    peer: SocketAddrV4,
    crc: Crc32c,
) -> Straight {
    let header = Header::new(kind, local.index, local.generation);
    let straight =
        Straight::new(&Header { flags: session_flags(features), ..header }, word_of(peer), crc);
    if features.contains(Features::ENCRYPTED) { straight.sealed() } else { straight }
}

/// An address as one word, in the order that it has in memory.
#[inline(always)]
pub(super) fn word_of(peer: SocketAddrV4) -> u64 {
    u64::from(u32::from_ne_bytes(peer.ip().octets())) | u64::from(peer.port()) << 32
}

/// The address that a word of [`word_of`] is.
#[inline(always)]
pub(super) fn address_of(word: u64) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from((word as u32).to_ne_bytes()), (word >> 32) as u16)
}

/// What a header's first word says if the other end holds something of the answer.
pub(super) const HOLDS: u64 = (Flags::HOLDS.bits() as u64) << 16;

/// How a packet of a longer message begins, and where it comes from.
pub(super) struct Came {
    first: u64,
    second: u64,
    peer: u64,
}

impl Came {
    #[inline(always)]
    pub(super) fn new(bytes: &[u8; HEADER_BYTES], peer: SocketAddrV4) -> Self {
        Self { first: u64_at(bytes, 0), second: u64_at(bytes, 8), peer: word_of(peer) }
    }

    /// The index of the session that it names.
    #[inline(always)]
    pub(super) fn session(&self) -> usize {
        (self.first >> 32) as usize
    }

    /// Whether it begins as the usual packets of a session do, but for what the other end may hold
    /// of the answer, and for what may be sent unasked.
    #[inline(always)]
    pub(super) fn fits(&self, straight: &Straight) -> bool {
        self.first & !HOLDS == straight.first
            && self.second as u32 == straight.generation
            && self.peer == straight.peer
    }
}

/// The slot of a packet that is a whole message. Of any other packet, a number that is larger than
/// all slots: the header's payload and message must both be as long as what has come.
#[inline(always)]
fn slot_of_whole(bytes: &[u8; HEADER_BYTES], payload: &[u8]) -> u64 {
    u64_at(bytes, 32) ^ both_lengths(payload.len())
}

/// What is wrong with a packet that fits its session.
pub(super) enum Fault {
    Checksum,
    Tag,
}

/// What verifies a session's usual packets.
// Ways and mask are borrowed: where they are not needed nobody looks at them.
struct By<'a> {
    crc: &'a Crc32c,
    begun: Begun,
    key: &'a UsualKey,
    pad: &'a Pad,
    /// Of an answer's tag, as it was found when the request was sent; of a request's nothing.
    mask: &'a u64,
}

/// Verifies checksum and tag of a packet that begins as its session's usual ones do and is a whole
/// message in `slot`, as far as its fields for slot and lengths say. Returns the mask of the tag of
/// a request's answer, if that has one.
#[inline(always)]
fn verify<const ANSWER: bool>(
    By { crc, begun, key, pad, mask }: By<'_>,
    bytes: &[u8; HEADER_BYTES],
    payload: &[u8],
    slot: u64,
) -> Result<u64, Fault> {
    if bytes[2] == CHECKED {
        let sound = crc.packet_begun(begun, bytes, payload) == u32_at(bytes, 44);
        // Nothing covers a tag in a session without: it must be zero.
        let sound = sound && u64_at(bytes, TAG_AT) == 0;
        return if sound { Ok(0) } else { Err(Fault::Checksum) };
    }
    if bytes[2] & CHECKED == 0 {
        return verify_unchecked::<ANSWER>(crc, key, pad, bytes);
    }
    if crc.packet_begun(begun, bytes, payload) != u32_at(bytes, 44) {
        return Err(Fault::Checksum);
    }
    let whole = tag::Whole { slot, bytes: payload.len() };
    let tagged = if ANSWER {
        UsualKey::is_tagged_under(pad, bytes, whole, *mask).then_some(0)
    } else {
        key.is_tagged_request(pad, bytes, whole)
    };
    tagged.ok_or(Fault::Tag)
}

/// Verifies the checksum of a packet whose flags are its session's and which, as they say, has no
/// tag: nothing covers one that nobody checks, so it must be zero.
#[inline(always)]
pub(super) fn verify_untagged(
    crc: Crc32c,
    bytes: &[u8; HEADER_BYTES],
    payload: &[u8],
) -> Result<(), Fault> {
    let sound = sum(crc, bytes, payload) == u32_at(bytes, CHECK_AT) && u64_at(bytes, TAG_AT) == 0;
    if sound { Ok(()) } else { Err(Fault::Checksum) }
}

/// What a packet's checksum must be, by its flags.
#[inline(always)]
pub(super) fn sum(crc: Crc32c, bytes: &[u8; HEADER_BYTES], payload: &[u8]) -> u32 {
    if bytes[2] & CHECKED != 0 { crc.packet(bytes, payload) } else { crc.header(bytes) }
}

/// Whether a usual packet has its tag, by the header's own fields, which fit what has come: then,
/// of a request, the mask of the answer's.
#[inline(never)]
fn has_tag_unchecked<const ANSWER: bool>(
    key: &UsualKey,
    pad: &Pad,
    bytes: &[u8; HEADER_BYTES],
) -> Option<u64> {
    let whole = tag::Whole { slot: u16_at(bytes, 32).into(), bytes: u16_at(bytes, 34).into() };
    if ANSWER {
        key.is_tagged_answer(pad, bytes, whole).then_some(0)
    } else {
        key.is_tagged_request(pad, bytes, whole)
    }
}

/// [`verify`] where the checksum leaves the payload out.
#[inline(never)]
fn verify_unchecked<const ANSWER: bool>(
    crc: &Crc32c,
    key: &UsualKey,
    pad: &Pad,
    bytes: &[u8; HEADER_BYTES],
) -> Result<u64, Fault> {
    if crc.header(bytes) != u32_at(bytes, 44) {
        return Err(Fault::Checksum);
    }
    if u64_at(bytes, 0) & TAGGED != 0 {
        return has_tag_unchecked::<ANSWER>(key, pad, bytes).ok_or(Fault::Tag);
    }
    if u64_at(bytes, TAG_AT) == 0 { Ok(0) } else { Err(Fault::Checksum) }
}

impl Endpoint<'_> {
    /// Takes in a request that is one packet, executed where it lies, in a slot that nothing is
    /// special about. Returns false, and has done nothing, if it is not that.
    #[inline(always)]
    pub(super) fn straight_request<const OPENED: bool, T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        bytes: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> bool {
        let first = u64_at(bytes, 0);
        let session_index = (first >> 32) as usize;
        let Some(session) = self.server_sessions.get_mut(session_index) else { return false };
        let second = u64_at(bytes, 8);
        if !session.straight.fits(first, second, word_of(peer)) || session.waiting != 0 {
            return false;
        }
        let number = slot_of_whole(bytes, payload);
        if number >= session.slots.into() {
            return false;
        }
        let index = self.server_slots.at(session_index, number as usize);
        let Some(slot) = self.server_slots.get_mut(index) else { return false };
        let request = u64_at(bytes, 24);
        if request <= slot.request {
            let at = (session_index, index);
            return self.repetition::<OPENED, T, H>(now, io, at, peer, (bytes, payload));
        }
        if !matches!(slot.state, ServeState::Idle | ServeState::Answered) {
            return false;
        }
        if slot.outgoing.source().is_some() {
            return self.almost_straight_request::<OPENED, T, H>(now, io, index, (bytes, payload));
        }
        let head_bytes = u16_at(bytes, 42).into();
        let Some((head, body)) = payload.split_at_checked(head_bytes) else { return false };
        let Some((header, parameters)) = head.split_first_chunk() else { return false };
        let Some(header) = RequestHeader::parse_free(header) else {
            return self.almost_straight_request::<OPENED, T, H>(now, io, index, (bytes, payload));
        };
        let Ok(arguments) = Arguments::parse(header.args, parameters) else { return false };
        let mut mask = 0;
        if !OPENED {
            let by = By {
                crc: &self.crc,
                begun: session.straight.begun(),
                key: &self.usual_key,
                pad: &session.pad,
                mask: &0,
            };
            match verify::<false>(by, bytes, payload, number) {
                Ok(of_answer) => mask = of_answer,
                Err(fault) => {
                    self.faulty(fault);
                    return true;
                }
            }
        }
        session.last_heard = now;
        slot.request = request;
        slot.unasked = 0;
        let id = SessionId { index: session_index as u32, generation: second as u32 };
        let call = PendingCall { session: id, slot: number as u16, request };
        let head = head_of(now, call, &header, arguments);
        let served = serve(now, io.host, session, slot, &head, Body::Whole(body));
        if let Served::Busy = served {
            self.refuse(io, index, Refusal::NoRoom);
            return true;
        }
        self.counters.requests_executed += 1;
        match served {
            Served::Whole(whole) => {
                let line = Line {
                    crc: &self.crc,
                    keys: &self.keys,
                    by: (&self.usual_key, &session.pad, &session.guard),
                    peer,
                    template: &session.template,
                };
                let (id, mask) = ((request, number as usize), Mask::Known(mask));
                if send_whole(io.tx, &line, id, whole, &mut slot.outgoing, mask) {
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

    /// A request in one packet that has been seen before: an old one is dropped, and one whose
    /// answer is kept is answered again. Returns false, and has done nothing, if it is neither.
    #[inline(never)]
    fn repetition<const OPENED: bool, T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        (session_index, index): (usize, usize),
        peer: SocketAddrV4,
        (bytes, payload): (&[u8; HEADER_BYTES], &[u8]),
    ) -> bool {
        let session = &mut self.server_sessions[session_index];
        let slot = &mut self.server_slots[index];
        let number = slot_of_whole(bytes, payload);
        let request = u64_at(bytes, 24);
        let kept = slot.state == ServeState::Answered
            && slot.outgoing.source().is_none()
            && !slot.declined
            && !slot.outgoing.queued;
        if request > slot.request || request == slot.request && !kept {
            return false;
        }
        if !OPENED {
            let by = By {
                crc: &self.crc,
                begun: session.straight.begun(),
                key: &self.usual_key,
                pad: &session.pad,
                mask: &0,
            };
            if let Err(fault) = verify::<false>(by, bytes, payload, number) {
                self.faulty(fault);
                return true;
            }
        }
        if request < slot.request {
            self.counters.stale += 1;
            return true;
        }
        session.last_heard = now;
        self.counters.duplicates += 1;
        let line = Line {
            crc: &self.crc,
            keys: &self.keys,
            by: (&self.usual_key, &session.pad, &session.guard),
            peer,
            template: &session.template,
        };
        let whole = Whole { head: slot.outgoing.head, bytes: slot.outgoing.inline_bytes };
        let id = (request, number as usize);
        // Without room in the device it is as if the repetition had been lost.
        if send_whole(io.tx, &line, id, whole, &mut slot.outgoing, Mask::Unknown) {
            self.counters.packets_resent += 1;
            self.counters.packets_sent += 1;
        }
        true
    }

    /// Takes in an answer in one packet, of which the server holds nothing, to a call that nothing
    /// is special about. Returns false, and has done nothing, if it is not that.
    #[inline(always)]
    pub(super) fn straight_response<const OPENED: bool, T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        bytes: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> bool {
        let first = u64_at(bytes, 0);
        let session_index = (first >> 32) as usize;
        let Some(session) = self.client_sessions.get_mut(session_index) else { return false };
        let fits = session.straight.fits(first, u64_at(bytes, 8), word_of(peer));
        if !fits || session.parked | session.behind != 0 {
            return false;
        }
        let number = slot_of_whole(bytes, payload);
        if number >= session.slots.into() {
            return false;
        }
        let index = self.client_slots.at(session_index, number as usize);
        let Some(slot) = self.client_slots.get_mut(index) else { return false };
        let request = u64_at(bytes, 24);
        if slot.request != request || slot.state != CallState::Sent {
            return false;
        }
        // What was sent again, or has a source, has no mask of this number.
        if slot.outgoing.short != Short::Sent {
            return slot.outgoing.source().is_some()
                && self.almost_straight_response::<OPENED, T, H>(now, io, index, (bytes, payload));
        }
        if !OPENED {
            let by = By {
                crc: &self.crc,
                begun: session.straight.begun(),
                key: &self.usual_key,
                pad: &session.pad,
                mask: &slot.mask,
            };
            if let Err(fault) = verify::<true>(by, bytes, payload, number) {
                self.faulty(fault);
                return true;
            }
        }
        session.last_heard = now;
        let request = request >> ATTEMPT_BITS;
        let (min, max) = (self.config.retransmit_min, self.config.retransmit_after);
        session.rtt.answered(number as u16, now, min, max);
        slot.state = CallState::Free;
        if slot.take_room() {
            self.traffic.expected -= 1;
        }
        slot.settled = request as u32;
        session.free |= 1 << number;
        session.free_count += 1;
        if self.ahead {
            self.waits.end(index);
        }
        self.counters.calls_completed += 1;
        let id = SessionId { index: session_index as u32, generation: session.generation };
        let call = CallId { session: id, slot: number as u16, request };
        complete(now, io.host, call, slot.token, payload, u16_at(bytes, 42));
        true
    }

    #[cold]
    pub(super) fn faulty(&mut self, fault: Fault) {
        match fault {
            Fault::Checksum => self.counters.bad_checksum += 1,
            Fault::Tag => self.counters.bad_tag += 1,
        }
    }
}
