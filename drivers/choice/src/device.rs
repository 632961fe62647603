//! A device of whichever driver, with a capture file if there is to be one.

mod chosen;

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx, Work};
use dmrpc_core::memory::Loan;
use dmrpc_cxl::Pool;
use dmrpc_host::captured::{Captured, CapturedRx, CapturedTx};
use dmrpc_host::idle::{Doorbell, Wait};

pub use chosen::{Chosen, ChosenRx, ChosenTx};

/// A device of whichever driver was chosen.
#[allow(clippy::large_enum_variant, reason = "there is one a poll loop, and it stays in its place")]
pub enum AnyDevice {
    /// The device alone.
    Plain(Chosen),
    /// The device, and a capture file.
    Captured(Captured<Chosen>),
}

/// The receiving half of an [`AnyDevice`].
pub enum AnyRx<'a> {
    /// Of the device alone.
    Plain(ChosenRx<'a>),
    /// With a capture file.
    Captured(CapturedRx<'a, Chosen>),
}

/// The sending half of an [`AnyDevice`].
pub enum AnyTx<'a> {
    /// Of the device alone.
    Plain(ChosenTx<'a>),
    /// With a capture file.
    Captured(CapturedTx<'a, Chosen>),
}

/// The same expression with and without a capture file.
macro_rules! either {
    ($enum:ident, $value:expr, $inner:ident => $do:expr) => {
        match $value {
            $enum::Plain($inner) => $do,
            $enum::Captured($inner) => $do,
        }
    };
}

impl std::fmt::Debug for AnyDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.chosen().fmt(f)
    }
}

impl AnyDevice {
    /// A device without a capture file.
    pub fn plain(device: impl Into<Chosen>) -> Self {
        Self::Plain(device.into())
    }

    /// The device of the driver that was chosen.
    pub fn chosen(&self) -> &Chosen {
        match self {
            Self::Plain(device) => device,
            Self::Captured(captured) => captured.device(),
        }
    }

    /// The address that the device is reached at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.chosen().local_addr()
    }

    /// Hands `each` every count of the driver's with its name. UDP and pools keep none.
    #[cfg_attr(not(feature = "dpdk"), allow(unused_variables, reason = "only DPDK counts"))]
    pub fn for_each_count(&self, each: impl FnMut(&'static str, u64)) {
        match self.chosen() {
            #[cfg(feature = "dpdk")]
            Chosen::Dpdk(device) => device.stats().for_each(each),
            _ => {}
        }
    }

    /// The pool whose rings it is over, and which participant of it this is.
    pub fn pool(&self) -> Option<(&Arc<Pool>, u32)> {
        match self.chosen() {
            Chosen::Cxl(device) => Some((device.pool(), device.participant().index())),
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

    fn is_lossless(&self) -> bool {
        either!(AnyDevice, self, device => device.is_lossless())
    }

    #[inline]
    fn split(&mut self) -> (AnyRx<'_>, AnyTx<'_>) {
        match self {
            Self::Plain(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Plain(rx), AnyTx::Plain(tx))
            }
            Self::Captured(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Captured(rx), AnyTx::Captured(tx))
            }
        }
    }

    #[inline]
    fn lend<W: Work>(&mut self, work: W) -> W::Output {
        // Of a captured device the driver is chosen at each packet: capturing costs more.
        either!(AnyDevice, self, device => device.lend(work))
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
