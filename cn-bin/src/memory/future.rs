//! Memory operations as futures.

use dmrpc_core::device::Device;
use dmrpc_core::wire::reference::{Ref, Rights};

use super::request::Request;
use super::{ALL_RIGHTS, MESSAGE_BODY_BYTES_MAX, Memory, OperationError, Region};
use crate::args::Arg;
use crate::call::Finished;

/// The operations of [`Memory`] as futures: for handlers, and for
/// [`Node::block_on`](crate::Node::block_on).
///
/// Bodies longer than a head pass through buffers of the node's, at the price of a copy. Errors
/// are those of [`Memory`].
pub struct AsyncMemory<'n, D> {
    pub(super) memory: Memory<'n, D>,
}

impl<D> Clone for AsyncMemory<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for AsyncMemory<'_, D> {}

impl<'n, D> AsyncMemory<'n, D> {
    pub(super) fn new(memory: Memory<'n, D>) -> Self {
        Self { memory }
    }

    pub(crate) fn node(&self) -> &'n crate::Node<D> {
        self.memory.node
    }

    /// The session with the memory node.
    pub fn peer(&self) -> crate::Peer {
        self.memory.peer
    }
}

impl<'n, D: Device> AsyncMemory<'n, D> {
    pub(super) async fn run(
        &self,
        request: &Request,
        body: &[u8],
        room: usize,
    ) -> Result<Finished<'n>, OperationError> {
        let options = self.memory.options_of(request);
        let spec = request.spec(&options);
        let parts = [Arg::Inline(body)];
        let finished = self.memory.node.run(&spec, &parts, room).await;
        finished.map_err(|error| request.failed(error))?.checked()
    }

    async fn read_once(&self, request: &Request, out: &mut [u8]) -> Result<(), OperationError> {
        let finished = self.run(request, &[], out.len()).await?;
        if let Some(buffer) = finished.bytes_read()? {
            out.copy_from_slice(&buffer);
        }
        Ok(())
    }

    /// As [`Memory::alloc`].
    ///
    /// # Errors
    /// [`OperationError`], as all of these.
    pub async fn alloc(&self, length: u64) -> Result<Region, OperationError> {
        self.run(&Request::alloc(self.memory.peer, length), &[], 0).await?.region()
    }

    /// As [`Memory::free`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn free(&self, region: Region) -> Result<(), OperationError> {
        self.run(&Request::free(region), &[], 0).await.map(drop)
    }

    /// As [`Memory::read`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn read(
        &self,
        region: Region,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), OperationError> {
        if out.is_empty() {
            return self.read_once(&Request::read(region, offset, 0), out).await;
        }
        if out.len() > MESSAGE_BODY_BYTES_MAX {
            Request::read(region, offset, out.len()).within(region.length)?;
        }
        let mut at = offset;
        for part in out.chunks_mut(MESSAGE_BODY_BYTES_MAX) {
            self.read_once(&Request::read(region, at, part.len()), part).await?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// As [`Memory::write`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn write(
        &self,
        region: Region,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), OperationError> {
        if bytes.is_empty() {
            return self.run(&Request::write(region, offset, 0), bytes, 0).await.map(drop);
        }
        if bytes.len() > MESSAGE_BODY_BYTES_MAX {
            Request::write(region, offset, bytes.len()).within(region.length)?;
        }
        let mut at = offset;
        for part in bytes.chunks(MESSAGE_BODY_BYTES_MAX) {
            self.run(&Request::write(region, at, part.len()), part, 0).await?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// As [`Memory::create_ref`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn create_ref(
        &self,
        region: Region,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ref, OperationError> {
        let request = Request::create_ref(region, offset, length, rights);
        self.run(&request, &[], 0).await?.reference()
    }

    /// As [`Memory::map_ref`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn map_ref(&self, reference: &Ref) -> Result<Region, OperationError> {
        self.run(&Request::map_ref(self.memory.peer, reference), &[], 0).await?.region()
    }

    /// As [`Memory::claim_ref`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn claim_ref(&self, reference: &Ref) -> Result<Ref, OperationError> {
        self.run(&Request::claim_ref(self.memory.peer, reference), &[], 0).await?.reference()
    }

    /// As [`Memory::detach`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn detach(&self, reference: &Ref) -> Result<(), OperationError> {
        self.run(&Request::detach(self.memory.peer, reference), &[], 0).await.map(drop)
    }

    /// As [`Memory::drop_ref`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn drop_ref(&self, reference: &Ref) -> Result<(), OperationError> {
        self.run(&Request::drop_ref(self.memory.peer, reference), &[], 0).await.map(drop)
    }

    /// As [`Memory::narrow`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn narrow(
        &self,
        reference: &Ref,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ref, OperationError> {
        let request = Request::narrow(self.memory.peer, reference, offset, length, rights);
        self.run(&request, &[], 0).await?.reference()
    }

    /// As [`Memory::read_ref`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn read_ref(
        &self,
        reference: &Ref,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), OperationError> {
        let peer = self.memory.peer;
        if out.is_empty() {
            return self.read_once(&Request::read_ref(peer, reference, offset, 0), out).await;
        }
        if out.len() > MESSAGE_BODY_BYTES_MAX {
            Request::read_ref(peer, reference, offset, out.len()).within(reference.length)?;
        }
        let mut at = offset;
        for part in out.chunks_mut(MESSAGE_BODY_BYTES_MAX) {
            self.read_once(&Request::read_ref(peer, reference, at, part.len()), part).await?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// As [`Memory::put`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn put(&self, bytes: &[u8]) -> Result<Ref, OperationError> {
        if bytes.len() <= MESSAGE_BODY_BYTES_MAX {
            let request = Request::put(self.memory.peer, bytes.len());
            return self.run(&request, bytes, 0).await?.reference();
        }
        let length = bytes.len() as u64;
        let region = self.own(self.alloc(length).await?);
        self.write(*region, 0, bytes).await?;
        self.create_ref(*region, 0, length, ALL_RIGHTS).await
    }

    /// As [`Memory::take`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn take(&self, reference: &Ref, out: &mut [u8]) -> Result<usize, OperationError> {
        let request = Request::take(self.memory.peer, reference);
        let length = request.room(out.len())?;
        if length <= MESSAGE_BODY_BYTES_MAX {
            self.read_once(&request, &mut out[..length]).await?;
            return Ok(length);
        }
        self.read_ref(reference, 0, &mut out[..length]).await?;
        let end = Request::end(self.memory.peer, reference);
        self.run(&end, &[], 0).await.map(|_| length)
    }

    /// As [`Memory::take_region`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn take_region(&self, reference: &Ref) -> Result<Region, OperationError> {
        let request = Request::take_region(self.memory.peer, reference, None);
        self.run(&request, &[], 0).await?.region()
    }

    /// As [`Memory::take_and_write`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn take_and_write(
        &self,
        reference: &Ref,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Region, OperationError> {
        let request = Request::take_region(self.memory.peer, reference, Some(offset));
        self.run(&request, bytes, 0).await?.region()
    }
}
