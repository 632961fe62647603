//! What bad packets at half of a server's link do to the calls of others.

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::device::{Device, Tx};
use dmrpc_core::endpoint::Config;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};
use dmrpc_sim::link::{Fabric, FabricConfig, OVERHEAD_BYTES};

use super::bulk::{DATAGRAM_BYTES, World, address};

/// Clients, each with calls of its own.
const CLIENTS: usize = 8;
/// Calls that each has under way.
const CALLS: u64 = 4;
/// How long a measurement runs, and the time between two bursts of the flood.
const SPAN: Duration = Duration::from_millis(10);
const BURST_EVERY: Duration = Duration::from_micros(1);
/// Half of what the link carries in that time: 100 Gbit/s are 12,500 bytes in 1 us.
const BURST_BYTES: usize = 6_250;

/// A kind of flood: what it is called, and its packet of a number.
type Flood = (&'static str, fn(u64) -> Vec<u8>);

/// A sealed request of `payload` bytes for a session, from somebody who has none.
fn request(payload: usize, session: u32, generation: u32, number: u64) -> Vec<u8> {
    let mut bytes = vec![0xA5; HEADER_BYTES + payload];
    let mut header = Header::new(Kind::Request, session, generation);
    header.flags = Flags::PAYLOAD_CHECK;
    header.request = number;
    (header.payload, header.message) = (payload as u16, payload as u32);
    header.head = 32;
    header.emit(&mut bytes, Crc32c::detect());
    bytes
}

/// The same with a checksum that is wrong.
fn damaged(payload: usize, number: u64) -> Vec<u8> {
    let mut bytes = request(payload, 0, 1, number);
    bytes[44] ^= 0xFF;
    bytes
}

fn hello(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES + 64];
    bytes[HEADER_BYTES..][..8].copy_from_slice(&number.to_le_bytes());
    bytes[HEADER_BYTES + 16..][..8].copy_from_slice(&[0, 4, 0, 0, 8, 0, 8, 0]);
    let mut header = Header::new(Kind::Hello, 0, 0);
    header.flags = Flags::PAYLOAD_CHECK;
    header.payload = 64;
    header.emit(&mut bytes, Crc32c::detect());
    bytes
}

const FLOODS: [Flood; 7] = [
    ("short, damaged", |number| damaged(64, number)),
    ("long, damaged", |number| damaged(DATAGRAM_BYTES - HEADER_BYTES, number)),
    ("unknown session", |number| request(64, number as u32 % 9, number as u32, number)),
    ("no such session", |number| request(64, 1_000, 0, number)),
    ("hello", hello),
    ("too short", |_| vec![1; HEADER_BYTES - 1]),
    ("nonsense", |number| {
        let word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        word.iter().cycle().take(150).copied().collect()
    }),
];

/// The 99th percentile of calls of 32 bytes, in nanoseconds, and what the server dropped.
fn p99_ns(flood: Option<Flood>) -> (u64, u64) {
    let links: Vec<_> = (1..=CLIENTS).map(|client| (client, 0)).collect();
    let adjust = |config: &mut Config| config.slots_per_session = 16;
    let fabric = Fabric::new(11, FabricConfig::FAST);
    let mut world = World::linked(fabric.clone(), CLIENTS + 1, &links, adjust);
    let mut attacker = fabric.open(address(CLIENTS + 1), DATAGRAM_BYTES);
    let (start, mut sent) = (fabric.now(), 0);
    let mut begun = vec![start; CLIENTS * CALLS as usize];
    let mut took = Vec::new();
    for token in 0..begun.len() {
        world.read(token % CLIENTS, 32, token as u64);
    }
    let mut burst_at = start;
    while fabric.now() < start + SPAN {
        if let Some((_, packet)) = flood {
            let (_, mut tx) = attacker.split();
            let mut bytes = 0;
            while bytes < BURST_BYTES {
                sent += 1;
                let packet = packet(sent);
                bytes += packet.len() + OVERHEAD_BYTES;
                tx.push(address(0), packet.len()).expect("takes all").copy_from_slice(&packet);
            }
            tx.flush();
        }
        burst_at = burst_at + BURST_EVERY;
        while world.step(burst_at) {
            for ended in world.ended() {
                let token = ended.token as usize;
                took.push(ended.at.since(begun[token]).as_nanos());
                begun[token] = ended.at;
                world.read(token % CLIENTS, 32, ended.token);
            }
        }
    }
    let counters = world.nodes[0].endpoint.counters();
    let executed = counters.requests_executed;
    assert!(executed >= took.len() as u64, "calls of 32 bytes are executed once each");
    took.sort_unstable();
    assert!(took.len() > 10_000, "{} calls are enough for a percentile", took.len());
    (took[took.len() * 99 / 100], counters.datagrams_received - executed)
}

/// No kind of bad packet, at half of the link, makes the calls of others more than a fifth slower.
#[test]
fn others_hardly_notice_a_flood() {
    let (calm, _) = p99_ns(None);
    println!("p99 of calls of 32 bytes: {calm} ns without a flood");
    for flood in FLOODS {
        let (p99, dropped) = p99_ns(Some(flood));
        println!("flood of packets that are {}: {p99} ns, {dropped} dropped", flood.0);
        assert!(dropped > 30_000, "the flood of {} has arrived: {dropped}", flood.0);
        assert!(p99 * 10 <= calm * 12, "{}: {p99} ns instead of {calm} ns", flood.0);
    }
}
