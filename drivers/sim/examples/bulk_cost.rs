//! What a packet of a long message costs, both ends together: a client and a memory node of one
//! thread over a wire in memory, 1 MiB read or written at a time at random pages of a region.
//!
//! `bulk_cost --messages N [--in-flight K] [--bytes B] [--write] [--no-integrity] [--visit]
//! [--auth] [--encrypt [--portable]]` prints one line:
//! `messages=N packets=P seconds=S gbit_per_s=R resent=D`.
//! `--write` writes instead of reading; `--auth` tags packets, `--encrypt` encrypts them as
//! programs do or, with `--portable`, as the core does by itself;
//! `--parts` compares, in turns, what each safeguard takes of the rate without any;
//! `--no-integrity` leaves payloads out of the checksum; `--visit` looks at what is read
//! where it came in, instead of copying it to a buffer.
//!
//! For instructions a packet, run it under `valgrind --tool=callgrind` with two values of N and
//! divide the difference of the totals by that of the packets: what happens once cancels out.

mod parts;

use dmrpc_host::cipher::FastKey;
use parts::Parts;
use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{Completion, SessionId, Sink, Source};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::memory_op::{
    RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step, emit_steps,
};
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_core::wire::packet::SEAL_BYTES;
use dmrpc_core::wire::reference::RefKey;
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

/// The payload of an Ethernet frame of 1500 bytes, as `ci/memif` has them.
const DATAGRAM_BYTES: usize = 1458;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
const POOL_BYTES: u64 = 32 << 20;
const REGION_BYTES: u64 = 16 << 20;
const PAGE_BYTES: u64 = 4096;
const SLOTS: u16 = 16;
/// The clock's step between polls, in nanoseconds: about what a poll takes.
const STEP_NS: u64 = 2_000;

/// Turns of `--parts`.
const TURNS: usize = 301;
/// Messages of a turn.
const MESSAGES_A_TURN: u64 = 16;

/// A program with a buffer for each call.
struct Program {
    buffers: Vec<Vec<u8>>,
    visits: bool,
    /// A byte of each line that was looked at, summed up.
    seen: u64,
    /// What the last call returned in its parameters.
    region: u64,
    ended: Vec<u64>,
}

impl Host for Program {
    #[inline]
    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        if self.visits {
            self.seen += bytes.iter().step_by(64).map(|byte| u64::from(*byte)).sum::<u64>();
        } else {
            let buffer = &mut self.buffers[sink.0 as usize];
            buffer[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }
    #[inline]
    fn place(&mut self, sink: Sink, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        if self.visits {
            return None;
        }
        Some(&mut self.buffers[sink.0 as usize][offset as usize..][..bytes as usize])
    }
    #[inline]
    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        let buffer = &self.buffers[source.0 as usize];
        out.copy_from_slice(&buffer[offset as usize..][..out.len()]);
    }
    #[inline]
    fn look(&self, source: Source, offset: u32, bytes: u32) -> Option<&[u8]> {
        Some(&self.buffers[source.0 as usize][offset as usize..][..bytes as usize])
    }
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let response = completion.result.expect("an answer");
        assert_eq!(response.status, Status::OK, "every operation works");
        if let Some(name) = response.arguments.parameters().first_chunk() {
            self.region = u64::from_le_bytes(*name);
        }
        self.ended.push(completion.token);
    }
}

struct World {
    client: Endpoint<'static>,
    client_device: MemoryDevice,
    program: Program,
    server: Endpoint<'static>,
    server_device: MemoryDevice,
    node: MemoryNode<'static, Plain<'static>>,
    session: SessionId,
    nanos: u64,
}

fn endpoint(
    now: Instant,
    incarnation: u64,
    device: &MemoryDevice,
    parts: Parts,
) -> Endpoint<'static> {
    let mut config =
        Config { slots_per_session: SLOTS, ..Config::new(incarnation, DATAGRAM_BYTES) }
            .for_device(device);
    parts.apply(&mut config);
    let size = StorageSize::new(1, 1, SLOTS.into());
    storage::endpoint(config, size, now).expect("the defaults work")
}

impl World {
    fn new(in_flight: usize, bytes: usize, parts: Parts) -> Self {
        let pool = vec![0; POOL_BYTES as usize / 8].leak();
        let config = StoreConfig::for_pool_bytes(POOL_BYTES);
        let store = Store::format(Plain::lasting(pool), &config).expect("a pool");
        let identity = Identity { memory_node: 1, incarnation: 1, key: RefKey([3; 16]) };
        let holders = vec![SessionHolder::default()].leak();
        let transfers = vec![Transfer::default(); usize::from(SLOTS)].leak();
        let node = MemoryNode::new(store, identity, Limits::NONE, holders, transfers);
        let (client_device, server_device) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
        let program = Program {
            buffers: vec![vec![0x5A; bytes]; in_flight],
            visits: flag("--visit"),
            seen: 0,
            region: 0,
            ended: Vec::new(),
        };
        let mut client = endpoint(Instant::ZERO, 1, &client_device, parts);
        let server = endpoint(Instant::ZERO, 2, &server_device, parts);
        let session = client.connect(Instant::ZERO, SERVER).expect("a session");
        let mut world =
            Self { client, client_device, program, server, server_device, node, session, nanos: 0 };
        world.poll_until(|world| world.client.is_up(session));
        world
    }

    /// The same world with other safeguards and nothing in its pool, in the same memory: where
    /// bytes happen to lie, and who used that memory last, make a difference of several percent.
    fn again(mut self, parts: Parts) -> Self {
        let now = self.tick();
        let Self { client, client_device, program, session, .. } = &mut self;
        client.disconnect(now, client_device, program, *session);
        self.poll_until(|world| {
            let frames = world.node.store().stats().frames;
            world.server.server_sessions_open() == 0 && frames.in_use == 0
        });
        let now = self.tick();
        storage::give_back_all(self.client);
        storage::give_back_all(self.server);
        self.client = endpoint(now, 1, &self.client_device, parts);
        self.server = endpoint(now, 2, &self.server_device, parts);
        let session = self.client.connect(now, SERVER).expect("a session");
        self.session = session;
        self.poll_until(|world| world.client.is_up(session));
        self
    }

    fn poll_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.poll();
        }
    }

    fn tick(&mut self) -> Instant {
        self.nanos += STEP_NS;
        Instant::from_nanos(self.nanos)
    }

    fn poll(&mut self) {
        let now = self.tick();
        self.client.poll(now, &mut self.client_device, &mut self.program);
        let now = self.tick();
        self.server.poll(now, &mut self.server_device, &mut self.node);
        self.node.reclaim(now, 16);
    }

    fn begin(&mut self, step: Step, lane: usize, bytes: u32) {
        let mut encoded = [0; STEPS_MAX * STEP_BYTES];
        let parameters = emit_steps(&[step], &mut encoded);
        let writes = matches!(step, Step::Write { .. });
        let call = Call {
            parameters,
            source: writes.then_some((Source(lane as u64), bytes)),
            sink: (!writes).then_some((Sink(lane as u64), bytes)),
            token: lane as u64,
            ..Call::new(Method::MEMORY)
        };
        let now = self.tick();
        self.client.call(now, self.session, &call).expect("a slot");
    }

    fn finish(&mut self) -> u64 {
        loop {
            if let Some(token) = self.program.ended.pop() {
                return token;
            }
            self.poll();
        }
    }

    /// Reserves a region and fills it.
    fn prepare(&mut self, bytes: u64) -> RegionOperand {
        self.begin(Step::Alloc { length: REGION_BYTES }, 0, 0);
        self.finish();
        let region = RegionOperand::Named(RegionName(self.program.region));
        for offset in (0..REGION_BYTES / bytes).map(|part| part * bytes) {
            self.begin(Step::Write { region, offset }, 0, bytes as u32);
            self.finish();
        }
        region
    }

    /// Moves `messages` messages, at most `in_flight` at a time.
    fn run(&mut self, region: RegionOperand, messages: u64, in_flight: usize, length: u64) {
        let writes = flag("--write");
        let (mut begun, mut random) = (0, 0x9E37_79B9_7F4A_7C15u64);
        let mut free: Vec<usize> = (0..in_flight).collect();
        for _ in 0..messages {
            while begun < messages
                && let Some(lane) = free.pop()
            {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let offset = random % ((REGION_BYTES - length) / PAGE_BYTES + 1) * PAGE_BYTES;
                let step = if writes {
                    Step::Write { region, offset }
                } else {
                    Step::Read { region, offset, length }
                };
                self.begin(step, lane, length as u32);
                begun += 1;
            }
            let lane = self.finish();
            free.push(lane as usize);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    args.next().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("{name} {text}: a number is wanted");
            std::process::exit(2)
        })
    })
}

fn flag(name: &str) -> bool {
    std::env::args().any(|arg| arg == name)
}

fn main() {
    if !flag("--portable") {
        storage::encrypt_by::<FastKey>();
    }
    let messages = number("--messages", 2_000);
    let (in_flight, bytes) = (number("--in-flight", 4), number("--bytes", 1 << 20));
    if !(1..=8).contains(&in_flight) || !(1..=REGION_BYTES / 2).contains(&bytes) {
        eprintln!("1 to 8 in flight, of 1 B to 8 MiB each");
        std::process::exit(2);
    }
    if flag("--parts") {
        let some = Parts::of_flags(flag);
        let mut world = Some(World::new(in_flight as usize, bytes as usize, some));
        return parts::compare("Gbit/s", TURNS, |parts| {
            let mut again = world.take().expect("it is put back").again(parts);
            let region = again.prepare(bytes);
            let started = std::time::Instant::now();
            again.run(region, MESSAGES_A_TURN, in_flight as usize, bytes);
            let seconds = started.elapsed().as_secs_f64();
            world = Some(again);
            (MESSAGES_A_TURN * bytes * 8) as f64 / seconds / 1e9
        });
    }
    let mut world = World::new(in_flight as usize, bytes as usize, Parts::of_flags(flag));
    let region = world.prepare(bytes);
    let started = std::time::Instant::now();
    world.run(region, messages, in_flight as usize, bytes);
    let seconds = started.elapsed().as_secs_f64();
    let sealed = if flag("--encrypt") { SEAL_BYTES as u64 } else { 0 };
    let packets = messages * bytes.div_ceil(DATAGRAM_BYTES as u64 - 48 - sealed);
    let rate = (messages * bytes * 8) as f64 / seconds / 1e9;
    let resent = world.client.counters().packets_resent + world.server.counters().packets_resent;
    println!(
        "messages={messages} packets={packets} seconds={seconds:.6} gbit_per_s={rate:.2} \
         resent={resent}"
    );
}
