//! The part of a run in which programs work and things go wrong.

use dmrpc_core::time::{Duration, Instant};

use super::World;
use crate::net::{Node, address};
use crate::plan::Incident;

/// How long things may go wrong: what the programs have not done by then they do without faults.
const WORK_MAX: Duration = Duration::from_secs(900);

/// How long a node goes on before it is paused while its packets are held back already.
const HELD_FOR: Duration = Duration::from_millis(2);

/// A moment less than `span`.
pub(super) fn nearly(span: Duration) -> Duration {
    Duration::from_nanos(span.as_nanos().saturating_sub(1_000))
}

/// What must happen at a certain time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Todo {
    StartCompute(usize),
    StartMemory(usize),
    /// A node whose packets are held back already does not run for this time.
    Stop(usize, Duration),
    /// A node's packets that were held back come, just before it runs again.
    Release(usize),
    /// A node runs again.
    Resume(usize),
    Heal(usize, usize),
}

impl World<'_> {
    /// The programs run, on a network with faults, while nodes come and go.
    pub(super) fn work(&mut self) {
        let limit = self.cluster.network().now() + WORK_MAX;
        loop {
            self.run_until_something(limit);
            let now = self.cluster.network().now();
            let dying = self.oracle.borrow_mut().dying.take();
            if let Some((index, point)) = dying {
                self.crash(index, point, None);
            }
            while self.agenda.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
                let (_, todo) = self.agenda.pop_first().expect("just seen");
                self.act(todo);
            }
            let operations = self.oracle.borrow().operations;
            while self.plan.incidents.last().is_some_and(|(at, _)| *at <= operations) {
                let (_, incident) = self.plan.incidents.pop().expect("just seen");
                self.happen(incident);
            }
            if self.agenda.is_empty() && self.programs_are_over() {
                return;
            }
            if now >= limit {
                return self.mend();
            }
        }
    }

    /// Everything that is still to be restored is, now.
    fn mend(&mut self) {
        self.oracle.borrow_mut().count("programs that faults held up");
        while let Some((_, todo)) = self.agenda.pop_first() {
            if let Todo::Resume(index) = todo {
                self.cluster.pause(index, Duration::ZERO);
            }
            self.act(todo);
        }
    }

    fn run_until_something(&mut self, limit: Instant) {
        let due = self.agenda.first_key_value().map_or(Instant::FAR_FUTURE, |((at, _), _)| *at);
        let next = self.plan.incidents.last().map_or(u64::MAX, |(at, _)| *at);
        let span = due.min(limit) - self.cluster.network().now();
        let waits = due == Instant::FAR_FUTURE;
        let (oracle, forger) = (self.oracle.clone(), &mut self.forger);
        self.cluster.run(span, |cluster| {
            if let Some(forger) = forger {
                forger.act(cluster);
            }
            let oracle = oracle.borrow();
            oracle.dying.is_some()
                || oracle.operations >= next
                || waits && cluster.nodes().all(|node| is_over(&node.actor))
        });
    }

    fn programs_are_over(&self) -> bool {
        self.cluster.nodes().all(|node| is_over(&node.actor))
    }

    pub(super) fn later(&mut self, span: Duration, todo: Todo) {
        let number = self.random.draw();
        let at = self.cluster.network().now() + span;
        self.agenda.insert((at, number), todo);
    }

    fn act(&mut self, todo: Todo) {
        match todo {
            Todo::StartCompute(index) => {
                self.away.retain(|away| *away != index);
                let operations = self.plan.operations / 2;
                self.start_compute(index, operations, false);
            }
            Todo::StartMemory(index) => {
                self.away.retain(|away| *away != index);
                self.start_memory(index, false);
                let name = match self.plan.shrinking {
                    true => "memory node returns smaller",
                    false => "memory node returns empty",
                };
                self.oracle.borrow_mut().count(name);
            }
            Todo::Stop(index, span) => self.stop(index, span),
            Todo::Release(index) => self.release(index),
            Todo::Resume(index) => {
                self.oracle.borrow_mut().paused.remove(&index);
                let waited = self.cluster.network().has_arrived(address(index));
                if waited && index < self.plan.memory_nodes {
                    self.oracle.borrow_mut().count("memory node paused");
                }
            }
            Todo::Heal(from, to) => {
                self.cluster.network().set_cut(address(from), address(to), false);
            }
        }
    }

    /// Any running node of `nodes`.
    fn any_of(&mut self, nodes: std::ops::Range<usize>) -> Option<usize> {
        let index = nodes.start + self.random.below(nodes.len() as u64) as usize;
        (!self.away.contains(&index)).then_some(index)
    }

    fn happen(&mut self, incident: Incident) {
        let memory_nodes = 0..self.plan.memory_nodes;
        match incident {
            Incident::Crash(away) => {
                if let Some(index) = self.any_of(self.compute_nodes()) {
                    self.crash(index, "at any time", Some(away));
                }
            }
            Incident::Pause(span) => {
                if let Some(index) = self.any_of(self.compute_nodes()) {
                    // What it sends now is under way until just before it wakes.
                    self.cluster.network().hold_from(Some(address(index)));
                    self.later(HELD_FOR, Todo::Stop(index, span));
                }
            }
            Incident::MemoryPause(span) => {
                if let Some(index) = self.any_of(memory_nodes) {
                    self.oracle.borrow_mut().paused.insert(index);
                    self.cluster.pause(index, span);
                    // Before it takes in what has come meanwhile.
                    self.later(nearly(span), Todo::Resume(index));
                }
            }
            Incident::MemoryCrash(away) => {
                if let Some(index) = self.any_of(memory_nodes) {
                    self.crash_memory(index, away);
                }
            }
            Incident::Cut { both, span } => {
                let count = self.compute_nodes().end as u64;
                let (from, to) = (self.random.below(count), self.random.below(count));
                let (from, to) = (from as usize, to as usize);
                let network = self.cluster.network().clone();
                network.set_cut(address(from), address(to), true);
                self.later(span, Todo::Heal(from, to));
                if both {
                    network.set_cut(address(to), address(from), true);
                    self.later(span, Todo::Heal(to, from));
                }
            }
            Incident::Hog(span) => {
                if let Some(index) = self.any_of(self.compute_nodes()) {
                    let node = self.random.below(self.plan.memory_nodes as u64) as usize;
                    self.cn(index).hog(node, span);
                }
            }
        }
    }

    /// A compute node's process ends, and later another begins at the same address.
    fn crash(&mut self, index: usize, point: &'static str, away: Option<Duration>) {
        let away = away.unwrap_or_else(|| {
            let most = 20_000_000_000 >> self.random.below(16);
            Duration::from_nanos(self.random.below(most))
        });
        self.calls_before += self.cluster.node(index).endpoint.counters().calls_started;
        drop(self.cluster.crash(index));
        let mut oracle = self.oracle.borrow_mut();
        oracle.owner_is_gone(index);
        oracle.paused.remove(&index);
        oracle.count(match point {
            "holding regions" => "dies holding regions",
            "holding references" => "dies holding references",
            "between create and send" => "dies between create and send",
            "between receive and map" => "dies between receive and map",
            "in a long write" => "dies in a long write",
            "in a chain of calls" => "dies in a chain of calls",
            "at any time" => "dies at any time",
            _ => unreachable!("{point} has no name in reports"),
        });
        drop(oracle);
        self.away.push(index);
        self.later(away, Todo::StartCompute(index));
    }

    /// A memory node's process ends, and later another begins with an empty pool.
    fn crash_memory(&mut self, index: usize, away: Duration) {
        let Node::Memory(mut server) = self.cluster.crash(index) else {
            unreachable!("node {index} is a memory node");
        };
        server.audit();
        self.oracle.borrow_mut().memory_node_is_gone(index);
        self.oracle.borrow_mut().paused.remove(&index);
        self.away.push(index);
        self.later(away, Todo::StartMemory(index));
    }
}

/// Whether a node has done what it had to.
pub(super) fn is_over(node: &Node<'_>) -> bool {
    node.compute().is_none_or(|compute| compute.cn.hostile || compute.cn.running.get() == 0)
}
