//! Memory operations that are begun now and finished later, many at a time.

use dmrpc_core::device::Device;
use dmrpc_core::wire::reference::{Ref, Rights};

use super::request::Request;
use super::{Memory, OperationError, Region};
use crate::args::Arg;
use crate::buffers::Buffer;
use crate::pending::{Interest, Ticket};

/// The operations of [`Memory`], each returning a ticket at once.
///
/// They travel with the next polls. [`Node::next_ended`](crate::Node::next_ended) tells what has
/// ended, [`Node::try_finish`](crate::Node::try_finish) gives its
/// [`Finished`](crate::Finished), whose methods `region`, `reference`, `bytes_read` and `checked`
/// read the result. An error of a `start` method means that nothing was begun;
/// [`Error::is_room`](crate::Error::is_room) tells what may succeed after another has ended.
///
/// Each carries at most [`MESSAGE_BODY_BYTES_MAX`](super::MESSAGE_BODY_BYTES_MAX) bytes.
pub struct Pipeline<'n, D> {
    memory: Memory<'n, D>,
}

impl<'n, D: Device> Pipeline<'n, D> {
    fn begin(
        &self,
        request: &Request,
        body: &[u8],
        reply: Option<Buffer<'_>>,
    ) -> Result<Ticket, OperationError> {
        let spec = request.spec(&self.memory.options);
        let parts = [Arg::Inline(body)];
        let ticket = self.memory.node.start(&spec, &parts, reply, Interest::Listed);
        ticket.map_err(|error| request.failed(error))
    }

    /// Begins to reserve a region of `length` bytes.
    ///
    /// # Errors
    /// [`OperationError`], as for all of these: nothing was begun.
    pub fn alloc(&self, length: u64) -> Result<Ticket, OperationError> {
        self.begin(&Request::alloc(self.memory.peer, length), &[], None)
    }

    /// Begins to give a region back.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn free(&self, region: Region) -> Result<Ticket, OperationError> {
        self.begin(&Request::free(region), &[], None)
    }

    /// Begins to read `bytes` bytes from `offset` on, into a buffer of the node's.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn read(
        &self,
        region: Region,
        offset: u64,
        bytes: usize,
    ) -> Result<Ticket, OperationError> {
        self.begin_read(&Request::read(region, offset, bytes), bytes)
    }

    /// Begins to read `bytes` bytes of what a reference refers to, into a buffer of the node's.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn read_ref(
        &self,
        reference: &Ref,
        offset: u64,
        bytes: usize,
    ) -> Result<Ticket, OperationError> {
        self.begin_read(&Request::read_ref(self.memory.peer, reference, offset, bytes), bytes)
    }

    fn begin_read(&self, request: &Request, bytes: usize) -> Result<Ticket, OperationError> {
        let buffer = self.memory.node.buffer(bytes).map_err(|error| request.failed(error))?;
        self.begin(request, &[], Some(buffer))
    }

    /// Begins to write a copy of `bytes` from `offset` on.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn write(
        &self,
        region: Region,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Ticket, OperationError> {
        self.begin(&Request::write(region, offset, bytes.len()), bytes, None)
    }

    /// Begins to write a buffer's contents from `offset` on, without copying them. The buffer goes
    /// back to the node when the write has ended, and at once if it cannot begin.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn write_buffer(
        &self,
        region: Region,
        offset: u64,
        buffer: Buffer<'_>,
    ) -> Result<Ticket, OperationError> {
        let request = Request::write(region, offset, buffer.len());
        self.begin_buffer(&request, buffer)
    }

    fn begin_buffer(
        &self,
        request: &Request,
        buffer: Buffer<'_>,
    ) -> Result<Ticket, OperationError> {
        let spec = request.spec(&self.memory.options);
        let node = self.memory.node;
        let ticket =
            node.start_with(&spec, &[], node.hand_over(Some(buffer)), None, Interest::Listed);
        ticket.map_err(|error| request.failed(error))
    }

    /// Begins to make a reference to a range as it will be when the operations begun before this
    /// one have taken effect.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn create_ref(
        &self,
        region: Region,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ticket, OperationError> {
        self.begin(&Request::create_ref(region, offset, length, rights), &[], None)
    }

    /// Begins to map a reference.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn map_ref(&self, reference: &Ref) -> Result<Ticket, OperationError> {
        self.begin(&Request::map_ref(self.memory.peer, reference), &[], None)
    }

    /// Begins to claim a reference.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn claim_ref(&self, reference: &Ref) -> Result<Ticket, OperationError> {
        self.begin(&Request::claim_ref(self.memory.peer, reference), &[], None)
    }

    /// Begins to detach a reference.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn detach(&self, reference: &Ref) -> Result<Ticket, OperationError> {
        self.begin(&Request::detach(self.memory.peer, reference), &[], None)
    }

    /// Begins to end a reference.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn drop_ref(&self, reference: &Ref) -> Result<Ticket, OperationError> {
        self.begin(&Request::drop_ref(self.memory.peer, reference), &[], None)
    }

    /// Begins to narrow a reference.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn narrow(
        &self,
        reference: &Ref,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ticket, OperationError> {
        let peer = self.memory.peer;
        self.begin(&Request::narrow(peer, reference, offset, length, rights), &[], None)
    }

    /// Begins to put a copy of `bytes` into memory, as a reference.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn put(&self, bytes: &[u8]) -> Result<Ticket, OperationError> {
        self.begin(&Request::put(self.memory.peer, bytes.len()), bytes, None)
    }

    /// Begins to put a buffer's contents into memory, without copying them.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn put_buffer(&self, buffer: Buffer<'_>) -> Result<Ticket, OperationError> {
        self.begin_buffer(&Request::put(self.memory.peer, buffer.len()), buffer)
    }

    /// Begins to read all that a reference refers to, into a buffer of the node's, and to end it.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn take(&self, reference: &Ref) -> Result<Ticket, OperationError> {
        let request = Request::take(self.memory.peer, reference);
        let bytes = request.room(super::MESSAGE_BODY_BYTES_MAX)?;
        self.begin_read(&request, bytes)
    }

    /// Begins to turn a reference into a region of one's own.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn take_region(&self, reference: &Ref) -> Result<Ticket, OperationError> {
        self.begin(&Request::take_region(self.memory.peer, reference, None), &[], None)
    }

    /// Begins to turn a reference into a region of one's own and to write a copy of `bytes` from
    /// byte `offset` of it on.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn take_and_write(
        &self,
        reference: &Ref,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Ticket, OperationError> {
        let request = Request::take_region(self.memory.peer, reference, Some(offset));
        self.begin(&request, bytes, None)
    }
}

impl<'n, D> Pipeline<'n, D> {
    pub(super) fn new(memory: Memory<'n, D>) -> Self {
        Self { memory }
    }

    pub(crate) fn memory(&self) -> Memory<'n, D> {
        self.memory
    }
}
