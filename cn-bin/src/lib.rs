//! DmRPC's client library: calls between compute nodes, and memory on memory nodes that calls pass
//! by reference.
//!
//! A first program. It puts a picture into memory and has a service work on it; only the reference
//! travels in the call.
//!
//! ```no_run
//! use dmrpc_cn::{Arg, Method, Node, NodeConfig};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let node = Node::open_udp(&NodeConfig::default())?;
//!     let memory = node.memory(node.connect("127.0.0.1:7400".parse()?)?);
//!     let service = node.connect("127.0.0.1:7500".parse()?)?;
//!
//!     let picture = memory.put(&std::fs::read("photo.jpg")?)?;
//!     let reply = node.call(service, Method(1), &[Arg::Ref(picture)], &mut [])?;
//!     let result = reply.refs().next().ok_or("the service made nothing")?;
//!
//!     let mut bytes = vec![0; result.length as usize];
//!     memory.take(&result, &mut bytes)?;
//!     std::fs::write("result.jpg", &bytes)?;
//!     memory.drop_ref(&picture)?;
//!     node.disconnect_all();
//!     Ok(())
//! }
//! ```
//!
//! And the service, which changes the first bytes of a copy; pages that it does not touch stay
//! shared, and the caller's picture stays as it was:
//!
//! ```no_run
//! use dmrpc_cn::memory::ALL_RIGHTS;
//! use dmrpc_cn::{Arg, ClusterDirectory, Node, NodeConfig, Status};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let node = Node::open_udp(&NodeConfig::at("127.0.0.1:7500".parse()?))?;
//!     node.set_directory(ClusterDirectory::from_iter(["127.0.0.1:7400".parse()?]));
//!     let service = node.serve(|context, call| async move {
//!         let Some(picture) = call.refs().next() else { return };
//!         let Ok(memory) = context.memory_of(&picture).await else { return };
//!         let Ok(copy) = memory.map_ref(&picture).await else { return };
//!         let _ = memory.write(copy, 0, b"changed").await;
//!         let made = memory.create_ref(copy, 0, copy.length, ALL_RIGHTS).await;
//!         let _ = memory.free(copy).await;
//!         if let Ok(made) = made {
//!             let _ = call.reply(Status::OK, &[Arg::Ref(made)]);
//!         }
//!     });
//!     service.run(|| false);
//!     Ok(())
//! }
//! ```
//!
//! # The parts
//! - [`Node`]: one endpoint over one device, used by one thread. Opening it allocates all that it
//!   will ever need ([`NodeConfig`]); afterwards nothing allocates.
//! - Calls in three ways: blocking ([`Node::call`], straight from and to the caller's slices),
//!   begun now and finished later ([`Node::start_call`], for many in flight), awaited
//!   ([`Node::call_async`], with [`Node::block_on`] as all the executor there is).
//! - [`memory`]: regions and references, in the same three ways.
//! - [`zero_copy`]: bytes of a pool that this process maps, where they are.
//! - [`Service`]: requests as tasks, each the future that a handler makes of its request; or, by
//!   handlers that never wait, answered within the poll that brings them ([`Node::serve_sync`],
//!   [`Service::with_sync`]).
//! - [`Node::pass`] and [`IncomingCall::fetch`]: by value or by reference, as size suggests.
//! - [`directory`]: from a reference to the address of its memory node.
//! - [`handle`]: a node's operations for threads that are not its own.
//!
//! # Errors
//! [`Error`] for calls, [`OperationError`] for memory operations: which one, with which values, and
//! why. [`Error::is_outcome_unknown`] is honest about doubt: such a call may have been executed.
#![deny(unsafe_code)]

mod args;
mod blocking;
mod buffers;
mod call;
mod call_here;
mod config;
pub mod directory;
mod error;
mod future;
pub mod handle;
mod hosting;
mod inbox;
mod incoming;
mod local;
pub mod memory;
mod node;
mod order;
pub mod pass;
mod peers;
mod pending;
mod pens;
mod reconnect;
mod replies;
mod serve;
mod sharing;
mod staged;
mod state;
pub mod statistics;
#[allow(unsafe_code)]
mod storage;
mod sync;
mod sync_call;
mod visit;
pub mod zero_copy;

pub use args::Arg;
pub use buffers::Buffer;
pub use call::{CallOptions, Finished};
pub use config::{BUFFER_CLASSES, BufferClass, CALLS_MAX, NodeConfig, OpenError, TASKS_MAX};
pub use directory::{ClusterDirectory, Directory, ResolveError};
pub use dmrpc_core::endpoint::host::{CallError, Closed};
pub use dmrpc_core::time::{Duration, Instant};
pub use dmrpc_core::wire::memory_op::MemoryError;
pub use dmrpc_core::wire::message::{ArgEntry, Method, Status, TraceId};
pub use dmrpc_core::wire::reference::{Ref, Rights};
pub use dmrpc_host::idle::IdleStrategy;
pub use error::{ConnectError, Error};
pub use handle::Handle;
pub use incoming::IncomingCall;
pub use memory::{Memory, OperationError, Region};
pub use node::Node;
pub use peers::{Loss, Peer};
pub use pending::{Reply, Ticket};
pub use replies::LentReply;
pub use serve::{Context, Service, Unserved};
pub use statistics::{Operation, Statistics};
pub use sync_call::SyncCall;
pub use visit::Visit;

/// The README's programs compile: this puts them among the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
