//! One suite of checks for every driver, generic over the device.
//!
//! A driver implements [`Harness`] for its tests and lists nothing: the macro makes a test of each
//! check.
//!
//! ```ignore
//! struct Loopback;
//! impl dmrpc_conformance::Harness for Loopback { /* how to open devices */ }
//! dmrpc_conformance::conformance!(Loopback);
//! // Needs `#[global_allocator] static A: CountingAllocator = CountingAllocator;` in the same test
//! // binary.
//! dmrpc_conformance::conformance_allocations!(Loopback);
//! ```
//!
//! The checks hold on a medium that loses nothing below the depth that the harness states. A check
//! fails by a panic that says what came instead.
#![deny(unsafe_code)]

pub mod checks;
#[allow(unsafe_code)]
mod counting;
mod processes;
mod rights;
mod traffic;

pub use counting::{CountingAllocator, allocations_of_this_thread};
pub use processes::{Killed, ip};
pub use rights::may;

use std::net::SocketAddrV4;

use dmrpc_core::device::Device;

/// What becomes of a datagram without any bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroSize {
    /// It arrives as a packet without bytes.
    Delivered,
    /// It does not arrive, and nothing else is disturbed.
    Dropped,
}

/// How the suite gets at a driver.
pub trait Harness {
    /// The driver's device.
    type Device: Device;

    /// Opens `count` devices that reach each other, with their addresses. Asked once a check, for
    /// at most [`Harness::devices_max`].
    fn open(&mut self, count: usize) -> Vec<(Self::Device, SocketAddrV4)>;

    /// Most devices that can reach each other: 2 on a point-to-point medium.
    fn devices_max(&self) -> usize;

    /// How many datagrams of the largest size may be on their way to a device, or wait in it,
    /// without a loss. At least 1.
    fn depth(&self) -> usize;

    /// What becomes of a datagram without any bytes.
    fn zero_size(&self) -> ZeroSize;

    /// An address where nobody is, if datagrams may be sent to one.
    fn nobody(&self) -> Option<SocketAddrV4> {
        None
    }

    /// Lets some time pass on the medium; called between polls. A virtual network steps its clock.
    fn settle(&mut self) {
        std::thread::yield_now();
    }
}

/// Makes a test of every check but the one that counts allocations. Takes an expression that makes
/// a [`Harness`].
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::conformance!(@each $harness;
            capabilities_are_sane,
            nothing_comes_unasked,
            a_datagram_arrives_as_it_was_sent,
            a_burst_keeps_its_order,
            every_size_arrives_whole,
            what_is_lent_arrives_and_comes_back,
            empty_datagrams_do_as_stated,
            a_full_queue_recovers,
            many_senders_reach_one_receiver,
            a_request_is_answered_from_its_own_buffer,
            buffers_come_home,
            nothing_is_lost_below_the_depth,
            both_directions_at_once,
            an_index_beyond_the_burst_panics,
            a_datagram_too_long_panics,
            nobody_there_disturbs_nobody,
        );
    };
    (@each $harness:expr; $($check:ident),+ $(,)?) => {
        $(
            #[test]
            fn $check() {
                $crate::checks::$check(&mut $harness);
            }
        )+
    };
}

/// Makes a test of the check that counts allocations. The test binary must have
/// [`CountingAllocator`] as its global allocator.
#[macro_export]
macro_rules! conformance_allocations {
    ($harness:expr) => {
        $crate::conformance!(@each $harness; nothing_allocates_after_open);
    };
}
