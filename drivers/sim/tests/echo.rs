//! Calls on a network without faults: every size, both ways, answered at once or later.

use dmrpc_host as _;

mod common;

use common::actor::Plan;
use common::{End, Work, World};
use dmrpc_core::wire::message::Status;
use dmrpc_sim::faults::Faults;

const SIZES: [u32; 12] =
    [0, 1, 32, 700, 701, 1392, 1393, 4096, 65_536, 1 << 20, (8 << 20) - 1, 8 << 20];

#[test]
fn every_size_both_ways() {
    let mut world = World::new(1, Faults::NONE, 2);
    let mut ids = Vec::new();
    for body_bytes in SIZES {
        for answer_bytes in [0, 32, 768, 5000, body_bytes] {
            let work = Work { answer_bytes, ..Work::default() };
            let plan = Plan { to: 1, work, body_bytes, room: answer_bytes, ..Plan::default() };
            ids.push(world.peer(0).plan(plan));
        }
    }
    world.finish(60);
    for id in ids {
        assert_eq!(world.oracle.borrow().end_of(id), Some(End::Answered(Status::OK)));
    }
    world.settle();
    let counters = *world.cluster.node(1).endpoint.counters();
    assert_eq!(counters.duplicates, 0, "nothing is sent twice on a network without faults");
}
