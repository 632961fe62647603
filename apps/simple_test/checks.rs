//! What is tried, and how it is reported.

use std::fmt::Debug;

use dmrpc_apps::block::Tally;
use dmrpc_apps::error::AppError;
use dmrpc_apps::row::Subject;
use dmrpc_apps::session::Session;
use dmrpc_cn::{MemoryError, OperationError};
use dmrpc_core::time::Duration;

/// Tries things one after the other and prints a line for each.
pub(crate) struct Checks<'c, 's> {
    session: &'c mut Session<'s>,
    json: bool,
    passed: u64,
}

impl<'c, 's> Checks<'c, 's> {
    pub(crate) fn new(session: &'c mut Session<'s>) -> Self {
        let json = session.args.json;
        Self { session, json, passed: 0 }
    }

    /// How many have passed.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Does `work`, which must succeed, and reports how long it took: with `op`, as an operation
    /// on `bytes` bytes.
    pub(crate) fn works<T, E: Into<AppError>>(
        &mut self,
        op: &'static str,
        what: &str,
        bytes: usize,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, AppError> {
        let start = self.session.clock.now();
        let value = work().map_err(Into::into)?;
        let span = self.session.clock.now().since(start);
        self.passed += 1;
        if self.json {
            let mut tally = Tally::new();
            tally.record(span);
            tally.verified = 1;
            let subject = Subject {
                op,
                size_bytes: bytes,
                concurrency: 1,
                beside: None,
                datagrams: 0,
                datagram_bytes: 0,
            };
            self.session.row(subject, &tally, None)?;
        } else {
            self.line(op, what, &format!("{:.1} us", micros(span)))?;
        }
        Ok(value)
    }

    /// Checks that something is so.
    pub(crate) fn holds(&mut self, what: &'static str, so: bool) -> Result<(), AppError> {
        if !so {
            let (expected, found) = ("yes".to_owned(), "no".to_owned());
            return Err(AppError::Unexpected { what, expected, found });
        }
        self.passed += 1;
        self.line("", what, "yes")
    }

    /// Checks that an operation failed with the error that `expected` recognises.
    pub(crate) fn fails<T: Debug>(
        &mut self,
        what: &'static str,
        result: Result<T, OperationError>,
        name: &str,
        expected: impl FnOnce(MemoryError) -> bool,
    ) -> Result<(), AppError> {
        let found = match result {
            Err(error) => match error.memory() {
                Some(memory) if expected(memory) => {
                    self.passed += 1;
                    return self.line("refused", what, &memory.to_string());
                }
                _ => error.to_string(),
            },
            Ok(value) => format!("success: {value:?}"),
        };
        Err(AppError::Unexpected { what, expected: name.to_owned(), found })
    }

    fn line(&mut self, op: &str, what: &str, found: &str) -> Result<(), AppError> {
        self.session.output.text(&format!("  ok  {op:<11} {what:<58} {found}"))
    }

    /// A heading.
    pub(crate) fn heading(&mut self, text: &str) -> Result<(), AppError> {
        self.session.output.text(text)
    }
}

fn micros(span: Duration) -> f64 {
    span.as_nanos() as f64 / 1e3
}
