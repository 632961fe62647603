//! Long messages of which the rest of a burst is lost and comes again, while nothing before it is
//! missing.

use dmrpc_host as _;

mod bulk;

use std::net::SocketAddrV4;

use bulk::World;
use dmrpc_core::device::{Capabilities, Device, Rx};
use dmrpc_core::endpoint::Config;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::wire::packet::{REQUEST, RESPONSE};
use dmrpc_sim::memory::{MemoryDevice, MemoryRx, MemoryTx};

/// Packets after which the rest of a burst is lost once.
const LOST_AFTER: u64 = 40;

/// A device that loses the rest of a burst now and then.
struct Lossy {
    device: MemoryDevice,
    /// Packets of long messages that came.
    came: u64,
    /// Bursts that were cut short.
    cut: u64,
}

struct LossyRx<'a> {
    rx: MemoryRx<'a>,
    came: &'a mut u64,
    cut: &'a mut u64,
}

impl Device for Lossy {
    type Rx<'a> = LossyRx<'a>;
    type Tx<'a> = MemoryTx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn split(&mut self) -> (LossyRx<'_>, MemoryTx<'_>) {
        let (rx, tx) = self.device.split();
        (LossyRx { rx, came: &mut self.came, cut: &mut self.cut }, tx)
    }
}

impl Rx for LossyRx<'_> {
    fn receive(&mut self) -> usize {
        let count = self.rx.receive();
        for index in 0..count {
            let kind = self.rx.packet(index).1[1];
            *self.came += u64::from(matches!(kind, REQUEST | RESPONSE));
            if *self.came >= LOST_AFTER * (*self.cut + 1) {
                *self.cut += 1;
                return index;
            }
        }
        count
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        self.rx.packet(index)
    }
}

#[test]
fn what_comes_again_has_its_tag() {
    let key = Some(Key::new(&[7; 32]).expect("long enough"));
    let wrap = |device| Lossy { device, came: 0, cut: 0 };
    let mut world = World::new(wrap, |config| Config { key, ..config }, true);
    for _ in 0..20 {
        world.write_and_read();
    }
    for (endpoint, device) in [&world.client, &world.server].into_iter().zip(&world.devices) {
        let counters = endpoint.counters();
        assert!(device.cut > 20 && counters.packets_resent > 20, "{} cut", device.cut);
        assert_eq!((counters.bad_tag, counters.bad_checksum), (0, 0));
    }
}
