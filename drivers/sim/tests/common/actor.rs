//! A node of the tests: makes the calls it was told to make, serves those of others, and checks
//! everything that the endpoint promises its host.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use dmrpc_core::endpoint::host::{
    Admission, Body, CallId, Closed, Completion, Outcome, PendingCall, Reply, RequestHead,
    SessionEvent, SessionId, Side, Sink, Source,
};
use dmrpc_core::endpoint::{Call, Endpoint, Host, StartError};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::message::Status;
use dmrpc_sim::cluster::Actor;
use dmrpc_sim::network::NetworkDevice;
use dmrpc_sim::random::{Random, mix};

mod hosting;

use super::{End, SharedOracle, WORK, WORK_BYTES, Work, address, check, fill};

/// A call to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    pub to: usize,
    pub work: Work,
    pub body_bytes: u32,
    pub room: u32,
    pub at: Instant,
    pub deadline: Option<Duration>,
    pub cancel_after: Option<Duration>,
    /// The token of an earlier call.
    pub after: Option<u64>,
    pub depth: u8,
    /// The call that this one is made for.
    pub made_for: Option<PendingCall>,
}

/// A call under way.
struct Made {
    call: CallId,
    plan: Plan,
    sink: Option<Sink>,
}

/// An accepted call.
struct Accepted {
    work: Work,
    due: Instant,
    /// The call made for it.
    nested: Option<u64>,
    stopped: bool,
    told: bool,
}

/// A place that a body comes to.
struct Place {
    seed: u64,
    seen: Vec<bool>,
    left: u32,
    of_call: bool,
}

pub struct Peer {
    pub index: usize,
    oracle: SharedOracle,
    random: Random,
    /// Nodes to keep a session with.
    pub wanted: BTreeSet<usize>,
    pub sessions: BTreeMap<usize, SessionId>,
    connect_at: Instant,
    pub plans: VecDeque<Plan>,
    made: BTreeMap<u64, Made>,
    /// Ended calls that later ones may name.
    pub named: BTreeMap<u64, CallId>,
    accepted: BTreeMap<(u32, u32, u16, u64), (PendingCall, Accepted)>,
    places: BTreeMap<u64, Place>,
    sources: BTreeMap<u64, (u64, u32)>,
    next: u64,
    cancels: Vec<(Instant, u64)>,
    blocked_until: Instant,
    /// Something may be possible that was not.
    freed: bool,
    /// Sinks for requests, at most.
    pub places_max: usize,
    /// Refusals by the service, parts in a million.
    pub busy: u32,
    pub events: Vec<(Instant, Side, SessionEvent)>,
    pub executed: Vec<u64>,
    /// Whether to connect again after a session has ended.
    pub reconnect: bool,
    lenient: bool,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {}: {} planned, {} made, {} accepted, {} places, {} sources, sessions {:?}",
            self.index,
            self.plans.len(),
            self.made.len(),
            self.accepted.len(),
            self.places.len(),
            self.sources.len(),
            self.sessions
        )
    }
}

impl Peer {
    pub fn new(index: usize, seed: u64, oracle: SharedOracle) -> Self {
        Self {
            index,
            oracle,
            random: Random::new(seed),
            wanted: BTreeSet::new(),
            sessions: BTreeMap::new(),
            connect_at: Instant::ZERO,
            plans: VecDeque::new(),
            made: BTreeMap::new(),
            named: BTreeMap::new(),
            accepted: BTreeMap::new(),
            places: BTreeMap::new(),
            sources: BTreeMap::new(),
            next: 0,
            cancels: Vec::new(),
            blocked_until: Instant::ZERO,
            freed: true,
            places_max: 64,
            busy: 0,
            events: Vec::new(),
            executed: Vec::new(),
            reconnect: true,
            lenient: false,
        }
    }

    /// Plans a call and returns its id.
    pub fn plan(&mut self, mut plan: Plan) -> u64 {
        plan.work.id = self.oracle.borrow_mut().begin(plan.at);
        self.wanted.insert(plan.to);
        let behind = self.plans.partition_point(|other| other.at <= plan.at);
        self.plans.insert(behind, plan);
        self.freed = true;
        plan.work.id
    }

    /// The process is gone: nobody will hear of its calls.
    pub fn forget_calls(&self) {
        let mut oracle = self.oracle.borrow_mut();
        let unknown = End::Failed(dmrpc_core::endpoint::host::CallError::OutcomeUnknown);
        let waiting = self.plans.iter().map(|plan| plan.work.id);
        for id in waiting.chain(self.made.values().map(|made| made.plan.work.id)) {
            oracle.ended(id, unknown);
        }
    }

    /// Sources in the endpoint's hands.
    pub fn held(&self) -> usize {
        self.sources.len()
    }

    /// From now on requests may be nonsense: they are answered, and nothing is said of them.
    pub fn lenient(&mut self) {
        self.lenient = true;
    }

    /// Whether nothing of this node's is left in the endpoint's hands.
    pub fn is_home(&self, endpoint: &Endpoint<'_>) -> bool {
        self.made.is_empty()
            && self.places.is_empty()
            && self.sources.is_empty()
            && self.sessions.values().all(|session| {
                !endpoint.is_up(*session)
                    || endpoint.slots_free(*session) == endpoint.slots(*session)
            })
    }

    fn place(&mut self, seed: u64, bytes: u32, of_call: bool) -> Sink {
        self.next += 1;
        let place = Place { seed, seen: vec![false; bytes as usize], left: bytes, of_call };
        self.places.insert(self.next, place);
        Sink(self.next)
    }

    fn source(&mut self, seed: u64, bytes: u32) -> Source {
        self.next += 1;
        self.sources.insert(self.next, (seed, bytes));
        Source(self.next)
    }

    /// Takes a place away whose bytes must all have come.
    fn whole(&mut self, sink: Sink, bytes: u32) {
        let place = self.places.remove(&sink.0).expect("a sink of this host");
        let absorbed = place.seen.iter().filter(|seen| **seen).count();
        assert_eq!(absorbed, bytes as usize, "all bytes have come");
    }

    /// What a request asks for; `None` if that is nonsense.
    fn work(&self, head: &RequestHead<'_>) -> Option<Work> {
        let parameters = head.arguments.parameters();
        let sane = parameters.len() == WORK_BYTES && head.method == WORK;
        assert!(sane || self.lenient, "a request as it was made");
        let work = sane.then(|| Work::parse(parameters))?;
        let sane = work.answer_bytes < 10_000_000 && work.route[0] < 9;
        assert!(sane || self.lenient, "a request as it was made");
        sane.then_some(work)
    }

    fn key(call: PendingCall) -> (u32, u32, u16, u64) {
        (call.session.index, call.session.generation, call.slot, call.request)
    }

    fn answer(&mut self, status: Status, work: &Work, reply: &mut Reply<'_>) {
        let bytes = if status == Status::OK { work.answer_bytes } else { 0 };
        reply.head(status, &[], &work.id.to_le_bytes());
        if bytes as usize <= reply.inline_room() {
            reply.body_with(bytes as usize, |out| fill(work.answer_seed(), 0, out));
        } else {
            let source = self.source(work.answer_seed(), bytes);
            reply.body_from(source, bytes);
        }
    }

    fn start(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint<'static>,
        plan: &Plan,
    ) -> Result<(), StartError> {
        let session = *self.sessions.get(&plan.to).ok_or(StartError::UnknownSession)?;
        let seed = plan.work.id;
        let mut work = plan.work;
        if work.chain != 0 {
            // Order holds within a session.
            let uses = u64::from(session.generation) << 32 | u64::from(session.index);
            work.chain = mix(uses ^ mix(work.chain.into())) as u32 | 1;
        }
        let parameters = work.to_bytes();
        let mut body = [0; 700];
        let inline = plan.body_bytes as usize <= body.len();
        let body = &mut body[..if inline { plan.body_bytes as usize } else { 0 }];
        fill(seed, 0, body);
        let source = (!inline).then(|| (self.source(seed, plan.body_bytes), plan.body_bytes));
        let sink = (plan.room > 0)
            .then(|| (self.place(plan.work.answer_seed(), plan.room, true), plan.room));
        let call = Call {
            parameters: &parameters,
            body,
            source,
            sink,
            deadline: plan.deadline,
            depth: plan.depth,
            after: plan.after.and_then(|id| self.named.get(&id).copied()),
            token: plan.work.id,
            ..Call::new(WORK)
        };
        match endpoint.call(now, session, &call) {
            Ok(call) => {
                self.named.insert(plan.work.id, call);
                let sink = sink.map(|(sink, _)| sink);
                self.made.insert(plan.work.id, Made { call, plan: *plan, sink });
                if let Some(wait) = plan.cancel_after {
                    self.cancels.push((now + wait, plan.work.id));
                }
                Ok(())
            }
            Err(error) => {
                // Nothing was taken.
                source.map(|(source, _)| self.sources.remove(&source.0));
                sink.map(|(sink, _)| self.places.remove(&sink.0));
                Err(error)
            }
        }
    }

    fn start_planned(&mut self, now: Instant, endpoint: &mut Endpoint<'static>) {
        if now < self.blocked_until && !std::mem::take(&mut self.freed) {
            return;
        }
        let mut later = VecDeque::new();
        // A refused call keeps those behind it to the same node waiting, so that chains stay rows.
        let mut refused = BTreeSet::new();
        // Those that are not due are behind those that are.
        while self.plans.front().is_some_and(|plan| plan.at <= now) {
            let plan = self.plans.pop_front().expect("just seen");
            if refused.contains(&(plan.to, plan.depth)) {
                later.push_back(plan);
                continue;
            }
            if let Err(error) = self.start(now, endpoint, &plan) {
                assert!(!matches!(error, StartError::TooDeep { .. }), "routes are short enough");
                refused.insert((plan.to, plan.depth));
                self.blocked_until = now + Duration::from_millis(1);
                later.push_back(plan);
            }
        }
        later.append(&mut self.plans);
        self.plans = later;
    }

    fn reply_due(&mut self, now: Instant, endpoint: &mut Endpoint<'static>) {
        let due: Vec<_> = self
            .accepted
            .iter()
            .filter(|(_, (_, accepted))| accepted.due <= now)
            .map(|(key, (call, _))| (*key, *call))
            .collect();
        for (key, call) in due {
            let (_, accepted) = self.accepted.remove(&key).expect("just seen");
            let status = if accepted.stopped { STOPPED_STATUS } else { Status::OK };
            endpoint.reply(call, |reply| self.answer(status, &accepted.work, reply));
        }
    }

    /// Begins what is due: sessions, calls, cancellations and answers.
    pub fn act_on(&mut self, now: Instant, endpoint: &mut Endpoint<'static>) {
        if now >= self.connect_at {
            self.connect_at = Instant::FAR_FUTURE;
            for to in self.wanted.clone() {
                let Entry::Vacant(vacant) = self.sessions.entry(to) else { continue };
                match endpoint.connect(now, address(to)) {
                    Some(session) => drop(vacant.insert(session)),
                    None => self.connect_at = now + Duration::from_millis(10),
                }
            }
        }
        self.start_planned(now, endpoint);
        let due: Vec<_> = self.cancels.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, id) in due {
            if let Some(made) = self.made.get(&id) {
                endpoint.cancel(now, made.call);
            }
        }
        self.reply_due(now, endpoint);
    }

    /// Passes an accepted call on along its route.
    fn pass_on(&mut self, call: PendingCall, work: &Work, depth: u8) -> u64 {
        let mut onward = *work;
        onward.route.rotate_left(1);
        onward.route[7] = 0;
        onward.chain = 0;
        self.plan(Plan {
            to: usize::from(work.route[0]) - 1,
            work: onward,
            body_bytes: 40,
            room: work.answer_bytes,
            depth: depth + 1,
            made_for: Some(call),
            ..Plan::default()
        })
    }
}

const STOPPED_STATUS: Status = super::STOPPED;

impl Actor for Peer {
    fn act(&mut self, now: Instant, endpoint: &mut Endpoint<'static>, _: &mut NetworkDevice) {
        self.act_on(now, endpoint);
    }

    fn act_at(&self) -> Instant {
        let missing = self.wanted.iter().any(|to| !self.sessions.contains_key(to));
        let plans = self.plans.iter().map(|plan| plan.at.max(self.blocked_until)).min();
        let replies = self.accepted.values().map(|(_, accepted)| accepted.due).min();
        let cancels = self.cancels.iter().map(|(at, _)| *at).min();
        let connect = missing.then_some(self.connect_at);
        [plans, replies, cancels, connect]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Instant::FAR_FUTURE)
    }
}
