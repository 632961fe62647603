//! The line that a file of results begins with.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cores;
use crate::results::{Error, HeaderLine};

/// Where results come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Header {
    /// The commit that was measured; with a plus if files had changed since.
    pub(crate) commit: String,
    /// Day of the measurement, UTC.
    pub(crate) date: String,
    /// What the processor calls itself.
    pub(crate) processor: String,
    /// How many cores this process may use.
    pub(crate) cores: usize,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel.
    pub(crate) kernel: String,
    /// The compiler.
    pub(crate) rustc: String,
    /// Version of the programs.
    pub(crate) version: String,
    /// The command whose rows follow.
    pub(crate) command: String,
    /// What a line of cache took from one core to another and back before the rows, in
    /// nanoseconds.
    pub(crate) line_before_ns: Option<u64>,
    /// The same after them.
    pub(crate) line_after_ns: Option<u64>,
}

/// The header of results of `command`, as a JSON line.
pub(crate) fn line(command: &[String]) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let header = Header {
        commit: commit(),
        date: output("date", &["-u", "+%Y-%m-%d"]),
        processor: field("/proc/cpuinfo", "model name"),
        cores,
        memory_mib: memory_mib(),
        kernel: output("uname", &["-sr"]),
        rustc: output("rustc", &["--version"]),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: command.join(" "),
        line_before_ns: cores::line_ns(),
        line_after_ns: None,
    };
    serde_json::json!({ "header": header }).to_string()
}

/// Notes in the header of the file at `path` how far apart the cores are now, after its rows.
///
/// # Errors
/// [`Error`]: the file cannot be read or written, or its first line is no header.
pub(crate) fn finish(path: &Path) -> Result<(), Error> {
    let owned = || path.to_owned();
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: owned(), source })?;
    let (first, rows) = text.split_once('\n').unwrap_or((&text, ""));
    let wrong = |source| Error::Line { path: owned(), line: 1, source };
    let HeaderLine { mut header } = serde_json::from_str(first).map_err(wrong)?;
    header.line_after_ns = cores::line_ns();
    let text = format!("{}\n{rows}", serde_json::json!({ "header": header }));
    fs::write(path, text).map_err(|source| Error::Write { path: owned(), source })
}

fn commit() -> String {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = output("git", &["status", "--porcelain", "--", ".", ":!bench-results"]);
    if changed.is_empty() { commit } else { commit + "+" }
}

/// What a program prints, or nothing if it can't be run.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The value of the first line of a file of `name : value` lines that has this name.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

fn memory_mib() -> u64 {
    let total = field("/proc/meminfo", "MemTotal");
    let kib = total.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
