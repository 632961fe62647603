//! What a 32 B RPC costs, both ends together: two endpoints of one thread over a wire in memory,
//! a service that echoes, the payload check on.
//!
//! `rpc_cost --calls N [--in-flight K] [--auth] [--encrypt [--portable]] [--no-integrity]
//! [--no-leases] [--no-congestion] [--sessions S] [--idle-polls P]` prints one line:
//! `calls=N in_flight=K seconds=S calls_per_s=R`. `--auth` gives both ends a key, so that packets
//! are tagged; `--encrypt` has them encrypted with what comes of one, as programs do it or, with
//! `--portable`, as the core does by itself; `--no-integrity` leaves payloads out of the checksum;
//! `--no-leases` makes leases and keep-alives longer than any run; `--no-congestion` leaves delay
//! alone. With several sessions each call's is picked at random, and the rate is compared with that
//! of 64, in turns. `--parts` compares, in turns, what each of these safeguards takes of the rate
//! without any, each alone and all together. `--idle-polls` makes no calls but so many polls of the
//! server, in which nothing comes and no timer is due.
//!
//! For instructions a call, run it under `valgrind --tool=callgrind` with two values of N and
//! divide the difference of the totals by that of the calls: what happens once cancels out.

mod parts;

use dmrpc_host::cipher::session_ciphers;
use dmrpc_host::table::table;
use parts::Parts;
use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::cipher::{CipherRoom, CipherTable, Ciphers, PortableKey, SessionCipher};
use dmrpc_core::endpoint::host::{Body, Completion, Outcome, Reply, RequestHead, SessionId};
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host, TimerEntry, WaitEntries};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_sim::memory::{MemoryDevice, pair};

const BYTES: usize = 32;
const DATAGRAM_BYTES: usize = 1472;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);
/// What many sessions are compared with.
const FEW_SESSIONS: usize = 64;
/// Blocks of a comparison, measured in turns.
const BLOCKS: u64 = 101;
/// Turns of `--parts`, and the calls of one: less than a time slice, so that on a machine that
/// others use, too, most turns are not interrupted.
const TURNS: usize = 401;
const CALLS_A_TURN: u64 = 4_000;
/// Calls that are known before they are made, with many sessions.
const AHEAD: usize = 8;
/// The clock's step between polls, in nanoseconds: about what a poll takes.
const STEP_NS: u64 = 200;

/// Echoes requests, and counts answers.
#[derive(Default)]
struct Echo {
    completed: u64,
    wrong: u64,
}

impl Host for Echo {
    #[inline(always)]
    fn request(
        &mut self,
        _: Instant,
        _: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if let Body::Whole(bytes) = body {
            reply.body(bytes);
        }
        Outcome::Replied
    }
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        self.completed += 1;
        let right = matches!(completion.result, Ok(response) if response.status == Status::OK
            && matches!(response.body, Body::Whole(bytes) if bytes.len() == BYTES));
        if !right {
            self.wrong += 1;
        }
    }
}

/// Ciphers as programs have them, or the core's own.
fn ciphers_of(count: usize) -> &'static mut (dyn Ciphers + Send) {
    if flag("--portable") {
        let ciphers = table(SessionCipher::<PortableKey>::EMPTY, count);
        return Box::leak(Box::new(CipherTable::new(ciphers)));
    }
    Box::leak(Box::new(session_ciphers(count)))
}

struct Node {
    endpoint: Endpoint<'static>,
    device: MemoryDevice,
    host: Echo,
    /// Room for encryption, while the endpoint does not have it.
    room: Option<CipherRoom<'static>>,
}

impl Node {
    fn new(incarnation: u64, device: MemoryDevice, sessions: usize, parts: Parts) -> Self {
        // Seven of 16 slots, or one of two, are for calls within calls: with few sessions there
        // must be one for each call all the same.
        let slots_per_session = match sessions {
            1 => 64,
            2..=FEW_SESSIONS => 16,
            _ => 2,
        };
        let mut config = Config { slots_per_session, ..Config::new(incarnation, DATAGRAM_BYTES) };
        parts.apply(&mut config);
        let size = StorageSize::new(sessions, sessions, config.slots_per_session.into());
        let storage = Storage {
            client_sessions: table(ClientSession::EMPTY, size.client_sessions).leak(),
            client_slots: table(ClientSlot::EMPTY, size.client_slots).leak(),
            server_sessions: table(ServerSession::EMPTY, size.server_sessions).leak(),
            server_slots: table(ServerSlot::EMPTY, size.server_slots).leak(),
            timers: table(TimerEntry::EMPTY, size.timers).leak(),
            waits: table(WaitEntries::EMPTY, size.waits).leak(),
        };
        Self::of(config, storage, None, device)
    }

    /// The same node with other safeguards, in the same memory.
    fn again(self, parts: Parts) -> Self {
        let old = self.endpoint.config();
        let slots_per_session = old.slots_per_session;
        let mut config =
            Config { slots_per_session, ..Config::new(old.incarnation, DATAGRAM_BYTES) };
        parts.apply(&mut config);
        let (storage, room) = self.endpoint.into_parts();
        Self::of(config, storage, room.or(self.room), self.device)
    }

    fn of(
        config: Config,
        storage: Storage<'static>,
        room: Option<CipherRoom<'static>>,
        device: MemoryDevice,
    ) -> Self {
        let host = Echo::default();
        if !config.encrypt {
            let endpoint = Endpoint::new(config, storage, Instant::ZERO);
            return Self { endpoint: endpoint.expect("the defaults work"), device, host, room };
        }
        let room = room.unwrap_or_else(|| {
            let size = storage.size();
            let (ciphers, packet_bytes) = CipherRoom::needed(&size, config.payload_bytes_max);
            CipherRoom { sessions: ciphers_of(ciphers), packet: vec![0; packet_bytes].leak() }
        });
        let endpoint = Endpoint::encrypted(config, storage, room, Instant::ZERO);
        Self { endpoint: endpoint.expect("the defaults work"), device, host, room: None }
    }

    fn poll(&mut self, now: Instant) {
        self.endpoint.poll(now, &mut self.device, &mut self.host);
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

/// A client, a server, and open sessions between them.
struct World {
    client: Node,
    server: Node,
    sessions: Vec<SessionId>,
    nanos: u64,
}

impl World {
    fn new(sessions: usize, parts: Parts) -> Self {
        let (a, b) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
        let (client, server) = (Node::new(1, a, sessions, parts), Node::new(2, b, sessions, parts));
        Self::connected(client, server, sessions)
    }

    /// The same world from its beginning, with other safeguards, in the same memory: where tables
    /// happen to lie makes a difference of several percent.
    fn again(self, parts: Parts) -> Self {
        let sessions = self.sessions.len();
        Self::connected(self.client.again(parts), self.server.again(parts), sessions)
    }

    fn connected(client: Node, server: Node, sessions: usize) -> Self {
        let mut world = Self { client, server, sessions: Vec::new(), nanos: 0 };
        for number in 0..sessions {
            let now = world.tick();
            let session = world.client.endpoint.connect(now, SERVER).expect("a session");
            while !world.client.endpoint.is_up(session) {
                world.poll();
            }
            assert_eq!(session, SessionId { index: number as u32, ..session });
            world.sessions.push(session);
        }
        world
    }

    fn tick(&mut self) -> Instant {
        self.nanos += STEP_NS;
        Instant::from_nanos(self.nanos)
    }

    fn poll(&mut self) {
        let now = self.tick();
        self.client.poll(now);
        let now = self.tick();
        self.server.poll(now);
        let now = self.tick();
        self.client.poll(now);
    }

    /// Makes `calls` calls with `in_flight` at a time, in sessions picked at random. Returns the
    /// seconds that they took.
    fn run(&mut self, calls: u64, in_flight: u64) -> f64 {
        let body = [0x5A; BYTES];
        let started = std::time::Instant::now();
        let (mut made, mut random) = (0, 0x9E37_79B9_7F4A_7C15u64);
        let mut coming = [self.sessions[0]; AHEAD];
        self.client.host.completed = 0;
        while self.client.host.completed < calls {
            let now = self.tick();
            let until = calls.min(self.client.host.completed + in_flight);
            while made < until {
                let call = Call { body: &body, token: made, ..Call::new(Method(1)) };
                let session = match self.sessions.len() {
                    1 => self.sessions[0],
                    many => {
                        // Known some calls ahead, as a program that has several to make knows it.
                        // Sessions differ by their index, so no table of them is looked into.
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let index = (random % many as u64) as u32;
                        let next = SessionId { index, ..self.sessions[0] };
                        self.client.endpoint.expect_call(next);
                        std::mem::replace(&mut coming[made as usize % AHEAD], next)
                    }
                };
                if self.client.endpoint.call(now, session, &call).is_err() {
                    break;
                }
                made += 1;
            }
            self.poll();
        }
        assert_eq!(self.client.host.wrong, 0, "every answer is right");
        started.elapsed().as_secs_f64()
    }
}

fn main() {
    let (calls, in_flight) = (number("--calls", 5_000_000), number("--in-flight", 32));
    let sessions = number("--sessions", 1) as usize;
    let parts = Parts::of_flags(flag);
    if flag("--parts") {
        let mut world = Some(World::new(1, parts));
        return parts::compare("calls a second", TURNS, |parts| {
            let mut again = world.take().expect("it is put back").again(parts);
            again.run(CALLS_A_TURN / 4, in_flight);
            let rate = CALLS_A_TURN as f64 / again.run(CALLS_A_TURN, in_flight);
            world = Some(again);
            rate
        });
    }
    let mut world = World::new(sessions, parts);
    let idle_polls = number("--idle-polls", 0);
    if idle_polls > 0 {
        let now = world.tick();
        let Node { endpoint, device, host, .. } = &mut world.server;
        endpoint.poll(now, device, host);
        for _ in 0..idle_polls {
            let polled = endpoint.poll(now, device, host);
            assert!(polled.is_idle(), "nothing was to be done: {polled:?}");
        }
        return println!("idle_polls={idle_polls} sessions={sessions}");
    }
    let seconds = world.run(calls, in_flight);
    let rate = calls as f64 / seconds;
    print!("calls={calls} in_flight={in_flight} seconds={seconds:.6} calls_per_s={rate:.0}");
    if sessions > 1 {
        print!(" sessions={sessions} {}", against_few(&mut world, calls, in_flight));
    }
    println!();
}

/// The rate against that with few sessions, in turns: the median of the ratios.
fn against_few(many: &mut World, calls: u64, in_flight: u64) -> String {
    let mut few = World::new(FEW_SESSIONS, Parts::of_flags(flag));
    few.run(calls / BLOCKS, in_flight);
    let mut ratios: Vec<f64> = (0..BLOCKS)
        .map(|_| few.run(calls / BLOCKS, in_flight) / many.run(calls / BLOCKS, in_flight))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| ratios[(ratios.len() - 1) * part / 4];
    format!("of_{FEW_SESSIONS}={:.3} quartiles={:.3},{:.3}", at(2), at(1), at(3))
}
