//! The store and the plain model side by side.

use dmrpc_core::memory::Plain;
use dmrpc_core::store::{
    EntryId, Error, HolderId, Limits, Object, PinId, RegionId, Resource, StageId, Store,
};
use dmrpc_core::time::Instant;

use crate::ops::Op;
use crate::store_common::{SMALL, assert_all_home, audit, settle};

struct Region {
    id: RegionId,
    holder: usize,
    data: Vec<u8>,
    writable: bool,
    /// Allocated, and never referred to or pinned: writing to it cannot fail.
    promised: bool,
}

struct Entry {
    id: EntryId,
    owner: Option<usize>,
    data: Vec<u8>,
}

struct Pin {
    id: PinId,
    data: Vec<u8>,
}

struct Stage {
    id: StageId,
    region: RegionId,
    holder: usize,
    offset: u64,
    data: Vec<u8>,
    /// Offsets of the pieces still to come, in the order in which they will.
    left: Vec<(u64, u64)>,
}

/// The store and what it should be like.
pub(crate) struct World<'m> {
    store: Store<Plain<'m>>,
    now: u64,
    holders: Vec<HolderId>,
    regions: Vec<Region>,
    entries: Vec<Entry>,
    pins: Vec<Pin>,
    stages: Vec<Stage>,
    /// Identifiers that ended, and how.
    gone: Vec<(EntryId, Error)>,
    /// Owners that left: when their references expire.
    left: Vec<(usize, u64)>,
}

/// The place that a range gets in something of `size` bytes.
fn fit(size: u64, offset: u64, len: u64) -> (u64, u64) {
    let offset = offset % size;
    (offset, len.min(size - offset))
}

fn bytes(seed: u8, len: u64) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

fn slice(data: &[u8], (offset, len): (u64, u64)) -> Vec<u8> {
    data[offset as usize..(offset + len) as usize].to_vec()
}

impl<'m> World<'m> {
    /// A world with nobody in it.
    pub(crate) fn new(store: Store<Plain<'m>>) -> Self {
        Self {
            store,
            now: 0,
            holders: Vec::new(),
            regions: Vec::new(),
            entries: Vec::new(),
            pins: Vec::new(),
            stages: Vec::new(),
            gone: Vec::new(),
            left: Vec::new(),
        }
    }

    fn time(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// Sorts a refusal out: it must be for want of something, and none in the pool must lie about
    /// what is pending.
    fn refuse(&self, error: Error) {
        match error {
            Error::Pending => assert!(self.store.pending(), "pending without pending work"),
            Error::OutOf { what: Resource::Detached, .. } => {}
            Error::OutOf { limit, in_use, .. } => {
                assert!(in_use <= limit, "more in use than there are");
            }
            other => panic!("unexpected refusal: {other}"),
        }
    }

    pub(crate) fn run(&mut self, op: &Op) {
        match *op {
            Op::Join | Op::Leave(_) => self.run_holder(op),
            Op::Alloc { .. } | Op::Free(_) | Op::Write { .. } | Op::Read { .. } => {
                self.run_region(op);
            }
            Op::Create { .. } | Op::Map { .. } | Op::Claim { .. } => self.run_entry(op),
            Op::Detach(_) | Op::Drop(_) | Op::Foreign { .. } => self.run_end(op),
            Op::Pin { .. } | Op::PinRef { .. } | Op::Unpin(_) => self.run_pin(op),
            Op::StageBegin { .. } | Op::StageWrite { .. } | Op::StageEnd { .. } => {
                self.run_stage(op);
            }
            Op::Reclaim { budget, time } => {
                self.now += time;
                assert!(self.store.reclaim(self.time(), budget) <= budget);
                self.expire();
            }
        }
    }

    /// Forgets in the model what may have expired by now; either answer is right meanwhile.
    fn expire(&mut self) {
        let now = self.now;
        let gone: Vec<usize> =
            self.left.iter().filter(|(_, end)| *end <= now).map(|(owner, _)| *owner).collect();
        for owner in gone {
            // The sweep may lag behind: settle so that the model knows.
            settle(&mut self.store, Instant::from_nanos(now));
            let (ended, kept) =
                self.entries.drain(..).partition(|entry| entry.owner == Some(owner));
            self.entries = kept;
            let ended: Vec<Entry> = ended;
            self.gone.extend(ended.iter().map(|entry| (entry.id, Error::Expired)));
            self.left.retain(|(other, _)| *other != owner);
        }
    }

    fn run_holder(&mut self, op: &Op) {
        match *op {
            Op::Join => match self.store.holder_join(Limits::NONE) {
                Ok(id) => self.holders.push(id),
                Err(error) => self.refuse(error),
            },
            Op::Leave(n) => {
                let live: Vec<usize> = self.live_holders();
                if live.len() < 2 {
                    return;
                }
                let holder = live[n % live.len()];
                let now = self.time();
                self.store.holder_leave(self.holders[holder], now).expect("it is live");
                self.left.push((holder, self.now + SMALL.grace_ns));
                for region in self.regions.iter().filter(|region| region.holder == holder) {
                    let mut byte = [0];
                    let read = self.store.read(self.holders[holder], region.id, 0, &mut byte);
                    assert!(matches!(read, Err(Error::Stale { .. })), "a dead holder read");
                }
                self.regions.retain(|region| region.holder != holder);
                self.stages.retain(|stage| stage.holder != holder);
            }
            _ => unreachable!(),
        }
    }

    fn live_holders(&self) -> Vec<usize> {
        let has_left = |n: &usize| self.left.iter().any(|(left, _)| left == n);
        // Expired holders are out of `left`: their regions are gone and their identifier stale.
        (0..self.holders.len())
            .filter(|n| !has_left(n))
            .filter(|n| {
                let id = RegionId::from_raw(u64::MAX);
                let probe = self.store.region_len(self.holders[*n], id);
                !matches!(probe, Err(Error::Stale { what, .. })
                    if what == Object::Holder)
            })
            .collect()
    }

    fn pick_holder(&self, n: usize) -> usize {
        let live = self.live_holders();
        live[n % live.len()]
    }

    fn run_region(&mut self, op: &Op) {
        match *op {
            Op::Alloc { holder, len } => {
                let holder = self.pick_holder(holder);
                match self.store.alloc(self.holders[holder], len) {
                    Ok(id) => {
                        let data = vec![0; len as usize];
                        let region = Region { id, holder, data, writable: true, promised: true };
                        self.regions.push(region);
                    }
                    Err(error) => self.refuse(error),
                }
            }
            _ if self.regions.is_empty() => {}
            Op::Free(n) => {
                let region = self.regions.swap_remove(n % self.regions.len());
                let holder = self.holders[region.holder];
                self.store.free(holder, region.id).expect("it is live");
                let again = self.store.free(holder, region.id);
                assert!(matches!(again, Err(Error::Stale { .. })), "freed twice");
            }
            Op::Write { region, offset, len, seed } => {
                let n = region % self.regions.len();
                let region = &mut self.regions[n];
                let (offset, len) = fit(region.data.len() as u64, offset, len);
                let source = bytes(seed, len);
                let holder = self.holders[region.holder];
                match self.store.write(holder, region.id, offset, &source) {
                    Ok(()) => {
                        assert!(region.writable, "wrote to a region mapped for reading");
                        region.data[offset as usize..][..len as usize].copy_from_slice(&source);
                    }
                    Err(Error::ReadOnly) => assert!(!region.writable),
                    Err(error) => {
                        assert!(!region.promised, "a promise was broken: {error}");
                        self.refuse(error);
                    }
                }
            }
            Op::Read { region, offset, len } => {
                let region = &self.regions[region % self.regions.len()];
                let (offset, len) = fit(region.data.len() as u64, offset, len);
                let mut found = vec![0xEE; len as usize];
                let holder = self.holders[region.holder];
                self.store.read(holder, region.id, offset, &mut found).expect("it is live");
                assert!(found == slice(&region.data, (offset, len)), "read other bytes");
            }
            _ => unreachable!(),
        }
    }

    fn run_entry(&mut self, op: &Op) {
        match *op {
            Op::Create { region, offset, len } => {
                if self.regions.is_empty() {
                    return;
                }
                let n = region % self.regions.len();
                let region = &mut self.regions[n];
                let range = fit(region.data.len() as u64, offset, len);
                let holder = self.holders[region.holder];
                match self.store.create_ref(holder, region.id, range.0, range.1) {
                    Ok(id) => {
                        region.promised = false;
                        let owner = Some(region.holder);
                        let data = slice(&region.data, range);
                        self.entries.push(Entry { id, owner, data });
                    }
                    Err(error) => self.refuse(error),
                }
            }
            _ if self.entries.is_empty() => {}
            Op::Map { holder, entry, offset, len, writable } => {
                let holder = self.pick_holder(holder);
                let entry = &self.entries[entry % self.entries.len()];
                let range = fit(entry.data.len() as u64, offset, len);
                let id = self.holders[holder];
                match self.store.map_ref(id, entry.id, range.0, range.1, writable) {
                    Ok(id) => {
                        let data = slice(&entry.data, range);
                        self.regions.push(Region { id, holder, data, writable, promised: false });
                    }
                    Err(error) => self.refuse(error),
                }
            }
            Op::Claim { holder, entry } => {
                let holder = self.pick_holder(holder);
                let n = entry % self.entries.len();
                let old = self.entries[n].id;
                let new = self.store.claim_ref(self.holders[holder], old).expect("it is live");
                self.entries[n].id = new;
                self.entries[n].owner = Some(holder);
                // Only the latest end of a slot is remembered.
                self.gone.retain(|(id, _)| id.index != old.index);
                self.gone.push((old, Error::Consumed));
            }
            _ => unreachable!(),
        }
    }

    fn run_end(&mut self, op: &Op) {
        if self.entries.is_empty() {
            return;
        }
        let (Op::Detach(n) | Op::Drop(n) | Op::Foreign { entry: n, .. }) = *op else {
            unreachable!()
        };
        let n = n % self.entries.len();
        let live = self.live_holders();
        let id = self.entries[n].id;
        let owner = self.entries[n].owner.filter(|owner| live.contains(owner));
        match *op {
            Op::Foreign { holder, region, .. } => {
                let other = self.pick_holder(holder);
                if owner != Some(other) {
                    let dropped = self.store.drop_ref(self.holders[other], id);
                    assert_eq!(dropped, Err(Error::NotOwner));
                }
                if let Some(region) = self.regions.get(region % self.regions.len().max(1))
                    && region.holder != other
                {
                    let freed = self.store.free(self.holders[other], region.id);
                    assert_eq!(freed, Err(Error::NotYours));
                }
            }
            Op::Detach(_) => {
                let Some(owner) = owner else { return };
                match self.store.detach(self.holders[owner], id) {
                    Ok(()) => self.entries[n].owner = None,
                    Err(error) => self.refuse(error),
                }
            }
            _ => {
                let Some(owner) = owner else { return };
                self.store.drop_ref(self.holders[owner], id).expect("it is live");
                self.entries.swap_remove(n);
                self.gone.retain(|(old, _)| old.index != id.index);
                self.gone.push((id, Error::Dropped));
            }
        }
    }

    fn run_pin(&mut self, op: &Op) {
        let (result, data) = match *op {
            Op::Unpin(_) if self.pins.is_empty() => return,
            Op::Unpin(n) => {
                let pin = self.pins.swap_remove(n % self.pins.len());
                self.store.unpin(pin.id).expect("it is live");
                assert!(self.store.unpin(pin.id).is_err(), "unpinned twice");
                return;
            }
            Op::Pin { region, offset, len } if !self.regions.is_empty() => {
                let n = region % self.regions.len();
                let region = &mut self.regions[n];
                region.promised = false;
                let range = fit(region.data.len() as u64, offset, len);
                let holder = self.holders[region.holder];
                let result = self.store.pin(holder, region.id, range.0, range.1);
                (result, slice(&region.data, range))
            }
            Op::PinRef { entry, offset, len } if !self.entries.is_empty() => {
                let entry = &self.entries[entry % self.entries.len()];
                let range = fit(entry.data.len() as u64, offset, len);
                let result = self.store.pin_ref(entry.id, range.0, range.1);
                (result, slice(&entry.data, range))
            }
            _ => return,
        };
        match result {
            Ok(id) => self.pins.push(Pin { id, data }),
            Err(error) => self.refuse(error),
        }
    }

    fn run_stage(&mut self, op: &Op) {
        match *op {
            Op::StageBegin { region, offset, len, seed } if !self.regions.is_empty() => {
                let n = region % self.regions.len();
                let region = &mut self.regions[n];
                let (offset, len) = fit(region.data.len() as u64, offset, len);
                let holder = region.holder;
                match self.store.stage_begin(self.holders[holder], region.id, offset, len) {
                    Ok(id) => {
                        region.promised = false;
                        let step = 1 + u64::from(seed) * 40;
                        let mut left: Vec<(u64, u64)> = (0..len.div_ceil(step))
                            .map(|i| (i * step, step.min(len - i * step)))
                            .collect();
                        // Any order will do; this one is far from ascending.
                        left.sort_by_key(|(at, _)| (at.wrapping_mul(0x9E37_79B9)) & 0xFFFF);
                        let (region, data) = (region.id, bytes(seed, len));
                        self.stages.push(Stage { id, region, holder, offset, data, left });
                    }
                    Err(Error::ReadOnly) => assert!(!region.writable),
                    Err(error) => self.refuse(error),
                }
            }
            _ if self.stages.is_empty() => {}
            Op::StageWrite { stage, pieces } => {
                let n = stage % self.stages.len();
                let stage = &mut self.stages[n];
                let holder = self.holders[stage.holder];
                for _ in 0..pieces {
                    let Some((at, len)) = stage.left.pop() else { break };
                    let source = &stage.data[at as usize..][..len as usize];
                    self.store.stage_write(holder, stage.id, at, source).expect("set aside");
                }
            }
            Op::StageEnd { stage, commit } => {
                let stage = self.stages.swap_remove(stage % self.stages.len());
                self.end_stage(stage, commit);
            }
            _ => {}
        }
    }

    fn end_stage(&mut self, stage: Stage, commit: bool) {
        let holder = self.holders[stage.holder];
        let region = self.regions.iter_mut().find(|region| region.id == stage.region);
        if !commit {
            self.store.stage_abort(holder, stage.id).expect("it is live");
            return;
        }
        match self.store.stage_commit(holder, stage.id) {
            Ok(()) => {
                assert!(stage.left.is_empty(), "committed with bytes missing");
                let region = region.expect("its region is live");
                let place = &mut region.data[stage.offset as usize..][..stage.data.len()];
                place.copy_from_slice(&stage.data);
                return;
            }
            Err(Error::Incomplete { .. }) => assert!(!stage.left.is_empty()),
            Err(Error::Stale { .. }) => assert!(region.is_none()),
            Err(error) => {
                assert!(
                    matches!(error, Error::Pending | Error::OutOf { what: Resource::Versions, .. }),
                    "what was set aside was missing: {error}"
                );
                self.refuse(error);
            }
        }
        self.store.stage_abort(holder, stage.id).expect("it is still there");
    }

    /// Compares every byte and audits the store.
    pub(crate) fn compare(&self) {
        audit(&self.store);
        for region in &self.regions {
            let mut found = vec![0xEE; region.data.len()];
            let holder = self.holders[region.holder];
            self.store.read(holder, region.id, 0, &mut found).expect("it is live");
            assert!(found == region.data, "a region has other bytes");
        }
        for entry in &self.entries {
            let mut found = vec![0xEE; entry.data.len()];
            self.store.read_ref(entry.id, 0, &mut found).expect("it is live");
            assert!(found == entry.data, "a reference has other bytes");
        }
        for pin in &self.pins {
            let mut found = vec![0xEE; pin.data.len()];
            self.store.read_pin(pin.id, 0, &mut found).expect("it is live");
            assert!(found == pin.data, "a pin has other bytes");
        }
        for (id, reason) in &self.gone {
            let found = self.store.ref_len(*id).expect_err("it ended");
            assert!(
                found == *reason || matches!(found, Error::Stale { .. }),
                "ended as {reason:?}, answers {found:?}"
            );
        }
    }

    /// Ends everything, in an order that the seed decides, and asserts that all is home.
    pub(crate) fn wind_up(mut self, order: usize) {
        for (n, region) in std::mem::take(&mut self.regions).into_iter().enumerate() {
            if !(n + order).is_multiple_of(3) {
                self.store.free(self.holders[region.holder], region.id).expect("it is live");
            }
        }
        for pin in std::mem::take(&mut self.pins) {
            self.store.unpin(pin.id).expect("it is live");
        }
        let last = self.pick_holder(0);
        for entry in self.entries.iter().filter(|entry| entry.owner.is_none()) {
            self.store.claim_ref(self.holders[last], entry.id).expect("it is detached");
        }
        self.now += 1;
        for holder in self.live_holders() {
            let now = self.time();
            self.store.holder_leave(self.holders[holder], now).expect("it is live");
            self.store.reclaim(now, 3);
            audit(&self.store);
        }
        self.now += SMALL.grace_ns + 1;
        let now = self.time();
        settle(&mut self.store, now);
        audit(&self.store);
        assert_all_home(&self.store);
        assert_eq!(self.store.stats().holders.in_use, 0);
    }
}
