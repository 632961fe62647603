//! The suite that every driver passes, over loopback.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_conformance::{CountingAllocator, Harness, ZeroSize};
use dmrpc_udp::{UdpConfig, UdpDevice};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

struct Loopback {
    config: UdpConfig,
    depth: usize,
}

impl Loopback {
    /// Devices for datagrams of `datagram_bytes_max`, with a send queue as long as what the
    /// kernel's receive buffer holds for certain, at most the default one.
    fn new(datagram_bytes_max: usize) -> Self {
        let config = UdpConfig { datagram_bytes_max, ..UdpConfig::LOOPBACK };
        let (granted_bytes, _) =
            UdpDevice::open(config).expect("loopback is there").socket_buffer_bytes();
        let depth = (granted_bytes / (2 * datagram_bytes_max + 2048)).min(config.send_queue_max);
        Self { config: UdpConfig { send_queue_max: depth, ..config }, depth }
    }
}

impl Harness for Loopback {
    type Device = UdpDevice;

    fn open(&mut self, count: usize) -> Vec<(UdpDevice, SocketAddrV4)> {
        let open = || UdpDevice::open(self.config).expect("loopback is there");
        (0..count)
            .map(|_| {
                let device = open();
                let address = device.local_addr();
                (device, address)
            })
            .collect()
    }

    fn devices_max(&self) -> usize {
        8
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn zero_size(&self) -> ZeroSize {
        ZeroSize::Delivered
    }

    fn nobody(&self) -> Option<SocketAddrV4> {
        Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9))
    }
}

mod default_size {
    use super::*;

    dmrpc_conformance::conformance!(Loopback::new(9000));
    dmrpc_conformance::conformance_allocations!(Loopback::new(9000));
}

mod ethernet_size {
    use super::*;

    dmrpc_conformance::conformance!(Loopback::new(1472));
    dmrpc_conformance::conformance_allocations!(Loopback::new(1472));
}
