//! Why a path gives no memory.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a path gives no memory.
#[derive(Debug)]
pub enum MapError {
    /// The path cannot be opened or made.
    Open {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is neither a device-dax nor a file of hugetlbfs or tmpfs.
    Unsuitable {
        /// The path.
        path: PathBuf,
    },
    /// The device's size or alignment is not to be found in sysfs.
    Unknown {
        /// The path.
        path: PathBuf,
        /// What was looked for.
        looked_for: PathBuf,
    },
    /// The size asked for is not the file's.
    Size {
        /// The path.
        path: PathBuf,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The size is no multiple of what the memory is made of, or nothing.
    Alignment {
        /// The path.
        path: PathBuf,
        /// Bytes asked for or found.
        bytes: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// The system does not map it: mostly for want of memory or of huge pages.
    Map {
        /// The path.
        path: PathBuf,
        /// Bytes asked for.
        bytes: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The memory cannot be bound to the NUMA node.
    Node {
        /// The node asked for.
        node: u32,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, source } => write!(
                f,
                "pool {}: cannot be opened: {source}; give a path that this user may read and \
                 write, such as /dev/shm/pool",
                path.display()
            ),
            Self::Unsuitable { path } => write!(
                f,
                "pool {}: is neither a device-dax nor a file on hugetlbfs or tmpfs; give a path \
                 like /dev/dax0.0 or /dev/shm/pool",
                path.display()
            ),
            Self::Unknown { path, looked_for } => write!(
                f,
                "pool {}: the kernel does not tell its size in {}; give a device-dax",
                path.display(),
                looked_for.display()
            ),
            Self::Size { path, wanted, found } => write!(
                f,
                "pool {}: has {found} bytes, {wanted} were asked for; leave the size out, or \
                 remove the file",
                path.display()
            ),
            Self::Alignment { path, bytes, unit } => write!(
                f,
                "pool {}: {bytes} bytes cannot be mapped; give a multiple of {unit}",
                path.display()
            ),
            Self::Map { path, bytes, source } => write!(
                f,
                "pool {}: {bytes} bytes cannot be had: {source}; give a smaller pool, or reserve \
                 huge pages in /proc/sys/vm/nr_hugepages",
                path.display()
            ),
            Self::Node { node, source } => write!(
                f,
                "the pool cannot be bound to NUMA node {node}: {source}; \
                 /sys/devices/system/node/online lists those there are"
            ),
        }
    }
}

impl std::error::Error for MapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::Map { source, .. } | Self::Node { source, .. } => {
                Some(source)
            }
            _ => None,
        }
    }
}
