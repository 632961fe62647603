//! What the tests share: a memory node and services in threads of their own.
#![allow(dead_code)]

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use dmrpc_cn::{Context, IncomingCall, Node, NodeConfig};
use dmrpc_core::device::Device;
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Config, Endpoint, TimerEntry};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::{Idle, IdleStrategy};
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
        Self::start(run_memory_node)
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

fn run_memory_node(ready: mpsc::Sender<SocketAddrV4>, stop: &AtomicBool) {
    let mut pool = vec![0_u64; POOL_BYTES as usize / 8];
    let store_config = StoreConfig::for_pool_bytes(POOL_BYTES);
    let store = Store::format(Plain::new(&mut pool), &store_config).expect("a pool");
    let identity = Identity { memory_node: 0, incarnation: 7, key: RefKey([9; 16]) };
    let mut holders = vec![SessionHolder::default(); 16];
    let mut transfers = vec![Transfer::default(); store_config.stages as usize];
    let mut node = MemoryNode::new(store, identity, Limits::NONE, &mut holders, &mut transfers);
    let mut device = UdpDevice::open(UdpConfig::LOOPBACK).expect("loopback");
    let config = Config {
        slots_per_session: 64,
        ..Config::new(7, device.capabilities().datagram_bytes_max)
    };
    let size = StorageSize::new(0, 16, 64);
    let mut client_sessions = vec![ClientSession::EMPTY; size.client_sessions];
    let mut client_slots = vec![ClientSlot::EMPTY; size.client_slots];
    let mut server_sessions = vec![ServerSession::EMPTY; size.server_sessions];
    let mut server_slots = vec![ServerSlot::EMPTY; size.server_slots];
    let mut timers = vec![TimerEntry::EMPTY; size.timers];
    let storage = Storage {
        client_sessions: &mut client_sessions,
        client_slots: &mut client_slots,
        server_sessions: &mut server_sessions,
        server_slots: &mut server_slots,
        timers: &mut timers,
    };
    let clock = Clock::new();
    let mut endpoint = Endpoint::new(config, storage, clock.now()).expect("an endpoint");
    let mut idle = Idle::new(IdleStrategy::Sleep);
    ready.send(device.local_addr()).expect("awaited");
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        let polled = endpoint.poll(now, &mut device, &mut node);
        let reclaimed = node.reclaim(now, 64);
        let worked = !polled.is_idle() || reclaimed != 0;
        idle.after_poll(worked, now, endpoint.poll_at(now), &device);
    }
}
