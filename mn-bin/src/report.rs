//! Rates and pool use, for people and for programs.
//!
//! The poll loop only copies its counters to a place that it shares with a thread; the thread makes
//! text of them and waits for the terminal.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use dmrpc_choice::AnyDevice;
use dmrpc_core::endpoint::view::SessionView;
use dmrpc_core::endpoint::{Counters, Endpoint};
use dmrpc_core::memory::Memory;
use dmrpc_core::service::{MemoryNode, OPERATIONS, Operation};
use dmrpc_core::store::{Backlog, HolderUsage, Stats};
use dmrpc_core::time::Instant;
use dmrpc_core::trace::{Ring, Traced};
use dmrpc_host::clock::Clock;
use dmrpc_host::events;
use dmrpc_host::polls::{HandlerTime, PollCounts, Sampled};
use serde_json::json;
use spin::Mutex;

/// A memory node as a poll loop has it: its requests are timed now and then, and remembered.
pub(crate) type Served<'m, M> = Sampled<Traced<'static, MemoryNode<'m, M>>>;

/// Counts of a driver that a report has room for.
const DEVICE_COUNTS: usize = 16;

/// Counts of a driver with their names.
type DeviceCounts = [Option<(&'static str, u64)>; DEVICE_COUNTS];

fn device_counts(device: &AnyDevice) -> DeviceCounts {
    let mut counts = [None; DEVICE_COUNTS];
    let mut places = counts.iter_mut();
    device.for_each_count(|name, value| {
        if let Some(place) = places.next() {
            *place = Some((name, value));
        }
    });
    counts
}

/// A session, and what it holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    session: SessionView,
    usage: HolderUsage,
}

/// A poll loop's counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Snapshot {
    at: Instant,
    operations: [Operation; OPERATIONS.len()],
    stats: Stats,
    counters: Counters,
    polls: PollCounts,
    handlers: HandlerTime,
    device: DeviceCounts,
    reclaiming: bool,
    /// How much, for a dump.
    backlog: Backlog,
    /// Asked for by a person: everything, not only rates.
    dump: Option<&'static Ring>,
}

/// What the loop and the thread share. The loop never waits for the lock: it tries, and a report
/// that is not fetched yet is replaced by a newer one at the next occasion.
struct Shared {
    latest: Mutex<Option<Snapshot>>,
    /// Those of the last dump; there is room for all that there may be.
    sessions: Mutex<Vec<Held>>,
    stop: AtomicBool,
}

/// The thread that prints.
pub(crate) struct Reporter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts the thread. `core` is the core that the loop is pinned to; it has up to `sessions`.
    pub(crate) fn start(
        json: bool,
        core: Option<usize>,
        clock: &Clock,
        sessions: usize,
    ) -> io::Result<Self> {
        let (now, ticks_a_nano) = (clock.now(), clock.ticks_a_nano());
        let shared = Arc::new(Shared {
            latest: Mutex::new(None),
            sessions: Mutex::new(Vec::with_capacity(sessions)),
            stop: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("report".to_owned()).spawn(move || {
            let mut before = Snapshot { at: now, ..Snapshot::default() };
            while !theirs.stop.load(Ordering::Acquire) {
                thread::park();
                let latest = theirs.latest.lock().take();
                if let Some(latest) = latest {
                    // The loop waits for nobody: a dump asked for meanwhile is not made.
                    let sessions = theirs.sessions.lock();
                    print(json, (core, ticks_a_nano), &before, &latest, &sessions);
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
        node: &Served<'_, M>,
        (endpoint, device): (&Endpoint<'_>, &AnyDevice),
        polls: PollCounts,
        dump: bool,
    ) {
        let Some(mut latest) = self.shared.latest.try_lock() else { return };
        let Traced { host: memory, .. } = &node.host;
        if dump {
            let Some(mut sessions) = self.shared.sessions.try_lock() else { return };
            sessions.clear();
            sessions.extend(endpoint.server_sessions().map(|session| {
                let usage = memory.holdings(session.id);
                Held { session, usage }
            }));
        }
        *latest = Some(Snapshot {
            at: now,
            operations: *memory.operations(),
            stats: memory.store().stats(),
            counters: *endpoint.counters(),
            polls,
            handlers: node.time(),
            device: device_counts(device),
            reclaiming: memory.store().pending(),
            backlog: if dump { memory.store().backlog() } else { Backlog::default() },
            dump: dump.then(|| node.host.ring()),
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

/// What a core did between two snapshots.
struct Work {
    packets_per_s: f64,
    /// Packets of a burst.
    burst_fill: f64,
    /// Share of polls that found nothing to do.
    empty_share: f64,
    /// Ticks of the time-stamp counter in a poll that had something to do.
    poll_cycles: f64,
    /// Share of the time that went into requests.
    handler_share: f64,
    /// Ticks of the time-stamp counter in a request.
    handler_cycles: f64,
}

fn work(before: &Snapshot, now: &Snapshot, seconds: f64, ticks_a_nano: f64) -> Work {
    let polls = now.polls.since(&before.polls);
    let handlers = now.handlers.since(&before.handlers);
    Work {
        packets_per_s: polls.packets as f64 / seconds,
        burst_fill: polls.burst_fill(),
        empty_share: polls.empty_share(),
        poll_cycles: polls.busy_poll_ns() * ticks_a_nano,
        handler_share: handlers.all_ns() * 1e-9 / seconds,
        handler_cycles: handlers.request_ns() * ticks_a_nano,
    }
}

fn print(
    json: bool,
    (core, ticks_a_nano): (Option<usize>, f64),
    before: &Snapshot,
    now: &Snapshot,
    sessions: &[Held],
) {
    let seconds = (now.at - before.at).as_nanos().max(1) as f64 / 1e9;
    let work = work(before, now, seconds, ticks_a_nano);
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
            "packets_per_s": work.packets_per_s, "burst_fill": work.burst_fill,
            "empty_polls": work.empty_share, "poll_cycles": work.poll_cycles,
            "handler_share": work.handler_share, "handler_cycles": work.handler_cycles,
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
        let Work { packets_per_s, burst_fill, empty_share, poll_cycles, .. } = work;
        let _ = writeln!(
            text,
            "  {packets_per_s:.0} packets/s, {burst_fill:.1} a burst, {:.1} % of polls empty, the \
             others {poll_cycles:.0} cycles, {:.1} % of the time in requests of {:.0} cycles",
            empty_share * 100.0,
            work.handler_share * 100.0,
            work.handler_cycles
        );
        for rate in rates.filter(|rate| rate.ops_per_s > 0.0 || rate.errors > 0) {
            let Rate { name, ops_per_s, gbit_per_s, errors } = rate;
            text += &format!(
                "  {name:<11} {ops_per_s:>12.0} /s {gbit_per_s:>8.3} Gbit/s {errors:>6} failed\n"
            );
        }
        text
    };
    let text = match now.dump {
        Some(ring) => text + &dump(json, now, sessions) + &events::text(ring, json),
        None => text,
    };
    // A reader that went away is no reason to stop serving.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Who is connected and holds what, and what was dropped.
fn dump(json: bool, now: &Snapshot, sessions: &[Held]) -> String {
    let Snapshot { at, stats, counters, reclaiming, backlog, .. } = now;
    let mut text = String::new();
    if json {
        let sessions: Vec<_> = sessions
            .iter()
            .map(|Held { session, usage }| {
                json!({
                    "session": session.id.index, "generation": session.id.generation,
                    "address": session.peer.to_string(), "incarnation": session.incarnation,
                    "suspected": session.suspected, "busy_slots": session.busy,
                    "pages": usage.pages, "regions": usage.regions,
                    "references": usage.entries, "pins": session.kept,
                    "silent_ms": at.since(session.last_heard).as_nanos() / 1_000_000,
                })
            })
            .collect();
        let mut all = serde_json::Map::new();
        counters.for_each(|name, value| drop(all.insert(name.to_owned(), json!(value))));
        let device = now.device.iter().flatten();
        let device: serde_json::Map<_, _> =
            device.map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let object = json!({
            "sessions": sessions, "counters": all, "device": device, "pins": stats.pins.in_use,
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
        for Held { session, usage } in sessions {
            let _ = writeln!(
                text,
                "  session {} of {} (incarnation {}): {} pages, {} regions, {} references, \
                 {} pins, {} calls under way, heard of {} ms ago{}",
                session.id.index,
                session.peer,
                session.incarnation,
                usage.pages,
                usage.regions,
                usage.entries,
                session.kept,
                session.busy,
                at.since(session.last_heard).as_nanos() / 1_000_000,
                if session.suspected { ", suspected" } else { "" }
            );
        }
        let mut line = |name: &str, value: u64| {
            if value != 0 {
                let _ = writeln!(text, "  {name:<24} {value:>16}");
            }
        };
        counters.for_each(&mut line);
        now.device.iter().flatten().for_each(|(name, value)| line(name, *value));
    }
    text
}
