//! Requests to a memory node: short vectors of steps, in which a later step may use what an
//! earlier one made.
//!
//! A request of [`Method::MEMORY`](super::message::Method::MEMORY) carries its steps as
//! parameters, [`STEP_BYTES`] each, its references as arguments, and the bytes to be written as
//! its body. The first step that fails ends the request: what earlier steps *made* (regions,
//! references, snapshots to read) is given back, so a vector that makes before it ends things, as
//! [`put`] and [`take`] do, has its whole effect or none.
//!
//! ```text
//! 0 operation u8   1 rights u8   2 reference operand u8   3 region operand u8   4 zero
//! 8 region u64    16 offset u64 (bytes)                  24 length u64 (bytes)
//! ```
//!
//! The answer has the references made, in the order of their steps, as results; as parameters a
//! region for each step (zero where the step made none); the bytes read as its body. A failure has
//! a status of [`MemoryError`], and as parameters the step's number and two details.

use super::WireError;
use super::bytes::{put as put_field, u64_at};
use super::reference::Rights;

mod error;

pub use error::{FAILURE_BYTES, MemoryError, Resource, failure_parameters, parse_failure};

/// Most steps of a request.
pub const STEPS_MAX: usize = 4;
/// Length of a step, in bytes.
pub const STEP_BYTES: usize = 32;

/// Names a region at its memory node: an opaque number, never zero, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionName(pub u64);

/// Which region a step works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionOperand {
    /// This one.
    Named(RegionName),
    /// The one that an earlier step made.
    MadeBy(u8),
}

/// Which reference a step works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefOperand {
    /// The request's argument of this number.
    Argument(u8),
    /// The one that an earlier step made.
    MadeBy(u8),
}

/// A step. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reserve a region; its bytes read as zeros until written. Makes a region.
    Alloc {
        /// Its length.
        length: u64,
    },
    /// Give a region back.
    Free {
        /// The region.
        region: RegionOperand,
    },
    /// Read; the bytes become the answer's body.
    Read {
        /// The region.
        region: RegionOperand,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Write the request's body.
    Write {
        /// The region.
        region: RegionOperand,
        /// First byte.
        offset: u64,
    },
    /// Make a reference to a range as it is now. Makes a reference.
    CreateRef {
        /// The region.
        region: RegionOperand,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// What the reference entitles to.
        rights: Rights,
    },
    /// Make a region of one's own that begins with the reference's bytes. Makes a region.
    MapRef {
        /// The reference.
        reference: RefOperand,
    },
    /// Become the owner of a reference. Makes a reference, which replaces the one claimed.
    ClaimRef {
        /// The reference.
        reference: RefOperand,
    },
    /// Let a reference outlive its owner.
    Detach {
        /// The reference.
        reference: RefOperand,
    },
    /// End a reference.
    DropRef {
        /// The reference.
        reference: RefOperand,
    },
    /// Make a reference to a part of what another refers to, or with fewer rights.
    Narrow {
        /// The reference.
        reference: RefOperand,
        /// First byte, counted from the reference's first.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// What the new reference entitles to.
        rights: Rights,
    },
    /// Read what a reference refers to, without mapping it.
    ReadRef {
        /// The reference.
        reference: RefOperand,
        /// First byte, counted from the reference's first.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

/// In an operand byte: not the result of an earlier step.
const NAMED: u8 = 0xFF;
/// In a reference operand byte: a step's result, not an argument.
const RESULT: u8 = 0x80;

impl Step {
    /// Parses one step, the `number`-th of its vector: operands that are results must come from
    /// earlier steps.
    ///
    /// # Errors
    /// An unknown operation, right or operand.
    #[inline(always)]
    pub fn parse(bytes: &[u8; STEP_BYTES], number: u8) -> Result<Self, WireError> {
        let region = || match bytes[3] {
            NAMED => Ok(RegionOperand::Named(RegionName(u64_at(bytes, 8)))),
            step if step < number => Ok(RegionOperand::MadeBy(step)),
            step => Err(WireError::Value { field: "region operand", value: step.into() }),
        };
        let reference = || match bytes[2] {
            argument if argument < RESULT => Ok(RefOperand::Argument(argument)),
            result if result & !RESULT < number => Ok(RefOperand::MadeBy(result & !RESULT)),
            other => Err(WireError::Value { field: "reference operand", value: other.into() }),
        };
        let rights = || {
            Rights::from_bits(bytes[1])
                .ok_or(WireError::Value { field: "rights", value: bytes[1].into() })
        };
        let (offset, length) = (u64_at(bytes, 16), u64_at(bytes, 24));
        Ok(match bytes[0] {
            1 => Self::Alloc { length },
            2 => Self::Free { region: region()? },
            3 => Self::Read { region: region()?, offset, length },
            4 => Self::Write { region: region()?, offset },
            5 => Self::CreateRef { region: region()?, offset, length, rights: rights()? },
            6 => Self::MapRef { reference: reference()? },
            7 => Self::ClaimRef { reference: reference()? },
            8 => Self::Detach { reference: reference()? },
            9 => Self::DropRef { reference: reference()? },
            10 => Self::Narrow { reference: reference()?, offset, length, rights: rights()? },
            11 => Self::ReadRef { reference: reference()?, offset, length },
            other => return Err(WireError::Value { field: "operation", value: other.into() }),
        })
    }

    /// The step as bytes.
    #[inline(always)]
    pub fn to_bytes(&self) -> [u8; STEP_BYTES] {
        let mut wire = StepFields::default();
        match *self {
            Self::Alloc { length } => {
                (wire.operation, wire.length) = (1, length);
            }
            Self::Free { region } => {
                (wire.operation, wire.region) = (2, Some(region));
            }
            Self::Read { region, offset, length } => {
                (wire.operation, wire.region) = (3, Some(region));
                (wire.offset, wire.length) = (offset, length);
            }
            Self::Write { region, offset } => {
                (wire.operation, wire.region, wire.offset) = (4, Some(region), offset);
            }
            Self::CreateRef { region, offset, length, rights } => {
                (wire.operation, wire.region, wire.rights) = (5, Some(region), rights);
                (wire.offset, wire.length) = (offset, length);
            }
            Self::MapRef { reference } => {
                (wire.operation, wire.reference) = (6, Some(reference));
            }
            Self::ClaimRef { reference } => {
                (wire.operation, wire.reference) = (7, Some(reference));
            }
            Self::Detach { reference } => {
                (wire.operation, wire.reference) = (8, Some(reference));
            }
            Self::DropRef { reference } => {
                (wire.operation, wire.reference) = (9, Some(reference));
            }
            Self::Narrow { reference, offset, length, rights } => {
                (wire.operation, wire.reference, wire.rights) = (10, Some(reference), rights);
                (wire.offset, wire.length) = (offset, length);
            }
            Self::ReadRef { reference, offset, length } => {
                (wire.operation, wire.reference) = (11, Some(reference));
                (wire.offset, wire.length) = (offset, length);
            }
        }
        wire.to_bytes()
    }
}

/// The fields of a step on the wire, those that it does not use at zero.
#[derive(Default)]
struct StepFields {
    operation: u8,
    rights: Rights,
    reference: Option<RefOperand>,
    region: Option<RegionOperand>,
    offset: u64,
    length: u64,
}

impl StepFields {
    #[inline(always)]
    fn to_bytes(&self) -> [u8; STEP_BYTES] {
        let mut bytes = [0; STEP_BYTES];
        bytes[0] = self.operation;
        bytes[1] = self.rights.bits();
        bytes[2] = match self.reference {
            Some(RefOperand::MadeBy(step)) => step | RESULT,
            Some(RefOperand::Argument(argument)) => argument,
            None => 0,
        };
        match self.region {
            Some(RegionOperand::Named(name)) => {
                bytes[3] = NAMED;
                put_field(&mut bytes, 8, name.0.to_le_bytes());
            }
            Some(RegionOperand::MadeBy(step)) => bytes[3] = step,
            None => {}
        }
        put_field(&mut bytes, 16, self.offset.to_le_bytes());
        put_field(&mut bytes, 24, self.length.to_le_bytes());
        bytes
    }
}

/// The steps of a request.
#[derive(Clone, Copy, Debug)]
pub struct Steps<'a>(&'a [[u8; STEP_BYTES]]);

impl<'a> Steps<'a> {
    /// Checks a request's parameters.
    ///
    /// # Errors
    /// No step or too many, a length that is not a whole number of steps, an illegal step, or more
    /// than one step that writes the body or makes the answer's.
    pub fn parse(parameters: &'a [u8]) -> Result<Self, WireError> {
        let (steps, rest) = parameters.as_chunks::<STEP_BYTES>();
        if steps.is_empty() || steps.len() > STEPS_MAX || !rest.is_empty() {
            return Err(WireError::Value { field: "steps", value: parameters.len() as u64 });
        }
        let (mut writes, mut reads) = (0, 0);
        for (number, step) in steps.iter().enumerate() {
            match Step::parse(step, number as u8)? {
                Step::Write { .. } => writes += 1,
                Step::Read { .. } | Step::ReadRef { .. } => reads += 1,
                _ => {}
            }
        }
        if writes > 1 || reads > 1 {
            return Err(WireError::Value { field: "steps with a body", value: writes + reads });
        }
        Ok(Self(steps))
    }

    /// The steps in order.
    pub fn iter(&self) -> impl Iterator<Item = Step> + use<'a> {
        let numbered = self.0.iter().enumerate();
        numbered.map_while(|(number, step)| Step::parse(step, number as u8).ok())
    }
}

/// Writes `steps` to `out` and returns the bytes used.
///
/// # Panics
/// If there are more than [`STEPS_MAX`] steps, or `out` is too short for them.
pub fn emit_steps<'o>(steps: &[Step], out: &'o mut [u8; STEPS_MAX * STEP_BYTES]) -> &'o [u8] {
    assert!(steps.len() <= STEPS_MAX, "at most {STEPS_MAX} steps");
    for (step, bytes) in steps.iter().zip(out.as_chunks_mut::<STEP_BYTES>().0) {
        *bytes = step.to_bytes();
    }
    &out[..steps.len() * STEP_BYTES]
}

/// `put`: the body becomes a reference of its own; nothing else remains.
pub const fn put(length: u64, rights: Rights) -> [Step; 4] {
    let region = RegionOperand::MadeBy(0);
    [
        Step::Alloc { length },
        Step::Write { region, offset: 0 },
        Step::CreateRef { region, offset: 0, length, rights },
        Step::Free { region },
    ]
}

/// `take`: reads all that the first argument, of `length` bytes, refers to, and ends it.
pub const fn take(length: u64) -> [Step; 3] {
    let reference = RefOperand::Argument(0);
    [
        Step::ReadRef { reference, offset: 0, length },
        Step::ClaimRef { reference },
        Step::DropRef { reference: RefOperand::MadeBy(1) },
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    fn any_step() -> impl Strategy<Value = Step> {
        (1..=11u8, any::<(u64, u64, u64)>(), 0..16u8, 0..8u8, any::<(bool, bool)>()).prop_map(
            |(operation, (name, offset, length), rights, operand, (named, argument))| {
                let rights = Rights::from_bits(rights).unwrap();
                let region = if named {
                    RegionOperand::Named(RegionName(name))
                } else {
                    RegionOperand::MadeBy(operand)
                };
                let reference = if argument {
                    RefOperand::Argument(operand)
                } else {
                    RefOperand::MadeBy(operand)
                };
                match operation {
                    1 => Step::Alloc { length },
                    2 => Step::Free { region },
                    3 => Step::Read { region, offset, length },
                    4 => Step::Write { region, offset },
                    5 => Step::CreateRef { region, offset, length, rights },
                    6 => Step::MapRef { reference },
                    7 => Step::ClaimRef { reference },
                    8 => Step::Detach { reference },
                    9 => Step::DropRef { reference },
                    10 => Step::Narrow { reference, offset, length, rights },
                    _ => Step::ReadRef { reference, offset, length },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn steps_round_trip(step in any_step()) {
            prop_assert_eq!(Step::parse(&step.to_bytes(), 8), Ok(step));
        }

        #[test]
        fn a_step_cannot_use_its_own_or_a_later_result(step in any_step(), number in 0..8u8) {
            let operand = match step {
                Step::Free { region: RegionOperand::MadeBy(made) }
                | Step::DropRef { reference: RefOperand::MadeBy(made) } => made,
                _ => return Ok(()),
            };
            prop_assert_eq!(Step::parse(&step.to_bytes(), number).is_ok(), operand < number);
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..160)) {
            if let Ok(steps) = Steps::parse(&noise) {
                let _ = steps.iter().collect::<Vec<_>>();
            }
        }
    }
}
