//! Handlers that never wait: run within the poll that brings their request, on its bytes where they
//! lie, with the answer made where it is sent from.
//!
//! Such a handler is no task: it has no place among `NodeConfig::tasks`, no copy of its request and
//! no future. What it leaves to the service's `async` handler takes that one's way from there.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dmrpc_core::endpoint::host::{Body, Outcome, Reply, RequestHead, Source};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::bytes::copy_short;
use dmrpc_core::wire::message::{ArgEntry, Method, Status, TraceId};
use dmrpc_core::wire::reference::Ref;

use crate::args::{Arg, listed, parts_bytes, shortest, table};
use crate::buffers::Pool;
use crate::error::Error;
use crate::hosting::copy_parts;
use crate::incoming::fits_head;
use crate::memory::MESSAGE_BODY_BYTES_MAX;
use crate::pending::ArgList;
use crate::state::State;
use crate::statistics::{SLOW_STEP_NS, ServedCount};

/// A handler as a node keeps it.
type Handler = Box<dyn Fn(SyncCall<'_, '_>)>;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing yet.
    Open,
    /// It has its answer, with a body of so many bytes.
    Answered { bytes: usize },
    /// The same, and the body is the request's, in its buffer.
    Echoed { bytes: usize },
    /// It is for the `async` handler.
    Left,
}

/// A request, as a handler has it that never waits: see [`Service::with_sync`]. Dropped without a
/// reply, it answers with [`Status::NESTED_FAILED`].
///
/// [`Service::with_sync`]: crate::Service::with_sync
pub struct SyncCall<'a, 'r> {
    head: &'a RequestHead<'a>,
    body: &'a [u8],
    /// The body's buffer, if it came in several packets.
    absorbed: Option<u16>,
    reply: &'a mut Reply<'r>,
    pool: &'a mut Pool,
    end: &'a mut End,
}

impl fmt::Debug for SyncCall<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncCall").field("head", self.head).finish_non_exhaustive()
    }
}

impl<'a> SyncCall<'a, '_> {
    /// The operation asked for.
    pub fn method(&self) -> Method {
        self.head.method
    }

    /// How many calls this one is nested in.
    pub fn depth(&self) -> u8 {
        self.head.depth
    }

    /// When the caller gives up.
    pub fn deadline(&self) -> Option<Instant> {
        self.head.deadline
    }

    /// The trace that the request belongs to.
    pub fn trace(&self) -> TraceId {
        self.head.trace
    }

    /// The body: the bytes of all inline arguments, one after the other, where they arrived.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The arguments in order.
    pub fn args(&self) -> impl Iterator<Item = Arg<'a>> + use<'a> {
        let alone = self.head.arguments.is_empty() && !self.body.is_empty();
        let body = alone.then_some(Arg::Inline(self.body));
        body.into_iter().chain(listed(self.head.arguments.iter(), self.body))
    }

    /// One argument.
    pub fn arg(&self, index: usize) -> Option<Arg<'a>> {
        self.args().nth(index)
    }

    /// The references among the arguments, in order.
    pub fn refs(&self) -> impl Iterator<Item = Ref> + use<'a> {
        self.head.arguments.refs()
    }

    /// Leaves the request to the service's `async` handler, which has it from here on as if there
    /// were no other. If there is no room for it there now, the request comes here again.
    pub fn defer(self) {
        *self.end = End::Left;
    }

    /// Answers. Inline results are copied.
    ///
    /// # Errors
    /// [`Error`] if the results do not fit a message, or no buffer is free for them. Then the
    /// caller gets [`Status::NESTED_FAILED`].
    #[inline]
    pub fn reply(mut self, status: Status, results: &[Arg<'_>]) -> Result<(), Error> {
        let mut list = ArgList::new();
        let list = table(results, &mut list)?;
        let total = parts_bytes(results);
        self.answer(status, list, total, |out| match results {
            [Arg::Inline(bytes)] => copy_short(out, bytes),
            _ => copy_parts(results, 0, out),
        })
    }

    /// Answers with one inline result of `bytes` bytes, which `fill` writes where they are sent
    /// from.
    ///
    /// # Errors
    /// As [`SyncCall::reply`].
    #[inline]
    pub fn reply_with(
        mut self,
        status: Status,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        let empty = [ArgEntry::Inline { bytes: 0 }];
        self.answer(status, if bytes == 0 { &empty } else { &[] }, bytes, fill)
    }

    /// Answers with the arguments as they came. A body that came in several packets is not copied.
    ///
    /// # Errors
    /// As [`SyncCall::reply`].
    #[inline]
    pub fn echo(mut self) -> Result<(), Error> {
        let body = self.body;
        if self.head.arguments.is_empty() && self.absorbed.is_none() {
            return self.answer(Status::OK, &[], body.len(), |out| copy_short(out, body));
        }
        let list: ArgList = self.head.arguments.iter().collect();
        let Some(index) = self.absorbed else {
            return self.answer(Status::OK, &list, body.len(), |out| copy_short(out, body));
        };
        self.reply.head(Status::OK, shortest(&list), &[]);
        self.reply.body_from(Source(index.into()), body.len() as u32);
        *self.end = End::Echoed { bytes: body.len() };
        Ok(())
    }

    #[inline(always)]
    fn answer(
        &mut self,
        status: Status,
        results: &[ArgEntry],
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        if fits_head(results, bytes) {
            self.reply.head(status, results, &[]);
            self.reply.body_with(bytes, fill);
        } else {
            self.answer_long(status, results, bytes, fill)?;
        }
        *self.end = End::Answered { bytes };
        Ok(())
    }

    #[inline(never)]
    fn answer_long(
        &mut self,
        status: Status,
        results: &[ArgEntry],
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        if bytes > MESSAGE_BODY_BYTES_MAX {
            return Err(Error::MessageTooLarge { bytes });
        }
        let bytes_max = self.pool.bytes_max();
        let index = self.pool.reserve(bytes).ok_or(Error::NoBuffer { bytes, bytes_max })?;
        let mut reserved = Reserved { pool: self.pool, index, kept: false };
        fill(&mut reserved.pool.bytes(index)[..bytes]);
        reserved.kept = true;
        self.reply.head(status, results, &[]);
        self.reply.body_from(Source(index.into()), bytes as u32);
        Ok(())
    }
}

/// A buffer that goes back if whoever fills it panics.
struct Reserved<'p> {
    pool: &'p mut Pool,
    index: u16,
    kept: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.pool.release(self.index);
        }
    }
}

impl Drop for SyncCall<'_, '_> {
    #[inline(always)]
    fn drop(&mut self) {
        if *self.end == End::Open {
            self.reply.head(Status::NESTED_FAILED, &[], &[]);
            *self.end = End::Answered { bytes: 0 };
        }
    }
}

/// A node's handler that never waits, if it has one, and what it did in the poll that is under way.
#[derive(Default)]
pub(crate) struct SyncService {
    handler: Option<Handler>,
    steps: u64,
    /// What the handler panicked with.
    panic: Option<Box<dyn Any + Send>>,
}

impl SyncService {
    pub(crate) fn set(&mut self, handler: impl Fn(SyncCall<'_, '_>) + 'static) {
        self.handler = Some(Box::new(handler));
    }

    pub(crate) fn clear(&mut self) {
        self.handler = None;
    }

    #[inline]
    pub(crate) fn is_there(&self) -> bool {
        self.handler.is_some()
    }

    /// Whether a handler ran in the poll that is under way.
    #[inline]
    pub(crate) fn has_run(&self) -> bool {
        self.steps != 0
    }

    /// Ends a poll, which took `span_ns`: one look at the clock for all that ran in it, after the
    /// answers left. Returns what a handler panicked with.
    pub(crate) fn end_poll(
        &mut self,
        served: &mut ServedCount,
        span_ns: u64,
    ) -> Option<Box<dyn Any + Send>> {
        served.steps += std::mem::take(&mut self.steps);
        served.step_ns += span_ns;
        served.step_ns_max = served.step_ns_max.max(span_ns);
        served.slow_steps += u64::from(span_ns > SLOW_STEP_NS);
        self.panic.take()
    }
}

impl State {
    /// Gives a request to the handler that never waits. `None` if it leaves the request, which is
    /// as before, to the other one.
    #[inline]
    pub(crate) fn serve_sync(
        &mut self,
        head: &RequestHead<'_>,
        body: &Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Option<Outcome> {
        let Self { sync, pool, served, .. } = self;
        let handler = sync.handler.as_ref()?;
        sync.steps += 1;
        let (end, panic, bytes_in) = match *body {
            Body::Whole(bytes) => {
                let (end, panic) = call(handler, head, (bytes, None), reply, pool);
                (end, panic, bytes.len())
            }
            Body::Absorbed { sink, bytes } => {
                let (index, bytes) = (sink.0 as u16, bytes as usize);
                let (end, panic) = call_absorbed(handler, head, (index, bytes), reply, pool);
                (end, panic, bytes)
            }
        };
        if panic.is_some() {
            sync.panic = panic;
        }
        let bytes_out = match end {
            End::Left => return None,
            End::Open => 0,
            End::Answered { bytes } | End::Echoed { bytes } => bytes,
        };
        served.requests += 1;
        served.bytes_in += bytes_in as u64;
        served.bytes_out += bytes_out as u64;
        Some(Outcome::Replied)
    }
}

/// What a handler made of a request, and what it panicked with: the caller has its answer first.
type Called = (End, Option<Box<dyn Any + Send>>);

#[inline(always)]
fn call(
    handler: &Handler,
    head: &RequestHead<'_>,
    (body, absorbed): (&[u8], Option<u16>),
    reply: &mut Reply<'_>,
    pool: &mut Pool,
) -> Called {
    let mut end = End::Open;
    let call = SyncCall { head, body, absorbed, reply, pool, end: &mut end };
    let panic = catch_unwind(AssertUnwindSafe(|| handler(call))).err();
    (end, panic)
}

/// The same on a body in a buffer, which the request does not need afterwards unless it is left to
/// the other handler, or is the answer's.
#[inline(never)]
fn call_absorbed(
    handler: &Handler,
    head: &RequestHead<'_>,
    (index, bytes): (u16, usize),
    reply: &mut Reply<'_>,
    pool: &mut Pool,
) -> Called {
    let Some(buffer) = pool.take(index) else { return (End::Open, None) };
    let called = call(handler, head, (&buffer[..bytes], Some(index)), reply, pool);
    pool.put(index, buffer);
    if let End::Answered { .. } = called.0 {
        pool.release(index);
    }
    called
}
