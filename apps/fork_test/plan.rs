//! What one operation consists of: phases, each of several memory operations that travel together.

use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{OperationError, Ref, Region, Ticket};

use crate::lane::{Ends, Job};

/// How the receiver comes to bytes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a reference: pages are copied as they are written.
    Reference,
    /// The producer sends all bytes once more and hands over a reference to those.
    Value,
    /// The memory node copies every page before the reference is made.
    MemoryNode,
}

impl Way {
    /// The ways of copying, of which the faster one is compared with.
    pub(crate) const COPIES: [Self; 2] = [Self::Value, Self::MemoryNode];

    /// The name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Value => "value",
            Self::MemoryNode => "memory node",
        }
    }

    /// The phases of an operation that writes `pages` pages, and the number of those at whose end
    /// all is written.
    pub(crate) fn plan(self, pages: usize) -> (&'static [Phase], usize) {
        use Phase::{CopyPages, CreateRef, Free, Own, Put, Take, TakeAndWrite, Write, WriteRest};
        match (self, pages) {
            (Self::Reference, 1) => (&[CreateRef, TakeAndWrite, Free], 2),
            (Self::Reference, _) => (&[CreateRef, TakeAndWrite, WriteRest, Free], 3),
            // The bytes are the receiver's alone once it has taken them: writing then copies no
            // page. Taking and writing at once does, but saves a round trip.
            (Self::Value, 1) => (&[Put, TakeAndWrite, Free], 2),
            (Self::Value, _) => (&[Put, Take, Write, Free], 3),
            (Self::MemoryNode, 1) => (&[CreateRef, Own, CopyPages, TakeAndWrite, Free], 4),
            (Self::MemoryNode, _) => (&[CreateRef, Own, CopyPages, Take, Write, Free], 5),
        }
    }
}

/// Memory operations that travel together. Their answers are awaited before the next phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The producer makes a reference to its object.
    CreateRef,
    /// The producer puts a copy of its object into memory and has a reference to it.
    Put,
    /// The producer makes a region of its reference, to have it copied.
    Own,
    /// The producer writes a byte, the one that is there, to each page of that region, which makes
    /// the memory node copy the page; then makes a reference to it, and gives it back.
    CopyPages,
    /// The receiver turns the reference into a region of its own.
    Take,
    /// The same, with the first page written.
    TakeAndWrite,
    /// The receiver writes all pages.
    Write,
    /// The receiver writes all pages but the first.
    WriteRest,
    /// The receiver gives its region back.
    Free,
}

/// Length of a page in bytes.
pub(crate) const PAGE_BYTES: usize = 4096;

/// What an operation has at hand.
pub(crate) struct State<'s> {
    /// The producer's object.
    pub(crate) object: Region,
    /// The producer's copy of it, while the memory node makes one.
    pub(crate) copy: Option<Region>,
    /// What is handed over.
    pub(crate) reference: Option<Ref>,
    /// The receiver's region.
    pub(crate) region: Option<Region>,
    /// Where the pages to be written begin, in bytes.
    pub(crate) offsets: &'s [u64],
    /// The bytes written to each.
    pub(crate) patch: &'s [u8],
}

/// The phases ran out of order: a bug.
const ORDER: &str = "an earlier phase made it";

impl Phase {
    /// How many memory operations it has.
    pub(crate) fn operations(self, job: &Job) -> usize {
        match self {
            Self::CopyPages => job.object_bytes.div_ceil(PAGE_BYTES) + 2,
            Self::Write => job.pages,
            Self::WriteRest => job.pages - 1,
            _ => 1,
        }
    }

    /// Whether the producer makes them, not the receiver.
    pub(crate) fn is_producers(self) -> bool {
        matches!(self, Self::CreateRef | Self::Put | Self::Own | Self::CopyPages)
    }

    /// Begins its `index`-th operation.
    pub(crate) fn begin(
        self,
        index: usize,
        ends: &Ends<'_>,
        job: &Job,
        state: &State<'_>,
    ) -> Result<Ticket, OperationError> {
        let producer = ends.producer.memory(ends.producer_peer).start();
        let receiver = ends.receiver.memory(ends.receiver_peer).start();
        let reference = || state.reference.expect(ORDER);
        let region = || state.region.expect(ORDER);
        match self {
            Self::CreateRef => {
                producer.create_ref(state.object, 0, state.object.length, ALL_RIGHTS)
            }
            Self::Put => producer.put_buffer(ends.object_buffer(job)?),
            Self::Own => producer.take_region(&reference()),
            Self::CopyPages => {
                let copy = state.copy.expect(ORDER);
                match index * PAGE_BYTES {
                    offset if offset < job.object_bytes => {
                        producer.write(copy, offset as u64, &job.content[offset..=offset])
                    }
                    // Operations on a region take effect in the order in which they were begun.
                    _ if index + 2 == self.operations(job) => {
                        producer.create_ref(copy, 0, copy.length, ALL_RIGHTS)
                    }
                    _ => producer.free(copy),
                }
            }
            Self::Take => receiver.take_region(&reference()),
            Self::TakeAndWrite => {
                receiver.take_and_write(&reference(), state.offsets[0], state.patch)
            }
            Self::Write => receiver.write(region(), state.offsets[index], state.patch),
            Self::WriteRest => receiver.write(region(), state.offsets[index + 1], state.patch),
            Self::Free => receiver.free(region()),
        }
    }
}
