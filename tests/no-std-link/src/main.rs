//! A memory node and a client in one program, linked without the standard library, the C library
//! or an allocator. It makes a call, puts a page into the memory node and reads it back by
//! reference. Exit code 0: all of it worked.

#![no_std]
#![no_main]

mod hosts;
mod system;
mod wire;

use core::cell::RefCell;
use core::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{SessionId, Sink, Source};
use dmrpc_core::endpoint::table::{ClientSession, ClientSlot, ServerSession, ServerSlot, Storage};
use dmrpc_core::endpoint::{Call, Config, Endpoint, TimerEntry, WaitEntries};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::memory_op::{RefOperand, STEP_BYTES, STEPS_MAX, Step, emit_steps, put};
use dmrpc_core::wire::message::{ArgEntry, Method, Status};
use dmrpc_core::wire::reference::{RefKey, Rights};

use hosts::{BODY_BYTES, Client, ECHO, Server};
use system::Once;
use wire::{DATAGRAM_BYTES, End, Ring};

const SLOTS: usize = 16;
const POOL_BYTES: usize = 1 << 20;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 2);

static POOL: Once<[u64; POOL_BYTES / 8]> = Once::new([0; POOL_BYTES / 8]);
static THERE: Once<Ring> = Once::new(Ring::EMPTY);
static BACK: Once<Ring> = Once::new(Ring::EMPTY);
static CLIENT_SESSIONS: Once<[ClientSession; 1]> = Once::new([ClientSession::EMPTY]);
static CLIENT_SLOTS: Once<[ClientSlot; SLOTS]> = Once::new([const { ClientSlot::EMPTY }; SLOTS]);
static CLIENT_TIMERS: Once<[TimerEntry; SLOTS + 1]> = Once::new([TimerEntry::EMPTY; SLOTS + 1]);
static CLIENT_WAITS: Once<[WaitEntries; 1]> = Once::new([WaitEntries::EMPTY]);
static SERVER_SESSIONS: Once<[ServerSession; 1]> = Once::new([ServerSession::EMPTY]);
static SERVER_SLOTS: Once<[ServerSlot; SLOTS]> = Once::new([const { ServerSlot::EMPTY }; SLOTS]);
static SERVER_TIMERS: Once<[TimerEntry; 1]> = Once::new([TimerEntry::EMPTY; 1]);
static HOLDERS: Once<[SessionHolder; 1]> = Once::new([SessionHolder::EMPTY; 1]);
static TRANSFERS: Once<[Transfer; 8]> = Once::new([Transfer::EMPTY; 8]);

/// Both ends and the time.
struct World<'w> {
    client: Endpoint<'static>,
    client_end: End<'w>,
    caller: Client,
    server: Endpoint<'static>,
    server_end: End<'w>,
    service: Server,
    now: Instant,
}

impl World<'_> {
    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(1);
        self.client.poll(self.now, &mut self.client_end, &mut self.caller);
        self.server.poll(self.now, &mut self.server_end, &mut self.service);
        self.service.node.reclaim(self.now, 16);
    }

    /// Makes a call and waits for its end: its status.
    fn call(&mut self, session: SessionId, call: &Call<'_>) -> Option<Status> {
        self.caller.status = None;
        self.client.call(self.now, session, call).ok()?;
        for _ in 0..100_000 {
            self.step();
            if self.caller.status.is_some() {
                return self.caller.status;
            }
        }
        None
    }

    /// The job: a call, a `put`, a `read_ref`. The text says what went wrong.
    fn job(&mut self) -> Result<(), &'static str> {
        let session = self.client.connect(self.now, SERVER).ok_or("no session is free")?;
        while !self.client.is_up(session) {
            self.step();
        }
        let echo = Call { body: b"without a standard library", ..Call::new(ECHO) };
        if self.call(session, &echo) != Some(Status::OK) || self.caller.bytes() != echo.body {
            return Err("the echo is wrong");
        }

        let mut out = [0; STEPS_MAX * STEP_BYTES];
        let length = BODY_BYTES as u64;
        let store = Call {
            parameters: emit_steps(&put(length, Rights::all()), &mut out),
            source: Some((Source(0), BODY_BYTES as u32)),
            ..Call::new(Method::MEMORY)
        };
        if self.call(session, &store) != Some(Status::OK) {
            return Err("put failed");
        }
        let reference = self.caller.reference.ok_or("put made no reference")?;

        let steps = [Step::ReadRef { reference: RefOperand::Argument(0), offset: 0, length }];
        let mut out = [0; STEPS_MAX * STEP_BYTES];
        let read = Call {
            arguments: &[ArgEntry::Ref(reference)],
            parameters: emit_steps(&steps, &mut out),
            sink: Some((Sink(0), BODY_BYTES as u32)),
            ..Call::new(Method::MEMORY)
        };
        if self.call(session, &read) != Some(Status::OK) {
            return Err("read_ref failed");
        }
        let right =
            self.caller.bytes().iter().enumerate().all(|(at, byte)| *byte == Client::byte(at));
        let whole = self.caller.bytes().len() == BODY_BYTES;
        if right && whole { Ok(()) } else { Err("read_ref gave other bytes than were put") }
    }
}

/// The program: its exit code.
fn main() -> i32 {
    let (there, back) = (RefCell::new(THERE.take()), RefCell::new(BACK.take()));
    let config = StoreConfig::for_pool_bytes(POOL_BYTES as u64);
    let Ok(store) = Store::format(Plain::new(POOL.take()), &config) else { return 3 };
    let identity = Identity { memory_node: 0, incarnation: 1, key: RefKey([7; 16]) };
    let node = MemoryNode::new(store, identity, Limits::NONE, HOLDERS.take(), TRANSFERS.take());
    let client = Storage {
        client_sessions: CLIENT_SESSIONS.take(),
        client_slots: CLIENT_SLOTS.take(),
        server_sessions: &mut [],
        server_slots: &mut [],
        timers: CLIENT_TIMERS.take(),
        waits: CLIENT_WAITS.take(),
    };
    let server = Storage {
        client_sessions: &mut [],
        client_slots: &mut [],
        server_sessions: SERVER_SESSIONS.take(),
        server_slots: SERVER_SLOTS.take(),
        timers: SERVER_TIMERS.take(),
        waits: &mut [],
    };
    let config = Config::new(1, DATAGRAM_BYTES);
    let now = Instant::ZERO;
    let (Ok(client), Ok(server)) =
        (Endpoint::new(config, client, now), Endpoint::new(config, server, now))
    else {
        return 4;
    };
    let mut world = World {
        client,
        client_end: End::new(SERVER, &back, &there),
        caller: Client::NEW,
        server,
        server_end: End::new(CLIENT, &there, &back),
        service: Server { node },
        now,
    };
    match world.job() {
        Ok(()) => 0,
        Err(what) => {
            system::print(what);
            system::print("\n");
            1
        }
    }
}
