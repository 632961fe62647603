//! A line of a pool whose place is checked once, whatever the memory is.
#![deny(unsafe_code)]

use super::{LineWords, Memory};

/// The words of a line. Where the memory [has it at hand](Memory::line), an access is one
/// instruction; elsewhere each goes through the memory, which may count it or die at it.
#[derive(Debug)]
pub struct Record<'m, M> {
    memory: &'m M,
    offset: u64,
    words: Option<LineWords<'m>>,
}

impl<M> Clone for Record<'_, M> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Record<'_, M> {}

impl<'m, M: Memory> Record<'m, M> {
    /// The line at `offset`, a multiple of [`LINE_BYTES`](super::LINE_BYTES).
    ///
    /// # Panics
    /// If it is not within the memory; accesses panic outside of it.
    #[inline(always)]
    pub fn new(memory: &'m M, offset: u64) -> Self {
        Self { memory, offset, words: memory.line(offset) }
    }

    /// Where it is.
    #[inline(always)]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// As [`Memory::load_u32`], of the 4 bytes at `at` of the line.
    #[inline(always)]
    pub fn load_u32(&self, at: u64) -> u32 {
        match self.words {
            Some(words) => words.load_u32(at),
            None => self.memory.load_u32(self.offset + at),
        }
    }

    /// As [`Memory::load_u64`], of the 8 bytes at `at` of the line.
    #[inline(always)]
    pub fn load_u64(&self, at: u64) -> u64 {
        match self.words {
            Some(words) => words.load_u64(at),
            None => self.memory.load_u64(self.offset + at),
        }
    }

    /// As [`Memory::store_u32`], of the 4 bytes at `at` of the line.
    #[inline(always)]
    pub fn store_u32(&self, at: u64, value: u32) {
        match self.words {
            Some(words) => words.store_u32(at, value),
            None => self.memory.store_u32(self.offset + at, value),
        }
    }

    /// As [`Memory::store_u64`], of the 8 bytes at `at` of the line.
    #[inline(always)]
    pub fn store_u64(&self, at: u64, value: u64) {
        match self.words {
            Some(words) => words.store_u64(at, value),
            None => self.memory.store_u64(self.offset + at, value),
        }
    }

    /// As [`Memory::compare_exchange_u64`], of the 8 bytes at `at` of the line.
    ///
    /// # Errors
    /// The value found, when it is not `current`.
    #[inline(always)]
    pub fn compare_exchange_u64(&self, at: u64, current: u64, new: u64) -> Result<u64, u64> {
        match self.words {
            Some(words) => words.compare_exchange_u64(at, current, new),
            None => self.memory.compare_exchange_u64(self.offset + at, current, new),
        }
    }
}
