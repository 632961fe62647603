//! The code around the two endpoints.

use dmrpc_core::endpoint::Host;
use dmrpc_core::endpoint::host::{
    Admission, Body, Completion, Outcome, PendingCall, Reply, RequestHead, SessionEvent, SessionId,
    Side, Sink, Source,
};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::MemoryNode;
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::{Method, Status};
use dmrpc_core::wire::reference::Ref;

/// Answers with the request's body.
pub const ECHO: Method = Method(1);

/// Bytes that are put and read back: several pages, many packets.
pub const BODY_BYTES: usize = 20_000;

/// The side that calls.
pub struct Client {
    /// How the last call ended; `None` if it has not, or has no answer.
    pub status: Option<Status>,
    /// The reference that it made.
    pub reference: Option<Ref>,
    room: [u8; BODY_BYTES],
    got: usize,
}

impl Client {
    /// One that has not called yet.
    pub const NEW: Self = Self { status: None, reference: None, room: [0; BODY_BYTES], got: 0 };

    /// The body of the last answer.
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.got]
    }

    /// Byte `at` of what is put.
    pub const fn byte(at: usize) -> u8 {
        (at / 7 % 251) as u8
    }
}

impl Host for Client {
    fn absorb(&mut self, _: Sink, offset: u32, bytes: &[u8]) {
        self.room[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn supply(&mut self, _: Source, offset: u32, out: &mut [u8]) {
        for (at, byte) in (offset as usize..).zip(out) {
            *byte = Self::byte(at);
        }
    }

    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        let Ok(response) = completion.result else { return };
        self.status = Some(response.status);
        self.reference = response.arguments.refs().next();
        self.got = match response.body {
            Body::Whole(bytes) => {
                self.room[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
            Body::Absorbed { bytes, .. } => bytes as usize,
        };
    }
}

/// A memory node that also echoes.
pub struct Server {
    /// The memory node.
    pub node: MemoryNode<'static, Plain<'static>>,
}

impl Host for Server {
    fn admit(&mut self, head: &RequestHead<'_>, body_bytes: u32) -> Admission {
        self.node.admit(head, body_bytes)
    }

    fn absorb(&mut self, sink: Sink, offset: u32, bytes: &[u8]) {
        self.node.absorb(sink, offset, bytes);
    }

    fn abandon(&mut self, sink: Sink) {
        self.node.abandon(sink);
    }

    fn request(
        &mut self,
        now: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        match body {
            Body::Whole(bytes) if head.method == ECHO => {
                reply.head(Status::OK, &[], &[]);
                reply.body(bytes);
                Outcome::Replied
            }
            body => self.node.request(now, head, body, reply),
        }
    }

    fn cancelled(&mut self, call: PendingCall) {
        self.node.cancelled(call);
    }

    fn supply(&mut self, source: Source, offset: u32, out: &mut [u8]) {
        self.node.supply(source, offset, out);
    }

    fn release(&mut self, source: Source) {
        self.node.release(source);
    }

    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        self.node.completed(now, completion);
    }

    fn session(&mut self, now: Instant, side: Side, session: SessionId, event: SessionEvent) {
        self.node.session(now, side, session, event);
    }
}
