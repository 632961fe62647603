//! What children say on standard error: shown, but for what they say of their everyday work, and
//! for why they do not start, which this program says in a line of its own.

use std::io::{BufRead, BufReader, Write, pipe};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use dmrpc_host::local::LocalError;

use crate::error::AppError;

/// What is in a line of everyday work.
const EVERYDAY: &str = " info ";

/// What a child says, until it is ready. A thread listens, which ends with the child.
pub(crate) struct Said {
    thread: JoinHandle<()>,
    held: Arc<Mutex<Held>>,
}

/// The child's last line, which is not shown before the next one or before it is ready.
#[derive(Default)]
struct Held {
    ready: bool,
    line: Option<String>,
}

impl Held {
    /// Takes a line; returns the one that is to be shown.
    fn next(&mut self, line: String) -> Option<String> {
        if self.ready { Some(line) } else { self.line.replace(line) }
    }

    /// The child is ready: returns what was held.
    fn ready(&mut self) -> Option<String> {
        self.ready = true;
        self.line.take()
    }
}

fn show(line: Option<String>) {
    if let Some(line) = line {
        // Nobody to read it is no reason to stop measuring.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

impl Said {
    /// Listens to the child that `command` will start.
    pub(crate) fn of(command: &mut Command) -> Result<Self, AppError> {
        let (reader, writer) = pipe().map_err(AppError::Pipe)?;
        command.stderr(writer);
        let held = Arc::new(Mutex::new(Held::default()));
        let of_thread = Arc::clone(&held);
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if !line.contains(EVERYDAY) {
                    show(of_thread.lock().unwrap_or_else(PoisonError::into_inner).next(line));
                }
            }
        });
        Ok(Self { thread, held })
    }

    /// The child is ready: all that it says is shown at once.
    pub(crate) fn ready(self) {
        show(self.held.lock().unwrap_or_else(PoisonError::into_inner).ready());
    }

    /// The child is gone and was not ready, for which `error` was to be said: instead of that, why
    /// the child refused to start, if it did and said so. All else that it said is shown.
    pub(crate) fn instead_of(self, error: LocalError) -> AppError {
        // A panic there was printed.
        let _ = self.thread.join();
        let line = self.held.lock().unwrap_or_else(PoisonError::into_inner).ready();
        match (error, line) {
            (LocalError::Ended { name, status: Some(status) }, Some(line))
                if matches!(status.code(), Some(1 | 2)) =>
            {
                AppError::Refused { name, line }
            }
            (error, line) => {
                show(line);
                error.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_held_until_the_child_is_ready() {
        let mut held = Held::default();
        assert_eq!(held.next("one".to_owned()), None);
        assert_eq!(held.next("two".to_owned()).as_deref(), Some("one"));
        assert_eq!(held.ready().as_deref(), Some("two"));
        assert_eq!(held.next("three".to_owned()).as_deref(), Some("three"));
        assert_eq!(held.ready(), None);
    }
}
