//! Who touches which cache line: what a participant does for itself alone touches no line that
//! another one writes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use dmrpc_core::memory::{Atomic, LINE_BYTES, Memory};
use dmrpc_core::store::{Config, HolderId, Limits, PAGE_BYTES, RegionId, Store};

const POOL_BYTES: u64 = 32 << 20;
/// As many as the smallest batch of records lasts for.
const ROUNDS: u64 = 4;

/// Memory that notes which participant touches and which one writes each line.
struct Recorder<'m> {
    memory: Atomic<'m>,
    /// Who is at work.
    who: Cell<usize>,
    touched: RefCell<[HashSet<u64>; 3]>,
    written: RefCell<[HashSet<u64>; 3]>,
}

impl<'m> Recorder<'m> {
    fn new(words: &'m mut [u64]) -> Self {
        let (touched, written) = (RefCell::default(), RefCell::default());
        Self { memory: Atomic::new(words), who: Cell::new(0), touched, written }
    }

    fn note(&self, offset: u64, len: u64, writes: bool) {
        for line in offset / LINE_BYTES..(offset + len).div_ceil(LINE_BYTES) {
            self.touched.borrow_mut()[self.who.get()].insert(line);
            if writes {
                self.written.borrow_mut()[self.who.get()].insert(line);
            }
        }
    }

    /// Starts anew.
    fn forget(&self) {
        self.touched.borrow_mut().iter_mut().for_each(HashSet::clear);
        self.written.borrow_mut().iter_mut().for_each(HashSet::clear);
    }

    /// The lines that `one` touched and another wrote.
    fn shared(&self, one: usize) -> Vec<u64> {
        let (touched, written) = (self.touched.borrow(), self.written.borrow());
        let others = (0..3).filter(|other| *other != one);
        let mut lines: Vec<u64> = others
            .flat_map(|other| touched[one].intersection(&written[other]).copied())
            .map(|line| line * LINE_BYTES)
            .collect();
        lines.sort_unstable();
        lines
    }
}

impl Memory for Recorder<'_> {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn shared(&self) -> bool {
        true
    }

    fn load_u32(&self, offset: u64) -> u32 {
        self.note(offset, 4, false);
        self.memory.load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> u64 {
        self.note(offset, 8, false);
        self.memory.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) {
        self.note(offset, 4, true);
        self.memory.store_u32(offset, value);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.note(offset, 8, true);
        self.memory.store_u64(offset, value);
    }

    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.note(offset, 8, true);
        self.memory.compare_exchange_u64(offset, current, new)
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        self.note(offset, target.len() as u64, false);
        self.memory.read(offset, target);
    }

    fn write(&self, offset: u64, source: &[u8]) {
        self.note(offset, source.len() as u64, true);
        self.memory.write(offset, source);
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        self.note(source, len, false);
        self.note(target, len, true);
        self.memory.copy(source, target, len);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.note(offset, len, true);
        self.memory.fill_zero(offset, len);
    }

    fn flush(&self, _offset: u64, _len: u64) {}

    fn fence(&self) {
        self.memory.fence();
    }
}

type Handle<'r, 'm> = Store<&'r Recorder<'m>>;

/// What one does for itself: each operation but those that leave a version to the reclaimer, which
/// are the end of a region, and that of a reference whose region has been written to since.
fn work(store: &mut Handle<'_, '_>, holder: HolderId, regions: &mut Vec<RegionId>, round: u64) {
    let region = store.alloc(holder, 3 * PAGE_BYTES).expect("room");
    store.write(holder, region, 7, &[1; 5000]).expect("room");
    let short = store.create_ref(holder, region, 0, 3 * PAGE_BYTES).expect("room");
    store.drop_ref(holder, short).expect("its own");
    let entry = store.create_ref(holder, region, 0, 3 * PAGE_BYTES).expect("room");
    // The first write to what is referred to makes a version and copies the page.
    store.write(holder, region, round, &[2; 10]).expect("room");
    store.write(holder, region, round + 8, &[3; 10]).expect("room");
    let mut bytes = [0; 6000];
    store.read(holder, region, 0, &mut bytes).expect("within");
    store.read_ref(entry, 0, &mut bytes).expect("within");
    let mapped = store.map_ref(holder, entry, 0, PAGE_BYTES, true).expect("room");
    store.read(holder, mapped, 0, &mut bytes[..100]).expect("within");
    let pin = store.pin_ref(entry, 0, PAGE_BYTES).expect("room");
    store.unpin(pin).expect("once");
    regions.extend([region, mapped]);
}

#[test]
fn private_work_touches_no_line_that_another_writes() {
    let mut words = vec![0; POOL_BYTES as usize / 8];
    let recorder = Recorder::new(&mut words);
    // Large enough for whole batches of everything.
    let most = 64 * 16 * 4;
    let config = Config {
        participants: 4,
        nodes: most,
        versions: most,
        regions: most,
        entries: most,
        holders: most,
        pins: most,
        ..Config::for_pool_bytes(POOL_BYTES / 2)
    };
    let mut stores = vec![Store::format(&recorder, &config).expect("room")];
    for participant in 1..3 {
        stores.push(Store::attach(&recorder, participant).expect("free"));
    }
    let holders: Vec<_> =
        stores.iter_mut().map(|store| store.holder_join(Limits::NONE).expect("room")).collect();
    let mut regions: HashMap<usize, Vec<RegionId>> = HashMap::new();
    let mut round = |who: usize, number: u64, stores: &mut Vec<Handle<'_, '_>>| {
        recorder.who.set(who);
        work(&mut stores[who], holders[who], regions.entry(who).or_default(), number);
    };
    // Each takes its batches and numbers.
    for who in 0..3 {
        round(who, 0, &mut stores);
    }
    recorder.forget();
    for number in 1..ROUNDS {
        for who in 0..3 {
            round(who, number, &mut stores);
        }
    }
    for who in 0..3 {
        let lines = recorder.shared(who);
        assert!(lines.is_empty(), "participant {who} shares the lines at {lines:x?}");
        assert!(recorder.touched.borrow()[who].len() > 300, "it did work");
    }
    // What does share is seen: the end of a region goes to the reclaimer's stack.
    for who in 1..3 {
        recorder.who.set(who);
        for region in &regions[&who] {
            stores[who].free(holders[who], *region).expect("its own");
        }
    }
    assert!(!recorder.shared(1).is_empty(), "the recorder sees nothing");
}
