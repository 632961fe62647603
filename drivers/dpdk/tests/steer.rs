//! Several queue pairs of one port: each gets what is for its own, whichever queue the kernel
//! picks.
//!
//! Namespaces need root: without it these tests say so and pass.
#![cfg(feature = "dpdk")]

mod common;
#[path = "common/namespace.rs"]
mod namespace;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_dpdk::{DpdkDevice, Port, PortConfig};
use dmrpc_host::steer::Lanes;
use namespace::{ip, own_namespace};

const QUEUES: u16 = 4;
const FRAME_BYTES_MAX: usize = 1514;
/// How long frames may take to come.
const TIMEOUT: Duration = Duration::from_secs(5);

fn open(vdev: &str, queues: u16) -> Arc<Port> {
    let name = common::eal().add_vdev(vdev).expect(vdev);
    let config = PortConfig { queues, ..PortConfig::default() };
    Port::open(common::eal(), &name, &config).expect(vdev)
}

/// Receives what there is; answers each datagram with itself, and returns who sent what.
fn serve(device: &mut DpdkDevice) -> Vec<(u16, Vec<u8>)> {
    let (mut rx, mut tx) = device.split();
    let count = rx.receive();
    let mut found = Vec::new();
    for index in 0..count {
        let (from, datagram) = rx.packet(index);
        found.push((from.port(), datagram.to_vec()));
        if let Some(buffer) = tx.push(from, datagram.len()) {
            buffer.copy_from_slice(datagram);
        }
    }
    tx.flush();
    found
}

/// Endpoints of one process behind one port: the kernel spreads by flows, not by endpoints, so most
/// frames come in at another's queue.
#[test]
fn endpoints_of_one_port_get_what_is_for_them() {
    if !own_namespace() {
        return;
    }
    ip("link add veth0 type veth peer name veth1");
    ip("addr add 10.9.0.2/24 dev veth1");
    ip("link set veth0 up");
    ip("link set veth1 up");
    let number = common::unique();
    let vdev = format!("net_af_packet{number},iface=veth0,qpairs={QUEUES},qdisc_bypass=1");
    let port = open(&vdev, QUEUES);
    let lanes = Lanes::new(QUEUES.into(), FRAME_BYTES_MAX);
    let address = |queue: u16| SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 7400 + queue);
    let mut devices: Vec<_> = (0..QUEUES)
        .map(|queue| {
            let pairs = vec![port.queue(queue).expect("free")];
            let lane = lanes.take(queue.into());
            assert!(lane.is_some());
            DpdkDevice::open_in_lane(pairs, address(queue), 24, None, 1, lane).expect("a device")
        })
        .collect();
    let sockets: Vec<UdpSocket> =
        (0..8).map(|_| UdpSocket::bind("10.9.0.2:0").expect("a socket")).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).expect("a socket");
    }
    let mut echoes = 0;
    for round in 0..20u8 {
        for socket in &sockets {
            for queue in 0..QUEUES {
                socket.send_to(&[round, queue as u8], address(queue)).expect("sent");
            }
        }
        let begin = Instant::now();
        let wanted = echoes + sockets.len() * usize::from(QUEUES);
        while echoes < wanted {
            for (queue, device) in devices.iter_mut().enumerate() {
                for (_, datagram) in serve(device) {
                    assert_eq!(datagram, [round, queue as u8], "for another endpoint");
                }
            }
            let mut answer = [0; 8];
            for socket in &sockets {
                while let Ok((2, from)) = socket.recv_from(&mut answer) {
                    assert_eq!(from, address(answer[1].into()).into());
                    echoes += 1;
                }
            }
            assert!(begin.elapsed() < TIMEOUT, "{echoes} of {wanted} answers");
        }
    }
    let handed: u64 = devices.iter().map(|device| device.stats().steer.handed_over).sum();
    let dropped: u64 = devices.iter().map(|device| device.stats().steer.dropped).sum();
    assert!(handed > 0 && dropped == 0, "{handed} handed over, {dropped} dropped");
    // Queue pairs and lanes come back with their devices.
    drop(devices);
    assert!(
        (0..QUEUES).all(|queue| port.queue(queue).is_ok() && lanes.take(queue.into()).is_some())
    );
}

/// A rule in the port leads a sender to the queue that it names; where the kernel has no such
/// rules, the port says so.
#[test]
fn a_rule_leads_a_sender_to_its_queue() {
    if !own_namespace() {
        return;
    }
    let number = common::unique();
    let port = open(&format!("net_tap{number},iface=tap0"), 2);
    ip("addr add 10.9.0.2/24 dev tap0");
    ip("link set tap0 up");
    let at = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 7400);
    let mut devices: Vec<_> = (0..2)
        .map(|queue| {
            let pairs = vec![port.queue(queue).expect("free")];
            DpdkDevice::open(pairs, at, 24, None, 1).expect("a device")
        })
        .collect();
    let sockets: Vec<UdpSocket> =
        (0..8).map(|_| UdpSocket::bind("10.9.0.2:0").expect("a socket")).collect();
    let ports: Vec<u16> =
        sockets.iter().map(|socket| socket.local_addr().expect("bound").port()).collect();
    for (number, source) in ports.iter().enumerate() {
        let peer = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), *source);
        if let Err(error) = port.steer(peer, number as u16 % 2) {
            let text = error.to_string();
            assert!(text.starts_with("steering a sender of net_tap"), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            return eprintln!("skipped: the kernel has no rules for net_tap here ({text})");
        }
    }
    let begin = Instant::now();
    let mut seen = vec![0; sockets.len()];
    while seen.iter().any(|count| *count < 10) {
        for socket in &sockets {
            socket.send_to(b"x", at).expect("sent");
        }
        for (queue, device) in devices.iter_mut().enumerate() {
            let (mut rx, _) = device.split();
            for index in 0..rx.receive() {
                let source = rx.packet(index).0.port();
                let number = ports.iter().position(|port| *port == source).expect("one of ours");
                assert_eq!(number % 2, queue, "the rule is not heeded");
                seen[number] += 1;
            }
        }
        assert!(begin.elapsed() < TIMEOUT, "{seen:?}");
    }
}

/// Buffers are on the NUMA node of the port that they are for.
#[test]
fn pools_are_on_the_ports_node() {
    let nodes = |port: Arc<Port>| (port.socket(), [0, 1].map(|queue| port.pool_socket(queue)));
    // A virtual device is on the node of the core that made it, if DPDK knows the thread.
    let nowhere = open(&format!("net_null{}", common::unique()), 2);
    assert_eq!(nodes(nowhere), (None, [None; 2]));
    common::eal().register_thread().expect("one of a few threads");
    let (node, pools) = nodes(open(&format!("net_null{}", common::unique()), 2));
    assert!(node.is_some());
    assert_eq!(pools, [node; 2]);
}
