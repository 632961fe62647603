//! What a request or a response consists of, once its packets are put together.
//!
//! ```text
//! head:  fixed header | argument table, 8 bytes each | references, 64 bytes each | parameters
//! body:  the bytes of all inline arguments, one after the other
//! ```
//!
//! A message with a body and without a table has one argument: the body. That is the usual call,
//! which therefore needs no table.
//!
//! The head always lies in the message's first packet; the packet header says how long it is.
//! References travel in the head, so that the library can claim, narrow and trace them without
//! reading user bytes. Parameters are small bytes that the receiver needs before the body, such as
//! the steps of a memory operation.

use super::WireError;
use super::bytes::{array_at, put, u16_at, u32_at};
use super::reference::{REF_BYTES, Ref};

/// Longest message, in bytes: 8 MiB of body and a head.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024 + HEAD_BYTES_MAX;
/// Longest head, in bytes. It fits the first packet on every medium with an MTU of 1500.
pub const HEAD_BYTES_MAX: usize = 768;
/// Most arguments of a message.
pub const ARGS_MAX: usize = 8;
/// Length of a request's fixed header, in bytes.
pub const REQUEST_HEADER_BYTES: usize = 32;
/// Length of a response's fixed header, in bytes.
pub const RESPONSE_HEADER_BYTES: usize = 8;
/// Length of an entry of the argument table, in bytes.
pub const ARG_BYTES: usize = 8;
/// Most calls within calls: the depth of the deepest is one less.
pub const DEPTH_MAX: u8 = 8;

/// Which operation of a service a request asks for. Numbers from [`Method::SYSTEM_FIRST`] are
/// the library's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method(pub u16);

impl Method {
    /// First of the numbers that belong to the library.
    pub const SYSTEM_FIRST: u16 = 0xFF00;
    /// A vector of memory operations, for a memory node.
    pub const MEMORY: Self = Self(0xFF01);
    /// Counters and gauges of an endpoint, for people.
    pub const STATISTICS: Self = Self(0xFF02);
    /// Where pages of a region are, for participants of a pool in flush mode.
    pub const PLACES: Self = Self(0xFF03);

    /// Whether the number belongs to the library.
    pub const fn is_system(self) -> bool {
        self.0 >= Self::SYSTEM_FIRST
    }
}

/// How a request ended at its service. Numbers from [`Status::APPLICATION_FIRST`] are the
/// service's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

impl Status {
    /// Done.
    pub const OK: Self = Self(0);
    /// The service does not know the method.
    pub const UNKNOWN_METHOD: Self = Self(1);
    /// The request's bytes make no sense to the service.
    pub const MALFORMED: Self = Self(2);
    /// Calls within calls go deeper than [`DEPTH_MAX`].
    pub const TOO_DEEP: Self = Self(3);
    /// The deadline had passed before the service could start.
    pub const DEADLINE: Self = Self(4);
    /// The caller cancelled before the service started.
    pub const CANCELLED: Self = Self(5);
    /// The answer is longer than a message can be, or than the caller has room for.
    pub const ANSWER_TOO_LARGE: Self = Self(6);
    /// A call that the service made for this one failed.
    pub const NESTED_FAILED: Self = Self(7);
    /// First of the memory node's errors.
    pub const MEMORY_FIRST: u16 = 0x100;
    /// First of the numbers that belong to services.
    pub const APPLICATION_FIRST: u16 = 0x8000;
}

/// Names one call and all calls made for it, across every hop. Zero means not traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// An earlier call of the same session that must have been executed before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Its slot.
    pub slot: u16,
    /// The low 32 bits of its call number.
    pub call: u32,
}

/// The fixed header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The operation asked for.
    pub method: Method,
    /// How many calls this one is nested in: below [`DEPTH_MAX`].
    pub depth: u8,
    /// Number of arguments: at most [`ARGS_MAX`].
    pub args: u8,
    /// Time left until the caller gives up, in microseconds; zero without a deadline.
    pub deadline_us: u32,
    /// The trace that the call belongs to.
    pub trace: TraceId,
    /// What must have been executed before.
    pub after: Option<After>,
}

/// No slot has this number: [`RequestHeader::after`] is `None`.
const NO_SLOT: u16 = u16::MAX;

impl RequestHeader {
    /// Parses the first [`REQUEST_HEADER_BYTES`] of a head.
    ///
    /// # Errors
    /// Too few bytes, or a depth or argument count beyond the limits.
    #[inline(always)]
    pub fn parse(head: &[u8]) -> Result<Self, WireError> {
        let Some(bytes) = head.first_chunk::<REQUEST_HEADER_BYTES>() else {
            return Err(WireError::Truncated { needed: REQUEST_HEADER_BYTES, got: head.len() });
        };
        let (depth, args) = (bytes[2], bytes[3]);
        if depth >= DEPTH_MAX {
            return Err(WireError::Value { field: "depth", value: depth.into() });
        }
        if usize::from(args) > ARGS_MAX {
            return Err(WireError::Value { field: "args", value: args.into() });
        }
        let slot = u16_at(bytes, 28);
        Ok(Self {
            method: Method(u16_at(bytes, 0)),
            depth,
            args,
            deadline_us: u32_at(bytes, 4),
            trace: TraceId(u128::from_le_bytes(array_at(bytes, 8))),
            after: (slot != NO_SLOT).then(|| After { slot, call: u32_at(bytes, 24) }),
        })
    }

    /// Parses a header without a call to follow; `None` if it has one, or does not parse.
    #[inline(always)]
    pub fn parse_free(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Option<Self> {
        if u16_at(bytes, 28) != NO_SLOT {
            return None;
        }
        // Depth and number of arguments, side by side: usually there are none.
        let depth = u16_at(bytes, 2);
        if depth >= DEPTH_MAX.into() {
            return Self::parse_unusual(bytes);
        }
        Some(Self {
            method: Method(u16_at(bytes, 0)),
            depth: depth as u8,
            args: 0,
            deadline_us: u32_at(bytes, 4),
            trace: TraceId(u128::from_le_bytes(array_at(bytes, 8))),
            after: None,
        })
    }

    #[inline(never)]
    fn parse_unusual(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Option<Self> {
        Self::parse(bytes).ok()
    }

    /// Writes the header.
    ///
    /// # Panics
    /// If `head` is shorter than [`REQUEST_HEADER_BYTES`].
    #[inline]
    pub fn emit(&self, head: &mut [u8]) {
        let bytes = head.first_chunk_mut::<REQUEST_HEADER_BYTES>().expect("room for the header");
        let after = self.after.unwrap_or(After { slot: NO_SLOT, call: 0 });
        // By words, for it is copied by words right after.
        let first = u64::from(self.method.0)
            | u64::from(self.depth) << 16
            | u64::from(self.args) << 24
            | u64::from(self.deadline_us) << 32;
        put(bytes, 0, first.to_le_bytes());
        put(bytes, 8, self.trace.0.to_le_bytes());
        put(bytes, 24, (u64::from(after.call) | u64::from(after.slot) << 32).to_le_bytes());
    }
}

/// The fixed header of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// How the request ended.
    pub status: Status,
    /// Number of arguments (results): at most [`ARGS_MAX`].
    pub args: u8,
}

impl ResponseHeader {
    /// Parses the first [`RESPONSE_HEADER_BYTES`] of a head.
    ///
    /// # Errors
    /// Too few bytes, or an argument count beyond the limit.
    #[inline(always)]
    pub fn parse(head: &[u8]) -> Result<Self, WireError> {
        let Some(bytes) = head.first_chunk::<RESPONSE_HEADER_BYTES>() else {
            return Err(WireError::Truncated { needed: RESPONSE_HEADER_BYTES, got: head.len() });
        };
        if usize::from(bytes[2]) > ARGS_MAX {
            return Err(WireError::Value { field: "args", value: bytes[2].into() });
        }
        Ok(Self { status: Status(u16_at(bytes, 0)), args: bytes[2] })
    }

    /// Writes the header.
    ///
    /// # Panics
    /// If `head` is shorter than [`RESPONSE_HEADER_BYTES`].
    #[inline]
    pub fn emit(&self, head: &mut [u8]) {
        let bytes = head.first_chunk_mut::<RESPONSE_HEADER_BYTES>().expect("room for the header");
        *bytes = [0; RESPONSE_HEADER_BYTES];
        put(bytes, 0, self.status.0.to_le_bytes());
        bytes[2] = self.args;
    }
}

/// An argument as the head describes it: its bytes, if inline, are in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a reference is 64 bytes by design; none is boxed")]
pub enum ArgEntry {
    /// So many bytes of the body.
    Inline {
        /// How many.
        bytes: u32,
    },
    /// A reference.
    Ref(Ref),
}

/// A head's argument table, references and parameters. Checked once, then read freely.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    table: &'a [u8],
    refs: &'a [u8],
    parameters: &'a [u8],
}

impl<'a> Arguments<'a> {
    /// No arguments, no parameters.
    pub const NONE: Arguments<'static> = Arguments { table: &[], refs: &[], parameters: &[] };

    /// Parses what follows the fixed header: a table of `count` arguments, their references, and
    /// as parameters whatever is left.
    ///
    /// # Errors
    /// Too few bytes for what the table announces, an unknown kind of argument, or a reference
    /// that does not parse.
    #[inline(always)]
    pub fn parse(count: u8, after_header: &'a [u8]) -> Result<Self, WireError> {
        if count == 0 { Ok(Self::none(after_header)) } else { Self::some(count, after_header) }
    }

    /// No arguments, only parameters.
    #[inline(always)]
    pub const fn none(parameters: &'a [u8]) -> Self {
        Self { table: &[], refs: &[], parameters }
    }

    #[inline(never)]
    fn some(count: u8, after_header: &'a [u8]) -> Result<Self, WireError> {
        let truncated = |needed| WireError::Truncated { needed, got: after_header.len() };
        let table_bytes = usize::from(count) * ARG_BYTES;
        let (table, rest) =
            after_header.split_at_checked(table_bytes).ok_or(truncated(table_bytes))?;
        let mut refs_bytes = 0;
        for entry in table.as_chunks::<ARG_BYTES>().0 {
            match entry[0] {
                KIND_INLINE => {}
                KIND_REF => refs_bytes += REF_BYTES,
                other => return Err(WireError::Value { field: "arg kind", value: other.into() }),
            }
        }
        let (refs, parameters) =
            rest.split_at_checked(refs_bytes).ok_or(truncated(table_bytes + refs_bytes))?;
        for reference in refs.as_chunks::<REF_BYTES>().0 {
            Ref::parse(reference)?;
        }
        Ok(Self { table, refs, parameters })
    }

    /// Number of arguments.
    pub fn len(&self) -> usize {
        self.table.len() / ARG_BYTES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The parameters.
    pub fn parameters(&self) -> &'a [u8] {
        self.parameters
    }

    /// The arguments in order.
    pub fn iter(&self) -> impl Iterator<Item = ArgEntry> + use<'a> {
        let mut refs = self.refs.as_chunks::<REF_BYTES>().0.iter();
        self.table.as_chunks::<ARG_BYTES>().0.iter().map_while(move |entry| match entry[0] {
            KIND_INLINE => Some(ArgEntry::Inline { bytes: u32_at(entry, 4) }),
            _ => refs.next().and_then(|bytes| Ref::parse(bytes).ok()).map(ArgEntry::Ref),
        })
    }

    /// The reference of this number among the references, in order.
    #[inline(always)]
    pub fn reference(&self, number: usize) -> Option<Ref> {
        Ref::parse(self.refs.as_chunks::<REF_BYTES>().0.get(number)?).ok()
    }

    /// The references among the arguments, in order.
    pub fn refs(&self) -> impl Iterator<Item = Ref> + use<'a> {
        self.refs.as_chunks::<REF_BYTES>().0.iter().filter_map(|bytes| Ref::parse(bytes).ok())
    }
}

const KIND_INLINE: u8 = 0;
const KIND_REF: u8 = 1;

/// Bytes that [`emit_arguments`] writes for `args`.
pub fn arguments_bytes(args: &[ArgEntry]) -> usize {
    let refs = args.iter().filter(|arg| matches!(arg, ArgEntry::Ref(_))).count();
    args.len() * ARG_BYTES + refs * REF_BYTES
}

/// Writes the table and the references of `args`; returns how many bytes that took.
///
/// # Panics
/// If there are more than [`ARGS_MAX`] arguments, or `out` is shorter than [`arguments_bytes`].
pub fn emit_arguments(args: &[ArgEntry], out: &mut [u8]) -> usize {
    assert!(args.len() <= ARGS_MAX, "at most {ARGS_MAX} arguments");
    let (table, rest) = out.split_at_mut(args.len() * ARG_BYTES);
    let mut refs_bytes = 0;
    for (entry, arg) in table.as_chunks_mut::<ARG_BYTES>().0.iter_mut().zip(args) {
        *entry = [0; ARG_BYTES];
        match arg {
            ArgEntry::Inline { bytes } => {
                entry[0] = KIND_INLINE;
                put(entry, 4, bytes.to_le_bytes());
            }
            ArgEntry::Ref(reference) => {
                emit_ref_entry(entry);
                reference.emit(&mut rest[refs_bytes..]);
                refs_bytes += REF_BYTES;
            }
        }
    }
    table.len() + refs_bytes
}

/// Writes the table's entry of a reference.
///
/// # Panics
/// If `entry` is shorter than [`ARG_BYTES`].
#[inline(always)]
pub fn emit_ref_entry(entry: &mut [u8]) {
    put(entry, 0, u64::from(KIND_REF).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_after() -> impl Strategy<Value = Option<After>> {
        proptest::option::of((0..NO_SLOT, any::<u32>()))
            .prop_map(|after| after.map(|(slot, call)| After { slot, call }))
    }

    fn any_arg() -> impl Strategy<Value = ArgEntry> {
        prop_oneof![
            any::<u32>().prop_map(|bytes| ArgEntry::Inline { bytes }),
            crate::wire::reference::any_ref().prop_map(ArgEntry::Ref),
        ]
    }

    proptest! {
        #[test]
        fn request_header_round_trips(
            method in any::<u16>(), depth in 0..DEPTH_MAX, args in 0..=ARGS_MAX as u8,
            deadline_us in any::<u32>(), trace in any::<u128>(), after in any_after(),
        ) {
            let header = RequestHeader {
                method: Method(method), depth, args, deadline_us, trace: TraceId(trace), after
            };
            let mut bytes = [0xFF; REQUEST_HEADER_BYTES];
            header.emit(&mut bytes);
            prop_assert_eq!(RequestHeader::parse(&bytes), Ok(header));
            let free = after.is_none().then_some(header);
            prop_assert_eq!(RequestHeader::parse_free(&bytes), free);
        }

        #[test]
        fn response_header_round_trips(status in any::<u16>(), args in 0..=ARGS_MAX as u8) {
            let header = ResponseHeader { status: Status(status), args };
            let mut bytes = [0xFF; RESPONSE_HEADER_BYTES];
            header.emit(&mut bytes);
            prop_assert_eq!(ResponseHeader::parse(&bytes), Ok(header));
        }

        #[test]
        fn arguments_round_trip(
            args in proptest::collection::vec(any_arg(), 0..=ARGS_MAX),
            parameters in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = [0; HEAD_BYTES_MAX];
            let used = emit_arguments(&args, &mut bytes);
            prop_assert_eq!(used, arguments_bytes(&args));
            bytes[used..used + parameters.len()].copy_from_slice(&parameters);
            let parsed =
                Arguments::parse(args.len() as u8, &bytes[..used + parameters.len()]).unwrap();
            prop_assert_eq!(parsed.iter().collect::<std::vec::Vec<_>>(), args);
            prop_assert_eq!(parsed.parameters(), &parameters[..]);
            for (number, reference) in parsed.refs().enumerate() {
                prop_assert_eq!(parsed.reference(number), Some(reference));
            }
            prop_assert_eq!(parsed.reference(parsed.refs().count()), None);
        }

        #[test]
        fn noise_never_panics(
            count in any::<u8>(), noise in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let _ = RequestHeader::parse(&noise);
            let _ = ResponseHeader::parse(&noise);
            if let Ok(args) = Arguments::parse(count, &noise) {
                let _ = args.iter().count() + args.refs().count();
            }
        }
    }
}
