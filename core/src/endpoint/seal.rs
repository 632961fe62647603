//! What is put on every packet of a session: checksum, tag, or encryption.

use core::net::SocketAddrV4;

use super::auth::{Guard, Keys};
use super::cipher::Ciphers;
use super::tag::{Binding, OfMessage, TagKeys};
use crate::crc32c::Crc32c;
use crate::device::Tx;
use crate::wire::bytes::put;
use crate::wire::control::Features;
use crate::wire::packet::{Flags, HEADER_BYTES, Header, SEAL_BYTES, TAG_AT};

/// What seals the packets of a session.
#[derive(Clone, Copy)]
pub(super) struct Seal<'a> {
    pub(super) crc: Crc32c,
    by: By<'a>,
}

/// What is put on a packet beside its checksum.
#[derive(Clone, Copy)]
enum By<'a> {
    Nothing,
    Tag(&'a TagKeys, &'a Binding),
    /// The one at this place.
    Cipher(&'a dyn Ciphers, u32),
}

impl<'a> Seal<'a> {
    #[inline(always)]
    pub(super) fn new(crc: Crc32c, keys: &'a Option<Keys<'_>>, guard: &'a Option<Guard>) -> Self {
        let by = match (guard, keys) {
            (Some(Guard::Tags(binding)), Some(keys)) => By::Tag(&keys.tags, binding),
            (Some(Guard::Cipher(place)), Some(Keys { ciphers: Some(ciphers), .. })) => {
                By::Cipher(ciphers.sessions, *place)
            }
            _ => By::Nothing,
        };
        Self { crc, by }
    }

    /// For packets of a session that has no place here.
    pub(super) fn encrypting(crc: Crc32c, cipher: &'a dyn Ciphers) -> Self {
        Self { crc, by: By::Cipher(cipher, 0) }
    }

    /// For packets that bring proofs of their own, or need none.
    pub(super) fn plain(crc: Crc32c) -> Self {
        Self { crc, by: By::Nothing }
    }

    /// Whether it encrypts, and so needs no checksum.
    #[inline(always)]
    pub(super) fn encrypts(self) -> bool {
        matches!(self.by, By::Cipher(..))
    }

    /// Bytes that it takes behind a packet.
    #[inline(always)]
    pub(super) fn trailer(self) -> usize {
        if self.encrypts() { SEAL_BYTES } else { 0 }
    }

    /// What tags the packets of a message of several, one of which has this header, if they get
    /// tags.
    #[inline(always)]
    pub(super) fn part_tags(
        self,
        header: impl FnOnce() -> [u8; HEADER_BYTES],
    ) -> Option<PartTags<'a>> {
        let By::Tag(keys, binding) = self.by else { return None };
        Some(PartTags { keys, message: keys.of_message_seen(binding, &header()) })
    }

    /// The last thing that happens to a packet: it gets its tag, or is encrypted, if its session
    /// has that.
    #[inline(always)]
    pub(super) fn finish(self, datagram: &mut [u8]) {
        match self.by {
            By::Nothing => {}
            By::Tag(keys, binding) => {
                keys.put(binding, datagram.first_chunk_mut().expect("room for a header"));
            }
            By::Cipher(ciphers, place) => ciphers.seal(place as usize, datagram),
        }
    }
}

/// What tags the packets of one message of several.
pub(super) struct PartTags<'a> {
    keys: &'a TagKeys,
    message: OfMessage,
}

impl PartTags<'_> {
    /// Puts the tag into a header that is finished otherwise.
    #[inline(always)]
    pub(super) fn put(&self, header: &mut [u8; HEADER_BYTES]) {
        let tag = self.keys.of_part(self.message, header);
        put(header, TAG_AT, tag.to_le_bytes());
    }
}

/// Seals `header` over a payload of `bytes` bytes that `fill` writes, and queues the packet.
/// Returns false if the device has no room.
#[inline]
pub(super) fn send<T: Tx>(
    tx: &mut T,
    seal: Seal<'_>,
    peer: SocketAddrV4,
    mut header: Header,
    bytes: usize,
    fill: impl FnOnce(&mut [u8]),
) -> bool {
    let Some(datagram) = tx.push(peer, HEADER_BYTES + bytes + seal.trailer()) else {
        return false;
    };
    let packet = &mut datagram[..HEADER_BYTES + bytes];
    fill(&mut packet[HEADER_BYTES..]);
    header.payload = bytes as u16;
    header.emit(packet, seal.crc);
    seal.finish(datagram);
    true
}

/// Flags that every packet of a session carries.
#[inline]
pub(super) fn session_flags(features: Features) -> Flags {
    let mut flags = Flags::empty();
    if features.contains(Features::ENCRYPTED) {
        // The cipher's tag covers all that the checksum and the header's tag would.
        return flags;
    }
    flags.set(Flags::PAYLOAD_CHECK, features.contains(Features::PAYLOAD_CHECK));
    flags.set(Flags::AUTHENTICATED, features.contains(Features::AUTHENTICATED));
    flags
}
