//! DPDK as the flags ask for it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use dmrpc_core::wire::ethernet::HEADERS_BYTES;
use dmrpc_dpdk::{DpdkDevice, DpdkError, Eal, EalConfig, Port, PortConfig};
use dmrpc_host::affinity::available_cores;
use dmrpc_host::steer::{Lane, Lanes};

use super::DriverError;
use crate::args::{DriverArgs, ZeroCopyTransmit};

/// Ports where nobody listens by convention: the first of them is given where none is asked for.
const EPHEMERAL: u16 = 49_152;

/// DPDK and its ports.
pub(crate) struct Ports {
    eal: Eal,
    ports: Vec<Arc<Port>>,
    /// A lane for each queue; none where frames need no steering.
    lanes: Option<Lanes>,
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
            checksum_offload: true,
            zero_copy_transmit: zero_copy_transmit(args),
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
            let link_timeout = config.link_timeout.filter(|_| !dmrpc_dpdk::listens(text));
            ports.push(Port::open(&eal, &name, &PortConfig { link_timeout, ..config })?);
        }
        if ports.is_empty() {
            return Err(DpdkError::NoPorts.into());
        }
        // Over memif the sender's queue pair of a number ends in ours of that number.
        let chosen_by_senders = ports.iter().all(|port| port.is_memif());
        let steered = queues > 1 && !chosen_by_senders;
        let lanes = steered.then(|| Lanes::new(queues.into(), config.frame_bytes_max));
        let (prefix_bits, gateway) = (args.prefix_bits, args.gateway);
        Ok(Self { eal, ports, lanes, prefix_bits, gateway })
    }

    pub(crate) fn enter_thread(&self) -> Result<(), DriverError> {
        Ok(self.eal.register_thread()?)
    }

    pub(crate) fn device(&self, queue: u16, bind: SocketAddrV4) -> Result<DpdkDevice, DriverError> {
        let pairs = self.ports.iter().map(|port| port.queue(queue)).collect::<Result<_, _>>()?;
        // A lane is free whenever its queue pair is: one device has both.
        let lane = self.lanes.as_ref().and_then(|lanes| lanes.take(queue.into()));
        open_in_lane(pairs, bind, self.prefix_bits, self.gateway, lane)
    }

    /// A device for the first of `endpoints` endpoints that is free: each has its share of the
    /// links, and an address of its own, of which `bind` is the first.
    pub(crate) fn endpoint(
        &self,
        endpoints: usize,
        bind: SocketAddrV4,
    ) -> Result<DpdkDevice, DriverError> {
        let mut last = DriverError::from(DpdkError::NoPorts);
        let links = self.ports.len() / endpoints;
        for (number, ports) in self.ports.chunks_exact(links.max(1)).enumerate() {
            let ip = Ipv4Addr::from(u32::from(*bind.ip()).wrapping_add(number as u32));
            match ports.iter().map(|port| port.queue(0)).collect::<Result<Vec<_>, _>>() {
                Ok(pairs) => {
                    let bind = SocketAddrV4::new(ip, bind.port());
                    return open(pairs, bind, self.prefix_bits, self.gateway);
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// Checks that as many endpoints can have as many links each.
    pub(crate) fn share(&self, endpoints: usize) -> Result<(), DriverError> {
        let links = self.ports.len();
        match links.is_multiple_of(endpoints) {
            true => Ok(()),
            false => Err(DpdkError::Links { endpoints, links }.into()),
        }
    }
}

/// Opens a device at `bind`, whose port is chosen here if it is 0.
pub(crate) fn open(
    pairs: Vec<dmrpc_dpdk::QueuePair>,
    bind: SocketAddrV4,
    prefix_bits: u8,
    gateway: Option<Ipv4Addr>,
) -> Result<DpdkDevice, DriverError> {
    open_in_lane(pairs, bind, prefix_bits, gateway, None)
}

/// The same on one of several queues that share an address, or a port.
fn open_in_lane(
    pairs: Vec<dmrpc_dpdk::QueuePair>,
    bind: SocketAddrV4,
    prefix_bits: u8,
    gateway: Option<Ipv4Addr>,
    lane: Option<Lane>,
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
    let address = SocketAddrV4::new(ip, port);
    Ok(DpdkDevice::open_in_lane(pairs, address, prefix_bits, gateway, seed, lane)?)
}

/// When ports send from where bytes lie, for these flags.
pub(crate) fn zero_copy_transmit(args: &DriverArgs) -> dmrpc_dpdk::ZeroCopyTransmit {
    match args.zero_copy_transmit {
        ZeroCopyTransmit::Auto => dmrpc_dpdk::ZeroCopyTransmit::Auto,
        ZeroCopyTransmit::On => dmrpc_dpdk::ZeroCopyTransmit::On,
        ZeroCopyTransmit::Off => dmrpc_dpdk::ZeroCopyTransmit::Off,
    }
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
