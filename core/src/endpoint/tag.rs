//! Tags: what shows that a packet is from its session's peer.
//!
//! A tag is a message authentication code over the session's secret bytes and the packet's header
//! without its tag, cut to 64 bits. There are two, with keys of their own, and the header alone
//! says which one is meant:
//!
//! - A packet that is a *whole message*, as nearly all small ones are: of its header's second part
//!   only 16 bytes say anything. So the code is AES in cipher block chaining over always three
//!   blocks: secret, first part, second part. Over messages of one length that is a
//!   pseudorandom function (Bellare, Kilian, Rogaway, "The security of the cipher block chaining
//!   message authentication code", 2000). The first part is the same for all such packets of a
//!   session in one direction, so its block, and the secret's, are encrypted once a session; each
//!   packet costs one.
//! - Any other packet: AES-CMAC (RFC 4493) over the same, of which the secret's block is encrypted
//!   once; each packet costs three.

use aes::Aes128Enc;
use aes::cipher::{
    Block, BlockBackend, BlockClosure, BlockEncrypt, BlockSizeUser, KeyInit, consts::U16,
};

use crate::wire::bytes::{array_at, put, u32_at, u64_at};
use crate::wire::packet::{HEADER_BYTES, TAG_AT};

/// What the tags of a session's packets depend on beside the packets: states of the ciphers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Binding {
    /// After the beginning of the usual packets that come in, and of those that go out.
    incoming: u128,
    outgoing: u128,
    /// After the session's secret bytes, for whole messages.
    whole: u128,
    /// The same for other packets.
    any: u128,
}

/// The keys of tags.
pub(super) struct TagKeys {
    any: Aes128Enc,
    /// RFC 4493's K2, for a last block that is not full.
    last: u128,
    whole: Aes128Enc,
}

impl TagKeys {
    pub(super) fn new(any: &[u8; 16], whole: &[u8; 16]) -> Self {
        let any = Aes128Enc::new(any.into());
        let zero = encrypt(&any, 0);
        let last = double(double(u128::from_be(zero)));
        Self { any, last: last.to_be(), whole: Aes128Enc::new(whole.into()) }
    }

    /// What a session with these secret bytes has.
    pub(super) fn bind(&self, secret: [u8; 16]) -> Binding {
        let secret = u128::from_ne_bytes(secret);
        let (any, whole) = (encrypt(&self.any, secret), encrypt(&self.whole, secret));
        Binding { incoming: whole, outgoing: whole, whole, any }
    }

    /// Tells a session how the usual packets begin that come in, and that go out.
    pub(super) fn expect(&self, binding: &mut Binding, incoming: u128, outgoing: u128) {
        binding.incoming = encrypt(&self.whole, binding.whole ^ incoming);
        binding.outgoing = encrypt(&self.whole, binding.whole ^ outgoing);
    }

    /// The tag of a packet with this header. What the header has as its tag does not matter.
    pub(super) fn tag(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> u64 {
        match whole_message(header) {
            Some(block) => {
                let state = encrypt(&self.whole, binding.whole ^ first_part(header));
                encrypt(&self.whole, state ^ block) as u64
            }
            None => {
                let mut tag = 0;
                let last = self.last;
                self.any.encrypt_with_backend(Chain {
                    state: binding.any,
                    header,
                    last,
                    tag: &mut tag,
                });
                tag
            }
        }
    }

    /// Whether a header has its tag.
    pub(super) fn is_tagged(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> bool {
        self.tag(binding, header) == u64_at(header, TAG_AT)
    }

    /// The same for a header that begins as the session's usual ones do that come in.
    #[inline(always)]
    pub(super) fn is_tagged_usual(&self, binding: &Binding, header: &[u8; HEADER_BYTES]) -> bool {
        match whole_message(header) {
            Some(block) => {
                encrypt(&self.whole, binding.incoming ^ block) as u64 == u64_at(header, TAG_AT)
            }
            None => self.is_tagged(binding, header),
        }
    }

    /// Puts a packet's tag into its header, which is finished otherwise.
    pub(super) fn put(&self, binding: &Binding, header: &mut [u8; HEADER_BYTES]) {
        let tag = self.tag(binding, header);
        put(header, TAG_AT, tag.to_le_bytes());
    }

    /// The same for a header that begins as the session's usual ones do that go out.
    #[inline(always)]
    pub(super) fn put_usual(&self, binding: &Binding, header: &mut [u8; HEADER_BYTES]) {
        match whole_message(header) {
            Some(block) => {
                let tag = encrypt(&self.whole, binding.outgoing ^ block) as u64;
                put(header, TAG_AT, tag.to_le_bytes());
            }
            None => self.put(binding, header),
        }
    }
}

/// The first part of a header: all in front of the tag.
#[inline(always)]
fn first_part(header: &[u8; HEADER_BYTES]) -> u128 {
    u128::from_ne_bytes(array_at(header, 0))
}

/// The part behind the tag of a header of a whole message, as one block; `None` for other headers.
/// No two headers with the same block differ.
#[inline(always)]
fn whole_message(header: &[u8; HEADER_BYTES]) -> Option<u128> {
    let (lengths, rest) = (u64_at(header, 32), u32_at(header, 40));
    let (slot, payload, message) = (lengths as u16, (lengths >> 16) as u16, lengths >> 32);
    // Packet number zero, and a head whose length needs ten bits, beside the six of the slot.
    let whole = message == u64::from(payload) && slot < 1 << 6 && rest & 0xFC00_FFFF == 0;
    let slot_and_head = u64::from(slot) | u64::from(rest >> 16) << 6;
    let check = u64::from(u32_at(header, 44));
    let second = u64::from(payload) | slot_and_head << 16 | check << 32;
    whole.then(|| u128::from(u64_at(header, 24)) | u128::from(second) << 64)
}

/// Doubling in GF(2^128), as RFC 4493 has it.
fn double(value: u128) -> u128 {
    let carry = (value >> 127) * 0x87;
    (value << 1) ^ carry
}

/// One block.
#[inline(always)]
fn encrypt(cipher: &Aes128Enc, block: u128) -> u128 {
    let mut out = 0;
    cipher.encrypt_with_backend(One { block, out: &mut out });
    out
}

/// One block, on the cipher's backend.
struct One<'a> {
    block: u128,
    out: &'a mut u128,
}

impl BlockSizeUser for One<'_> {
    type BlockSize = U16;
}

impl BlockClosure for One<'_> {
    #[inline(always)]
    fn call<B: BlockBackend<BlockSize = U16>>(self, backend: &mut B) {
        let mut block = Block::<Self>::from(self.block.to_ne_bytes());
        backend.proc_block((&mut block).into());
        *self.out = u128::from_ne_bytes(block.into());
    }
}

/// The last three blocks of a packet's CMAC, in one go on the cipher's backend.
struct Chain<'a> {
    state: u128,
    header: &'a [u8; HEADER_BYTES],
    last: u128,
    tag: &'a mut u64,
}

impl BlockSizeUser for Chain<'_> {
    type BlockSize = U16;
}

impl BlockClosure for Chain<'_> {
    #[inline(always)]
    fn call<B: BlockBackend<BlockSize = U16>>(self, backend: &mut B) {
        let mut step = |state: u128| {
            let mut block = Block::<Self>::from(state.to_ne_bytes());
            backend.proc_block((&mut block).into());
            u128::from_ne_bytes(block.into())
        };
        let state = step(self.state ^ first_part(self.header));
        let state = step(state ^ u128::from_ne_bytes(array_at(self.header, 24)));
        // The last block has half of its bytes: a one follows, then zeros (RFC 4493, 2.4).
        let mut last = [0; 16];
        last[..8].copy_from_slice(&self.header[40..]);
        last[8] = 0x80;
        *self.tag = step(state ^ u128::from_ne_bytes(last) ^ self.last) as u64;
    }
}

#[cfg(test)]
mod tests {
    use aes::Aes128;
    use aes::cipher::BlockEncrypt as _;
    use proptest::prelude::*;

    use super::super::auth::cmac;
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
        let cipher = Aes128::new(key.into());
        blocks.iter().fold([0; 16], |state, block| {
            let mixed: [u8; 16] = core::array::from_fn(|i| state[i] ^ block[i]);
            let mut block = mixed.into();
            cipher.encrypt_block(&mut block);
            block.into()
        })
    }

    proptest! {
        /// Other packets: AES-CMAC over secret and header without tag, as the crate computes it.
        #[test]
        fn tags_of_parts_are_cmac(
            bytes in proptest::collection::vec(any::<u8>(), 48), secret in any::<[u8; 16]>()
        ) {
            let mut header = header(&bytes, false);
            header[40] |= 1;
            let whole = cmac(&[5; 16], &[&secret, &header[..16], &header[24..]]);
            let tag = keys(5).tag(&keys(5).bind(secret), &header);
            prop_assert_eq!(&tag.to_ne_bytes()[..], &whole[..8]);
        }

        /// Whole messages: three blocks in a chain, the same whether their beginning is known
        /// beforehand or not.
        #[test]
        fn tags_of_whole_messages_are_three_blocks(
            bytes in proptest::collection::vec(any::<u8>(), 48), secret in any::<[u8; 16]>()
        ) {
            let mut header = header(&bytes, true);
            let mut last = [0; 16];
            last[..8].copy_from_slice(&header[24..32]);
            last[8..10].copy_from_slice(&header[34..36]);
            let head = u16::from_le_bytes([header[42], header[43]]);
            last[10..12].copy_from_slice(&(head << 6 | u16::from(header[32])).to_le_bytes());
            last[12..].copy_from_slice(&header[44..]);
            let blocks = [secret, array_at(&header, 0), last];
            let wanted = chained(&[5 ^ 0xFF; 16], &blocks);
            let keys = keys(5);
            let mut binding = keys.bind(secret);
            prop_assert_eq!(&keys.tag(&binding, &header).to_ne_bytes()[..], &wanted[..8]);
            let first = first_part(&header);
            keys.expect(&mut binding, first, 0);
            keys.put(&binding, &mut header);
            prop_assert!(keys.is_tagged_usual(&binding, &header));
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

        /// The shorter form loses nothing of the header.
        #[test]
        fn whole_messages_with_one_block_are_one_header(
            one in proptest::collection::vec(any::<u8>(), 48),
            other in proptest::collection::vec(any::<u8>(), 48), at in 24usize..48,
        ) {
            let (one, mut changed) = (header(&one, true), header(&one, true));
            changed[at] = other[at];
            let changed = header(&changed, true);
            let same = one[24..] == changed[24..];
            prop_assert_eq!(whole_message(&one) == whole_message(&changed), same);
        }
    }
}
