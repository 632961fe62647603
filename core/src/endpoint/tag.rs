//! Tags: what shows that a packet is from its session's peer.
//!
//! A tag is a message authentication code, 64 bits, of the packet's header without its tag. There
//! are two, with keys of their own; the session and the header say which one is meant.
//!
//! - *Usual packets* are whole messages, as nearly all small ones are, whose header begins as all
//!   usual ones do in the session and direction. Of what is left of such a header, request number
//!   and slot never come twice with different rest: a request is sent without [`Flags::HOLDS`]
//!   once, and an answer without it is always the same bytes. So they are a nonce, and the tag is
//!   that of Wegman and Carter ("New hash functions and their use in authentication and set
//!   equality", 1981; the bounds are those of Bernstein, "Stronger security bounds for
//!   Wegman-Carter-Shoup authenticators", 2005): the rest, as a word, times a secret factor of the
//!   session in GF(2^64), under a mask that is used for nothing else. A block of AES has the masks
//!   of a call's request and of its answer, and waits for no checksum.
//! - *Any other packet*: AES in cipher block chaining over always four blocks, which needs no
//!   nonce: the session's secret bytes, the header's first part, what is the same for all packets
//!   of a message, and what is not, which is one block (Bellare, Kilian, Rogaway, "The security of
//!   the cipher block chaining message authentication code", 2000). The states after the secret of
//!   each session, and after what the packets of a message have in common of the messages last
//!   seen, are kept.
//!
//! Masks and factor are such codes themselves, of four blocks: the session's secret bytes, how its
//! usual requests begin, how its usual answers begin, and request number and slot; for the factor,
//! a slot that does not exist. The state after the first three is kept.
//!
//! [`Flags::HOLDS`]: crate::wire::packet::Flags::HOLDS

use core::cell::Cell;

use crate::aes128::{Aes128, Pad, WORD_BITS};
use crate::wire::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::wire::control::SLOTS_MAX;
use crate::wire::message::HEAD_BYTES_MAX;
use crate::wire::packet::{CHECK_AT, HEADER_BYTES, TAG_AT};

/// What the tags of a session's packets depend on beside the packets.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Binding {
    /// Of usual packets.
    pad: Pad,
    /// The cipher's state after the session's secret bytes, for other packets.
    any: u128,
    /// How the usual ones begin.
    usual: Usual,
}

/// How a session's usual packets begin: all in front of the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usual {
    pub(super) requests: u128,
    pub(super) answers: u128,
}

impl Usual {
    /// No packet is usual: versions are not zero.
    const NONE: Self = Self { requests: 0, answers: 0 };
}

/// The keys of tags.
pub(super) struct TagKeys {
    usual: UsualKey,
    any: Aes128,
    /// By slot and session, as far as they tell.
    recent: [Cell<Recent>; RECENT],
}

/// Messages whose state is kept.
const RECENT: usize = 16;

/// A message of several packets that was seen lately.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Recent {
    /// See [`Binding`]; beside it, how the message's packets begin, and [`of_message`].
    any: u128,
    first: u128,
    message: u128,
    /// The cipher's state after these.
    state: u128,
}

impl Recent {
    /// None: no request has this number.
    const NONE: Self = Self { any: 0, first: 0, message: u128::MAX, state: 0 };
}

/// The key of the tags of usual packets, apart, so that every endpoint has one: then no packet asks
/// whether there is one. It guards nothing where there is no key.
pub(super) struct UsualKey(Aes128);

/// What a whole message's header says behind the tag but for request number and checksum, as it is
/// known while one is made or taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    /// The slot.
    pub(super) slot: u64,
    /// Length of the payload, which is the message: below 2^16.
    pub(super) bytes: usize,
}

/// In the place of a slot, where the factor comes from.
const NO_SLOT: u64 = u64::MAX;
// Heads, lengths and checksums fit the word that is multiplied.
const _: () = assert!(HEAD_BYTES_MAX < 1 << 10 && 32 + 16 + 10 <= WORD_BITS);
const _: () = assert!((SLOTS_MAX as u64) < NO_SLOT);

impl TagKeys {
    pub(super) fn new(any: &[u8; 16], usual: &[u8; 16]) -> Self {
        let recent = [const { Cell::new(Recent::NONE) }; RECENT];
        Self { usual: UsualKey::new(usual), any: Aes128::new(any), recent }
    }

    /// What a session with these secret bytes has, of which no packet is usual.
    pub(super) fn bind(&self, secret: [u8; 16]) -> Binding {
        let any = self.any.encrypt(u128::from_ne_bytes(secret));
        Binding { pad: Pad::NONE, any, usual: Usual::NONE }
    }

    /// What one has whose usual packets begin so.
    pub(super) fn bind_usual(&self, secret: [u8; 16], usual: Usual) -> Binding {
        let cipher = &self.usual.0;
        let state = cipher.encrypt(u128::from_ne_bytes(secret));
        let state = cipher.encrypt(state ^ usual.requests);
        let state = cipher.encrypt(state ^ usual.answers);
        let (factor, _) = cipher.code_first(&cipher.pad(state, 0), 0, NO_SLOT, 0);
        Binding { pad: cipher.pad(state, factor), usual, ..self.bind(secret) }
    }

    /// The tag of a packet with this header. What the header has as its tag does not matter.
    #[inline(never)]
    pub(super) fn tag(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> u64 {
        let first = first_part(header);
        if (first == binding.usual.requests || first == binding.usual.answers)
            && let Some(word) = whole_message(header)
        {
            let (request, slot) = (u64_at(header, 24), u16_at(header, 32).into());
            return if first == binding.usual.requests {
                self.usual.0.code_first(&binding.pad, request, slot, word).0
            } else {
                self.usual.0.code_second(&binding.pad, request, slot, word)
            };
        }
        let (any, message) = (binding.any, of_message(header));
        let place = &self.recent[usize::from(header[32] ^ header[4]) % RECENT];
        let mut recent = place.get();
        if recent.any != any || recent.first != first || recent.message != message {
            let state = self.any.encrypt(self.any.encrypt(any ^ first) ^ message);
            recent = Recent { any, first, message, state };
            place.set(recent);
        }
        self.any.encrypt(recent.state ^ of_packet(header)) as u64
    }

    /// Whether a header has its tag.
    pub(super) fn is_tagged(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> bool {
        self.tag(binding, header) == u64_at(header, TAG_AT)
    }

    /// Puts a packet's tag into its header, which is finished otherwise.
    pub(super) fn put(&self, binding: &Binding, header: &mut [u8; HEADER_BYTES]) {
        let tag = self.tag(binding, header);
        put(header, TAG_AT, tag.to_le_bytes());
    }
}

impl Binding {
    /// What the tags of usual packets depend on.
    pub(super) fn pad(&self) -> Pad {
        self.pad
    }
}

impl UsualKey {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(Aes128::new(key))
    }

    /// Whether a request that begins as the session's usual ones do has its tag: of a whole message
    /// in this slot and of this length, as far as its fields for them say. Returns the mask of the
    /// answer's tag then.
    #[inline(always)]
    pub(super) fn is_tagged_request(
        &self,
        pad: &Pad,
        header: &[u8; HEADER_BYTES],
        whole: Whole,
    ) -> Option<u64> {
        let (request, word, usual) = in_question(header, whole);
        let (tag, of_answer) = self.0.code_first(pad, request, whole.slot, word);
        (usual && tag == u64_at(header, TAG_AT)).then_some(of_answer)
    }

    /// The same for an answer.
    #[inline(always)]
    pub(super) fn is_tagged_answer(
        &self,
        pad: &Pad,
        header: &[u8; HEADER_BYTES],
        whole: Whole,
    ) -> bool {
        let (request, word, usual) = in_question(header, whole);
        usual && self.0.code_second(pad, request, whole.slot, word) == u64_at(header, TAG_AT)
    }

    /// Puts the tag into the header of a usual request. `sealed` is what its last word says: the
    /// checksum, and the head's length.
    #[inline(always)]
    pub(super) fn put_request(
        &self,
        pad: &Pad,
        header: &mut [u8; HEADER_BYTES],
        request: u64,
        whole: Whole,
        sealed: u64,
    ) {
        let word = word(sealed, whole.bytes);
        let (tag, _) = self.0.code_first(pad, request, whole.slot, word);
        put(header, TAG_AT, tag.to_le_bytes());
    }

    /// The same for an answer, the mask of whose tag may be known already.
    #[inline(always)]
    pub(super) fn put_answer(
        &self,
        pad: &Pad,
        header: &mut [u8; HEADER_BYTES],
        request: u64,
        whole: Whole,
        sealed: u64,
        mask: Option<u64>,
    ) {
        let word = word(sealed, whole.bytes);
        let tag = match mask {
            Some(mask) => self.0.code_under(pad, mask, word),
            None => self.0.code_second(pad, request, whole.slot, word),
        };
        put(header, TAG_AT, tag.to_le_bytes());
    }
}

/// The request number and the word of a header that may be usual, and whether it is: none with a
/// packet number is.
#[inline(always)]
fn in_question(header: &[u8; HEADER_BYTES], whole: Whole) -> (u64, u64, bool) {
    let last = u64_at(header, 40);
    let usual = last & NOT_WHOLE == 0;
    (u64_at(header, 24), word(last, whole.bytes), usual)
}

/// The first part of a header: all in front of the tag.
#[inline(always)]
fn first_part(header: &[u8; HEADER_BYTES]) -> u128 {
    u128::from_ne_bytes(array_at(header, 0))
}

/// Bits of a header's last word that no whole message has: packet number zero, and a head whose
/// length needs ten bits.
const NOT_WHOLE: u64 = 0xFC00_FFFF;

/// What a whole message's header says behind its slot, whose last word this is: checksum, length,
/// and the head's length. No two that differ there have the same.
#[inline(always)]
fn word(last: u64, bytes: usize) -> u64 {
    (last | bytes as u64).rotate_right(32)
}

/// The word of a whole message's header; `None` for other headers.
#[inline(always)]
fn whole_message(header: &[u8; HEADER_BYTES]) -> Option<u64> {
    let (payload, message, last) = (u16_at(header, 34), u32_at(header, 36), u64_at(header, 40));
    let whole = message == u32::from(payload) && last & NOT_WHOLE == 0;
    whole.then(|| word(last, payload.into()))
}

/// What headers say of their message behind the tag: request number, slot, lengths of head and
/// message.
#[inline(always)]
fn of_message(header: &[u8; HEADER_BYTES]) -> u128 {
    let lengths = u64_at(header, 32) & !0xFFFF_0000 | u64::from(u16_at(header, 42)) << 16;
    (u128::from(u64_at(header, 24)) | u128::from(lengths) << 64).to_le()
}

/// What they say of the packet: its length, its number and its checksum.
#[inline(always)]
fn of_packet(header: &[u8; HEADER_BYTES]) -> u128 {
    let (payload, number) = (u16_at(header, 34), u16_at(header, 40));
    let word =
        u64::from(payload) | u64::from(number) << 16 | u64::from(u32_at(header, CHECK_AT)) << 32;
    u128::from(word).to_le()
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

    fn whole_of(header: &[u8; HEADER_BYTES]) -> Whole {
        Whole { slot: u16_at(header, 32).into(), bytes: u16_at(header, 34).into() }
    }

    /// A session whose usual packets of one direction begin as `header` does.
    fn session(keys: &TagKeys, header: &[u8; HEADER_BYTES], answer: bool) -> Binding {
        let (first, other) = (first_part(header), !first_part(header));
        let (requests, answers) = if answer { (other, first) } else { (first, other) };
        keys.bind_usual([9; 16], Usual { requests, answers })
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

    /// A product in GF(2^64) by long division.
    fn product(a: u64, b: u64) -> u64 {
        let mut product =
            (0..64).filter(|i| b >> i & 1 != 0).fold(0, |p, i| p ^ u128::from(a) << i);
        for bit in (64..128).rev() {
            if product >> bit & 1 != 0 {
                product ^= (1 << 64 | 0b11011) << (bit - 64);
            }
        }
        product as u64
    }

    fn block(low: u64, high: u64) -> [u8; 16] {
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }

    proptest! {
        /// Other packets, whole messages or not: four blocks in a chain.
        #[test]
        fn tags_of_other_packets_are_four_blocks(
            bytes in proptest::collection::vec(any::<u8>(), 48), secret in any::<[u8; 16]>(),
            whole in any::<bool>(), usual in any::<bool>(),
        ) {
            let mut header = header(&bytes, whole);
            let keys = keys(5);
            let mut binding = keys.bind(secret);
            if usual {
                // It begins so, but is no whole message.
                header[40] |= 1;
                let (requests, answers) = (first_part(&header), 0);
                binding = keys.bind_usual(secret, Usual { requests, answers });
            }
            let of_message = [&header[24..34], &header[42..44], &header[36..40]].concat();
            let of_packet = [&header[34..36], &header[40..42], &header[44..48], &[0; 8]].concat();
            let blocks = [
                secret,
                array_at(&header, 0),
                of_message.try_into().unwrap(),
                of_packet.try_into().unwrap(),
            ];
            let tag = keys.tag(&binding, &header);
            prop_assert_eq!(&tag.to_le_bytes()[..], &chained(&[5; 16], &blocks)[..8]);
        }

        /// The same, whatever messages were seen before.
        #[test]
        fn states_that_are_kept_are_of_their_message(
            bytes in proptest::collection::vec(any::<u8>(), 48),
            changes in proptest::collection::vec((0usize..48, 0u8..3, 1u8..3), 1..40),
        ) {
            let mut header = header(&bytes, false);
            let keys = keys(5);
            for (at, byte, secret) in changes {
                header[at] = byte;
                let fresh = super::tests::keys(5);
                let (binding, anew) = (keys.bind([secret; 16]), fresh.bind([secret; 16]));
                prop_assert_eq!(keys.tag(&binding, &header), fresh.tag(&anew, &header));
                prop_assert_eq!(keys.tag(&binding, &header), fresh.tag(&anew, &header));
            }
        }

        /// Usual ones: a word times a factor under a mask, whichever way it comes to be.
        #[test]
        fn tags_of_usual_packets_are_products_under_masks(
            bytes in proptest::collection::vec(any::<u8>(), 48), answer in any::<bool>(),
        ) {
            let mut header = header(&bytes, true);
            let keys = keys(5);
            let binding = session(&keys, &header, answer);
            let Usual { requests, answers } = binding.usual;
            let begin = [[9; 16], requests.to_ne_bytes(), answers.to_ne_bytes()];
            let of = |request, slot| {
                let blocks = [begin[0], begin[1], begin[2], block(request, slot)];
                chained(&[5 ^ 0xFF; 16], &blocks)
            };
            let (request, slot) = (u64_at(&header, 24), u16_at(&header, 32));
            let masks = of(request, slot.into());
            let mask = u64_at(&masks, if answer { 8 } else { 0 });
            let word = u64::from(u32_at(&header, 44))
                | u64::from(u16_at(&header, 34)) << 32
                | u64::from(u16_at(&header, 42)) << 48;
            let wanted = mask ^ product(u64_at(&of(0, u64::MAX), 0), word);
            prop_assert_eq!(keys.tag(&binding, &header), wanted);

            let (whole, of_answer) = (whole_of(&header), u64_at(&masks, 8));
            let (sealed, pad) = (u64_at(&header, 40), &binding.pad);
            if answer {
                for known in [None, Some(of_answer)] {
                    header[TAG_AT..TAG_AT + 8].fill(0);
                    keys.usual.put_answer(pad, &mut header, request, whole, sealed, known);
                    prop_assert!(keys.usual.is_tagged_answer(pad, &header, whole));
                }
                prop_assert_eq!(keys.usual.is_tagged_request(pad, &header, whole), None);
            } else {
                keys.usual.put_request(pad, &mut header, request, whole, sealed);
                let found = keys.usual.is_tagged_request(pad, &header, whole);
                prop_assert_eq!(found, Some(of_answer));
                prop_assert!(!keys.usual.is_tagged_answer(pad, &header, whole));
            }
            prop_assert_eq!(u64_at(&header, TAG_AT), wanted);
        }

        #[test]
        fn any_change_changes_the_tag(
            bytes in proptest::collection::vec(any::<u8>(), 48), bit in 0usize..48 * 8,
            whole in any::<bool>(), usual in any::<bool>(), answer in any::<bool>(),
        ) {
            let mut header = header(&bytes, whole);
            let bind = |keys: &TagKeys, header: &[u8; HEADER_BYTES], secret: u8| {
                let Usual { requests, answers } = session(keys, header, answer).usual;
                let secret = [secret; 16];
                if usual {
                    keys.bind_usual(secret, Usual { requests, answers })
                } else {
                    keys.bind(secret)
                }
            };
            let keys = keys(1);
            let binding = bind(&keys, &header, 9);
            keys.put(&binding, &mut header);
            prop_assert!(keys.is_tagged(&binding, &header));
            prop_assert!(!keys.is_tagged(&bind(&keys, &header, 10), &header));
            let others = super::tests::keys(2);
            prop_assert!(!others.is_tagged(&bind(&others, &header, 9), &header));
            header[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!keys.is_tagged(&binding, &header));
        }

        /// The same where the length and the slot are taken from elsewhere than the header, as they
        /// are when a usual packet comes in; those two have been compared with it then.
        #[test]
        fn any_change_of_a_usual_packet_changes_the_tag(
            bytes in proptest::collection::vec(any::<u8>(), 48), bit in 16usize * 8..48 * 8,
            answer in any::<bool>(),
        ) {
            let mut header = header(&bytes, true);
            let keys = keys(1);
            let binding = session(&keys, &header, answer);
            let is_tagged = |header: &[u8; HEADER_BYTES], whole| {
                if answer {
                    keys.usual.is_tagged_answer(&binding.pad, header, whole)
                } else {
                    keys.usual.is_tagged_request(&binding.pad, header, whole).is_some()
                }
            };
            let whole = whole_of(&header);
            keys.put(&binding, &mut header);
            prop_assert!(is_tagged(&header, whole));
            let longer = Whole { bytes: whole.bytes ^ 1, ..whole };
            prop_assert!(!is_tagged(&header, longer));
            let elsewhere = Whole { slot: whole.slot ^ 1, ..whole };
            prop_assert!(!is_tagged(&header, elsewhere));
            header[bit / 8] ^= 1 << (bit % 8);
            let told = (32..40).contains(&(bit / 8));
            prop_assert_eq!(is_tagged(&header, whole), told);
        }

        /// The shorter forms lose nothing of the header.
        #[test]
        fn headers_with_the_same_words_are_one_header(
            one in proptest::collection::vec(any::<u8>(), 48),
            other in proptest::collection::vec(any::<u8>(), 48), at in 24usize..48,
        ) {
            let (one, mut changed) = (header(&one, true), header(&one, true));
            changed[at] = other[at];
            let same = one[24..] == changed[24..];
            let words = |header: &[u8; HEADER_BYTES]| (of_message(header), of_packet(header));
            prop_assert_eq!(words(&one) == words(&changed), same);
            let changed = header(&changed, true);
            let same = one[24..] == changed[24..];
            let words = |header: &[u8; HEADER_BYTES]| {
                (u64_at(header, 24), u16_at(header, 32), whole_message(header))
            };
            prop_assert_eq!(words(&one) == words(&changed), same);
        }
    }
}
