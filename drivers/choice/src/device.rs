//! A device of whichever driver, with a capture file if there is to be one.

mod chosen;
mod one_of;

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use dmrpc_core::device::{Capabilities, Device, Rx, Tx, Work};
use dmrpc_core::memory::Loan;
use dmrpc_cxl::Pool;
use dmrpc_host::captured::Captured;
use dmrpc_host::idle::{Doorbell, Wait};

pub use chosen::{Chosen, ChosenRx, ChosenTx};
use one_of::one_of;

one_of! {
    /// A device of whichever driver was chosen. Where packets are captured, the driver is chosen
    /// for each of them: capturing costs more.
    AnyDevice, AnyRx, AnyTx {
        /// The device alone.
        Plain(Chosen),
        /// The device, and a capture file.
        Captured(Captured<Chosen>),
    }
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
