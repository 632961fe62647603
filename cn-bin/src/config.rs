//! How a node is set up, and how much memory that takes.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use dmrpc_core::endpoint;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::control::Features;
use dmrpc_cxl::pool::RING_SLOTS;
use dmrpc_host::cipher::room_bytes;
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::key::random_secret;
use dmrpc_udp::{BURST_MAX, UdpConfig, UdpError};

/// Most calls that a node may have outstanding.
pub const CALLS_MAX: usize = 512;

/// Most requests that a node may serve at a time.
pub const TASKS_MAX: usize = 256;

/// Most sessions of either kind that a node may have.
pub const SESSIONS_MAX: usize = 1 << 16;

/// Kinds of buffers that a node has, from small to large.
pub const BUFFER_CLASSES: usize = 3;

/// Datagrams that [`Node::open_udp`](crate::Node::open_udp) queues between two flushes.
const SEND_QUEUE: usize = 64;

/// Buffers of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferClass {
    /// How many.
    pub count: usize,
    /// Length of each in bytes.
    pub bytes: usize,
}

/// How a node is set up. Everything in it is allocated when the node is opened and nothing later,
/// so these numbers are also its limits.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig {
    /// Address and port to bind; port 0 lets the kernel choose one.
    pub bind: SocketAddrV4,
    /// Largest datagram in bytes: 9000 by default. Over UDP sessions use less where the way is
    /// known to carry less in one piece.
    pub datagram_bytes: usize,
    /// Sessions to other nodes: one for each [`Peer`](crate::Peer).
    pub client_sessions: usize,
    /// Sessions that other nodes may open here.
    pub server_sessions: usize,
    /// Most of them from one address, whatever its ports; three quarters of them if not given.
    pub sessions_per_address: Option<usize>,
    /// Slots of a session: a power of two up to 64. Seven of them are kept for calls within calls.
    pub slots: u16,
    /// Calls outstanding or not yet finished by their caller: 1 to [`CALLS_MAX`].
    pub calls: usize,
    /// Requests being served at a time: 1 to [`TASKS_MAX`].
    pub tasks: usize,
    /// Buffers for bodies of calls that do not block, and of requests and answers beyond one
    /// packet, in ascending order of size.
    pub buffers: [BufferClass; BUFFER_CLASSES],
    /// What the poll loop does when there is nothing to do: by default it yields the core to
    /// others. [`IdleStrategy::Busy`] is faster on a core of one's own.
    pub idle: IdleStrategy,
    /// Whether checksums cover payloads too.
    pub payload_check: bool,
    /// How senders of long messages are slowed down when the network delays them. Where there is
    /// only memory between the two ends (a pool, or `net_memif`) they are not.
    pub congestion: Congestion,
    /// With a key, only nodes that have the same one are spoken to.
    pub key: Option<Key>,
    /// Whether packets are encrypted. Needs a key, and peers that encrypt too.
    pub encrypt: bool,
    /// Arguments of at least so many bytes are passed by reference by
    /// [`Node::pass`](crate::Node::pass). For how the default was found see there.
    pub value_threshold_bytes: usize,
    /// How long a call waits for its answer when its options do not say.
    pub deadline: Duration,
    /// Which life of this node this is: later lives need larger numbers. If not given, the wall
    /// clock in nanoseconds when the node is opened, or one more than at the last such opening in
    /// this process, if the clock has not gone on since. So one configuration may open many nodes.
    pub incarnation: Option<u64>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
            datagram_bytes: UdpConfig::LOOPBACK.datagram_bytes_max,
            client_sessions: 16,
            server_sessions: 16,
            sessions_per_address: None,
            slots: 16,
            calls: 256,
            tasks: 64,
            buffers: [
                BufferClass { count: 128, bytes: 16 << 10 },
                BufferClass { count: 16, bytes: 256 << 10 },
                BufferClass { count: 4, bytes: 8 << 20 },
            ],
            idle: IdleStrategy::Yield,
            payload_check: true,
            congestion: Congestion::default(),
            key: None,
            encrypt: false,
            value_threshold_bytes: crate::pass::VALUE_THRESHOLD_BYTES,
            deadline: Duration::from_millis(1500),
            incarnation: None,
        }
    }
}

impl NodeConfig {
    /// The defaults, bound to `bind`.
    pub fn at(bind: SocketAddrV4) -> Self {
        Self { bind, ..Self::default() }
    }

    /// Bytes of memory that a node over UDP takes: a sum with one line for each user of it. The
    /// kernel's socket buffers come on top.
    pub fn memory_bytes(&self) -> usize {
        let slots = usize::from(self.slots);
        // Sessions, slots and timers of the endpoint.
        let size = StorageSize::new(self.client_sessions, self.server_sessions, slots);
        size.bytes()
            // What encryption takes: a cipher a session, and a packet.
            + if self.encrypt { room_bytes(&size, self.datagram_bytes as u32) } else { 0 }
            // The device's receive and send buffers.
            + (BURST_MAX + SEND_QUEUE) * self.datagram_bytes
            // Buffers for bodies.
            + self.buffers.iter().map(|class| class.count * class.bytes).sum::<usize>()
            // Outstanding calls with their answers' heads.
            + self.calls * size_of::<crate::pending::Pending>()
            // Requests that are being served, each with a packet's body.
            + self.tasks * (size_of::<crate::inbox::Request>() + self.datagram_bytes)
            // Who is at the other end of a session.
            + crate::peers::Peers::bytes(self.client_sessions)
            // What is to be given back.
            + self.calls * (size_of::<crate::memory::Unwanted>() + size_of::<crate::Ticket>())
            // The last call of each region.
            + size_of::<crate::order::Order>()
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let within = |what, given: usize, max: usize| match (1..=max).contains(&given) {
            true => Ok(()),
            false => Err(OpenError::Count { what, given, max }),
        };
        within("calls", self.calls, CALLS_MAX)?;
        within("tasks", self.tasks, TASKS_MAX)?;
        within("client sessions", self.client_sessions, SESSIONS_MAX)?;
        within("server sessions", self.server_sessions, SESSIONS_MAX)?;
        if !self.buffers.is_sorted_by_key(|class| class.bytes) {
            return Err(OpenError::BufferOrder { given: self.buffers.map(|class| class.bytes) });
        }
        let buffers = self.buffers.iter().map(|class| class.count).sum();
        within("buffers", buffers, usize::from(u16::MAX))
    }

    pub(crate) fn udp(&self) -> UdpConfig {
        UdpConfig {
            datagram_bytes_max: self.datagram_bytes,
            send_queue_max: SEND_QUEUE,
            ..UdpConfig::at(self.bind)
        }
    }

    /// The endpoint's configuration, on a device of such datagrams; `through_memory` if it is rings
    /// in a pool.
    pub(crate) fn endpoint(
        &self,
        datagram_bytes: usize,
        through_memory: bool,
    ) -> Result<endpoint::Config, OpenError> {
        let most = self.server_sessions - self.server_sessions / 4;
        let features = if self.payload_check { Features::PAYLOAD_CHECK } else { Features::empty() };
        let config = endpoint::Config {
            slots_per_session: self.slots,
            sessions_per_address: self.sessions_per_address.unwrap_or(most) as u32,
            features,
            congestion: self.congestion,
            key: self.key,
            encrypt: self.encrypt,
            secret: random_secret().map_err(OpenError::Random)?,
            ..endpoint::Config::new(self.incarnation.unwrap_or_else(next_life), datagram_bytes)
        };
        Ok(if through_memory { config.through_memory(RING_SLOTS) } else { config })
    }
}

/// A number for a life that begins now: greater than all that this process was given before.
fn next_life() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let after = |last: u64| now.max(last.saturating_add(1));
    after(LAST.update(Ordering::Relaxed, Ordering::Relaxed, after))
}

/// Why a node could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// A number of the configuration is out of range.
    Count {
        /// Which.
        what: &'static str,
        /// The number given.
        given: usize,
        /// The largest possible; the smallest is 1.
        max: usize,
    },
    /// The classes of buffers are not in ascending order of size.
    BufferOrder {
        /// The sizes given, in bytes.
        given: [usize; BUFFER_CLASSES],
    },
    /// The endpoint cannot be set up so.
    Endpoint(endpoint::ConfigError),
    /// The system gives no random numbers.
    Random(std::io::Error),
    /// The socket cannot be opened.
    Udp(UdpError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { what, given, max } => {
                write!(f, "{given} {what} are not possible: give 1 to {max}")
            }
            Self::BufferOrder { given } => {
                write!(f, "buffers of {given:?} bytes: give them in ascending order of size")
            }
            Self::Endpoint(error) => error.fmt(f),
            Self::Random(error) => write!(f, "no random numbers from the system: {error}"),
            Self::Udp(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<UdpError> for OpenError {
    fn from(error: UdpError) -> Self {
        Self::Udp(error)
    }
}

impl From<endpoint::ConfigError> for OpenError {
    fn from(error: endpoint::ConfigError) -> Self {
        Self::Endpoint(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_fits_64_mib() {
        let bytes = NodeConfig::default().memory_bytes();
        assert!(bytes < 64 << 20, "{bytes}");
    }

    #[test]
    fn each_opening_is_a_later_life() {
        let config = NodeConfig::default();
        let life = || config.endpoint(1472, false).expect("the defaults work").incarnation;
        let lives: Vec<_> = (0..1000).map(|_| life()).collect();
        assert!(lives.windows(2).all(|pair| pair[0] < pair[1]));
        let config = NodeConfig { incarnation: Some(7), ..config };
        assert_eq!(config.endpoint(1472, false).expect("the defaults work").incarnation, 7);
    }

    #[test]
    fn wrong_numbers_are_named() {
        let config = NodeConfig { calls: 0, ..NodeConfig::default() };
        let text = config.check().expect_err("no calls").to_string();
        assert_eq!(text, "0 calls are not possible: give 1 to 512");
        let mut config = NodeConfig::default();
        config.buffers.reverse();
        assert!(matches!(config.check(), Err(OpenError::BufferOrder { .. })));
    }
}
