//! What a caller needs that maps the pool itself: where bytes are, kept there for as long as it
//! looks at them.

use super::failure::translate;
use super::memory_node::MemoryNode;
use super::steps::entry;
use crate::endpoint::host::SessionId;
use crate::memory::Memory;
use crate::store::{HolderId, PinId, RegionId};
use crate::time::Instant;
use crate::wire::memory_op::{MemoryError, RegionName};
use crate::wire::reference::{Ref, Rights};

/// The error is `None` if the operation is to be tried again, because memory is being freed.
type Result<T> = core::result::Result<T, Option<MemoryError>>;

impl<M: Memory> MemoryNode<'_, M> {
    /// Whether a reference is one of this memory's, and has at least `rights`.
    ///
    /// # Errors
    /// [`MemoryError::WrongNode`], [`MemoryError::StaleIncarnation`], [`MemoryError::Forged`],
    /// [`MemoryError::MissingRights`].
    #[inline(always)]
    pub(super) fn genuine(
        &self,
        reference: &Ref,
        rights: Rights,
    ) -> core::result::Result<(), MemoryError> {
        let identity = &self.identity;
        if reference.memory_node != identity.memory_node {
            return Err(MemoryError::WrongNode { memory_node: reference.memory_node });
        }
        if reference.incarnation != identity.incarnation {
            let incarnation = reference.incarnation;
            return Err(MemoryError::StaleIncarnation { incarnation });
        }
        if reference.tag != self.sealer.tag(reference) {
            return Err(MemoryError::Forged);
        }
        let missing = rights - reference.rights;
        if !missing.is_empty() {
            return Err(MemoryError::MissingRights { rights: missing });
        }
        Ok(())
    }

    /// Keeps what a reference refers to as it is and where it is, until
    /// [`MemoryNode::unpin`]: [`Store::pin_runs`](crate::store::Store::pin_runs) tells where.
    ///
    /// # Errors
    /// What is wrong with the reference; [`MemoryError::Exhausted`] pins, as `None`.
    pub fn pin_reference(&mut self, reference: &Ref) -> Result<PinId> {
        self.genuine(reference, Rights::MAP)?;
        let Ref { offset, length, .. } = *reference;
        self.store.pin_ref(entry(reference), offset, length).map_err(translate)
    }

    /// Lets go of what was pinned.
    pub fn unpin(&mut self, pin: PinId) {
        let unpinned = self.store.unpin(pin);
        debug_assert!(unpinned.is_ok(), "a pin ends once");
    }

    /// In whose name a session's requests are done.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`] holders.
    pub fn holder(&mut self, session: SessionId) -> Result<HolderId> {
        self.holder_of(session).map_err(|failure| failure.error)
    }

    /// Takes what a session holds out of it: its end will not end that. Who takes it must call
    /// [`MemoryNode::leave`].
    pub fn take_holder(&mut self, index: u32) -> Option<HolderId> {
        self.sessions.get_mut(index as usize)?.holder.take()
    }

    /// Gives back what was held.
    pub fn leave(&mut self, holder: HolderId, now: Instant) {
        let left = self.store.holder_leave(holder, now);
        debug_assert!(left.is_ok(), "a holder leaves once");
    }

    /// As [`Store::own_place`](crate::store::Store::own_place).
    ///
    /// # Errors
    /// What is wrong with the region or the offset.
    pub fn own_place(
        &self,
        holder: HolderId,
        RegionName(name): RegionName,
        offset: u64,
    ) -> Result<(Option<u64>, u64)> {
        self.store.own_place(holder, RegionId::from_raw(name), offset).map_err(translate)
    }

    /// As [`Store::own_page`](crate::store::Store::own_page).
    ///
    /// # Errors
    /// What is wrong with the region or the offset; that there is no memory for a copy.
    pub fn own_page(
        &mut self,
        holder: HolderId,
        RegionName(name): RegionName,
        offset: u64,
    ) -> Result<()> {
        self.store.own_page(holder, RegionId::from_raw(name), offset).map_err(translate)
    }
}
