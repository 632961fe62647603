//! Futures over the table of calls, and the loop that polls them.
//!
//! There is no executor beyond the poll loop and no heap: a future of this library notes which
//! *task* is being polled, and the end of the call marks that task as ready. A task is the future
//! given to [`Node::block_on`], or one request of a [`Service`](crate::Service). Futures of other
//! libraries wake a task through the waker in its context, from any thread; a sleeping loop
//! notices that within 50 ms.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddrV4;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use dmrpc_core::device::Device;
use dmrpc_core::wire::message::Method;
use dmrpc_host::idle::Wait;

use crate::args::{Arg, table};
use crate::buffers::Buffer;
use crate::call::{CallOptions, Finished, Spec, call_spec};
use crate::error::{ConnectError, Error};
use crate::node::Node;
use crate::peers::Peer;
use crate::pending::{ArgList, Interest, Reply, Ticket};

mod woken;

use woken::Woken;

/// Rounds of the loop after which tasks that wait for room look again unasked.
const ROUNDS_PER_LOOK: u32 = 64;

/// One task's bit among those that were woken from outside.
struct TaskWaker {
    woken: Woken,
    index: u16,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.wake(self.index);
    }
}

/// The wakers of all tasks.
pub(crate) struct Wakers {
    woken: Woken,
    wakers: Box<[Waker]>,
}

impl Wakers {
    pub(crate) fn new(tasks: usize) -> Self {
        let woken = Woken::new(tasks);
        let waker = |index| TaskWaker { woken: woken.clone(), index: index as u16 };
        let wakers = (0..tasks).map(|index| Waker::from(Arc::new(waker(index)))).collect();
        Self { woken, wakers }
    }

    pub(crate) fn of(&self, task: u16) -> &Waker {
        &self.wakers[usize::from(task)]
    }
}

/// The end of a call, awaited. Dropped before, it cancels the call.
pub(crate) struct Ending<'n, D: Device> {
    node: &'n Node<D>,
    ticket: Option<Ticket>,
}

impl<'n, D: Device> Future for Ending<'n, D> {
    type Output = Result<Finished<'n>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let Some(ticket) = self.ticket else { return Poll::Ready(Err(Error::StaleTicket)) };
        let node = self.node;
        if let Some(result) = node.finish(ticket) {
            self.ticket = None;
            return Poll::Ready(result);
        }
        let task = node.current.get();
        if let Some(entry) = node.state.borrow_mut().pending.get(ticket) {
            entry.interest = Interest::Task(task);
            // A waker of someone who combines futures: its task alone would not do.
            if !context.waker().will_wake(node.wakers.of(task)) {
                entry.waker = Some(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl<D: Device> Drop for Ending<'_, D> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.node.give_up(ticket);
        }
    }
}

/// Ready after something of the node's has changed: a call ended, a buffer or a session.
struct Change<'n, D> {
    node: &'n Node<D>,
    asked: bool,
}

impl<D> Future for Change<'_, D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.asked, true) {
            return Poll::Ready(());
        }
        let task = self.node.current.get();
        self.node.state.borrow_mut().wait(task);
        if !context.waker().will_wake(self.node.wakers.of(task)) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<D: Device> Node<D> {
    /// Waits until something of the node's has changed.
    async fn changed(&self) {
        Change { node: self, asked: false }.await;
    }

    /// Makes a call and awaits its end. Waits for room, until the call's deadline.
    pub(crate) async fn run(
        &self,
        spec: &Spec<'_>,
        parts: &[Arg<'_>],
        room: usize,
    ) -> Result<Finished<'_>, Error> {
        let end = self.now() + spec.options.deadline.unwrap_or(self.config.deadline);
        let mut options = *spec.options;
        loop {
            let spec = Spec { options: &options, ..*spec };
            let reply = if room > 0 { self.buffer(room).map(Some) } else { Ok(None) };
            let task = Interest::Task(self.current.get());
            let started = reply.and_then(|reply| self.start(&spec, parts, reply, task));
            let now = self.now();
            match started {
                Ok(ticket) => return Ending { node: self, ticket: Some(ticket) }.await,
                Err(error) if error.is_room() && now < end => self.changed().await,
                Err(error) => return Err(error),
            }
            options.deadline = Some(end.since(self.now()));
        }
    }

    /// As [`Node::call_with`], awaited instead of waited for. Bodies longer than a head pass
    /// through buffers of the node's, at the price of a copy.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn call_async(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        reply: &mut [u8],
        options: CallOptions,
    ) -> Result<Reply, Error> {
        let mut list = ArgList::new();
        let spec = call_spec(peer, method, table(args, &mut list)?, &options);
        let finished = self.run(&spec, args, reply.len()).await?;
        if let Some(buffer) = &finished.buffer {
            reply[..buffer.len()].copy_from_slice(buffer);
        }
        Ok(finished.reply.clone())
    }

    /// As [`Node::call_async`], with the answer's body left in a buffer: nothing is copied.
    /// `room` is how long the body may be, in bytes.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn call_buffered(
        &self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        room: usize,
        options: CallOptions,
    ) -> Result<(Reply, Option<Buffer<'_>>), Error> {
        let mut list = ArgList::new();
        let spec = call_spec(peer, method, table(args, &mut list)?, &options);
        let finished = self.run(&spec, args, room).await?;
        Ok((finished.reply.clone(), finished.buffer))
    }

    /// Awaits the end of a call begun by one of the `start` methods.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn ended(&self, ticket: Ticket) -> Result<Finished<'_>, Error> {
        Ending { node: self, ticket: Some(ticket) }.await
    }

    /// As [`Node::connect`], awaited instead of waited for.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn connect_async(&self, address: SocketAddrV4) -> Result<Peer, ConnectError> {
        let peer = self.start_connect(address)?;
        self.connecting(peer).await
    }

    /// Awaits a session that was asked for.
    pub(crate) async fn connecting(&self, peer: Peer) -> Result<Peer, ConnectError> {
        loop {
            if let Some(result) = self.connected(peer) {
                return result;
            }
            self.changed().await;
        }
    }

    /// Marks the tasks that were woken from outside as ready. Returns whether any is ready.
    #[inline]
    pub(crate) fn collect_woken(&self) -> bool {
        let mut state = self.state.borrow_mut();
        // What a task waits for may have come without a call's end: let it look now and then.
        let rounds = self.rounds.get().wrapping_add(1);
        self.rounds.set(rounds);
        if rounds.is_multiple_of(ROUNDS_PER_LOOK) {
            state.wake_waiting();
        }
        self.wakers.woken.collect(|number, bits| state.ready.set_word(number, bits));
        !state.ready.is_empty()
    }

    /// Polls a future as task `task`.
    pub(crate) fn poll_as<F: Future>(&self, task: u16, future: Pin<&mut F>) -> Poll<F::Output> {
        let outer = self.current.replace(task);
        let result = future.poll(&mut TaskContext::from_waker(self.wakers.of(task)));
        self.current.set(outer);
        result
    }
}

/// Says, when dropped, that no future is driven any more.
struct Driving<'n>(&'n Cell<bool>);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<D: Device + Wait> Node<D> {
    /// Polls the node until `future` is done. Requests are served meanwhile only by
    /// [`Service::block_on`](crate::Service::block_on).
    ///
    /// # Panics
    /// If it is called from within a future that the node polls: await there instead.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.drive(future, || false)
    }

    /// Polls the node and, with `others`, other tasks, until `future` is done.
    pub(crate) fn drive<F: Future>(
        &self,
        future: F,
        mut others: impl FnMut() -> bool,
    ) -> F::Output {
        let root = self.config.tasks as u16;
        assert!(
            !self.driving.replace(true),
            "block_on within block_on or a handler: await instead"
        );
        let _driving = Driving(&self.driving);
        let mut future = pin!(future);
        self.state.borrow_mut().ready.set(root);
        let mut busy = false;
        loop {
            self.collect_woken();
            let ready = self.state.borrow_mut().ready.take(root);
            if ready && let Poll::Ready(output) = self.poll_as(root, future.as_mut()) {
                return output;
            }
            busy |= others();
            self.step_with(None, std::mem::take(&mut busy) || ready);
        }
    }
}
