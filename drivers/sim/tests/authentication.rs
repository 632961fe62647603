//! Who gets a session, and whose packets count.

use dmrpc_host as _;

mod common;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use common::actor::Plan;
use common::{End, World, address};
use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::host::{Closed, SessionEvent, Side};
use dmrpc_core::time::Duration;
use dmrpc_core::wire::control::{Features, Hello};
use dmrpc_core::wire::message::Status;
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};
use dmrpc_sim::cluster::Clock;
use dmrpc_sim::faults::Faults;

const MS: fn(u64) -> Duration = Duration::from_millis;
const OK: End = End::Answered(Status::OK);

fn key(fill: u8) -> Option<Key> {
    Some(Key::new(&[fill; 32]).expect("long enough"))
}

/// Two nodes with these keys; node 1 wants a session with node 0.
fn world(keys: [Option<Key>; 2]) -> World {
    let mut world = World::with(5, Faults::NONE, 2, |node, config| {
        config.key = keys[node];
        Clock::TRUE
    });
    world.peer(1).wanted.insert(0);
    world
}

fn run(world: &mut World, span: Duration) {
    let limit = world.cluster.network().now() + span;
    while world.cluster.step(limit) {}
}

fn closed(world: &mut World, node: usize, why: Closed) -> bool {
    world.peer(node).events.iter().any(|(_, _, event)| *event == SessionEvent::Closed(why))
}

fn connected(world: &mut World) -> bool {
    let mut events = world.peer(1).events.iter();
    events.any(|(_, side, event)| {
        *side == Side::Client && matches!(event, SessionEvent::Connected { .. })
    })
}

fn hello(incarnation: u64) -> Hello {
    Hello {
        incarnation,
        session: 0,
        generation: 1,
        payload_bytes_max: 1_400,
        slots: 16,
        window: 32,
        features: Features::PAYLOAD_CHECK,
        nonce: incarnation,
        cookie: 0,
        proof: [0; 16],
    }
}

/// A packet with a right checksum.
fn sealed(mut header: Header, payload: &[u8]) -> Vec<u8> {
    header.flags |= Flags::PAYLOAD_CHECK;
    header.payload = payload.len() as u16;
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(payload);
    header.emit(&mut bytes, Crc32c::detect());
    bytes
}

#[test]
fn the_same_key_opens_sessions_and_tags_every_packet() {
    let mut world = world([key(1), key(1)]);
    run(&mut world, MS(5));
    assert!(connected(&mut world));
    world.cluster.network().record(true);
    let id = world.peer(1).plan(Plan { body_bytes: 20_000, room: 20_000, ..Plan::default() });
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    for (_, _, bytes) in world.cluster.network().recorded() {
        let header = Header::parse(&bytes, Crc32c::detect()).expect("a packet");
        assert!(header.flags.contains(Flags::AUTHENTICATED), "{header:?}");
        assert_ne!(header.tag, 0);
    }
    world.settle();
}

#[test]
fn other_keys_and_none_are_refused_by_name() {
    for keys in [[key(1), key(2)], [key(1), None], [None, key(1)]] {
        let mut world = world(keys);
        run(&mut world, MS(1_600));
        assert!(!connected(&mut world), "{keys:?}");
        assert!(closed(&mut world, 1, Closed::NotAuthenticated), "{keys:?}");
        assert_eq!(world.cluster.node(0).endpoint.server_sessions_open(), 0);
        assert_ne!(world.cluster.node(0).endpoint.counters().bad_tag, 0);
    }
}

/// A session's packets, sent again with any one bit of the header changed and the checksum made
/// right, are dropped and counted: the forger does not have the key.
#[test]
fn forged_packets_of_a_session_are_counted_and_dropped() {
    let mut world = world([key(1), key(1)]);
    run(&mut world, MS(5));
    let network = world.cluster.network().clone();
    network.record(true);
    let id = world.peer(1).plan(Plan { body_bytes: 20_000, room: 20_000, ..Plan::default() });
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    let recorded = network.recorded();
    network.record(false);
    let counts = |world: &mut World| {
        let counters = [0, 1].map(|node| *world.cluster.node(node).endpoint.counters());
        let of = |count: fn(&dmrpc_core::endpoint::Counters) -> u64| {
            counters.iter().map(count).sum::<u64>()
        };
        (of(|c| c.bad_tag), of(|c| c.requests_executed), of(|c| c.calls_completed))
    };
    let before = counts(&mut world);
    let mut forged = 0;
    for (from, to, bytes) in &recorded {
        let mut header = Header::parse(bytes, Crc32c::detect()).expect("a packet");
        // One call later, and one bit of the tag away from the truth.
        header.request += 256;
        for bit in [0, 17, 63] {
            let changed = Header { tag: header.tag ^ 1 << bit, ..header };
            network.inject(*from, *to, &sealed(changed, &bytes[HEADER_BYTES..]));
            forged += 1;
        }
        let bare = Header { tag: 0, flags: header.flags - Flags::AUTHENTICATED, ..header };
        network.inject(*from, *to, &sealed(bare, &bytes[HEADER_BYTES..]));
        forged += 1;
    }
    // Goodbyes and resets, as anybody could write them.
    for kind in [Kind::Bye, Kind::Done, Kind::Cancel, Kind::Ping] {
        let request = recorded.iter().find(|(_, to, _)| *to == address(0)).expect("a request");
        let header = Header::parse(&request.2, Crc32c::detect()).expect("a packet");
        network.inject(address(1), address(0), &sealed(Header { kind, tag: 5, ..header }, &[]));
        forged += 1;
    }
    run(&mut world, MS(20));
    let after = counts(&mut world);
    assert_eq!(after.0 - before.0, forged);
    assert_eq!((after.1, after.2), (before.1, before.2));
    let id = world.peer(1).plan(Plan::default());
    world.finish(1);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK), "the session lives on");
    world.settle();
}

/// Hellos from addresses that their senders do not have: none leaves anything behind, and the
/// places for sessions stay free for honest clients. No key is needed for that.
#[test]
fn a_flood_of_spoofed_hellos_takes_no_session() {
    for keys in [[None, None], [key(1), key(1)]] {
        let mut world = world(keys);
        let network = world.cluster.network().clone();
        for i in 0..10_000u32 {
            let from = SocketAddrV4::new(Ipv4Addr::from_bits(0x0B00_0000 + i), 4000);
            let bytes = hello(i.into()).to_bytes();
            network.inject(from, address(0), &sealed(Header::new(Kind::Hello, 0, 0), &bytes));
        }
        run(&mut world, MS(100));
        let endpoint = &world.cluster.node(0).endpoint;
        let counters = endpoint.counters();
        assert!(counters.challenges + counters.hellos_put_off >= 10_000);
        // The hellos that there is time for: some at once, then a steady rate.
        assert!((256..2_000).contains(&counters.challenges), "{}", counters.challenges);
        assert_eq!(endpoint.server_sessions_open(), 1, "the honest one");
        assert!(connected(&mut world));
    }
}

/// A hello in a client's name with a higher incarnation would end the client's sessions, if its
/// sender received what is sent to that address, or had the key.
#[test]
fn a_forged_hello_of_a_later_life_ends_nothing() {
    for keys in [[None, None], [key(1), key(1)]] {
        let mut world = world(keys);
        run(&mut world, MS(5));
        assert!(connected(&mut world));
        for cookie in [0, 1, u64::MAX] {
            let forged = Hello { cookie, ..hello(u64::MAX) };
            let bytes = sealed(Header::new(Kind::Hello, 0, 0), &forged.to_bytes());
            world.cluster.network().inject(address(1), address(0), &bytes);
        }
        run(&mut world, MS(50));
        assert!(!closed(&mut world, 0, Closed::Superseded));
        let id = world.peer(1).plan(Plan::default());
        world.finish(1);
        assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    }
}

/// Somebody who sees the network, but has not the key, answers challenges and proves nothing.
#[test]
fn a_cookie_without_the_key_is_not_enough() {
    let mut world = world([key(1), key(1)]);
    run(&mut world, MS(5));
    let network = world.cluster.network().clone();
    network.record(true);
    let thief = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 99), 4000);
    let first = sealed(Header::new(Kind::Hello, 0, 0), &hello(7).to_bytes());
    network.inject(thief, address(0), &first);
    run(&mut world, MS(1));
    let cookie = network.recorded().iter().find_map(|(_, to, bytes)| {
        let header = Header::parse(bytes, Crc32c::detect()).ok()?;
        let payload = &bytes[HEADER_BYTES..];
        (*to == thief && header.kind == Kind::Challenge).then(|| {
            dmrpc_core::wire::control::Challenge::parse(payload).expect("a challenge").cookie
        })
    });
    let second = Hello { cookie: cookie.expect("a challenge came"), ..hello(7) };
    let second = sealed(Header::new(Kind::Hello, 0, 0), &second.to_bytes());
    network.inject(thief, address(0), &second);
    run(&mut world, MS(1));
    assert_eq!(world.cluster.node(0).endpoint.server_sessions_open(), 1, "the honest one");
    assert_eq!(world.cluster.node(0).endpoint.counters().bad_tag, 1);
}

/// A reset ends a session only if it answers a question of that session.
#[test]
fn forged_resets_end_nothing() {
    for keys in [[None, None], [key(1), key(1)]] {
        let mut world = world(keys);
        run(&mut world, MS(5));
        let network = world.cluster.network().clone();
        for session in 0..4 {
            for request in [0, 1 << 63, u64::MAX] {
                for generation in server_generations(&mut world) {
                    let reset = Header { request, ..Header::new(Kind::Reset, session, generation) };
                    network.inject(address(0), address(1), &sealed(reset, &[]));
                }
            }
        }
        run(&mut world, MS(50));
        assert!(!closed(&mut world, 1, Closed::PeerRestarted));
        let id = world.peer(1).plan(Plan::default());
        world.finish(1);
        assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    }
}

/// Generations that packets of the session with node 0 name: read off the wire.
fn server_generations(world: &mut World) -> Vec<u32> {
    let network = world.cluster.network().clone();
    network.record(true);
    let id = world.peer(1).plan(Plan::default());
    world.finish(1);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    let recorded = network.recorded();
    network.record(false);
    let to_server = recorded.iter().filter(|(_, to, _)| *to == address(0));
    to_server.map(|(_, _, bytes)| u32::from_le_bytes(bytes[8..12].try_into().unwrap())).collect()
}

/// Packets of an earlier session, sent again in a later one, are not of that one.
#[test]
fn replays_into_another_session_are_refused() {
    let mut world = world([key(1), key(1)]);
    run(&mut world, MS(5));
    let network = world.cluster.network().clone();
    network.record(true);
    let id = world.peer(1).plan(Plan { body_bytes: 5_000, ..Plan::default() });
    world.finish(1);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    let recorded = network.recorded();
    network.record(false);
    world.restart_as(0, Clock::TRUE, |config| config.key = key(1));
    world.peer(1).events.clear();
    run(&mut world, MS(600));
    assert!(closed(&mut world, 1, Closed::PeerRestarted));
    let executed = world.cluster.node(0).endpoint.counters().requests_executed;
    for (from, to, bytes) in recorded {
        network.inject(from, to, &bytes);
        // The same under the new session's name.
        let mut header = Header::parse(&bytes, Crc32c::detect()).expect("a packet");
        for generation in server_generations(&mut world) {
            header.generation = generation;
            network.inject(from, to, &sealed(header, &bytes[HEADER_BYTES..]));
        }
    }
    let asked = world.oracle.borrow().calls.len() as u64;
    run(&mut world, MS(20));
    let now = world.cluster.node(0).endpoint.counters().requests_executed;
    assert_eq!(now - executed, asked - 1, "only what was asked since");
}

/// Where packets are copied under way, answering each copy would make ever more of them.
#[test]
fn a_challenge_is_answered_once() {
    let mut world = world([None, None]);
    let network = world.cluster.network().clone();
    network.record(true);
    // The first hello arrives, its challenge comes back, and what answers that gets lost.
    let is_challenge = |bytes: &[u8]| bytes[1] == Kind::Challenge as u8;
    let limit = network.now() + MS(10);
    let mut before = Vec::new();
    while !before.iter().any(|(_, _, bytes): &(_, _, Vec<u8>)| is_challenge(bytes)) {
        assert!(world.cluster.step(limit), "nobody was challenged");
        before.extend(network.recorded());
    }
    network.set_cut(address(1), address(0), true);
    run(&mut world, Duration::from_micros(10));
    before.extend(network.recorded());
    let hellos = |packets: &[(SocketAddrV4, SocketAddrV4, Vec<u8>)]| {
        let is_hello = |bytes: &[u8]| bytes[1] == Kind::Hello as u8;
        packets.iter().filter(|(from, _, bytes)| *from == address(1) && is_hello(bytes)).count()
    };
    assert_eq!(hellos(&before), 2);
    let challenge = before.iter().find(|(_, _, bytes)| is_challenge(bytes));
    let (from, to, challenge) = challenge.expect("it was challenged").clone();
    for _ in 0..50 {
        network.inject(from, to, &challenge);
    }
    run(&mut world, MS(1));
    assert_eq!(hellos(&network.recorded()), 0);
    // The timer says it again, so the session comes about.
    network.set_cut(address(1), address(0), false);
    run(&mut world, MS(100));
    assert!(connected(&mut world));
}

/// The tags of usual packets take request number and slot for a nonce: whatever is sent again for
/// them, with losses, deadlines and cancellations, is the same bytes, or is not usual.
#[test]
fn usual_packets_of_one_number_are_the_same_bytes() {
    let faults = Faults { loss: 100_000, duplicate: 50_000, ..Faults::NONE };
    let mut world = World::with(11, faults, 2, |_, config| {
        config.key = key(1);
        Clock::TRUE
    });
    for node in 0..2 {
        // Some are refused, and come again under the next number.
        world.peer(node).busy = 50_000;
    }
    let network = world.cluster.network().clone();
    network.record(true);
    for i in 0..600u32 {
        let (from, to) = ((i % 2) as usize, ((i + 1) % 2) as usize);
        world.peer(from).plan(Plan {
            to,
            body_bytes: if i % 3 == 0 { 700 } else { i % 60 },
            room: 2_000 * (i % 2),
            at: network.now() + MS(u64::from(i) / 2),
            deadline: Some(MS(200)),
            cancel_after: (i % 7 == 0).then(|| MS(1)),
            ..Plan::default()
        });
    }
    world.finish(20);
    for node in 0..2 {
        // The mask of an answer's tag is kept from the request, unless that was sent again.
        let counters = world.cluster.node(node).endpoint.counters();
        assert_eq!(counters.bad_tag, 0, "node {node}");
        assert!(counters.packets_resent > 20, "node {node}");
    }
    let mut seen = HashMap::new();
    let (mut again, mut otherwise) = (0, 0);
    for (from, to, bytes) in network.recorded() {
        let header = Header::parse(&bytes, Crc32c::detect()).expect("a packet");
        let whole = header.message == u32::from(header.payload);
        if !matches!(header.kind, Kind::Request | Kind::Response) || !whole {
            continue;
        }
        let number = (header.kind, header.session, header.generation, header.request, header.slot);
        let usual = header.flags == Flags::PAYLOAD_CHECK | Flags::AUTHENTICATED;
        if !usual || header.grant != 0 {
            let first = seen.get(&format!("{from} {to} {number:?}"));
            otherwise += u32::from(first.is_some_and(|first| *first != bytes));
            continue;
        }
        if let Some(first) = seen.insert(format!("{from} {to} {number:?}"), bytes.clone()) {
            assert_eq!(first, bytes, "two packets of {number:?}");
            again += 1;
        }
    }
    assert!(again > 20, "only {again} were sent again as they were");
    assert!(otherwise > 20, "only {otherwise} were sent again otherwise");
    world.settle();
}
