//! What a packet costs the endpoint that gets it, good or bad: a server of one thread, and whoever
//! sends to it, over a wire in memory.
//!
//! `bad_packet_cost KIND [--packets N] [--sessions N] [--apart US]` sends N packets of that kind,
//! in bursts of 32, to a server with that many open sessions, and prints what the server counted;
//! `bad_packet_cost kinds` lists the kinds of bad requests, `bad_packet_cost controls` those of
//! other packets, `bad_packet_cost steps` those of requests to a memory node, each with the kind of
//! a good one like it. `good` is a request of 32 bytes with its answer. For instructions a packet,
//! run it under `valgrind --tool=callgrind` with two values of N and divide the difference of the
//! totals by that of the packets. Making a packet costs the same for all kinds, as near as can be,
//! and is part of the figure.
//!
//! By the server's clock a burst comes US microseconds after the one before, 1 by default. Hellos
//! are heeded at a steady rate: 200 us apart each of them is, 1 us apart nearly all are put off,
//! and `hellos_put_off` in the output says how many were.

mod controls;
mod steps;

use dmrpc_host as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::host::{Body, Outcome, Reply, RequestHead, SessionId};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Counters, Endpoint, Host};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::control::HELLO_BYTES;
use dmrpc_core::wire::message::{Method, REQUEST_HEADER_BYTES, RequestHeader, TraceId};
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

use controls::{CONTROLS, Known};

/// A kind of packet, by name, and what is wrong with it: changes the header before it is sealed,
/// then the datagram after. Returns how long that is then.
type Wrong = (&'static str, fn(&mut Header, u64), fn(&mut [u8]) -> usize);

/// Length of a good one, in bytes.
const WHOLE: usize = HEADER_BYTES + REQUEST_HEADER_BYTES + BYTES;

/// All kinds.
const KINDS: [Wrong; 14] = [
    ("good", |_, _| {}, |_| WHOLE),
    ("checksum", |_, _| {}, |bytes| flip(bytes, HEADER_BYTES + 40)),
    ("header", |_, _| {}, |bytes| flip(bytes, 20)),
    ("truncated", |_, _| {}, |_| HEADER_BYTES - 1),
    ("shorter", |_, _| {}, |_| HEADER_BYTES + 8),
    ("longer", |_, _| {}, |_| WHOLE + 8),
    ("version", |_, _| {}, |bytes| flip(bytes, 0)),
    ("generation", |header, _| header.generation ^= 1, |_| WHOLE),
    ("session", |header, _| header.session = 77_777, |_| WHOLE),
    ("slot", |header, _| header.slot = 500, |_| WHOLE),
    ("old", |header, number| header.request = (1 << 41) - number, |_| WHOLE),
    ("replay", |header, _| header.request = 1 << 40, |_| WHOLE),
    ("tag", |header, number| header.tag = number | 1, |_| WHOLE),
    ("stray", |header, _| header.kind = Kind::RequestAck, |_| WHOLE),
];

/// Damages a byte.
fn flip(bytes: &mut [u8], at: usize) -> usize {
    bytes[at] ^= 1;
    WHOLE
}

const BYTES: usize = 32;
const DATAGRAM_BYTES: usize = 1472;
const BURST: u64 = 32;
/// Room for any of the packets.
const BUFFER_BYTES: usize = 320;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 4000);

/// Echoes requests.
struct Echo;

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
}

fn endpoint(incarnation: u64, keyed: bool, sessions: usize) -> Endpoint<'static> {
    let mut config = Config::new(incarnation, DATAGRAM_BYTES);
    config.key = keyed.then(|| Key::new(b"for measurements only").expect("long enough"));
    let size = StorageSize::new(sessions, sessions, config.slots_per_session.into());
    Endpoint::new(config, storage::take(size), Instant::ZERO).expect("the defaults work")
}

/// The server, what it serves, and the other end of its wire.
struct World<H> {
    server: Endpoint<'static>,
    host: H,
    /// What follows a poll.
    after: fn(&mut H, Instant),
    device: MemoryDevice,
    sender: MemoryDevice,
    nanos: u64,
    /// Time between bursts, in nanoseconds.
    apart: u64,
}

/// Time between polls while sessions are opened, in nanoseconds: no hello is put off.
const OPENING_POLL: u64 = 10_000;

impl World<Echo> {
    /// A server that echoes.
    fn echo(keyed: bool, sessions: usize, apart: u64) -> (Self, Known) {
        Self::new((keyed, sessions, apart), Echo, |_, _| {})
    }
}

impl<H: Host> World<H> {
    /// A server with open sessions, in the last of which anybody may now send.
    fn new(
        (keyed, sessions, apart): (bool, usize, u64),
        host: H,
        after: fn(&mut H, Instant),
    ) -> (Self, Known) {
        let (sender, device) = pair(CLIENT, SERVER, DATAGRAM_BYTES, 8);
        let (mut client, server) = (endpoint(1, keyed, sessions), endpoint(2, keyed, sessions));
        let mut world = Self { server, host, after, device, sender, nanos: 0, apart };
        let mut hello = [0; HELLO_BYTES];
        for _ in 0..sessions {
            let session = client.connect(Instant::from_nanos(world.nanos), SERVER).expect("room");
            while !client.is_up(session) {
                world.nanos += OPENING_POLL;
                let now = Instant::from_nanos(world.nanos);
                client.poll(now, &mut world.sender, &mut Echo);
                world.overhear(&mut hello);
                world.server.poll(now, &mut world.device, &mut world.host);
            }
        }
        // The generation counts the uses of a place, and this is its first.
        let last = world.server.server_sessions().last().expect("it is open").id;
        (world, Known { session: last, hello, crc: Crc32c::detect() })
    }

    /// Looks at what is on its way to the server, and lets it go on.
    fn overhear(&mut self, hello: &mut [u8; HELLO_BYTES]) {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let (mut rx, _) = self.device.split();
        for index in 0..rx.receive() {
            seen.push(rx.packet(index).1.to_vec());
        }
        let (_, mut tx) = self.sender.split();
        for packet in seen {
            if packet[1] == Kind::Hello as u8 {
                hello.copy_from_slice(&packet[HEADER_BYTES..]);
            }
            tx.push(SERVER, packet.len()).expect("room").copy_from_slice(&packet);
        }
        tx.flush();
    }

    /// Sends a burst, lets the server take it in, and forgets what it says.
    fn burst(&mut self, mut packet: impl FnMut(&mut [u8; BUFFER_BYTES]) -> usize) {
        let mut buffer = [0; BUFFER_BYTES];
        let (_, mut tx) = self.sender.split();
        for _ in 0..BURST {
            let bytes = packet(&mut buffer);
            tx.push(SERVER, bytes).expect("room").copy_from_slice(&buffer[..bytes]);
        }
        tx.flush();
        self.nanos += self.apart;
        let now = Instant::from_nanos(self.nanos);
        self.server.poll(now, &mut self.device, &mut self.host);
        (self.after)(&mut self.host, now);
        let (mut rx, _) = self.sender.split();
        while rx.receive() > 0 {}
    }
}

/// The payload of a good request.
fn request_payload() -> [u8; REQUEST_HEADER_BYTES + BYTES] {
    let mut payload = [0x5A; REQUEST_HEADER_BYTES + BYTES];
    let request = RequestHeader {
        method: Method(1),
        depth: 0,
        args: 0,
        deadline_us: 0,
        trace: TraceId(0),
        after: None,
    };
    request.emit(&mut payload);
    payload
}

/// Sends `packets` requests, each of them wrong in this way.
fn send_requests(world: &mut World<Echo>, known: &Known, packets: u64, wrong: &Wrong) {
    let &(name, before, after) = wrong;
    let payload = request_payload();
    let mut number = 1 << 39;
    let mut make = |buffer: &mut [u8; BUFFER_BYTES]| {
        number += 256;
        let SessionId { index, generation } = known.session;
        let mut header = Header::new(Kind::Request, index, generation);
        header.flags = Flags::PAYLOAD_CHECK;
        header.flags.set(Flags::AUTHENTICATED, name == "tag");
        header.request = number;
        (header.payload, header.message) = (payload.len() as u16, payload.len() as u32);
        header.head = REQUEST_HEADER_BYTES as u16;
        before(&mut header, number);
        let bytes = &mut buffer[..WHOLE];
        bytes[HEADER_BYTES..].copy_from_slice(&payload);
        header.emit(bytes, known.crc);
        after(bytes)
    };
    for _ in 0..packets / BURST {
        world.burst(&mut make);
    }
}

/// Sends `packets` requests of that kind to a memory node.
fn send_steps(sessions: usize, apart: u64, packets: u64, kind: &steps::Kind) -> Counters {
    let (node, good) = steps::memory_node(sessions);
    let (mut world, known) = World::new((false, sessions, apart), node, steps::reclaim);
    let payload = steps::payload(kind, good);
    let mut number = 1 << 39;
    for _ in 0..packets / BURST {
        world.burst(|buffer| {
            number += 256;
            let SessionId { index, generation } = known.session;
            let mut header = Header::new(Kind::Request, index, generation);
            header.flags = Flags::PAYLOAD_CHECK;
            header.request = number;
            (header.payload, header.message) = (payload.len() as u16, payload.len() as u32);
            header.head = payload.len() as u16;
            let bytes = &mut buffer[..HEADER_BYTES + payload.len()];
            bytes[HEADER_BYTES..].copy_from_slice(&payload);
            header.emit(bytes, known.crc);
            bytes.len()
        });
    }
    let failed: u64 = world.host.operations().iter().map(|operation| operation.failed).sum();
    let done: u64 = world.host.operations().iter().map(|operation| operation.done).sum();
    print!("steps_done={done} steps_failed={failed} ");
    *world.server.counters()
}

/// The number behind a flag, if it is there.
fn number_of(args: &[String], flag: &str) -> Option<u64> {
    let at = args.iter().position(|arg| arg == flag)?;
    Some(args.get(at + 1).and_then(|number| number.parse().ok()).expect("a number"))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let asked = args.first().map_or("", String::as_str);
    match asked {
        "kinds" => return KINDS.iter().for_each(|(name, ..)| println!("{name}")),
        "controls" => return CONTROLS.iter().for_each(|(name, ..)| println!("{name}")),
        "steps" => {
            return steps::KINDS.iter().for_each(|(name, like, ..)| println!("{name} {like}"));
        }
        _ => {}
    }
    let packets = number_of(&args, "--packets").unwrap_or(1_000_000);
    let sessions = number_of(&args, "--sessions").unwrap_or(1) as usize;
    let apart = number_of(&args, "--apart").unwrap_or(1) * 1_000;
    let counters = if let Some(wrong) = KINDS.iter().find(|(name, ..)| *name == asked) {
        let (mut world, known) = World::echo(asked == "tag", sessions, apart);
        send_requests(&mut world, &known, packets, wrong);
        *world.server.counters()
    } else if let Some((_, keyed, make)) = CONTROLS.iter().find(|(name, ..)| *name == asked) {
        let (mut world, known) = World::echo(*keyed, sessions, apart);
        let mut number = 1 << 39;
        for _ in 0..packets / BURST {
            world.burst(|buffer| {
                number += 256;
                make(&known, number, buffer)
            });
        }
        *world.server.counters()
    } else if let Some(kind) = steps::KINDS.iter().find(|(name, ..)| *name == asked) {
        send_steps(sessions, apart, packets, kind)
    } else {
        let (kinds, controls) = (KINDS.map(|kind| kind.0), CONTROLS.map(|kind| kind.0));
        let steps = steps::KINDS.map(|kind| kind.0);
        eprintln!("name a kind: {kinds:?}, {controls:?}, {steps:?}");
        std::process::exit(2)
    };
    print!("kind={asked} packets={packets}");
    counters.for_each(|name, count| {
        if count > 0 {
            print!(" {name}={count}");
        }
    });
    println!();
}
