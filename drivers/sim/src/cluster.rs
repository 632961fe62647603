//! Endpoints with their hosts on a simulated network, stepped from event to event.
//!
//! A run follows from the network's seed and the actors alone: nothing here reads a clock or
//! depends on where memory lies.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Counters, Endpoint, Host};
use dmrpc_core::time::{Duration, Instant};

use crate::network::{Network, NetworkDevice};
use crate::storage;

/// Polls of one node within one instant that count as a livelock.
const POLLS_AN_INSTANT_MAX: u32 = 10_000;

/// A host that also begins things of its own: calls, and answers given later.
pub trait Actor: Host {
    /// Called after each poll of its endpoint, and when [`Actor::act_at`] says so.
    fn act(&mut self, now: Instant, endpoint: &mut Endpoint<'static>, device: &mut NetworkDevice);

    /// When to be called even if nothing happens, on the node's clock.
    fn act_at(&self) -> Instant;
}

/// A node's clock: where it starts, and how fast it runs against the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it shows at the network's time zero.
    pub offset: Duration,
    /// Its ticks to 1,000 of the network's; at least 1.
    pub permille: u64,
}

impl Clock {
    /// The network's own.
    pub const TRUE: Self = Self { offset: Duration::ZERO, permille: 1_000 };

    /// What it shows at network time `at`.
    pub fn at(&self, at: Instant) -> Instant {
        let ticks = u128::from(at.as_nanos()) * u128::from(self.permille) / 1_000;
        Instant::from_nanos(self.offset.as_nanos() + ticks as u64)
    }

    /// The first network time at which it shows `shown` or later.
    pub fn when(&self, shown: Instant) -> Instant {
        if shown == Instant::FAR_FUTURE {
            return shown;
        }
        let ticks = shown.as_nanos().saturating_sub(self.offset.as_nanos());
        let nanos = (u128::from(ticks) * 1_000).div_ceil(u128::from(self.permille));
        Instant::from_nanos(nanos as u64)
    }
}

/// One endpoint with its host and device.
pub struct Node<A> {
    /// The endpoint.
    pub endpoint: Endpoint<'static>,
    /// Its host.
    pub actor: A,
    /// Its device.
    pub device: NetworkDevice,
    clock: Clock,
    paused_until: Instant,
    /// When it is to be polled next, on the network's clock; earlier if packets come. Zero if it
    /// may have been touched from outside.
    wake: Instant,
}

impl<A: Actor> Node<A> {
    fn wake_at(&self, network: &Network) -> Instant {
        let now = self.clock.at(network.now());
        let due = self.endpoint.poll_at(now).min(self.actor.act_at());
        let due = self.clock.when(due).max(network.now());
        let due = if network.has_arrived(self.device.address()) { network.now() } else { due };
        due.max(self.paused_until)
    }

    fn poll(&mut self, network: &Network) {
        let now = self.clock.at(network.now());
        self.endpoint.poll(now, &mut self.device, &mut self.actor);
        self.actor.act(now, &mut self.endpoint, &mut self.device);
    }
}

/// Nodes on a network.
pub struct Cluster<A: Actor> {
    network: Network,
    nodes: Vec<Option<Node<A>>>,
    indices: BTreeMap<SocketAddrV4, usize>,
}

impl<A: Actor> Cluster<A> {
    /// A cluster without nodes.
    pub fn new(network: Network) -> Self {
        Self { network, nodes: Vec::new(), indices: BTreeMap::new() }
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Adds a node; returns its index.
    ///
    /// # Panics
    /// If the configuration does not work, or not with storage of `size`.
    pub fn add(
        &mut self,
        address: SocketAddrV4,
        config: Config,
        size: StorageSize,
        clock: Clock,
        actor: A,
    ) -> usize {
        self.nodes.push(None);
        let index = self.nodes.len() - 1;
        self.start(index, address, config, size, clock, actor);
        index
    }

    /// Starts a node that has crashed.
    ///
    /// # Panics
    /// As [`Cluster::add`], or if the node is running.
    pub fn start(
        &mut self,
        index: usize,
        address: SocketAddrV4,
        config: Config,
        size: StorageSize,
        clock: Clock,
        actor: A,
    ) {
        assert!(self.nodes[index].is_none(), "node {index} is running");
        let datagram = config.payload_bytes_max as usize + dmrpc_core::wire::packet::HEADER_BYTES;
        let now = clock.at(self.network.now());
        let endpoint = storage::endpoint(config, size, now).expect("a configuration");
        let device = self.network.open(address, datagram);
        let paused_until = Instant::ZERO;
        self.indices.insert(address, index);
        let wake = Instant::ZERO;
        self.nodes[index] = Some(Node { endpoint, actor, device, clock, paused_until, wake });
    }

    /// Takes a node away at once; its actor is handed back.
    ///
    /// # Panics
    /// If the node is not running.
    pub fn crash(&mut self, index: usize) -> A {
        let node = self.nodes[index].take().expect("a running node");
        self.network.close(node.device.address());
        storage::give_back_all(node.endpoint);
        node.actor
    }

    /// Stops a node for `span` of the network's time: packets wait, timers run late.
    pub fn pause(&mut self, index: usize, span: Duration) {
        let until = self.network.now() + span;
        self.node(index).paused_until = until;
    }

    /// Lets node `index` poll now, its endpoint alone. Returns false if it does not run now, or if
    /// packets wait for it.
    pub fn settle(&mut self, index: usize) -> bool {
        let network = self.network.clone();
        let Some(node) = self.nodes[index].as_mut() else { return false };
        if node.paused_until > network.now() || network.has_arrived(node.device.address()) {
            return false;
        }
        let now = node.clock.at(network.now());
        node.endpoint.poll(now, &mut node.device, &mut node.actor);
        node.wake = Instant::ZERO;
        true
    }

    /// Hands a datagram from `from` to node `index`, past all others, and lets it look at that:
    /// its counters before and after. `None` if it does not run now, or if packets wait for it.
    pub fn hand_over(
        &mut self,
        index: usize,
        from: SocketAddrV4,
        bytes: Vec<u8>,
    ) -> Option<[Counters; 2]> {
        if !self.settle(index) {
            return None;
        }
        let node = self.nodes[index].as_ref().expect("it has just polled");
        let (before, to) = (*node.endpoint.counters(), node.device.address());
        self.network.hand_over(from, to, bytes);
        let node = self.nodes[index].as_mut().expect("it has just polled");
        let now = node.clock.at(self.network.now());
        node.endpoint.poll(now, &mut node.device, &mut node.actor);
        Some([before, *node.endpoint.counters()])
    }

    /// Node `index`.
    ///
    /// # Panics
    /// If the node is not running.
    pub fn node(&mut self, index: usize) -> &mut Node<A> {
        let node = self.nodes[index].as_mut().expect("a running node");
        node.wake = Instant::ZERO;
        node
    }

    /// The running nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node<A>> {
        self.nodes.iter().flatten()
    }

    /// The time on node `index`'s clock.
    pub fn now(&mut self, index: usize) -> Instant {
        let now = self.network.now();
        self.node(index).clock.at(now)
    }

    /// Lets time pass until something happens at a node, but not beyond `limit`, and lets all
    /// nodes do what they have to do then. Returns false if the limit was reached.
    ///
    /// # Panics
    /// If the nodes keep each other busy without time passing.
    pub fn step(&mut self, limit: Instant) -> bool {
        let network = self.network.clone();
        for node in self.nodes.iter_mut().flatten().filter(|node| node.wake == Instant::ZERO) {
            node.wake = node.wake_at(&network);
        }
        let wakes = self.nodes.iter().flatten().map(|node| node.wake);
        let next = wakes.chain(network.next_arrival()).min().unwrap_or(Instant::FAR_FUTURE);
        if next > limit {
            network.advance(limit);
            return false;
        }
        let now = next.max(network.now());
        network.advance(now);
        let Self { nodes, indices, .. } = self;
        network.receivers(|address| {
            if let Some(node) = indices.get(&address).and_then(|index| nodes[*index].as_mut()) {
                node.wake = node.wake.min(now.max(node.paused_until));
            }
        });
        for node in self.nodes.iter_mut().flatten().filter(|node| node.wake <= now) {
            let mut polls = 0;
            node.wake = node.wake_at(&network);
            while node.wake <= now {
                node.poll(&network);
                polls += 1;
                assert!(
                    polls < POLLS_AN_INSTANT_MAX,
                    "livelock at {}: {:?}",
                    node.device.address(),
                    node.endpoint.counters()
                );
                node.wake = node.wake_at(&network);
            }
        }
        true
    }

    /// Steps until `done` holds. Returns false if it does not within `span`.
    pub fn run(&mut self, span: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let limit = self.network.now() + span;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(limit) {
                return done(self);
            }
        }
    }
}

impl<A: Actor> Drop for Cluster<A> {
    fn drop(&mut self) {
        for node in self.nodes.drain(..).flatten() {
            storage::give_back_all(node.endpoint);
        }
    }
}
