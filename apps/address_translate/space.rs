//! An address space, all of whose pages are there, and its two translations.

use std::hint::black_box;

use dmrpc_core::store::{Config, FRAME_ABSENT, Layout, Limits, PAGE_BYTES, PinId, Pinned, Store};
use dmrpc_host::clock::Clock;
use rustc_hash::FxHashMap;

use crate::folded::{self, Folded, Index};

/// What goes wrong says so itself.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Pages of a range.
const RANGE_PAGES: u64 = 64;
/// Pages at random that are looked up in a batch.
const BATCH_PAGES: u64 = 64;
/// Ranges that are looked up in a batch.
const BATCH_RANGES: u64 = 64;

/// The frames of a range.
type Frames = [u32; RANGE_PAGES as usize];

/// The first pages of what is looked up in a batch.
type Drawn = [u64; BATCH_PAGES as usize + 1];

/// What is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A page at random.
    Page,
    /// A range of pages.
    Range,
    /// The same; it is known only when the range before was found.
    RangeAfter,
}

impl Op {
    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Page => "translate_page",
            Self::Range => "translate_64_pages",
            Self::RangeAfter => "translate_64_after",
        }
    }

    /// Its name where the hash map does it.
    pub(crate) fn map_name(self) -> &'static str {
        match self {
            Self::Page => "map_page",
            Self::Range => "map_64_pages",
            Self::RangeAfter => "map_64_after",
        }
    }

    /// How many are timed together.
    pub(crate) fn lookups(self) -> u64 {
        match self {
            Self::Page => BATCH_PAGES,
            Self::Range | Self::RangeAfter => BATCH_RANGES,
        }
    }
}

/// See the module's text.
pub(crate) struct Space<'m> {
    store: Store<Index<'m>>,
    pin: PinId,
    map: FxHashMap<u32, u32>,
    frame_base: u64,
    pages: u64,
    state: u64,
}

fn config(bytes: u64) -> Config {
    Config::for_pool_bytes(bytes + bytes / 16 + (16 << 20))
}

/// The memory for the index of a space of `bytes` bytes.
pub(crate) fn memory(bytes: u64) -> Result<Vec<u64>, Failure> {
    let layout = Layout::new(&config(bytes))?;
    Ok(vec![0; folded::words(layout.frame_base())])
}

/// One step of a generator of random numbers (splitmix64).
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Nanoseconds a lookup of pages drawn before. But for ranges as such, each waits for what was
/// found at the one before.
#[inline(always)]
fn time(op: Op, pages: &Drawn, clock: &Clock, mut look: impl FnMut(u64) -> u32) -> f64 {
    let depends = if op == Op::Range { 0 } else { u32::MAX };
    let pages = &pages[..op.lookups() as usize + 1];
    let mut found = 0;
    let start = clock.now();
    for pair in pages.windows(2) {
        // No frame has this bit set: it is always the first of the two.
        found = look(pair[((found & depends) >> 30 & 1) as usize]);
    }
    let span = clock.now().since(start);
    black_box(found);
    span.as_nanos() as f64 / op.lookups() as f64
}

impl<'m> Space<'m> {
    /// Fills a space of `bytes` bytes page by page, in both translations.
    pub(crate) fn new(memory: &'m mut [u64], bytes: u64, seed: u64) -> Result<Self, Failure> {
        let config = config(bytes);
        let layout = Layout::new(&config)?;
        let frame_base = layout.frame_base();
        let folded = Folded::new(&mut *memory, frame_base, layout.bytes());
        let mut store = Store::format(folded, &config)?;
        let holder = store.holder_join(Limits::NONE)?;
        let region = store.alloc(holder, bytes)?;
        let pages = bytes.div_ceil(PAGE_BYTES);
        for page in 0..pages {
            store.write(holder, region, page * PAGE_BYTES, &[1])?;
        }
        let mut store = Store::open(Index::new(memory, layout.bytes()))?;
        let pin = store.pin(holder, region, 0, bytes)?;
        let mut map = FxHashMap::with_capacity_and_hasher(pages as usize, Default::default());
        for page in 0..pages {
            let (place, _) = store.pin_place(pin, page * PAGE_BYTES)?;
            let place = place.ok_or("a page that was written is absent")?;
            map.insert(page as u32, ((place - frame_base) / PAGE_BYTES) as u32);
        }
        Ok(Self { store, pin, map, frame_base, pages, state: seed })
    }

    /// Bytes of the space.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES
    }

    /// A page at random.
    fn page_at_random(&mut self, pages: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        ((u128::from(mix(self.state)) * u128::from(pages)) >> 64) as u64
    }

    fn starts(&self, op: Op) -> u64 {
        match op {
            Op::Page => self.pages,
            Op::Range | Op::RangeAfter => self.pages - RANGE_PAGES + 1,
        }
    }

    /// The frame of a page, by the store.
    #[inline(always)]
    fn page_in_store(&self, page: u64) -> u32 {
        let place = self.store.pin_place(self.pin, page * PAGE_BYTES);
        place.map_or(FRAME_ABSENT, |(place, _)| {
            (place.unwrap_or(0).wrapping_sub(self.frame_base) / PAGE_BYTES) as u32
        })
    }

    /// The frames of a range, by the store.
    #[inline(always)]
    fn range_in_store(pinned: &Pinned<'_, Index<'_>>, page: u64, frames: &mut Frames) {
        if pinned.frames(page, frames).is_err() {
            frames.fill(FRAME_ABSENT);
        }
    }

    /// The frame of a page, by the map.
    #[inline(always)]
    fn page_in_map(&self, page: u64) -> u32 {
        self.map.get(&(page as u32)).copied().unwrap_or(FRAME_ABSENT)
    }

    /// The frames of a range, by the map.
    #[inline(always)]
    fn range_in_map(&self, page: u64, frames: &mut Frames) {
        for (page, frame) in (page..).zip(frames) {
            *frame = self.page_in_map(page);
        }
    }

    /// Pages to look up, and one more.
    fn draw(&mut self, op: Op) -> Drawn {
        let starts = self.starts(op);
        let mut pages = [0; BATCH_PAGES as usize + 1];
        pages.fill_with(|| self.page_at_random(starts));
        pages
    }

    /// Nanoseconds a lookup in the store: a batch.
    pub(crate) fn by_store(&mut self, op: Op, clock: &Clock) -> f64 {
        let pages = self.draw(op);
        if op == Op::Page {
            return time(op, &pages, clock, |page| self.page_in_store(page));
        }
        let pinned = self.store.pinned(self.pin).expect("the pin is there as long as the space");
        let mut frames = [0; RANGE_PAGES as usize];
        time(op, &pages, clock, |page| {
            Self::range_in_store(&pinned, page, &mut frames);
            black_box(&frames)[RANGE_PAGES as usize - 1]
        })
    }

    /// Nanoseconds a lookup in the map: a batch.
    pub(crate) fn by_map(&mut self, op: Op, clock: &Clock) -> f64 {
        let pages = self.draw(op);
        if op == Op::Page {
            return time(op, &pages, clock, |page| self.page_in_map(page));
        }
        let mut frames = [0; RANGE_PAGES as usize];
        time(op, &pages, clock, |page| {
            self.range_in_map(page, &mut frames);
            black_box(&frames)[RANGE_PAGES as usize - 1]
        })
    }

    /// Whether both find the same, at `count` places.
    pub(crate) fn verify(&mut self, op: Op, count: u32) -> Result<(), Failure> {
        let starts = self.starts(op);
        for _ in 0..count {
            let page = self.page_at_random(starts);
            let (mut ours, mut theirs) = ([0; RANGE_PAGES as usize], [0; RANGE_PAGES as usize]);
            match op {
                Op::Page => {
                    (ours[0], theirs[0]) = (self.page_in_store(page), self.page_in_map(page));
                }
                Op::Range | Op::RangeAfter => {
                    Self::range_in_store(&self.store.pinned(self.pin)?, page, &mut ours);
                    self.range_in_map(page, &mut theirs);
                }
            }
            if ours != theirs || ours[0] == FRAME_ABSENT {
                let name = op.name();
                let differ = format!("{name} of page {page}: {ours:?}, the map has {theirs:?}");
                return Err(differ.into());
            }
        }
        Ok(())
    }
}
