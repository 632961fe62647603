//! A program that writes 200 kB to a memory node and reads them back, over any two devices.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::{Completion, SessionId, Sink, Source};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::memory_op::{
    RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step, emit_steps,
};
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_core::wire::reference::RefKey;
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

/// The payload of an Ethernet frame of 1500 bytes.
pub(crate) const DATAGRAM_BYTES: usize = 1458;
/// Bytes of the region, which are written and read at once.
pub(crate) const BYTES: usize = 200_000;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
const POOL_BYTES: u64 = 4 << 20;
const SLOTS: u16 = 4;

/// A program with a buffer for what it writes and one for what it reads.
struct Program {
    written: Vec<u8>,
    read: Vec<u8>,
    /// Whether the endpoint is told where bytes belong.
    tells_places: bool,
    /// What the first call returned in its parameters.
    region: u64,
    ended: u32,
}

impl Host for Program {
    fn absorb(&mut self, _: Sink, offset: u32, bytes: &[u8]) {
        self.read[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    fn place(&mut self, _: Sink, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        self.tells_places.then(|| &mut self.read[offset as usize..][..bytes as usize])
    }
    fn supply(&mut self, _: Source, offset: u32, out: &mut [u8]) {
        out.copy_from_slice(&self.written[offset as usize..][..out.len()]);
    }
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let response = completion.result.expect("an answer");
        assert_eq!(response.status, Status::OK, "every operation works");
        if self.region == 0
            && let Some(name) = response.arguments.parameters().first_chunk()
        {
            self.region = u64::from_le_bytes(*name);
        }
        self.ended += 1;
    }
}

/// Both ends.
pub(crate) struct World<D> {
    pub(crate) client: Endpoint<'static>,
    pub(crate) server: Endpoint<'static>,
    /// The client's, and the server's.
    pub(crate) devices: [D; 2],
    program: Program,
    node: MemoryNode<'static, Plain<'static>>,
    session: SessionId,
    now: Instant,
}

fn endpoint(config: Config) -> Endpoint<'static> {
    let config = Config { slots_per_session: SLOTS, ..config };
    let size = StorageSize::new(1, 1, SLOTS.into());
    storage::endpoint(config, size, Instant::ZERO).expect("a configuration")
}

impl<D: Device> World<D> {
    /// A region, over devices that `wrap` makes of both ends of a wire in memory, by endpoints
    /// that are `set` up.
    pub(crate) fn new(
        wrap: impl Fn(MemoryDevice) -> D,
        set: impl Fn(Config) -> Config,
        tells_places: bool,
    ) -> Self {
        let pool = vec![0; POOL_BYTES as usize / 8].leak();
        let config = StoreConfig::for_pool_bytes(POOL_BYTES);
        let store = Store::format(Plain::new(pool), &config).expect("a pool");
        let identity = Identity { memory_node: 1, incarnation: 1, key: RefKey([3; 16]) };
        let holders = vec![SessionHolder::default()].leak();
        let transfers = vec![Transfer::default(); usize::from(SLOTS)].leak();
        let node = MemoryNode::new(store, identity, Limits::NONE, holders, transfers);
        let (a, b) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
        let devices = [a, b].map(wrap);
        let mut client = endpoint(set(Config::new(1, DATAGRAM_BYTES)));
        let server = endpoint(set(Config::new(2, DATAGRAM_BYTES)));
        let session = client.connect(Instant::ZERO, SERVER).expect("a session");
        let program = Program {
            written: (0..BYTES).map(|at| (at * 7 % 251) as u8).collect(),
            read: vec![0; BYTES],
            tells_places,
            region: 0,
            ended: 0,
        };
        let mut world =
            Self { client, server, devices, program, node, session, now: Instant::ZERO };
        while !world.client.is_up(session) {
            world.poll();
        }
        world.call(Step::Alloc { length: BYTES as u64 });
        world
    }

    fn poll(&mut self) {
        self.now = self.now + Duration::from_micros(2);
        let [client, server] = &mut self.devices;
        self.client.poll(self.now, client, &mut self.program);
        self.server.poll(self.now, server, &mut self.node);
    }

    fn call(&mut self, step: Step) {
        let mut encoded = [0; STEPS_MAX * STEP_BYTES];
        let call = Call {
            parameters: emit_steps(&[step], &mut encoded),
            source: matches!(step, Step::Write { .. }).then_some((Source(0), BYTES as u32)),
            sink: matches!(step, Step::Read { .. }).then_some((Sink(0), BYTES as u32)),
            ..Call::new(Method::MEMORY)
        };
        self.client.call(self.now, self.session, &call).expect("a slot");
        let ended = self.program.ended;
        while self.program.ended == ended {
            self.poll();
        }
    }

    /// Writes other bytes than the last time, and reads them.
    #[track_caller]
    pub(crate) fn write_and_read(&mut self) {
        let region = RegionOperand::Named(RegionName(self.program.region));
        self.program.written.rotate_left(1);
        self.program.read.fill(0);
        self.call(Step::Write { region, offset: 0 });
        self.call(Step::Read { region, offset: 0, length: BYTES as u64 });
        assert!(self.program.read == self.program.written, "what was written is what is read");
    }
}
