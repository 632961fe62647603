//! What the modelled files are compiled with in the place of the standard library: loom's types,
//! and a switch for each order that they may rely on.

pub(crate) use loom::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;

use std::cell::Cell;
use std::mem::MaybeUninit;

use loom::sync::atomic;

/// What a model leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// Loads, and the loads of swaps, are relaxed.
    Acquire,
    /// Stores, and the stores of swaps, are relaxed.
    Release,
    Fences,
}

thread_local! {
    /// All threads of a model are run by one of the system's.
    static WITHOUT: Cell<Without> = const { Cell::new(Without::Nothing) };
    /// Whether each access to an atomic takes a turn at it.
    static TURNS: Cell<bool> = const { Cell::new(false) };
}

/// To be called first in a model.
pub(crate) fn leave_out(what: Without) {
    WITHOUT.set(what);
    TURNS.set(false);
}

/// The same for code that loads a word before it swaps it: loom looks for other orders of two
/// accesses only if nothing else was done with the word between them, even if it was a load.
pub(crate) fn leave_out_in_turns(what: Without) {
    leave_out(what);
    TURNS.set(true);
}

/// Counted up, relaxed, before each access to an atomic, if that is asked for.
#[derive(Debug)]
struct Turns(atomic::AtomicU64);

impl Turns {
    fn take(&self) {
        if TURNS.get() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The order that an access has, of the one that it was written with.
fn order(written: Ordering) -> Ordering {
    match (WITHOUT.get(), written) {
        (Without::Acquire, Ordering::Acquire) => Ordering::Relaxed,
        (Without::Acquire, Ordering::AcqRel) => Ordering::Release,
        (Without::Release, Ordering::Release) => Ordering::Relaxed,
        (Without::Release, Ordering::AcqRel) => Ordering::Acquire,
        _ => written,
    }
}

pub(crate) fn fence(written: Ordering) {
    if WITHOUT.get() != Without::Fences {
        atomic::fence(written);
    }
}

/// An atomic of loom's with these orders.
macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(atomic::$name, Turns);

        impl Default for $name {
            fn default() -> Self {
                Self::new(Default::default())
            }
        }

        #[allow(dead_code, reason = "no type needs all of them")]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(atomic::$name::new(value), Turns(atomic::AtomicU64::new(0)))
            }

            pub(crate) fn load(&self, written: Ordering) -> $value {
                self.1.take();
                self.0.load(order(written))
            }

            pub(crate) fn store(&self, value: $value, written: Ordering) {
                self.1.take();
                self.0.store(value, order(written));
            }

            pub(crate) fn swap(&self, value: $value, written: Ordering) -> $value {
                self.1.take();
                self.0.swap(value, order(written))
            }

            pub(crate) fn fetch_or(&self, value: $value, written: Ordering) -> $value {
                self.1.take();
                self.0.fetch_or(value, order(written))
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                written: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.1.take();
                self.0.compare_exchange(old, new, order(written), order(failed))
            }
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

/// A place that threads use by turns: loom sees to it that they do.
pub(crate) struct Place<T>(loom::cell::UnsafeCell<T>);

impl<T> Place<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        self.0.with(f)
    }

    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        self.0.with_mut(f)
    }
}

/// Puts `items` into as many places.
///
/// # Safety
/// No other thread may be using the places; loom notices one that is.
pub(crate) unsafe fn fill<T: Copy>(places: &[Place<MaybeUninit<T>>], items: &[T]) {
    for (place, item) in places.iter().zip(items) {
        // SAFETY: loom hands out a valid place.
        place.with_mut(|place| unsafe { (*place).write(*item) });
    }
}

/// The value of a number that nobody else has any more; nothing, once a model has failed.
pub(crate) fn last_value(number: &mut AtomicUsize) -> usize {
    if std::thread::panicking() { 0 } else { number.0.with_mut(|number| *number) }
}
