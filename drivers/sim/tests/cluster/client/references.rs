//! Operations on references: narrowed, claimed, taken, put, detached, dropped.

use std::rc::Rc;

use dmrpc_core::wire::memory_op::{RefOperand, Step};
use dmrpc_core::wire::reference::{Ref, Rights};

use super::{End, FIRST, Request, Results};
use crate::compute::Cn;
use crate::model::{Content, EndKind, EntryKey, Reference};

impl Cn {
    pub(crate) async fn narrow(
        &self,
        reference: &Reference,
        offset: usize,
        length: usize,
        rights: Rights,
    ) -> Option<Reference> {
        self.count("narrow");
        let (start, bytes) = (offset as u64, length as u64);
        let steps = [Step::Narrow { reference: FIRST, offset: start, length: bytes, rights }];
        let refs = [reference.wire];
        let call = self.memory(Request { refs: &refs, ..Request::new(reference.node, &steps) });
        let issued = call.issued;
        match call.end().await {
            End::Done(results) => {
                self.check_worked(reference.key(), issued);
                let wire = results.refs[0];
                let content = Rc::new(reference.content.part(offset, length));
                assert_eq!((wire.length, wire.rights), (bytes, rights));
                Some(Reference { node: reference.node, wire, content })
            }
            End::Refused(error, _) => {
                self.check_refusal(reference.key(), error, None);
                None
            }
            End::Not | End::Unknown => None,
        }
    }

    /// Runs steps on a reference of which one ends it. Returns what they made.
    pub(crate) async fn end_ref(
        &self,
        reference: &Reference,
        kind: EndKind,
        steps: &[Step],
        room: usize,
    ) -> Option<Results> {
        let key = reference.key();
        let ending = self.oracle.borrow_mut().begin_ending(key, kind);
        let refs = [reference.wire];
        let request = Request { refs: &refs, room, ..Request::new(reference.node, steps) };
        let call = self.memory(request);
        let issued = call.issued;
        match call.end().await {
            End::Done(results) => {
                self.check_worked(key, issued);
                self.oracle.borrow_mut().finish_ending(key, ending, true);
                Some(results)
            }
            End::Refused(error, step) => {
                let claim = |step: &Step| matches!(step, Step::ClaimRef { .. });
                // What was claimed by an earlier step went with the rest of what was made.
                let ended = steps[..step].iter().any(claim);
                if ended {
                    self.check_worked(key, issued);
                    self.check_shortage(error);
                } else {
                    self.check_refusal(key, error, Some(ending));
                }
                self.oracle.borrow_mut().finish_ending(key, ending, ended);
                None
            }
            End::Not => {
                self.oracle.borrow_mut().finish_ending(key, ending, false);
                None
            }
            End::Unknown => None,
        }
    }

    pub(crate) async fn claim_ref(&self, reference: &Reference) -> Option<Reference> {
        self.count("claim_ref");
        let steps = [Step::ClaimRef { reference: FIRST }];
        let results = self.end_ref(reference, EndKind::Consumed, &steps, 0).await?;
        Some(self.own(reference.node, &results, reference.content.clone()))
    }

    pub(crate) async fn drop_ref(&self, reference: &Reference) {
        self.count("drop_ref");
        let steps = [Step::DropRef { reference: FIRST }];
        self.end_ref(reference, EndKind::Dropped, &steps, 0).await;
    }

    /// Reads all that a reference stands for, and ends it.
    pub(crate) async fn take(&self, reference: &Reference) {
        self.count("take");
        let length = reference.content.len();
        let steps = dmrpc_core::wire::memory_op::take(length as u64);
        if let Some(results) = self.end_ref(reference, EndKind::Consumed, &steps, length).await {
            assert_eq!(results.body.len(), length);
            reference.content.check(0, &results.body, "what was taken");
        }
    }

    pub(crate) async fn put(
        &self,
        node: usize,
        bytes: Rc<[u8]>,
        rights: Rights,
    ) -> Option<Reference> {
        self.count("put");
        let steps = dmrpc_core::wire::memory_op::put(bytes.len() as u64, rights);
        let request = Request { body: bytes.clone(), ..Request::new(node, &steps) };
        match self.memory(request).end().await {
            End::Done(results) => {
                let content = Rc::new(Content::of(bytes.to_vec()));
                Some(self.own(node, &results, content))
            }
            End::Refused(error, _) => {
                self.check_shortage(error);
                None
            }
            End::Not | End::Unknown => None,
        }
    }

    /// Lets a reference outlive its owner and tells everybody of it.
    pub(crate) async fn detach(&self, reference: &Reference) -> bool {
        self.count("detach");
        let key = reference.key();
        let steps = [Step::Detach { reference: FIRST }];
        let refs = [reference.wire];
        let request = Request { refs: &refs, ..Request::new(reference.node, &steps) };
        // If this node crashes before it knows, nobody will.
        self.doubt_detach(key, true);
        match self.memory(request).end().await {
            End::Done(_) | End::Unknown => {
                let mut oracle = self.oracle.borrow_mut();
                oracle.entries.get_mut(&key).expect("an entry that was made").owner = None;
                true
            }
            End::Refused(error, _) => {
                self.check_refusal(key, error, None);
                self.doubt_detach(key, false);
                false
            }
            End::Not => {
                self.doubt_detach(key, false);
                false
            }
        }
    }

    fn doubt_detach(&self, key: EntryKey, doubtful: bool) {
        let mut oracle = self.oracle.borrow_mut();
        let entry = oracle.entries.get_mut(&key).expect("an entry that was made");
        entry.detach_doubtful = doubtful;
    }
}

impl Cn {
    /// Ends a reference of which it is not known whether it is there.
    pub(crate) async fn end_anyhow(&self, node: usize, wire: Ref) {
        let steps = [
            Step::ClaimRef { reference: FIRST },
            Step::DropRef { reference: RefOperand::MadeBy(0) },
        ];
        let refs = [wire];
        self.memory(Request { refs: &refs, ..Request::new(node, &steps) }).end().await;
    }
}
