//! Wire formats: what the bytes of a packet mean, and nothing else.
//!
//! From the outside in:
//!
//! - [`ethernet`]: Ethernet, IPv4 and UDP, through smoltcp's wire types, for drivers of raw frames;
//! - [`packet`]: our header, the first [`packet::HEADER_BYTES`] bytes of each datagram;
//! - [`direct`]: a shorter header, for messages of one packet through memory;
//! - [`template`]: what the headers of a session's packets have in common;
//! - [`control`]: the payloads of handshake and acknowledgement packets;
//! - [`message`]: what a request or a response consists of, once its packets are put together;
//! - [`reference`](mod@reference): the 64 bytes of a reference, with its keyed tag;
//! - [`memory_op`]: requests to a memory node.
//!
//! Each format is a struct that holds legal values only, with `parse` (total: any bytes give a
//! value or a typed error, never a panic) and `emit` (panics if the buffer is shorter than the
//! format says: the caller sizes it). All integers are little-endian.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod control;
pub mod direct;
pub mod ethernet;
pub mod memory_op;
pub mod message;
pub mod packet;
pub mod reference;
mod sip;
pub mod template;

/// Why bytes are not what they claim to be. Each is counted; none is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the format needs.
    Truncated {
        /// Bytes that the format needs.
        needed: usize,
        /// Bytes that there are.
        got: usize,
    },
    /// A length field that disagrees with the bytes that are there.
    Length {
        /// What the field says.
        claimed: usize,
        /// Bytes that there are.
        got: usize,
    },
    /// A protocol version that we do not speak.
    Version(u8),
    /// A field whose value means nothing.
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The checksum is not that of the bytes.
    Checksum,
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated { needed, got } => {
                write!(f, "truncated: {got} bytes where {needed} are needed")
            }
            Self::Length { claimed, got } => {
                write!(f, "length field says {claimed} bytes, there are {got}")
            }
            Self::Version(version) => write!(
                f,
                "protocol version {version}; this build speaks {}",
                packet::PROTOCOL_VERSION
            ),
            Self::Value { field, value } => write!(f, "field `{field}` cannot be {value}"),
            Self::Checksum => f.write_str("checksum mismatch"),
        }
    }
}

impl core::error::Error for WireError {}
