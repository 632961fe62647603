//! What a small memory operation through the library costs, both ends together: a node and a memory
//! node of one thread over a wire in memory, the payload check on. Operations block, one at a time,
//! as in a program that waits for each.
//!
//! `memory_cost --operation O --calls N` prints one line:
//! `operation=O calls=N seconds=S ns_each=T`.
//! Operations: `create_ref` (with the `drop_ref` that ends it), `map_ref` (with `free`), `read` and
//! `write` of 64 bytes, `call`, which the memory node refuses: what the way there and back costs
//! alone.
//!
//! For instructions an operation, run it under `valgrind --tool=callgrind` with two values of N
//! and divide the difference of the totals by that of the calls: what happens once cancels out.

use dmrpc_host as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_cn::memory::{ALL_RIGHTS, Memory};
use dmrpc_cn::{Arg, BufferClass, Method, Node, NodeConfig, Status};
use dmrpc_core::device::{Capabilities, Device};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Endpoint};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, RECLAIM_UNITS_A_POLL, Store};
use dmrpc_core::time::Duration;
use dmrpc_core::wire::reference::RefKey;
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::{IdleStrategy, Wait};
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

const BYTES: usize = 64;
const REGION_BYTES: u64 = 1 << 20;
const POOL_BYTES: u64 = 16 << 20;
const DATAGRAM_BYTES: usize = 1458;
const SLOTS: u16 = 64;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
/// A method that a memory node does not know.
const UNKNOWN: Method = Method(1);
/// What the clocks move on by when they are read.
const STEP: Duration = Duration::from_nanos(50);

/// The memory node at the other end of the wire.
struct Remote {
    endpoint: Endpoint<'static>,
    device: MemoryDevice,
    node: MemoryNode<'static, Plain<'static>>,
    clock: Clock,
}

impl Remote {
    fn new(device: MemoryDevice) -> Self {
        let pool = vec![0; POOL_BYTES as usize / 8].leak();
        let config = StoreConfig::for_pool_bytes(POOL_BYTES);
        let store = Store::format(Plain::lasting(pool), &config).expect("a pool");
        let identity = Identity { memory_node: 1, incarnation: 1, key: RefKey([3; 16]) };
        let holders = vec![SessionHolder::default(); 2].leak();
        let transfers = vec![Transfer::default(); usize::from(SLOTS)].leak();
        let node = MemoryNode::new(store, identity, Limits::NONE, holders, transfers);
        let clock = Clock::steps(STEP);
        let config = Config { slots_per_session: SLOTS, ..Config::new(1, DATAGRAM_BYTES) };
        let size = StorageSize::new(0, 2, SLOTS.into());
        let endpoint = storage::endpoint(config, size, clock.now()).expect("the defaults work");
        Self { endpoint, device, node, clock }
    }

    /// Takes in what has come, as the loop of a memory node that never pauses does.
    #[inline(never)]
    fn serve(&mut self) {
        let Self { endpoint, device, node, clock } = self;
        if let Some((now, _)) = endpoint.look(|| clock.now(), device, node) {
            while node.reclaim(now, RECLAIM_UNITS_A_POLL) != 0 {}
        }
    }
}

/// The node's end of the wire. Whenever it is used, the memory node has its turn before.
struct Wire {
    device: MemoryDevice,
    remote: Remote,
}

impl Device for Wire {
    type Rx<'a> = <MemoryDevice as Device>::Rx<'a>;
    type Tx<'a> = <MemoryDevice as Device>::Tx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    #[inline]
    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        self.remote.serve();
        self.device.split()
    }
}

impl Wait for Wire {
    fn wait(&self, _: std::time::Duration) -> bool {
        true
    }
}

fn node() -> Node<Wire> {
    let (device, other) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
    let none = BufferClass { count: 0, bytes: 0 };
    let config = NodeConfig {
        client_sessions: 2,
        server_sessions: 2,
        slots: SLOTS,
        calls: 512,
        tasks: 1,
        datagram_bytes: DATAGRAM_BYTES,
        buffers: [none, none, BufferClass { count: 4, bytes: 4096 }],
        idle: IdleStrategy::Busy,
        ..NodeConfig::at(CLIENT)
    };
    // Timers follow the number of polls, not the time that they take under callgrind.
    let clock = Clock::steps(STEP);
    let wire = Wire { device, remote: Remote::new(other) };
    Node::with_clock(wire, CLIENT, &config, clock).expect("legal numbers")
}

/// Makes `calls` operations, one after the other.
fn run(operation: &str, memory: Memory<'_, Wire>, node: &Node<Wire>, calls: u64) {
    const WORKS: &str = "every operation works";
    let region = memory.alloc(REGION_BYTES).expect(WORKS);
    let mut bytes = [0x5A; BYTES];
    memory.write(region, 0, &bytes).expect(WORKS);
    let reference = memory.create_ref(region, 0, REGION_BYTES, ALL_RIGHTS).expect(WORKS);
    for _ in 0..calls {
        match operation {
            "create_ref" => {
                let made = memory.create_ref(region, 0, REGION_BYTES, ALL_RIGHTS).expect(WORKS);
                memory.drop_ref(&made).expect(WORKS);
            }
            "map_ref" => {
                let mapped = memory.map_ref(&reference).expect(WORKS);
                memory.free(mapped).expect(WORKS);
            }
            "read" => {
                memory.read(region, 0, &mut bytes).expect(WORKS);
                assert_eq!(bytes, [0x5A; BYTES], "what was written");
            }
            "write" => memory.write(region, 0, &bytes).expect(WORKS),
            "call" => {
                let args = [Arg::Inline(&bytes)];
                let reply = node.call(memory.peer(), UNKNOWN, &args, &mut []).expect(WORKS);
                assert_eq!(reply.status, Status::UNKNOWN_METHOD, "nobody knows it");
            }
            other => {
                eprintln!("{other}: create_ref, map_ref, read, write or call is wanted");
                std::process::exit(2)
            }
        }
    }
}

/// What follows `name` on the command line.
fn flag(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

fn main() {
    let operation = flag("--operation").unwrap_or_else(|| "create_ref".to_owned());
    let calls = flag("--calls").map_or(Ok(1_000_000), |text| text.parse());
    let Ok(calls) = calls else {
        eprintln!("--calls: a number is wanted");
        std::process::exit(2)
    };
    let node = node();
    let peer = node.connect(SERVER).expect("a session");
    let start = std::time::Instant::now();
    run(&operation, node.memory(peer), &node, calls);
    let seconds = start.elapsed().as_secs_f64();
    let ns_each = seconds * 1e9 / calls as f64;
    println!("operation={operation} calls={calls} seconds={seconds:.6} ns_each={ns_each:.1}");
}
