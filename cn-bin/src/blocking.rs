//! Calls that wait for their answer, with the caller's slices as source and sink.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::Source;
use dmrpc_core::wire::message::{HEAD_BYTES_MAX, Method};
use dmrpc_host::idle::Wait;

use crate::args::{Arg, gathered, parts_bytes, table, too_large};
use crate::call::{CallOptions, Finished, Outgoing, Spec, call_spec};
use crate::error::Error;
use crate::hosting::{USER, UserBytes};
use crate::node::Node;
use crate::peers::Peer;
use crate::pending::{ArgList, Interest, Place, Reply, Ticket};
use crate::state::State;

impl<D: Device + Wait> Node<D> {
    /// Calls `method` of the service at `peer` and waits for the answer. Inline results go to
    /// `reply`, one after the other, straight from the packets that they come in; inline arguments
    /// are sent from where they are.
    ///
    /// # Errors
    /// [`Error`]. A status other than `OK` is the service's answer, not an error of the call.
    ///
    /// # Example
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use dmrpc_cn::{Arg, Method, Node, NodeConfig};
    /// let node = Node::open_udp(&NodeConfig::default())?;
    /// let peer = node.connect("127.0.0.1:7100".parse()?)?;
    /// let mut answer = [0; 64];
    /// let reply = node.call(peer, Method(1), &[Arg::Inline(b"hello")], &mut answer)?;
    /// println!("{:?}", &answer[..reply.body_bytes]);
    /// # Ok(()) }
    /// ```
    pub fn call(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        reply: &mut [u8],
    ) -> Result<Reply, Error> {
        self.call_with(peer, method, args, reply, CallOptions::default())
    }

    /// As [`Node::call`], with a deadline, a trace or a depth.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub fn call_with(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        reply: &mut [u8],
        options: CallOptions,
    ) -> Result<Reply, Error> {
        let mut list = ArgList::new();
        let spec = call_spec(peer, method, table(args, &mut list)?, &options);
        self.block(&spec, args, reply).map(|finished| finished.reply.clone())
    }

    /// Asks a memory node for page `page` of its counters and gauges: lines of `name value` in
    /// `out`, of which there are none past the last page.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub fn statistics_page(&self, peer: Peer, page: u16, out: &mut [u8]) -> Result<Reply, Error> {
        let parameters = page.to_le_bytes();
        let call = call_spec(peer, Method::STATISTICS, &[], CallOptions::NONE);
        let spec = Spec { parameters: &parameters, ..call };
        self.block(&spec, &[], out).map(|finished| finished.reply.clone())
    }

    /// Makes a call and waits for its end, with the caller's slices as source and sink.
    pub(crate) fn block(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        sink: &mut [u8],
    ) -> Result<Finished<'_>, Error> {
        if self.runs_here(spec) {
            return self.block_here(spec, parts, sink);
        }
        if let Some(done) = self.block_by_pen(spec, parts, sink) {
            return done;
        }
        let total = parts_bytes(parts);
        let room = u32::try_from(sink.len()).unwrap_or(u32::MAX);
        let place = if room == 0 { Place::Nowhere } else { Place::User };
        let answer = (place, room);
        let ticket = if spec.head_bytes() + total > HEAD_BYTES_MAX {
            let bytes = u32::try_from(total).map_err(|_| too_large(total))?;
            let source = Some((Source(USER), bytes));
            self.begin_waiting(spec, Outgoing { inline: &[], source }, answer)?
        } else if let [Arg::Inline(inline)] = parts {
            self.begin_waiting(spec, Outgoing { inline, source: None }, answer)?
        } else {
            gathered(parts, total, |inline| {
                self.begin_waiting(spec, Outgoing { inline, source: None }, answer)
            })?
        };
        self.wait(ticket, UserBytes { parts, sink, visit: None });
        self.finish(ticket).unwrap_or(Err(Error::StaleTicket))
    }

    /// As [`Node::block`] with one inline argument. `take` takes what the caller wants out of the
    /// answer's head, and is told whose answer it is: the whole head is never moved.
    #[inline(always)]
    pub(crate) fn block_for<R>(
        &self,
        spec: &Spec<'_>,
        body: &[u8],
        sink: &mut [u8],
        take: impl FnOnce(Peer, &Reply) -> R,
    ) -> Result<R, Error> {
        if self.shared.borrow().is_some() || self.pens.borrow().is_some() {
            let finished = self.block(spec, &[Arg::Inline(body)], sink)?;
            return Ok(take(finished.peer, &finished.reply));
        }
        let ticket = self.block_through(spec, body, sink)?;
        self.take_reply(ticket, take)
    }

    /// Makes a call through the device and waits for its end.
    #[inline(never)]
    fn block_through(
        &self,
        spec: &Spec<'_>,
        body: &[u8],
        sink: &mut [u8],
    ) -> Result<Ticket, Error> {
        let room = u32::try_from(sink.len()).unwrap_or(u32::MAX);
        let place = if room == 0 { Place::Nowhere } else { Place::User };
        let outgoing = if spec.head_bytes() + body.len() > HEAD_BYTES_MAX {
            let bytes = u32::try_from(body.len()).map_err(|_| too_large(body.len()))?;
            Outgoing { inline: &[], source: Some((Source(USER), bytes)) }
        } else {
            Outgoing { inline: body, source: None }
        };
        let ticket = self.begin_waiting(spec, outgoing, (place, room))?;
        self.wait(ticket, UserBytes { parts: &[Arg::Inline(body)], sink, visit: None });
        Ok(ticket)
    }

    #[inline(always)]
    fn wait(&self, ticket: Ticket, mut user: UserBytes<'_>) {
        while !self.state.borrow().pending.is_done(ticket) {
            self.step_with(Some(&mut user), false);
        }
    }

    /// Ends a call that is over, and whose answer's body is the caller's already.
    #[inline(always)]
    fn take_reply<R>(
        &self,
        ticket: Ticket,
        take: impl FnOnce(Peer, &Reply) -> R,
    ) -> Result<R, Error> {
        let mut state = self.state.borrow_mut();
        let State { pending, replies, .. } = &mut *state;
        if let Some(entry) = pending.get(ticket)
            && entry.error.is_none()
            && let Some(reply) = entry.reply.take()
        {
            let taken = take(entry.peer, &reply);
            replies.put(reply);
            pending.free(ticket);
            return Ok(taken);
        }
        drop(state);
        Err(self.failure_of(ticket))
    }

    #[cold]
    #[inline(never)]
    fn failure_of(&self, ticket: Ticket) -> Error {
        match self.finish(ticket) {
            Some(Err(error)) => error,
            // It is over, and has an error or an answer.
            _ => Error::StaleTicket,
        }
    }

    /// Begins a call as soon as there is room for it, at most until its deadline.
    fn begin_waiting(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        sink: (Place, u32),
    ) -> Result<Ticket, Error> {
        match self.begin(spec, outgoing, sink, Interest::Asking) {
            Err(error) if error.is_room() => self.begin_later(spec, outgoing, sink),
            result => result,
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_later(
        &self,
        spec: &Spec<'_>,
        outgoing: Outgoing<'_>,
        sink: (Place, u32),
    ) -> Result<Ticket, Error> {
        let end = self.now() + spec.options.deadline.unwrap_or(self.config.deadline);
        loop {
            self.step();
            let now = self.now();
            let options = CallOptions { deadline: Some(end.since(now)), ..*spec.options };
            let spec = Spec { options: &options, ..*spec };
            match self.begin(&spec, outgoing, sink, Interest::Asking) {
                Err(error) if error.is_room() && now < end => {}
                result => return result,
            }
        }
    }
}
