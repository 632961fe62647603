//! Whether a process is gone: the only proof of death that one host accepts.
//!
//! A process is named by its number and its start time, since numbers come again. What watches it
//! is a *pidfd*, which stays with that process and no other, and becomes readable when it ends.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::sys;

/// A process, named for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// Its number on its host.
    pub pid: u32,
    /// When it started, in clock ticks since its host did.
    pub start: u64,
    /// Its host's boot and its namespace of process numbers.
    pub host: u64,
}

impl ProcessId {
    /// The calling process.
    pub fn own() -> Self {
        let pid = std::process::id();
        Self { pid, start: start_of(pid).unwrap_or(0), host: own_host() }
    }
}

/// A number for this boot of this host, together with the namespace that process numbers are of:
/// only where it is the same do process numbers mean anything. Never 0.
pub fn own_host() -> u64 {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
    let seed = namespace.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // Each character moves every bit before it: two boots are alike once in 2^64.
    let mixed = boot.bytes().fold(seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(5)
    });
    mixed.max(1)
}

/// When process `pid` started, in clock ticks since the host did; `None` if there is none.
fn start_of(pid: u32) -> Option<u64> {
    const FIELDS_BEFORE: usize = 19;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything, parentheses too.
    let after_name = &text[text.rfind(')')? + 2..];
    after_name.split(' ').nth(FIELDS_BEFORE)?.parse().ok()
}

/// What became of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs, or is stopped.
    Alive,
    /// It is gone.
    Gone,
    /// It is on another host: nobody here can know.
    Unknown,
}

/// An eye on one process.
#[derive(Debug)]
pub struct Observed {
    id: ProcessId,
    /// Readable once it is gone; absent if it is gone already, or elsewhere.
    file: Option<OwnedFd>,
    here: bool,
}

impl Observed {
    /// Begins to watch a process. With a start time of 0, any process of that number is meant.
    pub fn new(id: ProcessId) -> Self {
        let here = id.host == own_host();
        let file = here.then(|| sys::open_process(id.pid).ok()).flatten();
        // Opened first, compared then: if the number was given anew in between, the start differs.
        let is_it = id.start == 0 || start_of(id.pid) == Some(id.start);
        Self { id, file: file.filter(|_| is_it), here }
    }

    /// Who is watched.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What became of it until now.
    pub fn fate(&self) -> Fate {
        match &self.file {
            _ if !self.here => Fate::Unknown,
            Some(file) if !sys::is_readable(file.as_fd()) => Fate::Alive,
            _ => Fate::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn this_process_lives() {
        let id = ProcessId::own();
        assert!(id.start > 0 && id.host > 0);
        assert_eq!(Observed::new(id).fate(), Fate::Alive);
        assert_eq!(Observed::new(ProcessId { host: id.host ^ 1, ..id }).fate(), Fate::Unknown);
    }

    #[test]
    fn a_number_that_was_given_anew_is_another_process() {
        let id = ProcessId::own();
        assert_eq!(Observed::new(ProcessId { start: id.start + 1, ..id }).fate(), Fate::Gone);
        assert_eq!(Observed::new(ProcessId { start: 0, ..id }).fate(), Fate::Alive);
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("sleep").arg("100").spawn().expect("sleep");
        let start = start_of(child.id()).expect("it runs");
        let id = ProcessId { pid: child.id(), start, host: own_host() };
        let observed = Observed::new(id);
        assert_eq!((observed.fate(), observed.id()), (Fate::Alive, id));
        child.kill().expect("a child");
        child.wait().expect("a child");
        assert_eq!(observed.fate(), Fate::Gone);
        assert_eq!(Observed::new(id).fate(), Fate::Gone);
    }
}
