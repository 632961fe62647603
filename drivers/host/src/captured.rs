//! A device that writes what passes through it to a capture file.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dmrpc_core::device::{Capabilities, Device, Rx, Tx};

use crate::idle::{Doorbell, Wait};
use crate::pcap::Pcap;

/// Any device, and a file with all that it sends and receives.
///
/// Each datagram is copied on its way out: this is for looking, not for measuring. When the file
/// cannot be written any more, that is said once, and the device goes on.
#[derive(Debug)]
pub struct Captured<D> {
    device: D,
    local: SocketAddrV4,
    file: RefCell<Option<Pcap>>,
    /// A datagram that was pushed here and that the device does not have yet.
    staged: Option<(SocketAddrV4, usize)>,
    bytes: Vec<u8>,
}

impl<D: Device> Captured<D> {
    /// Wraps `device`, whose own address is `local`, and creates the file.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn new(device: D, local: SocketAddrV4, path: &Path) -> io::Result<Self> {
        let file = RefCell::new(Some(Pcap::create(path)?));
        let bytes = vec![0; device.capabilities().datagram_bytes_max];
        Ok(Self { device, local, file, staged: None, bytes })
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The address that the device is reached at.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.local
    }
}

impl<D: Device> Device for Captured<D> {
    type Rx<'a>
        = CapturedRx<'a, D>
    where
        Self: 'a;
    type Tx<'a>
        = CapturedTx<'a, D>
    where
        Self: 'a;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn receive_queue(&self) -> usize {
        self.device.receive_queue()
    }

    fn keeps_bytes(&self) -> bool {
        self.device.keeps_bytes()
    }

    fn is_memory(&self) -> bool {
        self.device.is_memory()
    }

    fn flushes_cheaply(&self) -> bool {
        self.device.flushes_cheaply()
    }

    fn is_lossless(&self) -> bool {
        self.device.is_lossless()
    }

    fn split(&mut self) -> (CapturedRx<'_, D>, CapturedTx<'_, D>) {
        let Self { device, local, file, staged, bytes } = self;
        let (rx, tx) = device.split();
        let (local, file) = (*local, &*file);
        let rx = CapturedRx { rx, local, file };
        (rx, CapturedTx { tx, local, file, staged, bytes })
    }
}

impl<D: Wait> Wait for Captured<D> {
    fn announce(&self) {
        self.device.announce();
    }

    fn retract(&self) {
        self.device.retract();
    }

    fn wait(&self, timeout: Duration) -> bool {
        self.device.wait(timeout)
    }

    fn wait_with(&self, doorbell: &Doorbell, timeout: Duration) -> bool {
        self.device.wait_with(doorbell, timeout)
    }
}

fn write(file: &RefCell<Option<Pcap>>, what: impl FnOnce(&mut Pcap) -> io::Result<()>) {
    let mut file = file.borrow_mut();
    if let Some(pcap) = file.as_mut()
        && let Err(error) = what(pcap)
    {
        eprintln!("the capture ends here: its file cannot be written: {error}");
        *file = None;
    }
}

/// The receiving half of a [`Captured`] device.
pub struct CapturedRx<'a, D: Device + 'a> {
    rx: D::Rx<'a>,
    local: SocketAddrV4,
    file: &'a RefCell<Option<Pcap>>,
}

impl<D: Device> Rx for CapturedRx<'_, D> {
    fn receive(&mut self) -> usize {
        let count = self.rx.receive();
        if self.file.borrow().is_none() {
            return count;
        }
        if count == 0 {
            // A quiet moment.
            write(self.file, Pcap::flush);
            return 0;
        }
        let now = SystemTime::now();
        for index in 0..count {
            let (peer, datagram) = self.rx.packet(index);
            write(self.file, |pcap| pcap.datagram(now, peer, self.local, datagram));
        }
        count
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        self.rx.packet(index)
    }
}

/// The sending half of a [`Captured`] device.
pub struct CapturedTx<'a, D: Device + 'a> {
    tx: D::Tx<'a>,
    local: SocketAddrV4,
    file: &'a RefCell<Option<Pcap>>,
    staged: &'a mut Option<(SocketAddrV4, usize)>,
    bytes: &'a mut Vec<u8>,
}

impl<D: Device> CapturedTx<'_, D> {
    /// Gives the device the staged datagram. Returns false if it has no room.
    fn settle(&mut self) -> bool {
        let Some((peer, length)) = *self.staged else { return true };
        let Some(buffer) = self.tx.push(peer, length) else { return false };
        let bytes = &self.bytes[..length];
        buffer.copy_from_slice(bytes);
        write(self.file, |pcap| pcap.datagram(SystemTime::now(), self.local, peer, bytes));
        *self.staged = None;
        true
    }
}

impl<'a, D: Device> Tx for CapturedTx<'a, D> {
    const CAN_BE_LOSSLESS: bool = <D::Tx<'a> as Tx>::CAN_BE_LOSSLESS;

    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        if self.staged.is_none() && self.file.borrow().is_none() {
            return self.tx.push(peer, bytes);
        }
        // What the caller writes can be seen only after the caller is done with it: so it writes
        // here, and the device gets it with the next push or flush.
        if !self.settle() {
            return None;
        }
        *self.staged = Some((peer, bytes));
        Some(&mut self.bytes[..bytes])
    }

    fn flush(&mut self) {
        if !self.settle() {
            self.tx.flush();
            self.settle();
        }
        self.tx.flush();
    }

    fn path_bytes(&self, peer: SocketAddrV4) -> Option<usize> {
        self.tx.path_bytes(peer)
    }
}
