//! What the tests share: a memory node and services in threads of their own.
#![allow(dead_code)]

pub(crate) mod flush;

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use dmrpc_cn::{Context, IncomingCall, Node, NodeConfig};
use dmrpc_core::device::Device;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::cipher::{CipherRoom, CipherTable, PortableKey, SessionCipher};
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Config, Endpoint, TimerEntry, WaitEntries};
use dmrpc_core::memory::{Handed, Memory, Plain};
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_cxl::{Mode, Pool, PoolDevice};
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::{Idle, IdleStrategy, Wait};
use dmrpc_udp::{UdpConfig, UdpDevice};

/// Bytes of the memory node's pool.
pub(crate) const POOL_BYTES: u64 = 96 << 20;

/// A thread that serves at an address until dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddrV4,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(work: impl FnOnce(mpsc::Sender<SocketAddrV4>, &AtomicBool) + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || work(sender, &flag));
        let address = receiver.recv().expect("the server starts");
        Self { address, stop, thread: Some(thread) }
    }

    /// A memory node.
    pub(crate) fn memory_node() -> Self {
        Self::start(|ready, stop| run_memory_node(None, ready, stop))
    }

    /// A memory node that encrypts with what comes of `key`.
    pub(crate) fn encrypting_memory_node(key: Key) -> Self {
        Self::start(move |ready, stop| run_memory_node(Some(key), ready, stop))
    }

    /// The memory node of a pool, which makes the store in it.
    pub(crate) fn pool_node(pool: &Arc<Pool>) -> Self {
        let pool = Arc::clone(pool);
        Self::start(move |ready, stop| {
            let memory = Handed(pool.store_memory());
            let participants = pool.geometry().participants as u32;
            let store_config =
                StoreConfig { participants, ..StoreConfig::for_pool_bytes(memory.len() * 7 / 8) };
            let store = Store::format(memory, &store_config).expect("a pool");
            let participant = pool.attach(Some(0), 7).expect("nobody else is 0");
            let device = PoolDevice::new(Arc::clone(&pool), participant).expect("it has rings");
            let (incarnation, key) = (pool.geometry().incarnation, pool.geometry().key);
            let key = RefKey(std::array::from_fn(|byte| key[byte / 8].to_le_bytes()[byte % 8]));
            let identity = Identity { memory_node: 0, incarnation, key };
            let address = device.local_addr();
            let hands_out = pool.geometry().mode == Mode::Flush;
            serve_memory((store, identity, hands_out), None, device, (address, ready), stop);
        })
    }

    /// A node whose service answers with what it was sent.
    pub(crate) fn echo() -> Self {
        Self::start(|ready, stop| {
            let node = Node::open_udp(&config()).expect("loopback");
            ready.send(node.local_addr()).expect("awaited");
            let handler = async |_: Context<'_, UdpDevice>, call: IncomingCall<'_, UdpDevice>| {
                call.echo().expect("an answer like the request");
            };
            node.serve(handler).run(|| stop.load(Ordering::Relaxed));
        })
    }

    /// A node that runs `work` with a flag that says when to stop.
    pub(crate) fn node(work: impl FnOnce(&Node<UdpDevice>, &AtomicBool) + Send + 'static) -> Self {
        Self::node_with(config(), work)
    }

    /// A node set up by `config` that runs `work`.
    pub(crate) fn node_with(
        config: NodeConfig,
        work: impl FnOnce(&Node<UdpDevice>, &AtomicBool) + Send + 'static,
    ) -> Self {
        Self::start(move |ready, stop| {
            let node = Node::open_udp(&config).expect("loopback");
            ready.send(node.local_addr()).expect("awaited");
            work(&node, stop);
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

/// Two cores are shared by all tests: nobody spins.
pub(crate) fn config() -> NodeConfig {
    NodeConfig { idle: IdleStrategy::Sleep, ..NodeConfig::default() }
}

pub(crate) fn node() -> Node<UdpDevice> {
    Node::open_udp(&config()).expect("loopback")
}

/// Bytes that tell where they are.
pub(crate) fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

fn run_memory_node(key: Option<Key>, ready: mpsc::Sender<SocketAddrV4>, stop: &AtomicBool) {
    let mut pool = vec![0_u64; POOL_BYTES as usize / 8];
    let store_config = StoreConfig::for_pool_bytes(POOL_BYTES);
    let store = Store::format(Plain::new(&mut pool), &store_config).expect("a pool");
    let identity = Identity { memory_node: 0, incarnation: 7, key: RefKey([9; 16]) };
    let device = UdpDevice::open(UdpConfig::LOOPBACK).expect("loopback");
    let address = device.local_addr();
    serve_memory((store, identity, false), key, device, (address, ready), stop);
}

/// Serves a store over a device until told to stop, encrypting if there is a key. The store must be
/// in order at the end.
fn serve_memory<M: Memory, D: Device + Wait>(
    (store, identity, hands_out): (Store<M>, Identity, bool),
    key: Option<Key>,
    mut device: D,
    (address, ready): (SocketAddrV4, mpsc::Sender<SocketAddrV4>),
    stop: &AtomicBool,
) {
    let mut holders = vec![SessionHolder::default(); 16];
    let mut transfers = vec![Transfer::default(); store.config().stages as usize];
    let mut node = MemoryNode::new(store, identity, Limits::NONE, &mut holders, &mut transfers);
    if hands_out {
        node.hand_out_places();
    }
    let config = Config {
        slots_per_session: 64,
        key,
        encrypt: key.is_some(),
        ..Config::new(7, device.capabilities().datagram_bytes_max)
    };
    let size = StorageSize::new(0, 16, 64);
    let mut client_sessions = vec![ClientSession::EMPTY; size.client_sessions];
    let mut client_slots = vec![ClientSlot::EMPTY; size.client_slots];
    let mut server_sessions = vec![ServerSession::EMPTY; size.server_sessions];
    let mut server_slots = vec![ServerSlot::EMPTY; size.server_slots];
    let mut timers = vec![TimerEntry::EMPTY; size.timers];
    let mut waits = vec![WaitEntries::EMPTY; size.waits];
    let storage = Storage {
        client_sessions: &mut client_sessions,
        client_slots: &mut client_slots,
        server_sessions: &mut server_sessions,
        server_slots: &mut server_slots,
        timers: &mut timers,
        waits: &mut waits,
    };
    let clock = Clock::new();
    let (ciphers, packet_bytes) = CipherRoom::needed(&size, config.payload_bytes_max);
    // Not the one of the library, which must be understood by any.
    let ciphers = vec![SessionCipher::<PortableKey>::EMPTY; ciphers];
    let mut ciphers = CipherTable::new(ciphers);
    let mut packet = vec![0; packet_bytes];
    let room = CipherRoom { sessions: &mut ciphers, packet: &mut packet };
    let mut endpoint =
        Endpoint::encrypted(config, storage, room, clock.now()).expect("an endpoint");
    let mut idle = Idle::new(IdleStrategy::Sleep);
    ready.send(address).expect("awaited");
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        let polled = endpoint.poll(now, &mut device, &mut node);
        let reclaimed = node.reclaim(now, 64);
        let worked = !polled.is_idle() || reclaimed != 0;
        idle.after_poll(worked, now, endpoint.poll_at(now), &device);
    }
    let mut scratch = vec![0; node.store().check_scratch_bytes()];
    node.store().check(&mut scratch).expect("the store is in order");
}
