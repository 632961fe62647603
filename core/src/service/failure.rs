//! How the page store's errors travel.

use crate::endpoint::host::{Outcome, Reply};
use crate::memory::Memory;
use crate::store::{Error, HolderId, Object, RegionId, Resource as Pool, Store};
use crate::wire::memory_op::{MemoryError, Resource, failure_parameters};
use crate::wire::message::Status;

/// Why a request failed, and at which step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) step: u8,
    /// `None`: not now, because memory is still being reclaimed.
    pub(super) error: Option<MemoryError>,
}

impl Failure {
    pub(super) const MALFORMED: Self = Self { step: 0, error: Some(MemoryError::Malformed) };

    /// The same for a step on a region.
    pub(super) fn of_region<M: Memory>(
        step: u8,
        error: Error,
        store: &Store<M>,
        holder: HolderId,
        region: RegionId,
    ) -> Self {
        Self { step, error: with_size(store, holder, region, translate(error)) }
    }

    pub(super) fn of(step: u8, error: Error) -> Self {
        Self { step, error: translate(error) }
    }

    pub(super) const fn refused(step: u8, error: MemoryError) -> Self {
        Self { step, error: Some(error) }
    }

    pub(super) fn is_pending(&self) -> bool {
        self.error.is_none()
    }

    pub(super) fn status(&self) -> (Status, [u64; 2]) {
        self.error.unwrap_or(MemoryError::Malformed).to_wire()
    }

    /// Answers a request that failed so, or has it come again.
    pub(super) fn answer(&self, reply: &mut Reply<'_>) -> Outcome {
        answer(self.step, &self.error, reply)
    }
}

/// Answers a request that failed at that step. The error is borrowed, so that none is copied on its
/// way: a bad request is to cost no more than a good one.
#[cold]
pub(super) fn answer(step: u8, error: &Option<MemoryError>, reply: &mut Reply<'_>) -> Outcome {
    let Some(error) = error else { return Outcome::Busy };
    let (status, details) = error.to_wire();
    reply.head(status, &[], &failure_parameters(step, details));
    Outcome::Replied
}

/// A store's error as it travels. `None` if the operation is to be tried again.
pub(super) fn translate(error: Error) -> Option<MemoryError> {
    Some(match error {
        Error::Pending => return None,
        // Pins come back as soon as the answers that they are for have arrived.
        Error::OutOf { what: Pool::Pins, .. } => return None,
        Error::OutOf { what, limit, .. } => {
            MemoryError::Exhausted { resource: resource(what), limit }
        }
        Error::Quota { what, limit, wanted } => {
            MemoryError::Quota { resource: resource(what), limit, wanted }
        }
        Error::Stale { what: Object::Reference, .. } => MemoryError::StaleReference,
        Error::Stale { .. } => MemoryError::UnknownRegion,
        Error::Consumed => MemoryError::Consumed,
        Error::Dropped => MemoryError::Dropped,
        Error::Expired => MemoryError::Expired,
        Error::NotOwner => MemoryError::NotOwner,
        Error::NotYours => MemoryError::NotYours,
        // All our mappings are writable, and a stage gets each byte once from the endpoint.
        Error::ReadOnly | Error::Incomplete { .. } => MemoryError::Malformed,
        // Only processes that map the pool can do that; a peer learns that its region is lost.
        Error::Corrupt => MemoryError::UnknownRegion,
        Error::ZeroLength => MemoryError::ZeroLength,
        Error::Overflow { .. } => MemoryError::OutOfRange { end: u64::MAX, size: 0 },
        Error::Range { offset, len, size } => {
            MemoryError::OutOfRange { end: offset.saturating_add(len), size }
        }
        Error::TooLarge { len, max } => MemoryError::TooLong { length: len, max },
    })
}

/// An overflow told with the size of the region that was overrun.
pub(super) fn with_size<M: Memory>(
    store: &Store<M>,
    holder: HolderId,
    region: RegionId,
    error: Option<MemoryError>,
) -> Option<MemoryError> {
    match error {
        Some(MemoryError::OutOfRange { end: u64::MAX, size: 0 }) => {
            let size = store.region_len(holder, region).unwrap_or(0);
            Some(MemoryError::OutOfRange { end: u64::MAX, size })
        }
        other => other,
    }
}

fn resource(pool: Pool) -> Resource {
    match pool {
        Pool::Frames => Resource::Frames,
        Pool::Nodes => Resource::Nodes,
        Pool::Versions => Resource::Versions,
        Pool::Regions => Resource::Regions,
        Pool::Entries => Resource::References,
        // No operation takes participants: it is for the pool's own errors.
        Pool::Holders | Pool::Participants => Resource::Holders,
        Pool::Pins => Resource::Pins,
        Pool::Stages => Resource::Stages,
        Pool::Detached => Resource::Detached,
        Pool::Holds => Resource::VersionHolders,
    }
}
