//! Memory operations of a handle.

use dmrpc_core::wire::reference::{Ref, Rights};

use super::{Handle, RemoteError};
use crate::memory::{MESSAGE_BODY_BYTES_MAX, Region, Request};
use crate::peers::Peer;

impl Handle {
    /// As [`Memory::alloc`](crate::Memory::alloc).
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn alloc(&mut self, peer: Peer, length: u64) -> Result<Region, RemoteError> {
        let (finished, _) = self.memory(Request::alloc(peer, length), Vec::new(), 0)?;
        Ok(finished.region()?)
    }

    /// As [`Memory::free`](crate::Memory::free).
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn free(&mut self, region: Region) -> Result<(), RemoteError> {
        self.memory(Request::free(region), Vec::new(), 0).map(drop)
    }

    /// As [`Memory::read`](crate::Memory::read).
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn read(
        &mut self,
        region: Region,
        offset: u64,
        bytes: usize,
    ) -> Result<Vec<u8>, RemoteError> {
        self.read_parts(bytes, offset, region.length, |at, part| Request::read(region, at, part))
    }

    /// Reads in as many messages as it takes, of something that has `size` bytes.
    fn read_parts(
        &mut self,
        bytes: usize,
        offset: u64,
        size: u64,
        request: impl Fn(u64, usize) -> Request,
    ) -> Result<Vec<u8>, RemoteError> {
        if bytes > MESSAGE_BODY_BYTES_MAX {
            request(offset, bytes).within(size)?;
        }
        let mut all = Vec::with_capacity(bytes);
        loop {
            let part = (bytes - all.len()).min(MESSAGE_BODY_BYTES_MAX);
            let at = offset.saturating_add(all.len() as u64);
            let (finished, out) = self.memory(request(at, part), Vec::new(), part)?;
            finished.whole_body()?;
            all.extend_from_slice(&out);
            if all.len() == bytes {
                return Ok(all);
            }
        }
    }

    /// As [`Memory::write`](crate::Memory::write).
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn write(&mut self, region: Region, offset: u64, bytes: &[u8]) -> Result<(), RemoteError> {
        if bytes.len() > MESSAGE_BODY_BYTES_MAX {
            Request::write(region, offset, bytes.len()).within(region.length)?;
        }
        let mut at = 0;
        loop {
            let part = &bytes[at..bytes.len().min(at + MESSAGE_BODY_BYTES_MAX)];
            let request = Request::write(region, offset.saturating_add(at as u64), part.len());
            self.memory(request, part.to_vec(), 0)?;
            at += part.len();
            if at == bytes.len() {
                return Ok(());
            }
        }
    }

    /// As [`Memory::create_ref`](crate::Memory::create_ref).
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn create_ref(
        &mut self,
        region: Region,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ref, RemoteError> {
        let request = Request::create_ref(region, offset, length, rights);
        Ok(self.memory(request, Vec::new(), 0)?.0.reference()?)
    }

    /// As [`Memory::map_ref`](crate::Memory::map_ref), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn map_ref(&mut self, peer: Peer, reference: &Ref) -> Result<Region, RemoteError> {
        Ok(self.memory(Request::map_ref(peer, reference), Vec::new(), 0)?.0.region()?)
    }

    /// As [`Memory::claim_ref`](crate::Memory::claim_ref), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn claim_ref(&mut self, peer: Peer, reference: &Ref) -> Result<Ref, RemoteError> {
        Ok(self.memory(Request::claim_ref(peer, reference), Vec::new(), 0)?.0.reference()?)
    }

    /// As [`Memory::detach`](crate::Memory::detach), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn detach(&mut self, peer: Peer, reference: &Ref) -> Result<(), RemoteError> {
        self.memory(Request::detach(peer, reference), Vec::new(), 0).map(drop)
    }

    /// As [`Memory::narrow`](crate::Memory::narrow), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn narrow(
        &mut self,
        peer: Peer,
        reference: &Ref,
        offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<Ref, RemoteError> {
        let request = Request::narrow(peer, reference, offset, length, rights);
        Ok(self.memory(request, Vec::new(), 0)?.0.reference()?)
    }

    /// As [`Memory::read_ref`](crate::Memory::read_ref), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn read_ref(
        &mut self,
        peer: Peer,
        reference: &Ref,
        offset: u64,
        bytes: usize,
    ) -> Result<Vec<u8>, RemoteError> {
        let request = |at, part| Request::read_ref(peer, reference, at, part);
        self.read_parts(bytes, offset, reference.length, request)
    }

    /// As [`Memory::take_region`](crate::Memory::take_region), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn take_region(&mut self, peer: Peer, reference: &Ref) -> Result<Region, RemoteError> {
        let request = Request::take_region(peer, reference, None);
        Ok(self.memory(request, Vec::new(), 0)?.0.region()?)
    }

    /// As [`Memory::take_and_write`](crate::Memory::take_and_write), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn take_and_write(
        &mut self,
        peer: Peer,
        reference: &Ref,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<Region, RemoteError> {
        let request = Request::take_region(peer, reference, Some(offset));
        Ok(self.memory(request, bytes, 0)?.0.region()?)
    }

    /// As [`Memory::drop_ref`](crate::Memory::drop_ref), at the memory node at `peer`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn drop_ref(&mut self, peer: Peer, reference: &Ref) -> Result<(), RemoteError> {
        self.memory(Request::drop_ref(peer, reference), Vec::new(), 0).map(drop)
    }

    /// As [`Memory::put`](crate::Memory::put), at the memory node at `peer`: at most
    /// [`MESSAGE_BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn put(&mut self, peer: Peer, bytes: Vec<u8>) -> Result<Ref, RemoteError> {
        Ok(self.memory(Request::put(peer, bytes.len()), bytes, 0)?.0.reference()?)
    }

    /// As [`Memory::take`](crate::Memory::take), at the memory node at `peer`: at most
    /// [`MESSAGE_BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn take(&mut self, peer: Peer, reference: &Ref) -> Result<Vec<u8>, RemoteError> {
        let request = Request::take(peer, reference);
        let room = request.room(MESSAGE_BODY_BYTES_MAX)?;
        let (finished, out) = self.memory(request, Vec::new(), room)?;
        finished.whole_body()?;
        Ok(out)
    }
}
