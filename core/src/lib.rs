//! DmRPC's core: everything that decides, nothing that does I/O.
//!
//! Time, randomness, packets and memory are handed in: the core reads no clock, allocates nothing
//! and has no `std`. One call, [`endpoint::Endpoint::poll`], does a bounded amount of work and
//! returns. So the same code runs in a pinned loop over a network card, in a sleeping process over
//! a UDP socket, and in a simulator whose clock is a number.
//!
//! From the bottom up; nothing calls upwards but through a trait that the lower layer defines:
//!
//! - [`device`]: the driver seam, datagrams in bursts; [`port`]: the same on raw Ethernet frames;
//! - [`wire`]: what bytes mean; [`crc32c`]: whether they are whole;
//! - [`endpoint`]: RPC, that is sessions, slots, loss recovery, order, leases;
//! - [`service`]: what answers requests, above all the memory node;
//! - [`store`]: the page store, regions and references with copy-on-write;
//! - [`memory`]: the only way to the pool's bytes.
//!
//! [`trace`] remembers what happened last, for people.
//!
//! [`time`] is an instant and a span, both in nanoseconds.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod aes128;
pub mod crc32c;
pub mod device;
pub mod endpoint;
mod log;
pub mod memory;
pub mod pen;
pub mod port;
mod prefetch;
pub mod service;
pub mod store;
mod sync;
pub mod time;
pub mod trace;
pub mod wire;
