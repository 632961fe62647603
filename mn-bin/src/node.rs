//! From the command line to the poll loop.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use dmrpc_choice::{AnyDevice, Driver, DriverKind};
use dmrpc_core::device::Device;
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Endpoint, Polled};
use dmrpc_core::memory::{Atomic, Handed, Memory, Plain};
use dmrpc_core::service::{
    CORE_COUNTS, DetachedAccount, Detachment, Detachments, Identity, MemoryNode, SessionHolder,
    Transfer,
};
use dmrpc_core::store::{Limits, PAGE_BYTES, RECLAIM_UNITS_A_POLL, Store};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::trace::Traced;
use dmrpc_core::wire::control::Features;
use dmrpc_core::wire::reference::RefKey;
use dmrpc_cxl::device::address_of;
use dmrpc_cxl::pool::RING_SLOTS;
use dmrpc_host::affinity::pin_to_core;
use dmrpc_host::clock::Clock;
use dmrpc_host::events;
use dmrpc_host::idle::Idle;
use dmrpc_host::key::{self, random_secret};
use dmrpc_host::log::{self, LogConfig};
use dmrpc_host::polls::{HandlerTime, PollCounts, PollMeter, Sampled};
use dmrpc_host::signals::Signals;

use crate::error::Error;
use crate::memory::EndpointMemory;
use crate::options::Options;
use crate::place::Place;
use crate::report::{Reporter, Served};
use crate::shared::{SharedPool, Slot};
use crate::sizes::{detached, limits, pool, store_config};

/// Polls between two looks at signals and the report's time.
const POLLS_A_LOOK: u32 = 256;
/// Looks for packets in a row, in vain, before a poll.
const LOOKS_A_POLL: u32 = 16;

/// What all poll loops have in common.
struct Common<'a> {
    options: &'a Options,
    driver: &'a Driver,
    identity: Identity,
    limits: Limits,
    /// Writes of several packets that may come in at a time.
    stages: usize,
    /// Who has detached what, of all cores.
    detached: (Vec<Detachment>, Vec<DetachedAccount>),
    signals: Signals,
    /// Set when a loop ended: the others follow.
    stop: AtomicBool,
    /// Requests for a report so far, by signal: each loop answers each.
    dumps: AtomicU32,
    /// Which life of the node this is.
    life: u64,
    /// A pool that others map too.
    shared: Option<Mutex<SharedPool>>,
    /// Whether packets are encrypted.
    encrypt: bool,
    /// Whether participants are told where pages are: the pool is in flush mode.
    hands_out: bool,
}

/// Serves until told to stop.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let place = Place::of(options)?;
    if !(1..=65_536).contains(&options.sessions) {
        return Err(Error::Sessions(options.sessions));
    }
    let signals = Signals::install().map_err(Error::Signals)?;
    if let Some(path) = &options.driver.pool {
        return run_shared(options, &place, signals, path);
    }
    let bytes = options.pool_size.0 & !7;
    // No pool is ever shorter than a word; the store says how long one has to be.
    // It is there until the process ends, so that devices may send from it.
    let pool = Box::leak(Box::new(pool(bytes.max(8), options.huge_pages)?));
    let loops = place.cores.len().max(1);
    let config = store_config(options, bytes, loops as u32);
    let words = bytemuck::cast_slice_mut(pool);

    let datagram_bytes = options.datagram_size.map(|size| size.as_usize());
    let datagram_bytes = datagram_bytes.unwrap_or(options.driver.datagram_bytes());
    let driver =
        Driver::start(&options.driver, datagram_bytes, loops as u16).map_err(Error::Device)?;
    let devices: Result<Vec<_>, _> =
        (0..loops).map(|queue| driver.device(queue as u16, place.address)).collect();
    let mut devices = devices.map_err(Error::Device)?;

    let key = RefKey(random_secret().map_err(Error::Random)?);
    events::dump_on_panic();
    let life = wall_clock_ns();
    let common = Common {
        options,
        driver: &driver,
        identity: Identity { memory_node: place.memory_node, incarnation: life, key },
        limits: limits(options),
        stages: config.stages as usize,
        detached: detached(&config),
        signals,
        stop: AtomicBool::new(false),
        dumps: AtomicU32::new(0),
        life,
        shared: None,
        encrypt: place.encrypt,
        hands_out: false,
    };
    let log = log::start(LogConfig { process: "mn".to_owned(), ..LogConfig::default() })
        .map_err(Error::Log)?;
    log::attach_thread();
    let address = devices[0].local_addr();
    let announce = || {
        let (node, frames) = (place.memory_node, u64::from(config.frames));
        defmt::info!(
            "memory node {=u32} on port {=u16}: {=u64} frames",
            node,
            address.port(),
            frames
        );
        dmrpc_host::cli::announce(format_args!("ready {address}"));
        Ok(())
    };
    let format = |source| Error::PoolFormat { bytes: options.pool_size.0, source };
    if loops == 1 {
        let store = Store::format(Plain::lasting(words), &config).map_err(format)?;
        let core = place.cores.first().copied();
        poll_loop(&common, store, devices.remove(0), core, announce)?;
    } else {
        let memory = Atomic::lasting(words);
        let mut stores = vec![Store::format(&memory, &config).map_err(format)?];
        for participant in 1..loops {
            stores.push(Store::attach(&memory, participant as u32).map_err(format)?);
        }
        let parts = stores.into_iter().zip(devices).zip(&place.cores);
        poll_loops(&common, parts.map(|((store, device), core)| (store, device, *core)), announce)?;
    }
    drop(log);
    Ok(())
}

/// Serves a pool that others map too, until told to stop.
fn run_shared(
    options: &Options,
    place: &Place,
    signals: Signals,
    path: &Path,
) -> Result<(), Error> {
    if place.cores.len() > 1 {
        return Err(Error::OneCoreOnly(place.cores.len()));
    }
    let shared = SharedPool::open(options, path, place.memory_node)?;
    let config = |bytes, participants| store_config(options, bytes, participants);
    if shared.is_in_flush_mode() {
        let store = shared.store(Handed(shared.memory()), config)?;
        return serve_shared(options, place, (signals, shared), store);
    }
    let store = shared.store(shared.memory(), config)?;
    serve_shared(options, place, (signals, shared), store)
}

fn serve_shared<M: Memory>(
    options: &Options,
    place: &Place,
    (signals, mut shared): (Signals, SharedPool),
    store: Store<M>,
) -> Result<(), Error> {
    let (driver, device) = shared.device(options, place)?;
    let (frames, stages) = (u64::from(store.config().frames), store.config().stages as usize);
    // Over a network a session's end may come before that of its process, which would go on
    // writing to what is another's by then.
    let hands_out = shared.is_in_flush_mode() && options.driver.kind() == DriverKind::Cxl;
    let common = Common {
        options,
        driver: &driver,
        identity: shared.identity(),
        limits: limits(options),
        stages,
        detached: detached(store.config()),
        signals,
        stop: AtomicBool::new(false),
        dumps: AtomicU32::new(0),
        life: wall_clock_ns(),
        shared: Some(Mutex::new(shared)),
        encrypt: place.encrypt,
        hands_out,
    };
    let log = log::start(LogConfig { process: "mn".to_owned(), ..LogConfig::default() })
        .map_err(Error::Log)?;
    log::attach_thread();
    let (address, node) = (device.local_addr(), place.memory_node);
    let announce = || {
        defmt::info!("memory node {=u32} in a pool: {=u64} frames", node, frames);
        dmrpc_host::cli::announce(format_args!("ready {address}"));
        Ok(())
    };
    poll_loop(&common, store, device, place.cores.first().copied(), announce)?;
    drop(log);
    Ok(())
}

/// Runs a poll loop on each core, the first on the calling thread. `announce` is called once all
/// are about to poll.
fn poll_loops<M: Memory + Send>(
    common: &Common<'_>,
    mut parts: impl Iterator<Item = (Store<M>, AnyDevice, usize)>,
    announce: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let Some((store, device, core)) = parts.next() else { return Err(Error::Loop) };
    thread::scope(|scope| {
        let (sender, ready) = mpsc::channel();
        let others: Vec<_> = parts
            .map(|(store, device, core)| {
                let sender = sender.clone();
                scope.spawn(move || {
                    common.driver.enter_thread().map_err(Error::Device)?;
                    log::attach_thread();
                    poll_loop(common, store, device, Some(core), || {
                        // The first loop waits for it, or has failed and says so.
                        let _ = sender.send(());
                        Ok(())
                    })
                })
            })
            .collect();
        drop(sender);
        let first = poll_loop(common, store, device, Some(core), || {
            for _ in &others {
                ready.recv().map_err(|_| Error::Loop)?;
            }
            announce()
        });
        common.stop.store(true, Ordering::Relaxed);
        // What a loop that did not start says is better than that it did not.
        let results = others.into_iter().map(|other| other.join().unwrap_or(Err(Error::Loop)));
        results.collect::<Result<Vec<()>, Error>>()?;
        first
    })
}

/// Sets up one poll loop over its part of the pool and its device, and runs it.
fn poll_loop<M: Memory>(
    common: &Common<'_>,
    store: Store<M>,
    mut device: AnyDevice,
    core: Option<usize>,
    ready: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let options = common.options;
    let mut holders = vec![SessionHolder::default(); options.sessions];
    let mut transfers = vec![Transfer::default(); common.stages];
    let config = *store.config();
    let Common { identity, limits, .. } = *common;
    let mut node = MemoryNode::new(store, identity, limits, &mut holders, &mut transfers);
    if let Some(staged) = options.session_staged {
        node.bound_staged_pages(staged.0.div_ceil(PAGE_BYTES));
    }
    // By default no session can take all that there is for all of them.
    let most = |all: u32| all - all / 4;
    let writes = options.session_writes.unwrap_or(most(common.stages as u32));
    node.bound_transfers(writes as usize);
    node.bound_detached(Detachments::new(
        options.session_detached.unwrap_or(most(config.detached_max)),
        &common.detached.0,
        &common.detached.1,
    ));
    if common.hands_out {
        node.hand_out_places();
    }
    let clock = Clock::new();
    let mut node = Sampled::new(Traced::new(node, events::free_ring()), clock.clone());
    let datagram_bytes_max = device.capabilities().datagram_bytes_max;
    let mut config = endpoint_config(options, common.life, datagram_bytes_max)?;
    config.encrypt = common.encrypt;
    if common.hands_out {
        // A participant that is silent may still write: only its end ends its sessions.
        config.lease = Duration::from_secs(u32::MAX.into());
    }
    let config = config.for_device(&device);
    // A memory node makes no calls: it has server sessions only.
    let size = StorageSize::new(0, options.sessions, options.slots.into());
    let mut memory = EndpointMemory::new(&config, &size);
    let (storage, room) = memory.lend();
    let mut endpoint =
        Endpoint::encrypted(config, storage, room, clock.now()).map_err(Error::Endpoint)?;
    let reporter =
        Reporter::start(options.json, core, &clock, options.sessions).map_err(Error::Thread)?;
    // Threads inherit their parent's core, so only now.
    if let Some(core) = core {
        pin_to_core(core).map_err(Error::Cores)?;
    }
    ready()?;
    serve(&mut endpoint, &mut device, &mut node, common, (&reporter, &clock));
    common.stop.store(true, Ordering::Relaxed);
    Ok(())
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
    let sessions = options.sessions as u32;
    // As with memory: by default no address can take all that there is for all of them.
    config.sessions_per_address = options.sessions_per_address.unwrap_or(sessions - sessions / 4);
    config.lease = options.lease.0;
    config.congestion = options.congestion;
    if options.no_payload_check {
        config.features -= Features::PAYLOAD_CHECK;
    }
    if options.driver.kind() == DriverKind::Cxl {
        config = config.through_memory(RING_SLOTS);
    }
    Ok(config)
}

/// The poll loop.
fn serve<M: Memory>(
    endpoint: &mut Endpoint<'_>,
    device: &mut AnyDevice,
    node: &mut Served<'_, M>,
    common: &Common<'_>,
    (reporter, clock): (&Reporter, &Clock),
) {
    let mut idle = Idle::new(common.options.idle);
    let interval = common.options.report.map(|span| span.0);
    let mut next_report = interval.map_or(Instant::FAR_FUTURE, |span| clock.now() + span);
    let mut polls = 0u32;
    // Something has happened since the last look at what is not packets.
    let mut news = true;
    let mut dumps = 0;
    if common.shared.is_some() {
        node.host.host.end_earlier_sessions(clock.now());
    }
    let mut meter = PollMeter::default();
    loop {
        let (now, polled) = match spin(endpoint, device, node, (&idle, &mut meter, clock)) {
            Some(found) => found,
            None => {
                let now = clock.now();
                (now, endpoint.poll(now, device, node))
            }
        };
        let reclaimed = node.host.host.reclaim(now, RECLAIM_UNITS_A_POLL);
        let worked = !polled.is_idle() || reclaimed != 0;
        meter.count(now, polled, worked);
        polls = polls.wrapping_add(1);
        // A loop that never pauses has its next packet sooner if it does not look at all that each
        // time in between.
        news |= worked;
        if polls.is_multiple_of(POLLS_A_LOOK) || !worked && (news || !idle.is_busy()) {
            news = false;
            if common.signals.stop_requested() || common.stop.load(Ordering::Relaxed) {
                return;
            }
            if common.signals.take_dump_request() {
                common.dumps.fetch_add(1, Ordering::Relaxed);
            }
            node.host.host.observe(endpoint.counters());
            node.host.host.observe_core(core_counts(&meter.counts(), &node.time()));
            let asked = common.dumps.load(Ordering::Relaxed);
            if asked != dumps || now >= next_report {
                let seen = (&*endpoint, &*device);
                reporter.publish(now, node, seen, meter.counts(), asked != dumps);
                dumps = asked;
                next_report = interval.map_or(Instant::FAR_FUTURE, |span| now + span);
            }
            // There is one loop where there is a shared pool: the lock is always free.
            if let Some(shared) = &common.shared
                && let Ok(mut shared) = shared.try_lock()
            {
                shared.look(now, |participant, slot| {
                    endpoint.dismiss(now, device, node, address_of(participant));
                    slot == Slot::Empty && node.host.host.recover(participant, now)
                });
            }
        }
        // Only who is about to pause asks for how long.
        let rests = !worked && !idle.is_busy();
        let deadline = if rests { endpoint.poll_at(now).min(next_report) } else { now };
        idle.after_poll(worked, now, deadline, device);
    }
}

/// Looks for packets a few times while there is nothing else to do, in a loop that never pauses:
/// the shorter a look in vain, the sooner the next one finds what came meanwhile. `None` if nothing
/// came, or there may be something else to do.
#[inline]
fn spin<M: Memory>(
    endpoint: &mut Endpoint<'_>,
    device: &mut AnyDevice,
    node: &mut Served<'_, M>,
    (idle, meter, clock): (&Idle, &mut PollMeter, &Clock),
) -> Option<(Instant, Polled)> {
    if !idle.is_busy() || !meter.is_resting() {
        return None;
    }
    for _ in 0..LOOKS_A_POLL {
        let found = endpoint.look(|| clock.now(), device, node);
        if found.is_some() {
            return found;
        }
        meter.count_empty();
    }
    None
}

/// What this core tells whoever asks for statistics.
fn core_counts(polls: &PollCounts, handlers: &HandlerTime) -> [(&'static str, u64); CORE_COUNTS] {
    [
        ("core_polls", polls.polls),
        ("core_polls_empty", polls.empty),
        ("core_bursts", polls.bursts),
        ("core_packets", polls.packets),
        ("core_busy_ns", polls.busy_ns),
        ("core_requests", handlers.requests),
        ("core_requests_timed", handlers.timed),
        ("core_requests_timed_ns", handlers.timed_ns),
    ]
}

/// Nanoseconds since 1970: larger at each start of the node.
pub(crate) fn wall_clock_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |span| span.as_nanos() as u64)
}
