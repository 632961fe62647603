//! How far apart two cores are: what a line of cache takes to and fro. On a rented machine it
//! changes from minute to minute (52 ns where they share a cache, 300 ns where they do not), and
//! most ratios to a bare device with it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use dmrpc_host::affinity::{available_cores, pin_to_core};

/// Round trips of a block; the best of [`BLOCKS`] blocks counts, since whatever else runs on the
/// cores can only slow one down.
const ROUND_TRIPS: u32 = 20_000;
const BLOCKS: u32 = 7;

/// Up to so many nanoseconds, two cores share a cache.
const NEAR_NS_MAX: u64 = 120;

/// A distance for people.
pub(crate) fn text(line_ns: Option<u64>) -> String {
    match line_ns {
        None => "not measured".to_owned(),
        Some(line) if line <= NEAR_NS_MAX => format!("near, {line} ns"),
        Some(line) => format!("far, {line} ns"),
    }
}

/// A word in a line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

/// Nanoseconds that a line takes from the first core that this process may use to the second and
/// back; `None` if there are not two, or one cannot be had.
pub(crate) fn line_ns() -> Option<u64> {
    let cores = available_cores().ok()?;
    let (&ours, &theirs) = (cores.first()?, cores.get(1)?);
    let line = Line(AtomicU32::new(0));
    thread::scope(|scope| {
        // Threads of their own, so that nobody else's affinity changes.
        let answering = scope.spawn(|| {
            let pinned = pin_to_core(theirs).is_ok();
            for turn in 0..ROUND_TRIPS * BLOCKS {
                wait_for(&line, 2 * turn + 1);
                line.0.store(2 * turn + 2, Ordering::Release);
            }
            pinned
        });
        let asking = scope.spawn(|| {
            let pinned = pin_to_core(ours).is_ok();
            let best = best_block(&line);
            pinned.then_some(best)
        });
        let best = asking.join().ok()?;
        answering.join().ok()?.then_some(best).flatten()
    })
}

/// The best block's nanoseconds a round trip.
fn best_block(line: &Line) -> u64 {
    let block = |number| {
        let start = Instant::now();
        for turn in number * ROUND_TRIPS..(number + 1) * ROUND_TRIPS {
            line.0.store(2 * turn + 1, Ordering::Release);
            wait_for(line, 2 * turn + 2);
        }
        start.elapsed().as_nanos() as u64 / u64::from(ROUND_TRIPS)
    };
    (0..BLOCKS).map(block).min().unwrap_or(0)
}

fn wait_for(line: &Line, value: u32) {
    while line.0.load(Ordering::Acquire) != value {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cores_are_some_way_apart() {
        if available_cores().expect("the kernel tells").len() < 2 {
            assert_eq!(line_ns(), None);
            return;
        }
        let line = line_ns().expect("two cores");
        assert!(text(Some(line)).ends_with(" ns"));
        assert!((1..10_000_000).contains(&line), "{line} ns");
    }
}
