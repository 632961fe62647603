//! Over a wire in memory that has hardly any room: what the device does not take now leaves in a
//! later poll, and nothing is lost that a timer would have to repair.

use dmrpc_host as _;

mod common;

use common::actor::{Peer, Plan};
use common::{DATAGRAM_BYTES, End, SharedOracle, Work, address, size_of};
use dmrpc_core::endpoint::{Config, Endpoint};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::message::Status;
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

struct Pair {
    nodes: [(Endpoint<'static>, MemoryDevice, Peer); 2],
    now: Instant,
}

impl Pair {
    fn new(oracle: &SharedOracle, bursts: usize) -> Self {
        let (a, b) = pair(address(0), address(1), DATAGRAM_BYTES, bursts);
        let node = |index: usize, device| {
            let config = Config::new(index as u64 + 1, DATAGRAM_BYTES);
            let storage = storage::take(size_of(&config));
            let endpoint = Endpoint::new(config, storage, Instant::ZERO).expect("the defaults");
            (endpoint, device, Peer::new(index, index as u64, oracle.clone()))
        };
        Self { nodes: [node(0, a), node(1, b)], now: Instant::ZERO }
    }

    /// Polls the first node three times as often as the second, whose answers so pile up.
    fn step(&mut self) {
        for index in [0, 0, 0, 1] {
            self.now = self.now + Duration::from_micros(1);
            let (endpoint, device, peer) = &mut self.nodes[index];
            endpoint.poll(self.now, device, peer);
            peer.act_on(self.now, endpoint);
        }
    }
}

#[test]
fn a_full_device_loses_nothing() {
    let oracle = SharedOracle::default();
    let mut world = Pair::new(&oracle, 1);
    for call in 0..40u32 {
        let answer_bytes = if call % 4 == 0 { 200_000 } else { 50 };
        let body_bytes = if call % 3 == 0 { 150_000 } else { 20 };
        let work = Work { answer_bytes, delay_us: call % 2 * 30, ..Work::default() };
        world.nodes[0].2.plan(Plan {
            to: 1,
            work,
            body_bytes,
            room: answer_bytes,
            ..Plan::default()
        });
    }
    for _ in 0..200_000 {
        if oracle.borrow().open() == 0 {
            break;
        }
        world.step();
    }
    let ok = End::Answered(Status::OK);
    assert_eq!(oracle.borrow().count(|end| end == ok), 40);
    let full = world.nodes.iter().map(|node| node.0.counters().device_full).sum::<u64>();
    assert!(full > 0, "the device was full at times");
}
