//! A device of one of the drivers.

use std::net::SocketAddrV4;
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx, Work};
use dmrpc_core::memory::Loan;
use dmrpc_cxl::PoolDevice;
use dmrpc_host::idle::{Doorbell, Wait};
use dmrpc_udp::{UdpDevice, UdpRx, UdpTx};

type PoolRx<'a> = <PoolDevice as Device>::Rx<'a>;
type PoolTx<'a> = <PoolDevice as Device>::Tx<'a>;
#[cfg(feature = "dpdk")]
type DpdkRx<'a> = <dmrpc_dpdk::DpdkDevice as Device>::Rx<'a>;
#[cfg(feature = "dpdk")]
type DpdkTx<'a> = <dmrpc_dpdk::DpdkDevice as Device>::Tx<'a>;

/// A device of the driver that was chosen.
#[allow(clippy::large_enum_variant, reason = "there is one a poll loop, and it stays in its place")]
pub enum Chosen {
    /// A kernel UDP socket.
    Udp(UdpDevice),
    /// Rings in a pool.
    Cxl(PoolDevice),
    /// Ports of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(dmrpc_dpdk::DpdkDevice),
}

/// The receiving half of a [`Chosen`] device.
pub enum ChosenRx<'a> {
    /// Of a kernel UDP socket.
    Udp(UdpRx<'a>),
    /// Of rings in a pool.
    Cxl(PoolRx<'a>),
    /// Of ports of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(DpdkRx<'a>),
}

/// The sending half of a [`Chosen`] device.
pub enum ChosenTx<'a> {
    /// Of a kernel UDP socket.
    Udp(UdpTx<'a>),
    /// Of rings in a pool.
    Cxl(PoolTx<'a>),
    /// Of ports of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(DpdkTx<'a>),
}

/// The same expression for the driver that a value is of.
macro_rules! either {
    ($enum:ident, $value:expr, $inner:ident => $do:expr) => {
        match $value {
            $enum::Udp($inner) => $do,
            $enum::Cxl($inner) => $do,
            #[cfg(feature = "dpdk")]
            $enum::Dpdk($inner) => $do,
        }
    };
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
impl From<dmrpc_dpdk::DpdkDevice> for Chosen {
    fn from(device: dmrpc_dpdk::DpdkDevice) -> Self {
        Self::Dpdk(device)
    }
}

impl Chosen {
    /// The address that the device is reached at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        either!(Chosen, self, device => device.local_addr())
    }
}

impl Device for Chosen {
    type Rx<'a> = ChosenRx<'a>;
    type Tx<'a> = ChosenTx<'a>;

    fn capabilities(&self) -> Capabilities {
        either!(Chosen, self, device => device.capabilities())
    }

    fn receive_queue(&self) -> usize {
        either!(Chosen, self, device => device.receive_queue())
    }

    fn keeps_bytes(&self) -> bool {
        either!(Chosen, self, device => device.keeps_bytes())
    }

    fn is_memory(&self) -> bool {
        either!(Chosen, self, device => device.is_memory())
    }

    fn is_lossless(&self) -> bool {
        either!(Chosen, self, device => device.is_lossless())
    }

    #[inline]
    fn split(&mut self) -> (ChosenRx<'_>, ChosenTx<'_>) {
        match self {
            Self::Udp(device) => {
                let (rx, tx) = device.split();
                (ChosenRx::Udp(rx), ChosenTx::Udp(tx))
            }
            Self::Cxl(device) => {
                let (rx, tx) = device.split();
                (ChosenRx::Cxl(rx), ChosenTx::Cxl(tx))
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => {
                let (rx, tx) = device.split();
                (ChosenRx::Dpdk(rx), ChosenTx::Dpdk(tx))
            }
        }
    }

    #[inline]
    fn lend<W: Work>(&mut self, work: W) -> W::Output {
        either!(Chosen, self, device => device.lend(work))
    }
}

impl Rx for ChosenRx<'_> {
    #[inline]
    fn receive(&mut self) -> usize {
        either!(ChosenRx, self, rx => rx.receive())
    }

    #[inline]
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        either!(ChosenRx, self, rx => rx.packet(index))
    }
}

impl Tx for ChosenTx<'_> {
    #[inline]
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        either!(ChosenTx, self, tx => tx.push(peer, bytes))
    }

    #[inline]
    fn flush(&mut self) {
        either!(ChosenTx, self, tx => tx.flush());
    }

    #[inline]
    fn borrows(&self, peer: SocketAddrV4) -> bool {
        either!(ChosenTx, self, tx => tx.borrows(peer))
    }

    #[inline]
    fn push_borrowed(
        &mut self,
        peer: SocketAddrV4,
        bytes: usize,
        loan: &Loan,
        ticket: u8,
    ) -> Option<&mut [u8]> {
        either!(ChosenTx, self, tx => tx.push_borrowed(peer, bytes, loan, ticket))
    }

    #[inline]
    fn returned(&mut self) -> Option<(u8, u32)> {
        either!(ChosenTx, self, tx => tx.returned())
    }
}

impl Wait for Chosen {
    fn wait(&self, timeout: Duration) -> bool {
        either!(Chosen, self, device => Wait::wait(device, timeout))
    }

    fn wait_with(&self, doorbell: &Doorbell, timeout: Duration) -> bool {
        either!(Chosen, self, device => Wait::wait_with(device, doorbell, timeout))
    }
}
