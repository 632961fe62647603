//! Disaggregated memory: regions, references, and the operations on them.
//!
//! A [`Memory`] is a node's view of one memory node. Its methods block; [`Memory::start`] gives
//! the same operations as tickets, [`Memory::asynchronous`] as futures. All three build their
//! requests in `request` and read the answers in `outcome`.
//!
//! Operations of one session on one region take effect in the order in which they were begun,
//! however many are in flight.

mod by_pen;
mod future;
mod outcome;
mod owned;
mod pipelined;
mod request;

use std::fmt;

use dmrpc_core::device::Device;
use dmrpc_core::wire::memory_op::RegionName;
use dmrpc_core::wire::message::Status;
use dmrpc_core::wire::reference::{Ref, Rights};
use dmrpc_host::idle::Wait;

pub use future::AsyncMemory;
pub use outcome::{Cause, OperationError};
pub(crate) use owned::Unwanted;
pub use owned::{OwnedRef, OwnedRegion};
pub use pipelined::Pipeline;

use crate::call::CallOptions;
use crate::node::Node;
use crate::peers::Peer;
use crate::pending::Reply;
use crate::statistics::{Makes, Operation};
pub(crate) use request::{Making, Request};

/// Most bytes that one message carries: longer reads and writes travel as several.
pub const MESSAGE_BODY_BYTES_MAX: usize = 8 << 20;

/// A region: a contiguous range of a session's address space at its memory node.
///
/// Lives until it is freed or its session ends. Copies of the handle are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// The session with its memory node.
    pub peer: Peer,
    /// Its name there.
    pub name: RegionName,
    /// Its length in bytes.
    pub length: u64,
}

/// All rights on a reference.
pub const ALL_RIGHTS: Rights = Rights::all();

/// A node's view of one memory node, with blocking operations.
pub struct Memory<'n, D> {
    pub(crate) node: &'n Node<D>,
    pub(crate) peer: Peer,
    options: CallOptions,
    /// What makes something waits for its answer even when its deadline is over.
    outlasts: bool,
}

impl<D> Clone for Memory<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Memory<'_, D> {}

impl<D> fmt::Debug for Memory<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<D> Node<D> {
    /// The memory of the memory node at `peer`.
    pub fn memory(&self, peer: Peer) -> Memory<'_, D> {
        Memory { node: self, peer, options: CallOptions::default(), outlasts: false }
    }
}

impl<'n, D> Memory<'n, D> {
    /// The same with other options for each operation.
    #[must_use]
    pub fn with_options(self, options: CallOptions) -> Self {
        Self { options, ..self }
    }

    /// For handlers: who waits for them gives up at the deadline, and then their futures are
    /// dropped; but what they have begun to make must be known, or nobody could give it back.
    pub(crate) fn outlasting(self) -> Self {
        Self { outlasts: true, ..self }
    }

    fn options_of(&self, request: &Request) -> CallOptions {
        match self.options.deadline {
            Some(deadline) if self.outlasts && request.makes() != Makes::Nothing => {
                CallOptions { deadline: Some(deadline.max(owned::PATIENCE)), ..self.options }
            }
            _ => self.options,
        }
    }

    pub(crate) fn node(&self) -> &'n Node<D> {
        self.node
    }

    pub(crate) fn options(&self) -> CallOptions {
        self.options
    }

    /// The session with the memory node.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The same operations, begun now and finished later.
    pub fn start(self) -> Pipeline<'n, D> {
        Pipeline::new(self)
    }

    /// The same operations as futures.
    pub fn asynchronous(self) -> AsyncMemory<'n, D> {
        AsyncMemory::new(self)
    }
}

impl<'n, D: Device + Wait> Memory<'n, D> {
    /// Runs a request; `take` takes what it made out of the answer.
    #[inline(always)]
    fn run<R>(
        &self,
        request: &Request,
        body: &[u8],
        sink: &mut [u8],
        take: impl FnOnce(Peer, &Reply) -> Option<R>,
    ) -> Result<R, OperationError> {
        let spec = request.spec(&self.options);
        let mut cause = Cause::BadAnswer;
        let taken = self.node.block_for(&spec, body, sink, |peer, reply| {
            if reply.status != Status::OK {
                cause = reply.refusal(spec.operation);
                return None;
            }
            take(peer, reply)
        });
        match taken {
            Ok(Some(taken)) => Ok(taken),
            Ok(None) => Err(request.error(cause)),
            Err(error) => Err(request.failed(error)),
        }
    }

    /// Runs a request that makes nothing.
    #[inline(always)]
    fn run_bare(&self, request: &Request, body: &[u8]) -> Result<(), OperationError> {
        self.run(request, body, &mut [], |_, _| Some(()))
    }

    /// Runs a request that makes a region.
    #[inline(always)]
    fn run_region(&self, request: &Request, body: &[u8]) -> Result<Region, OperationError> {
        self.run(request, body, &mut [], |peer, reply| reply.region(peer, request.length))
    }

    /// Runs a request that makes a reference.
    #[inline(always)]
    fn run_ref(&self, request: &Request, body: &[u8]) -> Result<Ref, OperationError> {
        self.run(request, body, &mut [], |_, reply| reply.last_ref())
    }

    /// Reserves a region of `length` bytes, which read as zeros until written.
    ///
    /// # Errors
    /// [`OperationError`], as for every operation: what was asked for, and why it had no effect.
    pub fn alloc(&self, length: u64) -> Result<Region, OperationError> {
        self.run_region(&Request::alloc(self.peer, length), &[])
    }

    /// Gives a region back.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn free(&self, region: Region) -> Result<(), OperationError> {
        self.run_bare(&Request::free(region), &[])
    }

    /// Fills `out` from byte `offset` of the region on. More than [`MESSAGE_BODY_BYTES_MAX`] come
    /// in several messages: writes of others may fall in between.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn read(&self, region: Region, offset: u64, out: &mut [u8]) -> Result<(), OperationError> {
        if out.len() <= MESSAGE_BODY_BYTES_MAX {
            return self.read_once(&Request::read(region, offset, out.len()), out);
        }
        Request::read(region, offset, out.len()).within(region.length)?;
        let mut at = offset;
        for part in out.chunks_mut(MESSAGE_BODY_BYTES_MAX) {
            self.read_once(&Request::read(region, at, part.len()), part)?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    fn read_once(&self, request: &Request, out: &mut [u8]) -> Result<(), OperationError> {
        let whole = |_, reply: &Reply| (reply.body_bytes as u64 == request.length).then_some(());
        self.run(request, &[], out, whole)
    }

    /// Writes `bytes` from byte `offset` of the region on. More than [`MESSAGE_BODY_BYTES_MAX`]
    /// go in several messages: an error other than of the range may leave the first of them
    /// written.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn write(&self, region: Region, offset: u64, bytes: &[u8]) -> Result<(), OperationError> {
        if bytes.len() <= MESSAGE_BODY_BYTES_MAX {
            let request = Request::write(region, offset, bytes.len());
            return self.run_bare(&request, bytes);
        }
        Request::write(region, offset, bytes.len()).within(region.length)?;
        let mut at = offset;
        for part in bytes.chunks(MESSAGE_BODY_BYTES_MAX) {
            self.run_bare(&Request::write(region, at, part.len()), part)?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// Makes a reference to `length` bytes from `offset` on, as they are now.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn create_ref(
        &self,
        region: Region,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ref, OperationError> {
        let request = Request::create_ref(region, offset, length, rights);
        self.run_ref(&request, &[])
    }

    /// Makes a region of one's own that begins with the reference's bytes. Writes to it are seen
    /// by nobody else.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn map_ref(&self, reference: &Ref) -> Result<Region, OperationError> {
        self.run_region(&Request::map_ref(self.peer, reference), &[])
    }

    /// Becomes the owner of a reference. The one returned replaces it, and works for its owner
    /// only as long as it is not claimed again.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn claim_ref(&self, reference: &Ref) -> Result<Ref, OperationError> {
        self.run_ref(&Request::claim_ref(self.peer, reference), &[])
    }

    /// Lets a reference outlive this session, until it is claimed and dropped.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn detach(&self, reference: &Ref) -> Result<(), OperationError> {
        self.run_bare(&Request::detach(self.peer, reference), &[])
    }

    /// Ends a reference.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn drop_ref(&self, reference: &Ref) -> Result<(), OperationError> {
        self.run_bare(&Request::drop_ref(self.peer, reference), &[])
    }

    /// Makes a reference to `length` bytes from byte `offset` of another, with no more rights than
    /// that has. Both stand for the same entry: dropping one ends both.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn narrow(
        &self,
        reference: &Ref,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ref, OperationError> {
        let request = Request::narrow(self.peer, reference, offset, length, rights);
        self.run_ref(&request, &[])
    }

    /// Fills `out` from byte `offset` of what the reference refers to, without mapping it. The
    /// bytes never change, so several messages read the same as one.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn read_ref(
        &self,
        reference: &Ref,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), OperationError> {
        if out.is_empty() {
            let request = Request::read_ref(self.peer, reference, offset, 0);
            return self.read_once(&request, out);
        }
        if self.has_pens()
            && let Some(read) = self.read_ref_by_pen(reference, offset, out)
        {
            return read;
        }
        if out.len() > MESSAGE_BODY_BYTES_MAX {
            Request::read_ref(self.peer, reference, offset, out.len()).within(reference.length)?;
        }
        let mut at = offset;
        for part in out.chunks_mut(MESSAGE_BODY_BYTES_MAX) {
            self.read_once(&Request::read_ref(self.peer, reference, at, part.len()), part)?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// Puts `bytes` into memory and returns the only thing left of it, a reference with all
    /// rights: alloc, write, create_ref and free in one round trip. More than
    /// [`MESSAGE_BODY_BYTES_MAX`] take several messages; nothing remains if one of them fails.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn put(&self, bytes: &[u8]) -> Result<Ref, OperationError> {
        if self.has_pens()
            && let Some(put) = self.put_by_pen(bytes)
        {
            return put;
        }
        if bytes.len() <= MESSAGE_BODY_BYTES_MAX {
            let request = Request::put(self.peer, bytes.len());
            return self.run_ref(&request, bytes);
        }
        let length = bytes.len() as u64;
        let region = self.alloc(length)?;
        let made = self
            .write(region, 0, bytes)
            .and_then(|()| self.create_ref(region, 0, length, ALL_RIGHTS));
        // If the session is lost the region is gone with it.
        let freed = self.free(region);
        let reference = made?;
        freed.map(|()| reference)
    }

    /// Reads all that a reference refers to into the beginning of `out` and ends the reference:
    /// read, claim and drop in one round trip. Returns the number of bytes. More than
    /// [`MESSAGE_BODY_BYTES_MAX`] take several messages, of which the last ends the reference.
    ///
    /// # Errors
    /// [`OperationError`]; [`Cause::RoomTooSmall`] if `out` is shorter than the reference, which
    /// then is as it was.
    pub fn take(&self, reference: &Ref, out: &mut [u8]) -> Result<usize, OperationError> {
        let request = Request::take(self.peer, reference);
        let length = request.room(out.len())?;
        if self.has_pens()
            && let Some(taken) = self.take_by_pen(reference, &mut out[..length])
        {
            return taken.map(|()| length);
        }
        if length <= MESSAGE_BODY_BYTES_MAX {
            self.read_once(&request, &mut out[..length])?;
            return Ok(length);
        }
        self.read_ref(reference, 0, &mut out[..length])?;
        let end = Request::end(self.peer, reference);
        self.run_bare(&end, &[]).map(|_| length)
    }

    /// Turns a reference into a region of one's own: map_ref, claim_ref and drop_ref in one round
    /// trip. No byte moves; writes to the region are seen by nobody else. The reference ends, and
    /// is as it was if this fails.
    ///
    /// # Errors
    /// [`OperationError`]; among others the reference lacks MAP or CONSUME.
    pub fn take_region(&self, reference: &Ref) -> Result<Region, OperationError> {
        self.run_region(&Request::take_region(self.peer, reference, None), &[])
    }

    /// As [`Memory::take_region`], and writes `bytes` from byte `offset` of the region on, in the
    /// same round trip: what a service does that works on its argument in place. At most
    /// [`MESSAGE_BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`OperationError`]; the reference then is as it was.
    pub fn take_and_write(
        &self,
        reference: &Ref,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Region, OperationError> {
        let request = Request::take_region(self.peer, reference, Some(offset));
        self.run_region(&request, bytes)
    }
}

impl Operation {
    /// What its maker has to give back.
    pub(crate) const fn makes(self) -> Makes {
        match self {
            Self::Alloc | Self::MapRef | Self::TakeRegion => Makes::Region,
            Self::CreateRef | Self::ClaimRef | Self::Put => Makes::Ref,
            // A narrowed reference stands for the same entry as the one that it was made of.
            _ => Makes::Nothing,
        }
    }

    /// Whether it is an operation of a memory node.
    pub const fn is_memory(self) -> bool {
        !matches!(self, Self::Call)
    }
}
