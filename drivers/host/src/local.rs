//! Child processes on this machine that are certain to come down again.
//!
//! A child is killed when its [`LocalProcess`] is dropped, and by the kernel when this process
//! dies, however it dies.

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// How long a child may take to end after it closed its standard output.
const EXIT_AFTER_CLOSE: Duration = Duration::from_secs(1);

/// How often a child is asked whether it has ended.
const EXIT_POLL: Duration = Duration::from_millis(2);

/// Why a child process is of no use.
#[derive(Debug)]
pub enum LocalError {
    /// It could not be started.
    Spawn {
        /// What it is called.
        name: String,
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// It ended before it said what was waited for.
    Ended {
        /// What it is called.
        name: String,
        /// How it ended, if it has.
        status: Option<ExitStatus>,
    },
    /// It did not say, or do, what was waited for in time.
    Timeout {
        /// What it is called.
        name: String,
        /// What was waited for.
        awaited: String,
        /// How long.
        timeout: Duration,
    },
    /// The system refused an operation on it.
    Os {
        /// What it is called.
        name: String,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { name, program, source } => {
                write!(f, "starting {name} ({program}) failed: {source}")
            }
            Self::Ended { name, status: Some(status) } => {
                write!(f, "{name} ended too early: {status}; see its message above")
            }
            Self::Ended { name, status: None } => {
                write!(f, "{name} closed its standard output too early")
            }
            Self::Timeout { name, awaited, timeout } => {
                write!(f, "{name} gave no {awaited} within {timeout:?}")
            }
            Self::Os { name, source } => write!(f, "controlling {name} failed: {source}"),
        }
    }
}

impl std::error::Error for LocalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Spawn { source, .. } | Self::Os { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A child process. Its standard input is empty, its standard output is read here.
#[derive(Debug)]
pub struct LocalProcess {
    name: String,
    child: Child,
    lines: Receiver<String>,
    status: Option<ExitStatus>,
}

impl LocalProcess {
    /// Starts `command` as a child that errors call `name`.
    ///
    /// # Errors
    /// [`LocalError::Spawn`].
    pub fn spawn(name: &str, mut command: Command) -> Result<Self, LocalError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        sys::bind_to_parent(&mut command);
        let failed = |source| LocalError::Spawn { name: name.to_owned(), program, source };
        let mut child = spawn_on_lasting_thread(command).map_err(failed)?;
        let stdout = child.stdout.take().expect("standard output was asked for");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || forward_lines(stdout, &sender));
        Ok(Self { name: name.to_owned(), child, lines, status: None })
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of the child's standard output that starts with `prefix`, and returns it
    /// whole. Lines before it are dropped.
    ///
    /// # Errors
    /// [`LocalError::Ended`] or [`LocalError::Timeout`].
    pub fn wait_line(&mut self, prefix: &str, timeout: Duration) -> Result<String, LocalError> {
        let end = Instant::now() + timeout;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(rest) {
                Ok(line) if line.starts_with(prefix) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let awaited = format!("line that starts with '{prefix}'");
                    return Err(self.timed_out(awaited, timeout));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait(EXIT_AFTER_CLOSE).ok();
                    return Err(LocalError::Ended { name: self.name.clone(), status });
                }
            }
        }
    }

    /// A line of the child's standard output that has come and was not taken yet.
    pub fn next_line(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// How the child ended, if it has.
    ///
    /// # Errors
    /// [`LocalError::Os`].
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, LocalError> {
        if self.status.is_none() {
            let os = |source| LocalError::Os { name: self.name.clone(), source };
            self.status = self.child.try_wait().map_err(os)?;
        }
        Ok(self.status)
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    /// [`LocalError::Timeout`]: it still runs.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, LocalError> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(self.timed_out("end".to_owned(), timeout));
            }
            thread::sleep(EXIT_POLL);
        }
    }

    /// Sends `signal` to the child, if it still runs.
    ///
    /// # Errors
    /// [`LocalError::Os`].
    pub fn signal(&mut self, signal: i32) -> Result<(), LocalError> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        sys::send_signal(self.id(), signal)
            .map_err(|source| LocalError::Os { name: self.name.clone(), source })
    }

    /// Asks the child to stop (SIGTERM), waits for `timeout`, and kills it if it still runs then.
    /// Returns how it ended.
    ///
    /// # Errors
    /// [`LocalError::Os`].
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus, LocalError> {
        self.signal(libc::SIGTERM)?;
        match self.wait(timeout) {
            Err(LocalError::Timeout { .. }) => {
                self.signal(libc::SIGKILL)?;
                let os = |source| LocalError::Os { name: self.name.clone(), source };
                let status = self.child.wait().map_err(os)?;
                self.status = Some(status);
                Ok(status)
            }
            result => result,
        }
    }

    fn timed_out(&self, awaited: String, timeout: Duration) -> LocalError {
        LocalError::Timeout { name: self.name.clone(), awaited, timeout }
    }
}

impl Drop for LocalProcess {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Both fail only if the child has already ended and been waited for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn forward_lines(stdout: ChildStdout, sender: &Sender<String>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        // Without a receiver the pipe is still read, so that the child does not block on it.
        let _ = sender.send(line);
    }
}

/// A command to start, and where to send the child.
type SpawnRequest = (Command, Sender<io::Result<Child>>);

/// Starts `command` on a thread that lives as long as this process: the kernel kills children
/// when the *thread* that made them ends.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<SpawnRequest>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<SpawnRequest>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // Who asked waits for the answer.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    let lock = spawner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    lock.send((command, reply)).map_err(|_| gone())?;
    drop(lock);
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests;
