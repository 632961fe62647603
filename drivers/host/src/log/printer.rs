//! The thread that formats messages and prints them.

use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use defmt_decoder::Table;

use crate::clock::Clock;
use crate::spsc::Consumer;

use super::logger::{self, HEADER_BYTES};
use super::{FRAME_BYTES_MAX, Level, LogConfig};

/// How long the printer sleeps when there is nothing to print.
const PAUSE: Duration = Duration::from_millis(10);

/// Most messages gathered before they are printed.
const BATCH_MAX: usize = 1024;

pub(super) struct Printer {
    config: LogConfig,
    /// The time of day at the origin of the clock, since the epoch.
    origin: Duration,
    rings: Vec<Consumer<u8>>,
    dropped: u64,
}

/// A message as it was found in a ring: when, and its bytes.
type Message = (u64, Vec<u8>);

impl Printer {
    pub(super) fn new(config: LogConfig, clock: &Clock) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let origin = since_epoch.saturating_sub(Duration::from_nanos(clock.now().as_nanos()));
        Self { config, origin, rings: Vec::new(), dropped: 0 }
    }

    /// Prints until `stop` is set and nothing is left.
    pub(super) fn run(mut self, stop: &AtomicBool) {
        let table = match read_table() {
            Ok(table) => Some(table),
            Err(reason) => {
                let message = format!("log messages cannot be shown: {reason}");
                self.print_line(now_since_epoch(), Level::Warn, &message);
                None
            }
        };
        loop {
            let stopping = stop.load(Ordering::Acquire);
            self.rings.extend(logger::take_new_rings());
            let messages = self.gather();
            for (nanos, bytes) in &messages {
                if let Some(table) = &table {
                    self.print(table, *nanos, bytes);
                }
            }
            self.report_dropped();
            if messages.is_empty() {
                if stopping {
                    return;
                }
                thread::sleep(PAUSE);
            }
        }
    }

    /// Takes what is in the rings, in order of time. Rings whose thread has ended go when empty.
    fn gather(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        self.rings.retain_mut(|ring| {
            // Asked first: what the thread put before it ended is then seen below.
            let abandoned = ring.is_abandoned();
            let mut header = [0; HEADER_BYTES];
            while messages.len() < BATCH_MAX && ring.pop_all(&mut header) {
                let (length, nanos) = split_header(header);
                let mut bytes = vec![0; length];
                assert!(length <= FRAME_BYTES_MAX && ring.pop_all(&mut bytes), "put as a whole");
                messages.push((nanos, bytes));
            }
            !abandoned || ring.count() > 0
        });
        messages.sort_by_key(|(nanos, _)| *nanos);
        messages
    }

    fn print(&self, table: &Table, nanos: u64, bytes: &[u8]) {
        let time = self.origin + Duration::from_nanos(nanos);
        match table.decode(bytes) {
            Ok((frame, _)) => {
                let level =
                    frame.level().and_then(|level| level.as_str().parse().ok()).unwrap_or_default();
                if level >= self.config.level {
                    self.print_line(time, level, &frame.display_message().to_string());
                }
            }
            Err(_) => {
                let message = format!("a log message of {} bytes cannot be decoded", bytes.len());
                self.print_line(time, Level::Warn, &message);
            }
        }
    }

    fn report_dropped(&mut self) {
        let dropped = logger::dropped();
        if dropped > self.dropped {
            let message = format!("{} log messages were dropped", dropped - self.dropped);
            self.dropped = dropped;
            self.print_line(now_since_epoch(), Level::Warn, &message);
        }
    }

    fn print_line(&self, time: Duration, level: Level, message: &str) {
        let separator = if self.config.process.is_empty() { "" } else { ": " };
        let process = &self.config.process;
        let line = format!("{} {level:<5} {process}{separator}{message}\n", time_of_day(time));
        // Where standard error is closed there is nobody to tell.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

fn split_header(header: [u8; HEADER_BYTES]) -> (usize, u64) {
    let (length, nanos) = header.split_at(2);
    let length = u16::from_le_bytes(length.try_into().expect("2 bytes"));
    (length.into(), u64::from_le_bytes(nanos.try_into().expect("8 bytes")))
}

fn now_since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `HH:MM:SS.microseconds` in UTC.
fn time_of_day(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs() % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let micros = since_epoch.subsec_micros();
    format!("{hours:02}:{minutes:02}:{:02}.{micros:06}", seconds % 60)
}

/// The log texts of this program, from its own file.
fn read_table() -> Result<Table, String> {
    let relink = "call dmrpc_link::logging_binary() in the build script of the binary";
    let file = fs::read("/proc/self/exe")
        .map_err(|error| format!("the program's own file cannot be read: {error}"))?;
    match Table::parse(&file) {
        Ok(Some(table)) => Ok(table),
        Ok(None) => Err(format!("the program holds no log texts; {relink}")),
        Err(error) => Err(format!("{error}; {relink}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day() {
        let time = Duration::from_micros((86_400 * 3 + 3600 * 23 + 60 * 5 + 9) * 1_000_000 + 42);
        assert_eq!(time_of_day(time), "23:05:09.000042");
    }
}
