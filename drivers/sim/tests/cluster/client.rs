//! Memory operations as programs make them: each compares its answer with the model.

use std::rc::Rc;

use dmrpc_core::endpoint::host::{CallError, SessionId};
use dmrpc_core::time::Duration;
use dmrpc_core::wire::memory_op::{
    MemoryError, RefOperand, RegionName, RegionOperand, Resource, STEP_BYTES, STEPS_MAX, Step,
    emit_steps, parse_failure,
};
use dmrpc_core::wire::message::{ArgEntry, Method, Status};
use dmrpc_core::wire::reference::{Ref, Rights};

use crate::compute::{Cn, Finish, Waiting, Wanted};
use crate::model::{Content, EntryKey, Reference};

mod references;

/// The first argument of a request.
pub(crate) const FIRST: RefOperand = RefOperand::Argument(0);

/// The region that step 0 made.
pub(crate) const MADE: RegionOperand = RegionOperand::MadeBy(0);

/// How a memory operation ended.
#[derive(Debug)]
pub(crate) enum End {
    Done(Results),
    /// Why, and at which step. What steps before it made is given back.
    Refused(MemoryError, usize),
    /// Certainly without effect.
    Not,
    Unknown,
}

/// What a request made and read.
#[derive(Debug)]
pub(crate) struct Results {
    /// The session that it was asked in, which holds what was made.
    pub(crate) session: SessionId,
    pub(crate) refs: Vec<Ref>,
    pub(crate) regions: Vec<u64>,
    pub(crate) body: Vec<u8>,
}

/// A memory operation under way.
pub(crate) struct MemoryCall {
    waiting: Waiting,
    cn: Cn,
    /// When it was issued, in ticks.
    pub(crate) issued: u64,
}

impl MemoryCall {
    pub(crate) fn token(&self) -> u64 {
        self.waiting.token
    }

    /// What was made, if anything, for those who do not care how the call ended.
    pub(crate) async fn loot(self) -> Option<(Vec<Ref>, Vec<u64>)> {
        match self.waiting.await {
            Finish::Answered { status: Status::OK, refs, parameters, .. } => {
                let (regions, _) = parameters.as_chunks::<8>();
                Some((refs, regions.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()))
            }
            Finish::Answered { .. } => {
                self.cn.count("hostile requests");
                None
            }
            Finish::Failed(_) => None,
        }
    }

    pub(crate) async fn end(self) -> End {
        let token = self.waiting.token;
        let end = match self.waiting.await {
            Finish::Answered { status: Status::OK, refs, parameters, body } => {
                let (regions, rest) = parameters.as_chunks::<8>();
                assert!(rest.is_empty(), "a region for each step");
                let regions = regions.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
                let session = self.cn.session_of(token);
                End::Done(Results { session, refs, regions, body })
            }
            Finish::Answered { status: Status::CANCELLED, .. } => End::Not,
            Finish::Answered { status, parameters, .. } => {
                let (error, step) = failure(status, &parameters);
                End::Refused(error, step)
            }
            Finish::Failed(CallError::OutcomeUnknown) => End::Unknown,
            Finish::Failed(
                CallError::DeadlineExceeded | CallError::Busy | CallError::SessionLost,
            ) => End::Not,
            Finish::Failed(error) => panic!("a memory operation ended with {error}"),
        };
        let mut oracle = self.cn.oracle.borrow_mut();
        match &end {
            End::Done(_) => {}
            End::Refused(..) => oracle.count("refused"),
            End::Not => oracle.count("not executed"),
            End::Unknown => {
                oracle.unknown += 1;
                oracle.count("outcome unknown");
            }
        }
        drop(oracle);
        end
    }
}

fn failure(status: Status, parameters: &[u8]) -> (MemoryError, usize) {
    let (step, details) = parse_failure(parameters).expect("a failure's parameters");
    let error = MemoryError::from_wire(status, details).expect("a memory node's error");
    (error, usize::from(step))
}

/// A region of this node's, and what is in it.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) node: usize,
    /// The session that holds it.
    pub(crate) session: SessionId,
    /// Which life of the memory node has it.
    pub(crate) incarnation: u64,
    pub(crate) name: u64,
    pub(crate) content: Rc<Content>,
    /// Its number in the oracle's list.
    note: usize,
}

impl Region {
    pub(crate) fn named(&self) -> RegionOperand {
        RegionOperand::Named(RegionName(self.name))
    }
}

/// A request in the making.
pub(crate) struct Request<'a> {
    pub(crate) node: usize,
    pub(crate) steps: &'a [Step],
    pub(crate) refs: &'a [Ref],
    pub(crate) body: Rc<[u8]>,
    pub(crate) room: usize,
    pub(crate) after: Option<u64>,
    /// The session that it must be asked in.
    pub(crate) session: Option<SessionId>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(node: usize, steps: &'a [Step]) -> Self {
        Self { node, steps, refs: &[], body: Rc::new([]), room: 0, after: None, session: None }
    }

    /// A request about a region, which means something in its session only.
    pub(crate) fn about(region: &Region, steps: &'a [Step]) -> Self {
        Self { session: Some(region.session), ..Self::new(region.node, steps) }
    }
}

impl Cn {
    /// Begins a memory operation.
    pub(crate) fn memory(&self, request: Request<'_>) -> MemoryCall {
        let mut out = [0; STEPS_MAX * STEP_BYTES];
        let parameters = emit_steps(request.steps, &mut out).to_vec();
        self.memory_raw(request, parameters)
    }

    /// Begins a memory operation with any bytes for steps.
    pub(crate) fn memory_raw(&self, request: Request<'_>, parameters: Vec<u8>) -> MemoryCall {
        let mut wanted = Wanted::new(request.node, Method::MEMORY);
        wanted.args = request.refs.iter().map(|reference| ArgEntry::Ref(*reference)).collect();
        wanted.parameters = parameters;
        wanted.body = request.body;
        wanted.room = request.room as u32;
        wanted.after = request.after;
        wanted.session = request.session;
        self.make_hasty(&mut wanted);
        if self.hostile {
            // Its slots may be beyond repair.
            wanted.deadline = Some(Duration::from_millis(20));
        }
        let issued = self.oracle.borrow_mut().tick();
        MemoryCall { waiting: self.start(wanted), cn: self.clone(), issued }
    }

    /// Gives some calls too little time, or takes them back.
    pub(crate) fn make_hasty(&self, wanted: &mut Wanted) {
        let mut random = self.random.borrow_mut();
        if !random.happens(self.hasty.get()) {
            return;
        }
        let span = Duration::from_micros(random.within(1..=20_000));
        if random.below(2) == 0 {
            wanted.deadline = Some(span);
        } else {
            wanted.cancel_after = Some(span);
        }
    }

    /// A refusal that is the pool's fault, or this program's.
    pub(super) fn check_shortage(&self, error: MemoryError) {
        if self.limited && matches!(error, MemoryError::Quota { .. }) {
            return self.count("quota used up");
        }
        assert!(
            self.tight && matches!(error, MemoryError::Exhausted { .. }),
            "node {} was refused: {error} ({error:?})",
            self.index
        );
        self.count(match error {
            MemoryError::Exhausted { resource, .. } => match resource {
                Resource::Frames => "exhausted frames",
                Resource::Nodes => "exhausted nodes",
                Resource::Versions => "exhausted versions",
                Resource::Regions => "exhausted regions",
                Resource::References => "exhausted references",
                Resource::Holders => "exhausted holders",
                Resource::Pins => "exhausted pins",
                Resource::Stages => "exhausted stages",
                Resource::Detached => "exhausted detached references",
                Resource::VersionHolders => "exhausted holds of a version",
                Resource::StagedPages => "exhausted staged pages",
            },
            _ => unreachable!("just looked at"),
        });
    }

    /// Checks why an operation on a reference was refused.
    pub(crate) fn check_refusal(&self, key: EntryKey, error: MemoryError, mine: Option<usize>) {
        if !self.oracle.borrow().may_fail(key, error, mine) {
            self.check_shortage(error);
        }
    }

    fn adopt(&self, node: usize, results: &Results, content: Rc<Content>) -> Region {
        let (name, session) = (results.regions[0], results.session);
        assert_ne!(name, 0, "a region was made");
        let incarnation = self.incarnation_of(session);
        let mut oracle = self.oracle.borrow_mut();
        let note = oracle.new_region(node, (self.index, session), incarnation, name);
        Region { node, session, incarnation, name, content, note }
    }

    pub(crate) async fn alloc(&self, node: usize, length: usize) -> Option<Region> {
        self.count("alloc");
        let steps = [Step::Alloc { length: length as u64 }];
        match self.memory(Request::new(node, &steps)).end().await {
            End::Done(results) => Some(self.adopt(node, &results, Rc::new(Content::zeros(length)))),
            End::Refused(error, _) => {
                self.check_shortage(error);
                None
            }
            End::Not | End::Unknown => None,
        }
    }

    pub(crate) async fn free(&self, region: Region) {
        self.count("free");
        self.oracle.borrow_mut().regions[region.note].ending = true;
        let steps = [Step::Free { region: region.named() }];
        match self.memory(Request::about(&region, &steps)).end().await {
            End::Done(_) | End::Unknown => {}
            End::Refused(error, _) => panic!("a region could not be freed: {error}"),
            // What is still there is freed when the session ends.
            End::Not => self.oracle.borrow_mut().unknown += 1,
        }
    }

    /// Begins a write.
    pub(crate) fn start_write(
        &self,
        region: &Region,
        offset: usize,
        bytes: Rc<[u8]>,
        after: Option<u64>,
    ) -> MemoryCall {
        self.count("write");
        let steps = [Step::Write { region: region.named(), offset: offset as u64 }];
        self.memory(Request { body: bytes, after, ..Request::about(region, &steps) })
    }

    /// Takes the end of a write into the model.
    pub(crate) fn written(&self, region: &mut Region, offset: usize, bytes: &[u8], end: &End) {
        match end {
            End::Done(_) => Rc::make_mut(&mut region.content).write(offset, bytes),
            End::Refused(error, _) => self.check_shortage(*error),
            End::Not => {}
            End::Unknown => Rc::make_mut(&mut region.content).doubt(offset, bytes),
        }
    }

    /// Begins a read.
    pub(crate) fn start_read(
        &self,
        region: &Region,
        offset: usize,
        length: usize,
        after: Option<u64>,
    ) -> MemoryCall {
        self.count("read");
        let (start, bytes) = (offset as u64, length as u64);
        let steps = [Step::Read { region: region.named(), offset: start, length: bytes }];
        self.memory(Request { room: length, after, ..Request::about(region, &steps) })
    }

    /// Compares what was read with the model.
    pub(crate) fn check_read(&self, content: &Content, offset: usize, length: usize, end: &End) {
        match end {
            End::Done(results) => {
                assert_eq!(results.body.len(), length, "as many bytes as were asked for");
                content.check(offset, &results.body, "a region");
            }
            End::Refused(error, _) => self.check_shortage(*error),
            End::Not | End::Unknown => {}
        }
    }

    pub(crate) async fn create_ref(
        &self,
        region: &Region,
        offset: usize,
        length: usize,
        rights: Rights,
    ) -> Option<Reference> {
        self.count("create_ref");
        let (start, bytes) = (offset as u64, length as u64);
        let steps =
            [Step::CreateRef { region: region.named(), offset: start, length: bytes, rights }];
        match self.memory(Request::about(region, &steps)).end().await {
            End::Done(results) => {
                let content = Rc::new(region.content.part(offset, length));
                Some(self.own(region.node, &results, content))
            }
            End::Refused(error, _) => {
                self.check_shortage(error);
                None
            }
            End::Not | End::Unknown => None,
        }
    }

    /// Takes note of a new reference.
    pub(crate) fn own(&self, node: usize, results: &Results, content: Rc<Content>) -> Reference {
        let wire = results.refs[0];
        assert_eq!(wire.length, content.len() as u64);
        self.oracle.borrow_mut().new_entry(node, (self.index, results.session), wire);
        Reference { node, wire, content }
    }

    pub(crate) async fn map_ref(&self, reference: &Reference) -> Option<Region> {
        self.count("map_ref");
        let steps = [Step::MapRef { reference: FIRST }];
        let refs = [reference.wire];
        let call = self.memory(Request { refs: &refs, ..Request::new(reference.node, &steps) });
        let issued = call.issued;
        match call.end().await {
            End::Done(results) => {
                self.check_worked(reference.key(), issued);
                let content = reference.content.clone();
                Some(self.adopt(reference.node, &results, content))
            }
            End::Refused(error, _) => {
                self.check_refusal(reference.key(), error, None);
                None
            }
            End::Not | End::Unknown => None,
        }
    }

    pub(super) fn check_worked(&self, key: EntryKey, issued: u64) {
        let worked = self.oracle.borrow().may_work(key, issued);
        assert!(worked, "{key:?} had ended before the operation was issued");
    }

    /// Reads part of what a reference stands for.
    pub(crate) async fn read_ref(&self, reference: &Reference, offset: usize, length: usize) {
        self.count("read_ref");
        let (start, bytes) = (offset as u64, length as u64);
        let steps = [Step::ReadRef { reference: FIRST, offset: start, length: bytes }];
        let refs = [reference.wire];
        let request = Request { refs: &refs, room: length, ..Request::new(reference.node, &steps) };
        let call = self.memory(request);
        let issued = call.issued;
        match call.end().await {
            End::Done(results) => {
                self.check_worked(reference.key(), issued);
                assert_eq!(results.body.len(), length);
                reference.content.check(offset, &results.body, "a reference");
            }
            End::Refused(error, _) => self.check_refusal(reference.key(), error, None),
            End::Not | End::Unknown => {}
        }
    }
}
