//! Defects of the published system, each with a test over the wire: see the names. And what was
//! found wrong in this one.

use dmrpc_host as _;

mod pair;

use dmrpc_core::endpoint::Call;
use dmrpc_core::endpoint::host::{Sink, Source};
use dmrpc_core::store::Config;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::memory_op::{
    MemoryError, RefOperand, RegionOperand, Resource, STEP_BYTES, STEPS_MAX, Step, emit_steps, put,
};
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_core::wire::reference::Rights;
use pair::{FIRST, MADE, Pair, Refused, named};

const PAGE: usize = 4096;

fn pool() -> Config {
    Config::for_pool_bytes(4 << 20)
}

#[test]
fn a_partial_write_to_a_shared_page_keeps_the_rest() {
    let mut pair = Pair::new(pool());
    let session = pair.connect();
    let region = pair.alloc(session, 3 * PAGE as u64);
    pair.fill(session, region, 0, 1, 3 * PAGE);
    let reference = pair.create_ref(session, region, 3 * PAGE as u64);
    let copy = pair.map_ref(session, reference);
    pair.fill(session, copy, 5000, 2, 10);
    pair.fill(session, region, 100, 3, 6000);
    let mut expected = [1; 3 * PAGE];
    expected[5000..5010].fill(2);
    assert_eq!(pair.read(session, copy, 0, 3 * PAGE), expected);
    let mut expected = [1; 3 * PAGE];
    expected[100..6100].fill(3);
    assert_eq!(pair.read(session, region, 0, 3 * PAGE), expected);
    let third = pair.map_ref(session, reference);
    assert_eq!(pair.read(session, third, 0, 3 * PAGE), [1; 3 * PAGE]);
}

#[test]
fn recycled_frames_do_not_leak_bytes() {
    let mut pair = Pair::new(pool());
    let (secretive, curious) = (pair.connect(), pair.connect());
    for _ in 0..20 {
        let region = pair.alloc(secretive, 100 * PAGE as u64);
        pair.fill(secretive, region, 0, 0x55, 100 * PAGE);
        pair.free(secretive, region);
        pair.settle();
        let region = pair.alloc(curious, 100 * PAGE as u64);
        // One byte of each page, so that every frame is taken again.
        for page in 0..100 {
            pair.fill(curious, region, page * PAGE as u64 + 7, 1, 1);
        }
        for (at, byte) in pair.read(curious, region, 0, 100 * PAGE).iter().enumerate() {
            assert_eq!(*byte, u8::from(at % PAGE == 7), "byte {at}");
        }
        pair.free(curious, region);
    }
}

#[test]
fn a_request_of_unexpected_size_does_not_end_the_server() {
    let mut pair = Pair::new(pool());
    let session = pair.connect();
    let region = pair.alloc(session, 100);
    let noise = [0xFF; 600];
    for bytes in 0..noise.len() {
        for fill in [0, 1, 0x81, 0xFF] {
            let parameters = &[fill; 600][..bytes];
            for body in [0, 1, 700, 5_000] {
                // Half of all sizes are enough for a test that takes a second.
                if (bytes + body) % 2 == 0 {
                    let refused =
                        pair.call_raw(session, Method::MEMORY, parameters, &[], body).unwrap_err();
                    assert!(matches!(refused, Refused::Memory(_)), "{bytes} {fill}: {refused:?}");
                }
            }
        }
    }
    for bytes in [0, 1, 3, 100] {
        let refused = pair.call_raw(session, Method::STATISTICS, &noise[..bytes], &[], 0);
        assert_eq!(refused, Err(Refused::Status(Status::MALFORMED)));
    }
    let refused = pair.call_raw(session, Method(1), &noise, &[], 5_000);
    assert_eq!(refused, Err(Refused::Status(Status::UNKNOWN_METHOD)));
    pair.fill(session, region, 0, 9, 100);
    assert_eq!(pair.read(session, region, 0, 100), [9; 100]);
    pair.free(session, region);
    pair.settle();
    assert_eq!(pair.node.store().stats().stages.in_use, 0);
}

#[test]
fn an_exhausted_pool_is_a_typed_error_and_the_server_lives() {
    let mut pair = Pair::new(Config { frames: 64, ..pool() });
    let session = pair.connect();
    let all = pair.alloc(session, 64 * PAGE as u64);
    pair.fill(session, all, 0, 1, 64 * PAGE);
    let exhausted =
        Err(Refused::Memory(MemoryError::Exhausted { resource: Resource::Frames, limit: 64 }));
    assert_eq!(pair.run(session, &[Step::Alloc { length: 1 }], &[], 0), exhausted);
    // A copy of a page that others see needs a frame, a write in place none.
    let reference = pair.create_ref(session, all, 64 * PAGE as u64);
    let write = [Step::Write { region: named(all), offset: 0 }];
    for bytes in [1, 700, 3 * PAGE] {
        assert_eq!(pair.run(session, &write, &[], bytes), exhausted, "{bytes} bytes");
    }
    assert_eq!(pair.read(session, all, 0, 64 * PAGE), [1; 64 * PAGE]);
    pair.must(session, &[Step::DropRef { reference: FIRST }], &[reference]);
    pair.fill(session, all, 0, 2, 700);
    // A write of several packets arrives beside what it will replace.
    assert_eq!(pair.run(session, &write, &[], 3 * PAGE), exhausted);
    pair.free(session, all);
    // What is on its way back is waited for.
    let again = pair.alloc(session, 64 * PAGE as u64);
    assert_eq!(pair.read(session, again, 0, 64 * PAGE), [0; 64 * PAGE]);
    pair.settle();
}

#[test]
fn a_dead_client_gives_everything_back_after_lease_and_grace() {
    let mut pair = Pair::new(pool());
    let session = pair.connect();
    let region = pair.alloc(session, 50 * PAGE as u64);
    pair.fill(session, region, 0, 1, 50 * PAGE);
    let mapped = pair.create_ref(session, region, 50 * PAGE as u64);
    pair.map_ref(session, mapped);
    pair.caller.body[..PAGE].fill(8);
    let never_mapped = pair.run(session, &put(PAGE as u64, Rights::all()), &[], PAGE).unwrap();
    let never_mapped = never_mapped.refs[0].unwrap();
    let detached = pair.create_ref(session, region, PAGE as u64);
    pair.must(session, &[Step::Detach { reference: FIRST }], &[detached]);

    // Within the grace, what it passed on can be used.
    pair.client_dies(Duration::from_millis(10_500));
    let other = pair.connect();
    let late = pair.map_ref(other, never_mapped);
    assert_eq!(pair.read(other, late, 0, PAGE), [8; PAGE]);
    pair.free(other, late);
    assert_eq!(pair.node.store().stats().regions.in_use, 0, "its regions went with the lease");

    pair.wait_alone(Duration::from_secs(2));
    let map = [Step::MapRef { reference: FIRST }];
    for reference in [never_mapped, mapped] {
        let refused = pair.run(other, &map, &[reference], 0);
        assert_eq!(refused, Err(Refused::Memory(MemoryError::Expired)));
    }
    let kept = pair.map_ref(other, detached);
    assert_eq!(pair.read(other, kept, 0, PAGE), [1; PAGE], "a detached one outlives its owner");
    pair.free(other, kept);
    let steps =
        [Step::ClaimRef { reference: FIRST }, Step::DropRef { reference: RefOperand::MadeBy(0) }];
    pair.must(other, &steps, &[detached]);
    pair.settle();
    let stats = pair.node.store().stats();
    let left = [stats.frames, stats.nodes, stats.versions, stats.regions, stats.entries];
    assert!(left.iter().all(|usage| (usage.in_use, usage.reserved) == (0, 0)), "{stats:?}");
    assert_eq!(stats.holders.in_use, 1, "the other client");
}

#[test]
fn a_page_can_be_mapped_more_than_255_times() {
    let mut pair = Pair::new(Config { regions: 400, ..pool() });
    let session = pair.connect();
    let region = pair.alloc(session, PAGE as u64);
    pair.fill(session, region, 0, 1, PAGE);
    let reference = pair.create_ref(session, region, PAGE as u64);
    let mapped: Vec<_> = (0..350).map(|_| pair.map_ref(session, reference)).collect();
    pair.fill(session, region, 0, 2, PAGE);
    pair.free(session, region);
    for region in &mapped {
        assert_eq!(pair.read(session, *region, 0, PAGE), [1; PAGE]);
    }
    for region in mapped {
        pair.free(session, region);
    }
    let last = pair.map_ref(session, reference);
    assert_eq!(pair.read(session, last, 0, PAGE), [1; PAGE]);
    pair.settle();
}

#[test]
fn what_cannot_be_put_off_is_not_done_twice() {
    let mut pair = Pair::new(Config { regions: 4, ..pool() });
    let session = pair.connect();
    let region = pair.alloc(session, PAGE as u64);
    pair.fill(session, region, 0, 1, PAGE);
    let reference = pair.create_ref(session, region, PAGE as u64);
    let others: Vec<_> = (0..3).map(|_| pair.alloc(session, PAGE as u64)).collect();
    // Work for reclamation that it gets no chance to do: every shortage is one to wait out.
    pair.free(session, others[0]);
    pair.reclaim = 0;
    pair.free(session, others[1]);
    pair.alloc(session, 1);
    pair.alloc(session, 1);
    assert!(pair.node.store().pending());
    let made = RegionOperand::MadeBy(1);
    let steps = [
        Step::ClaimRef { reference: FIRST },
        Step::MapRef { reference: RefOperand::MadeBy(0) },
        Step::Read { region: made, offset: 0, length: PAGE as u64 },
    ];
    let refused = pair.run(session, &steps, &[reference], 0);
    let exhausted = MemoryError::Exhausted { resource: Resource::Regions, limit: 4 };
    assert_eq!(refused, Err(Refused::Memory(exhausted)), "and not 'consumed'");
    assert_eq!(pair.node.store().stats().entries.in_use, 0, "nobody could name it");
}

#[test]
fn a_request_that_fails_leaves_nothing_that_it_made() {
    let mut pair = Pair::new(pool());
    let session = pair.connect();
    let length = PAGE as u64;
    let rights = Rights::all();
    let made = RefOperand::MadeBy(1);
    let wrong = Step::Free { region: named(1 << 40) };
    let create = Step::CreateRef { region: MADE, offset: 0, length, rights };
    let alloc = Step::Alloc { length };
    let vectors = [
        [alloc, create, Step::Detach { reference: made }, wrong],
        [alloc, create, Step::ClaimRef { reference: made }, wrong],
        [alloc, create, Step::DropRef { reference: made }, wrong],
        [alloc, create, Step::Free { region: MADE }, wrong],
        [alloc, create, Step::MapRef { reference: made }, wrong],
        [alloc, Step::Read { region: MADE, offset: 0, length }, create, wrong],
        [alloc, Step::Write { region: MADE, offset: 0 }, create, wrong],
    ];
    for (number, steps) in vectors.iter().enumerate() {
        let writes = steps.iter().any(|step| matches!(step, Step::Write { .. }));
        let refused = pair.run(session, steps, &[], if writes { PAGE } else { 0 });
        assert_eq!(refused, Err(Refused::Memory(MemoryError::UnknownRegion)), "vector {number}");
        pair.settle();
        let stats = pair.node.store().stats();
        let usage = [stats.regions, stats.entries, stats.frames, stats.pins, stats.stages];
        assert!(usage.iter().all(|u| (u.in_use, u.reserved) == (0, 0)), "{number}: {stats:?}");
        assert_eq!(stats.detached, 0, "vector {number}");
    }
}

#[test]
fn rights_hold_for_what_earlier_steps_made() {
    let mut pair = Pair::new(pool());
    let session = pair.connect();
    let region = pair.alloc(session, PAGE as u64);
    let rights = Rights::CONSUME;
    let steps = [Step::CreateRef { region: named(region), offset: 0, length: PAGE as u64, rights }];
    let reference = pair.must(session, &steps, &[]).refs[0].unwrap();
    let steps =
        [Step::ClaimRef { reference: FIRST }, Step::MapRef { reference: RefOperand::MadeBy(0) }];
    let missing = MemoryError::MissingRights { rights: Rights::MAP };
    assert_eq!(pair.run(session, &steps, &[reference], 0), Err(Refused::Memory(missing)));
}

#[test]
fn a_long_write_is_refused_with_the_same_details_as_a_short_one() {
    let mut pair = Pair::new(pool());
    let session = pair.connect();
    let region = pair.alloc(session, 100);
    for bytes in [200, 5_000, 100_000] {
        let steps = [Step::Write { region: named(region), offset: 10 }];
        let refused = pair.run(session, &steps, &[], bytes);
        let end = 10 + bytes as u64;
        assert_eq!(refused, Err(Refused::Memory(MemoryError::OutOfRange { end, size: 100 })));
        let steps = [Step::Write { region: named(region), offset: u64::MAX }];
        let refused = pair.run(session, &steps, &[], bytes);
        let overflow = MemoryError::OutOfRange { end: u64::MAX, size: 100 };
        assert_eq!(refused, Err(Refused::Memory(overflow)));
    }
}

#[test]
fn reads_wait_for_each_other_s_snapshots() {
    let mut pair = Pair::new(Config { pins: 1, ..pool() });
    let session = pair.connect();
    let length = 20_000;
    let region = pair.alloc(session, length);
    let mut out = [0; STEPS_MAX * STEP_BYTES];
    let steps = [Step::Read { region: named(region), offset: 0, length }];
    let parameters = emit_steps(&steps, &mut out);
    let before = pair.caller.counts;
    for _ in 0..6 {
        let call = Call {
            parameters,
            sink: Some((Sink(0), length as u32)),
            deadline: Some(Duration::from_secs(5)),
            ..Call::new(Method::MEMORY)
        };
        pair.client.call(pair.now, session, &call).expect("a free slot");
    }
    for _ in 0..100_000 {
        pair.step();
    }
    let (ended, refused) = pair.caller.counts;
    assert_eq!((ended - before.0, refused - before.1), (6, 0), "none is refused");
    pair.free(session, region);
    pair.settle();
}

/// A session's writes in progress take no more of the pool than they may: one that is larger than
/// that is refused by name, several at a time take turns.
#[test]
fn staged_pages_of_a_session_are_bounded() {
    let mut pair = Pair::new(pool());
    pair.node.bound_staged_pages(10);
    let session = pair.connect();
    let region = pair.alloc(session, 20 * PAGE as u64);
    // A page more than the bytes fill, for a write that begins within one.
    pair.fill(session, region, 0, 1, 9 * PAGE);
    let steps = [Step::Write { region: named(region), offset: 0 }];
    let refused = pair.run(session, &steps, &[], 10 * PAGE);
    let quota = MemoryError::Quota { resource: Resource::StagedPages, limit: 10, wanted: 11 };
    assert_eq!(refused, Err(Refused::Memory(quota)));
    let mut out = [0; STEPS_MAX * STEP_BYTES];
    let parameters = emit_steps(&steps, &mut out);
    let before = pair.caller.counts;
    for _ in 0..4 {
        let call = Call {
            parameters,
            source: Some((Source(0), 8 * PAGE as u32)),
            deadline: Some(Duration::from_secs(5)),
            ..Call::new(Method::MEMORY)
        };
        pair.client.call(pair.now, session, &call).expect("a free slot");
    }
    for _ in 0..100_000 {
        pair.step();
    }
    let (ended, refused) = pair.caller.counts;
    assert_eq!((ended - before.0, refused - before.1), (4, 0), "all in their turn");
    pair.free(session, region);
    pair.settle();
}
