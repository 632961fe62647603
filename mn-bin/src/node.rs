//! From the command line to the poll loop.

use std::fmt;
use std::io::Write;
use std::net::SocketAddrV4;
use std::time::{SystemTime, UNIX_EPOCH};

use dmrpc_core::device::Device;
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Config, ConfigError, Endpoint, TimerEntry};
use dmrpc_core::memory::Plain;
use dmrpc_core::service::{Identity, MemoryNode, SessionHolder, Transfer};
use dmrpc_core::store::{Config as StoreConfig, FormatError, Limits, PAGE_BYTES, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::control::Features;
use dmrpc_core::wire::reference::RefKey;
use dmrpc_host::affinity::{CoreError, pin_to_core};
use dmrpc_host::clock::Clock;
use dmrpc_host::cluster::{Cluster, ClusterError, Role};
use dmrpc_host::idle::Idle;
use dmrpc_host::log::{self, LogConfig, LogError};
use dmrpc_host::signals::{SignalError, Signals};
use dmrpc_host::size::ByteSize;
use dmrpc_udp::{UdpConfig, UdpDevice, UdpError};

use crate::options::Options;
use crate::pool;
use crate::report::Reporter;

/// Steps of freeing between two polls: some microseconds, so that latency does not show it.
const RECLAIM_STEPS_A_POLL: u32 = 32;
/// Polls between two looks at signals and the report's time.
const POLLS_A_LOOK: u32 = 256;

/// Why the memory node does not run.
#[derive(Debug)]
pub(crate) enum Error {
    Cluster(ClusterError),
    Cores(CoreError),
    OneCoreOnly(usize),
    Sessions(usize),
    Device(UdpError),
    Endpoint(ConfigError),
    PoolTooLarge { wanted: u64, available: u64 },
    PoolMap { bytes: u64, huge_pages: bool, source: std::io::Error },
    PoolFormat { bytes: u64, source: FormatError },
    Random(getrandom::Error),
    Signals(SignalError),
    Log(LogError),
    Thread(std::io::Error),
}

impl Error {
    /// Whether the command line is to blame, not the machine.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Cluster(_)
                | Self::Cores(_)
                | Self::OneCoreOnly(_)
                | Self::Sessions(_)
                | Self::Endpoint(_)
                | Self::PoolFormat { .. }
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(error) => error.fmt(f),
            Self::Cores(error) => error.fmt(f),
            Self::OneCoreOnly(count) => {
                write!(f, "--cores names {count} cores; over UDP a memory node uses one")
            }
            Self::Sessions(count) => {
                write!(f, "--sessions {count} is out of range; use 1 to 65536")
            }
            Self::Device(error) => error.fmt(f),
            Self::Endpoint(error) => error.fmt(f),
            Self::PoolTooLarge { wanted, available } => write!(
                f,
                "--pool-size {} does not fit: this machine has {} available",
                ByteSize(*wanted),
                ByteSize(available & !0xF_FFFF)
            ),
            Self::PoolMap { bytes, huge_pages: true, source } => write!(
                f,
                "cannot map {} of huge pages ({source}); reserve {} of them: \
                 echo N > /proc/sys/vm/nr_hugepages",
                ByteSize(*bytes),
                bytes.div_ceil(2 << 20)
            ),
            Self::PoolMap { bytes, source, .. } => {
                write!(f, "cannot map a pool of {}: {source}", ByteSize(*bytes))
            }
            Self::PoolFormat { bytes, source } => {
                write!(f, "--pool-size {} cannot be used: {source}", ByteSize(*bytes))
            }
            Self::Random(error) => write!(f, "no random numbers from the system: {error}"),
            Self::Signals(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "the reporting thread could not be started: {error}"),
        }
    }
}

/// Serves until told to stop.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let place = Place::of(options)?;
    if !(1..=65_536).contains(&options.sessions) {
        return Err(Error::Sessions(options.sessions));
    }
    let signals = Signals::install().map_err(Error::Signals)?;
    let bytes = options.pool_size.0 & !7;
    if let Some(available) = pool::available_bytes().filter(|available| *available < bytes) {
        return Err(Error::PoolTooLarge { wanted: bytes, available });
    }
    let huge_pages = options.huge_pages;
    let mut pool = pool::map(bytes as usize, huge_pages).map_err(|source| Error::PoolMap {
        bytes,
        huge_pages,
        source,
    })?;
    let mut config = StoreConfig::for_pool_bytes(bytes);
    config.grace_ns = options.grace.0.as_nanos();
    config.holders = config.holders.max(2 * options.sessions as u32);
    let memory = Plain::new(bytemuck::cast_slice_mut(&mut pool));
    let store =
        Store::format(memory, &config).map_err(|source| Error::PoolFormat { bytes, source })?;

    let mut udp = UdpConfig::at(place.address);
    udp.datagram_bytes_max = options.datagram_size.as_usize();
    let mut device = UdpDevice::open(udp).map_err(Error::Device)?;

    let incarnation = wall_clock_ns();
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(Error::Random)?;
    let identity = Identity { memory_node: place.memory_node, incarnation, key: RefKey(key) };
    let quota = options.session_quota.map_or(u64::MAX, |quota| quota.0.div_ceil(PAGE_BYTES));
    let limits = Limits { pages: quota, ..Limits::NONE };
    let mut holders = vec![SessionHolder::default(); options.sessions];
    let mut transfers = vec![Transfer::default(); config.stages as usize];
    let mut node = MemoryNode::new(store, identity, limits, &mut holders, &mut transfers);

    let clock = Clock::new();
    let mut endpoint_config = Config::new(incarnation, device.capabilities().datagram_bytes_max);
    endpoint_config.slots_per_session = options.slots;
    endpoint_config.lease = options.lease.0;
    if options.no_payload_check {
        endpoint_config.features -= Features::PAYLOAD_CHECK;
    }
    // A memory node makes no calls: it has server sessions only.
    let size = StorageSize::new(0, options.sessions, options.slots.into());
    let mut memory = EndpointMemory::new(&size);
    let mut endpoint =
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
    println!("ready {address}");
    // Whoever waits for the line may be a program behind a pipe.
    let _ = std::io::stdout().flush();
    let interval = options.report.map(|span| span.0);
    serve(&mut endpoint, &mut device, &mut node, options, &reporter, interval, signals);
    drop(log);
    Ok(())
}

/// The poll loop.
fn serve(
    endpoint: &mut Endpoint<'_>,
    device: &mut UdpDevice,
    node: &mut MemoryNode<'_, Plain<'_>>,
    options: &Options,
    reporter: &Reporter,
    interval: Option<Duration>,
    signals: Signals,
) {
    let clock = Clock::new();
    let mut idle = Idle::new(options.idle);
    let mut next_report = interval.map_or(Instant::FAR_FUTURE, |span| clock.now() + span);
    let mut polls = 0u32;
    loop {
        let now = clock.now();
        let polled = endpoint.poll(now, device, node);
        let reclaimed = node.reclaim(now, RECLAIM_STEPS_A_POLL);
        let worked = !polled.is_idle() || reclaimed != 0;
        polls = polls.wrapping_add(1);
        if polls.is_multiple_of(POLLS_A_LOOK) || !worked {
            if signals.stop_requested() {
                return;
            }
            if signals.take_dump_request() || now >= next_report {
                reporter.publish(now, node, endpoint.counters());
                next_report = interval.map_or(Instant::FAR_FUTURE, |span| now + span);
            }
        }
        let deadline = if worked { now } else { endpoint.poll_at(now).min(next_report) };
        idle.after_poll(worked, now, deadline, device);
    }
}

/// Where this memory node is in its cluster.
struct Place {
    address: SocketAddrV4,
    core: Option<usize>,
    memory_node: u32,
}

impl Place {
    fn of(options: &Options) -> Result<Self, Error> {
        let mut place =
            Self { address: options.bind, core: None, memory_node: options.memory_node };
        if let (Some(path), Some(index)) = (&options.cluster, options.server_index) {
            let cluster = Cluster::load(path).map_err(Error::Cluster)?;
            let process = cluster.select(index, Role::MemoryNode).map_err(Error::Cluster)?;
            place.address = process.address;
            place.core = process.core;
            let before = cluster.processes()[..index].iter();
            let before = before.filter(|process| process.role == Role::MemoryNode).count();
            place.memory_node = before as u32;
        }
        if let Some(list) = &options.cores {
            list.check().map_err(Error::Cores)?;
            match list.cores() {
                [core] => place.core = Some(*core),
                cores => return Err(Error::OneCoreOnly(cores.len())),
            }
        }
        Ok(place)
    }
}

/// Nanoseconds since 1970: larger at each start of the node.
fn wall_clock_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |span| span.as_nanos() as u64)
}

/// The memory of an endpoint, allocated once.
struct EndpointMemory {
    client_sessions: Vec<ClientSession>,
    client_slots: Vec<ClientSlot>,
    server_sessions: Vec<ServerSession>,
    server_slots: Vec<ServerSlot>,
    timers: Vec<TimerEntry>,
}

impl EndpointMemory {
    fn new(size: &StorageSize) -> Self {
        Self {
            client_sessions: vec![ClientSession::EMPTY; size.client_sessions],
            client_slots: vec![ClientSlot::EMPTY; size.client_slots],
            server_sessions: vec![ServerSession::EMPTY; size.server_sessions],
            server_slots: vec![ServerSlot::EMPTY; size.server_slots],
            timers: vec![TimerEntry::EMPTY; size.timers],
        }
    }

    fn storage(&mut self) -> Storage<'_> {
        Storage {
            client_sessions: &mut self.client_sessions,
            client_slots: &mut self.client_slots,
            server_sessions: &mut self.server_sessions,
            server_slots: &mut self.server_slots,
            timers: &mut self.timers,
        }
    }
}
