//! What is particular to this driver; what every driver must do is in `dmrpc-conformance`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dmrpc_core::device::{Device, Rx, Tx};

use super::Trains;
use crate::{BURST_MAX, UdpConfig, UdpDevice, UdpError};

fn open(config: UdpConfig) -> UdpDevice {
    UdpDevice::open(config).expect("loopback is there")
}

fn loopback() -> UdpDevice {
    open(UdpConfig::LOOPBACK)
}

fn send(from: &mut UdpDevice, to: SocketAddrV4, payload: &[u8]) {
    let (_, mut tx) = from.split();
    tx.push(to, payload.len()).expect("room").copy_from_slice(payload);
    tx.flush();
}

/// Receives bursts until `count` datagrams came or a second passed.
fn collect(device: &mut UdpDevice, count: usize) -> Vec<(SocketAddrV4, Vec<u8>)> {
    let end = Instant::now() + Duration::from_secs(1);
    let mut all = Vec::new();
    while all.len() < count && Instant::now() < end {
        let (mut rx, _) = device.split();
        for index in 0..rx.receive() {
            let (peer, bytes) = rx.packet(index);
            all.push((peer, bytes.to_vec()));
        }
    }
    all
}

/// Receive calls that found something.
fn full_calls(device: &UdpDevice) -> u64 {
    let stats = device.stats();
    stats.receive_calls - stats.receive_calls_empty
}

#[test]
fn busy_port_names_the_address() {
    let first = loopback();
    let error = UdpDevice::open(UdpConfig::at(first.local_addr())).err().expect("port is taken");
    assert!(matches!(error, UdpError::AddressInUse { address } if address == first.local_addr()));
    let text = error.to_string();
    assert!(text.contains(&first.local_addr().to_string()), "{text}");
    assert!(text.contains("give another port"), "{text}");
}

#[test]
fn foreign_address_is_refused() {
    let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0);
    let error = UdpDevice::open(UdpConfig::at(address)).err().expect("not our address");
    assert!(matches!(error, UdpError::AddressNotLocal { .. }), "{error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let base = UdpConfig::LOOPBACK;
    for (config, text) in [
        (UdpConfig { datagram_bytes_max: 0, ..base }, "0 bytes"),
        (UdpConfig { datagram_bytes_max: 65_508, ..base }, "65508 bytes"),
        (UdpConfig { send_queue_max: 0, ..base }, "0 datagrams"),
        (UdpConfig { socket_buffer_bytes: usize::MAX, ..base }, "socket buffer"),
    ] {
        let error = UdpDevice::open(config).err().expect("out of range").to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn truncated_datagrams_are_dropped_and_counted() {
    let mut small = open(UdpConfig { datagram_bytes_max: 100, ..UdpConfig::LOOPBACK });
    let mut large = loopback();
    let to = small.local_addr();
    for _ in 0..3 {
        send(&mut large, to, &[1; 100]);
        send(&mut large, to, &[2; 101]);
    }
    let all = collect(&mut small, 4);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|(peer, bytes)| *peer == large.local_addr() && bytes == &[1; 100]));
    assert_eq!(small.stats().received_truncated, 3);
    assert_eq!(small.stats().received_datagrams, 3);
    assert_eq!(small.stats().received_bytes, 300);
}

#[test]
fn longest_datagram_goes_through() {
    let config = UdpConfig { datagram_bytes_max: 65_507, ..UdpConfig::LOOPBACK };
    let (mut a, mut b) = (open(config), open(config));
    let payload: Vec<u8> = (0..65_507).map(|i| (i % 251) as u8).collect();
    let to = b.local_addr();
    send(&mut a, to, &payload);
    assert_eq!(collect(&mut b, 1), [(a.local_addr(), payload)]);
}

#[test]
fn a_lone_datagram_costs_one_call_and_a_burst_few() {
    let (mut a, mut b) = (loopback(), loopback());
    let to = b.local_addr();
    send(&mut a, to, b"one");
    assert_eq!(a.stats().send_calls, 1);
    assert!(b.wait(Duration::from_secs(1)));
    assert_eq!(b.split().0.receive(), 1);
    assert_eq!(b.stats().receive_calls, 1);

    let (_, mut tx) = a.split();
    for i in 0..BURST_MAX {
        tx.push(to, 4).expect("room").copy_from_slice(&(i as u32).to_le_bytes());
    }
    tx.flush();
    assert_eq!(a.stats().send_calls, 2);
    let calls_before = full_calls(&b);
    let all = collect(&mut b, BURST_MAX);
    for (i, (_, bytes)) in all.iter().enumerate() {
        assert_eq!(bytes[..], (i as u32).to_le_bytes());
    }
    assert_eq!(all.len(), BURST_MAX);
    assert!(full_calls(&b) - calls_before <= 8, "{:?}", b.stats());
}

#[test]
fn closed_ports_and_impossible_peers_do_not_stop_the_rest() {
    let (mut a, mut b) = (loopback(), loopback());
    let closed = {
        let gone = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        match gone.local_addr().expect("bound") {
            std::net::SocketAddr::V4(address) => address,
            std::net::SocketAddr::V6(_) => unreachable!(),
        }
    };
    let to = b.local_addr();
    for _ in 0..3 {
        send(&mut a, closed, b"nobody");
    }
    let (_, mut tx) = a.split();
    // Broadcast is not allowed on this socket: the kernel refuses it for good.
    let refused = SocketAddrV4::new(Ipv4Addr::BROADCAST, 9);
    for peer in [refused, to, refused, to] {
        tx.push(peer, 2).expect("room").copy_from_slice(b"ok");
    }
    tx.flush();
    assert_eq!(a.send_queued(), 0);
    assert_eq!(a.stats().send_dropped, 2);
    assert_eq!(collect(&mut b, 2).len(), 2);
    assert_eq!(a.split().0.receive(), 0);
}

#[test]
fn overflow_of_the_kernel_buffer_is_counted() {
    let mut sink = open(UdpConfig { socket_buffer_bytes: 8192, ..UdpConfig::LOOPBACK });
    let mut source = loopback();
    let to = sink.local_addr();
    for _ in 0..64 {
        send(&mut source, to, &[0; 4096]);
    }
    let came = collect(&mut sink, 64).len() as u64;
    assert_eq!(came + sink.stats().received_overflow, 64);
    assert!(sink.stats().received_overflow > 0);
}

#[test]
fn the_send_ring_goes_round() {
    let mut a = open(UdpConfig { send_queue_max: 3, ..UdpConfig::LOOPBACK });
    let mut b = loopback();
    let to = b.local_addr();
    let (_, mut tx) = a.split();
    for i in 0..3_u8 {
        tx.push(to, 1).expect("room")[0] = i;
    }
    assert!(tx.push(to, 1).is_none());
    // As if the kernel had taken one and then had no room.
    a.send.sent(1);
    assert!(!a.send.refused(libc::EAGAIN));
    let (_, mut tx) = a.split();
    tx.push(to, 1).expect("room after one left")[0] = 3;
    assert!(tx.push(to, 1).is_none());
    tx.flush();
    let all: Vec<u8> = collect(&mut b, 3).iter().map(|(_, bytes)| bytes[0]).collect();
    assert_eq!(all, [1, 2, 3]);
    assert_eq!(a.stats().send_blocked, 1);
    assert_eq!((a.send.head, a.send_queued()), (0, 0));
}

#[test]
fn wait_ends_with_a_datagram_or_the_timeout() {
    let (mut a, b) = (loopback(), loopback());
    let start = Instant::now();
    assert!(!b.wait(Duration::from_millis(20)));
    assert!(start.elapsed() >= Duration::from_millis(20));
    send(&mut a, b.local_addr(), b"x");
    assert!(b.wait(Duration::from_secs(5)));
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(b.socket_buffer_bytes().0 >= 4096);
    let _ = b.as_fd();
}

/// Sends `rounds` bursts of `lengths`; checks that all arrive as they were sent.
fn bursts(a: &mut UdpDevice, b: &mut UdpDevice, lengths: &[usize], rounds: u8) {
    let to = b.local_addr();
    for round in 0..rounds {
        let payload = |index: usize| vec![round ^ index as u8; lengths[index]];
        let (_, mut tx) = a.split();
        for index in 0..lengths.len() {
            let payload = payload(index);
            tx.push(to, payload.len()).expect("room").copy_from_slice(&payload);
        }
        tx.flush();
        for (index, (peer, bytes)) in collect(b, lengths.len()).iter().enumerate() {
            assert_eq!((*peer, bytes), (a.local_addr(), &payload(index)));
        }
    }
}

#[test]
fn trains_come_apart_as_they_were_put_together() {
    let plain = UdpConfig { trains: false, ..UdpConfig::LOOPBACK };
    let mixed: Vec<usize> = (0..60).map(|i| [700, 700, 700, 30, 0, 9000, 9000][i % 7]).collect();
    for (from, to) in [(plain, UdpConfig::LOOPBACK), (UdpConfig::LOOPBACK, plain)] {
        let (mut a, mut b) = (open(from), open(to));
        bursts(&mut a, &mut b, &mixed, 3);
    }
    let (mut a, mut b) = (loopback(), loopback());
    bursts(&mut a, &mut b, &mixed, 3);
    assert_eq!(b.receive.trains, Trains::On);
    let calls_before = full_calls(&b);
    bursts(&mut a, &mut b, &[1000; 60], 10);
    let calls = full_calls(&b) - calls_before;
    assert!(calls <= 40, "{calls} calls for 10 trains");
    assert_eq!(a.send.train_datagram_bytes_max, 9000);
    bursts(&mut b, &mut a, &[9000; 64], 2);
}

#[test]
fn a_train_of_datagrams_too_long_is_counted_one_by_one() {
    let mut small = open(UdpConfig { datagram_bytes_max: 500, ..UdpConfig::LOOPBACK });
    let mut large = loopback();
    bursts(&mut large, &mut small, &[500; 40], 4);
    let to = small.local_addr();
    let (_, mut tx) = large.split();
    for bytes in [501, 501, 501, 20, 500] {
        tx.push(to, bytes).expect("room").fill(9);
    }
    tx.flush();
    let lengths: Vec<usize> = collect(&mut small, 2).iter().map(|came| came.1.len()).collect();
    assert_eq!(lengths, [20, 500]);
    assert_eq!(small.stats().received_truncated, 3);
}
