//! The orders of accesses to shared memory: what [`Atomic`](super::Atomic) uses, and what models of
//! lock-free code check, so that neither can be changed without the other.

use core::sync::atomic::Ordering;

/// Of loads: what was stored before the store that is seen, is seen too.
pub const LOAD: Ordering = Ordering::Acquire;
/// Of stores: whoever sees one sees what was stored before.
pub const STORE: Ordering = Ordering::Release;
/// Of a compare-and-swap that succeeds: both.
pub const SWAP: Ordering = Ordering::AcqRel;
/// Of one that fails: it is a load.
pub const SWAP_FAILED: Ordering = LOAD;
/// Of fences: all agree on the order of two of them, whatever is before and behind them.
pub const FENCE: Ordering = Ordering::SeqCst;
