//! The 64 bytes of a reference.
//!
//! ```text
//!  0 memory node u32        4 index u32 (of the entry)
//!  8 incarnation u64 (of the memory node)
//! 16 generation u64 (of the entry)
//! 24 offset u64 (bytes, in the entry's range)
//! 32 length u64 (bytes)
//! 40 rights u8   41 reserved, zero
//! 48 reserved, zero
//! 56 tag u64: SipHash-2-4 of everything before it but the reserved bytes, under the memory
//!    node's key, in the order incarnation, memory node (as a u64), offset, length, generation,
//!    index, rights: what is the same for all references of a memory node comes first, and is
//!    summed up once
//! ```
//!
//! The bytes may be copied freely: they are a claim, not a count. What they claim is checked at
//! the memory node, whose keyed tag makes them unforgeable. Narrowing is an operation of the
//! memory node because a chain of tags that narrows offline must carry every link of the chain,
//! and 64 bytes have no room for it; it costs the memory node one hash and no state.

use bitflags::bitflags;

use super::WireError;
use super::bytes::{put, u32_at, u64_at};
use super::sip::Sip;

/// Length of a reference, in bytes.
pub const REF_BYTES: usize = 64;
const TAG_AT: usize = 56;
/// Bytes that the tag is made of.
const TAGGED_BYTES: u8 = 45;

bitflags! {
    /// What the holder of a reference's bytes may ask for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Rights: u8 {
        /// Map it, and read it without mapping.
        const MAP = 1;
        /// Claim it: become its owner. Works once.
        const CONSUME = 1 << 1;
        /// Make a reference to a part of it, or with fewer rights.
        const NARROW = 1 << 2;
        /// Drop it, if its owner.
        const DROP = 1 << 3;
    }
}

/// A reference to a range of bytes in disaggregated memory, as it was when the reference was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ref {
    /// The memory node (or, under cxl, the pool).
    pub memory_node: u32,
    /// Which life of the memory node.
    pub incarnation: u64,
    /// The entry in the memory node's reference table.
    pub index: u32,
    /// Which use of that entry.
    pub generation: u64,
    /// First byte, counted from the beginning of the entry's range.
    pub offset: u64,
    /// Number of bytes: at least one, and `offset + length` does not overflow.
    pub length: u64,
    /// What the bytes entitle to.
    pub rights: Rights,
    /// Proof that the memory node made all of the above.
    pub tag: u64,
}

impl Ref {
    /// Parses a reference. Whether it is genuine only its memory node can tell.
    ///
    /// # Errors
    /// Unknown rights, an empty or overflowing range, or a reserved byte that is not zero.
    #[inline]
    pub fn parse(bytes: &[u8; REF_BYTES]) -> Result<Self, WireError> {
        let (offset, length) = (u64_at(bytes, 24), u64_at(bytes, 32));
        if length == 0 || offset.checked_add(length).is_none() {
            return Err(WireError::Value { field: "reference length", value: length });
        }
        let rights = Rights::from_bits(bytes[40])
            .ok_or(WireError::Value { field: "reference rights", value: bytes[40].into() })?;
        if u64_at(bytes, 40) >> 8 | u64_at(bytes, 48) != 0 {
            return Err(WireError::Value { field: "reference reserved bytes", value: 1 });
        }
        Ok(Self {
            memory_node: u32_at(bytes, 0),
            index: u32_at(bytes, 4),
            incarnation: u64_at(bytes, 8),
            generation: u64_at(bytes, 16),
            offset,
            length,
            rights,
            tag: u64_at(bytes, TAG_AT),
        })
    }

    /// Writes the reference.
    ///
    /// # Panics
    /// If `out` is shorter than [`REF_BYTES`].
    #[inline(always)]
    pub fn emit(&self, out: &mut [u8]) {
        let bytes = out.first_chunk_mut::<REF_BYTES>().expect("room for a reference");
        *bytes = self.to_bytes();
    }

    /// The reference as bytes.
    #[inline(always)]
    pub fn to_bytes(&self) -> [u8; REF_BYTES] {
        let mut bytes = [0; REF_BYTES];
        put(&mut bytes, 0, self.memory_node.to_le_bytes());
        put(&mut bytes, 4, self.index.to_le_bytes());
        put(&mut bytes, 8, self.incarnation.to_le_bytes());
        put(&mut bytes, 16, self.generation.to_le_bytes());
        put(&mut bytes, 24, self.offset.to_le_bytes());
        put(&mut bytes, 32, self.length.to_le_bytes());
        bytes[40] = self.rights.bits();
        put(&mut bytes, TAG_AT, self.tag.to_le_bytes());
        bytes
    }

    /// The same reference with the tag that belongs to its other fields under `key`.
    #[must_use]
    pub fn sealed(self, key: &RefKey) -> Self {
        self.sealed_by(&Sealer::new(key, self.memory_node, self.incarnation))
    }

    /// Whether the tag is the one that belongs to the other fields under `key`.
    pub fn is_genuine(&self, key: &RefKey) -> bool {
        self.tag == self.sealed(key).tag
    }

    /// The same reference with the tag that belongs to its other fields, as one of the memory node
    /// that `sealer` is for.
    #[inline(always)]
    #[must_use]
    pub fn sealed_by(mut self, sealer: &Sealer) -> Self {
        self.tag = sealer.tag(&self);
        self
    }
}

/// A memory node's secret. Drawn at random by the caller at start; never leaves the node.
#[derive(Clone, Copy)]
pub struct RefKey(pub [u8; 16]);

/// What one memory node seals its references with: its key, and what they have in common.
#[derive(Clone, Copy)]
pub struct Sealer(Sip);

impl Sealer {
    /// For the references of a memory node in one life of it.
    pub fn new(key: &RefKey, memory_node: u32, incarnation: u64) -> Self {
        Self(Sip::new(&key.0).word(incarnation).word(memory_node.into()))
    }

    /// The tag of a reference of this memory node: its node and incarnation are not looked at.
    #[inline(always)]
    pub fn tag(&self, reference: &Ref) -> u64 {
        // What is known before an entry is taken comes before what is not.
        let sip = self.0.word(reference.offset).word(reference.length).word(reference.generation);
        let rights = u64::from(reference.rights.bits());
        sip.finish(TAGGED_BYTES, u64::from(reference.index) | rights << 32)
    }
}

impl core::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sealer(secret)")
    }
}

impl core::fmt::Debug for RefKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RefKey(secret)")
    }
}

/// Any legal reference.
#[cfg(test)]
pub(crate) fn any_ref() -> impl proptest::strategy::Strategy<Value = Ref> {
    use proptest::prelude::*;
    (any::<(u32, u64, u32, u64)>(), 0..u64::MAX / 2, 1..u64::MAX / 2, 0..16u8, any::<u64>())
        .prop_map(|((memory_node, incarnation, index, generation), offset, length, rights, tag)| {
            Ref {
                memory_node,
                incarnation,
                index,
                generation,
                offset,
                length,
                rights: Rights::from_bits(rights).unwrap(),
                tag,
            }
        })
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(reference in any_ref()) {
            prop_assert_eq!(Ref::parse(&reference.to_bytes()), Ok(reference));
        }

        #[test]
        fn any_changed_bit_makes_it_a_forgery(
            reference in any_ref(), key in any::<[u8; 16]>(), bit in 0..REF_BYTES * 8
        ) {
            let key = RefKey(key);
            let mut bytes = reference.sealed(&key).to_bytes();
            prop_assert!(Ref::parse(&bytes).unwrap().is_genuine(&key));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!Ref::parse(&bytes).is_ok_and(|forged| forged.is_genuine(&key)));
        }

        #[test]
        fn the_tag_is_what_the_first_lines_say(reference in any_ref(), key in any::<[u8; 16]>()) {
            let mut hasher = SipHasher24::new_with_key(&key);
            hasher.write(&reference.incarnation.to_le_bytes());
            hasher.write(&u64::from(reference.memory_node).to_le_bytes());
            hasher.write(&reference.offset.to_le_bytes());
            hasher.write(&reference.length.to_le_bytes());
            hasher.write(&reference.generation.to_le_bytes());
            hasher.write(&reference.index.to_le_bytes());
            hasher.write(&[reference.rights.bits()]);
            prop_assert_eq!(reference.sealed(&RefKey(key)).tag, hasher.finish());
        }

        #[test]
        fn noise_never_panics(noise in any::<[[u8; 32]; 2]>()) {
            let _ = Ref::parse(&noise.concat().try_into().unwrap());
        }
    }
}
