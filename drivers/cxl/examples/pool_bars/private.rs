//! A private mapping of a file, whose pages the kernel copies when they are first written; and
//! bytes of a pool used where they are.
//!
//! This file has `unsafe` because mapping files is, and because what may be used where it is, only
//! the store knows: the memory is this program's own, which nobody else has.
#![allow(unsafe_code)]

use std::fs::File;

use dmrpc_cxl::Direct;
use memmap2::{MmapMut, MmapOptions};

/// Sets `bytes` bytes at `place` of a region's own pages.
pub(crate) fn fill(direct: &Direct, place: u64, bytes: u64, value: u8) {
    // SAFETY: own pages are nobody else's, and this program uses each from one thread at a time.
    unsafe { direct.slice_mut(place, bytes) }.fill(value);
}

/// Adds up `bytes` bytes at `place` of a pinned range.
pub(crate) fn sum(direct: &Direct, place: u64, bytes: u64) -> u64 {
    // SAFETY: what is pinned does not change.
    crate::chain::sum(unsafe { direct.slice(place, bytes) })
}

/// Maps `file`, `bytes` bytes long and changed by nobody, privately.
///
/// # Errors
/// What the system says.
pub(crate) fn map(file: &File, bytes: usize) -> std::io::Result<MmapMut> {
    // SAFETY: the file is a memfd of this process that nobody writes to while it is mapped.
    unsafe { MmapOptions::new().len(bytes).map_copy(file) }
}
