//! Bytes that no honest endpoint sends: noise, and real packets with fields changed and the
//! checksum made right again. Nothing panics, and honest calls go on.

use dmrpc_host as _;

mod common;

use common::actor::Plan;
use common::{Work, World, address};
use dmrpc_core::time::Duration;
use dmrpc_sim::faults::Faults;
use dmrpc_sim::forge;
use dmrpc_sim::random::Random;
use proptest::prelude::*;

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    forge::change(bytes, common::DATAGRAM_BYTES, |bound| random.below(bound));
    forge::seal(bytes);
}

/// Two honest nodes; what they send is also sent mutated, from either's address. A mutated packet
/// may well end or spoil a call: only panics and leaks count here, which the hosts look for.
fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new(seed, Faults::NONE, 2);
    world.peer(0).lenient();
    world.peer(1).lenient();
    for node in 0..2 {
        let start = world.cluster.now(node);
        for _ in 0..40 {
            let answer_bytes = random.below(6_000) as u32;
            let delay_us = random.below(500) as u32;
            let work = Work { answer_bytes, delay_us, ..Work::default() };
            let body_bytes = random.below(6_000) as u32;
            let at = start + Duration::from_nanos(random.below(20_000_000));
            let plan =
                Plan { to: 1 - node, work, body_bytes, room: answer_bytes, at, ..Plan::default() };
            world.peer(node).plan(plan);
        }
    }
    let network = world.cluster.network().clone();
    network.record(true);
    let limit = network.now() + Duration::from_millis(40);
    while world.cluster.step(limit) {
        for (from, to, mut bytes) in network.recorded() {
            if random.below(4) == 0 {
                mutate(&mut random, &mut bytes);
                network.record(false);
                network.inject(from, to, &bytes);
                network.record(true);
            }
        }
    }
}

#[test]
fn mutated_packets_do_not_panic() {
    for seed in 0..60 {
        run(seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn noise_does_not_panic(
        packets in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..50),
        version in any::<bool>(),
    ) {
        let mut world = World::new(1, Faults::NONE, 2);
        world.peer(0).wanted.insert(1);
        let limit = world.cluster.network().now() + Duration::from_millis(5);
        while world.cluster.step(limit) {}
        let id = world.peer(0).plan(Plan { to: 1, body_bytes: 5_000, ..Plan::default() });
        for (seal_it, mut bytes) in packets {
            if version && bytes.len() > 4 {
                (bytes[0], bytes[1], bytes[3]) = (1, bytes[1] % 16, 0);
                bytes[4] %= 4;
            }
            if seal_it {
                forge::seal(&mut bytes);
            }
            world.cluster.network().inject(address(0), address(1), &bytes);
            world.cluster.network().inject(address(1), address(0), &bytes);
        }
        world.finish(20);
        prop_assert!(world.oracle.borrow().end_of(id).is_some());
    }
}
