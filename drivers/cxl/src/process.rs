//! Whether a process is gone: the only proof of death that one host accepts.
//!
//! A process is named by its number and its start time, since numbers come again. What watches it
//! is a *pidfd*, which stays with that process and no other, and becomes readable when it ends.
//! Not to be told is no proof: a process that lacks descriptors, or may not look, asks again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

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
    known_host().unwrap_or_else(|| host_of_boot(""))
}

/// The same; `None` while the system does not tell, for want of descriptors or of memory.
fn known_host() -> Option<u64> {
    static HOST: OnceLock<u64> = OnceLock::new();
    if let Some(host) = HOST.get() {
        return Some(*host);
    }
    let boot = match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(boot) => boot,
        // A system without it never has it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(_) => return None,
    };
    Some(*HOST.get_or_init(|| host_of_boot(&boot)))
}

fn host_of_boot(boot: &str) -> u64 {
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
    let seed = namespace.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // Each character moves every bit before it: two boots are alike once in 2^64.
    let mixed = boot.bytes().fold(seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(5)
    });
    mixed.max(1)
}

/// When process `pid` started, in clock ticks since the host did; `None` if the system does not
/// tell, which is no proof that there is none: `/proc` hides processes of others where it is
/// mounted with `hidepid`.
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
    /// It is of this host, and the system does not tell at the moment. To be asked again.
    Unseen,
    /// It is on another host: nobody here can know.
    Unknown,
}

/// An eye on one process.
#[derive(Debug)]
pub struct Observed {
    id: ProcessId,
    sight: Sight,
}

/// What is known of a process.
#[derive(Debug)]
enum Sight {
    /// Nothing yet: the system refused to tell.
    None,
    /// A pidfd, readable once the process is gone; it is the one that is meant, as far as its
    /// start could be compared.
    Open { file: OwnedFd, is_it: Option<bool> },
    /// It is gone for good.
    Gone,
    /// It is on another host.
    Elsewhere,
}

impl Sight {
    fn of(id: ProcessId) -> Self {
        match known_host() {
            None => return Self::None,
            Some(host) if host != id.host => return Self::Elsewhere,
            Some(_) => {}
        }
        let opened = sys::open_process(id.pid);
        // Opened first, compared then: if the number was given anew in between, the start differs.
        Self::judge(id, opened, start_of(id.pid))
    }

    /// Only what proves a death counts as one: that there is no process of the number, or that it
    /// is one of another start. A system that refuses to tell says nothing about the process.
    fn judge(id: ProcessId, opened: io::Result<OwnedFd>, start: Option<u64>) -> Self {
        // With a start time of 0, any process of that number is meant.
        let is_it = if id.start == 0 { Some(true) } else { start.map(|start| start == id.start) };
        match opened {
            _ if is_it == Some(false) || !(1..=PID_MAX).contains(&id.pid) => Self::Gone,
            Ok(file) => Self::Open { file, is_it },
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Self::Gone,
            Err(_) => Self::None,
        }
    }
}

/// No process has a larger number: the kernel's type for them is signed.
const PID_MAX: u32 = i32::MAX as u32;

impl Observed {
    /// Begins to watch a process. With a start time of 0, any process of that number is meant.
    pub fn new(id: ProcessId) -> Self {
        Self { id, sight: Sight::of(id) }
    }

    /// Who is watched.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What became of it until now.
    pub fn fate(&mut self) -> Fate {
        if let Sight::None | Sight::Open { is_it: None, .. } = self.sight {
            match (&self.sight, Sight::of(self.id)) {
                // A descriptor is not given up for no better answer: it is the one that may prove
                // the end, whoever has the number by now.
                (Sight::Open { .. }, Sight::None | Sight::Open { is_it: None, .. }) => {}
                (_, seen) => self.sight = seen,
            }
        }
        match &self.sight {
            Sight::None => Fate::Unseen,
            Sight::Elsewhere => Fate::Unknown,
            Sight::Gone => Fate::Gone,
            Sight::Open { file, .. } if sys::is_readable(file.as_fd()) => Fate::Gone,
            Sight::Open { is_it: Some(_), .. } => Fate::Alive,
            Sight::Open { is_it: None, .. } => Fate::Unseen,
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
    fn only_what_proves_a_death_counts_as_one() {
        let id = ProcessId::own();
        let file = || sys::open_process(id.pid);
        let refused = |errno| Err(io::Error::from_raw_os_error(errno));
        let judge = |opened, start| {
            let sight = Sight::judge(id, opened, start);
            match sight {
                Sight::None => Fate::Unseen,
                Sight::Gone => Fate::Gone,
                Sight::Elsewhere => Fate::Unknown,
                Sight::Open { is_it: Some(true), .. } => Fate::Alive,
                Sight::Open { is_it, .. } => {
                    assert_eq!(is_it, None);
                    Fate::Unseen
                }
            }
        };
        let (own, other) = (Some(id.start), Some(id.start + 1));
        assert_eq!(judge(file(), own), Fate::Alive);
        assert_eq!(judge(file(), None), Fate::Unseen, "hidden in /proc");
        assert_eq!(judge(file(), other), Fate::Gone);
        assert_eq!(judge(refused(libc::ESRCH), None), Fate::Gone);
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSYS, libc::EPERM] {
            assert_eq!(judge(refused(errno), None), Fate::Unseen, "error {errno}");
            assert_eq!(judge(refused(errno), own), Fate::Unseen, "error {errno}");
            assert_eq!(judge(refused(errno), other), Fate::Gone, "another has the number");
        }
        for pid in [0, u32::MAX] {
            let mut nobody = Observed::new(ProcessId { pid, start: 0, ..id });
            assert_eq!(nobody.fate(), Fate::Gone, "no process has number {pid}");
        }
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("sleep").arg("100").spawn().expect("sleep");
        let start = start_of(child.id()).expect("it runs");
        let id = ProcessId { pid: child.id(), start, host: own_host() };
        let mut observed = Observed::new(id);
        assert_eq!((observed.fate(), observed.id()), (Fate::Alive, id));
        child.kill().expect("a child");
        child.wait().expect("a child");
        assert_eq!(observed.fate(), Fate::Gone);
        assert_eq!(Observed::new(id).fate(), Fate::Gone);
    }
}
