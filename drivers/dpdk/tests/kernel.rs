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
use dmrpc_core::memory::{Memory, Plain};
use dmrpc_core::port::{FrameDevice, FrameRx, FrameTx};
use dmrpc_dpdk::{DpdkDevice, Links, Port, PortConfig};
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

/// Sums up big-endian words as IPv4 and UDP do: 0xFFFF if the checksum among them is right.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b)));
    let sum = words.fold(start, |sum, word| sum + word);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// Whether the checksums of a frame with a UDP datagram are right: IPv4's, and UDP's, which is
/// there.
fn checks(frame: &[u8]) -> (bool, bool) {
    let (ip, udp) = (&frame[14..34], &frame[34..]);
    let pseudo = [&ip[12..20], &[0, 17], &udp[4..6]].concat();
    let there = udp[6..8] != [0, 0];
    (sum(ip, 0) == 0xFFFF, there && sum(udp, sum(&pseudo, 0).into()) == 0xFFFF)
}

/// The next frame that carries a UDP datagram.
fn next_datagram(links: &mut Links) -> Option<Vec<u8>> {
    let (mut rx, _) = links.split();
    let count = rx.receive();
    let mut frames = (0..count).map(|index| rx.frame(index));
    frames
        .find(|frame| frame.len() > 42 && frame[12..14] == [8, 0] && frame[23] == 17)
        .map(<[u8]>::to_vec)
}

/// `net_tap` offers to compute checksums: datagrams have both then, whole or with lent bytes. One
/// with a wrong one is dropped by a port that checks, and counted.
#[test]
fn checksums_are_left_to_a_port_that_offers_it() {
    if !own_namespace() {
        return;
    }
    let [a, b] = Kind::Tap.ports();
    assert!(a.sums_up() && b.sums_up());
    let mut receiver = Links::new(vec![b.queue(0).expect("free")]).expect("a link");
    let at = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 7400);
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), 7400);
    let mut device = DpdkDevice::open(vec![a.queue(0).expect("free")], at, 24, None, 1);
    let device = device.as_mut().expect("a device");
    device.learn(*to.ip(), b.hardware());
    let memory = Plain::lasting(Box::leak(vec![0x1234_5678_9ABC_DEF1; 200].into_boxed_slice()));
    let loan = memory.loan(3, 1_001).expect("it stays for ever");
    for lent in [false, true] {
        let frame = until_some(|| {
            let (_, mut tx) = device.split();
            let buffer = match lent {
                true => tx.push_borrowed(to, 98, &loan, 0),
                false => tx.push(to, 98),
            };
            buffer.expect("room").fill(0xA7);
            tx.flush();
            next_datagram(&mut receiver)
        });
        assert_eq!(frame.len(), 42 + 98 + if lent { 1_001 } else { 0 });
        assert_eq!(checks(&frame), (true, true), "lent: {lent}");
    }

    // Wrong ones come from a port that computes nothing.
    let config = PortConfig { checksum_offload: false, ..PortConfig::default() };
    let name = common::eal().add_vdev("net_tap77,iface=tap2").expect("a tap");
    let plain = Port::open(common::eal(), &name, &config).expect("a port");
    assert!(!plain.sums_up());
    ip("link set tap2 master bridge0");
    ip("link set tap2 up");
    let mut sender = Links::new(vec![plain.queue(0).expect("free")]).expect("a link");
    let mut send = |frame: &[u8]| {
        let (_, mut tx) = sender.split();
        tx.push(frame.len()).expect("room").copy_from_slice(frame);
        tx.flush();
    };
    let good = with_checksum(b.hardware());
    assert_eq!(checks(&good), (true, true));
    let frame = until_some(|| {
        send(&good);
        next_datagram(&mut receiver)
    });
    assert!(frame == good, "right ones pass");
    let mut without = good.clone();
    without[40..42].fill(0);
    let mut bad = good.clone();
    bad[60] ^= 1;
    let before = receiver.receive_stats().bad_checksums;
    assert_eq!(before, 0);
    until_some(|| {
        send(&bad);
        assert!(next_datagram(&mut receiver).is_none_or(|frame| frame == good), "dropped");
        (receiver.receive_stats().bad_checksums > 0).then_some(())
    });
    until_some(|| {
        send(&without);
        next_datagram(&mut receiver).filter(|frame| *frame == without)
    });
}

/// A frame to `hardware` with a UDP datagram whose checksums are right.
fn with_checksum(hardware: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0x5A; 42 + 64];
    frame[..6].copy_from_slice(&hardware);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 3]);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = [0x45, 0, 0, 92, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 3, 10, 9, 0, 2];
    frame[14..34].copy_from_slice(&ip);
    frame[34..42].copy_from_slice(&[0x1C, 0xE8, 0x1C, 0xE8, 0, 72, 0, 0]);
    let pseudo = [&ip[12..20], &[0, 17, 0, 72]].concat();
    let (of_ip, of_udp) = (!sum(&ip, 0), !sum(&frame[34..], sum(&pseudo, 0).into()));
    frame[24..26].copy_from_slice(&of_ip.to_be_bytes());
    frame[40..42].copy_from_slice(&of_udp.to_be_bytes());
    frame
}

fn until_some<T>(mut step: impl FnMut() -> Option<T>) -> T {
    let begin = std::time::Instant::now();
    loop {
        if let Some(value) = step() {
            return value;
        }
        assert!(begin.elapsed().as_secs() < 5, "nothing arrives");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
