//! What encryption keeps: nothing can be read, changed, repeated or turned off on the way.

mod common;

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};

use common::actor::Plan;
use common::{End, World, address, fill};
use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::cipher::{PacketKey, PortableKey};
use dmrpc_core::endpoint::host::{Closed, SessionEvent, Side};
use dmrpc_core::endpoint::{Config, ConfigError, Counters};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::message::Status;
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind, SEALED};
use dmrpc_host::cipher::FastKey;
use dmrpc_sim::cluster::Clock;
use dmrpc_sim::effects::Fault;
use dmrpc_sim::faults::Faults;
use dmrpc_sim::network::Network;
use dmrpc_sim::storage;
use dmrpc_sim::watched::Watched;

const MS: fn(u64) -> Duration = Duration::from_millis;
const OK: End = End::Answered(Status::OK);
/// A call of several packets there and back.
const LONG: u32 = 20_000;

fn key(fill: u8) -> Option<Key> {
    Some(Key::new(&[fill; 32]).expect("long enough"))
}

/// Two nodes with these keys, that encrypt or do not; node 1 wants a session with node 0.
fn world_of(faults: Faults, keys: [u8; 2], encrypt: [bool; 2]) -> World {
    let mut world = World::with(5, faults, 2, |node, config| {
        config.key = key(keys[node]);
        config.encrypt = encrypt[node];
        Clock::TRUE
    });
    world.peer(1).wanted.insert(0);
    world
}

fn world() -> World {
    world_of(Faults::NONE, [1; 2], [true; 2])
}

fn run(world: &mut World, span: Duration) {
    let limit = world.cluster.network().now() + span;
    while world.cluster.step(limit) {}
}

fn network(world: &World) -> Network {
    world.cluster.network().clone()
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

/// A call there and back that must work. Returns its id.
fn call(world: &mut World, bytes: u32) -> u64 {
    let plan = Plan { body_bytes: bytes, room: bytes, ..Plan::default() };
    let id = world.peer(1).plan(plan);
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK));
    id
}

/// The sum of a counter of both nodes.
fn both(world: &mut World, of: impl Fn(&Counters) -> u64) -> u64 {
    (0..2).map(|node| of(world.cluster.node(node).endpoint.counters())).sum()
}

fn dropped(counters: &Counters) -> u64 {
    counters.bad_tag
        + counters.bad_length
        + counters.bad_version
        + counters.bad_checksum
        + counters.malformed
        + counters.unknown_session
        + counters.stale
        + counters.duplicates
}

#[test]
fn nothing_of_a_message_can_be_read_on_the_way() {
    let mut world = world();
    let network = network(&world);
    network.record(true);
    run(&mut world, MS(5));
    assert!(connected(&mut world));
    let ids = [call(&mut world, LONG), call(&mut world, 32)];
    // Pings, answers to them, goodbyes.
    run(&mut world, MS(2_000));
    world.settle();
    let recorded = network.recorded();
    let mut encrypted = 0;
    for (_, _, bytes) in &recorded {
        let greeting = [Kind::Hello, Kind::HelloAck, Kind::Challenge];
        if greeting.iter().any(|kind| bytes[1] == *kind as u8) {
            continue;
        }
        assert_ne!(bytes[1] & SEALED, 0, "{:?}", &bytes[..HEADER_BYTES]);
        encrypted += 1;
    }
    assert!(encrypted > 40, "{encrypted}");
    // Twelve bytes of a body in a row, wherever they begin, are nowhere. (Eight may be zeros.)
    let wire: BTreeSet<[u8; 12]> = recorded
        .iter()
        .flat_map(|(_, _, bytes)| bytes.windows(12).map(|window| window.try_into().expect("12")))
        .collect();
    for id in ids {
        for seed in [id, !id] {
            let mut body = vec![0; LONG as usize];
            fill(seed, 0, &mut body);
            assert!(body.windows(12).all(|window| !wire.contains(window)), "a body of {id}");
        }
    }
}

/// The same search finds what is there when nothing is encrypted.
#[test]
fn what_is_not_encrypted_is_found() {
    let mut world = world_of(Faults::NONE, [1; 2], [false; 2]);
    let network = network(&world);
    network.record(true);
    let id = call(&mut world, 32);
    let mut body = [0; 32];
    fill(id, 0, &mut body);
    let recorded = network.recorded();
    assert!(recorded.iter().any(|(_, _, bytes)| bytes.windows(32).any(|part| part == body)));
}

/// Whatever is lost, copied, late or spoilt: no number is used for two packets of a session and
/// direction, and no two packets look the same.
#[test]
fn no_nonce_is_used_twice() {
    let mut random = dmrpc_sim::random::Random::new(3);
    let (mut resent, mut seen) = (0, 0);
    for _ in 0..12 {
        let faults = Faults { loss: 100_000, duplicate: 50_000, ..Faults::drawn(&mut random) };
        let mut world = world_of(faults, [1; 2], [true; 2]);
        let network = network(&world);
        network.record(true);
        for _ in 0..20 {
            world.peer(1).plan(Plan { body_bytes: LONG, room: LONG, ..Plan::default() });
            world.peer(1).plan(Plan { body_bytes: 32, room: 32, ..Plan::default() });
        }
        world.finish(60);
        let mut sent = BTreeMap::new();
        for (from, to, bytes) in network.recorded() {
            if bytes[1] & SEALED == 0 {
                continue;
            }
            let name: [u8; 16] = [&bytes[4..12], &bytes[16..24]].concat().try_into().expect("16");
            let before = sent.insert((from, to, name), bytes.clone());
            assert!(before.is_none_or(|before| before == bytes), "a number of its own");
        }
        seen += sent.len();
        resent += both(&mut world, |counters| counters.packets_resent);
    }
    assert!(resent > 100 && seen > 5_000, "{resent} of {seen} packets were sent again");
}

/// Every bit of a request, of a part of a message and of a ping: flipped, it is dropped, counted,
/// and changes nothing; the packet itself is still taken.
#[test]
fn every_flipped_bit_is_dropped_and_counted() {
    let mut world = world();
    run(&mut world, MS(5));
    let network = network(&world);
    network.record_from(Some(address(1)));
    // Lost on the way, so that each is still good for once.
    network.set_cut(address(1), address(0), true);
    let id = world.peer(1).plan(Plan { body_bytes: 2_000, room: 2_000, ..Plan::default() });
    run(&mut world, MS(400));
    network.set_cut(address(1), address(0), false);
    let recorded = network.recorded();
    network.record(false);
    let kinds = [Kind::Request as u8, Kind::Ping as u8];
    let (mut tried, before) = (0, both(&mut world, dropped));
    for kind in kinds {
        let (from, to, bytes) =
            recorded.iter().find(|(_, _, bytes)| bytes[1] == kind | SEALED).expect("one of each");
        let executed = both(&mut world, |counters| counters.requests_executed);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            network.inject(*from, *to, &changed);
            tried += 1;
            if tried % 64 == 0 {
                run(&mut world, Duration::from_micros(50));
            }
        }
        run(&mut world, Duration::from_micros(100));
        assert_eq!(both(&mut world, |counters| counters.requests_executed), executed);
    }
    let counted = both(&mut world, dropped) - before;
    assert!(counted >= tried as u64, "{counted} of {tried}");
    world.finish(5);
    assert_eq!(world.oracle.borrow().end_of(id), Some(OK), "the session lives on");
    world.settle();
}

#[test]
fn replays_and_reflections_are_dropped() {
    let mut world = world();
    run(&mut world, MS(5));
    let network = network(&world);
    network.record(true);
    call(&mut world, LONG);
    let recorded: Vec<_> =
        network.recorded().into_iter().filter(|(_, _, bytes)| bytes[1] & SEALED != 0).collect();
    network.record(false);
    let executed = both(&mut world, |counters| counters.requests_executed);
    let before = both(&mut world, |counters| counters.duplicates);
    for (from, to, bytes) in &recorded {
        network.inject(*from, *to, bytes);
        run(&mut world, MS(1));
    }
    let again = both(&mut world, |counters| counters.duplicates) - before;
    assert_eq!(again, recorded.len() as u64, "each is known");
    // Back to where they came from, under the names that their sender gives the session.
    let refused = |counters: &Counters| counters.bad_tag + counters.duplicates;
    let before = both(&mut world, refused);
    let name = |wanted| {
        let mut towards = recorded.iter().filter(|(_, to, _)| *to == wanted);
        towards.next().map(|(_, _, bytes)| bytes[4..12].to_vec()).expect("both ways")
    };
    let names = [name(address(0)), name(address(1))];
    let mut turned = 0;
    for (from, to, bytes) in &recorded {
        let mut bytes = bytes.clone();
        bytes[4..12].copy_from_slice(&names[usize::from(*from == address(1))]);
        bytes[1] ^= Kind::Request as u8 ^ Kind::Response as u8;
        if [Kind::Request, Kind::Response].iter().any(|kind| *kind as u8 | SEALED == bytes[1]) {
            network.inject(*to, *from, &bytes);
            turned += 1;
        }
    }
    run(&mut world, MS(1));
    assert_eq!(both(&mut world, refused) - before, turned, "forged, or of a number that was there");
    assert_eq!(both(&mut world, |counters| counters.requests_executed), executed);
    call(&mut world, 32);
    world.settle();
}

/// One end that wants encryption and one that does not have no session, and are told why.
#[test]
fn there_is_no_silent_downgrade() {
    for encrypt in [[true, false], [false, true]] {
        let mut world = world_of(Faults::NONE, [1; 2], encrypt);
        run(&mut world, MS(1_600));
        assert!(!connected(&mut world), "{encrypt:?}");
        assert!(closed(&mut world, 1, Closed::Encryption), "{encrypt:?}");
        assert_eq!(world.cluster.node(0).endpoint.server_sessions_open(), 0);
    }
    let mut world = world_of(Faults::NONE, [1, 2], [true; 2]);
    run(&mut world, MS(1_600));
    assert!(closed(&mut world, 1, Closed::NotAuthenticated), "another key");
}

/// Somebody on the way takes the wish for encryption out of greetings, or puts packets in clear
/// into a session that encrypts.
#[test]
fn who_is_on_the_way_cannot_turn_it_off() {
    for kind in [Kind::Hello, Kind::HelloAck] {
        let mut world = world();
        let network = network(&world);
        network.record(true);
        let (client, server) = (address(1), address(0));
        let (from, to) = if kind == Kind::Hello { (client, server) } else { (server, client) };
        network.set_cut(from, to, true);
        let mut changed = 0;
        for _ in 0..200 {
            world.cluster.step(network.now() + MS(100));
            for (sender, _, mut bytes) in network.recorded() {
                if sender != from {
                    continue;
                }
                if bytes[1] == kind as u8 {
                    // Features of a hello, of its answer.
                    let at = HEADER_BYTES + if kind == Kind::Hello { 24 } else { 32 };
                    bytes[at] &= !4;
                    bytes = reseal(&bytes);
                    changed += 1;
                }
                network.set_cut(from, to, false);
                network.inject(from, to, &bytes);
                network.set_cut(from, to, true);
            }
            // What was just put in.
            network.recorded();
        }
        assert!(changed > 0 && !connected(&mut world), "{kind:?} {changed}");
        assert_ne!(both(&mut world, |counters| counters.bad_tag), 0);
    }
    let mut world = world();
    run(&mut world, MS(5));
    let network = network(&world);
    network.record_from(Some(address(1)));
    call(&mut world, 32);
    let recorded = network.recorded();
    let of_session = recorded.iter().find(|(_, _, bytes)| bytes[1] & SEALED != 0).expect("some");
    let word = |at: usize| u32::from_le_bytes(of_session.2[at..at + 4].try_into().expect("4"));
    let executed = both(&mut world, |counters| counters.requests_executed);
    let before = both(&mut world, |counters| counters.bad_tag);
    let flags = [Flags::PAYLOAD_CHECK, Flags::empty(), Flags::AUTHENTICATED];
    let kinds = [Kind::Request, Kind::Ping, Kind::Bye, Kind::Done, Kind::Cancel];
    for flags in flags {
        for kind in kinds {
            let header = Header { flags, request: 1 << 40, ..Header::new(kind, word(4), word(8)) };
            let mut bytes = vec![0; HEADER_BYTES];
            header.emit(&mut bytes, Crc32c::detect());
            network.inject(address(1), address(0), &bytes);
        }
    }
    run(&mut world, MS(1));
    let refused = both(&mut world, |counters| counters.bad_tag) - before;
    assert_eq!(refused, (flags.len() * kinds.len()) as u64);
    assert_eq!(both(&mut world, |counters| counters.requests_executed), executed);
    call(&mut world, 32);
}

/// A packet whose checksum is made right again.
fn reseal(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (header, payload) = bytes.split_first_chunk_mut::<HEADER_BYTES>().expect("a header");
    let check = Crc32c::detect().packet(header, payload);
    header[HEADER_BYTES - 4..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// A server that has restarted has no key of the session, and its client learns of it all the same.
#[test]
fn a_restarted_server_is_noticed_and_met_again() {
    let mut world = world();
    run(&mut world, MS(5));
    let network = network(&world);
    network.record(true);
    call(&mut world, 32);
    let recorded = network.recorded();
    network.record(false);
    world.restart_as(0, Clock::TRUE, |config| (config.key, config.encrypt) = (key(1), true));
    world.peer(1).events.clear();
    run(&mut world, MS(600));
    assert!(closed(&mut world, 1, Closed::PeerRestarted));
    call(&mut world, LONG);
    let executed = both(&mut world, |counters| counters.requests_executed);
    for (from, to, bytes) in recorded {
        network.inject(from, to, &bytes);
    }
    run(&mut world, MS(1));
    assert_eq!(both(&mut world, |counters| counters.requests_executed), executed);
    call(&mut world, 32);
    world.settle();
}

/// One end encrypts by the core's own cipher, the other as programs do, or both so.
#[test]
fn ends_with_different_ciphers_understand_each_other() {
    /// Lets the endpoints to come encrypt by `K`, and looks that they do.
    fn choose<K: PacketKey>(config: &Config) {
        storage::encrypt_by::<K>();
        let room = storage::endpoint(*config, common::size_of(config), Instant::ZERO);
        let room = room.expect("a configuration that works").into_parts().1.expect("encrypts");
        assert_eq!(room.sessions.key_type(), TypeId::of::<K>());
    }
    for fast in [[true, false], [false, true], [true, true]] {
        let faults = Faults { loss: 20_000, duplicate: 20_000, ..Faults::NONE };
        let mut world = World::with(7, faults, 2, |node, config| {
            (config.key, config.encrypt) = (key(1), true);
            match fast[node] {
                true => choose::<FastKey>(config),
                false => choose::<PortableKey>(config),
            }
            Clock::TRUE
        });
        world.peer(1).wanted.insert(0);
        for bytes in [0, 1, 15, 16, 17, 32, 1_000, LONG] {
            call(&mut world, bytes);
        }
        assert!(connected(&mut world), "{fast:?}");
        assert_eq!(both(&mut world, |counters| counters.bad_tag), 0, "{fast:?}");
        world.settle();
    }
    storage::encrypt_by::<PortableKey>();
}

/// Faults that hit encrypted packets which were needed are counted, if the keys tell what is in
/// them, and only then.
#[test]
fn what_faults_do_to_encrypted_packets_is_counted() {
    let effects = || {
        let faults = Faults { loss: 50_000, duplicate: 50_000, corrupt: 200_000, ..Faults::NONE };
        let mut world = world_of(faults, [1; 2], [true; 2]);
        for _ in 0..20 {
            call(&mut world, LONG);
        }
        let effects: BTreeMap<_, _> = network(&world).effects().into_iter().collect();
        [Fault::Loss, Fault::Duplicate, Fault::BitFlip].map(|fault| effects[&fault])
    };
    // Greetings, which are not encrypted, may be lost too.
    let unwatched = effects();
    storage::encrypt_by::<Watched<PortableKey>>();
    let watched = effects();
    storage::encrypt_by::<PortableKey>();
    for (watched, unwatched) in watched.into_iter().zip(unwatched) {
        assert!(unwatched < 4 && watched > 7, "{watched} {unwatched}");
    }
}

#[test]
fn what_cannot_be_encrypted_is_refused_by_name() {
    let mut world = world();
    let mut config = world.config();
    config.encrypt = true;
    let build = |config| storage::endpoint(config, common::size_of(&config), Instant::ZERO).err();
    assert_eq!(build(config), Some(ConfigError::EncryptionWithoutKey));
    config.key = key(1);
    assert_eq!(build(config), None);
    let storage = storage::take(common::size_of(&config));
    let bare = dmrpc_core::endpoint::Endpoint::new(config, storage, Instant::ZERO).err();
    assert!(matches!(bare, Some(ConfigError::CipherRoom { got: (0, 0), .. })), "{bare:?}");
}
