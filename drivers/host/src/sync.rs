//! What lock-free code of this crate is made of: the standard library's. Models of that code
//! compile it with another module of this name (`tests/models/tests/threads`).

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

/// A place that threads use by turns; who may, they settle among themselves.
#[repr(transparent)]
pub(crate) struct Place<T>(UnsafeCell<T>);

impl<T> Place<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Calls `f` with the place, to be read.
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Calls `f` with the place, to be written.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Puts `items` into as many places.
///
/// # Safety
/// No other thread may be using the places.
///
/// # Panics
/// If there are not as many.
#[inline]
pub(crate) unsafe fn fill<T: Copy>(places: &[Place<MaybeUninit<T>>], items: &[T]) {
    assert_eq!(places.len(), items.len(), "a place for each item");
    // SAFETY: there are as many places; a place has the layout of `T`, and is the caller's.
    unsafe {
        let target = UnsafeCell::raw_get(places.as_ptr().cast::<UnsafeCell<MaybeUninit<T>>>());
        std::ptr::copy_nonoverlapping(items.as_ptr(), target.cast::<T>(), items.len());
    }
}

/// The value of a number that nobody else has any more.
pub(crate) fn last_value(number: &mut AtomicUsize) -> usize {
    *number.get_mut()
}
