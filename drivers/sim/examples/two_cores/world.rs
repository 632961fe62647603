//! A memory node and its client on one core: two endpoints over a wire in memory, and a part of a
//! store that other cores share.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{Body, Completion, SessionId};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::memory::Atomic;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Limits, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::memory_op::{
    RefOperand, RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step, emit_steps,
};
use dmrpc_core::wire::message::{ArgEntry, Method, Status};
use dmrpc_core::wire::reference::{Ref, RefKey, Rights};
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

const DATAGRAM_BYTES: usize = 1472;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
/// The clock's step between polls, in nanoseconds: about what a poll takes.
const STEP_NS: u64 = 200;
/// Freeing between two polls, as in the memory node's own loop.
const RECLAIM_STEPS: u32 = 32;
/// The pool, which lives as long as the process.
pub(crate) type Pool = &'static Atomic<'static>;

/// What the client hears.
#[derive(Default)]
struct Answers {
    completed: u64,
    region: Option<RegionName>,
    reference: Option<Ref>,
    bytes: usize,
    first: u8,
}

impl Host for Answers {
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let response = completion.result.expect("nothing is lost in memory");
        assert_eq!(response.status, Status::OK, "the pool has room for all");
        self.completed += 1;
        self.reference = response.arguments.refs().last();
        let names = response.arguments.parameters().as_chunks::<8>().0;
        let mut names = names.iter().map(|name| u64::from_le_bytes(*name));
        self.region = names.find(|name| *name != 0).map(RegionName);
        if let Body::Whole(body) = response.body {
            (self.bytes, self.first) = (body.len(), body.first().copied().unwrap_or(0));
        }
    }
}

/// Both ends, and the session between them.
pub(crate) struct World {
    client: Endpoint<'static>,
    near: MemoryDevice,
    answers: Answers,
    server: Endpoint<'static>,
    far: MemoryDevice,
    node: MemoryNode<'static, Pool>,
    session: SessionId,
    nanos: u64,
}

impl World {
    /// A memory node over `store`, and a client of it.
    pub(crate) fn new(store: Store<Pool>) -> Self {
        let (near, far) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
        let endpoint = |incarnation, size| {
            let config =
                Config { slots_per_session: 8, ..Config::new(incarnation, DATAGRAM_BYTES) };
            Endpoint::new(config, storage::take(size), Instant::ZERO).expect("the defaults work")
        };
        let mut client = endpoint(1, StorageSize::new(1, 0, 8));
        let server = endpoint(2, StorageSize::new(0, 1, 8));
        let identity = Identity { memory_node: 0, incarnation: 2, key: RefKey([7; 16]) };
        let holders = vec![SessionHolder::EMPTY].leak();
        let transfers = vec![Transfer::EMPTY; 8].leak();
        let node = MemoryNode::new(store, identity, Limits::NONE, holders, transfers);
        let session = client.connect(Instant::ZERO, SERVER).expect("room for one");
        let answers = Answers::default();
        let mut world = Self { client, near, answers, server, far, node, session, nanos: 0 };
        while !world.client.is_up(session) {
            world.poll();
        }
        world
    }

    fn tick(&mut self) -> Instant {
        self.nanos += STEP_NS;
        Instant::from_nanos(self.nanos)
    }

    fn poll(&mut self) {
        let now = self.tick();
        self.client.poll(now, &mut self.near, &mut self.answers);
        let now = self.tick();
        self.server.poll(now, &mut self.far, &mut self.node);
        self.node.reclaim(now, RECLAIM_STEPS);
        let now = self.tick();
        self.client.poll(now, &mut self.near, &mut self.answers);
    }

    /// Has the memory node carry out a step, and waits for its answer.
    fn step(&mut self, step: Step, reference: Option<Ref>, body: &[u8]) {
        let mut bytes = [0; STEPS_MAX * STEP_BYTES];
        let parameters = emit_steps(&[step], &mut bytes);
        let argument = reference.map(ArgEntry::Ref);
        let arguments = argument.as_slice();
        let call = Call { arguments, parameters, body, ..Call::new(Method::MEMORY) };
        let now = self.tick();
        self.client.call(now, self.session, &call).expect("one call at a time");
        let wanted = self.answers.completed + 1;
        while self.answers.completed < wanted {
            self.poll();
        }
    }

    /// A region of `length` bytes.
    pub(crate) fn alloc(&mut self, length: u64) -> RegionName {
        self.step(Step::Alloc { length }, None, &[]);
        self.answers.region.expect("the step makes one")
    }

    /// Writes a few bytes.
    pub(crate) fn write(&mut self, region: RegionName, offset: u64, bytes: &[u8]) {
        let region = RegionOperand::Named(region);
        self.step(Step::Write { region, offset }, None, bytes);
    }

    /// Reads a few bytes; returns the first.
    pub(crate) fn read(&mut self, region: RegionName, offset: u64, length: u64) -> u8 {
        let region = RegionOperand::Named(region);
        self.step(Step::Read { region, offset, length }, None, &[]);
        assert_eq!(self.answers.bytes as u64, length);
        self.answers.first
    }

    /// Reads the first bytes behind a reference; returns the first.
    #[allow(dead_code, reason = "not every example does")]
    pub(crate) fn read_ref(&mut self, reference: Ref, length: u64) -> u8 {
        let operand = RefOperand::Argument(0);
        self.step(Step::ReadRef { reference: operand, offset: 0, length }, Some(reference), &[]);
        assert_eq!(self.answers.bytes as u64, length);
        self.answers.first
    }

    /// A reference to a part of a region.
    pub(crate) fn create_ref(&mut self, region: RegionName, offset: u64, length: u64) -> Ref {
        let (region, rights) = (RegionOperand::Named(region), Rights::all());
        self.step(Step::CreateRef { region, offset, length, rights }, None, &[]);
        self.answers.reference.expect("the step makes one")
    }

    /// Ends a reference.
    pub(crate) fn drop_ref(&mut self, reference: Ref) {
        self.step(Step::DropRef { reference: RefOperand::Argument(0) }, Some(reference), &[]);
    }

    /// References that there are, of all cores.
    pub(crate) fn references(&self) -> u64 {
        self.node.store().stats().entries.in_use
    }
}
