//! What changed since the results before. For people: machines differ from day to day, so this
//! never fails.

use std::fmt::Write;

use dmrpc_host::size::ByteSize;

use crate::results::{Results, Row};

/// Changes smaller than this share are not worth a line.
const CHANGE_MIN: f64 = 0.1;

/// One line for each row that changed by a tenth or more. Ratios to the bare device are compared
/// where there are any, rates elsewhere.
pub(crate) fn text(before: &Results, now: &Results) -> String {
    let mut text = String::new();
    for file in &now.files {
        let Some(earlier) = before.file(&file.name) else { continue };
        for row in file.rows.iter().filter(|row| !row.is_raw()) {
            let earlier_row = earlier.rows.iter().find(|earlier| earlier.key() == row.key());
            let Some(change) = earlier_row.and_then(|earlier| change(earlier, row)) else {
                continue;
            };
            let size = ByteSize(row.size_bytes);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{}: {} of {size}, {} in flight: {change}",
                file.name, row.op, row.concurrency
            );
        }
    }
    if text.is_empty() {
        "no change of a tenth or more since the results before\n".into()
    } else {
        text
    }
}

fn change(before: &Row, now: &Row) -> Option<String> {
    let (what, before, now) = match (&before.ratio_to_raw, &now.ratio_to_raw) {
        (Some(before), Some(now)) => ("ratio to the bare device", before.median, now.median),
        _ => ("operations a second", before.ops_per_s, now.ops_per_s),
    };
    let share = now / before - 1.0;
    (share.abs() >= CHANGE_MIN)
        .then(|| format!("{what} {before:.3} before, {now:.3} now ({:+.0} %)", share * 100.0))
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
        let results = |row| Results {
            files: vec![File { name: "x".into(), rows: vec![row], ..File::default() }],
        };
        let before = results(row(100.0, 1.2));
        assert!(text(&before, &results(row(50.0, 1.25))).starts_with("no change"));
        let changed = text(&before, &results(row(100.0, 1.5)));
        assert!(changed.contains("1.200 before, 1.500 now (+25 %)"), "{changed}");
    }
}
