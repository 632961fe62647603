//! Sequences of operations on the page store, compared with plain bytes.

use std::cell::RefCell;

use dmrpc_core::memory::Plain;
use dmrpc_core::store::{
    Config, EntryId, Error, HolderId, Layout, Limits, PinId, RegionId, StageId, Store,
};
use dmrpc_core::time::Instant;

use crate::bytes::Choices;

const PAGE: u64 = 4096;

thread_local! {
    static POOL: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Something with bytes, and who owns it.
struct Thing<T> {
    owner: usize,
    id: T,
    bytes: Vec<u8>,
}

struct World<'m> {
    store: Store<Plain<'m>>,
    now: u64,
    holders: [HolderId; 2],
    regions: Vec<Thing<RegionId>>,
    entries: Vec<Thing<EntryId>>,
    pins: Vec<Thing<PinId>>,
    /// A staged write: what it will write, and where.
    stage: Option<(Thing<StageId>, RegionId, usize)>,
}

/// Does what `data` says.
pub fn run(data: &[u8]) {
    let mut config = Config::for_pool_bytes(1 << 20);
    config.frames = 100;
    config.regions = 8;
    config.entries = 8;
    config.pins = 4;
    config.versions = 12;
    POOL.with_borrow_mut(|words| {
        let bytes = Layout::new(&config).expect("a configuration").bytes();
        words.resize(bytes.div_ceil(8) as usize, !0);
        let mut store = Store::format(Plain::new(words), &config).expect("a pool");
        let mut join = || store.holder_join(Limits::NONE).expect("a holder");
        let holders = [join(), join()];
        let mut world = World {
            store,
            now: 0,
            holders,
            regions: Vec::new(),
            entries: Vec::new(),
            pins: Vec::new(),
            stage: None,
        };
        let mut choices = Choices::new(data);
        let mut count = 0;
        while !choices.is_empty() {
            world.act(&mut choices);
            count += 1;
            if count % 32 == 0 {
                world.audit();
            }
        }
        world.audit();
        world.compare_all();
        world.end();
    });
}

/// What may be wrong with an operation on things that exist.
fn shortage(error: Error) {
    assert!(matches!(error, Error::OutOf { .. } | Error::Pending), "{error} ({error:?})");
}

/// A range within so many bytes.
fn range(choices: &mut Choices<'_>, length: usize) -> (usize, usize) {
    let offset = usize::from(choices.u16()) * 5 % length;
    let offset = if choices.below(2) == 0 { offset & !4095 } else { offset };
    let rest = length - offset;
    (offset, [rest, 1, 1 + usize::from(choices.u16()) % rest, rest.min(4096)][choices.below(4)])
}

impl World<'_> {
    fn act(&mut self, choices: &mut Choices<'_>) {
        match choices.below(16) {
            0 | 1 => self.alloc(choices),
            2..6 => self.write(choices),
            6 => self.create(choices),
            7 => self.map(choices),
            8 => self.claim_or_detach(choices),
            9 => self.pin(choices),
            10 => self.free(choices),
            11 => self.drop_one(choices),
            12 => self.stage(choices),
            13 => self.read(choices),
            14 => {
                self.now += u64::from(choices.u16());
                self.store.reclaim(Instant::from_nanos(self.now), choices.u8().into());
            }
            _ => self.leave(choices),
        }
    }

    fn audit(&self) {
        let mut scratch = vec![0; self.store.check_scratch_bytes()];
        self.store.check(&mut scratch).expect("a sound store");
    }

    fn alloc(&mut self, choices: &mut Choices<'_>) {
        let owner = choices.below(2);
        let length = match choices.below(3) {
            0 => 1 + u64::from(choices.u16()) % PAGE,
            1 => 1 + u64::from(choices.u16()),
            _ => PAGE * (1 + choices.below(80) as u64),
        };
        match self.store.alloc(self.holders[owner], length) {
            Ok(id) => self.regions.push(Thing { owner, id, bytes: vec![0; length as usize] }),
            Err(error) => shortage(error),
        }
    }

    fn write(&mut self, choices: &mut Choices<'_>) {
        if self.regions.is_empty() {
            return;
        }
        let at = choices.below(self.regions.len());
        let region = &mut self.regions[at];
        let (offset, length) = range(choices, region.bytes.len());
        let bytes = vec![choices.u8(); length];
        match self.store.write(self.holders[region.owner], region.id, offset as u64, &bytes) {
            Ok(()) => region.bytes[offset..offset + length].copy_from_slice(&bytes),
            Err(error) => shortage(error),
        }
        let stranger = self.holders[1 - region.owner];
        let refused = self.store.write(stranger, region.id, offset as u64, &bytes);
        assert_eq!(refused, Err(Error::NotYours));
    }

    fn read(&mut self, choices: &mut Choices<'_>) {
        if self.regions.is_empty() {
            return;
        }
        let region = &self.regions[choices.below(self.regions.len())];
        let (offset, length) = range(choices, region.bytes.len());
        let mut out = vec![0xEE; length];
        self.store
            .read(self.holders[region.owner], region.id, offset as u64, &mut out)
            .expect("a region that is there");
        assert!(out == region.bytes[offset..offset + length], "a region's bytes");
    }

    fn create(&mut self, choices: &mut Choices<'_>) {
        if self.regions.is_empty() {
            return;
        }
        let region = &self.regions[choices.below(self.regions.len())];
        let (offset, length) = range(choices, region.bytes.len());
        let holder = self.holders[region.owner];
        match self.store.create_ref(holder, region.id, offset as u64, length as u64) {
            Ok(id) => {
                let bytes = region.bytes[offset..offset + length].to_vec();
                self.entries.push(Thing { owner: region.owner, id, bytes });
            }
            Err(error) => shortage(error),
        }
    }

    fn map(&mut self, choices: &mut Choices<'_>) {
        if self.entries.is_empty() {
            return;
        }
        let entry = &self.entries[choices.below(self.entries.len())];
        let (offset, length) = range(choices, entry.bytes.len());
        let owner = choices.below(2);
        let (start, bytes) = (offset as u64, length as u64);
        match self.store.map_ref(self.holders[owner], entry.id, start, bytes, true) {
            Ok(id) => {
                let bytes = entry.bytes[offset..offset + length].to_vec();
                self.regions.push(Thing { owner, id, bytes });
            }
            Err(error) => shortage(error),
        }
    }

    fn claim_or_detach(&mut self, choices: &mut Choices<'_>) {
        if self.entries.is_empty() {
            return;
        }
        let at = choices.below(self.entries.len());
        let entry = &mut self.entries[at];
        let owner = choices.below(2);
        if choices.below(3) == 0 {
            match self.store.detach(self.holders[entry.owner % 2], entry.id) {
                Ok(()) => entry.owner = 2 + entry.owner % 2,
                Err(error) => assert!(
                    error == Error::NotOwner && entry.owner >= 2
                        || matches!(error, Error::OutOf { .. }),
                    "{error:?}"
                ),
            }
            return;
        }
        let before = entry.id;
        entry.id = self.store.claim_ref(self.holders[owner], before).expect("it is there");
        entry.owner = owner;
        assert_eq!(self.store.ref_len(before), Err(Error::Consumed));
    }

    fn pin(&mut self, choices: &mut Choices<'_>) {
        if choices.below(2) == 0 || self.regions.is_empty() {
            if let Some(pin) = self.pins.pop() {
                let mut out = vec![0xEE; pin.bytes.len()];
                self.store.read_pin(pin.id, 0, &mut out).expect("a pin");
                assert!(out == pin.bytes, "a pin's bytes");
                self.store.unpin(pin.id).expect("a pin");
            }
            return;
        }
        let region = &self.regions[choices.below(self.regions.len())];
        let (offset, length) = range(choices, region.bytes.len());
        let holder = self.holders[region.owner];
        match self.store.pin(holder, region.id, offset as u64, length as u64) {
            Ok(id) => {
                let bytes = region.bytes[offset..offset + length].to_vec();
                self.pins.push(Thing { owner: region.owner, id, bytes });
            }
            Err(error) => shortage(error),
        }
    }

    fn free(&mut self, choices: &mut Choices<'_>) {
        if self.regions.is_empty() {
            return;
        }
        let at = choices.below(self.regions.len());
        let region = self.regions.swap_remove(at);
        let holder = self.holders[region.owner];
        self.store.free(holder, region.id).expect("a region that is there");
        assert!(matches!(self.store.free(holder, region.id), Err(Error::Stale { .. })));
    }

    fn drop_one(&mut self, choices: &mut Choices<'_>) {
        if self.entries.is_empty() {
            return;
        }
        let at = choices.below(self.entries.len());
        let entry = &self.entries[at];
        match self.store.drop_ref(self.holders[entry.owner % 2], entry.id) {
            Ok(()) => {
                assert_eq!(self.store.ref_len(entry.id), Err(Error::Dropped));
                self.entries.swap_remove(at);
            }
            Err(error) => assert!(error == Error::NotOwner && entry.owner >= 2, "{error:?}"),
        }
    }

    /// A staged write: begun, and some time later committed or aborted.
    fn stage(&mut self, choices: &mut Choices<'_>) {
        if let Some((stage, region, offset)) = self.stage.take() {
            return self.end_stage(stage, region, offset, choices.below(3) > 0);
        }
        if self.regions.is_empty() {
            return;
        }
        let region = &self.regions[choices.below(self.regions.len())];
        let (offset, length) = range(choices, region.bytes.len());
        let holder = self.holders[region.owner];
        match self.store.stage_begin(holder, region.id, offset as u64, length as u64) {
            Ok(id) => {
                let bytes = vec![choices.u8(); length];
                self.stage = Some((Thing { owner: region.owner, id, bytes }, region.id, offset));
            }
            Err(error) => shortage(error),
        }
    }

    fn end_stage(&mut self, stage: Thing<StageId>, region: RegionId, offset: usize, commit: bool) {
        let Thing { owner, id, bytes } = stage;
        let holder = self.holders[owner];
        // Backwards, in pieces that fit no page.
        let mut end = bytes.len();
        while end > 0 {
            let start = end.saturating_sub(1000);
            let piece = &bytes[start..end];
            self.store.stage_write(holder, id, start as u64, piece).expect("a staged write");
            end = start;
        }
        if !commit {
            return self.store.stage_abort(holder, id).expect("a staged write");
        }
        let target = self.regions.iter_mut().find(|thing| thing.id == region);
        match (self.store.stage_commit(holder, id), target) {
            (Ok(()), Some(region)) => {
                region.bytes[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            (Ok(()), None) => panic!("a write to a region that is gone"),
            (Err(error), target) => {
                let gone = target.is_none() && matches!(error, Error::Stale { .. });
                assert!(gone || matches!(error, Error::OutOf { .. } | Error::Pending), "{error:?}");
                self.store.stage_abort(holder, id).expect("a staged write");
            }
        }
    }

    /// A holder goes, with all that it owns, and another comes.
    fn leave(&mut self, choices: &mut Choices<'_>) {
        if choices.below(4) > 0 {
            return;
        }
        let owner = choices.below(2);
        let now = Instant::from_nanos(self.now);
        self.store.holder_leave(self.holders[owner], now).expect("a holder");
        while self.store.reclaim(now, 1000) == 1000 {}
        // Past the grace, so that nothing of it is left.
        self.now += self.store.config().grace_ns;
        while self.store.reclaim(Instant::from_nanos(self.now), 1000) == 1000 {}
        self.regions.retain(|region| region.owner != owner);
        for entry in self.entries.extract_if(.., |entry| entry.owner == owner) {
            let ended = self.store.ref_len(entry.id);
            assert_eq!(ended, Err(Error::Expired));
        }
        self.stage.take_if(|(stage, ..)| stage.owner == owner);
        self.holders[owner] = self.store.holder_join(Limits::NONE).expect("a holder");
    }

    fn compare_all(&self) {
        for region in &self.regions {
            let mut out = vec![0xEE; region.bytes.len()];
            let holder = self.holders[region.owner];
            self.store.read(holder, region.id, 0, &mut out).expect("a region that is there");
            assert!(out == region.bytes, "a region's bytes");
        }
        for entry in &self.entries {
            let mut out = vec![0xEE; entry.bytes.len()];
            self.store.read_ref(entry.id, 0, &mut out).expect("a reference that is there");
            assert!(out == entry.bytes, "a reference's bytes");
        }
    }

    /// Everything is given back, and nothing is left.
    fn end(mut self) {
        for entry in std::mem::take(&mut self.entries) {
            let own = self.store.claim_ref(self.holders[0], entry.id).expect("it is there");
            self.store.drop_ref(self.holders[0], own).expect("its owner's");
        }
        for pin in std::mem::take(&mut self.pins) {
            self.store.unpin(pin.id).expect("a pin");
        }
        for holder in self.holders {
            self.store.holder_leave(holder, Instant::from_nanos(self.now)).expect("a holder");
        }
        self.now += self.store.config().grace_ns;
        for _ in 0..2 {
            while self.store.reclaim(Instant::from_nanos(self.now), 1000) == 1000 {}
            self.now += self.store.config().grace_ns;
        }
        self.audit();
        let stats = self.store.stats();
        let all = [
            stats.frames,
            stats.nodes,
            stats.versions,
            stats.regions,
            stats.entries,
            stats.holders,
            stats.pins,
            stats.stages,
        ];
        assert!(all.iter().all(|usage| (usage.in_use, usage.reserved) == (0, 0)), "{stats:?}");
    }
}
