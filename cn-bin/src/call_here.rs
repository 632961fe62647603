//! Operations on the memory of a pool that this process maps: the same calls, run at once.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::CallError;
use dmrpc_core::wire::message::Method;
use dmrpc_host::idle::Wait;

use crate::args::Arg;
use crate::call::{Finished, Outgoing, Spec};
use crate::error::Error;
use crate::node::Node;
use crate::pending::{Begin, Interest, Phase, Place, Reply, Ticket};
use crate::pens::region_of;
use crate::replies::LentReply;
use crate::state::State;
use crate::statistics::Operation;

impl<D: Device> Node<D> {
    /// Whether a call is one for the memory of a pool that this process maps.
    #[inline]
    pub(crate) fn runs_here(&self, spec: &Spec<'_>) -> bool {
        if spec.method != Method::MEMORY || self.shared.borrow().is_none() {
            return false;
        }
        // What is over is told so on the usual way.
        let state = self.state.borrow();
        let line = state.peers.get(spec.peer);
        line.is_some_and(|line| self.shares(line.address) && line.over().is_none())
    }

    /// Whether the region that a call is about may be used.
    ///
    /// # Errors
    /// [`Error::Viewed`].
    pub(crate) fn check_unviewed(&self, spec: &Spec<'_>) -> Result<(), Error> {
        let Some(region) = spec.region else { return Ok(()) };
        let is_viewed = match (self.shared.borrow().as_ref(), self.pens.borrow().as_ref()) {
            (Some(local), _) => local.is_viewed(spec.peer.as_holder(), region),
            (None, Some(pens)) => pens.views.has(region_of(spec.peer, region)),
            (None, None) => false,
        };
        if is_viewed { Err(Error::Viewed) } else { Ok(()) }
    }

    /// Runs an operation whose bytes are in buffers, and keeps what it came to under a ticket.
    pub(crate) fn begin_here(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        (place, room): (Place, u32),
        interest: Interest,
    ) -> Result<Ticket, Error> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let source = outgoing.source.map(|(source, bytes)| (source.0 as u16, bytes as usize));
        let begun = self.run_here(state, spec, outgoing, (place, room), interest);
        if let Some((index, _)) = source {
            state.release_buffer(index);
        }
        if begun.is_err()
            && let Place::Buffer(index) = place
        {
            state.release_buffer(index);
        }
        begun
    }

    fn run_here(
        &self,
        state: &mut State,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        (place, room): (Place, u32),
        interest: Interest,
    ) -> Result<Ticket, Error> {
        self.check_unviewed(spec)?;
        let bytes_out =
            outgoing.inline.len() + outgoing.source.map_or(0, |(_, bytes)| bytes as usize);
        let begin = Begin {
            peer: spec.peer,
            method: spec.method,
            operation: spec.operation,
            interest,
            region: None,
            place,
            room,
            offset: spec.offset,
            length: spec.length,
            bytes_out: bytes_out as u64,
        };
        let limit = state.pending.count();
        let ticket = state.pending.begin(begin).ok_or(Error::NoCall { limit })?;
        let State { pool, .. } = state;
        // An operation either brings bytes or fetches some: one buffer at a time.
        let result = {
            let mut shared = self.shared.borrow_mut();
            let Some(shared) = shared.as_mut() else { return Err(Error::StalePeer) };
            match (outgoing.source, place) {
                (Some((source, bytes)), _) => {
                    let body = &pool.bytes(source.0 as u16)[..bytes as usize];
                    shared.run(spec, body, &mut [])
                }
                (None, Place::Buffer(index)) => {
                    shared.run(spec, outgoing.inline, &mut pool.bytes(index)[..room as usize])
                }
                (None, _) => shared.run(spec, outgoing.inline, &mut []),
            }
        };
        let Some(result) = result else {
            // It waits for memory that is being freed: as if there were no room for the call.
            state.pending.free(ticket);
            return Err(Error::NoCall { limit });
        };
        ended_here(state, spec.operation, ticket, interest, result, bytes_out as u64);
        Ok(ticket)
    }
}

/// Notes what an operation under `ticket` came to, and tells whoever wants to know.
pub(crate) fn ended_here(
    state: &mut State,
    operation: Operation,
    ticket: Ticket,
    interest: Interest,
    result: Result<Reply, CallError>,
    bytes_out: u64,
) {
    let count = &mut state.operations[operation as usize];
    if let Some(entry) = state.pending.get(ticket) {
        entry.phase = Phase::Done;
        match result {
            Ok(reply) => {
                count.done += 1;
                count.bytes_in += reply.body_bytes as u64;
                count.bytes_out += bytes_out;
                let mut kept = state.replies.take();
                *kept = reply;
                entry.reply = Some(kept);
            }
            Err(error) => {
                count.failed += 1;
                entry.error = Some(error);
            }
        }
    }
    match interest {
        Interest::Listed => state.pending.list(ticket.index()),
        Interest::Task(task) => state.ready.set(task),
        Interest::Asking => {}
        Interest::Abandoned => state.abandon(ticket),
    }
}

impl<D: Device + Wait> Node<D> {
    /// Runs an operation straight from and to the caller's slices.
    pub(crate) fn block_here(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        sink: &mut [u8],
    ) -> Result<Finished<'_>, Error> {
        let body = match parts {
            [Arg::Inline(body)] => *body,
            _ => &[],
        };
        self.check_unviewed(spec)?;
        let mut end = None;
        let result = loop {
            let ran = match self.shared.borrow_mut().as_mut() {
                Some(shared) => shared.run(spec, body, sink),
                None => return Err(Error::StalePeer),
            };
            if let Some(result) = ran {
                break result;
            }
            // It waits for memory that is being freed, by the memory node.
            let now = self.now();
            let patience = spec.options.deadline.unwrap_or(self.config.deadline);
            if now >= *end.get_or_insert(now + patience) {
                break Err(CallError::Busy);
            }
            self.step();
        };
        let mut state = self.state.borrow_mut();
        let count = &mut state.operations[spec.operation as usize];
        match result {
            Ok(reply) => {
                count.done += 1;
                count.bytes_in += reply.body_bytes as u64;
                count.bytes_out += body.len() as u64;
                let mut kept = state.replies.take();
                *kept = reply;
                let reply = LentReply::new(kept, Some(&self.state));
                let Spec { operation, peer, offset, length, .. } = *spec;
                Ok(Finished { operation, peer, reply, buffer: None, offset, length })
            }
            Err(error) => {
                count.failed += 1;
                let address = state.peers.get(spec.peer).map(|peer| peer.address);
                let address = address.ok_or(Error::StalePeer)?;
                Err(Error::Call { address, method: spec.method, error })
            }
        }
    }
}
