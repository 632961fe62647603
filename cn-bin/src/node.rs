//! The node: one endpoint, its device, its clock and its buffers, used by one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddrV4;
use std::sync::Arc;

use dmrpc_core::device::Device;
use dmrpc_core::time::Instant;
use dmrpc_core::trace::Ring;
use dmrpc_cxl::device::participant_at;
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::{Doorbell, Idle, Wait};
use dmrpc_host::polls::PollMeter;
use dmrpc_udp::UdpDevice;

use crate::buffers::Buffer;
use crate::config::{NodeConfig, OpenError};
use crate::directory::Directory;
use crate::error::{ConnectError, Error};
use crate::future::Wakers;
use crate::handle::Desks;
use crate::hosting::PollHost;
use crate::local::{LocalMemory, POOL_ADDRESS};
use crate::peers::{Peer, PeerState};
use crate::pens::PoolPens;
use crate::state::State;
use crate::statistics::Statistics;
use crate::storage::OwnedEndpoint;

/// The endpoint and what carries its packets.
pub(crate) struct Core<D> {
    pub(crate) endpoint: OwnedEndpoint,
    pub(crate) device: D,
    pub(crate) idle: Idle,
    pub(crate) polls: PollMeter,
    /// Looks in vain since the last poll.
    pub(crate) looks: u32,
}

/// What a poll loop knows when it is about to idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) worked: bool,
    pub(crate) now: Instant,
    pub(crate) again_at: Instant,
}

/// Idles, listening for the bell that handles ring.
pub(crate) type RestWithBell<D> = fn(&mut Idle, &D, &Doorbell, Rest);

/// A compute node: one endpoint over one device, used by one thread.
///
/// All methods take `&self`, so that blocking calls, futures and a service share a node. Nothing
/// is allocated after it was opened. Time passes for the node's sessions only while it is polled,
/// which every blocking method does: a node that is not polled for longer than the lease (10 s)
/// loses its sessions.
pub struct Node<D> {
    /// Pages of a pool in flush mode that this process reads and writes itself. Dropped first:
    /// what was written is written back before the pool's place is given up.
    pub(crate) pens: RefCell<Option<PoolPens>>,
    /// The store of a pool that this process maps. Given up before the device, whose end lets the
    /// memory node take back what this participant held.
    pub(crate) shared: RefCell<Option<LocalMemory>>,
    /// Where the memory node of that pool is reached.
    pub(crate) shared_at: Cell<SocketAddrV4>,
    pub(crate) core: RefCell<Core<D>>,
    pub(crate) state: RefCell<State>,
    pub(crate) config: NodeConfig,
    pub(crate) wakers: Arc<Wakers>,
    /// The task that is being polled.
    pub(crate) current: Cell<u16>,
    /// Whether a future is being driven.
    pub(crate) driving: Cell<bool>,
    /// Rounds of the loop that polls tasks.
    pub(crate) rounds: Cell<u32>,
    pub(crate) directory: RefCell<Option<Box<dyn Directory>>>,
    /// The ends of handles, and how to idle once there are any.
    pub(crate) desks: RefCell<Desks>,
    pub(crate) rest: Cell<Option<RestWithBell<D>>>,
    /// Where what happens is remembered, if anywhere.
    pub(crate) ring: Cell<Option<&'static Ring>>,
    /// Whether others are served while somebody waits with slices for bytes that arrive.
    pub(crate) lends: Cell<bool>,
    /// Whether the next poll has something to do beside the endpoint's work: to give back mappings
    /// of slices, or what guards have left, or to go on with operations of several stages.
    pub(crate) chores: Cell<bool>,
    pub(crate) clock: Clock,
    /// When the first of the calls began that leave with the next poll; `None` without any.
    pub(crate) burst_at: Cell<Option<Instant>>,
    local: SocketAddrV4,
}

impl Node<UdpDevice> {
    /// Opens a node over a kernel UDP socket.
    ///
    /// # Errors
    /// [`OpenError`]: a number out of range, or an address that cannot be bound.
    pub fn open_udp(config: &NodeConfig) -> Result<Self, OpenError> {
        config.check()?;
        let device = UdpDevice::open(config.udp())?;
        let local = device.local_addr();
        Self::new(device, local, config)
    }
}

impl<D: Device> Node<D> {
    /// A node over `device`, whose address is `local`. [`NodeConfig::bind`] and
    /// [`NodeConfig::datagram_bytes`] are not used: the device says what it can.
    ///
    /// # Errors
    /// [`OpenError`]: a number out of range.
    pub fn new(device: D, local: SocketAddrV4, config: &NodeConfig) -> Result<Self, OpenError> {
        Self::with_clock(device, local, config, Clock::new())
    }

    /// As [`Node::new`], with the time taken from `clock`.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn with_clock(
        device: D,
        local: SocketAddrV4,
        config: &NodeConfig,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        config.check()?;
        let datagram_bytes = device.capabilities().datagram_bytes_max;
        // What is encrypted is not what lies in a buffer.
        let lends = device.borrows() && !config.encrypt;
        let endpoint = OwnedEndpoint::new(
            config.endpoint(datagram_bytes, participant_at(local).is_some())?.for_device(&device),
            config.client_sessions,
            config.server_sessions,
            clock.now(),
        )?;
        let wakers = Arc::new(Wakers::new(config.tasks + 1));
        Ok(Self {
            core: RefCell::new(Core {
                endpoint,
                device,
                idle: Idle::new(config.idle),
                polls: PollMeter::default(),
                looks: 0,
            }),
            state: RefCell::new(State::new(config, datagram_bytes, lends)),
            config: *config,
            wakers,
            current: Cell::new(config.tasks as u16),
            driving: Cell::new(false),
            rounds: Cell::new(0),
            directory: RefCell::new(None),
            desks: RefCell::new(Desks::new()),
            rest: Cell::new(None),
            ring: Cell::new(None),
            shared: RefCell::new(None),
            shared_at: Cell::new(POOL_ADDRESS),
            pens: RefCell::new(None),
            lends: Cell::new(false),
            chores: Cell::new(false),
            clock,
            burst_at: Cell::new(None),
            local,
        })
    }

    /// Remembers what happens from now on in `ring`, at some stores an event: requests, ends of
    /// calls, sessions that come and go, with the traces of calls.
    pub fn remember(&self, ring: &'static Ring) {
        self.ring.set(Some(ring));
    }

    /// The address that this node is reached at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.local
    }

    /// How the node was set up.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The node's time now.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The time at which calls begin that leave with the next poll: that of the first of them, so
    /// that the clock is read once for all.
    #[inline]
    pub(crate) fn now_of_burst(&self) -> Instant {
        self.burst_at.get().unwrap_or_else(|| {
            let now = self.clock.now();
            self.burst_at.set(Some(now));
            now
        })
    }

    /// A session with `address` that is open or being opened, if there is one.
    pub fn peer_at(&self, address: SocketAddrV4) -> Option<Peer> {
        self.state.borrow().peers.at(address)
    }

    /// Which life of a peer the session is with; `None` if the handle is stale.
    pub fn peer_incarnation(&self, peer: Peer) -> Option<u64> {
        self.state.borrow().peers.get(peer).map(|entry| entry.incarnation)
    }

    /// Whether the session is open and its peer is not suspected.
    pub fn is_up(&self, peer: Peer) -> bool {
        self.state.borrow().peers.get(peer).is_some_and(|entry| entry.state == PeerState::Up)
    }

    /// A call to the peer will be made soon, a dozen others first: with thousands of sessions, what
    /// it needs is fetched into the processor's caches meanwhile. Only a hint.
    #[inline]
    pub fn expect_call(&self, peer: Peer) {
        self.core.borrow().endpoint.get().expect_call(peer.session);
    }

    /// Asks for a session.
    pub(crate) fn start_connect(&self, address: SocketAddrV4) -> Result<Peer, ConnectError> {
        let ip = address.ip();
        if ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || address.port() == 0 {
            // An answer, if one came, would come from another address.
            return Err(ConnectError::NoAddress { address });
        }
        let mut core = self.core.borrow_mut();
        let mut state = self.state.borrow_mut();
        let now = self.clock.now();
        let session = core.endpoint.with(|endpoint| endpoint.connect(now, address));
        match session {
            Some(session) => Ok(state.peers.open(session, address)),
            None => Err(ConnectError::NoSession { limit: state.peers.count() }),
        }
    }

    /// What became of a session that was asked for; `None` while that is open.
    pub(crate) fn connected(&self, peer: Peer) -> Option<Result<Peer, ConnectError>> {
        let state = self.state.borrow();
        // Another session has its place already: waiting would be for ever.
        let Some(entry) = state.peers.get(peer) else { return Some(Err(ConnectError::Ended)) };
        match entry.state {
            PeerState::Unused | PeerState::Connecting => None,
            PeerState::Up | PeerState::Suspected => Some(Ok(peer)),
            PeerState::Closed(why) => {
                Some(Err(ConnectError::Refused { address: entry.address, why }))
            }
        }
    }

    /// Ends a session. Its outstanding calls end at once; what the session owns is given back. In
    /// flush mode a session whose regions there are views of goes on until the last of them is
    /// dropped, though it cannot be found any more.
    pub fn disconnect(&self, peer: Peer) {
        let peer = self.state.borrow().peers.now(peer);
        if let Some(pens) = self.pens.borrow_mut().as_mut()
            && pens.views.keep_open(peer)
        {
            self.state.borrow_mut().peers.leave(self.clock.now(), peer);
            return;
        }
        self.say_goodbye(peer);
    }

    /// Ends a session that nothing needs any more.
    pub(crate) fn say_goodbye(&self, peer: Peer) {
        if let Some(shared) = self.shared.borrow_mut().as_mut() {
            shared.end(peer.line.0);
        }
        let mut core = self.core.borrow_mut();
        let mut state = self.state.borrow_mut();
        let now = self.clock.now();
        let Core { endpoint, device, .. } = &mut *core;
        state.peers.end(peer);
        let mut host = PollHost { state: &mut state, user: None };
        endpoint.with(|endpoint| endpoint.disconnect(now, device, &mut host, peer.session));
        drop((core, state));
        if self.chores.get() {
            // What has several stages ends with its message.
            self.do_chores();
        }
    }

    /// Ends all sessions in which this node makes calls, as [`Node::disconnect`] does: to be called
    /// before a program ends, so that its memory comes back at once. A node that just goes silent
    /// keeps it until its lease is over. Goodbyes that nobody confirms are repeated for 50 ms.
    pub fn disconnect_all(&self) {
        let mut first = 0;
        loop {
            let peer = self.state.borrow().peers.open_one(first);
            let Some(peer) = peer else { break };
            first = peer.line.0 as usize + 1;
            self.disconnect(peer);
        }
        self.dismiss_lender();
        self.farewell();
    }

    /// Takes a buffer with room for `bytes` bytes; its contents are that long.
    ///
    /// # Errors
    /// [`Error::NoBuffer`].
    pub fn buffer(&self, bytes: usize) -> Result<Buffer<'_>, Error> {
        let mut state = self.state.borrow_mut();
        let pool = &mut state.pool;
        match pool.reserve(bytes) {
            Some(index) => Ok(Buffer::take(&self.state, pool, index, bytes)),
            None => Err(Error::NoBuffer { bytes, bytes_max: pool.bytes_max() }),
        }
    }

    /// Counts since the node was opened.
    pub fn statistics(&self) -> Statistics {
        let core = self.core.borrow();
        let state = self.state.borrow();
        Statistics {
            operations: state.operations,
            served: state.served,
            endpoint: *core.endpoint.get().counters(),
            calls_outstanding: state.pending.outstanding,
            buffers_free: state.pool.free_count(),
            sleeps: core.idle.sleeps(),
            polls: core.polls.counts(),
        }
    }

    /// Steps of handlers that took longer than
    /// [`SLOW_STEP_NS`](crate::statistics::SLOW_STEP_NS), so far: cheap to ask after each poll.
    pub fn slow_steps(&self) -> u64 {
        self.state.borrow().served.slow_steps
    }

    /// Lets `look` see the device, for what only it knows.
    pub fn with_device<R>(&self, look: impl FnOnce(&D) -> R) -> R {
        look(&self.core.borrow().device)
    }
}

impl<D> Node<D> {
    /// The address of a peer; `None` if the handle is stale.
    pub fn peer_address(&self, peer: Peer) -> Option<SocketAddrV4> {
        self.state.borrow().peers.get(peer).map(|entry| entry.address)
    }
}

impl<D: Device + Wait> Node<D> {
    /// Opens a session with the node at `address`. Takes at most 1.5 s.
    ///
    /// Each call opens another session: regions and references belong to the session that made
    /// them, and a session's slots bound its calls. [`Node::peer_at`] finds one that is open.
    ///
    /// # Errors
    /// [`ConnectError`]: nobody there, or no session left at either end.
    pub fn connect(&self, address: SocketAddrV4) -> Result<Peer, ConnectError> {
        let peer = self.start_connect(address)?;
        self.await_session(peer)
    }

    /// Waits until a session that was asked for is open, or is not going to be.
    pub(crate) fn await_session(&self, peer: Peer) -> Result<Peer, ConnectError> {
        loop {
            if let Some(result) = self.connected(peer) {
                return result;
            }
            self.step();
        }
    }
}
