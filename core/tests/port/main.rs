//! The Ethernet port, over an in-memory switch: the suite that every driver passes, and what only a
//! port does.

mod switch;

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_conformance::{CountingAllocator, Harness, ZeroSize};
use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::port::{EthernetPort, FrameDevice, FrameRx, FrameTx, PortAddress};
use dmrpc_core::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, Icmpv4Repr,
    IpProtocol, Ipv4Packet, Ipv4Repr,
};
use switch::{Plug, QUEUE_FRAMES, Switch};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn address(host: u8) -> PortAddress {
    PortAddress {
        hardware: [2, 0, 0, 0, 0, host],
        address: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, host), 7400 + u16::from(host)),
        prefix_bits: 24,
        gateway: None,
    }
}

fn port(switch: &Switch, host: u8) -> EthernetPort<Plug> {
    let ours = address(host);
    EthernetPort::new(switch.plug(ours.hardware), ours, 1, Instant::ZERO)
}

/// Lets every port of a switch learn of every other.
fn introduce(ports: &mut [(EthernetPort<Plug>, SocketAddrV4)]) {
    let mut now = Instant::ZERO;
    for _ in 0..4 * ports.len() {
        now = now + Duration::from_millis(200);
        for to in 0..ports.len() {
            let peer = ports[to].1;
            for (port, _) in ports.iter_mut().filter(|(_, address)| *address != peer) {
                port.split().1.push(peer, 1).expect("room").fill(0);
                port.maintain(now);
            }
            for (port, _) in ports.iter_mut() {
                port.split().0.receive();
                port.maintain(now);
                port.split().1.flush();
            }
        }
    }
    for (port, _) in ports.iter_mut() {
        while port.split().0.receive() > 0 {}
    }
}

struct Ports;

impl Harness for Ports {
    type Device = EthernetPort<Plug>;

    fn open(&mut self, count: usize) -> Vec<(EthernetPort<Plug>, SocketAddrV4)> {
        let switch = Switch::new();
        let mut ports: Vec<_> =
            (1..=count as u8).map(|host| (port(&switch, host), address(host).address)).collect();
        introduce(&mut ports);
        ports
    }

    fn devices_max(&self) -> usize {
        8
    }

    fn depth(&self) -> usize {
        QUEUE_FRAMES
    }

    fn zero_size(&self) -> ZeroSize {
        ZeroSize::Delivered
    }

    fn nobody(&self) -> Option<SocketAddrV4> {
        Some(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 200), 1))
    }
}

dmrpc_conformance::conformance!(Ports);
dmrpc_conformance::conformance_allocations!(Ports);

#[test]
fn an_unknown_neighbour_is_asked_for_and_then_reached() {
    let switch = Switch::new();
    let (mut here, mut there) = (port(&switch, 1), port(&switch, 2));
    let peer = address(2).address;
    here.split().1.push(peer, 5).expect("a place for it").copy_from_slice(b"early");
    assert_eq!(here.counters().unresolved, 1);
    here.maintain(Instant::from_nanos(1));
    // The question, its answer, and what can be sent then.
    assert_eq!(there.split().0.receive(), 0);
    there.maintain(Instant::from_nanos(2));
    assert_eq!(here.split().0.receive(), 0);
    let (_, mut tx) = here.split();
    tx.push(peer, 4).expect("room").copy_from_slice(b"late");
    tx.flush();
    let (mut rx, _) = there.split();
    assert_eq!(rx.receive(), 1);
    assert_eq!(rx.packet(0), (address(1).address, &b"late"[..]));
}

#[test]
fn a_neighbour_that_moves_is_followed() {
    let switch = Switch::new();
    let mut ports = [1, 2].map(|host| (port(&switch, host), address(host).address));
    introduce(&mut ports);
    let [(mut here, _), (mut before, peer)] = ports;
    let (_, mut tx) = here.split();
    tx.push(peer, 3).expect("room").copy_from_slice(b"one");
    tx.flush();
    assert_eq!(before.split().0.receive(), 1);
    // The same address at another interface, as it says itself.
    let moved = [2, 0, 0, 0, 0, 9];
    let who = PortAddress { hardware: moved, ..address(2) };
    let mut after = EthernetPort::new(switch.plug(moved), who, 1, Instant::ZERO);
    here.learn(*peer.ip(), moved);
    let (_, mut tx) = here.split();
    tx.push(peer, 3).expect("room").copy_from_slice(b"two");
    tx.flush();
    let (mut rx, _) = after.split();
    assert_eq!((rx.receive(), before.split().0.receive()), (1, 0));
    assert_eq!(rx.packet(0).1, b"two");
}

#[test]
fn a_question_is_not_repeated_at_once() {
    let switch = Switch::new();
    let (mut here, mut there) = (port(&switch, 1), switch.plug([2, 0, 0, 0, 0, 9]));
    let mut questions = 0;
    for poll in 0..100 {
        here.split().1.push(address(2).address, 1).expect("a place for it").fill(0);
        here.maintain(Instant::ZERO + Duration::from_millis(10 * poll));
        questions += there.split().0.receive();
    }
    assert_eq!(questions, 10);
}

#[test]
fn what_is_for_strangers_goes_to_the_gateway() {
    let switch = Switch::new();
    let ours = PortAddress { gateway: Some(Ipv4Addr::new(10, 0, 0, 2)), ..address(1) };
    let here = EthernetPort::new(switch.plug(ours.hardware), ours, 1, Instant::ZERO);
    let mut ports = [(here, ours.address), (port(&switch, 2), address(2).address)];
    introduce(&mut ports);
    let [(mut here, _), (mut gateway, _)] = ports;
    let (_, mut tx) = here.split();
    tx.push(SocketAddrV4::new(Ipv4Addr::new(192, 168, 7, 7), 1), 3).expect("room").fill(7);
    tx.flush();
    // The gateway's driver gets the frame, though it is not for the gateway's port.
    let before = gateway.counters().slow;
    assert_eq!(gateway.split().0.receive(), 0);
    assert_eq!(gateway.counters().slow, before + 1);
}

#[test]
fn pings_are_answered() {
    let switch = Switch::new();
    let mut host = port(&switch, 1);
    let mut pinger = switch.plug([2, 0, 0, 0, 0, 9]);
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    let echo = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data: b"are you there?" };
    let ip = Ipv4Repr {
        src_addr: Ipv4Addr::new(10, 0, 0, 9),
        dst_addr: *address(1).address.ip(),
        next_header: IpProtocol::Icmp,
        payload_len: echo.buffer_len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
        dst_addr: EthernetAddress(address(1).hardware),
        ethertype: EthernetProtocol::Ipv4,
    };
    let (mut rx, mut tx) = pinger.split();
    // The host must know whom to answer.
    let arp = tx.push(dmrpc_core::wire::ethernet::ARP_REQUEST_BYTES).expect("room");
    dmrpc_core::wire::ethernet::emit_arp_request(arp, ethernet.src_addr, ip.src_addr, ip.dst_addr);
    let mut frame = EthernetFrame::new_unchecked(
        tx.push(14 + ip.buffer_len() + echo.buffer_len()).expect("room"),
    );
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &checksums);
    echo.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &checksums);
    tx.flush();
    assert_eq!(host.split().0.receive(), 0);
    host.maintain(Instant::from_nanos(1));
    let answers: Vec<_> = (0..rx.receive()).map(|index| rx.frame(index).to_vec()).collect();
    let answered = answers.iter().any(|frame| {
        let frame = EthernetFrame::new_checked(&frame[..]).expect("a frame");
        let is_ip = frame.ethertype() == EthernetProtocol::Ipv4;
        let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { return false };
        let Ok(icmp) = Icmpv4Packet::new_checked(packet.payload()) else { return false };
        let reply = Icmpv4Repr::EchoReply { ident: 3, seq_no: 4, data: b"are you there?" };
        is_ip && Icmpv4Repr::parse(&icmp, &checksums) == Ok(reply)
    });
    assert!(answered, "{answers:?}");
}

#[test]
fn noise_is_counted_and_harmless() {
    let switch = Switch::new();
    let (mut host, mut noisy) = (port(&switch, 1), switch.plug([2, 0, 0, 0, 0, 9]));
    let mut state = 0x1234_5678_9ABC_DEF0_u64;
    for round in 0..20_000u64 {
        let (_, mut tx) = noisy.split();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let frame = tx.push(14 + state as usize % 100).expect("room");
        for byte in frame.iter_mut() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        frame[..6].copy_from_slice(&address(1).hardware);
        frame[12..14].copy_from_slice(&[8, if state & 1 == 0 { 0 } else { 6 }]);
        tx.flush();
        assert_eq!(host.split().0.receive(), 0);
        host.maintain(Instant::from_nanos(round * 1000));
    }
    assert_eq!(host.counters().slow, 20_000);
}
