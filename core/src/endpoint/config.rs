//! How an endpoint is set up.

use super::auth::Key;
use super::cipher::CipherRoom;
use super::congestion::Congestion;
use super::table::StorageSize;
use crate::device::Device;
use crate::time::Duration;
use crate::wire::control::{Features, PAYLOAD_BYTES_MIN, SLOTS_MAX, WINDOW_PACKETS_MAX};
use crate::wire::packet::{HEADER_BYTES, SEAL_BYTES};

/// How an endpoint is set up. Start from [`Config::new`] and change what you need.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which life of this node: every start has a larger number than the one before, such as
    /// the wall clock in nanoseconds.
    pub incarnation: u64,
    /// Slots of a session: a power of two up to 64.
    pub slots_per_session: u16,
    /// Most sessions that clients of one address, whatever their ports, may have open here. Without
    /// a bound one of them could have all, and what a session may have as often as it likes.
    pub sessions_per_address: u32,
    /// Largest payload of a packet, in bytes: what a datagram of the device holds beside the
    /// header.
    pub payload_bytes_max: u32,
    /// Packets of one message that this endpoint takes ahead of its acknowledgement: at most what
    /// the device's receive queue holds.
    pub window_packets: u16,
    /// Packets of all messages that come in here which may be under way at a time: about what the
    /// link holds in a round trip, and half as much again. Small windows each, if there are many.
    pub arriving_packets: u32,
    /// How sessions react to delay in the network.
    pub congestion: Congestion,
    /// Whether a grant leaves before the rest of its burst is looked at: its sender may be waiting
    /// for it.
    pub hurries_grants: bool,
    /// From how many on sessions are many: too many for a processor's own caches. An endpoint that
    /// has had so many in use at a time fetches ahead what the next packets and calls will need,
    /// and a table for so many has all sessions' first slots side by side, then all second ones.
    /// Found by trial, see docs/costs.md.
    pub many_sessions: u32,
    /// What to ask for, and agree to.
    pub features: Features,
    /// With a key, sessions are opened only with endpoints that have the same one, and their
    /// packets are tagged.
    pub key: Option<Key>,
    /// Whether packets are encrypted; needs a key, and peers that want the same. An endpoint of
    /// it is made by [`Endpoint::encrypted`](super::Endpoint::encrypted).
    pub encrypt: bool,
    /// Random bytes, other ones in each life, that no one else knows: what cookies and nonces are
    /// made of. [`Config::new`] makes them of the incarnation, which is enough for a simulation.
    pub secret: [u8; 16],
    /// How long the first packet of a call waits for any answer before it is sent again: until
    /// answers have shown how long they take, and at most.
    pub retransmit_after: Duration,
    /// The same at least, however fast answers come: some times what either end may pause.
    pub retransmit_min: Duration,
    /// Longest wait between repetitions.
    pub retransmit_max: Duration,
    /// How long a request that was refused for want of room waits before it is tried again.
    pub busy_retry_after: Duration,
    /// How long the server of a call that is over may hold what it has of it before it is told.
    pub release_after: Duration,
    /// A session silent for this long is asked for a sign of life.
    pub keep_alive: Duration,
    /// A peer silent for this long is suspected: calls to it fail fast.
    pub suspect_after: Duration,
    /// A session silent for this long is over.
    pub lease: Duration,
    /// How long to wait for a handshake.
    pub connect_timeout: Duration,
}

impl Config {
    /// The defaults, for the `incarnation`-th life of a node on a device that carries datagrams of
    /// up to `datagram_bytes_max` bytes.
    pub fn new(incarnation: u64, datagram_bytes_max: usize) -> Self {
        let payload = datagram_bytes_max.saturating_sub(HEADER_BYTES).min(usize::from(u16::MAX));
        Self {
            incarnation,
            slots_per_session: 16,
            sessions_per_address: u32::MAX,
            payload_bytes_max: payload as u32,
            window_packets: 32,
            arriving_packets: 128,
            congestion: Congestion::Swift,
            hurries_grants: false,
            many_sessions: 1_500,
            features: Features::PAYLOAD_CHECK,
            key: None,
            encrypt: false,
            secret: u128::from(incarnation).to_le_bytes(),
            retransmit_after: Duration::from_millis(5),
            retransmit_min: Duration::from_micros(500),
            retransmit_max: Duration::from_millis(200),
            busy_retry_after: Duration::from_micros(200),
            release_after: Duration::from_micros(500),
            keep_alive: Duration::from_millis(150),
            // Leaves room for the last sign of life under way: suspected within 500 ms.
            suspect_after: Duration::from_millis(450),
            lease: Duration::from_secs(10),
            connect_timeout: Duration::from_millis(1500),
        }
    }

    /// For a device that is memory between the two ends, with room for `packets` packets: it holds
    /// senders up and loses nothing, so what takes long is an end that lost its core, not a queue.
    /// Control by delay would shrink windows to a packet then, and each window is a hand-over from
    /// core to core; repetitions would be for nothing.
    #[must_use]
    pub fn through_memory(self, packets: u16) -> Self {
        Self {
            congestion: Congestion::None,
            hurries_grants: true,
            window_packets: packets.min(WINDOW_PACKETS_MAX),
            retransmit_after: Duration::from_millis(20),
            retransmit_min: Duration::from_millis(5),
            ..self
        }
    }

    /// What suits a device: as much under way as its receive queue holds, no control by delay where
    /// there is only memory between the two ends, no check of payloads where that keeps bytes,
    /// short headers, without timers of small calls, where it loses nothing, and grants that leave
    /// early where that takes no system call.
    #[must_use]
    pub fn for_device<D: Device>(mut self, device: &D) -> Self {
        if device.is_memory() {
            self.congestion = Congestion::None;
        }
        if device.keeps_bytes() {
            self.features -= Features::PAYLOAD_CHECK;
        }
        self.features.set(Features::DIRECT, device.is_lossless());
        self.hurries_grants = device.flushes_cheaply();
        self.for_queue(device.receive_queue())
    }

    /// Lets as much be under way as suits a device that keeps `datagrams` datagrams between two
    /// polls ([`Device::receive_queue`]): half of that in all and a quarter of one message, but not
    /// less than the defaults.
    #[must_use]
    pub fn for_queue(mut self, datagrams: usize) -> Self {
        let most = usize::from(WINDOW_PACKETS_MAX);
        let window = (datagrams / 4).min(most) as u16;
        self.window_packets = self.window_packets.max(window);
        self.arriving_packets = self.arriving_packets.max((datagrams / 2).min(2 * most) as u32);
        self
    }

    /// Looks that there is room for encryption if it is wanted, and makes packets shorter by what
    /// it puts behind them.
    pub(super) fn take_room<'m>(
        &mut self,
        room: Option<CipherRoom<'m>>,
        size: &StorageSize,
    ) -> Result<Option<CipherRoom<'m>>, ConfigError> {
        if !self.encrypt {
            return Ok(None);
        }
        if self.key.is_none() {
            return Err(ConfigError::EncryptionWithoutKey);
        }
        let needed = CipherRoom::needed(size, self.payload_bytes_max);
        let got = room.as_ref().map_or((0, 0), |room| (room.sessions.count(), room.packet.len()));
        if got.0 < needed.0 || got.1 < needed.1 {
            return Err(ConfigError::CipherRoom { needed, got });
        }
        self.payload_bytes_max = self.payload_bytes_max.saturating_sub(SEAL_BYTES as u32);
        Ok(room)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let slots = self.slots_per_session;
        if !slots.is_power_of_two() || slots > SLOTS_MAX {
            return Err(ConfigError::Slots(slots));
        }
        if self.window_packets == 0 || self.window_packets > WINDOW_PACKETS_MAX {
            return Err(ConfigError::Window(self.window_packets));
        }
        if self.payload_bytes_max < PAYLOAD_BYTES_MIN {
            return Err(ConfigError::Datagram(self.payload_bytes_max as usize + HEADER_BYTES));
        }
        Ok(())
    }

    /// Where the generations of this life's sessions begin: different for each life.
    pub(super) fn first_generation(&self) -> u32 {
        // The multiplier of the 64-bit golden ratio spreads lives that differ in few bits.
        (self.incarnation.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32
    }
}

/// A configuration that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Slots of a session.
    Slots(u16),
    /// Packets of the receive window.
    Window(u16),
    /// Bytes of a datagram.
    Datagram(usize),
    /// The storage's lengths do not fit each other.
    Storage {
        /// The lengths that its sessions need.
        needed: StorageSize,
        /// The lengths that it has.
        got: StorageSize,
    },
    /// Encryption is wanted and there is no key to make it of.
    EncryptionWithoutKey,
    /// The room for encryption is missing or too small.
    CipherRoom {
        /// Sessions, and bytes of a packet, that it needs.
        needed: (usize, usize),
        /// The same as it has them.
        got: (usize, usize),
    },
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Slots(slots) => {
                write!(f, "{slots} slots a session; use a power of two from 1 to {SLOTS_MAX}")
            }
            Self::Window(window) => {
                write!(f, "a window of {window} packets; use 1 to {WINDOW_PACKETS_MAX}")
            }
            Self::Datagram(bytes) => write!(
                f,
                "datagrams of {bytes} bytes; at least {} are needed",
                PAYLOAD_BYTES_MIN as usize + HEADER_BYTES
            ),
            Self::EncryptionWithoutKey => {
                write!(f, "encryption without a key; give a pre-shared one to both ends")
            }
            Self::CipherRoom { needed, got } => write!(
                f,
                "room to encrypt {} sessions and packets of {} bytes; needed are {} and {}",
                got.0, got.1, needed.0, needed.1
            ),
            Self::Storage { needed, got } => write!(f, "storage is {got:?}; needed is {needed:?}"),
        }
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_widens_windows_and_never_narrows_them() {
        let usual = Config::new(1, 1472);
        let limits = |datagrams| {
            let config = usual.for_queue(datagrams);
            config.check().expect("a configuration that works");
            (config.window_packets, config.arriving_packets)
        };
        assert_eq!(limits(0), (usual.window_packets, usual.arriving_packets));
        assert_eq!(
            limits(crate::device::RECEIVE_QUEUE),
            limits(0),
            "nothing said, nothing changed"
        );
        assert_eq!(limits(400), (100, 200));
        assert_eq!(limits(usize::MAX), (WINDOW_PACKETS_MAX, 2 * u32::from(WINDOW_PACKETS_MAX)));
    }
}
