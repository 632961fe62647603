//! Pools whose memory this process works on itself.

use std::cell::RefMut;
use std::net::SocketAddrV4;
use std::sync::Arc;

use dmrpc_core::device::Device;
use dmrpc_core::store::FormatError;
use dmrpc_cxl::{Mode, Participant, Pool};

use crate::error::Error;
use crate::local::LocalMemory;
use crate::memory::Cause;
use crate::node::Node;
use crate::peers::Peer;
use crate::pens::PoolPens;

impl<D: Device> Node<D> {
    /// Runs operations on the memory of `pool` in this process from now on, as participant `index`
    /// of its store, instead of asking the memory node that looks after it, whose address is that
    /// of the pool's participant 0. Nobody else may be that participant. In flush mode the memory
    /// node goes on running them, since counts need an owner there, but not what moves bytes: that
    /// is done here, on pages that it told the place of.
    ///
    /// # Errors
    /// [`FormatError`]: the pool's store is not there yet, or the participant's earlier life has
    /// not been recovered, or the node shares a pool already.
    pub fn share_pool(&self, pool: &Arc<Pool>, index: u32) -> Result<(), FormatError> {
        if self.shared.borrow().is_some() || self.pens.borrow().is_some() {
            return Err(FormatError::Attached { participant: index });
        }
        if pool.geometry().mode == Mode::Coherent {
            let shared = LocalMemory::attach(pool, index, self.config.client_sessions, None)?;
            *self.shared.borrow_mut() = Some(shared);
        } else {
            *self.pens.borrow_mut() = Some(PoolPens::new(pool, self.config.calls));
        }
        Ok(())
    }

    /// As [`Node::share_pool`] for a node whose calls go by a network: the pool, in coherent mode,
    /// is that of the memory node at `address`, and `place` this process's in it. It has to be that
    /// memory node's own pool: references of another one are forgeries here.
    ///
    /// # Errors
    /// As [`Node::share_pool`].
    pub fn share_memory_of(
        &self,
        address: SocketAddrV4,
        pool: &Arc<Pool>,
        place: Participant,
    ) -> Result<(), FormatError> {
        let participant = place.index();
        if self.shared.borrow().is_some() || pool.geometry().mode != Mode::Coherent {
            return Err(FormatError::Attached { participant });
        }
        let sessions = self.config.client_sessions;
        let shared = LocalMemory::attach(pool, participant, sessions, Some(place))?;
        *self.shared.borrow_mut() = Some(shared);
        self.shared_at.set(address);
        Ok(())
    }
}

impl<D> Node<D> {
    /// Whether operations on the memory at `address` are run in this process.
    pub fn shares(&self, address: SocketAddrV4) -> bool {
        address == self.shared_at.get() && self.shared.borrow().is_some()
    }

    /// Where the memory node of the pool is reached that is shared.
    pub(crate) fn shared_at(&self) -> SocketAddrV4 {
        self.shared_at.get()
    }

    /// The memory that `peer` looks after, if this process maps it: a borrow to be ended soon.
    ///
    /// # Errors
    /// [`Cause::NotMapped`]; [`Cause::Call`] if the session is over.
    pub(crate) fn shared_with(&self, peer: Peer) -> Result<RefMut<'_, Option<LocalMemory>>, Cause> {
        let found = self.state.borrow().peers.get(peer).map(|line| (line.address, line.over()));
        match found {
            None => Err(Cause::Call(Error::StalePeer)),
            Some((address, Some(why))) => Err(Cause::Call(Error::SessionLost { address, why })),
            Some((address, _)) if !self.shares(address) => Err(Cause::NotMapped),
            Some(_) => Ok(self.shared.borrow_mut()),
        }
    }
}
