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

/// One entry for each region that has calls outstanding: at most as many as calls.
pub(crate) struct Order {
    /// The entry of a region whose first call began while no other had any. Never in `others`.
    first: Option<(RegionKey, CallId)>,
    others: IndexMap<RegionKey, CallId, BuildHasherDefault<Words>, CALLS_MAX>,
}

impl Order {
    pub(crate) fn new() -> Self {
        Self { first: None, others: IndexMap::default() }
    }

    /// The call that one on `region` must come after.
    #[inline]
    pub(crate) fn last(&self, region: &RegionKey) -> Option<CallId> {
        match &self.first {
            Some((first, call)) if first == region => Some(*call),
            _ if self.others.is_empty() => None,
            _ => self.others.get(region).copied(),
        }
    }

    /// `call` on `region` has begun.
    #[inline]
    pub(crate) fn begun(&mut self, region: RegionKey, call: CallId) {
        match &mut self.first {
            Some((first, last)) if *first == region => *last = call,
            first @ None if self.others.is_empty() => *first = Some((region, call)),
            _ => {
                let inserted = self.others.insert(region, call);
                debug_assert!(inserted.is_ok(), "no more regions at work than calls");
            }
        }
    }

    /// `call` on `region` has ended.
    #[inline]
    pub(crate) fn ended(&mut self, region: &RegionKey, call: CallId) {
        match &self.first {
            Some((first, last)) if first == region => {
                if *last == call {
                    self.first = None;
                }
            }
            _ => {
                if self.others.get(region) == Some(&call) {
                    self.others.remove(region);
                }
            }
        }
    }
}

/// Hashes a few words, each by one multiplication. Names are numbers of the memory node's choice:
/// one that chooses them badly slows down those who use it.
#[derive(Default)]
struct Words(u64);

/// An odd number without a pattern: the golden ratio's digits.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for Words {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }

    /// The map looks at the low bits, of which a product has the least mixed.
    #[inline]
    fn finish(&self) -> u64 {
        self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;

    fn key(name: u64) -> RegionKey {
        RegionKey { session: SessionId { index: 1, generation: 2 }, name: RegionName(name) }
    }

    fn call(request: u64) -> CallId {
        CallId { session: SessionId { index: 1, generation: 2 }, slot: 0, request }
    }

    #[test]
    fn each_region_has_its_last_call_in_whatever_order_they_end() {
        // All orders in which calls 1 and 2 on region 7 and 3 and 4 on region 8 can end.
        for ends in 0..24 {
            let mut order = Order::new();
            let mut left = vec![(7, 1), (7, 2), (8, 3), (8, 4)];
            for (region, number) in &left {
                order.begun(key(*region), call(*number));
            }
            let mut rest = ends;
            while !left.is_empty() {
                let (region, number) = left.remove(rest % left.len());
                rest /= left.len() + 1;
                order.ended(&key(region), call(number));
                for (region, last) in [(7, 2), (8, 4)] {
                    let expected = left.contains(&(region, last)).then(|| call(last));
                    assert_eq!(order.last(&key(region)), expected, "{ends}");
                }
            }
            assert!(order.first.is_none() && order.others.is_empty(), "{ends}");
        }
    }

    #[test]
    fn a_region_is_found_while_others_come_and_go() {
        let mut order = Order::new();
        (1..=100).for_each(|region| order.begun(key(region), call(region)));
        order.ended(&key(1), call(1));
        // Others have calls: this one joins them, and is the first again later.
        order.begun(key(1), call(200));
        assert_eq!(order.last(&key(1)), Some(call(200)));
        (2..=100).for_each(|region| {
            assert_eq!(order.last(&key(region)), Some(call(region)));
            order.ended(&key(region), call(region));
        });
        order.ended(&key(1), call(200));
        assert!(order.last(&key(1)).is_none() && order.others.is_empty());
    }

    #[test]
    fn names_that_follow_one_another_have_different_hashes() {
        let hash = |name| {
            let mut words = Words::default();
            key(name).hash(&mut words);
            words.finish() as u16 % 1024
        };
        let mut seen = std::collections::HashSet::new();
        seen.extend((0..512).map(|name| hash(name << 32)));
        seen.extend((0..512).map(hash));
        // Of 1,024 thrown into 1,024 places at random, 647 would have one of their own.
        assert!(seen.len() > 500, "{}", seen.len());
    }
}
