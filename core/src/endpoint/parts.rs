//! What both ends of a message of several packets share.

use core::net::SocketAddrV4;

use super::config::Config;
use super::congestion::{Arriving, Control, Controller, Traffic};
use super::host::Sink;
use super::table::{Window, packets};
use super::tag::OfMessage;
use super::transmit::{Seal, send};
use super::window::{Receiving, Report};
use crate::device::Tx;
use crate::time::{Duration, Instant};
use crate::wire::bytes::{u32_at, u64_at};
use crate::wire::control::{BEYOND_BYTES, Beyond};
use crate::wire::message::{HEAD_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::wire::packet::{Flags, HEADER_BYTES, Header};

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

/// How far the sender of the message of `slot` may go, to an endpoint that `traffic` comes to, of
/// whose session `arriving` comes in.
#[inline(always)]
pub(super) fn arriving_window(
    config: &Config,
    traffic: Traffic,
    control: &Control,
    (arriving, slot): (&Arriving, u32),
) -> Window {
    let share = arriving.share(slot, traffic.share(config.arriving_packets)).min(control.window());
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

/// Packets of a message in order after which its window is looked at again at the latest.
const LOOK_AFTER_PACKETS: u32 = 32;

/// The place of a packet that is next in its message.
pub(super) struct Next {
    pub(super) sink: Sink,
    /// In the body.
    pub(super) offset: u32,
    /// It is the last.
    pub(super) last: bool,
}

/// A message on its way in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub(super) receiving: Receiving,
    pub(super) packets: u32,
    pub(super) message: u32,
    pub(super) head: u16,
    /// Packets that the sender may send in all, as far as we have told it.
    pub(super) granted: u32,
    /// The first packet that a grant allowed which was given at `marked_at`; zero without one.
    mark: u32,
    marked_at: Instant,
    /// Packets without a gap from which on it is looked at whether to grant more, where they come
    /// in order.
    look_at: u32,
    pub(super) sink: Option<Sink>,
    /// What the tags of its packets have in common, once one of them was next.
    pub(super) tags: OfMessage,
}

impl Incoming {
    pub(super) const EMPTY: Self = Self {
        receiving: Receiving::EMPTY,
        packets: 0,
        message: 0,
        head: 0,
        granted: 0,
        mark: 0,
        marked_at: Instant::ZERO,
        look_at: 0,
        sink: None,
        tags: OfMessage::UNKNOWN,
    };

    /// A message of which nothing is here yet, and `granted` packets may be sent.
    pub(super) fn new(
        message: u32,
        head: u16,
        payload_bytes: u32,
        granted: u32,
        sink: Option<Sink>,
    ) -> Self {
        let packets = packets(message, payload_bytes);
        Self { packets, message, head, granted, sink, ..Self::EMPTY }
    }

    /// A message that came in one packet.
    pub(super) fn whole(message: u32, head: u16, sink: Option<Sink>) -> Self {
        let receiving = Receiving::WHOLE;
        Self { receiving, packets: 1, message, head, granted: 1, sink, ..Self::EMPTY }
    }

    /// Packets that the sender may send in all: no further than a window beyond the first gap,
    /// and no more under way than the message's share.
    #[inline]
    fn limit(&self, window: Window) -> u32 {
        (self.receiving.contiguous + window.packets).min(self.receiving.received + window.share)
    }

    /// Whether a quarter of what may be under way is used up: one grant may be lost and the next
    /// still comes before the sender stops.
    #[inline]
    pub(super) fn wants_grant(&self, window: Window) -> bool {
        let quarter = window.packets.min(window.share) / 4;
        self.granted < self.packets && self.granted + quarter < self.limit(window)
    }

    /// Grants what the limits allow.
    #[inline]
    pub(super) fn grant(&mut self, now: Instant, window: Window) -> u32 {
        let granted = self.limit(window);
        if granted > self.granted {
            if self.mark == 0 {
                (self.mark, self.marked_at) = (self.granted, now);
            }
            self.granted = granted;
        }
        self.look_later(window);
        self.granted
    }

    /// What comes next, if a packet with this header and payload is that: all before it are here,
    /// and it is not the first. `slot` is its field for the slot.
    #[inline(always)]
    pub(super) fn next(
        &self,
        slot: u16,
        payload_bytes: u32,
        header: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> Option<Next> {
        let number = self.receiving.contiguous;
        if number == 0 || number >= self.packets {
            return None;
        }
        let start = number * payload_bytes;
        let bytes = payload_bytes.min(self.message - start);
        let lengths = u64::from(slot) | u64::from(bytes) << 16 | u64::from(self.message) << 32;
        let usual = u64_at(header, 32) == lengths
            && u32_at(header, 40) == number | u32::from(self.head) << 16
            && payload.len() as u64 == u64::from(bytes)
            && self.receiving.received == number;
        let sink = self.sink.filter(|_| usual)?;
        let last = number + 1 == self.packets;
        Some(Next { sink, offset: start - u32::from(self.head), last })
    }

    /// What comes next is here. Returns how long its grant took, if that is to be known.
    #[inline(always)]
    pub(super) fn take_next(&mut self, now: Instant) -> Option<Duration> {
        let number = self.receiving.contiguous;
        self.receiving.contiguous += 1;
        self.receiving.received += 1;
        self.grant_delay(number, now)
    }

    /// Whether it has to be looked at whether more is to be granted.
    #[inline(always)]
    pub(super) fn is_time_to_grant(&self) -> bool {
        self.receiving.contiguous >= self.look_at
    }

    /// Finds out when, with this window, more will have to be granted if all comes in order. The
    /// window may change until then, but not by so much that the sender stops.
    pub(super) fn look_later(&mut self, window: Window) {
        let under_way = window.packets.min(window.share);
        let wanted = (self.granted + under_way / 4 + 1).saturating_sub(under_way);
        let now = self.receiving.contiguous;
        let latest = if under_way == 0 { now + 1 } else { now + LOOK_AFTER_PACKETS };
        self.look_at = wanted.clamp(now + 1, latest);
    }

    /// How long a grant took to bring the first packet that it allowed, if `number` is that one.
    #[inline]
    pub(super) fn grant_delay(&mut self, number: u32, now: Instant) -> Option<Duration> {
        if self.mark == 0 || number < self.mark {
            return None;
        }
        self.mark = 0;
        Some(now.since(self.marked_at))
    }
}
