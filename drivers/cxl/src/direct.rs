//! Slices of the pool where it is: for what nobody writes, or nobody but the caller.
//!
//! Whether that is so, the page store knows and this module cannot: its two functions are `unsafe`,
//! and their callers say why they may. Slices to be read come from a second mapping, which the
//! kernel lets nobody write through: a stray write there ends the process instead of changing what
//! others read.
#![allow(unsafe_code)]

use std::slice;
use std::sync::Arc;

use crate::sys;

/// A part of a pool, as bytes where they are.
#[derive(Clone, Debug)]
pub struct Direct {
    read_only: Arc<sys::Region>,
    writable: Arc<sys::Region>,
    offset: usize,
    bytes: usize,
}

impl Direct {
    pub(crate) fn new(
        read_only: Arc<sys::Region>,
        writable: Arc<sys::Region>,
        offset: usize,
        bytes: usize,
    ) -> Self {
        assert!(offset <= writable.bytes() && bytes <= writable.bytes() - offset, "a part beyond");
        assert_eq!(read_only.bytes(), writable.bytes(), "two mappings of one file");
        Self { read_only, writable, offset, bytes }
    }

    /// The place of a range in both mappings.
    ///
    /// # Panics
    /// If it is not within the part.
    fn checked(&self, offset: u64, bytes: u64) -> (usize, usize) {
        let part = self.bytes as u64;
        let inside = bytes <= part && offset <= part - bytes;
        assert!(inside, "{bytes} bytes at {offset:#x} are outside of {part:#x} bytes");
        (self.offset + offset as usize, bytes as usize)
    }

    /// `bytes` bytes from `offset` of the part on, through the mapping that cannot be written.
    ///
    /// # Safety
    /// For as long as the slice is used nobody writes these bytes, in this process or another.
    ///
    /// # Panics
    /// If they are not within the part.
    pub unsafe fn slice(&self, offset: u64, bytes: u64) -> &[u8] {
        let (offset, bytes) = self.checked(offset, bytes);
        // SAFETY: within the live mapping, which `self` keeps; the caller vouches for the rest.
        unsafe { slice::from_raw_parts(self.read_only.base().add(offset).as_ptr(), bytes) }
    }

    /// `bytes` bytes from `offset` of the part on, to be written.
    ///
    /// # Safety
    /// For as long as the slice is used nobody else reads or writes these bytes, in this process or
    /// another.
    ///
    /// # Panics
    /// If they are not within the part.
    #[expect(clippy::mut_from_ref, reason = "the bytes are not this value's, but the pool's")]
    pub unsafe fn slice_mut(&self, offset: u64, bytes: u64) -> &mut [u8] {
        let (offset, bytes) = self.checked(offset, bytes);
        // SAFETY: within the live mapping, which `self` keeps; the caller vouches for the rest.
        unsafe { slice::from_raw_parts_mut(self.writable.base().add(offset).as_ptr(), bytes) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use dmrpc_core::memory::Memory;

    use crate::Mapping;

    #[test]
    fn slices_are_the_pools_bytes() {
        let mapping = Mapping::memfd("dmrpc-direct", 1 << 20).expect("memory");
        let direct = mapping.direct(4096, 8192);
        // SAFETY: nobody else looks at this memory.
        unsafe { direct.slice_mut(100, 5) }.copy_from_slice(b"bytes");
        let mut found = [0; 5];
        mapping.memory(4096, 8192).read(100, &mut found);
        assert_eq!(&found, b"bytes");
        // SAFETY: nobody writes any more.
        assert_eq!(unsafe { direct.slice(101, 4) }, b"ytes");
        // SAFETY: it panics before there is a slice.
        let outside = || unsafe { direct.slice(8190, 3) }.len();
        assert!(catch_unwind(AssertUnwindSafe(outside)).is_err());
    }

    #[test]
    fn the_kernel_lets_nobody_write_through_slices_to_be_read() {
        let mapping = Mapping::memfd("dmrpc-direct", 1 << 20).expect("memory");
        let direct = mapping.direct(0, 1 << 20);
        // SAFETY: nobody writes.
        let at = unsafe { direct.slice(4096, 1) }.as_ptr().addr();
        let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
        let line = maps.lines().find(|line| {
            let (start, rest) = line.split_once('-').expect("a range");
            let (end, _) = rest.split_once(' ').expect("a range");
            let number = |text| usize::from_str_radix(text, 16).expect("an address");
            (number(start)..number(end)).contains(&at)
        });
        assert!(line.expect("mapped").contains(" r--s "), "{line:?}");
    }
}
