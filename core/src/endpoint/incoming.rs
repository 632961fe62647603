//! A message on its way in: what has arrived of it, and how much more may come.

use super::host::Sink;
use super::table::packets;
use super::window::Receiving;
use crate::time::{Duration, Instant};

/// How far the sender of one message may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Packets beyond the first gap.
    pub(super) packets: u32,
    /// Packets under way.
    pub(super) share: u32,
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
    pub(super) sink: Option<Sink>,
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
        sink: None,
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
        self.granted
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
