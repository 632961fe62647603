//! What happened last, for people: rings of events as text, on demand and when a process panics.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use dmrpc_core::trace::{Event, Ring};

/// Poll loops that have a ring of their own.
const RINGS: usize = 64;

/// What happened last in each poll loop.
static RING: [Ring; RINGS] = [const { Ring::new() }; RINGS];

/// The ring of one more poll loop of this process. Loops beyond 64 share theirs, and garble it.
pub fn free_ring() -> &'static Ring {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    &RING[TAKEN.fetch_add(1, Ordering::Relaxed) % RINGS]
}

/// Sees to it that a process that panics says on standard error what happened before.
pub fn dump_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        for ring in RING.iter().filter(|ring| ring.count() > 0) {
            let _ = std::io::stderr().write_all(text(ring, false).as_bytes());
        }
        before(panic);
    }));
}

/// The last events of a ring, the oldest first, a line each; with `json`, an object each.
pub fn text(ring: &Ring, json: bool) -> String {
    let mut text = String::new();
    ring.for_each(|event| {
        let Event { at, what, session, slot, request, trace } = event;
        let (nanos, what, trace) = (at.as_nanos(), what.name(), trace.0);
        let _ = if json {
            writeln!(
                text,
                "{{\"event\":\"{what}\",\"at_ns\":{nanos},\"session\":{session},\"slot\":{slot},\
                 \"request\":{request},\"trace\":\"{trace:032x}\"}}"
            )
        } else {
            let seconds = nanos as f64 / 1e9;
            writeln!(
                text,
                "  {seconds:>14.6} s {what:<22} session {session} slot {slot} request {request} \
                 trace {trace:032x}"
            )
        };
    });
    text
}

#[cfg(test)]
mod tests {
    use dmrpc_core::time::Instant;
    use dmrpc_core::trace::What;
    use dmrpc_core::wire::message::TraceId;

    use super::*;

    #[test]
    fn events_are_told_in_order() {
        let ring = Ring::new();
        for (request, what) in [(1, What::Opened), (2, What::Request)] {
            let (at, trace) = (Instant::from_nanos(1_500_000_000 * request), TraceId(0xAB));
            ring.record(&Event { at, what, session: 3, slot: 4, request, trace });
        }
        let people = text(&ring, false);
        let lines: Vec<_> = people.lines().collect();
        assert!(lines[0].contains("1.500000 s opened") && lines[1].contains("request 2"));
        let json = text(&ring, true);
        let first = "{\"event\":\"opened\",\"at_ns\":1500000000,\"session\":3,\"slot\":4,\
                     \"request\":1,\"trace\":\"000000000000000000000000000000ab\"}";
        assert_eq!(json.lines().next(), Some(first));
        assert_eq!(json.lines().count(), 2);
    }
}
