//! Datagram buffers: one allocation, cut into slots that start on cache lines.

/// Bytes in a cache line of x86-64.
const LINE_BYTES: usize = 64;

/// A row of equal datagram buffers.
pub(crate) struct Slots {
    memory: Box<[u8]>,
    /// Where slot 0 starts: the first cache line that begins in `memory`.
    offset_bytes: usize,
    slot_bytes: usize,
    stride_bytes: usize,
}

impl Slots {
    /// Allocates `count` buffers of `bytes` bytes each.
    pub(crate) fn new(count: usize, bytes: usize) -> Self {
        let mut stride_bytes = bytes.next_multiple_of(LINE_BYTES);
        // Starts that are whole pages apart would all compete for the same few cache sets.
        if stride_bytes.is_multiple_of(4096) {
            stride_bytes += LINE_BYTES;
        }
        let mut memory = vec![0; stride_bytes * count + LINE_BYTES].into_boxed_slice();
        // Page faults are taken now, not by the first packets.
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = std::hint::black_box(0));
        let offset_bytes = memory.as_ptr().align_offset(LINE_BYTES);
        assert!(offset_bytes < LINE_BYTES);
        Self { memory, offset_bytes, slot_bytes: bytes, stride_bytes }
    }

    /// The first `bytes` bytes of slot `index`.
    pub(crate) fn get(&self, index: usize, bytes: usize) -> &[u8] {
        &self.starting_at(index)[..bytes]
    }

    /// The first `bytes` bytes of slot `index`, to write.
    pub(crate) fn get_mut(&mut self, index: usize, bytes: usize) -> &mut [u8] {
        debug_assert!(bytes <= self.stride_bytes);
        &mut self.memory[self.offset_bytes + index * self.stride_bytes..][..bytes]
    }

    /// All bytes from the start of slot `index` on.
    pub(crate) fn starting_at(&self, index: usize) -> &[u8] {
        &self.memory[self.offset_bytes + index * self.stride_bytes..]
    }

    /// All bytes from the start of slot 0 on, to write.
    pub(crate) fn all_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.offset_bytes..]
    }

    /// Bytes of each slot.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Bytes from the start of one slot to the start of the next.
    pub(crate) fn stride_bytes(&self) -> usize {
        self.stride_bytes
    }
}
