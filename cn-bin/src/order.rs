//! The last outstanding call of each region: what the next one must come after.

use dmrpc_core::endpoint::host::{CallId, SessionId};
use dmrpc_core::wire::memory_op::RegionName;
use heapless::index_map::FnvIndexMap;

use crate::config::CALLS_MAX;

/// A region at its memory node, told by the session that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RegionKey {
    pub(crate) session: SessionId,
    pub(crate) name: RegionName,
}

/// One entry for each region that has calls outstanding: at most as many as calls.
pub(crate) struct Order(FnvIndexMap<RegionKey, CallId, CALLS_MAX>);

impl Order {
    pub(crate) fn new() -> Self {
        Self(FnvIndexMap::new())
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
