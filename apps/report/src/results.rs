//! Files of results: a header line and a row a line.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::header::Header;

/// A row, as far as it is of interest here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Row {
    pub(crate) app: String,
    pub(crate) driver: String,
    pub(crate) op: String,
    pub(crate) size_bytes: u64,
    pub(crate) concurrency: u64,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) gbit_per_s: f64,
    pub(crate) verified: u64,
    pub(crate) idle: String,
    pub(crate) integrity: bool,
    pub(crate) beside: Option<String>,
    pub(crate) ratio_to_raw: Option<Ratio>,
    pub(crate) ratio_to_rpc: Option<Ratio>,
    pub(crate) ratio_to_copy: Option<Ratio>,
    pub(crate) pages: Option<u64>,
    pub(crate) write_bytes: Option<u64>,
    pub(crate) way: Option<String>,
    /// To what `beside` names, where `bar` says what it should be: in rows of pools.
    pub(crate) ratio: Option<f64>,
    pub(crate) ratio_low: Option<f64>,
    pub(crate) ratio_high: Option<f64>,
    pub(crate) bar: Option<String>,
    pub(crate) met: Option<bool>,
    pub(crate) instructions: Option<u64>,
    /// How a pool is shared: `coherent` or `flush`.
    pub(crate) mode: Option<String>,
    /// Of the bare device: it did less than it can, so nothing may be compared with it.
    pub(crate) void: bool,
}

/// A ratio taken block by block.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
    pub(crate) blocks: u64,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, lower_quartile, upper_quartile, .. } = self;
        write!(f, "{median:.2} ({lower_quartile:.2}-{upper_quartile:.2})")
    }
}

/// What tells rows of one file apart: operation, what it stands beside, size, number in flight,
/// pages written and bytes in each.
pub(crate) type Key<'r> = (&'r str, &'r str, u64, u64, Option<u64>, Option<u64>);

impl Row {
    /// Whether it is of the bare device.
    pub(crate) fn is_raw(&self) -> bool {
        self.op.starts_with("raw_")
    }

    /// What tells rows of one file apart.
    pub(crate) fn key(&self) -> Key<'_> {
        let beside = self.beside.as_deref().unwrap_or_default();
        let Self { op, size_bytes, concurrency, pages, write_bytes, .. } = self;
        (op, beside, *size_bytes, *concurrency, *pages, *write_bytes)
    }
}

/// A file of results.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    /// Its name without the ending.
    pub(crate) name: String,
    pub(crate) header: Header,
    pub(crate) rows: Vec<Row>,
}

/// All results of a folder, in the order of their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) files: Vec<File>,
}

/// Why results are of no use.
#[derive(Debug)]
pub(crate) enum Error {
    /// A file or folder cannot be read.
    Read { path: PathBuf, source: io::Error },
    /// A file cannot be written.
    Write { path: PathBuf, source: io::Error },
    /// A line is no row.
    Line { path: PathBuf, line: usize, source: serde_json::Error },
    /// A folder has no results.
    Empty { path: PathBuf },
    /// A file has no instruction counts.
    NoCounts { path: PathBuf },
    /// A plot cannot be drawn.
    Plot { path: PathBuf, reason: String },
    /// Rows are not as they should be.
    Bad { complaints: Vec<String> },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => {
                write!(f, "{} cannot be read: {source}", path.display())
            }
            Self::Write { path, source } => {
                write!(f, "{} cannot be written: {source}", path.display())
            }
            Self::Line { path, line, source } => {
                write!(f, "{}, line {line}: {source}", path.display())
            }
            Self::Empty { path } => write!(
                f,
                "{} has no files of results (*.jsonl): run ci/bench to make them",
                path.display()
            ),
            Self::NoCounts { path } => write!(
                f,
                "{} has no instruction counts: give what ci/instructions prints",
                path.display()
            ),
            Self::Plot { path, reason } => {
                write!(f, "{} cannot be drawn: {reason}", path.display())
            }
            Self::Bad { complaints } => write!(f, "{}", complaints.join("; ")),
        }
    }
}

impl std::error::Error for Error {}

/// The first line of a file.
#[derive(Deserialize)]
pub(crate) struct HeaderLine {
    pub(crate) header: Header,
}

impl Results {
    /// Reads all files of results of a folder.
    ///
    /// # Errors
    /// [`Error`]: nothing there, or something that is no result.
    pub(crate) fn load(folder: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: folder.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|ending| ending == "jsonl") {
                paths.push(path);
            }
        }
        paths.sort();
        if paths.is_empty() {
            return Err(Error::Empty { path: folder.to_owned() });
        }
        let files = paths.iter().map(|path| File::load(path)).collect::<Result<_, _>>()?;
        Ok(Self { files })
    }

    /// The file called `name`.
    pub(crate) fn file(&self, name: &str) -> Option<&File> {
        self.files.iter().find(|file| file.name == name)
    }
}

impl File {
    fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut file = Self { name, ..Self::default() };
        for (index, line) in text.lines().enumerate() {
            let wrong = |source| Error::Line { path: path.to_owned(), line: index + 1, source };
            if index == 0 {
                let line: HeaderLine = serde_json::from_str(line).map_err(wrong)?;
                file.header = line.header;
            } else {
                file.rows.push(serde_json::from_str(line).map_err(wrong)?);
            }
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_wrong_lines_named() {
        let folder = std::env::temp_dir().join(format!("dmrpc-report-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        assert!(matches!(Results::load(&folder), Err(Error::Empty { .. })));
        let header = crate::header::line(&["x".to_owned()]);
        let path = folder.join("rpc_test.jsonl");
        std::fs::write(&path, &header).expect("a temporary file");
        crate::header::finish(&path).expect("a header");
        let row = r#"{"app":"rpc_test","op":"rpc","size_bytes":32,"concurrency":4,"count":9}"#;
        std::fs::write(&path, format!("{header}\n{row}\n")).expect("a temporary file");
        crate::header::finish(&path).expect("a header");
        let results = Results::load(&folder).expect("legal");
        let file = results.file("rpc_test").expect("there");
        assert_eq!(file.header.command, "x");
        assert_eq!(file.header.line_before_ns.is_some(), file.header.line_after_ns.is_some());
        assert_eq!(file.rows[0].key(), ("rpc", "", 32, 4, None, None));
        assert_eq!(file.rows[0].count, 9);
        std::fs::write(&path, format!("{header}\n{row}\nnonsense\n")).expect("a temporary file");
        let error = Results::load(&folder).expect_err("no row").to_string();
        assert!(error.contains("rpc_test.jsonl, line 3"), "{error}");
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
