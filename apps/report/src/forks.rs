//! Tables of `fork_speed` and `fork_test`, whose rows have more to them than size and number in
//! flight.

use std::fmt::Write;

use dmrpc_host::size::ByteSize;

use crate::results::Row;
use crate::tables::{micros, ratio_text, thousands};

/// The table of a file with rows of either program; `None` for others.
pub(crate) fn table(rows: &[Row]) -> Option<String> {
    match rows.first()?.app.as_str() {
        "fork_speed" => Some(speeds(rows)),
        "fork_test" => Some(tests(rows)),
        _ => None,
    }
}

/// Writing to a string does not fail, so results of `write!` are dropped.
fn speeds(rows: &[Row]) -> String {
    let mut text = String::from(
        "Ratios of one at a time are of times (1.1: a tenth slower), those of many of rates.\n\n\
         | operation | size | in flight | a second | median | 99 % | to a call of 64 B | to the \
         bare device |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| !row.is_raw() && row.beside.is_none()) {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} | {} |",
            row.op,
            ByteSize(row.size_bytes),
            row.concurrency,
            thousands(row.ops_per_s),
            micros(row.p50_ns),
            micros(row.p99_ns),
            ratio_text(row.ratio_to_rpc),
            ratio_text(row.ratio_to_raw),
        );
    }
    text
}

fn tests(rows: &[Row]) -> String {
    let mut text = String::from(
        "`cow_write`: a producer hands over an object by reference, a receiver writes to some of \
         its pages. Its rival copies the whole object first, in the faster of two ways: the \
         producer sends its bytes again (value), or the memory node copies each page. How many \
         times faster ours is: of medians for one at a time, of rates for many.\n\n\
         | object | pages written | bytes in each | in flight | a second | median | 99 % | \
         copying, a second | median | by | times faster |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let is_ours = |row: &&Row| row.op == "cow_write";
    for row in rows.iter().filter(is_ours) {
        let is_rival = |rival: &&Row| {
            let (_, _, size, concurrency, pages, bytes) = row.key();
            rival.key() == ("copy_write", "cow_write", size, concurrency, pages, bytes)
        };
        let rival = rows.iter().find(is_rival);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            ByteSize(row.size_bytes),
            row.pages.unwrap_or(0),
            row.write_bytes.unwrap_or(0),
            row.concurrency,
            thousands(row.ops_per_s),
            micros(row.p50_ns),
            micros(row.p99_ns),
            rival.map_or(String::new(), |rival| thousands(rival.ops_per_s)),
            rival.map_or(String::new(), |rival| micros(rival.p50_ns)),
            rival.and_then(|rival| rival.way.as_deref()).unwrap_or(""),
            ratio_text(row.ratio_to_copy),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Ratio;

    #[test]
    fn ours_stands_beside_its_rival() {
        let row = |op: &str, pages, p50_ns| Row {
            app: "fork_test".into(),
            op: op.into(),
            beside: (op != "cow_write").then(|| "cow_write".into()),
            size_bytes: 1 << 20,
            concurrency: 1,
            pages: Some(pages),
            write_bytes: Some(1024),
            way: Some("memory node".into()),
            p50_ns,
            ..Row::default()
        };
        let ratio = Ratio { median: 15.5, lower_quartile: 15.0, upper_quartile: 16.0, blocks: 21 };
        let ours = Row { ratio_to_copy: Some(ratio), ..row("cow_write", 2, 6_000) };
        let rows = [row("copy_write", 1, 1), ours, row("copy_write", 2, 93_000)];
        let text = table(&rows).expect("of fork_test");
        let line = text.lines().last().expect("a row");
        assert!(line.starts_with("| 1MiB | 2 | 1024 | 1 |"), "{line}");
        assert!(line.contains("93.00 us | memory node | 15.50 (15.00-16.00) |"), "{line}");
        assert!(table(&[Row { app: "rpc_test".into(), ..Row::default() }]).is_none());
    }
}
