//! Bytes by path: device-dax, hugetlbfs, tmpfs and memfd, mapped shared.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dmrpc_core::memory::{Atomic, LINE_BYTES, LineWords, Memory};
use dmrpc_core::time::Duration;

use crate::direct::Direct;
use crate::latency::Delay;
use crate::sys;

mod error;

pub use error::MapError;

/// What a pool's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device-dax: CXL or other memory that the kernel leaves alone.
    Dax,
    /// A file of hugetlbfs: huge pages of the host.
    HugePages,
    /// A file of tmpfs, or a memfd: pages of the host.
    Pages,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dax => "device-dax",
            Self::HugePages => "hugetlbfs",
            Self::Pages => "tmpfs or memfd",
        })
    }
}

/// `statfs` says so of hugetlbfs (`include/uapi/linux/magic.h`).
const HUGETLBFS: i64 = 0x9584_58f6;
/// `statfs` says so of tmpfs, which memfds are on too.
const TMPFS: i64 = 0x0102_1994;
/// Mappings of hugetlbfs and, by default, of device-dax are multiples of this; of others, of pages.
const HUGE_PAGE_BYTES: u64 = 2 << 20;
const PAGE_BYTES: u64 = 4096;

/// Memory that other processes map too.
#[derive(Debug)]
pub struct Mapping {
    region: Arc<sys::Region>,
    /// The same memory, to be read only.
    read_only: Arc<sys::Region>,
    file: File,
    path: PathBuf,
    kind: Kind,
    /// What its memory is slowed down by.
    delay: Option<Delay>,
}

impl Mapping {
    /// Maps what is at `path`, all of it.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn open(path: &Path) -> Result<Self, MapError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|source| MapError::Open { path: path.into(), source })?;
        let (kind, bytes) = inspect(&file, path)?;
        Self::map(file, path, kind, bytes)
    }

    /// Makes a file of `bytes` bytes at `path` and maps it, or maps the device or the file of
    /// just that size that is there; whether the file was made now is the other result. Its
    /// memory is taken from the system at once, so that no later touch of it can fail.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn create(path: &Path, bytes: u64) -> Result<(Self, bool), MapError> {
        Self::create_on(path, bytes, None)
    }

    /// The same with the memory taken from a NUMA node, if one is named.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn create_on(path: &Path, bytes: u64, node: Option<u32>) -> Result<(Self, bool), MapError> {
        let is_new = !path.exists();
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|source| MapError::Open { path: path.into(), source })?;
        if !is_new {
            let (kind, found) = inspect(&file, path)?;
            if kind != Kind::Dax && found != bytes {
                return Err(MapError::Size { path: path.into(), wanted: bytes, found });
            }
            if kind == Kind::Dax && found < bytes {
                return Err(MapError::Size { path: path.into(), wanted: bytes, found });
            }
            let mapping = Self::map(file, path, kind, found)?;
            node.map_or(Ok(()), |node| mapping.move_to_node(node))?;
            return Ok((mapping, false));
        }
        let made = kind_of(&file, path).and_then(|kind| {
            aligned(path, kind, bytes)?;
            let map_error = |source| MapError::Map { path: path.into(), bytes, source };
            file.set_len(bytes).map_err(map_error)?;
            let mapping = Self::map(file, path, kind, bytes)?;
            // Said before there are pages: each is taken from there at once.
            node.map_or(Ok(()), |node| mapping.bind_to_node(node))?;
            sys::reserve(&mapping.file, bytes).map_err(map_error)?;
            Ok(mapping)
        });
        if made.is_err() {
            // An empty file left behind would be taken for a pool that is too small.
            let _ = fs::remove_file(path);
        }
        Ok((made?, true))
    }

    /// Makes memory of `bytes` bytes that has no path. Others get at it by
    /// `/proc/PID/fd/NUMBER` while this process lives, see [`Mapping::path`].
    ///
    /// # Errors
    /// [`MapError`].
    pub fn memfd(name: &str, bytes: u64) -> Result<Self, MapError> {
        let path = PathBuf::from(format!("memfd:{name}"));
        let file = sys::memory_file(name);
        let file = file.map_err(|source| MapError::Open { path: path.clone(), source })?;
        aligned(&path, Kind::Pages, bytes)?;
        sys::reserve(&file, bytes).map_err(|source| MapError::Map {
            path: path.clone(),
            bytes,
            source,
        })?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let path = PathBuf::from(format!("/proc/{}/fd/{number}", std::process::id()));
        Self::map(file, &path, Kind::Pages, bytes)
    }

    fn map(file: File, path: &Path, kind: Kind, bytes: u64) -> Result<Self, MapError> {
        aligned(path, kind, bytes)?;
        let map_error = |source| MapError::Map { path: path.into(), bytes, source };
        let length = usize::try_from(bytes).map_err(|error| map_error(io::Error::other(error)))?;
        let region = sys::Region::map(&file, length).map_err(map_error)?.of_pool(path);
        if kind == Kind::Pages {
            region.prefer_huge_pages();
        }
        let read_only = sys::Region::map_read_only(&file, length).map_err(map_error)?;
        let read_only = read_only.of_pool(path);
        if kind == Kind::Pages {
            read_only.prefer_huge_pages();
        }
        let (region, read_only) = (Arc::new(region), Arc::new(read_only));
        Ok(Self { region, read_only, file, path: path.into(), kind, delay: None })
    }

    /// The path that others map it by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> u64 {
        self.region.bytes() as u64
    }

    /// The open file: for locks.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The `bytes` bytes from `offset` on as pool memory, for any thread and as long as wanted.
    ///
    /// # Panics
    /// If they are not within the mapping, fewer than 8, or `offset` is no multiple of 8.
    pub fn memory(&self, offset: u64, bytes: u64) -> PoolMemory {
        let (offset, bytes) = (offset as usize, bytes as usize);
        let memory = self.region.memory_unbound(offset, bytes);
        PoolMemory { memory, offset, region: Arc::clone(&self.region), delay: self.delay.clone() }
    }

    /// Makes loads of the memory that [`Mapping::memory`] gives from now on take `latency`.
    pub fn slow_down(&mut self, latency: Duration) {
        let memory = self.region.memory_unbound(0, 8);
        self.delay = Some(Delay::calibrated(&memory, latency));
    }

    /// Where the writable mapping begins.
    #[cfg(test)]
    pub(crate) fn address(&self) -> usize {
        self.region.base().addr().get()
    }

    /// Lets the kernel refuse writes through this mapping to the whole pages among `bytes` bytes at
    /// `offset`; false where it cannot.
    pub(crate) fn protect(&self, offset: u64, bytes: u64) -> bool {
        self.region.protect(offset as usize, bytes as usize)
    }

    /// The `bytes` bytes from `offset` on as slices where they are.
    ///
    /// # Panics
    /// If they are not within the mapping.
    pub fn direct(&self, offset: u64, bytes: u64) -> Direct {
        let (read_only, writable) = (Arc::clone(&self.read_only), Arc::clone(&self.region));
        Direct::new(read_only, writable, offset as usize, bytes as usize)
    }

    /// Moves the memory's pages to NUMA node `node`, where those to come are taken from, too.
    ///
    /// # Errors
    /// [`MapError::Node`].
    pub fn move_to_node(&self, node: u32) -> Result<(), MapError> {
        // The kernel moves those that it finds in this process's page tables.
        self.touch();
        self.bind_to_node(node)
    }

    fn bind_to_node(&self, node: u32) -> Result<(), MapError> {
        self.region.bind_to_node(node).map_err(|source| MapError::Node { node, source })
    }

    /// Reads a byte of every page, so that later accesses find them there.
    pub fn touch(&self) {
        let page = if self.kind == Kind::Pages { PAGE_BYTES } else { HUGE_PAGE_BYTES };
        self.region.touch(page as usize);
    }
}

/// A part of a mapping as pool memory. It keeps the mapping alive.
#[derive(Debug)]
pub struct PoolMemory {
    memory: Atomic<'static>,
    offset: usize,
    region: Arc<sys::Region>,
    /// For memory that is to be slower than it is.
    delay: Option<Delay>,
}

impl Clone for PoolMemory {
    fn clone(&self) -> Self {
        let memory = self.region.memory_unbound(self.offset, self.memory.len() as usize);
        Self { memory, region: Arc::clone(&self.region), delay: self.delay.clone(), ..*self }
    }
}

impl Memory for PoolMemory {
    #[inline(always)]
    fn line(&self, offset: u64) -> Option<LineWords<'_>> {
        if let Some(delay) = &self.delay {
            delay.load(offset, LINE_BYTES, || self.memory.load_u64(offset));
        }
        self.memory.line(offset)
    }

    #[inline(always)]
    fn len(&self) -> u64 {
        self.memory.len()
    }

    #[inline(always)]
    fn shared(&self) -> bool {
        true
    }

    #[inline(always)]
    fn load_u32(&self, offset: u64) -> u32 {
        match &self.delay {
            None => self.memory.load_u32(offset),
            Some(delay) => delay.load(offset, 4, || self.memory.load_u32(offset)),
        }
    }

    #[inline(always)]
    fn load_u64(&self, offset: u64) -> u64 {
        match &self.delay {
            None => self.memory.load_u64(offset),
            Some(delay) => delay.load(offset, 8, || self.memory.load_u64(offset)),
        }
    }

    #[inline(always)]
    fn store_u32(&self, offset: u64, value: u32) {
        if let Some(delay) = &self.delay {
            delay.stored(offset, 4);
        }
        self.memory.store_u32(offset, value);
    }

    #[inline(always)]
    fn store_u64(&self, offset: u64, value: u64) {
        if let Some(delay) = &self.delay {
            delay.stored(offset, 8);
        }
        self.memory.store_u64(offset, value);
    }

    #[inline(always)]
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        match &self.delay {
            None => self.memory.compare_exchange_u64(offset, current, new),
            Some(delay) => {
                delay.load(offset, 8, || self.memory.compare_exchange_u64(offset, current, new))
            }
        }
    }

    #[inline(always)]
    fn read(&self, offset: u64, target: &mut [u8]) {
        match &self.delay {
            None => self.memory.read(offset, target),
            Some(delay) => {
                delay.load(offset, target.len() as u64, || self.memory.read(offset, target))
            }
        }
    }

    #[inline(always)]
    fn write(&self, offset: u64, source: &[u8]) {
        if let Some(delay) = &self.delay {
            delay.stored(offset, source.len() as u64);
        }
        self.memory.write(offset, source);
    }

    #[inline(always)]
    fn copy(&self, source: u64, target: u64, len: u64) {
        match &self.delay {
            None => self.memory.copy(source, target, len),
            Some(delay) => {
                delay.load(source, len, || self.memory.copy(source, target, len));
                delay.stored(target, len);
            }
        }
    }

    #[inline(always)]
    fn fill_zero(&self, offset: u64, len: u64) {
        if let Some(delay) = &self.delay {
            delay.stored(offset, len);
        }
        self.memory.fill_zero(offset, len);
    }

    #[inline(always)]
    fn flush(&self, offset: u64, len: u64) {
        if let Some(delay) = &self.delay {
            delay.forget(offset, len);
        }
        self.memory.flush(offset, len);
    }

    #[inline(always)]
    fn fence(&self) {
        self.memory.fence();
    }
}

/// The kind of `file`.
fn kind_of(file: &File, path: &Path) -> Result<Kind, MapError> {
    let open_error = |source| MapError::Open { path: path.into(), source };
    let metadata = file.metadata().map_err(open_error)?;
    if metadata.file_type().is_char_device() {
        return Ok(Kind::Dax);
    }
    match sys::file_system(file).map_err(open_error)? {
        HUGETLBFS => Ok(Kind::HugePages),
        TMPFS if metadata.file_type().is_file() => Ok(Kind::Pages),
        _ => Err(MapError::Unsuitable { path: path.into() }),
    }
}

/// The kind of `file` and its size in bytes.
fn inspect(file: &File, path: &Path) -> Result<(Kind, u64), MapError> {
    let kind = kind_of(file, path)?;
    let metadata =
        file.metadata().map_err(|source| MapError::Open { path: path.into(), source })?;
    match kind {
        // The size of the file is 0 there.
        Kind::Dax => Ok((kind, dax_attribute(&metadata, path, "size")?)),
        Kind::HugePages | Kind::Pages => Ok((kind, metadata.len())),
    }
}

/// A number that sysfs tells of a device-dax.
fn dax_attribute(metadata: &fs::Metadata, path: &Path, name: &str) -> Result<u64, MapError> {
    let (major, minor) = sys::device_numbers(metadata.rdev());
    let looked_for = PathBuf::from(format!("/sys/dev/char/{major}:{minor}/{name}"));
    let text = fs::read_to_string(&looked_for).ok();
    let number = text.and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| MapError::Unknown { path: path.into(), looked_for })
}

/// Whether `bytes` bytes of that kind can be mapped.
fn aligned(path: &Path, kind: Kind, bytes: u64) -> Result<(), MapError> {
    let unit = if kind == Kind::Pages { PAGE_BYTES } else { HUGE_PAGE_BYTES };
    if bytes == 0 || !bytes.is_multiple_of(unit) {
        return Err(MapError::Alignment { path: path.into(), bytes, unit });
    }
    Ok(())
}
