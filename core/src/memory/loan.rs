//! Bytes that a device sends from where they lie.
//!
//! This file has `unsafe` because devices take addresses, and get them here only. Soundness rests
//! on two facts: loans are made of memory that stays for ever (`Plain::lasting`, `Atomic::lasting`,
//! `Loan::of_lasting`) and was checked against its bounds; and who lends a range keeps its bytes as
//! they are until the loan is given back, as the store does for what is pinned.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use core::slice;

use super::transfer;

/// A range of memory that stays for ever, and whose bytes stay as they are until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    at: NonNull<u8>,
    bytes: u32,
}

// SAFETY: an address and a length; the memory is never unmapped, and is read as if others wrote.
unsafe impl Send for Loan {}

impl Loan {
    /// A loan of `bytes` bytes at `at`, for memory that is no pool.
    ///
    /// # Safety
    /// The range must be valid for reads for ever. Until the loan has been given back nobody may
    /// write there, nor have a `&mut` to any of it.
    #[inline]
    pub unsafe fn of_lasting(at: NonNull<u8>, bytes: u32) -> Self {
        Self { at, bytes }
    }

    /// Where the bytes are: for devices, which read them until they give the loan back.
    #[inline]
    pub fn address(&self) -> NonNull<u8> {
        self.at
    }

    /// How many there are.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// The `bytes` bytes from `at` of it; `None` if it has fewer.
    #[inline]
    pub(crate) fn part(&self, at: u32, bytes: u32) -> Option<Self> {
        if bytes > self.bytes || at > self.bytes - bytes {
            return None;
        }
        // SAFETY: within the loan, by what was just looked at.
        Some(Self { at: unsafe { self.at.add(at as usize) }, bytes })
    }

    /// Copies them, for devices that are made of memory themselves.
    ///
    /// # Panics
    /// If `out` is not as long.
    pub fn copy_to(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.bytes(), "all of a loan is copied");
        // SAFETY: valid for reads for ever, and `out` is exclusive, so they do not overlap.
        unsafe { transfer::copy(self.at.as_ptr(), out.as_mut_ptr(), out.len()) }
    }

    /// Lets `look` read them where they lie.
    #[inline]
    pub(crate) fn look<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: valid for reads for ever. Who lent the range keeps it as it is until the loan is
        // given back, which is after this.
        look(unsafe { slice::from_raw_parts(self.at.as_ptr(), self.bytes()) })
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec;

    use crate::memory::{Atomic, Memory, Plain};

    #[test]
    fn loans_are_where_the_bytes_are() {
        let words: &'static mut [u64] = Box::leak(vec![0; 64].into_boxed_slice());
        let memory = Plain::lasting(words);
        memory.write(100, b"lent bytes");
        let loan = memory.loan(100, 10).expect("it stays for ever");
        let mut copy = [0; 10];
        loan.copy_to(&mut copy);
        assert_eq!(&copy, b"lent bytes");
        assert_eq!((loan.look(<[u8]>::to_vec), loan.bytes()), (copy.to_vec(), 10));
        let part = loan.part(5, 5).expect("the last five");
        assert_eq!(part.look(<[u8]>::to_vec), b"bytes");
        for (at, bytes) in [(6, 5), (0, 11), (u32::MAX, 1), (1, u32::MAX)] {
            assert_eq!(loan.part(at, bytes), None);
        }
    }

    #[test]
    fn memory_that_may_go_is_not_lent() {
        let mut words = [0; 8];
        assert!(Plain::new(&mut words).loan(0, 8).is_none());
        assert!(Atomic::new(&mut words).loan(0, 8).is_none());
    }

    #[test]
    #[should_panic(expected = "outside the pool")]
    fn nothing_outside_is_lent() {
        let memory = Atomic::lasting(Box::leak(vec![0; 8].into_boxed_slice()));
        memory.loan(60, 8);
    }
}
