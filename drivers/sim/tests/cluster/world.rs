//! One seed: a cluster, its faults, its programs, and what must hold at the end.

use std::collections::BTreeMap;

use dmrpc_core::endpoint::Config;
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::time::{Duration, Instant};
use dmrpc_sim::cluster::{Clock, Cluster};
use dmrpc_sim::faults::{Counts, Faults};
use dmrpc_sim::network::Network;
use dmrpc_sim::random::Random;

use crate::compute::{Cn, Compute};
use crate::memory::{GRACE, PoolMemory};
use crate::model::SharedOracle;
use crate::net::{DATAGRAM_BYTES, Node, SESSIONS, address};
use crate::program;

/// What a seed did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) ended: Instant,
    pub(crate) nodes: usize,
    /// Calls begun at all endpoints.
    pub(crate) calls: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) network: Counts,
}

impl Report {
    /// One JSON line over all seeds.
    pub(crate) fn print_all(start: u64, reports: &[Self]) {
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        let mut add = |name: &str, count: u64| {
            *totals.entry(name.replace([' ', ','], "_").replace("__", "_")).or_default() += count;
        };
        for report in reports {
            for (name, count) in &report.counts {
                add(name, *count);
            }
            let net = &report.network;
            add("packets_sent", net.sent);
            add("packets_lost", net.lost + net.lost_in_burst);
            add("packets_duplicated", net.duplicated);
            add("packets_replayed", net.replayed);
            add("packets_queue_full", net.queue_full);
            let corrupted = net.bit_flipped + net.truncated + net.extended + net.spliced;
            add("packets_corrupted", corrupted);
        }
        let mut calls: Vec<_> = reports.iter().map(|report| report.calls).collect();
        calls.sort_unstable();
        let nodes = reports.iter().map(|report| report.nodes).min().unwrap_or(0);
        let mut line = format!(
            "{{\"app\":\"sim\",\"seeds\":{},\"start\":{start},\"nodes_min\":{nodes},\
             \"calls_median\":{},\"calls_min\":{},\"calls\":{}",
            reports.len(),
            calls[calls.len() / 2],
            calls[0],
            calls.iter().sum::<u64>()
        );
        for (name, count) in totals {
            line += &format!(",\"{name}\":{count}");
        }
        println!("{line}}}");
    }
}

/// What is drawn for a seed.
struct Plan {
    memory_nodes: usize,
    nodes: usize,
    tight: bool,
    hasty: u32,
    crashes: bool,
    slots: u16,
    window: u16,
    programs: usize,
    operations: u32,
}

impl Plan {
    fn drawn(random: &mut Random) -> Self {
        let memory_nodes = random.within(1..=2) as usize;
        let compute_nodes = random.within(2..=5) as usize;
        let programs = random.within(1..=4) as usize;
        let each = 1_100 / (programs * compute_nodes) as u64;
        Self {
            memory_nodes,
            nodes: memory_nodes + compute_nodes,
            tight: random.below(4) == 0,
            hasty: [0, 0, 10_000, 100_000][random.below(4) as usize],
            crashes: random.below(4) == 0,
            slots: [16, 16, 8, 64][random.below(4) as usize],
            window: [32, 8, 3, 256][random.below(4) as usize],
            programs,
            operations: random.within(each * 3 / 4..=each * 5 / 4) as u32,
        }
    }
}

struct World<'m> {
    plan: Plan,
    cluster: Cluster<Node<'m>>,
    oracle: SharedOracle,
    random: Random,
    lives: u64,
    /// Calls of nodes that have crashed since.
    calls_before: u64,
}

/// Runs one seed.
pub(crate) fn run(seed: u64) -> Report {
    let mut random = Random::new(seed);
    let plan = Plan::drawn(&mut random);
    let mut pools: Vec<_> = (0..plan.memory_nodes)
        .map(|_| match plan.tight {
            true => {
                let bytes = random.within(600 << 10..=1_500 << 10) as usize;
                PoolMemory::new(bytes, Some(&mut random))
            }
            false => PoolMemory::new(16 << 20, None),
        })
        .collect();
    // A path that stalls for longer than the lease ends sessions, which has its own tests.
    let faults = Faults { clog: 0, ..Faults::drawn(&mut random) };
    let network = Network::new(random.draw(), faults);
    let cluster = Cluster::new(network);
    let oracle = SharedOracle::default();
    let mut world = World { plan, cluster, oracle, random, lives: 1_000, calls_before: 0 };
    for (index, pool) in pools.iter_mut().enumerate() {
        let server = pool.node(index as u32, &mut world.random);
        world.start(index, true, Node::Memory(Box::new(server)));
    }
    for index in world.plan.memory_nodes..world.plan.nodes {
        world.start_compute(index, true);
    }
    world.work();
    world.clean_up();
    world.part();
    world.report()
}

impl<'m> World<'m> {
    fn clock(&mut self) -> Clock {
        let permille = [1_000, 1_000, 900, 1_100][self.random.below(4) as usize];
        Clock { offset: Duration::from_nanos(self.random.below(1 << 50)), permille }
    }

    fn start(&mut self, index: usize, fresh: bool, node: Node<'m>) {
        self.lives += 1;
        let mut config = Config::new(self.lives, DATAGRAM_BYTES);
        config.slots_per_session = self.plan.slots;
        config.window_packets = self.plan.window;
        let size = StorageSize::new(SESSIONS, SESSIONS, usize::from(self.plan.slots));
        let clock = self.clock();
        let cluster = &mut self.cluster;
        if fresh {
            let added = cluster.add(address(index), config, size, clock, node);
            assert_eq!(added, index);
        } else {
            cluster.start(index, address(index), config, size, clock, node);
        }
    }

    fn start_compute(&mut self, index: usize, fresh: bool) {
        let Plan { memory_nodes, nodes, tight, hasty, programs, operations, .. } = self.plan;
        let random = self.random.split();
        let oracle = self.oracle.clone();
        let cn = Cn::new(index, memory_nodes, nodes, (tight, hasty), oracle, random);
        for _ in 0..programs {
            cn.spawn(program::run(cn.clone(), operations));
        }
        self.start(index, fresh, Node::Compute(Compute::new(cn)));
    }

    fn compute_nodes(&self) -> std::ops::Range<usize> {
        self.plan.memory_nodes..self.plan.nodes
    }

    fn cn(&mut self, index: usize) -> Cn {
        self.cluster.node(index).actor.compute().expect("a compute node").cn.clone()
    }

    /// Runs until `done`, or says what is still going on.
    fn wait(&mut self, what: &str, seconds: u64, done: impl FnMut(&mut Cluster<Node<'m>>) -> bool) {
        if self.cluster.run(Duration::from_secs(seconds), done) {
            return;
        }
        for node in self.cluster.nodes() {
            match &node.actor {
                Node::Compute(compute) => eprintln!("{}", compute.cn.describe()),
                Node::Memory(server) => eprintln!("{:?}", server.node.store().stats()),
            }
            eprintln!("{:?}", node.endpoint.counters());
        }
        panic!("{what}: not within {seconds} s");
    }

    /// The programs run, on a network with faults; some nodes crash.
    fn work(&mut self) {
        if self.plan.crashes {
            for _ in 0..1 + self.random.below(2) {
                let pause = Duration::from_nanos(self.random.below(1_000_000_000));
                let limit = self.cluster.network().now() + pause;
                while self.cluster.step(limit) {}
                let computes = self.compute_nodes();
                let victim = computes.start + self.random.below(computes.len() as u64) as usize;
                self.crash(victim);
            }
        }
        // At 30 % loss a call takes a while, and there are many in a row.
        self.wait("programs", 3_600, |cluster| {
            cluster.nodes().all(|node| {
                node.actor.compute().is_none_or(|compute| compute.cn.running.get() == 0)
            })
        });
    }

    /// A compute node's process ends, and another begins at the same address.
    fn crash(&mut self, index: usize) {
        self.calls_before += self.cluster.node(index).endpoint.counters().calls_started;
        let old = self.cluster.crash(index);
        drop(old);
        self.oracle.borrow_mut().owner_is_gone(index);
        self.oracle.borrow_mut().count("crash");
        self.start_compute(index, false);
    }

    /// Without faults, what is left is given back, and what can be counted is.
    fn clean_up(&mut self) {
        self.cluster.network().set_faults(Faults::NONE);
        for index in self.compute_nodes() {
            let cn = self.cn(index);
            cn.hasty.set(0);
            cn.spawn(drop_all(cn.clone()));
        }
        self.wait("calls to come home", 120, |cluster| {
            cluster.nodes().all(|node| {
                node.actor.compute().is_none_or(|compute| compute.cn.is_home(&node.endpoint))
            })
        });
        for node in self.cluster.nodes() {
            let counters = node.endpoint.counters();
            assert_eq!(counters.calls_started, counters.calls_completed);
            let net = self.cluster.network().counts();
            let corrupted = net.bit_flipped + net.truncated + net.extended + net.spliced;
            let wrong = counters.malformed + counters.bad_checksum + counters.bad_length;
            assert!(corrupted > 0 || wrong == 0, "endpoints send what they accept: {counters:?}");
        }
        let cn = self.cn(self.plan.memory_nodes);
        cn.spawn(end_detached(cn.clone()));
        self.wait("detached references", 60, |_| cn.running.get() == 0);
        // Whose outcome nobody knows may still hold something.
        if self.oracle.borrow().unknown == 0 && !self.plan.crashes {
            self.wait("memory to come back", 10, |cluster| {
                all_memory(cluster, |server| server.is_empty())
            });
        }
    }

    /// The nodes leave, and everything must be back after lease and grace.
    fn part(&mut self) {
        let (last, others) = (self.plan.memory_nodes, self.plan.memory_nodes + 1..self.plan.nodes);
        for index in others {
            self.cn(index).leave();
        }
        let lease = Duration::from_secs(12);
        let limit = self.cluster.network().now() + lease + GRACE;
        while self.cluster.step(limit) {}
        // What was detached belongs to nobody: the last node ends it.
        let cn = self.cn(last);
        cn.spawn(end_detached(cn.clone()));
        self.wait("detached references", 60, |_| cn.running.get() == 0);
        cn.leave();
        self.wait("all memory to come back", 200, |cluster| {
            all_memory(cluster, |server| {
                server.is_empty() && server.node.store().stats().holders.in_use == 0
            })
        });
        for index in 0..self.plan.memory_nodes {
            let server = self.cluster.node(index).actor.memory().expect("a memory node");
            server.audit();
            assert!(!server.node.store().pending());
        }
    }

    fn report(&self) -> Report {
        let network = self.cluster.network();
        let calls: u64 =
            self.cluster.nodes().map(|node| node.endpoint.counters().calls_started).sum();
        Report {
            hash: network.trace_hash(),
            ended: network.now(),
            nodes: self.plan.nodes,
            calls: calls + self.calls_before,
            counts: self.oracle.borrow().counts.clone(),
            network: network.counts(),
        }
    }
}

fn all_memory(
    cluster: &mut Cluster<Node<'_>>,
    holds: impl Fn(&crate::memory::Server<'_>) -> bool,
) -> bool {
    cluster.nodes().all(|node| match &node.actor {
        Node::Memory(server) => holds(server),
        Node::Compute(_) => true,
    })
}

/// Drops every reference that a node still owns.
async fn drop_all(cn: Cn) {
    let left: Vec<_> = {
        let oracle = cn.oracle.borrow();
        let mine = oracle
            .entries
            .iter()
            .filter(|(key, entry)| entry.owner == Some(cn.index) && !oracle.has_ended(**key));
        mine.map(|(key, entry)| (key.0, entry.master)).collect()
    };
    for (node, wire) in left {
        let content = std::rc::Rc::default();
        cn.drop_ref(&crate::model::Reference { node, wire, content }).await;
    }
}

/// Ends every reference that was, or may have been, detached.
async fn end_detached(cn: Cn) {
    let left: Vec<_> = {
        let oracle = cn.oracle.borrow();
        let detached = oracle
            .entries
            .iter()
            .filter(|(key, entry)| entry.detach_doubtful && !oracle.has_ended(**key));
        detached.map(|(key, entry)| (key.0, entry.master)).collect()
    };
    for (node, wire) in left {
        cn.end_anyhow(node, wire).await;
    }
}
