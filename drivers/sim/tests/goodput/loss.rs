//! One large message after the other, while packets get lost or late.

use dmrpc_core::time::Duration;
use dmrpc_sim::link::{Fabric, FabricConfig};

use super::bulk::World;

const BYTES: u32 = 8 << 20;
const MESSAGES: u64 = 12;

/// Gbit/s of messages of 8 MiB, read or written one after the other.
fn goodput(config: FabricConfig, write: bool) -> f64 {
    let mut world = World::new(Fabric::new(7, config), 1, |_| {});
    let start = world.fabric.now();
    for token in 0..MESSAGES {
        if write {
            world.write(0, BYTES, token);
        } else {
            world.read(0, BYTES, token);
        }
        let ended = |world: &mut World| !world.nodes[0].host.ended.is_empty();
        assert!(world.run(Duration::from_secs(1), ended), "message {token} ends");
        world.ended();
    }
    let span = world.fabric.now().since(start);
    MESSAGES as f64 * f64::from(BYTES) * 8.0 / span.as_nanos() as f64
}

/// The rows, and the share of the lossless goodput that each must keep.
#[test]
fn large_messages_keep_their_goodput() {
    let late = Duration::from_micros(10);
    let fast = FabricConfig::FAST;
    let rows = [
        ("loss 1e-4", FabricConfig { loss: 100, ..fast }, 0.90),
        ("loss 1e-3", FabricConfig { loss: 1_000, ..fast }, 0.80),
        ("loss 1e-2", FabricConfig { loss: 10_000, ..fast }, 0.40),
        ("5 % up to 10 us late", FabricConfig { late: 50_000, late_by: late, ..fast }, 0.95),
    ];
    for write in [false, true] {
        let op = if write { "write" } else { "read" };
        let lossless = goodput(fast, write);
        println!("{op} 8 MiB, lossless: {lossless:.1} Gbit/s");
        for (name, config, bar) in rows {
            let kept = goodput(config, write) / lossless;
            println!("{op} 8 MiB, {name}: {:.1} % kept, bar {:.0} %", kept * 100.0, bar * 100.0);
            assert!(kept >= bar, "{op} with {name}: {kept:.3} of lossless, needed {bar}");
        }
    }
}
