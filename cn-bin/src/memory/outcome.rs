//! What memory operations come to.

use std::fmt;

use dmrpc_core::wire::memory_op::{MemoryError, RegionName, parse_failure};
use dmrpc_core::wire::message::{ArgEntry, Status};
use dmrpc_core::wire::reference::Ref;

use super::Region;
use crate::call::Finished;
use crate::error::Error;
use crate::peers::Peer;
use crate::pending::Reply;
use crate::statistics::Operation;

/// Why a memory operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The memory node says so. The operation had no effect.
    Memory(MemoryError),
    /// There was no answer; see [`Error::is_outcome_unknown`] for whether there was an effect.
    Call(Error),
    /// The peer answered with a status that no memory node gives.
    Status(Status),
    /// The answer lacks what the operation makes.
    BadAnswer,
    /// The caller's slice is shorter than what it is to hold.
    RoomTooSmall {
        /// Its length in bytes.
        room: usize,
    },
    /// Slices and views are of memory that this process maps, and this is not.
    NotMapped,
}

/// A memory operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationError {
    /// The operation.
    pub operation: Operation,
    /// Its offset in bytes, where it has one.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Why it failed.
    pub cause: Cause,
}

impl OperationError {
    /// What the memory node said; `None` if it said nothing.
    pub fn memory(&self) -> Option<MemoryError> {
        match self.cause {
            Cause::Memory(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, offset, length, cause } = self;
        write!(f, "{} of {length} bytes", operation.name())?;
        if *offset != 0 {
            write!(f, " at offset {offset}")?;
        }
        match cause {
            Cause::Memory(error) => write!(f, ": {error}"),
            Cause::Call(error) => write!(f, ": {error}"),
            Cause::Status(Status::UNKNOWN_METHOD) => {
                f.write_str(": the peer is no memory node: give the address of one")
            }
            Cause::Status(status) => write!(f, ": the peer answered with status {}", status.0),
            Cause::BadAnswer => f.write_str(": the peer's answer makes no sense"),
            Cause::RoomTooSmall { room } => write!(f, ": there is room for {room}"),
            Cause::NotMapped => f.write_str(
                ": this process does not map that memory: take part in its pool, or read and write \
                 copies",
            ),
        }
    }
}

impl OperationError {
    /// Whether the operation was not begun for want of room, which comes back when others end.
    pub fn is_room(&self) -> bool {
        matches!(self.cause, Cause::Call(error) if error.is_room())
    }
}

impl std::error::Error for OperationError {}

impl<'n> Finished<'n> {
    fn error(&self, cause: Cause) -> OperationError {
        let Self { operation, offset, length, .. } = *self;
        OperationError { operation, offset, length, cause }
    }

    /// The answer of a memory operation that succeeded.
    ///
    /// # Errors
    /// What the memory node says against it.
    #[inline]
    pub fn checked(self) -> Result<Self, OperationError> {
        self.check().map(|()| self)
    }

    /// Whether the memory operation succeeded. Cheaper than [`Finished::checked`] where most calls
    /// are of one operation: nothing is moved.
    ///
    /// # Errors
    /// What the memory node says against it.
    #[inline]
    pub fn check(&self) -> Result<(), OperationError> {
        if self.reply.status == Status::OK {
            return Ok(());
        }
        Err(self.refused())
    }

    #[cold]
    fn refused(&self) -> OperationError {
        self.error(self.reply.refusal(self.operation))
    }

    /// The region that the operation made.
    ///
    /// # Errors
    /// As [`Finished::checked`]; [`Cause::BadAnswer`] if it made none.
    pub fn region(self) -> Result<Region, OperationError> {
        self.check()?;
        let region = self.reply.region(self.peer, self.length);
        region.ok_or_else(|| self.error(Cause::BadAnswer))
    }

    /// The reference that the operation made.
    ///
    /// # Errors
    /// As [`Finished::checked`]; [`Cause::BadAnswer`] if it made none.
    pub fn reference(self) -> Result<Ref, OperationError> {
        self.check()?;
        self.reply.last_ref().ok_or_else(|| self.error(Cause::BadAnswer))
    }

    /// Whether all the bytes asked for have been read.
    ///
    /// # Errors
    /// As [`Finished::checked`]; [`Cause::BadAnswer`] if there are fewer.
    #[inline]
    pub fn whole_body(self) -> Result<(), OperationError> {
        self.bytes_read().map(drop)
    }

    /// The buffer with the bytes read.
    ///
    /// # Errors
    /// As [`Finished::whole_body`].
    #[inline]
    pub fn bytes_read(self) -> Result<Option<crate::Buffer<'n>>, OperationError> {
        self.check()?;
        if self.reply.body_bytes as u64 != self.length {
            return Err(self.error(Cause::BadAnswer));
        }
        Ok(self.buffer)
    }
}

impl Reply {
    /// Why the memory node refused `operation`.
    #[cold]
    pub(super) fn refusal(&self, operation: Operation) -> Cause {
        let details = parse_failure(&self.parameters).map_or([0; 2], |(_, details)| details);
        match self.status {
            // Steps of this library are well-formed, so it is the reference that is not: no memory
            // node makes one like that.
            Status::MALFORMED if operation.is_memory() => Cause::Memory(MemoryError::Forged),
            status => {
                MemoryError::from_wire(status, details).map_or(Cause::Status(status), Cause::Memory)
            }
        }
    }

    /// The region of `length` bytes that was made in the session `peer`.
    #[inline]
    pub(super) fn region(&self, peer: Peer, length: u64) -> Option<Region> {
        let mut names =
            self.parameters.as_chunks::<8>().0.iter().map(|name| u64::from_le_bytes(*name));
        let name = names.find(|name| *name != 0)?;
        Some(Region { peer, name: RegionName(name), length })
    }

    /// The reference that was made last.
    #[inline]
    pub(super) fn last_ref(&self) -> Option<Ref> {
        self.results().iter().rev().find_map(|result| match result {
            ArgEntry::Ref(reference) => Some(*reference),
            ArgEntry::Inline { .. } => None,
        })
    }
}
