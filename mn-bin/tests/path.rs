//! Sessions over UDP use datagrams that the way takes in one piece, whatever its MTU: nothing on it
//! is cut up, where MTUs are large they are used, and where one shrinks later all still arrives.
//!
//! Each test has network namespaces of its own, which end with it. Making them needs root: without
//! it these tests say so and pass.

use std::fs;
use std::process::Command;

use dmrpc_cn::{Node, NodeConfig, Peer};
use dmrpc_conformance::{Killed, ip};
use dmrpc_host as _;
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::network::{Network, own_network};
use dmrpc_udp::{UdpConfig, UdpDevice};

const SERVER: &str = "10.9.0.1:7400";
/// Bytes of a message: many packets, whatever their size.
const BYTES: usize = 256 << 10;

/// A memory node in a network of its own, joined to this thread's by a veth.
struct World {
    network: Network,
    _serving: Killed,
}

/// Packets that the network of the calling thread has cut up, pieces counted.
fn pieces_here() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel counts");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut counts = names.split(' ').zip(values.split(' '));
    let (_, count) = counts.find(|(name, _)| *name == "FragCreates").expect("it is counted");
    count.parse().expect("a number")
}

impl World {
    /// Both ends of the veth have these MTUs; `None` without the rights.
    fn new(mtu: u32, flags: &[&str]) -> Option<Self> {
        if !dmrpc_conformance::may(own_network(), "network namespaces") {
            return None;
        }
        let network = Network::new().expect("there is one already");
        let theirs = network.path();
        ip(&format!("link add veth1 mtu {mtu} type veth peer name veth0 mtu {mtu} netns {theirs}"));
        ip("addr add 10.9.0.2/24 dev veth1");
        ip("link set veth1 up");
        let in_theirs = || {
            ip("addr add 10.9.0.1/24 dev veth0");
            ip("link set veth0 up");
        };
        network.within(in_theirs).expect("it may be entered");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"));
        command.args(["--bind", SERVER, "--idle", "sleep", "--pool-size", "64MiB"]).args(flags);
        network.start_in(&mut command);
        let (_serving, address) = Killed::serving(&mut command);
        assert_eq!(address, SERVER);
        Some(Self { network, _serving })
    }

    /// Runs `ip` at both ends, with `VETH` for their interface.
    fn ip_at_both(&self, line: &str) {
        ip(&line.replace("VETH", "veth1"));
        self.network.within(|| ip(&line.replace("VETH", "veth0"))).expect("it may be entered");
    }

    /// Pieces of packets that were cut up at either end.
    fn pieces(&self) -> u64 {
        pieces_here() + self.network.within(pieces_here).expect("it may be entered")
    }
}

fn node(datagram_bytes: usize) -> Node<UdpDevice> {
    let mut config = UdpConfig::at("10.9.0.2:0".parse().expect("an address"));
    config.datagram_bytes_max = datagram_bytes;
    let device = UdpDevice::open(config).expect("a socket");
    let local = device.local_addr();
    let config = NodeConfig { idle: IdleStrategy::Sleep, datagram_bytes, ..NodeConfig::default() };
    Node::new(device, local, &config).expect("a node")
}

fn session(node: &Node<UdpDevice>) -> Peer {
    node.connect(SERVER.parse().expect("an address")).expect("it serves")
}

/// Bytes go there and come back. Returns how many packets came in meanwhile.
fn exchange(node: &Node<UdpDevice>, peer: Peer) -> u64 {
    let before = node.statistics().polls.packets;
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at * 7 + at / 1000) as u8).collect();
    let memory = node.memory(peer);
    let reference = memory.put(&bytes).expect("put");
    let mut found = vec![0; BYTES];
    memory.take(&reference, &mut found).expect("take");
    assert!(found == bytes, "wrong bytes");
    node.statistics().polls.packets - before
}

#[test]
fn datagrams_fit_the_way_or_are_as_large_as_both_ends_have_them() {
    let Some(world) = World::new(1500, &[]) else { return };
    let node = node(9000);
    let narrow = exchange(&node, session(&node));
    assert!(narrow >= BYTES as u64 / 1500, "{narrow} packets");
    assert_eq!(world.pieces(), 0, "something was cut up");

    // A way that is wide is used, by the next session.
    world.ip_at_both("link set VETH mtu 9000");
    node.disconnect_all();
    let wide = exchange(&node, session(&node));
    // Fewer than a narrow way takes, though a busy machine has some come twice.
    assert!((BYTES as u64 / 9000..BYTES as u64 / 1500).contains(&wide), "{wide} packets");
    assert_eq!(world.pieces(), 0, "something was cut up");

    // Where only the memory node knows that its way is narrow, both keep to that.
    let theirs = "route add 10.9.0.2/32 dev veth0 mtu 1300";
    world.network.within(|| ip(theirs)).expect("it may be entered");
    node.disconnect_all();
    let narrower = exchange(&node, session(&node));
    assert!(narrower >= BYTES as u64 / 1300, "{narrower} packets");
    assert_eq!(world.pieces(), 0, "something was cut up");
}

#[test]
fn an_end_that_wants_less_gets_less() {
    let Some(world) = World::new(9000, &["--datagram-size", "2000B"]) else { return };
    let node = node(9000);
    let packets = exchange(&node, session(&node));
    assert!(packets >= BYTES as u64 / 2000, "{packets} packets");
    drop(node);
    let small = self::node(1200);
    let smaller = exchange(&small, session(&small));
    assert!(smaller >= BYTES as u64 / 1200, "{smaller} packets");
    assert_eq!(world.pieces(), 0, "something was cut up");
}

/// The kernel then cuts up what is too long: slower, but all there.
#[test]
fn a_way_that_shrinks_under_a_session_still_carries_it() {
    let Some(world) = World::new(9000, &[]) else { return };
    let node = node(9000);
    let peer = session(&node);
    exchange(&node, peer);
    for mtu in [4000, 1400, 600] {
        world.ip_at_both(&format!("link set VETH mtu {mtu}"));
        let before = world.pieces();
        exchange(&node, peer);
        assert!(world.pieces() > before, "nothing was cut up at {mtu}");
    }
    // Too narrow for the smallest packets that there are: a new session works nevertheless.
    node.disconnect_all();
    exchange(&node, session(&node));
}
