//! What models of lock-free code run on.
//!
//! A *model* is a piece of the real code, small enough that [loom](https://docs.rs/loom) can run it
//! in every order that its threads, and the memory between them, may take. Code that reaches shared
//! memory through [`Memory`](dmrpc_core::memory::Memory) is given one of these:
//!
//! * [`Weak`]: words of loom's, accessed in the orders that `Atomic` uses, so that old values are
//!   seen wherever the orders allow it; bulk bytes are relaxed words.
//! * [`Host`]: one of several hosts that are not coherent, each with a cache that holds lines until
//!   they are flushed, or lets them go whenever it likes.
//!
//! Each model is also run with one order weakened, or one flush left out, and must fail then
//! ([`fails`]): else it would prove nothing.

mod hosts;
mod weak;

pub use hosts::{Flush, Host, Hosts};
pub use weak::{Orders, Weak};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Most accesses to shared words of one run.
const BRANCHES_MAX: usize = 20_000;

/// Runs `model` in every order with at most `preemptions` switches away from a thread that could
/// go on; returns whether no run panicked.
///
/// # Panics
/// If there is only one order, which proves nothing.
pub fn holds(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> bool {
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    // A thread of its own, so that a model that failed leaves nothing behind for the next.
    let check = move || {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = BRANCHES_MAX;
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            model();
        });
    };
    let held = thread::spawn(check).join().is_ok();
    let runs = runs.load(Ordering::Relaxed);
    println!("{runs} runs, {}", if held { "and it holds" } else { "the last of which failed" });
    assert!(!held || runs > 1, "there is only one order");
    held
}

/// Whether some order makes `model` panic: for models of code that was broken on purpose.
pub fn fails(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> bool {
    !holds(preemptions, model)
}
