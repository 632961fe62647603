//! What an endpoint has seen and done, counted.

use crate::wire::WireError;

/// Counts since the endpoint was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams taken in, good or bad.
    pub datagrams_received: u64,
    /// Packets of messages sent, repetitions included.
    pub packets_sent: u64,
    /// Packets sent again.
    pub packets_resent: u64,
    /// Calls begun here.
    pub calls_started: u64,
    /// Calls ended here, one way or another.
    pub calls_completed: u64,
    /// Requests that were given to a service here.
    pub requests_executed: u64,
    /// Requests refused here for want of room, or because an earlier one was to come first.
    pub requests_refused: u64,
    /// Packets that had been seen before.
    pub duplicates: u64,
    /// Packets of calls that are over.
    pub stale: u64,
    /// Packets of sessions that are not known here, or not from their peer.
    pub unknown_session: u64,
    /// Packets dropped because a field was wrong though the checksum was right.
    pub malformed: u64,
    /// Datagrams dropped: too short, or a length field that disagrees.
    pub bad_length: u64,
    /// Datagrams dropped: another version of the protocol.
    pub bad_version: u64,
    /// Datagrams dropped: a wrong checksum.
    pub bad_checksum: u64,
    /// Packets dropped because their tag, or a handshake's proof, was wrong or missing.
    pub bad_tag: u64,
    /// Hellos without a fresh cookie, answered with one.
    pub challenges: u64,
    /// Hellos dropped unread, because too many came at a time; their clients send them again.
    pub hellos_put_off: u64,
    /// Packets that the device had no room for.
    pub device_full: u64,
    /// Sessions that ended because their peer fell silent.
    pub leases_expired: u64,
}

impl Counters {
    /// Every counter with its name, in a fixed order.
    pub fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
        each("datagrams_received", self.datagrams_received);
        each("packets_sent", self.packets_sent);
        each("packets_resent", self.packets_resent);
        each("calls_started", self.calls_started);
        each("calls_completed", self.calls_completed);
        each("requests_executed", self.requests_executed);
        each("requests_refused", self.requests_refused);
        each("duplicates", self.duplicates);
        each("stale", self.stale);
        each("unknown_session", self.unknown_session);
        each("malformed", self.malformed);
        each("bad_length", self.bad_length);
        each("bad_version", self.bad_version);
        each("bad_checksum", self.bad_checksum);
        each("bad_tag", self.bad_tag);
        each("challenges", self.challenges);
        each("hellos_put_off", self.hellos_put_off);
        each("device_full", self.device_full);
        each("leases_expired", self.leases_expired);
    }

    #[cold]
    pub(super) fn wire_error(&mut self, error: WireError) {
        match error {
            WireError::Truncated { .. } | WireError::Length { .. } => self.bad_length += 1,
            WireError::Version(_) => self.bad_version += 1,
            WireError::Checksum => self.bad_checksum += 1,
            WireError::Value { .. } => self.malformed += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_told() {
        let mut count = 0;
        Counters::default().for_each(|_, _| count += 1);
        assert_eq!(count * size_of::<u64>(), size_of::<Counters>());
    }
}
