//! Services that come with the library: what answers requests above an endpoint and knows nothing
//! of packets.
//!
//! [`MemoryNode`] is the [`Host`](crate::endpoint::Host) of a memory node: it decodes vectors of
//! memory operations and applies them to the page store.

#![forbid(unsafe_code)]

mod detached;
#[cfg(test)]
mod detached_tests;
mod direct;
mod failure;
mod kept;
mod memory_node;
mod one_step;
#[cfg(test)]
mod one_step_tests;
mod places;
mod statistics;
mod steps;
mod transfers;

pub use detached::{DetachedAccount, Detachment, Detachments};
pub use memory_node::{CORE_COUNTS, Identity, MemoryNode, OPERATIONS, Operation, SessionHolder};
pub use transfers::Transfer;
