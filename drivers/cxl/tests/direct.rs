//! Small calls through a pool: with short headers, without timers; and what happens to them when
//! something goes wrong all the same.

use dmrpc_host as _;

use dmrpc_core::device::{Capabilities, Device, Tx};
use dmrpc_core::endpoint::host::{
    Admission, Body, CallError, CallId, Completion, Outcome, PendingCall, Reply, RequestHead,
    SessionEvent, SessionId, Side, Sink, Source,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::control::Features;
use dmrpc_core::wire::direct::DIRECT_HEADER_BYTES;
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_cxl::device::{RingRx, RingTx, address_of};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, PoolMemory, RingDevice};
use dmrpc_sim::storage;

const RING_SLOTS: u32 = 8;
/// The service answers this one when it is told to.
const LATER: Method = Method(2);

fn pool(mode: Mode) -> Pool {
    let config =
        PoolConfig { ring_slots: RING_SLOTS, datagram_bytes: 1500, ..PoolConfig::default() };
    let mapping = Mapping::memfd("direct", 64 << 20).expect("64 MiB");
    Pool::format(mapping, mode, &config, (1, [7; 2]), Overwrite::Unused).expect("room")
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Rings that lose what they are told to, which the real ones do where a receiver stands still.
struct Losing {
    rings: RingDevice,
    lose: u32,
}

struct LosingTx<'a> {
    tx: RingTx<'a, PoolMemory>,
    lose: &'a mut u32,
}

impl Device for Losing {
    type Rx<'a> = RingRx<'a, PoolMemory>;
    type Tx<'a> = LosingTx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.rings.capabilities()
    }
    fn keeps_bytes(&self) -> bool {
        self.rings.keeps_bytes()
    }
    fn is_lossless(&self) -> bool {
        self.rings.is_lossless()
    }
    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        let (rx, tx) = self.rings.split();
        (rx, LosingTx { tx, lose: &mut self.lose })
    }
}

impl Tx for LosingTx<'_> {
    fn push(&mut self, peer: std::net::SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        self.tx.push(peer, bytes)
    }
    fn put(
        &mut self,
        peer: std::net::SocketAddrV4,
        header: &[u8; DIRECT_HEADER_BYTES],
        message: &[u8],
    ) -> bool {
        if *self.lose > 0 {
            *self.lose -= 1;
            return true;
        }
        self.tx.put(peer, header, message)
    }
    fn flush(&mut self) {
        self.tx.flush();
    }
}

/// A call's token, and what came of it.
type Ended = (u64, Result<(Status, Vec<u8>), CallError>);

/// Doubles every byte; remembers what it was asked, and how calls ended.
#[derive(Default)]
struct Service {
    executed: Vec<u8>,
    pending: Vec<PendingCall>,
    cancelled: Vec<PendingCall>,
    ended: Vec<Ended>,
    is_busy: bool,
}

impl Host for Service {
    fn admit(&mut self, _: &RequestHead<'_>, _: u32) -> Admission {
        Admission::Busy
    }
    fn absorb(&mut self, _: Sink, _: u32, _: &[u8]) {}
    fn abandon(&mut self, _: Sink) {}
    fn request(
        &mut self,
        _: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let Body::Whole(bytes) = body else { panic!("only short bodies are sent") };
        if self.is_busy {
            return Outcome::Busy;
        }
        self.executed.push(bytes[0]);
        if head.method == LATER {
            self.pending.push(head.call);
            return Outcome::Later;
        }
        let answer: Vec<u8> = bytes.iter().map(|byte| byte.wrapping_mul(2)).collect();
        reply.body(&answer);
        Outcome::Replied
    }
    fn cancelled(&mut self, call: PendingCall) {
        self.cancelled.push(call);
    }
    fn supply(&mut self, _: Source, _: u32, _: &mut [u8]) {}
    fn release(&mut self, _: Source) {}
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let result = completion.result.map(|response| match response.body {
            Body::Whole(bytes) => (response.status, bytes.to_vec()),
            Body::Absorbed { .. } => panic!("only short answers are sent"),
        });
        self.ended.push((completion.token, result));
    }
    fn session(&mut self, _: Instant, _: Side, _: SessionId, _: SessionEvent) {}
}

struct Node {
    endpoint: Endpoint<'static>,
    device: Losing,
    host: Service,
}

impl Node {
    fn new(pool: &Pool, index: u32, incarnation: u64, now: Instant) -> Self {
        let rings = RingDevice::new(pool.memory().clone(), pool.geometry(), index);
        let device = Losing { rings: rings.expect("it has rings"), lose: 0 };
        let config = Config::new(incarnation, device.capabilities().datagram_bytes_max)
            .through_memory(RING_SLOTS as u16)
            .for_device(&device);
        let size = StorageSize::new(2, 4, config.slots_per_session.into());
        let endpoint = Endpoint::new(config, storage::take(size), now).expect("it works");
        Self { endpoint, device, host: Service::default() }
    }

    fn poll(&mut self, now: Instant) {
        self.endpoint.poll(now, &mut self.device, &mut self.host);
    }

    fn look(&mut self, now: Instant) -> bool {
        self.endpoint.look(|| now, &mut self.device, &mut self.host).is_some()
    }

    fn call(&mut self, now: Instant, session: SessionId, call: &Call<'_>) -> CallId {
        self.endpoint.call_now(|| now, &mut self.device, session, call).expect("a free slot")
    }
}

/// Two nodes with a session between them, at a time.
struct Pair {
    pool: Pool,
    server: Node,
    client: Node,
    session: SessionId,
    now: Instant,
}

impl Pair {
    fn new(mode: Mode) -> Self {
        let pool = pool(mode);
        let mut now = Instant::from_nanos(1_000_000_000);
        let (mut server, mut client) = (Node::new(&pool, 1, 1, now), Node::new(&pool, 2, 2, now));
        let session = client.endpoint.connect(now, address_of(1)).expect("room");
        for _ in 0..8 {
            now = now + ms(1);
            client.poll(now);
            server.poll(now);
        }
        assert!(client.endpoint.is_up(session));
        Self { pool, server, client, session, now }
    }

    /// Calls the service, which doubles `body`.
    fn call(&mut self, body: &[u8], call: Call<'_>) -> CallId {
        let call = Call { body, token: body[0].into(), ..call };
        self.client.call(self.now, self.session, &call)
    }

    /// Lets both ends poll for `span`, a millisecond at a time; the server if it is there.
    fn run(&mut self, span: Duration, with_server: bool) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + ms(1);
            self.client.poll(self.now);
            if with_server {
                self.server.poll(self.now);
            }
        }
    }

    fn ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.client.host.ended)
    }
}

const ECHO: Call<'static> = Call::new(Method(1));

#[test]
fn bodies_of_all_lengths_come_and_go_by_looks_and_by_polls() {
    let mut pair = Pair::new(Mode::Coherent);
    for bytes in 1..=600usize {
        let body: Vec<u8> = (0..bytes).map(|at| (at + bytes) as u8).collect();
        let doubled: Vec<u8> = body.iter().map(|byte| byte.wrapping_mul(2)).collect();
        pair.call(&body, ECHO);
        if bytes % 2 == 0 {
            assert!(pair.server.look(pair.now) && pair.client.look(pair.now));
        } else {
            pair.server.poll(pair.now);
            pair.client.poll(pair.now);
        }
        assert_eq!(pair.ended(), [(body[0].into(), Ok((Status::OK, doubled)))]);
    }
    let sent = pair.client.device.rings.stats().sent;
    let counters = *pair.client.endpoint.counters();
    assert_eq!((counters.packets_resent, counters.calls_completed), (0, 600));
    // A hello beside the calls, and not one acknowledgement.
    assert!(sent <= 602, "{sent} datagrams");
}

#[test]
fn nothing_is_armed_for_a_call_and_its_time_does_not_count() {
    let mut pair = Pair::new(Mode::Coherent);
    pair.run(ms(1), true);
    pair.call(&[3; 64], ECHO);
    let next = pair.client.endpoint.poll_at(pair.now);
    // The session's own timer comes next, after the time that a network is given.
    assert!(next > pair.now + ms(40), "{:?} after {:?}", next, pair.now);
    pair.run(ms(100), false);
    assert_eq!(pair.client.endpoint.counters().packets_resent, 0);
    pair.run(ms(2), true);
    assert_eq!(pair.ended(), [(3, Ok((Status::OK, vec![6; 64])))]);
    assert_eq!(pair.server.host.executed, [3]);
}

#[test]
fn where_hosts_are_not_coherent_headers_and_timers_are_as_over_a_network() {
    let mut pair = Pair::new(Mode::Flush);
    assert!(!pair.client.endpoint.config().features.contains(Features::DIRECT));
    pair.call(&[3; 64], ECHO);
    let next = pair.client.endpoint.poll_at(pair.now);
    assert!(next < pair.now + ms(30));
    pair.run(ms(2), true);
    assert_eq!(pair.ended(), [(3, Ok((Status::OK, vec![6; 64])))]);
}

#[test]
fn a_deadline_ends_a_call_and_its_slot_is_used_again() {
    let mut pair = Pair::new(Mode::Coherent);
    for round in 0..20u8 {
        pair.call(&[round; 64], Call { deadline: Some(ms(5)), ..ECHO });
        pair.run(ms(4), false);
        assert_eq!(pair.ended(), []);
        pair.run(ms(2), false);
        assert_eq!(pair.ended(), [(round.into(), Err(CallError::OutcomeUnknown))]);
        // What was under way is executed or not, once, and the slot is free again.
        pair.run(ms(10), true);
        assert_eq!(pair.ended(), []);
    }
    let mut executed = pair.server.host.executed.clone();
    executed.dedup();
    assert_eq!(executed, pair.server.host.executed, "at most once each");
    pair.call(&[100; 8], ECHO);
    pair.run(ms(2), true);
    assert_eq!(pair.ended(), [(100, Ok((Status::OK, vec![200; 8])))]);
}

#[test]
fn a_call_is_cancelled_and_its_service_is_told() {
    let mut pair = Pair::new(Mode::Coherent);
    let call = pair.call(&[9; 64], Call { method: LATER, ..ECHO });
    pair.run(ms(1), true);
    pair.client.endpoint.cancel(pair.now, call);
    pair.run(ms(2), true);
    assert_eq!(pair.server.host.cancelled, pair.server.host.pending);
    let pending = pair.server.host.pending[0];
    let answered =
        pair.server.endpoint.reply(pending, |reply| reply.head(Status::CANCELLED, &[], &[]));
    assert!(answered, "somebody waits");
    pair.run(ms(2), true);
    assert_eq!(pair.ended(), [(9, Ok((Status::CANCELLED, Vec::new())))]);
}

#[test]
fn an_answer_that_comes_later_has_the_short_header_too() {
    let mut pair = Pair::new(Mode::Coherent);
    pair.call(&[5; 64], Call { method: LATER, ..ECHO });
    // A service that takes its time is asked now and then whether it is there.
    pair.run(ms(1_000), true);
    assert_eq!(pair.server.host.executed, [5]);
    let pending = pair.server.host.pending[0];
    assert!(pair.server.endpoint.reply(pending, |reply| reply.body(&[1, 2, 3])));
    pair.run(ms(2), true);
    assert_eq!(pair.ended(), [(5, Ok((Status::OK, vec![1, 2, 3])))]);
}

#[test]
fn a_service_without_room_is_asked_again() {
    let mut pair = Pair::new(Mode::Coherent);
    pair.server.host.is_busy = true;
    pair.call(&[7; 64], ECHO);
    pair.run(ms(3), true);
    assert_eq!(pair.ended(), []);
    assert!(pair.server.endpoint.counters().requests_refused > 0);
    pair.server.host.is_busy = false;
    pair.run(ms(300), true);
    assert_eq!(pair.ended(), [(7, Ok((Status::OK, vec![14; 64])))]);
    assert_eq!(pair.server.host.executed, [7]);
}

#[test]
fn what_is_lost_all_the_same_is_repeated_and_executed_once() {
    for lose_answer in [false, true] {
        let mut pair = Pair::new(Mode::Coherent);
        let loser = if lose_answer { &mut pair.server } else { &mut pair.client };
        loser.device.lose = 3;
        for body in 1..=5 {
            pair.call(&[body; 64], ECHO);
        }
        pair.run(ms(2), true);
        assert_eq!(pair.ended().len(), 2);
        pair.run(ms(400), true);
        let mut ended: Vec<u64> = pair.ended().iter().map(|(token, _)| *token).collect();
        ended.sort_unstable();
        assert_eq!(ended, [1, 2, 3], "repeated when the session's timer has seen them twice");
        pair.server.host.executed.sort_unstable();
        assert_eq!(pair.server.host.executed, [1, 2, 3, 4, 5], "each once");
    }
}

#[test]
fn a_ring_that_is_full_holds_calls_up_and_loses_none() {
    let mut pair = Pair::new(Mode::Coherent);
    for round in 0..10 {
        // More than the ring holds.
        let calls: Vec<u8> = (1..=9).map(|body| body + round * 10).collect();
        for body in &calls {
            pair.call(&[*body; 64], ECHO);
        }
        assert_eq!(pair.ended(), []);
        pair.run(ms(3), false);
        pair.run(ms(10), true);
        let mut ended = pair.ended();
        ended.sort_unstable_by_key(|(token, _)| *token);
        let doubled = |body: &u8| (u64::from(*body), Ok((Status::OK, vec![body * 2; 64])));
        assert_eq!(ended, calls.iter().map(doubled).collect::<Vec<_>>());
        pair.server.host.executed.sort_unstable();
        assert_eq!(std::mem::take(&mut pair.server.host.executed), calls);
    }
    assert_eq!(pair.client.device.rings.stats().dropped_full, 0);
}

#[test]
fn a_server_that_dies_with_a_call_ends_it_when_its_lease_does() {
    let mut pair = Pair::new(Mode::Coherent);
    pair.call(&[1; 64], ECHO);
    pair.run(ms(9_000), false);
    assert_eq!(pair.ended(), []);
    pair.run(ms(2_000), false);
    assert_eq!(pair.ended(), [(1, Err(CallError::OutcomeUnknown))]);
}

#[test]
fn a_server_that_comes_back_ends_the_calls_of_its_earlier_life() {
    let mut pair = Pair::new(Mode::Coherent);
    pair.call(&[1; 64], ECHO);
    // Its successor skips what was in the rings.
    pair.server = Node::new(&pair.pool, 1, 3, pair.now);
    pair.run(ms(1_000), true);
    assert_eq!(pair.ended(), [(1, Err(CallError::OutcomeUnknown))]);
    assert!(pair.server.host.executed.is_empty());
}

#[test]
fn sessions_do_not_take_each_others_answers() {
    let mut pair = Pair::new(Mode::Coherent);
    let other = pair.client.endpoint.connect(pair.now, address_of(1)).expect("room");
    let mut third = Node::new(&pair.pool, 3, 5, pair.now);
    let of_third = third.endpoint.connect(pair.now, address_of(1)).expect("room");
    for _ in 0..20 {
        pair.run(ms(1), true);
        third.poll(pair.now);
    }
    assert!(pair.client.endpoint.is_up(other) && third.endpoint.is_up(of_third));
    for round in 0..50u8 {
        let now = pair.now;
        pair.call(&[round; 64], ECHO);
        let call = Call { body: &[round + 1; 30], token: 1_000, ..ECHO };
        pair.client.call(now, other, &call);
        third.call(now, of_third, &Call { body: &[round + 2; 64], token: 2_000, ..ECHO });
        pair.run(ms(1), true);
        third.poll(pair.now);
        pair.client.poll(pair.now);
        let mut ended = pair.ended();
        ended.sort_unstable_by_key(|(token, _)| *token);
        let ok = |byte: u8, bytes| Ok((Status::OK, vec![byte * 2; bytes]));
        assert_eq!(ended, [(round.into(), ok(round, 64)), (1_000, ok(round + 1, 30))]);
        assert_eq!(std::mem::take(&mut third.host.ended), [(2_000, ok(round + 2, 64))]);
    }
}

/// Short headers of sessions that there are not, of slots beyond, cut off, and at random.
#[test]
fn nonsense_with_the_short_header_is_counted_and_dropped() {
    let mut pair = Pair::new(Mode::Coherent);
    let mut stranger = Node::new(&pair.pool, 3, 9, pair.now);
    let mut seed = 1u64;
    for round in 0..20_000u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = [0u8; 96];
        bytes[..8].copy_from_slice(&(seed >> 7).to_le_bytes());
        bytes[8..16].copy_from_slice(&seed.to_le_bytes());
        if round % 4 != 0 {
            // As near to what is right as a stranger may come: version, kind, session 0.
            let kind = if round % 2 == 0 { 0x44 } else { 0x45 };
            bytes[..8].copy_from_slice(&[1, kind, 0, 0, 0, 0, 0, 0]);
        }
        let length = (seed >> 40) as usize % bytes.len();
        let sender = if round % 3 == 0 { &mut pair.client } else { &mut stranger };
        let to = address_of(if round % 3 != 0 && round % 8 == 1 { 2 } else { 1 });
        let (_, mut tx) = sender.device.split();
        tx.push(to, length).expect("room").copy_from_slice(&bytes[..length]);
        tx.flush();
        pair.server.poll(pair.now);
        pair.client.poll(pair.now);
        stranger.poll(pair.now);
    }
    assert!(pair.server.host.executed.is_empty());
    let counters = pair.server.endpoint.counters();
    assert!(counters.malformed + counters.bad_length + counters.unknown_session > 0);
    pair.call(&[1; 64], ECHO);
    pair.run(ms(2), true);
    assert_eq!(pair.ended(), [(1, Ok((Status::OK, vec![2; 64])))]);
}
