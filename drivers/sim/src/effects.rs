//! How often each fault of a network *took effect*: a packet that it hit was needed.
//!
//! A packet that a fault lost, spoilt or held back was needed if its sender had to send the same
//! packet again. A copy took effect if it reached somebody after the original; an overtaken packet,
//! if it was part of a message.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use crate::random::mix;
use crate::watched;
use dmrpc_core::wire::packet::{HEADER_BYTES, Kind, SEALED};

/// Packets whose sender may still send them again, at most. Older ones are forgotten.
const HIT_MAX: usize = 1 << 14;

/// What a network may do to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fault {
    /// Lost, for itself.
    Loss,
    /// Lost in a burst.
    Burst,
    /// Delivered twice.
    Duplicate,
    /// Delivered once more, much later.
    Replay,
    /// Overtaken by a later packet of its path.
    Reorder,
    /// Held back, alone.
    Straggle,
    /// Held back with all that its sender sent after it.
    Clog,
    /// One bit flipped.
    BitFlip,
    /// Some bytes in a row changed.
    BitBurst,
    /// Cut short.
    Truncate,
    /// Made longer.
    Extend,
    /// Its tail replaced by that of an earlier packet.
    Splice,
    /// Dropped at a partition of which the way back was open.
    PartitionOneWay,
    /// Dropped at a partition of both ways.
    Partition,
    /// Dropped because its receiver's queue was full, of packets of few senders.
    QueueFull,
    /// The same, of packets of many.
    Incast,
}

impl Fault {
    /// All of them, in order.
    pub const ALL: [Self; 16] = [
        Self::Loss,
        Self::Burst,
        Self::Duplicate,
        Self::Replay,
        Self::Reorder,
        Self::Straggle,
        Self::Clog,
        Self::BitFlip,
        Self::BitBurst,
        Self::Truncate,
        Self::Extend,
        Self::Splice,
        Self::PartitionOneWay,
        Self::Partition,
        Self::QueueFull,
        Self::Incast,
    ];

    /// A name for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Burst => "burst loss",
            Self::Duplicate => "duplicate",
            Self::Replay => "late replay",
            Self::Reorder => "reorder",
            Self::Straggle => "straggler",
            Self::Clog => "clog",
            Self::BitFlip => "bit flip",
            Self::BitBurst => "bit burst",
            Self::Truncate => "truncation",
            Self::Extend => "extension",
            Self::Splice => "splice",
            Self::PartitionOneWay => "one-way partition",
            Self::Partition => "partition",
            Self::QueueFull => "full queue",
            Self::Incast => "incast",
        }
    }
}

/// A packet's header, of an encrypted one as it was before; that is told once.
fn header(datagram: &[u8]) -> Option<[u8; HEADER_BYTES]> {
    let header = *datagram.first_chunk::<HEADER_BYTES>()?;
    if header[1] & SEALED != 0 { watched::header(datagram) } else { Some(header) }
}

/// Whether a packet is part of a request. Of an encrypted one it can be told once.
pub(crate) fn is_request(datagram: &[u8]) -> bool {
    header(datagram).is_some_and(|bytes| bytes[1] & !SEALED == Kind::Request as u8)
}

/// What a packet is, for telling whether it is sent again: `None` for those that nobody repeats. Of
/// an encrypted one it can be told once, if it was sealed with a watched key.
pub(crate) fn identity(from: SocketAddrV4, to: SocketAddrV4, datagram: &[u8]) -> Option<u64> {
    let bytes = header(datagram)?;
    let kind = bytes[1] & !SEALED;
    if ![Kind::Request, Kind::Response, Kind::Hello].iter().any(|of| *of as u8 == kind) {
        return None;
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let end =
        |address: SocketAddrV4| u64::from(address.ip().to_bits()) << 16 | u64::from(address.port());
    let path = mix(end(from)) ^ end(to);
    let session = mix(path ^ word(4)) ^ u64::from(kind);
    let slot = word(32) & 0xFFFF | (word(40) & 0xFFFF) << 16;
    Some(mix(mix(session ^ word(24)) ^ slot))
}

/// Counts of faults that took effect, and what is needed to know.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    counts: [u64; Fault::ALL.len()],
    /// Packets that a fault hit and that were not sent again yet.
    hit: BTreeMap<u64, Fault>,
    /// The number of the last packet delivered on a path.
    last: BTreeMap<(SocketAddrV4, SocketAddrV4), u64>,
}

impl Effects {
    /// A packet is sent: if a fault hit it before, that fault took effect.
    pub(crate) fn sent(&mut self, identity: Option<u64>) {
        if let Some(fault) = identity.and_then(|identity| self.hit.remove(&identity)) {
            self.count(fault);
        }
    }

    /// A fault hits a packet.
    pub(crate) fn hit(&mut self, identity: Option<u64>, fault: Fault) {
        if let Some(identity) = identity {
            if self.hit.len() >= HIT_MAX {
                self.hit.pop_first();
            }
            self.hit.insert(identity, fault);
        }
    }

    pub(crate) fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// An original that is part of a message is delivered: was it overtaken?
    pub(crate) fn delivered(&mut self, from: SocketAddrV4, to: SocketAddrV4, number: u64) {
        let last = self.last.entry((from, to)).or_default();
        if number < *last {
            self.counts[Fault::Reorder as usize] += 1;
        } else {
            *last = number;
        }
    }

    /// How often each fault took effect.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.into_iter().zip(self.counts)
    }
}
