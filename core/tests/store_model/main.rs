//! The store against a plain model: a `Vec<u8>` for each region, reference and pin.

mod ops;
#[path = "../store_common/mod.rs"]
mod store_common;
mod world;

use dmrpc_core::memory::Plain;
use dmrpc_core::store::{Config, Store};
use ops::{Op, family_op, op};
use proptest::prelude::*;
use store_common::{SMALL, dirty_pool};
use world::World;

fn simulate(config: &Config, ops: &[Op], order: usize) {
    let mut pool = dirty_pool(config);
    let store = Store::format(Plain::new(&mut pool), config).expect("it fits");
    let mut world = World::new(store);
    world.run(&Op::Join);
    world.run(&Op::Join);
    for (n, op) in ops.iter().enumerate() {
        world.run(op);
        if n % 5 == 0 {
            world.compare();
        }
    }
    world.compare();
    world.wind_up(order);
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_plain_vectors(ops in prop::collection::vec(op(), 1..160), order in 0usize..3) {
        simulate(&SMALL, &ops, order);
    }

    #[test]
    fn agrees_with_plain_vectors_when_nearly_everything_is_short(
        ops in prop::collection::vec(op(), 1..200),
        order in 0usize..3,
    ) {
        let config = Config {
            frames: 48,
            nodes: 20,
            versions: 8,
            regions: 7,
            entries: 7,
            holders: 4,
            pins: 3,
            stages: 2,
            detached_max: 2,
            ..SMALL
        };
        simulate(&config, &ops, order);
    }

    #[test]
    fn agrees_with_plain_vectors_in_chains_and_fans(
        ops in prop::collection::vec(family_op(), 1..250),
        order in 0usize..3,
    ) {
        simulate(&SMALL, &ops, order);
    }
}
