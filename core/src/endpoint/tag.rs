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
//!   Wegman-Carter-Shoup authenticators", 2005): a hash of the rest, as a word, plus a mask that is
//!   used for nothing else. The hash is the upper half of the word times a secret factor of the
//!   session, both as 128 bits (Dietzfelbinger, "Universal hashing and k-wise independent random
//!   variables via integer arithmetic without primes", 1996; see [`hash`]). A block of AES has the
//!   masks of a call's request and of its answer, and waits for no checksum.
//! - *Any other packet*: AES in cipher block chaining over always four blocks, which needs no
//!   nonce: the session's secret bytes, how the header begins but for flags and grant, what else is
//!   the same for all packets of a message, and what is not, which is one block (Bellare, Kilian,
//!   Rogaway, "The security of the cipher block chaining message authentication code", 2000). The
//!   states after the secret of each session, and after what the packets of a message have in
//!   common, are kept.
//!
//! Masks and factor are such codes themselves, of four blocks: the session's secret bytes, how its
//! usual requests begin, how its usual answers begin, and request number and slot; for the factor,
//! a slot that does not exist. The state after the first three is kept.
//!
//! [`Flags::HOLDS`]: crate::wire::packet::Flags::HOLDS

use core::cell::Cell;

use crate::aes128::{Aes128, Begun};
use crate::wire::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::wire::control::SLOTS_MAX;
use crate::wire::message::HEAD_BYTES_MAX;
use crate::wire::packet::{CHECK_AT, HEADER_BYTES, TAG_AT};

/// What the tags of a session's usual packets depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Pad {
    /// Of the masks.
    begun: Begun,
    /// Of the hashes.
    factor: u128,
}

impl Pad {
    /// Of no session.
    pub(super) const NONE: Self = Self { begun: Begun::NONE, factor: 0 };
}

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
    /// By kind of packet, slot and session, as far as they tell.
    recent: [Cell<Recent>; RECENT],
}

/// What the tags of the packets of a message of several have in common: the cipher's state before
/// what they differ in, as words, which fit where sixteen bytes do not.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfMessage([u64; 2]);

/// Messages whose state is kept.
const RECENT: usize = 32;

/// A message of which packets of a kind were sent or came lately.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Recent {
    /// See [`Binding`]; beside it, [`beginning`] and [`of_message`].
    any: u128,
    first: u128,
    message: u128,
    /// What comes of these.
    state: OfMessage,
}

impl Recent {
    /// None: no request has this number.
    const NONE: Self = Self { any: 0, first: 0, message: u128::MAX, state: OfMessage::UNKNOWN };
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
// Heads, lengths and checksums fit the word that is hashed.
const _: () = assert!(HEAD_BYTES_MAX < 1 << 10 && 32 + 16 + 10 <= u64::BITS);
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
        let begun = cipher.begin(state);
        let (low, high) = cipher.halves(&begun, 0, NO_SLOT);
        let factor = u128::from(low) | u128::from(high) << 64;
        Binding { pad: Pad { begun, factor }, usual, ..self.bind(secret) }
    }

    /// The tag of a packet with this header. What the header has as its tag does not matter.
    #[inline(never)]
    pub(super) fn tag(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> u64 {
        let first = first_part(header);
        if (first == binding.usual.requests || first == binding.usual.answers)
            && let Some(word) = whole_message(header)
        {
            let (request, slot) = (u64_at(header, 24), u16_at(header, 32).into());
            let Masks { of_request, of_answer } = self.usual.masks(&binding.pad, request, slot);
            let asks = first == binding.usual.requests;
            return code(&binding.pad, if asks { of_request } else { of_answer }, word);
        }
        self.of_part(self.of_message_seen(binding, header), header)
    }

    /// What the tags of the packets of a message have in common, if one of them has this header.
    pub(super) fn of_message(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> OfMessage {
        let state = self.any.encrypt(binding.any ^ beginning(header));
        OfMessage::new(self.any.encrypt(state ^ of_message(header)))
    }

    /// What the tags of the packets of a message have in common, if one of them has this header,
    /// for who needs it again and again and cannot keep it.
    #[inline(never)]
    pub(super) fn of_message_seen(
        &self,
        binding: &Binding,
        header: &[u8; HEADER_BYTES],
    ) -> OfMessage {
        let (any, first, message) = (binding.any, beginning(header), of_message(header));
        let place = header[4] ^ header[32] ^ header[1] << 3;
        let place = &self.recent[usize::from(place) % RECENT];
        let recent = place.get();
        if recent.any == any && recent.first == first && recent.message == message {
            return recent.state;
        }
        let state = self.of_message(binding, header);
        place.set(Recent { any, first, message, state });
        state
    }

    /// The tag of a packet of that message that is not usual, which none of several is.
    #[inline(always)]
    pub(super) fn of_part(&self, message: OfMessage, header: &[u8; HEADER_BYTES]) -> u64 {
        self.any.encrypt(message.state() ^ of_packet(header)) as u64
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

impl OfMessage {
    /// Not found out yet. What looks the same by chance is found out again each time.
    pub(super) const UNKNOWN: Self = Self([0; 2]);

    /// Whether it was found out.
    #[inline(always)]
    pub(super) fn is_known(self) -> bool {
        self.0 != [0; 2]
    }

    fn new(state: u128) -> Self {
        Self([state as u64, (state >> 64) as u64])
    }

    #[inline(always)]
    fn state(self) -> u128 {
        u128::from(self.0[0]) | u128::from(self.0[1]) << 64
    }
}

impl Binding {
    /// What the tags of usual packets depend on.
    pub(super) fn pad(&self) -> Pad {
        self.pad
    }
}

/// What is added to the hashes of a call's two usual packets.
struct Masks {
    of_request: u64,
    of_answer: u64,
}

/// The hash of `word`: for any two words, and any difference, one factor in 2^63 gives hashes with
/// that difference. For the upper half of the factor times what the words differ by is any number
/// as often as any other, and hashes differ by that or by one more.
#[inline(always)]
fn hash(factor: u128, word: u64) -> u64 {
    (factor.wrapping_mul(word.into()) >> 64) as u64
}

/// The tag of a usual packet.
#[inline(always)]
fn code(pad: &Pad, mask: u64, word: u64) -> u64 {
    mask.wrapping_add(hash(pad.factor, word))
}

impl UsualKey {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(Aes128::new(key))
    }

    /// The masks of a call.
    #[inline(always)]
    fn masks(&self, pad: &Pad, request: u64, slot: u64) -> Masks {
        let (of_request, of_answer) = self.0.halves(&pad.begun, request, slot);
        Masks { of_request, of_answer }
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
        let (word, usual) = in_question(header, whole);
        let request = u64_at(header, 24);
        let Masks { of_request, of_answer } = self.masks(pad, request, whole.slot);
        let tagged = usual && code(pad, of_request, word) == u64_at(header, TAG_AT);
        tagged.then_some(of_answer)
    }

    /// The same for an answer, the mask of whose tag is known.
    #[inline(always)]
    pub(super) fn is_tagged_under(
        pad: &Pad,
        header: &[u8; HEADER_BYTES],
        whole: Whole,
        mask: u64,
    ) -> bool {
        let (word, usual) = in_question(header, whole);
        usual && code(pad, mask, word) == u64_at(header, TAG_AT)
    }

    /// The same where it is not.
    #[inline(always)]
    pub(super) fn is_tagged_answer(
        &self,
        pad: &Pad,
        header: &[u8; HEADER_BYTES],
        whole: Whole,
    ) -> bool {
        let request = u64_at(header, 24);
        let Masks { of_answer, .. } = self.masks(pad, request, whole.slot);
        Self::is_tagged_under(pad, header, whole, of_answer)
    }

    /// Puts the tag into the header of a usual request. `sealed` is what its last word says: the
    /// checksum, and the head's length. Returns the mask of its answer's tag.
    #[inline(always)]
    pub(super) fn put_request(
        &self,
        pad: &Pad,
        header: &mut [u8; HEADER_BYTES],
        request: u64,
        whole: Whole,
        sealed: u64,
    ) -> u64 {
        let Masks { of_request, of_answer } = self.masks(pad, request, whole.slot);
        let tag = code(pad, of_request, word(sealed, whole.bytes));
        put(header, TAG_AT, tag.to_le_bytes());
        of_answer
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
        let mask = mask.unwrap_or_else(|| self.masks(pad, request, whole.slot).of_answer);
        let tag = code(pad, mask, word(sealed, whole.bytes));
        put(header, TAG_AT, tag.to_le_bytes());
    }
}

/// The word of a header that may be usual, and whether it is: none with a packet number is.
#[inline(always)]
fn in_question(header: &[u8; HEADER_BYTES], whole: Whole) -> (u64, bool) {
    let last = u64_at(header, 40);
    (word(last, whole.bytes), last & NOT_WHOLE == 0)
}

/// The first part of a header: all in front of the tag.
#[inline(always)]
fn first_part(header: &[u8; HEADER_BYTES]) -> u128 {
    u128::from_ne_bytes(array_at(header, 0))
}

/// The same without flags and grant: what a session's packets of one kind have in common.
#[inline(always)]
fn beginning(header: &[u8; HEADER_BYTES]) -> u128 {
    let first = u64_at(header, 0) & !0xFFFF_0000;
    (u128::from(first) | u128::from(u32_at(header, 8)) << 64).to_le()
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

/// What they say of the packet: its checksum, its number (and the head's length again, which lies
/// beside it), its grant, its length and its flags. Loaded as it was stored: whoever loads two
/// fields at once that were stored one by one waits for both.
#[inline(always)]
fn of_packet(header: &[u8; HEADER_BYTES]) -> u128 {
    let low = u64::from(u32_at(header, CHECK_AT)) | u64::from(u32_at(header, 40)) << 32;
    let (payload, flags) = (u16_at(header, 34), u16_at(header, 2));
    let high = u64::from(u32_at(header, 12)) | u64::from(payload) << 32 | u64::from(flags) << 48;
    (u128::from(low) | u128::from(high) << 64).to_le()
}

#[cfg(test)]
mod tests;
