//! Payloads of the packets that carry no message: handshake and acknowledgement.

use bitflags::bitflags;

use super::WireError;
use super::bytes::{array_at, put, u16_at, u32_at, u64_at};

bitflags! {
    /// What a client asks of a session, and what the server agrees to.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u32 {
        /// The checksum covers payloads too.
        const PAYLOAD_CHECK = 1;
        /// Packets have an authentication tag. Follows from the key, not from what is asked for.
        const AUTHENTICATED = 1 << 1;
        /// Packets are encrypted. Both ends want it, or neither: there is nothing in between.
        const ENCRYPTED = 1 << 2;
        /// Messages of one packet have the short header ([`direct`](super::direct)), and nobody
        /// waits for their loss. Both ends can, or neither does; nothing else is on then.
        const DIRECT = 1 << 3;
    }
}

impl Features {
    /// Whether packets are encrypted.
    pub fn encrypts(self) -> bool {
        self.contains(Self::ENCRYPTED)
    }

    /// What a session has whose ends ask for `self` and `other`: what either wants, and what both
    /// can.
    #[must_use]
    pub fn agreed(self, other: Self) -> Self {
        let wanted = (self | other) - Self::DIRECT;
        if wanted.is_empty() { wanted | self & other & Self::DIRECT } else { wanted }
    }
}

/// Asks for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which life of the client: later lives have larger numbers.
    pub incarnation: u64,
    /// The client's index of the session.
    pub session: u32,
    /// The client's generation of that index.
    pub generation: u32,
    /// Largest payload of a packet that the client takes, in bytes.
    pub payload_bytes_max: u32,
    /// Slots wanted: 1 to 64.
    pub slots: u16,
    /// Packets of a message that the client takes ahead of its acknowledgement.
    pub window: u16,
    /// Features wanted.
    pub features: Features,
    /// A number that the client has not used for another session. Its upper half is the same for
    /// all sessions of one life, and drawn at random: see [`Hello::is_same_life`].
    pub nonce: u64,
    /// What the server has answered a hello like this one with ([`Challenge`]); zero before.
    pub cookie: u64,
    /// Shows that the client has the key: covers the fields before. Zeros without a key.
    pub proof: [u8; PROOF_BYTES],
}

/// Length of a proof, in bytes.
pub const PROOF_BYTES: usize = 16;
/// Length of a [`Hello`], in bytes.
pub const HELLO_BYTES: usize = 64;
/// The part of a [`Hello`] or [`HelloAck`] that its proof covers, in bytes.
pub const PROVED_BYTES: usize = 48;

impl Hello {
    /// Parses a hello.
    ///
    /// # Errors
    /// A wrong length, or a field out of its range.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let bytes: &[u8; HELLO_BYTES] = exactly(payload)?;
        let hello = Self {
            incarnation: u64_at(bytes, 0),
            session: u32_at(bytes, 8),
            generation: u32_at(bytes, 12),
            payload_bytes_max: u32_at(bytes, 16),
            slots: u16_at(bytes, 20),
            window: u16_at(bytes, 22),
            features: Features::from_bits_truncate(u32_at(bytes, 24)),
            nonce: u64_at(bytes, 32),
            cookie: u64_at(bytes, 40),
            proof: array_at(bytes, PROVED_BYTES),
        };
        check_limits(hello.slots, hello.window, hello.payload_bytes_max)?;
        Ok(hello)
    }

    /// Whether a hello with this nonce, of the same incarnation, is of the same life: lives are
    /// told apart also where a configuration, or a clock's reading, was used twice.
    pub fn is_same_life(&self, nonce: u64) -> bool {
        (self.nonce ^ nonce) >> 32 == 0
    }

    /// The hello as bytes.
    pub fn to_bytes(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        put(&mut bytes, 0, self.incarnation.to_le_bytes());
        put(&mut bytes, 8, self.session.to_le_bytes());
        put(&mut bytes, 12, self.generation.to_le_bytes());
        put(&mut bytes, 16, self.payload_bytes_max.to_le_bytes());
        put(&mut bytes, 20, self.slots.to_le_bytes());
        put(&mut bytes, 22, self.window.to_le_bytes());
        put(&mut bytes, 24, self.features.bits().to_le_bytes());
        put(&mut bytes, 32, self.nonce.to_le_bytes());
        put(&mut bytes, 40, self.cookie.to_le_bytes());
        put(&mut bytes, PROVED_BYTES, self.proof);
        bytes
    }
}

/// Grants a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// Which life of the server.
    pub incarnation: u64,
    /// The client's incarnation, as it was in the hello that this answers.
    pub client_incarnation: u64,
    /// The server's index of the session.
    pub session: u32,
    /// The server's generation of that index.
    pub generation: u32,
    /// Largest payload of a packet in this session, either way, in bytes.
    pub payload_bytes_max: u32,
    /// Slots granted: at most those wanted.
    pub slots: u16,
    /// Packets of a message that the server takes ahead of its acknowledgement.
    pub window: u16,
    /// Features agreed on.
    pub features: Features,
    /// How long the server keeps a silent session, in milliseconds.
    pub lease_ms: u32,
    /// A number that the server has not used for another session.
    pub nonce: u64,
    /// Shows that the server has the key: covers the fields before, and the hello's nonce. Without
    /// a key it is [`HelloAck::echo`] of that.
    pub proof: [u8; PROOF_BYTES],
}

/// Length of a [`HelloAck`], in bytes.
pub const HELLO_ACK_BYTES: usize = 64;

impl HelloAck {
    /// Shows, without a key, which hello is answered: the one with this nonce.
    pub fn echo(nonce: u64) -> [u8; PROOF_BYTES] {
        u128::from(nonce).to_le_bytes()
    }

    /// Parses a hello's answer.
    ///
    /// # Errors
    /// A wrong length, or a field out of its range.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let bytes: &[u8; HELLO_ACK_BYTES] = exactly(payload)?;
        let ack = Self {
            incarnation: u64_at(bytes, 0),
            client_incarnation: u64_at(bytes, 8),
            session: u32_at(bytes, 16),
            generation: u32_at(bytes, 20),
            payload_bytes_max: u32_at(bytes, 24),
            slots: u16_at(bytes, 28),
            window: u16_at(bytes, 30),
            features: Features::from_bits_truncate(u32_at(bytes, 32)),
            lease_ms: u32_at(bytes, 36),
            nonce: u64_at(bytes, 40),
            proof: array_at(bytes, PROVED_BYTES),
        };
        check_limits(ack.slots, ack.window, ack.payload_bytes_max)?;
        Ok(ack)
    }

    /// The answer as bytes.
    pub fn to_bytes(&self) -> [u8; HELLO_ACK_BYTES] {
        let mut bytes = [0; HELLO_ACK_BYTES];
        put(&mut bytes, 0, self.incarnation.to_le_bytes());
        put(&mut bytes, 8, self.client_incarnation.to_le_bytes());
        put(&mut bytes, 16, self.session.to_le_bytes());
        put(&mut bytes, 20, self.generation.to_le_bytes());
        put(&mut bytes, 24, self.payload_bytes_max.to_le_bytes());
        put(&mut bytes, 28, self.slots.to_le_bytes());
        put(&mut bytes, 30, self.window.to_le_bytes());
        put(&mut bytes, 32, self.features.bits().to_le_bytes());
        put(&mut bytes, 36, self.lease_ms.to_le_bytes());
        put(&mut bytes, 40, self.nonce.to_le_bytes());
        put(&mut bytes, PROVED_BYTES, self.proof);
        bytes
    }
}

/// Asks whoever sent a hello to send it again with this cookie, which shows that it receives at
/// the address that it sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The hello's nonce.
    pub nonce: u64,
    /// What the next hello must have.
    pub cookie: u64,
}

/// Length of a [`Challenge`], in bytes.
pub const CHALLENGE_BYTES: usize = 16;

impl Challenge {
    /// Parses a challenge.
    ///
    /// # Errors
    /// A wrong length.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let bytes: &[u8; CHALLENGE_BYTES] = exactly(payload)?;
        Ok(Self { nonce: u64_at(bytes, 0), cookie: u64_at(bytes, 8) })
    }

    /// The challenge as bytes.
    pub fn to_bytes(&self) -> [u8; CHALLENGE_BYTES] {
        let mut bytes = [0; CHALLENGE_BYTES];
        put(&mut bytes, 0, self.nonce.to_le_bytes());
        put(&mut bytes, 8, self.cookie.to_le_bytes());
        bytes
    }
}

/// Why a server does not grant a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All of its sessions are in use.
    NoSessions,
    /// It has already met a later life of this client.
    StaleIncarnation,
    /// It has a key, and the client has not shown that it has the same; or the other way round.
    NotAuthenticated,
    /// One of the two encrypts and the other does not.
    Encryption,
    /// The client's address has all the sessions that an address may have.
    AddressFull {
        /// How many these are.
        bound: u32,
    },
}

/// Length of a refusal's reason and of the bound that it names, in bytes.
pub const REFUSAL_PROVED_BYTES: usize = 5;
/// Length of a refusal, in bytes: the reason and its bound, and a proof as in [`HelloAck`].
pub const REFUSAL_BYTES: usize = REFUSAL_PROVED_BYTES + PROOF_BYTES;

impl Refusal {
    /// Parses a refusal: the reason, and the proof that comes with it.
    ///
    /// # Errors
    /// A wrong length, or an unknown reason.
    pub fn parse(payload: &[u8]) -> Result<(Self, [u8; PROOF_BYTES]), WireError> {
        let bytes: &[u8; REFUSAL_BYTES] = exactly(payload)?;
        let refusal = match bytes[0] {
            1 => Self::NoSessions,
            2 => Self::StaleIncarnation,
            3 => Self::NotAuthenticated,
            4 => Self::Encryption,
            5 => Self::AddressFull { bound: u32_at(bytes, 1) },
            other => return Err(WireError::Value { field: "refusal", value: other.into() }),
        };
        Ok((refusal, array_at(bytes, REFUSAL_PROVED_BYTES)))
    }

    /// The refusal as bytes, without a proof.
    pub fn to_bytes(self) -> [u8; REFUSAL_BYTES] {
        let (reason, bound) = match self {
            Self::NoSessions => (1, 0),
            Self::StaleIncarnation => (2, 0),
            Self::NotAuthenticated => (3, 0),
            Self::Encryption => (4, 0),
            Self::AddressFull { bound } => (5, bound),
        };
        let mut bytes = [0; REFUSAL_BYTES];
        bytes[0] = reason;
        put(&mut bytes, 1, bound.to_le_bytes());
        bytes
    }
}

/// Packets beyond the first gap that an acknowledgement can speak of, and so the largest window.
pub const WINDOW_PACKETS_MAX: u16 = 256;
/// Most slots of a session.
pub const SLOTS_MAX: u16 = 64;
/// Smallest payload of a packet that holds every head.
pub const PAYLOAD_BYTES_MIN: u32 = 1024;

/// Which packets of a message have arrived beyond the first gap: bit `i` stands for packet
/// `first missing + i`, so bit 0 is never set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond(pub [u64; 4]);

/// Length of a [`Beyond`], in bytes.
pub const BEYOND_BYTES: usize = 32;

impl Beyond {
    /// Parses an acknowledgement's payload: empty when there is nothing beyond the gap.
    ///
    /// # Errors
    /// A wrong length.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        if payload.is_empty() {
            return Ok(Self::default());
        }
        let bytes: &[u8; BEYOND_BYTES] = exactly(payload)?;
        Ok(Self(core::array::from_fn(|i| u64_at(bytes, i * 8))))
    }

    /// The map as bytes.
    pub fn to_bytes(&self) -> [u8; BEYOND_BYTES] {
        let mut bytes = [0; BEYOND_BYTES];
        for (i, word) in self.0.iter().enumerate() {
            put(&mut bytes, i * 8, word.to_le_bytes());
        }
        bytes
    }

    /// Whether nothing has arrived beyond the gap.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }
}

fn exactly<const N: usize>(payload: &[u8]) -> Result<&[u8; N], WireError> {
    payload.try_into().map_err(|_| WireError::Length { claimed: N, got: payload.len() })
}

fn check_limits(slots: u16, window: u16, payload_bytes_max: u32) -> Result<(), WireError> {
    if slots == 0 || slots > SLOTS_MAX {
        return Err(WireError::Value { field: "slots", value: slots.into() });
    }
    if window == 0 || window > WINDOW_PACKETS_MAX {
        return Err(WireError::Value { field: "window", value: window.into() });
    }
    if !(PAYLOAD_BYTES_MIN..=u32::from(u16::MAX)).contains(&payload_bytes_max) {
        return Err(WireError::Value { field: "payload size", value: payload_bytes_max.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hello_round_trips(
            ids in any::<(u64, u32, u32)>(), payload_bytes_max in PAYLOAD_BYTES_MIN..65_536,
            slots in 1..=SLOTS_MAX, window in 1..=WINDOW_PACKETS_MAX, check in any::<bool>(),
            shown in any::<(u64, u64, [u8; PROOF_BYTES])>(),
        ) {
            let (nonce, cookie, proof) = shown;
            let features = if check { Features::PAYLOAD_CHECK } else { Features::empty() };
            let (incarnation, session, generation) = ids;
            let hello = Hello {
                incarnation, session, generation, payload_bytes_max, slots, window, features,
                nonce, cookie, proof,
            };
            prop_assert_eq!(Hello::parse(&hello.to_bytes()), Ok(hello));
            let ack = HelloAck {
                incarnation, client_incarnation: !incarnation, session, generation,
                payload_bytes_max, slots, window, features, lease_ms: 10_000, nonce,
                proof,
            };
            prop_assert_eq!(HelloAck::parse(&ack.to_bytes()), Ok(ack));
            let refusals = [
                Refusal::NoSessions, Refusal::StaleIncarnation, Refusal::NotAuthenticated,
                Refusal::Encryption, Refusal::AddressFull { bound: session },
            ];
            for refusal in refusals {
                let mut bytes = refusal.to_bytes();
                bytes[REFUSAL_PROVED_BYTES..].copy_from_slice(&proof);
                prop_assert_eq!(Refusal::parse(&bytes), Ok((refusal, proof)));
            }
            let challenge = Challenge { nonce, cookie };
            prop_assert_eq!(Challenge::parse(&challenge.to_bytes()), Ok(challenge));
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Hello::parse(&noise);
            let _ = HelloAck::parse(&noise);
            let _ = Challenge::parse(&noise);
            let _ = Refusal::parse(&noise);
            let _ = Beyond::parse(&noise);
        }
    }
}
