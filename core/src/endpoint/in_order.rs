//! The straight lines of long messages: a packet that is next in its message, not the first, with
//! nothing missing.
//!
//! As in [`super::straight`], whatever is not exactly as expected goes the long way round,
//! untouched.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::{Guard, Keys};
use super::congestion::Controller;
use super::host::Host;
use super::parts::{Next, arriving_window};
use super::straight::{Came, Fault, HOLDS, sum};
use super::table::{CallState, ServeState};
use super::tag::OfMessage;
use super::transmit::Io;
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::bytes::{u16_at, u32_at, u64_at};
use crate::wire::packet::{
    CHECK_AT, CHECKED, Flags, HEADER_BYTES, REQUEST, RESPONSE, TAG_AT, TAGGED,
};

impl Endpoint<'_> {
    /// Takes in a packet that is next in its message. Returns false, and has done nothing, if it is
    /// not that.
    #[inline(always)]
    pub(super) fn next_in_order<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        datagram: &[u8],
    ) -> bool {
        let Some((bytes, payload)) = datagram.split_first_chunk() else { return false };
        match bytes[1] {
            REQUEST => self.next_of_request(now, io, peer, bytes, payload),
            RESPONSE => self.next_of_response(now, io, peer, bytes, payload),
            _ => false,
        }
    }

    /// Takes in a packet that is next in an answer. Returns false, and has done nothing, if it is
    /// not that.
    fn next_of_response<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        bytes: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> bool {
        let came = Came::new(bytes, peer);
        let Some(session) = self.client_sessions.get_mut(came.session()) else { return false };
        let number = u16_at(bytes, 32);
        if !came.fits(&session.straight) || number >= session.slots {
            return false;
        }
        let index = self.client_slots.at(came.session(), number.into());
        let Some(slot) = self.client_slots.get_mut(index) else { return false };
        if slot.state != CallState::Answering || slot.request != u64_at(bytes, 24) {
            return false;
        }
        let incoming = &mut slot.incoming;
        let Some(next) = incoming.next(number, session.payload_bytes, bytes, payload) else {
            return false;
        };
        let last = next.last;
        let by = (self.crc, &self.keys, &session.guard);
        if let Err(fault) = take_in(by, &mut incoming.tags, (bytes, payload), io.host, next) {
            self.faulty(fault);
            return true;
        }
        session.last_heard = now;
        slot.backoff = 0;
        slot.due = (now + session.rtt.timeout()).min(slot.deadline);
        if let Some(delay) = incoming.take_next(now) {
            session.control.on_delay(now, delay);
        }
        if last {
            let holds = u64_at(bytes, 0) & HOLDS != 0;
            self.end_of_response(now, io, index, holds);
        } else if incoming.is_time_to_grant() {
            let of = (&session.arriving, number.into());
            let window = arriving_window(&self.config, self.traffic, &session.control, of);
            if incoming.wants_grant(window) {
                self.acknowledge_response(now, io, index, Flags::empty());
                self.hurry_grant(io);
            } else {
                incoming.look_later(window);
            }
        }
        true
    }

    /// Takes in a packet that is next in a request. Returns false, and has done nothing, if it is
    /// not that.
    fn next_of_request<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        bytes: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> bool {
        let came = Came::new(bytes, peer);
        let Some(session) = self.server_sessions.get_mut(came.session()) else { return false };
        let number = u16_at(bytes, 32);
        if !came.fits(&session.straight) || number >= session.slots || session.waiting != 0 {
            return false;
        }
        let index = self.server_slots.at(came.session(), number.into());
        let Some(slot) = self.server_slots.get_mut(index) else { return false };
        if slot.state != ServeState::Receiving || slot.request != u64_at(bytes, 24) {
            return false;
        }
        let incoming = &mut slot.incoming;
        let Some(next) = incoming.next(number, session.payload_bytes, bytes, payload) else {
            return false;
        };
        let last = next.last;
        let by = (self.crc, &self.keys, &session.guard);
        if let Err(fault) = take_in(by, &mut incoming.tags, (bytes, payload), io.host, next) {
            self.faulty(fault);
            return true;
        }
        session.last_heard = now;
        if let Some(delay) = incoming.take_next(now) {
            session.control.on_delay(now, delay);
        }
        if last {
            // Nothing waits in this session, so nobody is to be told of its end.
            self.all_of_request(now, io, index);
        } else if incoming.is_time_to_grant() {
            let of = (&session.arriving, number.into());
            let window = arriving_window(&self.config, self.traffic, &session.control, of);
            if incoming.wants_grant(window) {
                self.acknowledge_request(now, io, index, Flags::empty());
                self.hurry_grant(io);
            } else {
                incoming.look_later(window);
            }
        }
        true
    }
}

impl Endpoint<'_> {
    /// Lets a grant leave before the rest of its burst is looked at, where that is cheap: the
    /// sender may be waiting for it.
    #[inline]
    fn hurry_grant<T: Tx, H>(&self, io: &mut Io<'_, T, H>) {
        if self.config.hurries_grants {
            io.tx.flush();
        }
    }
}

/// What verifies the packets of a session.
type By<'a> = (Crc32c, &'a Option<Keys<'a>>, &'a Option<Guard>);

/// Verifies checksum and tag of a packet that is next in its message, and hands its payload to the
/// host, in one pass over it where the host tells the place. A packet with the right tag may be
/// wrong all the same; then it has changed only bytes that are still to come.
#[inline(always)]
fn take_in<H: Host>(
    (crc, keys, guard): By<'_>,
    tags: &mut OfMessage,
    (bytes, payload): (&[u8; HEADER_BYTES], &[u8]),
    host: &mut H,
    Next { sink, offset, .. }: Next,
) -> Result<(), Fault> {
    let tagged = has_tag((keys, guard), tags, bytes);
    if bytes[2] & CHECKED != 0
        && tagged.is_ok()
        && let Some(place) = host.place(sink, offset, payload.len() as u32)
    {
        let right = crc.packet_copying(bytes, payload, place) == u32_at(bytes, CHECK_AT);
        if !right {
            return Err(Fault::Checksum);
        }
        host.placed(sink, payload.len() as u32);
        return Ok(());
    }
    if sum(crc, bytes, payload) != u32_at(bytes, CHECK_AT) {
        return Err(Fault::Checksum);
    }
    tagged?;
    if crc.folds()
        && let Some(place) = host.place(sink, offset, payload.len() as u32)
    {
        crc.copy(payload, place);
        host.placed(sink, payload.len() as u32);
    } else {
        host.absorb(sink, offset, payload);
    }
    Ok(())
}

/// Whether a packet that is next in its message has its tag, or none if it should have none:
/// nothing covers one that nobody checks. It is not usual, for it is not the first; and what tags
/// have in common need not be compared, for all of that is as expected.
#[inline(always)]
fn has_tag(
    (keys, guard): (&Option<Keys<'_>>, &Option<Guard>),
    tags: &mut OfMessage,
    bytes: &[u8; HEADER_BYTES],
) -> Result<(), Fault> {
    if u64_at(bytes, 0) & TAGGED == 0 {
        return if u64_at(bytes, TAG_AT) == 0 { Ok(()) } else { Err(Fault::Checksum) };
    }
    let (Some(Guard::Tags(binding)), Some(keys)) = (guard, keys) else { return Err(Fault::Tag) };
    if !tags.is_known() {
        *tags = keys.tags.of_message(binding, bytes);
    }
    let right = keys.tags.of_part(*tags, bytes) == u64_at(bytes, TAG_AT);
    if right { Ok(()) } else { Err(Fault::Tag) }
}
