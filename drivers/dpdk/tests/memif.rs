//! The suite that every driver passes, over `net_memif`.
#![cfg(feature = "dpdk")]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_conformance::{CountingAllocator, Harness, ZeroSize};
use dmrpc_dpdk::{DpdkDevice, PortConfig, SEND_QUEUE};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A link, and the devices that were opened over it.
struct Memif {
    more: &'static str,
    frame_bytes_max: usize,
    socket: Option<common::Socket>,
}

impl Memif {
    fn new(frame_bytes_max: usize, more: &'static str) -> Self {
        Self { more, frame_bytes_max, socket: None }
    }
}

impl Harness for Memif {
    type Device = DpdkDevice;

    fn open(&mut self, count: usize) -> Vec<(DpdkDevice, SocketAddrV4)> {
        assert_eq!(count, 2, "a link has two ends");
        let config = PortConfig { frame_bytes_max: self.frame_bytes_max, ..PortConfig::default() };
        let (socket, ports) = common::memif_pair(self.more, config);
        self.socket = Some(socket);
        common::devices(&ports)
    }

    fn devices_max(&self) -> usize {
        2
    }

    fn depth(&self) -> usize {
        // Less than the ring even where a frame takes five of its places.
        SEND_QUEUE
    }

    fn zero_size(&self) -> ZeroSize {
        ZeroSize::Delivered
    }

    fn nobody(&self) -> Option<SocketAddrV4> {
        Some(SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 77), 9))
    }
}

#[test]
fn there_is_nothing_but_memory_between_the_two_ends() {
    use dmrpc_core::device::Device;
    use dmrpc_core::endpoint::Config;
    use dmrpc_core::endpoint::congestion::Congestion;

    let devices = Memif::new(1514, "").open(2);
    let (device, _) = &devices[0];
    assert!(device.is_memory() && device.flushes_cheaply());
    assert!(device.links().pairs()[0].port().borrows(), "lending is faster there");
    let config = Config::new(1, 1400).for_device(device);
    assert_eq!((config.congestion, config.window_packets), (Congestion::None, 256));
}

/// Whoever has a queue pair next may lend, too, unless something is still out.
#[test]
fn loans_that_came_back_unnoticed_stop_nobody() {
    use dmrpc_core::device::{Device, Rx, Tx};
    use dmrpc_core::memory::{Memory, Plain};

    let (_socket, ports) = common::memif_pair("", PortConfig::default());
    let mut devices = common::devices(&ports);
    let memory = Plain::lasting(Box::leak(vec![7; 200].into_boxed_slice()));
    let loan = memory.loan(0, 1_000).expect("it stays for ever");
    let to = devices[1].1;
    let (device, _) = &mut devices[0];
    let (_, mut tx) = device.split();
    tx.push_borrowed(to, 48, &loan, 3).expect("room").fill(1);
    // The port copies it, and nobody asks what came back.
    tx.flush();
    assert_eq!(devices[1].0.split().0.receive(), 1, "it is there");
    drop(devices);
    let (device, _) = &common::devices(&ports)[0];
    assert!(device.borrows());
}

mod ethernet_size {
    use super::*;

    dmrpc_conformance::conformance!(Memif::new(1514, ""));
    dmrpc_conformance::conformance_allocations!(Memif::new(1514, ""));
}

mod jumbo_in_several_buffers {
    use super::*;

    dmrpc_conformance::conformance!(Memif::new(9042, ""));
}

mod jumbo_in_one_buffer {
    use super::*;

    dmrpc_conformance::conformance!(Memif::new(9042, ",bsize=10240"));
}
