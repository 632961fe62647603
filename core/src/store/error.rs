//! What may be wrong with a request, each with the value that was wrong.

use core::fmt;

/// Short for results of the store.
pub type Result<T> = core::result::Result<T, Error>;

/// A kind of thing of which a store has a fixed number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Page frames of 4 KiB.
    Frames,
    /// Tree nodes and list chunks of 256 bytes.
    Nodes,
    /// Versions.
    Versions,
    /// Regions.
    Regions,
    /// References (entries of the table).
    Entries,
    /// Holders.
    Holders,
    /// Pins.
    Pins,
    /// Staged writes.
    Stages,
    /// References without an owner.
    Detached,
    /// Holds on one version: its regions, references and pins together.
    Holds,
    /// Participants: handles on one store.
    Participants,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames",
            Self::Nodes => "nodes of page tables",
            Self::Versions => "versions",
            Self::Regions => "regions",
            Self::Entries => "references",
            Self::Holders => "holders",
            Self::Pins => "pins",
            Self::Stages => "staged writes",
            Self::Detached => "detached references",
            Self::Holds => "holds on one version",
            Self::Participants => "participants",
        })
    }
}

/// A kind of thing that an identifier names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    /// See [`super::RegionId`].
    Region,
    /// See [`super::EntryId`].
    Reference,
    /// See [`super::HolderId`].
    Holder,
    /// See [`super::PinId`].
    Pin,
    /// See [`super::StageId`].
    Stage,
}

/// Why the store refused. Whatever the reason but the last, nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Error {
    /// Not now: freed memory is still being reclaimed. Wait and ask again.
    Pending,
    /// None is left and none is about to come back.
    OutOf {
        /// Of what.
        what: Resource,
        /// How many there are in all.
        limit: u64,
        /// How many are in use or reserved.
        in_use: u64,
    },
    /// The holder may not have more.
    Quota {
        /// Of what.
        what: Resource,
        /// How many it may have.
        limit: u64,
        /// How many it would have had.
        wanted: u64,
    },
    /// The identifier names nothing, or nothing any more.
    Stale {
        /// What it should have named.
        what: Object,
        /// The slot it names.
        index: u32,
        /// The life of that slot it names.
        generation: u64,
    },
    /// The reference was claimed: it has another owner and another generation now.
    Consumed,
    /// The reference was dropped by its owner.
    Dropped,
    /// The reference outlived its owner's grace.
    Expired,
    /// The reference belongs to somebody else, or to nobody.
    NotOwner,
    /// The region or staged write belongs to another holder.
    NotYours,
    /// The region was mapped for reading only.
    ReadOnly,
    /// A range of no bytes.
    ZeroLength,
    /// Offset and length together exceed 64 bits.
    Overflow {
        /// Bytes.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The range ends behind the object.
    Range {
        /// Bytes.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes that the object has.
        size: u64,
    },
    /// Longer than one region or one staged write can be.
    TooLarge {
        /// Bytes asked for.
        len: u64,
        /// Bytes possible.
        max: u64,
    },
    /// A staged write of which bytes are missing, or came twice.
    Incomplete {
        /// Bytes that came.
        filled: u64,
        /// Bytes that were announced.
        len: u64,
    },
    /// The pool contradicts itself: another participant wrote where it may not.
    Corrupt,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Pending => f.write_str("memory is still being reclaimed: try again"),
            Self::OutOf { what, limit, in_use } => {
                write!(f, "no {what} left: {in_use} of {limit} are taken; free some or give more")
            }
            Self::Quota { what, limit, wanted } => {
                write!(f, "quota of {limit} {what} exceeded: this would make {wanted}")
            }
            Self::Stale { what, index, generation } => {
                write!(f, "{what:?} {index} of generation {generation} does not exist (any more)")
            }
            Self::Consumed => f.write_str("the reference was claimed by another owner"),
            Self::Dropped => f.write_str("the reference was dropped by its owner"),
            Self::Expired => f.write_str("the reference's owner is gone and its grace is over"),
            Self::NotOwner => f.write_str("the reference is not yours: claim it first"),
            Self::NotYours => f.write_str("the region belongs to another holder"),
            Self::ReadOnly => f.write_str("the region was mapped for reading only"),
            Self::ZeroLength => f.write_str("the range has no bytes: ask for at least 1"),
            Self::Overflow { offset, len } => {
                write!(f, "offset {offset} and length {len} together exceed 64 bits")
            }
            Self::Range { offset, len, size } => {
                write!(f, "{len} bytes at {offset} do not fit into {size} bytes")
            }
            Self::TooLarge { len, max } => write!(f, "{len} bytes are too many: at most {max}"),
            Self::Incomplete { filled, len } => {
                write!(f, "{filled} of {len} staged bytes were written: each must be, once")
            }
            Self::Corrupt => {
                f.write_str("the pool contradicts itself: somebody wrote where they may not")
            }
        }
    }
}

impl core::error::Error for Error {}

/// Why a pool can't be formatted or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// The pool is smaller than its parts.
    TooSmall {
        /// Bytes that the pool has.
        bytes: u64,
        /// Bytes that the parts need.
        needed: u64,
    },
    /// A part of the configuration is zero or above what its index can count.
    Limit {
        /// Which.
        what: Resource,
        /// How many were asked for.
        wanted: u64,
        /// How many are possible.
        max: u64,
    },
    /// The pool does not begin with a store of this format.
    Foreign {
        /// The word found.
        found: u64,
        /// The word expected.
        expected: u64,
    },
    /// The store has no such participant.
    NoParticipant {
        /// Which was asked for.
        participant: u32,
        /// How many there are.
        participants: u32,
    },
    /// Somebody else is this participant, or died as it and was not recovered.
    Attached {
        /// Which.
        participant: u32,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { bytes, needed } => {
                write!(f, "a pool of {bytes} bytes is too small: at least {needed} are needed")
            }
            Self::Limit { what, wanted, max } => {
                write!(f, "{wanted} {what} can't be had: 1 to {max} can")
            }
            Self::Foreign { found, expected } => {
                write!(f, "no store of this format: {found:#x} where {expected:#x} should be")
            }
            Self::NoParticipant { participant, participants } => {
                write!(f, "there is no participant {participant}: 0 to {} are", participants - 1)
            }
            Self::Attached { participant } => {
                write!(f, "participant {participant} is in use: choose another or recover it")
            }
        }
    }
}

impl core::error::Error for FormatError {}
