//! The driver that a command line chooses, as one type of device.
//!
//! [`DriverArgs`] are the flags, [`Driver`] is what they start, [`AnyDevice`] what it opens for
//! each poll loop. A device of one driver or another costs a branch a call, which is always taken
//! the same way.
//!
//! DPDK needs the feature `dpdk`; without it asking for DPDK is an error that says what to do.
#![forbid(unsafe_code)]

mod args;
mod device;
mod driver;
mod links;

pub use args::{DriverArgs, DriverKind, ZeroCopyTransmit};
pub use device::{AnyDevice, AnyRx, AnyTx, Chosen, ChosenRx, ChosenTx};
pub use driver::{Driver, DriverError, data_pool};
pub use links::{LinkKind, LocalLinks, local_links};

/// Largest datagram through a pool unless another is asked for: a page and what goes with it.
pub const CXL_DATAGRAM_BYTES: usize = 4400;
/// Largest datagram over DPDK unless another is asked for: a frame of Ethernet's usual 1514 bytes.
pub const DPDK_DATAGRAM_BYTES: usize = 1472;
/// Largest datagram over UDP unless another is asked for.
pub const UDP_DATAGRAM_BYTES: usize = 9000;
