//! Memory of a pool that cannot be read or written any more: cells that the hardware has marked as
//! *poisoned*, or a file that somebody has cut short. The kernel says so by SIGBUS, in the middle
//! of a load or a store, so there is no error to return, and no way on for this process: one line
//! tells which pool it was and where, and the process ends with code 1, as after other errors.
//! What it held is recovered as that of any process that died.
//!
//! `unsafe` is here because a signal handler can only be installed, and told its address, by raw
//! pointers. `mn-bin/tests/pool.rs` runs it.

use std::fmt::Write as _;
use std::mem;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{c_int, c_void, siginfo_t};

/// Mappings that are told of; of others the kernel's word stands.
const PLACES: usize = 64;
/// Bytes of a path that are told.
const PATH_BYTES: usize = 120;

/// A mapping, in words that a signal handler may read at any time.
struct Place {
    base: AtomicUsize,
    /// Zero: no mapping. Set last and cleared first.
    bytes: AtomicUsize,
    path: [AtomicU8; PATH_BYTES],
}

static TABLE: [Place; PLACES] = [const {
    Place {
        base: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        path: [const { AtomicU8::new(0) }; PATH_BYTES],
    }
}; PLACES];

/// Held by who changes the table.
static CHANGES: Mutex<()> = Mutex::new(());
/// What was done at SIGBUS before, once our handler is there.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// A mapping that is told of for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Told {
    place: usize,
}

impl Told {
    /// Tells of `bytes` bytes mapped at `base`, of the pool at `path`. `None` if there are too many
    /// mappings, or the system takes no handler.
    pub(crate) fn new(base: usize, bytes: usize, path: &Path) -> Option<Self> {
        (*BEFORE.get_or_init(install))?;
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |place: &Place| place.bytes.load(Ordering::Relaxed) == 0;
        let index = TABLE.iter().position(is_free)?;
        let place = &TABLE[index];
        let text = path.to_string_lossy();
        let padded = text.bytes().chain(std::iter::repeat(0));
        for (byte, value) in place.path.iter().zip(padded) {
            byte.store(value, Ordering::Relaxed);
        }
        place.base.store(base, Ordering::Relaxed);
        place.bytes.store(bytes, Ordering::Release);
        Some(Self { place: index })
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        TABLE[self.place].bytes.store(0, Ordering::Release);
    }
}

/// A line in memory of its own: a handler may not allocate.
struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.used..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.used += fits;
        Ok(())
    }
}

/// What is to be said of a fault at `address`, if it is in a pool.
fn explained(address: usize) -> Option<Line> {
    let (place, offset) = TABLE.iter().find_map(|place| {
        let bytes = place.bytes.load(Ordering::Acquire);
        let offset = address.wrapping_sub(place.base.load(Ordering::Relaxed));
        (offset < bytes).then_some((place, offset))
    })?;
    let mut line = Line { bytes: [0; 512], used: 0 };
    let path: [u8; PATH_BYTES] = std::array::from_fn(|at| place.path[at].load(Ordering::Relaxed));
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(PATH_BYTES);
    let path = std::str::from_utf8(&path[..end]).unwrap_or("(its path is no text)");
    let _ = writeln!(
        line,
        "dmrpc: pool {path}: its memory at byte {offset} cannot be used: the file was cut short, \
         or the memory there is damaged; this process ends. Make the pool anew, of other memory \
         if that is damaged"
    );
    Some(line)
}

extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands a handler that asked for it (SA_SIGINFO) a live siginfo, whose
    // address is set for SIGBUS.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    let is_fault = code > 0;
    if is_fault && let Some(line) = explained(address) {
        // SAFETY: write and _exit may be called in a handler; the bytes are live.
        unsafe {
            libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.used);
            libc::_exit(1);
        }
    }
    // Not ours. Whoever was there before has it when the access is tried again, or at once.
    if let Some(Some(before)) = BEFORE.get() {
        // SAFETY: an action that the kernel told us.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
    if !is_fault {
        // SAFETY: no memory is passed. It is heeded when this handler returns.
        unsafe { libc::raise(signal) };
    }
}

/// Installs the handler; returns what was done before, or none if the system refuses.
fn install() -> Option<libc::sigaction> {
    // SAFETY: zeros are a valid sigaction; both are live; the handler has the signature that
    // SA_SIGINFO asks for, and calls nothing that a handler may not.
    unsafe {
        let (mut ours, mut before): (libc::sigaction, libc::sigaction) =
            (mem::zeroed(), mem::zeroed());
        ours.sa_sigaction = on_bus_error as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut ours.sa_mask);
        (libc::sigaction(libc::SIGBUS, &ours, &raw mut before) == 0).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(address: usize) -> Option<String> {
        let line = explained(address)?;
        Some(String::from_utf8(line.bytes[..line.used].to_vec()).expect("text"))
    }

    #[test]
    fn a_fault_is_explained_while_its_mapping_is_there() {
        let base = 0x7000_0000_0000;
        let told = Told::new(base, 8192, Path::new("/dev/shm/some pool")).expect("room");
        let line = text(base + 4100).expect("in the pool");
        assert!(line.starts_with("dmrpc: pool /dev/shm/some pool: its memory at byte 4100 cannot"));
        assert_eq!(line.lines().count(), 1);
        assert_eq!(text(base + 8192), None);
        assert_eq!(text(base - 1), None);
        drop(told);
        assert_eq!(text(base + 4100), None);
    }

    #[test]
    fn long_paths_are_cut() {
        let base = 0x7100_0000_0000;
        let _told = Told::new(base, 8, Path::new(&"x".repeat(5000))).expect("room");
        assert!(text(base).expect("in the pool").contains(&"x".repeat(PATH_BYTES)));
    }
}
