//! From places in the pool to slices: the one `unsafe` step of zero copy.
#![allow(unsafe_code)]

use dmrpc_core::store::PinId;
use dmrpc_cxl::Direct;

/// Bytes that a pin keeps as they are.
#[derive(Debug)]
pub(super) struct Pinned {
    direct: Direct,
    pin: PinId,
}

impl Pinned {
    /// What is behind `pin`, which the caller keeps until it drops this value, or for ever. The
    /// participant that made the pin must outlive this value, too.
    pub(super) fn new(direct: Direct, pin: PinId) -> Self {
        Self { direct, pin }
    }

    pub(super) fn pin(&self) -> PinId {
        self.pin
    }

    /// `bytes` bytes at `place`, which the store told of this pin.
    pub(super) fn slice(&self, place: u64, bytes: u64) -> &[u8] {
        // SAFETY: these are frames of a version that the pin holds. The store never writes to what
        // a version holds that more than one region can see, and frees none of it; a region that
        // holds the same version is no exclusive holder while the pin is there, so it copies, and
        // no view gives access to it. Participants of a pool are trusted with its data: a foreign
        // process that writes here by other ways than the store is outside of what is promised.
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
        // value, so that there is one at a time. Participants are trusted as above.
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
        let pinned = Pinned::new(mapping.direct(0, bytes), pin);
        let mut place = None;
        store.pin_runs(pinned.pin(), 0, 5, |at, _| place = at).expect("pinned");
        assert_eq!(pinned.slice(place.expect("written"), 5), b"hello");
    }
}
