//! A pinned range as runs of bytes that lie together, found a leaf at a time.

use super::error::Result;
use super::ids::PinId;
use super::layout::{FAN_OUT, PAGE_BYTES, PAGE_SHIFT};
use super::records::{pin as field, version};
use super::region::check_range;
use super::tree::position;
use super::{Memory, Store};

impl<M: Memory> Store<M> {
    /// Tells `visit` where the `len` bytes from `offset` of a pinned range are in the pool: a place
    /// and a number of bytes for each run that lies together, in order. The place is none for
    /// pages that were never written, which read as zeros. One walk down the tree serves up to 64
    /// pages.
    ///
    /// # Errors
    /// [`super::Error::Stale`], [`super::Error::ZeroLength`], [`super::Error::Overflow`],
    /// [`super::Error::Range`].
    #[inline]
    pub fn pin_runs(
        &self,
        pin: PinId,
        offset: u64,
        len: u64,
        mut visit: impl FnMut(Option<u64>, u64),
    ) -> Result<()> {
        let at = self.pin_at(pin)?;
        check_range(offset, len, self.mem.load_u64(at + field::LEN))?;
        let start = self.mem.load_u64(at + field::BASE).wrapping_add(offset);
        let version_at = self.version_at(self.mem.load_u32(at + field::VERSION));
        let (mut at, end) = (start, start + len);
        // The run so far: where it began, and how long it is.
        let (mut run_place, mut run_bytes) = (None, 0);
        let mut links = [0; FAN_OUT as usize];
        while at < end {
            let page = at >> PAGE_SHIFT;
            let pages =
                (u64::from(FAN_OUT) - position(page, 1)).min(((end - 1) >> PAGE_SHIFT) - page + 1);
            let links = &mut links[..pages as usize];
            self.load_links(version_at, page, links);
            let mut rest = &links[..];
            while let [first, ..] = rest {
                let count = together(rest);
                rest = &rest[count..];
                let in_page = at & (PAGE_BYTES - 1);
                let bytes = (((count as u64) << PAGE_SHIFT) - in_page).min(end - at);
                let place = first.checked_sub(1).map(|frame| {
                    // The last frame of the run is one of the pool's, then all are.
                    let last = self.frame_at(frame.wrapping_add(count as u32 - 1));
                    last.wrapping_sub((count as u64 - 1) << PAGE_SHIFT).wrapping_add(in_page)
                });
                let follows = match (run_place, place) {
                    (Some(run), Some(place)) => run + run_bytes == place,
                    (None, None) => true,
                    _ => false,
                };
                if follows && run_bytes != 0 {
                    run_bytes += bytes;
                } else {
                    if run_bytes != 0 {
                        visit(run_place, run_bytes);
                    }
                    (run_place, run_bytes) = (place, bytes);
                }
                at += bytes;
            }
        }
        visit(run_place, run_bytes);
        self.sound(Ok(()))
    }

    /// Fills `links` with the links of the pages from `page` on, all of them below one leaf.
    #[inline(always)]
    fn load_links(&self, version_at: u64, page: u64, links: &mut [u32]) {
        match self.leaf(version_at, page) {
            Leaf::Absent => links.fill(0),
            Leaf::Frame(link) => links.fill(link),
            Leaf::Node(at) => {
                // A pinned version's nodes do not change: they can be copied like bytes.
                let mut bytes = [0; 4 * FAN_OUT as usize];
                let bytes = &mut bytes[..4 * links.len()];
                self.mem.read(at + 4 * position(page, 1), bytes);
                for (link, bytes) in links.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *link = u32::from_ne_bytes(*bytes);
                }
            }
        }
    }

    /// The lowest node above a page, or what stands for it.
    #[inline(always)]
    pub(super) fn leaf(&self, version_at: u64, page: u64) -> Leaf {
        let mut link = self.mem.load_u32(version_at + version::ROOT);
        let mut level = self.depth(version_at);
        if level == 0 {
            return Leaf::Frame(link);
        }
        while level > 1 {
            let Some(node) = link.checked_sub(1) else { return Leaf::Absent };
            link = self.mem.load_u32(self.slot(node, page, level));
            level -= 1;
        }
        self.leaf_of(link)
    }

    /// The leaf that a link leads to.
    #[inline(always)]
    pub(super) fn leaf_of(&self, link: u32) -> Leaf {
        link.checked_sub(1).map_or(Leaf::Absent, |node| Leaf::Node(self.node_at(node)))
    }
}

/// How many of the first links are of frames that lie together, or all absent.
#[inline(always)]
fn together(links: &[u32]) -> usize {
    let first = links[0];
    let step = u32::from(first != 0);
    let expected = || (0..links.len() as u32).map(|number| first.wrapping_add(number * step));
    // Most often all do, and without a way out this is a few vector instructions.
    let differ = links.iter().zip(expected()).fold(0, |all, (link, wanted)| all | (link ^ wanted));
    if differ == 0 {
        return links.len();
    }
    links.iter().zip(expected()).take_while(|(link, expected)| **link == *expected).count()
}

/// The lowest node above a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leaf {
    /// There is none: none of its pages was written.
    Absent,
    /// The tree is one page: this is its link.
    Frame(u32),
    /// Where the node is.
    Node(u64),
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::memory::Plain;
    use crate::store::{Config, Limits};

    /// The runs, put together, are what the pin reads, whatever is absent or scattered.
    #[test]
    fn runs_are_the_pinned_bytes() {
        let mut words = vec![0; (8 << 20) / 8];
        let bytes = 200 * PAGE_BYTES;
        let mut store =
            Store::format(Plain::new(&mut words), &Config::for_pool_bytes(8 << 20)).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, bytes).expect("room");
        // Neighbours in order, then backwards, then every third.
        let pages = (0..70).chain((70..100).rev()).chain((100..200).step_by(3));
        for page in pages {
            let content = [page as u8; PAGE_BYTES as usize];
            store.write(holder, region, page * PAGE_BYTES, &content).expect("room");
        }
        let pin = store.pin(holder, region, 0, bytes).expect("room");
        for (offset, len) in [(0, bytes), (5000, 70 * PAGE_BYTES), (300_000, 1), (286_720, 9000)] {
            let mut expected = vec![0; len as usize];
            store.read_pin(pin, offset, &mut expected).expect("pinned");
            let (mut found, mut count) = (Vec::new(), 0);
            let visit = |place: Option<u64>, bytes: u64| {
                let mut part = vec![0; bytes as usize];
                if let Some(place) = place {
                    store.memory().read(place, &mut part);
                }
                found.extend(part);
                count += 1;
            };
            store.pin_runs(pin, offset, len, visit).expect("in range");
            assert!(found == expected, "{len} bytes from {offset}");
            assert!(count <= 1 + len / PAGE_BYTES, "{count} runs");
        }
        let mut count = 0;
        store.pin_runs(pin, 0, 64 * PAGE_BYTES, |_, _| count += 1).expect("in range");
        assert_eq!(count, 1, "neighbours written in order lie together");
        assert!(store.pin_runs(pin, 0, bytes + 1, |_, _| {}).is_err());
    }
}
