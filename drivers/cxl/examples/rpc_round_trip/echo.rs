//! An endpoint over rings, with a service that echoes.

use std::net::SocketAddrV4;

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::host::{
    Body, CallId, Completion, Outcome, Reply, RequestHead, SessionId,
};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Call, Config, Endpoint, Host, StartError};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::message::Status;
use dmrpc_cxl::pool::RING_SLOTS;
use dmrpc_cxl::{Participant, Pool, RingDevice};
use dmrpc_host::clock::Clock;
use dmrpc_sim::storage;

/// Looks in vain before a poll.
const LOOKS_A_POLL: u32 = 16;

/// Echoes requests, and counts answers.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) completed: u64,
    pub(crate) wrong: u64,
    /// What answers must be.
    pub(crate) expected: Vec<u8>,
}

impl Host for Echo {
    fn request(
        &mut self,
        _: Instant,
        _: &RequestHead<'_>,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if let Body::Whole(bytes) = body {
            reply.body(bytes);
        }
        Outcome::Replied
    }
    fn completed(&mut self, _: Instant, completion: Completion<'_>) {
        self.completed += 1;
        let right = matches!(completion.result, Ok(response) if response.status == Status::OK
            && matches!(response.body, Body::Whole(bytes) if bytes == self.expected));
        self.wrong += u64::from(!right);
    }
}

/// An endpoint, its rings and its host.
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint<'static>,
    pub(crate) host: Echo,
    device: RingDevice,
    clock: Clock,
    /// Looks in vain since the last poll.
    looks: u32,
    _participant: Participant,
}

impl Node {
    pub(crate) fn open(pool: &Pool, index: u32) -> Self {
        let participant = pool.attach(Some(index), index.into()).expect("a free slot");
        let device = RingDevice::open(pool, &participant).expect("it has rings");
        let clock = Clock::new();
        let bytes = device.capabilities().datagram_bytes_max;
        let config = Config::new(index.into(), bytes).through_memory(RING_SLOTS);
        let config = config.for_device(&device);
        let size = StorageSize::new(1, 1, config.slots_per_session.into());
        let endpoint = Endpoint::new(config, storage::take(size), clock.now());
        let endpoint = endpoint.expect("the defaults work");
        Self { endpoint, host: Echo::default(), device, clock, looks: 0, _participant: participant }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn poll(&mut self) {
        self.endpoint.poll(self.clock.now(), &mut self.device, &mut self.host);
    }

    /// Polls if there is anything, and now and then for the timers, as loops do that never pause.
    pub(crate) fn spin(&mut self) {
        if self.looks == LOOKS_A_POLL {
            self.looks = 0;
            return self.poll();
        }
        let Self { endpoint, host, device, clock, looks, .. } = self;
        let found = endpoint.look(|| clock.now(), device, host);
        *looks = if found.is_some() { 0 } else { *looks + 1 };
    }

    /// Makes a call that leaves at once.
    ///
    /// # Errors
    /// As [`Endpoint::call_now`].
    pub(crate) fn call_now(
        &mut self,
        session: SessionId,
        call: &Call<'_>,
    ) -> Result<CallId, StartError> {
        let Self { endpoint, device, clock, .. } = self;
        endpoint.call_now(|| clock.now(), device, session, call)
    }

    /// Opens a session with the node at `address`, which polls, or is polled by `meanwhile`.
    pub(crate) fn connect(
        &mut self,
        address: SocketAddrV4,
        mut meanwhile: impl FnMut(),
    ) -> SessionId {
        let session = self.endpoint.connect(self.clock.now(), address).expect("a session");
        while !self.endpoint.is_up(session) {
            self.poll();
            meanwhile();
        }
        session
    }
}
