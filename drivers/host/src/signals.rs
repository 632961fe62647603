//! Signals as flags that a poll loop looks at.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;

use crate::sys;

static STOP: AtomicBool = AtomicBool::new(false);
static DUMP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_stop(_: c_int) {
    STOP.store(true, Ordering::Relaxed);
}

extern "C" fn on_dump(_: c_int) {
    DUMP.store(true, Ordering::Relaxed);
}

/// A signal could not be handled.
#[derive(Debug)]
pub struct SignalError {
    source: io::Error,
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "installing a signal handler failed: {}", self.source)
    }
}

impl std::error::Error for SignalError {}

/// The signals of this process: SIGINT and SIGTERM ask it to stop, SIGUSR1 to print its
/// statistics now.
///
/// A second SIGINT, or a second SIGTERM, ends the process at once. SIGPIPE is ignored: a server
/// goes on when the reader of its reports has gone away.
#[derive(Clone, Copy, Debug)]
pub struct Signals(());

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// [`SignalError`] if the system refuses, which it has no known reason to.
    pub fn install() -> Result<Self, SignalError> {
        let install = |signal, handler, once| {
            sys::handle_signal(signal, handler, once).map_err(|source| SignalError { source })
        };
        install(libc::SIGINT, on_stop, true)?;
        install(libc::SIGTERM, on_stop, true)?;
        install(libc::SIGUSR1, on_dump, false)?;
        sys::ignore_signal(libc::SIGPIPE).map_err(|source| SignalError { source })?;
        Ok(Self(()))
    }

    /// Whether the process was asked to stop.
    #[inline]
    pub fn stop_requested(self) -> bool {
        STOP.load(Ordering::Relaxed)
    }

    /// Whether statistics were asked for since the last call. With several callers, one is told.
    #[inline]
    pub fn take_dump_request(self) -> bool {
        DUMP.load(Ordering::Relaxed) && DUMP.swap(false, Ordering::Relaxed)
    }

    /// Asks this process to stop, as a signal would: for a thread that cannot go on.
    pub fn request_stop(self) {
        STOP.store(true, Ordering::Relaxed);
    }
}

/// Has the kernel kill the calling process when the thread that started it ends.
///
/// # Errors
/// What the kernel says.
pub fn die_with_parent() -> io::Result<()> {
    sys::kill_on_parent_death()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_set_flags() {
        let signals = Signals::install().expect("no reason to refuse");
        let me = std::process::id();
        assert!(!signals.stop_requested() && !signals.take_dump_request());
        sys::send_signal(me, libc::SIGUSR1).expect("ourselves");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !DUMP.load(Ordering::Relaxed) && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(signals.take_dump_request());
        assert!(!signals.take_dump_request());
        sys::send_signal(me, libc::SIGTERM).expect("ourselves");
        while !signals.stop_requested() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(signals.stop_requested());
    }
}
