//! The bars that results are held against; rows of some programs say theirs themselves
//! (`pools.rs`).

use std::fmt::Write;

use dmrpc_host::size::ByteSize;

use crate::pools;
use crate::results::{Ratio, Results, Row};

/// On which side of a bar a ratio has to be.
#[derive(Clone, Copy, Debug)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}
use Limit::{AtLeast, AtMost};

/// A ratio of a row, and what it must be.
struct Bar {
    /// The file of results.
    file: &'static str,
    op: &'static str,
    size_bytes: u64,
    concurrency: u64,
    /// What the ratio is to.
    to: To,
    limit: Limit,
}

#[derive(Clone, Copy, Debug)]
enum To {
    Raw,
    Rpc,
    /// With so many pages written; of all numbers of bytes written to each, the worst counts.
    Copy(u64),
}

const fn bar(file: &'static str, row: (&'static str, u64, u64), to: To, limit: Limit) -> Bar {
    let (op, size_bytes, concurrency) = row;
    Bar { file, op, size_bytes, concurrency, to, limit }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// All bars. Those whose rows were not measured are left out of the report.
const BARS: [Bar; 17] = [
    bar("latency_test", ("rpc", 64, 1), To::Raw, AtMost(1.25)),
    bar("latency_test", ("read", 4 * KIB, 1), To::Raw, AtMost(1.25)),
    bar("latency_test-memif", ("rpc", 32, 1), To::Raw, AtMost(1.35)),
    bar("latency_test-memif", ("read", 4 * KIB, 1), To::Raw, AtMost(2.2)),
    bar("latency_test-memif", ("write", 4 * KIB, 1), To::Raw, AtMost(2.2)),
    bar("rpc_test-memif", ("rpc", 32, 64), To::Raw, AtLeast(0.45)),
    bar("rpc_test-memif", ("rpc", 8 * MIB, 1), To::Raw, AtLeast(0.40)),
    bar("rpc_test-memif", ("rpc", 8 * MIB, 4), To::Raw, AtLeast(0.40)),
    bar("bandwidth_read_test-memif", ("read", 4 * KIB, 16), To::Raw, AtLeast(0.30)),
    bar("bandwidth_write_test-memif", ("write", 4 * KIB, 16), To::Raw, AtLeast(0.30)),
    bar("bandwidth_read_test-memif", ("read", MIB, 4), To::Raw, AtLeast(0.35)),
    bar("bandwidth_write_test-memif", ("write", MIB, 4), To::Raw, AtLeast(0.35)),
    bar("bandwidth_read_test-memif-unchecked", ("read", MIB, 4), To::Raw, AtLeast(0.50)),
    bar("bandwidth_read_test-memif-visited", ("read", MIB, 4), To::Raw, AtLeast(0.65)),
    bar("bandwidth_write_test-memif-unchecked", ("write", MIB, 4), To::Raw, AtLeast(0.50)),
    bar("fork_test-memif", ("cow_write", 32 * KIB, 1), To::Copy(2), AtLeast(1.2)),
    bar("fork_test-memif", ("cow_write", MIB, 1), To::Copy(2), AtLeast(15.0)),
];

/// Every size of `create_ref`, over a call of 64 bytes.
const CREATE_REF: (&str, Limit) = ("fork_speed-memif", AtMost(1.15));

impl Limit {
    fn is_met(self, value: f64) -> bool {
        match self {
            AtMost(bar) => value <= bar,
            AtLeast(bar) => value >= bar,
        }
    }

    /// Whether `a` is further on the wrong side than `b`.
    fn is_worse(self, a: f64, b: f64) -> bool {
        match self {
            AtMost(_) => a > b,
            AtLeast(_) => a < b,
        }
    }

    fn text(self) -> String {
        match self {
            AtMost(bar) => format!("at most {bar}"),
            AtLeast(bar) => format!("at least {bar}"),
        }
    }
}

impl To {
    fn ratio(self, row: &Row) -> Option<Ratio> {
        match self {
            Self::Raw => row.ratio_to_raw,
            Self::Rpc => row.ratio_to_rpc,
            Self::Copy(pages) => row.ratio_to_copy.filter(|_| row.pages == Some(pages)),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Raw => "the bare device".to_owned(),
            Self::Rpc => "a call of 64 B".to_owned(),
            Self::Copy(pages) => format!("copying, {pages} pages written"),
        }
    }
}

impl Bar {
    /// The worst ratio among the rows that this is about.
    fn worst(&self, results: &Results) -> Option<Ratio> {
        let is_it = |row: &&Row| {
            row.op == self.op
                && row.size_bytes == self.size_bytes
                && row.concurrency == self.concurrency
        };
        let rows = results.file(self.file)?.rows.iter().filter(is_it);
        rows.filter_map(|row| self.to.ratio(row)).reduce(|worst, ratio| {
            if self.limit.is_worse(ratio.median, worst.median) { ratio } else { worst }
        })
    }
}

/// The table of all bars whose rows were measured. Writing to a string does not fail.
pub(crate) fn table(text: &mut String, results: &Results) {
    let _ = writeln!(
        text,
        "## Bars\n\n| results | of | to | bar | measured | |\n|---|---|---|---|---|---|"
    );
    let create_ref = results.file(CREATE_REF.0).into_iter().flat_map(|file| &file.rows);
    let create_ref = create_ref.filter(|row| row.op == "create_ref" && row.concurrency == 1);
    let create_ref = create_ref
        .map(|row| bar(CREATE_REF.0, ("create_ref", row.size_bytes, 1), To::Rpc, CREATE_REF.1));
    for bar in BARS.into_iter().chain(create_ref) {
        let Some(ratio) = bar.worst(results) else { continue };
        let verdict = if bar.limit.is_met(ratio.median) { "met" } else { "**missed**" };
        let _ = writeln!(
            text,
            "| {} | `{}` {}, {} in flight | {} | {} | {ratio} | {verdict} |",
            bar.file,
            bar.op,
            ByteSize(bar.size_bytes),
            bar.concurrency,
            bar.to.text(),
            bar.limit.text(),
        );
    }
    for file in &results.files {
        pools::bars(text, &file.name, &file.rows);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::File;

    #[test]
    fn the_worst_row_counts() {
        let ratio = |median| Ratio { median, lower_quartile: 1.0, upper_quartile: 2.0, blocks: 21 };
        let row = |pages, median| Row {
            op: "cow_write".into(),
            size_bytes: MIB,
            concurrency: 1,
            pages: Some(pages),
            ratio_to_copy: Some(ratio(median)),
            ..Row::default()
        };
        let fork_speed = |size_bytes, median| Row {
            op: "create_ref".into(),
            size_bytes,
            concurrency: 1,
            ratio_to_rpc: Some(ratio(median)),
            ..Row::default()
        };
        let file = |name: &str, rows| File { name: name.into(), rows, ..File::default() };
        let files = vec![
            file("fork_test-memif", vec![row(1, 3.0), row(2, 20.0), row(2, 14.0)]),
            file("fork_speed-memif", vec![fork_speed(4 * KIB, 1.1), fork_speed(MIB, 1.2)]),
        ];
        let mut text = String::new();
        table(&mut text, &Results { files });
        assert!(text.contains("| at least 15 | 14.00 (1.00-2.00) | **missed** |"), "{text}");
        assert!(text.contains("| at most 1.15 | 1.10 (1.00-2.00) | met |"), "{text}");
        assert!(text.contains("| at most 1.15 | 1.20 (1.00-2.00) | **missed** |"), "{text}");
        assert_eq!(text.matches("met |").count(), 1);
        assert_eq!(text.lines().filter(|line| line.starts_with("| fork")).count(), 3, "{text}");
    }
}
