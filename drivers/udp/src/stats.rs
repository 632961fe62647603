//! What a UDP device counts.

/// Counters of a UDP device since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpStats {
    /// Datagrams handed to the endpoint.
    pub received_datagrams: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams dropped because they were longer than the configured largest one.
    pub received_truncated: u64,
    /// Datagrams that the kernel dropped because the socket's receive buffer was full.
    pub received_overflow: u64,
    /// Errors that the kernel reported to the receiving half, and that were ignored.
    pub receive_errors: u64,
    /// System calls of the receiving half.
    pub receive_calls: u64,
    /// Those among them that found nothing.
    pub receive_calls_empty: u64,
    /// Datagrams that the kernel took.
    pub sent_datagrams: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams dropped because the kernel refused them.
    pub send_dropped: u64,
    /// Flushes that left something queued because the kernel had no room.
    pub send_blocked: u64,
    /// System calls of the sending half.
    pub send_calls: u64,
}

impl UdpStats {
    /// System calls of both halves.
    pub fn calls(&self) -> u64 {
        self.receive_calls + self.send_calls
    }
}
