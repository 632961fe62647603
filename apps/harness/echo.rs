//! Calls of an echo: one at a time for `latency_test`, many for `rpc_test`, and beside others.

use dmrpc_cn::{Arg, CallOptions, Error, Finished, Peer, Status};
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;

use crate::bandwidth::TrafficOf;
use crate::client::{Client, ECHO, wait_all_up, wait_up};
use crate::cycle::Cycle;
use crate::error::AppError;
use crate::pattern::{self, Random};
use crate::window::{Begun, Ended, Traffic};

/// `rpc`: a call of an echo with one inline argument.
pub struct Rpc<'a> {
    client: &'a Client,
    peer: Peer,
    seed: u64,
    sequence: u64,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl<'a> Rpc<'a> {
    /// Calls of `bytes` bytes.
    pub fn new(client: &'a Client, peer: Peer, seed: u64, bytes: usize) -> Self {
        let mut request = vec![0; bytes];
        pattern::fill(seed, &mut request);
        Self { client, peer, seed, sequence: 0, request, answer: vec![0; bytes] }
    }
}

impl Cycle<1> for Rpc<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 1], AppError> {
        self.sequence += 1;
        pattern::stamp(self.sequence, &mut self.request);
        let start = clock.now();
        let args = [Arg::Inline(&self.request)];
        let reply = self.client.call(self.peer, ECHO, &args, &mut self.answer)?;
        let span = clock.now().since(start);
        let bytes = self.request.len();
        if reply.body_bytes != bytes {
            return Err(AppError::WrongBytes { op: "rpc", bytes, at: reply.body_bytes });
        }
        if verify {
            match pattern::first_unstamped(self.seed, self.sequence, &self.answer) {
                None => {}
                Some(at) => return Err(AppError::WrongBytes { op: "rpc", bytes, at }),
            }
        }
        Ok([span])
    }

    fn prepare(&mut self) {
        wait_up(self.client, self.peer);
    }
}

/// Calls of an echo, many at a time.
#[derive(Debug)]
pub struct Echoes {
    /// Whether their sessions are picked at random. If not, they take turns.
    pub at_random: bool,
}

impl TrafficOf for Echoes {
    type Traffic<'c> = Echo<'c>;

    fn of<'c>(
        &mut self,
        client: &'c Client,
        peers: &[Peer],
        seed: u64,
        bytes: usize,
    ) -> Result<Echo<'c>, AppError> {
        let coming = self.at_random.then(|| Coming::new(peers, seed));
        Ok(Echo { coming, ..Echo::new(client, peers, seed, bytes) })
    }
}

/// Calls that are known before they are made, where sessions are picked at random.
const AHEAD: usize = 16;
/// Sessions picked at a time. The caller's own table of them is in no cache either, and many are
/// looked up in hardly more time than one.
const PICKED: usize = 256;

/// The sessions of the calls to come, picked at random.
struct Coming {
    random: Random,
    /// The next [`AHEAD`] calls', and behind them some that are picked already.
    peers: Vec<Peer>,
    /// The place of the next.
    next: usize,
}

impl Coming {
    fn new(peers: &[Peer], seed: u64) -> Self {
        let mut coming = Self { random: Random::new(seed), peers: Vec::new(), next: 0 };
        coming.pick(peers);
        coming
    }

    /// The session of the next call. What a later one will need is fetched.
    fn next(&mut self, client: &Client, peers: &[Peer]) -> Peer {
        if self.next + AHEAD == self.peers.len() {
            self.pick(peers);
        }
        client.expect_call(self.peers[self.next + AHEAD]);
        self.next += 1;
        self.peers[self.next - 1]
    }

    #[inline(never)]
    fn pick(&mut self, peers: &[Peer]) {
        self.peers.drain(..self.next);
        self.next = 0;
        let Self { random, peers: picked, .. } = self;
        picked.resize_with(AHEAD + PICKED, || peers[random.below(peers.len())]);
    }
}

/// Arguments longer than this are made in the buffer that they are sent from, in bytes; shorter
/// ones are copied there, which is how most callers have them.
const IN_PLACE_BYTES: usize = 64 << 10;

/// Calls of an echo, in several sessions.
pub struct Echo<'c> {
    client: &'c Client,
    peers: Vec<Peer>,
    /// The session whose turn it is.
    next: usize,
    /// If they are picked at random.
    coming: Option<Coming>,
    seed: u64,
    sequence: u64,
    content: Vec<u8>,
}

impl<'c> Echo<'c> {
    /// Calls of `bytes` bytes in the sessions `peers`.
    pub fn new(client: &'c Client, peers: &[Peer], seed: u64, bytes: usize) -> Self {
        let mut content = vec![0; bytes];
        pattern::fill(seed, &mut content);
        Self { client, peers: peers.to_vec(), next: 0, coming: None, seed, sequence: 0, content }
    }

    fn next_peer(&mut self) -> Peer {
        if let Some(coming) = &mut self.coming {
            return coming.next(self.client, &self.peers);
        }
        let peer = self.peers[self.next];
        self.next = if self.next + 1 == self.peers.len() { 0 } else { self.next + 1 };
        peer
    }

    /// Begins a call whose argument is made in the buffer that it is sent from.
    fn begin_in_place(&mut self, sequence: u64) -> Result<Begun<u64>, AppError> {
        let bytes = self.content.len();
        let buffers = self.client.buffer(bytes).and_then(|body| {
            let reply = self.client.buffer(bytes)?;
            Ok((body, reply))
        });
        let (mut body, reply) = match buffers {
            Ok(both) => both,
            Err(error) if error.is_room() => return Ok(Begun::Full),
            Err(error) => return Err(error.into()),
        };
        // Buffers that come back have the bytes of an earlier request, or of its answer.
        if !pattern::looks_filled(self.seed, &body) {
            body.copy_from_slice(&self.content);
        }
        pattern::stamp(sequence, &mut body);
        let peer = self.next_peer();
        let options = CallOptions::default();
        match self.client.start_call_from(peer, ECHO, body, Some(reply), options) {
            Ok(ticket) => {
                self.sequence = sequence;
                Ok(Begun::Operation(ticket, sequence))
            }
            Err(error) if error.is_room() => Ok(Begun::Full),
            Err(error) => Err(error.into()),
        }
    }
}

impl Traffic for Echo<'_> {
    /// What the request was stamped with.
    type Context = u64;

    #[inline]
    fn begin(&mut self) -> Result<Begun<u64>, AppError> {
        let sequence = self.sequence + 1;
        if self.content.len() > IN_PLACE_BYTES {
            return self.begin_in_place(sequence);
        }
        pattern::stamp(sequence, &mut self.content);
        for _ in 0..self.peers.len() {
            let peer = self.next_peer();
            let reply = match self.client.buffer(self.content.len()) {
                Ok(buffer) => buffer,
                Err(error) if error.is_room() => return Ok(Begun::Full),
                Err(error) => return Err(error.into()),
            };
            let args = [Arg::Inline(&self.content)];
            let options = CallOptions::default();
            match self.client.start_call(peer, ECHO, &args, Some(reply), options) {
                Ok(ticket) => {
                    self.sequence = sequence;
                    return Ok(Begun::Operation(ticket, sequence));
                }
                Err(error) if error.is_room() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Begun::Full)
    }

    #[inline]
    fn end(
        &mut self,
        sequence: u64,
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError> {
        let finished = result?;
        let bytes = self.content.len();
        let found = finished.buffer.as_deref().unwrap_or_default();
        if finished.reply.status != Status::OK || found.len() != bytes {
            return Err(AppError::WrongBytes { op: "rpc", bytes, at: found.len() });
        }
        if verify && let Some(at) = pattern::first_unstamped(self.seed, sequence, found) {
            return Err(AppError::WrongBytes { op: "rpc", bytes, at });
        }
        Ok(Ended::Counted { verified: verify })
    }

    fn prepare(&mut self) {
        wait_all_up(self.client, &self.peers);
    }
}
