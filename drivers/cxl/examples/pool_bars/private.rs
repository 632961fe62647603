//! A private mapping of a file, whose pages the kernel copies when they are first written.
//!
//! This file has `unsafe` because mapping files is: the file is this program's own memory, which
//! nobody else has.
#![allow(unsafe_code)]

use std::fs::File;

use memmap2::{MmapMut, MmapOptions};

/// Maps `file`, `bytes` bytes long and changed by nobody, privately.
///
/// # Errors
/// What the system says.
pub(crate) fn map(file: &File, bytes: usize) -> std::io::Result<MmapMut> {
    // SAFETY: the file is a memfd of this process that nobody writes to while it is mapped.
    unsafe { MmapOptions::new().len(bytes).map_copy(file) }
}
