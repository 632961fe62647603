//! A port: its queue pairs, its pools of buffers, its link.

use std::array;
use std::io;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dmrpc_host::network::Network;
use dpdk_sys as dpdk;

use crate::account::Account;
use crate::eal::{Eal, c_string};
use crate::error::DpdkError;
use crate::kind::Kind;
use crate::loans::{self, TICKETS, ZeroCopyTransmit};
use crate::macs::Mac;
use crate::queue::{BURST_MAX, QueuePair, SEND_QUEUE};
use crate::{log, sys};

/// How a port is set up.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// Queue pairs: one for each core.
    pub queues: u16,
    /// Longest frame in bytes, from the Ethernet header on, without the frame check sequence.
    pub frame_bytes_max: usize,
    /// Length of the rings of each queue pair, where the port lets us choose. For `net_memif` the
    /// argument `rsize` of the virtual device says it.
    pub ring: u16,
    /// Whether checksums of IPv4 and UDP are left to the port, as far as it offers that.
    pub checksum_offload: bool,
    /// Whether packets may end with bytes that are sent from where they lie.
    pub zero_copy_transmit: ZeroCopyTransmit,
    /// How long to wait for the link, and for what is at its other end. `None` does not wait: the
    /// listening side of a `net_memif` link has none before the other side comes.
    pub link_timeout: Option<Duration>,
}

impl Default for PortConfig {
    /// One queue pair for frames of 1514 bytes, rings of 1024, 5 s for the link.
    fn default() -> Self {
        Self {
            queues: 1,
            frame_bytes_max: 1514,
            ring: 1024,
            checksum_offload: true,
            zero_copy_transmit: ZeroCopyTransmit::Auto,
            link_timeout: Some(Duration::from_secs(5)),
        }
    }
}

/// Buffers in a thread's cache: a few bursts.
const CACHED: u32 = 256;
/// Frames up to this length always fit, in bytes.
const ETHERNET_FRAME_BYTES: usize = 1514;
/// Ethernet header, in bytes: the part of a frame that an MTU does not count.
const HEADER_BYTES: usize = 14;
/// How often a link that is awaited is looked at.
const LINK_POLL: Duration = Duration::from_millis(5);
/// How long a link may take to come up before it is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A port that runs. Closed when dropped.
#[derive(Debug)]
pub struct Port {
    id: u16,
    name: String,
    kind: Kind,
    frame_bytes_max: usize,
    receive_queue: usize,
    hardware: Mac,
    socket: Option<u32>,
    /// The kernel's interface that the port is, or is one end of.
    interface: Option<u32>,
    /// Where its device is.
    network: Option<Arc<Network>>,
    /// Whether it runs. Starting and stopping are done under this lock: lanes share a port.
    started: Mutex<bool>,
    /// It computes the checksums of what is sent.
    sums_up: bool,
    borrows: AtomicBool,
    /// Loans that are out, by queue pair and ticket.
    accounts: Vec<[Account; TICKETS]>,
    taken: Vec<AtomicBool>,
    /// Dropped last, after the port was closed.
    pools: Vec<sys::Pool>,
}

impl Port {
    /// Sets up and starts the port of that name, and waits for its link.
    ///
    /// # Errors
    /// [`DpdkError`]: no such port, more than it can do, no memory, no link.
    pub fn open(eal: &Eal, name: &str, config: &PortConfig) -> Result<Arc<Self>, DpdkError> {
        let id = sys::port_by_name(&c_string(name)?)
            .ok_or_else(|| DpdkError::NoPort { name: name.to_owned() })?;
        log::take();
        let failed = |doing| {
            move |source| DpdkError::Port {
                port: name.to_owned(),
                doing,
                source,
                said: log::take(),
            }
        };
        let info = sys::info(id).map_err(failed("asking"))?;
        let kind = Kind::new(&sys::driver_name(&info), &sys::arguments(&info));
        if kind.needs_huge_pages() && !eal.has_huge_pages() {
            return Err(DpdkError::NeedsHugePages { port: name.to_owned() });
        }
        let most = info.max_rx_queues.min(info.max_tx_queues);
        if config.queues > most {
            let (port, asked) = (name.to_owned(), config.queues);
            return Err(DpdkError::Queues { port, asked, most });
        }
        check_frame(name, &kind, &info, config.frame_bytes_max)?;
        let borrows = loans::borrows(name, &kind, &info, config.zero_copy_transmit)?;
        let mut conf = port_conf(&kind, &info, config);
        if borrows {
            conf.txmode.offloads |= sys::several_pieces();
        }
        sys::configure(id, config.queues, &conf).map_err(failed("configuring"))?;

        let socket = sys::socket(id);
        let receive_ring = clamp_ring(config.ring, &info.rx_desc_lim);
        let send_ring = clamp_ring(config.ring, &info.tx_desc_lim);
        let mut port = Self {
            id,
            name: name.to_owned(),
            receive_queue: kind.receive_queue(receive_ring),
            kind,
            frame_bytes_max: config.frame_bytes_max,
            hardware: [0; 6],
            socket,
            interface: Some(info.if_index).filter(|index| *index != 0),
            network: Network::current().ok().map(Arc::new),
            started: Mutex::new(false),
            sums_up: conf.txmode.offloads & sys::send_checksums() == sys::send_checksums(),
            borrows: AtomicBool::new(borrows),
            accounts: (0..config.queues).map(|_| array::from_fn(|_| Account::new())).collect(),
            taken: (0..config.queues).map(|_| AtomicBool::new(false)).collect(),
            pools: Vec::new(),
        };
        for queue in 0..config.queues {
            let rings = (receive_ring, send_ring);
            let kernels = port.kind.rings_of_kernel();
            let held = kernels.map_or(rings, |ring| (2 * ring, 2 * ring));
            let pool = new_pool(eal, held, config.frame_bytes_max, socket)?;
            if kernels.is_some() && pool.pieces() != 1 {
                return Err(DpdkError::Scattered {
                    port: port.name.clone(),
                    pieces: pool.pieces(),
                });
            }
            sys::set_up_queue(id, queue, rings, &pool).map_err(failed("setting up a queue of"))?;
            port.pools.push(pool);
        }
        port.hardware = sys::hardware_address(id).map_err(failed("asking"))?;
        if port.kind.shares_its_address() {
            port.hardware[5] ^= 1;
        }
        port.bring_up(config.link_timeout)?;
        sys::take_all(id);
        Ok(Arc::new(port))
    }

    /// Starts the port and waits for its link.
    fn bring_up(&self, timeout: Option<Duration>) -> Result<(), DpdkError> {
        let begin = Instant::now();
        let mut asked = begin;
        loop {
            let result = self.start();
            if result.is_ok() && (timeout.is_none() || self.is_connected()) {
                return Ok(());
            }
            if timeout.is_some_and(|timeout| begin.elapsed() < timeout) {
                thread::sleep(LINK_POLL);
                if asked.elapsed() > ASK_AGAIN_AFTER {
                    self.look_after();
                    asked = Instant::now();
                }
                continue;
            }
            let port = self.name.clone();
            return Err(match result {
                // A memif client is refused as long as nobody listens.
                Err(source) if !self.kind.is_memif() => {
                    DpdkError::Port { port, doing: "starting", source, said: log::take() }
                }
                _ => {
                    let waited_ms = timeout.unwrap_or_default().as_millis() as u64;
                    DpdkError::NoLink { port, waited_ms }
                }
            });
        }
    }

    /// Whether the port has a link. `net_af_packet` says so even when its interface is down.
    fn is_connected(&self) -> bool {
        let interface = self.interface.filter(|_| self.kind.is_an_interface());
        sys::link_is_up(self.id) && interface.is_none_or(sys::interface_runs)
    }

    /// Whether it computes the checksums of IPv4 and UDP of what is sent.
    pub fn sums_up(&self) -> bool {
        self.sums_up
    }

    /// Whether packets may end with bytes that are sent from where they lie.
    pub fn borrows(&self) -> bool {
        self.borrows.load(Ordering::Relaxed)
    }

    /// For good: something that was lent has not come back to its lender.
    pub(crate) fn stop_borrowing(&self) {
        self.borrows.store(false, Ordering::Relaxed);
    }

    /// Loans that queue pair `queue` has out, by ticket.
    pub(crate) fn accounts(&self, queue: u16) -> &[Account; TICKETS] {
        &self.accounts[usize::from(queue)]
    }

    /// Whether it is memory that two processes share.
    pub fn is_memif(&self) -> bool {
        self.kind.is_memif()
    }

    /// Whether frames leave by a system call.
    pub fn asks_the_kernel(&self) -> bool {
        self.kind.asks_the_kernel()
    }

    fn start(&self) -> io::Result<()> {
        self.start_locked(&mut self.started.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn start_locked(&self, started: &mut bool) -> io::Result<()> {
        if !*started {
            sys::start_port(self.id, self.network.clone())?;
            *started = true;
        }
        Ok(())
    }

    /// Looks after the link: one that was lost because its other end went away is asked for again,
    /// by the end that connects, at its start. Returns whether it is up. Any thread that polls may
    /// call it: queue pairs of a port that is stopped receive and send nothing.
    pub(crate) fn look_after(&self) -> bool {
        if sys::link_is_up(self.id) {
            return true;
        }
        if !self.kind.connects() {
            return false;
        }
        // Another thread is at it.
        let Ok(mut started) = self.started.try_lock() else { return false };
        // It may have come up since.
        if sys::link_is_up(self.id) {
            return true;
        }
        if std::mem::take(&mut *started) {
            let _ = sys::stop_port(self.id, self.network.clone());
        }
        let _ = self.start_locked(&mut started);
        // What it says about a peer that is not there would only pile up.
        log::take();
        false
    }

    /// The port's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver of the port, such as `net_memif`.
    pub fn driver(&self) -> &str {
        self.kind.name()
    }

    /// The port's hardware address.
    pub fn hardware(&self) -> [u8; 6] {
        self.hardware
    }

    /// The NUMA node that the port is on, if it is on one, and that its pools were made on.
    pub fn socket(&self) -> Option<u32> {
        self.socket
    }

    /// The NUMA node that the buffers of queue pair `queue` are on, if they are on one.
    ///
    /// # Panics
    /// If the port has no such queue pair.
    pub fn pool_socket(&self, queue: u16) -> Option<u32> {
        self.pools[usize::from(queue)].socket()
    }

    /// Has the port lead the datagrams that `peer` sends to queue pair `queue`. Not every port can.
    ///
    /// # Errors
    /// [`DpdkError::Port`] with what the port's driver says.
    pub fn steer(&self, peer: SocketAddrV4, queue: u16) -> Result<(), DpdkError> {
        let refused = |(source, said): (io::Error, String)| {
            // What it logged says the same in more lines.
            log::take();
            DpdkError::Port { port: self.name.clone(), doing: "steering a sender of", source, said }
        };
        sys::steer(self.id, peer, queue).map_err(refused)
    }

    /// Longest frame in bytes.
    pub fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Frames that a queue pair holds for us until they are received.
    pub fn receive_queue(&self) -> usize {
        self.receive_queue
    }

    /// Whether the link is up.
    pub fn link_is_up(&self) -> bool {
        sys::link_is_up(self.id)
    }

    /// How many queue pairs the port has.
    pub fn queues(&self) -> u16 {
        self.taken.len() as u16
    }

    /// Buffers of queue pair `queue` that are neither with the port nor with us.
    ///
    /// # Panics
    /// If the port has no such queue pair.
    pub fn buffers_available(&self, queue: u16) -> u32 {
        self.pools[usize::from(queue)].available()
    }

    /// Packets that the port dropped on their way in because we were late, by its own count.
    pub fn missed(&self) -> u64 {
        sys::stats(self.id).map_or(0, |stats| stats.imissed + stats.rx_nombuf)
    }

    /// Takes queue pair `queue` for the calling thread; it comes back when dropped.
    ///
    /// # Errors
    /// [`DpdkError::NoQueue`]: there is none of that number, or it is taken.
    pub fn queue(self: &Arc<Self>, queue: u16) -> Result<QueuePair, DpdkError> {
        let free = self.taken.get(usize::from(queue));
        let free = free.is_some_and(|taken| !taken.swap(true, Ordering::Acquire));
        match free {
            true => Ok(QueuePair::new(Arc::clone(self), queue)),
            false => Err(DpdkError::NoQueue { port: self.name.clone() }),
        }
    }

    pub(crate) fn give_back(&self, queue: u16) {
        self.taken[usize::from(queue)].store(false, Ordering::Release);
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn pool(&self, queue: u16) -> &sys::Pool {
        &self.pools[usize::from(queue)]
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if *self.started.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = sys::stop_port(self.id, self.network.clone());
        }
        sys::close_port(self.id, self.network.clone());
        if let Ok(name) = c_string(&self.name) {
            // It fails for what is not a virtual device.
            let _ = sys::remove_vdev(&name);
        }
        log::take();
    }
}

/// The longest frame that a port states, in bytes.
fn longest_frame(info: &dpdk::rte_eth_dev_info) -> usize {
    let by_mtu = match info.max_mtu {
        0 | u16::MAX => usize::MAX,
        mtu => usize::from(mtu) + HEADER_BYTES,
    };
    by_mtu.min(info.max_rx_pktlen as usize).max(ETHERNET_FRAME_BYTES)
}

fn check_frame(
    name: &str,
    kind: &Kind,
    info: &dpdk::rte_eth_dev_info,
    asked: usize,
) -> Result<(), DpdkError> {
    let most = if kind.chains() { usize::from(u16::MAX) } else { longest_frame(info) };
    let most = most.min(usize::from(u16::MAX) - usize::from(crate::queue::headroom()));
    match asked <= most {
        true => Ok(()),
        false => Err(DpdkError::FrameSize { port: name.to_owned(), asked, most }),
    }
}

/// How DPDK is to configure a port.
fn port_conf(
    kind: &Kind,
    info: &dpdk::rte_eth_dev_info,
    config: &PortConfig,
) -> dpdk::rte_eth_conf {
    let mut conf = dpdk::rte_eth_conf::default();
    conf.rxmode.mtu = mtu(kind, info, config.frame_bytes_max);
    if config.checksum_offload {
        conf.rxmode.offloads = info.rx_offload_capa & sys::receive_checksums();
        conf.txmode.offloads = info.tx_offload_capa & sys::send_checksums();
    }
    if config.queues > 1 {
        sys::spread(&mut conf, info);
    }
    conf
}

/// The MTU to configure; 0 is the default.
fn mtu(kind: &Kind, info: &dpdk::rte_eth_dev_info, frame_bytes_max: usize) -> u32 {
    let usual = frame_bytes_max <= ETHERNET_FRAME_BYTES;
    if usual || kind.chains() || info.max_mtu == 0 {
        return 0;
    }
    (frame_bytes_max - HEADER_BYTES) as u32
}

fn clamp_ring(wanted: u16, limit: &dpdk::rte_eth_desc_lim) -> u16 {
    let most = if limit.nb_max == 0 { u16::MAX } else { limit.nb_max };
    let align = limit.nb_align.max(1);
    let ring = wanted.clamp(limit.nb_min.min(most), most);
    (ring / align * align).max(align)
}

/// A pool for one queue pair: what both rings, the send queue, a burst and the caches may hold.
fn new_pool(
    eal: &Eal,
    (receive_ring, send_ring): (u16, u16),
    frame_bytes_max: usize,
    socket: Option<u32>,
) -> Result<sys::Pool, DpdkError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("dmrpc-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let buffers = u32::from(receive_ring)
        + u32::from(send_ring)
        + SEND_QUEUE as u32
        + 2 * BURST_MAX as u32
        // A cache may fill to one and a half times its size before it gives back.
        + 2 * CACHED;
    // What memif writes into one buffer is what it has for one; others want 2 KiB.
    let bytes =
        frame_bytes_max.next_multiple_of(64).max(2048) + usize::from(crate::queue::headroom());
    sys::Pool::new(&c_string(&name)?, buffers, CACHED, bytes as u16, socket).map_err(|source| {
        DpdkError::Pool { buffers, bytes, huge_pages: eal.has_huge_pages(), source }
    })
}
