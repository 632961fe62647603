//! What tests with processes and networks of their own share.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A process that is killed when dropped.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Killed {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"))
    }

    /// Starts a server, whose first line is `ready ADDRESS`, and returns that address.
    ///
    /// # Panics
    /// If it does not start, or says something else.
    pub fn serving(command: &mut Command) -> (Self, String) {
        let mut serving = Self::start(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let stdout = serving.0.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let address = line.trim().strip_prefix("ready ");
        let address = address.unwrap_or_else(|| panic!("{line:?} instead of \"ready ADDRESS\""));
        (serving, address.to_owned())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `ip` with the words of `line` in the calling thread's network.
///
/// # Panics
/// If it fails.
pub fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("ip is installed");
    assert!(status.success(), "ip {line}");
}
