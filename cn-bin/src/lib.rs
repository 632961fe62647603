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
//! use dmrpc_cn::{
//!     Arg, ClusterDirectory, Context, IncomingCall, Node, NodeConfig, OwnedRef, Status, UdpDevice,
//! };
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let node = Node::open_udp(&NodeConfig::at("127.0.0.1:7500".parse()?))?;
//!     node.set_directory(ClusterDirectory::from_iter(["127.0.0.1:7400".parse()?]));
//!     let service = node.serve(|context, call| async move {
//!         let answered = match change(context, &call).await {
//!             Ok(result) => call.reply(Status::OK, &[Arg::Ref(*result)]).map(|()| {
//!                 // From now on the caller's.
//!                 let _claimed = result.keep();
//!             }),
//!             // Why not, for the caller to read.
//!             Err(why) => call.reply(NOT_DONE, &[Arg::Inline(why.to_string().as_bytes())]),
//!         };
//!         if let Err(error) = answered {
//!             eprintln!("no answer could be given: {error}");
//!         }
//!     });
//!     service.run(|| false);
//!     Ok(())
//! }
//!
//! /// A status of this service's own.
//! const NOT_DONE: Status = Status(0x8001);
//!
//! /// Guards give back what they hold wherever this ends: at a `?`, or where it waits when the
//! /// caller gives up.
//! async fn change<'n>(
//!     context: Context<'n, UdpDevice>,
//!     call: &IncomingCall<'n, UdpDevice>,
//! ) -> Result<OwnedRef<'n, UdpDevice>, Box<dyn std::error::Error>> {
//!     let picture = call.refs().next().ok_or("give a reference to a picture")?;
//!     let memory = context.memory_of(&picture).await?;
//!     let copy = memory.own(memory.map_ref(&picture).await?);
//!     memory.write(*copy, 0, b"changed").await?;
//!     Ok(memory.own_ref(memory.create_ref(*copy, 0, copy.length, ALL_RIGHTS).await?))
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
#[allow(unsafe_code)]
mod places;
mod polling;
mod reconnect;
mod replies;
mod serve;
mod setup;
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
pub use config::{
    BUFFER_CLASSES, BufferClass, CALLS_MAX, NodeConfig, OpenError, SESSIONS_MAX, TASKS_MAX,
};
pub use directory::{ClusterDirectory, Directory, ResolveError};
pub use dmrpc_core::endpoint::auth::{Key, KeyError};
pub use dmrpc_core::endpoint::congestion::Congestion;
pub use dmrpc_core::endpoint::host::{CallError, Closed};
pub use dmrpc_core::time::{Duration, Instant};
pub use dmrpc_core::wire::memory_op::MemoryError;
pub use dmrpc_core::wire::message::{ArgEntry, Method, Status, TraceId};
pub use dmrpc_core::wire::reference::{Ref, Rights};
pub use dmrpc_host::cluster::{Cluster, ClusterError, Process, Role};
pub use dmrpc_host::idle::IdleStrategy;
pub use dmrpc_host::key::KeyLoadError;
pub use dmrpc_udp::UdpDevice;
pub use error::{ConnectError, Error};
pub use handle::Handle;
pub use incoming::IncomingCall;
pub use memory::{Memory, OperationError, OwnedRef, OwnedRegion, Region};
pub use node::Node;
pub use peers::{Loss, Peer};
pub use pending::{Reply, Ticket};
pub use replies::LentReply;
pub use serve::{Context, Service, Unserved};
pub use setup::SetupError;
pub use statistics::{Operation, Statistics};
pub use sync_call::SyncCall;
pub use visit::Visit;

/// The README's programs compile: this puts them among the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
