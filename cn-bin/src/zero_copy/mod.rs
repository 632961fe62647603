//! Zero copy: bytes of a pool that this process maps, where they are.
//!
//! [`Memory::slices`] gives what a reference refers to as slices straight into the pool, one for
//! each run of frames that lie together. [`Memory::view`] gives a region's own pages to be written
//! where they are; a page that others see too, or that was never written, is first made own, which
//! copies it, when the caller says so and one at a time.
//!
//! Both need a pool that this process maps ([`Node::share_pool`](crate::Node::share_pool), or
//! `--local cxl` in the programs). Over a network they are refused with [`Cause::NotMapped`].
//! Slices in flush mode are of a mapping of their own, in a session that the node opens for that;
//! what is written by a view there is written back page by page, before anybody may see it.
//!
//! # Example
//! ```no_run
//! use dmrpc_cn::memory::ALL_RIGHTS;
//! use dmrpc_cn::{Memory, OperationError, Ref};
//! # use dmrpc_core::device::Device;
//! # use dmrpc_host::idle::Wait;
//! fn longest_line<D: Device + Wait>(
//!     memory: Memory<'_, D>,
//!     reference: &Ref,
//! ) -> Result<usize, OperationError> {
//!     // No byte is copied: what is searched is the pool.
//!     let slices = memory.slices(reference)?;
//!     let (mut longest, mut line) = (0, 0);
//!     for byte in slices.iter().flatten() {
//!         line = if *byte == b'\n' { 0 } else { line + 1 };
//!         longest = longest.max(line);
//!     }
//!     Ok(longest)
//! }
//!
//! fn greet<D: Device + Wait>(memory: Memory<'_, D>) -> Result<Ref, OperationError> {
//!     let region = memory.alloc(1 << 20)?;
//!     let mut view = memory.view(region)?;
//!     view.make_own(0)?[..5].copy_from_slice(b"hello");
//!     drop(view);
//!     memory.create_ref(region, 0, 5, ALL_RIGHTS)
//! }
//! ```

mod lent;
mod place;
mod slices;
mod view;
mod viewed;

pub(crate) use lent::Lent;
pub use slices::{Iter, Slices};
pub use view::View;
pub(crate) use viewed::Views;

use dmrpc_core::device::Device;
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::idle::Wait;

use crate::memory::{Cause, Memory, OperationError, Region};
use crate::statistics::Operation;

fn failed(operation: Operation, (offset, length): (u64, u64), cause: Cause) -> OperationError {
    OperationError { operation, offset, length, cause }
}

impl<'n, D: Device + Wait> Memory<'n, D> {
    /// What a reference refers to, as slices straight into the pool. The bytes stay as they are,
    /// and where they are, until the result is dropped, whatever others write or drop meanwhile.
    /// Reading what was never written yields zeros.
    ///
    /// # Errors
    /// [`Cause::NotMapped`] if this process does not map the memory; else as
    /// [`Memory::read_ref`].
    pub fn slices(&self, reference: &Ref) -> Result<Slices<'n, D>, OperationError> {
        if self.node.has_pens(self.peer) {
            return Slices::of_mapping(self.node, reference);
        }
        Slices::new(self.node, self.peer, reference)
    }

    /// Direct access to the pages of a region that are its own. Until the view is dropped, the
    /// region can be used through it alone: operations on it are refused with
    /// [`Error::Viewed`](crate::Error::Viewed).
    ///
    /// # Errors
    /// [`Cause::NotMapped`] if this process does not map the memory; [`Cause::Call`] if there is a
    /// view of the region already, or the session is over.
    pub fn view(&self, region: Region) -> Result<View<'n, D>, OperationError> {
        View::new(self.node, region)
    }
}
