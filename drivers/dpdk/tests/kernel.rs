//! The suite that every driver passes, over `net_af_packet` on veths and `net_tap` on a bridge. And
//! ping, from the kernel's side.
//!
//! Each test has a network namespace of its own, which is its thread's and ends with it, so nothing
//! is left behind however a test ends. Making one needs root: without it these tests say so and
//! pass.
#![cfg(feature = "dpdk")]

mod common;
#[path = "common/namespace.rs"]
mod namespace;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_dpdk::DpdkDevice;
use namespace::{Kind, ip, open, own_namespace};

mod af_packet {
    use super::*;
    conformance_in_namespace!(Kind::AfPacket);
}

mod tap {
    use super::*;
    conformance_in_namespace!(Kind::Tap);
}

/// The kernel resolves our address and pings it; and a datagram to the kernel's address makes us
/// resolve that.
#[test]
fn ping_and_arp_from_the_kernel() {
    if !own_namespace() {
        return;
    }
    let number = common::unique();
    let port = open(&format!("net_tap{number},iface=tap0"));
    ip("addr add 10.9.0.2/24 dev tap0");
    ip("link set tap0 up");
    let pairs = vec![port.queue(0).expect("free")];
    let at = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 7400);
    let mut device = DpdkDevice::open(pairs, at, 24, None, 1).expect("a device");
    let mut ping = Command::new("ping")
        .args(["-c", "3", "-i", "0.2", "-W", "2", "10.9.0.1"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("ping is installed");
    let status = loop {
        let (mut rx, _) = device.split();
        assert_eq!(rx.receive(), 0, "no datagrams for us");
        if let Some(status) = ping.try_wait().expect("a child") {
            break status;
        }
    };
    assert!(status.success(), "ping: {status}; {:?}", device.stats());

    let socket = std::net::UdpSocket::bind("10.9.0.2:7401").expect("the kernel's address");
    socket.set_nonblocking(true).expect("a socket");
    let kernel = "10.9.0.2:7401".parse().expect("an address");
    let begin = std::time::Instant::now();
    let mut bytes = [0; 16];
    loop {
        let (mut rx, mut tx) = device.split();
        assert_eq!(rx.receive(), 0);
        if let Some(buffer) = tx.push(kernel, 5) {
            buffer.copy_from_slice(b"hello");
        }
        tx.flush();
        if let Ok((count, from)) = socket.recv_from(&mut bytes) {
            assert_eq!((&bytes[..count], from), (&b"hello"[..], at.into()));
            break;
        }
        assert!(begin.elapsed().as_secs() < 5, "nothing arrives; {:?}", device.stats());
    }
}
