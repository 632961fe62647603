//! DmRPC's core: everything that decides, nothing that does I/O.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod crc32c;
pub mod device;
pub mod endpoint;
pub mod memory;
pub mod port;
pub mod service;
pub mod store;
pub mod time;
pub mod wire;
