//! How much memory each operation touches, counted: constant work must be constant.

mod store_common;

use dmrpc_core::memory::{Atomic, Counted, Memory, Touches};
use dmrpc_core::store::{Config, HolderId, Layout, Limits, PAGE_BYTES, RegionId, Store};
use dmrpc_core::time::Instant;
use store_common::{Sparse, assert_all_home, audit, settle};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const CONFIG: Config = Config {
    frames: (64 * GIB / PAGE_BYTES) as u32 + 10_000,
    nodes: 300_000,
    versions: 1_000,
    regions: 1_000,
    entries: 1_000,
    holders: 4,
    pins: 16,
    stages: 4,
    detached_max: 16,
    holds_max: 1_000,
    grace_ns: 0,
    participants: 1,
};

type Pool = Counted<Sparse>;

fn pool() -> Pool {
    Counted::new(Sparse::new(Layout::new(&CONFIG).expect("legal").bytes()), || {})
}

/// A store with one region of `len` bytes, written at its beginning, middle and end.
fn with_region(pool: &Pool, len: u64) -> (Store<&Pool>, HolderId, RegionId) {
    let mut store = Store::format(pool, &CONFIG).expect("it fits");
    let holder = store.holder_join(Limits::NONE).expect("room");
    let region = store.alloc(holder, len).expect("room");
    for page in [0, len / PAGE_BYTES / 2, len / PAGE_BYTES - 1] {
        store.write(holder, region, page * PAGE_BYTES, &[7; 4096]).expect("promised");
    }
    (store, holder, region)
}

/// What an operation touches.
fn touched<T>(pool: &Pool, f: impl FnOnce() -> T) -> (T, Touches) {
    pool.reset();
    let result = f();
    (result, pool.reset())
}

/// What each operation of constant work touches on a region of `len` bytes.
fn constant_work(len: u64) -> Vec<(&'static str, Touches)> {
    let pool = pool();
    let (mut store, holder, region) = with_region(&pool, len);
    let mut rows = Vec::new();
    // Records come from the pool by the batch: that is not what is counted here.
    let first = store.create_ref(holder, region, 0, len).unwrap();
    store.map_ref(holder, first, 0, len, true).unwrap();
    store.pin(holder, region, 0, len).unwrap();
    // The first of each kind takes what was never used, the second what was given back.
    for round in 0..2 {
        let (entry, row) = touched(&pool, || store.create_ref(holder, region, 0, len).unwrap());
        rows.push(("create_ref", row));
        let (mapped, row) = touched(&pool, || store.map_ref(holder, entry, 0, len, true).unwrap());
        rows.push(("map_ref", row));
        let (pin, row) = touched(&pool, || store.pin(holder, region, 0, len).unwrap());
        rows.push(("pin", row));
        let (claimed, row) = touched(&pool, || store.claim_ref(holder, entry).unwrap());
        rows.push(("claim_ref", row));
        rows.push(("unpin", touched(&pool, || store.unpin(pin).unwrap()).1));
        rows.push(("free mapped", touched(&pool, || store.free(holder, mapped).unwrap()).1));
        if round == 0 {
            rows.push(("drop_ref", touched(&pool, || store.drop_ref(holder, claimed).unwrap()).1));
        }
    }
    let ((), free) = touched(&pool, || store.free(holder, region).unwrap());
    // Promises that are left, if any, are two words each to give back.
    assert!(free.loads + free.stores <= 32, "{free:?}");
    rows
}

#[test]
fn references_touch_the_same_at_4_kib_and_at_64_gib() {
    let (small, large) = (constant_work(4 * KIB), constant_work(64 * GIB));
    assert_eq!(small, large);
    for (operation, touches) in large {
        let words = touches.loads + touches.stores;
        assert!(words <= 38 && touches.bulks == 0, "{operation} touches {touches:?}");
    }
}

#[test]
fn references_in_shared_memory_take_few_stores() {
    let config = Config { frames: 64, nodes: 64, participants: 2, ..CONFIG };
    let mut words = vec![0; Layout::new(&config).expect("legal").bytes().div_ceil(8) as usize];
    let pool = Counted::new(Atomic::new(&mut words), || {});
    let mut store = Store::format(&pool, &config).expect("it fits");
    let holder = store.holder_join(Limits::NONE).expect("room");
    let region = store.alloc(holder, PAGE_BYTES).expect("room");
    let stores = |f: &mut dyn FnMut()| {
        pool.reset();
        f();
        pool.reset().stores
    };
    // The first takes records from the pool, the second from the participant's cache.
    for round in 0..2 {
        let (mut entry, mut mapped) = (None, None);
        let made =
            stores(&mut || entry = Some(store.create_ref(holder, region, 0, 9).expect("room")));
        let entry = entry.expect("it was made");
        let taken =
            stores(&mut || mapped = Some(store.map_ref(holder, entry, 0, 9, true).expect("room")));
        let mapped = mapped.expect("it was mapped");
        let freed = stores(&mut || store.free(holder, mapped).expect("it is live"));
        let dropped = stores(&mut || store.drop_ref(holder, entry).expect("it is live"));
        if round == 1 {
            // The log of three words; the shared word's place, progress twice, those words, the
            // shared word. Beside them what a record is filled with, or its link and that its
            // version may be handed over (twice); and that the reference is being ended.
            let all = 6 + 3 + 3 + 1;
            assert_eq!([made, taken], [all + 3, all + 8], "create_ref, map_ref");
            assert_eq!([freed, dropped], [all + 3, all + 4], "free, drop_ref");
        }
    }
}

#[test]
fn alloc_touches_the_same_at_4_kib_and_at_64_gib() {
    let alloc = |len| {
        let pool = pool();
        let mut store = Store::format(&pool, &CONFIG).expect("it fits");
        let holder = store.holder_join(Limits::NONE).expect("room");
        touched(&pool, || store.alloc(holder, len).expect("room")).1
    };
    assert_eq!(alloc(4 * KIB), alloc(64 * GIB));
}

/// Depth of the tree and bytes of a region that has it.
const DEPTHS: [(u64, u64); 4] = [(0, 4 * KIB), (1, 32 * KIB), (2, MIB), (3, GIB)];

#[test]
fn a_first_write_copies_one_node_a_level_and_makes_one_version() {
    for (depth, len) in DEPTHS {
        let pool = pool();
        let (mut store, holder, region) = with_region(&pool, len);
        store.create_ref(holder, region, 0, len).expect("room");
        let before = store.stats();
        let ((), touches) =
            touched(&pool, || store.write(holder, region, 100, &[1; 200]).expect("room"));
        let after = store.stats();
        assert_eq!(after.versions.in_use - before.versions.in_use, 1);
        assert_eq!(after.frames.in_use - before.frames.in_use, 1);
        // A copy of each node on the way, and one chunk to note them in.
        assert_eq!(after.nodes.in_use - before.nodes.in_use, depth + 1);
        // The new version, the node copies, the page round the bytes, and the bytes.
        assert_eq!(touches.bulks, depth + 4);
        assert_eq!(touches.bytes, 48 + depth * 256 + PAGE_BYTES);
        // A version, its place in the family, caches and credit; a stamp, a link and a list item
        // for the frame and for each level.
        assert_eq!((touches.loads, touches.stores), (58 + 7 * depth, 28 + 6 * depth));
        let ((), second) =
            touched(&pool, || store.write(holder, region, 100, &[2; 200]).expect("room"));
        assert_eq!((second.stores, second.bulks, second.bytes), (0, 1, 200));
        audit(&store);
    }
}

#[test]
fn a_later_write_loads_two_words_a_level_and_stores_only_the_bytes() {
    for (depth, len) in DEPTHS {
        let pool = pool();
        let (mut store, holder, region) = with_region(&pool, len);
        let ((), touches) =
            touched(&pool, || store.write(holder, region, 100, &[1; 200]).expect("room"));
        assert_eq!(touches, Touches { loads: 14 + 2 * depth, stores: 0, bytes: 200, bulks: 1 });
        let mut target = [0; 200];
        let ((), touches) =
            touched(&pool, || store.read(holder, region, 100, &mut target).expect("room"));
        assert_eq!(touches, Touches { loads: 10 + depth, stores: 0, bytes: 200, bulks: 1 });
    }
}

#[test]
fn an_operation_touches_the_same_among_many() {
    let pool = pool();
    let (mut store, holder, region) = with_region(&pool, MIB);
    let entry = store.create_ref(holder, region, 0, MIB).expect("room");
    let mut byte = [0];
    let alone = [
        touched(&pool, || store.read(holder, region, 5, &mut byte).expect("live")).1,
        touched(&pool, || store.read_ref(entry, 5, &mut byte).expect("live")).1,
    ];
    for _ in 0..900 {
        store.create_ref(holder, region, 0, MIB).expect("room");
    }
    for _ in 0..80 {
        store.map_ref(holder, entry, 0, MIB, true).expect("room");
    }
    let among_many = [
        touched(&pool, || store.read(holder, region, 5, &mut byte).expect("live")).1,
        touched(&pool, || store.read_ref(entry, 5, &mut byte).expect("live")).1,
    ];
    assert_eq!(alone, among_many);
}

/// The most words that one step of reclamation may touch: 64 entries, each a link, a stamp and
/// what giving it back takes, and the links that were passed on each level above.
const STEP_WORDS_MAX: u64 = 64 * 12 + 5 * 64 * 2 + 64;

#[test]
fn each_step_of_reclamation_is_bounded() {
    let pool = pool();
    let (mut store, holder, region) = with_region(&pool, GIB);
    // Wide and sparse: 2,000 pages in many nodes, shared with a chain of versions.
    for page in 0..2_000u64 {
        let offset = page * 131 % (GIB / PAGE_BYTES) * PAGE_BYTES;
        store.write(holder, region, offset, &[1]).expect("promised");
    }
    let mut entries = Vec::new();
    for round in 0..20u64 {
        entries.push(store.create_ref(holder, region, 0, GIB).expect("room"));
        for page in 0..100u64 {
            let offset = (page * 7 + round) * 131 % (GIB / PAGE_BYTES) * PAGE_BYTES;
            store.write(holder, region, offset, &[2]).expect("room");
        }
    }
    let stage = store.stage_begin(holder, region, 1, 8 * MIB - 1).expect("room");
    store.stage_write(holder, stage, 0, &vec![3; 8 << 20][1..]).expect("set aside");
    let (left, touches) = touched(&pool, || store.holder_leave(holder, Instant::ZERO));
    left.expect("it is live");
    assert!(touches.loads + touches.stores < 20);
    let mut steps = 0;
    loop {
        let (done, touches) = touched(&pool, || store.reclaim(Instant::ZERO, 1));
        assert!(touches.loads + touches.stores <= STEP_WORDS_MAX, "{touches:?}");
        if done == 0 {
            break;
        }
        steps += 1;
    }
    assert!(steps > 1_000, "only {steps} steps");
    settle(&mut store, Instant::ZERO);
    assert_all_home(&store);
    audit(&store);
}

#[test]
fn a_64_gib_pool_is_formatted_by_touching_its_first_pages() {
    let pool = pool();
    let ((), touches) = touched(&pool, || assert!(Store::format(&pool, &CONFIG).is_ok()));
    assert!(touches.stores < 20 && touches.bytes <= 2 * PAGE_BYTES, "{touches:?}");
    assert!(pool.len() > 64 * GIB);
}
