//! When a grant leaves: with the rest of what a burst brings about, or before it.

use dmrpc_host as _;

mod bulk;

use std::net::{Ipv4Addr, SocketAddrV4};

use bulk::{DATAGRAM_BYTES, World};
use dmrpc_core::device::{Capabilities, Device, Tx};
use dmrpc_core::endpoint::Config;
use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_sim::memory::{MemoryDevice, MemoryRx, MemoryTx, pair};

/// A device that counts how often something is handed over, as a system call would be.
struct Counted {
    device: MemoryDevice,
    pushed: bool,
    handed_over: u64,
}

struct CountedTx<'a> {
    tx: MemoryTx<'a>,
    pushed: &'a mut bool,
    handed_over: &'a mut u64,
}

impl Device for Counted {
    type Rx<'a> = MemoryRx<'a>;
    type Tx<'a> = CountedTx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn split(&mut self) -> (MemoryRx<'_>, CountedTx<'_>) {
        let (rx, tx) = self.device.split();
        (rx, CountedTx { tx, pushed: &mut self.pushed, handed_over: &mut self.handed_over })
    }
}

impl Tx for CountedTx<'_> {
    fn push(&mut self, to: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        *self.pushed = true;
        self.tx.push(to, bytes)
    }

    fn flush(&mut self) {
        *self.handed_over += u64::from(std::mem::take(self.pushed));
        self.tx.flush();
    }
}

fn counted(device: MemoryDevice) -> Counted {
    Counted { device, pushed: false, handed_over: 0 }
}

/// How often a client hands something over while it writes and reads 200 kB.
fn handed_over(hurries_grants: bool, congestion: Congestion) -> f64 {
    // Several grants a burst.
    let set = |config| Config { hurries_grants, congestion, ..config };
    let mut world = World::new(counted, set, true);
    let before = world.devices[0].handed_over;
    world.write_and_read();
    assert_eq!(world.client.counters().packets_resent, 0);
    (world.devices[0].handed_over - before) as f64
}

#[test]
fn a_grant_leaves_early_where_that_is_cheap_whatever_controls_the_network() {
    for congestion in [Congestion::Swift, Congestion::None] {
        let [late, early] = [false, true].map(|hurries| handed_over(hurries, congestion));
        assert!(early > 1.3 * late, "{congestion}: {early} hand-overs instead of {late}");
    }
}

#[test]
fn a_device_says_whether_that_is_cheap() {
    let nobody = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
    let (a, b) = pair(nobody, nobody, DATAGRAM_BYTES, 1);
    let config = Config::new(1, DATAGRAM_BYTES);
    assert!(config.for_device(&a).hurries_grants);
    // This one leaves it at the default.
    assert!(!config.for_device(&counted(b)).hurries_grants);
}
