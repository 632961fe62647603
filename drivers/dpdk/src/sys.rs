//! DPDK's calls that start it and set up ports, each behind a safe function.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr;
use std::ptr::NonNull;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dmrpc_host::network::Network;
use dpdk_sys as dpdk;

use crate::gate;

/// What a port offers that sends packets of several pieces.
pub(crate) fn several_pieces() -> u64 {
    // SAFETY: returns a constant.
    unsafe { dpdk::shim_several_pieces() }
}

/// What a port offers that computes the checksums of IPv4 and UDP.
pub(crate) fn send_checksums() -> u64 {
    // SAFETY: returns a constant.
    unsafe { dpdk::shim_send_checksums() }
}

/// What a port offers that checks them.
pub(crate) fn receive_checksums() -> u64 {
    // SAFETY: returns a constant.
    unsafe { dpdk::shim_receive_checksums() }
}

/// The error number that a negative result stands for.
fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Held through every call that sets something up or ends it: DPDK's lists are not locked.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The error that DPDK's last call on this thread left.
fn last_error() -> io::Error {
    // SAFETY: reads a thread-local variable.
    io::Error::from_raw_os_error(unsafe { dpdk::shim_errno() })
}

/// What a pointer to a constant text says.
///
/// # Safety
/// `text` must point to a text that ends with a zero byte and stays as it is.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The release compiled against, and what the libraries that were found say they are.
pub(crate) fn versions() -> (String, String) {
    // SAFETY: both return constant texts.
    unsafe { (text(dpdk::shim_compiled_release()), text(dpdk::rte_version())) }
}

/// Starts the environment.
pub(crate) fn start(arguments: &[CString]) -> io::Result<()> {
    // DPDK may reorder the pointers and keeps some of the texts, so they are never freed.
    let mut pointers: Vec<*mut c_char> =
        arguments.iter().map(|argument| argument.clone().into_raw()).collect();
    pointers.push(ptr::null_mut());
    let pointers = pointers.leak();
    // SAFETY: as many texts as is said, then a null pointer, all of which live for ever.
    let used = unsafe { dpdk::rte_eal_init(arguments.len() as c_int, pointers.as_mut_ptr()) };
    if used < 0 { Err(last_error()) } else { Ok(()) }
}

/// The folder where DPDK keeps files of this process.
pub(crate) fn runtime_folder() -> PathBuf {
    // SAFETY: returns a text that stays as it is once the environment was started.
    PathBuf::from(unsafe { text(dpdk::rte_eal_get_runtime_dir()) })
}

/// Makes a virtual device.
pub(crate) fn add_vdev(name: &CStr, arguments: &CStr) -> io::Result<()> {
    let _one = one_at_a_time();
    // SAFETY: three texts that live through the call.
    check(unsafe { dpdk::rte_eal_hotplug_add(c"vdev".as_ptr(), name.as_ptr(), arguments.as_ptr()) })
}

/// Unmakes a virtual device.
pub(crate) fn remove_vdev(name: &CStr) -> io::Result<()> {
    let _one = one_at_a_time();
    // SAFETY: two texts that live through the call.
    check(unsafe { dpdk::rte_eal_hotplug_remove(c"vdev".as_ptr(), name.as_ptr()) })
}

/// Makes the calling thread one that DPDK knows, with caches of its own in pools.
pub(crate) fn register_thread() -> io::Result<()> {
    let _one = one_at_a_time();
    // SAFETY: no memory is passed.
    if unsafe { dpdk::rte_thread_register() } < 0 { Err(last_error()) } else { Ok(()) }
}

/// The number of the port of that name.
pub(crate) fn port_by_name(name: &CStr) -> Option<u16> {
    let _one = one_at_a_time();
    let mut port = 0;
    // SAFETY: a text, and a number that the call writes.
    let result = unsafe { dpdk::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) };
    (result == 0).then_some(port)
}

/// The name of a port.
pub(crate) fn port_name(port: u16) -> Option<String> {
    let _one = one_at_a_time();
    // RTE_ETH_NAME_MAX_LEN is 64.
    let mut name = [0 as c_char; 128];
    // SAFETY: the call writes a text of at most 64 bytes, its end included.
    unsafe {
        let result = dpdk::rte_eth_dev_get_name_by_port(port, name.as_mut_ptr());
        (result == 0).then(|| text(name.as_ptr()))
    }
}

/// All ports that there are.
pub(crate) fn ports() -> Vec<u16> {
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        // SAFETY: no memory is passed. The owner 0 is nobody.
        let next = unsafe { dpdk::rte_eth_find_next_owned_by(from, 0) };
        // RTE_MAX_ETHPORTS is small: the end is a number far beyond.
        let Ok(port) = u16::try_from(next) else { return found };
        if port_name(port).is_none() {
            return found;
        }
        found.push(port);
        from = port + 1;
    }
}

/// What a port can do.
pub(crate) fn info(port: u16) -> io::Result<dpdk::rte_eth_dev_info> {
    let _one = one_at_a_time();
    let mut info = dpdk::rte_eth_dev_info::default();
    // SAFETY: the call fills in the structure.
    check(unsafe { dpdk::rte_eth_dev_info_get(port, &raw mut info) })?;
    Ok(info)
}

/// The name of the driver in a port's description.
pub(crate) fn driver_name(info: &dpdk::rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return String::new();
    }
    // SAFETY: DPDK points to a constant text of the driver's.
    unsafe { text(info.driver_name) }
}

/// The arguments that a port's device was made with, `key=value` with commas between; none if DPDK
/// keeps none.
pub(crate) fn arguments(info: &dpdk::rte_eth_dev_info) -> String {
    if info.device.is_null() {
        return String::new();
    }
    // SAFETY: the device of a port that is there is there, and so are its arguments, if any.
    unsafe {
        let arguments = dpdk::rte_dev_devargs(info.device).as_ref();
        let given = arguments.map_or(std::ptr::null(), |given| given.__bindgen_anon_1.args);
        if given.is_null() { String::new() } else { text(given) }
    }
}

/// The NUMA node that a port is on, if it is on one.
pub(crate) fn socket(port: u16) -> Option<u32> {
    // SAFETY: no memory is passed.
    u32::try_from(unsafe { dpdk::rte_eth_dev_socket_id(port) }).ok()
}

/// Has a port spread datagrams over its queues by their flow, if it can.
pub(crate) fn spread(config: &mut dpdk::rte_eth_conf, info: &dpdk::rte_eth_dev_info) {
    // SAFETY: the call changes the structure, which lives through it.
    unsafe { dpdk::shim_spread(config, info.flow_type_rss_offloads) }
}

/// Sets how many queues a port has, and what it does with packets.
pub(crate) fn configure(port: u16, queues: u16, config: &dpdk::rte_eth_conf) -> io::Result<()> {
    let _one = one_at_a_time();
    // SAFETY: the structure lives through the call, which copies it.
    check(unsafe { dpdk::rte_eth_dev_configure(port, queues, queues, config) })
}

/// A pool of packet buffers. Freed when dropped, so only after all queues that use it.
#[derive(Debug)]
pub(crate) struct Pool(NonNull<dpdk::rte_mempool>);

// SAFETY: DPDK's pools may be used by any thread at any time.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of `buffers` buffers with `room_bytes` bytes each, on NUMA node `socket`.
    pub(crate) fn new(
        name: &CStr,
        buffers: u32,
        cached: u32,
        room_bytes: u16,
        socket: Option<u32>,
    ) -> io::Result<Self> {
        let _one = one_at_a_time();
        let socket = socket.map_or(-1, |socket| socket as c_int);
        // SAFETY: a text that lives through the call, which copies it.
        let pool = unsafe {
            dpdk::rte_pktmbuf_pool_create(name.as_ptr(), buffers, cached, 0, room_bytes, socket)
        };
        NonNull::new(pool).map(Self).ok_or_else(last_error)
    }

    pub(crate) fn as_ptr(&self) -> *mut dpdk::rte_mempool {
        self.0.as_ptr()
    }

    /// How many pieces of memory the pool is made of.
    pub(crate) fn pieces(&self) -> u32 {
        // SAFETY: the pool is there until this is dropped.
        unsafe { dpdk::shim_pieces(self.as_ptr()) }
    }

    /// The NUMA node that the pool was asked to be on.
    pub(crate) fn socket(&self) -> Option<u32> {
        // SAFETY: the pool is there until this is dropped.
        u32::try_from(unsafe { dpdk::shim_socket(self.as_ptr()) }).ok()
    }

    /// Buffers that are in the pool and its caches.
    pub(crate) fn available(&self) -> u32 {
        // SAFETY: the pool is there until this is dropped.
        unsafe { dpdk::rte_mempool_avail_count(self.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _one = one_at_a_time();
        // SAFETY: made by `new`, freed once; whoever used it is gone.
        unsafe { dpdk::rte_mempool_free(self.as_ptr()) }
    }
}

/// Sets up queue pair `queue` of a port with rings of the given lengths, receiving into `pool`.
pub(crate) fn set_up_queue(
    port: u16,
    queue: u16,
    (receive_ring, send_ring): (u16, u16),
    pool: &Pool,
) -> io::Result<()> {
    let _one = one_at_a_time();
    let node = socket(port).map_or(u32::MAX, |socket| socket);
    // SAFETY: null pointers ask for the defaults; the pool outlives the port's queues: a port
    // closes itself before it drops its pools.
    unsafe {
        check(dpdk::rte_eth_rx_queue_setup(
            port,
            queue,
            receive_ring,
            node,
            ptr::null(),
            pool.as_ptr(),
        ))?;
        check(dpdk::rte_eth_tx_queue_setup(port, queue, send_ring, node, ptr::null()))
    }
}

/// A call for DPDK's control thread, and where its result goes.
type ControlJob = (Box<dyn FnOnce() -> c_int + Send>, Sender<c_int>);

extern "C" fn run_job(job: *mut c_void) {
    // SAFETY: `on_control_thread` made it of a box, and the callback comes once.
    let (work, result) = *unsafe { Box::from_raw(job.cast::<ControlJob>()) };
    // Who asked waits for it.
    let _ = result.send(work());
}

/// Runs `work` on DPDK's control thread. There `net_memif` handles what its peers say: when both
/// ends of a link go at once, it must not do that on two threads.
///
/// The thread does it in the network namespace `network`, where the device of a port is: some
/// drivers look it up by its name again.
fn on_control_thread(
    network: Option<Arc<Network>>,
    work: impl FnOnce() -> c_int + Send + 'static,
) -> io::Result<()> {
    let (sender, result) = mpsc::channel();
    let work = move || match network {
        Some(network) => {
            network.within(work).unwrap_or_else(|error| -error.raw_os_error().unwrap_or(libc::EIO))
        }
        None => work(),
    };
    let job: Box<ControlJob> = Box::new((Box::new(work), sender));
    let job = Box::into_raw(job).cast::<c_void>();
    // SAFETY: the callback gets the job, once; if it is not to be called, the box is taken back.
    unsafe {
        let set = dpdk::rte_eal_alarm_set(1, Some(run_job), job);
        if set < 0 {
            drop(Box::from_raw(job.cast::<ControlJob>()));
            return check(set);
        }
    }
    check(result.recv().map_err(|_| io::Error::other("DPDK's control thread is gone"))?)
}

/// Has `net_memif` log what happens to its links: `log.rs` looks for what closes the gate.
pub(crate) fn hear_of_links() {
    // SAFETY: the name is a literal.
    unsafe { dpdk::rte_log_set_level_pattern(c"pmd.net.memif".as_ptr(), dpdk::RTE_LOG_DEBUG) };
}

/// Runs `work`, which may take a link's memory away, while nobody is inside the gate. For the
/// control thread.
fn behind_gate<R>(work: impl FnOnce() -> R) -> R {
    gate::close();
    let result = work();
    gate::open();
    result
}

/// Has the gate opened by the control thread once it is done with what it does now; at once if it
/// cannot be asked to.
pub(crate) fn open_gate_later() {
    unsafe extern "C" fn open(_: *mut c_void) {
        gate::open();
    }
    // SAFETY: the callback needs nothing.
    if unsafe { dpdk::rte_eal_alarm_set(1, Some(open), ptr::null_mut()) } < 0 {
        gate::open();
    }
}

/// A fence in every thread of this process, as if each had one just now.
pub(crate) fn fence_all_threads() {
    let barrier = |command: c_int| {
        // SAFETY: no memory is passed.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    };
    let quick = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED;
    if barrier(quick) {
        return;
    }
    // The process has to say once that it will.
    let registered = barrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && barrier(quick);
    if !registered && !barrier(libc::MEMBARRIER_CMD_GLOBAL) {
        // A kernel that refuses: stores leave a processor long before this is over.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a port.
pub(crate) fn start_port(port: u16, network: Option<Arc<Network>>) -> io::Result<()> {
    let _one = one_at_a_time();
    // SAFETY: no memory is passed.
    on_control_thread(network, move || unsafe { dpdk::rte_eth_dev_start(port) })
}

/// Stops a port.
pub(crate) fn stop_port(port: u16, network: Option<Arc<Network>>) -> io::Result<()> {
    let _one = one_at_a_time();
    // SAFETY: no memory is passed.
    on_control_thread(network, move || behind_gate(|| unsafe { dpdk::rte_eth_dev_stop(port) }))
}

/// Ends a port.
pub(crate) fn close_port(port: u16, network: Option<Arc<Network>>) {
    let _one = one_at_a_time();
    // SAFETY: no memory is passed. What fails has failed for good.
    let _ = on_control_thread(network, move || unsafe { dpdk::rte_eth_dev_close(port) });
}

/// Whether a port's link is up.
pub(crate) fn link_is_up(port: u16) -> bool {
    let mut link = dpdk::rte_eth_link::default();
    // SAFETY: the call fills in the structure.
    let result = unsafe { dpdk::rte_eth_link_get_nowait(port, &raw mut link) };
    result == 0 && link.link_status() == 1
}

/// Whether the kernel's interface of that number, in the calling thread's network, is up and has a
/// carrier. One that nobody knows is neither.
pub(crate) fn interface_runs(index: u32) -> bool {
    const RUNNING: libc::c_int = libc::IFF_UP | libc::IFF_RUNNING;
    let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return false };
    // SAFETY: zeros are a valid request; both calls write to it at most.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        let name = libc::if_indextoname(index, request.ifr_name.as_mut_ptr());
        let fd = socket.as_raw_fd();
        !name.is_null()
            && libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request) == 0
            && libc::c_int::from(request.ifr_ifru.ifru_flags) & RUNNING == RUNNING
    }
}

/// A port's hardware address.
pub(crate) fn hardware_address(port: u16) -> io::Result<[u8; 6]> {
    let _one = one_at_a_time();
    let mut address = dpdk::rte_ether_addr::default();
    // SAFETY: the call fills in the structure.
    check(unsafe { dpdk::rte_eth_macaddr_get(port, &raw mut address) })?;
    Ok(address.addr_bytes)
}

/// Has a port take in what is for others too. Ports that cannot do so do it always.
pub(crate) fn take_all(port: u16) {
    let _one = one_at_a_time();
    // SAFETY: no memory is passed.
    let _ = unsafe { dpdk::rte_eth_promiscuous_enable(port) };
}

/// Has a port lead the datagrams of one sender to one of its queues. Says why not if it does not.
pub(crate) fn steer(port: u16, peer: SocketAddrV4, queue: u16) -> Result<(), (io::Error, String)> {
    let _one = one_at_a_time();
    // Both in network byte order.
    let address = u32::from_ne_bytes(peer.ip().octets());
    let source = peer.port().to_be();
    let mut said = ptr::null();
    // SAFETY: the call writes a pointer to a constant text of the driver's, or leaves it null.
    unsafe {
        let result = dpdk::shim_steer(port, address, source, queue, &raw mut said);
        let said = if said.is_null() { String::new() } else { text(said) };
        check(result).map_err(|error| (error, said))
    }
}

/// A port's own counters.
pub(crate) fn stats(port: u16) -> io::Result<dpdk::rte_eth_stats> {
    let mut stats = dpdk::rte_eth_stats::default();
    // SAFETY: the call fills in the structure.
    check(unsafe { dpdk::rte_eth_stats_get(port, &raw mut stats) })?;
    Ok(stats)
}
