//! How many loans of others' memory are out. DPDK counts them itself, on whatever thread frees a
//! packet: what they are parts of is, to DPDK, one external buffer with many users, of which one
//! stays. So a packet that is freed costs a subtraction and no call.
//!
//! This file has `unsafe` because the count is DPDK's.

use std::cell::UnsafeCell;
use std::fmt;

use dpdk_sys as dpdk;

/// An account of loans.
pub(crate) struct Account(UnsafeCell<dpdk::shim_account>);

// SAFETY: what changes after `new` is the count, which is only ever read and changed by atomics.
unsafe impl Sync for Account {}

impl Account {
    /// An account without loans.
    pub(crate) fn new() -> Self {
        let account = Self(UnsafeCell::new(dpdk::shim_account { words: [0; 3] }));
        // SAFETY: the account is ours alone, and holds no address of itself.
        unsafe { dpdk::shim_open_account(account.0.get()) };
        account
    }

    /// Adds loans, which are then to be made: fewer than 65,535 in all.
    #[inline]
    pub(crate) fn charge(&self, loans: u16) {
        // SAFETY: an account, and changed by an atomic.
        unsafe { dpdk::shim_charge(self.0.get(), loans) }
    }

    /// Loans that are on it. What was done with bytes that came back happened before.
    #[inline]
    pub(crate) fn charged(&self) -> u16 {
        // SAFETY: an account, and read by an atomic.
        unsafe { dpdk::shim_charged(self.0.get()) }
    }

    /// Where DPDK finds it.
    pub(crate) fn as_ptr(&self) -> *mut dpdk::shim_account {
        self.0.get()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.charged()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loans_are_counted_up_to_the_last() {
        let account = Account::new();
        assert_eq!(account.charged(), 0);
        account.charge(64);
        account.charge(u16::MAX - 65);
        assert_eq!(account.charged(), u16::MAX - 1);
    }
}
