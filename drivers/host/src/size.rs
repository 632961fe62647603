//! Sizes and spans of time as people write them: `64KiB`, `1GiB`, `500ms`, `10s`.

use std::fmt;
use std::str::FromStr;

use dmrpc_core::time::Duration;

/// A number of bytes. Written with `B`, `KiB`, `MiB`, `GiB` or `TiB`, or plain for bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(
    /// The number of bytes.
    pub u64,
);

/// A span of time. Written with `ns`, `us`, `ms`, `s`, `min` or `h`; the unit is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(
    /// The span.
    pub Duration,
);

/// Units of [`ByteSize`], in ascending order.
const BYTE_UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Units of [`TimeSpan`] in nanoseconds, in ascending order.
const TIME_UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Why a text is not a size or a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Not a whole number with a unit that is known.
    Syntax {
        /// The text.
        text: String,
        /// What would be right.
        expected: &'static str,
    },
    /// More than 64 bits hold.
    TooLarge {
        /// The text.
        text: String,
    },
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { text, expected } => write!(f, "'{text}' is not {expected}"),
            Self::TooLarge { text } => write!(f, "'{text}' is too large for 64 bits"),
        }
    }
}

impl std::error::Error for UnitError {}

impl ByteSize {
    /// The size as a `usize`, in bytes.
    ///
    /// # Panics
    /// If the machine's addresses are too narrow for it.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).expect("size fits the address space")
    }
}

fn parse_with_unit(
    text: &str,
    units: &[(&str, u64)],
    plain: Option<u64>,
    expected: &'static str,
) -> Result<u64, UnitError> {
    let syntax = || UnitError::Syntax { text: text.to_owned(), expected };
    let too_large = || UnitError::TooLarge { text: text.to_owned() };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..digits], trimmed[digits..].trim_start());
    if number.is_empty() {
        return Err(syntax());
    }
    let factor = match plain {
        Some(factor) if unit.is_empty() => factor,
        _ => units.iter().find(|(name, _)| *name == unit).ok_or_else(syntax)?.1,
    };
    // Only digits are left, so the one thing that can be wrong is their number.
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(factor).ok_or_else(too_large)
}

/// Writes `value` in the largest unit that divides it.
fn write_with_unit(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(*factor);
    let (name, factor) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    f.pad(&format!("{}{name}", value / factor))
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "a size: give a whole number of bytes, or one with B, KiB, MiB, GiB or TiB, \
                        such as 64KiB";
        parse_with_unit(text, &BYTE_UNITS, Some(1), expected).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_unit(f, self.0, &BYTE_UNITS)
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "a span of time: give a whole number with ns, us, ms, s, min or h, such as \
                        500ms";
        parse_with_unit(text, &TIME_UNITS, None, expected)
            .map(|nanos| Self(Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_unit(f, self.0.as_nanos(), &TIME_UNITS)
    }
}

impl From<TimeSpan> for std::time::Duration {
    fn from(span: TimeSpan) -> Self {
        Self::from_nanos(span.0.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("17B", 17),
            ("64KiB", 65_536),
            ("1 GiB", 1 << 30),
            (" 3MiB ", 3 << 20),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for wrong in ["", "KiB", "1.5GiB", "-1", "64kb", "1GB", "0x10", "1 2"] {
            assert!(matches!(wrong.parse::<ByteSize>(), Err(UnitError::Syntax { .. })), "{wrong}");
        }
        for large in ["18446744073709551616", "16777216TiB"] {
            let error = large.parse::<ByteSize>().expect_err(large);
            assert!(matches!(error, UnitError::TooLarge { .. }), "{error}");
        }
    }

    #[test]
    fn spans() {
        for (text, nanos) in
            [("500ms", 500_000_000), ("10s", 10_000_000_000), ("2min", 120_000_000_000), ("7ns", 7)]
        {
            assert_eq!(text.parse(), Ok(TimeSpan(Duration::from_nanos(nanos))), "{text}");
        }
        for wrong in ["", "10", "s", "1m", "1.5s"] {
            let error = wrong.parse::<TimeSpan>().expect_err(wrong).to_string();
            assert!(error.contains("500ms"), "{error}");
        }
    }

    #[test]
    fn printed_values_parse_to_themselves() {
        for value in [0, 1, 1000, 1024, 1536, 60_000_000_000, 1 << 30, 3 << 40, u64::MAX] {
            assert_eq!(ByteSize(value).to_string().parse(), Ok(ByteSize(value)));
            let span = TimeSpan(Duration::from_nanos(value));
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        assert_eq!(ByteSize(65_536).to_string(), "64KiB");
        assert_eq!(TimeSpan(Duration::from_millis(90_000)).to_string(), "90s");
        assert_eq!(format!("{:>8}", ByteSize(4096)), "    4KiB");
    }
}
