//! Messages of one packet that is sealed otherwise than most are: encrypted, or with a payload that
//! the checksum does not cover.

use core::net::SocketAddrV4;

use super::auth::{Guard, Keys};
use super::direct::send_direct;
use super::outgoing::{Outgoing, Short};
use super::seal::Seal;
use super::transmit::Whole;
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::wire::bytes::copy_short;
use crate::wire::packet::HEADER_BYTES;
use crate::wire::template::Template;

/// See [`send_whole`](super::transmit::send_whole).
#[cold]
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "a struct of them would be made on the usual way")]
pub(super) fn send_whole_unusual<T: Tx>(
    tx: &mut T,
    crc: Crc32c,
    keys: &Option<Keys<'_>>,
    guard: &Option<Guard>,
    peer: SocketAddrV4,
    template: &Template,
    request: u64,
    slot: u16,
    whole: Whole,
    outgoing: &mut Outgoing,
) -> bool {
    // Of a lossless device among others.
    if template.is_direct() {
        return send_direct(tx, template, peer, (request, slot.into()), whole, outgoing);
    }
    let bytes = usize::from(whole.bytes);
    let from = &outgoing.inline[..bytes];
    // In memory, which keeps bytes as they are, this is the usual packet.
    if guard.is_none() {
        let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes) else { return false };
        let (header, payload) = datagram.split_first_chunk_mut().expect("room for a header");
        copy_short(payload, from);
        template.put_whole(header, bytes, request, slot, whole.head);
        template.seal_whole(header, &[], &crc);
        outgoing.short = Short::Sent;
        return true;
    }
    let seal = Seal::new(crc, keys, guard);
    let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes + seal.trailer()) else {
        return false;
    };
    let (header, rest) = datagram.split_first_chunk_mut().expect("room for a header");
    let payload = &mut rest[..bytes];
    copy_short(payload, from);
    template.put_whole(header, bytes, request, slot, whole.head);
    if !seal.encrypts() {
        // Only payloads that nobody checks come here.
        template.seal_whole(header, &[], &crc);
    }
    seal.finish(datagram);
    outgoing.short = Short::Sent;
    true
}
