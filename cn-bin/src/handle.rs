//! A node's operations for threads that are not its own.
//!
//! A [`Handle`] hands one operation at a time to the node's poll loop through a ring, and blocks
//! its thread until the answer comes back through another. Bytes travel as vectors, which the
//! handle's thread allocates and frees; the poll loop does neither.
//!
//! ```no_run
//! use dmrpc_cn::{Node, NodeConfig};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let node = Node::open_udp(&NodeConfig::default())?;
//!     let memory = node.connect("127.0.0.1:7400".parse()?)?;
//!     let mut handle = node.handle()?;
//!     let thread = std::thread::spawn(move || -> Result<Vec<u8>, dmrpc_cn::handle::RemoteError> {
//!         let reference = handle.put(memory, b"four".to_vec())?;
//!         let region = handle.take_and_write(memory, &reference, 1, b"ive".to_vec())?;
//!         let bytes = handle.read(region, 0, 4)?;
//!         handle.free(region)?;
//!         Ok(bytes)
//!     });
//!     // The node's own thread must poll for as long as there are handles at work.
//!     while !thread.is_finished() {
//!         node.step();
//!     }
//!     assert_eq!(thread.join().expect("no panic")?, b"five");
//!     Ok(())
//! }
//! ```

mod memory;

use std::fmt;
use std::thread::Thread;
use std::time::Duration as StdDuration;

use dmrpc_core::device::Device;
use dmrpc_core::wire::message::Method;
use dmrpc_host::idle::{Doorbell, Idle, Wait, WaitBoth};
use dmrpc_host::spsc::{self, Consumer, Producer};

use crate::args::{Arg, entries, shortest};
use crate::call::{CallOptions, Finished, call_spec};
use crate::error::Error;
use crate::memory::{OperationError, Request};
use crate::node::{Node, Rest};
use crate::peers::Peer;
use crate::pending::{ArgList, Interest, Reply, Ticket};
use crate::replies::LentReply;
use crate::statistics::Operation;

/// Most handles of a node.
pub const HANDLES_MAX: usize = 64;

/// How long a handle waits before it looks whether the node is still there.
const LOOK_EVERY: StdDuration = StdDuration::from_millis(50);

/// What a handle asks for.
#[allow(clippy::large_enum_variant, reason = "moved twice a job; boxing would allocate")]
enum Ask {
    Call { peer: Peer, method: Method, arguments: ArgList, options: CallOptions },
    Memory(Request),
}

/// An operation on its way to the poll loop.
struct Job {
    ask: Ask,
    /// The bytes to be sent.
    body: Vec<u8>,
    /// Room for the bytes that come back.
    out: Vec<u8>,
    thread: Thread,
}

/// The answer to a job: a [`Finished`] that can change threads.
struct Answer {
    operation: Operation,
    peer: Peer,
    reply: Reply,
    offset: u64,
    length: u64,
}

impl From<Answer> for Finished<'static> {
    fn from(answer: Answer) -> Self {
        let Answer { operation, peer, reply, offset, length } = answer;
        let reply = LentReply::new(Box::new(reply), None);
        Self { operation, peer, reply, buffer: None, offset, length }
    }
}

/// What came of a job. Both vectors go back to be freed where they were made.
struct Done {
    result: Result<Answer, Error>,
    _body: Vec<u8>,
    out: Vec<u8>,
}

/// The poll loop's end of a handle.
pub(crate) struct Desk {
    jobs: Consumer<Job>,
    done: Producer<Done>,
    job: Option<Job>,
    ticket: Option<Ticket>,
}

/// All handles of a node, as the poll loop has them.
pub(crate) struct Desks {
    desks: Vec<Desk>,
    bell: Option<Doorbell>,
}

impl Desks {
    pub(crate) fn new() -> Self {
        Self { desks: Vec::with_capacity(HANDLES_MAX), bell: None }
    }

    pub(crate) fn bell(&self) -> Option<&Doorbell> {
        self.bell.as_ref()
    }
}

/// Why there is no handle.
#[derive(Debug)]
pub enum HandleError {
    /// The node has as many as it can have.
    TooMany,
    /// The system has no descriptor left for the bell that wakes the poll loop.
    Bell(std::io::Error),
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => {
                write!(f, "all {HANDLES_MAX} handles of the node are in use: drop some first")
            }
            Self::Bell(error) => write!(f, "no descriptor to wake the poll loop with: {error}"),
        }
    }
}

impl std::error::Error for HandleError {}

/// Why an operation through a handle failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteError {
    /// The node is gone. Whether the operation took effect is not known.
    NodeGone,
    /// The call failed.
    Call(Error),
    /// The memory operation failed.
    Memory(OperationError),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeGone => f.write_str("the node of this handle is gone: open another"),
            Self::Call(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RemoteError {}

impl From<Error> for RemoteError {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<OperationError> for RemoteError {
    fn from(error: OperationError) -> Self {
        Self::Memory(error)
    }
}

/// A node's operations for one thread that is not the node's own. Blocks that thread; the node's
/// own must poll.
pub struct Handle {
    jobs: Producer<Job>,
    done: Consumer<Done>,
    bell: Doorbell,
}

/// Idles on the device and the bell together.
fn rest<D: Wait>(idle: &mut Idle, device: &D, doorbell: &Doorbell, rest: Rest) {
    let both = WaitBoth { device, doorbell };
    idle.after_poll(rest.worked, rest.now, rest.again_at, &both);
}

impl<D: Device + Wait> Node<D> {
    /// Makes a handle. Allocates its rings: to be called at start.
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn handle(&self) -> Result<Handle, HandleError> {
        let mut desks = self.desks.borrow_mut();
        desks.desks.retain(|desk| desk.ticket.is_some() || !desk.jobs.is_abandoned());
        if desks.desks.len() == HANDLES_MAX {
            return Err(HandleError::TooMany);
        }
        let bell = match &desks.bell {
            Some(bell) => bell.clone(),
            None => Doorbell::new().map_err(HandleError::Bell)?,
        };
        desks.bell = Some(bell.clone());
        self.rest.set(Some(rest::<D>));
        let (jobs, theirs) = spsc::ring(1);
        let (ours, done) = spsc::ring(1);
        desks.desks.push(Desk { jobs: theirs, done: ours, job: None, ticket: None });
        Ok(Handle { jobs, done, bell })
    }
}

impl<D: Device> Node<D> {
    /// Takes jobs in and hands results back. Returns whether there was any.
    pub(crate) fn serve_desks(&self) -> bool {
        let mut desks = self.desks.borrow_mut();
        let mut worked = false;
        for desk in &mut desks.desks {
            worked |= self.serve_desk(desk);
        }
        worked
    }

    fn serve_desk(&self, desk: &mut Desk) -> bool {
        if desk.job.is_none() {
            desk.job = desk.jobs.pop();
        }
        let Some(job) = &mut desk.job else { return false };
        let result = match desk.ticket {
            None => match self.start_job(job) {
                Ok(ticket) => {
                    desk.ticket = Some(ticket);
                    return true;
                }
                // Others have the room: later.
                Err(error) if error.is_room() => return false,
                Err(error) => Err(error),
            },
            Some(ticket) => match self.finish(ticket) {
                None => return false,
                Some(result) => result,
            },
        };
        desk.ticket = None;
        let Some(mut job) = desk.job.take() else { return false };
        let result = result.map(|finished| {
            if let Some(buffer) = &finished.buffer {
                job.out[..buffer.len()].copy_from_slice(buffer);
            }
            let Finished { operation, peer, offset, length, .. } = finished;
            Answer { operation, peer, reply: finished.reply.clone(), offset, length }
        });
        let Job { body, out, thread, .. } = job;
        // Fails only if the handle is gone, which waits for its answer.
        let _ = desk.done.push(Done { result, _body: body, out });
        thread.unpark();
        true
    }

    fn start_job(&self, job: &Job) -> Result<Ticket, Error> {
        let parts = [Arg::Inline(&job.body)];
        let reply = match job.out.len() {
            0 => None,
            bytes => Some(self.buffer(bytes)?),
        };
        match &job.ask {
            Ask::Call { peer, method, arguments, options } => {
                let spec = call_spec(*peer, *method, shortest(arguments), options);
                self.start(&spec, &parts, reply, Interest::Asking)
            }
            Ask::Memory(request) => {
                let spec = request.spec(CallOptions::NONE);
                self.start(&spec, &parts, reply, Interest::Asking)
            }
        }
    }
}

impl Handle {
    /// Hands a job over and waits for what comes of it.
    fn run(
        &mut self,
        ask: Ask,
        body: Vec<u8>,
        room: usize,
    ) -> Result<(Result<Finished<'static>, Error>, Vec<u8>), RemoteError> {
        let job = Job { ask, body, out: vec![0; room], thread: std::thread::current() };
        // One job at a time, so there is room.
        self.jobs.push(job).map_err(|_| RemoteError::NodeGone)?;
        self.bell.ring();
        loop {
            // Asked first: what was put before is seen after.
            let gone = self.done.is_abandoned();
            if let Some(Done { result, out, .. }) = self.done.pop() {
                return Ok((result.map(Finished::from), out));
            }
            if gone {
                return Err(RemoteError::NodeGone);
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    fn memory(
        &mut self,
        request: Request,
        body: Vec<u8>,
        room: usize,
    ) -> Result<(Finished<'static>, Vec<u8>), RemoteError> {
        let failed = request.clone();
        let (result, out) = self.run(Ask::Memory(request), body, room)?;
        let finished = result.map_err(|error| failed.failed(error))?.checked()?;
        Ok((finished, out))
    }

    /// As [`Node::call`]; `room` bytes at most come back, and are returned with the answer.
    ///
    /// # Errors
    /// [`RemoteError`], as for all of these.
    pub fn call(
        &mut self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        room: usize,
    ) -> Result<(Reply, Vec<u8>), RemoteError> {
        self.call_with(peer, method, args, room, CallOptions::default())
    }

    /// As [`Handle::call`], with a deadline or a trace of its own.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn call_with(
        &mut self,
        peer: Peer,
        method: Method,
        args: &[Arg<'_>],
        room: usize,
        options: CallOptions,
    ) -> Result<(Reply, Vec<u8>), RemoteError> {
        let mut arguments = ArgList::new();
        let total = entries(args, &mut arguments)?;
        let mut body = vec![0; total];
        crate::hosting::copy_parts(args, 0, &mut body);
        let ask = Ask::Call { peer, method, arguments, options };
        let (result, mut out) = self.run(ask, body, room)?;
        let reply = result?.reply.clone();
        out.truncate(reply.body_bytes);
        Ok((reply, out))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
