//! A request, as its handler has it.

use std::fmt;

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::{PendingCall, Source};
use dmrpc_core::wire::bytes::copy_short;
use dmrpc_core::wire::message::{
    ArgEntry, HEAD_BYTES_MAX, Method, RESPONSE_HEADER_BYTES, Status, arguments_bytes,
};
use dmrpc_core::wire::reference::Ref;

use crate::args::{Arg, listed, parts_bytes, shortest, table};
use crate::buffers::{Buffer, LentBuffer};
use crate::error::Error;
use crate::hosting::copy_parts;
use crate::inbox::Request;
use crate::memory::MESSAGE_BODY_BYTES_MAX;
use crate::node::Node;
use crate::pending::{ArgList, Reply};
use crate::serve::Context;

/// A request, as its handler has it. Dropped without a reply, it answers for itself:
/// [`Status::CANCELLED`] if the caller has cancelled, else [`Status::NESTED_FAILED`].
pub struct IncomingCall<'n, D: Device> {
    node: &'n Node<D>,
    index: u16,
    call: PendingCall,
    /// Here until dropped.
    request: Option<Box<Request>>,
    /// The body, if it came in several packets.
    buffer: Option<Buffer<'n>>,
    answered: bool,
}

impl<D: Device> fmt::Debug for IncomingCall<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall").field("call", &self.call).finish_non_exhaustive()
    }
}

impl<'n, D: Device> IncomingCall<'n, D> {
    pub(crate) fn new(
        node: &'n Node<D>,
        index: u16,
        call: PendingCall,
        mut request: Box<Request>,
    ) -> Self {
        let absorbed = request.absorbed.take();
        let buffer = absorbed.map(|buffer| {
            let pool = &mut node.state.borrow_mut().pool;
            Buffer::take(&node.state, pool, buffer, request.body_bytes)
        });
        Self { node, index, call, request: Some(request), buffer, answered: false }
    }

    fn request(&self) -> &Request {
        self.request.as_deref().expect("here until dropped")
    }

    /// What calls made for the request inherit from it.
    pub fn context(&self) -> Context<'n, D> {
        let request = self.request();
        Context::new(self.node, request)
    }

    /// The operation asked for.
    pub fn method(&self) -> Method {
        self.request().method
    }

    /// How many calls this one is nested in.
    pub fn depth(&self) -> u8 {
        self.request().depth
    }

    /// The body: the bytes of all inline arguments, one after the other.
    pub fn body(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => buffer,
            None => &self.request().body[..self.request().body_bytes],
        }
    }

    /// The arguments in order. Inline bytes are where they arrived: nothing is copied.
    pub fn args(&self) -> impl Iterator<Item = Arg<'_>> {
        let body = self.body();
        let table = &self.request().arguments;
        let alone = table.is_empty() && !body.is_empty();
        alone.then_some(Arg::Inline(body)).into_iter().chain(listed(table.iter().copied(), body))
    }

    /// One argument.
    pub fn arg(&self, index: usize) -> Option<Arg<'_>> {
        self.args().nth(index)
    }

    /// The references among the arguments, in order.
    pub fn refs(&self) -> impl Iterator<Item = Ref> + '_ {
        self.request().arguments.iter().filter_map(|entry| match entry {
            ArgEntry::Ref(reference) => Some(*reference),
            ArgEntry::Inline { .. } => None,
        })
    }

    /// Whether the caller has cancelled, or its session is over.
    pub fn is_cancelled(&self) -> bool {
        self.node.state.borrow().inbox.is_cancelled(self.index)
    }

    /// Answers. Inline results are copied.
    ///
    /// # Errors
    /// [`Error`] if the results do not fit a message, or no buffer is free for them. Then the
    /// caller gets [`Status::NESTED_FAILED`].
    pub fn reply(mut self, status: Status, results: &[Arg<'_>]) -> Result<(), Error> {
        let mut list = ArgList::new();
        let list = table(results, &mut list)?;
        let total = parts_bytes(results);
        if fits_head(list, total) {
            self.answer_inline(status, list, total, |out| copy_parts(results, 0, out));
            return Ok(());
        }
        let mut buffer = self.node.buffer(total)?;
        copy_parts(results, 0, &mut buffer);
        self.answer_buffer(status, list, buffer)
    }

    /// Answers with a buffer's contents as the first result, which are not copied, and references
    /// after it.
    ///
    /// # Errors
    /// [`Error`] if the results do not fit a message. Then the caller gets
    /// [`Status::NESTED_FAILED`].
    pub fn reply_buffer(
        mut self,
        status: Status,
        buffer: Buffer<'n>,
        refs: &[Ref],
    ) -> Result<(), Error> {
        let mut list = ArgList::new();
        let inline = ArgEntry::Inline { bytes: buffer.len().min(u32::MAX as usize) as u32 };
        let given = 1 + refs.len();
        let refs = refs.iter().map(|reference| ArgEntry::Ref(*reference));
        for entry in std::iter::once(inline).chain(refs) {
            list.push(entry).map_err(|_| Error::TooManyArgs { given })?;
        }
        self.answer_buffer(status, shortest(&list), buffer)
    }

    /// Answers with the arguments as they came. A body that came in several packets is not copied.
    ///
    /// # Errors
    /// As [`IncomingCall::reply`].
    pub fn echo(mut self) -> Result<(), Error> {
        let Some(request) = self.request.take() else { return Ok(()) };
        let result = self.echo_of(&request);
        self.request = Some(request);
        result
    }

    fn echo_of(&mut self, request: &Request) -> Result<(), Error> {
        let list = &request.arguments;
        if let Some(buffer) = self.buffer.take() {
            return self.answer_buffer(Status::OK, list, buffer);
        }
        let body = &request.body[..request.body_bytes];
        if fits_head(list, body.len()) {
            self.answer_inline(Status::OK, list, body.len(), |out| copy_short(out, body));
            return Ok(());
        }
        let mut buffer = self.node.buffer(body.len())?;
        buffer.copy_from_slice(body);
        self.answer_buffer(Status::OK, list, buffer)
    }

    /// Answers with what another service answered: status, results and body as they came, which
    /// are not copied if they are in a buffer.
    ///
    /// # Errors
    /// As [`IncomingCall::reply`].
    pub fn pass_back(mut self, answer: &Reply, body: Option<Buffer<'n>>) -> Result<(), Error> {
        let results = shortest(answer.results());
        let body = match body {
            Some(body) if !fits_head(results, body.len()) => {
                return self.answer_buffer(answer.status, results, body);
            }
            body => body,
        };
        let bytes = body.as_deref().unwrap_or_default();
        self.answer_inline(answer.status, results, bytes.len(), |out| out.copy_from_slice(bytes));
        Ok(())
    }

    /// Takes the buffer with the body, if it came in several packets: to work on it, and give it
    /// to [`IncomingCall::reply_buffer`].
    pub fn take_buffer(&mut self) -> Option<Buffer<'n>> {
        self.buffer.take()
    }

    fn answer_inline(
        &mut self,
        status: Status,
        results: &[ArgEntry],
        total: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        self.answered = true;
        let mut core = self.node.core.borrow_mut();
        let call = self.call;
        core.endpoint.with(|endpoint| {
            endpoint.reply(call, |reply| {
                reply.head(status, results, &[]);
                reply.body_with(total, fill);
            })
        });
        self.node.state.borrow_mut().served.bytes_out += total as u64;
    }

    fn answer_buffer(
        &mut self,
        status: Status,
        results: &[ArgEntry],
        buffer: Buffer<'_>,
    ) -> Result<(), Error> {
        let bytes = buffer.len();
        if bytes > MESSAGE_BODY_BYTES_MAX {
            return Err(Error::MessageTooLarge { bytes });
        }
        self.answered = true;
        let mut core = self.node.core.borrow_mut();
        let mut state = self.node.state.borrow_mut();
        let LentBuffer { index, bytes } = buffer.lend(&mut state.pool);
        let (call, source) = (self.call, Source(index.into()));
        let taken = core.endpoint.with(|endpoint| {
            endpoint.reply(call, |reply| {
                reply.head(status, results, &[]);
                reply.body_from(source, bytes);
            })
        });
        if taken {
            state.served.bytes_out += bytes as u64;
        } else {
            state.release_buffer(index);
        }
        Ok(())
    }
}

/// Whether an answer needs no buffer.
pub(crate) fn fits_head(results: &[ArgEntry], total: usize) -> bool {
    RESPONSE_HEADER_BYTES + arguments_bytes(results) + total <= HEAD_BYTES_MAX
}

impl<D: Device> Drop for IncomingCall<'_, D> {
    fn drop(&mut self) {
        if !self.answered {
            let cancelled = self.is_cancelled();
            let status = if cancelled { Status::CANCELLED } else { Status::NESTED_FAILED };
            self.answer_inline(status, &[], 0, |_| {});
        }
        if let Some(request) = self.request.take() {
            self.node.state.borrow_mut().inbox.put_back(self.index, request);
        }
    }
}
