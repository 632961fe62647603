//! Flush mode on hosts that keep every line until it is flushed: the memory node owns the store,
//! and participants read and write pages where they are. Each flush that is left out must be
//! noticed.

use std::collections::HashMap;

use dmrpc_core::memory::{Atomic, Handed, Handover, Line, Memory, Omitting, Stale};
use dmrpc_core::pen::{KnownPage, KnownRegion, PLACES_MAX, Pens, RegionOf, Unknown};
use dmrpc_core::store::{Config, EntryId, HolderId, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_core::time::Instant;

const POOL_BYTES: u64 = 2 << 20;
const REGION_BYTES: u64 = 9 * PAGE_BYTES + 1000;
/// As many lines as the pool has: nothing is ever pushed out by accident.
const LINES: usize = (POOL_BYTES / 64) as usize;

type Host<'a> = Omitting<Stale<'a, &'a Atomic<'a>>>;

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A mapping that only slices are made of: where its bytes are, and what they should be.
struct Slices {
    mapped: RegionId,
    runs: Vec<(Option<u64>, u64)>,
    expected: Vec<u8>,
}

/// A participant: its host's view of the pool, and what it holds, with the bytes it should find.
struct Participant<'a> {
    host: &'a Host<'a>,
    pens: Pens<'a, &'a Host<'a>>,
    holder: HolderId,
    session: u64,
    regions: Vec<(RegionId, Vec<u8>)>,
    lent: Vec<Slices>,
}

impl Participant<'_> {
    fn of(&self, region: RegionId) -> RegionOf {
        (self.session, region.raw())
    }

    /// What the memory node answers to a question; the mailboxes between are the rings.
    fn ask(
        &mut self,
        store: &mut Store<Handed<&Host<'_>>>,
        region: RegionId,
        unknown: Unknown,
        with_pen: bool,
    ) {
        let (mut at, end) = (unknown.offset, unknown.offset + unknown.length);
        let (mut words, mut extent) = (Vec::new(), (0, 0));
        while at < end && words.len() < PLACES_MAX {
            if with_pen {
                while store.own_page(self.holder, region, at).is_err() {
                    store.reclaim(Instant::ZERO, 64);
                }
            }
            let page = store.page_place(self.holder, region, at).expect("within");
            words.push(page.place.unwrap_or(0) | u64::from(page.is_own));
            (extent, at) = ((page.base, page.length), at + page.bytes);
        }
        self.pens.learn(self.of(region), unknown.offset, extent, words.into_iter());
    }

    fn read(&mut self, store: &mut Store<Handed<&Host<'_>>>, index: usize) -> bool {
        let (region, expected) = self.regions[index].clone();
        let mut found = vec![0; expected.len()];
        while let Err(unknown) = self.pens.read(self.of(region), 0, &mut found) {
            self.ask(store, region, unknown, false);
        }
        found == expected
    }

    /// Maps what a reference refers to, for this alone, and reads it where it is; `take` ends the
    /// reference before that.
    fn read_ref(
        &mut self,
        store: &mut Store<Handed<&Host<'_>>>,
        (entry, take): (EntryId, bool),
        (offset, expected): (u64, &[u8]),
    ) -> bool {
        let length = offset + expected.len() as u64;
        let mapped = store.map_ref(self.holder, entry, 0, length, true).expect("room");
        let all = Unknown { offset, length: expected.len() as u64 };
        self.ask(store, mapped, all, false);
        if take {
            let own = store.claim_ref(self.holder, entry).expect("there");
            store.drop_ref(self.holder, own).expect("its own");
        }
        let mut found = vec![0; expected.len()];
        while let Err(unknown) = self.pens.read(self.of(mapped), offset, &mut found) {
            self.ask(store, mapped, unknown, false);
        }
        self.pens.forget(self.of(mapped));
        store.free(self.holder, mapped).expect("its own");
        found == expected
    }

    /// Maps what a reference refers to, and finds out where it is.
    fn lend(&mut self, store: &mut Store<Handed<&Host<'_>>>, entry: EntryId, expected: Vec<u8>) {
        let length = expected.len() as u64;
        let mapped = store.map_ref(self.holder, entry, 0, length, true).expect("room");
        let (mut runs, mut offset) = (Vec::new(), 0);
        while let Err(unknown) = self.pens.runs(self.of(mapped), offset, length - offset, {
            |place, bytes| runs.push((place, bytes))
        }) {
            offset = unknown.offset;
            self.ask(store, mapped, unknown, false);
        }
        self.lent.push(Slices { mapped, runs, expected });
    }

    /// Looks at slices for the last time.
    fn end_lent(&mut self, store: &mut Store<Handed<&Host<'_>>>, index: usize) -> bool {
        let Slices { mapped, runs, expected } = self.lent.swap_remove(index);
        let (mut found, mut at) = (vec![0; expected.len()], 0);
        for (place, bytes) in runs {
            let target = &mut found[at..at + bytes as usize];
            if let Some(place) = place {
                self.host.read(place, target);
            }
            at += bytes as usize;
        }
        self.pens.forget(self.of(mapped));
        store.free(self.holder, mapped).expect("its own");
        found == expected
    }

    /// Writes to pages where they are, by slices of them, one page at a time.
    fn view(
        &mut self,
        store: &mut Store<Handed<&Host<'_>>>,
        index: usize,
        (offset, bytes): (u64, &[u8]),
    ) {
        let region = self.regions[index].0;
        let (mut at, end) = (offset, offset + bytes.len() as u64);
        while at < end {
            let (place, room) = match self.pens.own_place(self.of(region), at) {
                Ok(Some(own)) => own,
                Ok(None) => {
                    self.ask(store, region, Unknown { offset: at, length: 1 }, true);
                    continue;
                }
                Err(unknown) => {
                    self.ask(store, region, unknown, false);
                    continue;
                }
            };
            let part = room.min(end - at);
            self.host.write(place, &bytes[(at - offset) as usize..][..part as usize]);
            self.pens.give_back(place, part);
            at += part;
        }
        self.regions[index].1[offset as usize..end as usize].copy_from_slice(bytes);
    }

    fn write(
        &mut self,
        store: &mut Store<Handed<&Host<'_>>>,
        index: usize,
        offset: u64,
        bytes: &[u8],
    ) {
        let region = self.regions[index].0;
        while let Err(unknown) = self.pens.write(self.of(region), offset, bytes) {
            self.ask(store, region, unknown, true);
        }
        self.regions[index].1[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

/// A life of a memory node and two participants; false as soon as somebody finds wrong bytes.
fn life(seed: u64, omitted: Option<Handover>) -> bool {
    let mut words = vec![0; POOL_BYTES as usize / 8];
    let pool = Atomic::new(&mut words);
    let mut lines = [vec![Line::EMPTY; LINES], vec![Line::EMPTY; LINES], vec![Line::EMPTY; LINES]];
    let [own_lines, one_lines, two_lines] = &mut lines;
    let host = |lines| Omitting::new(Stale::new(&pool, lines), omitted);
    let hosts = [host(own_lines), host(one_lines), host(two_lines)];
    let config = Config { participants: 1, ..Config::for_pool_bytes(POOL_BYTES) };
    let mut store = Store::format(Handed(&hosts[0]), &config).expect("room");
    let mut tables: [_; 2] =
        std::array::from_fn(|_| ([KnownRegion::EMPTY; 4], [KnownPage::EMPTY; 64]));
    let mut participants = Vec::new();
    for ((host, table), session) in hosts[1..].iter().zip(&mut tables).zip(1..) {
        let holder = store.holder_join(Limits::NONE).expect("room");
        let pens = Pens::new(host, &mut table.0, &mut table.1);
        let (regions, lent) = (Vec::new(), Vec::new());
        participants.push(Participant { host, pens, holder, session, regions, lent });
    }
    let mut random = Random(seed);
    let mut entries: HashMap<EntryId, (usize, Vec<u8>)> = HashMap::new();
    for _ in 0..400 {
        let one = random.below(2) as usize;
        if !step(&mut store, &mut participants, one, &mut entries, &mut random) {
            return false;
        }
        store.reclaim(Instant::ZERO, 64);
    }
    store.check(&mut vec![0; store.check_scratch_bytes()]).expect("in order");
    true
}

fn step(
    store: &mut Store<Handed<&Host<'_>>>,
    participants: &mut [Participant<'_>],
    one: usize,
    entries: &mut HashMap<EntryId, (usize, Vec<u8>)>,
    random: &mut Random,
) -> bool {
    let me = &mut participants[one];
    let count = me.regions.len() as u64;
    let any = |random: &mut Random| random.below(count) as usize;
    let entry_of = |random: &mut Random, entries: &HashMap<EntryId, (usize, Vec<u8>)>| {
        let mut keys: Vec<_> = entries.keys().copied().collect();
        keys.sort_by_key(|entry| (entry.index, entry.generation));
        keys[random.below(keys.len() as u64) as usize]
    };
    match random.below(15) {
        0 if count < 6 => {
            if let Ok(region) = store.alloc(me.holder, REGION_BYTES) {
                me.regions.push((region, vec![0; REGION_BYTES as usize]));
            }
            true
        }
        1 if count < 6 && !entries.is_empty() => {
            // Maps what anybody made a reference to, from a place within.
            let entry = entry_of(random, entries);
            let offset = random.below(2 * PAGE_BYTES);
            let bytes = entries[&entry].1[offset as usize..].to_vec();
            let mapped = store.map_ref(me.holder, entry, offset, bytes.len() as u64, true);
            me.regions.push((mapped.expect("room"), bytes));
            me.read(store, count as usize)
        }
        2 if count != 0 && entries.len() < 6 => {
            let (region, bytes) = me.regions[any(random)].clone();
            if bytes.len() < 4 * PAGE_BYTES as usize {
                return true;
            }
            me.pens.forget(me.of(region));
            let entry = store.create_ref(me.holder, region, 0, bytes.len() as u64);
            entries.insert(entry.expect("room"), (one, bytes));
            true
        }
        3 if count > 1 => {
            let (region, _) = me.regions.swap_remove(any(random));
            me.pens.forget(me.of(region));
            store.free(me.holder, region).expect("its own");
            true
        }
        4 if !entries.is_empty() => {
            let owned: Vec<_> =
                entries.iter().filter(|(_, (owner, _))| *owner == one).map(|(id, _)| *id).collect();
            if let Some(entry) = owned.iter().min_by_key(|entry| (entry.index, entry.generation)) {
                store.drop_ref(me.holder, *entry).expect("its own");
                entries.remove(entry);
            }
            true
        }
        5 if count != 0 => {
            // By a message: the memory node reads and writes pages itself.
            let index = any(random);
            let (region, mut bytes) = me.regions[index].clone();
            me.pens.forget(me.of(region));
            let at = random.below(bytes.len() as u64 - 100) as usize;
            let byte = [random.below(256) as u8; 100];
            if store.write(me.holder, region, at as u64, &byte).is_ok() {
                bytes[at..at + 100].copy_from_slice(&byte);
            }
            let mut found = vec![0; bytes.len()];
            store.read(me.holder, region, 0, &mut found).expect("its own");
            let is_right = found == bytes;
            me.regions[index].1 = bytes;
            is_right
        }
        6..=7 if count != 0 => {
            let index = any(random);
            let length = 1 + random.below(3 * PAGE_BYTES).min(me.regions[index].1.len() as u64 - 1);
            let offset = random.below(me.regions[index].1.len() as u64 - length + 1);
            let bytes = vec![random.below(256) as u8; length as usize];
            me.write(store, index, offset, &bytes);
            true
        }
        8 if entries.len() < 6 => {
            // `put`: a region for this alone.
            let length = 4 * PAGE_BYTES + random.below(2 * PAGE_BYTES);
            let bytes = vec![random.below(256) as u8; length as usize];
            let Ok(region) = store.alloc(me.holder, length) else { return true };
            me.regions.push((region, bytes.clone()));
            me.write(store, count as usize, 0, &bytes);
            me.regions.pop();
            me.pens.forget(me.of(region));
            let entry = store.create_ref(me.holder, region, 0, length).expect("room");
            store.free(me.holder, region).expect("its own");
            entries.insert(entry, (one, bytes));
            true
        }
        9 if !entries.is_empty() => {
            // `read_ref` and `take`.
            let entry = entry_of(random, entries);
            let bytes = &entries[&entry].1;
            let offset = random.below(bytes.len() as u64 - 1);
            let take = random.below(2) == 0;
            let range = (offset, &bytes[offset as usize..]);
            let is_right = me.read_ref(store, (entry, take), range);
            if take {
                entries.remove(&entry);
            }
            is_right
        }
        10 if !entries.is_empty() && me.lent.len() < 4 => {
            let entry = entry_of(random, entries);
            me.lend(store, entry, entries[&entry].1.clone());
            true
        }
        11 if !me.lent.is_empty() => {
            let index = random.below(me.lent.len() as u64) as usize;
            me.end_lent(store, index)
        }
        12 if count != 0 => {
            let index = any(random);
            let length = 1 + random.below(3 * PAGE_BYTES).min(me.regions[index].1.len() as u64 - 1);
            let offset = random.below(me.regions[index].1.len() as u64 - length + 1);
            me.view(store, index, (offset, &vec![random.below(256) as u8; length as usize]));
            true
        }
        _ if count != 0 => {
            let index = any(random);
            me.read(store, index)
        }
        _ => true,
    }
}

#[test]
fn with_all_flushes_everybody_finds_the_right_bytes() {
    for seed in 1..40 {
        assert!(life(seed * 7919, None), "seed {seed}");
    }
}

#[test]
fn each_flush_that_is_left_out_is_noticed() {
    for omitted in Handover::ALL {
        let noticed = (1..40).any(|seed| !life(seed * 7919, Some(omitted)));
        assert!(noticed, "nobody misses the flush for {omitted:?}");
    }
}

/// The words of a pool are the memory node's: participants store none, and it flushes none.
#[test]
fn participants_write_pages_and_nothing_else() {
    let mut words = vec![0; POOL_BYTES as usize / 8];
    let pool = Atomic::new(&mut words);
    let mut lines = vec![Line::EMPTY; LINES];
    let mut tables = ([KnownRegion::EMPTY; 4], [KnownPage::EMPTY; 64]);
    let mut pens = Pens::new(Stale::new(&pool, &mut lines), &mut tables.0, &mut tables.1);
    pens.learn((1, 1), 0, (0, 9000), [(8 * PAGE_BYTES) | 1, 9 * PAGE_BYTES].into_iter());
    assert_eq!(pens.write((1, 1), 0, &[7; 4096]), Ok(()));
    let beyond = Unknown { offset: 8999, length: 2 };
    assert_eq!(pens.read((1, 1), 8999, &mut [0; 2]), Err(beyond));
    let unknown = Unknown { offset: PAGE_BYTES, length: 4 };
    assert_eq!(pens.write((1, 1), PAGE_BYTES - 4, &[7; 8]), Err(unknown));
    // A place that is none, from a memory node gone mad, is not used.
    pens.learn((1, 1), 0, (0, 9000), [POOL_BYTES | 1, (77 << 12) | 64].into_iter());
    assert!(pens.write((1, 1), 0, &[7; 4]).is_err());
    assert!(pens.read((1, 1), PAGE_BYTES, &mut [0]).is_err());
    pens.learn((1, 1), 0, (0, 9000), [1].into_iter());
    assert!(pens.own_place((1, 1), 0).is_err(), "the store's first page is nobody's");
    assert!(pens.write((1, 1), 0, &[7; 4]).is_err());
    let changed = (0..POOL_BYTES / 8).filter(|at| pool.load_u64(8 * at) != 0).count();
    assert_eq!(changed as u64, PAGE_BYTES / 8);
}
