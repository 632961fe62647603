//! The pool's memory.

use std::fs;
use std::io;

use memmap2::{MmapMut, MmapOptions};

/// Maps `bytes` bytes of zeros. Pages are taken from the system as they are first touched.
pub(crate) fn map(bytes: usize, huge_pages: bool) -> io::Result<MmapMut> {
    let mut options = MmapOptions::new();
    options.len(bytes);
    if huge_pages {
        // 2^21 bytes: 2 MiB.
        options.huge(Some(21));
    }
    options.map_anon()
}

/// Memory that the system can give, in bytes, by its own estimate; `None` if it does not tell.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
