//! Command lines: parsed by clap, refused in one line.

use std::fmt::{Display, Write};
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

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
        _ => {
            complain(P::command().get_name(), one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    })
}

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
    line + "; --help tells more"
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
    }

    fn refusal(arguments: &[&str]) -> String {
        let arguments = [&["program"], arguments].concat();
        one_line(&Options::try_parse_from(arguments).expect_err("wrong").to_string())
    }

    #[test]
    fn refusals_are_one_line_each() {
        let unknown = refusal(&["--cuont", "1"]);
        assert!(unknown.contains("'--cuont'") && unknown.contains("'--count'"), "{unknown}");
        let value = refusal(&["--count", "many", "--place", "here"]);
        assert!(value.contains("'many'") && value.contains("--count"), "{value}");
        let missing = refusal(&["--count", "1"]);
        assert!(missing.contains("--place"), "{missing}");
        for line in [unknown, value, missing] {
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(line.ends_with("; --help tells more"), "{line}");
        }
    }
}
