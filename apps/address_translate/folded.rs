//! Memory of a pool whose index is really there, while all frames share a few pages of bytes.
//!
//! Translation reads the index and never a page, so pools of any size can be translated on a
//! machine that holds their index.

use dmrpc_core::memory::{Memory, Plain};

/// Bytes that all frames share: enough that a write does not always meet the same lines.
const WINDOW_BYTES: u64 = 1 << 20;

/// See the module's text.
pub(crate) struct Folded<'m> {
    memory: Plain<'m>,
    frame_base: u64,
    bytes: u64,
}

/// Words that a pool of `bytes` bytes takes whose frames begin at `frame_base`.
pub(crate) fn words(frame_base: u64) -> usize {
    ((frame_base + WINDOW_BYTES) / 8) as usize
}

impl<'m> Folded<'m> {
    /// A pool of `bytes` bytes in `memory`, which has as many words as [`words`] says.
    pub(crate) fn new(memory: &'m mut [u64], frame_base: u64, bytes: u64) -> Self {
        Self { memory: Plain::new(memory), frame_base, bytes }
    }

    #[inline(always)]
    fn fold(&self, offset: u64) -> u64 {
        match offset.checked_sub(self.frame_base) {
            Some(in_frames) => self.frame_base + in_frames % WINDOW_BYTES,
            None => offset,
        }
    }
}

impl Memory for Folded<'_> {
    #[inline(always)]
    fn len(&self) -> u64 {
        self.bytes
    }

    #[inline(always)]
    fn load_u32(&self, offset: u64) -> u32 {
        self.memory.load_u32(self.fold(offset))
    }

    #[inline(always)]
    fn load_u64(&self, offset: u64) -> u64 {
        self.memory.load_u64(self.fold(offset))
    }

    #[inline(always)]
    fn store_u32(&self, offset: u64, value: u32) {
        self.memory.store_u32(self.fold(offset), value);
    }

    #[inline(always)]
    fn store_u64(&self, offset: u64, value: u64) {
        self.memory.store_u64(self.fold(offset), value);
    }

    #[inline(always)]
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.memory.compare_exchange_u64(self.fold(offset), current, new)
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        self.memory.read(self.fold(offset), target);
    }

    fn write(&self, offset: u64, source: &[u8]) {
        self.memory.write(self.fold(offset), source);
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        let (source, target) = (self.fold(source), self.fold(target));
        // Two frames may be the same bytes here.
        if source != target {
            self.memory.copy(source, target, len);
        }
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.memory.fill_zero(self.fold(offset), len);
    }

    fn flush(&self, _: u64, _: u64) {}

    fn fence(&self) {}
}

/// The index of a pool that was filled through [`Folded`], without frames: what translation looks
/// at. A look at a frame's bytes would be out of its memory, and panics.
pub(crate) struct Index<'m> {
    memory: Plain<'m>,
    bytes: u64,
}

impl<'m> Index<'m> {
    /// The index in `memory`, of a pool of `bytes` bytes.
    pub(crate) fn new(memory: &'m mut [u64], bytes: u64) -> Self {
        Self { memory: Plain::new(memory), bytes }
    }
}

impl Memory for Index<'_> {
    fn len(&self) -> u64 {
        self.bytes
    }

    #[inline(always)]
    fn load_u32(&self, offset: u64) -> u32 {
        self.memory.load_u32(offset)
    }

    #[inline(always)]
    fn load_u64(&self, offset: u64) -> u64 {
        self.memory.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) {
        self.memory.store_u32(offset, value);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.memory.store_u64(offset, value);
    }

    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.memory.compare_exchange_u64(offset, current, new)
    }

    #[inline(always)]
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

    fn flush(&self, _: u64, _: u64) {}

    fn fence(&self) {}
}
