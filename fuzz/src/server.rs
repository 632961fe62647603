//! A memory node, and a client that does anything: noise, packets with a right checksum that make
//! no sense, and sensible requests in any order, with any of their packets missing or repeated.
//!
//! Nothing panics, the page store stays sound, and when the client has fallen silent everything
//! comes back.

use std::cell::RefCell;

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Endpoint};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Layout, Limits, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::control::{BEYOND_BYTES, Challenge, Hello, PROOF_BYTES};
use dmrpc_core::wire::memory_op::{
    RefOperand, RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step, emit_steps,
};
use dmrpc_core::wire::message::{
    After, ArgEntry, Arguments, Method, REQUEST_HEADER_BYTES, RequestHeader, ResponseHeader,
    TraceId, arguments_bytes, emit_arguments,
};
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};
use dmrpc_core::wire::reference::{Ref, RefKey, Rights};

use crate::bytes::Choices;
use crate::device::{DATAGRAM_BYTES, Hands};

const SESSIONS: usize = 3;
const SLOTS: u16 = 4;
/// Packets' payload in the sessions here.
const PAYLOAD_BYTES: usize = DATAGRAM_BYTES - HEADER_BYTES;
/// Kinds of packet, by number on the wire.
const KINDS: [Kind; 15] = [
    Kind::Request,
    Kind::Request,
    Kind::ResponseAck,
    Kind::Done,
    Kind::Cancel,
    Kind::Hello,
    Kind::Ping,
    Kind::Bye,
    Kind::Busy,
    Kind::Response,
    Kind::RequestAck,
    Kind::HelloAck,
    Kind::Refuse,
    Kind::Reset,
    Kind::Challenge,
];

thread_local! {
    static POOL: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// What the client has learned.
#[derive(Default)]
struct Known {
    sessions: Vec<(u32, u32)>,
    regions: Vec<u64>,
    refs: Vec<Ref>,
    /// The last request number of each slot, whatever the session.
    requests: [u64; SLOTS as usize],
    last_slot: u16,
    /// From the last challenge.
    cookie: u64,
}

struct World<'m> {
    endpoint: Endpoint<'static>,
    hands: Hands,
    node: MemoryNode<'m, Plain<'m>>,
    crc: Crc32c,
    now: Instant,
    known: Known,
}

/// Does what `data` says.
pub fn run(data: &[u8]) {
    let mut config = StoreConfig::for_pool_bytes(1 << 20);
    config.frames = 40;
    config.regions = 6;
    config.entries = 8;
    config.pins = 4;
    config.stages = 2;
    config.grace_ns = 1_000_000_000;
    POOL.with_borrow_mut(|words| {
        let bytes = Layout::new(&config).expect("a configuration").bytes();
        words.resize(bytes.div_ceil(8) as usize, 0xA5A5_A5A5_A5A5_A5A5);
        let store = Store::format(Plain::new(words), &config).expect("a pool");
        let identity = Identity { memory_node: 0, incarnation: 1, key: RefKey([1; 16]) };
        let mut sessions = [SessionHolder::default(); SESSIONS];
        let mut transfers = [Transfer::default(); 2];
        let node = MemoryNode::new(store, identity, Limits::NONE, &mut sessions, &mut transfers);
        drive(node, data);
    });
}

fn drive(node: MemoryNode<'_, Plain<'_>>, data: &[u8]) {
    let hands = Hands::for_data(data);
    let mut config = Config::new(1, DATAGRAM_BYTES);
    config.slots_per_session = SLOTS;
    config.features = hands.features();
    let size = StorageSize::new(1, SESSIONS, usize::from(SLOTS));
    let storage = dmrpc_sim::storage::take(size);
    let endpoint = Endpoint::new(config, storage, Instant::ZERO).expect("a configuration");
    let mut world = World {
        endpoint,
        hands,
        node,
        crc: Crc32c::detect(),
        now: Instant::ZERO,
        known: Known::default(),
    };
    let mut choices = Choices::new(data);
    world.hello(1, 0, 1);
    while !choices.is_empty() {
        world.act(&mut choices);
    }
    world.fall_silent();
    dmrpc_sim::storage::give_back(world.endpoint.into_storage());
}

impl World<'_> {
    fn act(&mut self, choices: &mut Choices<'_>) {
        match choices.below(8) {
            0 => {
                let length = usize::from(choices.u8());
                self.hands.inject(choices.take(length));
            }
            1 => self.any_packet(choices),
            2..5 => self.request(choices),
            5 => self.control(choices),
            6 => {
                let micros = choices.pick(&[10, 1_000, 60_000, 600_000, 11_000_000]);
                self.now = self.now + Duration::from_micros(micros);
            }
            _ => {
                let (incarnation, session) = (choices.below(3) as u64, choices.below(3) as u32);
                self.hello(incarnation, session, choices.below(3) as u32);
            }
        }
        self.poll();
    }

    fn poll(&mut self) {
        self.now = self.now + Duration::from_micros(5);
        self.endpoint.poll(self.now, &mut self.hands, &mut self.node);
        self.node.reclaim(self.now, 2);
        for packet in std::mem::take(&mut self.hands.outgoing) {
            self.learn(&packet);
        }
    }

    /// Takes in what the server says. All of it must make sense.
    fn learn(&mut self, packet: &[u8]) {
        let (header, payload) = Hands::parse(packet, self.crc);
        match header.kind {
            Kind::HelloAck => {
                let ack = dmrpc_core::wire::control::HelloAck::parse(payload).expect("an answer");
                keep(&mut self.known.sessions, (ack.session, ack.generation));
            }
            Kind::Challenge => {
                self.known.cookie = Challenge::parse(payload).expect("a challenge").cookie;
            }
            Kind::Response if header.packet == 0 => {
                let head = &payload[..usize::from(header.head)];
                let response = ResponseHeader::parse(head).expect("a response");
                let rest = &head[dmrpc_core::wire::message::RESPONSE_HEADER_BYTES..];
                let arguments = Arguments::parse(response.args, rest).expect("results");
                for reference in arguments.refs() {
                    keep(&mut self.known.refs, reference);
                }
                if response.status == dmrpc_core::wire::message::Status::OK {
                    for name in arguments.parameters().as_chunks::<8>().0 {
                        keep(&mut self.known.regions, u64::from_le_bytes(*name));
                    }
                }
            }
            _ => {}
        }
    }

    fn hello(&mut self, incarnation: u64, session: u32, generation: u32) {
        let mut hello = Hello {
            incarnation,
            session,
            generation,
            payload_bytes_max: PAYLOAD_BYTES as u32,
            slots: SLOTS,
            window: 16,
            features: self.hands.features(),
            nonce: 1,
            cookie: 0,
            proof: [0; PROOF_BYTES],
        };
        let header = Header::new(Kind::Hello, 0, 0);
        self.hands.inject_sealed(header, &hello.to_bytes(), self.crc);
        self.poll();
        // Again, with the cookie of the server's answer.
        hello.cookie = self.known.cookie;
        self.hands.inject_sealed(header, &hello.to_bytes(), self.crc);
        self.poll();
    }

    /// A header that names a session, a slot and a request that may exist.
    fn header(&mut self, kind: Kind, choices: &mut Choices<'_>) -> Header {
        let sessions = &self.known.sessions;
        let (index, generation) = match sessions.len() {
            0 => (0, 0),
            count => sessions[count - 1 - choices.below(count)],
        };
        let mut header = Header::new(kind, index, generation);
        header.slot = choices.below(usize::from(SLOTS)) as u16;
        header.request = self.known.requests[usize::from(header.slot)];
        header
    }

    fn any_packet(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.pick(&KINDS);
        let mut header = self.header(kind, choices);
        header.flags = Flags::from_bits_truncate(choices.u8().into());
        match choices.below(4) {
            0 => header.session = choices.u8().into(),
            1 => header.slot = choices.u16(),
            2 => header.generation = choices.u32(),
            _ => {}
        }
        header.request = match choices.below(4) {
            0 => choices.u64(),
            more => header.request.saturating_add(more as u64 - 1),
        };
        header.grant = choices.u16().into();
        header.message = choices.u32() % (10 << 20);
        header.packet = choices.u8().into();
        header.head = choices.u16() % 900;
        let length = usize::from(choices.u16()) % PAYLOAD_BYTES;
        let payload = choices.take(length);
        self.hands.inject_sealed(header, payload, self.crc);
    }

    fn region(&self, choices: &mut Choices<'_>) -> RegionOperand {
        match choices.below(4) {
            0 => RegionOperand::MadeBy(choices.below(3) as u8),
            1 => RegionOperand::Named(RegionName(choices.u64())),
            _ => match self.known.regions.len() {
                0 => RegionOperand::Named(RegionName(0)),
                count => RegionOperand::Named(RegionName(self.known.regions[choices.below(count)])),
            },
        }
    }

    fn step(&self, choices: &mut Choices<'_>) -> Step {
        let reference = match choices.below(3) {
            0 => RefOperand::MadeBy(choices.below(3) as u8),
            _ => RefOperand::Argument(choices.below(2) as u8),
        };
        let number = |choices: &mut Choices<'_>| match choices.below(4) {
            0 => choices.u64(),
            1 => 0,
            2 => 4096,
            _ => u64::from(choices.u16() % 9_000),
        };
        let rights = Rights::from_bits_truncate(choices.u8());
        match choices.below(11) {
            0 => Step::Alloc { length: number(choices) },
            1 => Step::Free { region: self.region(choices) },
            2 => Step::Read {
                region: self.region(choices),
                offset: number(choices),
                length: number(choices),
            },
            3 => Step::Write { region: self.region(choices), offset: number(choices) },
            4 => Step::CreateRef {
                region: self.region(choices),
                offset: number(choices),
                length: number(choices),
                rights,
            },
            5 => Step::MapRef { reference },
            6 => Step::ClaimRef { reference },
            7 => Step::Detach { reference },
            8 => Step::DropRef { reference },
            9 => {
                Step::Narrow { reference, offset: number(choices), length: number(choices), rights }
            }
            _ => Step::ReadRef { reference, offset: number(choices), length: number(choices) },
        }
    }

    /// A sensible request, of which packets may be left out or come twice.
    fn request(&mut self, choices: &mut Choices<'_>) {
        let steps: Vec<_> = (0..1 + choices.below(STEPS_MAX)).map(|_| self.step(choices)).collect();
        let refs: Vec<_> = (0..choices.below(3))
            .filter_map(|_| {
                let count = self.known.refs.len();
                (count > 0).then(|| ArgEntry::Ref(self.known.refs[choices.below(count)]))
            })
            .collect();
        let after = (choices.below(4) == 0).then(|| {
            let slot = choices.below(usize::from(SLOTS)) as u16;
            After { slot, call: (self.known.requests[usize::from(slot)] >> 8) as u32 }
        });
        let head = RequestHeader {
            method: choices.pick(&[Method::MEMORY, Method::MEMORY, Method::STATISTICS]),
            depth: 0,
            args: refs.len() as u8,
            deadline_us: choices.u8().into(),
            trace: TraceId(0),
            after,
        };
        let mut out = [0; STEPS_MAX * STEP_BYTES];
        let parameters = emit_steps(&steps, &mut out);
        let mut message = vec![0; REQUEST_HEADER_BYTES + arguments_bytes(&refs)];
        head.emit(&mut message);
        emit_arguments(&refs, &mut message[REQUEST_HEADER_BYTES..]);
        message.extend_from_slice(parameters);
        let head = message.len();
        let body = choices.pick(&[0, 1, 600, 1_300, 4_096, 8_192]);
        message.extend((0..body).map(|at| at as u8));

        let mut header = self.header(Kind::Request, choices);
        header.request = match choices.below(4) {
            0 => header.request,
            1 => header.request + 1,
            _ => ((header.request >> 8) + 1) << 8,
        };
        self.known.requests[usize::from(header.slot)] = header.request;
        self.known.last_slot = header.slot;
        header.message = message.len() as u32;
        header.head = head as u16;
        let fate = choices.u8();
        for (number, payload) in message.chunks(PAYLOAD_BYTES).enumerate() {
            header.packet = number as u16;
            for copy in 0..2 {
                let lost = fate >> (number % 4 * 2) & 1 << copy != 0;
                if lost == (copy == 1) {
                    self.hands.inject_sealed(header, payload, self.crc);
                }
            }
        }
    }

    /// What a client says about its last request.
    fn control(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.pick(&[Kind::Done, Kind::ResponseAck, Kind::Cancel, Kind::Ping]);
        let mut header = self.header(kind, choices);
        header.slot = self.known.last_slot;
        header.request = self.known.requests[usize::from(header.slot)];
        header.request += choices.below(2) as u64;
        header.packet = choices.below(12) as u16;
        header.grant = choices.u8().into();
        header.flags.set(Flags::PROBE, choices.below(2) == 0);
        let mut beyond = [0; BEYOND_BYTES];
        beyond[0] = choices.u8();
        let payload: &[u8] = if choices.below(2) == 0 { &[] } else { &beyond };
        self.hands.inject_sealed(header, payload, self.crc);
    }

    /// Nothing more is heard of the client: everything comes back.
    fn fall_silent(&mut self) {
        for _ in 0..30 {
            self.now = self.now + Duration::from_millis(700);
            self.poll();
            self.node.reclaim(self.now, 10_000);
        }
        let store = self.node.store();
        store.check(&mut vec![0; store.check_scratch_bytes()]).expect("a sound store");
        let stats = store.stats();
        assert_eq!(self.endpoint.server_sessions_open(), 0);
        let gone = [stats.holders, stats.regions, stats.pins, stats.stages];
        assert!(gone.iter().all(|usage| usage.in_use == 0), "{stats:?}");
        assert_eq!(stats.entries.in_use, stats.detached, "{stats:?}");
        if stats.detached == 0 {
            let gone = [stats.frames, stats.nodes, stats.versions];
            assert!(gone.iter().all(|use_| (use_.in_use, use_.reserved) == (0, 0)), "{stats:?}");
        }
    }
}

/// Remembers the newest eight.
fn keep<T: PartialEq>(known: &mut Vec<T>, new: T) {
    if !known.contains(&new) {
        known.push(new);
    }
    if known.len() > 8 {
        known.remove(0);
    }
}
