//! Serving: requests become tasks, each the future that a handler makes of its request.

use std::cell::RefCell;
use std::future::{Future, Ready, ready};
use std::net::SocketAddrV4;
use std::pin::Pin;

use dmrpc_core::device::Device;
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::{Method, Status, TraceId};
use dmrpc_host::idle::Wait;

use crate::args::Arg;
use crate::call::CallOptions;
use crate::directory::ResolveError;
use crate::error::{ConnectError, Error};
use crate::inbox::Request;
use crate::incoming::IncomingCall;
use crate::memory::AsyncMemory;
use crate::node::Node;
use crate::peers::Peer;
use crate::pending::Reply;
use crate::statistics::SLOW_STEP_NS;
use crate::sync_call::SyncCall;

/// What a handler works with: the node, and what calls made for its request inherit from it.
pub struct Context<'n, D> {
    node: &'n Node<D>,
    depth: u8,
    deadline: Option<Instant>,
    trace: TraceId,
}

impl<D> Clone for Context<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Context<'_, D> {}

impl<'n, D: Device> Context<'n, D> {
    pub(crate) fn new(node: &'n Node<D>, request: &Request) -> Self {
        let Request { depth, deadline, trace, .. } = *request;
        Self { node, depth, deadline, trace }
    }

    /// The node.
    pub fn node(&self) -> &'n Node<D> {
        self.node
    }

    /// The trace that the request belongs to.
    pub fn trace(&self) -> TraceId {
        self.trace
    }

    /// When the caller gives up.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Options for a call made for the request: one deeper, with what is left of its deadline and
    /// in the same trace.
    pub fn options(&self) -> CallOptions {
        CallOptions {
            deadline: self.deadline.map(|deadline| deadline.since(self.node.now())),
            trace: self.trace,
            depth: self.depth.saturating_add(1),
        }
    }

    /// Calls another service for the request; see [`Node::call_async`].
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn call(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        reply: &mut [u8],
    ) -> Result<Reply, Error> {
        self.node.call_async(peer, method, args, reply, self.options()).await
    }

    /// The memory of the memory node at `peer`, for operations made for the request. Hold what they
    /// make by [`AsyncMemory::own`] and [`AsyncMemory::own_ref`]: then nothing stays behind when
    /// the caller gives up, and this handler is dropped where it waits.
    pub fn memory(&self, peer: Peer) -> AsyncMemory<'n, D> {
        self.node.memory(peer).with_options(self.options()).outlasting().asynchronous()
    }

    /// The memory that a reference refers to; see [`Node::memory_of_async`].
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn memory_of(
        &self,
        reference: &dmrpc_core::wire::reference::Ref,
    ) -> Result<AsyncMemory<'n, D>, ResolveError> {
        let memory = self.node.memory_of_async(reference).await?;
        Ok(self.memory(memory.peer()))
    }

    /// A session with the node at `address`: one that is open, else a new one.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn peer(&self, address: SocketAddrV4) -> Result<Peer, ConnectError> {
        self.node.peer_async(address).await
    }
}

/// A place for the future of one request.
type TaskPlace<F> = Pin<Box<Option<F>>>;

/// A handler at work: as many requests at a time as `NodeConfig::tasks` says. Others are answered
/// 'busy', and their callers' endpoints try again.
///
/// Requests are taken in whenever the node is polled, but handlers run only in the methods of this
/// value: a blocking call of the node's holds them up, and `await` does not.
pub struct Service<'n, D: Device, H, F> {
    node: &'n Node<D>,
    handler: H,
    tasks: RefCell<Box<[TaskPlace<F>]>>,
    keep_cancelled: bool,
}

impl<D: Device> Node<D> {
    /// Serves requests with `handler` while the value returned is used. `handler` is called with
    /// each request, and the future that it returns is polled until it is done; it may call others
    /// meanwhile, and answers with one of the `reply` methods of its request.
    ///
    /// Allocates the places for the futures. Nothing is allocated for a request.
    ///
    /// # Panics
    /// If the node has a service already.
    pub fn serve<'n, H, F>(&'n self, handler: H) -> Service<'n, D, H, F>
    where
        H: Fn(Context<'n, D>, IncomingCall<'n, D>) -> F,
        F: Future<Output = ()>,
    {
        let inbox = &mut self.state.borrow_mut().inbox;
        assert!(!inbox.open, "a node has one service at a time");
        inbox.open = true;
        let tasks = (0..inbox.count()).map(|_| Box::pin(None)).collect();
        Service { node: self, handler, tasks: RefCell::new(tasks), keep_cancelled: false }
    }
}

/// What becomes of a request that is left to nobody.
fn unserved<'n, D: Device>(context: Context<'n, D>, call: IncomingCall<'n, D>) -> Ready<()> {
    context.node.state.borrow_mut().served.unknown += 1;
    // A status alone fits every message.
    let _ = call.reply(Status::UNKNOWN_METHOD, &[]);
    ready(())
}

/// The `async` handler of a service that has none.
pub type Unserved<'n, D> = fn(Context<'n, D>, IncomingCall<'n, D>) -> Ready<()>;

impl<D: Device> Node<D> {
    /// Serves requests with `handler`, which never waits, within the polls that bring them, while
    /// the value returned is there: see [`Service::with_sync`]. A request that it leaves to others
    /// is answered with [`Status::UNKNOWN_METHOD`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use dmrpc_cn::{Node, NodeConfig, Status};
    ///
    /// let node = Node::open_udp(&NodeConfig::at("127.0.0.1:7500".parse()?))?;
    /// let service = node.serve_sync(|call| {
    ///     let sum: u64 = call.body().iter().map(|byte| u64::from(*byte)).sum();
    ///     // Cannot fail: eight bytes fit every answer.
    ///     let _ = call.reply_with(Status::OK, 8, |out| out.copy_from_slice(&sum.to_le_bytes()));
    /// });
    /// service.run(|| false);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// As [`Node::serve`].
    pub fn serve_sync(
        &self,
        handler: impl Fn(SyncCall<'_, '_>) + 'static,
    ) -> Service<'_, D, Unserved<'_, D>, Ready<()>> {
        self.serve(unserved as Unserved<'_, D>).with_sync(handler)
    }
}

impl<'n, D, H, F> Service<'n, D, H, F>
where
    D: Device,
    H: Fn(Context<'n, D>, IncomingCall<'n, D>) -> F,
    F: Future<Output = ()>,
{
    /// Lets handlers go on after their caller has cancelled; they see it by
    /// [`IncomingCall::is_cancelled`]. Otherwise their futures are dropped where they wait.
    #[must_use]
    pub fn keep_cancelled(mut self) -> Self {
        self.keep_cancelled = true;
        self
    }

    /// Gives each request first to `handler`, within the poll that brings it: the request's bytes
    /// are where they arrived, and the answer is made where it is sent from and leaves in the same
    /// poll, which makes the shortest round trip. It answers with one of the `reply` methods of
    /// [`SyncCall`], or leaves the request to the service's `async` handler by [`SyncCall::defer`]:
    /// whatever has to wait for something, or takes longer than others can wait.
    ///
    /// It runs in each poll of the node's, also those of a blocking call of the node's own, and in
    /// the order in which requests arrive; it takes none of `NodeConfig::tasks`. If it panics, the
    /// request is answered with [`Status::NESTED_FAILED`], and the panic goes on from the method
    /// that polled. The node itself is in use meanwhile: its methods panic when `handler` calls
    /// them.
    #[must_use]
    pub fn with_sync(self, handler: impl Fn(SyncCall<'_, '_>) + 'static) -> Self {
        self.node.state.borrow_mut().sync.set(handler);
        self
    }

    /// Starts tasks for new requests and polls those that can go on. Returns whether there were
    /// any.
    pub fn run_tasks(&self) -> bool {
        // Most looks of a service that waits for requests, or has handlers that never wait.
        if self.node.state.borrow().inbox.is_idle() {
            return false;
        }
        self.run_ready_tasks()
    }

    #[inline(never)]
    fn run_ready_tasks(&self) -> bool {
        let mut end = None;
        self.start_tasks(&mut end);
        if self.node.collect_woken() {
            let tasks = self.node.config.tasks;
            // A task that wakes itself waits for the next round.
            for _ in 0..tasks {
                let ready = self.node.state.borrow_mut().ready.take_first(tasks);
                let Some(index) = ready else { break };
                self.run_task(index, &mut end);
            }
        }
        end.is_some()
    }

    fn start_tasks(&self, end: &mut Option<Instant>) {
        loop {
            let taken = self.node.state.borrow_mut().inbox.take();
            let Some((index, call, request)) = taken else { return };
            let context = Context::new(self.node, &request);
            let incoming = IncomingCall::new(self.node, index, call, request);
            let future = (self.handler)(context, incoming);
            self.tasks.borrow_mut()[usize::from(index)].as_mut().set(Some(future));
            self.run_task(index, end);
        }
    }

    /// Polls a task. `end` is when the last one before it ended, so that a step costs one look at
    /// the clock.
    fn run_task(&self, index: u16, end: &mut Option<Instant>) {
        let mut tasks = self.tasks.borrow_mut();
        let place = &mut tasks[usize::from(index)];
        let start = end.unwrap_or_else(|| self.node.now());
        let Some(future) = place.as_mut().as_pin_mut() else { return };
        let cancelled = !self.keep_cancelled && self.node.state.borrow().inbox.is_cancelled(index);
        let done = cancelled || self.node.poll_as(index, future).is_ready();
        if done {
            place.as_mut().set(None);
        }
        let now = self.node.now();
        *end = Some(now);
        let span_ns = now.since(start).as_nanos();
        let mut state = self.node.state.borrow_mut();
        let served = &mut state.served;
        served.steps += 1;
        served.step_ns += span_ns;
        served.step_ns_max = served.step_ns_max.max(span_ns);
        served.slow_steps += u64::from(span_ns > SLOW_STEP_NS);
        if done {
            state.inbox.task_ended(index);
        }
    }
}

impl<'n, D, H, F> Service<'n, D, H, F>
where
    D: Device + Wait,
    H: Fn(Context<'n, D>, IncomingCall<'n, D>) -> F,
    F: Future<Output = ()>,
{
    /// Polls the node once and runs the handlers that can go on; idles as configured if there was
    /// nothing to do.
    pub fn step(&self) -> bool {
        let busy = self.run_tasks();
        self.node.step_with(None, busy) || busy
    }

    /// Serves until `stop` says so. It is asked after each poll.
    pub fn run(&self, mut stop: impl FnMut() -> bool) {
        while !stop() {
            self.step();
        }
    }

    /// Polls the node until `future` is done, and serves requests meanwhile.
    ///
    /// # Panics
    /// As [`Node::block_on`].
    pub fn block_on<R: Future>(&self, future: R) -> R::Output {
        self.node.drive(future, || self.run_tasks())
    }
}

impl<D: Device, H, F> Drop for Service<'_, D, H, F> {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut();
        for (index, place) in tasks.iter_mut().enumerate() {
            if place.is_some() {
                place.as_mut().set(None);
                self.node.state.borrow_mut().inbox.task_ended(index as u16);
            }
        }
        {
            let mut state = self.node.state.borrow_mut();
            state.inbox.open = false;
            state.sync.clear();
        }
        // Requests that nobody served: their callers are told.
        loop {
            let taken = self.node.state.borrow_mut().inbox.take();
            let Some((index, call, request)) = taken else { return };
            drop(IncomingCall::new(self.node, index, call, request));
            self.node.state.borrow_mut().inbox.task_ended(index);
        }
    }
}
