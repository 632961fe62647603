//! Tags beside plain AES in cipher block chaining and plain long division.

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

/// The upper half of a product of 128 bits, bit by bit.
fn upper_half(factor: u128, word: u64) -> u64 {
    let terms = (0..64).filter(|bit| word >> bit & 1 != 0).map(|bit| factor << bit);
    (terms.fold(0, u128::wrapping_add) >> 64) as u64
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
        let beginning = [&header[..2], &[0; 2], &header[4..12], &[0; 4]].concat();
        let of_packet =
            [&header[44..48], &header[40..44], &header[12..16], &header[34..36], &header[2..4]];
        let of_packet = of_packet.concat();
        let blocks = [
            secret,
            beginning.try_into().unwrap(),
            of_message.try_into().unwrap(),
            of_packet.try_into().unwrap(),
        ];
        let tag = keys.tag(&binding, &header);
        prop_assert_eq!(&tag.to_le_bytes()[..], &chained(&[5; 16], &blocks)[..8]);
    }

    /// What is kept of a message holds for all its packets of a kind: none differs in more than
    /// flags, grant, payload, number, checksum and tag.
    #[test]
    fn packets_of_a_message_share_all_but_the_last_block(
        bytes in proptest::collection::vec(any::<u8>(), 48),
        other in proptest::collection::vec(any::<u8>(), 48),
    ) {
        let (header, mut changed) = (header(&bytes, false), header(&bytes, false));
        for part in [2..4, 12..24, 34..36, 40..42, 44..48] {
            changed[part.clone()].copy_from_slice(&other[part]);
        }
        let keys = keys(5);
        let binding = keys.bind([9; 16]);
        let message = keys.of_message(&binding, &header);
        prop_assert_eq!(keys.of_part(message, &changed), keys.tag(&binding, &changed));
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

    /// Usual ones: a word's hash under a mask, whichever way it comes to be.
    #[test]
    fn tags_of_usual_packets_are_hashes_under_masks(
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
        let factor = u128::from_le_bytes(of(0, u64::MAX));
        let wanted = mask.wrapping_add(upper_half(factor, word));
        prop_assert_eq!(keys.tag(&binding, &header), wanted);

        let (whole, of_answer) = (whole_of(&header), u64_at(&masks, 8));
        let (sealed, pad) = (u64_at(&header, 40), &binding.pad);
        if answer {
            for known in [None, Some(of_answer)] {
                header[TAG_AT..TAG_AT + 8].fill(0);
                keys.usual.put_answer(pad, &mut header, request, whole, sealed, known);
                prop_assert!(keys.usual.is_tagged_answer(pad, &header, whole));
            }
            prop_assert!(UsualKey::is_tagged_under(pad, &header, whole, of_answer));
            prop_assert!(!UsualKey::is_tagged_under(pad, &header, whole, of_answer ^ 1));
            prop_assert_eq!(keys.usual.is_tagged_request(pad, &header, whole), None);
        } else {
            let known = keys.usual.put_request(pad, &mut header, request, whole, sealed);
            prop_assert_eq!(known, of_answer);
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

/// The bound that [`hash`] states, of the same hash with a sixteenth of the bits, where all factors
/// can be tried: whatever two words are hashed, no difference comes of more than one factor in
/// eight.
#[test]
fn the_difference_of_two_hashes_is_hard_to_guess() {
    let hash = |factor: u8, word: u8| factor.wrapping_mul(word) >> 4;
    for (a, b) in (0..16).flat_map(|a| (0..16).map(move |b| (a, b))) {
        let mut factors = [0u32; 16];
        for factor in 0..=u8::MAX {
            factors[usize::from(hash(factor, a).wrapping_sub(hash(factor, b)) % 16)] += 1;
        }
        let most = if a == b { 256 } else { 2 * 256 / 16 };
        assert!(factors.iter().all(|count| *count <= most), "{a} and {b}: {factors:?}");
    }
}
