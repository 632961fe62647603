//! Endpoints that move bulk data over a fabric, stepped from event to event.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{
    Admission, Body, Completion, Outcome, Reply, RequestHead, SessionId, Sink, Source,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::message::{DEPTH_MAX, Method, Status};
use dmrpc_sim::link::{Fabric, FabricDevice};
use dmrpc_sim::storage;

/// Datagrams of an Ethernet without jumbo frames.
pub(crate) const DATAGRAM_BYTES: usize = 1472;
/// Answers with as many bytes as its parameters say.
const READ: Method = Method(1);
/// Takes its body.
const WRITE: Method = Method(2);

pub(crate) fn address(host: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(0x0A00_0000 + host as u32), 4000)
}

/// Jain's index of fairness: 1 if all are equal, 1/n if one has all.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) token: u64,
    pub(crate) at: Instant,
    /// Bytes of its answer or its body.
    pub(crate) bytes: u64,
}

/// A host's code: serves everybody, and notes how its calls end.
#[derive(Default)]
pub(crate) struct Bulk {
    pub(crate) ended: Vec<Ended>,
    /// Bytes of long bodies that have arrived.
    pub(crate) absorbed: u64,
    arrived: u64,
    sinks: u64,
}

impl Host for Bulk {
    fn admit(&mut self, _: &RequestHead<'_>, _: u32) -> Admission {
        self.sinks += 1;
        Admission::Accept(Sink(self.sinks))
    }

    fn absorb(&mut self, _: Sink, offset: u32, bytes: &[u8]) {
        self.absorbed += bytes.len() as u64;
        // The body is a count of its 8-byte words.
        let word = u64::from(offset.div_ceil(8));
        let at = (word * 8 - u64::from(offset)) as usize;
        if let Some(seen) = bytes.get(at..at + 8) {
            assert_eq!(u64::from_le_bytes(seen.try_into().unwrap()), word, "bytes in their place");
        }
    }

    fn request(
        &mut self,
        _: Instant,
        head: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if head.method == READ {
            let bytes = u32::from_le_bytes(head.arguments.parameters().try_into().unwrap());
            if bytes as usize <= reply.inline_room() {
                reply.body_with(bytes as usize, |body| body.fill(0));
            } else {
                reply.body_from(Source(0), bytes);
            }
        } else {
            self.arrived += match body {
                Body::Whole(bytes) => bytes.len() as u64,
                Body::Absorbed { bytes, .. } => bytes.into(),
            };
        }
        Outcome::Replied
    }

    fn supply(&mut self, _: Source, offset: u32, out: &mut [u8]) {
        let mut at = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let word = &(at as u64 / 8).to_le_bytes()[at % 8..];
            let (now, later) = rest.split_at_mut(word.len().min(rest.len()));
            now.copy_from_slice(&word[..now.len()]);
            at += now.len();
            rest = later;
        }
    }

    fn completed(&mut self, now: Instant, completion: Completion<'_>) {
        let response = completion.result.expect("an answer");
        assert_eq!(response.status, Status::OK);
        let bytes = match response.body {
            Body::Whole(bytes) => bytes.len() as u64,
            Body::Absorbed { bytes, .. } => bytes.into(),
        };
        self.ended.push(Ended { token: completion.token, at: now, bytes });
    }
}

pub(crate) struct Node {
    pub(crate) endpoint: Endpoint<'static>,
    pub(crate) device: FabricDevice,
    pub(crate) host: Bulk,
    /// When it must be polled at the latest.
    due: Instant,
}

/// Hosts on a fabric, and sessions between them.
pub(crate) struct World {
    pub(crate) fabric: Fabric,
    pub(crate) nodes: Vec<Node>,
    /// Each session and the host that calls in it.
    pub(crate) sessions: Vec<(usize, SessionId)>,
}

impl World {
    /// Host 0 with a session to each of `servers` others.
    pub(crate) fn new(fabric: Fabric, servers: usize, adjust: impl Fn(&mut Config)) -> Self {
        let links: Vec<_> = (1..=servers).map(|server| (0, server)).collect();
        Self::linked(fabric, servers + 1, &links, adjust)
    }

    /// So many hosts, with a session from the first of each of `links` to the second.
    pub(crate) fn linked(
        fabric: Fabric,
        hosts: usize,
        links: &[(usize, usize)],
        adjust: impl Fn(&mut Config),
    ) -> Self {
        let mut nodes = Vec::new();
        for host in 0..hosts {
            let mut config = Config::new(host as u64 + 1, DATAGRAM_BYTES);
            config.window_packets = 256;
            adjust(&mut config);
            let slots = usize::from(config.slots_per_session);
            let calls = links.iter().filter(|link| link.0 == host).count();
            let serves = links.iter().filter(|link| link.1 == host).count();
            let size = StorageSize::new(calls, serves, slots);
            let endpoint = Endpoint::new(config, storage::take(size), fabric.now());
            let device = fabric.open(address(host), DATAGRAM_BYTES);
            let endpoint = endpoint.expect("a configuration");
            nodes.push(Node { endpoint, device, host: Bulk::default(), due: fabric.now() });
        }
        let mut world = Self { fabric, nodes, sessions: Vec::new() };
        for (caller, server) in links {
            let now = world.fabric.now();
            let session = world.nodes[*caller].endpoint.connect(now, address(*server));
            world.sessions.push((*caller, session.expect("room")));
        }
        for host in 0..hosts {
            world.poll(host);
        }
        let up = |world: &mut Self| {
            let mut sessions = world.sessions.iter();
            sessions.all(|(caller, session)| world.nodes[*caller].endpoint.is_up(*session))
        };
        assert!(world.run(Duration::from_secs(1), up), "all sessions open");
        world
    }

    fn poll(&mut self, node: usize) {
        let now = self.fabric.now();
        let node = &mut self.nodes[node];
        loop {
            node.endpoint.poll(now, &mut node.device, &mut node.host);
            // No sooner than the device takes more.
            node.due = node.endpoint.poll_at(now).max(node.device.takes_at());
            if node.due > now && !self.fabric.has_arrived(node.device.address()) {
                return;
            }
        }
    }

    /// Lets time pass until something happens. Returns false if `limit` came first.
    pub(crate) fn step(&mut self, limit: Instant) -> bool {
        let due = self.nodes.iter().map(|node| node.due).min().unwrap_or(Instant::FAR_FUTURE);
        let next = self.fabric.next_event().unwrap_or(Instant::FAR_FUTURE).min(due);
        if next > limit {
            self.fabric.advance(limit);
            return false;
        }
        let now = next.max(self.fabric.now());
        self.fabric.advance(now);
        for node in 0..self.nodes.len() {
            let arrived = self.fabric.has_arrived(self.nodes[node].device.address());
            if arrived || self.nodes[node].due <= now {
                self.poll(node);
            }
        }
        true
    }

    /// Steps until `done`. Returns false if it takes longer than `span`.
    pub(crate) fn run(&mut self, span: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let limit = self.fabric.now() + span;
        while !done(self) {
            if !self.step(limit) {
                return done(self);
            }
        }
        true
    }

    /// Begins a read of `bytes` bytes in a session.
    pub(crate) fn read(&mut self, session: usize, bytes: u32, token: u64) {
        let parameters = bytes.to_le_bytes();
        let sink = Some((Sink(token), bytes));
        let call = Call { parameters: &parameters, sink, token, ..Call::new(READ) };
        self.begin(session, &call);
    }

    /// Begins a write of `bytes` bytes in a session.
    pub(crate) fn write(&mut self, session: usize, bytes: u32, token: u64) {
        let source = Some((Source(token), bytes));
        self.begin(session, &Call { source, token, ..Call::new(WRITE) });
    }

    fn begin(&mut self, session: usize, call: &Call<'_>) {
        let now = self.fabric.now();
        let (caller, session) = self.sessions[session];
        // As deep as can be, so that no slot is kept free for deeper ones.
        let call = Call { depth: DEPTH_MAX - 1, ..*call };
        self.nodes[caller].endpoint.call(now, session, &call).expect("a slot");
        self.nodes[caller].due = now;
    }

    /// Calls that have ended since the last time.
    pub(crate) fn ended(&mut self) -> Vec<Ended> {
        self.nodes.iter_mut().flat_map(|node| std::mem::take(&mut node.host.ended)).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in self.nodes.drain(..) {
            storage::give_back(node.endpoint.into_storage());
        }
    }
}
