//! AES-128-GCM, by whom it may.

use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes128Gcm, KeyInit, Tag};

use crate::wire::packet::SEAL_BYTES;

/// One key of AES-128-GCM (NIST SP 800-38D), with all that is made of it beforehand. All
/// implementations understand each other.
pub trait PacketKey: Clone + Send + 'static {
    /// The key of these bytes.
    fn new(key: &[u8; 16]) -> Self;

    /// Encrypts `bytes` in place. Returns the tag of that and of `clear`.
    fn seal(&self, nonce: &[u8; 12], clear: &[u8], bytes: &mut [u8]) -> [u8; SEAL_BYTES];

    /// Decrypts sealed bytes to `opened`, which is as long. Returns whether the tag is that of them
    /// and of `clear`; if it is not, nobody looks at `opened`.
    fn open(
        &self,
        nonce: &[u8; 12],
        clear: &[u8],
        sealed_and_tag: (&[u8], &[u8; SEAL_BYTES]),
        opened: &mut [u8],
    ) -> bool;
}

/// By the crate `aes-gcm`, which is Rust throughout and needs no standard library.
#[derive(Clone)]
pub struct PortableKey(Aes128Gcm);

impl PacketKey for PortableKey {
    fn new(key: &[u8; 16]) -> Self {
        Self(Aes128Gcm::new(key.into()))
    }

    fn seal(&self, nonce: &[u8; 12], clear: &[u8], bytes: &mut [u8]) -> [u8; SEAL_BYTES] {
        let tag = self.0.encrypt_in_place_detached(nonce.into(), clear, bytes);
        tag.expect("shorter than 64 GiB").into()
    }

    fn open(
        &self,
        nonce: &[u8; 12],
        clear: &[u8],
        (sealed, tag): (&[u8], &[u8; SEAL_BYTES]),
        opened: &mut [u8],
    ) -> bool {
        opened.copy_from_slice(sealed);
        let tag = Tag::from_slice(tag);
        self.0.decrypt_in_place_detached(nonce.into(), clear, opened, tag).is_ok()
    }
}
