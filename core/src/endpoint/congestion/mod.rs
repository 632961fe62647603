//! How much a receiver lets its senders have under way.
//!
//! Receivers grant; senders only follow. So one receiver sees all that comes to it, and shares
//! its link among the messages ([`share`]); what happens elsewhere in the network it sees in how
//! long a grant takes to bring packets, and leaves to a [`Controller`] a session. Messages of a
//! few packets are sent unasked and touch none of this.

mod swift;

pub(super) use swift::Swift;

use crate::time::{Duration, Instant};

/// Which controller sessions have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// By delay, after Swift.
    #[default]
    Swift,
    /// None: every message may have a whole window under way.
    None,
}

/// Decides how many packets of a session's messages may be under way.
pub trait Controller {
    /// A grant given `delay` ago has brought the first packet that it allowed.
    fn on_delay(&mut self, now: Instant, delay: Duration);

    /// Packets of a message that may be under way: at least one.
    fn window(&self) -> u32;
}

/// The controller of one session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
    Swift(Swift),
    None,
}

impl Control {
    pub(super) fn new(kind: Congestion) -> Self {
        match kind {
            Congestion::Swift => Self::Swift(Swift::NEW),
            Congestion::None => Self::None,
        }
    }
}

impl Controller for Control {
    fn on_delay(&mut self, now: Instant, delay: Duration) {
        if let Self::Swift(swift) = self {
            swift.on_delay(now, delay);
        }
    }

    fn window(&self) -> u32 {
        match self {
            Self::Swift(swift) => swift.window(),
            Self::None => u32::MAX,
        }
    }
}

/// What is coming to an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Messages of several packets that have begun to come in.
    pub(super) arriving: u32,
    /// Calls under way whose answers, which have not begun, may have several packets.
    pub(super) expected: u32,
}

impl Traffic {
    /// A message begins to come in; it may be an answer that was expected.
    pub(super) fn begins(&mut self, expected: bool) {
        self.arriving += 1;
        self.expected -= u32::from(expected);
    }

    /// How many packets of one message may be under way, where `packets` of all may be. Answers
    /// that are expected bring a packet each unasked, but may be far off: they take up half of it
    /// at most.
    pub(super) fn share(&self, packets: u32) -> u32 {
        share(packets - self.expected.min(packets / 2), self.arriving)
    }
}

/// The share of one of `messages` messages in `packets` packets under way.
pub(super) fn share(packets: u32, messages: u32) -> u32 {
    // Alone, and for most calls, without a division.
    if messages <= 1 { packets } else { (packets / messages).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_the_whole_and_are_never_nothing() {
        assert_eq!(share(128, 0), 128);
        assert_eq!(share(128, 1), 128);
        assert_eq!(share(128, 3), 42);
        assert_eq!(share(128, 1_000), 1);
    }

    #[test]
    fn none_never_limits() {
        let mut control = Control::new(Congestion::None);
        control.on_delay(Instant::ZERO, Duration::from_secs(1));
        assert_eq!(control.window(), u32::MAX);
    }
}
