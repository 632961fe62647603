//! A hundred answers at once through one port of the switch.

use dmrpc_core::time::{Duration, Instant};
use dmrpc_sim::link::{Fabric, FabricConfig};

use super::bulk::{World, jain};

const SERVERS: usize = 100;
const BYTES: u32 = 64 << 10;
/// Packets of one answer.
const PACKETS: u32 = (BYTES + 8).div_ceil(1424);
/// Bytes that one answer takes on the wire.
const WIRE_BYTES: u64 = BYTES as u64 + PACKETS as u64 * (48 + 66);
/// Calls to each server in the run.
const ROUNDS: u64 = 40;

/// Everybody answers 64 KiB to one, again and again: each server's next call begins when its last
/// has ended. The port's queue holds 128 KiB.
#[test]
fn answers_of_a_hundred_share_one_port() {
    let config = FabricConfig { queue_bytes: 128 << 10, ..FabricConfig::FAST };
    let mut world = World::new(Fabric::new(3, config), SERVERS, |_| {});
    let start = world.fabric.now();
    let mut begun = vec![start; SERVERS];
    let mut left = vec![ROUNDS; SERVERS];
    // Bytes that each had at the time when the first was through.
    let (mut moved, mut frozen) = (vec![0.0; SERVERS], None);
    let mut longest = Duration::ZERO;
    for server in 0..SERVERS {
        world.read(server, BYTES, server as u64);
    }
    while left.iter().any(|left| *left > 0) {
        let limit = world.fabric.now() + Duration::from_millis(100);
        assert!(world.step(limit), "calls end");
        for ended in world.ended() {
            assert_eq!(ended.bytes, u64::from(BYTES));
            let server = ended.token as usize;
            longest = longest.max(ended.at.since(begun[server]));
            left[server] -= 1;
            if frozen.is_none() {
                moved[server] += f64::from(BYTES);
            }
            if left[server] == 0 {
                frozen.get_or_insert(ended.at);
            } else {
                begun[server] = ended.at;
                world.read(server, BYTES, ended.token);
            }
        }
    }
    let until: Instant = frozen.expect("one was first");
    let busy_ns = moved.iter().sum::<f64>() / f64::from(BYTES) * WIRE_BYTES as f64 * 8.0 / 100.0;
    let goodput = busy_ns / until.since(start).as_nanos() as f64;
    // With all 100 at a time, each takes as long as the bytes of all.
    let ideal_ns = SERVERS as f64 * WIRE_BYTES as f64 * 8.0 / 100.0;
    let slowest = longest.as_nanos() as f64 / ideal_ns;
    let fairness = jain(&moved);
    let counts = world.fabric.counts();
    println!(
        "incast 100 x 64 KiB, queue 128 KiB: {:.1} % of the link, slowest {slowest:.2} x ideal, \
         Jain {fairness:.4}, {} of {} packets dropped, queue at most {} bytes",
        goodput * 100.0,
        counts.dropped,
        counts.sent,
        counts.queued_bytes_max
    );
    assert!(goodput >= 0.90, "{goodput:.3} of the link");
    assert!(slowest <= 10.0, "{slowest:.2} times the ideal");
    assert!(fairness >= 0.95, "Jain's index {fairness:.4}");
}

/// Without shares, the same answers overrun the port.
#[test]
fn without_shares_the_port_overflows() {
    let dropped = |arriving_packets| {
        let config = FabricConfig { queue_bytes: 128 << 10, ..FabricConfig::FAST };
        let adjust = |config: &mut dmrpc_core::endpoint::Config| {
            config.arriving_packets = arriving_packets;
        };
        let mut world = World::new(Fabric::new(3, config), SERVERS, adjust);
        for server in 0..SERVERS {
            world.read(server, BYTES, server as u64);
        }
        let all = |world: &mut World| world.nodes[0].host.ended.len() == SERVERS;
        assert!(world.run(Duration::from_secs(1), all), "calls end");
        world.fabric.counts().dropped
    };
    let (with, without) = (dropped(128), dropped(1 << 20));
    println!("incast, packets dropped of 4,700: {with} with shares, {without} without");
    assert!(with * 5 < without, "{with} and {without}");
}
