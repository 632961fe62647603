//! Where pages are: answers for participants of a pool in flush mode, which read and write them
//! themselves. See [`crate::pen`].

use super::failure::{Failure, translate};
use super::memory_node::MemoryNode;
use crate::endpoint::host::{Outcome, Reply, RequestHead};
use crate::memory::Memory;
use crate::pen::{PLACES_MAX, Question};
use crate::store::RegionId;
use crate::wire::memory_op::failure_parameters;
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
        let told = match Question::parse(head.arguments.parameters()) {
            Some(question) => self.places(head, &question),
            None => Err(Failure::MALFORMED),
        };
        match told {
            Ok((extent, words)) => {
                let mut parameters = [0; 16];
                for (bytes, word) in parameters.as_chunks_mut::<8>().0.iter_mut().zip(extent) {
                    *bytes = word.to_le_bytes();
                }
                reply.head(Status::OK, &[], &parameters);
                let mut body = [0; 8 * PLACES_MAX];
                for (bytes, word) in body.as_chunks_mut::<8>().0.iter_mut().zip(&words) {
                    *bytes = word.to_le_bytes();
                }
                reply.body(&body[..8 * words.len()]);
            }
            Err(failure) if failure.is_pending() => return Outcome::Busy,
            Err(failure) => {
                let (status, details) = failure.status();
                reply.head(status, &[], &failure_parameters(failure.step, details));
            }
        }
        Outcome::Replied
    }

    fn places(
        &mut self,
        head: &RequestHead<'_>,
        question: &Question,
    ) -> Result<([u64; 2], heapless::Vec<u64, PLACES_MAX>), Failure> {
        let holder = self.holder_of(head.call.session)?;
        let region = RegionId::from_raw(question.region);
        let Question { offset, length, with_pen, .. } = *question;
        let store = &mut self.store;
        let mut words = heapless::Vec::new();
        let mut extent = [0; 2];
        let fail = |error| Failure { step: 0, error: translate(error) };
        let mut at = offset;
        let end = offset.saturating_add(length);
        store.check_region_range(holder, region, offset, length).map_err(fail)?;
        while at < end && !words.is_full() {
            if with_pen && store.own_place(holder, region, at).map_err(fail)?.0.is_none() {
                store.own_page(holder, region, at).map_err(fail)?;
            }
            let page = store.page_place(holder, region, at).map_err(fail)?;
            extent = [page.base, page.length];
            let pushed = words.push(page.place.unwrap_or(0) | u64::from(page.is_own));
            debug_assert!(pushed.is_ok(), "not full");
            at += page.bytes;
        }
        Ok((extent, words))
    }
}
