//! What DPDK says, kept in memory for error messages instead of printed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Mutex;

use dpdk_sys::rte_openlog_stream;

/// Longest text that is taken over, in bytes.
const TEXT_MAX: u64 = 64 << 10;

/// The file that DPDK writes to, in memory.
static FILE: Mutex<Option<File>> = Mutex::new(None);

fn memory_file() -> Option<File> {
    // SAFETY: the name is a literal; a descriptor that is not negative is new and ours alone.
    unsafe {
        let fd = libc::memfd_create(c"dmrpc-dpdk-log".as_ptr(), libc::MFD_CLOEXEC);
        (fd >= 0).then(|| File::from(OwnedFd::from_raw_fd(fd)))
    }
}

/// Has DPDK write to memory from now on. Without it DPDK prints to standard error.
pub(crate) fn capture() {
    let Some(file) = memory_file() else { return };
    let Ok(theirs) = file.try_clone() else { return };
    // SAFETY: the stream takes over a descriptor that is ours, is unbuffered so that nothing has
    // to be flushed, appends so that truncation is harmless, and is never closed: DPDK has it for
    // the life of the process.
    unsafe {
        let stream = libc::fdopen(theirs.into_raw_fd(), c"a".as_ptr());
        if stream.is_null() {
            return;
        }
        libc::setvbuf(stream, std::ptr::null_mut(), libc::_IONBF, 0);
        rte_openlog_stream(stream.cast());
    }
    *FILE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(file);
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
}
