//! Questions for places of pages that make the region they are about: all of it takes effect, or
//! nothing, whoever asks.

use dmrpc_core::endpoint::Host;
use dmrpc_core::endpoint::here::{Asked, Heads, ask};
use dmrpc_core::endpoint::host::{SessionEvent, SessionId, Side};
use dmrpc_core::memory::Atomic;
use dmrpc_core::pen::Question;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder};
use dmrpc_core::store::{Config, Limits, PAGE_BYTES, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::memory_op::{
    MemoryError, RefOperand, RegionName, RegionOperand, Step, parse_failure,
};
use dmrpc_core::wire::message::{ArgEntry, Method, Status};
use dmrpc_core::wire::reference::{Ref, RefKey, Rights};

const POOL_BYTES: u64 = 4 << 20;
const SESSION: SessionId = SessionId { index: 0, generation: 3 };
const LENGTH: u64 = 5 * PAGE_BYTES + 7;

type Node<'m> = MemoryNode<'m, Atomic<'m>>;

/// What an answer says: its status as an error, the numbers among its parameters, its words.
type Told = Result<(Vec<u64>, Vec<u64>), Option<MemoryError>>;

fn with_node(test: impl FnOnce(&mut Node<'_>)) {
    let mut words = vec![0; POOL_BYTES as usize / 8];
    let config = Config { participants: 1, ..Config::for_pool_bytes(POOL_BYTES) };
    let store = Store::format(Atomic::new(&mut words), &config).expect("room");
    let identity = Identity { memory_node: 0, incarnation: 5, key: RefKey([9; 16]) };
    let mut sessions = [SessionHolder::EMPTY; 1];
    let mut node = MemoryNode::new(store, identity, Limits::NONE, &mut sessions, &mut []);
    node.hand_out_places();
    let begun = SessionEvent::Accepted { incarnation: 1, peer: "10.0.0.1:1".parse().unwrap() };
    node.session(Instant::ZERO, Side::Server, SESSION, begun);
    test(&mut node);
    node.store().check(&mut vec![0; node.store().check_scratch_bytes()]).expect("in order");
}

fn send(
    node: &mut Node<'_>,
    method: Method,
    of: Option<Ref>,
    parameters: &[u8],
) -> (Told, Vec<Ref>) {
    let arguments: Vec<ArgEntry> = of.into_iter().map(ArgEntry::Ref).collect();
    let asked = Asked { method, arguments: &arguments, parameters, body: &[], session: SESSION };
    let (mut room, mut heads) = ([0; 512], Heads::default());
    let answer = ask(node, Instant::ZERO, &asked, &mut room, &mut heads);
    let answer = answer.expect("room").expect("an answer");
    let words = |bytes: &[u8]| -> Vec<u64> {
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
    };
    let parameters = answer.arguments.parameters();
    if answer.status != Status::OK {
        let details = parse_failure(parameters).map_or([0; 2], |(_, details)| details);
        return (Err(MemoryError::from_wire(answer.status, details)), Vec::new());
    }
    let told = (words(parameters), words(&room[..answer.body_bytes]));
    (Ok(told), answer.arguments.refs().collect())
}

fn places(node: &mut Node<'_>, of: Option<Ref>, question: Question, steps: &[Step]) -> Told {
    let mut parameters = question.to_bytes().to_vec();
    parameters.extend(steps.iter().flat_map(Step::to_bytes));
    send(node, Method::PLACES, of, &parameters).0
}

fn run(node: &mut Node<'_>, of: Option<Ref>, steps: &[Step]) -> (Told, Vec<Ref>) {
    let parameters: Vec<u8> = steps.iter().flat_map(Step::to_bytes).collect();
    send(node, Method::MEMORY, of, &parameters)
}

fn reference(node: &mut Node<'_>) -> Ref {
    let region = RegionOperand::MadeBy(0);
    let create = Step::CreateRef { region, offset: 0, length: LENGTH, rights: Rights::all() };
    let steps = [Step::Alloc { length: LENGTH }, create, Step::Free { region }];
    run(node, None, &steps).1[0]
}

fn regions(node: &Node<'_>) -> u64 {
    node.store().stats().regions.in_use
}

fn question(offset: u64, length: u64, with_pen: bool) -> Question {
    Question { region: 0, offset, length, with_pen }
}

#[test]
fn a_region_is_made_and_its_pages_are_told() {
    with_node(|node| {
        let alloc = [Step::Alloc { length: LENGTH }];
        let (numbers, words) =
            places(node, None, question(0, u64::MAX, true), &alloc).expect("room");
        let [base, length, name] = numbers[..] else { panic!("{numbers:?}") };
        assert_eq!((base, length), (0, LENGTH));
        // The range ended with the region; all of it is to be written.
        assert_eq!(words.len(), 6);
        assert!(words.iter().all(|word| word % PAGE_BYTES == 1 && *word > 1), "{words:x?}");
        let named = Question { region: name, ..question(PAGE_BYTES, 1, true) };
        let (again, one) = places(node, None, named, &[]).expect("there");
        assert_eq!((again, one), (vec![0, LENGTH], vec![words[1]]));
        assert_eq!(regions(node), 1);
        let gone = Step::Free { region: RegionOperand::Named(RegionName(name)) };
        run(node, None, &[gone]).0.expect("its own");
    });
}

#[test]
fn a_reference_is_taken_with_the_same_message() {
    with_node(|node| {
        let reference = reference(node);
        let argument = RefOperand::Argument(0);
        let take = [
            Step::MapRef { reference: argument },
            Step::ClaimRef { reference: argument },
            Step::DropRef { reference: RefOperand::MadeBy(1) },
        ];
        // What fails after the mapping leaves all as it was: no offset beyond it is told of, and
        // nobody claims without the right.
        let beyond = places(node, Some(reference), question(LENGTH, 1, false), &take);
        assert!(matches!(beyond, Err(Some(MemoryError::OutOfRange { .. }))), "{beyond:?}");
        let kept = Step::Narrow { reference: argument, offset: 0, length: 9, rights: Rights::MAP };
        let weak = run(node, Some(reference), &[kept]).1[0];
        let refused = places(node, Some(weak), question(0, 9, false), &take);
        assert_eq!(refused, Err(Some(MemoryError::MissingRights { rights: Rights::CONSUME })));
        assert_eq!(regions(node), 0);
        let (numbers, words) =
            places(node, Some(reference), question(0, LENGTH, false), &take).expect("there");
        assert_eq!((numbers.len(), words), (3, vec![0; 6]));
        assert_eq!((regions(node), node.store().stats().entries.in_use), (1, 0));
    });
}

#[test]
fn what_makes_no_sense_makes_nothing() {
    with_node(|node| {
        let reference = reference(node);
        let map = Step::MapRef { reference: RefOperand::Argument(0) };
        let alloc = Step::Alloc { length: 9 };
        let made = RegionOperand::MadeBy(0);
        let drop_ref = Step::DropRef { reference: RefOperand::Argument(0) };
        let lists: [&[Step]; 7] = [
            &[alloc, Step::Write { region: made, offset: 0 }],
            &[alloc, Step::Read { region: made, offset: 0, length: 1 }],
            &[Step::ReadRef { reference: RefOperand::Argument(0), offset: 0, length: 1 }],
            &[drop_ref],
            &[Step::Free { region: RegionOperand::Named(RegionName(1)) }, alloc],
            &[alloc; 5],
            &[Step::Alloc { length: 0 }],
        ];
        for steps in lists {
            let told = places(node, Some(reference), question(0, 1, false), steps);
            assert!(told.is_err(), "{steps:?} made {told:?}");
            assert_eq!((regions(node), node.store().stats().entries.in_use), (0, 1), "{steps:?}");
        }
        // A region that is there is not made; one that is made is not named.
        let named = Question { region: 7, ..question(0, 1, false) };
        assert_eq!(places(node, Some(reference), named, &[map]), Err(Some(MemoryError::Malformed)));
        let mut ragged = question(0, 1, false).to_bytes().to_vec();
        ragged.extend([1; 31]);
        assert!(send(node, Method::PLACES, None, &ragged).0.is_err());
        assert_eq!(regions(node), 0);
    });
}
