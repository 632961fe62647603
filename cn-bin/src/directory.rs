//! Which address a memory node has.

use std::fmt;
use std::net::SocketAddrV4;

use dmrpc_core::device::Device;
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::cluster::{Cluster, Role};
use dmrpc_host::idle::Wait;

use crate::error::ConnectError;
use crate::memory::Memory;
use crate::node::Node;
use crate::peers::Peer;

/// Finds the address of a memory node by its number.
pub trait Directory {
    /// The address of memory node `memory_node`; `None` if there is none.
    fn address_of(&self, memory_node: u32) -> Option<SocketAddrV4>;
}

/// The memory nodes of a cluster file, numbered from 0 in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDirectory {
    addresses: Vec<SocketAddrV4>,
}

impl ClusterDirectory {
    /// The memory nodes of `cluster`.
    pub fn new(cluster: &Cluster) -> Self {
        cluster.with_role(Role::MemoryNode).map(|process| process.address).collect()
    }
}

impl FromIterator<SocketAddrV4> for ClusterDirectory {
    fn from_iter<I: IntoIterator<Item = SocketAddrV4>>(addresses: I) -> Self {
        Self { addresses: addresses.into_iter().collect() }
    }
}

impl Directory for ClusterDirectory {
    fn address_of(&self, memory_node: u32) -> Option<SocketAddrV4> {
        self.addresses.get(usize::try_from(memory_node).ok()?).copied()
    }
}

/// Why the memory of a reference cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The node has no directory.
    NoDirectory {
        /// The number asked for.
        memory_node: u32,
    },
    /// The directory does not know the memory node.
    Unknown {
        /// The number asked for.
        memory_node: u32,
    },
    /// There is no session with it.
    Connect(ConnectError),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirectory { memory_node } => write!(
                f,
                "a reference to memory node {memory_node}, and no directory to find it: give a \
                 cluster file, or the address of the memory node"
            ),
            Self::Unknown { memory_node } => write!(
                f,
                "a reference to memory node {memory_node}, which the directory does not have: add \
                 it to the cluster file"
            ),
            Self::Connect(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ResolveError {}

impl From<ConnectError> for ResolveError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl<D: Device> Node<D> {
    /// Gives the node a directory, in place of the one that it had.
    pub fn set_directory(&self, directory: impl Directory + 'static) {
        *self.directory.borrow_mut() = Some(Box::new(directory));
    }

    fn address_of(&self, reference: &Ref) -> Result<SocketAddrV4, ResolveError> {
        let memory_node = reference.memory_node;
        let directory = self.directory.borrow();
        let directory = directory.as_ref().ok_or(ResolveError::NoDirectory { memory_node })?;
        directory.address_of(memory_node).ok_or(ResolveError::Unknown { memory_node })
    }

    /// A session with the node at `address`: one that is open, or being opened, else a new one.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn peer_async(&self, address: SocketAddrV4) -> Result<Peer, ConnectError> {
        match self.peer_at(address) {
            Some(peer) => self.connecting(peer).await,
            None => self.connect_async(address).await,
        }
    }

    /// The memory that a reference refers to, by the directory; connects on first use.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn memory_of_async(&self, reference: &Ref) -> Result<Memory<'_, D>, ResolveError> {
        let address = self.address_of(reference)?;
        Ok(self.memory(self.peer_async(address).await?))
    }
}

impl<D: Device + Wait> Node<D> {
    /// A session with the node at `address`: one that is open, or being opened, else a new one.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub fn peer(&self, address: SocketAddrV4) -> Result<Peer, ConnectError> {
        match self.peer_at(address) {
            Some(peer) => self.await_session(peer),
            None => self.connect(address),
        }
    }

    /// The memory that a reference refers to, by the directory; connects on first use.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn memory_of(&self, reference: &Ref) -> Result<Memory<'_, D>, ResolveError> {
        let address = self.address_of(reference)?;
        Ok(self.memory(self.peer(address)?))
    }
}
