//! Wrappers for memory whose pages change hands between hosts that are not coherent.
#![deny(unsafe_code)]

use super::{Handover, Memory};

/// The memory of the one who owns the counts: pages that others may have written are read anew, and
/// what is written to them is written back at once.
///
/// What is written to a line in part is merged with what the cache has of it, so that lines are
/// dropped before writes, too. Words (counts, links, records) are the owner's alone and stay in its
/// cache. All bulk accesses are taken for accesses to pages: those to nodes are flushed in vain,
/// which costs time only.
#[derive(Debug, Clone)]
pub struct Handed<M>(pub M);

impl<M: Memory> Handed<M> {
    fn anew(&self, offset: u64, len: u64) {
        self.0.flush_for(Handover::OwnerReads, offset, len);
    }

    fn written(&self, offset: u64, len: u64) {
        self.0.flush_for(Handover::OwnerDone, offset, len);
    }
}

/// Memory that leaves the flushes for one reason out: a test that passes all the same does not test
/// them.
#[derive(Debug, Clone)]
pub struct Omitting<M> {
    memory: M,
    reason: Option<Handover>,
}

impl<M> Omitting<M> {
    /// Leaves out the flushes for `reason`; none if there is none.
    pub fn new(memory: M, reason: Option<Handover>) -> Self {
        Self { memory, reason }
    }
}

/// The methods that only pass a call on to the field `$inner`.
macro_rules! pass_on {
    ($inner:tt) => {
        #[inline(always)]
        fn len(&self) -> u64 {
            self.$inner.len()
        }

        #[inline(always)]
        fn shared(&self) -> bool {
            self.$inner.shared()
        }

        #[inline(always)]
        fn load_u32(&self, offset: u64) -> u32 {
            self.$inner.load_u32(offset)
        }

        #[inline(always)]
        fn load_u64(&self, offset: u64) -> u64 {
            self.$inner.load_u64(offset)
        }

        #[inline(always)]
        fn store_u32(&self, offset: u64, value: u32) {
            self.$inner.store_u32(offset, value);
        }

        #[inline(always)]
        fn store_u64(&self, offset: u64, value: u64) {
            self.$inner.store_u64(offset, value);
        }

        #[inline(always)]
        fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
            self.$inner.compare_exchange_u64(offset, current, new)
        }

        fn flush(&self, offset: u64, len: u64) {
            self.$inner.flush(offset, len);
        }

        fn fence(&self) {
            self.$inner.fence();
        }
    };
}

impl<M: Memory> Memory for Handed<M> {
    pass_on!(0);

    fn flush_for(&self, reason: Handover, offset: u64, len: u64) {
        self.0.flush_for(reason, offset, len);
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        self.anew(offset, target.len() as u64);
        self.0.read(offset, target);
    }

    fn write(&self, offset: u64, source: &[u8]) {
        self.anew(offset, source.len() as u64);
        self.0.write(offset, source);
        self.written(offset, source.len() as u64);
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        self.anew(source, len);
        self.anew(target, len);
        self.0.copy(source, target, len);
        self.written(target, len);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.anew(offset, len);
        self.0.fill_zero(offset, len);
        self.written(offset, len);
    }
}

impl<M: Memory> Memory for Omitting<M> {
    pass_on!(memory);

    fn flush_for(&self, reason: Handover, offset: u64, len: u64) {
        if self.reason != Some(reason) {
            self.memory.flush_for(reason, offset, len);
        }
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        self.memory.read(offset, target);
    }

    fn write(&self, offset: u64, source: &[u8]) {
        self.memory.write(offset, source);
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        self.memory.copy(source, target, len);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.memory.fill_zero(offset, len);
    }
}
