//! Messages of one packet that is sealed otherwise than most are: encrypted, or with a payload that
//! the checksum does not cover.

use core::net::SocketAddrV4;

use super::auth::{Guard, Keys};
use super::outgoing::{Outgoing, Short};
use super::seal::Seal;
use super::transmit::Whole;
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::wire::bytes::copy_short;
use crate::wire::packet::HEADER_BYTES;
use crate::wire::template::{Template, seal_by_flags};

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
    if template.flags() != 0 {
        return send_whole_tagged(
            tx, crc, keys, guard, peer, template, request, slot, whole, outgoing,
        );
    }
    let bytes = usize::from(whole.bytes);
    let from = &outgoing.inline[..bytes];
    let seal = Seal::new(crc, keys, guard);
    let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes + seal.trailer()) else {
        return false;
    };
    let (header, rest) = datagram.split_first_chunk_mut().expect("room for a header");
    let payload = &mut rest[..bytes];
    copy_short(payload, from);
    template.put_whole(header, bytes, request, slot, whole.head);
    if !seal.encrypts() {
        seal_by_flags(header, payload, crc);
    }
    seal.finish(datagram);
    outgoing.short = Short::Sent;
    true
}

/// The same for a packet that has a tag, and whose payload is not covered.
#[cold]
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "as above")]
fn send_whole_tagged<T: Tx>(
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
    let bytes = usize::from(whole.bytes);
    let from = &outgoing.inline[..bytes];
    let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes) else { return false };
    let (header, payload) = datagram.split_first_chunk_mut().expect("room for a header");
    copy_short(payload, from);
    template.put_whole(header, bytes, request, slot, whole.head);
    let check = seal_by_flags(header, payload, crc);
    if let (Some(Guard::Tags(binding)), Some(keys)) = (guard, keys) {
        keys.tags.put_whole(binding, header, check);
    }
    outgoing.short = Short::Sent;
    true
}
