//! Deferred logging with defmt.
//!
//! A log statement writes a few bytes, the address of its text and its arguments, to a ring of its
//! own thread. It never blocks, locks or makes a system call; if the ring is full the message is
//! dropped and counted. A thread of its own formats what is in the rings with the texts it finds
//! in this program's file, and prints `time level message` to standard error, times in UTC.
//!
//! The binary's build script calls `dmrpc_link::logging_binary()`, or the texts cannot be found;
//! its `main` holds what [`start`] returns:
//!
//! ```ignore
//! let _log = dmrpc_host::log::start(LogConfig::default())?;
//! defmt::info!("pool of {} frames", frames);
//! ```
//!
//! The level below which statements are left out of the program is chosen by `DEFMT_LOG` when it
//! is built; [`LogConfig::level`] chooses among what is left.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::clock::Clock;

#[allow(unsafe_code)]
mod logger;
mod printer;

/// Bytes of each thread's ring: a few thousand messages.
const RING_BYTES: usize = 128 << 10;

/// Longest message, in bytes before formatting. A longer one is dropped and counted.
const FRAME_BYTES_MAX: usize = 1024;

/// How grave a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Single steps.
    Trace,
    /// What a developer wants to see.
    Debug,
    /// What an operator wants to see.
    #[default]
    Info,
    /// Something is not as it should be, and goes on.
    Warn,
    /// Something failed.
    Error,
}

/// The text is not the name of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLevel {
    /// The text.
    pub text: String,
}

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a level: give trace, debug, info, warn or error", self.text)
    }
}

impl std::error::Error for UnknownLevel {}

impl Level {
    const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let unknown = || UnknownLevel { text: text.to_owned() };
        Self::ALL.into_iter().find(|level| level.name() == text).ok_or_else(unknown)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How to log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Messages below this level are not printed.
    pub level: Level,
    /// Put before each message, to tell processes that share a terminal apart. May be empty.
    pub process: String,
}

/// Logging could not be started.
#[derive(Debug)]
pub enum LogError {
    /// It has been started before.
    Started,
    /// The thread that prints could not be started.
    Thread {
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("logging is started already: start it once a process"),
            Self::Thread { source } => write!(f, "starting the logging thread failed: {source}"),
        }
    }
}

impl std::error::Error for LogError {}

/// Logging while it is held. Dropping it prints what is left and ends it.
///
/// `std::process::exit` drops nothing: drop this before.
#[derive(Debug)]
pub struct Log {
    stop: Arc<AtomicBool>,
    printer: Option<JoinHandle<()>>,
}

static STARTED: Mutex<bool> = Mutex::new(false);

/// Starts logging. What was logged before is lost.
///
/// # Errors
/// [`LogError`].
pub fn start(config: LogConfig) -> Result<Log, LogError> {
    let mut started = STARTED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if *started {
        return Err(LogError::Started);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Clock::new();
    let printer = printer::Printer::new(config, &clock);
    let until = Arc::clone(&stop);
    let printer = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || printer.run(&until))
        .map_err(|source| LogError::Thread { source })?;
    logger::enable(clock);
    *started = true;
    Ok(Log { stop, printer: Some(printer) })
}

/// Makes the calling thread's ring now instead of at its first message: for a poll loop, which
/// must not allocate later.
pub fn attach_thread() {
    logger::attach_thread();
}

/// Messages dropped so far because a ring was full or a message too long, in all threads.
pub fn dropped() -> u64 {
    logger::dropped()
}

impl Drop for Log {
    fn drop(&mut self) {
        logger::disable();
        self.stop.store(true, Ordering::Release);
        if let Some(printer) = self.printer.take() {
            // A printer that panicked has said so itself.
            let _ = printer.join();
        }
    }
}
