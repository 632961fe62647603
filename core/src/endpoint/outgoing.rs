//! A message on its way out, laid out so that a short one lies beside what is known of it.

use super::host::Source;
use super::table::{UNASKED_PACKETS, packets};
use super::window::{Reordering, Repairs, Report, Sending};
use crate::wire::message::HEAD_BYTES_MAX;

/// What there is to know of a message that is one packet whose bytes are all at hand: most never
/// need more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// It is none, or was sent again in part: what [`Sending`] says holds.
    No,
    /// Not sent yet.
    Unsent,
    /// Sent, or not to be sent any more.
    Sent,
}

/// A message on its way out. The eight bytes at its front and the message's own are all that a
/// short one touches; what only long ones and losses need lies behind the buffer.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Outgoing {
    pub(super) head: u16,
    /// Bytes of the message that are in `inline`; the rest come from the source.
    pub(super) inline_bytes: u16,
    /// In the session's queue.
    pub(super) queued: bool,
    pub(super) short: Short,
    has_source: bool,
    /// Puts the buffer at a multiple of eight bytes.
    gap: u8,
    pub(super) inline: [u8; HEAD_BYTES_MAX],
    /// Means something if `has_source`.
    source: Source,
    /// Length of the message in bytes, if it is not short.
    message: u32,
    /// Of a message that is not short.
    sending: Sending,
    repairs: Repairs,
}

impl Outgoing {
    pub(super) const EMPTY: Self = Self {
        head: 0,
        inline_bytes: 0,
        queued: false,
        short: Short::Sent,
        has_source: false,
        gap: 0,
        inline: [0; HEAD_BYTES_MAX],
        source: Source(0),
        message: 0,
        sending: Sending::EMPTY,
        repairs: Repairs::EMPTY,
    };

    /// Where the bytes come from that are not in `inline`.
    #[inline(always)]
    pub(super) fn source(&self) -> Option<Source> {
        if self.has_source { Some(self.source) } else { None }
    }

    /// The source is the caller's to release.
    #[inline(always)]
    pub(super) fn take_source(&mut self) -> Option<Source> {
        core::mem::replace(&mut self.has_source, false).then_some(self.source)
    }

    /// Length of the message in bytes.
    #[inline]
    pub(super) fn message(&self) -> u32 {
        if self.short == Short::No { self.message } else { self.inline_bytes.into() }
    }

    /// How far the message has been sent, kept as for a long one from now on.
    pub(super) fn sending(&mut self) -> &mut Sending {
        if self.short != Short::No {
            self.message = self.inline_bytes.into();
            self.sending.start(1, 1);
            self.sending.next = u32::from(self.short == Short::Sent);
            self.short = Short::No;
        }
        &mut self.sending
    }

    /// Packets of the message.
    pub(super) fn packets(&self) -> u32 {
        if self.short == Short::No { self.sending.packets } else { 1 }
    }

    /// Nothing to send any more.
    #[inline]
    pub(super) fn stop(&mut self) {
        if self.short == Short::No {
            self.sending.stop();
        } else {
            self.short = Short::Sent;
        }
    }

    /// The packet to send now, if any.
    #[inline]
    pub(super) fn due(&self) -> Option<u32> {
        match self.short {
            Short::No => self.sending.due(&self.repairs),
            Short::Unsent => Some(0),
            Short::Sent => None,
        }
    }

    /// How many packets from `number` on, which is due, are to be sent one after the other.
    #[inline]
    pub(super) fn in_a_row(&self, number: u32) -> u32 {
        if number == self.sending.next { self.sending.granted - number } else { 1 }
    }

    /// Packet `number`, which was due, is on its way. Returns whether it was before.
    #[inline]
    pub(super) fn sent(&mut self, number: u32) -> bool {
        if self.short == Short::No {
            return self.sending.sent(&mut self.repairs, number);
        }
        self.short = Short::Sent;
        false
    }

    /// Takes in what the receiver says. Returns whether it is progress.
    pub(super) fn acknowledge(&mut self, report: &Report, reordering: &mut Reordering) -> bool {
        let _ = self.sending();
        self.sending.acknowledge(&mut self.repairs, report, reordering)
    }

    /// Sends everything not acknowledged again, up to `limit` packets.
    pub(super) fn resend_first(&mut self, limit: u32) {
        let _ = self.sending();
        self.sending.resend_first(&mut self.repairs, limit);
    }

    /// Makes it a message whose inline bytes are in place. Only a long one looks at the session's
    /// `limits`, the payload of a packet and the packets of a window, which may be far from any
    /// cache.
    #[inline(always)]
    pub(super) fn start(
        &mut self,
        head: u16,
        inline_bytes: u16,
        source: Option<(Source, u32)>,
        limits: impl FnOnce() -> (u32, u16),
    ) {
        self.head = head;
        self.inline_bytes = inline_bytes;
        let Some((source, more)) = source else {
            // Whatever fits the buffer fits a packet.
            self.has_source = false;
            self.short = Short::Unsent;
            return;
        };
        self.start_long(u32::from(inline_bytes) + more, source, limits());
    }

    #[inline(never)]
    fn start_long(&mut self, message: u32, source: Source, (payload_bytes, window): (u32, u16)) {
        self.message = message;
        self.has_source = true;
        self.source = source;
        self.short = Short::No;
        let packets = packets(message, payload_bytes);
        self.sending.start(packets, u32::from(window.min(UNASKED_PACKETS)));
    }
}

const _: () = assert!(core::mem::offset_of!(Outgoing, inline) == 8, "beside what is known of it");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_message_is_due_once_and_again_when_it_was_lost() {
        let mut outgoing = Outgoing::EMPTY;
        assert_eq!((outgoing.due(), outgoing.source()), (None, None));
        outgoing.start(32, 64, None, || unreachable!("it is short"));
        assert_eq!((outgoing.due(), outgoing.message(), outgoing.packets()), (Some(0), 64, 1));
        assert!(!outgoing.sent(0));
        assert_eq!(outgoing.due(), None);
        outgoing.resend_first(8);
        assert_eq!((outgoing.due(), outgoing.message(), outgoing.packets()), (Some(0), 64, 1));
        assert!(outgoing.sent(0), "it was sent before");
        assert_eq!(outgoing.due(), None);
        outgoing.sending().start(1, 1);
        outgoing.stop();
        assert_eq!(outgoing.due(), None);
    }

    #[test]
    fn a_message_with_a_source_is_a_long_one() {
        let mut outgoing = Outgoing::EMPTY;
        outgoing.start(8, 8, Some((Source(7), 3_000)), || (1_400, 8));
        assert_eq!(
            (outgoing.source(), outgoing.message(), outgoing.packets()),
            (Some(Source(7)), 3_008, 3)
        );
        assert_eq!(outgoing.take_source(), Some(Source(7)));
        assert_eq!(outgoing.take_source(), None);
        for number in 0..3 {
            assert_eq!(outgoing.due(), Some(number));
            assert!(!outgoing.sent(number));
        }
        assert_eq!(outgoing.due(), None);
    }
}
