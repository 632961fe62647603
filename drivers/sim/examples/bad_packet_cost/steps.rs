//! Requests to a memory node: steps that make no sense, and references that are no good.

use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::memory_op::{RefOperand, RegionName, RegionOperand, STEP_BYTES, Step};
use dmrpc_core::wire::message::{
    ArgEntry, Method, REQUEST_HEADER_BYTES, RequestHeader, TraceId, arguments_bytes, emit_arguments,
};
use dmrpc_core::wire::reference::{Ref, RefKey, Rights};

const POOL_BYTES: u64 = 8 << 20;
/// Bytes behind the reference.
const HELD: &[u8; 32] = b"what a good packet gets to read.";
const KEY: RefKey = RefKey([3; 16]);
const ALL: Rights = Rights::all();
/// Units of freeing after each burst: more than the good ones cause.
const RECLAIM_UNITS: u32 = 4096;

type Node = MemoryNode<'static, Plain<'static>>;

/// A kind of request, by name; the kind that it must not cost more than; and how its reference and
/// its steps, as bytes, come of good ones.
pub(super) type Kind = (&'static str, &'static str, fn(Ref) -> Ref, fn() -> Vec<u8>);

/// All kinds.
pub(super) const KINDS: [Kind; 19] = [
    ("steps-good", "steps-good", |good| good, read),
    // References.
    ("forged", "steps-good", |good| Ref { tag: good.tag ^ 1, ..good }, read),
    ("forged-range", "steps-good", |good| Ref { length: 1 << 40, ..good }, read),
    ("stale", "steps-good", |good| again(Ref { generation: good.generation + 1, ..good }), read),
    ("other-life", "steps-good", |good| again(Ref { incarnation: 7, ..good }), read),
    ("other-node", "steps-good", |good| again(Ref { memory_node: 9, ..good }), read),
    ("no-entry", "steps-good", |good| again(Ref { index: u32::MAX, ..good }), read),
    ("rights", "steps-good", |good| again(Ref { rights: Rights::CONSUME, ..good }), read),
    // Steps.
    ("beyond", "steps-good", |good| good, || read_of(RefOperand::Argument(0), 16, 32)),
    ("empty", "steps-good", |good| good, || read_of(RefOperand::Argument(0), 0, 0)),
    ("argument", "steps-good", |good| good, || read_of(RefOperand::Argument(5), 0, 32)),
    ("result", "steps-good", |good| good, || read_of(RefOperand::MadeBy(3), 0, 32)),
    (
        "operation",
        "steps-good",
        |good| good,
        || {
            let mut bytes = read();
            bytes[0] = 77;
            bytes
        },
    ),
    ("no-steps", "steps-good", |good| good, Vec::new),
    ("ragged", "steps-good", |good| good, || read()[..STEP_BYTES - 1].to_vec()),
    (
        "region",
        "steps-good",
        |good| good,
        || {
            let region = RegionOperand::Named(RegionName(77 << 24));
            steps(&[Step::Read { region, offset: 0, length: 32 }])
        },
    ),
    // What earlier steps made is given back.
    ("three-good", "three-good", |good| good, || three(RefOperand::Argument(0))),
    (
        "three-undone",
        "three-good",
        |good| Ref { tag: good.tag ^ 1, ..good },
        || three(RefOperand::Argument(0)),
    ),
    ("three-unmade", "three-good", |good| good, || three(RefOperand::MadeBy(0))),
];

fn steps(steps: &[Step]) -> Vec<u8> {
    steps.iter().flat_map(|step| step.to_bytes()).collect()
}

fn read_of(reference: RefOperand, offset: u64, length: u64) -> Vec<u8> {
    steps(&[Step::ReadRef { reference, offset, length }])
}

fn read() -> Vec<u8> {
    read_of(RefOperand::Argument(0), 0, HELD.len() as u64)
}

/// Makes a region, reads what a reference refers to, and gives the region back.
fn three(reference: RefOperand) -> Vec<u8> {
    steps(&[
        Step::Alloc { length: 4096 },
        Step::ReadRef { reference, offset: 0, length: HELD.len() as u64 },
        Step::Free { region: RegionOperand::MadeBy(0) },
    ])
}

/// With the tag that belongs to it: as if the memory node had made it so.
fn again(reference: Ref) -> Ref {
    reference.sealed(&KEY)
}

/// A memory node of so many sessions, and a reference to what is in it.
pub(super) fn memory_node(sessions: usize) -> (Node, Ref) {
    let pool = vec![0; POOL_BYTES as usize / 8].leak();
    let mut store =
        Store::format(Plain::new(pool), &StoreConfig::for_pool_bytes(POOL_BYTES)).expect("a pool");
    let holder = store.holder_join(Limits::NONE).expect("room");
    let region = store.alloc(holder, HELD.len() as u64).expect("room");
    store.write(holder, region, 0, HELD).expect("room");
    let entry = store.create_ref(holder, region, 0, HELD.len() as u64).expect("room");
    let reference = again(Ref {
        memory_node: 1,
        index: entry.index,
        incarnation: 1,
        generation: entry.generation,
        offset: 0,
        length: HELD.len() as u64,
        rights: ALL,
        tag: 0,
    });
    let identity = Identity { memory_node: 1, incarnation: 1, key: KEY };
    let holders = vec![SessionHolder::default(); sessions].leak();
    let transfers = vec![Transfer::default()].leak();
    (MemoryNode::new(store, identity, Limits::NONE, holders, transfers), reference)
}

/// Frees what is to be freed.
pub(super) fn reclaim(node: &mut Node, now: Instant) {
    node.reclaim(now, RECLAIM_UNITS);
}

/// The payload of such a request.
pub(super) fn payload(kind: &Kind, good: Ref) -> Vec<u8> {
    let (_, _, reference, steps) = kind;
    let arguments = [ArgEntry::Ref(reference(good))];
    let mut payload = vec![0; REQUEST_HEADER_BYTES + arguments_bytes(&arguments)];
    let request = RequestHeader {
        method: Method::MEMORY,
        depth: 0,
        args: 1,
        deadline_us: 0,
        trace: TraceId(0),
        after: None,
    };
    request.emit(&mut payload);
    emit_arguments(&arguments, &mut payload[REQUEST_HEADER_BYTES..]);
    payload.extend(steps());
    payload
}
