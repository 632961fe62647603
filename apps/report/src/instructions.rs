//! Instruction counts of the fast paths, as `ci/instructions` prints them, against those committed.

use std::path::Path;

use crate::results::Error;

/// A count may grow by so many hundredths before it is a complaint.
const GROWTH_PERCENT_MAX: u64 = 5;

/// What was counted, and how many instructions it took.
type Count = (String, u64);

/// The counts among the lines of `text`: `NAME  N instructions, at most M: VERDICT`.
fn parse(text: &str) -> Vec<Count> {
    let count = |line: &str| {
        let (before, _) = line.split_once(" instructions, at most ")?;
        let (name, number) = before.trim_end().rsplit_once(' ')?;
        Some((name.trim_end().to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(count).collect()
}

fn load(path: &Path) -> Result<Vec<Count>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let counts = parse(&text);
    match counts.is_empty() {
        true => Err(Error::NoCounts { path: path.to_owned() }),
        false => Ok(counts),
    }
}

/// Complains about counts that have grown by more than a twentieth, and about those that are not
/// counted any more.
///
/// # Errors
/// [`Error::Bad`] with all complaints; [`Error`] if a file is of no use.
pub(crate) fn check(committed: &Path, now: &Path) -> Result<(), Error> {
    let complaints = complaints(&load(committed)?, &load(now)?);
    if complaints.is_empty() { Ok(()) } else { Err(Error::Bad { complaints }) }
}

fn complaints(committed: &[Count], now: &[Count]) -> Vec<String> {
    let complaint = |(name, before): &Count| {
        let Some((_, count)) = now.iter().find(|(found, _)| found == name) else {
            return Some(format!("'{name}' is not counted any more"));
        };
        let percent = (*count as f64 / *before as f64 - 1.0) * 1e2;
        (count * 100 > before * (100 + GROWTH_PERCENT_MAX)).then(|| {
            format!("'{name}' takes {count} instructions, {before} before ({percent:+.1} %)")
        })
    };
    committed.iter().filter_map(complaint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
noise
32 B RPC, 8 in flight                           895 instructions, at most    920: ok
read, 64 B, one of 1,000 regions                206 instructions, at most    230: FAILED
";

    #[test]
    fn counts_are_read() {
        let counts = parse(TEXT);
        assert_eq!(counts[0], ("32 B RPC, 8 in flight".to_owned(), 895));
        assert_eq!(counts[1], ("read, 64 B, one of 1,000 regions".to_owned(), 206));
        assert_eq!(counts.len(), 2);
    }

    #[test]
    fn growth_beyond_a_twentieth_and_what_is_gone_are_named() {
        let count = |name: &str, number| (name.to_owned(), number);
        let before = [count("a", 1000), count("b", 1000), count("c", 1000)];
        assert!(complaints(&before, &before).is_empty());
        let now = [count("a", 1050), count("b", 1051), count("new", 9)];
        let complaints = complaints(&before, &now);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("'b' takes 1051 instructions, 1000 before (+5.1 %)"));
        assert!(complaints[1].contains("'c' is not counted any more"));
    }
}
