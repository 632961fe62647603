//! Where buffers lie: side by side, in memory that devices may be lent parts of.
//!
//! This module has `unsafe` because the pieces of an allocation are handed out one by one, and
//! because devices read from where they lie. Memory that devices may be lent parts of is never
//! given back to the system: what a node leaves is taken by the next one that needs as much.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, slice_from_raw_parts_mut};
use std::sync::{Mutex, PoisonError};

use dmrpc_core::memory::Loan;
use dmrpc_host::table::zeros;

/// Pieces begin at multiples of this: a cache line.
const PIECE_ALIGN: usize = 64;

/// The bytes of a buffer, which nobody else has: a part of an allocation of [`Places`].
pub(crate) struct Piece(NonNull<[u8]>);

impl Default for Piece {
    fn default() -> Self {
        Self(NonNull::from(&mut [] as &mut [u8]))
    }
}

impl Deref for Piece {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: no bytes, or initialised ones that no other piece has, of an allocation that
        // stays as long as a piece of it is about.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Piece {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the same, and this piece is borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

// SAFETY: it has its bytes alone, as a box does.
unsafe impl Send for Piece {}

/// An allocation, which pieces are parts of.
struct Whole(NonNull<[u8]>);

// SAFETY: it owns what it points to, as a box does.
unsafe impl Send for Whole {}

impl Whole {
    /// At least `bytes` zero bytes.
    fn new(bytes: usize) -> Self {
        Self(NonNull::from(Box::leak(zeros(bytes))))
    }

    /// Whether `piece` is a part of it.
    fn has(&self, piece: &Piece) -> bool {
        let first = self.0.cast::<u8>().as_ptr().cast_const();
        let at = piece.0.cast::<u8>().as_ptr().cast_const();
        (first..first.wrapping_add(self.0.len())).contains(&at)
    }

    /// Gives the memory back.
    ///
    /// # Safety
    /// Nobody uses any of it any more, and it was never to last.
    unsafe fn free(self) {
        // SAFETY: it came from a box, of which this is the owner.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Memory that lasts, of nodes that have ended.
static LEFT: Mutex<Vec<Whole>> = Mutex::new(Vec::new());

/// At least `bytes` zero bytes of memory that lasts: what a node has left, if it is enough, or else
/// new.
fn lasting(bytes: usize) -> Whole {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    let enough = left.iter().enumerate().filter(|(_, whole)| whole.0.len() >= bytes);
    let index = enough.min_by_key(|(_, whole)| whole.0.len()).map(|(index, _)| index);
    let taken = index.map(|index| left.swap_remove(index));
    drop(left);
    let Some(mut whole) = taken else { return Whole::new(bytes) };
    // SAFETY: whoever left it had all of its pieces, and no device has any of it.
    unsafe { whole.0.as_mut() }.fill(0);
    whole
}

/// Where buffers are while nobody has them. Those of one length lie side by side: together they may
/// be large enough for huge pages where one alone is not. They take up memory as they are touched.
pub(crate) struct Places {
    places: Box<[Option<Piece>]>,
    /// What the pieces are parts of.
    wholes: ManuallyDrop<Vec<Whole>>,
    /// Bytes of all of them.
    bytes: usize,
    /// The memory is never given back.
    lasting: bool,
    /// Nobody uses any of it, nor does a device.
    idle: bool,
}

impl Places {
    /// For each of `classes` so many buffers of so many bytes, all zero; if it `lasts`, of memory
    /// that parts of can be lent.
    pub(crate) fn new(classes: impl Iterator<Item = (usize, usize)>, lasts: bool) -> Self {
        let (mut places, mut wholes, mut sum) = (Vec::new(), Vec::new(), 0);
        for (count, bytes) in classes {
            sum += count * bytes;
            let stride = bytes.next_multiple_of(PIECE_ALIGN);
            let needed = count * stride + PIECE_ALIGN;
            let whole = if lasts { lasting(needed) } else { Whole::new(needed) };
            let first = whole.0.cast::<u8>();
            let aligned = first.align_offset(PIECE_ALIGN);
            places.extend((0..count).map(|number| {
                // SAFETY: `count` strides fit behind the first aligned byte, so this one's bytes
                // are within the allocation.
                let first = unsafe { first.as_ptr().add(aligned + number * stride) };
                NonNull::new(slice_from_raw_parts_mut(first, bytes)).map(Piece)
            }));
            wholes.push(whole);
        }
        let wholes = ManuallyDrop::new(wholes);
        Self { places: places.into(), wholes, bytes: sum, lasting: lasts, idle: !lasts }
    }

    /// The bytes of one; none if it is not here.
    #[inline]
    pub(crate) fn look(&self, index: usize) -> &[u8] {
        self.places[index].as_deref().unwrap_or_default()
    }

    /// The same, to be written.
    #[inline]
    pub(crate) fn bytes(&mut self, index: usize) -> &mut [u8] {
        self.places[index].as_deref_mut().unwrap_or_default()
    }

    /// Lends the bytes of one from `offset` on, `most` of them or as many as there are; `None` if
    /// that is fewer than `least`, it is not here, or its memory may go. Whoever asks leaves it
    /// here until the device has given the loan back.
    #[inline]
    pub(crate) fn lend(&self, index: usize, offset: u32, least: u32, most: u32) -> Option<Loan> {
        if !self.lasting {
            return None;
        }
        let piece = self.places.get(index)?.as_ref()?;
        let left = piece.len().checked_sub(offset as usize)?;
        let bytes = left.min(most as usize) as u32;
        // A buffer of another node's may be here, whose memory goes with that one.
        if bytes < least || !self.wholes.iter().any(|whole| whole.has(piece)) {
            return None;
        }
        // SAFETY: within the piece, which is a part of memory that stays for ever, as was just
        // looked at. The endpoint does not release the buffer before all of it came back.
        unsafe { Some(Loan::of_lasting(piece.0.cast().add(offset as usize), bytes)) }
    }

    /// Takes one out.
    #[inline]
    pub(crate) fn take(&mut self, index: usize) -> Option<Piece> {
        self.places.get_mut(index)?.take()
    }

    /// Puts one back.
    #[inline]
    pub(crate) fn put(&mut self, index: usize, piece: Piece) {
        self.places[index] = Some(piece);
    }

    /// Says that none of it is used, and that devices have given back what they were lent: then
    /// others may have the memory when this is dropped.
    pub(crate) fn rest(&mut self) {
        self.idle = true;
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let own = |piece: &&Piece| self.wholes.iter().any(|whole| whole.has(piece));
        let here: usize = self.places.iter().flatten().filter(own).map(|piece| piece.len()).sum();
        // What somebody still has stays where it is, for ever.
        if here < self.bytes || !self.idle {
            return;
        }
        // SAFETY: not used again.
        let wholes = unsafe { ManuallyDrop::take(&mut self.wholes) };
        if self.lasting {
            LEFT.lock().unwrap_or_else(PoisonError::into_inner).extend(wholes);
            return;
        }
        for whole in wholes {
            // SAFETY: pieces are parts of these that nobody else has, and those that are here are
            // all of it. It was not lent, because it does not last.
            unsafe { whole.free() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_side_by_side_and_outlive_their_places() {
        let mut places = Places::new([(3, 1_000), (0, 8), (2, 0)].into_iter(), false);
        assert_eq!(places.places.len(), 5);
        for number in 0..3 {
            let mut piece = places.take(number).expect("it is here");
            assert_eq!((piece.len(), piece.as_ptr().addr() % PIECE_ALIGN), (1_000, 0));
            assert!(piece.iter().all(|byte| *byte == 0));
            piece.fill(number as u8 + 1);
            assert!(places.look(number).is_empty() && places.take(number).is_none());
            places.put(number, piece);
        }
        assert_eq!((places.look(0), places.look(1)), (&[1; 1_000][..], &[2; 1_000][..]));
        places.bytes(1).fill(4);
        assert_eq!(places.look(1), [4; 1_000]);
        assert_eq!(places.lend(1, 0, 1, 1), None, "its memory may go");
        let last = places.take(2).expect("it is here");
        let elsewhere = std::thread::spawn(move || last.iter().all(|byte| *byte == 3));
        drop(places);
        assert!(elsewhere.join().expect("no panic"));
        assert!(Piece::default().is_empty());
    }

    fn copy_of(loan: &Loan) -> Vec<u8> {
        let mut copy = vec![0; loan.bytes()];
        loan.copy_to(&mut copy);
        copy
    }

    #[test]
    fn as_much_is_lent_as_there_is() {
        let mut places = Places::new([(2, 5_000)].into_iter(), true);
        for number in 0..2 {
            places.bytes(number).fill(number as u8 + 1);
        }
        places.bytes(0)[4_999] = 9;
        let loan = places.lend(0, 4_000, 500, 8_000).expect("a thousand are there");
        assert_eq!(loan.bytes(), 1_000);
        assert_eq!((copy_of(&loan)[998], copy_of(&loan)[999]), (1, 9));
        assert_eq!(places.lend(1, 0, 1, 3).map(|loan| copy_of(&loan)), Some(vec![2; 3]));
        for (offset, least) in [(4_000, 1_001), (5_001, 0), (u32::MAX, 1)] {
            assert_eq!(places.lend(0, offset, least, u32::MAX), None);
        }
        assert!(places.take(0).is_some());
        assert_eq!(places.lend(0, 0, 1, 1), None, "it is not here");
        assert_eq!(places.lend(7, 0, 1, 1), None, "there is none");
        let mut others = Places::new([(1, 5_000)].into_iter(), false);
        places.put(0, others.take(0).expect("it is here"));
        assert_eq!(places.lend(0, 0, 1, 1), None, "its memory goes with the other node");
    }

    #[test]
    fn memory_that_lasts_is_taken_again_once_nobody_has_any_of_it() {
        // A length that no other test has.
        let classes = || [(1, 77_777)].into_iter();
        let address = |places: &Places| places.look(0).as_ptr().addr();
        let mut lent = Places::new(classes(), true);
        lent.bytes(0).fill(5);
        let loan = lent.lend(0, 0, 3, 3).expect("it lasts");
        let first = address(&lent);
        // A device may still have it.
        drop(lent);
        assert_eq!(copy_of(&loan), [5; 3]);
        let mut second = Places::new(classes(), true);
        assert_ne!(address(&second), first);
        let at = address(&second);
        second.bytes(0).fill(6);
        second.rest();
        drop(second);
        let mut third = Places::new(classes(), true);
        assert_eq!(address(&third), at);
        assert!(third.look(0).iter().all(|byte| *byte == 0));
        // Somebody has the piece.
        let piece = third.take(0);
        third.rest();
        drop(third);
        assert_ne!(address(&Places::new(classes(), true)), at);
        assert_eq!(piece.map(|piece| piece.len()), Some(77_777));
    }
}
