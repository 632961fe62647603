//! Regions and references that are given back when their handle is dropped.
//!
//! A handler whose caller gives up is dropped where it waits, and one that fails leaves by `?`:
//! what it had allocated, mapped, claimed or made would stay with the service's session for as
//! long as that lives. Whoever holds it by these guards leaves nothing behind:
//!
//! ```no_run
//! # use dmrpc_cn::memory::ALL_RIGHTS;
//! # use dmrpc_cn::{Arg, Context, IncomingCall, OperationError, Ref, Status};
//! # use dmrpc_core::device::Device;
//! async fn changed<D: Device>(
//!     context: Context<'_, D>,
//!     picture: &Ref,
//! ) -> Result<Ref, Box<dyn std::error::Error>> {
//!     let memory = context.memory_of(picture).await?;
//!     let copy = memory.own(memory.map_ref(picture).await?);
//!     memory.write(*copy, 0, b"changed").await?;
//!     // The region is freed here, and wherever this function ends before.
//!     Ok(memory.create_ref(*copy, 0, copy.length, ALL_RIGHTS).await?)
//! }
//! ```
//!
//! Dropping a guard cannot wait, so it puts a note into a queue of the node's, and the next poll
//! begins the operation. Nobody waits for its end; while a memory node is suspected, the note stays
//! in the queue. The same holds for what an operation makes that is given up under way: the end of
//! its call finds that nobody wants it, and gives it back.

use std::fmt;
use std::ops::Deref;

use dmrpc_core::device::Device;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::reference::Ref;

use super::request::Request;
use super::{AsyncMemory, Memory, Region};
use crate::call::{CallOptions, Finished};
use crate::error::Error;
use crate::node::Node;
use crate::peers::Peer;
use crate::pending::Interest;
use crate::statistics::Makes;

/// How long a call waits for its answer whose effect must not stay in doubt: longer than a lease,
/// so that either it has an answer, or its session is over and all it had with it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Something of this node's that nobody has any more.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unwanted {
    /// To be freed.
    Region(Region),
    /// To be dropped, in the session that owns it.
    Ref(Peer, Ref),
}

impl Unwanted {
    /// What a call has made that ended after it was given up.
    fn of(finished: Finished<'_>) -> Option<Self> {
        let peer = finished.peer;
        match finished.operation.makes() {
            Makes::Nothing => None,
            Makes::Region => finished.region().ok().map(Self::Region),
            Makes::Ref => finished.reference().ok().map(|reference| Self::Ref(peer, reference)),
        }
    }
}

/// A region that is freed when this is dropped. Stands for its [`Region`], by `*owned`.
pub struct OwnedRegion<'n, D> {
    node: &'n Node<D>,
    region: Region,
    kept: bool,
}

/// A reference that is dropped when this is, in the session that owns it. Stands for its [`Ref`],
/// by `*owned`.
pub struct OwnedRef<'n, D> {
    node: &'n Node<D>,
    peer: Peer,
    reference: Ref,
    kept: bool,
}

impl<D> OwnedRegion<'_, D> {
    /// The region, which nobody frees any more.
    #[must_use = "the region is to be freed by whoever has it now"]
    pub fn keep(mut self) -> Region {
        self.kept = true;
        self.region
    }
}

impl<D> OwnedRef<'_, D> {
    /// The reference, which nobody drops any more: for who hands it on to another owner.
    #[must_use = "the reference is to be dropped by whoever has it now"]
    pub fn keep(mut self) -> Ref {
        self.kept = true;
        self.reference
    }
}

impl<D> Deref for OwnedRegion<'_, D> {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.region
    }
}

impl<D> Deref for OwnedRef<'_, D> {
    type Target = Ref;

    fn deref(&self) -> &Ref {
        &self.reference
    }
}

impl<D> fmt::Debug for OwnedRegion<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedRegion").field(&self.region).finish()
    }
}

impl<D> fmt::Debug for OwnedRef<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedRef").field(&self.reference).finish()
    }
}

impl<D> Drop for OwnedRegion<'_, D> {
    fn drop(&mut self) {
        if !self.kept {
            self.node.give_back_later(Unwanted::Region(self.region));
        }
    }
}

impl<D> Drop for OwnedRef<'_, D> {
    fn drop(&mut self) {
        if !self.kept {
            self.node.give_back_later(Unwanted::Ref(self.peer, self.reference));
        }
    }
}

impl<'n, D> Memory<'n, D> {
    /// A guard that frees a region of this node's when it is dropped.
    pub fn own(&self, region: Region) -> OwnedRegion<'n, D> {
        OwnedRegion { node: self.node, region, kept: false }
    }

    /// A guard that drops a reference when it is dropped itself. The reference must be one that
    /// this session owns: one that it made, or claimed.
    pub fn own_ref(&self, reference: Ref) -> OwnedRef<'n, D> {
        OwnedRef { node: self.node, peer: self.peer, reference, kept: false }
    }
}

impl<'n, D> AsyncMemory<'n, D> {
    /// As [`Memory::own`].
    pub fn own(&self, region: Region) -> OwnedRegion<'n, D> {
        self.memory.own(region)
    }

    /// As [`Memory::own_ref`].
    pub fn own_ref(&self, reference: Ref) -> OwnedRef<'n, D> {
        self.memory.own_ref(reference)
    }
}

impl<D> Node<D> {
    fn give_back_later(&self, unwanted: Unwanted) {
        self.state.borrow_mut().unwanted.push(unwanted);
        self.chores.set(true);
    }
}

impl<D: Device> Node<D> {
    /// Begins to give back what nobody has any more. What cannot begin yet stays in the queue.
    /// Returns whether any is left.
    pub(crate) fn give_back(&self) -> bool {
        loop {
            let ended = self.state.borrow_mut().given_up.pop();
            let Some(ticket) = ended else { break };
            if let Some(Ok(finished)) = self.finish(ticket)
                && let Some(unwanted) = Unwanted::of(finished)
            {
                self.state.borrow_mut().unwanted.push(unwanted);
            }
        }
        let mut at = 0;
        loop {
            let unwanted = self.state.borrow().unwanted.get(at).copied();
            let Some(unwanted) = unwanted else { break };
            match self.begin_giving_back(unwanted) {
                // There is no place for a call: no more for the others.
                Err(error) if error.is_room() => break,
                // Its session may recover, and views end; others go on.
                Err(Error::Suspected { .. } | Error::Viewed) => at += 1,
                // If not begun, the session is over, and took with it what it owned.
                Ok(()) | Err(_) => drop(self.state.borrow_mut().unwanted.swap_remove(at)),
            }
        }
        !self.state.borrow().unwanted.is_empty()
    }

    fn begin_giving_back(&self, unwanted: Unwanted) -> Result<(), Error> {
        let request = match unwanted {
            Unwanted::Region(region) => Request::free(region),
            Unwanted::Ref(peer, reference) => Request::drop_ref(peer, &reference),
        };
        let options = CallOptions { deadline: Some(PATIENCE), ..CallOptions::default() };
        let spec = request.spec(&options);
        self.start(&spec, &[], None, Interest::Abandoned).map(drop)
    }
}
