//! A device of one of the drivers.

use std::net::SocketAddrV4;
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx, Work};
use dmrpc_core::memory::Loan;
use dmrpc_cxl::PoolDevice;
#[cfg(feature = "dpdk")]
use dmrpc_dpdk::DpdkDevice;
use dmrpc_host::idle::{Doorbell, Wait};
use dmrpc_udp::UdpDevice;

use super::one_of::one_of;

one_of! {
    /// A device of the driver that was chosen.
    Chosen, ChosenRx, ChosenTx {
        /// A kernel UDP socket.
        Udp(UdpDevice),
        /// Rings in a pool.
        Cxl(PoolDevice),
        #[cfg(feature = "dpdk")]
        /// Ports of DPDK's.
        Dpdk(DpdkDevice),
    }
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(device) => write!(f, "Udp({})", device.local_addr()),
            Self::Cxl(device) => write!(f, "Cxl({})", device.local_addr()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => device.fmt(f),
        }
    }
}

impl From<UdpDevice> for Chosen {
    fn from(device: UdpDevice) -> Self {
        Self::Udp(device)
    }
}

impl From<PoolDevice> for Chosen {
    fn from(device: PoolDevice) -> Self {
        Self::Cxl(device)
    }
}

#[cfg(feature = "dpdk")]
impl From<DpdkDevice> for Chosen {
    fn from(device: DpdkDevice) -> Self {
        Self::Dpdk(device)
    }
}

impl Chosen {
    /// The address that the device is reached at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        match self {
            Self::Udp(device) => device.local_addr(),
            Self::Cxl(device) => device.local_addr(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => device.local_addr(),
        }
    }
}
