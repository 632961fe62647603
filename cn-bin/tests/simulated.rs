//! The client library itself on the simulated network, in virtual time: a memory node dies and
//! comes back, or is out of reach for longer than the lease, while packets are lost, repeated,
//! overtaken and spoiled. Whatever it says is compared with a plain model.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration as StdDuration;

use dmrpc_cn::memory::Cause;
use dmrpc_cn::{
    CallError, CallOptions, Closed, Duration, Error, IdleStrategy, Instant, Loss, Memory,
    MemoryError, Node, NodeConfig, OperationError, Ref, Region,
};
use dmrpc_core::device::{Capabilities, Device};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Endpoint};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::Wait;
use dmrpc_sim::faults::Faults;
use dmrpc_sim::network::{Network, NetworkDevice};
use dmrpc_sim::random::Random;
use dmrpc_sim::storage;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7500);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7400);
const DATAGRAM_BYTES: usize = 1_472;
const POOL_BYTES: usize = 2 << 20;
const SESSIONS: usize = 8;
/// Time that passes when nothing happens.
const STEP: Duration = Duration::from_millis(5);
/// Seeds that are run.
const SEEDS: u64 = 40;
/// Operations of a seed.
const OPERATIONS: u32 = 150;
/// Within this time after the network is good again and the memory node is there, calls work.
const BACK_WITHIN: Duration = Duration::from_secs(5);

thread_local! {
    /// The client's clock.
    static NANOS: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
}

/// A memory node's life.
struct Server {
    endpoint: Endpoint<'static>,
    device: NetworkDevice,
    node: MemoryNode<'static, Plain<'static>>,
}

impl Server {
    /// Lives in memory that is never given back: a few MiB a life.
    fn new(network: &Network, incarnation: u64) -> Self {
        let store_config = StoreConfig::for_pool_bytes(POOL_BYTES as u64);
        let pool = vec![0_u64; POOL_BYTES / 8].leak();
        let store = Store::format(Plain::new(pool), &store_config).expect("a pool");
        let identity = Identity { memory_node: 0, incarnation, key: RefKey([9; 16]) };
        let holders = vec![SessionHolder::default(); SESSIONS].leak();
        let transfers = vec![Transfer::default(); store_config.stages as usize].leak();
        let node = MemoryNode::new(store, identity, Limits::NONE, holders, transfers);
        let config = Config { slots_per_session: 16, ..Config::new(incarnation, DATAGRAM_BYTES) };
        let storage = storage::take(StorageSize::new(0, SESSIONS, 16));
        let endpoint = Endpoint::new(config, storage, network.now()).expect("an endpoint");
        Self { endpoint, device: network.open(SERVER, DATAGRAM_BYTES), node }
    }

    fn poll(&mut self, now: Instant) {
        self.endpoint.poll(now, &mut self.device, &mut self.node);
        self.node.reclaim(now, 64);
    }
}

/// All that is not the client.
struct World {
    network: Network,
    server: Option<Server>,
    nanos: &'static AtomicU64,
}

impl World {
    /// Lets the memory node work, then time pass: until something arrives or is due, `limit` at
    /// the latest.
    fn step(&mut self, limit: Instant) {
        let now = self.network.now();
        let mut due = limit;
        if let Some(server) = &mut self.server {
            server.poll(now);
            due = due.min(server.endpoint.poll_at(now));
        }
        let arrival = self.network.next_arrival().unwrap_or(limit);
        self.network.advance(due.min(arrival).max(now + Duration::from_nanos(100)));
        self.nanos.store(self.network.now().as_nanos(), Ordering::Relaxed);
        if let Some(server) = &mut self.server {
            server.poll(self.network.now());
        }
    }
}

/// The client's device: while the client waits, time passes.
struct Stepping {
    device: NetworkDevice,
    world: Rc<RefCell<World>>,
}

impl Device for Stepping {
    type Rx<'a> = <NetworkDevice as Device>::Rx<'a>;
    type Tx<'a> = <NetworkDevice as Device>::Tx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        self.device.split()
    }
}

impl Wait for Stepping {
    fn wait(&self, timeout: StdDuration) -> bool {
        let mut world = self.world.borrow_mut();
        let end = world.network.now() + Duration::from_nanos(timeout.as_nanos() as u64).min(STEP);
        while !world.network.has_arrived(CLIENT) && world.network.now() < end {
            world.step(end);
        }
        world.network.has_arrived(CLIENT)
    }
}

/// A seed's run.
struct Run<'n> {
    node: &'n Node<Stepping>,
    memory: Memory<'n, Stepping>,
    world: Rc<RefCell<World>>,
    random: Random,
    incarnation: u64,
    regions: Vec<(Region, Vec<u8>)>,
    refs: Vec<(Ref, Vec<u8>)>,
    losses: Vec<Loss>,
}

impl Run<'_> {
    /// What a call came to; the end of a session, and doubt, are legal as long as there are faults.
    fn check<T>(&mut self, result: Result<T, OperationError>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        match error.cause {
            Cause::Call(
                Error::SessionLost { .. } | Error::Suspected { .. } | Error::Connecting { .. },
            )
            | Cause::Call(Error::Call { error: CallError::OutcomeUnknown, .. })
            | Cause::Call(Error::Call { error: CallError::DeadlineExceeded, .. })
            | Cause::Call(Error::Call { error: CallError::SessionLost, .. }) => None,
            Cause::Memory(
                MemoryError::StaleIncarnation { .. }
                | MemoryError::Expired
                | MemoryError::StaleReference
                | MemoryError::UnknownRegion
                | MemoryError::NotOwner
                | MemoryError::Dropped,
            ) => None,
            cause => panic!("{error}: {cause:?}"),
        }
    }

    fn operate(&mut self) {
        match self.random.below(5) {
            0 => {
                let length = self.random.within(1..=20_000) as usize;
                let made = self.memory.alloc(length as u64);
                if let Some(region) = self.check(made) {
                    let bytes: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
                    let written = self.memory.write(region, 0, &bytes);
                    if self.check(written).is_some() {
                        self.regions.push((region, bytes));
                    }
                }
            }
            1 if !self.regions.is_empty() => {
                let at = self.random.below(self.regions.len() as u64) as usize;
                let (region, bytes) = &self.regions[at];
                let mut out = vec![0; bytes.len()];
                let (region, bytes) = (*region, bytes.clone());
                let read = self.memory.read(region, 0, &mut out);
                if self.check(read).is_some() {
                    assert!(out == bytes, "a region's bytes");
                }
            }
            2 if !self.regions.is_empty() => {
                let at = self.random.below(self.regions.len() as u64) as usize;
                let (region, bytes) = self.regions.swap_remove(at);
                let rights = dmrpc_cn::memory::ALL_RIGHTS;
                let made = self.memory.create_ref(region, 0, bytes.len() as u64, rights);
                if let Some(reference) = self.check(made) {
                    self.refs.push((reference, bytes));
                }
                let freed = self.memory.free(region);
                self.check(freed);
            }
            3 if !self.refs.is_empty() => {
                let at = self.random.below(self.refs.len() as u64) as usize;
                let (reference, bytes) = self.refs[at].clone();
                let mut out = vec![0; bytes.len()];
                let read = self.memory.read_ref(&reference, 0, &mut out);
                if self.check(read).is_some() {
                    assert!(out == bytes, "a reference's bytes");
                }
            }
            _ if !self.refs.is_empty() => {
                let at = self.random.below(self.refs.len() as u64) as usize;
                let (reference, _) = self.refs.swap_remove(at);
                let dropped = self.memory.drop_ref(&reference);
                self.check(dropped);
            }
            _ => {}
        }
        self.look_for_losses();
    }

    /// What a loss took answers as lost from then on.
    fn look_for_losses(&mut self) {
        while let Some(loss) = self.node.next_loss() {
            assert!(matches!(loss.why, Closed::PeerRestarted | Closed::LeaseExpired), "{loss}");
            let lost = self.regions.extract_if(.., |(region, _)| loss.took_region(region));
            for (region, _) in lost.collect::<Vec<_>>() {
                let cause = self.memory.read(region, 0, &mut [0]).expect_err("gone").cause;
                let is_lost = matches!(cause, Cause::Call(Error::SessionLost { .. }));
                assert!(is_lost, "{cause:?}");
            }
            if loss.has_restarted() == Some(true) {
                assert!(loss.incarnation_now > Some(loss.incarnation), "{loss}");
            }
            self.refs.retain(|(reference, _)| !loss.took_ref(reference));
            self.losses.push(loss);
        }
    }

    /// Lets the client idle for a time.
    fn idle(&self, span: Duration) {
        let end = self.node.now() + span;
        while self.node.now() < end {
            self.node.step();
        }
    }

    /// The memory node dies, and returns after a time with nothing.
    fn restart(&mut self) {
        let network = {
            let mut world = self.world.borrow_mut();
            world.server = None;
            world.network.close(SERVER);
            world.network.clone()
        };
        let most = Duration::from_secs(14).as_nanos() >> self.random.below(8);
        let span = Duration::from_nanos(self.random.within(0..=most));
        if self.random.below(2) == 0 {
            self.idle(span);
        } else {
            let end = self.node.now() + span;
            while self.node.now() < end {
                self.operate();
                self.node.step();
            }
        }
        self.incarnation += 1;
        self.world.borrow_mut().server = Some(Server::new(&network, self.incarnation));
    }

    /// Nothing passes for longer than the lease; both live on.
    fn cut(&mut self) {
        let network = self.world.borrow().network.clone();
        network.set_cut(CLIENT, SERVER, true);
        network.set_cut(SERVER, CLIENT, true);
        self.idle(Duration::from_secs(12));
        network.set_cut(CLIENT, SERVER, false);
        network.set_cut(SERVER, CLIENT, false);
    }
}

/// Runs a seed; returns how many sessions were lost to restarts, and to silence.
fn run(seed: u64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let faults = match random.below(3) {
        0 => Faults::NONE,
        // Paths that stall for seconds, and losses that end sessions, are for others: here it is
        // known why a session ends.
        _ => Faults { clog: 0, burst: 0, loss: 50_000, ..Faults::drawn(&mut random) },
    };
    let network = Network::new(random.draw(), faults);
    let nanos = NANOS.with(|nanos| *nanos);
    nanos.store(0, Ordering::Relaxed);
    let server = Some(Server::new(&network, 7));
    let world = Rc::new(RefCell::new(World { network: network.clone(), server, nanos }));
    let device = network.open(CLIENT, DATAGRAM_BYTES);
    let device = Stepping { device, world: Rc::clone(&world) };
    let config =
        NodeConfig { idle: IdleStrategy::Sleep, incarnation: Some(1), ..NodeConfig::default() };
    let node = Node::with_clock(device, CLIENT, &config, Clock::told_by(nanos)).expect("a node");
    let peer = (0..20).find_map(|_| node.connect(SERVER).ok()).expect("it is there");
    let options = CallOptions { deadline: Some(Duration::from_secs(2)), ..CallOptions::default() };
    let memory = node.memory(peer).with_options(options);
    let mut run = Run {
        node: &node,
        memory,
        world,
        random,
        incarnation: 7,
        regions: Vec::new(),
        refs: Vec::new(),
        losses: Vec::new(),
    };
    for _ in 0..OPERATIONS {
        match run.random.below(60) {
            0 => run.restart(),
            1 => run.cut(),
            _ => run.operate(),
        }
    }
    // Without faults it works again by itself, and what it says it has lost is all there was.
    network.set_faults(Faults::NONE);
    let end = node.now() + BACK_WITHIN;
    while memory.alloc(1).is_err() {
        assert!(node.now() < end, "it does not come back");
        node.step();
    }
    run.look_for_losses();
    assert_eq!(node.peer_incarnation(peer), Some(run.incarnation));
    for (region, bytes) in std::mem::take(&mut run.regions) {
        let mut out = vec![0; bytes.len()];
        memory.read(region, 0, &mut out).expect("no loss has taken it");
        assert!(out == bytes, "a region's bytes");
    }
    let restarts = run.losses.iter().filter(|loss| loss.has_restarted() == Some(true)).count();
    (restarts, run.losses.len() - restarts)
}

#[test]
fn a_client_meets_its_memory_node_again_and_says_what_is_lost() {
    let (mut restarts, mut silences) = (0, 0);
    for seed in 0..SEEDS {
        let result = std::panic::catch_unwind(|| run(seed));
        let (of_restarts, of_silence) = result.unwrap_or_else(|panic| {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic)
        });
        restarts += of_restarts;
        silences += of_silence;
    }
    assert!(restarts > SEEDS as usize / 4, "{restarts} sessions lost to restarts");
    assert!(silences > SEEDS as usize / 4, "{silences} sessions lost to silence");
}
