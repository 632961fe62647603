//! A device whose wire is the target's hands.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::device::{Capabilities, Device, Rx, Tx};
use dmrpc_core::wire::control::Features;
use dmrpc_core::wire::direct::{DIRECT, DIRECT_REQUEST, Direct};
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};

/// Longest datagram, in bytes: three packets carry two pages.
pub(crate) const DATAGRAM_BYTES: usize = 1472;

/// The other end.
pub(crate) const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 9);

#[derive(Default)]
pub(crate) struct Hands {
    incoming: Vec<Vec<u8>>,
    receiving: Vec<Vec<u8>>,
    pub(crate) outgoing: Vec<Vec<u8>>,
    /// Whether the wire is memory, with short headers for messages of one packet.
    memory: bool,
}

impl Hands {
    /// Of a network; of memory for data of an odd length.
    pub(crate) fn for_data(data: &[u8]) -> Self {
        Self { memory: data.len() % 2 == 1, ..Self::default() }
    }

    /// What both ends ask for.
    pub(crate) fn features(&self) -> Features {
        if self.memory { Features::DIRECT } else { Features::PAYLOAD_CHECK }
    }

    /// The header of a packet that the endpoint sends, and its payload.
    pub(crate) fn parse(packet: &[u8], crc: Crc32c) -> (Header, &[u8]) {
        if packet[1] & DIRECT == 0 {
            let header = Header::parse(packet, crc).expect("the endpoint's packets are right");
            return (header, &packet[HEADER_BYTES..]);
        }
        let direct = Direct::parse(packet).expect("the endpoint's packets are right");
        let kind = if packet[1] == DIRECT_REQUEST { Kind::Request } else { Kind::Response };
        let mut header = Header::new(kind, direct.session() as u32, direct.generation);
        (header.slot, header.head, header.request) = (direct.slot, direct.head, direct.request);
        header.message = direct.message.len() as u32;
        (header, direct.message)
    }

    /// Any bytes.
    pub(crate) fn inject(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(DATAGRAM_BYTES)];
        self.incoming.push(bytes.to_vec());
    }

    /// A packet with a right checksum, whatever else is wrong with it.
    pub(crate) fn inject_sealed(&mut self, header: Header, payload: &[u8], crc: Crc32c) {
        let payload = &payload[..payload.len().min(DATAGRAM_BYTES - HEADER_BYTES)];
        let mut header = Header { payload: payload.len() as u16, ..header };
        if self.memory
            && matches!(header.kind, Kind::Request | Kind::Response)
            && header.message as usize == payload.len()
        {
            return self.inject_direct(&header, payload);
        }
        header.flags.set(Flags::PAYLOAD_CHECK, !self.memory);
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(payload);
        header.emit(&mut bytes, crc);
        self.incoming.push(bytes);
    }

    /// A message with the short header.
    fn inject_direct(&mut self, header: &Header, message: &[u8]) {
        let mut bytes = vec![0; HEADER_BYTES + message.len()];
        header.emit(&mut bytes, Crc32c::detect());
        let first = u64::from_le_bytes(*bytes.first_chunk().expect("a header"));
        let Header { generation, slot, head, request, .. } = *header;
        let direct = Direct { first, generation, slot, head, request, message };
        self.incoming.push([&direct.header()[..], message].concat());
    }
}

impl Device for Hands {
    type Rx<'a> = HandsRx<'a>;
    type Tx<'a> = HandsTx<'a>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { datagram_bytes_max: DATAGRAM_BYTES, burst_max: usize::MAX }
    }

    fn split(&mut self) -> (HandsRx<'_>, HandsTx<'_>) {
        let Self { incoming, receiving, outgoing, .. } = self;
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
