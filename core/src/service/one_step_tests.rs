//! A step alone has the answer that it has as a vector of one.

use std::vec;
use std::vec::Vec;

use super::{Identity, MemoryNode, SessionHolder, Transfer};
use crate::endpoint::here::{Asked, Heads, ask};
use crate::endpoint::host::{
    Admission, Body, Completion, Host, Outcome, PendingCall, Reply, RequestHead, SessionEvent,
    SessionId, Side, Sink, Source,
};
use crate::memory::Plain;
use crate::store::{Config, Limits, Store};
use crate::time::Instant;
use crate::wire::memory_op::{
    MemoryError, RefOperand, RegionName, RegionOperand, Step, failure_parameters,
};
use crate::wire::message::{
    ArgEntry, Arguments, HEAD_BYTES_MAX, Method, RESPONSE_HEADER_BYTES, ResponseHeader, Status,
    TraceId,
};
use crate::wire::reference::{Ref, RefKey, Rights};

const POOL_BYTES: usize = 1 << 20;
const SESSIONS: u32 = 2;
/// What an answer's body has room for.
const ROOM: usize = 16 << 10;
const STEPS: u32 = 20_000;

/// A memory node that takes every request for a vector of steps.
struct General<'m>(MemoryNode<'m, Plain<'m>>);

impl Host for General<'_> {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        self.0.admit(head, body_bytes)
    }
    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        self.0.absorb(sink, offset, bytes);
    }
    fn request(
        &mut self,
        _: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        self.0.steps(head, body, reply)
    }
    fn cancelled(&mut self, call: PendingCall) {
        self.0.cancelled(call);
    }
    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        self.0.supply(source, offset, out);
    }
    fn release(&mut self, source: Source) {
        self.0.release(source);
    }
    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        self.0.completed(now, completion);
    }
}

fn session(index: u32) -> SessionId {
    SessionId { index, generation: 1 }
}

fn node<'m>(
    words: &'m mut [u64],
    holders: &'m mut [SessionHolder],
    transfers: &'m mut [Transfer],
) -> MemoryNode<'m, Plain<'m>> {
    let config = Config::for_pool_bytes(POOL_BYTES as u64);
    let store = Store::format(Plain::new(words), &config).unwrap();
    let identity = Identity { memory_node: 7, incarnation: 9, key: RefKey([3; 16]) };
    // Some requests are refused for their quota.
    let limits = Limits { pages: 48, regions: 6, entries: 6 };
    let mut node = MemoryNode::new(store, identity, limits, holders, transfers);
    for index in 0..SESSIONS {
        let event = SessionEvent::Accepted { incarnation: 1, peer: "10.0.0.1:9".parse().unwrap() };
        node.session(Instant::ZERO, Side::Server, session(index), event);
    }
    node
}

/// What the requests so far have made, dead things among them.
#[derive(Default)]
struct Known {
    regions: Vec<RegionName>,
    references: Vec<Ref>,
    seed: u64,
}

impl Known {
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    fn region(&mut self) -> RegionOperand {
        let among = self.regions.len().min(8) as u64 + 1;
        let back = self.random(among) as usize;
        let name = self.regions.iter().rev().nth(back).copied();
        RegionOperand::Named(name.unwrap_or(RegionName(1 << 40 | 3)))
    }

    fn reference(&mut self) -> Ref {
        let among = self.references.len().min(8) as u64;
        let back = self.random(among + 1) as usize;
        let known = self.references.iter().rev().nth(back).copied();
        let forged = Ref {
            memory_node: 7,
            incarnation: 9,
            index: 1,
            generation: 1,
            offset: 0,
            length: 9,
            rights: Rights::all(),
            tag: 5,
        };
        let mut reference = known.unwrap_or(forged);
        match self.random(40) {
            0 => reference.memory_node = 8,
            1 => reference.incarnation = 8,
            2 => reference.tag ^= 1,
            _ => {}
        }
        reference
    }

    /// Takes in what a request has made.
    fn learn(&mut self, answer: Option<&Answer>) {
        let Some(answer) = answer.filter(|answer| answer.status == Status::OK) else { return };
        let names =
            answer.parameters.as_chunks::<8>().0.iter().map(|name| u64::from_le_bytes(*name));
        self.regions.extend(names.filter(|name| *name != 0).map(RegionName));
        self.references.extend(answer.results.iter().filter_map(|result| match result {
            ArgEntry::Ref(reference) => Some(*reference),
            ArgEntry::Inline { .. } => None,
        }));
    }

    fn step(&mut self) -> Step {
        let reference = RefOperand::Argument(u8::from(self.random(50) == 0));
        let offset = [0, 5, 4000, 9000, u64::MAX - 3][self.random(5) as usize];
        let length = [1, 64, 700, 5000, 0, 1 << 20, u64::MAX][self.random(7) as usize];
        let rights = [Rights::all(), Rights::MAP, Rights::DROP][self.random(3) as usize];
        match self.random(11) {
            0 => Step::Alloc { length: length.min(1 << 16) },
            1 => Step::Free { region: self.region() },
            2 => Step::Read { region: self.region(), offset, length },
            3 => Step::Write { region: self.region(), offset },
            4 => Step::CreateRef { region: self.region(), offset, length, rights },
            5 => Step::MapRef { reference },
            6 => Step::ClaimRef { reference },
            7 => Step::Detach { reference },
            8 => Step::DropRef { reference },
            9 => Step::Narrow { reference, offset, length, rights },
            _ => Step::ReadRef { reference, offset, length },
        }
    }
}

/// What was answered.
#[derive(Debug, PartialEq)]
struct Answer {
    status: Status,
    results: Vec<ArgEntry>,
    parameters: Vec<u8>,
    body: Vec<u8>,
}

fn answer(host: &mut impl Host, asked: &Asked<'_>) -> Option<Answer> {
    let (mut heads, mut room) = (Heads::default(), [0xA5; ROOM]);
    let answered = ask(host, Instant::ZERO, asked, &mut room, &mut heads)?.unwrap();
    Some(Answer {
        status: answered.status,
        results: answered.arguments.iter().collect(),
        parameters: answered.arguments.parameters().into(),
        body: room[..answered.body_bytes].into(),
    })
}

#[test]
fn a_step_alone_answers_as_a_vector_of_one() {
    let mut pools = [(); 2].map(|()| vec![0; POOL_BYTES / 8]);
    let mut holders = [[SessionHolder::EMPTY; SESSIONS as usize]; 2];
    let mut transfers = [[Transfer::EMPTY; 2]; 2];
    let [first, second] = &mut pools;
    let ([a, b], [c, d]) = (&mut holders, &mut transfers);
    let (mut alone, mut general) = (node(first, a, c), General(node(second, b, d)));
    let mut known = Known { seed: 1, ..Known::default() };
    let mut seen = std::collections::BTreeMap::new();
    let body: Vec<u8> = (0..700).map(|byte| byte as u8).collect();
    for number in 0..STEPS {
        let (step, reference) = (known.step(), known.reference());
        let mut parameters = step.to_bytes();
        if known.random(50) == 0 {
            parameters[known.random(4) as usize] ^= 0x55;
        }
        let session = session(known.random(SESSIONS.into()) as u32);
        let bytes = [1, 64, 600][known.random(3) as usize];
        let arguments = [ArgEntry::Ref(reference)];
        let asked = Asked {
            method: Method::MEMORY,
            arguments: &arguments,
            parameters: &parameters,
            body: &body[..bytes],
            session,
        };
        let answers = (answer(&mut alone, &asked), answer(&mut general, &asked));
        assert_eq!(answers.0, answers.1, "step {number}: {step:?} of {reference:?}");
        assert_eq!(alone.operations(), general.0.operations(), "step {number}: {step:?}");
        alone.reclaim(Instant::ZERO, 64);
        general.0.reclaim(Instant::ZERO, 64);
        let Some(answer) = answers.0 else { continue };
        *seen.entry(answer.status.0).or_insert(0) += 1;
        known.learn(Some(&answer));
    }
    let (alone, general) = (alone.store().stats(), general.0.store().stats());
    assert_eq!(alone.regions.in_use, general.regions.in_use);
    assert_eq!(alone.entries.in_use, general.entries.in_use);
    assert_eq!((alone.pins.in_use, general.pins.in_use), (0, 0));
    assert_all_kinds(&seen);
}

/// A later step that takes what is no region for one will never work, so its caller is told, and
/// does not ask again and again.
#[test]
fn a_step_on_what_is_no_region_is_malformed() {
    let mut pool = std::vec![0; POOL_BYTES / 8];
    let mut holders = [SessionHolder::EMPTY; SESSIONS as usize];
    let mut transfers = [Transfer::EMPTY; 2];
    let mut node = node(&mut pool, &mut holders, &mut transfers);
    let made = RegionOperand::MadeBy(1);
    let (offset, length) = (0, 64);
    for last in [
        Step::Read { region: made, offset, length },
        Step::Write { region: made, offset },
        Step::CreateRef { region: made, offset, length, rights: Rights::MAP },
    ] {
        let reference = Step::CreateRef {
            region: RegionOperand::MadeBy(0),
            offset,
            length,
            rights: Rights::MAP,
        };
        let steps = [Step::Alloc { length }, reference, last];
        let asked = Asked {
            method: Method::MEMORY,
            arguments: &[],
            parameters: &steps.map(|step| step.to_bytes()).concat(),
            body: &[7; 64],
            session: session(0),
        };
        let answer = answer(&mut node, &asked).expect("an answer, not a wait");
        let (status, details) = MemoryError::Malformed.to_wire();
        assert_eq!(
            (answer.status, answer.parameters),
            (status, failure_parameters(2, details).into())
        );
    }
}

/// Neither all works nor all fails: quotas, ranges, rights, forgeries and what is over.
fn assert_all_kinds(seen: &std::collections::BTreeMap<u16, u32>) {
    assert!(seen[&Status::OK.0] > STEPS / 40, "{seen:?}");
    for error in [
        MemoryError::OutOfRange { end: 0, size: 0 },
        MemoryError::Quota {
            resource: crate::wire::memory_op::Resource::Regions,
            limit: 0,
            wanted: 0,
        },
        MemoryError::MissingRights { rights: Rights::MAP },
        MemoryError::Forged,
        MemoryError::WrongNode { memory_node: 0 },
        MemoryError::NotYours,
        MemoryError::NotOwner,
        MemoryError::Dropped,
        MemoryError::UnknownRegion,
        MemoryError::ZeroLength,
        MemoryError::TooLong { length: 0, max: 0 },
        MemoryError::Malformed,
    ] {
        let status = error.to_wire().0.0;
        assert!(seen.contains_key(&status), "never {error:?}: {seen:?}");
    }
}

/// How a request ended whose body of `bytes` bytes was admitted and taken in a piece at a time,
/// as packets bring it; `None` if there was no room for it then.
fn staged(host: &mut impl Host, session: SessionId, step: &Step, bytes: u32) -> Option<Answer> {
    const PIECE: usize = 1_400;
    let parameters = step.to_bytes();
    let head = RequestHead {
        call: PendingCall { session, slot: 0, request: 0 },
        method: Method::MEMORY,
        depth: 0,
        deadline: None,
        trace: TraceId::default(),
        arguments: Arguments::none(&parameters),
    };
    let answered = |status, parameters: &[u8]| {
        Some(Answer { status, results: vec![], parameters: parameters.into(), body: vec![] })
    };
    let sink = match host.admit(&head, bytes) {
        Admission::Accept(sink) => sink,
        Admission::Busy => return None,
        Admission::Reject(status) => return answered(status, &[]),
        Admission::RejectWith(status, parameters) => return answered(status, &parameters),
    };
    // Some come short, as none does that the endpoint hands over: those have to be refused.
    let missing = usize::from(bytes.is_multiple_of(5));
    let body: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
    for (number, piece) in body[missing..].chunks(PIECE).enumerate() {
        let at = (missing + number * PIECE) as u32;
        match host.place(sink, at, piece.len() as u32) {
            Some(place) => {
                place.copy_from_slice(piece);
                host.placed(sink, piece.len() as u32);
            }
            None => host.absorb(sink, at, piece),
        }
    }
    let mut buffer = [0; HEAD_BYTES_MAX];
    let mut reply = Reply::new(&mut buffer, ROOM as u32);
    let body = Body::Absorbed { sink, bytes };
    if host.request(Instant::ZERO, &head, body, &mut reply) != Outcome::Replied {
        return None;
    }
    let (header, parameters) = buffer.split_at(RESPONSE_HEADER_BYTES);
    let header = ResponseHeader::parse(header).expect("an answer");
    // What is not written is zero.
    answered(header.status, &parameters[..64])
}

#[test]
fn a_staged_write_alone_answers_as_a_vector_of_one() {
    let mut pools = [(); 2].map(|()| vec![0; POOL_BYTES / 8]);
    let mut holders = [[SessionHolder::EMPTY; SESSIONS as usize]; 2];
    let mut transfers = [[Transfer::EMPTY; 2]; 2];
    let [first, second] = &mut pools;
    let ([a, b], [c, d]) = (&mut holders, &mut transfers);
    let (mut alone, mut general) = (node(first, a, c), General(node(second, b, d)));
    let mut known = Known { seed: 7, ..Known::default() };
    let mut seen = std::collections::BTreeMap::new();
    for number in 0..STEPS / 4 {
        let session = session(known.random(SESSIONS.into()) as u32);
        if known.random(3) == 0 {
            let (step, reference) = (known.step(), known.reference());
            let arguments = [ArgEntry::Ref(reference)];
            let asked = Asked {
                method: Method::MEMORY,
                arguments: &arguments,
                parameters: &step.to_bytes(),
                body: &[7; 64],
                session,
            };
            let answers = (answer(&mut alone, &asked), answer(&mut general, &asked));
            assert_eq!(answers.0, answers.1, "step {number}: {step:?} of {reference:?}");
            known.learn(answers.0.as_ref());
            continue;
        }
        let region = known.region();
        let offset = [0, 5, 4_096, 9_000, u64::MAX - 3][known.random(5) as usize];
        let bytes = [4_096, 1_500, 8_192, 12_345, 70_000][known.random(5) as usize];
        let step = Step::Write { region, offset };
        let answers = (
            staged(&mut alone, session, &step, bytes),
            staged(&mut general, session, &step, bytes),
        );
        assert_eq!(answers.0, answers.1, "step {number}: {bytes} bytes by {step:?}");
        assert_eq!(alone.operations(), general.0.operations(), "step {number}: {step:?}");
        if let Some(answer) = answers.0 {
            *seen.entry(answer.status.0).or_insert(0) += 1;
        }
        alone.reclaim(Instant::ZERO, 64);
        general.0.reclaim(Instant::ZERO, 64);
    }
    let (alone, general) = (alone.store().stats(), general.0.store().stats());
    assert_eq!((alone.stages.in_use, general.stages.in_use), (0, 0));
    assert_eq!(alone.frames.in_use, general.frames.in_use);
    assert!(seen[&Status::OK.0] > 30, "{seen:?}");
    for error in [
        MemoryError::OutOfRange { end: 0, size: 0 },
        MemoryError::NotYours,
        MemoryError::UnknownRegion,
        MemoryError::Malformed,
    ] {
        assert!(seen.contains_key(&error.to_wire().0.0), "never {error:?}: {seen:?}");
    }
}
