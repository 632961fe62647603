//! The last outstanding call of each region: what the next one must come after.

use std::hash::{BuildHasherDefault, Hasher};

use dmrpc_core::endpoint::host::{CallId, SessionId};
use dmrpc_core::wire::memory_op::RegionName;
use heapless::index_map::IndexMap;

use crate::config::CALLS_MAX;

/// A region at its memory node, told by the session that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RegionKey {
    pub(crate) session: SessionId,
    pub(crate) name: RegionName,
}

/// Spreads a key's words. Each call on a region is looked up several times, so a hash that takes a
/// byte at a time shows. A memory node that chose names which collide would slow its own calls.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    #[inline(always)]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline(always)]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    #[inline(always)]
    fn finish(&self) -> u64 {
        // The map looks at the lowest bits, and the best ones are the highest.
        self.0 >> 32
    }
}

/// One entry for each region that has calls outstanding: at most as many as calls.
pub(crate) struct Order(IndexMap<RegionKey, CallId, BuildHasherDefault<Spread>, CALLS_MAX>);

impl Order {
    pub(crate) fn new() -> Self {
        Self(IndexMap::default())
    }

    /// The call that one on `region` must come after.
    pub(crate) fn last(&self, region: &RegionKey) -> Option<CallId> {
        if self.0.is_empty() { None } else { self.0.get(region).copied() }
    }

    /// `call` on `region` has begun.
    pub(crate) fn begun(&mut self, region: RegionKey, call: CallId) {
        let inserted = self.0.insert(region, call);
        debug_assert!(inserted.is_ok(), "no more regions at work than calls");
    }

    /// `call` on `region` has ended.
    pub(crate) fn ended(&mut self, region: &RegionKey, call: CallId) {
        if self.0.get(region) == Some(&call) {
            self.0.remove(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    /// Regions of one session, whose names are a table's places and generations.
    #[test]
    fn regions_are_spread_over_the_map() {
        let hasher = BuildHasherDefault::<Spread>::default();
        let session = SessionId { index: 3, generation: 1 << 20 };
        for (step, generations) in [(1u64, 1u64), (1, 64), (64, 4), (1 << 24, 1)] {
            let names =
                (0..256).flat_map(|at| (0..generations).map(move |of| (at * step) | (of << 24)));
            let names: HashSet<u64> = names.collect();
            let places: HashSet<u64> = names
                .iter()
                .map(|name| {
                    hasher.hash_one(RegionKey { session, name: RegionName(*name) }) % 65_536
                })
                .collect();
            assert!(places.len() * 10 > names.len() * 8, "{} of {}", places.len(), names.len());
        }
    }
}
