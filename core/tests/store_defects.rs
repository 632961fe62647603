//! One test for each defect that the published system has, and for each promise of the store.

mod store_common;

use dmrpc_core::memory::{Atomic, Line, Memory, Plain, Stale};
use dmrpc_core::store::{
    Backlog, Config, EntryId, Error, FormatError, HolderId, Layout, Limits, Object, PAGE_BYTES,
    REGION_BYTES_MAX, RegionId, Resource, STAGE_BYTES_MAX, Store,
};
use dmrpc_core::time::Instant;
use store_common::{SMALL, assert_all_home, audit, dirty_pool, settle};

/// Runs a test on a fresh store over dirty memory.
fn with_store(config: &Config, test: impl FnOnce(&mut Store<Plain<'_>>, HolderId)) {
    let mut pool = dirty_pool(config);
    let mut store = Store::format(Plain::new(&mut pool), config).expect("it fits");
    let holder = store.holder_join(Limits::NONE).expect("room");
    test(&mut store, holder);
    audit(&store);
}

fn read<M: Memory>(store: &Store<M>, holder: HolderId, region: RegionId, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xEE; len as usize];
    store.read(holder, region, 0, &mut bytes).expect("it is live");
    bytes
}

#[test]
fn a_partial_write_to_a_shared_page_keeps_the_rest_of_its_contents() {
    with_store(&SMALL, |store, holder| {
        let region = store.alloc(holder, 2 * PAGE_BYTES).unwrap();
        let old: Vec<u8> = (0..2 * PAGE_BYTES).map(|i| (i % 251) as u8).collect();
        store.write(holder, region, 0, &old).unwrap();
        let entry = store.create_ref(holder, region, 0, 2 * PAGE_BYTES).unwrap();
        let mapped = store.map_ref(holder, entry, 0, 2 * PAGE_BYTES, true).unwrap();
        store.write(holder, mapped, 4_000, &[0xFF; 200]).unwrap();
        let mut new = old.clone();
        new[4_000..4_200].fill(0xFF);
        assert_eq!(read(store, holder, mapped, 2 * PAGE_BYTES), new);
        assert_eq!(read(store, holder, region, 2 * PAGE_BYTES), old);
    });
}

#[test]
fn recycled_frames_do_not_show_the_previous_owner_s_bytes() {
    with_store(&SMALL, |store, holder| {
        let other = store.holder_join(Limits::NONE).unwrap();
        for round in 0..5 {
            let region = store.alloc(holder, 150 * PAGE_BYTES).unwrap();
            store.write(holder, region, 0, &vec![0x55; 150 << 12]).unwrap();
            store.free(holder, region).unwrap();
            settle(store, Instant::ZERO);
            let fresh = store.alloc(other, 150 * PAGE_BYTES).unwrap();
            store.write(other, fresh, 10 + round, &[1]).unwrap();
            store.write(other, fresh, 70 * PAGE_BYTES - 1, &[1, 1]).unwrap();
            let bytes = read(store, other, fresh, 150 * PAGE_BYTES);
            assert_eq!(bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 3);
            store.free(other, fresh).unwrap();
            settle(store, Instant::ZERO);
        }
    });
}

#[test]
fn an_exhausted_pool_says_so_and_changes_nothing() {
    with_store(&SMALL, |store, holder| {
        let region = store.alloc(holder, 100 * PAGE_BYTES).unwrap();
        store.write(holder, region, 0, &vec![3; 100 << 12]).unwrap();
        let entry = store.create_ref(holder, region, 0, 100 * PAGE_BYTES).unwrap();
        let before = store.stats();
        let refused = store.alloc(holder, 101 * PAGE_BYTES);
        let out = Error::OutOf { what: Resource::Frames, limit: 200, in_use: 100 };
        assert_eq!(refused, Err(out));
        assert_eq!(store.stats(), before);
        let rest = store.alloc(holder, 90 * PAGE_BYTES).unwrap();
        let before = store.stats();
        let refused = store.write(holder, region, 0, &vec![4; 11 << 12]);
        let out = Error::OutOf { what: Resource::Frames, limit: 200, in_use: 190 };
        assert_eq!(refused, Err(out));
        assert_eq!(store.stats(), before);
        // What was promised can still be filled, to the last page.
        store.write(holder, rest, 0, &vec![5; 90 << 12]).unwrap();
        store.write(holder, region, 0, &vec![6; 10 << 12]).unwrap();
        let mut old = vec![0; 11 << 12];
        store.read_ref(entry, 0, &mut old).unwrap();
        assert!(old.iter().all(|byte| *byte == 3));
    });
}

#[test]
fn an_allocation_waits_while_memory_is_being_reclaimed() {
    with_store(&SMALL, |store, holder| {
        let region = store.alloc(holder, 150 * PAGE_BYTES).unwrap();
        store.write(holder, region, 0, &vec![3; 150 << 12]).unwrap();
        store.free(holder, region).unwrap();
        let mut waits = 0;
        let region = loop {
            match store.alloc(holder, 150 * PAGE_BYTES) {
                Err(Error::Pending) => waits += 1,
                other => break other.unwrap(),
            }
            assert_eq!(store.reclaim(Instant::ZERO, 1), 1);
        };
        assert!(waits > 1, "it never had to wait");
        // More than there is in all is no matter of waiting.
        store.free(holder, region).unwrap();
        let refused = store.alloc(holder, 201 * PAGE_BYTES);
        assert!(matches!(refused, Err(Error::OutOf { what: Resource::Frames, .. })));
    });
}

#[test]
fn a_dead_holder_s_memory_returns_references_never_mapped_included() {
    with_store(&SMALL, |store, heir| {
        let dead = store.holder_join(Limits::NONE).unwrap();
        let region = store.alloc(dead, 40 * PAGE_BYTES).unwrap();
        store.write(dead, region, 0, &vec![1; 40 << 12]).unwrap();
        let kept = store.create_ref(dead, region, 0, 9).unwrap();
        let lost = store.create_ref(dead, region, PAGE_BYTES, 9).unwrap();
        let mapped = store.map_ref(dead, lost, 0, 9, true).unwrap();
        store.write(dead, mapped, 0, &[2]).unwrap();
        let stage = store.stage_begin(dead, region, 0, 20 * PAGE_BYTES).unwrap();
        store.stage_write(dead, stage, 0, &[1; 5_000]).unwrap();
        store.holder_leave(dead, Instant::from_nanos(5)).unwrap();

        let stale = Error::Stale { what: Object::Holder, index: 1, generation: 1 };
        assert_eq!(store.write(dead, region, 0, &[9]), Err(stale));
        assert_eq!(store.holder_leave(dead, Instant::from_nanos(6)), Err(stale));
        settle(store, Instant::from_nanos(1_004));
        let mut byte = [0];
        store.read_ref(lost, 0, &mut byte).expect("its grace still runs");
        let kept = store.claim_ref(heir, kept).expect("so it can be claimed");
        settle(store, Instant::from_nanos(1_005));
        assert_eq!(store.read_ref(lost, 0, &mut byte), Err(Error::Expired));
        store.read_ref(kept, 0, &mut byte).expect("it has an owner");
        assert_eq!(store.stats().holders.in_use, 1);
        store.drop_ref(heir, kept).unwrap();
        settle(store, Instant::from_nanos(1_005));
        assert_all_home(store);
    });
}

#[test]
fn holders_without_references_have_no_grace() {
    let config = Config { holders: 4, ..Config::for_pool_bytes(1 << 20) };
    with_store(&config, |store, _| {
        let now = Instant::from_nanos(1);
        // One at a time, many more than there is room for, all within one grace.
        for _ in 0..50 {
            let guest = store.holder_join(Limits::NONE).unwrap();
            store.alloc(guest, 5_000).unwrap();
            store.holder_leave(guest, now).unwrap();
            while store.reclaim(now, 8) == 8 {}
        }
        // Those with references keep their place until the grace is over.
        let guest = store.holder_join(Limits::NONE).unwrap();
        let region = store.alloc(guest, 1).unwrap();
        let reference = store.create_ref(guest, region, 0, 1).unwrap();
        store.holder_leave(guest, now).unwrap();
        while store.reclaim(now, 8) == 8 {}
        assert_eq!(store.stats().holders.in_use, 2);
        assert_eq!(store.ref_len(reference), Ok(1));
    });
}

/// However late the reclaimer hears of who left.
#[test]
fn graces_end_in_the_order_in_which_they_began() {
    with_store(&SMALL, |store, _| {
        let references: Vec<EntryId> = (0..3)
            .map(|at| {
                let guest = store.holder_join(Limits::NONE).unwrap();
                let region = store.alloc(guest, 1).unwrap();
                let reference = store.create_ref(guest, region, 0, 1).unwrap();
                store.holder_leave(guest, Instant::from_nanos(at * 10)).unwrap();
                reference
            })
            .collect();
        for ended in 0..3 {
            settle(store, Instant::from_nanos(SMALL.grace_ns + ended as u64 * 10));
            for (number, reference) in references.iter().enumerate() {
                let found = store.ref_len(*reference);
                let expected = if number <= ended { Err(Error::Expired) } else { Ok(1) };
                assert_eq!(found, expected, "{number} when {ended} ended");
            }
        }
    });
}

#[test]
fn what_waits_to_be_reclaimed_is_told() {
    with_store(&SMALL, |store, _| {
        let (now, later) = (Instant::from_nanos(1), Instant::from_nanos(2 + SMALL.grace_ns));
        let guest = store.holder_join(Limits::NONE).unwrap();
        let region = store.alloc(guest, 3 * PAGE_BYTES).unwrap();
        store.alloc(guest, PAGE_BYTES).unwrap();
        store.create_ref(guest, region, 0, 1).unwrap();
        settle(store, now);
        assert_eq!(store.backlog(), Backlog::default());
        store.holder_leave(guest, now).unwrap();
        let left = store.backlog();
        assert_eq!((left.leaving, left.pages, left.regions, left.references), (1, 4, 2, 1));
        settle(store, now);
        let left = store.backlog();
        assert_eq!((left.in_grace, left.regions, left.references), (1, 0, 1));
        settle(store, later);
        assert_eq!(store.backlog(), Backlog::default());
    });
}

#[test]
fn counts_are_wide_and_end_in_an_error() {
    let config = Config { entries: 1_000, regions: 1_000, holds_max: 1_500, ..SMALL };
    with_store(&config, |store, holder| {
        let region = store.alloc(holder, PAGE_BYTES).unwrap();
        store.write(holder, region, 0, &[7; 4096]).unwrap();
        let entries: Vec<EntryId> =
            (0..900).map(|_| store.create_ref(holder, region, 0, 1).unwrap()).collect();
        let mapped: Vec<RegionId> = (0..599)
            .map(|i| store.map_ref(holder, entries[i % 900], 0, 1, true).unwrap())
            .collect();
        let full = Error::OutOf { what: Resource::Holds, limit: 1_500, in_use: 1_500 };
        assert_eq!(store.create_ref(holder, region, 0, 1), Err(full));
        assert_eq!(store.map_ref(holder, entries[0], 0, 1, true), Err(full));
        assert_eq!(store.pin(holder, region, 0, 1), Err(full));
        audit(store);
        for entry in entries {
            store.drop_ref(holder, entry).unwrap();
        }
        for region in mapped {
            assert_eq!(read(store, holder, region, 1), [7]);
            store.free(holder, region).unwrap();
        }
        // Alone again: written in place.
        let before = store.stats();
        store.write(holder, region, 0, &[8]).unwrap();
        assert_eq!(store.stats(), before);
        store.free(holder, region).unwrap();
        settle(store, Instant::ZERO);
        assert_all_home(store);
    });
}

#[test]
fn a_version_that_is_alone_again_is_written_in_place() {
    with_store(&SMALL, |store, holder| {
        let region = store.alloc(holder, 8 * PAGE_BYTES).unwrap();
        store.write(holder, region, 0, &[1; 8 << 12]).unwrap();
        for _ in 0..50 {
            let entry = store.create_ref(holder, region, 0, 8 * PAGE_BYTES).unwrap();
            store.write(holder, region, 5_000, &[2]).unwrap();
            store.drop_ref(holder, entry).unwrap();
            settle(store, Instant::ZERO);
            let stats = store.stats();
            assert_eq!((stats.frames.in_use, stats.versions.in_use), (8, 1));
            let frames = stats.frames;
            store.write(holder, region, 5_000, &[3]).unwrap();
            assert_eq!(store.stats().frames, frames);
        }
    });
}

#[test]
fn ended_references_say_how_they_ended() {
    with_store(&SMALL, |store, holder| {
        let other = store.holder_join(Limits::NONE).unwrap();
        let region = store.alloc(holder, 100).unwrap();
        let first = store.create_ref(holder, region, 0, 100).unwrap();
        assert_eq!(store.drop_ref(other, first), Err(Error::NotOwner));
        let second = store.claim_ref(other, first).unwrap();
        assert_eq!(store.ref_len(first), Err(Error::Consumed));
        assert_eq!(store.claim_ref(other, first), Err(Error::Consumed));
        assert_eq!(store.drop_ref(holder, second), Err(Error::NotOwner));
        store.detach(other, second).unwrap();
        assert_eq!(store.drop_ref(other, second), Err(Error::NotOwner));
        let third = store.claim_ref(holder, second).unwrap();
        store.drop_ref(holder, third).unwrap();
        assert_eq!(store.map_ref(holder, third, 0, 1, true), Err(Error::Dropped));
        for forged in [
            EntryId { index: 0, generation: 99 },
            EntryId { index: 3, generation: 1 },
            EntryId { index: u32::MAX, generation: u64::MAX },
            first,
        ] {
            let found = store.claim_ref(holder, forged);
            assert!(matches!(found, Err(Error::Stale { what: Object::Reference, .. })));
        }
    });
}

#[test]
fn bad_ranges_and_forged_identifiers_change_nothing() {
    with_store(&SMALL, |store, holder| {
        let region = store.alloc(holder, 100).unwrap();
        let entry = store.create_ref(holder, region, 10, 50).unwrap();
        let before = store.stats();
        assert_eq!(store.alloc(holder, 0), Err(Error::ZeroLength));
        let max = REGION_BYTES_MAX;
        assert_eq!(store.alloc(holder, u64::MAX), Err(Error::TooLarge { len: u64::MAX, max }));
        assert_eq!(store.read(holder, region, 0, &mut []), Err(Error::ZeroLength));
        let out = |offset, len, size| Err(Error::Range { offset, len, size });
        assert_eq!(store.write(holder, region, 99, &[0; 2]), out(99, 2, 100));
        assert_eq!(store.map_ref(holder, entry, 0, 51, true), out(0, 51, 50).map(|()| region));
        assert_eq!(store.map_ref(holder, entry, 50, 1, true), out(50, 1, 50).map(|()| region));
        let wide = Error::Overflow { offset: u64::MAX, len: 2 };
        assert_eq!(store.write(holder, region, u64::MAX, &[0; 2]), Err(wide));
        assert_eq!(store.create_ref(holder, region, u64::MAX, 2), Err(wide));
        assert_eq!(store.pin_ref(entry, u64::MAX, 2), Err(wide));
        for raw in [0, 1, u64::MAX, region.raw() ^ (1 << 24), region.raw() + 1] {
            let forged = store.free(holder, RegionId::from_raw(raw));
            assert!(matches!(forged, Err(Error::Stale { what: Object::Region, .. })), "{raw:#x}");
            let forged = store.alloc(HolderId::from_raw(raw), 1);
            if raw != holder.raw() {
                assert!(matches!(forged, Err(Error::Stale { what: Object::Holder, .. })));
            }
        }
        assert_eq!(store.stats(), before);
    });
}

#[test]
fn quotas_name_their_bound() {
    with_store(&SMALL, |store, _| {
        let limits = Limits { pages: 10, regions: 2, entries: 1 };
        let holder = store.holder_join(limits).unwrap();
        let wide = store.alloc(holder, 11 * PAGE_BYTES);
        let quota = Error::Quota { what: Resource::Frames, limit: 10, wanted: 11 };
        assert_eq!(wide, Err(quota));
        let region = store.alloc(holder, 9 * PAGE_BYTES).unwrap();
        store.write(holder, region, 0, &[1; 9 << 12]).unwrap();
        let entry = store.create_ref(holder, region, 0, 1).unwrap();
        let quota = Error::Quota { what: Resource::Entries, limit: 1, wanted: 2 };
        assert_eq!(store.create_ref(holder, region, 0, 1), Err(quota));
        // One page may be copied, a second may not.
        store.write(holder, region, 0, &[2]).unwrap();
        let quota = Error::Quota { what: Resource::Frames, limit: 10, wanted: 11 };
        assert_eq!(store.write(holder, region, PAGE_BYTES, &[2]), Err(quota));
        store.map_ref(holder, entry, 0, 1, false).unwrap();
        let quota = Error::Quota { what: Resource::Regions, limit: 2, wanted: 3 };
        assert_eq!(store.map_ref(holder, entry, 0, 1, false), Err(quota));
    });
}

#[test]
fn a_pinned_range_stays_as_it_was() {
    with_store(&SMALL, |store, holder| {
        let region = store.alloc(holder, 3 * PAGE_BYTES).unwrap();
        store.write(holder, region, 4_090, &[1; 10]).unwrap();
        let pin = store.pin(holder, region, 4_000, 5_000).unwrap();
        store.write(holder, region, 4_090, &[2; 10]).unwrap();
        store.free(holder, region).unwrap();
        let mut bytes = [9; 10];
        store.read_pin(pin, 90, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 10]);
        let (place, len) = store.pin_place(pin, 90).unwrap();
        assert_eq!(len, 6);
        store.memory().read(place.expect("it was written"), &mut bytes[..6]);
        assert_eq!(bytes, [1; 10]);
        assert_eq!(store.pin_place(pin, 4_200).unwrap(), (None, 800));
        store.unpin(pin).unwrap();
        assert!(matches!(store.read_pin(pin, 0, &mut bytes), Err(Error::Stale { .. })));
        settle(store, Instant::ZERO);
        assert_all_home(store);
    });
}

#[test]
fn a_staged_write_appears_at_once_or_not_at_all() {
    let config = Config { frames: 4_200, nodes: 400, ..SMALL };
    with_store(&config, |store, holder| {
        let len = STAGE_BYTES_MAX + 2 * PAGE_BYTES;
        let region = store.alloc(holder, len).unwrap();
        store.write(holder, region, 0, &vec![1; len as usize]).unwrap();
        let refused = store.stage_begin(holder, region, 0, STAGE_BYTES_MAX + 1);
        assert!(matches!(refused, Err(Error::TooLarge { .. })));
        let old = read(store, holder, region, len);
        for commit in [false, true] {
            let stage = store.stage_begin(holder, region, 100, STAGE_BYTES_MAX).unwrap();
            for at in (0..STAGE_BYTES_MAX >> 16).rev().map(|part| part << 16) {
                store.stage_write(holder, stage, at, &[2; 1 << 16]).unwrap();
                assert!(commit || read(store, holder, region, 8_192) == old[..8_192]);
            }
            if commit {
                store.stage_commit(holder, stage).unwrap();
            } else {
                store.stage_abort(holder, stage).unwrap();
                assert!(read(store, holder, region, len) == old);
            }
            assert!(store.stage_commit(holder, stage).is_err());
            settle(store, Instant::ZERO);
            audit(store);
        }
        let mut new = old;
        new[100..][..STAGE_BYTES_MAX as usize].fill(2);
        assert!(read(store, holder, region, len) == new);
        assert_eq!(store.stats().frames.in_use, len / PAGE_BYTES);
    });
}

#[test]
fn a_region_that_fills_the_pool_can_be_written_staged() {
    let config = Config { frames: 64, ..SMALL };
    with_store(&config, |store, holder| {
        let region = store.alloc(holder, 64 * PAGE_BYTES).unwrap();
        for commit in [false, true] {
            let stage = store.stage_begin(holder, region, 0, 64 * PAGE_BYTES).unwrap();
            store.stage_write(holder, stage, 0, &[4; 64 << 12]).unwrap();
            if commit {
                store.stage_commit(holder, stage).unwrap();
            } else {
                store.stage_abort(holder, stage).unwrap();
            }
            audit(store);
        }
        assert_eq!(read(store, holder, region, 64 * PAGE_BYTES), vec![4; 64 << 12]);
    });
}

#[test]
fn a_staged_write_gives_back_the_promises_that_it_did_not_need() {
    let config = Config { frames: 64, ..SMALL };
    with_store(&config, |store, holder| {
        let region = store.alloc(holder, 64 * PAGE_BYTES).unwrap();
        let stage = store.stage_begin(holder, region, 0, 32 * PAGE_BYTES).unwrap();
        // Fills a page that the staged write covers, from the promise of another.
        store.write(holder, region, 5, &[1]).unwrap();
        store.stage_write(holder, stage, 0, &[2; 32 << 12]).unwrap();
        store.stage_commit(holder, stage).unwrap();
        let refused = store.alloc(holder, 1);
        let out = Error::OutOf { what: Resource::Frames, limit: 64, in_use: 64 };
        assert_eq!(refused, Err(out));
        store.write(holder, region, 32 * PAGE_BYTES, &[3; 32 << 12]).unwrap();
    });
}

#[test]
fn a_store_is_found_again_and_nothing_else_is_taken_for_one() {
    let mut pool = dirty_pool(&SMALL);
    let foreign = Store::open(Plain::new(&mut pool)).map(drop);
    assert!(matches!(foreign, Err(FormatError::Foreign { .. })));
    let mut store = Store::format(Plain::new(&mut pool), &SMALL).unwrap();
    let holder = store.holder_join(Limits::NONE).unwrap();
    let region = store.alloc(holder, 100).unwrap();
    store.write(holder, region, 5, &[1, 2, 3]).unwrap();
    let store = Store::open(Plain::new(&mut pool)).unwrap();
    assert_eq!(store.config(), &SMALL);
    assert_eq!(read(&store, holder, region, 8), [0, 0, 0, 0, 0, 1, 2, 3]);
    let half = pool.len() / 2;
    let small = Store::format(Plain::new(&mut pool[..half]), &SMALL).map(drop);
    assert!(matches!(small, Err(FormatError::TooSmall { .. })));
    let zero = Layout::new(&Config { pins: 0, ..SMALL });
    assert!(matches!(zero, Err(FormatError::Limit { what: Resource::Pins, wanted: 0, .. })));
}

#[test]
fn a_configuration_fills_its_pool_and_fits() {
    for bytes in [1u64 << 20, 3 << 20, 64 << 20, 1 << 30, (1 << 30) + 12_345, 70 << 30, 1 << 40] {
        let config = Config::for_pool_bytes(bytes);
        let layout = Layout::new(&config).expect("legal");
        assert!(layout.bytes() <= bytes, "{bytes}: {config:?}");
        let used = u64::from(config.frames) * PAGE_BYTES;
        let share = if bytes >= 64 << 20 { 93 } else { 70 };
        assert!(used * 100 >= bytes * share, "{bytes}: only {used} in frames");
        assert!(layout.frame_base().is_multiple_of(PAGE_BYTES));
    }
}

/// The same few operations on any memory.
fn works_on(memory: impl Memory) {
    let mut store = Store::format(memory, &SMALL).unwrap();
    let holder = store.holder_join(Limits::NONE).unwrap();
    let region = store.alloc(holder, 90 * PAGE_BYTES).unwrap();
    store.write(holder, region, 80 * PAGE_BYTES - 3, &[1; 6]).unwrap();
    let entry = store.create_ref(holder, region, 80 * PAGE_BYTES - 4, 8).unwrap();
    store.write(holder, region, 80 * PAGE_BYTES, &[2]).unwrap();
    let mapped = store.map_ref(holder, entry, 0, 8, true).unwrap();
    store.write(holder, mapped, 0, &[3]).unwrap();
    assert_eq!(read(&store, holder, mapped, 8), [3, 1, 1, 1, 1, 1, 1, 0]);
    let mut bytes = [9; 8];
    store.read(holder, region, 80 * PAGE_BYTES - 4, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 1, 1, 1, 2, 1, 1, 0]);
    audit(&store);
    store.holder_leave(holder, Instant::ZERO).unwrap();
    settle(&mut store, Instant::from_nanos(SMALL.grace_ns));
    assert_all_home(&store);
}

#[test]
fn the_store_runs_on_every_back_end() {
    let mut pool = dirty_pool(&SMALL);
    works_on(Plain::new(&mut pool));
    works_on(Atomic::new(&mut pool));
    let mut lines = vec![Line::EMPTY; 64];
    pool.resize(pool.len().next_multiple_of(8), 0);
    works_on(Stale::new(Plain::new(&mut pool), &mut lines));
}
