//! Why a memory operation had no effect, as it travels.

use super::super::bytes::{put, u64_at};
use super::super::message::Status;
use super::super::reference::Rights;

/// Length of a failure's parameters, in bytes.
pub const FAILURE_BYTES: usize = 24;

/// What a memory node has a limited number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Resource {
    /// Page frames.
    Frames = 1,
    /// Nodes of page tables.
    Nodes = 2,
    /// Versions.
    Versions = 3,
    /// Regions.
    Regions = 4,
    /// References.
    References = 5,
    /// Sessions that hold memory.
    Holders = 6,
    /// Snapshots that answers are read from.
    Pins = 7,
    /// Writes in progress.
    Stages = 8,
    /// References that have outlived their owners.
    Detached = 9,
    /// Mappings and references of one version.
    VersionHolders = 10,
    /// Pages of writes in progress.
    StagedPages = 11,
}

impl Resource {
    fn from_wire(value: u64) -> Option<Self> {
        Some(match value {
            1 => Self::Frames,
            2 => Self::Nodes,
            3 => Self::Versions,
            4 => Self::Regions,
            5 => Self::References,
            6 => Self::Holders,
            7 => Self::Pins,
            8 => Self::Stages,
            9 => Self::Detached,
            10 => Self::VersionHolders,
            11 => Self::StagedPages,
            _ => return None,
        })
    }
}

impl core::fmt::Display for Resource {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames",
            Self::Nodes => "nodes of page tables",
            Self::Versions => "versions",
            Self::Regions => "regions",
            Self::References => "references",
            Self::Holders => "sessions that hold memory",
            Self::Pins => "pins",
            Self::Stages => "writes in progress",
            Self::Detached => "detached references",
            Self::VersionHolders => "holds on one version",
            Self::StagedPages => "pages of writes in progress",
        })
    }
}

/// The largest count that a quota's error tells.
const WANTED_MAX: u64 = u64::MAX >> 8;

/// Why a memory operation had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// A length of zero.
    ZeroLength,
    /// Offset and length that reach past the end.
    OutOfRange {
        /// Where the range would end; `u64::MAX` if it overflows.
        end: u64,
        /// Where region or reference ends.
        size: u64,
    },
    /// No such region, or not any more.
    UnknownRegion,
    /// A region of another session.
    NotYours,
    /// A reference whose entry has another life now, or never was.
    StaleReference,
    /// The reference was claimed.
    Consumed,
    /// The reference was dropped by its owner.
    Dropped,
    /// The reference's owner is gone, and the grace after that has passed.
    Expired,
    /// Only the reference's owner may do this.
    NotOwner,
    /// The reference's tag is not ours: it was forged, or changed.
    Forged,
    /// The reference is to another memory node.
    WrongNode {
        /// That node.
        memory_node: u32,
    },
    /// The reference is of an earlier life of this memory node.
    StaleIncarnation {
        /// That life.
        incarnation: u64,
    },
    /// The reference does not give these rights.
    MissingRights {
        /// What it lacks.
        rights: Rights,
    },
    /// A pool is exhausted, and nothing is on its way back to it.
    Exhausted {
        /// Of what.
        resource: Resource,
        /// How many there are.
        limit: u64,
    },
    /// The session has used up its quota.
    Quota {
        /// Of what.
        resource: Resource,
        /// How many it may have.
        limit: u64,
        /// How many it would have had; counts beyond 56 bits travel as that.
        wanted: u64,
    },
    /// The request's steps make no sense.
    Malformed,
    /// More bytes than one operation can have.
    TooLong {
        /// Bytes asked for.
        length: u64,
        /// Bytes possible.
        max: u64,
    },
}

impl MemoryError {
    /// Status and details as they travel.
    pub fn to_wire(self) -> (Status, [u64; 2]) {
        let (code, details) = match self {
            Self::ZeroLength => (0, [0, 0]),
            Self::OutOfRange { end, size } => (1, [end, size]),
            Self::UnknownRegion => (2, [0, 0]),
            Self::NotYours => (3, [0, 0]),
            Self::StaleReference => (4, [0, 0]),
            Self::Consumed => (5, [0, 0]),
            Self::Dropped => (6, [0, 0]),
            Self::Expired => (7, [0, 0]),
            Self::NotOwner => (8, [0, 0]),
            Self::Forged => (9, [0, 0]),
            Self::WrongNode { memory_node } => (10, [memory_node.into(), 0]),
            Self::StaleIncarnation { incarnation } => (11, [incarnation, 0]),
            Self::MissingRights { rights } => (12, [rights.bits().into(), 0]),
            Self::Exhausted { resource, limit } => (13, [resource as u64, limit]),
            Self::Quota { resource, limit, wanted } => {
                (14, [resource as u64 | wanted.min(WANTED_MAX) << 8, limit])
            }
            Self::Malformed => (15, [0, 0]),
            Self::TooLong { length, max } => (16, [length, max]),
        };
        (Status(Status::MEMORY_FIRST + code), details)
    }

    /// The error that a failed answer tells. `None` if the status is not a memory node's.
    pub fn from_wire(status: Status, details: [u64; 2]) -> Option<Self> {
        let resource = || Resource::from_wire(details[0]);
        Some(match status.0.checked_sub(Status::MEMORY_FIRST)? {
            0 => Self::ZeroLength,
            1 => Self::OutOfRange { end: details[0], size: details[1] },
            2 => Self::UnknownRegion,
            3 => Self::NotYours,
            4 => Self::StaleReference,
            5 => Self::Consumed,
            6 => Self::Dropped,
            7 => Self::Expired,
            8 => Self::NotOwner,
            9 => Self::Forged,
            10 => Self::WrongNode { memory_node: details[0] as u32 },
            11 => Self::StaleIncarnation { incarnation: details[0] },
            12 => Self::MissingRights { rights: Rights::from_bits_truncate(details[0] as u8) },
            13 => Self::Exhausted { resource: resource()?, limit: details[1] },
            14 => Self::Quota {
                resource: Resource::from_wire(details[0] & 0xFF)?,
                limit: details[1],
                wanted: details[0] >> 8,
            },
            15 => Self::Malformed,
            16 => Self::TooLong { length: details[0], max: details[1] },
            _ => return None,
        })
    }
}

impl core::fmt::Display for MemoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ZeroLength => f.write_str("length 0; at least 1 byte is needed"),
            Self::OutOfRange { end: u64::MAX, size } => {
                write!(f, "offset and length overflow; the range has {size} bytes")
            }
            Self::OutOfRange { end, size } => {
                write!(f, "the range would end at byte {end}; there are {size} bytes")
            }
            Self::UnknownRegion => f.write_str("no such region, or it was freed"),
            Self::NotYours => f.write_str("the region belongs to another session"),
            Self::StaleReference => f.write_str("the reference is stale: its entry is gone"),
            Self::Consumed => f.write_str("the reference was claimed: only its new owner has it"),
            Self::Dropped => f.write_str("the reference was dropped by its owner"),
            Self::Expired => f.write_str("the reference expired: its owner is gone"),
            Self::NotOwner => f.write_str("only the reference's owner may do this: claim it first"),
            Self::Forged => f.write_str("the reference was not made by this memory node"),
            Self::WrongNode { memory_node } => {
                write!(f, "the reference is to memory node {memory_node}, not to this one")
            }
            Self::StaleIncarnation { incarnation } => write!(
                f,
                "the reference is of the memory node's incarnation {incarnation}; it has restarted"
            ),
            Self::MissingRights { rights } => {
                write!(f, "the reference does not give the rights {rights:?}")
            }
            Self::Exhausted { resource, limit } => {
                write!(f, "out of {resource}: of {limit} in all, fewer are free than it takes")
            }
            Self::Quota { resource, limit, wanted } => {
                write!(f, "quota of {limit} {resource} exceeded: the session would have {wanted}")
            }
            Self::Malformed => f.write_str("the request's steps make no sense"),
            Self::TooLong { length, max } => {
                write!(f, "{length} bytes are too many for one operation: at most {max}")
            }
        }
    }
}

impl core::error::Error for MemoryError {}

/// The parameters of a failed answer.
pub fn failure_parameters(step: u8, details: [u64; 2]) -> [u8; FAILURE_BYTES] {
    let mut bytes = [0; FAILURE_BYTES];
    bytes[0] = step;
    put(&mut bytes, 8, details[0].to_le_bytes());
    put(&mut bytes, 16, details[1].to_le_bytes());
    bytes
}

/// Reads [`failure_parameters`]: which step failed, and the details.
pub fn parse_failure(parameters: &[u8]) -> Option<(u8, [u64; 2])> {
    let bytes: &[u8; FAILURE_BYTES] = parameters.try_into().ok()?;
    Some((bytes[0], [u64_at(bytes, 8), u64_at(bytes, 16)]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use std::string::ToString;

    #[test]
    fn bounds_are_named_in_words() {
        let out = MemoryError::Exhausted { resource: Resource::Frames, limit: 64 };
        assert_eq!(out.to_string(), "out of frames: of 64 in all, fewer are free than it takes");
        let resource = Resource::StagedPages;
        let quota = MemoryError::Quota { resource, limit: 8, wanted: 9 };
        let text = "quota of 8 pages of writes in progress exceeded: the session would have 9";
        assert_eq!(quota.to_string(), text);
    }

    proptest! {
        #[test]
        fn errors_round_trip(code in 0..20u16, details in any::<[u64; 2]>()) {
            let status = Status(Status::MEMORY_FIRST + code);
            if let Some(error) = MemoryError::from_wire(status, details) {
                let (again, details) = error.to_wire();
                prop_assert_eq!(again, status);
                prop_assert_eq!(MemoryError::from_wire(again, details), Some(error));
            }
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_failure(&noise);
        }
    }
}
