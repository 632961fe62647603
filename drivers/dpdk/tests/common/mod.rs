//! DPDK for a test binary: started once, and pairs of ports on demand.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use dmrpc_core::device::{Device, Rx};
use dmrpc_dpdk::{DpdkDevice, Eal, EalConfig, Port, PortConfig};

/// DPDK in this process. Without huge pages, so that the tests run anywhere.
pub(crate) fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let config = EalConfig { no_huge: true, memory_mib: 1024, ..EalConfig::default() };
        Eal::start(&config).expect("DPDK starts without huge pages")
    })
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
