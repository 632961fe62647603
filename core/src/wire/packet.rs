//! Our packet header: the first 48 bytes of every datagram.
//!
//! ```text
//!  0 version u8   1 kind u8   2 flags u16        4 session u32 (the receiver's index)
//!  8 generation u32 (the receiver's, of that index)   12 grant u32 (packets)
//! 16 authentication tag u64
//! 24 request number u64
//! 32 slot u16    34 payload u16 (bytes)         36 message u32 (bytes)
//! 40 packet u16 (number)   42 head u16 (bytes)  44 check u32
//! ```
//!
//! `check` is CRC32C (RFC 3720, appendix B.4) over the header before it without the tag and,
//! unless the session has negotiated the payload check away, the payload after it. The tag covers
//! the header without itself, the checksum included.

use bitflags::bitflags;

use super::WireError;
use super::bytes::{put, u16_at, u32_at, u64_at};
use crate::crc32c::Crc32c;

/// The version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u8 = 1;
/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 48;
/// Where the checksum lies: everything in front of it is covered.
pub(crate) const CHECK_AT: usize = 44;
/// [`Kind::Request`] as it lies in the header's second byte.
pub const REQUEST: u8 = Kind::Request as u8;
/// [`Kind::Response`] as it lies in the header's second byte.
pub const RESPONSE: u8 = Kind::Response as u8;
/// [`Kind::Ping`] as it lies in the header's second byte.
pub(crate) const PING: u8 = Kind::Ping as u8;
/// [`Kind::Pong`] as it lies in the header's second byte.
pub(crate) const PONG: u8 = Kind::Pong as u8;
/// [`Flags::AUTHENTICATED`] as it lies in the header's first word.
pub const TAGGED: u64 = (Flags::AUTHENTICATED.bits() as u64) << 16;
/// [`Flags::PAYLOAD_CHECK`] as it lies in the header's third byte.
pub const CHECKED: u8 = Flags::PAYLOAD_CHECK.bits() as u8;
/// Where the authentication tag lies, which is set last.
pub const TAG_AT: usize = 16;
/// Set in the header's second byte, beside the kind, of a packet whose rest is encrypted: see
/// `endpoint::cipher`.
pub const SEALED: u8 = 0x80;
/// What an encrypted packet has at its end: the tag of all of it, in bytes.
pub const SEAL_BYTES: usize = 16;

/// What a packet is for. The comment names who sends it to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client to server: open a session.
    Hello = 1,
    /// Server to client: the session is open.
    HelloAck = 2,
    /// Server to client: no session for you; the payload says why.
    Refuse = 3,
    /// Client to server: a packet of a request.
    Request = 4,
    /// Server to client: a packet of a response.
    Response = 5,
    /// Server to client: what has arrived of a request, and the grant for more.
    RequestAck = 6,
    /// Client to server: what has arrived of a response, and the grant for more.
    ResponseAck = 7,
    /// Server to client: the request was not admitted and has had no effect.
    Busy = 8,
    /// Client to server: the answer to this request is not wanted any more.
    Cancel = 9,
    /// Client to server: the response has arrived whole; let go of what it was made from.
    Done = 10,
    /// Client to server: are you there?
    Ping = 11,
    /// Server to client: I am.
    Pong = 12,
    /// Client to server: this session is over.
    Bye = 13,
    /// Server to client: the session named, by the server's index, is not known here.
    Reset = 14,
    /// Server to client: say hello again, with the cookie in the payload.
    Challenge = 15,
}

impl Kind {
    /// The kind that a header's second byte stands for.
    ///
    /// # Errors
    /// It stands for none.
    pub(crate) fn from_wire(value: u8) -> Result<Self, WireError> {
        Ok(match value {
            1 => Self::Hello,
            2 => Self::HelloAck,
            3 => Self::Refuse,
            4 => Self::Request,
            5 => Self::Response,
            6 => Self::RequestAck,
            7 => Self::ResponseAck,
            8 => Self::Busy,
            9 => Self::Cancel,
            10 => Self::Done,
            11 => Self::Ping,
            12 => Self::Pong,
            13 => Self::Bye,
            14 => Self::Reset,
            15 => Self::Challenge,
            _ => return Err(WireError::Value { field: "kind", value: value.into() }),
        })
    }
}

bitflags! {
    /// Properties of one packet.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// The checksum covers the payload too.
        const PAYLOAD_CHECK = 1;
        /// The authentication tag is set.
        const AUTHENTICATED = 1 << 1;
        /// Sent because a timer ran out: answer with what is missing.
        const PROBE = 1 << 2;
        /// On an acknowledgement: all has arrived and the service is at work.
        const WORKING = 1 << 3;
        /// On a response: the server holds what it was made from until the client is done. On a
        /// request, with a tag: other packets of the same number may have other bytes.
        const HOLDS = 1 << 4;
        /// On a response: the request was answered without being executed.
        const DECLINED = 1 << 5;
        /// On a refusal: for order's sake only. What the request must follow is not here.
        const EARLY = 1 << 6;
        /// On an acknowledgement: a packet has arrived that had arrived before.
        const DUPLICATE = 1 << 7;
    }
}

/// A packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the packet is for.
    pub kind: Kind,
    /// Properties of the packet.
    pub flags: Flags,
    /// Index of the session in the receiver's table.
    pub session: u32,
    /// The receiver's generation of that index: tells a session from its predecessors.
    pub generation: u32,
    /// In acknowledgements: how many packets of the message may be sent in all. In requests: how
    /// many packets of the answer may be sent unasked, up to 255; zero for the usual number.
    pub grant: u32,
    /// Authentication tag; zero without [`Flags::AUTHENTICATED`].
    pub tag: u64,
    /// Number of the request in its slot: the call's number times 256, plus the attempt. Grows
    /// with every call and every attempt that follows a refusal, and never wraps.
    pub request: u64,
    /// The slot of the session.
    pub slot: u16,
    /// Length of the payload, in bytes.
    pub payload: u16,
    /// Length of the message that this packet is a part of, in bytes. In pongs: the server's clock
    /// in ticks of 65.5 us; in pings: the same, as the newest pong told it, or zero.
    pub message: u32,
    /// Number of the packet in its message; in acknowledgements, how many arrived without a gap.
    pub packet: u16,
    /// Length of the message's head, in bytes.
    pub head: u16,
}

impl Header {
    /// A header of `kind` for a session, everything else zero.
    pub const fn new(kind: Kind, session: u32, generation: u32) -> Self {
        Self {
            kind,
            flags: Flags::empty(),
            session,
            generation,
            grant: 0,
            tag: 0,
            request: 0,
            slot: 0,
            payload: 0,
            message: 0,
            packet: 0,
            head: 0,
        }
    }

    /// Parses and verifies a datagram: version, kind, lengths and checksum.
    ///
    /// # Errors
    /// Any way in which `datagram` is not one that [`Header::emit`] finished.
    pub fn parse(datagram: &[u8], crc: Crc32c) -> Result<Self, WireError> {
        Packet::parse(datagram, crc).map(|packet| packet.header())
    }

    /// Writes the header in front of a payload that is already in place, and seals both with the
    /// checksum.
    ///
    /// # Panics
    /// If `datagram` is not exactly header and payload long.
    #[inline]
    pub fn emit(&self, datagram: &mut [u8], crc: Crc32c) {
        let (bytes, payload) =
            datagram.split_first_chunk_mut::<HEADER_BYTES>().expect("room for the header");
        self.emit_apart(bytes, payload, crc);
    }

    /// As [`Header::emit`], of a payload that lies elsewhere.
    ///
    /// # Panics
    /// As [`Header::emit`].
    #[inline(always)]
    pub fn emit_apart(&self, bytes: &mut [u8; HEADER_BYTES], payload: &[u8], crc: Crc32c) {
        assert_eq!(payload.len(), usize::from(self.payload), "payload length as the header says");
        bytes[0] = PROTOCOL_VERSION;
        bytes[1] = self.kind as u8;
        put(bytes, 2, self.flags.bits().to_le_bytes());
        put(bytes, 4, self.session.to_le_bytes());
        put(bytes, 8, self.generation.to_le_bytes());
        put(bytes, 12, self.grant.to_le_bytes());
        put(bytes, TAG_AT, self.tag.to_le_bytes());
        put(bytes, 24, self.request.to_le_bytes());
        put(bytes, 32, self.slot.to_le_bytes());
        put(bytes, 34, self.payload.to_le_bytes());
        put(bytes, 36, self.message.to_le_bytes());
        put(bytes, 40, self.packet.to_le_bytes());
        put(bytes, 42, self.head.to_le_bytes());
        let covered: &[u8] = if self.flags.contains(Flags::PAYLOAD_CHECK) { payload } else { &[] };
        let check = crc.packet(bytes, covered);
        put(bytes, CHECK_AT, check.to_le_bytes());
    }
}

fn flags_of(bytes: &[u8; HEADER_BYTES]) -> Result<Flags, WireError> {
    let bits = u16_at(bytes, 2);
    Flags::from_bits(bits).ok_or(WireError::Value { field: "flags", value: bits.into() })
}

/// A datagram that has been verified. Its fields are read where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    kind: Kind,
    bytes: &'a [u8; HEADER_BYTES],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Verifies a datagram: version, kind, lengths and checksum.
    ///
    /// # Errors
    /// Any way in which `datagram` is not one that [`Header::emit`] finished.
    #[inline(always)]
    pub fn parse(datagram: &'a [u8], crc: Crc32c) -> Result<Self, WireError> {
        let Some((bytes, payload)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
            return Err(WireError::Truncated { needed: HEADER_BYTES, got: datagram.len() });
        };
        if bytes[0] != PROTOCOL_VERSION {
            return Err(WireError::Version(bytes[0]));
        }
        let claimed = usize::from(u16_at(bytes, 34));
        if claimed != payload.len() {
            return Err(WireError::Length { claimed, got: payload.len() });
        }
        let flags = flags_of(bytes)?;
        let covered: &[u8] = if flags.contains(Flags::PAYLOAD_CHECK) { payload } else { &[] };
        if crc.packet(bytes, covered) != u32_at(bytes, CHECK_AT) {
            return Err(WireError::Checksum);
        }
        // Nothing else covers a tag that nobody checks.
        if u64_at(bytes, TAG_AT) != 0 && !flags.contains(Flags::AUTHENTICATED) {
            return Err(WireError::Checksum);
        }
        Ok(Self { kind: Kind::from_wire(bytes[1])?, bytes, payload })
    }

    /// A datagram that was decrypted, and so shown to be as it was sent: version, kind and lengths
    /// are looked at all the same.
    ///
    /// # Errors
    /// It was sent wrong.
    pub(crate) fn parse_opened(datagram: &'a [u8]) -> Result<Self, WireError> {
        let Some((bytes, payload)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
            return Err(WireError::Truncated { needed: HEADER_BYTES, got: datagram.len() });
        };
        let claimed = usize::from(u16_at(bytes, 34));
        if claimed != payload.len() {
            return Err(WireError::Length { claimed, got: payload.len() });
        }
        flags_of(bytes)?;
        Ok(Self { kind: Kind::from_wire(bytes[1] & !SEALED)?, bytes, payload })
    }

    /// Whether it came encrypted.
    #[inline(always)]
    pub(crate) fn was_sealed(&self) -> bool {
        self.bytes[1] & SEALED != 0
    }

    /// See [`Header::kind`].
    #[inline(always)]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// See [`Header::flags`].
    #[inline(always)]
    pub fn flags(&self) -> Flags {
        Flags::from_bits_truncate(u16_at(self.bytes, 2))
    }

    /// See [`Header::grant`]; of a request, cut to a byte.
    #[inline(always)]
    pub fn unasked(&self) -> u8 {
        self.bytes[12]
    }

    /// See [`Header::session`].
    #[inline(always)]
    pub fn session(&self) -> u32 {
        u32_at(self.bytes, 4)
    }

    /// See [`Header::generation`].
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        u32_at(self.bytes, 8)
    }

    /// See [`Header::request`].
    #[inline(always)]
    pub fn request(&self) -> u64 {
        u64_at(self.bytes, 24)
    }

    /// See [`Header::slot`].
    #[inline(always)]
    pub fn slot(&self) -> u16 {
        u16_at(self.bytes, 32)
    }

    /// See [`Header::message`].
    #[inline(always)]
    pub fn message(&self) -> u32 {
        u32_at(self.bytes, 36)
    }

    /// See [`Header::head`].
    #[inline(always)]
    pub fn head(&self) -> u16 {
        u16_at(self.bytes, 42)
    }

    /// The header as it came.
    #[inline(always)]
    pub fn header_bytes(&self) -> &'a [u8; HEADER_BYTES] {
        self.bytes
    }

    /// What follows the header.
    #[inline(always)]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// All fields of the header.
    pub fn header(&self) -> Header {
        let bytes = self.bytes;
        Header {
            kind: self.kind,
            flags: self.flags(),
            session: self.session(),
            generation: self.generation(),
            grant: u32_at(bytes, 12),
            tag: u64_at(bytes, TAG_AT),
            request: self.request(),
            slot: self.slot(),
            payload: u16_at(bytes, 34),
            message: self.message(),
            packet: u16_at(bytes, 40),
            head: self.head(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn header(payload: usize) -> Header {
        Header {
            flags: Flags::PAYLOAD_CHECK,
            grant: 7,
            request: 0x0102_0304_0506_0708,
            slot: 3,
            payload: payload as u16,
            message: 99,
            packet: 2,
            head: 32,
            ..Header::new(Kind::Request, 5, 6)
        }
    }

    fn sealed(header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(payload);
        header.emit(&mut bytes, Crc32c::detect());
        bytes
    }

    #[test]
    fn literal_bytes() {
        let bytes = sealed(&header(2), &[0xAA, 0xBB]);
        assert_eq!(
            bytes[..44],
            [
                1, 4, 1, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5,
                4, 3, 2, 1, 3, 0, 2, 0, 99, 0, 0, 0, 2, 0, 32, 0
            ]
        );
        assert_eq!(bytes[48..], [0xAA, 0xBB]);
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let header = header(payload.len());
            let bytes = sealed(&header, &payload);
            prop_assert_eq!(Header::parse(&bytes, Crc32c::detect()), Ok(header));
        }

        #[test]
        fn any_changed_bit_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            bit in any::<prop::sample::Index>()
        ) {
            let mut bytes = sealed(&header(payload.len()), &payload);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::parse(&bytes, Crc32c::detect()).is_err());
        }

        #[test]
        fn truncation_extension_and_noise_are_errors(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>()
        ) {
            prop_assert!(Header::parse(&noise, Crc32c::detect()).is_err());
            let bytes = sealed(&header(8), &[0; 8]);
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert!(Header::parse(cut, Crc32c::detect()).is_err());
            let mut longer = bytes;
            longer.push(0);
            prop_assert!(Header::parse(&longer, Crc32c::detect()).is_err());
        }
    }
}
