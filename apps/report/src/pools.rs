//! The table of `ci/cxl`: what pools cost beside their yardsticks, and what they should.

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
         | operation | size | in flight | median | 99 % | ratio | (quartiles) | to | should be | \
         |\n|---|---|---|---|---|---|---|---|---|---|\n",
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
        let verdict = match row.met {
            _ if bar.is_empty() => "",
            Some(true) => "met",
            _ => "**missed**",
        };
        let _ = writeln!(
            text,
            "| `{}`{} | {} | {} | {cost} | {} | {} | {quartiles} | {} | {bar} | {verdict} |",
            row.op,
            if row.driver == "udp" { " over UDP" } else { "" },
            ByteSize(row.size_bytes),
            row.concurrency,
            micros(row.p99_ns),
            number(row.ratio),
            row.beside.as_deref().unwrap_or_default(),
        );
    }
    Some(text)
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
    }
}
