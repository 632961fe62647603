//! Rates and counters, printed by a thread of their own: the poll loop never waits for a terminal.

use std::fmt::Write as _;
use std::io::Write as _;
use std::thread::JoinHandle;
use std::time::Duration as StdDuration;

use dmrpc_cn::{Instant, Statistics};
use dmrpc_core::trace::Ring;
use dmrpc_host::events;
use dmrpc_host::spsc::{self, Producer};
use serde_json::json;

/// How often the thread looks for something to print.
const LOOK_EVERY: StdDuration = StdDuration::from_millis(20);
/// Reports on their way.
const REPORTS: usize = 8;

/// What to print.
struct Report {
    at: Instant,
    statistics: Statistics,
    /// All counters, not just rates.
    all: bool,
}

/// Hands reports to the thread that prints them.
pub(crate) struct Reporter {
    reports: Option<Producer<Report>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts the thread. Whoever asks for everything is also told what `ring` remembers.
    pub(crate) fn start(
        json: bool,
        core: Option<usize>,
        now: Instant,
        ring: &'static Ring,
    ) -> std::io::Result<Self> {
        let (producer, mut consumer) = spsc::ring::<Report>(REPORTS);
        let thread = std::thread::Builder::new().name("report".to_owned()).spawn(move || {
            let mut last = (now, Statistics::default());
            loop {
                // Asked first: what was put before is seen after.
                let over = consumer.is_abandoned();
                while let Some(report) = consumer.pop() {
                    let text = if report.all {
                        all(&report.statistics, json) + &events::text(ring, json)
                    } else {
                        rates(&last, &report, json, core)
                    };
                    // Nobody to read it is no reason to stop serving.
                    let _ = std::io::stderr().write_all(text.as_bytes());
                    if !report.all {
                        last = (report.at, report.statistics);
                    }
                }
                if over {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        })?;
        Ok(Self { reports: Some(producer), thread: Some(thread) })
    }

    /// Prints rates since the last time, or all counters. Dropped if the thread is behind.
    pub(crate) fn publish(&mut self, at: Instant, statistics: Statistics, all: bool) {
        if let Some(reports) = &mut self.reports {
            let _ = reports.push(Report { at, statistics, all });
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.reports = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

fn all(statistics: &Statistics, json: bool) -> String {
    let mut text = String::new();
    let mut object = serde_json::Map::new();
    statistics.for_each(|group, name, value| {
        if json {
            object.insert(format!("{group}_{name}"), json!(value));
        } else if value != 0 {
            let _ = writeln!(text, "{:<32} {value:>20}", format!("{group} {name}"));
        }
    });
    if json { format!("{}\n", serde_json::Value::Object(object)) } else { text }
}

fn rates(last: &(Instant, Statistics), report: &Report, json: bool, core: Option<usize>) -> String {
    let seconds = (report.at.since(last.0).as_nanos() as f64 / 1e9).max(1e-9);
    let (before, now) = (&last.1.served, &report.statistics.served);
    let rate = |before: u64, now: u64| (now - before) as f64 / seconds;
    let requests = rate(before.requests, now.requests);
    let bytes_in = rate(before.bytes_in, now.bytes_in);
    let bytes_out = rate(before.bytes_out, now.bytes_out);
    let busy = rate(before.busy, now.busy);
    let steps = (now.steps - before.steps).max(1);
    let polls = report.statistics.polls.since(&last.1.polls);
    let handler_share = (now.step_ns - before.step_ns) as f64 / 1e9 / seconds;
    let step_us = (now.step_ns - before.step_ns) as f64 / 1e3 / steps as f64;
    if json {
        let object = json!({
            "core": core, "requests_per_s": requests, "busy_per_s": busy,
            "bytes_in_per_s": bytes_in, "bytes_out_per_s": bytes_out,
            "handler_step_us": step_us, "handler_step_us_max": now.step_ns_max as f64 / 1e3,
            "cancelled": now.cancelled, "slow_steps": now.slow_steps,
            "packets_per_s": polls.packets as f64 / seconds, "burst_fill": polls.burst_fill(),
            "empty_polls": polls.empty_share(), "poll_ns": polls.busy_poll_ns(),
            "handler_share": handler_share,
        });
        return format!("{object}\n");
    }
    let core = core.map_or(String::new(), |core| format!("core {core}: "));
    format!(
        "{core}{requests:.0} requests/s, {:.1} MB/s in, {:.1} MB/s out, {busy:.0} busy/s, handler \
         {step_us:.2} us a step, {:.1} % of the time; {:.0} packets/s, {:.1} a burst, {:.1} % of \
         polls empty, the others {:.2} us\n",
        bytes_in / 1e6,
        bytes_out / 1e6,
        handler_share * 100.0,
        polls.packets as f64 / seconds,
        polls.burst_fill(),
        polls.empty_share() * 100.0,
        polls.busy_poll_ns() / 1e3,
    )
}
