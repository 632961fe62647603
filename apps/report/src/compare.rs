//! What changed since the results before. For people: machines differ from day to day, so this
//! never fails.

use std::fmt::Write;

use dmrpc_host::size::ByteSize;

use crate::results::{Results, Row};

/// Changes smaller than this share are not worth a line.
const CHANGE_MIN: f64 = 0.1;

/// A row that was measured before and now.
struct Change {
    what: &'static str,
    before: f64,
    now: f64,
}

impl Change {
    /// Ratios are compared where there are any, rates elsewhere.
    fn of(before: &Row, now: &Row) -> Self {
        if let (Some(before), Some(now)) = (&before.ratio_to_raw, &now.ratio_to_raw) {
            let (before, now) = (before.median, now.median);
            return Self { what: "ratio to the bare device", before, now };
        }
        match (before.ratio, now.ratio) {
            (Some(before), Some(now)) => Self { what: "ratio to its yardstick", before, now },
            _ => Self { what: "a second", before: before.ops_per_s, now: now.ops_per_s },
        }
    }

    fn ratio(&self) -> f64 {
        self.now / self.before
    }
}

/// A table with one line for each row that changed by a tenth or more.
pub(crate) fn table(before: &Results, now: &Results) -> String {
    let mut lines = String::new();
    let (mut same, mut new) = (0, 0);
    for file in &now.files {
        let earlier = before.file(&file.name);
        // What stands beside another row is there for that one's ratio.
        let is_rival = |row: &Row| row.beside.is_some() && row.bar.is_none();
        for row in file.rows.iter().filter(|row| !row.is_raw() && !is_rival(row)) {
            let found = earlier
                .and_then(|earlier| earlier.rows.iter().find(|earlier| earlier.key() == row.key()));
            let Some(earlier_row) = found else {
                new += 1;
                continue;
            };
            let change = Change::of(earlier_row, row);
            if (change.ratio() - 1.0).abs() < CHANGE_MIN {
                same += 1;
                continue;
            }
            let pages = row.pages.map_or(String::new(), |pages| {
                format!(", {} in each of {pages} pages", ByteSize(row.write_bytes.unwrap_or(0)))
            });
            // Writing to a string does not fail.
            let _ = writeln!(
                lines,
                "| {} | `{}` {}{pages} | {} | {} | {} | {} | {:.2} |",
                file.name,
                row.op,
                ByteSize(row.size_bytes),
                row.concurrency,
                change.what,
                number(change.before),
                number(change.now),
                change.ratio()
            );
        }
    }
    let mut commits: Vec<_> =
        before.files.iter().map(|file| format!("`{}`", file.header.commit)).collect();
    commits.sort();
    commits.dedup();
    let mut text = format!(
        "## Since the results before\n\nThose of {}. {same} rows changed by less than a tenth, \
         {new} are new.\n\n",
        commits.join(", ")
    );
    if !lines.is_empty() {
        text += "| results | of | in flight | figure | before | now | now over before |\n\
                 |---|---|---|---|---|---|---|\n";
        text += &lines;
        text.push('\n');
    }
    text
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{File, Ratio};

    #[test]
    fn changes_of_a_tenth_are_told() {
        let row = |ops_per_s, median| Row {
            op: "rpc".into(),
            ops_per_s,
            ratio_to_raw: Some(Ratio {
                median,
                lower_quartile: median,
                upper_quartile: median,
                blocks: 21,
            }),
            ..Row::default()
        };
        let results =
            |rows| Results { files: vec![File { name: "x".into(), rows, ..File::default() }] };
        let before = results(vec![row(100.0, 1.2)]);
        let same = table(&before, &results(vec![row(50.0, 1.25)]));
        assert!(same.contains("1 rows changed by less") && !same.contains("| x |"), "{same}");
        let changed = table(&before, &results(vec![row(100.0, 1.5)]));
        assert!(changed.contains("| 1.200 | 1.500 | 1.25 |"), "{changed}");
        let rival = Row { beside: Some("cow_write".into()), ..row(1.0, 9.0) };
        let same = table(&before, &results(vec![rival]));
        assert!(same.contains("0 rows changed by less than a tenth, 0 are new"), "{same}");
        let other = Row { pages: Some(2), ..row(100.0, 1.2) };
        let new = table(&before, &results(vec![other]));
        assert!(new.contains("0 rows changed by less than a tenth, 1 are new"), "{new}");
    }
}
