//! Memory for a pool of any size, of which only what is touched is taken.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use dmrpc_core::memory::Plain;

/// An anonymous private mapping, given back when dropped.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes, on huge pages where the system has them.
    pub(crate) fn new(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping touches no memory that is in use.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: advice about the mapping just made; whether it is taken does not matter.
        unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, len })
    }

    /// The mapping as pool memory.
    pub(crate) fn memory(&mut self) -> Plain<'_> {
        // SAFETY: the mapping is valid for reads and writes until dropped, and the exclusive
        // borrow keeps everybody else away that long.
        unsafe { Plain::from_raw(self.base, self.len as u64) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrows the mapping any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
