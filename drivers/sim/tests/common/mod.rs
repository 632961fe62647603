//! What the endpoint's tests share: the work that a request asks for, and the oracle that every
//! execution and every ending is checked against.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod actor;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use dmrpc_core::endpoint::Config;
use dmrpc_core::endpoint::host::CallError;
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_sim::cluster::{Clock, Cluster};
use dmrpc_sim::faults::Faults;
use dmrpc_sim::network::Network;
use dmrpc_sim::random::mix;

use actor::Peer;

pub const WORK: Method = Method(7);
pub const DATAGRAM_BYTES: usize = 1472;
/// What a service answers with when it was cancelled while at work.
pub const STOPPED: Status = Status(0x8001);

pub fn address(index: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1 + index as u8), 4000)
}

/// Bytes `8 * word` and on of the body that belongs to `seed`.
fn pattern(seed: u64, word: usize) -> [u8; 8] {
    mix(seed ^ word as u64).to_le_bytes()
}

pub fn fill(seed: u64, offset: u32, out: &mut [u8]) {
    let mut at = offset as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let word = &pattern(seed, at / 8)[at % 8..];
        let (now, later) = rest.split_at_mut(word.len().min(rest.len()));
        now.copy_from_slice(&word[..now.len()]);
        at += now.len();
        rest = later;
    }
}

pub fn check(seed: u64, offset: u32, bytes: &[u8]) {
    let mut wanted = vec![0; bytes.len()];
    fill(seed, offset, &mut wanted);
    assert!(bytes == wanted, "{} bytes from {offset} are those of the body", bytes.len());
}

/// What a request asks of a test's service. Travels as the request's parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Names the call in the whole run; also the seed of its bodies.
    pub id: u64,
    /// Answer so many microseconds later; at once if zero.
    pub delay_us: u32,
    /// Length of the answer's body.
    pub answer_bytes: u32,
    /// Calls that follow each other in one session, and the place in the row, from 1.
    pub chain: u32,
    pub place: u32,
    /// Nodes to pass it on to, one after the other, counted from 1; zero ends the route.
    pub route: [u8; 8],
}

pub const WORK_BYTES: usize = 32;

impl Work {
    pub fn to_bytes(self) -> [u8; WORK_BYTES] {
        let mut bytes = [0; WORK_BYTES];
        bytes[0..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.delay_us.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.answer_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.chain.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.place.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.route);
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        Self {
            id: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            delay_us: u32_at(8),
            answer_bytes: u32_at(12),
            chain: u32_at(16),
            place: u32_at(20),
            route: bytes[24..32].try_into().unwrap(),
        }
    }

    /// The seed of the answer's body.
    pub fn answer_seed(&self) -> u64 {
        !self.id
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Answered(Status),
    Failed(CallError),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    pub executions: u32,
    pub end: Option<End>,
    pub started: Instant,
}

impl Record {
    /// What must hold at any time after the call has ended.
    fn verify(&self, id: u64) {
        let (at_least, at_most) = match self.end {
            Some(End::Answered(Status::CANCELLED)) => (0, 0),
            Some(End::Answered(_)) => (1, 1),
            Some(End::Failed(CallError::OutcomeUnknown)) | None => (0, 1),
            Some(End::Failed(CallError::AnswerTooLarge { .. })) => (1, 1),
            Some(End::Failed(_)) => (0, 0),
        };
        assert!(
            (at_least..=at_most).contains(&self.executions),
            "call {id:#x} was executed {} times and ended with {:?}",
            self.executions,
            self.end
        );
    }
}

/// Sees all executions and all endings of a run.
#[derive(Default)]
pub struct Oracle {
    next_id: u64,
    pub calls: BTreeMap<u64, Record>,
    /// The last place of each chain that was executed.
    chains: BTreeMap<u32, u32>,
}

pub type SharedOracle = Rc<RefCell<Oracle>>;

impl Oracle {
    pub fn begin(&mut self, now: Instant) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        self.calls.insert(id, Record { started: now, ..Record::default() });
        id
    }

    pub fn executed(&mut self, work: &Work) {
        let record = self.calls.get_mut(&work.id).expect("a call that somebody made");
        record.executions += 1;
        record.verify(work.id);
        if work.chain != 0 {
            let last = self.chains.entry(work.chain).or_default();
            assert!(
                work.place > *last,
                "place {} of chain {} was executed after place {last}",
                work.place,
                work.chain
            );
            *last = work.place;
        }
    }

    pub fn ended(&mut self, id: u64, end: End) {
        let record = self.calls.get_mut(&id).expect("a call that somebody made");
        assert_eq!(record.end, None, "call {id:#x} ends once");
        record.end = Some(end);
        record.verify(id);
    }

    pub fn open(&self) -> usize {
        self.calls.values().filter(|record| record.end.is_none()).count()
    }

    pub fn end_of(&self, id: u64) -> Option<End> {
        self.calls[&id].end
    }

    pub fn count(&self, wanted: impl Fn(End) -> bool) -> usize {
        self.calls.values().filter_map(|record| record.end).filter(|end| wanted(*end)).count()
    }

    pub fn answered_ok(&self) -> usize {
        self.count(|end| end == End::Answered(Status::OK))
    }
}

/// Sessions of either kind that test nodes have room for.
pub const SESSIONS: usize = 4;

pub struct World {
    pub cluster: Cluster<Peer>,
    pub oracle: SharedOracle,
    pub lives: u64,
}

impl World {
    pub fn new(seed: u64, faults: Faults, nodes: usize) -> Self {
        Self::with(seed, faults, nodes, |_, _| Clock::TRUE)
    }

    /// A world of `nodes` nodes; `adjust` may change each one's configuration and picks its clock.
    pub fn with(
        seed: u64,
        faults: Faults,
        nodes: usize,
        mut adjust: impl FnMut(usize, &mut Config) -> Clock,
    ) -> Self {
        let network = Network::new(seed, faults);
        let mut world =
            Self { cluster: Cluster::new(network), oracle: SharedOracle::default(), lives: 1_000 };
        for index in 0..nodes {
            let mut config = world.config();
            let clock = adjust(index, &mut config);
            let peer = Peer::new(index, mix(seed ^ index as u64), world.oracle.clone());
            let size = size_of(&config);
            world.cluster.add(address(index), config, size, clock, peer);
        }
        world
    }

    pub fn config(&mut self) -> Config {
        self.lives += 1;
        Config::new(self.lives, DATAGRAM_BYTES)
    }

    pub fn peer(&mut self, index: usize) -> &mut Peer {
        &mut self.cluster.node(index).actor
    }

    /// Crashes a node and starts it empty, at the same address. Its calls end as its process does.
    pub fn restart(&mut self, index: usize, clock: Clock) {
        self.restart_as(index, clock, |_| {});
    }

    /// The same; `adjust` may change the new life's configuration.
    pub fn restart_as(&mut self, index: usize, clock: Clock, adjust: impl FnOnce(&mut Config)) {
        let old = self.cluster.crash(index);
        old.forget_calls();
        let mut config = self.config();
        adjust(&mut config);
        let mut peer = Peer::new(index, self.lives, self.oracle.clone());
        peer.wanted = old.wanted;
        let size = size_of(&config);
        self.cluster.start(index, address(index), config, size, clock, peer);
    }

    /// Runs until all calls have ended.
    #[track_caller]
    pub fn finish(&mut self, seconds: u64) {
        let span = dmrpc_core::time::Duration::from_secs(seconds);
        let oracle = self.oracle.clone();
        let done = self.cluster.run(span, |cluster| {
            oracle.borrow().open() == 0 && cluster.nodes().all(|node| node.actor.plans.is_empty())
        });
        if !done {
            let open: Vec<_> = self
                .oracle
                .borrow()
                .calls
                .iter()
                .filter(|(_, record)| record.end.is_none())
                .map(|(id, record)| (*id, *record))
                .take(5)
                .collect();
            for node in self.cluster.nodes() {
                eprintln!("{:?} {:?}", node.actor, node.endpoint.counters());
            }
            panic!("calls left open after {seconds} s: {open:?}");
        }
    }

    /// Lets what is left in the endpoints come home, then checks that it has.
    #[track_caller]
    pub fn settle(&mut self) {
        let span = dmrpc_core::time::Duration::from_secs(60);
        let home = self
            .cluster
            .run(span, |cluster| cluster.nodes().all(|node| node.actor.is_home(&node.endpoint)));
        if !home {
            for node in self.cluster.nodes() {
                eprintln!("{:?} {:?}", node.actor, node.endpoint.counters());
            }
            panic!("something has not come home");
        }
        for node in self.cluster.nodes() {
            let counters = node.endpoint.counters();
            assert_eq!(counters.calls_started, counters.calls_completed);
        }
        for (id, record) in &self.oracle.borrow().calls {
            record.verify(*id);
        }
    }
}

pub fn size_of(config: &Config) -> StorageSize {
    StorageSize::new(SESSIONS, SESSIONS, usize::from(config.slots_per_session))
}
