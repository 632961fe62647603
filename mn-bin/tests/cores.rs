//! A memory node of two cores over one memif link with two queue pairs: what one core's session
//! makes, the other core's maps, takes and drops while both run.
#![cfg(feature = "dpdk")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use dmrpc_cn::{Memory, Node, NodeConfig, Ref};
use dmrpc_dpdk::{DpdkDevice, Eal, EalConfig, Port, PortConfig};
use dmrpc_host as _;
use dmrpc_host::idle::IdleStrategy;

/// References that go each way.
const ROUNDS: usize = 300;
/// Bytes behind each: some pages, the last one not whole.
const BYTES: usize = 10_000;
const SERVER: &str = "10.9.1.1:7400";

/// The memory node, killed when dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(vdev: &str) -> Serving {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"))
        .args(["--driver", "dpdk", "--dpdk-no-huge", "--dpdk-vdev", vdev, "--bind", SERVER])
        .args(["--cores", "0,1", "--idle", "yield", "--pool-size", "64MiB"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), format!("ready {SERVER}"));
    Serving(child)
}

/// A node on queue pair `queue`, which is that of the memory node's core of the same number.
fn node(port: &Arc<Port>, queue: u16) -> Node<DpdkDevice> {
    let pairs = vec![port.queue(queue).expect("free")];
    let at = format!("10.9.1.{}:7500", queue + 2).parse().expect("an address");
    let device = DpdkDevice::open(pairs, at, 24, None, 1).expect("a device");
    let config = NodeConfig { idle: IdleStrategy::Yield, ..NodeConfig::default() };
    Node::new(device, at, &config).expect("a node")
}

fn bytes(seed: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (seed * 31 + at * 7) as u8).collect()
}

/// Makes a reference, and takes what the other core's session made, in turns.
fn exchange(
    memory: Memory<'_, DpdkDevice>,
    core: usize,
    to: &mpsc::Sender<(usize, Ref)>,
    from: &mpsc::Receiver<(usize, Ref)>,
    mut idle: impl FnMut(),
) {
    for round in 0..ROUNDS {
        let seed = 2 * round + core;
        let reference = memory.put(&bytes(seed)).expect("put");
        to.send((seed, reference)).expect("the other core takes it");
        // Time passes for a node's session only while it is polled.
        let (seed, theirs) = loop {
            match from.try_recv() {
                Ok(parcel) => break parcel,
                Err(_) => idle(),
            }
        };
        let region = memory.map_ref(&theirs).expect("map");
        memory.write(region, 5000, b"mine").expect("write");
        let mut found = vec![0; BYTES];
        memory.read(region, 0, &mut found).expect("read");
        let mut wanted = bytes(seed);
        wanted[5000..5004].copy_from_slice(b"mine");
        assert!(found == wanted, "round {round}: wrong bytes");
        memory.free(region).expect("free");
        memory.take(&theirs, &mut found).expect("take");
        assert!(found == bytes(seed), "round {round}: a write showed through");
    }
}

#[test]
fn references_cross_cores_while_both_run() {
    let socket = std::env::temp_dir().join(format!("dmrpc-cores-{}.sock", std::process::id()));
    let path = socket.display();
    let at = |role| format!("net_memif0,role={role},id=0,socket={path},socket-abstract=no");
    let serving = start(&at("server"));
    let config = EalConfig { no_huge: true, memory_mib: 256, ..EalConfig::default() };
    let eal = Eal::start(&config).expect("DPDK starts");
    let name = eal.add_vdev(&at("client")).expect("a link");
    let config = PortConfig { queues: 2, ..PortConfig::default() };
    let port = Port::open(&eal, &name, &config).expect("a port of two queue pairs");

    let (to_second, from_first) = mpsc::channel();
    let (to_first, from_second) = mpsc::channel();
    let run = |core: u16, to: mpsc::Sender<_>, from: mpsc::Receiver<_>| {
        let node = node(&port, core);
        let peer = node.connect(SERVER.parse().expect("an address")).expect("it serves");
        exchange(node.memory(peer), core.into(), &to, &from, || {
            node.step();
        });
        node.disconnect(peer);
        node.step();
    };
    thread::scope(|scope| {
        scope.spawn(|| run(1, to_first, from_first));
        run(0, to_second, from_second);
    });
    drop(serving);
    let _ = std::fs::remove_file(socket);
}
