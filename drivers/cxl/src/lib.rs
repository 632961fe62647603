//! Pools of memory that several processes, or hosts, map at once, and RPC through them.
//!
//! A *pool* is a range of memory chosen by path: a device-dax (`/dev/dax0.0`), a file of hugetlbfs
//! or tmpfs, or a memfd. To the code above they are the same. It is laid out as follows; all
//! numbers are little-endian, all places are offsets from the pool's start:
//!
//! | part | what it is |
//! |---|---|
//! | superblock, 4 KiB | magic, version, size, mode, who formatted it, where the rest is; CRC32C |
//! | participants | a slot of 128 bytes for each: who it is, which life, and a heartbeat |
//! | rings | for each ordered pair of the first participants: datagrams from one to the other |
//! | store | the page store of `dmrpc_core::store` |
//!
//! * [`mapping`]: bytes by path. [`pool`]: what is in them: formatting, opening, refusing.
//! * [`participants`]: who is attached, who died. [`process`]: how a death is known for certain.
//! * [`device`]: a [`Device`](dmrpc_core::device::Device) over the rings, so that an endpoint runs
//!   through the pool as it runs over a network. No system call is on its way.
//! * [`latency`]: memory that is slower by a chosen number of nanoseconds.
//! * [`pingpong`]: the yardstick of what two cores can do: one cache line, to and fro.
//!
//! # Trust
//! Participants map the pool read-write and trust each other with its data. Whatever is read from
//! it is checked before it is used as an index or a length, and no reference into it is made.
#![deny(unsafe_code)]

pub mod device;
pub mod direct;
pub mod latency;
pub mod mapping;
pub mod participants;
pub mod pingpong;
#[allow(unsafe_code)]
mod poison;
pub mod pool;
mod pool_device;
pub mod process;
mod ring;
mod superblock;
#[allow(unsafe_code)]
mod sys;

pub use device::RingDevice;
pub use direct::Direct;
pub use mapping::{MapError, Mapping, PoolMemory};
pub use participants::{AttachError, Participant, Watch};
pub use pool::{Pool, PoolConfig, PoolError};
pub use pool_device::{OpenError, PoolDevice};
pub use superblock::{Geometry, Mode};
