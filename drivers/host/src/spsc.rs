//! A bounded ring between two threads: one produces, one consumes, neither waits for the other.
//!
//! Used to hand work to a poll loop and to take log frames from it. Nothing is allocated after
//! [`ring()`]; an item costs the producer one store to a shared cache line, and each side re-reads
//! the other's position only when its own copy says that the ring is full, or empty.

use std::fmt;
use std::mem::MaybeUninit;

use crate::sync::{Arc, AtomicUsize, Ordering, Place, fill, last_value};

/// Keeps what the two sides write on cache lines of their own: 128 bytes, because processors
/// fetch lines in pairs.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared<T> {
    /// Items taken so far, modulo the word. Written by the consumer only.
    taken: Padded<AtomicUsize>,
    /// Items put so far, modulo the word. Written by the producer only.
    put: Padded<AtomicUsize>,
    /// A power of two of places. Those from `taken` to `put` hold items.
    places: Box<[Place<MaybeUninit<T>>]>,
}

// SAFETY: a place is touched by the producer only while it is outside `taken..put`, by the
// consumer only while it is inside, and the release stores of the positions hand it over; items
// move from thread to thread, so they must be `Send`.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: see above.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    fn place(&self, position: usize) -> &Place<MaybeUninit<T>> {
        &self.places[position & (self.places.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let put = last_value(&mut self.put.0);
        let mut position = last_value(&mut self.taken.0);
        while position != put {
            // SAFETY: both sides are gone, and places from `taken` to `put` hold items.
            self.place(position).with_mut(|place| unsafe { (*place).assume_init_drop() });
            position = position.wrapping_add(1);
        }
    }
}

/// The putting side of a ring.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    put: usize,
    /// A copy of the consumer's position, which may be old.
    taken: usize,
}

/// The taking side of a ring.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    taken: usize,
    /// A copy of the producer's position, which may be old.
    put: usize,
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("put", &self.put).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// Makes a ring for `capacity` items, rounded up to a power of two.
///
/// # Panics
/// If `capacity` is 0.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a ring has at least one place");
    let places =
        (0..capacity.next_power_of_two()).map(|_| Place::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared {
        taken: Padded(AtomicUsize::new(0)),
        put: Padded(AtomicUsize::new(0)),
        places,
    });
    let producer = Producer { shared: Arc::clone(&shared), put: 0, taken: 0 };
    (producer, Consumer { shared, taken: 0, put: 0 })
}

impl<T> Producer<T> {
    /// How many items the ring holds at most.
    pub fn capacity(&self) -> usize {
        self.shared.places.len()
    }

    /// Whether the consumer is gone.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// Free places, of which the caller wants `wanted`.
    fn free(&mut self, wanted: usize) -> usize {
        let free = self.capacity() - self.put.wrapping_sub(self.taken);
        if free >= wanted {
            return free;
        }
        self.taken = self.shared.taken.0.load(Ordering::Acquire);
        self.capacity() - self.put.wrapping_sub(self.taken)
    }

    /// Puts one item.
    ///
    /// # Errors
    /// The item, if the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.free(1) == 0 {
            return Err(item);
        }
        self.shared.place(self.put).with_mut(|place| {
            // SAFETY: the place at `put` is outside `taken..put`, so it is the producer's.
            unsafe { (*place).write(item) };
        });
        self.put = self.put.wrapping_add(1);
        self.shared.put.0.store(self.put, Ordering::Release);
        Ok(())
    }

    /// Puts all parts one after the other, to be seen by the consumer all at once. Returns whether
    /// there was room; if not, nothing was put.
    #[inline]
    pub fn push_all(&mut self, parts: &[&[T]]) -> bool
    where
        T: Copy,
    {
        let count: usize = parts.iter().map(|part| part.len()).sum();
        if self.free(count) < count {
            return false;
        }
        for part in parts {
            let start = self.put & (self.capacity() - 1);
            let (before_end, after_end) = part.split_at(part.len().min(self.capacity() - start));
            for (piece, position) in [(before_end, start), (after_end, 0)] {
                if piece.is_empty() {
                    continue;
                }
                let target = &self.shared.places[position..][..piece.len()];
                // SAFETY: the places are outside `taken..put`, so they are the producer's.
                unsafe { fill(target, piece) };
            }
            self.put = self.put.wrapping_add(part.len());
        }
        self.shared.put.0.store(self.put, Ordering::Release);
        true
    }
}

impl<T> Consumer<T> {
    /// Whether the producer is gone. What it put before is still there.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// How many items are there.
    pub fn count(&mut self) -> usize {
        self.put = self.shared.put.0.load(Ordering::Acquire);
        self.put.wrapping_sub(self.taken)
    }

    /// Takes the oldest item, if there is one.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.taken == self.put && self.count() == 0 {
            return None;
        }
        // SAFETY: the place at `taken` is inside `taken..put`, so it holds an item and is the
        // consumer's; it is given back only below, after the item was moved out.
        let item =
            self.shared.place(self.taken).with(|place| unsafe { (*place).assume_init_read() });
        self.taken = self.taken.wrapping_add(1);
        self.shared.taken.0.store(self.taken, Ordering::Release);
        Some(item)
    }

    /// Fills `items` with the oldest items. Returns whether there were as many; if not, nothing
    /// was taken.
    pub fn pop_all(&mut self, items: &mut [T]) -> bool
    where
        T: Copy,
    {
        let count = items.len();
        if self.put.wrapping_sub(self.taken) < count && self.count() < count {
            return false;
        }
        for item in items {
            let place = self.shared.place(self.taken);
            // SAFETY: as in `pop`; copying out is moving out for a `Copy` type.
            *item = place.with(|place| unsafe { (*place).assume_init_read() });
            self.taken = self.taken.wrapping_add(1);
        }
        self.shared.taken.0.store(self.taken, Ordering::Release);
        true
    }
}
