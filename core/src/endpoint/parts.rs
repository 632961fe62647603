//! What both ends of a message of several packets share.

use core::net::SocketAddrV4;

use super::config::Config;
use super::congestion::{Control, Controller, Traffic};
use super::table::Window;
use super::transmit::{Seal, send};
use super::window::Report;
use crate::device::Tx;
use crate::wire::control::{BEYOND_BYTES, Beyond};
use crate::wire::message::{HEAD_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::wire::packet::{Flags, Header};

/// Whether a packet of a message of several is what it must be: its number within the message, its
/// payload as long as its place says, the head within the first packet.
pub(super) fn is_part(header: &Header, payload: usize, payload_bytes: u32) -> bool {
    let message = header.message;
    let head = u32::from(header.head);
    if message as usize > MESSAGE_BYTES_MAX || message <= payload_bytes {
        return false;
    }
    if head as usize > HEAD_BYTES_MAX || head > payload_bytes {
        return false;
    }
    let start = u32::from(header.packet) * payload_bytes;
    start < message && payload as u32 == payload_bytes.min(message - start)
}

/// How far the sender of one message may go, to an endpoint that `traffic` comes to.
#[inline]
pub(super) fn arriving_window(config: &Config, traffic: Traffic, control: &Control) -> Window {
    let share = traffic.share(config.arriving_packets).min(control.window());
    Window { packets: config.window_packets.into(), share }
}

/// What an acknowledgement says.
pub(super) fn report(header: &Header, beyond: Beyond) -> Report {
    Report {
        contiguous: header.packet.into(),
        granted: header.grant,
        beyond,
        probe: header.flags.contains(Flags::PROBE) && !header.flags.contains(Flags::WORKING),
        duplicate: header.flags.contains(Flags::DUPLICATE),
    }
}

/// Sends an acknowledgement that says which packets have arrived beyond the first gap.
pub(super) fn send_ack<T: Tx>(
    tx: &mut T,
    seal: Seal<'_>,
    peer: SocketAddrV4,
    header: Header,
    beyond: Beyond,
) {
    let bytes = if beyond.is_empty() { 0 } else { BEYOND_BYTES };
    send(tx, seal, peer, header, bytes, |payload| {
        payload.copy_from_slice(&beyond.to_bytes()[..bytes]);
    });
}
