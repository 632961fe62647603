//! Who may have a session, and who has sent a packet: a key that both ends were given beforehand.
//!
//! - **The key** ([`Key`]) is made from any secret of at least 16 bytes (RFC 4615) and never
//!   travels. From it come a key for handshakes and one for packets.
//! - **Cookies.** A hello without a fresh cookie is answered with one and leaves nothing behind:
//!   the cookie is a keyed hash of the sender's address, what its hello says, and the time in
//!   steps of 4.3 s. Whoever cannot receive at the address that it claims gets no further, with
//!   or without a key.
//! - **Proofs** in hellos and their answers show that the other end has the key.
//! - **Tags.** The answer settles 16 secret bytes of the session, from both ends' identities and
//!   nonces. Each packet's tag, 64 bits, depends on these bytes and on the header without the tag,
//!   see `tag`. The header has the payload's checksum in it, so an attacker who can change packets
//!   under way may still change a payload so that its checksum stays.
//!
//! The primitives are those of the crates `aes`, `cmac` and `siphasher`.

use core::hash::Hasher;
use core::net::SocketAddrV4;

use aes::Aes128;
use cmac::{Cmac, Mac as _};
use siphasher::sip::SipHasher24;

use super::cipher::CipherRoom;
use super::host::{SessionId, Side};
use super::tag::{Binding, Pad, TagKeys, Usual, UsualKey};
use crate::time::Instant;
use crate::wire::control::{Hello, PROOF_BYTES};
use crate::wire::packet::{Flags, Packet};

/// Shortest secret that a key is made from, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// Nanoseconds of a cookie's time step, as a power of two: 4.3 s. A cookie lives one to two steps.
const COOKIE_SHIFT: u32 = 32;
/// Set in each nonce of a ping, and in no request number.
const PING: u64 = 1 << 63;

/// A pre-shared key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 16]);

impl Key {
    /// The key that a secret stands for.
    ///
    /// # Errors
    /// A secret shorter than [`SECRET_BYTES_MIN`].
    pub fn new(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError { bytes: secret.len() });
        }
        Ok(Self(cmac(&[0; 16], &[secret])))
    }
}

impl core::fmt::Debug for Key {
    /// Keys are not for logs.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A secret too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// Its length.
    pub bytes: usize,
}

impl core::fmt::Display for KeyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a key of {} bytes; at least {SECRET_BYTES_MIN} are needed", self.bytes)
    }
}

impl core::error::Error for KeyError {}

/// AES-CMAC over the parts, one after the other.
pub(super) fn cmac(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Cmac<Aes128> as cmac::Mac>::new(key.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The identities of a session, as both ends know them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parties {
    pub(super) client_incarnation: u64,
    pub(super) client: SessionId,
    pub(super) client_nonce: u64,
    pub(super) server_incarnation: u64,
    pub(super) server: SessionId,
    pub(super) server_nonce: u64,
}

impl Parties {
    fn to_bytes(self) -> [u8; 48] {
        let mut bytes = [0; 48];
        let words = [
            self.client_incarnation,
            u64::from(self.client.index) | u64::from(self.client.generation) << 32,
            self.client_nonce,
            self.server_incarnation,
            u64::from(self.server.index) | u64::from(self.server.generation) << 32,
            self.server_nonce,
        ];
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }
}

/// The key of usual packets' tags, which an endpoint has beside the others; zeros without a key.
pub(super) fn usual_key_of(key: Option<&Key>) -> UsualKey {
    UsualKey::new(&key.map_or([0; 16], usual_key))
}

fn usual_key(key: &Key) -> [u8; 16] {
    cmac(&key.0, &[b"dmrpc usual packets"])
}

/// What shows whose a session's packets are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guard {
    /// Tags, bound to this.
    Tags(Binding),
    /// The cipher at this place, which hides them too.
    Cipher(u32),
}

impl Guard {
    /// What the tags of usual packets depend on, if there are tags.
    pub(super) fn pad(&self) -> Pad {
        match self {
            Self::Tags(binding) => binding.pad(),
            Self::Cipher(_) => Pad::NONE,
        }
    }
}

/// The keys of an endpoint that has one.
pub(super) struct Keys<'m> {
    /// If it encrypts.
    pub(super) ciphers: Option<CipherRoom<'m>>,
    handshake: [u8; 16],
    pub(super) tags: TagKeys,
    /// For packets outside of sessions.
    outside: Binding,
}

impl<'m> Keys<'m> {
    pub(super) fn new(key: &Key, ciphers: Option<CipherRoom<'m>>) -> Self {
        let handshake = cmac(&key.0, &[b"dmrpc handshakes"]);
        let tags = TagKeys::new(&cmac(&key.0, &[b"dmrpc packets"]), &usual_key(key));
        let outside = tags.bind([0; 16]);
        Self { ciphers, handshake, tags, outside }
    }

    /// What guards packets that belong to no session.
    pub(super) fn outside(&self) -> Guard {
        Guard::Tags(self.outside)
    }

    /// A session's secret bytes, for its packets and for its hello's answer.
    pub(super) fn secret(&self, parties: &Parties) -> [u8; 16] {
        cmac(&self.handshake, &[b"s", &parties.to_bytes()])
    }

    /// What guards a session with these secret bytes, of which this end is `side`: the cipher at
    /// `place` where the endpoint encrypts, else tags; its usual packets begin so.
    pub(super) fn guard(
        &mut self,
        secret: [u8; 16],
        side: Side,
        place: usize,
        usual: Usual,
    ) -> Guard {
        if let Some(ciphers) = &mut self.ciphers {
            ciphers.sessions.begin(place, secret, side);
            return Guard::Cipher(place as u32);
        }
        Guard::Tags(self.tags.bind_usual(secret, usual))
    }

    /// What a hello shows.
    pub(super) fn hello_proof(&self, hello: &[u8]) -> [u8; PROOF_BYTES] {
        cmac(&self.handshake, &[b"h", hello])
    }

    /// What a hello's answer shows, in the session with these secret bytes.
    pub(super) fn ack_proof(&self, secret: &[u8; 16], ack: &[u8]) -> [u8; PROOF_BYTES] {
        cmac(&self.handshake, &[b"a", secret, ack])
    }

    /// What a refusal shows to the client whose hello had this nonce.
    pub(super) fn refusal_proof(
        &self,
        client: SessionId,
        nonce: u64,
        why: &[u8],
    ) -> [u8; PROOF_BYTES] {
        let [index, generation] = [client.index, client.generation].map(u32::to_le_bytes);
        cmac(&self.handshake, &[b"r", &index, &generation, &nonce.to_le_bytes(), why])
    }
}

/// Whether a packet of a session is from the session's peer, as far as the session can tell.
#[inline(always)]
pub(super) fn is_authentic(
    keys: &Option<Keys<'_>>,
    guard: Option<Guard>,
    packet: Packet<'_>,
) -> bool {
    match (guard, keys) {
        // No other packet is looked at before it is opened.
        (Some(Guard::Cipher(_)), _) => packet.was_sealed(),
        (Some(Guard::Tags(binding)), Some(keys)) => {
            packet.flags().contains(Flags::AUTHENTICATED)
                && keys.tags.is_tagged(&binding, packet.header_bytes())
        }
        _ => true,
    }
}

/// What only this life of this endpoint knows: the source of its cookies and nonces.
#[derive(Clone, Copy)]
pub(super) struct Secret(pub(super) [u8; 16]);

impl Secret {
    fn hash(&self, domain: u8, words: &[u64]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u8(domain);
        for word in words {
            hasher.write_u64(*word);
        }
        hasher.finish()
    }

    /// The nonce of a session, as its client. Half of it is the same for all sessions.
    pub(super) fn client_nonce(&self, session: SessionId) -> u64 {
        let life = self.hash(b'l', &[]) & !u64::from(u32::MAX);
        let hash = self.hash(b'c', &[session.index.into(), session.generation.into()]);
        life | hash & u64::from(u32::MAX)
    }

    /// The nonce of a session, as its server.
    pub(super) fn server_nonce(&self, session: SessionId) -> u64 {
        self.hash(b's', &[session.index.into(), session.generation.into()])
    }

    /// What the book of server sessions is ordered by.
    pub(super) fn order(&self) -> u64 {
        self.hash(b'o', &[])
    }

    /// A number that only who has seen the ping of it can know, and that names the session.
    pub(super) fn ping_nonce(&self, session: SessionId) -> u64 {
        let hash = self.hash(b'p', &[session.index.into(), session.generation.into()]);
        PING | hash & !u64::from(u32::MAX) | u64::from(session.index)
    }

    fn cookie(&self, peer: SocketAddrV4, hello: &Hello, step: u64) -> u64 {
        let address = u64::from(peer.ip().to_bits()) << 16 | u64::from(peer.port());
        let session = u64::from(hello.session) | u64::from(hello.generation) << 32;
        let hash = self.hash(b'k', &[address, hello.incarnation, session, hello.nonce, step]);
        // Tells of which step it is, so that one hash checks it, and is never none.
        hash & !3 | 2 | step & 1
    }

    /// The cookie for the sender of `hello`, now.
    pub(super) fn fresh_cookie(&self, now: Instant, peer: SocketAddrV4, hello: &Hello) -> u64 {
        self.cookie(peer, hello, now.as_nanos() >> COOKIE_SHIFT)
    }

    /// Whether a hello has a cookie that was made for its sender, not long ago.
    pub(super) fn knows(&self, now: Instant, peer: SocketAddrV4, hello: &Hello) -> bool {
        if hello.cookie == 0 {
            return false;
        }
        let step = now.as_nanos() >> COOKIE_SHIFT;
        let made_at = if hello.cookie & 1 == step & 1 { step } else { step.wrapping_sub(1) };
        hello.cookie == self.cookie(peer, hello, made_at)
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::wire::control::Features;

    #[test]
    fn short_secrets_are_refused_and_keys_not_shown() {
        assert_eq!(Key::new(&[1; 15]), Err(KeyError { bytes: 15 }));
        let key = Key::new(&[1; 16]).unwrap();
        assert_eq!(std::format!("{key:?}"), "Key(..)");
        assert_ne!(key, Key::new(&[1; 17]).unwrap());
    }

    /// RFC 4615's vector for a key of 18 bytes, through the first step alone.
    #[test]
    fn keys_are_made_as_rfc_4615_says() {
        let mut secret: [u8; 18] = core::array::from_fn(|i| i as u8);
        secret[16..].copy_from_slice(&[0xed, 0xcb]);
        let Key(key) = Key::new(&secret).unwrap();
        let message: [u8; 20] = core::array::from_fn(|i| i as u8);
        let wanted = 0x84a3_48a4_a45d_235b_abff_fc0d_2b4d_a09au128;
        assert_eq!(cmac(&key, &[&message]), wanted.to_be_bytes());
    }

    #[test]
    fn cookies_are_for_one_sender_and_not_for_ever() {
        let secret = Secret([7; 16]);
        let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let hello = Hello {
            incarnation: 1,
            session: 2,
            generation: 3,
            payload_bytes_max: 1024,
            slots: 1,
            window: 1,
            features: Features::empty(),
            nonce: 4,
            cookie: 0,
            proof: [0; 16],
        };
        let now = Instant::from_nanos(20_000_000_000);
        let late = Instant::from_nanos(30_000_000_000);
        assert!(!secret.knows(now, peer, &hello));
        let hello = Hello { cookie: secret.fresh_cookie(now, peer, &hello), ..hello };
        assert!(secret.knows(now, peer, &hello));
        assert!(!secret.knows(late, peer, &hello), "too late");
        assert!(!secret.knows(now, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2), &hello));
        assert!(!secret.knows(now, peer, &Hello { incarnation: 9, ..hello }));
        assert!(!Secret([8; 16]).knows(now, peer, &hello), "another life");
    }
}
