//! Devices whose other side is the kernel, in a network namespace of each test's own.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

pub(crate) use dmrpc_conformance::ip;
use dmrpc_conformance::{Harness, ZeroSize};
use dmrpc_dpdk::{DpdkDevice, Port, PortConfig, SEND_QUEUE, ZeroCopyTransmit};

use super::common;

/// Gives the calling thread a network namespace of its own. False if it may not have one.
pub(crate) fn own_namespace() -> bool {
    dmrpc_conformance::may(dmrpc_host::network::own_network(), "network namespaces")
}

pub(crate) fn open(vdev: &str) -> Arc<Port> {
    let name = common::eal().add_vdev(vdev).expect(vdev);
    // Those that can send what is lent do so in all checks.
    let lends = !vdev.starts_with("net_af_xdp");
    let zero_copy_transmit = if lends { ZeroCopyTransmit::On } else { ZeroCopyTransmit::Off };
    let config = PortConfig { zero_copy_transmit, ..PortConfig::default() };
    let port = Port::open(common::eal(), &name, &config).expect(vdev);
    assert_eq!(port.borrows(), lends);
    assert_eq!(port.sums_up(), vdev.starts_with("net_tap"), "the others offer no checksums");
    port
}

/// What the two devices are made of.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    AfPacket,
    AfXdp,
    Tap,
}

impl Kind {
    pub(crate) fn ports(self) -> [Arc<Port>; 2] {
        if let Self::Tap = self {
            ip("link add bridge0 type bridge forward_delay 0");
            ip("link set bridge0 up");
            return [0, 1].map(|end| {
                let number = common::unique();
                let port = open(&format!("net_tap{number},iface=tap{end}"));
                ip(&format!("link set tap{end} master bridge0"));
                ip(&format!("link set tap{end} up"));
                port
            });
        }
        ip("link add veth0 type veth peer name veth1");
        for end in [0, 1] {
            // The kernel sends no packets of its own, which nobody asked for.
            ip(&format!("link set veth{end} addrgenmode none"));
            ip(&format!("link set veth{end} up"));
        }
        let ports = [0, 1].map(|end| {
            let number = common::unique();
            open(&match self {
                Self::AfXdp => format!("net_af_xdp{number},iface=veth{end}"),
                _ => format!("net_af_packet{number},iface=veth{end},qdisc_bypass=1"),
            })
        });
        // The kernel takes a moment to lead packets round itself.
        std::thread::sleep(std::time::Duration::from_millis(50));
        ports
    }
}

impl Harness for Kind {
    type Device = DpdkDevice;

    fn open(&mut self, count: usize) -> Vec<(DpdkDevice, SocketAddrV4)> {
        assert_eq!(count, 2);
        common::devices(&self.ports())
    }

    fn devices_max(&self) -> usize {
        2
    }

    fn depth(&self) -> usize {
        SEND_QUEUE
    }

    fn zero_size(&self) -> ZeroSize {
        ZeroSize::Delivered
    }

    fn nobody(&self) -> Option<SocketAddrV4> {
        Some(SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 77), 9))
    }

    fn settle(&mut self) {
        // The kernel's part of the way is on other threads.
        std::thread::sleep(std::time::Duration::from_micros(20));
    }
}

/// Makes a test of each check, in a namespace of its own.
#[macro_export]
macro_rules! conformance_in_namespace {
    ($kind:expr; $($check:ident),+ $(,)?) => {
        $(
            #[test]
            fn $check() {
                if $crate::namespace::own_namespace() {
                    dmrpc_conformance::checks::$check(&mut $kind);
                }
            }
        )+
    };
    ($kind:expr) => {
        $crate::conformance_in_namespace!($kind;
            capabilities_are_sane,
            nothing_comes_unasked,
            a_datagram_arrives_as_it_was_sent,
            a_burst_keeps_its_order,
            every_size_arrives_whole,
            what_is_lent_arrives_and_comes_back,
            empty_datagrams_do_as_stated,
            a_full_queue_recovers,
            many_senders_reach_one_receiver,
            a_request_is_answered_from_its_own_buffer,
            buffers_come_home,
            nothing_is_lost_below_the_depth,
            both_directions_at_once,
            an_index_beyond_the_burst_panics,
            a_datagram_too_long_panics,
            nobody_there_disturbs_nobody,
        );
    };
}
