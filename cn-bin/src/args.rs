//! Arguments of calls and answers, and the tables that describe them.

use dmrpc_core::wire::message::{ArgEntry, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX};
use dmrpc_core::wire::reference::Ref;

use crate::error::Error;
use crate::hosting::copy_parts;
use crate::pending::ArgList;

/// An argument of a call, or of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg<'a> {
    /// Bytes that travel in the message.
    Inline(&'a [u8]),
    /// A reference to bytes that stay where they are.
    Ref(Ref),
}

/// The argument table of a message with `args`, made in `list` unless it needs none.
#[inline]
pub(crate) fn table<'l>(args: &[Arg<'_>], list: &'l mut ArgList) -> Result<&'l [ArgEntry], Error> {
    match args {
        [Arg::Inline([_, ..])] if parts_bytes(args) <= MESSAGE_BYTES_MAX => Ok(&[]),
        _ => {
            entries(args, list)?;
            Ok(shortest(list))
        }
    }
}

/// Fills `list` with the entries of an argument table for `args`. Returns the length of their
/// bytes.
#[inline(never)]
pub(crate) fn entries(args: &[Arg<'_>], list: &mut ArgList) -> Result<usize, Error> {
    let mut total = 0;
    for arg in args {
        let entry = match arg {
            Arg::Inline(bytes) => {
                total += bytes.len();
                let bytes = u32::try_from(bytes.len());
                ArgEntry::Inline { bytes: bytes.map_err(|_| too_large(total))? }
            }
            Arg::Ref(reference) => ArgEntry::Ref(*reference),
        };
        list.push(entry).map_err(|_| Error::TooManyArgs { given: args.len() })?;
    }
    u32::try_from(total).map_err(|_| too_large(total))?;
    Ok(total)
}

/// The table that says the same in the fewest bytes: none for a body that is one argument.
#[inline]
pub(crate) fn shortest(table: &[ArgEntry]) -> &[ArgEntry] {
    match table {
        [ArgEntry::Inline { bytes: 1.. }] => &[],
        table => table,
    }
}

/// The arguments of a message with a table of `entries` and `body`.
pub(crate) fn listed<'b>(
    entries: impl Iterator<Item = ArgEntry>,
    body: &'b [u8],
) -> impl Iterator<Item = Arg<'b>> {
    let mut rest = body;
    entries.map(move |entry| match entry {
        ArgEntry::Ref(reference) => Arg::Ref(reference),
        ArgEntry::Inline { bytes } => {
            // A table that claims more than there is gets what there is.
            let (bytes, later) = rest.split_at((bytes as usize).min(rest.len()));
            rest = later;
            Arg::Inline(bytes)
        }
    })
}

pub(crate) fn too_large(bytes: usize) -> Error {
    Error::MessageTooLarge { bytes }
}

/// Length of the inline parts in bytes.
#[inline]
pub(crate) fn parts_bytes(parts: &[Arg<'_>]) -> usize {
    parts.iter().map(|part| if let Arg::Inline(bytes) = part { bytes.len() } else { 0 }).sum()
}

/// Lends `work` the inline parts, which fit a head, copied together.
#[inline(never)]
pub(crate) fn gathered<R>(parts: &[Arg<'_>], total: usize, work: impl FnOnce(&[u8]) -> R) -> R {
    let mut head = [0; HEAD_BYTES_MAX];
    copy_parts(parts, 0, &mut head[..total]);
    work(&head[..total])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_that_is_one_argument_needs_no_table() {
        let table_of = |args: &[Arg<'_>]| {
            let mut list = ArgList::new();
            table(args, &mut list).map(<[ArgEntry]>::len)
        };
        assert_eq!(table_of(&[]), Ok(0));
        assert_eq!(table_of(&[Arg::Inline(b"a")]), Ok(0));
        assert_eq!(table_of(&[Arg::Inline(b"")]), Ok(1));
        assert_eq!(table_of(&[Arg::Inline(b"a"), Arg::Inline(b"")]), Ok(2));
        assert_eq!(table_of(&[Arg::Inline(b"a"); 9]), Err(Error::TooManyArgs { given: 9 }));
    }
}
