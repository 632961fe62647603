//! DPDK for a test binary: started once, and pairs of ports on demand.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dmrpc_core::device::{Device, Rx};
use dmrpc_dpdk::{DpdkDevice, Eal, EalConfig, Port, PortConfig};

/// DPDK in this process. Without huge pages, so that the tests run anywhere, except in the binary
/// whose device needs them.
pub(crate) fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let huge = std::env::current_exe().is_ok_and(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("af_xdp"))
        });
        let config = EalConfig { no_huge: !huge, memory_mib: 1024, ..EalConfig::default() };
        Eal::start(&config).expect("DPDK starts")
    })
}

/// Where the number of huge pages of 2 MiB is set.
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// How many the tests need.
const HUGE_PAGES_NEEDED: u64 = 192;
/// How many there were before.
static HUGE_PAGES_BEFORE: AtomicU64 = AtomicU64::new(0);

fn huge_pages() -> u64 {
    let text = std::fs::read_to_string(HUGE_PAGES).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Reserves huge pages until this process ends.
pub(crate) fn reserve_huge_pages() {
    extern "C" fn give_back() {
        let before = HUGE_PAGES_BEFORE.load(Ordering::Relaxed);
        let _ = std::fs::write(HUGE_PAGES, before.to_string());
    }
    static RESERVED: OnceLock<()> = OnceLock::new();
    RESERVED.get_or_init(|| {
        let before = huge_pages();
        HUGE_PAGES_BEFORE.store(before, Ordering::Relaxed);
        let wanted = before + HUGE_PAGES_NEEDED;
        std::fs::write(HUGE_PAGES, wanted.to_string()).expect("huge pages need root");
        // SAFETY: the function is there until the process ends, and touches nothing of this
        // program's but a number.
        unsafe { libc::atexit(give_back) };
    });
}

/// A number that no other call in this process gets.
pub(crate) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A path in the temporary directory that nobody else uses, removed when dropped.
pub(crate) struct Socket(pub(crate) PathBuf);

impl Socket {
    pub(crate) fn new() -> Self {
        let name = format!("dmrpc-dpdk-{}-{}.sock", std::process::id(), unique());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Adds a memif device and opens its port.
pub(crate) fn memif(
    role: &str,
    socket: &Socket,
    more: &str,
    config: &PortConfig,
) -> std::sync::Arc<Port> {
    let name = format!("net_memif{}", unique());
    let path = socket.0.display();
    let text = format!("{name},role={role},id=0,socket={path},socket-abstract=no{more}");
    let name = eal().add_vdev(&text).expect("a memif device");
    Port::open(eal(), &name, config).expect("a port")
}

/// Both ends of a memif link.
pub(crate) fn memif_pair(more: &str, config: PortConfig) -> (Socket, [std::sync::Arc<Port>; 2]) {
    let socket = Socket::new();
    let server = memif("server", &socket, more, &PortConfig { link_timeout: None, ..config });
    let client = memif("client", &socket, more, &config);
    // Each side finishes its own part of the handshake.
    while !(server.link_is_up() && client.link_is_up()) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    (socket, [server, client])
}

/// Two devices of two ports, as 10.9.0.1 and 10.9.0.2, who know each other.
pub(crate) fn devices(ports: &[std::sync::Arc<Port>; 2]) -> Vec<(DpdkDevice, SocketAddrV4)> {
    let address = |last| SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, last), 7000 + u16::from(last));
    let mut devices: Vec<_> = ports
        .iter()
        .zip([1, 2])
        .map(|(port, last)| {
            let pairs = vec![port.queue(0).expect("free")];
            let device = DpdkDevice::open(pairs, address(last), 24, None, 1).expect("a device");
            (device, address(last))
        })
        .collect();
    // A memif client offers room to receive into with its first look; until then its peer has
    // none to send to.
    devices.iter_mut().for_each(|(device, _)| assert_eq!(device.split().0.receive(), 0));
    devices[0].0.learn(*devices[1].1.ip(), ports[1].hardware());
    devices[1].0.learn(*devices[0].1.ip(), ports[0].hardware());
    devices
}
