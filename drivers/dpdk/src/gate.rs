//! Keeps bursts out of a link's memory while DPDK's control thread takes it away.
//!
//! When the other end of a memif link goes, the control thread unmaps the memory that both had, and
//! does not ask whether a poll is just reading or writing there: without this a peer that is killed
//! in full flight now and then takes us along. So the control thread closes the gate first, waits
//! until nobody is inside, and opens it when the link is gone; meanwhile bursts wait.
//!
//! That is Dekker's scheme with an uneven fence: each side writes its flag and reads the other's.
//! Bursts pay a store and a load each, without a fence; the closing side, which is rare, has the
//! kernel put a fence into all running threads (`membarrier(2)`).

use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// How long somebody may be inside before the gate is taken to be empty: a burst takes some
/// microseconds, and a thread that was interrupted there milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

static CLOSED: AtomicBool = AtomicBool::new(false);
static PASSES: Mutex<Vec<Arc<AtomicBool>>> = Mutex::new(Vec::new());

/// What one thread at a time goes through the gate with.
#[derive(Debug)]
pub(crate) struct Pass {
    inside: Arc<AtomicBool>,
}

impl Pass {
    pub(crate) fn new() -> Self {
        let inside = Arc::new(AtomicBool::new(false));
        passes().push(Arc::clone(&inside));
        Self { inside }
    }

    /// Runs `burst` inside. While the gate is closed it waits: what is not sent would be lost.
    #[inline]
    pub(crate) fn through<R>(&self, burst: impl FnOnce() -> R) -> R {
        self.enter();
        let result = burst();
        self.inside.store(false, Ordering::Release);
        result
    }

    #[inline]
    fn enter(&self) {
        self.inside.store(true, Ordering::Relaxed);
        // The processor's half of this fence is the closing side's.
        compiler_fence(Ordering::SeqCst);
        if CLOSED.load(Ordering::Acquire) {
            self.wait();
        }
    }

    /// Goes outside until the gate is open, and in again.
    #[cold]
    fn wait(&self) {
        loop {
            self.inside.store(false, Ordering::Release);
            while CLOSED.load(Ordering::Acquire) {
                thread::yield_now();
            }
            self.inside.store(true, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            if !CLOSED.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        passes().retain(|inside| !Arc::ptr_eq(inside, &self.inside));
    }
}

fn passes() -> MutexGuard<'static, Vec<Arc<AtomicBool>>> {
    PASSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the gate and waits until nobody is inside. For the control thread.
pub(crate) fn close() {
    if CLOSED.swap(true, Ordering::SeqCst) {
        return;
    }
    sys::fence_all_threads();
    let begin = Instant::now();
    for inside in passes().iter() {
        while inside.load(Ordering::Acquire) && begin.elapsed() < PATIENCE {
            thread::yield_now();
        }
    }
}

/// Opens the gate again.
pub(crate) fn open() {
    CLOSED.store(false, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn nobody_is_inside_a_closed_gate() {
        // What bursts use, and the control thread takes away.
        let there = AtomicBool::new(true);
        let bursts = [AtomicU64::new(0), AtomicU64::new(0)];
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for bursts in &bursts {
                scope.spawn(|| {
                    let pass = Pass::new();
                    while !done.load(Ordering::Relaxed) {
                        let ran = pass.through(|| {
                            let before = there.load(Ordering::Relaxed);
                            let after = there.load(Ordering::Relaxed);
                            assert!(before && after, "it was taken away during a burst");
                            1
                        });
                        bursts.fetch_add(ran, Ordering::Relaxed);
                    }
                });
            }
            for bursts in &bursts {
                let enough = bursts.load(Ordering::Relaxed) + 1_000;
                for round in 0.. {
                    close();
                    there.store(false, Ordering::Relaxed);
                    thread::yield_now();
                    there.store(true, Ordering::Relaxed);
                    open();
                    let enough = bursts.load(Ordering::Relaxed) > enough;
                    // A thread that failed counts no more; the scope's end tells.
                    if (round > 100 && enough) || round > 10_000_000 {
                        break;
                    }
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
