//! Network namespaces that nobody has to take down.
//!
//! A namespace lives as long as a file or a process is of it. Those made here have no name, so the
//! kernel ends them, with all interfaces in them, when the last process that uses them has ended,
//! however that comes about.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;

use crate::sys;

/// The namespace of the calling thread, as a file.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// Gives the calling thread, and the threads and processes that it starts later, a network of their
/// own.
///
/// To be called before the first [`LocalProcess`](crate::local::LocalProcess) is started.
///
/// # Errors
/// What the system says: it needs root.
pub fn own_network() -> io::Result<()> {
    sys::own_network()
}

/// A network namespace.
#[derive(Debug)]
pub struct Network(File);

impl Network {
    /// Makes one with nothing in it but a loopback interface that is down.
    ///
    /// # Errors
    /// What the system says: it needs root.
    pub fn new() -> io::Result<Self> {
        // A thread can make one only for itself.
        let thread = thread::spawn(|| {
            sys::own_network()?;
            File::open(OF_THIS_THREAD)
        });
        let file =
            thread.join().map_err(|_| io::Error::other("the thread that made it is gone"))?;
        file.map(Self)
    }

    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// What the system says.
    pub fn current() -> io::Result<Self> {
        File::open(OF_THIS_THREAD).map(Self)
    }

    /// A path that this process's children can name it by, such as for `ip link set DEVICE netns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` with the calling thread, and the processes that it starts, in this namespace.
    ///
    /// # Errors
    /// What the system says: it needs root, unless the thread is there already.
    pub fn within<R>(&self, work: impl FnOnce() -> R) -> io::Result<R> {
        let before = File::open(OF_THIS_THREAD)?;
        let (here, there) = (before.metadata()?, self.0.metadata()?);
        if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
            return Ok(work());
        }
        sys::enter_network(self.0.as_fd())?;
        let result = work();
        sys::enter_network(before.as_fd())?;
        Ok(result)
    }

    /// Has the process of `command` start in this namespace, which has to be kept until it did.
    pub fn start_in(&self, command: &mut Command) {
        sys::start_in_network(command, self.0.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn here() -> String {
        fs::read_link(OF_THIS_THREAD).expect("a namespace").display().to_string()
    }

    #[test]
    fn threads_and_processes_go_there_and_threads_come_back() {
        let made = Network::new();
        if !dmrpc_conformance::may(made.as_ref(), "network namespaces") {
            return;
        }
        let network = made.expect("it was made");
        let before = here();
        let (there, devices) = network
            .within(|| (here(), fs::read_to_string("/proc/thread-self/net/dev")))
            .expect("it may be entered");
        assert_ne!(before, there);
        assert_eq!(before, here());
        let current = Network::current().expect("there is one");
        assert_eq!(current.within(here).expect("it is there already"), before);
        let devices = devices.expect("text");
        assert_eq!(devices.lines().filter(|line| line.contains(':')).count(), 1, "{devices}");
        assert_eq!(fs::read_link(network.path()).expect("a file").display().to_string(), there);

        let mut command = Command::new("readlink");
        command.arg("/proc/self/ns/net");
        network.start_in(&mut command);
        let output = command.output().expect("it starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), there);
    }
}
