//! Packets that come in encrypted: opened, then taken in as others are.

use core::net::SocketAddrV4;

use super::Endpoint;
use super::auth::Guard;
use super::cipher::Unopened;
use super::host::Host;
use super::transmit::Io;
use crate::device::Tx;
use crate::time::Instant;
use crate::wire::WireError;
use crate::wire::bytes::{u32_at, u64_at};
use crate::wire::packet::{
    HEADER_BYTES, Header, Kind, PROTOCOL_VERSION, Packet, REQUEST, RESPONSE, SEALED,
};

impl Endpoint<'_> {
    /// Opens an encrypted packet and takes it in. Nothing of its session changes before it is
    /// known to be from the session's peer.
    #[inline(never)]
    pub(super) fn sealed_packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        datagram: &[u8],
    ) {
        let named = match name(datagram) {
            Ok(named) => named,
            Err(error) => return self.counters.wire_error(error),
        };
        let place = match self.known_guard(peer, &named) {
            Some(Some(Guard::Cipher(place))) => place,
            // A session that does not encrypt: damaged, for all that is known of it, or forged.
            Some(_) => return self.counters.bad_tag += 1,
            None => return self.unknown_sealed(io, peer, &named),
        };
        let keys = self.keys.as_mut().expect("a session that encrypts has keys");
        let ciphers = keys.ciphers.as_mut().expect("a session that encrypts has a cipher");
        let opened = ciphers.sessions.open(place as usize, datagram, ciphers.packet);
        let (length, farewell) = match opened {
            Ok(opened) => opened,
            Err(why) => return self.unopened(why),
        };
        if farewell && named.kind != Kind::Bye {
            self.counters.malformed += 1;
            return;
        }
        // The bytes are lent to the session's host while the endpoint goes on with them.
        let room = core::mem::take(&mut ciphers.packet);
        self.opened_packet(now, io, peer, &room[..length]);
        if let Some(ciphers) = self.keys.as_mut().and_then(|keys| keys.ciphers.as_mut()) {
            ciphers.packet = room;
        }
    }

    /// What guards the session that a packet names, if anything does. `None` if there is no such
    /// session with that peer, or the packet is of none.
    pub(super) fn known_guard(&self, peer: SocketAddrV4, header: &Header) -> Option<Option<Guard>> {
        match header.kind {
            Kind::Response | Kind::RequestAck | Kind::Busy | Kind::Pong => {
                let index = self.client_session_of(peer, header);
                index.map(|index| self.client_sessions[index].guard)
            }
            Kind::Request
            | Kind::ResponseAck
            | Kind::Cancel
            | Kind::Done
            | Kind::Ping
            | Kind::Bye => {
                let index = self.server_session_of(peer, header);
                index.map(|index| self.server_sessions[index].guard)
            }
            _ => None,
        }
    }

    /// Takes in a packet that was opened; its kind still says that it came encrypted.
    #[inline(always)]
    fn opened_packet<T: Tx, H: Host>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        datagram: &[u8],
    ) {
        if let Some((bytes, payload)) = datagram.split_first_chunk::<HEADER_BYTES>() {
            let done = match bytes[1] & !SEALED {
                REQUEST => self.straight_request::<true, T, H>(now, io, peer, bytes, payload),
                RESPONSE => self.straight_response::<true, T, H>(now, io, peer, bytes, payload),
                _ => false,
            };
            if done {
                return;
            }
        }
        match Packet::parse_opened(datagram) {
            Ok(packet) => self.parsed_packet(now, io, peer, packet),
            Err(error) => self.counters.wire_error(error),
        }
    }

    /// Of a session that is not known here, which its client is told as it is in clear.
    #[cold]
    fn unknown_sealed<T: Tx, H: Host>(
        &mut self,
        io: &mut Io<'_, T, H>,
        peer: SocketAddrV4,
        named: &Header,
    ) {
        match named.kind {
            Kind::Bye => self.send_reset(io, peer, named),
            Kind::Request | Kind::ResponseAck | Kind::Cancel | Kind::Done | Kind::Ping => {
                self.reset(io, peer, named);
            }
            _ => self.counters.unknown_session += 1,
        }
    }

    #[cold]
    fn unopened(&mut self, why: Unopened) {
        match why {
            Unopened::Length => self.counters.bad_length += 1,
            Unopened::Again => self.counters.duplicates += 1,
            Unopened::Old => self.counters.stale += 1,
            Unopened::Forged => self.counters.bad_tag += 1,
        }
    }
}

/// What an encrypted packet says in clear: its kind, its session, and what it asks with.
fn name(datagram: &[u8]) -> Result<Header, WireError> {
    let Some(bytes) = datagram.first_chunk::<HEADER_BYTES>() else {
        return Err(WireError::Truncated { needed: HEADER_BYTES, got: datagram.len() });
    };
    if bytes[0] != PROTOCOL_VERSION {
        return Err(WireError::Version(bytes[0]));
    }
    let kind = Kind::from_wire(bytes[1] & !SEALED)?;
    let request = match kind {
        Kind::Ping | Kind::Bye => u64_at(bytes, 24),
        _ => 0,
    };
    Ok(Header { request, ..Header::new(kind, u32_at(bytes, 4), u32_at(bytes, 8)) })
}
