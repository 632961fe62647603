//! A global allocator that counts, thread by thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Needs neither a first-use initialiser nor a destructor, so that reading it never allocates.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting each thread's allocations and reallocations.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

/// How often the calling thread has allocated. 0 for ever if [`CountingAllocator`] is not the
/// global allocator.
pub fn allocations_of_this_thread() -> u64 {
    COUNT.get()
}

fn count() {
    COUNT.set(COUNT.get() + 1);
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches only a
// thread-local cell that neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the system allocator's requirements.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the system allocator's requirements.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the system allocator's requirements.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system allocator's requirements.
        unsafe { System.dealloc(pointer, layout) }
    }
}
