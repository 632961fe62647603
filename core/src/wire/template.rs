//! What the headers of a session's packets have in common, when they come in and when they go out.

use super::bytes::{array_at, put, u32_at, u64_at};
use super::direct::{DIRECT, DIRECT_HEADER_BYTES, Direct};
use super::packet::{CHECK_AT, CHECKED, HEADER_BYTES, Header, SEALED, TAG_AT};
use crate::crc32c::{Begun, Crc32c};

/// The lengths of payload and message as they lie in the word at byte 32 of a header, for a message
/// of `bytes` bytes that is whole in one packet.
#[inline(always)]
pub(crate) fn both_lengths(bytes: usize) -> u64 {
    bytes as u64 * (1 << 32 | 1 << 16)
}

/// What all usual packets of one kind in a session share: the first two words of their headers
/// (version, kind, flags, session; generation, and no grant), and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Straight {
    /// Bytes 0 to 8.
    pub first: u64,
    /// Bytes 8 to 12; those from there to 16 are zero.
    pub generation: u32,
    /// The sum of all these.
    begun: Begun,
    /// The sender's address as one word.
    pub peer: u64,
}

impl Straight {
    /// Those of no packet.
    pub const NEVER: Self = Self { first: 0, generation: 0, begun: Begun::NOTHING, peer: 0 };

    /// Whether a packet from `peer` whose header begins with these two words is one of them.
    #[inline(always)]
    pub(crate) fn fits(&self, first: u64, second: u64, peer: u64) -> bool {
        first == self.first && second == u64::from(self.generation) && peer == self.peer
    }

    /// The running sum of how they begin.
    #[inline(always)]
    pub(crate) fn begun(&self) -> Begun {
        self.begun
    }

    /// All that these packets' headers have in front of the tag, as one block.
    pub(crate) fn first_part(&self) -> u128 {
        (u128::from(self.first) | u128::from(self.generation) << 64).to_le()
    }

    /// The same of packets that come encrypted, which have no checksum.
    pub(crate) fn sealed(self) -> Self {
        Self { first: self.first | u64::from(SEALED) << 8, ..self }
    }

    /// Those of packets from `peer` whose header begins as `header` does.
    pub fn new(header: &Header, peer: u64, crc: Crc32c) -> Self {
        let Template { bytes, begun } = Template::new(header, crc);
        Self { first: u64_at(&bytes, 0), generation: u32_at(&bytes, 8), begun, peer }
    }
}

/// What the headers of a session's packets of one kind have in common, ready to be sent: all in
/// front of the tag, and its sum.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    bytes: [u8; TAG_AT],
    begun: Begun,
}

impl Template {
    /// The template of no session.
    pub const EMPTY: Self = Self { bytes: [0; TAG_AT], begun: Begun::NOTHING };

    /// A template of `header`. The processor is not asked again what it can: in a virtual machine
    /// that takes tens of microseconds.
    pub fn new(header: &Header, crc: Crc32c) -> Self {
        let mut bytes = [0; HEADER_BYTES];
        let header = Header { payload: 0, ..*header };
        header.emit(&mut bytes, crc);
        let bytes = array_at(&bytes, 0);
        Self { bytes, begun: crc.begin(&bytes) }
    }

    /// The flags of its packets, as far as templates have any.
    #[inline(always)]
    pub(crate) fn flags(&self) -> u8 {
        self.bytes[2]
    }

    /// The same of packets with the short header.
    pub(crate) fn direct(mut self, crc: Crc32c) -> Self {
        self.bytes[1] |= DIRECT;
        Self { begun: crc.begin(&self.bytes), ..self }
    }

    /// Whether its packets have the short header.
    #[inline(always)]
    pub(crate) fn is_direct(&self) -> bool {
        self.bytes[1] & DIRECT != 0
    }

    /// The short header of a message that is whole in one packet.
    #[inline(always)]
    pub(crate) fn put_direct(
        &self,
        request: u64,
        slot: u16,
        head: u16,
    ) -> [u8; DIRECT_HEADER_BYTES] {
        let (first, generation) = (u64_at(&self.bytes, 0), u32_at(&self.bytes, 8));
        Direct { first, generation, slot, head, request, message: &[] }.header()
    }

    /// All that its packets' headers have in front of the tag, as one block: of the usual header,
    /// where its packets have the short one.
    pub(crate) fn first_part(&self) -> u128 {
        let mut bytes = self.bytes;
        bytes[1] &= !DIRECT;
        u128::from_ne_bytes(bytes)
    }

    /// Writes the header of a message that is whole in one packet of `bytes` bytes, but for the
    /// checksum.
    #[inline(always)]
    pub(crate) fn put_whole(
        &self,
        header: &mut [u8; HEADER_BYTES],
        bytes: usize,
        request: u64,
        slot: u16,
        head: u16,
    ) {
        put(header, 0, self.bytes);
        put(header, TAG_AT, [0; 8]);
        put(header, 24, request.to_le_bytes());
        put(header, 32, (u64::from(slot) | both_lengths(bytes)).to_le_bytes());
        put(header, 40, (u32::from(head) << 16).to_le_bytes());
    }

    /// Seals a header that [`Template::put_whole`] has written with the checksum of itself and of
    /// `covered`: its payload, or nothing. Returns the checksum.
    #[inline(always)]
    pub(crate) fn seal_whole(
        &self,
        header: &mut [u8; HEADER_BYTES],
        covered: &[u8],
        crc: &Crc32c,
    ) -> u32 {
        let check = crc.packet_begun(self.begun, header, covered);
        put(header, CHECK_AT, check.to_le_bytes());
        check
    }
}

/// What the headers of one message's packets have in common, where there are several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Up to the request number.
    first: [u8; 32],
    /// The word at byte 32 without the payload's length: slot and length of the message.
    lengths: u64,
    /// The word at byte 40 without the packet's number: length of the head.
    head: u32,
}

impl Part {
    /// What they have of `header`.
    #[inline]
    pub(crate) fn new(header: &Header, crc: Crc32c) -> Self {
        let mut bytes = [0; HEADER_BYTES];
        Header { payload: 0, tag: 0, ..*header }.emit(&mut bytes, crc);
        Self {
            first: array_at(&bytes, 0),
            lengths: u64::from(header.slot) | u64::from(header.message) << 32,
            head: u32::from(header.head) << 16,
        }
    }

    /// What they have in common, as a header without packet number and payload.
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        self.put(&mut header, 0, 0);
        header
    }

    /// Writes the header of packet `number`, of `bytes` bytes, but for checksum and tag. Whole
    /// words are written, so that whoever sums them up need not wait.
    #[inline(always)]
    pub(crate) fn put(&self, header: &mut [u8; HEADER_BYTES], number: u16, bytes: u16) {
        put(header, 0, self.first);
        put(header, 32, (self.lengths | u64::from(bytes) << 16).to_le_bytes());
        put(header, 40, (self.head | u32::from(number)).to_le_bytes());
    }
}

/// Seals a header, and its payload if the flags say so.
#[inline(always)]
pub(crate) fn seal_by_flags(header: &mut [u8; HEADER_BYTES], payload: &[u8], crc: Crc32c) {
    let checked = header[2] & CHECKED != 0;
    let check = if checked { crc.packet(header, payload) } else { crc.header(header) };
    put(header, CHECK_AT, check.to_le_bytes());
}

/// The same for a payload that is copied from `from` to `to` on the way.
#[inline(always)]
pub(crate) fn seal_copying(
    header: &mut [u8; HEADER_BYTES],
    from: &[u8],
    to: &mut [u8],
    crc: Crc32c,
) {
    let check = if header[2] & CHECKED != 0 {
        crc.packet_copying(header, from, to)
    } else {
        crc.copy(from, to);
        crc.header(header)
    };
    put(header, CHECK_AT, check.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;

    use super::*;
    use crate::wire::packet::{Flags, Kind};

    proptest! {
        #[test]
        fn a_template_writes_what_emit_does(
            payload in proptest::collection::vec(any::<u8>(), 0..300), request in any::<u64>(),
            slot in any::<u16>(), head in any::<u16>(), check in any::<bool>(),
        ) {
            let flags = if check { Flags::PAYLOAD_CHECK } else { Flags::empty() };
            let common = Header { flags, ..Header::new(Kind::Response, 5, 6) };
            let (len, message) = (payload.len() as u16, payload.len() as u32);
            let whole = Header { request, slot, head, payload: len, message, ..common };
            let mut bytes = vec![0; HEADER_BYTES];
            bytes.extend_from_slice(&payload);
            whole.emit(&mut bytes, Crc32c::detect());
            let (header, payload) = bytes.split_first_chunk_mut::<HEADER_BYTES>().unwrap();
            let wanted = *header;
            let crc = Crc32c::detect();
            let template = Template::new(&common, crc);
            template.put_whole(header, payload.len(), request, slot, head);
            seal_by_flags(header, payload, crc);
            prop_assert_eq!(*header, wanted);
            header[CHECK_AT..].fill(0);
            let covered = if check { &payload[..] } else { &[] };
            let sum = template.seal_whole(header, covered, &crc);
            prop_assert_eq!(sum.to_le_bytes(), array_at(header, CHECK_AT));
            prop_assert_eq!(*header, wanted);
        }
    }
}
