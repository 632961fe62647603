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
//!   nonces. Each packet's tag is AES-CMAC (RFC 4493) over these bytes and the header without the
//!   tag, cut to 64 bits. The header has the payload's checksum in it, so an attacker who can
//!   change packets under way may still change a payload so that its checksum stays.
//!
//! The primitives are those of the crates `aes`, `cmac` and `siphasher`. A packet's tag is computed
//! with the crate's AES but without its buffers: the first block of each session is encrypted
//! once, the rest is three blocks.

use core::hash::Hasher;
use core::net::SocketAddrV4;

use aes::cipher::{
    Block, BlockBackend, BlockClosure, BlockEncrypt, BlockSizeUser, KeyInit, consts::U16,
};
use aes::{Aes128, Aes128Enc};
use cmac::{Cmac, Mac as _};
use siphasher::sip::SipHasher24;

use super::host::SessionId;
use crate::time::Instant;
use crate::wire::control::{Hello, PROOF_BYTES};
use crate::wire::packet::{Flags, HEADER_BYTES, Packet};

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
fn cmac(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Cmac<Aes128> as cmac::Mac>::new(key.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What the tags of a session's packets depend on beside the packets: the cipher's state after
/// the session's secret bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding(u128);

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

/// The keys of an endpoint that has one.
pub(super) struct Keys {
    handshake: [u8; 16],
    packets: Aes128Enc,
    /// RFC 4493's K2, for a last block that is not full.
    last: u128,
    /// For packets outside of sessions.
    outside: Binding,
}

impl Keys {
    pub(super) fn new(key: &Key) -> Self {
        let packets = Aes128Enc::new(&cmac(&key.0, &[b"dmrpc packets"]).into());
        let mut zero = Block::<Aes128Enc>::default();
        packets.encrypt_block(&mut zero);
        let last = double(double(u128::from_be_bytes(zero.into())));
        let handshake = cmac(&key.0, &[b"dmrpc handshakes"]);
        let mut keys = Self { handshake, packets, last, outside: Binding(0) };
        keys.outside = keys.bind([0; 16]);
        keys
    }

    fn bind(&self, secret: [u8; 16]) -> Binding {
        let mut block = secret.into();
        self.packets.encrypt_block(&mut block);
        Binding(u128::from_ne_bytes(block.into()))
    }

    /// The binding of packets that belong to no session.
    pub(super) fn outside(&self) -> Binding {
        self.outside
    }

    /// A session's secret bytes, for its packets and for its hello's answer.
    pub(super) fn session(&self, parties: &Parties) -> (Binding, [u8; 16]) {
        let secret = cmac(&self.handshake, &[b"s", &parties.to_bytes()]);
        (self.bind(secret), secret)
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
        why: u8,
    ) -> [u8; PROOF_BYTES] {
        let [index, generation] = [client.index, client.generation].map(u32::to_le_bytes);
        cmac(&self.handshake, &[b"r", &index, &generation, &nonce.to_le_bytes(), &[why]])
    }

    /// The tag of a packet with this header. What the header has as its tag does not matter.
    #[inline]
    pub(super) fn tag(&self, binding: Binding, header: &[u8; HEADER_BYTES]) -> u64 {
        let mut tag = 0;
        let chain = HeaderMac { keys: self, state: binding.0, header, tag: &mut tag };
        self.packets.encrypt_with_backend(chain);
        tag
    }

    /// Whether a header has its tag.
    #[inline]
    pub(super) fn is_tagged(&self, binding: Binding, header: &[u8; HEADER_BYTES]) -> bool {
        self.tag(binding, header) == u64_at(header, TAG_AT)
    }
}

const TAG_AT: usize = 16;

/// Whether a packet of a session is from the session's peer, as far as the session can tell.
#[inline(always)]
pub(super) fn is_authentic(
    keys: &Option<Keys>,
    binding: Option<Binding>,
    packet: Packet<'_>,
) -> bool {
    match (binding, keys) {
        (Some(binding), Some(keys)) => {
            packet.flags().contains(Flags::AUTHENTICATED)
                && keys.is_tagged(binding, packet.header_bytes())
        }
        _ => true,
    }
}

/// The same for the header as it came, of a packet that says that it is tagged if its session's
/// are. Without tags none can be right.
#[inline(never)]
pub(super) fn is_tagged(
    keys: &Option<Keys>,
    binding: Option<Binding>,
    header: &[u8; HEADER_BYTES],
) -> bool {
    match (binding, keys) {
        (Some(binding), Some(keys)) => keys.is_tagged(binding, header),
        _ => false,
    }
}

/// Puts a packet's tag into its header, which is finished otherwise.
#[inline]
pub(super) fn put_tag(keys: &Keys, binding: Binding, header: &mut [u8; HEADER_BYTES]) {
    let tag = keys.tag(binding, header);
    header[TAG_AT..TAG_AT + 8].copy_from_slice(&tag.to_ne_bytes());
}

/// Doubling in GF(2^128), as RFC 4493 has it.
fn double(value: u128) -> u128 {
    let carry = (value >> 127) * 0x87;
    (value << 1) ^ carry
}

fn u64_at(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_ne_bytes(*header[at..].first_chunk().expect("within the header"))
}

/// The last three blocks of a packet's CMAC, in one go on the cipher's backend.
struct HeaderMac<'a> {
    keys: &'a Keys,
    state: u128,
    header: &'a [u8; HEADER_BYTES],
    tag: &'a mut u64,
}

impl BlockSizeUser for HeaderMac<'_> {
    type BlockSize = U16;
}

impl BlockClosure for HeaderMac<'_> {
    #[inline(always)]
    fn call<B: BlockBackend<BlockSize = U16>>(self, backend: &mut B) {
        let word = |at: usize| {
            u128::from(u64::from_ne_bytes(*self.header[at..].first_chunk().expect("a word")))
        };
        let pair = |low, high| u128::from_ne_bytes((word(low) | word(high) << 64).to_ne_bytes());
        let mut step = |state: u128| {
            let mut block = Block::<Self>::from(state.to_ne_bytes());
            backend.proc_block((&mut block).into());
            u128::from_ne_bytes(block.into())
        };
        let state = step(self.state ^ pair(0, 8));
        let state = step(state ^ pair(24, 32));
        // The last block has half of its bytes: a one follows, then zeros (RFC 4493, 2.4).
        let mut last = [0; 16];
        last[..8].copy_from_slice(&self.header[40..]);
        last[8] = 0x80;
        let last = u128::from_ne_bytes(last) ^ u128::from_ne_bytes(self.keys.last.to_be_bytes());
        *self.tag = step(state ^ last) as u64;
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

    /// The nonce of a session, as its client.
    pub(super) fn client_nonce(&self, session: SessionId) -> u64 {
        self.hash(b'c', &[session.index.into(), session.generation.into()])
    }

    /// The nonce of a session, as its server.
    pub(super) fn server_nonce(&self, session: SessionId) -> u64 {
        self.hash(b's', &[session.index.into(), session.generation.into()])
    }

    /// A number that only who has seen the ping of it can know, and that names the session.
    pub(super) fn ping_nonce(&self, session: SessionId) -> u64 {
        let hash = self.hash(b'p', &[session.index.into(), session.generation.into()]);
        PING | hash & !u64::from(u32::MAX) | u64::from(session.index)
    }

    fn cookie(&self, peer: SocketAddrV4, hello: &Hello, step: u64) -> u64 {
        let address = u64::from(peer.ip().to_bits()) << 16 | u64::from(peer.port());
        let session = u64::from(hello.session) | u64::from(hello.generation) << 32;
        self.hash(b'k', &[address, hello.incarnation, session, hello.nonce, step])
    }

    /// The cookie for the sender of `hello`, now.
    pub(super) fn fresh_cookie(&self, now: Instant, peer: SocketAddrV4, hello: &Hello) -> u64 {
        self.cookie(peer, hello, now.as_nanos() >> COOKIE_SHIFT)
    }

    /// Whether a hello has a cookie that was made for its sender, not long ago.
    pub(super) fn knows(&self, now: Instant, peer: SocketAddrV4, hello: &Hello) -> bool {
        let step = now.as_nanos() >> COOKIE_SHIFT;
        hello.cookie == self.cookie(peer, hello, step)
            || hello.cookie == self.cookie(peer, hello, step.wrapping_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::control::Features;

    fn keys(fill: u8) -> Keys {
        Keys::new(&Key::new(&[fill; 16]).unwrap())
    }

    fn parties(nonce: u64) -> Parties {
        Parties {
            client_incarnation: 1,
            client: SessionId { index: 2, generation: 3 },
            client_nonce: 4,
            server_incarnation: 5,
            server: SessionId { index: 6, generation: 7 },
            server_nonce: nonce,
        }
    }

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

    proptest! {
        /// The fast path is AES-CMAC over secret and header without tag, as the crate computes it.
        #[test]
        fn tags_are_cmac(
            header in proptest::collection::vec(any::<u8>(), 48), nonce in any::<u64>()
        ) {
            let header: [u8; 48] = header.try_into().unwrap();
            let key = Key::new(b"a secret of more than sixteen bytes").unwrap();
            let keys = Keys::new(&key);
            let (binding, secret) = keys.session(&parties(nonce));
            let raw = cmac(&key.0, &[b"dmrpc packets"]);
            let whole = cmac(&raw, &[&secret, &header[..16], &header[24..]]);
            prop_assert_eq!(&keys.tag(binding, &header).to_ne_bytes()[..], &whole[..8]);
        }

        #[test]
        fn any_change_changes_the_tag(
            header in proptest::collection::vec(any::<u8>(), 48), bit in 0usize..48 * 8
        ) {
            let mut header: [u8; 48] = header.try_into().unwrap();
            let keys = keys(1);
            let (binding, _) = keys.session(&parties(9));
            put_tag(&keys, binding, &mut header);
            prop_assert!(keys.is_tagged(binding, &header));
            prop_assert!(!keys.is_tagged(keys.session(&parties(10)).0, &header));
            prop_assert!(!super::tests::keys(2).is_tagged(binding, &header));
            header[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!keys.is_tagged(binding, &header));
        }
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
