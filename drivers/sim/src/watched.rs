//! What is in encrypted packets, for a network that must know it to tell which of them are sent
//! again: the keys that encrypt tell it, as no network can.

use std::cell::RefCell;
use std::collections::BTreeMap;

use dmrpc_core::endpoint::cipher::PacketKey;
use dmrpc_core::wire::packet::{HEADER_BYTES, SEAL_BYTES, TAG_AT};

/// Bytes of a header that are encrypted: those behind the packet's number.
const HIDDEN_BYTES: usize = HEADER_BYTES - TAG_AT - 8;
/// Packets that were sealed and not sent yet, at most; there is never more than one at a time
/// unless something else than this crate's network sends them.
const SEALED_MAX: usize = 1 << 10;

thread_local! {
    static HIDDEN: RefCell<BTreeMap<[u8; SEAL_BYTES], [u8; HIDDEN_BYTES]>> =
        const { RefCell::new(BTreeMap::new()) };
}

/// A key of `K` that tells the networks of its thread what it hides.
#[derive(Clone)]
pub struct Watched<K>(K);

impl<K: PacketKey> PacketKey for Watched<K> {
    fn new(key: &[u8; 16]) -> Self {
        Self(K::new(key))
    }

    fn seal(&self, nonce: &[u8; 12], clear: &[u8], bytes: &mut [u8]) -> [u8; SEAL_BYTES] {
        // Pings and goodbyes hide nothing.
        let hidden = bytes.first_chunk().copied();
        let tag = self.0.seal(nonce, clear, bytes);
        if let Some(hidden) = hidden {
            HIDDEN.with_borrow_mut(|all| {
                if all.len() >= SEALED_MAX {
                    all.pop_first();
                }
                all.insert(tag, hidden);
            });
        }
        tag
    }

    fn open(
        &self,
        nonce: &[u8; 12],
        clear: &[u8],
        sealed_and_tag: (&[u8], &[u8; SEAL_BYTES]),
        opened: &mut [u8],
    ) -> bool {
        self.0.open(nonce, clear, sealed_and_tag, opened)
    }
}

/// The header of a packet that was sealed by a watched key of this thread, as it was before, but
/// for its number. It is told once.
pub(crate) fn header(datagram: &[u8]) -> Option<[u8; HEADER_BYTES]> {
    let hidden = HIDDEN.with_borrow_mut(|all| all.remove(datagram.last_chunk()?))?;
    let mut header = *datagram.first_chunk::<HEADER_BYTES>()?;
    header[HEADER_BYTES - HIDDEN_BYTES..].copy_from_slice(&hidden);
    Some(header)
}
