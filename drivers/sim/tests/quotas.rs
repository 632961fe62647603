//! What one session may have of a memory node's pools: the others' share stays.

use dmrpc_host as _;

mod pair;

use dmrpc_core::endpoint::Call;
use dmrpc_core::endpoint::host::{SessionId, Source};
use dmrpc_core::service::{DetachedAccount, Detachment, Detachments};
use dmrpc_core::store::Config;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::memory_op::{MemoryError, Resource, STEP_BYTES, STEPS_MAX, Step, emit_steps};
use dmrpc_core::wire::message::Method;
use dmrpc_core::wire::reference::Ref;
use pair::{FIRST, Pair, Refused, named};

const PAGE: usize = 4096;

fn pool() -> Config {
    Config::for_pool_bytes(4 << 20)
}

fn detach(pair: &mut Pair, session: SessionId, reference: Ref) -> Result<(), Refused> {
    pair.run(session, &[Step::Detach { reference: FIRST }], &[reference], 0).map(|_| ())
}

/// A session may detach so many references that nobody has taken: the next is refused by name,
/// other sessions have their own, and what is taken by whomever makes room.
#[test]
fn detached_references_of_a_session_are_bounded() {
    let config = pool();
    let mut pair = Pair::new(config);
    let references: Vec<_> = (0..config.entries).map(|_| Detachment::default()).collect();
    let holders: Vec<_> = (0..config.holders).map(|_| DetachedAccount::default()).collect();
    pair.node.bound_detached(Detachments::new(3, references.leak(), holders.leak()));
    let (greedy, modest) = (pair.connect(), pair.connect());
    let region = pair.alloc(greedy, PAGE as u64);
    let made: Vec<Ref> = (0..4).map(|_| pair.create_ref(greedy, region, PAGE as u64)).collect();
    for reference in &made[..3] {
        detach(&mut pair, greedy, *reference).expect("three may be");
    }
    let quota = MemoryError::Quota { resource: Resource::Detached, limit: 3, wanted: 4 };
    assert_eq!(detach(&mut pair, greedy, made[3]), Err(Refused::Memory(quota)));
    let other = pair.alloc(modest, PAGE as u64);
    let own = pair.create_ref(modest, other, PAGE as u64);
    detach(&mut pair, modest, own).expect("another session has its own");
    // Each that is taken, and dropped or kept, is one more that may be made.
    for taken in 0..2 {
        let claim = [Step::ClaimRef { reference: FIRST }];
        let claimed = pair.must(modest, &claim, &[made[taken]]).refs[0].expect("a reference");
        let reference = if taken == 0 { made[3] } else { claimed };
        let owner = if taken == 0 { greedy } else { modest };
        detach(&mut pair, owner, reference).expect("there is room for one");
    }
    let again = pair.create_ref(greedy, region, PAGE as u64);
    detach(&mut pair, greedy, again).expect("two of four were taken");
    let more = pair.create_ref(greedy, region, PAGE as u64);
    assert_eq!(detach(&mut pair, greedy, more), Err(Refused::Memory(quota)));
    pair.settle();
}

/// A session with many long writes has no more of them in progress than it may, so that another
/// finds room, and all of them are done in their turn.
#[test]
fn writes_in_progress_of_a_session_are_bounded() {
    let mut pair = Pair::new(Config { stages: 3, ..pool() });
    pair.node.bound_transfers(2);
    let (greedy, modest) = (pair.connect(), pair.connect());
    let region = pair.alloc(greedy, 32 * PAGE as u64);
    let other = pair.alloc(modest, 32 * PAGE as u64);
    let begin = |pair: &mut Pair, session, region| {
        let mut out = [0; STEPS_MAX * STEP_BYTES];
        let steps = [Step::Write { region: named(region), offset: 0 }];
        let call = Call {
            parameters: emit_steps(&steps, &mut out),
            source: Some((Source(0), 30 * PAGE as u32)),
            deadline: Some(Duration::from_secs(5)),
            ..Call::new(Method::MEMORY)
        };
        pair.client.call(pair.now, session, &call).expect("a free slot");
    };
    let before = pair.caller.counts;
    (0..6).for_each(|_| begin(&mut pair, greedy, region));
    let mut most = 0;
    for step in 0..100_000 {
        pair.step();
        most = most.max(pair.node.store().stats().stages.in_use);
        if step == 3 {
            begin(&mut pair, modest, other);
        }
    }
    let (ended, refused) = pair.caller.counts;
    assert_eq!((ended - before.0, refused - before.1), (7, 0), "all in their turn");
    assert!(most <= 3, "two of one, one of the other");
    pair.settle();

    // Alone, it leaves a place free.
    (0..6).for_each(|_| begin(&mut pair, greedy, region));
    let mut most = 0;
    for _ in 0..100_000 {
        pair.step();
        most = most.max(pair.node.store().stats().stages.in_use);
    }
    assert_eq!(most, 2, "no more of one session");
    pair.settle();
}
