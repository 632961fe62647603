//! How a poll loop that goes to sleep and a thread with work for it miss each other never.

use crate::sync::{AtomicBool, Ordering, fence};

/// Whether a loop sleeps or has announced that it will.
#[derive(Debug)]
pub(crate) struct Sleeper(AtomicBool);

impl Sleeper {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The loop says that it will sleep unless one more look finds work.
    pub(crate) fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The loop says that it is awake.
    pub(crate) fn retract(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it must be woken, asked after work was put where its next look sees it.
    pub(crate) fn must_be_woken(&self) -> bool {
        // Either this sees the announcement, or the look after the announcement sees the work.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}
