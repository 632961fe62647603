//! The flags that choose a driver.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::ValueEnum;
use dmrpc_core::time::Duration;
use dmrpc_cxl::{Mode, Pool};
use dmrpc_host::size::{ByteSize, TimeSpan};

/// Drivers for networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DriverKind {
    /// A kernel UDP socket.
    #[default]
    Udp,
    /// A port of DPDK's.
    Dpdk,
    /// Rings in a pool that all map: see --pool.
    Cxl,
}

/// Flags that choose a driver and set it up.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Driver")]
pub struct DriverArgs {
    /// What carries the packets: udp, or with --pool cxl, if not given.
    #[arg(long, global = true, value_name = "DRIVER")]
    pub driver: Option<DriverKind>,

    /// The pool that all processes map: a device such as /dev/dax0.0, or a file on hugetlbfs or
    /// tmpfs such as /dev/shm/pool. Calls go through it, too, unless --driver names a network.
    #[arg(long, global = true, env = "DMRPC_POOL", value_name = "PATH")]
    pub pool: Option<PathBuf>,

    /// What may be relied on between those who map the pool: coherent (one host, or CXL 3 with
    /// back-invalidation) or flush (neither coherent caches nor atomics between hosts).
    #[arg(long, global = true, value_name = "MODE", default_value_t = Mode::Coherent)]
    pub coherence: Mode,

    /// Let participants of several hosts use a pool in coherent mode: its memory keeps them
    /// coherent, atomics included (CXL 3 with back-invalidation). Otherwise they lose each other's
    /// updates.
    #[arg(long, global = true)]
    pub coherent_hosts: bool,

    /// Make loads from the pool take this many nanoseconds, to see what slower memory would do.
    #[arg(long, global = true, value_name = "NS",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub cxl_latency_ns: Option<u64>,

    /// Which participant of the pool this process is, instead of any that is free.
    #[arg(long, global = true, value_name = "N", requires = "pool")]
    pub participant: Option<u32>,

    /// Write all datagrams to this file, for Wireshark: tools/wireshark/dmrpc.lua explains them.
    #[arg(long, global = true, value_name = "FILE")]
    pub pcap: Option<PathBuf>,

    /// Make a virtual device of DPDK's and use its port, such as
    /// net_af_packet0,iface=veth0 or net_memif0,role=client,id=0,socket=/run/x.sock,
    /// socket-abstract=no (the other end has role=server). Several are links to several neighbours.
    #[arg(long, global = true, value_name = "NAME[,KEY=VALUE...]")]
    pub dpdk_vdev: Vec<String>,

    /// Use the port of this PCI device, which has to be bound to a driver that DPDK knows.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub dpdk_pci: Vec<String>,

    /// Further arguments for DPDK's EAL, separated by blanks.
    #[arg(long, global = true, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub dpdk_eal: Option<String>,

    /// Do without huge pages.
    #[arg(long, global = true)]
    pub dpdk_no_huge: bool,

    /// Memory for packet buffers where there are no huge pages.
    #[arg(long, global = true, value_name = "SIZE", default_value = "128MiB")]
    pub dpdk_memory: ByteSize,

    /// Entries of the port's rings. net_memif takes the argument rsize (a power of two's exponent)
    /// of its virtual device instead.
    #[arg(long, global = true, value_name = "N", default_value_t = 1024)]
    pub dpdk_ring: u16,

    /// Send long messages from where they lie (a memory node's answers from its pool, a compute
    /// node's requests and answers from its buffers) instead of a copy, where DPDK's port can: auto
    /// does so where it was found to be faster.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    pub zero_copy_transmit: ZeroCopyTransmit,

    /// How long to wait for the port's link at the start.
    #[arg(long, global = true, value_name = "TIME", default_value = "5s")]
    pub dpdk_link_wait: TimeSpan,

    /// Leading bits of --bind's address that all neighbours of DPDK's port share.
    #[arg(long, global = true, value_name = "N", default_value_t = 24,
        value_parser = clap::value_parser!(u8).range(0..=32))]
    pub prefix_bits: u8,

    /// Where DPDK's port sends what is for nobody in the neighbourhood.
    #[arg(long, global = true, value_name = "IP")]
    pub gateway: Option<Ipv4Addr>,
}

/// When packets are sent from where their bytes lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ZeroCopyTransmit {
    /// Where it was found to be faster.
    #[default]
    Auto,
    /// Always: a port that cannot is refused.
    On,
    /// Never.
    Off,
}

impl ZeroCopyTransmit {
    /// Its name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl DriverArgs {
    /// Largest datagram unless another is asked for, in bytes.
    pub fn datagram_bytes(&self) -> usize {
        match self.kind() {
            DriverKind::Udp => crate::UDP_DATAGRAM_BYTES,
            DriverKind::Dpdk => crate::DPDK_DATAGRAM_BYTES,
            DriverKind::Cxl => crate::CXL_DATAGRAM_BYTES,
        }
    }

    /// The driver asked for.
    pub fn kind(&self) -> DriverKind {
        let usual = if self.pool.is_some() { DriverKind::Cxl } else { DriverKind::Udp };
        self.driver.unwrap_or(usual)
    }

    /// Makes `pool` as slow, and as coherent, as the flags say.
    pub fn set_up(&self, pool: &mut Pool) {
        if self.coherent_hosts {
            pool.declare_coherent_hosts();
        }
        if let Some(nanos) = self.cxl_latency_ns {
            pool.slow_down(Duration::from_nanos(nanos));
        }
    }

    /// The first flag for DPDK that was given, if any.
    pub(crate) fn first_of_dpdk(&self) -> Option<&'static str> {
        [
            (!self.dpdk_vdev.is_empty(), "--dpdk-vdev"),
            (!self.dpdk_pci.is_empty(), "--dpdk-pci"),
            (self.dpdk_eal.is_some(), "--dpdk-eal"),
            (self.dpdk_no_huge, "--dpdk-no-huge"),
            (self.gateway.is_some(), "--gateway"),
            (self.zero_copy_transmit != ZeroCopyTransmit::Auto, "--zero-copy-transmit"),
        ]
        .into_iter()
        .find_map(|(given, flag)| given.then_some(flag))
    }
}
