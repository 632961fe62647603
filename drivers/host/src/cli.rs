//! Command lines: parsed by clap, refused in one line.

use std::fmt::{Display, Write};
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use clap::error::ErrorKind;

use crate::size::{ByteSize, TimeSpan};
use crate::sys;

/// Exit code of wrong usage.
pub const USAGE: u8 = 2;

/// What a shell reports of a program that SIGPIPE ended: what one that noticed by itself that
/// nobody reads any more ends with.
pub const UNREAD: u8 = 128 + 13;

/// Has the process end as Unix tools do, silently by SIGPIPE, when the reader of its output has
/// gone away (`program | head`). For programs that print and end; those that serve go on
/// ([`Signals::install`](crate::signals::Signals::install)), and those with something to clear up
/// look at the error and end with [`UNREAD`].
pub fn end_with_reader() {
    // Refused only for signals that do not exist.
    let _ = sys::default_signal(libc::SIGPIPE);
}

/// Prints one line on standard error: what went wrong. That nobody reads it is no reason to fail
/// in another way.
pub fn complain(program: &str, what: impl Display) {
    let _ = writeln!(io::stderr(), "{program}: {what}");
}

/// Prints one line on standard output at once. That nobody reads it is no reason to stop serving.
pub fn announce(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Parses the process's command line. Help and version are printed to standard output; anything
/// wrong gives one line on standard error.
///
/// # Errors
/// The code to exit with: 0 after help or version, [`USAGE`] after an error.
pub fn parse<P: Parser>() -> Result<P, ExitCode> {
    P::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away has read enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        // Here clap prints the whole help, which does not say what is wrong.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let what = format!("no command is given: {}; --help tells more", commands::<P>());
            complain(P::command().get_name(), what);
            ExitCode::from(USAGE)
        }
        _ => {
            complain(P::command().get_name(), one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    })
}

/// The commands that could have been given.
fn commands<P: Parser>() -> String {
    let command = P::command();
    let names: Vec<_> = command.get_subcommands().map(|each| each.get_name()).collect();
    format!("give one of {}", names.join(", "))
}

/// A parser of spans of time from `min` to `max`, for clap's `value_parser`.
pub fn span_between(
    min: TimeSpan,
    max: TimeSpan,
) -> impl Fn(&str) -> Result<TimeSpan, String> + Clone + Send + Sync {
    move |text| between(text, min, max)
}

/// A parser of sizes from `min` to `max`, for clap's `value_parser`.
pub fn size_between(
    min: ByteSize,
    max: ByteSize,
) -> impl Fn(&str) -> Result<ByteSize, String> + Clone + Send + Sync {
    move |text| between(text, min, max)
}

fn between<T>(text: &str, min: T, max: T) -> Result<T, String>
where
    T: FromStr<Err: Display> + PartialOrd + Display,
{
    let value: T = text.parse().map_err(|error: T::Err| error.to_string())?;
    if value < min || value > max {
        return Err(format!("give {min} to {max}"));
    }
    Ok(value)
}

/// What clap says of a socket address that is none, and what would be right.
const ADDRESS: (&str, &str) = (
    "invalid IPv4 socket address syntax",
    "give an IPv4 address and a port, such as 127.0.0.1:7400",
);

/// clap's explanation without its layout.
fn one_line(explanation: &str) -> String {
    let mut line = String::new();
    let parts = explanation.lines().map(str::trim).filter(|part| !part.is_empty());
    for part in parts {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        let part = part.strip_prefix("error: ").unwrap_or(part);
        let separator = match line.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        };
        // Writing to a string does not fail.
        let _ = write!(line, "{separator}{part}");
    }
    line.replace(ADDRESS.0, ADDRESS.1) + "; --help tells more"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Options {
        /// How many.
        #[arg(long)]
        count: u32,
        /// Where.
        #[arg(long)]
        place: String,
        /// To whom.
        #[arg(long)]
        peer: Option<std::net::SocketAddrV4>,
    }

    fn refusal(arguments: &[&str]) -> String {
        let arguments = [&["program"], arguments].concat();
        one_line(&Options::try_parse_from(arguments).expect_err("wrong").to_string())
    }

    #[test]
    fn values_are_kept_within_their_bounds() {
        let span = |text: &str| text.parse::<TimeSpan>().expect("legal");
        let parse = span_between(span("1s"), span("1h"));
        assert_eq!(parse("60s"), Ok(span("1min")));
        for wrong in ["0s", "999ms", "3601s"] {
            assert_eq!(parse(wrong), Err("give 1s to 1h".to_owned()), "{wrong}");
        }
        assert!(parse("soon").expect_err("no span").contains("500ms"));
        let parse = size_between(ByteSize(1072), ByteSize(65_507));
        assert_eq!(parse("9000B"), Ok(ByteSize(9000)));
        assert_eq!(parse("64KiB"), Err("give 1072B to 65507B".to_owned()));
    }

    #[test]
    fn refusals_are_one_line_each() {
        let unknown = refusal(&["--cuont", "1"]);
        assert!(unknown.contains("'--cuont'") && unknown.contains("'--count'"), "{unknown}");
        let value = refusal(&["--count", "many", "--place", "here"]);
        assert!(value.contains("'many'") && value.contains("--count"), "{value}");
        let missing = refusal(&["--count", "1"]);
        assert!(missing.contains("--place"), "{missing}");
        let address = refusal(&["--count", "1", "--place", "here", "--peer", "localhost:7400"]);
        assert!(address.contains("'localhost:7400'"), "{address}");
        assert!(address.contains("such as 127.0.0.1:7400"), "{address}");
        for line in [unknown, value, missing, address] {
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(line.ends_with("; --help tells more"), "{line}");
        }
    }
}
