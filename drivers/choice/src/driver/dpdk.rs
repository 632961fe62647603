//! DPDK as the flags ask for it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use dmrpc_core::wire::ethernet::HEADERS_BYTES;
use dmrpc_dpdk::{DpdkDevice, DpdkError, Eal, EalConfig, Port, PortConfig};
use dmrpc_host::affinity::available_cores;

use super::DriverError;
use crate::args::DriverArgs;

/// Ports where nobody listens by convention: the first of them is given where none is asked for.
const EPHEMERAL: u16 = 49_152;

/// DPDK and its ports.
pub(crate) struct Ports {
    ports: Vec<Arc<Port>>,
    prefix_bits: u8,
    gateway: Option<Ipv4Addr>,
}

impl Ports {
    pub(crate) fn open(
        args: &DriverArgs,
        datagram_bytes: usize,
        queues: u16,
    ) -> Result<Self, DriverError> {
        if args.dpdk_vdev.is_empty() && args.dpdk_pci.is_empty() {
            return Err(DpdkError::NoPorts.into());
        }
        let eal = Eal::start(&eal_config(args))?;
        let config = PortConfig {
            queues,
            frame_bytes_max: datagram_bytes + HEADERS_BYTES,
            ring: args.dpdk_ring,
            link_timeout: Some(Duration::from_nanos(args.dpdk_link_wait.0.as_nanos())),
        };
        let mut ports = Vec::new();
        for name in eal.ports() {
            ports.push(Port::open(&eal, &name, &config)?);
        }
        if let Some(address) = args.dpdk_pci.get(ports.len()) {
            return Err(DpdkError::NoPort { name: address.clone() }.into());
        }
        for text in &args.dpdk_vdev {
            let name = eal.add_vdev(text)?;
            let link_timeout = config.link_timeout.filter(|_| !listens(text));
            ports.push(Port::open(&eal, &name, &PortConfig { link_timeout, ..config })?);
        }
        match ports.is_empty() {
            true => Err(DpdkError::NoPorts.into()),
            false => Ok(Self { ports, prefix_bits: args.prefix_bits, gateway: args.gateway }),
        }
    }

    pub(crate) fn device(&self, queue: u16, bind: SocketAddrV4) -> Result<DpdkDevice, DriverError> {
        let pairs = self.ports.iter().map(|port| port.queue(queue)).collect::<Result<_, _>>()?;
        open(pairs, bind, self.prefix_bits, self.gateway)
    }
}

/// Opens a device at `bind`, whose port is chosen here if it is 0.
pub(crate) fn open(
    pairs: Vec<dmrpc_dpdk::QueuePair>,
    bind: SocketAddrV4,
    prefix_bits: u8,
    gateway: Option<Ipv4Addr>,
) -> Result<DpdkDevice, DriverError> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let ip = *bind.ip();
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() {
        return Err(DriverError::Address { given: bind });
    }
    let port = match bind.port() {
        0 => EPHEMERAL + NEXT.fetch_add(1, Ordering::Relaxed) % (u16::MAX - EPHEMERAL),
        port => port,
    };
    // Only what smoltcp puts into its own packets depends on it: no secrets.
    let seed = u64::from(std::process::id()) << 16 | u64::from(port);
    Ok(DpdkDevice::open(pairs, SocketAddrV4::new(ip, port), prefix_bits, gateway, seed)?)
}

/// How DPDK is started for these flags.
pub(crate) fn eal_config(args: &DriverArgs) -> EalConfig {
    let words = args.dpdk_eal.as_deref().unwrap_or_default().split_whitespace();
    EalConfig {
        pci: args.dpdk_pci.clone(),
        arguments: words.map(str::to_owned).collect(),
        no_huge: args.dpdk_no_huge,
        memory_mib: (args.dpdk_memory.0 >> 20) as u32,
        cores: available_cores().unwrap_or_default(),
    }
}

/// Whether a virtual device is the side of a memif link that has no link before the other comes.
fn listens(vdev: &str) -> bool {
    vdev.starts_with("net_memif") && !vdev.split(',').any(|part| part == "role=client")
}
