//! README.md: tables for people.

use std::fmt::Write;

use dmrpc_host::size::ByteSize;

use crate::bars;
use crate::cores;
use crate::forks;
use crate::header::Header;
use crate::plot::Plot;
use crate::pools;
use crate::results::{File, Ratio, Results, Row};

/// The text of README.md.
pub(crate) fn readme(results: &Results, plots: &[Plot], changes: &str) -> String {
    let mut text = String::from(
        "# Results\n\n\
         Made by `ci/bench` (all rows, 25 minutes; `--only NAMES` some of them); do not edit by \
         hand. Each file `*.jsonl` has a header line (commit, machine, versions, command) and a \
         row a line, as the programs print them with `--json`. All processes ran on one machine, \
         the client pinned to one core and its server to another, over loopback UDP where the \
         name does not say another driver. Other records: `instructions.txt` \
         (`ci/instructions`), `simulation.txt` (`ci/sim`), `fuzz.txt` (`ci/fuzz`), \
         `reclamation.txt` (`ci/reclamation --record`), `faults.txt` (`ci/faults`), `soak.txt` \
         (`ci/soak`).\n\n\
         The machine is shared and noisy, so absolute figures differ from day to day. Ratios are \
         taken block by block, ours and the bare device's in turns: the median, and the quartiles \
         in brackets. The bare device carries the same datagrams, on the same cores, in the same \
         run, with no protocol.\n\n\
         How far apart two cores of a rented machine are changes from minute to minute: *near*, \
         they share a cache, and a line of it goes to and fro in 50 to 70 ns; *far*, it takes \
         around 300 ns. What is bare gets slower by that, and what we add does not, so ratios \
         are harder to meet while the cores are near. Each file says what it was before and after \
         its rows.\n\n",
    );
    if let Some(file) = results.files.first() {
        machine(&mut text, &file.header);
    }
    bars::table(&mut text, results);
    text += changes;
    origins(&mut text, results);
    for file in &results.files {
        section(&mut text, file, plots);
    }
    text
}

/// Writing to a string does not fail, so results of `write!` are dropped below.
fn machine(text: &mut String, header: &Header) {
    let Header { processor, cores, memory_mib, kernel, rustc, .. } = header;
    let _ = writeln!(
        text,
        "| | |\n|---|---|\n| processor | {processor}, {cores} cores |\n| memory | {memory_mib} MiB \
         |\n| kernel | {kernel} |\n| compiler | {rustc} |\n"
    );
}

/// Which commit each file is of, and how far apart the cores were.
fn origins(text: &mut String, results: &Results) {
    let _ = writeln!(
        text,
        "## Where the rows come from\n\n| results | commit | day | cores before | cores after \
         |\n|---|---|---|---|---|"
    );
    for File { name, header, .. } in &results.files {
        let (before, after) =
            (cores::text(header.line_before_ns), cores::text(header.line_after_ns));
        let Header { commit, date, .. } = header;
        let _ = writeln!(text, "| {name} | `{commit}` | {date} | {before} | {after} |");
    }
    text.push('\n');
}

fn section(text: &mut String, file: &File, plots: &[Plot]) {
    let _ = writeln!(text, "## {}\n\n`{}`\n", file.name, file.header.command);
    for plot in plots.iter().filter(|plot| plot.of == file.name) {
        let _ = writeln!(text, "![{}]({})\n", plot.title, plot.file);
    }
    let one_at_a_time = file.rows.iter().all(|row| row.concurrency == 1);
    if let Some(table) = forks::table(&file.rows).or_else(|| pools::table(&file.rows)) {
        text.push_str(&table);
        return text.push('\n');
    }
    if one_at_a_time {
        let _ = writeln!(
            text,
            "| operation | size | median | 99 % | 99.9 % | bare socket, median | times the bare \
             socket |\n|---|---|---|---|---|---|---|"
        );
    } else {
        let _ = writeln!(
            text,
            "| operation | size | in flight | a second | Gbit/s | median | 99 % | beside | share \
             of it |\n|---|---|---|---|---|---|---|---|---|"
        );
    }
    for (row, raw) in with_raw(&file.rows) {
        let line = if one_at_a_time { latency_line(row, raw) } else { rate_line(row, raw) };
        let _ = writeln!(text, "{line}");
    }
    text.push('\n');
}

/// The rows that are not of the bare device, each with the bare device's row that follows it.
fn with_raw(rows: &[Row]) -> Vec<(&Row, Option<&Row>)> {
    let mut pairs = Vec::new();
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_raw()) {
        pairs.push((row, rows[index..].iter().find(|row| row.is_raw())));
    }
    pairs
}

fn latency_line(row: &Row, raw: Option<&Row>) -> String {
    format!(
        "| `{}` | {} | {} | {} | {} | {} | {} |",
        row.op,
        ByteSize(row.size_bytes),
        micros(row.p50_ns),
        micros(row.p99_ns),
        micros(row.p999_ns),
        raw.map_or(String::new(), |raw| micros(raw.p50_ns)),
        ratio_text(row.ratio_to_raw)
    )
}

fn rate_line(row: &Row, raw: Option<&Row>) -> String {
    let beside = raw.map_or(String::new(), |raw| {
        format!("`{}` of {}: {:.2} Gbit/s", raw.op, ByteSize(raw.size_bytes), raw.gbit_per_s)
    });
    format!(
        "| `{}` | {} | {} | {} | {:.2} | {} | {} | {beside} | {} |",
        row.op,
        ByteSize(row.size_bytes),
        row.concurrency,
        thousands(row.ops_per_s),
        row.gbit_per_s,
        micros(row.p50_ns),
        micros(row.p99_ns),
        ratio_text(row.ratio_to_raw)
    )
}

pub(crate) fn ratio_text(ratio: Option<Ratio>) -> String {
    ratio.map_or(String::new(), |ratio| ratio.to_string())
}

pub(crate) fn micros(nanos: u64) -> String {
    let micros = nanos as f64 / 1e3;
    if micros < 100.0 { format!("{micros:.2} us") } else { format!("{micros:.0} us") }
}

/// A whole number with a comma between thousands.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(12.0), "12");
        assert_eq!((micros(8_880), micros(123_456)), ("8.88 us".into(), "123 us".into()));
    }

    #[test]
    fn rows_stand_beside_the_bare_device_that_follows_them() {
        let ratio = Ratio { median: 1.2, lower_quartile: 1.1, upper_quartile: 1.3, blocks: 21 };
        let row = |op: &str, p50_ns, ratio_to_raw| Row {
            op: op.into(),
            size_bytes: 64,
            concurrency: 1,
            p50_ns,
            ratio_to_raw,
            ..Row::default()
        };
        let rows = vec![
            row("rpc", 9_000, Some(ratio)),
            row("raw_rtt", 7_500, None),
            row("read", 9_500, Some(ratio)),
            row("raw_rtt", 7_700, None),
        ];
        let file = File { name: "latency_test".into(), rows, ..File::default() };
        let text = readme(&Results { files: vec![file] }, &[], "what changed");
        assert!(text.contains("what changed"), "{text}");
        assert!(text.contains("| at most 1.25 | 1.20 (1.10-1.30) | met |"), "{text}");
        let rpc = text.lines().find(|line| line.starts_with("| `rpc`")).expect("a row");
        assert!(rpc.contains("7.50 us") && rpc.ends_with("| 1.20 (1.10-1.30) |"), "{rpc}");
        let read = text.lines().find(|line| line.starts_with("| `read`")).expect("a row");
        assert!(read.contains("7.70 us"), "{read}");
    }
}
