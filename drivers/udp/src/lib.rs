//! A kernel UDP socket as a [`Device`](dmrpc_core::device::Device): the driver that runs on any
//! Linux machine, without root, huge pages or a special NIC.
//!
//! * All buffers are allocated by [`UdpDevice::open`]; nothing is allocated later.
//! * Nothing blocks except [`UdpDevice::wait`], which is there for a poll loop that wants to sleep.
//! * A lone datagram costs one `recvfrom` or `sendto`; bursts go through `recvmmsg` and `sendmmsg`.
//!   The receiving half changes over by itself: two receives in a row that found something mean
//!   that more is waiting, a burst of fewer than two means that there is not.
//! * Neighbouring datagrams of one length to one peer go through the kernel as one train (UDP GSO
//!   and GRO), unless [`UdpConfig::trains`] forbids it or the kernel cannot. They are received
//!   whole from the first burst on that shows that it pays.
//! * A datagram longer than the configured largest one is dropped and counted. An empty datagram is
//!   legal in UDP and is delivered with no bytes.
//! * What the kernel will not take now stays queued and goes with the next flush; a datagram that
//!   it refuses for good (no route, too long for the path) is dropped and counted. What ICMP
//!   reports about a datagram on its way is no error here: the protocol above finds out.
//!
//! A datagram longer than the MTU of the path (loopback: 64 KiB, Ethernet: usually 1500 bytes less
//! 28 for the headers) is fragmented by IP, which works but loses the whole datagram with any
//! fragment: configure [`UdpConfig::datagram_bytes_max`] to fit the network.
#![deny(unsafe_code)]

mod config;
mod device;
mod memory;
mod stats;
#[allow(unsafe_code)]
mod sys;
#[allow(unsafe_code)]
mod transfer;

pub use config::{DATAGRAM_BYTES_LIMIT, UdpConfig, UdpError};
pub use device::{UdpDevice, UdpRx, UdpTx};
pub use stats::UdpStats;

/// Most datagrams that one receive hands over, and that one system call sends.
pub const BURST_MAX: usize = 32;
