//! From places in the pool to slices: the one `unsafe` step of zero copy.
#![allow(unsafe_code)]

use dmrpc_core::store::PinId;
use dmrpc_cxl::Direct;

use crate::memory::Region;

/// What keeps bytes as they are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keeper {
    /// A pin of this participant's.
    Pin(PinId),
    /// A region that nobody but its slices knows, in flush mode.
    Mapping(Region),
}

/// Bytes that are kept as they are.
#[derive(Debug)]
pub(super) struct Pinned {
    direct: Direct,
    keeper: Keeper,
}

impl Pinned {
    /// What is behind `keeper`, which the caller keeps until it drops this value, or for ever. The
    /// participant that made it must outlive this value, too; the session that a mapping is of,
    /// as well.
    pub(super) fn new(direct: Direct, keeper: Keeper) -> Self {
        Self { direct, keeper }
    }

    pub(super) fn keeper(&self) -> Keeper {
        self.keeper
    }

    /// `bytes` bytes at `place`, which the store told of this keeper.
    pub(super) fn slice(&self, place: u64, bytes: u64) -> &[u8] {
        // SAFETY: these are frames of a version that the pin holds. The store never writes to what
        // a version holds that more than one region can see, and frees none of it; a region that
        // holds the same version is no exclusive holder while the pin is there, so it copies, and
        // no view gives access to it. A mapping holds its version in the same way; nothing is ever
        // written to its region, which is freed after this value is gone, and lines that this host
        // had of earlier lives of its frames were dropped when it was told the places.
        // Participants of a pool are trusted with its data: a foreign process that writes here by
        // other ways than the store is outside of what is promised.
        unsafe { self.direct.slice(place, bytes) }
    }
}

/// A region that only its view may touch.
#[derive(Debug)]
pub(super) struct Reserved {
    direct: Direct,
}

impl Reserved {
    /// Access to a region that the caller has reserved for this value: until it is dropped, nobody
    /// frees the region, makes references or snapshots of it, or writes to it.
    pub(super) fn new(direct: Direct) -> Self {
        Self { direct }
    }

    /// `bytes` bytes at `place`, which the store called the region's own just now.
    pub(super) fn slice_mut(&mut self, place: u64, bytes: u64) -> &mut [u8] {
        // SAFETY: an own frame is reachable from one version alone, which only the region holds,
        // and with the region reserved nothing adds a hold or writes to it. The slice borrows this
        // value, so that there is one at a time. Participants are trusted as above. In flush mode
        // the memory node said so with the pen, which nothing but messages about the region ends;
        // those are refused, and the region's session is open for as long as it is reserved.
        unsafe { self.direct.slice_mut(place, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use dmrpc_core::store::{Config, Limits, PAGE_BYTES, Store};
    use dmrpc_cxl::Mapping;

    use super::*;

    #[test]
    fn both_ways_lead_to_the_stores_bytes() {
        let bytes = 8 << 20;
        let mapping = Mapping::memfd("dmrpc-place", bytes).expect("memory");
        let config = Config { participants: 1, ..Config::for_pool_bytes(bytes) };
        let mut store = Store::format(mapping.memory(0, bytes), &config).expect("room");
        let holder = store.holder_join(Limits::NONE).expect("room");
        let region = store.alloc(holder, 2 * PAGE_BYTES).expect("room");
        store.own_page(holder, region, PAGE_BYTES).expect("room");
        let (place, room) = store.own_place(holder, region, PAGE_BYTES).expect("own");
        let mut own = Reserved::new(mapping.direct(0, bytes));
        own.slice_mut(place.expect("own"), room)[..5].copy_from_slice(b"hello");
        drop(own);
        let pin = store.pin(holder, region, PAGE_BYTES, 5).expect("room");
        let pinned = Pinned::new(mapping.direct(0, bytes), Keeper::Pin(pin));
        let mut place = None;
        store.pin_runs(pin, 0, 5, |at, _| place = at).expect("pinned");
        assert_eq!(pinned.slice(place.expect("written"), 5), b"hello");
    }
}
