//! A client and a memory node joined by a wire in memory. After [`Pair::new`] nothing here
//! allocates.

#![allow(dead_code, reason = "each test uses its part")]

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{
    Body, CallError, Completion, SessionEvent, SessionId, Side, Sink, Source,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host, StartError};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Layout, Limits, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::memory_op::{
    MemoryError, RefOperand, RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step, emit_steps,
    parse_failure,
};
use dmrpc_core::wire::message::{ARGS_MAX, ArgEntry, Method, Status};
use dmrpc_core::wire::reference::{Ref, RefKey, Rights};
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

/// The first argument of a request.
pub(crate) const FIRST: RefOperand = RefOperand::Argument(0);
/// The region that step 0 made.
pub(crate) const MADE: RegionOperand = RegionOperand::MadeBy(0);

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 2);
const DATAGRAM_BYTES: usize = 1472;
const SESSIONS: usize = 4;
/// Longest body that these tests send or read.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The region of this name.
pub(crate) fn named(region: u64) -> RegionOperand {
    RegionOperand::Named(RegionName(region))
}

/// What a request made and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) refs: [Option<Ref>; STEPS_MAX],
    pub(crate) regions: [u64; STEPS_MAX],
    /// Bytes in the host's room.
    pub(crate) bytes: usize,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory(MemoryError),
    Status(Status),
    Call(CallError),
}

/// The calling side's code: one call at a time.
pub(crate) struct Caller {
    pub(crate) body: Vec<u8>,
    pub(crate) room: Vec<u8>,
    ended: Option<Result<Answer, Refused>>,
    /// Calls that ended so far, and those of them that were refused.
    pub(crate) counts: (u32, u32),
    connected: u32,
}

impl Host for Caller {
    fn absorb(&mut self, _: Sink, offset: u32, bytes: &[u8]) {
        self.room[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn supply(&mut self, _: Source, offset: u32, out: &mut [u8]) {
        out.copy_from_slice(&self.body[offset as usize..][..out.len()]);
    }

    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        self.counts.0 += 1;
        self.counts.1 +=
            u32::from(!completion.result.is_ok_and(|response| response.status == Status::OK));
        let response = match completion.result {
            Ok(response) => response,
            Err(error) => {
                self.ended = Some(Err(Refused::Call(error)));
                return;
            }
        };
        let bytes = match response.body {
            Body::Whole(bytes) => {
                self.room[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
            Body::Absorbed { bytes, .. } => bytes as usize,
        };
        let parameters = response.arguments.parameters();
        self.ended = Some(if response.status == Status::OK {
            let mut answer = Answer { refs: [None; STEPS_MAX], regions: [0; STEPS_MAX], bytes };
            for (place, reference) in answer.refs.iter_mut().zip(response.arguments.refs()) {
                *place = Some(reference);
            }
            for (place, name) in answer.regions.iter_mut().zip(parameters.as_chunks::<8>().0) {
                *place = u64::from_le_bytes(*name);
            }
            Ok(answer)
        } else {
            let details = parse_failure(parameters).map_or([0; 2], |(_, details)| details);
            Err(match MemoryError::from_wire(response.status, details) {
                Some(error) => Refused::Memory(error),
                None => Refused::Status(response.status),
            })
        });
    }

    fn session(&mut self, _: Instant, _: Side, _: SessionId, event: SessionEvent) {
        self.connected += u32::from(matches!(event, SessionEvent::Connected { .. }));
    }
}

/// Both ends.
pub(crate) struct Pair {
    pub(crate) client: Endpoint<'static>,
    client_device: MemoryDevice,
    pub(crate) caller: Caller,
    server: Endpoint<'static>,
    server_device: MemoryDevice,
    pub(crate) node: MemoryNode<'static, Plain<'static>>,
    pub(crate) now: Instant,
    /// Steps of freeing after each poll.
    pub(crate) reclaim: u32,
    lives: u64,
}

fn endpoint(incarnation: u64, now: Instant) -> Endpoint<'static> {
    let config = Config::new(incarnation, DATAGRAM_BYTES);
    let size = StorageSize::new(SESSIONS, SESSIONS, usize::from(config.slots_per_session));
    Endpoint::new(config, storage::take(size), now).expect("a configuration")
}

impl Pair {
    /// A memory node as `config` says, with a grace of one second.
    pub(crate) fn new(mut config: StoreConfig) -> Self {
        config.grace_ns = 1_000_000_000;
        let bytes = Layout::new(&config).expect("a configuration").bytes();
        let pool = vec![0xA5A5_A5A5_A5A5_A5A5; bytes.div_ceil(8) as usize].leak();
        let store = Store::format(Plain::new(pool), &config).expect("a pool");
        let identity = Identity { memory_node: 7, incarnation: 77, key: RefKey([3; 16]) };
        let sessions = vec![SessionHolder::default(); SESSIONS].leak();
        let transfers = vec![Transfer::default(); config.stages as usize].leak();
        let node = MemoryNode::new(store, identity, Limits::NONE, sessions, transfers);
        let (client_device, server_device) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
        Self {
            client: endpoint(1, Instant::ZERO),
            client_device,
            caller: Caller {
                body: vec![0; BODY_BYTES_MAX],
                room: vec![0; BODY_BYTES_MAX],
                ended: None,
                counts: (0, 0),
                connected: 0,
            },
            server: endpoint(1, Instant::ZERO),
            server_device,
            node,
            now: Instant::ZERO,
            reclaim: 64,
            lives: 1,
        }
    }

    /// Polls both ends once.
    pub(crate) fn step(&mut self) {
        self.now = self.now + Duration::from_micros(10);
        self.client.poll(self.now, &mut self.client_device, &mut self.caller);
        self.server.poll(self.now, &mut self.server_device, &mut self.node);
        self.node.reclaim(self.now, self.reclaim);
    }

    /// Opens a session.
    pub(crate) fn connect(&mut self) -> SessionId {
        let before = self.caller.connected;
        let session = self.client.connect(self.now, SERVER).expect("a free session");
        for _ in 0..10_000 {
            self.step();
            if self.caller.connected > before {
                return session;
            }
        }
        panic!("no connection");
    }

    /// The client's process dies; the memory node hears nothing for `span`. Then another begins.
    pub(crate) fn client_dies(&mut self, span: Duration) {
        self.lives += 1;
        self.wait_alone(span);
        let fresh = endpoint(self.lives, self.now);
        std::mem::replace(&mut self.client, fresh).into_storage();
    }

    /// The memory node alone lives on for `span`.
    pub(crate) fn wait_alone(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + Duration::from_millis(10);
            self.server.poll(self.now, &mut self.server_device, &mut self.node);
            while self.node.reclaim(self.now, 1000) == 1000 {}
        }
    }

    /// Makes a call with any parameters and waits for its end.
    pub(crate) fn call_raw(
        &mut self,
        session: SessionId,
        method: Method,
        parameters: &[u8],
        refs: &[Ref],
        body_bytes: usize,
    ) -> Result<Answer, Refused> {
        let mut args = [ArgEntry::Inline { bytes: 0 }; ARGS_MAX];
        for (arg, reference) in args.iter_mut().zip(refs) {
            *arg = ArgEntry::Ref(*reference);
        }
        let call = Call {
            arguments: &args[..refs.len()],
            parameters,
            source: (body_bytes > 0).then_some((Source(0), body_bytes as u32)),
            sink: Some((Sink(0), BODY_BYTES_MAX as u32)),
            deadline: Some(Duration::from_secs(5)),
            ..Call::new(method)
        };
        self.caller.ended = None;
        // After a pause of one end the other is suspected, until it is heard of again.
        while self.client.call(self.now, session, &call) == Err(StartError::Suspected) {
            self.step();
        }
        loop {
            self.step();
            if let Some(ended) = self.caller.ended {
                return ended;
            }
        }
    }

    /// Runs steps, with the first `body_bytes` of the caller's body.
    pub(crate) fn run(
        &mut self,
        session: SessionId,
        steps: &[Step],
        refs: &[Ref],
        body_bytes: usize,
    ) -> Result<Answer, Refused> {
        let mut out = [0; STEPS_MAX * STEP_BYTES];
        let parameters = emit_steps(steps, &mut out);
        self.call_raw(session, Method::MEMORY, parameters, refs, body_bytes)
    }

    /// Runs steps that must be done.
    #[track_caller]
    pub(crate) fn must(&mut self, session: SessionId, steps: &[Step], refs: &[Ref]) -> Answer {
        self.run(session, steps, refs, 0).expect("nothing wrong with it")
    }

    #[track_caller]
    pub(crate) fn alloc(&mut self, session: SessionId, length: u64) -> u64 {
        self.must(session, &[Step::Alloc { length }], &[]).regions[0]
    }

    /// Writes `byte` so many times.
    #[track_caller]
    pub(crate) fn fill(
        &mut self,
        session: SessionId,
        region: u64,
        offset: u64,
        byte: u8,
        bytes: usize,
    ) {
        self.caller.body[..bytes].fill(byte);
        let steps = [Step::Write { region: named(region), offset }];
        self.run(session, &steps, &[], bytes).expect("nothing wrong with it");
    }

    /// Reads into the caller's room.
    #[track_caller]
    pub(crate) fn read(
        &mut self,
        session: SessionId,
        region: u64,
        offset: u64,
        bytes: usize,
    ) -> &[u8] {
        let length = bytes as u64;
        let answer =
            self.must(session, &[Step::Read { region: named(region), offset, length }], &[]);
        assert_eq!(answer.bytes, bytes);
        &self.caller.room[..bytes]
    }

    #[track_caller]
    pub(crate) fn create_ref(&mut self, session: SessionId, region: u64, length: u64) -> Ref {
        let rights = Rights::all();
        let steps = [Step::CreateRef { region: named(region), offset: 0, length, rights }];
        self.must(session, &steps, &[]).refs[0].expect("a reference")
    }

    #[track_caller]
    pub(crate) fn map_ref(&mut self, session: SessionId, reference: Ref) -> u64 {
        self.must(session, &[Step::MapRef { reference: FIRST }], &[reference]).regions[0]
    }

    #[track_caller]
    pub(crate) fn free(&mut self, session: SessionId, region: u64) {
        self.must(session, &[Step::Free { region: named(region) }], &[]);
    }

    /// Frees all that can be freed, and checks the whole store.
    pub(crate) fn settle(&mut self) {
        while self.node.reclaim(self.now, 1000) == 1000 {}
        let store = self.node.store();
        store.check(&mut vec![0; store.check_scratch_bytes()]).expect("a sound store");
    }
}
