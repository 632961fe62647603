//! DmRPC's core: everything that decides, nothing that does I/O.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod device;
pub mod memory;
pub mod store;
pub mod time;
