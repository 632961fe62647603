//! A compute node: straight-line programs, polled by the node's own loop, and the host that the
//! endpoint calls.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use dmrpc_core::endpoint::host::{CallError, CallId, PendingCall, SessionId, Sink, Source};
use dmrpc_core::endpoint::{Call, Endpoint, StartError};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::message::{ArgEntry, REQUEST_HEADER_BYTES, Status, arguments_bytes};
use dmrpc_core::wire::reference::Ref;
use dmrpc_sim::network::NetworkDevice;
use dmrpc_sim::random::Random;

use crate::model::SharedOracle;
use crate::net::address;

mod fate;
mod host;
mod waits;
mod wanted;

pub(crate) use fate::Temper;
pub(crate) use waits::{Sleep, Waiting};
pub(crate) use wanted::{Finish, Wanted};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// How long to wait before a call that could not begin is tried again, if nothing else happens.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// An answer to be given.
struct Answer {
    call: PendingCall,
    status: Status,
    refs: Vec<ArgEntry>,
    parameters: Vec<u8>,
    body: Rc<[u8]>,
}

/// Where a body goes.
struct Place {
    bytes: Vec<u8>,
    room: usize,
    got: usize,
}

/// A call under way.
#[derive(Debug)]
struct Started {
    call: CallId,
    sink: Option<u64>,
    at: Instant,
}

#[derive(Default)]
struct State {
    now: Instant,
    next: u64,
    awake: bool,
    wanted: VecDeque<(u64, Wanted)>,
    started: BTreeMap<u64, Started>,
    /// All calls that were ever begun, for those that must come after them.
    named: BTreeMap<u64, CallId>,
    finished: BTreeMap<u64, Finish>,
    sources: BTreeMap<u64, Rc<[u8]>>,
    places: BTreeMap<u64, Place>,
    cancels: Vec<(Instant, u64)>,
    sleepers: BTreeSet<(Instant, u64)>,
    answers: Vec<Answer>,
    spawned: Vec<Task>,
    sessions: BTreeMap<usize, SessionId>,
    /// Which life of the other node each session is with.
    incarnations: BTreeMap<SessionId, u64>,
    /// Sessions that are opened to use up a memory node's: with which one, until when.
    hog: Option<(usize, Duration)>,
    hogged: Vec<SessionId>,
    hog_until: Instant,
    connect_at: Instant,
    blocked_until: Instant,
    leave: bool,
}

/// What programs of a node share with its loop.
pub(crate) struct Handle {
    pub(crate) index: usize,
    /// Nodes `0..memory_nodes` are memory nodes.
    pub(crate) memory_nodes: usize,
    /// Nodes in all.
    pub(crate) nodes: usize,
    /// Nodes `0..partners` are those that it keeps sessions with.
    pub(crate) partners: usize,
    /// Pools are so small that they run out, or what dead nodes held comes back late.
    pub(crate) tight: bool,
    /// See [`Temper::limited`].
    pub(crate) limited: bool,
    /// Longer writes are of several packets.
    pub(crate) long_bytes: usize,
    /// Things happen that may end sessions.
    pub(crate) harsh: bool,
    /// It keeps to no rules, and what it is told is not compared with anything.
    pub(crate) hostile: bool,
    /// Share of calls with a tight deadline or a cancellation, parts in a million.
    pub(crate) hasty: Cell<u32>,
    pub(crate) oracle: SharedOracle,
    pub(crate) random: RefCell<Random>,
    /// Programs that have not ended.
    pub(crate) running: Cell<usize>,
    /// Since when, on its own clock, each call ends within which time.
    pub(crate) answers_within: Cell<Option<(Instant, Duration)>>,
    state: RefCell<State>,
}

/// A handle to a compute node.
#[derive(Clone)]
pub(crate) struct Cn(Rc<Handle>);

impl Deref for Cn {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0
    }
}

impl Cn {
    pub(crate) fn new(
        index: usize,
        memory_nodes: usize,
        nodes: usize,
        temper: &Temper,
        oracle: SharedOracle,
        random: Random,
    ) -> Self {
        Self(Rc::new(Handle {
            index,
            memory_nodes,
            nodes,
            partners: if temper.alone { memory_nodes } else { nodes },
            tight: temper.tight || temper.mortal || temper.harsh,
            limited: temper.limited,
            long_bytes: temper.long_bytes,
            harsh: temper.harsh,
            hostile: temper.hostile,
            hasty: Cell::new(temper.hasty),
            oracle,
            random: RefCell::new(random),
            running: Cell::new(0),
            answers_within: Cell::new(None),
            state: RefCell::default(),
        }))
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        self.random.borrow_mut().below(bound as u64) as usize
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.oracle.borrow_mut().count(what);
    }

    /// Runs a program beside the others.
    pub(crate) fn spawn(&self, program: impl Future<Output = ()> + 'static) {
        let cn = self.clone();
        self.running.set(self.running.get() + 1);
        let mut state = self.state.borrow_mut();
        state.awake = true;
        state.spawned.push(Box::pin(async move {
            program.await;
            cn.running.set(cn.running.get() - 1);
        }));
    }

    /// Begins a call; its end is awaited on what is returned.
    pub(crate) fn start(&self, wanted: Wanted) -> Waiting {
        let mut state = self.state.borrow_mut();
        state.next += 1;
        let token = state.next;
        state.wanted.push_back((token, wanted));
        state.awake = true;
        Waiting { cn: self.clone(), token }
    }

    pub(crate) fn sleep(&self, span: Duration) -> Sleep {
        let mut state = self.state.borrow_mut();
        state.next += 1;
        let until = state.now + span;
        let number = state.next;
        state.sleepers.insert((until, number));
        Sleep { cn: self.clone(), until }
    }

    /// Answers a call that was accepted earlier.
    pub(crate) fn answer(
        &self,
        call: PendingCall,
        status: Status,
        refs: &[Ref],
        parameters: &[u8],
        body: Rc<[u8]>,
    ) {
        let mut state = self.state.borrow_mut();
        state.awake = true;
        state.answers.push(Answer {
            call,
            status,
            refs: refs.iter().map(|reference| ArgEntry::Ref(*reference)).collect(),
            parameters: parameters.to_vec(),
            body,
        });
    }

    /// The session with a node, if there is one.
    pub(crate) fn session_with(&self, node: usize) -> Option<SessionId> {
        self.state.borrow().sessions.get(&node).copied()
    }

    /// The session that a call was made in.
    pub(crate) fn session_of(&self, token: u64) -> SessionId {
        self.state.borrow().named[&token].session
    }

    /// Which life of a memory node a session is with.
    pub(crate) fn incarnation_of(&self, session: SessionId) -> u64 {
        self.state.borrow().incarnations[&session]
    }

    /// Opens as many sessions as a memory node has, for a while.
    pub(crate) fn hog(&self, node: usize, span: Duration) {
        let mut state = self.state.borrow_mut();
        state.hog = Some((node, span));
        state.awake = true;
    }

    /// Ends all sessions.
    pub(crate) fn leave(&self) {
        self.state.borrow_mut().leave = true;
    }

    /// Whether nothing of this node's is in its endpoint's hands, or was asked of it.
    pub(crate) fn is_home(&self, endpoint: &Endpoint<'_>) -> bool {
        let state = self.state.borrow();
        self.running.get() == 0
            && state.wanted.is_empty()
            && state.started.is_empty()
            && state.answers.is_empty()
            && state.sources.is_empty()
            && state.places.is_empty()
            && state.sessions.values().all(|session| {
                !endpoint.is_up(*session)
                    || endpoint.slots_free(*session) == endpoint.slots(*session)
            })
    }
}

impl State {
    fn connect(&mut self, cn: &Handle, now: Instant, endpoint: &mut Endpoint<'static>) {
        if now < self.connect_at || self.leave {
            return;
        }
        self.connect_at = Instant::FAR_FUTURE;
        for to in (0..cn.partners).filter(|to| *to != cn.index) {
            if self.sessions.contains_key(&to) {
                continue;
            }
            match endpoint.connect(now, address(to)) {
                Some(session) => drop(self.sessions.insert(to, session)),
                None => self.connect_at = now + Duration::from_millis(10),
            }
        }
    }

    fn start(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint<'static>,
        token: u64,
        wanted: &Wanted,
    ) -> Result<(), StartError> {
        let session = *self.sessions.get(&wanted.to).ok_or(StartError::UnknownSession)?;
        let head = REQUEST_HEADER_BYTES + arguments_bytes(&wanted.args) + wanted.parameters.len();
        let bytes = wanted.body.len();
        let inline = head + bytes <= dmrpc_core::wire::message::HEAD_BYTES_MAX;
        let source = (!inline).then_some((Source(token), bytes as u32));
        let sink = (wanted.room > 0).then_some((Sink(token), wanted.room));
        let call = Call {
            method: wanted.method,
            arguments: &wanted.args,
            parameters: &wanted.parameters,
            body: if inline { &wanted.body } else { &[] },
            source,
            sink,
            deadline: wanted.deadline,
            depth: wanted.depth,
            after: wanted.after.and_then(|token| self.named.get(&token).copied()),
            token,
            ..Call::new(wanted.method)
        };
        let call = endpoint.call(now, session, &call)?;
        self.named.insert(token, call);
        if source.is_some() {
            self.sources.insert(token, wanted.body.clone());
        }
        if sink.is_some() {
            let place = Place { bytes: Vec::new(), room: wanted.room as usize, got: 0 };
            self.places.insert(token, place);
        }
        if let Some(wait) = wanted.cancel_after {
            self.cancels.push((now + wait, token));
        }
        self.started.insert(token, Started { call, sink: sink.map(|_| token), at: now });
        Ok(())
    }

    fn start_wanted(&mut self, cn: &Handle, now: Instant, endpoint: &mut Endpoint<'static>) {
        let mut later = VecDeque::new();
        let mut blocked = BTreeSet::new();
        while let Some((token, wanted)) = self.wanted.pop_front() {
            let path = (wanted.to, wanted.depth);
            let current = self.sessions.get(&wanted.to);
            if wanted.session.is_some_and(|session| Some(&session) != current) {
                self.finished.insert(token, Finish::Failed(CallError::SessionLost));
                self.awake = true;
                continue;
            }
            if !blocked.contains(&path) {
                match self.start(now, endpoint, token, &wanted) {
                    Ok(()) => continue,
                    Err(
                        error @ (StartError::TooDeep { .. }
                        | StartError::HeadTooLarge { .. }
                        | StartError::MessageTooLarge { .. }),
                    ) => panic!("a program asked for too much: {error}"),
                    Err(error) => {
                        if error == StartError::NoSlot {
                            cn.oracle.borrow_mut().count("exhausted slots");
                        }
                        blocked.insert(path);
                        self.blocked_until = now + RETRY_AFTER;
                    }
                }
            }
            later.push_back((token, wanted));
        }
        self.wanted = later;
    }

    /// Begins to open sessions that are not needed.
    fn hog_sessions(&mut self, now: Instant, endpoint: &mut Endpoint<'static>) {
        let Some((node, span)) = self.hog.take() else { return };
        self.hog_until = now + span;
        while let Some(session) = endpoint.connect(now, address(node)) {
            self.hogged.push(session);
        }
    }

    fn give_answers(&mut self, endpoint: &mut Endpoint<'static>) {
        for answer in std::mem::take(&mut self.answers) {
            let Answer { call, status, refs, parameters, body } = answer;
            self.next += 1;
            let source = self.next;
            let mut used = false;
            endpoint.reply(call, |reply| {
                reply.head(status, &refs, &parameters);
                if body.len() <= reply.inline_room() {
                    reply.body(&body);
                } else {
                    reply.body_from(Source(source), body.len() as u32);
                    used = true;
                }
            });
            if used {
                self.sources.insert(source, body);
            }
        }
    }
}

/// A compute node: its programs and the loop that polls them.
pub(crate) struct Compute {
    pub(crate) cn: Cn,
    tasks: Vec<Task>,
}

impl Compute {
    pub(crate) fn new(cn: Cn) -> Self {
        Self { cn, tasks: Vec::new() }
    }

    pub(crate) fn act(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint<'static>,
        device: &mut NetworkDevice,
    ) {
        {
            let mut state = self.cn.state.borrow_mut();
            state.now = now;
            while state.sleepers.first().is_some_and(|(at, _)| *at <= now) {
                state.sleepers.pop_first();
                state.awake = true;
            }
            state.connect(&self.cn, now, endpoint);
        }
        self.run_tasks();
        let mut state = self.cn.state.borrow_mut();
        state.start_wanted(&self.cn, now, endpoint);
        state.give_answers(endpoint);
        let due: Vec<_> = state.cancels.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, token) in due {
            if let Some(started) = state.started.get(&token) {
                endpoint.cancel(now, started.call);
            }
        }
        state.hog_sessions(now, endpoint);
        let mut over = Vec::new();
        if !state.hogged.is_empty() && (state.leave || state.hog_until <= now) {
            over.append(&mut state.hogged);
        }
        if state.leave && !state.sessions.is_empty() {
            over.extend(std::mem::take(&mut state.sessions).into_values());
        }
        drop(state);
        for session in over {
            let mut host = crate::net::Node::Compute(self.alias());
            endpoint.disconnect(now, device, &mut host, session);
        }
    }

    /// The same node without its programs: a host for calls back.
    fn alias(&self) -> Self {
        Self { cn: self.cn.clone(), tasks: Vec::new() }
    }

    fn run_tasks(&mut self) {
        loop {
            let mut state = self.cn.state.borrow_mut();
            if !std::mem::take(&mut state.awake) {
                return;
            }
            self.tasks.append(&mut state.spawned);
            drop(state);
            let mut context = Context::from_waker(Waker::noop());
            self.tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        }
    }

    pub(crate) fn act_at(&self) -> Instant {
        let state = self.cn.state.borrow();
        let blocked = if state.wanted.is_empty() { None } else { Some(state.blocked_until) };
        let cancels = state.cancels.iter().map(|(at, _)| *at).min();
        let sleeps = state.sleepers.first().map(|(at, _)| *at);
        let awake = state.awake.then_some(Instant::ZERO);
        let connect = (!state.leave).then_some(state.connect_at);
        let hog = (!state.hogged.is_empty()).then_some(state.hog_until);
        let all = [blocked, cancels, sleeps, awake, connect, hog];
        all.into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE)
    }
}
