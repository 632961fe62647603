//! Pool memory: the one way to bytes that several processes or hosts may share.
//!
//! Everything of the page store that survives a call lives behind [`Memory`] and is addressed by
//! byte *offset*, never by pointer, because each participant maps a pool elsewhere. One trait
//! with few methods makes four things possible that cannot be added later: counting every store,
//! dying at a chosen one, checking orders, and running without cross-host coherence.
//!
//! | back end | what it is |
//! |---|---|
//! | [`Plain`] | memory of one owner: ordinary loads and stores (the net memory node) |
//! | [`Atomic`] | memory that other processes map too: acquire, release, compare-and-swap |
//! | [`Counted`] | a wrapper that counts loads and stores and calls a hook at store number *k* |
//! | [`Handed`] | a wrapper that flushes round bulk accesses, where hosts are not coherent |
//! | [`Stale`] | a wrapper that keeps lines until they are flushed, as a host without coherence |
//!
//! Offsets out of range are bugs of the caller, never input from the wire: they panic.

mod counted;
mod handed;
mod lines;
mod loan;
pub mod orders;
mod raw;
mod record;
mod stale;
mod transfer;

#[cfg(test)]
mod tests;

pub use counted::{Counted, Touches};
pub use handed::{Handed, Omitting};
pub use loan::Loan;
pub use raw::{Atomic, LineWords, Plain};
pub use record::Record;
pub use stale::{Line, Stale};

/// Why lines of a page are flushed where hosts are not coherent. Whoever has the pen for a page
/// writes it; pages that several read have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// A participant wrote to a page: the others, and its next owner, shall see that, and nothing
    /// of it shall come later.
    WriterDone,
    /// A participant wrote to a page by a slice of it, and gives that back: the same.
    ViewDone,
    /// A participant is about to look at a page for the first time since it was told where it is:
    /// what its cache has may be of an earlier life of the frame.
    ReaderBegins,
    /// The owner of the counts is about to read a page that a participant may have written.
    OwnerReads,
    /// The owner of the counts wrote to a page: a copy, or zeros.
    OwnerDone,
}

impl Handover {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::WriterDone, Self::ViewDone, Self::ReaderBegins, Self::OwnerReads, Self::OwnerDone];
}

/// Bytes of a cache line: what [`Memory::flush`] works in.
pub const LINE_BYTES: u64 = 64;

/// Offset-addressed pool memory. All offsets and lengths are bytes from the pool's start.
///
/// Methods take `&self`: a pool is shared by nature, and the back end decides what that means.
/// `u32` accesses need an offset divisible by 4, `u64` accesses one divisible by 8.
///
/// # Panics
/// Every method panics on an access outside `0..len()`.
pub trait Memory {
    /// Bytes in the pool.
    fn len(&self) -> u64;

    /// Whether the pool has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether others may use the memory at the same time, or go on with it after this side died:
    /// then whoever keeps records in it must log its changes and decide by compare-and-swap.
    #[inline(always)]
    fn shared(&self) -> bool {
        false
    }

    /// Loads 4 bytes; acquire where memory is shared.
    fn load_u32(&self, offset: u64) -> u32;

    /// Loads 8 bytes; acquire where memory is shared.
    fn load_u64(&self, offset: u64) -> u64;

    /// Stores 4 bytes; release where memory is shared.
    fn store_u32(&self, offset: u64, value: u32);

    /// Stores 8 bytes; release where memory is shared.
    fn store_u64(&self, offset: u64, value: u64);

    /// Puts `new` where `current` is, in one step.
    ///
    /// # Errors
    /// The value found, when it is not `current`; nothing has changed then.
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64>;

    /// Copies bytes out of the pool.
    fn read(&self, offset: u64, target: &mut [u8]);

    /// Copies bytes into the pool.
    fn write(&self, offset: u64, source: &[u8]);

    /// Copies `len` bytes within the pool; the two ranges must not overlap.
    fn copy(&self, source: u64, target: u64, len: u64);

    /// Sets `len` bytes to zero.
    fn fill_zero(&self, offset: u64, len: u64);

    /// Writes back and forgets the lines of a range, so that others see it and this side re-reads.
    fn flush(&self, offset: u64, len: u64);

    /// Orders everything before against everything after.
    fn fence(&self);

    /// The line at `offset`, a multiple of [`LINE_BYTES`], checked once for all accesses to its
    /// words; none where every access has to go through this trait, because something is done at
    /// each. [`Record`] goes either way.
    #[inline(always)]
    fn line(&self, offset: u64) -> Option<LineWords<'_>> {
        let _ = offset;
        None
    }

    /// Lends `len` bytes to a device, where the memory stays for ever. Whoever asks keeps them as
    /// they are until the device has given the loan back.
    #[inline(always)]
    fn loan(&self, offset: u64, len: u32) -> Option<Loan> {
        let _ = (offset, len);
        None
    }

    /// `len` bytes to be written by whoever has the memory alone; none where others may look or
    /// write too. What lies there is not to be lent: a device would see it change.
    #[inline(always)]
    fn alone(&mut self, offset: u64, len: u64) -> Option<&mut [u8]> {
        let _ = (offset, len);
        None
    }

    /// As [`Memory::flush`], with the reason: tests leave one out to see that it is missed.
    #[inline(always)]
    fn flush_for(&self, reason: Handover, offset: u64, len: u64) {
        let _ = reason;
        self.flush(offset, len);
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    #[inline(always)]
    fn line(&self, offset: u64) -> Option<LineWords<'_>> {
        (**self).line(offset)
    }

    #[inline(always)]
    fn loan(&self, offset: u64, len: u32) -> Option<Loan> {
        (**self).loan(offset, len)
    }

    #[inline(always)]
    fn len(&self) -> u64 {
        (**self).len()
    }

    #[inline(always)]
    fn shared(&self) -> bool {
        (**self).shared()
    }

    #[inline(always)]
    fn load_u32(&self, offset: u64) -> u32 {
        (**self).load_u32(offset)
    }

    #[inline(always)]
    fn load_u64(&self, offset: u64) -> u64 {
        (**self).load_u64(offset)
    }

    #[inline(always)]
    fn store_u32(&self, offset: u64, value: u32) {
        (**self).store_u32(offset, value);
    }

    #[inline(always)]
    fn store_u64(&self, offset: u64, value: u64) {
        (**self).store_u64(offset, value);
    }

    #[inline(always)]
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        (**self).compare_exchange_u64(offset, current, new)
    }

    #[inline(always)]
    fn read(&self, offset: u64, target: &mut [u8]) {
        (**self).read(offset, target);
    }

    #[inline(always)]
    fn write(&self, offset: u64, source: &[u8]) {
        (**self).write(offset, source);
    }

    #[inline(always)]
    fn copy(&self, source: u64, target: u64, len: u64) {
        (**self).copy(source, target, len);
    }

    #[inline(always)]
    fn fill_zero(&self, offset: u64, len: u64) {
        (**self).fill_zero(offset, len);
    }

    #[inline(always)]
    fn flush(&self, offset: u64, len: u64) {
        (**self).flush(offset, len);
    }

    #[inline(always)]
    fn fence(&self) {
        (**self).fence();
    }

    #[inline(always)]
    fn flush_for(&self, reason: Handover, offset: u64, len: u64) {
        (**self).flush_for(reason, offset, len);
    }
}
