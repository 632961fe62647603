//! DmRPC's client library.
#![deny(unsafe_code)]

mod buffers;
mod call;
mod config;
pub mod directory;
mod error;
mod future;
mod hosting;
mod inbox;
mod incoming;
pub mod memory;
mod node;
mod order;
pub mod pass;
mod peers;
mod pending;
mod serve;
mod state;
pub mod statistics;
#[allow(unsafe_code)]
mod storage;

pub use buffers::Buffer;
pub use call::{Arg, CallOptions, Finished};
pub use config::{BUFFER_CLASSES, BufferClass, CALLS_MAX, NodeConfig, OpenError, TASKS_MAX};
pub use directory::{ClusterDirectory, Directory, ResolveError};
pub use dmrpc_core::endpoint::host::{CallError, Closed};
pub use dmrpc_core::time::{Duration, Instant};
pub use dmrpc_core::wire::memory_op::MemoryError;
pub use dmrpc_core::wire::message::{ArgEntry, Method, Status, TraceId};
pub use dmrpc_core::wire::reference::{Ref, Rights};
pub use error::{ConnectError, Error};
pub use incoming::IncomingCall;
pub use memory::{Memory, OperationError, Region};
pub use node::Node;
pub use peers::Peer;
pub use pending::{Reply, Ticket};
pub use serve::{Context, Service};
pub use statistics::{Operation, Statistics};
