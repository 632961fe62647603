//! Rates and pool use, for people and for programs.
//!
//! The poll loop only copies its counters to a place that it shares with a thread; the thread makes
//! text of them and waits for the terminal.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use dmrpc_core::endpoint::view::SessionView;
use dmrpc_core::endpoint::{Counters, Endpoint};
use dmrpc_core::memory::Memory;
use dmrpc_core::service::{MemoryNode, OPERATIONS, Operation};
use dmrpc_core::store::{Backlog, Stats};
use dmrpc_core::time::Instant;
use dmrpc_core::trace::{Ring, Traced};
use dmrpc_host::events;
use serde_json::json;
use spin::Mutex;

/// Sessions that a dump names, at most.
const SESSIONS_NAMED: usize = 64;

/// What a person asked for.
#[derive(Clone, Copy, Debug)]
struct Dump {
    sessions: [Option<SessionView>; SESSIONS_NAMED],
    ring: &'static Ring,
}

/// A poll loop's counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Snapshot {
    at: Instant,
    operations: [Operation; OPERATIONS.len()],
    stats: Stats,
    counters: Counters,
    reclaiming: bool,
    /// How much, for a dump.
    backlog: Backlog,
    /// Asked for by a person: everything, not only rates.
    dump: Option<Dump>,
}

/// What the loop and the thread share. The loop never waits for the lock: it tries, and a report
/// that is not fetched yet is replaced by a newer one at the next occasion.
struct Shared {
    latest: Mutex<Option<Snapshot>>,
    stop: AtomicBool,
}

/// The thread that prints.
pub(crate) struct Reporter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts the thread. `core` is the core that the loop is pinned to.
    pub(crate) fn start(json: bool, core: Option<usize>, now: Instant) -> io::Result<Self> {
        let shared = Arc::new(Shared { latest: Mutex::new(None), stop: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("report".to_owned()).spawn(move || {
            let mut before = Snapshot { at: now, ..Snapshot::default() };
            while !theirs.stop.load(Ordering::Acquire) {
                thread::park();
                let latest = theirs.latest.lock().take();
                if let Some(latest) = latest {
                    print(json, core, &before, &latest);
                    before = latest;
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands the loop's counters over for printing.
    pub(crate) fn publish<M: Memory>(
        &self,
        now: Instant,
        node: &Traced<'static, MemoryNode<'_, M>>,
        endpoint: &Endpoint<'_>,
        dump: bool,
    ) {
        let Some(mut latest) = self.shared.latest.try_lock() else { return };
        *latest = Some(Snapshot {
            at: now,
            operations: *node.host.operations(),
            stats: node.host.store().stats(),
            counters: *endpoint.counters(),
            reclaiming: node.host.store().pending(),
            backlog: if dump { node.host.store().backlog() } else { Backlog::default() },
            dump: dump.then(|| {
                let mut sessions = endpoint.server_sessions();
                Dump { sessions: std::array::from_fn(|_| sessions.next()), ring: node.ring() }
            }),
        });
        drop(latest);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

/// Rates of one operation between two snapshots.
struct Rate {
    name: &'static str,
    ops_per_s: f64,
    gbit_per_s: f64,
    errors: u64,
}

fn rates(before: &Snapshot, now: &Snapshot, seconds: f64) -> impl Iterator<Item = Rate> {
    let pairs = now.operations.iter().zip(&before.operations);
    OPERATIONS.iter().zip(pairs).map(move |(name, (now, before))| Rate {
        name,
        ops_per_s: (now.done - before.done) as f64 / seconds,
        gbit_per_s: (now.bytes - before.bytes) as f64 * 8e-9 / seconds,
        errors: now.failed - before.failed,
    })
}

fn print(json: bool, core: Option<usize>, before: &Snapshot, now: &Snapshot) {
    let seconds = (now.at - before.at).as_nanos().max(1) as f64 / 1e9;
    let rates = rates(before, now, seconds);
    let Snapshot { stats, counters, .. } = now;
    let text = if json {
        let rates: serde_json::Map<_, _> = rates
            .map(|Rate { name, ops_per_s, gbit_per_s, errors }| {
                let rate = json!({
                    "ops_per_s": ops_per_s, "gbit_per_s": gbit_per_s, "errors": errors
                });
                (name.to_owned(), rate)
            })
            .collect();
        let report = json!({
            "core": core, "seconds": seconds, "rates": rates,
            "frames_in_use": stats.frames.in_use, "frames_limit": stats.frames.limit,
            "regions": stats.regions.in_use, "references": stats.entries.in_use,
            "datagrams_received": counters.datagrams_received,
            "packets_resent": counters.packets_resent,
        });
        format!("{report}\n")
    } else {
        let core = core.map_or("any".to_owned(), |core| core.to_string());
        let mut text = format!(
            "core {core}: {} of {} frames, {} regions, {} references, {} sessions\n",
            stats.frames.in_use,
            stats.frames.limit,
            stats.regions.in_use,
            stats.entries.in_use,
            stats.holders.in_use
        );
        for rate in rates.filter(|rate| rate.ops_per_s > 0.0 || rate.errors > 0) {
            let Rate { name, ops_per_s, gbit_per_s, errors } = rate;
            text += &format!(
                "  {name:<11} {ops_per_s:>12.0} /s {gbit_per_s:>8.3} Gbit/s {errors:>6} failed\n"
            );
        }
        text
    };
    let text = if let Some(asked) = &now.dump { text + &dump(json, now, asked) } else { text };
    // A reader that went away is no reason to stop serving.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Who is connected, what is held, what was dropped, and what happened last.
fn dump(json: bool, now: &Snapshot, asked: &Dump) -> String {
    let sessions: Vec<_> = asked.sessions.iter().flatten().collect();
    let Snapshot { at, stats, counters, reclaiming, backlog, .. } = now;
    let mut text = String::new();
    if json {
        let sessions: Vec<_> = sessions
            .iter()
            .map(|session| {
                json!({
                    "session": session.id.index, "generation": session.id.generation,
                    "address": session.peer.to_string(), "incarnation": session.incarnation,
                    "suspected": session.suspected, "busy_slots": session.busy,
                    "silent_ms": at.since(session.last_heard).as_nanos() / 1_000_000,
                })
            })
            .collect();
        let mut all = serde_json::Map::new();
        counters.for_each(|name, value| drop(all.insert(name.to_owned(), json!(value))));
        let object = json!({
            "sessions": sessions, "counters": all, "pins": stats.pins.in_use,
            "stages": stats.stages.in_use, "detached": stats.detached,
            "holders": stats.holders.in_use, "reclaiming": reclaiming,
            "reclaiming_versions": backlog.versions, "reclaiming_stages": backlog.stages,
            "holders_leaving": backlog.leaving, "holders_in_grace": backlog.in_grace,
            "holders_expiring": backlog.expiring, "left_pages": backlog.pages,
            "left_regions": backlog.regions, "left_references": backlog.references,
        });
        text = format!("{object}\n");
    } else {
        let reclaiming = if *reclaiming { ", reclaiming" } else { "" };
        let _ = writeln!(
            text,
            "  {} pins, {} writes staged, {} detached references, {} holders{reclaiming}",
            stats.pins.in_use, stats.stages.in_use, stats.detached, stats.holders.in_use
        );
        let Backlog { versions, stages, leaving, in_grace, expiring, .. } = backlog;
        let Backlog { pages, regions, references, .. } = backlog;
        let _ = writeln!(
            text,
            "  to be reclaimed: {versions} versions, {stages} staged writes; {leaving} holders \
             leaving, {in_grace} in their grace, {expiring} expiring, with {pages} pages, \
             {regions} regions, {references} references"
        );
        for session in sessions {
            let _ = writeln!(
                text,
                "  session {} of {} (incarnation {}): {} calls under way, heard of {} ms ago{}",
                session.id.index,
                session.peer,
                session.incarnation,
                session.busy,
                at.since(session.last_heard).as_nanos() / 1_000_000,
                if session.suspected { ", suspected" } else { "" }
            );
        }
        counters.for_each(|name, value| {
            if value != 0 {
                let _ = writeln!(text, "  {name:<24} {value:>16}");
            }
        });
    }
    text + &events::text(asked.ring, json)
}
