//! A memory node of the simulation: the real service over the real page store.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use dmrpc_core::endpoint::Endpoint;
use dmrpc_core::endpoint::Host;
use dmrpc_core::endpoint::host::{
    Body, Closed, Outcome, Reply, RequestHead, SessionEvent, SessionId, Side,
};
use dmrpc_core::memory::{Memory, Plain};
use dmrpc_core::service::{
    DetachedAccount, Detachment, Detachments, Identity, MemoryNode, SessionHolder, Transfer,
};
use dmrpc_core::store::{Config, HolderUsage, Layout, Limits, Stats, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_sim::random::{Random, mix};

use crate::model::SharedOracle;
use crate::net::index_of;
use crate::plan::Quotas;

/// The first life of each memory node.
pub(crate) const FIRST_INCARNATION: u64 = 7_000;

/// How long the references of a client that is gone stay usable.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Most of what there is to be little of.
const FEW_MAX: u32 = 12;

/// What a memory node lies in.
pub(crate) struct PoolMemory {
    words: Vec<u64>,
    sessions: Vec<SessionHolder>,
    transfers: Vec<Transfer>,
    config: Config,
    limits: Limits,
    quotas: Quotas,
    /// Who detached what, where sessions may detach little.
    detachments: Vec<Detachment>,
    accounts: Vec<DetachedAccount>,
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

impl PoolMemory {
    /// Memory for a pool of `bytes` bytes. It still has the bytes of the run before: whoever can
    /// read them has found a leak.
    pub(crate) fn new(
        bytes: usize,
        sessions: usize,
        (limits, quotas): (Limits, Quotas),
        tight: Option<&mut Random>,
    ) -> Self {
        let mut config = Config::for_pool_bytes(bytes as u64);
        config.grace_ns = GRACE.as_nanos();
        config.holders = config.holders.max(64).max(2 * sessions as u32);
        if tight.is_none() {
            // Many small regions take more nodes than a pool has for its size, and programs may
            // hold more regions at a time.
            config.nodes = config.nodes.max(1_024);
            config.regions = config.regions.max(1_024);
        }
        if let Some(random) = tight {
            let few = random.within(2..=FEW_MAX.into()) as u32;
            match random.below(10) {
                0 => config.regions = few,
                1 => config.versions = few,
                2 => config.entries = few,
                3 => config.pins = few,
                4 => config.stages = few.min(3),
                5 => config.detached_max = few,
                6 => config.holds_max = few,
                7 => config.nodes = 8 * few,
                8 => config.holders = few.min(6),
                _ => {}
            }
        }
        let needed = Layout::new(&config).expect("a configuration").bytes().div_ceil(8) as usize;
        let mut words = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if words.len() < needed {
            words.resize(needed, 0xA5A5_A5A5_A5A5_A5A5);
        }
        Self {
            words,
            sessions: vec![SessionHolder::default(); sessions],
            transfers: vec![Transfer::default(); config.stages as usize],
            config,
            limits,
            quotas,
            detachments: (0..config.entries).map(|_| Detachment::default()).collect(),
            accounts: (0..config.holders).map(|_| DetachedAccount::default()).collect(),
        }
    }

    /// A memory node in this memory.
    pub(crate) fn node(
        &mut self,
        number: usize,
        oracle: SharedOracle,
        random: &mut Random,
    ) -> Server<'_> {
        let memory = Plain::new(&mut self.words);
        let store = Store::format(memory, &self.config).expect("the pool is large enough");
        let mut key = [0; 16];
        key[..8].copy_from_slice(&random.draw().to_le_bytes());
        let incarnation = oracle.borrow().incarnations[number];
        let identity = Identity { memory_node: number as u32, incarnation, key: RefKey(key) };
        let mut node =
            MemoryNode::new(store, identity, self.limits, &mut self.sessions, &mut self.transfers);
        if let Some(most) = self.quotas.staged_pages {
            node.bound_staged_pages(most);
        }
        if let Some(most) = self.quotas.transfers {
            node.bound_transfers(most);
        }
        if let Some(most) = self.quotas.detached {
            node.bound_detached(Detachments::new(most, &self.detachments, &self.accounts));
        }
        Server {
            node,
            number,
            oracle,
            fresh: false,
            few: self.config.pins <= FEW_MAX || self.config.stages <= 3,
            known: BTreeMap::new(),
            closed: Vec::new(),
            over: BTreeSet::new(),
            budget: [1, 4, 32, 1000][random.below(4) as usize],
            next: Instant::ZERO,
            polls: 0,
            scratch: Vec::new(),
        }
    }
}

impl Drop for PoolMemory {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.words);
        SPARE.with_borrow_mut(|spare| spare.push(words));
    }
}

/// The service, and when it frees.
pub(crate) struct Server<'m> {
    pub(crate) node: MemoryNode<'m, Plain<'m>>,
    number: usize,
    oracle: SharedOracle,
    /// Pins or staged writes are few.
    few: bool,
    /// A session was accepted since `known` was filled in.
    fresh: bool,
    /// Compute node, and its name of the session.
    known: BTreeMap<SessionId, (usize, SessionId)>,
    closed: Vec<(SessionId, Closed)>,
    over: BTreeSet<SessionId>,
    budget: u32,
    next: Instant,
    polls: u32,
    scratch: Vec<u8>,
}

/// Polls between two audits of the whole store.
const POLLS_AN_AUDIT: u32 = 512;

impl Server<'_> {
    pub(crate) fn session(
        &mut self,
        now: Instant,
        side: Side,
        session: SessionId,
        event: SessionEvent,
    ) {
        match event {
            SessionEvent::Accepted { .. } => self.fresh = true,
            SessionEvent::Closed(why) => {
                self.closed.push((session, why));
                self.over.insert(session);
            }
            SessionEvent::Suspected => {
                if let Some((peer, _)) = self.known.get(&session) {
                    self.oracle.borrow_mut().gave_up(self.number, *peer);
                }
            }
            _ => {}
        }
        self.node.session(now, side, session, event);
    }

    /// Passes a request on, unless it is of a session that is over.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let session = head.call.session;
        assert!(!self.over.contains(&session), "a request of {session:?}, which is over");
        self.node.request(now, head, body, reply)
    }

    /// Tells the model whose sessions are over.
    fn tell(&mut self, endpoint: &Endpoint<'_>) {
        if std::mem::take(&mut self.fresh) {
            for view in endpoint.server_sessions() {
                self.known.insert(view.id, (index_of(view.peer), view.remote));
            }
        }
        let mut oracle = self.oracle.borrow_mut();
        for (session, why) in self.closed.drain(..) {
            let Some((peer, remote)) = self.known.remove(&session) else { continue };
            oracle.session_is_gone(self.number, peer, remote);
            match why {
                Closed::LeaseExpired => {
                    oracle.count("lease expired");
                    oracle.gave_up(self.number, peer);
                    oracle.expired_while_paused(self.number, peer, remote);
                }
                Closed::Superseded => oracle.count("restart met by a new incarnation"),
                _ => {}
            }
        }
    }

    /// Whoever finds no pin, or no room for a staged write, waits and is told nothing.
    fn note_waits(&mut self) {
        if self.few {
            let stats = self.node.store().stats();
            let mut oracle = self.oracle.borrow_mut();
            for (usage, name) in
                [(stats.pins, "exhausted pins"), (stats.stages, "exhausted stages")]
            {
                if usage.in_use == usage.limit {
                    oracle.count(name);
                }
            }
        }
    }

    pub(crate) fn act(&mut self, now: Instant, endpoint: &Endpoint<'_>) {
        self.tell(endpoint);
        self.note_waits();
        let done = self.node.reclaim(now, self.budget);
        let wait = if done == self.budget { 1_000 } else { 50_000_000 };
        self.next = now + Duration::from_nanos(wait);
        self.polls += 1;
        self.check_sums();
        if self.polls.is_multiple_of(POLLS_AN_AUDIT) {
            self.audit();
        }
    }

    /// The sums that cost little, after each poll: nothing is used or promised that is not there,
    /// and what sessions hold is in use. Who counts wrong by one is found here; where, by audits.
    fn check_sums(&self) {
        let stats = self.node.store().stats();
        let Stats { frames, nodes, versions, regions, entries, holders, pins, stages, .. } = stats;
        for usage in [frames, nodes, versions, regions, entries, holders, pins, stages] {
            let taken = usage.in_use + usage.reserved + usage.retired;
            assert!(taken <= usage.limit, "more is taken than there is: {stats:?}");
        }
        let (mut held, mut owned) = (0, stats.detached);
        for session in self.known.keys() {
            let HolderUsage { regions, entries, .. } = self.node.holdings(*session);
            held += u64::from(regions);
            owned += u64::from(entries);
        }
        assert!(held <= regions.in_use, "sessions hold {held} regions: {stats:?}");
        assert!(owned <= entries.in_use, "{owned} references are somebody's: {stats:?}");
        let holds = regions.in_use + entries.in_use + pins.in_use + stages.in_use;
        let nothing = holds == 0 && !self.node.store().pending();
        assert!(!nothing || frames.in_use == 0, "frames that nobody holds: {stats:?}");
    }

    pub(crate) fn act_at(&self) -> Instant {
        self.next
    }

    /// Checks every frame, node, version, count and promise.
    pub(crate) fn audit(&mut self) {
        let store = self.node.store();
        self.scratch.resize(store.check_scratch_bytes(), 0);
        if let Err(fault) = store.check(&mut self.scratch) {
            panic!("the store contradicts itself: {fault:?}");
        }
    }

    /// A hash over all of the pool.
    pub(crate) fn pool_hash(&self) -> u64 {
        let memory = self.node.store().memory();
        let words = (0..memory.len() / 8).map(|word| memory.load_u64(8 * word));
        words.fold(0, |hash, word| mix(hash ^ word))
    }

    /// Whether nothing is left but references that a hostile node has detached.
    pub(crate) fn is_empty_but_for_detached(&self) -> bool {
        let stats = self.node.store().stats();
        let all = [stats.regions, stats.pins, stats.stages];
        all.iter().all(|usage| usage.in_use == 0) && stats.entries.in_use <= stats.detached
    }

    /// Whether everything has come back but holders that are still connected or in their grace.
    pub(crate) fn is_empty(&self) -> bool {
        let stats = self.node.store().stats();
        let all = [
            stats.frames,
            stats.nodes,
            stats.versions,
            stats.regions,
            stats.entries,
            stats.pins,
            stats.stages,
        ];
        all.iter().all(|usage| usage.in_use == 0 && usage.reserved == 0)
    }
}
