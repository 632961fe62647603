//! By value or by reference: small arguments travel in the message, large ones stay in memory.

use std::fmt;

use dmrpc_core::device::Device;
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::idle::Wait;

use crate::args::Arg;
use crate::directory::ResolveError;
use crate::incoming::IncomingCall;
use crate::memory::{AsyncMemory, Memory, OperationError};
use crate::node::Node;

/// The default of [`NodeConfig::value_threshold_bytes`](crate::NodeConfig): 256 KiB.
///
/// Measured for a chain of client, two forwarders and a worker over UDP on loopback, by
/// `cargo run --release -p dmrpc-cn --example value_threshold`, on two cores that were also busy
/// with other work, so take it as an order of magnitude: in four runs the reference won from
/// 512 KiB on (1.13 to 1.9 times there), the value in 30 of 32 rows up to 32 KiB, and in between
/// the winner changed from run to run. Of the sizes in between, this is the longest body that fits
/// the middle class of a node's default buffers. The fewer bytes a hop carries for its price, and
/// the more hops only forward, the lower it should be: measure yours.
pub const VALUE_THRESHOLD_BYTES: usize = 256 << 10;

impl<D> Node<D> {
    /// Whether so many bytes are passed by value.
    pub fn passes_by_value(&self, bytes: usize) -> bool {
        bytes < self.config.value_threshold_bytes
    }
}

impl<D: Device + Wait> Node<D> {
    /// Makes an argument of `bytes`: by value below [`NodeConfig::value_threshold_bytes`], else a
    /// reference to a copy that is put into `memory`, which is the caller's to drop after the call,
    /// unless the service takes it. The receiver reads either by [`IncomingCall::fetch`].
    ///
    /// # Errors
    /// [`OperationError`] if they cannot be put into memory.
    ///
    /// [`NodeConfig::value_threshold_bytes`]: crate::NodeConfig::value_threshold_bytes
    pub fn pass<'a>(
        &self,
        memory: Memory<'_, D>,
        bytes: &'a [u8],
    ) -> Result<Arg<'a>, OperationError> {
        if self.passes_by_value(bytes.len()) {
            return Ok(Arg::Inline(bytes));
        }
        memory.put(bytes).map(Arg::Ref)
    }
}

impl<D: Device> AsyncMemory<'_, D> {
    /// As [`Node::pass`].
    ///
    /// # Errors
    /// As [`Node::pass`].
    pub async fn pass<'a>(&self, bytes: &'a [u8]) -> Result<Arg<'a>, OperationError> {
        if self.node().passes_by_value(bytes.len()) {
            return Ok(Arg::Inline(bytes));
        }
        self.put(bytes).await.map(Arg::Ref)
    }
}

/// Why the bytes of an argument are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// The request has no such argument.
    NoArgument {
        /// The one asked for, from 0.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The caller's slice is shorter than the argument.
    RoomTooSmall {
        /// Length of the argument in bytes.
        bytes: u64,
        /// Length of the slice in bytes.
        room: usize,
    },
    /// The memory of the reference cannot be reached.
    Resolve(ResolveError),
    /// The memory cannot be read.
    Memory(OperationError),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArgument { index, count } => {
                write!(f, "no argument {index}: the request has {count}, counted from 0")
            }
            Self::RoomTooSmall { bytes, room } => {
                write!(f, "an argument of {bytes} bytes, and room for {room}")
            }
            Self::Resolve(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FetchError {}

impl From<ResolveError> for FetchError {
    fn from(error: ResolveError) -> Self {
        Self::Resolve(error)
    }
}

impl From<OperationError> for FetchError {
    fn from(error: OperationError) -> Self {
        Self::Memory(error)
    }
}

/// The beginning of `out` with room for `bytes` bytes.
fn room(out: &mut [u8], bytes: u64) -> Result<&mut [u8], FetchError> {
    let room = out.len();
    let wanted = usize::try_from(bytes).ok();
    wanted.and_then(|wanted| out.get_mut(..wanted)).ok_or(FetchError::RoomTooSmall { bytes, room })
}

impl<D: Device> IncomingCall<'_, D> {
    /// Length of an argument in bytes, whether it came by value or by reference.
    pub fn arg_bytes(&self, index: usize) -> Option<u64> {
        self.arg(index).map(|arg| match arg {
            Arg::Inline(bytes) => bytes.len() as u64,
            Arg::Ref(reference) => reference.length,
        })
    }

    /// Copies an argument's bytes to the beginning of `out`, whether it came by value or by
    /// reference, and returns how many there are. A reference stays as it was; the directory finds
    /// its memory node.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, index: usize, out: &mut [u8]) -> Result<usize, FetchError> {
        let reference: Ref = match self.arg(index) {
            None => return Err(FetchError::NoArgument { index, count: self.args().count() }),
            Some(Arg::Inline(bytes)) => {
                room(out, bytes.len() as u64)?.copy_from_slice(bytes);
                return Ok(bytes.len());
            }
            Some(Arg::Ref(reference)) => reference,
        };
        let out = room(out, reference.length)?;
        let memory = self.context().memory_of(&reference).await?;
        memory.read_ref(&reference, 0, out).await?;
        Ok(out.len())
    }
}
