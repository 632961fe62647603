//! A memory node of two cores over ports that spread senders over their queues as they like: each
//! sender is served, and what one's session makes the others' sessions take.
//!
//! Each test has a network namespace of its own, which ends with its thread. Making one needs root:
//! without it these tests say so and pass.
#![cfg(feature = "dpdk")]

use std::io::{BufRead, BufReader};
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use dmrpc_cn::memory::{Cause, OperationError};
use dmrpc_cn::{Error, Node, NodeConfig};
use dmrpc_conformance::{Killed, ip, may};
use dmrpc_host as _;
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::network::own_network;
use dmrpc_udp::{UdpConfig, UdpDevice};

/// Senders: so many that the kernel gives some to each queue.
const NODES: usize = 16;
/// Bytes of a message: with its headers, one frame.
const BYTES: usize = 500;
const ROUNDS: usize = 10;
/// How long a busy machine may keep an operation from beginning.
const PATIENCE: Duration = Duration::from_secs(20);
const SERVER: &str = "10.9.0.1:7400";

fn start(vdev: &str) -> Killed {
    let (serving, address) = Killed::serving(
        Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"))
            .args(["--driver", "dpdk", "--dpdk-no-huge", "--dpdk-vdev", vdev, "--bind", SERVER])
            .args(["--cores", "0,1", "--idle", "sleep", "--pool-size", "64MiB", "--json"])
            .stderr(Stdio::piped()),
    );
    assert_eq!(address, SERVER);
    serving
}

fn node() -> Node<UdpDevice> {
    let mut config = UdpConfig::at("10.9.0.2:0".parse().expect("an address"));
    config.datagram_bytes_max = 1472;
    let device = UdpDevice::open(config).expect("a socket");
    let local = device.local_addr();
    let config =
        NodeConfig { idle: IdleStrategy::Sleep, datagram_bytes: 1472, ..NodeConfig::default() };
    Node::new(device, local, &config).expect("a node")
}

fn bytes(seed: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (seed * 31 + at * 7) as u8).collect()
}

/// Does `work`, again if it was not begun because the peer had been silent: on a busy machine
/// nobody may have polled for half a second.
fn patiently<T>(
    nodes: &[Node<UdpDevice>],
    work: impl Fn() -> Result<T, OperationError>,
) -> Result<T, OperationError> {
    let begin = Instant::now();
    loop {
        // All nodes live on.
        for node in nodes {
            node.poll();
        }
        match work() {
            Err(OperationError { cause: Cause::Call(Error::Suspected { .. }), .. })
                if begin.elapsed() < PATIENCE => {}
            result => return result,
        }
    }
}

/// Every node makes references that the next one maps, writes to and takes.
fn exchange() {
    let nodes: Vec<_> = (0..NODES).map(|_| node()).collect();
    let server = SERVER.parse().expect("an address");
    let peers: Vec<_> =
        nodes.iter().map(|node| node.connect(server).expect("it serves all")).collect();
    for round in 0..ROUNDS {
        for maker in 0..NODES {
            let taker = (maker + 1) % NODES;
            let seed = round * NODES + maker;
            let bytes = bytes(seed);
            let theirs = nodes[maker].memory(peers[maker]);
            let memory = nodes[taker].memory(peers[taker]);
            let reference = patiently(&nodes, || theirs.put(&bytes)).expect("put");
            let region = patiently(&nodes, || memory.map_ref(&reference)).expect("map");
            patiently(&nodes, || memory.write(region, 100, b"mine")).expect("write");
            let read = || {
                let mut found = vec![0; BYTES];
                memory.read(region, 0, &mut found).map(|()| found)
            };
            assert_eq!(&patiently(&nodes, read).expect("read")[100..104], b"mine");
            patiently(&nodes, || memory.free(region)).expect("free");
            let take = || {
                let mut found = vec![0; BYTES];
                memory.take(&reference, &mut found).map(|_| found)
            };
            let found = patiently(&nodes, take).expect("take");
            assert!(found == bytes, "round {round}, node {maker}: wrong bytes");
        }
    }
}

/// What each core says of itself, on demand: its packets, and its driver's counts.
fn reports(serving: &mut Killed) -> Vec<(u64, serde_json::Value)> {
    let id = serving.0.id().to_string();
    assert!(Command::new("kill").args(["-USR1", &id]).status().expect("kill").success());
    let mut lines = BufReader::new(serving.0.stderr.take().expect("piped"));
    let mut reports = Vec::new();
    while reports.len() < 2 {
        let rates = next_object(&mut lines, "datagrams_received");
        let detail = next_object(&mut lines, "device");
        reports.push((rates["datagrams_received"].as_u64().expect("a count"), detail));
    }
    reports
}

/// The next line that is an object with that member. Cores take turns in their own order.
fn next_object(lines: &mut BufReader<ChildStderr>, member: &str) -> serde_json::Value {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(lines.read_line(&mut line).expect("text") > 0, "no report with {member}");
        if let Ok(object) = serde_json::from_str::<serde_json::Value>(&line)
            && object.get(member).is_some()
        {
            return object;
        }
    }
}

fn both_cores_serve(mut serving: Killed) {
    exchange();
    let reports = reports(&mut serving);
    for (packets, detail) in &reports {
        assert!(*packets > 100, "a core without senders: {reports:?}");
        assert_eq!(detail["device"]["frames_not_handed_over"], 0, "{reports:?}");
    }
    let sum = |name: &str| -> u64 {
        reports.iter().filter_map(|(_, detail)| detail["device"][name].as_u64()).sum()
    };
    assert_eq!(sum("frames_handed_over"), sum("frames_taken_over"), "{reports:?}");
}

#[test]
fn over_af_packet() {
    if !may(own_network(), "network namespaces") {
        return;
    }
    ip("link add veth0 type veth peer name veth1");
    ip("addr add 10.9.0.2/24 dev veth1");
    ip("link set veth0 up");
    ip("link set veth1 up");
    both_cores_serve(start("net_af_packet0,iface=veth0,qpairs=2,qdisc_bypass=1"));
}

#[test]
fn over_tap() {
    if !may(own_network(), "network namespaces") {
        return;
    }
    let serving = start("net_tap0,iface=tap0");
    ip("addr add 10.9.0.2/24 dev tap0");
    ip("link set tap0 up");
    both_cores_serve(serving);
}
