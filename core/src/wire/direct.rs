//! The header of a message that is one packet, where there is only memory between the two ends.
//!
//! Memory loses nothing, keeps order and bytes, and tells lengths and senders itself. So half of
//! the usual header is left out: grant, tag, lengths, packet number and checksum. What is left is
//! what says whose the message is.
//!
//! ```text
//!  0 version u8   1 kind u8 | DIRECT   2 flags u16   4 session u32 (the receiver's index)
//!  8 generation u32 (the receiver's, of that index)  12 slot u16   14 head u16 (bytes)
//! 16 request number u64
//! 24 the message
//! ```
//!
//! A request of 64 bytes, with its own header, is two cache lines of a ring, and so is its answer.

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::packet::{REQUEST, RESPONSE};

/// Set in a header's second byte, beside the kind, of a packet with this header.
pub const DIRECT: u8 = 0x40;
/// [`DIRECT`] as it lies in the header's first word.
pub const DIRECT_WORD: u64 = (DIRECT as u64) << 8;
/// The second byte of a request with this header.
pub const DIRECT_REQUEST: u8 = REQUEST | DIRECT;
/// The second byte of a response with this header.
pub const DIRECT_RESPONSE: u8 = RESPONSE | DIRECT;
/// Length of the header, in bytes.
pub const DIRECT_HEADER_BYTES: usize = 24;

/// A header and the message behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct<'a> {
    /// Version, kind, flags and session: as the usual header's first word, but for [`DIRECT`].
    pub first: u64,
    /// The receiver's generation of the session.
    pub generation: u32,
    /// The slot.
    pub slot: u16,
    /// Bytes of the message that are its head; not looked at yet.
    pub head: u16,
    /// The request's number.
    pub request: u64,
    /// The message.
    pub message: &'a [u8],
}

impl<'a> Direct<'a> {
    /// What a datagram holds that has [`DIRECT`] in its second byte; `None` if it is too short.
    #[inline(always)]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, message) = datagram.split_first_chunk::<DIRECT_HEADER_BYTES>()?;
        Some(Self {
            first: u64_at(header, 0) & !DIRECT_WORD,
            generation: u32_at(header, 8),
            slot: u16_at(header, 12),
            head: u16_at(header, 14),
            request: u64_at(header, 16),
            message,
        })
    }

    /// Index of the session in the receiver's table.
    #[inline(always)]
    pub fn session(&self) -> usize {
        (self.first >> 32) as usize
    }

    /// The header's bytes.
    #[inline(always)]
    pub fn header(&self) -> [u8; DIRECT_HEADER_BYTES] {
        let mut bytes = [0; DIRECT_HEADER_BYTES];
        let second =
            u64::from(self.generation) | u64::from(self.slot) << 32 | u64::from(self.head) << 48;
        put(&mut bytes, 0, (self.first | DIRECT_WORD).to_le_bytes());
        put(&mut bytes, 8, second.to_le_bytes());
        put(&mut bytes, 16, self.request.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::PROTOCOL_VERSION;

    const BYTES: [u8; 27] = [
        PROTOCOL_VERSION,
        REQUEST | DIRECT,
        0,
        0,
        5,
        0,
        0,
        0,
        6,
        0,
        0,
        0,
        7,
        0,
        8,
        0,
        1,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
        b'a',
        b'b',
        b'c',
    ];

    #[test]
    fn a_header_is_parsed_and_written() {
        let direct = Direct::parse(&BYTES).expect("long enough");
        let first = u64::from(PROTOCOL_VERSION) | u64::from(REQUEST) << 8 | 5 << 32;
        let message = &BYTES[DIRECT_HEADER_BYTES..];
        let wanted = Direct { first, generation: 6, slot: 7, head: 8, request: 0x201, message };
        assert_eq!(direct, wanted);
        assert_eq!(direct.session(), 5);
        assert_eq!(direct.header(), BYTES[..DIRECT_HEADER_BYTES]);
    }

    #[test]
    fn one_that_is_too_short_is_none() {
        for bytes in 0..DIRECT_HEADER_BYTES {
            assert_eq!(Direct::parse(&BYTES[..bytes]), None, "{bytes}");
        }
        assert!(Direct::parse(&BYTES[..DIRECT_HEADER_BYTES]).is_some());
    }
}
