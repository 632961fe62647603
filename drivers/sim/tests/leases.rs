//! A lease ends when its holder has died, whatever the network still delivers of it; and it does
//! not end while its holder lives, however little of that gets through.

use dmrpc_host as _;

mod common;

use common::actor::Plan;
use common::{Work, World, address};
use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::host::{Closed, SessionEvent, Side};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::packet::{Header, Kind};
use dmrpc_sim::cluster::Clock;
use dmrpc_sim::faults::Faults;

const MS: fn(u64) -> Duration = Duration::from_millis;
const LEASE: Duration = Duration::from_secs(10);
/// Timers are served in ticks.
const TICKS: Duration = Duration::from_millis(1);

fn run(world: &mut World, span: Duration) {
    let limit = world.cluster.network().now() + span;
    while world.cluster.step(limit) {}
}

fn closed(world: &mut World, node: usize, side: Side) -> Option<(Instant, Closed)> {
    world.peer(node).events.iter().find_map(|(at, of, event)| match event {
        SessionEvent::Closed(why) if *of == side => Some((*at, *why)),
        _ => None,
    })
}

/// Two nodes; the second calls the first for a second, short calls and long ones, with pauses in
/// which there is nothing but pings. Everything that is sent is kept.
fn worked(key: Option<Key>) -> World {
    worked_with(key, false)
}

fn worked_with(key: Option<Key>, encrypt: bool) -> World {
    let mut world = World::with(5, Faults::NONE, 2, |_, config| {
        (config.key, config.encrypt) = (key, encrypt);
        Clock::TRUE
    });
    world.cluster.network().record(true);
    world.peer(1).wanted.insert(0);
    for round in 0..5 {
        for body_bytes in [0, 100, 20_000] {
            let work = Work { answer_bytes: body_bytes, ..Work::default() };
            let plan = Plan { to: 0, work, body_bytes, room: 20_000, ..Plan::default() };
            world.peer(1).plan(plan);
        }
        run(&mut world, MS(100 + 40 * round));
    }
    world
}

/// What `from` had sent comes again and again for a minute, in the order in which it was sent and
/// in another, and its last packets most often.
fn haunt(world: &mut World, from: usize) {
    let network = world.cluster.network().clone();
    let all = network.recorded();
    network.record(false);
    let sent: Vec<_> = all.into_iter().filter(|(sender, ..)| *sender == address(from)).collect();
    assert!(sent.len() > 50, "{} packets", sent.len());
    for round in 0..600 {
        let (at, last) = (round * 7 % sent.len(), sent.len() - 1 - round % 10);
        for (sender, receiver, bytes) in [&sent[at], &sent[last], &sent[sent.len() - 1]] {
            network.inject(*sender, *receiver, bytes);
        }
        run(world, MS(100));
    }
}

/// Whatever bit of a session's packets the network turns, its ends do not take it for the end. (The
/// bit that says "encrypted" made a reset of a ping, which nobody had looked at the checksum of.)
#[test]
fn no_flipped_bit_ends_a_session() {
    let key = Key::new(&[1; 32]).expect("long enough");
    for (key, encrypt) in [(None, false), (Some(key), false), (Some(key), true)] {
        let mut world = worked_with(key, encrypt);
        run(&mut world, LEASE);
        let network = world.cluster.network().clone();
        let sent = network.recorded();
        network.record(false);
        for (from, to, bytes) in sent {
            for bit in 0..8 * bytes.len().min(48) {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                network.inject(from, to, &damaged);
            }
            run(&mut world, MS(1));
        }
        run(&mut world, LEASE);
        run(&mut world, LEASE);
        for (node, side) in [(0, Side::Server), (1, Side::Client)] {
            assert_eq!(closed(&mut world, node, side), None, "{side:?}, encrypted: {encrypt}");
        }
    }
}

/// Late packets of a dead client, calls and pings among them, do not renew its lease.
#[test]
fn the_packets_of_a_dead_client_keep_nothing() {
    for key in [None, Some(Key::new(&[1; 32]).expect("long enough"))] {
        let mut world = worked(key);
        let died = world.cluster.network().now();
        drop(world.cluster.crash(1));
        haunt(&mut world, 1);
        let (at, why) = closed(&mut world, 0, Side::Server).expect("a session that is over");
        assert_eq!(why, Closed::LeaseExpired);
        assert!(at <= died + LEASE + TICKS, "{:?} after its death", at.since(died));
        assert!(at.since(died) > MS(9_000), "a lease is a lease: {:?}", at.since(died));
    }
}

/// Late packets of a dead server, answers and pongs among them, do not make it seem alive.
#[test]
fn the_packets_of_a_dead_server_keep_no_call_waiting() {
    for key in [None, Some(Key::new(&[1; 32]).expect("long enough"))] {
        let mut world = worked(key);
        // Its server works on it when it dies, and has said so.
        let work = Work { delay_us: 600_000_000, ..Work::default() };
        world.peer(1).plan(Plan { to: 0, work, ..Plan::default() });
        run(&mut world, MS(300));
        // And it is in the middle of an answer.
        let answer_bytes = 4_000_000;
        let work = Work { answer_bytes, ..Work::default() };
        let id = world.peer(1).plan(Plan { to: 0, work, room: answer_bytes, ..Plan::default() });
        run(&mut world, Duration::from_micros(100));
        assert_eq!(world.oracle.borrow().end_of(id), None, "under way");
        let died = world.cluster.network().now();
        drop(world.cluster.crash(0));
        haunt(&mut world, 0);
        let (at, why) = closed(&mut world, 1, Side::Client).expect("a session that is over");
        assert_eq!(why, Closed::LeaseExpired);
        assert!(at <= died + LEASE + TICKS, "{:?} after its death", at.since(died));
        let events = &world.peer(1).events;
        let suspected = events.iter().find(|(.., event)| *event == SessionEvent::Suspected);
        let (suspected, ..) = suspected.expect("suspected first");
        assert!(suspected.since(died) <= MS(1_000), "{:?}", suspected.since(died));
    }
}

/// A session that is never idle asks for signs of life all the same, or its lease would end.
#[test]
fn a_busy_session_keeps_its_lease() {
    let mut world = World::with(5, Faults::NONE, 2, |node, _| {
        // One clock is ten times as fast as the other, either way.
        Clock { permille: if node == 0 { 10_000 } else { 1_000 }, ..Clock::TRUE }
    });
    world.peer(1).wanted.insert(0);
    for _ in 0..4_000 {
        world.peer(1).plan(Plan::default());
        run(&mut world, MS(5));
    }
    assert_eq!(world.oracle.borrow().answered_ok(), 4_000);
    assert_eq!(closed(&mut world, 0, Side::Server), None);
    assert_eq!(closed(&mut world, 1, Side::Client), None);
}

/// With three packets of ten lost, and others late, nobody who lives is given up.
#[test]
fn losses_end_no_lease() {
    for seed in 0..10 {
        let faults = Faults {
            loss: 300_000,
            duplicate: 300_000,
            straggle: 50_000,
            straggle_max: MS(2_000),
            ..Faults::NONE
        };
        let mut world = World::new(seed, faults, 2);
        world.peer(1).wanted.insert(0);
        run(&mut world, Duration::from_secs(2));
        for round in 0..60 {
            if round % 3 > 0 {
                world.peer(1).plan(Plan::default());
            }
            run(&mut world, MS(1_000));
        }
        assert_eq!(closed(&mut world, 0, Side::Server), None, "seed {seed}");
        assert_eq!(closed(&mut world, 1, Side::Client), None, "seed {seed}");
        world.settle();
    }
}

/// A ping that says a time to come is no proof of anything, and is answered all the same.
#[test]
fn a_ping_from_the_future_shows_nothing() {
    let crc = Crc32c::detect();
    let mut world = worked(None);
    let recorded = world.cluster.network().recorded();
    let ping = |bytes: &[u8]| Header::parse(bytes, crc).ok().filter(|it| it.kind == Kind::Ping);
    let (from, to, mut header) = recorded
        .iter()
        .filter_map(|(from, to, bytes)| Some((*from, *to, ping(bytes)?)))
        .next_back()
        .expect("it has asked");
    assert_ne!(header.message, 0, "it says again what it was told");
    let died = world.cluster.network().now();
    drop(world.cluster.crash(1));
    let stale = world.cluster.node(0).endpoint.counters().stale;
    header.message = header.message.wrapping_add(1 << 30);
    let mut bytes = [0; 48];
    header.emit(&mut bytes, crc);
    for _ in 0..120 {
        world.cluster.network().inject(from, to, &bytes);
        run(&mut world, MS(100));
    }
    assert!(world.cluster.node(0).endpoint.counters().stale > stale + 50);
    let (at, why) = closed(&mut world, 0, Side::Server).expect("a session that is over");
    assert_eq!(why, Closed::LeaseExpired);
    assert!(at <= died + LEASE + TICKS);
}
