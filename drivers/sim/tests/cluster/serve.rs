//! Calls between compute nodes: references in the arguments, work at the far end of a route.

use std::rc::Rc;

use dmrpc_core::endpoint::host::{CallError, PendingCall};
use dmrpc_core::wire::message::{ArgEntry, Method, Status};
use dmrpc_core::wire::reference::{Ref, Rights};
use dmrpc_sim::random::mix;

use crate::compute::{Cn, Finish, Wanted};
use crate::model::Reference;
use crate::program::any_bytes;

/// The calls of this test.
pub(crate) const WORK: Method = Method(9);

/// The service could not do it.
const FAILED: Status = Status(Status::APPLICATION_FIRST);

/// What the node at the end of the route does with the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Reads some of it.
    Inspect,
    /// Maps it, changes its own copy, and answers with a reference to that.
    Transform,
    /// Takes it.
    Consume,
}

/// A call's parameters.
#[derive(Clone, Copy, Debug)]
struct Work {
    mode: Mode,
    /// How many nodes pass it on.
    hops: u8,
    id: u32,
    /// The reference's number in the oracle.
    passed: u32,
    answer_bytes: u32,
}

impl Work {
    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.mode as u8;
        bytes[1] = self.hops;
        bytes[4..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.passed.to_le_bytes());
        bytes[12..].copy_from_slice(&self.answer_bytes.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let mode = [Mode::Inspect, Mode::Transform, Mode::Consume][usize::from(bytes[0])];
        Self { mode, hops: bytes[1], id: word(4), passed: word(8), answer_bytes: word(12) }
    }
}

/// The bytes that travel by value with call `id`.
fn pattern(id: u32, length: usize) -> Vec<u8> {
    (0..length).map(|at| mix((u64::from(id) << 32) + at as u64 / 64) as u8).collect()
}

impl Cn {
    /// Calls a compute node with a reference; its answer's, if there is one.
    pub(crate) async fn call_peer(&self, reference: &Reference, mode: Mode) -> Option<Reference> {
        self.count(match mode {
            Mode::Inspect => "rpc inspect",
            Mode::Transform => "rpc transform",
            Mode::Consume => "rpc consume",
        });
        if self.partners == self.memory_nodes {
            return None;
        }
        self.may_die("between create and send").await;
        let hops = [0, 0, 0, 1, 1, 2, 3][self.below(7)];
        let passed = self.oracle.borrow_mut().pass(reference.clone());
        let body = if self.below(4) == 0 { self.below(6_000) } else { self.below(100) };
        let answer_bytes = if self.below(4) == 0 { self.below(6_000) } else { 0 } as u32;
        let work = Work { mode, hops, id: 0, passed, answer_bytes };
        let (_, refs, parameters) = self.pass_on(work, 0, reference.wire, body).await?;
        let number = u32::from_le_bytes(parameters.try_into().ok()?);
        let answer = self.oracle.borrow().passed[number as usize].clone();
        assert_eq!(refs, [answer.wire], "the reference that the service answered with");
        Some(answer)
    }

    /// Makes a call on the way: what was answered, if it was answered.
    async fn pass_on(
        &self,
        mut work: Work,
        depth: u8,
        reference: Ref,
        body: usize,
    ) -> Option<(Status, Vec<Ref>, Vec<u8>)> {
        let compute_nodes = self.nodes - self.memory_nodes;
        let own = self.index - self.memory_nodes;
        let other = (own + 1 + self.below(compute_nodes - 1)) % compute_nodes;
        work.id = self.oracle.borrow_mut().begin_work();
        let mut wanted = Wanted::new(self.memory_nodes + other, WORK);
        wanted.args = vec![ArgEntry::Ref(reference), ArgEntry::Inline { bytes: body as u32 }];
        wanted.parameters = work.to_bytes().to_vec();
        wanted.body = pattern(work.id, body).into();
        wanted.room = work.answer_bytes;
        wanted.depth = depth;
        self.make_hasty(&mut wanted);
        let finish = self.start(wanted).await;
        let mut oracle = self.oracle.borrow_mut();
        match finish {
            Finish::Answered { status: Status::CANCELLED, .. } => {
                oracle.end_work(work.id, Some(false));
                None
            }
            Finish::Answered { status, refs, parameters, body } => {
                oracle.end_work(work.id, Some(true));
                if status == Status::OK {
                    assert_eq!(body, pattern(work.id, work.answer_bytes as usize));
                }
                Some((status, refs, parameters)).filter(|(status, ..)| *status == Status::OK)
            }
            Finish::Failed(CallError::OutcomeUnknown) => {
                oracle.count("rpc outcome unknown");
                oracle.end_work(work.id, None);
                None
            }
            Finish::Failed(
                CallError::DeadlineExceeded | CallError::Busy | CallError::SessionLost,
            ) => {
                oracle.end_work(work.id, Some(false));
                None
            }
            Finish::Failed(error) => panic!("a call between compute nodes ended with {error}"),
        }
    }
}

/// Serves one call.
pub(crate) async fn serve(
    cn: Cn,
    call: PendingCall,
    depth: u8,
    refs: Vec<Ref>,
    parameters: Vec<u8>,
    body: Vec<u8>,
) {
    let work = Work::parse(&parameters);
    cn.oracle.borrow_mut().execute_work(work.id);
    assert_eq!(body, pattern(work.id, body.len()), "bytes by value");
    let reference = cn.oracle.borrow().passed[work.passed as usize].clone();
    assert_eq!(refs, [reference.wire], "the reference as it was sent");
    let answer: Rc<[u8]> = pattern(work.id, work.answer_bytes as usize).into();
    cn.may_die("between receive and map").await;
    if work.hops > 0 {
        cn.count("rpc forwarded");
        cn.may_die_soon("in a chain of calls");
        let onward = Work { hops: work.hops - 1, ..work };
        match cn.pass_on(onward, depth + 1, reference.wire, 0).await {
            Some((status, refs, parameters)) => {
                cn.answer(call, status, &refs, &parameters, answer);
            }
            None => cn.answer(call, FAILED, &[], &[], Rc::new([])),
        }
        return;
    }
    match work.mode {
        Mode::Inspect => {
            let length = reference.content.len();
            let offset = cn.below(length);
            cn.read_ref(&reference, offset, 1 + cn.below(length - offset)).await;
            cn.answer(call, Status::OK, &[], &[], answer);
        }
        Mode::Consume => {
            if cn.below(2) == 0 {
                cn.take(&reference).await;
            } else if let Some(mine) = cn.claim_ref(&reference).await {
                cn.read_ref(&mine, 0, mine.content.len()).await;
                cn.drop_ref(&mine).await;
            }
            cn.answer(call, Status::OK, &[], &[], answer);
        }
        Mode::Transform => match transform(&cn, &reference).await {
            Some(made) => {
                let number = cn.oracle.borrow_mut().pass(made.clone());
                cn.answer(call, Status::OK, &[made.wire], &number.to_le_bytes(), answer);
            }
            None => cn.answer(call, FAILED, &[], &[], Rc::new([])),
        },
    }
}

/// Writes into a copy of what a reference stands for; a reference to the result.
async fn transform(cn: &Cn, reference: &Reference) -> Option<Reference> {
    let mut region = cn.map_ref(reference).await?;
    let length = region.content.len();
    for _ in 0..1 + cn.below(3) {
        let offset = cn.below(length);
        let bytes = any_bytes(cn, 1 + cn.below((length - offset).min(9_000)));
        let end = cn.start_write(&region, offset, bytes.clone(), None).end().await;
        cn.written(&mut region, offset, &bytes, &end);
    }
    let end = cn.start_read(&region, 0, length, None).end().await;
    cn.check_read(&region.content, 0, length, &end);
    let made = cn.create_ref(&region, 0, length, Rights::all()).await;
    cn.free(region).await;
    made
}
