//! A pinned range as the numbers of its frames, 64 pages at a time.
//!
//! Any 64 pages in a row lie below two leaves at most, and the leaves of what was written in order
//! lie together: then their links are read in one go, wherever in its leaf the range begins. So
//! there is no branch to guess wrong, and the two walks down the tree do not wait for each other.

use super::error::Result;
use super::ids::PinId;
use super::layout::{FAN_OUT, FAN_OUT_SHIFT, NODE_BYTES, PAGE_BYTES, PAGE_SHIFT};
use super::records::{pin as field, version};
use super::region::check_range;
use super::runs::Leaf;
use super::tree::position;
use super::{Memory, Store};

/// What [`Store::pin_frames`] gives for a page that was never written.
pub const FRAME_ABSENT: u32 = u32::MAX;

/// Links of a leaf.
const LEAF: usize = FAN_OUT as usize;
/// Bytes of a leaf.
const LEAF_BYTES: usize = NODE_BYTES as usize;

/// A pinned range that was looked up once, for finding the frames of many parts of it.
#[derive(Debug)]
pub struct Pinned<'s, M> {
    store: &'s Store<M>,
    /// What the version's tree begins with, which does not change while it is pinned.
    root: Root,
    /// The tree's page that holds the range's first byte.
    first: u64,
    /// Bytes of the pages that hold the range.
    bytes: u64,
}

/// The top of a version's tree.
#[derive(Debug, Clone, Copy)]
struct Root {
    version_at: u64,
    link: u32,
    depth: u32,
}

impl<M: Memory> Pinned<'_, M> {
    /// As [`Store::pin_frames`] of this pin.
    ///
    /// # Errors
    /// As there, but for [`super::Error::Stale`].
    #[inline]
    pub fn frames(&self, page: u64, frames: &mut [u32]) -> Result<()> {
        let wanted = (frames.len() as u64).saturating_mul(PAGE_BYTES);
        check_range(page.saturating_mul(PAGE_BYTES), wanted, self.bytes)?;
        self.store.fill_frames(self.root, self.first + page, frames);
        self.store.sound(Ok(()))
    }
}

impl<M: Memory> Store<M> {
    /// Looks a pinned range up. As long as the result is there, the pin is.
    ///
    /// # Errors
    /// [`super::Error::Stale`]; [`super::Error::Corrupt`] if its record makes no sense.
    #[inline]
    pub fn pinned(&self, pin: PinId) -> Result<Pinned<'_, M>> {
        let at = self.pin_at(pin)?;
        let len = self.mem.load_u64(at + field::LEN);
        let base = self.in_tree(self.mem.load_u64(at + field::BASE), 0, len)?;
        let bytes = ((base & (PAGE_BYTES - 1)) + len).next_multiple_of(PAGE_BYTES);
        let version_at = self.version_at(self.mem.load_u32(at + field::VERSION));
        let link = self.mem.load_u32(version_at + version::ROOT);
        let root = Root { version_at, link, depth: self.depth(version_at) };
        self.sound(Ok(Pinned { store: self, root, first: base >> PAGE_SHIFT, bytes }))
    }

    /// Fills `frames` with the numbers of the frames of a pinned range, page by page from number
    /// `page` on, 0 being the page that holds the range's first byte. Frame `n` begins `n` pages
    /// behind [`Layout::frame_base`](super::Layout::frame_base); [`FRAME_ABSENT`] is a page never
    /// written, which reads as zeros.
    ///
    /// # Errors
    /// [`super::Error::Stale`], [`super::Error::ZeroLength`], [`super::Error::Overflow`],
    /// [`super::Error::Range`]; [`super::Error::Corrupt`] if a link leads out of the pool.
    #[inline]
    pub fn pin_frames(&self, pin: PinId, page: u64, frames: &mut [u32]) -> Result<()> {
        self.pinned(pin)?.frames(page, frames)
    }

    /// The same without checks, `page` counted from the start of the version's tree.
    #[inline(always)]
    fn fill_frames(&self, root: Root, mut page: u64, frames: &mut [u32]) {
        let skip = position(page, 1) as usize;
        let mut outside = 0;
        for part in frames.chunks_mut(LEAF) {
            let last = page + part.len() as u64 - 1;
            let leaves = self.leaves(root, page, last);
            outside |= match (leaves, <&mut [u32; LEAF]>::try_from(&mut *part)) {
                ((Leaf::Node(first), Leaf::Node(last)), Ok(part))
                    if first == last || first + NODE_BYTES == last =>
                {
                    // A pinned version's nodes do not change: they can be copied like bytes.
                    let mut links = [0; LEAF_BYTES];
                    self.mem.read(first + 4 * skip as u64, &mut links);
                    self.number(&links, part)
                }
                _ => self.cut_out(leaves, skip, part),
            };
            page += LEAF as u64;
        }
        if self.mem.shared() && outside >> 31 != 0 {
            self.corrupt.set(true);
        }
    }

    /// The leaves above two pages, most often by one way down to the node above both.
    #[inline(always)]
    fn leaves(&self, root: Root, first: u64, last: u64) -> (Leaf, Leaf) {
        let Root { version_at, mut link, depth: mut level } = root;
        if level < 2 || (first ^ last) >> (2 * FAN_OUT_SHIFT) != 0 {
            return (self.leaf(version_at, first), self.leaf(version_at, last));
        }
        while level > 2 {
            let Some(node) = link.checked_sub(1) else { return (Leaf::Absent, Leaf::Absent) };
            link = self.mem.load_u32(self.slot(node, first, level));
            level -= 1;
        }
        let Some(node) = link.checked_sub(1) else { return (Leaf::Absent, Leaf::Absent) };
        let below = |page| self.leaf_of(self.mem.load_u32(self.slot(node, page, 2)));
        (below(first), below(last))
    }

    /// Makes frames of links from number `skip` of the first leaf on, which may go on in the last.
    #[inline(never)]
    fn cut_out(&self, (first, last): (Leaf, Leaf), skip: usize, part: &mut [u32]) -> u32 {
        let mut links = [0; 2 * LEAF_BYTES];
        let (near, far) = links.split_at_mut(LEAF_BYTES);
        self.load_leaf(first, near);
        if skip + part.len() > LEAF {
            self.load_leaf(last, far);
        }
        self.number(&links[4 * skip..], part)
    }

    /// Fills `links` with those of a leaf, as they lie in memory.
    #[inline(always)]
    fn load_leaf(&self, leaf: Leaf, links: &mut [u8]) {
        match leaf {
            Leaf::Absent => {}
            Leaf::Frame(link) => links[..4].copy_from_slice(&link.to_ne_bytes()),
            Leaf::Node(at) => self.mem.read(at, links),
        }
    }

    /// Makes frames of links; the result's highest bit tells whether one leads out of the pool.
    #[inline(always)]
    fn number(&self, links: &[u8], frames: &mut [u32]) -> u32 {
        let limit = self.lay.config.frames;
        let mut outside = 0;
        for (bytes, frame) in links.as_chunks::<4>().0.iter().zip(frames) {
            let link = u32::from_ne_bytes(*bytes);
            *frame = link.wrapping_sub(1);
            // There are fewer than 2^31 frames, so the difference is negative if a link is more.
            outside |= link | limit.wrapping_sub(link);
        }
        outside
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::memory::{Atomic, Plain};
    use crate::store::{Config, Error, Limits, Store};

    fn config() -> Config {
        Config::for_pool_bytes(8 << 20)
    }

    /// Each frame is where the page's place is, from any page on, for any number of them.
    fn agrees(mut store: Store<impl Memory>) {
        let holder = store.holder_join(Limits::NONE).expect("room");
        for pages in [1, 64, 333] {
            let region = store.alloc(holder, pages * PAGE_BYTES).expect("room");
            // Some in order, some backwards, most of the rest never written, a leaf without any.
            let written = (0..pages.min(70)).chain((150..pages.min(190)).rev());
            for page in written.chain((192..pages).step_by(3)) {
                store.write(holder, region, page * PAGE_BYTES, &[1]).expect("room");
            }
            let cut = if pages == 1 { 0 } else { 700 };
            let len = pages * PAGE_BYTES - 2 * cut;
            let pin = store.pin(holder, region, cut, len).expect("room");
            for first in (0..pages).step_by(7) {
                for count in [1, 2, 63, 64, 65, 128, 200, pages - first] {
                    let mut frames = vec![77; count as usize];
                    let found = store.pin_frames(pin, first, &mut frames);
                    if first + count > pages {
                        assert!(matches!(found, Err(Error::Range { .. })), "{found:?}");
                        continue;
                    }
                    found.expect("in range");
                    for (page, frame) in (first..).zip(&frames) {
                        let offset = (page * PAGE_BYTES).saturating_sub(cut);
                        let (place, _) = store.pin_place(pin, offset).expect("in range");
                        let expected = place.map_or(FRAME_ABSENT, |place| {
                            ((place - store.layout().frame_base()) / PAGE_BYTES) as u32
                        });
                        assert_eq!(*frame, expected, "page {page} of {pages}");
                    }
                }
            }
            assert_eq!(store.pin_frames(pin, 0, &mut []), Err(Error::ZeroLength));
            store.pin_frames(pin, u64::MAX, &mut [0]).expect_err("no such page");
            store.unpin(pin).expect("there");
            store.pin_frames(pin, 0, &mut [0]).expect_err("it is gone");
            store.free(holder, region).expect("there");
        }
    }

    #[test]
    fn frames_are_where_places_are() {
        let mut words = vec![0; (8 << 20) / 8];
        agrees(Store::format(Plain::new(&mut words), &config()).expect("room"));
        agrees(Store::format(Atomic::new(&mut words), &config()).expect("room"));
    }

    #[test]
    fn links_out_of_the_pool_are_found() {
        let mut words = vec![0; (8 << 20) / 8];
        let mut store = Store::format(Atomic::new(&mut words), &config()).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, 64 * PAGE_BYTES).expect("room");
        store.write(holder, region, 0, &[1; 64 * PAGE_BYTES as usize]).expect("room");
        let pin = store.pin(holder, region, 0, 64 * PAGE_BYTES).expect("room");
        let at = store.pin_at(pin).expect("there");
        let version_at = store.version_at(store.mem.load_u32(at + field::VERSION));
        let node = store.node_at(store.mem.load_u32(version_at + version::ROOT) - 1);
        let mut frames = [0; 64];
        let limit = store.config().frames;
        for (link, is_sound) in
            [(limit, true), (limit + 1, false), (1 << 31, false), (u32::MAX, false)]
        {
            store.mem.store_u32(node + 4 * 37, link);
            let found = store.pin_frames(pin, 0, &mut frames);
            assert_eq!(found, if is_sound { Ok(()) } else { Err(Error::Corrupt) }, "{link:#x}");
        }
    }
}
