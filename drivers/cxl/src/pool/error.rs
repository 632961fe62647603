//! Why there is no pool.

use std::fmt;
use std::path::PathBuf;

use crate::ring;
use crate::superblock::{Mode, VERSION};

/// Why there is no pool to be had.
#[derive(Debug)]
pub enum PoolError {
    /// The memory is too small.
    TooSmall {
        /// The pool's path.
        path: PathBuf,
        /// Bytes there are.
        bytes: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// There is no pool: it is blank.
    Blank {
        /// The path.
        path: PathBuf,
    },
    /// It holds something that is no pool.
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// It is a pool of another version of the format.
    OtherVersion {
        /// The pool's path.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// Its superblock is damaged.
    Damaged {
        /// The pool's path.
        path: PathBuf,
    },
    /// It is in another coherence mode.
    OtherMode {
        /// The pool's path.
        path: PathBuf,
        /// The pool's.
        found: Mode,
        /// The one asked for.
        wanted: Mode,
    },
    /// Somebody uses it.
    InUse {
        /// The pool's path.
        path: PathBuf,
        /// The participant.
        participant: u32,
        /// Its process.
        pid: u32,
        /// Whether that is on another host, where nobody here can know whether it lives.
        elsewhere: bool,
    },
    /// Somebody else is formatting it.
    BeingFormatted {
        /// The path.
        path: PathBuf,
    },
    /// A number of the layout is out of range.
    Range {
        /// Which.
        what: &'static str,
        /// The number given.
        given: u32,
        /// The smallest possible.
        min: u32,
        /// The largest possible.
        max: u32,
    },
    /// The number of datagrams in a ring is no power of two.
    NotPowerOfTwo {
        /// The number given.
        given: u32,
    },
    /// Too many rings for flush mode, where each has to be polled.
    RingsInFlushMode {
        /// The number of participants with rings that was given.
        given: u32,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { path, bytes, needed } => write!(
                f,
                "pool {}: {bytes} bytes are too few: give {needed} or more",
                path.display()
            ),
            Self::Blank { path } => write!(
                f,
                "pool {}: is not formatted: start dmrpc-mn --pool on it first",
                path.display()
            ),
            Self::Foreign { path } => write!(
                f,
                "pool {}: holds something that is not a pool; to overwrite it, format by force",
                path.display()
            ),
            Self::OtherVersion { path, found } => write!(
                f,
                "pool {}: has format version {found}, this program speaks {VERSION}; to overwrite \
                 it, format by force",
                path.display()
            ),
            Self::Damaged { path } => write!(
                f,
                "pool {}: its superblock is damaged; to overwrite it, format by force",
                path.display()
            ),
            Self::OtherMode { path, found, wanted } => write!(
                f,
                "pool {}: is in {found} mode, not in {wanted} mode; give --coherence {found}",
                path.display()
            ),
            Self::InUse { path, participant, pid, elsewhere: false } => write!(
                f,
                "pool {}: is in use by process {pid} (participant {participant}); end it first",
                path.display()
            ),
            Self::InUse { path, participant, pid, elsewhere: true } => write!(
                f,
                "pool {}: is in use by process {pid} of another host (participant {participant}); \
                 if that host is known to be gone, format by force",
                path.display()
            ),
            Self::BeingFormatted { path } => {
                write!(f, "pool {}: another process is formatting it", path.display())
            }
            Self::Range { what, given, min, max } => {
                write!(f, "{given} {what} are not possible: give {min} to {max}")
            }
            Self::NotPowerOfTwo { given } => {
                write!(f, "{given} datagrams in a ring are not possible: give a power of two")
            }
            Self::RingsInFlushMode { given } => write!(
                f,
                "{given} participants with rings are too many in flush mode: give at most {}",
                ring::DIRECT_MAX
            ),
        }
    }
}

impl std::error::Error for PoolError {}
