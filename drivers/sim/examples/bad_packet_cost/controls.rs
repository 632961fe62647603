//! Packets that carry no call: of the handshake, of a session's life, and requests whose head
//! makes no sense.

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::endpoint::host::SessionId;
use dmrpc_core::wire::control::{HELLO_BYTES, Hello, REFUSAL_BYTES};
use dmrpc_core::wire::message::REQUEST_HEADER_BYTES;
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};

use super::{BUFFER_BYTES, BYTES, request_payload};

/// What a sender of such packets knows.
pub(super) struct Known {
    /// A session of the server's, as the server names it.
    pub(super) session: SessionId,
    /// The hello that opened it, with its cookie and proof.
    pub(super) hello: [u8; HELLO_BYTES],
    pub(super) crc: Crc32c,
}

/// Writes the `number`-th packet into a buffer. Returns how long it is.
type Make = fn(&Known, u64, &mut [u8; BUFFER_BYTES]) -> usize;

/// A kind of packet, by name, whether it is for a server with a key, and how it is made.
pub(super) type Control = (&'static str, bool, Make);

/// All kinds.
pub(super) const CONTROLS: [Control; 14] = [
    ("hello", false, |known, number, buffer| hello(known, buffer, |hello| strange(hello, number))),
    ("hello-stale", false, |known, number, buffer| {
        hello(known, buffer, |hello| hello.cookie ^= number)
    }),
    ("hello-again", false, |known, _, buffer| hello(known, buffer, |_| {})),
    ("hello-again-keyed", true, |known, _, buffer| hello(known, buffer, |_| {})),
    ("proof", true, |known, number, buffer| {
        hello(known, buffer, |hello| hello.proof = u128::from(number).to_le_bytes())
    }),
    ("challenge", false, |known, _, buffer| outside(known, Kind::Challenge, &[7; 16], buffer)),
    ("refuse", false, |known, _, buffer| outside(known, Kind::Refuse, &[1; REFUSAL_BYTES], buffer)),
    ("hello-ack", false, |known, _, buffer| outside(known, Kind::HelloAck, &known.hello, buffer)),
    ("reset", false, |known, number, buffer| {
        let header = Header { request: number, ..Header::new(Kind::Reset, 5, 5) };
        packet(known, header, &[], buffer)
    }),
    ("reset-keyed", true, |known, _, buffer| outside(known, Kind::Reset, &[], buffer)),
    ("bye", false, |known, _, buffer| outside(known, Kind::Bye, &[], buffer)),
    ("ping", false, |known, number, buffer| {
        let SessionId { index, generation } = known.session;
        let header = Header { request: number, ..Header::new(Kind::Ping, index, generation) };
        packet(known, header, &[], buffer)
    }),
    ("ping-unknown", false, |known, _, buffer| outside(known, Kind::Ping, &[], buffer)),
    ("arguments", false, |known, number, buffer| {
        let mut payload = request_payload();
        // So many references as the head has no room for.
        payload[ARGS_AT] = 7;
        let SessionId { index, generation } = known.session;
        let header = Header {
            request: number,
            head: REQUEST_HEADER_BYTES as u16,
            message: payload.len() as u32,
            ..Header::new(Kind::Request, index, generation)
        };
        packet(known, header, &payload[..REQUEST_HEADER_BYTES + BYTES], buffer)
    }),
];

/// Where a request's head has the number of its arguments.
const ARGS_AT: usize = 3;

/// Makes a hello one of somebody who was never heard of.
fn strange(hello: &mut Hello, number: u64) {
    (hello.incarnation, hello.session, hello.nonce, hello.cookie) = (number, 3, number, 0);
}

fn hello(known: &Known, buffer: &mut [u8; BUFFER_BYTES], change: impl FnOnce(&mut Hello)) -> usize {
    let mut hello = Hello::parse(&known.hello).expect("it was sent");
    change(&mut hello);
    packet(known, Header::new(Kind::Hello, 0, 0), &hello.to_bytes(), buffer)
}

/// A packet of a session that the server does not know.
fn outside(known: &Known, kind: Kind, payload: &[u8], buffer: &mut [u8; BUFFER_BYTES]) -> usize {
    let SessionId { index, generation } = known.session;
    packet(known, Header::new(kind, index, generation ^ 1), payload, buffer)
}

fn packet(
    known: &Known,
    mut header: Header,
    payload: &[u8],
    buffer: &mut [u8; BUFFER_BYTES],
) -> usize {
    header.flags |= Flags::PAYLOAD_CHECK;
    header.payload = payload.len() as u16;
    let bytes = &mut buffer[..HEADER_BYTES + payload.len()];
    bytes[HEADER_BYTES..].copy_from_slice(payload);
    header.emit(bytes, known.crc);
    bytes.len()
}
