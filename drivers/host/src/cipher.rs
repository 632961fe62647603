//! Encryption by the processor's instructions: AES-128-GCM of the crate `ring`, which is written
//! for them in assembly and chooses, when a key is made, what this processor has. Without such
//! instructions it works all the same.
//!
//! A key is as large as it will ever be when it is made, so sessions that come and go allocate
//! nothing.

use dmrpc_core::endpoint::cipher::{CipherRoom, CipherTable, PacketKey, SessionCipher};
use dmrpc_core::endpoint::table::StorageSize;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};

use crate::table::table;

/// Bytes of a tag.
const TAG_BYTES: usize = 16;

/// A key of `ring`.
#[derive(Clone)]
pub struct FastKey(LessSafeKey);

impl PacketKey for FastKey {
    fn new(key: &[u8; 16]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).expect("a key of 16 bytes")))
    }

    #[inline]
    fn seal(&self, nonce: &[u8; NONCE_LEN], clear: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(clear), bytes);
        let tag = tag.expect("shorter than 64 GiB");
        tag.as_ref().try_into().expect("16 bytes")
    }

    #[inline]
    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        clear: &[u8],
        (sealed, tag): (&[u8], &[u8; TAG_BYTES]),
        opened: &mut [u8],
    ) -> bool {
        opened.copy_from_slice(sealed);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let (clear, tag) = (Aad::from(clear), Tag::from(*tag));
        self.0.open_in_place_separate_tag(nonce, clear, tag, opened, 0..).is_ok()
    }
}

/// The ciphers of an endpoint's sessions.
pub type SessionCiphers = CipherTable<FastKey, Vec<SessionCipher<FastKey>>>;

/// Ciphers of `count` sessions.
pub fn session_ciphers(count: usize) -> SessionCiphers {
    CipherTable::new(table(SessionCipher::EMPTY, count))
}

/// Bytes that encryption takes of an endpoint with storage of `size` and such payloads.
pub const fn room_bytes(size: &StorageSize, payload_bytes_max: u32) -> usize {
    CipherRoom::bytes::<FastKey>(size, payload_bytes_max)
}

#[cfg(test)]
mod tests {
    use dmrpc_core::endpoint::cipher::PortableKey;

    use super::*;

    /// Bytes that differ from each other, of a packet of this length.
    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7 + at / 256) as u8).collect()
    }

    fn hex<const N: usize>(digits: &str) -> [u8; N] {
        let digit = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex");
        std::array::from_fn(digit)
    }

    /// Cases 1, 2 and 4 of "The Galois/Counter Mode of operation" (McGrew and Viega), appendix B,
    /// which are NIST's examples.
    fn agrees_with_nist<K: PacketKey>() {
        let key = K::new(&[0; 16]);
        let tag = hex("58e2fccefa7e3061367f1d57a4e7455a");
        assert_eq!(key.seal(&[0; 12], &[], &mut []), tag);
        let mut zeros = [0; 16];
        let tag = key.seal(&[0; 12], &[], &mut zeros);
        assert_eq!(zeros, hex("0388dace60b6a392f328c2b971b2fe78"));
        assert_eq!(tag, hex("ab6e47d42cec13bdf53a67b21257bddf"));
        let key = K::new(&hex("feffe9928665731c6d6a8f9467308308"));
        let nonce = hex("cafebabefacedbaddecaf888");
        let clear: [u8; 20] = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain: [u8; 60] = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let wanted: [u8; 60] = hex(concat!(
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e",
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        ));
        let mut sealed = plain;
        let tag = key.seal(&nonce, &clear, &mut sealed);
        assert_eq!(sealed, wanted);
        assert_eq!(tag, hex("5bc94fbc3221a5db94fae95ae7121a47"));
        let mut opened = [0; 60];
        assert!(key.open(&nonce, &clear, (&sealed, &tag), &mut opened));
        assert_eq!(opened, plain);
    }

    #[test]
    fn both_agree_with_nist() {
        agrees_with_nist::<FastKey>();
        agrees_with_nist::<PortableKey>();
    }

    /// What `A` seals `B` opens, of every length up to three packets' worth of blocks and of some
    /// long ones; with any bit changed it does not.
    fn understands<A: PacketKey, B: PacketKey>() {
        let (one, other) = (A::new(&[3; 16]), B::new(&[3; 16]));
        for length in (0..400).chain([1434, 1448, 8952, 65_000]) {
            for clear in [24, 48] {
                let (nonce, clear) = ([length as u8; 12], bytes(clear));
                let plain = bytes(length);
                let mut sealed = plain.clone();
                let tag = one.seal(&nonce, &clear, &mut sealed);
                let mut opened = vec![0; length];
                assert!(other.open(&nonce, &clear, (&sealed, &tag), &mut opened), "{length}");
                assert_eq!(opened, plain);
                let mut wrong = tag;
                wrong[length % 16] ^= 1 << (length % 8);
                assert!(!other.open(&nonce, &clear, (&sealed, &wrong), &mut opened), "{length}");
                let mut wrong = clear.clone();
                wrong[length % clear.len()] ^= 1;
                assert!(!other.open(&nonce, &wrong, (&sealed, &tag), &mut opened), "{length}");
                if length > 0 {
                    sealed[length / 2] ^= 1;
                    assert!(!other.open(&nonce, &clear, (&sealed, &tag), &mut opened), "{length}");
                }
            }
        }
    }

    #[test]
    fn both_understand_each_other() {
        understands::<FastKey, PortableKey>();
        understands::<PortableKey, FastKey>();
    }
}
