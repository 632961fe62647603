//! A wrapper that counts every access and can die at a chosen store.
#![deny(unsafe_code)]

use core::cell::Cell;

use super::Memory;

/// Accesses seen by a [`Counted`], since it was made or last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touches {
    /// Word loads.
    pub loads: u64,
    /// Word stores, compare-and-swaps that succeeded among them.
    pub stores: u64,
    /// Bytes copied out, in, within, or zeroed.
    pub bytes: u64,
    /// Bulk operations (read, write, copy, zero).
    pub bulks: u64,
}

/// Counts the accesses to the memory under it and calls a hook before store number *k*.
///
/// Bulk writes count as one store each for the hook: a process can die in the middle of one, but
/// no protocol may rely on the order of bytes within it.
#[derive(Debug)]
pub struct Counted<M> {
    memory: M,
    touches: Cell<Touches>,
    stores_until_death: Cell<Option<u64>>,
    death: fn(),
}

impl<M: Memory> Counted<M> {
    /// Wraps `memory`; `death` is what happens at the store set by [`Counted::die_at_store`],
    /// instead of that store: typically a panic that the test catches.
    pub fn new(memory: M, death: fn()) -> Self {
        Self { memory, touches: Cell::default(), stores_until_death: Cell::new(None), death }
    }

    /// The counts so far.
    pub fn touches(&self) -> Touches {
        self.touches.get()
    }

    /// Starts counting anew and returns the counts until now.
    pub fn reset(&self) -> Touches {
        self.touches.take()
    }

    /// Dies before the store that follows `stores` more of them; `None` lives for ever.
    pub fn die_at_store(&self, stores: Option<u64>) {
        self.stores_until_death.set(stores);
    }

    fn count(&self, change: impl FnOnce(&mut Touches)) {
        let mut touches = self.touches.get();
        change(&mut touches);
        self.touches.set(touches);
    }

    /// Counts down to the death that was asked for.
    fn before_store(&self) {
        match self.stores_until_death.get() {
            None => {}
            Some(0) => {
                self.stores_until_death.set(None);
                (self.death)();
            }
            Some(left) => self.stores_until_death.set(Some(left - 1)),
        }
    }

    fn count_bulk(&self, len: u64) {
        self.count(|touches| {
            touches.bulks += 1;
            touches.bytes += len;
        });
    }
}

impl<M: Memory> Memory for Counted<M> {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn shared(&self) -> bool {
        self.memory.shared()
    }

    fn load_u32(&self, offset: u64) -> u32 {
        self.count(|touches| touches.loads += 1);
        self.memory.load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> u64 {
        self.count(|touches| touches.loads += 1);
        self.memory.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) {
        self.before_store();
        self.count(|touches| touches.stores += 1);
        self.memory.store_u32(offset, value);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.before_store();
        self.count(|touches| touches.stores += 1);
        self.memory.store_u64(offset, value);
    }

    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.before_store();
        let result = self.memory.compare_exchange_u64(offset, current, new);
        self.count(|touches| {
            touches.loads += 1;
            touches.stores += u64::from(result.is_ok());
        });
        result
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        self.count_bulk(target.len() as u64);
        self.memory.read(offset, target);
    }

    fn write(&self, offset: u64, source: &[u8]) {
        self.before_store();
        self.count_bulk(source.len() as u64);
        self.memory.write(offset, source);
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        self.before_store();
        self.count_bulk(len);
        self.memory.copy(source, target, len);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.before_store();
        self.count_bulk(len);
        self.memory.fill_zero(offset, len);
    }

    fn flush(&self, offset: u64, len: u64) {
        self.memory.flush(offset, len);
    }

    fn fence(&self) {
        self.memory.fence();
    }
}
