//! The two back ends over real memory: besides `transfer`, the only file here with `unsafe`.
//!
//! Soundness rests on three facts: the constructors prove or demand that `base..base + len` is
//! valid for reads and writes for `'m`; every access is checked against `len` here; and references
//! into the memory are only handed out by its single owner, who is borrowed as long as they live.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU32, AtomicU64, fence};

use super::{LINE_BYTES, Loan, Memory, orders, transfer};

/// [`LINE_BYTES`], as a power of two.
const LINE_SHIFT: u32 = LINE_BYTES.trailing_zeros();

/// A checked window of raw memory: what both back ends are made of.
#[derive(Debug, Clone, Copy)]
struct Window {
    base: NonNull<u8>,
    len: u64,
    /// Offset of the last 4 bytes, so that checking a word takes one comparison.
    last_u32: u64,
    /// Offset of the last 8 bytes.
    last_u64: u64,
    /// Whole lines there are.
    lines: u64,
    /// Valid for ever, so that it may be lent.
    lasting: bool,
}

impl Window {
    /// # Panics
    /// If there are fewer than 8 bytes: no word would fit.
    fn new(base: NonNull<u8>, len: u64) -> Self {
        assert!(len >= 8, "a pool of {len} bytes is too small: at least 8 are needed");
        let lines = len >> LINE_SHIFT;
        Self { base, len, last_u32: len - 4, last_u64: len - 8, lines, lasting: false }
    }

    /// The address of 4 bytes at `offset`.
    #[inline(always)]
    fn at_u32(self, offset: u64) -> *mut u32 {
        if offset > self.last_u32 {
            outside(offset, 4, self.len);
        }
        // SAFETY: the 4 bytes at `offset` are within the window, which is one allocation.
        unsafe { self.base.as_ptr().add(offset as usize).cast() }
    }

    /// The address of 8 bytes at `offset`.
    #[inline(always)]
    fn at_u64(self, offset: u64) -> *mut u64 {
        if offset > self.last_u64 {
            outside(offset, 8, self.len);
        }
        // SAFETY: the 8 bytes at `offset` are within the window, which is one allocation.
        unsafe { self.base.as_ptr().add(offset as usize).cast() }
    }

    /// The address of the line at `offset`. One comparison tells both that it is within and that
    /// it begins where a line does: else the bits below come to the top.
    #[inline(always)]
    fn at_line(self, offset: u64) -> NonNull<u8> {
        if offset.rotate_right(LINE_SHIFT) >= self.lines {
            outside(offset, LINE_BYTES, self.len);
        }
        // SAFETY: the line at `offset` is within the window, which is one allocation.
        unsafe { self.base.add(offset as usize) }
    }

    /// The address of `len` bytes at `offset`.
    ///
    /// # Panics
    /// If any of them is outside the window.
    #[inline(always)]
    fn at(self, offset: u64, len: u64) -> *mut u8 {
        if len > self.len || offset > self.len - len {
            outside(offset, len, self.len);
        }
        // SAFETY: offset <= self.len was just checked, and the window is one allocation.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }

    /// Lends a range, if the window stays for ever.
    fn loan(self, offset: u64, len: u32) -> Option<Loan> {
        if !self.lasting {
            return None;
        }
        let at = NonNull::new(self.at(offset, len.into()))?;
        // SAFETY: in range by `at`, of a window that is valid for ever. Whoever asks keeps the
        // bytes as they are, as `Memory::loan` demands.
        Some(unsafe { Loan::of_lasting(at, len) })
    }

    fn ranges_disjoint(source: u64, target: u64, len: u64) -> bool {
        source.abs_diff(target) >= len
    }
}

#[cold]
#[inline(never)]
fn outside(offset: u64, len: u64, size: u64) -> ! {
    panic!("access of {len} bytes at {offset:#x} is outside the pool of {size:#x} bytes");
}

/// Memory of a single owner: ordinary loads and stores, `compare_exchange` without a lock prefix.
///
/// Not [`Sync`], so that nobody else can be looking.
#[derive(Debug)]
pub struct Plain<'m> {
    window: Window,
    lifetime: PhantomData<&'m mut [u64]>,
}

// SAFETY: it is the only way to its bytes, like the `&mut [u64]` it stands for.
unsafe impl Send for Plain<'_> {}

impl Plain<'static> {
    /// As [`Plain::new`], of memory that is never given back: parts of it can be lent to devices.
    ///
    /// # Panics
    /// If the slice is empty.
    pub fn lasting(words: &'static mut [u64]) -> Self {
        let memory = Self::new(words);
        Self { window: Window { lasting: true, ..memory.window }, lifetime: PhantomData }
    }
}

impl<'m> Plain<'m> {
    /// Takes over a slice of words; it may be dirty.
    ///
    /// # Panics
    /// If the slice is empty.
    pub fn new(words: &'m mut [u64]) -> Self {
        let len = size_of_val(words) as u64;
        let base = NonNull::from(words).cast();
        Self { window: Window::new(base, len), lifetime: PhantomData }
    }

    /// Takes over `len` bytes at `base`, for mappings.
    ///
    /// # Safety
    /// The range must be valid for reads and writes and used by nobody else for `'m`.
    ///
    /// # Panics
    /// If `len` is below 8.
    pub unsafe fn from_raw(base: NonNull<u8>, len: u64) -> Self {
        Self { window: Window::new(base, len), lifetime: PhantomData }
    }
}

impl Memory for Plain<'_> {
    #[inline]
    fn loan(&self, offset: u64, len: u32) -> Option<Loan> {
        self.window.loan(offset, len)
    }

    #[inline]
    fn alone(&mut self, offset: u64, len: u64) -> Option<&mut [u8]> {
        let at = self.window.at(offset, len);
        // SAFETY: in range by `at`, and bytes at any address are valid. It is the single owner and
        // borrowed mutably, so nobody else has a reference to these bytes meanwhile: loans are
        // looked at by devices, and by `Loan::look`, which does not call out.
        Some(unsafe { slice::from_raw_parts_mut(at, len as usize) })
    }

    #[inline(always)]
    fn len(&self) -> u64 {
        self.window.len
    }

    #[inline(always)]
    fn load_u32(&self, offset: u64) -> u32 {
        let at = self.window.at_u32(offset);
        // SAFETY: in range by `at`; an unaligned read needs no alignment.
        unsafe { at.read_unaligned() }
    }

    #[inline(always)]
    fn load_u64(&self, offset: u64) -> u64 {
        let at = self.window.at_u64(offset);
        // SAFETY: in range by `at`; an unaligned read needs no alignment.
        unsafe { at.read_unaligned() }
    }

    #[inline(always)]
    fn store_u32(&self, offset: u64, value: u32) {
        let at = self.window.at_u32(offset);
        // SAFETY: in range by `at`; the single owner holds no reference to these bytes.
        unsafe { at.write_unaligned(value) }
    }

    #[inline(always)]
    fn store_u64(&self, offset: u64, value: u64) {
        let at = self.window.at_u64(offset);
        // SAFETY: in range by `at`; the single owner holds no reference to these bytes.
        unsafe { at.write_unaligned(value) }
    }

    #[inline(always)]
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load_u64(offset);
        if found != current {
            return Err(found);
        }
        self.store_u64(offset, new);
        Ok(found)
    }

    #[inline(always)]
    fn read(&self, offset: u64, target: &mut [u8]) {
        let at = self.window.at(offset, target.len() as u64);
        // SAFETY: in range by `at`; `target` is exclusive, so it can't overlap the pool.
        unsafe { at.copy_to_nonoverlapping(target.as_mut_ptr(), target.len()) }
    }

    #[inline(always)]
    fn write(&self, offset: u64, source: &[u8]) {
        let at = self.window.at(offset, source.len() as u64);
        // SAFETY: in range by `at`; a shared slice can't overlap memory of a single owner.
        unsafe { at.copy_from_nonoverlapping(source.as_ptr(), source.len()) }
    }

    #[inline(always)]
    fn copy(&self, source: u64, target: u64, len: u64) {
        assert!(Window::ranges_disjoint(source, target, len), "ranges of a copy overlap");
        let from = self.window.at(source, len);
        let to = self.window.at(target, len);
        // SAFETY: both in range by `at`, and disjoint by the assertion.
        unsafe { to.copy_from_nonoverlapping(from, len as usize) }
    }

    #[inline(always)]
    fn fill_zero(&self, offset: u64, len: u64) {
        let at = self.window.at(offset, len);
        // SAFETY: in range by `at`.
        unsafe { at.write_bytes(0, len as usize) }
    }

    #[inline(always)]
    fn flush(&self, offset: u64, len: u64) {
        // A single owner has nobody to show its lines to; the range is checked all the same.
        self.window.at(offset, len);
    }

    #[inline(always)]
    fn fence(&self) {}
}

/// Memory that other processes map and write too: acquire loads, release stores, real
/// compare-and-swap, and copies by `transfer`, because nobody may assume that the bytes stay.
#[derive(Debug)]
pub struct Atomic<'m> {
    window: Window,
    lifetime: PhantomData<&'m mut [u64]>,
}

// SAFETY: words are accessed with atomics and bulk bytes by `transfer` only, as with
// memory shared between processes.
unsafe impl Send for Atomic<'_> {}
// SAFETY: as above.
unsafe impl Sync for Atomic<'_> {}

impl Atomic<'static> {
    /// As [`Atomic::new`], of memory that is never given back: parts of it can be lent to devices.
    ///
    /// # Panics
    /// If the slice is empty.
    pub fn lasting(words: &'static mut [u64]) -> Self {
        let memory = Self::new(words);
        Self { window: Window { lasting: true, ..memory.window }, lifetime: PhantomData }
    }
}

impl<'m> Atomic<'m> {
    /// Takes over a slice of words; it may be dirty.
    ///
    /// # Panics
    /// If the slice is empty.
    pub fn new(words: &'m mut [u64]) -> Self {
        let len = size_of_val(words) as u64;
        let base = NonNull::from(words).cast();
        Self { window: Window::new(base, len), lifetime: PhantomData }
    }

    /// Takes `len` bytes at `base` that other processes may map as well.
    ///
    /// # Safety
    /// The range must be valid for reads and writes for `'m`, and everybody else must touch it
    /// through this type or an equivalent of it only.
    ///
    /// # Panics
    /// If `base` is not a multiple of 8, or `len` is below 8.
    pub unsafe fn from_raw(base: NonNull<u8>, len: u64) -> Self {
        assert!(base.addr().get().is_multiple_of(8), "a shared pool must start at a multiple of 8");
        Self { window: Window::new(base, len), lifetime: PhantomData }
    }

    #[inline(always)]
    fn word_u32(&self, offset: u64) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "offset {offset:#x} must be a multiple of 4");
        let at = self.window.at_u32(offset);
        // SAFETY: in range and aligned; everybody uses atomics on these bytes.
        unsafe { AtomicU32::from_ptr(at) }
    }

    #[inline(always)]
    fn word_u64(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "offset {offset:#x} must be a multiple of 8");
        let at = self.window.at_u64(offset);
        // SAFETY: in range and aligned; everybody uses atomics on these bytes.
        unsafe { AtomicU64::from_ptr(at) }
    }
}

/// The words of one line of shared memory, with the orders of [`Atomic`]: its place is checked
/// already, and which word of it is mostly known to the compiler.
#[derive(Debug, Clone, Copy)]
pub struct LineWords<'m> {
    at: NonNull<u8>,
    lifetime: PhantomData<&'m AtomicU64>,
}

impl<'m> LineWords<'m> {
    #[inline(always)]
    fn word_u32(self, at: u64) -> &'m AtomicU32 {
        assert!(at <= LINE_BYTES - 4 && at.is_multiple_of(4), "no 4 bytes at {at} of a line");
        // SAFETY: a line is valid for 'm and begins at a multiple of 8, and everybody uses
        // atomics on its bytes; the 4 at `at` are within it.
        unsafe { AtomicU32::from_ptr(self.at.as_ptr().add(at as usize).cast()) }
    }

    #[inline(always)]
    fn word_u64(self, at: u64) -> &'m AtomicU64 {
        assert!(at <= LINE_BYTES - 8 && at.is_multiple_of(8), "no 8 bytes at {at} of a line");
        // SAFETY: as above, of 8 bytes.
        unsafe { AtomicU64::from_ptr(self.at.as_ptr().add(at as usize).cast()) }
    }

    /// Loads the 4 bytes at `at` of the line.
    ///
    /// # Panics
    /// If `at` is no multiple of 4 below [`LINE_BYTES`].
    #[inline(always)]
    pub fn load_u32(self, at: u64) -> u32 {
        self.word_u32(at).load(orders::LOAD)
    }

    /// Loads the 8 bytes at `at` of the line.
    ///
    /// # Panics
    /// If `at` is no multiple of 8 below [`LINE_BYTES`]; so do the others here.
    #[inline(always)]
    pub fn load_u64(self, at: u64) -> u64 {
        self.word_u64(at).load(orders::LOAD)
    }

    /// Stores 4 bytes at `at` of the line.
    #[inline(always)]
    pub fn store_u32(self, at: u64, value: u32) {
        self.word_u32(at).store(value, orders::STORE);
    }

    /// Stores 8 bytes at `at` of the line.
    #[inline(always)]
    pub fn store_u64(self, at: u64, value: u64) {
        self.word_u64(at).store(value, orders::STORE);
    }

    /// As [`Memory::compare_exchange_u64`], at `at` of the line.
    ///
    /// # Errors
    /// The value found, when it is not `current`.
    #[inline(always)]
    pub fn compare_exchange_u64(self, at: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.word_u64(at).compare_exchange(current, new, orders::SWAP, orders::SWAP_FAILED)
    }
}

/// Bytes of zeros that are copied at a time: a quarter of a page.
const ZEROS_BYTES: usize = 1024;

impl Memory for Atomic<'_> {
    #[inline(always)]
    fn line(&self, offset: u64) -> Option<LineWords<'_>> {
        Some(LineWords { at: self.window.at_line(offset), lifetime: PhantomData })
    }

    #[inline]
    fn loan(&self, offset: u64, len: u32) -> Option<Loan> {
        self.window.loan(offset, len)
    }

    #[inline(always)]
    fn len(&self) -> u64 {
        self.window.len
    }

    #[inline(always)]
    fn shared(&self) -> bool {
        true
    }

    #[inline(always)]
    fn load_u32(&self, offset: u64) -> u32 {
        self.word_u32(offset).load(orders::LOAD)
    }

    #[inline(always)]
    fn load_u64(&self, offset: u64) -> u64 {
        self.word_u64(offset).load(orders::LOAD)
    }

    #[inline(always)]
    fn store_u32(&self, offset: u64, value: u32) {
        self.word_u32(offset).store(value, orders::STORE);
    }

    #[inline(always)]
    fn store_u64(&self, offset: u64, value: u64) {
        self.word_u64(offset).store(value, orders::STORE);
    }

    #[inline(always)]
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        let word = self.word_u64(offset);
        word.compare_exchange(current, new, orders::SWAP, orders::SWAP_FAILED)
    }

    #[inline]
    fn read(&self, offset: u64, target: &mut [u8]) {
        let at = self.window.at(offset, target.len() as u64);
        // SAFETY: in range by `at`; `target` is exclusive, so it can't overlap the pool.
        unsafe { transfer::copy_in(at, target.as_mut_ptr(), target.len()) }
    }

    #[inline]
    fn write(&self, offset: u64, source: &[u8]) {
        let at = self.window.at(offset, source.len() as u64);
        // SAFETY: in range by `at`; nobody has a slice of the pool that could overlap.
        unsafe { transfer::copy(source.as_ptr(), at, source.len()) }
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        assert!(Window::ranges_disjoint(source, target, len), "ranges of a copy overlap");
        let (from, to) = (self.window.at(source, len), self.window.at(target, len));
        // SAFETY: both in range by `at`, and disjoint by the assertion.
        unsafe { transfer::copy(from, to, len as usize) }
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        let zeros = [0; ZEROS_BYTES];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZEROS_BYTES as u64);
            self.write(offset + done, &zeros[..n as usize]);
            done += n;
        }
    }

    fn flush(&self, offset: u64, len: u64) {
        let at = self.window.at(offset, len);
        // SAFETY: in range by `at`.
        unsafe { super::lines::flush(at, len) };
    }

    fn fence(&self) {
        fence(orders::FENCE);
    }
}
