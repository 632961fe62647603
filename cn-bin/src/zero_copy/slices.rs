//! What a reference refers to, where it is.

use std::fmt;

use dmrpc_core::device::Device;
use dmrpc_core::wire::memory_op::{MemoryError, Resource};
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::idle::Wait;

use super::failed;
use super::place::{Keeper, Pinned};
use crate::memory::{Cause, OperationError};
use crate::node::Node;
use crate::peers::Peer;
use crate::pens::PoolPens;
use crate::statistics::Operation;

/// What pages that were never written look like.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes that lie together in the pool, or that were never written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) place: Option<u64>,
    pub(super) bytes: u64,
}

impl Run {
    /// Whether what is at `place` follows.
    pub(super) fn is_followed_by(&self, place: Option<u64>) -> bool {
        match (self.place, place) {
            (Some(own), Some(place)) => own + self.bytes == place,
            (None, None) => true,
            _ => false,
        }
    }
}

/// What a reference refers to, as slices straight into the pool: see
/// [`Memory::slices`](crate::Memory::slices).
pub struct Slices<'n, D> {
    node: &'n Node<D>,
    pinned: Pinned,
    runs: Box<[Run]>,
    bytes: u64,
}

impl<D> fmt::Debug for Slices<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, runs) = (self.bytes, self.runs.len());
        f.debug_struct("Slices").field("bytes", &bytes).field("runs", &runs).finish()
    }
}

impl<'n, D> Slices<'n, D> {
    pub(super) fn new(
        node: &'n Node<D>,
        peer: Peer,
        reference: &Ref,
    ) -> Result<Self, OperationError> {
        let error = |cause| failed(Operation::ReadRef, (0, reference.length), cause);
        let mut shared = node.shared_with(peer).map_err(error)?;
        let Some(local) = shared.as_mut() else { return Err(error(Cause::NotMapped)) };
        let pin = local.service().pin_reference(reference).map_err(|refused| {
            // Pins are what there is to wait for, and none comes back by waiting here.
            let resource = Resource::Pins;
            let limit = local.store().config().pins.into();
            let cause = refused.unwrap_or(MemoryError::Exhausted { resource, limit });
            error(Cause::Memory(cause))
        })?;
        let mut runs = Vec::new();
        let found = local
            .store()
            .pin_runs(pin, 0, reference.length, |place, bytes| runs.push(Run { place, bytes }));
        if found.is_err() {
            local.service().unpin(pin);
            // Its length was checked, so somebody has written to what is not theirs.
            return Err(error(Cause::Memory(MemoryError::StaleReference)));
        }
        let pinned = Pinned::new(local.direct(), Keeper::Pin(pin));
        drop(shared);
        Ok(Self { node, pinned, runs: runs.into(), bytes: reference.length })
    }

    /// In flush mode, where the memory node keeps the pages: as a mapping of their own.
    pub(super) fn of_mapping(node: &'n Node<D>, reference: &Ref) -> Result<Self, OperationError>
    where
        D: Device + Wait,
    {
        let (mapped, runs) = node.lend(reference)?;
        let direct = node.pens.borrow().as_ref().map(PoolPens::direct);
        let Some(direct) = direct else {
            let range = (0, reference.length);
            return Err(failed(Operation::ReadRef, range, Cause::NotMapped));
        };
        let pinned = Pinned::new(direct, Keeper::Mapping(mapped));
        Ok(Self { node, pinned, runs: runs.into(), bytes: reference.length })
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs of frames that lie together: about as many slices as there are.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The slices, in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { pinned: &self.pinned, runs: &self.runs, zeros: 0 }
    }

    /// All of it as one slice, if it lies together.
    pub fn contiguous(&self) -> Option<&[u8]> {
        match self.runs[..] {
            [Run { place: Some(place), bytes }] => Some(self.pinned.slice(place, bytes)),
            [Run { place: None, bytes }] => ZEROS.get(..usize::try_from(bytes).ok()?),
            _ => None,
        }
    }
}

impl<'s, D> IntoIterator for &'s Slices<'_, D> {
    type Item = &'s [u8];
    type IntoIter = Iter<'s>;

    fn into_iter(self) -> Iter<'s> {
        self.iter()
    }
}

impl<D> Drop for Slices<'_, D> {
    fn drop(&mut self) {
        match self.pinned.keeper() {
            Keeper::Mapping(mapped) => self.node.end_lent(mapped),
            Keeper::Pin(pin) => {
                if let Some(local) = self.node.shared.borrow_mut().as_mut() {
                    local.service().unpin(pin);
                }
            }
        }
    }
}

/// The slices of [`Slices`], in order.
#[derive(Clone, Debug)]
pub struct Iter<'s> {
    pinned: &'s Pinned,
    runs: &'s [Run],
    /// Zeros of the first run that were given out.
    zeros: u64,
}

impl<'s> Iterator for Iter<'s> {
    type Item = &'s [u8];

    fn next(&mut self) -> Option<&'s [u8]> {
        let (run, rest) = self.runs.split_first()?;
        if let Some(place) = run.place {
            self.runs = rest;
            return Some(self.pinned.slice(place, run.bytes));
        }
        let bytes = (run.bytes - self.zeros).min(ZEROS.len() as u64);
        self.zeros += bytes;
        if self.zeros == run.bytes {
            (self.runs, self.zeros) = (rest, 0);
        }
        Some(&ZEROS[..bytes as usize])
    }
}
