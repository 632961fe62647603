//! From the command line to the poll loop.

use std::time::{SystemTime, UNIX_EPOCH};

use dmrpc_choice::{AnyDevice, Driver};
use dmrpc_core::device::Device;
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Endpoint};
use dmrpc_core::memory::{Memory, Plain};
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, Limits, PAGE_BYTES, Store};
use dmrpc_core::time::Instant;
use dmrpc_core::wire::control::Features;
use dmrpc_core::wire::reference::RefKey;
use dmrpc_host::affinity::pin_to_core;
use dmrpc_host::clock::Clock;
use dmrpc_host::idle::Idle;
use dmrpc_host::key::{self, random_secret};
use dmrpc_host::log::{self, LogConfig};
use dmrpc_host::signals::Signals;
use memmap2::MmapMut;

use crate::error::Error;
use crate::memory::{EndpointMemory, available_bytes, map_pool};
use crate::options::Options;
use crate::place::Place;
use crate::report::Reporter;
use crate::shared::SharedPool;

/// Steps of freeing between two polls: some microseconds, so that latency does not show it.
const RECLAIM_STEPS_A_POLL: u32 = 32;
/// Polls between two looks at signals and the report's time.
const POLLS_A_LOOK: u32 = 256;

/// Serves until told to stop.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let place = Place::of(options)?;
    if !(1..=65_536).contains(&options.sessions) {
        return Err(Error::Sessions(options.sessions));
    }
    let signals = Signals::install().map_err(Error::Signals)?;
    if let Some(path) = &options.driver.pool {
        let mut shared = SharedPool::open(options, path)?;
        let store = shared.store(|bytes, participants| StoreConfig {
            participants,
            ..store_config(options, bytes)
        })?;
        let identity = shared.identity(place.memory_node);
        let device = shared.device(options, &place)?;
        return serve_store(options, &place, signals, store, identity, device, Some(shared));
    }
    let bytes = options.pool_size.0 & !7;
    // No pool is ever shorter than a word; the store says how long one has to be.
    let mut pool = pool(bytes.max(8), options.huge_pages)?;
    let config = store_config(options, bytes);
    let store = Store::format(Plain::new(bytemuck::cast_slice_mut(&mut pool)), &config)
        .map_err(|source| Error::PoolFormat { bytes, source })?;
    let key = RefKey(random_secret().map_err(Error::Random)?);
    let incarnation = wall_clock_ns();
    let identity = Identity { memory_node: place.memory_node, incarnation, key };
    let device = open_device(options, &place)?;
    serve_store(options, &place, signals, store, identity, device, None)
}

/// Opens the device that the command line chooses.
pub(crate) fn open_device(options: &Options, place: &Place) -> Result<AnyDevice, Error> {
    let datagram_bytes = options.datagram_size.map(|size| size.as_usize());
    let datagram_bytes = datagram_bytes.unwrap_or(options.driver.datagram_bytes());
    let driver = Driver::start(&options.driver, datagram_bytes, 1).map_err(Error::Device)?;
    driver.device(0, place.address).map_err(Error::Device)
}

/// Serves `store` until told to stop.
fn serve_store<M: Memory>(
    options: &Options,
    place: &Place,
    signals: Signals,
    store: Store<M>,
    identity: Identity,
    mut device: AnyDevice,
    shared: Option<SharedPool>,
) -> Result<(), Error> {
    let pages = options.session_quota.map_or(u64::MAX, |quota| quota.0.div_ceil(PAGE_BYTES));
    let limits = Limits { pages, ..Limits::NONE };
    let config = *store.config();
    let mut holders = vec![SessionHolder::default(); options.sessions];
    let mut transfers = vec![Transfer::default(); config.stages as usize];
    let node = MemoryNode::new(store, identity, limits, &mut holders, &mut transfers);

    let clock = Clock::new();
    let datagram_bytes = device.capabilities().datagram_bytes_max;
    let endpoint_config = endpoint_config(options, wall_clock_ns(), datagram_bytes)?;
    // A memory node makes no calls: it has server sessions only.
    let size = StorageSize::new(0, options.sessions, options.slots.into());
    let mut memory = EndpointMemory::new(&size);
    let endpoint =
        Endpoint::new(endpoint_config, memory.storage(), clock.now()).map_err(Error::Endpoint)?;

    let log = log::start(LogConfig { process: "mn".to_owned(), ..LogConfig::default() })
        .map_err(Error::Log)?;
    log::attach_thread();
    let reporter = Reporter::start(options.json, place.core, clock.now()).map_err(Error::Thread)?;
    // Threads inherit their parent's core, so only now.
    if let Some(core) = place.core {
        pin_to_core(core).map_err(Error::Cores)?;
    }
    let address = device.local_addr();
    defmt::info!(
        "memory node {=u32} on port {=u16}: {=u64} frames",
        place.memory_node,
        address.port(),
        u64::from(config.frames)
    );
    dmrpc_host::cli::announce(format_args!("ready {address}"));
    let mut serving = Serving { endpoint, node, reporter, signals, shared };
    serving.run(&mut device, options);
    drop(log);
    Ok(())
}

/// The pool's memory, if the machine has it.
fn pool(bytes: u64, huge_pages: bool) -> Result<MmapMut, Error> {
    // Huge pages are reserved beforehand, so they are not among what is available: whether there
    // are enough, the mapping tells.
    let available = if huge_pages { None } else { available_bytes() };
    if let Some(available) = available.filter(|available| *available < bytes) {
        return Err(Error::PoolTooLarge { wanted: bytes, available });
    }
    map_pool(bytes as usize, huge_pages).map_err(|source| Error::PoolMap {
        bytes,
        huge_pages,
        source,
    })
}

fn store_config(options: &Options, pool_bytes: u64) -> StoreConfig {
    let mut config = StoreConfig::for_pool_bytes(pool_bytes);
    config.grace_ns = options.grace.0.as_nanos();
    // A session that ended keeps its holder until its grace is over.
    config.holders = config.holders.max(2 * options.sessions as u32);
    config
}

fn endpoint_config(
    options: &Options,
    incarnation: u64,
    datagram_bytes_max: usize,
) -> Result<Config, Error> {
    let mut config = Config::new(incarnation, datagram_bytes_max);
    config.key = key::load(options.key_file.as_deref()).map_err(Error::Key)?;
    config.secret = random_secret().map_err(Error::Random)?;
    config.slots_per_session = options.slots;
    config.lease = options.lease.0;
    config.congestion = options.congestion;
    if options.no_payload_check {
        config.features -= Features::PAYLOAD_CHECK;
    }
    Ok(config)
}

/// What the poll loop works with.
struct Serving<'m, M> {
    endpoint: Endpoint<'m>,
    node: MemoryNode<'m, M>,
    reporter: Reporter,
    signals: Signals,
    shared: Option<SharedPool>,
}

impl<M: Memory> Serving<'_, M> {
    /// The poll loop.
    fn run(&mut self, device: &mut AnyDevice, options: &Options) {
        let interval = options.report.map(|span| span.0);
        let clock = Clock::new();
        let mut idle = Idle::new(options.idle);
        let mut next_report = interval.map_or(Instant::FAR_FUTURE, |span| clock.now() + span);
        let mut polls = 0u32;
        loop {
            let now = clock.now();
            let polled = self.endpoint.poll(now, device, &mut self.node);
            let reclaimed = self.node.reclaim(now, RECLAIM_STEPS_A_POLL);
            let worked = !polled.is_idle() || reclaimed != 0;
            polls = polls.wrapping_add(1);
            if polls.is_multiple_of(POLLS_A_LOOK) || !worked {
                if self.signals.stop_requested() {
                    return;
                }
                if self.signals.take_dump_request() || now >= next_report {
                    self.reporter.publish(now, &self.node, self.endpoint.counters());
                    next_report = interval.map_or(Instant::FAR_FUTURE, |span| now + span);
                }
                if let Some(shared) = &mut self.shared {
                    let node = &mut self.node;
                    shared.look(now, |participant| node.recover(participant, now));
                }
            }
            let deadline = if worked { now } else { self.endpoint.poll_at(now).min(next_report) };
            idle.after_poll(worked, now, deadline, device);
        }
    }
}

/// Nanoseconds since 1970: larger at each start of the node.
pub(crate) fn wall_clock_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |span| span.as_nanos() as u64)
}
