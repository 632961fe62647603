//! A result, with the names that all programs use.

use serde::Serialize;

use crate::block::Tally;
use crate::interleave::Ratio;

/// A row of results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The program.
    pub app: &'static str,
    /// The driver.
    pub driver: &'static str,
    /// The operation; those of the bare device begin with `raw_`.
    pub op: &'static str,
    /// Bytes of the caller's that one operation moves.
    pub size_bytes: u64,
    /// Operations in flight.
    pub concurrency: usize,
    /// Operations that succeeded.
    pub count: u64,
    /// Operations that failed or brought wrong bytes.
    pub errors: u64,
    /// Median time of an operation, in nanoseconds. 0 where single operations have no time.
    pub p50_ns: u64,
    /// What 99 % of the operations took at most, in nanoseconds.
    pub p99_ns: u64,
    /// What 99.9 % of the operations took at most, in nanoseconds.
    pub p999_ns: u64,
    /// Operations a second.
    pub ops_per_s: f64,
    /// `size_bytes` times `ops_per_s`, in gigabits a second; 0 for operations that move no bytes.
    pub gbit_per_s: f64,
    /// Operations whose bytes were compared, those of the untimed pass included.
    pub verified: u64,
    /// What poll loops did when there was nothing to do.
    pub idle: String,
    /// What was on.
    #[serde(flatten)]
    pub switches: Switches,
    /// Datagrams that an operation takes, there and back.
    pub datagrams: u64,
    /// Their bytes.
    pub datagram_bytes: u64,
    /// For a row of the bare device: the operation that it was measured beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<&'static str>,
    /// What not every row has.
    #[serde(flatten)]
    pub details: Details,
}

/// What not every row has. Ratios are to what was measured in turns with it: of times, 1.25 is a
/// quarter slower; of rates, 1.25 is a quarter faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Details {
    /// Over how many sessions calls were spread, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<usize>,
    /// Pages that one operation writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<usize>,
    /// Bytes that it writes to each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<usize>,
    /// How the receiver came to bytes of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<&'static str>,
    /// To the bare device: of times for one operation at a time (`latency_test`, `fork_speed`), of
    /// rates elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_raw: Option<Ratio>,
    /// To a call of 64 bytes: of times for one at a time, of rates for many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_rpc: Option<Ratio>,
    /// How many times faster than copying where ours makes a reference: of times for one at a
    /// time, of rates for many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_copy: Option<Ratio>,
}

/// What was on while a row was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Switches {
    /// Checksums over payloads.
    pub integrity: bool,
    /// Authentication tags on packets.
    pub auth: bool,
    /// Congestion control.
    pub congestion: bool,
    /// Bytes looked at where they came in, instead of copied to a buffer.
    pub zero_copy: bool,
    /// Long messages sent from where they lie, in a pool or a buffer, where the driver can.
    pub zero_copy_transmit: bool,
}

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The operation.
    pub op: &'static str,
    /// Bytes of the caller's that one operation moves.
    pub size_bytes: usize,
    /// Operations in flight.
    pub concurrency: usize,
    /// For the bare device: the operation that it is measured beside.
    pub beside: Option<&'static str>,
    /// Datagrams of one operation, there and back.
    pub datagrams: usize,
    /// Their bytes.
    pub datagram_bytes: usize,
}

/// Operations that are not measured by the bytes of the caller's that they move, whatever the size
/// of their region.
const MOVE_NOTHING: [&str; 7] =
    ["alloc", "create_ref", "map_ref", "drop_ref", "free", "cow_write", "copy_write"];

impl Subject {
    fn bytes_moved(&self) -> usize {
        let operation = match self.beside {
            // The bare device moves nothing of the caller's if the operation does not.
            Some(beside) if self.op.starts_with("raw_") => beside,
            _ => self.op,
        };
        if MOVE_NOTHING.contains(&operation) { 0 } else { self.size_bytes }
    }
}

impl Row {
    /// A row of `tally`, whose times are left out if there are none.
    pub(crate) fn new(
        (app, driver, idle): (&'static str, &'static str, String),
        subject: Subject,
        tally: &Tally,
        switches: Switches,
        details: Details,
    ) -> Self {
        let quantile = |q| match tally.histogram.is_empty() {
            true => 0,
            false => tally.histogram.value_at_quantile(q),
        };
        let ops_per_s = tally.ops_per_s();
        Self {
            app,
            driver,
            op: subject.op,
            size_bytes: subject.size_bytes as u64,
            concurrency: subject.concurrency,
            count: tally.count,
            errors: tally.errors,
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            ops_per_s,
            gbit_per_s: ops_per_s * subject.bytes_moved() as f64 * 8e-9,
            verified: tally.verified,
            idle,
            switches,
            beside: subject.beside,
            datagrams: subject.datagrams as u64,
            datagram_bytes: subject.datagram_bytes as u64,
            details,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmrpc_core::time::Duration;

    #[test]
    fn names_of_the_contract() {
        let mut tally = Tally::new();
        tally.record(Duration::from_micros(10));
        let subject = Subject {
            op: "read",
            size_bytes: 4096,
            concurrency: 1,
            beside: None,
            datagrams: 2,
            datagram_bytes: 4272,
        };
        let about = ("latency_test", "udp", "busy".to_owned());
        let row = Row::new(about, subject, &tally, Switches::default(), Details::default());
        let value = serde_json::to_value(&row).expect("plain data");
        for name in [
            "app",
            "driver",
            "op",
            "size_bytes",
            "concurrency",
            "count",
            "errors",
            "p50_ns",
            "p99_ns",
            "p999_ns",
            "ops_per_s",
            "gbit_per_s",
            "integrity",
            "auth",
            "congestion",
            "zero_copy",
            "zero_copy_transmit",
        ] {
            assert!(value.get(name).is_some(), "{name}");
        }
        assert!((row.ops_per_s - 100_000.0).abs() < 1.0);
        assert!((row.gbit_per_s - 3.2768).abs() < 1e-3);
    }
}
