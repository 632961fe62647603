//! DPDK as a driver: any port that DPDK knows, a NIC or a virtual device, as a
//! [`Device`](dmrpc_core::device::Device).
//!
//! * `Eal`: DPDK's environment, started once a process from our own configuration. It runs in
//!   memory: no files, no sockets, nothing to clean up however the process ends.
//! * `Port`: a port with its queue pairs and their pools of buffers, on the port's NUMA node.
//! * `Links`: one queue pair of each of several ports as one driver of frames. `net_memif` is
//!   point to point, so a node with several neighbours has several links; frames find theirs as in
//!   a switch, by the hardware addresses that came in over it.
//! * `DpdkDevice`: that, with the core's Ethernet port above it: datagrams, ARP, ICMP.
//!
//! Nothing is allocated after a device was opened. Buffers stay DPDK's from receive to the next
//! receive.
//!
//! Without the feature `dpdk` this crate is empty.
#![cfg(feature = "dpdk")]
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod account;
mod device;
mod eal;
mod error;
mod flows;
mod gate;
mod kind;
mod links;
mod loans;
#[allow(unsafe_code)]
mod log;
mod macs;
mod port;
#[allow(unsafe_code)]
mod queue;
#[allow(unsafe_code)]
mod sys;

pub use device::{DpdkDevice, DpdkStats};
pub use eal::{Eal, EalConfig};
pub use error::DpdkError;
pub use kind::listens;
pub use links::Links;
pub use loans::ZeroCopyTransmit;
pub use port::{Port, PortConfig};
pub use queue::{BURST_MAX, QueuePair, ReceiveStats, SEND_QUEUE, SendStats};
