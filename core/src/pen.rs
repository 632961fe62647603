//! Pages that a participant of a pool without coherence reads and writes itself.
//!
//! In flush mode the memory node owns all counts, tables and trees; whoever wants to know where a
//! page of its region is asks it ([`Method::PLACES`](crate::wire::message::Method::PLACES)). It is
//! told whether it has the *pen*: nobody else sees the page, so it may be written where it is. That
//! holds until the region is freed, or referred to, or written to by a message; before any of these
//! the participant forgets what it knows of the region ([`Pens::forget`]).
//!
//! Flushes, each for one [`Handover`]: before its first look at a page since it was told the place,
//! the participant drops what its cache has of an earlier life of the frame. What it writes, it
//! writes back at once: so nothing of it is left to be written back when a reference is made, or
//! the page changes hands, or the participant dies between two writes.

use crate::memory::{Handover, Memory};
use crate::store::PAGE_BYTES;
use crate::wire::bytes::u64_at;

/// Most pages that one answer tells of.
pub const PLACES_MAX: usize = 64;

/// Length of a question, in bytes.
pub const QUESTION_BYTES: usize = 32;

/// What a participant asks the memory node: where pages of a region are.
///
/// ```text
/// 0 region u64   8 offset u64 (bytes)   16 length u64 (bytes)   24 with the pen u64 (0 or 1)
/// ```
/// The answer has as parameters, u64 each, how far into its page the region begins, and the
/// region's length; as its body a word for each page from that of the offset on: where it is, a
/// multiple of [`PAGE_BYTES`] or 0 if it was never written, and 1 more with the pen.
///
/// A question about region 0 is followed by one to three [steps](crate::wire::memory_op), of which
/// the first makes the region that is asked about, and none moves bytes; references that they are
/// about are the request's arguments. Then the range ends with the region, the answer has the
/// region's name as third parameter, and all has its effect or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The region's name.
    pub region: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Whether the pages are to be written: then those that others see are copied.
    pub with_pen: bool,
}

impl Question {
    /// Parses a question and what makes the region that it is about; `None` if it is none.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (question, making) = bytes.split_at_checked(QUESTION_BYTES)?;
        let question = Self::parse(question)?;
        (making.is_empty() || question.region == 0).then_some((question, making))
    }

    /// Parses a question alone; `None` if it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; QUESTION_BYTES] = bytes.try_into().ok()?;
        let word = |at| u64_at(bytes, at);
        let with_pen = word(24);
        (with_pen <= 1).then_some(Self {
            region: word(0),
            offset: word(8),
            length: word(16),
            with_pen: with_pen == 1,
        })
    }

    /// The question as bytes.
    pub fn to_bytes(&self) -> [u8; QUESTION_BYTES] {
        let words = [self.region, self.offset, self.length, self.with_pen.into()];
        let mut bytes = [0; QUESTION_BYTES];
        for (target, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *target = word.to_le_bytes();
        }
        bytes
    }
}

/// Whose region: the session's index and generation, and the region's name.
pub type RegionOf = (u64, u64);

/// What is known of a region.
#[derive(Clone, Copy, Debug)]
pub struct KnownRegion {
    of: RegionOf,
    /// Changes whenever all that was known is forgotten.
    epoch: u64,
    /// Bytes of its first page that are before it.
    base: u64,
    /// Its length in bytes.
    length: u64,
}

impl KnownRegion {
    /// Nothing.
    pub const EMPTY: Self = Self { of: (0, 0), epoch: 0, base: 0, length: 0 };
}

/// What is known of a page.
#[derive(Clone, Copy, Debug)]
pub struct KnownPage {
    /// The region's epoch; 0 is nobody's.
    epoch: u64,
    page: u64,
    /// As in an answer.
    word: u64,
}

impl KnownPage {
    /// Nothing.
    pub const EMPTY: Self = Self { epoch: 0, page: 0, word: 0 };
}

/// What is known of the places of pages, and the memory that they are in.
#[derive(Debug)]
pub struct Pens<'t, M> {
    memory: M,
    regions: &'t mut [KnownRegion],
    pages: &'t mut [KnownPage],
    epochs: u64,
}

/// The memory node has to be asked about this range first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// The part of a byte range that lies in one page.
#[derive(Clone, Copy)]
struct Part {
    page: u64,
    /// Bytes from the page's start.
    start: u64,
    bytes: usize,
}

impl<'t, M: Memory> Pens<'t, M> {
    /// Over the store's memory, with room to know as many regions and pages as the slices have.
    ///
    /// # Panics
    /// If one of them is empty.
    pub fn new(memory: M, regions: &'t mut [KnownRegion], pages: &'t mut [KnownPage]) -> Self {
        assert!(!regions.is_empty() && !pages.is_empty(), "there must be room to know something");
        regions.fill(KnownRegion::EMPTY);
        pages.fill(KnownPage::EMPTY);
        Self { memory, regions, pages, epochs: 0 }
    }

    fn slot(&self, (session, name): RegionOf) -> usize {
        let mixed = (session.rotate_left(32) ^ name).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) as usize % self.regions.len()
    }

    /// Neighbours never push each other out.
    fn page_slot(&self, epoch: u64, page: u64) -> usize {
        (epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(page) % self.pages.len() as u64)
            as usize
    }

    /// Forgets all that is known of a region: before anything but reads and writes through here is
    /// done with it.
    pub fn forget(&mut self, of: RegionOf) {
        let slot = self.slot(of);
        if self.regions[slot].of == of {
            self.regions[slot] = KnownRegion::EMPTY;
        }
    }

    /// Takes note of the answer to a question about a region, which begins `base` bytes into a page
    /// and has `length` bytes.
    pub fn learn(
        &mut self,
        of: RegionOf,
        offset: u64,
        (base, length): (u64, u64),
        words: impl Iterator<Item = u64>,
    ) {
        let base = base % PAGE_BYTES;
        let slot = self.slot(of);
        let known = &mut self.regions[slot];
        if known.of != of || (known.base, known.length) != (base, length) {
            self.epochs += 1;
            *known = KnownRegion { of, epoch: self.epochs, base, length };
        }
        let epoch = known.epoch;
        let first = offset.saturating_add(base) / PAGE_BYTES;
        for (word, page) in words.zip(first..) {
            let slot = self.page_slot(epoch, page);
            self.pages[slot] = KnownPage { epoch, page, word };
            let place = word & !1;
            if place != 0 && self.is_page(place) {
                self.memory.flush_for(Handover::ReaderBegins, place, PAGE_BYTES);
            }
        }
    }

    fn is_page(&self, place: u64) -> bool {
        place.is_multiple_of(PAGE_BYTES)
            && place.checked_add(PAGE_BYTES).is_some_and(|end| end <= self.memory.len())
    }

    /// The word of a page, if it is known.
    fn word(&self, epoch: u64, page: u64) -> Option<u64> {
        let known = self.pages[self.page_slot(epoch, page)];
        let is_it = known.epoch == epoch && known.page == page;
        let place = known.word & !1;
        let is_place = place != 0 && self.is_page(place);
        (is_it && (known.word == 0 || is_place)).then_some(known.word)
    }

    /// What is known of a region that `length` bytes from `offset` of are looked at.
    fn known(&self, of: RegionOf, offset: u64, length: usize) -> Result<KnownRegion, Unknown> {
        let known = self.regions[self.slot(of)];
        // Beyond the end it is for the memory node to say what is wrong.
        let end = offset.checked_add(length as u64);
        if known.of == of && end.is_some_and(|end| end <= known.length) {
            return Ok(known);
        }
        Err(Unknown { offset, length: length as u64 })
    }

    fn first_part(known: &KnownRegion, offset: u64, left: usize) -> Part {
        let at = offset.wrapping_add(known.base);
        let start = at % PAGE_BYTES;
        let bytes = left.min((PAGE_BYTES - start) as usize);
        Part { page: at / PAGE_BYTES, start, bytes }
    }

    /// Copies bytes out of a region.
    ///
    /// # Errors
    /// [`Unknown`]: the memory node has to be asked first. `target` may have been written in part.
    pub fn read(
        &self,
        of: RegionOf,
        mut offset: u64,
        mut target: &mut [u8],
    ) -> Result<(), Unknown> {
        let known = self.known(of, offset, target.len())?;
        while !target.is_empty() {
            let part = Self::first_part(&known, offset, target.len());
            let length = target.len() as u64;
            let word = self.word(known.epoch, part.page).ok_or(Unknown { offset, length })?;
            let (now, rest) = target.split_at_mut(part.bytes);
            match word & !1 {
                0 => now.fill(0),
                place => self.memory.read(place + part.start, now),
            }
            target = rest;
            offset += part.bytes as u64;
        }
        Ok(())
    }

    /// Tells `visit` where the `length` bytes from `offset` of a region are, page by page: a place,
    /// none for what was never written, and a number of bytes. They may be looked at there for as
    /// long as nobody writes to the region, and it is not freed.
    ///
    /// # Errors
    /// [`Unknown`]: the memory node has to be asked about that part first, which was not told.
    pub fn runs(
        &self,
        of: RegionOf,
        mut offset: u64,
        mut length: u64,
        mut visit: impl FnMut(Option<u64>, u64),
    ) -> Result<(), Unknown> {
        let known = self.known(of, offset, length as usize)?;
        while length != 0 {
            let part = Self::first_part(&known, offset, length as usize);
            let word = self.word(known.epoch, part.page).ok_or(Unknown { offset, length })?;
            let place = (word & !1 != 0).then_some((word & !1) + part.start);
            visit(place, part.bytes as u64);
            offset += part.bytes as u64;
            length -= part.bytes as u64;
        }
        Ok(())
    }

    /// Where byte `offset` of a region is, if this participant has the pen for its page, and how
    /// many bytes of the region follow in that page. They may be written there for as long as no
    /// message about the region is sent; before one is, and before the participant goes, they are
    /// given back ([`Pens::give_back`]).
    ///
    /// # Errors
    /// [`Unknown`]: the memory node has to be asked first.
    pub fn own_place(&self, of: RegionOf, offset: u64) -> Result<Option<(u64, u64)>, Unknown> {
        let known = self.known(of, offset, 1)?;
        let left = (known.length - offset).min(PAGE_BYTES) as usize;
        let part = Self::first_part(&known, offset, left);
        let unknown = Unknown { offset, length: 1 };
        let word = self.word(known.epoch, part.page).ok_or(unknown)?;
        Ok((word & 1 == 1).then_some(((word & !1) + part.start, part.bytes as u64)))
    }

    /// Writes back what was written to `bytes` bytes at `place`, which are of a page that this
    /// participant has the pen for.
    pub fn give_back(&self, place: u64, bytes: u64) {
        self.memory.flush_for(Handover::ViewDone, place, bytes);
    }

    /// Copies bytes into a region: all of them, or none.
    ///
    /// # Errors
    /// [`Unknown`]: the memory node has to be asked for the pen of that range first.
    pub fn write(&mut self, of: RegionOf, offset: u64, source: &[u8]) -> Result<(), Unknown> {
        let known = self.known(of, offset, source.len())?;
        let (mut at, mut left) = (offset, source.len());
        while left != 0 {
            let part = Self::first_part(&known, at, left);
            if self.word(known.epoch, part.page).is_none_or(|word| word & 1 == 0) {
                return Err(Unknown { offset: at, length: left as u64 });
            }
            at += part.bytes as u64;
            left -= part.bytes;
        }
        let (mut at, mut source) = (offset, source);
        while !source.is_empty() {
            let part = Self::first_part(&known, at, source.len());
            let (now, rest) = source.split_at(part.bytes);
            // Known a moment ago.
            if let Some(word) = self.word(known.epoch, part.page) {
                let place = (word & !1) + part.start;
                self.memory.write(place, now);
                self.memory.flush_for(Handover::WriterDone, place, now.len() as u64);
            }
            source = rest;
            at += part.bytes as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_round_trip() {
        for with_pen in [false, true] {
            let question = Question { region: 1 << 40, offset: 77, length: 5, with_pen };
            assert_eq!(Question::parse(&question.to_bytes()), Some(question));
        }
        assert_eq!(Question::parse(&[2; QUESTION_BYTES]), None);
        assert_eq!(Question::parse(&[0; 31]), None);
        assert_eq!(Question::split(&[0; 31]), None);
        let about = |region| {
            let question = Question { region, offset: 0, length: 9, with_pen: false };
            [&question.to_bytes()[..], &[1; 32]].concat()
        };
        let (question, making) = (about(0), [1; 32]);
        assert_eq!(Question::split(&question).map(|(_, making)| making), Some(&making[..]));
        assert_eq!(Question::split(&about(3)), None, "it is there already");
    }
}
