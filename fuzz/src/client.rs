//! A client with calls under way, and a server that does anything.
//!
//! Nothing panics, no byte goes where there is no room, and when the server has fallen silent
//! every call has ended once and every source has come back.

use std::collections::BTreeMap;

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::endpoint::host::{
    Admission, Body, CallId, Completion, Outcome, Reply, RequestHead, SessionEvent, SessionId,
    Side, Sink, Source,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::control::{BEYOND_BYTES, Hello, HelloAck};
use dmrpc_core::wire::message::{Method, RESPONSE_HEADER_BYTES, ResponseHeader, Status};
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};

use crate::bytes::Choices;
use crate::device::{DATAGRAM_BYTES, Hands, PEER};

const SESSIONS: usize = 2;
const SLOTS: u16 = 8;
const PAYLOAD_BYTES: usize = DATAGRAM_BYTES - HEADER_BYTES;
const KINDS: [Kind; 15] = [
    Kind::Response,
    Kind::Response,
    Kind::RequestAck,
    Kind::Busy,
    Kind::Pong,
    Kind::HelloAck,
    Kind::Refuse,
    Kind::Reset,
    Kind::Challenge,
    Kind::Request,
    Kind::ResponseAck,
    Kind::Hello,
    Kind::Cancel,
    Kind::Done,
    Kind::Ping,
];

/// The code that calls.
#[derive(Default)]
struct Caller {
    /// Calls under way, by token: the room for their answers.
    calls: BTreeMap<u64, (CallId, u32)>,
    sources: BTreeMap<u64, u32>,
    sessions: Vec<SessionId>,
}

impl Host for Caller {
    fn admit(&mut self, _: &RequestHead<'_>, _: u32) -> Admission {
        unreachable!("nobody has a session here")
    }

    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        let (_, room) = self.calls[&sink.0];
        assert!(offset as usize + bytes.len() <= room as usize, "within the room");
    }

    fn request(
        &mut self,
        _: Instant,
        _: &RequestHead<'_>,
        _: Body<'_>,
        _: &mut Reply<'_>,
    ) -> Outcome {
        unreachable!("nobody has a session here")
    }

    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        assert!(offset as usize + out.len() <= self.sources[&source.0] as usize);
        out.fill(7);
    }

    fn release(&mut self, source: Source) {
        self.sources.remove(&source.0).expect("released once");
    }

    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let (call, room) = self.calls.remove(&completion.token).expect("ended once");
        assert_eq!(call, completion.call);
        if let Ok(response) = completion.result {
            assert_eq!(response.arguments.iter().count(), response.arguments.len());
            if let Body::Absorbed { bytes, .. } = response.body {
                assert!(bytes <= room);
            }
        }
    }

    fn session(&mut self, _: Instant, side: Side, session: SessionId, event: SessionEvent) {
        assert_eq!(side, Side::Client);
        if let SessionEvent::Closed(_) = event {
            self.sessions.retain(|open| *open != session);
        }
    }
}

struct World {
    endpoint: Endpoint<'static>,
    hands: Hands,
    caller: Caller,
    crc: Crc32c,
    now: Instant,
    tokens: u64,
    /// What the client has asked for.
    hellos: Vec<Hello>,
    /// Requests seen: session, slot, number.
    requests: Vec<(u32, u16, u64)>,
}

/// Does what `data` says.
pub fn run(data: &[u8]) {
    let hands = Hands::for_data(data);
    let mut config = Config::new(1, DATAGRAM_BYTES);
    config.slots_per_session = SLOTS;
    config.features = hands.features();
    let storage = dmrpc_sim::storage::take(StorageSize::new(SESSIONS, 1, usize::from(SLOTS)));
    let endpoint = Endpoint::new(config, storage, Instant::ZERO).expect("a configuration");
    let mut world = World {
        endpoint,
        hands,
        caller: Caller::default(),
        crc: Crc32c::detect(),
        now: Instant::ZERO,
        tokens: 0,
        hellos: Vec::new(),
        requests: Vec::new(),
    };
    world.connect();
    world.greet(SLOTS, 16, PAYLOAD_BYTES as u32);
    let mut choices = Choices::new(data);
    while !choices.is_empty() {
        world.act(&mut choices);
    }
    world.fall_silent();
    dmrpc_sim::storage::give_back(world.endpoint.into_storage());
}

impl World {
    fn act(&mut self, choices: &mut Choices<'_>) {
        match choices.below(10) {
            0 => {
                let length = usize::from(choices.u8());
                self.hands.inject(choices.take(length));
            }
            1 => self.any_packet(choices),
            2 | 3 => self.call(choices),
            4 | 5 => self.respond(choices),
            6 => self.acknowledge(choices),
            7 => {
                let micros = choices.pick(&[10, 1_000, 6_000, 60_000, 600_000, 11_000_000]);
                self.now = self.now + Duration::from_micros(micros);
            }
            8 => {
                self.connect();
                let slots = choices.pick(&[SLOTS, 1, 64, 0]);
                let payload = choices.pick(&[PAYLOAD_BYTES as u32, 1024, 9_000, 1]);
                self.greet(slots, choices.pick(&[16, 1, 256, 0]), payload);
            }
            _ => self.end_something(choices),
        }
        self.poll();
    }

    fn poll(&mut self) {
        self.now = self.now + Duration::from_micros(5);
        self.endpoint.poll(self.now, &mut self.hands, &mut self.caller);
        for packet in std::mem::take(&mut self.hands.outgoing) {
            self.learn(&packet);
        }
    }

    fn learn(&mut self, packet: &[u8]) {
        let (header, payload) = Hands::parse(packet, self.crc);
        match header.kind {
            Kind::Hello => {
                let hello = Hello::parse(payload).expect("a hello");
                if self.hellos.last() != Some(&hello) {
                    self.hellos.push(hello);
                }
            }
            Kind::Request => {
                self.requests.push((header.session, header.slot, header.request));
                if self.requests.len() > 16 {
                    self.requests.remove(0);
                }
            }
            _ => {}
        }
    }

    fn connect(&mut self) {
        if let Some(session) = self.endpoint.connect(self.now, PEER) {
            self.caller.sessions.push(session);
        }
        self.now = self.now + Duration::from_millis(1);
        self.poll();
    }

    /// Answers the newest hello.
    fn greet(&mut self, slots: u16, window: u16, payload_bytes_max: u32) {
        let Some(hello) = self.hellos.last().copied() else { return };
        let Hello { session, generation, incarnation, .. } = hello;
        let ack = HelloAck {
            incarnation: 5,
            client_incarnation: incarnation,
            // The server's name of the session is the client's, so that both are told apart.
            session,
            generation: 1,
            payload_bytes_max,
            slots,
            window,
            features: self.hands.features(),
            lease_ms: 10_000,
            nonce: 1,
            proof: HelloAck::echo(hello.nonce),
        };
        let header = Header::new(Kind::HelloAck, session, generation);
        self.hands.inject_sealed(header, &ack.to_bytes(), self.crc);
        self.poll();
    }

    fn call(&mut self, choices: &mut Choices<'_>) {
        let count = self.caller.sessions.len();
        if count == 0 {
            return;
        }
        let session = self.caller.sessions[choices.below(count)];
        self.tokens += 1;
        let token = self.tokens;
        let body = choices.pick(&[0, 0, 100, 3_000, 100_000, 8 << 20]);
        let room = choices.pick(&[0, 0, 1_000, 5_000, 1 << 20]);
        let micros = choices.pick(&[0, 0, 10, 50_000]);
        let calls = self.caller.calls.values();
        let after = calls.map(|(call, _)| *call).rfind(|call| call.session == session);
        let call = Call {
            parameters: &[1, 2, 3],
            source: (body > 0).then_some((Source(token), body)),
            sink: (room > 0).then_some((Sink(token), room)),
            deadline: (micros > 0).then(|| Duration::from_micros(micros)),
            after: after.filter(|_| choices.below(3) == 0),
            token,
            ..Call::new(Method(1))
        };
        if let Ok(call) = self.endpoint.call(self.now, session, &call) {
            self.caller.calls.insert(token, (call, room));
            if body > 0 {
                self.caller.sources.insert(token, body);
            }
        }
    }

    /// A header about a request that was seen.
    fn header(&self, kind: Kind, choices: &mut Choices<'_>) -> Header {
        let (session, slot, request) = match self.requests.len() {
            0 => (0, 0, 0),
            count => self.requests[count - 1 - choices.below(count)],
        };
        let mut names = self.hellos.iter().rev();
        let generation =
            names.find(|name| name.session == session).map_or(0, |name| name.generation);
        Header { slot, request, ..Header::new(kind, session, generation) }
    }

    fn any_packet(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.pick(&KINDS);
        let mut header = self.header(kind, choices);
        header.flags = Flags::from_bits_truncate(choices.u8().into());
        match choices.below(5) {
            0 => header.session = choices.u8().into(),
            1 => header.slot = choices.u16(),
            2 => header.generation = choices.u32(),
            3 => header.request = choices.u64(),
            _ => {}
        }
        header.grant = choices.u32();
        header.message = choices.u32() % (10 << 20);
        header.packet = choices.u16();
        header.head = choices.u16() % 900;
        let length = usize::from(choices.u16()) % PAYLOAD_BYTES;
        let payload = choices.take(length);
        self.hands.inject_sealed(header, payload, self.crc);
    }

    /// A sensible answer, some packets of it.
    fn respond(&mut self, choices: &mut Choices<'_>) {
        let mut header = self.header(Kind::Response, choices);
        let mut message = vec![0; RESPONSE_HEADER_BYTES];
        let status = choices.pick(&[Status::OK, Status::CANCELLED, Status(0x105)]);
        ResponseHeader { status, args: choices.below(10) as u8 % 9 }.emit(&mut message);
        message.extend_from_slice(choices.take(8));
        header.head = message.len() as u16;
        let body = choices.pick(&[0, 10, 1_200, 3_000, 5_001, 40_000]);
        message.resize(message.len() + body, 9);
        header.message = message.len() as u32;
        header.flags.set(Flags::HOLDS, choices.below(2) == 0);
        header.flags.set(Flags::DECLINED, choices.below(8) == 0);
        let fate = choices.u16();
        for (number, payload) in message.chunks(PAYLOAD_BYTES).enumerate() {
            header.packet = number as u16;
            if fate & 1 << (number % 16) == 0 {
                self.hands.inject_sealed(header, payload, self.crc);
            }
        }
    }

    fn acknowledge(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.pick(&[Kind::RequestAck, Kind::Busy, Kind::Pong]);
        let mut header = self.header(kind, choices);
        header.packet = choices.pick(&[0, 1, 8, 16, 70, 5_000]);
        header.grant = choices.pick(&[0, 8, 32, 300, 6_000]);
        header.flags.set(Flags::PROBE, choices.below(2) == 0);
        header.flags.set(Flags::WORKING, choices.below(4) == 0);
        let mut beyond = [0; BEYOND_BYTES];
        beyond[0] = choices.u8();
        beyond[31] = choices.u8();
        let payload: &[u8] = if choices.below(2) == 0 { &[] } else { &beyond };
        self.hands.inject_sealed(header, payload, self.crc);
    }

    fn end_something(&mut self, choices: &mut Choices<'_>) {
        let calls = self.caller.calls.len();
        if choices.below(4) > 0 && calls > 0 {
            let at = choices.below(calls);
            let call = self.caller.calls.values().nth(at).expect("one of them").0;
            self.endpoint.cancel(self.now, call);
        } else if let Some(session) = self.caller.sessions.first().copied() {
            let (hands, caller) = (&mut self.hands, &mut self.caller);
            self.endpoint.disconnect(self.now, hands, caller, session);
        }
    }

    /// Nothing more is heard of the server: every call ends.
    fn fall_silent(&mut self) {
        for _ in 0..30 {
            self.now = self.now + Duration::from_millis(700);
            self.poll();
        }
        let counters = self.endpoint.counters();
        assert_eq!(counters.calls_started, counters.calls_completed);
        assert!(self.caller.calls.is_empty() && self.caller.sources.is_empty());
        assert!(self.caller.sessions.is_empty(), "sessions end with the lease");
    }
}
