//! Buffers for bodies: allocated at start, handed out as guards.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use dmrpc_core::memory::Loan;

use crate::config::{BUFFER_CLASSES, BufferClass};
use crate::places::{Piece, Places};
use crate::state::State;

/// All buffers of a node.
pub(crate) struct Pool {
    classes: [BufferClass; BUFFER_CLASSES],
    places: Places,
    /// The class of each.
    class_of: Box<[u8]>,
    free: [Vec<u16>; BUFFER_CLASSES],
}

impl Pool {
    /// Buffers of these classes. With `lasts`, of memory that stays for ever: parts of it can be
    /// lent to devices.
    pub(crate) fn new(classes: [BufferClass; BUFFER_CLASSES], lasts: bool) -> Self {
        let places = Places::new(classes.iter().map(|class| (class.count, class.bytes)), lasts);
        let mut class_of = Vec::new();
        let free = std::array::from_fn(|class| {
            let first = class_of.len();
            class_of.resize(first + classes[class].count, class as u8);
            (first as u16..class_of.len() as u16).rev().collect()
        });
        Self { classes, places, class_of: class_of.into(), free }
    }

    /// Takes a free buffer of at least `bytes` bytes, of the smallest class that has one.
    #[inline]
    pub(crate) fn reserve(&mut self, bytes: usize) -> Option<u16> {
        for (class, free) in self.classes.iter().zip(&mut self.free) {
            if class.bytes >= bytes
                && let Some(index) = free.pop()
            {
                return Some(index);
            }
        }
        None
    }

    /// Length of the longest buffer in bytes, in use or not.
    pub(crate) fn bytes_max(&self) -> usize {
        let present = self.classes.iter().filter(|class| class.count > 0);
        present.map(|class| class.bytes).max().unwrap_or(0)
    }

    /// Buffers that nobody uses.
    pub(crate) fn free_count(&self) -> usize {
        self.free.iter().map(Vec::len).sum()
    }

    /// Gives a reserved buffer that is not with a guard back.
    #[inline]
    pub(crate) fn release(&mut self, index: u16) {
        let Some(class) = self.class_of.get(usize::from(index)) else { return };
        let free = &mut self.free[usize::from(*class)];
        debug_assert!(!free.contains(&index), "buffer {index} given back twice");
        free.push(index);
    }

    /// The bytes of a reserved buffer that is not with a guard.
    #[inline]
    pub(crate) fn bytes(&mut self, index: u16) -> &mut [u8] {
        self.places.bytes(index.into())
    }

    /// The same, to be read.
    #[inline]
    pub(crate) fn look(&self, index: u16) -> &[u8] {
        self.places.look(index.into())
    }

    /// Lends bytes of a reserved buffer that is not with a guard, from `offset` on: `most` of them
    /// or as many as there are. `None` if that is fewer than `least`, or their memory may go. The
    /// buffer is to be released when the device has given all of it back.
    #[inline]
    pub(crate) fn loan(&self, index: u16, offset: u32, least: u32, most: u32) -> Option<Loan> {
        self.places.lend(index.into(), offset, least, most)
    }

    #[inline]
    pub(crate) fn take(&mut self, index: u16) -> Option<Piece> {
        self.places.take(index.into())
    }

    #[inline]
    pub(crate) fn put(&mut self, index: u16, bytes: Piece) {
        self.places.put(index.into(), bytes);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What is not free may be what a device is still to send.
        if self.free_count() == self.class_of.len() {
            self.places.rest();
        }
    }
}

/// A buffer that is where transfers find it: its number, and how many of its bytes are meant.
#[derive(Clone, Copy)]
pub(crate) struct LentBuffer {
    pub(crate) index: u16,
    pub(crate) bytes: u32,
}

/// A buffer of a node's, for the body of a call that does not block. Goes back when dropped.
///
/// Dereferences to its *contents*: the first [`Buffer::len`] bytes, all of it to begin with.
pub struct Buffer<'n> {
    state: &'n RefCell<State>,
    index: u16,
    bytes: Piece,
    length: usize,
}

impl<'n> Buffer<'n> {
    /// Takes a reserved buffer out of the pool.
    #[inline]
    pub(crate) fn take(
        state: &'n RefCell<State>,
        pool: &mut Pool,
        index: u16,
        length: usize,
    ) -> Self {
        let bytes = pool.take(index).unwrap_or_default();
        let length = length.min(bytes.len());
        Self { state, index, bytes, length }
    }

    /// Puts the bytes where transfers find them; they stay reserved.
    #[inline]
    pub(crate) fn lend(mut self, pool: &mut Pool) -> LentBuffer {
        pool.put(self.index, std::mem::take(&mut self.bytes));
        LentBuffer { index: self.index, bytes: self.length as u32 }
    }

    /// Length of the contents in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no contents.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The most that the contents can be, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Makes the contents `bytes` bytes long. What was there before stays; what lies beyond is
    /// whatever the buffer held.
    ///
    /// # Panics
    /// If that is more than [`Buffer::capacity`].
    pub fn set_len(&mut self, bytes: usize) {
        assert!(bytes <= self.capacity(), "{bytes} bytes, the buffer has {}", self.capacity());
        self.length = bytes;
    }

    /// Makes the contents a copy of `bytes`.
    ///
    /// # Panics
    /// If that is more than [`Buffer::capacity`].
    pub fn fill_from(&mut self, bytes: &[u8]) {
        self.set_len(bytes.len());
        self.copy_from_slice(bytes);
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl fmt::Debug for Buffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (capacity, len) = (self.capacity(), self.length);
        f.debug_struct("Buffer").field("len", &len).field("capacity", &capacity).finish()
    }
}

impl Drop for Buffer<'_> {
    #[inline]
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // Lent: the transfer gives it back.
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.pool.put(self.index, bytes);
        state.release_buffer(self.index);
    }
}
