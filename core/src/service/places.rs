//! Where pages are: answers for participants of a pool in flush mode, which read and write them
//! themselves. See [`crate::pen`].

use super::failure::Failure;
use super::memory_node::MemoryNode;
use super::steps::Run;
use crate::endpoint::host::{Outcome, Reply, RequestHead};
use crate::memory::Memory;
use crate::pen::{PLACES_MAX, Question};
use crate::store::{HolderId, RegionId, Store};
use crate::wire::memory_op::{RegionOperand, Step, Steps};
use crate::wire::message::Status;

impl<M: Memory> MemoryNode<'_, M> {
    /// Tells participants where pages are from now on: only where each session is one of a process
    /// that maps the pool, and has not lost it before that process is known to be gone.
    pub fn hand_out_places(&mut self) {
        self.hands_out = true;
    }

    pub(super) fn answer_places(
        &mut self,
        head: &RequestHead<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if !self.hands_out {
            reply.head(Status::UNKNOWN_METHOD, &[], &[]);
            return Outcome::Replied;
        }
        let told = match Question::split(head.arguments.parameters()) {
            Some((question, [])) => self.places(head, &question),
            Some((question, making)) => self.places_of_made(head, &question, making),
            None => Err(Failure::MALFORMED),
        };
        match told {
            Ok(told) => {
                told.answer(reply);
                Outcome::Replied
            }
            Err(failure) => failure.answer(reply),
        }
    }

    fn places(&mut self, head: &RequestHead<'_>, question: &Question) -> Result<Told, Failure> {
        let holder = self.holder_of(head.call.session)?;
        let region = RegionId::from_raw(question.region);
        let Question { offset, length, .. } = *question;
        let checked = self.store.check_region_range(holder, region, offset, length);
        checked.map_err(|error| Failure::of(0, error))?;
        Told::of(&mut self.store, holder, region, question)
    }

    /// Makes a region, and tells where its pages are.
    fn places_of_made(
        &mut self,
        head: &RequestHead<'_>,
        question: &Question,
        making: &[u8],
    ) -> Result<Told, Failure> {
        let steps = Steps::parse(making).map_err(|_| Failure::MALFORMED)?;
        let moves_bytes = |step: &Step| {
            matches!(step, Step::Read { .. } | Step::ReadRef { .. } | Step::Write { .. })
        };
        let first = match steps.iter().next() {
            Some(first @ (Step::Alloc { .. } | Step::MapRef { .. })) => first,
            _ => return Err(Failure::MALFORMED),
        };
        if steps.iter().any(|step| moves_bytes(&step)) {
            return Err(Failure::MALFORMED);
        }
        let holder = self.holder_of(head.call.session)?;
        let mut run = Run::new(self, holder, head.arguments, 0);
        let told = make_and_tell(&mut run, holder, &first, steps, question);
        if told.is_err() {
            run.undo();
        }
        told
    }
}

/// Runs the first step, looks where the pages of what it made are, and runs the others: what they
/// end cannot be brought back, so that nothing may fail after them.
fn make_and_tell<M: Memory>(
    run: &mut Run<'_, '_, '_, M>,
    holder: HolderId,
    first: &Step,
    steps: Steps<'_>,
    question: &Question,
) -> Result<Told, Failure> {
    run.make_first(first)?;
    let region = run.region(RegionOperand::MadeBy(0)).ok_or(Failure::MALFORMED)?;
    run.adopt_first(region);
    let told = Told::of(run.store(), holder, region, question)?;
    run.all(steps, &[], None)?;
    Ok(Told { made: Some(region), ..told })
}

/// Where pages of a region are.
struct Told {
    /// The region, if the request made it.
    made: Option<RegionId>,
    /// As in an answer.
    extent: [u64; 2],
    words: heapless::Vec<u64, PLACES_MAX>,
}

impl Told {
    /// Looks at the pages of a range, which ends with the region at the latest.
    fn of<M: Memory>(
        store: &mut Store<M>,
        holder: HolderId,
        region: RegionId,
        question: &Question,
    ) -> Result<Self, Failure> {
        let fail = |error| Failure::of(0, error);
        let Question { offset, length, with_pen, .. } = *question;
        let [base, size] = {
            let page = store.page_place(holder, region, offset).map_err(fail)?;
            [page.base, page.length]
        };
        let mut words = heapless::Vec::new();
        let end = offset.saturating_add(length).min(size);
        let mut at = offset;
        while at < end && !words.is_full() {
            if with_pen && store.own_place(holder, region, at).map_err(fail)?.0.is_none() {
                store.own_page(holder, region, at).map_err(fail)?;
            }
            let page = store.page_place(holder, region, at).map_err(fail)?;
            let pushed = words.push(page.place.unwrap_or(0) | u64::from(page.is_own));
            debug_assert!(pushed.is_ok(), "not full");
            at += page.bytes;
        }
        Ok(Self { made: None, extent: [base, size], words })
    }

    fn answer(&self, reply: &mut Reply<'_>) {
        let numbers = [self.extent[0], self.extent[1], self.made.map_or(0, RegionId::raw)];
        let mut parameters = [0; 24];
        for (bytes, number) in parameters.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *bytes = number.to_le_bytes();
        }
        let told = if self.made.is_some() { 24 } else { 16 };
        reply.head(Status::OK, &[], &parameters[..told]);
        let mut body = [0; 8 * PLACES_MAX];
        for (bytes, word) in body.as_chunks_mut::<8>().0.iter_mut().zip(&self.words) {
            *bytes = word.to_le_bytes();
        }
        reply.body(&body[..8 * self.words.len()]);
    }
}
