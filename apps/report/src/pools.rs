//! The table of rows that say themselves what they should be: those of pools (`ci/cxl`), and of
//! what happens in memory (`two_cores`, `at_random`).

use std::fmt::Write;

use dmrpc_host::size::ByteSize;

use crate::results::Row;
use crate::tables::micros;

/// The table of a file whose rows have bars; `None` for others. Writing to a string does not fail.
pub(crate) fn table(rows: &[Row]) -> Option<String> {
    rows.iter().find(|row| row.bar.is_some())?;
    let mut text = String::from(
        "Each row beside its yardstick, measured in turns in the same run: the ratio is the median \
         over the blocks, with quartiles.\n\n\
         | operation | mode | size | in flight | median | 99 % | ratio | (quartiles) | to | should \
         be | |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let cost = match row.instructions {
            Some(count) => format!("{count} instructions"),
            None => micros(row.p50_ns),
        };
        let number = |ratio: Option<f64>| ratio.map_or("".into(), |ratio| format!("{ratio:.2}"));
        let quartiles = match (row.ratio_low, row.ratio_high) {
            (Some(low), Some(high)) => format!("{low:.2}-{high:.2}"),
            _ => String::new(),
        };
        let bar = row.bar.as_deref().unwrap_or_default();
        let verdict = verdict(row);
        let _ = writeln!(
            text,
            "| `{}`{} | {} | {} | {} | {cost} | {} | {} | {quartiles} | {} | {bar} | {verdict} |",
            row.op,
            if row.driver == "udp" { " over UDP" } else { "" },
            row.mode.as_deref().unwrap_or_default(),
            ByteSize(row.size_bytes),
            row.concurrency,
            micros(row.p99_ns),
            number(row.ratio),
            row.beside.as_deref().unwrap_or_default(),
        );
    }
    Some(text)
}

/// Whether the bar of a row is met; nothing where it has none.
fn verdict(row: &Row) -> &'static str {
    match row.met {
        _ if row.bar.as_deref().unwrap_or_default().is_empty() => "",
        Some(true) => "met",
        _ => "**missed**",
    }
}

/// Lines of the table of all bars (`bars.rs`), for the rows of a file that have one.
pub(crate) fn bars(text: &mut String, name: &str, rows: &[Row]) {
    for row in rows.iter().filter(|row| !verdict(row).is_empty()) {
        let quartiles = match (row.ratio_low, row.ratio_high) {
            (Some(low), Some(high)) => format!(" ({low:.2}-{high:.2})"),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| {name} | `{}` {}, {} in flight | {} | {} | {:.2}{quartiles} | {} |",
            row.op,
            ByteSize(row.size_bytes),
            row.concurrency,
            row.beside.as_deref().unwrap_or_default(),
            row.bar.as_deref().unwrap_or_default(),
            row.ratio.unwrap_or(f64::NAN),
            verdict(row)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_whether_their_bar_is_met() {
        assert_eq!(table(&[Row::default()]), None);
        let row = |met| Row {
            op: "rpc".into(),
            size_bytes: 64,
            ratio: Some(2.25),
            bar: Some("at most 2.5".into()),
            met: Some(met),
            ..Row::default()
        };
        let text = table(&[row(true), row(false)]).expect("there are bars");
        assert!(text.contains("| 2.25 |  |  | at most 2.5 | met |"), "{text}");
        assert!(text.contains("| at most 2.5 | **missed** |"), "{text}");
        let mut all = String::new();
        bars(&mut all, "cxl", &[row(true), Row::default()]);
        assert_eq!(all, "| cxl | `rpc` 64B, 0 in flight |  | at most 2.5 | 2.25 | met |\n");
    }
}
