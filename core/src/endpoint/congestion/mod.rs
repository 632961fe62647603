//! How much a receiver lets its senders have under way.
//!
//! Receivers grant; senders only follow. So one receiver sees all that comes to it, and shares
//! its link among the messages (`share`); what happens elsewhere in the network it sees in how
//! long a grant takes to bring packets, and leaves to a [`Controller`] a session. Messages of a
//! few packets are sent unasked and touch none of this.

mod arriving;
mod swift;

pub(super) use arriving::Arriving;
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

impl core::str::FromStr for Congestion {
    type Err = UnknownCongestion;

    fn from_str(name: &str) -> Result<Self, UnknownCongestion> {
        match name {
            "swift" => Ok(Self::Swift),
            "none" => Ok(Self::None),
            _ => Err(UnknownCongestion),
        }
    }
}

impl core::fmt::Display for Congestion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Swift => "swift",
            Self::None => "none",
        })
    }
}

/// Not the name of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCongestion;

impl core::fmt::Display for UnknownCongestion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no such controller: swift and none can be had")
    }
}

impl core::error::Error for UnknownCongestion {}

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
    /// Sessions of which messages of several packets have begun to come in.
    pub(super) sessions: u32,
    /// Calls under way whose answers, which have not begun, may have several packets.
    pub(super) expected: u32,
}

impl Traffic {
    /// The message of `slot` begins to come in; it may be an answer that was expected.
    pub(super) fn begins(&mut self, arriving: &mut Arriving, slot: u32, expected: bool) {
        self.sessions += u32::from(arriving.begin(slot));
        self.expected -= u32::from(expected);
    }

    /// The message of `slot` comes in no more.
    pub(super) fn ends(&mut self, arriving: &mut Arriving, slot: u32) {
        self.sessions -= u32::from(arriving.end(slot));
    }

    /// How many packets of one session may be under way, where `packets` of all may be. Answers
    /// that are expected bring a packet each unasked, but may be far off: they take up half of it
    /// at most.
    pub(super) fn share(&self, packets: u32) -> u32 {
        share(packets - self.expected.min(packets / 2), self.sessions)
    }
}

/// The share of one of so many in `packets` packets under way.
pub(super) fn share(packets: u32, sharers: u32) -> u32 {
    // Alone, and for most calls, without a division.
    if sharers <= 1 { packets } else { (packets / sharers).max(1) }
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
    fn names_are_read_as_they_are_written() {
        for kind in [Congestion::Swift, Congestion::None] {
            assert_eq!(std::format!("{kind}").parse(), Ok(kind));
        }
        assert_eq!("cubic".parse::<Congestion>(), Err(UnknownCongestion));
    }

    #[test]
    fn none_never_limits() {
        let mut control = Control::new(Congestion::None);
        control.on_delay(Instant::ZERO, Duration::from_secs(1));
        assert_eq!(control.window(), u32::MAX);
    }
}
