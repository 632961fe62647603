//! Reads whose bytes are looked at where they came in: in the device's buffers, packet by packet.

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::Sink;
use dmrpc_core::wire::reference::Ref;
use dmrpc_host::idle::Wait;

use crate::call::{Finished, Outgoing, Spec};
use crate::error::Error;
use crate::hosting::UserBytes;
use crate::memory::{MESSAGE_BODY_BYTES_MAX, Memory, OperationError, Pipeline, Region, Request};
use crate::node::Node;
use crate::pending::{Interest, Place, Ticket};

/// Names of calls whose bytes are visited begin here, and end before those of the user's slices.
/// Below are numbers of buffers.
const VISITED: u64 = 1 << 32;

/// Looks at bytes of a read where they came in: the read, the offset of the bytes within what was
/// asked for, and the bytes, which are the device's again afterwards. Each byte comes once, in any
/// order.
pub type Visit<'v> = dyn FnMut(Ticket, u64, &[u8]) + 'v;

/// The name of the sink of a call in entry `index`.
pub(crate) fn sink_of(index: u32) -> Sink {
    Sink(VISITED + u64::from(index))
}

/// The entry of the call that a sink is of, if its bytes are visited.
#[inline]
pub(crate) fn entry_of(sink: Sink) -> Option<u32> {
    u32::try_from(sink.0.checked_sub(VISITED)?).ok()
}

impl<D: Device> Node<D> {
    /// Begins a call whose answer's body, of up to `room` bytes, is visited. Where the memory is
    /// mapped by this process no packet comes: there it goes to a buffer.
    fn start_visit(&self, spec: &Spec<'_>, room: usize) -> Result<Ticket, Error> {
        if self.runs_here(spec) {
            let buffer = self.hand_over(Some(self.buffer(room)?));
            return self.start_with(spec, &[], None, buffer, Interest::Listed);
        }
        self.check_unviewed(spec)?;
        let bytes = u32::try_from(room).map_err(|_| Error::MessageTooLarge { bytes: room })?;
        let nothing = Outgoing { inline: &[], source: None };
        self.begin(spec, nothing, (Place::Visitor, bytes), Interest::Listed)
    }

    /// As [`Node::poll`], with a visitor for the reads that [`Pipeline::visit`] and
    /// [`Pipeline::visit_ref`] have begun. While there are any, nothing else may poll the node, or
    /// their bytes are lost and they end with [`Error::NotVisited`].
    pub fn poll_visiting(&self, visit: &mut Visit<'_>) -> bool {
        let mut user = UserBytes { parts: &[], sink: &mut [], visit: Some(visit) };
        self.poll_with(Some(&mut user)).0
    }
}

impl<D: Device + Wait> Node<D> {
    /// As [`Node::step`], with a visitor: see [`Node::poll_visiting`].
    pub fn step_visiting(&self, visit: &mut Visit<'_>) -> bool {
        let mut user = UserBytes { parts: &[], sink: &mut [], visit: Some(visit) };
        self.step_with(Some(&mut user), false)
    }
}

impl<'n, D: Device> Pipeline<'n, D> {
    /// Begins to read `bytes` bytes from `offset` on, which the visitor of the polls to come gets
    /// as they arrive ([`Node::step_visiting`]), uncopied: no buffer is needed. Only once the
    /// ticket has ended well were they all. Where this process maps the memory, nothing arrives:
    /// there the ticket brings a buffer, as [`Pipeline::read`]'s does.
    ///
    /// # Errors
    /// [`OperationError`]: nothing was begun.
    pub fn visit(
        &self,
        region: Region,
        offset: u64,
        bytes: usize,
    ) -> Result<Ticket, OperationError> {
        self.begin_visit(&Request::read(region, offset, bytes), bytes)
    }

    /// The same for `bytes` bytes of what a reference refers to.
    ///
    /// # Errors
    /// As [`Pipeline::visit`].
    pub fn visit_ref(
        &self,
        reference: &Ref,
        offset: u64,
        bytes: usize,
    ) -> Result<Ticket, OperationError> {
        let request = Request::read_ref(self.memory().peer(), reference, offset, bytes);
        self.begin_visit(&request, bytes)
    }

    fn begin_visit(&self, request: &Request, bytes: usize) -> Result<Ticket, OperationError> {
        let memory = self.memory();
        let options = memory.options();
        let spec = request.spec(&options);
        memory.node().start_visit(&spec, bytes).map_err(|error| request.failed(error))
    }
}

impl<'n, D: Device + Wait> Memory<'n, D> {
    /// Hands `bytes` bytes of a region, from `offset` on, to `visit` as they arrive, where they
    /// arrive: the offset within the read, and the bytes, each once and in any order. More than
    /// [`MESSAGE_BODY_BYTES_MAX`] come in several messages.
    ///
    /// # Errors
    /// [`OperationError`]: `visit` may have seen some of the bytes, but not all.
    pub fn visit(
        &self,
        region: Region,
        offset: u64,
        bytes: usize,
        mut visit: impl FnMut(u64, &[u8]),
    ) -> Result<(), OperationError> {
        Request::read(region, offset, bytes).within(region.length)?;
        let mut done = 0;
        loop {
            let part = (bytes - done).min(MESSAGE_BODY_BYTES_MAX);
            let request = Request::read(region, offset + done as u64, part);
            self.visit_once(&request, part, done as u64, &mut visit)?;
            done += part;
            if done == bytes {
                return Ok(());
            }
        }
    }

    fn visit_once(
        &self,
        request: &Request,
        bytes: usize,
        before: u64,
        visit: &mut impl FnMut(u64, &[u8]),
    ) -> Result<(), OperationError> {
        let node = self.node();
        let end = node.now() + self.options().deadline.unwrap_or(node.config.deadline);
        let ticket = loop {
            match self.start().begin_visit(request, bytes) {
                Err(error) if error.is_room() && node.now() < end => {
                    node.step();
                }
                begun => break begun?,
            }
        };
        let finished: Finished<'_> = loop {
            if let Some(ended) = node.try_finish(ticket) {
                break ended.map_err(|error| request.failed(error))?;
            }
            node.step_visiting(&mut |of, offset, bytes| {
                if of == ticket {
                    visit(before + offset, bytes);
                }
            });
        };
        if let Some(buffer) = finished.bytes_read()? {
            visit(before, &buffer);
        }
        Ok(())
    }
}
