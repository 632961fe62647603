//! Packets that are straight but for one thing: a request that must follow another, which is over;
//! or one in a slot whose last answer the host still holds something of; or the answer to a request
//! whose body the host supplied.
//!
//! As in [`super::straight`], whatever is not exactly as expected goes the long way round,
//! untouched. So do all packets that have a tag: nothing is kept here that one is verified with.

use super::Endpoint;
use super::client::complete;
use super::host::{Body, Host};
use super::server::Order;
use super::straight::verify_untagged;
use super::transmit::Io;
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::bytes::{u16_at, u64_at};
use crate::wire::message::{REQUEST_HEADER_BYTES, RequestHeader};
use crate::wire::packet::{HEADER_BYTES, TAGGED};

/// Whether a packet that was not opened has a tag.
#[inline(always)]
fn has_tag<const OPENED: bool>(bytes: &[u8; HEADER_BYTES]) -> bool {
    !OPENED && u64_at(bytes, 0) & TAGGED != 0
}

impl Endpoint<'_> {
    /// Takes in a request of one packet in the slot `index`, which rests, where the request or the
    /// slot has something about it. Returns false, and has done nothing, if it has a tag or must
    /// wait.
    #[inline(never)]
    pub(super) fn almost_straight_request<const OPENED: bool, T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        (bytes, payload): (&[u8; HEADER_BYTES], &[u8]),
    ) -> bool {
        if has_tag::<OPENED>(bytes) {
            return false;
        }
        let head_bytes = u16_at(bytes, 42).into();
        let Some((head, body)) = payload.split_at_checked(head_bytes) else { return false };
        let Ok(header) = RequestHeader::parse(head) else { return false };
        if header.after.is_some_and(|after| self.order(index, after) != Order::Over) {
            return false;
        }
        let session = &mut self.server_sessions[self.server_slots.session(index)];
        if !OPENED && let Err(fault) = verify_untagged(self.crc, bytes, payload) {
            self.faulty(fault);
            return true;
        }
        session.last_heard = now;
        self.begin(io, index, u64_at(bytes, 24));
        let rest = &head[REQUEST_HEADER_BYTES..];
        self.execute(now, io, index, &header, rest, Body::Whole(body));
        true
    }

    /// Takes in an answer of one packet, of which the server holds nothing, to the call in the slot
    /// `index`, whose body the host supplied. Returns false, and has done nothing, if it has a tag.
    #[inline(never)]
    pub(super) fn almost_straight_response<const OPENED: bool, T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        index: usize,
        (bytes, payload): (&[u8; HEADER_BYTES], &[u8]),
    ) -> bool {
        if has_tag::<OPENED>(bytes) {
            return false;
        }
        let session = &mut self.client_sessions[self.client_slots.session(index)];
        if !OPENED && let Err(fault) = verify_untagged(self.crc, bytes, payload) {
            self.faulty(fault);
            return true;
        }
        session.last_heard = now;
        let call = self.end_call(io, index);
        self.settle_call(now, index, false);
        let token = self.client_slots[index].token;
        complete(now, io.host, call, token, payload, u16_at(bytes, 42));
        true
    }
}
