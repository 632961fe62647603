//! How many runs of frames that lie together a large region is of: slices are as many.
//!
//! Free frames are stacks, and what was written together is freed in an order that brings it back
//! together. So regions of one size stay in one run whatever order they come and go in; small
//! regions that come and go at random in between are what breaks runs.

use dmrpc_core::memory::Plain;
use dmrpc_core::store::{Config, HolderId, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_core::time::Instant;
use proptest::prelude::*;

const POOL_BYTES: u64 = 48 << 20;
/// Pages of a large region: 4 MiB.
const PAGES: u64 = 1024;

struct Pool<'m> {
    store: Store<Plain<'m>>,
    holder: HolderId,
}

impl<'m> Pool<'m> {
    fn new(words: &'m mut Vec<u64>) -> Self {
        words.resize(POOL_BYTES as usize / 8, 0);
        let config = Config::for_pool_bytes(POOL_BYTES);
        let mut store = Store::format(Plain::new(words), &config).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        Self { store, holder }
    }

    /// A region of so many pages, all written, in order.
    fn write(&mut self, pages: u64) -> RegionId {
        let region = loop {
            match self.store.alloc(self.holder, pages * PAGE_BYTES) {
                Ok(region) => break region,
                Err(_) => assert_ne!(self.store.reclaim(Instant::ZERO, 64), 0, "no room"),
            }
        };
        let bytes = [7; PAGE_BYTES as usize];
        for page in 0..pages {
            self.store.write(self.holder, region, page * PAGE_BYTES, &bytes).expect("promised");
        }
        region
    }

    fn free(&mut self, region: RegionId) {
        self.store.free(self.holder, region).expect("its own");
        while self.store.reclaim(Instant::ZERO, 64) != 0 {}
    }

    fn runs(&mut self, region: RegionId, pages: u64) -> u64 {
        let pin = self.store.pin(self.holder, region, 0, pages * PAGE_BYTES).expect("room");
        let mut runs = 0;
        let visit = |_: Option<u64>, _: u64| runs += 1;
        self.store.pin_runs(pin, 0, pages * PAGE_BYTES, visit).expect("pinned");
        self.store.unpin(pin).expect("pinned");
        runs
    }
}

#[test]
fn what_was_never_used_lies_together() {
    let mut words = Vec::new();
    let mut pool = Pool::new(&mut words);
    let region = pool.write(PAGES);
    assert_eq!(pool.runs(region, PAGES), 1);
}

#[test]
fn what_comes_back_lies_together() {
    let mut words = Vec::new();
    let mut pool = Pool::new(&mut words);
    let first = pool.write(PAGES);
    pool.free(first);
    let again = pool.write(PAGES);
    assert_eq!(pool.runs(again, PAGES), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Large regions that come and go in any order.
    #[test]
    fn large_regions_stay_in_large_runs(order in proptest::collection::vec(0usize..6, 1..40)) {
        let mut words = Vec::new();
        let mut pool = Pool::new(&mut words);
        let mut regions: Vec<RegionId> = (0..6).map(|_| pool.write(PAGES)).collect();
        for which in order {
            pool.free(regions[which]);
            regions[which] = pool.write(PAGES);
            let runs = pool.runs(regions[which], PAGES);
            prop_assert!(runs <= 2, "{} runs", runs);
        }
    }

    /// Small regions that come and go at random leave runs of some frames, never more runs than
    /// the small regions had.
    #[test]
    fn small_regions_break_no_more_than_they_are(
        sizes in proptest::collection::vec(1u64..40, 60..160),
        keep in proptest::collection::vec(any::<bool>(), 160),
    ) {
        let mut words = Vec::new();
        let mut pool = Pool::new(&mut words);
        let small: Vec<RegionId> = sizes.iter().map(|pages| pool.write(*pages)).collect();
        let mut kept = 0;
        for (region, keep) in small.into_iter().zip(keep) {
            if keep {
                kept += 1;
            } else {
                pool.free(region);
            }
        }
        let region = pool.write(PAGES);
        let runs = pool.runs(region, PAGES);
        let bound = sizes.len() as u64 + kept;
        prop_assert!(runs <= bound, "{} runs of {} pages, at most {}", runs, PAGES, bound);
    }
}
