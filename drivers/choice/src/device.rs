//! A device of whichever driver.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx, Work};
use dmrpc_core::memory::Loan;
use dmrpc_cxl::{Pool, PoolDevice};
use dmrpc_host::captured::{Captured, CapturedRx, CapturedTx};
use dmrpc_host::idle::{Doorbell, Wait};
use dmrpc_udp::{UdpDevice, UdpRx, UdpTx};

type PoolRx<'a> = <PoolDevice as Device>::Rx<'a>;
type PoolTx<'a> = <PoolDevice as Device>::Tx<'a>;
#[cfg(feature = "dpdk")]
type DpdkRx<'a> = <dmrpc_dpdk::DpdkDevice as Device>::Rx<'a>;
#[cfg(feature = "dpdk")]
type DpdkTx<'a> = <dmrpc_dpdk::DpdkDevice as Device>::Tx<'a>;

/// A device of whichever driver was chosen.
#[allow(clippy::large_enum_variant, reason = "there is one a poll loop, and it stays in its place")]
pub enum AnyDevice {
    /// A kernel UDP socket.
    Udp(UdpDevice),
    /// A kernel UDP socket, and a capture file.
    UdpCaptured(Captured<UdpDevice>),
    /// Rings in a pool.
    Cxl(PoolDevice),
    /// Rings in a pool, and a capture file.
    CxlCaptured(Captured<PoolDevice>),
    /// Ports of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(dmrpc_dpdk::DpdkDevice),
    /// Ports of DPDK's, and a capture file.
    #[cfg(feature = "dpdk")]
    DpdkCaptured(Captured<dmrpc_dpdk::DpdkDevice>),
}

/// The receiving half of an [`AnyDevice`].
pub enum AnyRx<'a> {
    /// Of a kernel UDP socket.
    Udp(UdpRx<'a>),
    /// Of a kernel UDP socket with a capture file.
    UdpCaptured(CapturedRx<'a, UdpDevice>),
    /// Of rings in a pool.
    Cxl(PoolRx<'a>),
    /// Of rings in a pool with a capture file.
    CxlCaptured(CapturedRx<'a, PoolDevice>),
    /// Of ports of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(DpdkRx<'a>),
    /// Of ports of DPDK's with a capture file.
    #[cfg(feature = "dpdk")]
    DpdkCaptured(CapturedRx<'a, dmrpc_dpdk::DpdkDevice>),
}

/// The sending half of an [`AnyDevice`].
pub enum AnyTx<'a> {
    /// Of a kernel UDP socket.
    Udp(UdpTx<'a>),
    /// Of a kernel UDP socket with a capture file.
    UdpCaptured(CapturedTx<'a, UdpDevice>),
    /// Of rings in a pool.
    Cxl(PoolTx<'a>),
    /// Of rings in a pool with a capture file.
    CxlCaptured(CapturedTx<'a, PoolDevice>),
    /// Of ports of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(DpdkTx<'a>),
    /// Of ports of DPDK's with a capture file.
    #[cfg(feature = "dpdk")]
    DpdkCaptured(CapturedTx<'a, dmrpc_dpdk::DpdkDevice>),
}

/// The same expression for the driver that a value is of.
macro_rules! either {
    ($enum:ident, $value:expr, $inner:ident => $do:expr) => {
        match $value {
            $enum::Udp($inner) => $do,
            $enum::UdpCaptured($inner) => $do,
            $enum::Cxl($inner) => $do,
            $enum::CxlCaptured($inner) => $do,
            #[cfg(feature = "dpdk")]
            $enum::Dpdk($inner) => $do,
            #[cfg(feature = "dpdk")]
            $enum::DpdkCaptured($inner) => $do,
        }
    };
}

impl std::fmt::Debug for AnyDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(device) => write!(f, "Udp({})", device.local_addr()),
            Self::UdpCaptured(device) => write!(f, "UdpCaptured({})", device.local_addr()),
            Self::Cxl(device) => write!(f, "Cxl({})", device.local_addr()),
            Self::CxlCaptured(device) => write!(f, "CxlCaptured({})", device.local_addr()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => device.fmt(f),
            #[cfg(feature = "dpdk")]
            Self::DpdkCaptured(device) => device.device().fmt(f),
        }
    }
}

impl AnyDevice {
    /// The address that the device is reached at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        either!(AnyDevice, self, device => device.local_addr())
    }
}

impl AnyDevice {
    /// Hands `each` every count of the driver's with its name. UDP and pools keep none.
    #[cfg_attr(not(feature = "dpdk"), allow(unused_variables, reason = "only DPDK counts"))]
    pub fn for_each_count(&self, each: impl FnMut(&'static str, u64)) {
        match self {
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => device.stats().for_each(each),
            #[cfg(feature = "dpdk")]
            Self::DpdkCaptured(device) => device.device().stats().for_each(each),
            _ => {}
        }
    }

    /// The pool whose rings it is over, and which participant of it this is.
    pub fn pool(&self) -> Option<(&Arc<Pool>, u32)> {
        match self {
            Self::Cxl(device) => Some((device.pool(), device.participant().index())),
            _ => None,
        }
    }
}

impl Device for AnyDevice {
    type Rx<'a> = AnyRx<'a>;
    type Tx<'a> = AnyTx<'a>;

    fn capabilities(&self) -> Capabilities {
        either!(AnyDevice, self, device => device.capabilities())
    }

    fn receive_queue(&self) -> usize {
        either!(AnyDevice, self, device => device.receive_queue())
    }

    fn keeps_bytes(&self) -> bool {
        either!(AnyDevice, self, device => device.keeps_bytes())
    }

    fn is_memory(&self) -> bool {
        either!(AnyDevice, self, device => device.is_memory())
    }

    #[inline]
    fn split(&mut self) -> (AnyRx<'_>, AnyTx<'_>) {
        match self {
            Self::Udp(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Udp(rx), AnyTx::Udp(tx))
            }
            Self::UdpCaptured(device) => {
                let (rx, tx) = device.split();
                (AnyRx::UdpCaptured(rx), AnyTx::UdpCaptured(tx))
            }
            Self::Cxl(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Cxl(rx), AnyTx::Cxl(tx))
            }
            Self::CxlCaptured(device) => {
                let (rx, tx) = device.split();
                (AnyRx::CxlCaptured(rx), AnyTx::CxlCaptured(tx))
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Dpdk(rx), AnyTx::Dpdk(tx))
            }
            #[cfg(feature = "dpdk")]
            Self::DpdkCaptured(device) => {
                let (rx, tx) = device.split();
                (AnyRx::DpdkCaptured(rx), AnyTx::DpdkCaptured(tx))
            }
        }
    }

    #[inline]
    fn lend<W: Work>(&mut self, work: W) -> W::Output {
        match self {
            Self::Udp(device) => device.lend(work),
            Self::Cxl(device) => device.lend(work),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => device.lend(work),
            // Capturing costs more than asking again.
            captured => {
                let (rx, tx) = captured.split();
                work.run(rx, tx)
            }
        }
    }
}

impl Rx for AnyRx<'_> {
    #[inline]
    fn receive(&mut self) -> usize {
        either!(AnyRx, self, rx => rx.receive())
    }

    #[inline]
    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        either!(AnyRx, self, rx => rx.packet(index))
    }
}

impl Tx for AnyTx<'_> {
    #[inline]
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        either!(AnyTx, self, tx => tx.push(peer, bytes))
    }

    #[inline]
    fn flush(&mut self) {
        either!(AnyTx, self, tx => tx.flush());
    }

    #[inline]
    fn borrows(&self, peer: SocketAddrV4) -> bool {
        either!(AnyTx, self, tx => tx.borrows(peer))
    }

    #[inline]
    fn push_borrowed(
        &mut self,
        peer: SocketAddrV4,
        bytes: usize,
        loan: &Loan,
        ticket: u8,
    ) -> Option<&mut [u8]> {
        either!(AnyTx, self, tx => tx.push_borrowed(peer, bytes, loan, ticket))
    }

    #[inline]
    fn returned(&mut self) -> Option<(u8, u32)> {
        either!(AnyTx, self, tx => tx.returned())
    }
}

impl Wait for AnyDevice {
    fn wait(&self, timeout: Duration) -> bool {
        either!(AnyDevice, self, device => Wait::wait(device, timeout))
    }

    fn wait_with(&self, doorbell: &Doorbell, timeout: Duration) -> bool {
        either!(AnyDevice, self, device => Wait::wait_with(device, doorbell, timeout))
    }
}
