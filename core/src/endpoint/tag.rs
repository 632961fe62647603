//! Tags: what shows that a packet is from its session's peer.
//!
//! A tag is a message authentication code over the session's secret bytes and the packet's header
//! without its tag, cut to 64 bits: AES in cipher block chaining over always the same number of
//! blocks. Over messages of one length that is a pseudorandom function (Bellare, Kilian, Rogaway,
//! "The security of the cipher block chaining message authentication code", 2000). There are two,
//! with keys of their own, and the header alone says which one is meant:
//!
//! - A packet that is a *whole message*, as nearly all small ones are: of its header's second part
//!   only 16 bytes say anything. So there are three blocks: secret, first part, second part. The
//!   first part is the same for all such packets of a session in one direction, so its block, and
//!   the secret's, are encrypted once a session; each packet costs one.
//! - Any other packet: four blocks, the secret, the header's 40 bytes and zeros, of which the
//!   secret's is encrypted once; each packet costs three.

use crate::aes128::{Aes128, Begun};
use crate::wire::bytes::{array_at, put, u16_at, u64_at};
use crate::wire::control::SLOTS_MAX;
use crate::wire::message::HEAD_BYTES_MAX;
use crate::wire::packet::{HEADER_BYTES, TAG_AT};

/// What the tags of a session's packets depend on beside the packets: states of the ciphers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Binding {
    /// After the beginning of the usual packets that come in, and of those that go out.
    incoming: Begun,
    outgoing: Begun,
    /// After the session's secret bytes, for whole messages.
    whole: u128,
    /// The same for other packets.
    any: u128,
}

/// The keys of tags.
pub(super) struct TagKeys {
    whole: Aes128,
    any: Aes128,
}

/// What a whole message's header says behind the tag, as it is known while one is made or taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    /// The slot: below 64.
    pub(super) slot: u64,
    /// Length of the payload, which is the message: below 2^16.
    pub(super) bytes: usize,
}

// Their lengths and slots fit the places that the tag has for them.
const _: () = assert!(HEAD_BYTES_MAX < 1 << 10 && SLOTS_MAX <= 1 << 6);

impl TagKeys {
    pub(super) fn new(any: &[u8; 16], whole: &[u8; 16]) -> Self {
        Self { whole: Aes128::new(whole), any: Aes128::new(any) }
    }

    /// What a session with these secret bytes has.
    pub(super) fn bind(&self, secret: [u8; 16]) -> Binding {
        let secret = u128::from_ne_bytes(secret);
        let (any, whole) = (self.any.encrypt(secret), self.whole.encrypt(secret));
        let begun = self.whole.begin(whole);
        Binding { incoming: begun, outgoing: begun, whole, any }
    }

    /// Tells a session how the usual packets begin that come in, and that go out.
    pub(super) fn expect(&self, binding: &mut Binding, incoming: u128, outgoing: u128) {
        let begin = |first| self.whole.begin(self.whole.encrypt(binding.whole ^ first));
        (binding.incoming, binding.outgoing) = (begin(incoming), begin(outgoing));
    }

    /// The tag of a packet with this header. What the header has as its tag does not matter.
    pub(super) fn tag(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> u64 {
        let first = first_part(header);
        if let Some(rest) = whole_message(header) {
            let state = self.whole.encrypt(binding.whole ^ first);
            return self.whole.finish(&self.whole.begin(state), u64_at(header, 24), rest);
        }
        let state = self.any.encrypt(binding.any ^ first);
        let state = self.any.encrypt(state ^ u128::from_ne_bytes(array_at(header, 24)));
        self.any.finish(&self.any.begin(state), u64_at(header, 40), 0)
    }

    /// Whether a header has its tag.
    pub(super) fn is_tagged(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> bool {
        self.tag(binding, header) == u64_at(header, TAG_AT)
    }

    /// The same for a header that begins as the session's usual ones do that come in, of a whole
    /// message in this slot and of this length, as far as its fields for them say.
    #[inline(always)]
    pub(super) fn is_tagged_whole(
        &self,
        binding: &Binding,
        header: &[u8; HEADER_BYTES],
        whole: Whole,
    ) -> bool {
        let last = u64_at(header, 40);
        if last & NOT_WHOLE != 0 {
            return self.is_tagged(binding, header);
        }
        let rest = last | whole.slot << SLOT_SHIFT | whole.bytes as u64;
        self.whole.finish(&binding.incoming, u64_at(header, 24), rest) == u64_at(header, TAG_AT)
    }

    /// Puts a packet's tag into its header, which is finished otherwise.
    pub(super) fn put(&self, binding: &Binding, header: &mut [u8; HEADER_BYTES]) {
        let tag = self.tag(binding, header);
        put(header, TAG_AT, tag.to_le_bytes());
    }

    /// The same for a header of a whole message that begins as the session's usual ones do that go
    /// out. `sealed` is what its last word says: the checksum, and the head's length.
    #[inline(always)]
    pub(super) fn put_whole(
        &self,
        binding: &Binding,
        header: &mut [u8; HEADER_BYTES],
        request: u64,
        whole: Whole,
        sealed: u64,
    ) {
        let rest = sealed | whole.slot << SLOT_SHIFT | whole.bytes as u64;
        let tag = self.whole.finish(&binding.outgoing, request, rest);
        put(header, TAG_AT, tag.to_le_bytes());
    }

    /// The same by what the header itself says.
    #[inline(never)]
    pub(super) fn put_usual(&self, binding: &Binding, header: &mut [u8; HEADER_BYTES]) {
        let (slot, bytes) = (u16_at(header, 32).into(), u16_at(header, 34).into());
        let (request, sealed) = (u64_at(header, 24), u64_at(header, 40));
        self.put_whole(binding, header, request, Whole { slot, bytes }, sealed);
    }
}

/// The first part of a header: all in front of the tag.
#[inline(always)]
fn first_part(header: &[u8; HEADER_BYTES]) -> u128 {
    u128::from_ne_bytes(array_at(header, 0))
}

/// Bits of a header's last word that no whole message has: packet number zero, and a head whose
/// length needs ten bits. The length lies in the first ones, the slot in the others.
const NOT_WHOLE: u64 = 0xFC00_FFFF;
const SLOT_SHIFT: u32 = 26;

/// The part behind the request number of a header of a whole message, as one word; `None` for other
/// headers. No two headers with the same word differ there.
#[inline(always)]
fn whole_message(header: &[u8; HEADER_BYTES]) -> Option<u64> {
    let (lengths, last) = (u64_at(header, 32), u64_at(header, 40));
    let (slot, payload, message) = (lengths & 0xFFFF, lengths >> 16 & 0xFFFF, lengths >> 32);
    let whole = message == payload && slot < 1 << 6 && last & NOT_WHOLE == 0;
    whole.then_some(last | slot << SLOT_SHIFT | payload)
}

#[cfg(test)]
mod tests {
    use aes::cipher::{BlockEncrypt as _, KeyInit as _};
    use proptest::prelude::*;

    use super::*;

    fn keys(fill: u8) -> TagKeys {
        TagKeys::new(&[fill; 16], &[fill ^ 0xFF; 16])
    }

    /// A header; if asked to, of a whole message.
    fn header(bytes: &[u8], whole: bool) -> [u8; HEADER_BYTES] {
        let mut header: [u8; HEADER_BYTES] = bytes.try_into().expect("48 bytes");
        if whole {
            header[32] &= 63;
            header[33] = 0;
            let payload: [u8; 2] = array_at(&header, 34);
            put(&mut header, 36, [payload[0], payload[1], 0, 0]);
            header[40..42].fill(0);
            header[43] &= 3;
        }
        header
    }

    /// AES in cipher block chaining, a block after the other.
    fn chained(key: &[u8; 16], blocks: &[[u8; 16]]) -> [u8; 16] {
        let cipher = aes::Aes128::new(key.into());
        blocks.iter().fold([0; 16], |state, block| {
            let mixed: [u8; 16] = core::array::from_fn(|i| state[i] ^ block[i]);
            let mut block = mixed.into();
            cipher.encrypt_block(&mut block);
            block.into()
        })
    }

    proptest! {
        /// Other packets: four blocks in a chain.
        #[test]
        fn tags_of_parts_are_four_blocks(
            bytes in proptest::collection::vec(any::<u8>(), 48), secret in any::<[u8; 16]>()
        ) {
            let mut header = header(&bytes, false);
            header[40] |= 1;
            let mut last = [0; 16];
            last[..8].copy_from_slice(&header[40..]);
            let blocks = [secret, array_at(&header, 0), array_at(&header, 24), last];
            let tag = keys(5).tag(&keys(5).bind(secret), &header);
            prop_assert_eq!(&tag.to_ne_bytes()[..], &chained(&[5; 16], &blocks)[..8]);
        }

        /// Whole messages: three blocks in a chain, the same whether their beginning is known
        /// beforehand or not.
        #[test]
        fn tags_of_whole_messages_are_three_blocks(
            bytes in proptest::collection::vec(any::<u8>(), 48), secret in any::<[u8; 16]>()
        ) {
            let mut header = header(&bytes, true);
            let mut last: [u8; 16] = [0; 16];
            last[..8].copy_from_slice(&header[24..32]);
            last[8..10].copy_from_slice(&header[34..36]);
            last[10] = header[42];
            last[11] = header[43] | header[32] << 2;
            last[12..].copy_from_slice(&header[44..]);
            let blocks = [secret, array_at(&header, 0), last];
            let wanted = chained(&[5 ^ 0xFF; 16], &blocks);
            let keys = keys(5);
            let mut binding = keys.bind(secret);
            prop_assert_eq!(&keys.tag(&binding, &header).to_ne_bytes()[..], &wanted[..8]);
            let first = first_part(&header);
            let bytes = u16::from_le_bytes([header[34], header[35]]).into();
            let whole = Whole { slot: header[32].into(), bytes };
            keys.expect(&mut binding, first, 0);
            keys.put(&binding, &mut header);
            prop_assert!(keys.is_tagged_whole(&binding, &header, whole));
            keys.expect(&mut binding, 0, first);
            header[TAG_AT..TAG_AT + 8].fill(0);
            keys.put_usual(&binding, &mut header);
            prop_assert!(keys.is_tagged(&binding, &header));
        }

        #[test]
        fn any_change_changes_the_tag(
            bytes in proptest::collection::vec(any::<u8>(), 48), bit in 0usize..48 * 8,
            whole in any::<bool>(),
        ) {
            let mut header = header(&bytes, whole);
            let keys = keys(1);
            let binding = keys.bind([9; 16]);
            keys.put(&binding, &mut header);
            prop_assert!(keys.is_tagged(&binding, &header));
            prop_assert!(!keys.is_tagged(&keys.bind([10; 16]), &header));
            prop_assert!(!super::tests::keys(2).is_tagged(&binding, &header));
            header[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!keys.is_tagged(&binding, &header));
        }

        /// The same where the length and the slot are taken from elsewhere than the header, as they
        /// are when a whole message comes in; those two have been compared with it then.
        #[test]
        fn any_change_of_a_whole_message_changes_the_tag(
            bytes in proptest::collection::vec(any::<u8>(), 48), bit in 16usize * 8..48 * 8,
        ) {
            let mut header = header(&bytes, true);
            let keys = keys(1);
            let mut binding = keys.bind([9; 16]);
            keys.expect(&mut binding, first_part(&header), 0);
            let bytes = u16::from_le_bytes([header[34], header[35]]).into();
            let whole = Whole { slot: header[32].into(), bytes };
            keys.put(&binding, &mut header);
            prop_assert!(keys.is_tagged_whole(&binding, &header, whole));
            let longer = Whole { bytes: bytes ^ 1, ..whole };
            prop_assert!(!keys.is_tagged_whole(&binding, &header, longer));
            let elsewhere = Whole { slot: whole.slot ^ 1, ..whole };
            prop_assert!(!keys.is_tagged_whole(&binding, &header, elsewhere));
            header[bit / 8] ^= 1 << (bit % 8);
            let told = (32..40).contains(&(bit / 8));
            prop_assert_eq!(keys.is_tagged_whole(&binding, &header, whole), told);
        }

        /// The shorter form loses nothing of the header.
        #[test]
        fn whole_messages_with_one_word_are_one_header(
            one in proptest::collection::vec(any::<u8>(), 48),
            other in proptest::collection::vec(any::<u8>(), 48), at in 32usize..48,
        ) {
            let (one, mut changed) = (header(&one, true), header(&one, true));
            changed[at] = other[at];
            let changed = header(&changed, true);
            let same = one[32..] == changed[32..];
            prop_assert_eq!(whole_message(&one) == whole_message(&changed), same);
        }
    }
}
