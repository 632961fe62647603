//! Rates and pool use, for people and for programs.

use std::io::{self, Write};

use dmrpc_core::endpoint::Counters;
use dmrpc_core::memory::Memory;
use dmrpc_core::service::{MemoryNode, OPERATIONS, Operation};
use dmrpc_core::time::Instant;
use serde_json::json;

/// What was last reported, to make rates from.
pub(crate) struct Reporter {
    json: bool,
    core: Option<usize>,
    last: Instant,
    operations: [Operation; OPERATIONS.len()],
}

impl Reporter {
    pub(crate) fn new(json: bool, core: Option<usize>, now: Instant) -> Self {
        Self { json, core, last: now, operations: [Operation::default(); OPERATIONS.len()] }
    }

    /// Prints what has happened since the last report.
    pub(crate) fn print<M: Memory>(
        &mut self,
        now: Instant,
        node: &MemoryNode<'_, M>,
        counters: &Counters,
    ) {
        let seconds = (now - self.last).as_nanos().max(1) as f64 / 1e9;
        let stats = node.store().stats();
        let before = core::mem::replace(&mut self.operations, *node.operations());
        self.last = now;
        let rates = OPERATIONS.iter().zip(self.operations.iter().zip(&before)).map(
            |(name, (now, before))| {
                let done = (now.done - before.done) as f64 / seconds;
                let gbit = (now.bytes - before.bytes) as f64 * 8e-9 / seconds;
                (*name, done, gbit, now.failed - before.failed)
            },
        );
        let mut text = String::new();
        if self.json {
            let rates: serde_json::Map<_, _> = rates
                .map(|(name, done, gbit, failed)| {
                    let rate = json!({ "ops_per_s": done, "gbit_per_s": gbit, "errors": failed });
                    (name.to_owned(), rate)
                })
                .collect();
            let report = json!({
                "core": self.core, "seconds": seconds, "rates": rates,
                "frames_in_use": stats.frames.in_use, "frames_limit": stats.frames.limit,
                "regions": stats.regions.in_use, "references": stats.entries.in_use,
                "datagrams_received": counters.datagrams_received,
                "packets_resent": counters.packets_resent,
            });
            text = format!("{report}\n");
        } else {
            let core = self.core.map_or("any".to_owned(), |core| core.to_string());
            text += &format!(
                "core {core}: {} of {} frames, {} regions, {} references, {} sessions\n",
                stats.frames.in_use,
                stats.frames.limit,
                stats.regions.in_use,
                stats.entries.in_use,
                stats.holders.in_use
            );
            for (name, done, gbit, failed) in rates.filter(|rate| rate.1 > 0.0 || rate.3 > 0) {
                text += &format!(
                    "  {name:<11} {done:>12.0} /s {gbit:>8.3} Gbit/s {failed:>6} failed\n"
                );
            }
        }
        // A reader that went away is no reason to stop serving.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
