//! The life of sessions: opened, suspected, lost, superseded, refused.

use dmrpc_host as _;

mod common;

use common::actor::Plan;
use common::{DATAGRAM_BYTES, End, Work, World, address};
use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::host::{CallError, Closed, SessionEvent, Side};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::message::Status;
use dmrpc_core::wire::packet::{Header, Kind};
use dmrpc_sim::cluster::Clock;
use dmrpc_sim::faults::Faults;

const MS: fn(u64) -> Duration = Duration::from_millis;
const OK: End = End::Answered(Status::OK);

fn connected(nodes: usize) -> World {
    let mut world = World::new(3, Faults::NONE, nodes);
    for node in 1..nodes {
        world.peer(node).wanted.insert(0);
    }
    run(&mut world, MS(5));
    world
}

fn run(world: &mut World, span: Duration) {
    let limit = world.cluster.network().now() + span;
    while world.cluster.step(limit) {}
}

fn cut(world: &World, a: usize, b: usize, cut: bool) {
    world.cluster.network().set_cut(address(a), address(b), cut);
    world.cluster.network().set_cut(address(b), address(a), cut);
}

fn saw(world: &mut World, node: usize, side: Side, wanted: SessionEvent) -> Option<Instant> {
    let mut events = world.peer(node).events.iter();
    events.find(|(_, at, event)| *at == side && *event == wanted).map(|(at, ..)| *at)
}

fn closed(world: &mut World, node: usize, side: Side, why: Closed) -> bool {
    saw(world, node, side, SessionEvent::Closed(why)).is_some()
}

#[test]
fn silence_is_suspected_within_half_a_second_and_reversible() {
    for wait in [0, 40, 90, 149, 151, 200] {
        let mut world = connected(2);
        run(&mut world, MS(1_000 + wait));
        let before = world.cluster.network().now();
        cut(&world, 0, 1, true);
        run(&mut world, MS(500));
        let at = saw(&mut world, 1, Side::Client, SessionEvent::Suspected).expect("suspected");
        assert!(at.since(before) <= MS(500));
        let session = world.peer(1).sessions[&0];
        assert!(!world.cluster.node(1).endpoint.is_up(session), "calls fail fast");
        cut(&world, 0, 1, false);
        run(&mut world, MS(300));
        assert!(saw(&mut world, 1, Side::Client, SessionEvent::Recovered).is_some());
        assert!(world.cluster.node(1).endpoint.is_up(session));
        run(&mut world, MS(500));
        assert!(saw(&mut world, 0, Side::Server, SessionEvent::Recovered).is_some());
    }
}

#[test]
fn losses_alone_are_not_suspected() {
    let mut world = connected(2);
    let faults = Faults { loss: 300_000, ..Faults::NONE };
    world.cluster.network().set_faults(faults);
    run(&mut world, Duration::from_secs(20));
    assert_eq!(saw(&mut world, 1, Side::Client, SessionEvent::Suspected), None);
}

#[test]
fn a_lease_expires_at_both_ends() {
    let mut world = connected(2);
    let work = Work { delay_us: 60_000_000, ..Work::default() };
    let id = world.peer(1).plan(Plan { to: 0, work, ..Plan::default() });
    run(&mut world, MS(50));
    cut(&world, 0, 1, true);
    run(&mut world, Duration::from_secs(9));
    assert!(!closed(&mut world, 0, Side::Server, Closed::LeaseExpired), "not before its time");
    run(&mut world, Duration::from_secs(2));
    assert!(closed(&mut world, 0, Side::Server, Closed::LeaseExpired));
    assert!(closed(&mut world, 1, Side::Client, Closed::LeaseExpired));
    let unknown = End::Failed(CallError::OutcomeUnknown);
    assert_eq!(world.oracle.borrow().end_of(id), Some(unknown));
    cut(&world, 0, 1, false);
    let again = world.peer(1).plan(Plan::default());
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(again), Some(OK));
    world.settle();
}

#[test]
fn a_restarted_server_resets_its_clients() {
    let mut world = connected(2);
    let work = Work { delay_us: 60_000_000, ..Work::default() };
    let id = world.peer(1).plan(Plan { to: 0, work, ..Plan::default() });
    run(&mut world, MS(5));
    world.restart(0, Clock::TRUE);
    run(&mut world, MS(500));
    assert!(closed(&mut world, 1, Side::Client, Closed::PeerRestarted));
    let unknown = End::Failed(CallError::OutcomeUnknown);
    assert_eq!(world.oracle.borrow().end_of(id), Some(unknown));
    let again = world.peer(1).plan(Plan::default());
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(again), Some(OK));
    world.settle();
}

#[test]
fn a_restarted_client_supersedes_its_former_life() {
    let mut world = connected(2);
    let work = Work { delay_us: 200_000, ..Work::default() };
    world.peer(1).plan(Plan { to: 0, work, body_bytes: 3_000, ..Plan::default() });
    run(&mut world, MS(5));
    world.restart(1, Clock::TRUE);
    run(&mut world, MS(50));
    assert!(closed(&mut world, 0, Side::Server, Closed::Superseded));
    let id = world.peer(1).plan(Plan::default());
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    world.settle();
}

#[test]
fn bye_frees_the_session_at_once() {
    let mut world = connected(2);
    let session = world.peer(1).sessions[&0];
    world.peer(1).reconnect = false;
    let now = world.cluster.now(1);
    let node = world.cluster.node(1);
    node.endpoint.disconnect(now, &mut node.device, &mut node.actor, session);
    run(&mut world, MS(5));
    assert!(closed(&mut world, 1, Side::Client, Closed::Bye));
    assert!(closed(&mut world, 0, Side::Server, Closed::Bye));
}

/// The places of a client's sessions are used from the first on, whatever was opened and ended
/// before; when all are in use, that of one who is leaving is taken; and there is one as long as
/// the endpoint's own account says so.
#[test]
fn places_are_used_from_the_first_on() {
    let mut random = 5u64;
    let mut below = move |limit: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % limit
    };
    let mut world = connected(2);
    world.peer(1).reconnect = false;
    let mut open = vec![world.peer(1).sessions[&0]];
    let (mut full, mut taken_over) = (0, 0);
    for _ in 0..2_000 {
        let now = world.cluster.now(1);
        let node = world.cluster.node(1);
        match below(5) {
            0..3 => {
                let used: Vec<_> =
                    node.endpoint.client_sessions().map(|session| session.id.index).collect();
                let free = (0..common::SESSIONS as u32).find(|index| !used.contains(index));
                let new = node.endpoint.connect(now, address(0));
                let live = |index| open.iter().any(|open| open.index == index);
                let leaving = used.iter().copied().find(|index| !live(*index));
                assert_eq!(new.map(|new| new.index), free.or(leaving), "of {used:?}");
                full += usize::from(new.is_none());
                taken_over += usize::from(free.is_none() && new.is_some());
                open.extend(new);
            }
            3 if !open.is_empty() => {
                let session = open.swap_remove(below(open.len()));
                node.endpoint.disconnect(now, &mut node.device, &mut node.actor, session);
            }
            _ => run(&mut world, Duration::from_micros(below(50) as u64)),
        }
    }
    assert!(full > 100 && taken_over > 100, "{full} and {taken_over} of 2,000");
}

#[test]
fn a_full_server_says_so_and_takes_the_next_when_one_leaves() {
    let nodes = common::SESSIONS + 2;
    let mut world = connected(nodes);
    let refused: Vec<_> = (1..nodes)
        .filter(|node| closed(&mut world, *node, Side::Client, Closed::NoSessions))
        .collect();
    assert_eq!(refused.len(), 1);
    let leaver = (1..nodes).find(|node| !refused.contains(node)).expect("one that has a session");
    world.peer(leaver).reconnect = false;
    let session = world.peer(leaver).sessions[&0];
    let now = world.cluster.now(leaver);
    let node = world.cluster.node(leaver);
    node.endpoint.disconnect(now, &mut node.device, &mut node.actor, session);
    run(&mut world, MS(100));
    let session = world.peer(refused[0]).sessions[&0];
    assert!(world.cluster.node(refused[0]).endpoint.is_up(session));
}

/// One address with many sessions leaves places to others, and is told why it gets no more.
#[test]
fn an_address_has_its_share_of_sessions() {
    const BOUND: u32 = 3;
    for key in [None, Some(Key::new(&[1; 32]).expect("long enough"))] {
        let mut world = World::with(3, Faults::NONE, 3, |_, config| {
            (config.sessions_per_address, config.key) = (BOUND, key);
            Clock::TRUE
        });
        world.peer(1).reconnect = false;
        world.peer(2).wanted.insert(0);
        let now = world.cluster.now(1);
        let endpoint = &mut world.cluster.node(1).endpoint;
        let asked = [(); common::SESSIONS].map(|()| endpoint.connect(now, address(0)).unwrap());
        run(&mut world, MS(30));
        let up = asked.map(|session| world.cluster.node(1).endpoint.is_up(session));
        assert_eq!(up.iter().filter(|up| **up).count(), BOUND as usize);
        assert!(closed(&mut world, 1, Side::Client, Closed::AddressFull { bound: BOUND }));
        // Another address has a place, and the first one has another when it gives one back.
        let id = world.peer(2).plan(Plan { to: 0, ..Plan::default() });
        world.finish(5);
        assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
        let now = world.cluster.now(1);
        let node = world.cluster.node(1);
        let leaving = asked[up.iter().position(|up| *up).expect("one is open")];
        node.endpoint.disconnect(now, &mut node.device, &mut node.actor, leaving);
        let again = node.endpoint.connect(now, address(0)).expect("room");
        run(&mut world, MS(100));
        assert!(world.cluster.node(1).endpoint.is_up(again));
    }
}

#[test]
fn nobody_there_is_unreachable() {
    let mut world = World::new(3, Faults::NONE, 1);
    world.peer(0).wanted.insert(9);
    run(&mut world, MS(1_600));
    assert!(closed(&mut world, 0, Side::Client, Closed::Unreachable));
}

/// Late copies of hellos of earlier uses neither end the session in use nor leave one behind.
#[test]
fn replayed_handshakes_do_no_harm() {
    let mut world = connected(2);
    let faults = Faults {
        duplicate: 500_000,
        replay: 1_000_000,
        replay_after_max: Duration::from_secs(3),
        loss: 200_000,
        ..Faults::NONE
    };
    world.cluster.network().set_faults(faults);
    for _ in 0..30 {
        run(&mut world, MS(100));
        let now = world.cluster.now(1);
        if let Some(&session) = world.peer(1).sessions.get(&0) {
            let node = world.cluster.node(1);
            node.endpoint.disconnect(now, &mut node.device, &mut node.actor, session);
        }
    }
    world.cluster.network().set_faults(Faults::NONE);
    run(&mut world, MS(200));
    world.peer(1).events.clear();
    let id = world.peer(1).plan(Plan { body_bytes: 10_000, ..Plan::default() });
    // The last replays arrive meanwhile. Sessions whose goodbye was lost live to their lease.
    run(&mut world, Duration::from_secs(14));
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    let lost = world
        .peer(1)
        .events
        .iter()
        .filter(|(_, _, event)| matches!(event, SessionEvent::Closed(_)));
    assert_eq!(lost.count(), 0, "the session in use was not ended");
    assert_eq!(world.cluster.node(0).endpoint.server_sessions_open(), 1);
    world.settle();
}

#[test]
fn sizes_of_datagrams_are_agreed_on() {
    let mut world = World::with(4, Faults::NONE, 2, |node, config| {
        if node == 1 {
            config.payload_bytes_max = 1_024;
            config.slots_per_session = 4;
        } else {
            config.payload_bytes_max = DATAGRAM_BYTES as u32 - 48;
        }
        Clock::TRUE
    });
    for from in 0..2 {
        let work = Work { answer_bytes: 50_000, ..Work::default() };
        let plan = Plan { to: 1 - from, work, body_bytes: 50_000, room: 50_000, ..Plan::default() };
        world.peer(from).plan(plan);
    }
    world.finish(2);
    assert_eq!(world.oracle.borrow().answered_ok(), 2);
    world.settle();
}

/// A client that starts again under the number of its former life is another one all the same: its
/// calls are executed, and what its former life asked for is not what they get.
#[test]
fn a_reused_incarnation_is_another_life() {
    for key in [None, Some(Key::new(&[1; 32]).expect("long enough"))] {
        let mut world = World::with(3, Faults::NONE, 2, |_, config| {
            config.key = key;
            Clock::TRUE
        });
        world.peer(1).wanted.insert(0);
        run(&mut world, MS(5));
        // The former life has used its session's place more often than the next one will.
        for _ in 0..3 {
            let session = world.peer(1).sessions[&0];
            let now = world.cluster.now(1);
            let node = world.cluster.node(1);
            node.endpoint.disconnect(now, &mut node.device, &mut node.actor, session);
            run(&mut world, MS(50));
        }
        let before = world.peer(1).plan(Plan { body_bytes: 100, ..Plan::default() });
        world.finish(5);
        assert_eq!(world.oracle.borrow().end_of(before), Some(OK));
        let incarnation = world.cluster.node(1).endpoint.config().incarnation;
        world.restart_as(1, Clock::TRUE, |config| {
            (config.incarnation, config.secret, config.key) = (incarnation, [9; 16], key);
        });
        let ids: Vec<_> = (0..20).map(|_| world.peer(1).plan(Plan::default())).collect();
        world.finish(5);
        for id in ids {
            assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
        }
        assert!(closed(&mut world, 0, Side::Server, Closed::Superseded));
        world.settle();
    }
}

/// The answer to a hello of a former life, late, under the same number and the same name of the
/// session: it speaks of a session whose request numbers are used up.
#[test]
fn a_late_answer_to_a_former_life_opens_nothing() {
    let mut world = World::new(3, Faults::NONE, 2);
    world.cluster.network().record_from(Some(address(0)));
    world.cluster.network().record(true);
    world.peer(1).wanted.insert(0);
    run(&mut world, MS(5));
    let recorded = world.cluster.network().recorded();
    world.cluster.network().record(false);
    let is_ack = |bytes: &[u8]| {
        Header::parse(bytes, Crc32c::detect()).is_ok_and(|header| header.kind == Kind::HelloAck)
    };
    let (from, to, ack) =
        recorded.iter().find(|(_, _, bytes)| is_ack(bytes)).expect("its hello was answered");
    let before = world.peer(1).plan(Plan { body_bytes: 100, ..Plan::default() });
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(before), Some(OK));
    let incarnation = world.cluster.node(1).endpoint.config().incarnation;
    world.cluster.network().set_cut(address(1), address(0), true);
    world.restart_as(1, Clock::TRUE, |config| {
        (config.incarnation, config.secret) = (incarnation, [9; 16]);
    });
    let after = world.peer(1).plan(Plan { body_bytes: 100, ..Plan::default() });
    run(&mut world, MS(1));
    world.cluster.network().inject(*from, *to, ack);
    run(&mut world, MS(1));
    assert_eq!(world.cluster.node(1).endpoint.counters().stale, 1, "the name is the same");
    world.cluster.network().set_cut(address(1), address(0), false);
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(after), Some(OK));
    world.settle();
}
