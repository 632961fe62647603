//! A device whose wire is the target's hands.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::device::{Capabilities, Device, Rx, Tx};
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header};

/// Longest datagram, in bytes: three packets carry two pages.
pub(crate) const DATAGRAM_BYTES: usize = 1472;

/// The other end.
pub(crate) const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 9);

#[derive(Default)]
pub(crate) struct Hands {
    incoming: Vec<Vec<u8>>,
    receiving: Vec<Vec<u8>>,
    pub(crate) outgoing: Vec<Vec<u8>>,
}

impl Hands {
    /// Any bytes.
    pub(crate) fn inject(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(DATAGRAM_BYTES)];
        self.incoming.push(bytes.to_vec());
    }

    /// A packet with a right checksum, whatever else is wrong with it.
    pub(crate) fn inject_sealed(&mut self, header: Header, payload: &[u8], crc: Crc32c) {
        let payload = &payload[..payload.len().min(DATAGRAM_BYTES - HEADER_BYTES)];
        let mut header = Header { payload: payload.len() as u16, ..header };
        header.flags |= Flags::PAYLOAD_CHECK;
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(payload);
        header.emit(&mut bytes, crc);
        self.incoming.push(bytes);
    }
}

impl Device for Hands {
    type Rx<'a> = HandsRx<'a>;
    type Tx<'a> = HandsTx<'a>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: DATAGRAM_BYTES, burst_max: usize::MAX }
    }

    fn split(&mut self) -> (HandsRx<'_>, HandsTx<'_>) {
        let Self { incoming, receiving, outgoing } = self;
        (HandsRx { incoming, receiving }, HandsTx { outgoing })
    }
}

pub(crate) struct HandsRx<'a> {
    incoming: &'a mut Vec<Vec<u8>>,
    receiving: &'a mut Vec<Vec<u8>>,
}

pub(crate) struct HandsTx<'a> {
    outgoing: &'a mut Vec<Vec<u8>>,
}

impl Rx for HandsRx<'_> {
    fn receive(&mut self) -> usize {
        *self.receiving = std::mem::take(self.incoming);
        self.receiving.len()
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        (PEER, &self.receiving[index])
    }
}

impl Tx for HandsTx<'_> {
    fn push(&mut self, peer: SocketAddrV4, bytes: usize) -> Option<&mut [u8]> {
        assert!(bytes <= DATAGRAM_BYTES && peer == PEER);
        if self.outgoing.len() >= 256 {
            return None;
        }
        self.outgoing.push(vec![0xA5; bytes]);
        self.outgoing.last_mut().map(|bytes| &mut bytes[..])
    }

    fn flush(&mut self) {}
}
