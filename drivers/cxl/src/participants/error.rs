//! Why somebody cannot be a participant.

use std::fmt;

/// Why nobody could attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// All slots are taken.
    Full {
        /// How many there are.
        slots: u32,
    },
    /// The slot asked for is somebody's.
    Taken {
        /// The slot.
        index: u32,
        /// Whose.
        pid: u32,
        /// Whether it has left or its process is known to be gone, so that the memory node will
        /// free the slot.
        gone: bool,
    },
    /// There is no such slot.
    NoSlot {
        /// The slot asked for.
        index: u32,
        /// How many there are.
        slots: u32,
    },
    /// Without atomics between hosts each participant has to be told its slot.
    SlotNeeded,
    /// The pool is in coherent mode and used by another host, and nobody said that its memory is
    /// coherent between hosts.
    OtherHost {
        /// A participant of that host.
        index: u32,
        /// The host.
        host: u64,
    },
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { slots } => write!(
                f,
                "all {slots} participants' slots of the pool are taken; end a participant, or \
                 format a pool with more"
            ),
            Self::Taken { index, pid, gone: false } => {
                write!(f, "participant {index} of the pool is process {pid}; give another number")
            }
            Self::Taken { index, pid, gone: true } => write!(
                f,
                "participant {index} of the pool, process {pid}, has left or is gone, and the \
                 pool's memory node has not recovered what it had yet: see that dmrpc-mn runs, or \
                 give another number"
            ),
            Self::NoSlot { index, slots } => {
                write!(f, "the pool has no participant {index}: give 0 to {}", slots - 1)
            }
            Self::OtherHost { index, host } => write!(
                f,
                "participant {index} of the pool, which is in coherent mode, is of another host, \
                 {host:x}: updates of two hosts get lost unless the memory keeps them coherent; \
                 give --coherent-hosts if it does, or format a pool in flush mode"
            ),
            Self::SlotNeeded => {
                f.write_str("a pool in flush mode needs the participant's number to be given")
            }
        }
    }
}

impl std::error::Error for AttachError {}
