//! The system calls and the one mapping, each behind a safe function or type.

use std::ffi::{CString, c_int, c_ulong};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::{self, NonNull};

use dmrpc_core::memory::Atomic;
use volatile::VolatilePtr;

use crate::poison::Told;

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A shared mapping of a file from its start, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
    /// What is said if its memory turns out to be unusable.
    told: Option<Told>,
}

// SAFETY: it is an address and a length; what is behind it is reached through `Atomic` only.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps the first `bytes` bytes of `file`, shared, for reading and writing.
    pub(crate) fn map(file: &File, bytes: usize) -> io::Result<Self> {
        Self::map_for(file, bytes, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// The same for reading only. Not for [`Region::memory_unbound`].
    pub(crate) fn map_read_only(file: &File, bytes: usize) -> io::Result<Self> {
        Self::map_for(file, bytes, libc::PROT_READ)
    }

    fn map_for(file: &File, bytes: usize, protection: c_int) -> io::Result<Self> {
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, bytes, told: None })
    }

    /// Says of which pool it is, should its memory turn out to be unusable.
    pub(crate) fn of_pool(mut self, path: &Path) -> Self {
        self.told = Told::new(self.base.addr().get(), self.bytes, path);
        self
    }

    /// Where it is mapped.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The part of the mapping from `offset` on, as pool memory that is kept alive by other means.
    ///
    /// The caller must keep this region for as long as the memory is used; [`PoolMemory`] does.
    ///
    /// # Panics
    /// If the part is not within the mapping.
    ///
    /// [`PoolMemory`]: crate::mapping::PoolMemory
    pub(crate) fn memory_unbound(&self, offset: usize, bytes: usize) -> Atomic<'static> {
        assert!(offset <= self.bytes && bytes <= self.bytes - offset, "a part beyond the pool");
        // SAFETY: within the mapping; valid for reads and writes while the region lives, which
        // `PoolMemory` sees to: it holds the region by `Arc` beside the memory and hands out
        // neither. Whoever else maps the file goes through `Atomic` too.
        unsafe { Atomic::from_raw(self.base.add(offset), bytes as u64) }
    }

    /// Reads a byte of each stretch of `step` bytes, so that the pages are there.
    pub(crate) fn touch(&self, step: usize) {
        for offset in (0..self.bytes).step_by(step.max(1)) {
            // SAFETY: within the mapping; a volatile read of a byte has no invalid value.
            let byte = unsafe { VolatilePtr::new(self.base.add(offset)) };
            let _ = byte.read();
        }
    }

    /// Asks for pages of 2 MiB. Whether they come does not matter.
    pub(crate) fn prefer_huge_pages(&self) {
        // SAFETY: advice about the mapping, which is live.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE) };
    }

    /// Lets the kernel refuse writes through this mapping to the whole pages among `bytes` bytes at
    /// `offset`. False where it cannot: within larger pages than the machine's.
    ///
    /// # Panics
    /// If the part is not within the mapping.
    pub(crate) fn protect(&self, offset: usize, bytes: usize) -> bool {
        const PAGE_BYTES: usize = 4096;
        assert!(offset <= self.bytes && bytes <= self.bytes - offset, "a part beyond the pool");
        let start = offset.next_multiple_of(PAGE_BYTES);
        let length = (offset + bytes) / PAGE_BYTES * PAGE_BYTES;
        let Some(length) = length.checked_sub(start).filter(|length| *length > 0) else {
            return false;
        };
        // SAFETY: within the live mapping, and no reference into it is ever made for writing there:
        // a write to it was a mistake before, and ends the process now.
        unsafe {
            libc::mprotect(self.base.add(start).as_ptr().cast(), length, libc::PROT_READ) == 0
        }
    }

    /// Binds the mapping's pages to a NUMA node; those that are there already move.
    pub(crate) fn bind_to_node(&self, node: u32) -> io::Result<()> {
        const MPOL_BIND: c_ulong = 2;
        const MPOL_MF_MOVE: c_ulong = 2;
        const NODES_MAX: usize = 1024;
        let mut mask = [0u64; NODES_MAX / 64];
        let word = mask
            .get_mut(node as usize / 64)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        *word = 1 << (node % 64);
        // SAFETY: the range is the live mapping, and the mask has as many bits as is said.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.bytes,
                MPOL_BIND,
                mask.as_ptr(),
                NODES_MAX as c_ulong + 1,
                MPOL_MF_MOVE,
            )
        };
        check(result as c_int)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Before others may be mapped there.
        self.told = None;
        // SAFETY: nothing borrows the mapping any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The number of the file system's kind that `file` is on.
pub(crate) fn file_system(file: &File) -> io::Result<i64> {
    // SAFETY: zeros are a valid statfs, and the kernel writes no more than that.
    unsafe {
        let mut found: libc::statfs = mem::zeroed();
        check(libc::fstatfs(file.as_raw_fd(), &raw mut found))?;
        Ok(found.f_type)
    }
}

/// The numbers of a device file.
pub(crate) fn device_numbers(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}

/// Makes a file in memory that has no path.
pub(crate) fn memory_file(name: &str) -> io::Result<File> {
    let name = CString::new(name)?;
    // SAFETY: the name is a live string that ends in zero; a descriptor that is not negative is
    // new and ours alone.
    unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC);
        check(fd)?;
        Ok(File::from_raw_fd(fd))
    }
}

/// Reserves memory for the first `bytes` bytes of a file, so that no later touch can fail.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: no memory is passed.
    check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) })
}

/// A descriptor of the process `pid` that becomes readable when that process ends.
pub(crate) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a descriptor that is not negative is new and ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) as c_int;
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Whether `file` is readable now.
pub(crate) fn is_readable(file: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd is passed, and no time to wait.
    let count = unsafe { libc::poll(&raw mut poll, 1, 0) };
    // What the kernel says of a descriptor that is none is not that it is readable.
    count > 0 && poll.revents & libc::POLLIN != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmrpc_core::memory::Memory;

    #[test]
    fn two_mappings_of_one_file_are_the_same_memory() {
        let file = memory_file("dmrpc-test").expect("memfd");
        reserve(&file, 8192).expect("memory");
        let (a, b) = (Region::map(&file, 8192), Region::map(&file, 8192));
        let (a, b) = (a.expect("mapped"), b.expect("mapped"));
        a.memory_unbound(0, 8192).store_u64(4096, 7);
        a.touch(4096);
        a.prefer_huge_pages();
        let part = b.memory_unbound(4096, 4096);
        assert_eq!(part.compare_exchange_u64(0, 7, 8), Ok(7));
        assert_eq!(a.memory_unbound(0, 8192).load_u64(4096), 8);
        assert_eq!(a.bytes(), 8192);
    }

    #[test]
    fn a_node_that_does_not_exist_is_an_error() {
        let file = memory_file("dmrpc-test").expect("memfd");
        reserve(&file, 4096).expect("memory");
        let region = Region::map(&file, 4096).expect("mapped");
        assert!(region.bind_to_node(1023).is_err());
        assert!(region.bind_to_node(100_000).is_err());
    }

    #[test]
    fn a_process_is_readable_once_it_ended() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep");
        let file = open_process(child.id()).expect("it runs");
        use std::os::fd::AsFd;
        assert!(!is_readable(file.as_fd()));
        child.kill().expect("a child");
        // It is a zombie now or soon: gone, though not waited for.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !is_readable(file.as_fd()) {
            assert!(std::time::Instant::now() < end, "the end of a process was not seen");
        }
        child.wait().expect("a child");
    }
}
