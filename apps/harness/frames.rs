//! How long the datagrams of an operation are, so that the bare device can carry the same.

use dmrpc_core::wire::memory_op::STEP_BYTES;
use dmrpc_core::wire::message::{ARG_BYTES, REQUEST_HEADER_BYTES, RESPONSE_HEADER_BYTES};
use dmrpc_core::wire::packet::HEADER_BYTES;
use dmrpc_core::wire::reference::REF_BYTES;

/// A region's name in an answer to memory steps, in bytes.
const REGION_BYTES: usize = 8;

/// Lengths of a request and its answer as messages, head and body, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The request.
    pub request: usize,
    /// The answer.
    pub answer: usize,
}

/// The datagrams that a message is sent in: all but the last are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// How many.
    pub count: usize,
    /// Length of all but the last, in bytes.
    pub full_bytes: usize,
    /// Length of the last, in bytes.
    pub last_bytes: usize,
}

impl Exchange {
    /// A call of an echo with one inline argument of `bytes` bytes.
    pub const fn echo(bytes: usize) -> Self {
        Self { request: REQUEST_HEADER_BYTES + bytes, answer: RESPONSE_HEADER_BYTES + bytes }
    }

    /// A single memory step without references: `read` gets `bytes_in`, `write` sends `bytes_out`.
    pub const fn memory(bytes_out: usize, bytes_in: usize) -> Self {
        Self {
            request: REQUEST_HEADER_BYTES + STEP_BYTES + bytes_out,
            answer: RESPONSE_HEADER_BYTES + REGION_BYTES + bytes_in,
        }
    }

    /// A single memory step that takes and makes so many references.
    pub const fn with_refs(taken: usize, made: usize) -> Self {
        let plain = Self::memory(0, 0);
        Self {
            request: plain.request + taken * (ARG_BYTES + REF_BYTES),
            answer: plain.answer + made * (ARG_BYTES + REF_BYTES),
        }
    }
}

impl Exchange {
    /// The datagrams of both messages, where none is longer than `datagram_bytes_max`.
    ///
    /// # Panics
    /// As [`Frames::of`].
    pub const fn frames(self, datagram_bytes_max: usize) -> (Frames, Frames) {
        let request = Frames::of(self.request, datagram_bytes_max);
        (request, Frames::of(self.answer, datagram_bytes_max))
    }
}

impl Frames {
    /// The datagrams of a message of `message_bytes` bytes, with the protocol's header in each,
    /// where none is longer than `datagram_bytes_max`.
    ///
    /// # Panics
    /// If a datagram has no room beside the header.
    pub const fn of(message_bytes: usize, datagram_bytes_max: usize) -> Self {
        let payload = datagram_bytes_max - HEADER_BYTES;
        assert!(payload > 0);
        let count = if message_bytes == 0 { 1 } else { message_bytes.div_ceil(payload) };
        Self {
            count,
            full_bytes: datagram_bytes_max,
            last_bytes: message_bytes - (count - 1) * payload + HEADER_BYTES,
        }
    }

    /// Length of datagram `index`, in bytes.
    pub const fn bytes(&self, index: usize) -> usize {
        if index + 1 == self.count { self.last_bytes } else { self.full_bytes }
    }

    /// All datagrams together, in bytes.
    pub const fn total_bytes(&self) -> usize {
        (self.count - 1) * self.full_bytes + self.last_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_in_datagrams() {
        let small = Frames::of(104, 9000);
        assert_eq!((small.count, small.last_bytes, small.total_bytes()), (1, 152, 152));
        let exact = Frames::of(8952, 9000);
        assert_eq!((exact.count, exact.last_bytes), (1, 9000));
        let large = Frames::of(8953, 9000);
        assert_eq!((large.count, large.bytes(0), large.bytes(1)), (2, 9000, 49));
        assert_eq!(large.total_bytes(), 9049);
    }

    #[test]
    fn exchanges() {
        assert_eq!(Exchange::echo(64), Exchange { request: 96, answer: 72 });
        assert_eq!(Exchange::memory(0, 4096), Exchange { request: 64, answer: 4112 });
        assert_eq!(Exchange::with_refs(1, 0), Exchange { request: 136, answer: 16 });
    }
}
