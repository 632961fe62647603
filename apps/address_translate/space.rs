//! An address space, all of whose pages are there, and its two translations.

use dmrpc_core::store::{Config, Layout, Limits, PAGE_BYTES, PinId, Store};
use dmrpc_host::clock::Clock;
use rustc_hash::FxHashMap;

use crate::folded::{self, Folded};

/// What goes wrong says so itself.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Pages of a range.
const RANGE_PAGES: u64 = 64;
/// Pages at random that are looked up in a batch.
const BATCH_PAGES: u64 = 64;
/// Ranges that are looked up in a batch.
const BATCH_RANGES: u64 = 4;

/// What is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A page at random.
    Page,
    /// A range of pages.
    Range,
}

impl Op {
    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Page => "translate_page",
            Self::Range => "translate_64_pages",
        }
    }

    /// Its name where the hash map does it.
    pub(crate) fn map_name(self) -> &'static str {
        match self {
            Self::Page => "map_page",
            Self::Range => "map_64_pages",
        }
    }

    /// How many are timed together.
    pub(crate) fn lookups(self) -> u64 {
        match self {
            Self::Page => BATCH_PAGES,
            Self::Range => BATCH_RANGES,
        }
    }
}

/// See the module's text.
pub(crate) struct Space<'m> {
    store: Store<Folded<'m>>,
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

impl<'m> Space<'m> {
    /// Fills a space of `bytes` bytes page by page, in both translations.
    pub(crate) fn new(memory: &'m mut [u64], bytes: u64, seed: u64) -> Result<Self, Failure> {
        let config = config(bytes);
        let layout = Layout::new(&config)?;
        let frame_base = layout.frame_base();
        let mut store = Store::format(Folded::new(memory, frame_base, layout.bytes()), &config)?;
        let holder = store.holder_join(Limits::NONE)?;
        let region = store.alloc(holder, bytes)?;
        let pages = bytes.div_ceil(PAGE_BYTES);
        for page in 0..pages {
            store.write(holder, region, page * PAGE_BYTES, &[1])?;
        }
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

    /// The page that `found` leads to, so that no lookup can begin before the one before ended.
    #[inline(always)]
    fn next_page(&mut self, found: u64, pages: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        ((u128::from(mix(self.state ^ found)) * u128::from(pages)) >> 64) as u64
    }

    fn starts(&self, op: Op) -> u64 {
        match op {
            Op::Page => self.pages,
            Op::Range => self.pages - RANGE_PAGES + 1,
        }
    }

    /// The frame of a page, or of all of a range their sum, by the store.
    #[inline(always)]
    fn look_in_store(&self, op: Op, page: u64) -> u64 {
        let offset = page * PAGE_BYTES;
        match op {
            Op::Page => {
                let place = self.store.pin_place(self.pin, offset);
                place.map_or(0, |(place, _)| place.unwrap_or(0).wrapping_sub(self.frame_base))
                    / PAGE_BYTES
            }
            Op::Range => {
                let mut sum = 0;
                let visited = self.store.pin_runs(
                    self.pin,
                    offset,
                    RANGE_PAGES * PAGE_BYTES,
                    |place, bytes| {
                        // A run of frames: their numbers follow each other.
                        let first = place.unwrap_or(0).wrapping_sub(self.frame_base) / PAGE_BYTES;
                        let count = bytes / PAGE_BYTES;
                        sum += first * count + count * count.wrapping_sub(1) / 2;
                    },
                );
                if visited.is_ok() { sum } else { 0 }
            }
        }
    }

    /// The same by the hash map.
    #[inline(always)]
    fn look_in_map(&self, op: Op, page: u64) -> u64 {
        let frame = |page: u64| u64::from(self.map.get(&(page as u32)).copied().unwrap_or(0));
        match op {
            Op::Page => frame(page),
            Op::Range => (page..page + RANGE_PAGES).map(frame).sum(),
        }
    }

    fn batch(&mut self, op: Op, clock: &Clock, look: impl Fn(&Self, u64) -> u64) -> f64 {
        let starts = self.starts(op);
        let mut found = 0;
        let start = clock.now();
        for _ in 0..op.lookups() {
            let page = self.next_page(found, starts);
            found = look(self, page);
        }
        let span = clock.now().since(start);
        self.state ^= found;
        span.as_nanos() as f64 / op.lookups() as f64
    }

    /// Nanoseconds a lookup in the store: a batch.
    pub(crate) fn by_store(&mut self, op: Op, clock: &Clock) -> f64 {
        self.batch(op, clock, |space, page| space.look_in_store(op, page))
    }

    /// Nanoseconds a lookup in the map: a batch.
    pub(crate) fn by_map(&mut self, op: Op, clock: &Clock) -> f64 {
        self.batch(op, clock, |space, page| space.look_in_map(op, page))
    }

    /// Whether both find the same, at `count` places.
    pub(crate) fn verify(&mut self, op: Op, count: u32) -> Result<(), Failure> {
        let starts = self.starts(op);
        for _ in 0..count {
            let page = self.next_page(0, starts);
            let (ours, theirs) = (self.look_in_store(op, page), self.look_in_map(op, page));
            if ours != theirs {
                let name = op.name();
                return Err(format!("{name} of page {page}: {ours}, the map has {theirs}").into());
            }
        }
        Ok(())
    }
}
