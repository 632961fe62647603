//! Memory in weak order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dmrpc_core::memory::{Memory, orders};
use loom::sync::atomic::{AtomicU64, fence};

/// Bytes of a word.
const WORD_BYTES: u64 = 8;

/// The orders of accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Of loads.
    pub load: Ordering,
    /// Of stores.
    pub store: Ordering,
    /// Of swaps that succeed.
    pub swap: Ordering,
    /// Of fences; with [`Ordering::Relaxed`] there are none.
    pub fence: Ordering,
}

impl Orders {
    /// Those of the real memory.
    pub const REAL: Self =
        Self { load: orders::LOAD, store: orders::STORE, swap: orders::SWAP, fence: orders::FENCE };

    /// The real ones with relaxed loads.
    pub const RELAXED_LOADS: Self = Self { load: Ordering::Relaxed, ..Self::REAL };
    /// The real ones with relaxed stores.
    pub const RELAXED_STORES: Self = Self { store: Ordering::Relaxed, ..Self::REAL };
    /// The real ones with relaxed swaps.
    pub const RELAXED_SWAPS: Self = Self { swap: Ordering::Relaxed, ..Self::REAL };
    /// The real ones without fences.
    pub const NO_FENCES: Self = Self { fence: Ordering::Relaxed, ..Self::REAL };
}

/// Words whose accesses are seen as late as their orders allow. Clones are the same memory; made
/// within a model only.
#[derive(Clone, Debug)]
pub struct Weak {
    words: Arc<[AtomicU64]>,
    /// Counted up, relaxed, before each access to a word: loom looks for other orders of two
    /// accesses only if nothing else was done with the word between them, even if it was a load.
    turns: Arc<AtomicU64>,
    orders: Orders,
}

impl Weak {
    /// Memory of `bytes` bytes of zeros.
    pub fn new(bytes: u64, orders: Orders) -> Self {
        Self::with(std::iter::repeat_n(0, bytes.div_ceil(WORD_BYTES) as usize), orders)
    }

    /// Memory of these words.
    pub fn with(words: impl Iterator<Item = u64>, orders: Orders) -> Self {
        let words = words.map(AtomicU64::new).collect();
        Self { words, turns: Arc::new(AtomicU64::new(0)), orders }
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(WORD_BYTES), "offset {offset:#x} must be a multiple of 8");
        self.turns.fetch_add(1, Ordering::Relaxed);
        &self.words[(offset / WORD_BYTES) as usize]
    }

    /// A word of bulk bytes: a switch before it adds nothing to one before the word that follows.
    fn bulk(&self, offset: u64) -> &AtomicU64 {
        &self.words[(offset / WORD_BYTES) as usize]
    }

    /// The word that a half is in, and the half's shift.
    fn half(&self, offset: u64) -> (&AtomicU64, u64) {
        (self.word(offset & !(WORD_BYTES - 1)), 8 * (offset % WORD_BYTES))
    }

    /// Calls `f` with each word of a range: its offset, the bytes of it that are meant, and where
    /// they are in a buffer.
    fn pieces(offset: u64, len: usize, mut f: impl FnMut(u64, std::ops::Range<usize>, usize)) {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let start = (at % WORD_BYTES) as usize;
            let bytes = (len - done).min(WORD_BYTES as usize - start);
            f(at - start as u64, start..start + bytes, done);
            done += bytes;
        }
    }
}

impl Memory for Weak {
    fn len(&self) -> u64 {
        self.words.len() as u64 * WORD_BYTES
    }

    fn shared(&self) -> bool {
        true
    }

    fn load_u32(&self, offset: u64) -> u32 {
        let (word, shift) = self.half(offset);
        (word.load(self.orders.load) >> shift) as u32
    }

    fn load_u64(&self, offset: u64) -> u64 {
        self.word(offset).load(self.orders.load)
    }

    fn store_u32(&self, offset: u64, value: u32) {
        let (word, shift) = self.half(offset);
        let half = |old: u64| old & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
        let stored = word.fetch_update(self.orders.store, Ordering::Relaxed, |old| Some(half(old)));
        assert!(stored.is_ok(), "there is always a new value");
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.word(offset).store(value, self.orders.store);
    }

    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        let failed = if self.orders.swap == Ordering::Relaxed {
            Ordering::Relaxed
        } else {
            orders::SWAP_FAILED
        };
        self.word(offset).compare_exchange(current, new, self.orders.swap, failed)
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        Self::pieces(offset, target.len(), |word, range, done| {
            let bytes = self.bulk(word).load(Ordering::Relaxed).to_le_bytes();
            target[done..done + range.len()].copy_from_slice(&bytes[range]);
        });
    }

    fn write(&self, offset: u64, source: &[u8]) {
        Self::pieces(offset, source.len(), |word, range, done| {
            let word = self.bulk(word);
            let mut bytes = [0; WORD_BYTES as usize];
            if range.len() < bytes.len() {
                bytes = word.load(Ordering::Relaxed).to_le_bytes();
            }
            bytes[range.clone()].copy_from_slice(&source[done..done + range.len()]);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        });
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        let mut bytes = vec![0; len as usize];
        self.read(source, &mut bytes);
        self.write(target, &bytes);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.write(offset, &vec![0; len as usize]);
    }

    fn flush(&self, _offset: u64, _len: u64) {}

    fn fence(&self) {
        if self.orders.fence != Ordering::Relaxed {
            fence(self.orders.fence);
        }
    }
}
