//! One seed: a cluster, its faults, its programs, and what must hold at the end.

use std::collections::BTreeMap;

use dmrpc_core::endpoint::cipher::PortableKey;
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::reference::Rights;
use dmrpc_host::cipher::FastKey;
use dmrpc_sim::cluster::Cluster;
use dmrpc_sim::faults::Faults;
use dmrpc_sim::network::Network;
use dmrpc_sim::random::Random;
use dmrpc_sim::storage;
use dmrpc_sim::watched::Watched;

use crate::compute::{Cn, Compute, Temper};
use crate::hostile::{self, Forger};
use crate::memory::{FIRST_INCARNATION, PoolMemory, Server};
use crate::model::{Oracle, SharedOracle};
use crate::net::{Node, SESSIONS, address};
use crate::plan::Plan;
use crate::program::{self, any_bytes};
use crate::report::Report;

mod bounds;
mod incidents;
mod zombie;

use incidents::Todo;

/// How long the programs may go on in all: each call has a bound of its own, and this is for those
/// that would go on for ever.
const PROGRAMS_MAX: Duration = Duration::from_secs(300);

/// Of the numbers that endpoints are set up by.
const TUNING: u64 = 0x7E57;

struct World<'m> {
    plan: Plan,
    cluster: Cluster<Node<'m>>,
    oracle: SharedOracle,
    random: Random,
    lives: u64,
    /// Calls of nodes that have crashed since.
    calls_before: u64,
    /// Memory for later lives of each memory node.
    spares: Vec<Vec<&'m mut PoolMemory>>,
    forger: Option<Forger>,
    /// What must happen when.
    agenda: BTreeMap<(Instant, u64), Todo>,
    /// Nodes that do not exist now.
    away: Vec<usize>,
}

/// Memory for all lives of all memory nodes of a seed.
fn pools(plan: &Plan, random: &mut Random) -> Vec<Vec<PoolMemory>> {
    use crate::plan::Incident::MemoryCrash;
    let more = plan.incidents.iter().filter(|(_, what)| matches!(what, MemoryCrash(_))).count();
    let mut pool = |life: usize| {
        let bytes = match plan.temper.tight {
            true => random.within(600 << 10..=1_500 << 10) as usize,
            false => 16 << 20,
        };
        let tight = (plan.temper.tight && (life > 0 || !plan.shrinking)).then_some(&mut *random);
        let bytes = if plan.shrinking && life == 0 { 4 << 20 } else { bytes };
        PoolMemory::new(bytes, plan.sessions, (plan.limits, plan.quotas), tight)
    };
    (0..plan.memory_nodes).map(|_| (0..=more).rev().map(&mut pool).collect()).collect()
}

/// Runs one seed.
pub(crate) fn run(seed: u64) -> Report {
    let mut random = Random::new(seed);
    let plan = Plan::drawn(&mut random).and_more(&mut Random::new(!seed));
    let plan = plan.and_tuning(&mut Random::new(seed.rotate_left(32) ^ TUNING));
    let mut pools = pools(&plan, &mut random);
    let network = Network::new(random.draw(), plan.faults.clone());
    let oracle = Oracle::new(vec![FIRST_INCARNATION; plan.memory_nodes], plan.deaths);
    let mut world = World {
        cluster: Cluster::new(network),
        oracle,
        random,
        lives: 1_000,
        calls_before: 0,
        spares: pools.iter_mut().map(|lives| lives.iter_mut().collect()).collect(),
        forger: None,
        agenda: BTreeMap::new(),
        away: Vec::new(),
        plan,
    };
    world.begin();
    world.work();
    world.clean_up();
    world.part();
    world.report()
}

impl<'m> World<'m> {
    fn begin(&mut self) {
        for index in 0..self.plan.memory_nodes {
            self.start_memory(index, true);
        }
        for index in self.compute_nodes() {
            self.start_compute(index, self.plan.operations, true);
        }
        if self.plan.hostile {
            self.start_hostile();
        }
    }

    fn start(&mut self, index: usize, incarnation: u64, fresh: bool, node: Node<'m>) {
        let config = self.plan.config(index, incarnation);
        // Every other node encrypts as programs do, the others as the core does by itself.
        match index % 2 {
            0 => storage::encrypt_by::<Watched<FastKey>>(),
            _ => storage::encrypt_by::<Watched<PortableKey>>(),
        }
        let slots = usize::from(self.plan.slots);
        let size = match node {
            Node::Memory(_) => StorageSize::new(1, self.plan.sessions, slots),
            Node::Compute(_) if self.plan.temper.alone => StorageSize::new(2, 2, slots),
            Node::Compute(_) => StorageSize::new(SESSIONS, SESSIONS, slots),
        };
        let clock = self.plan.clock(&mut self.random);
        self.oracle.borrow_mut().clocks.insert(index, clock.permille);
        let cluster = &mut self.cluster;
        if fresh {
            let added = cluster.add(address(index), config, size, clock, node);
            assert_eq!(added, index);
        } else {
            cluster.start(index, address(index), config, size, clock, node);
        }
    }

    fn start_memory(&mut self, index: usize, fresh: bool) {
        let pool = self.spares[index].pop().expect("a pool for each life");
        let server = pool.node(index, self.oracle.clone(), &mut self.random);
        let incarnation = self.oracle.borrow().incarnations[index];
        self.start(index, incarnation, fresh, Node::Memory(Box::new(server)));
    }

    fn new_cn(&mut self, index: usize, temper: &Temper, oracle: SharedOracle) -> Cn {
        let random = self.random.split();
        Cn::new(index, self.plan.memory_nodes, self.compute_nodes().end, temper, oracle, random)
    }

    fn start_compute(&mut self, index: usize, operations: u32, fresh: bool) {
        let cn = self.new_cn(index, &self.plan.temper.clone(), self.oracle.clone());
        for _ in 0..self.plan.programs {
            cn.spawn(program::run(cn.clone(), operations));
        }
        self.lives += 1;
        self.start(index, self.lives, fresh, Node::Compute(Compute::new(cn)));
    }

    fn start_hostile(&mut self) {
        let index = self.compute_nodes().end;
        let temper = Temper { hostile: true, harsh: true, alone: true, ..Temper::default() };
        // What it is told is compared with nothing.
        let oracle = Oracle::new(vec![FIRST_INCARNATION; self.plan.memory_nodes], 0);
        let cn = self.new_cn(index, &temper, oracle);
        for _ in 0..2 {
            cn.spawn(hostile::program(cn.clone()));
        }
        self.lives += 1;
        self.start(index, self.lives, true, Node::Compute(Compute::new(cn)));
        let network = self.cluster.network().clone();
        let seed = self.random.draw();
        self.forger = Some(Forger::new(index, self.plan.memory_nodes, network, seed));
    }

    /// Those that keep to the rules.
    fn compute_nodes(&self) -> std::ops::Range<usize> {
        self.plan.memory_nodes..self.plan.nodes - usize::from(self.plan.hostile)
    }

    fn cn(&mut self, index: usize) -> Cn {
        self.cluster.node(index).actor.compute().expect("a compute node").cn.clone()
    }

    /// Runs until `done`, or says what is still going on.
    fn wait(
        &mut self,
        what: &str,
        span: Duration,
        done: impl FnMut(&mut Cluster<Node<'m>>) -> bool,
    ) {
        if self.cluster.run(span, done) {
            return;
        }
        for node in self.cluster.nodes() {
            match &node.actor {
                Node::Compute(compute) => eprintln!("{}", compute.cn.describe()),
                Node::Memory(server) => eprintln!("{:?}", server.node.store().stats()),
            }
            eprintln!("{:?}", node.endpoint.counters());
        }
        panic!("{what}: not within {} ms", span.as_nanos() / 1_000_000);
    }

    /// Without faults, what is left is given back, and what can be counted is.
    fn clean_up(&mut self) {
        self.cluster.network().set_faults(Faults::NONE);
        self.oracle.borrow_mut().deaths_left = 0;
        self.end_hostile();
        self.expect_answers();
        let settled = self.settled_within();
        self.wait("programs to end without faults", PROGRAMS_MAX, |cluster| {
            cluster.nodes().all(|node| incidents::is_over(&node.actor))
        });
        for index in self.compute_nodes() {
            let cn = self.cn(index);
            cn.hasty.set(0);
            cn.spawn(drop_all(cn.clone()));
        }
        self.wait("calls to come home", settled, |cluster| {
            cluster.nodes().all(|node| {
                node.actor.compute().is_none_or(|compute| compute.cn.is_home(&node.endpoint))
            })
        });
        for node in self.cluster.nodes() {
            let counters = node.endpoint.counters();
            assert_eq!(counters.calls_started, counters.calls_completed);
            let corrupted = self.cluster.network().counts().corrupted() > 0 || self.plan.hostile;
            let wrong = counters.malformed + counters.bad_checksum + counters.bad_length;
            assert!(corrupted || wrong == 0, "endpoints send what they accept: {counters:?}");
        }
        // One node could do it, but it may be one for which the memory node has no holder left.
        for index in self.compute_nodes() {
            let cn = self.cn(index);
            cn.spawn(end_detached(cn.clone()));
            self.wait("detached references", settled, |_| cn.running.get() == 0);
        }
        // Whose outcome nobody knows may still hold something.
        let oracle = self.oracle.borrow();
        let certain = oracle.unknown == 0 && !oracle.has_lost_sessions() && !self.plan.hostile;
        drop(oracle);
        if certain && !self.plan.temper.harsh {
            self.wait("memory to come back", self.swept_within(), |cluster| {
                all_memory(cluster, |server| server.is_empty())
            });
        }
    }

    /// The node without rules is taken off the network.
    fn end_hostile(&mut self) {
        let Some(forger) = self.forger.take() else { return };
        let index = self.compute_nodes().end;
        let answered = self.cn(index).oracle.borrow().counts.get("hostile requests").copied();
        let answered = answered.unwrap_or(0);
        drop(self.cluster.crash(index));
        self.cluster.network().record_from(None);
        let mut oracle = self.oracle.borrow_mut();
        *oracle.counts.entry("hostile packets").or_default() += forger.refused;
        *oracle.counts.entry("hostile requests").or_default() += answered;
    }

    /// From now on each call must end within the bound.
    fn expect_answers(&mut self) {
        let settled = self.settled_within();
        for index in self.compute_nodes() {
            let now = self.cluster.now(index);
            let permille = self.oracle.borrow().clocks[&index];
            let own = Duration::from_nanos(settled.as_nanos() * permille / 1_000);
            self.cn(index).answers_within.set(Some((now, own)));
        }
    }

    /// The nodes leave but for one, which dies with all that it can get hold of, and everything
    /// must be back after lease, grace and sweep, while copies of what it had sent go on arriving.
    fn part(&mut self) {
        let (last, others) = (self.plan.memory_nodes, self.compute_nodes().skip(1));
        for index in others {
            self.cn(index).leave();
        }
        let settled = self.settled_within();
        let limit = self.cluster.network().now() + self.reclaimed_within();
        while self.cluster.step(limit) {}
        // What was detached belongs to nobody: the last node ends it.
        let cn = self.cn(last);
        cn.spawn(end_detached(cn.clone()));
        self.wait("detached references", settled, |_| cn.running.get() == 0);
        self.cluster.network().set_faults(late_copies());
        cn.spawn(hoard(cn.clone()));
        self.wait("a node to fill its hands", settled, |_| cn.running.get() == 0);
        self.calls_before += self.cluster.node(last).endpoint.counters().calls_started;
        drop(self.cluster.crash(last));
        let haunted_until = self.cluster.network().last_arrival();
        let reclaimed = self.reclaimed_within();
        let hostile = self.plan.hostile;
        self.wait("all memory to come back", reclaimed, |cluster| {
            all_memory(cluster, |server| {
                let empty = match hostile {
                    true => server.is_empty_but_for_detached(),
                    false => server.is_empty(),
                };
                let store = server.node.store();
                empty && store.stats().holders.in_use == 0 && !store.pending()
            })
        });
        while self.cluster.step(haunted_until) {}
        for index in 0..self.plan.memory_nodes {
            let server = self.cluster.node(index).actor.memory().expect("a memory node");
            assert!(hostile || server.is_empty(), "late packets of the dead took memory");
            server.audit();
        }
    }

    fn report(&self) -> Report {
        let network = self.cluster.network();
        let calls: u64 =
            self.cluster.nodes().map(|node| node.endpoint.counters().calls_started).sum();
        let mut counts = self.oracle.borrow().counts.clone();
        let untagged = self.cluster.nodes().map(|node| node.endpoint.counters().bad_tag).sum();
        counts.insert("packet without its tag", untagged);
        counts.insert("encrypted", network.counts().sealed);
        Report {
            hash: network.trace_hash(),
            ended: network.now(),
            nodes: self.plan.nodes,
            calls: calls + self.calls_before,
            counts,
            network: network.counts(),
            effects: network.effects(),
        }
    }
}

/// Nothing gets lost, but copies of many packets come up to a minute later, and some packets
/// themselves seconds later.
fn late_copies() -> Faults {
    Faults {
        duplicate: 300_000,
        replay: 400_000,
        replay_after_max: Duration::from_secs(60),
        straggle: 50_000,
        straggle_max: Duration::from_secs(5),
        ..Faults::NONE
    }
}

fn all_memory(cluster: &mut Cluster<Node<'_>>, holds: impl Fn(&Server<'_>) -> bool) -> bool {
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

/// Takes what there is at each memory node, and keeps it.
async fn hoard(cn: Cn) {
    cn.hasty.set(0);
    for node in 0..cn.memory_nodes {
        for pages in [1, 3, 20] {
            let bytes = any_bytes(&cn, pages * 4096);
            cn.put(node, bytes.clone(), Rights::all()).await;
            let Some(mut region) = cn.alloc(node, bytes.len()).await else { continue };
            let end = cn.start_write(&region, 0, bytes.clone(), None).end().await;
            cn.written(&mut region, 0, &bytes, &end);
            cn.create_ref(&region, 0, bytes.len(), Rights::all()).await;
        }
        cn.count("held at the end");
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
