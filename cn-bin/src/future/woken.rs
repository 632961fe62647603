//! Which tasks were woken by other threads: a bit each.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering};

/// The bits of all tasks. Clones are the same bits.
#[derive(Clone)]
pub(crate) struct Woken(Arc<[AtomicU64]>);

impl Woken {
    pub(crate) fn new(tasks: usize) -> Self {
        Self((0..tasks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes that `task` is to be polled, after what it waits for was put where it looks.
    pub(crate) fn wake(&self, task: u16) {
        self.0[usize::from(task) / 64].fetch_or(1 << (task % 64), Ordering::Release);
    }

    /// Hands `take` the bits of each word that has some, and clears them.
    #[inline]
    pub(crate) fn collect(&self, mut take: impl FnMut(usize, u64)) {
        for (number, word) in self.0.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                take(number, word.swap(0, Ordering::Acquire));
            }
        }
    }
}
