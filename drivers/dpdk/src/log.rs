//! What DPDK says, kept in memory for error messages instead of printed.

use std::ffi::c_char;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use crate::{gate, sys};

/// Longest text that is taken over, in bytes.
const TEXT_MAX: u64 = 64 << 10;

/// The file that DPDK writes to, in memory.
static FILE: Mutex<Option<File>> = Mutex::new(None);

fn memory_file() -> Option<File> {
    // SAFETY: the name is a literal; a descriptor that is not negative is new and ours alone.
    unsafe {
        let fd = libc::memfd_create(c"dmrpc-dpdk-log".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return None;
        }
        // What is written goes to the end, so that truncation is harmless.
        libc::fcntl(fd, libc::F_SETFL, libc::O_APPEND);
        Some(File::from(OwnedFd::from_raw_fd(fd)))
    }
}

/// Has DPDK write to memory from now on. Without it DPDK prints to standard error.
pub(crate) fn capture() {
    let Some(file) = memory_file() else { return };
    *FILE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(file);
    // SAFETY: DPDK calls `said` with a text that is there as long as the call; the stream is never
    // closed, because DPDK has it for the life of the process.
    unsafe {
        let stream = dpdk_sys::shim_open_log(Some(said));
        if !stream.is_null() {
            dpdk_sys::rte_openlog_stream(stream);
        }
    }
}

/// Called for each text that DPDK logs, on the thread that does.
///
/// # Safety
/// `text` is to `length` bytes.
unsafe extern "C" fn said(text: *const c_char, length: usize, level: u32) {
    // SAFETY: as promised by the caller.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    if level >= dpdk_sys::RTE_LOG_DEBUG {
        if ends_a_link(&String::from_utf8_lossy(text)) {
            gate::close();
            sys::open_gate_later();
        }
        return;
    }
    if let Some(file) = FILE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).as_mut() {
        let _ = file.write_all(text);
    }
}

/// Whether it is what `net_memif` says before it takes a link down because of its peer, on the
/// thread that will: the peer said that it goes (message 8 of memif's protocol), or is gone. It is
/// the only sign that it gives in time.
fn ends_a_link(text: &str) -> bool {
    text.contains("Received msg type: 8.") || text.contains("Invalid message size")
}

/// Runs `work` while what is written to standard output and standard error goes to the same memory:
/// DPDK prints what ends its start there, whatever its log is.
pub(crate) fn with_standard_files<R>(work: impl FnOnce() -> R) -> R {
    let target = {
        let lock = FILE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        lock.as_ref().and_then(|file| file.try_clone().ok())
    };
    let Some(target) = target else { return work() };
    let files = [libc::STDOUT_FILENO, libc::STDERR_FILENO];
    // SAFETY: descriptors are duplicated and put back; no memory is passed.
    unsafe {
        let kept = files.map(|file| libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 3));
        for (file, kept) in files.into_iter().zip(kept) {
            if kept >= 0 {
                libc::dup2(target.as_raw_fd(), file);
            }
        }
        let result = work();
        // What the C library has gathered for standard output belongs to DPDK.
        libc::fflush(std::ptr::null_mut());
        for (file, kept) in files.into_iter().zip(kept) {
            if kept >= 0 {
                libc::dup2(kept, file);
                libc::close(kept);
            }
        }
        result
    }
}

/// What DPDK has said since it was last asked, as one line, without what is of no help.
pub(crate) fn take() -> String {
    let mut lock = FILE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(file) = lock.as_mut() else { return String::new() };
    let mut text = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| {
        file.take(TEXT_MAX).read_to_end(&mut text)?;
        file.set_len(0)
    });
    if read.is_err() {
        return String::new();
    }
    one_line(&String::from_utf8_lossy(&text))
}

/// The last few lines that say something, joined.
fn one_line(text: &str) -> String {
    const LINES_MAX: usize = 3;
    let mut kept: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        // `COMPONENT: text`; the rest is DPDK's help. Standard error repeats what the log has.
        let component = line.split_once(": ").is_some_and(|(name, _)| {
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && !name.contains("  ")
        });
        if component && !kept.contains(&line) {
            kept.push(line);
        }
    }
    let from = kept.len().saturating_sub(LINES_MAX);
    kept[from..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_become_one() {
        let text = "EAL: a\nEAL: b\n\nEAL: b\n EAL: c \nEAL: d\n  --help   it: helps\nUsage\n";
        assert_eq!(one_line(text), "EAL: b; EAL: c; EAL: d");
        assert_eq!(one_line("\n"), "");
    }

    #[test]
    fn the_end_of_a_link_is_known() {
        assert!(ends_a_link("memif_msg_receive(): Invalid message size = 0\n"));
        assert!(ends_a_link("memif_msg_receive(): Received msg type: 8.\n"));
        assert!(!ends_a_link("memif_msg_receive(): Received msg type: 7.\n"));
    }
}
