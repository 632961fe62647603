//! What must hold of every row, however short the run.

use crate::results::{Error, Results, Row};

/// Complains about rows with errors, without a rate, whose bytes nobody compared, or whose raw
/// probe is void.
///
/// # Errors
/// [`Error::Bad`] with all complaints.
pub(crate) fn all(results: &Results) -> Result<(), Error> {
    let mut complaints = Vec::new();
    for file in &results.files {
        if file.rows.is_empty() {
            complaints.push(format!("{} has no rows", file.name));
        }
        let with_raw = file.header.command.split(' ').any(|flag| flag == "--raw");
        for row in &file.rows {
            if let Some(complaint) = complaint(row, with_raw) {
                let Row { op, size_bytes, concurrency, .. } = row;
                complaints.push(format!(
                    "{}: {op} of {size_bytes} bytes, {concurrency} in flight: {complaint}",
                    file.name
                ));
            }
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(Error::Bad { complaints }) }
}

fn complaint(row: &Row, with_raw: bool) -> Option<String> {
    if row.count == 0 || row.ops_per_s <= 0.0 {
        return Some("nothing was done".to_owned());
    }
    if row.is_raw() {
        // A bare device may lose something, but not most.
        let void = row.void || row.errors > row.count;
        return void.then(|| "the raw probe is void".to_owned());
    }
    if row.errors > 0 {
        return Some(format!("{} errors", row.errors));
    }
    if row.verified == 0 {
        return Some("no bytes were compared".to_owned());
    }
    let is_rival = row.beside.is_some();
    let lacks_raw = with_raw && !is_rival && row.ratio_to_raw.is_none();
    lacks_raw.then(|| "the raw probe is void: there is no ratio to it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::File;

    #[test]
    fn bad_rows_are_named() {
        let good =
            Row { op: "rpc".into(), count: 1, ops_per_s: 1.0, verified: 1, ..Row::default() };
        let results = |row: Row| Results {
            files: vec![File { name: "x".into(), rows: vec![row], ..File::default() }],
        };
        assert!(all(&results(good.clone())).is_ok());
        for (bad, word) in [
            (Row { errors: 3, ..good.clone() }, "3 errors"),
            (Row { verified: 0, ..good.clone() }, "compared"),
            (Row { ops_per_s: 0.0, ..good.clone() }, "nothing"),
        ] {
            let error = all(&results(bad)).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        let raw = Row { op: "raw_rtt".into(), verified: 0, count: 9, errors: 2, ..good.clone() };
        assert!(all(&results(raw.clone())).is_ok(), "a bare device may lose datagrams");
        for void in [Row { void: true, ..raw.clone() }, Row { errors: 10, ..raw }] {
            let error = all(&results(void)).expect_err("void").to_string();
            assert!(error.contains("raw probe is void"), "{error}");
        }
        let mut beside = results(good.clone());
        beside.files[0].header.command = "rpc_test --raw --json".into();
        let error = all(&beside).expect_err("no ratio").to_string();
        assert!(error.contains("no ratio"), "{error}");
        beside.files[0].rows[0].beside = Some("create_ref".into());
        assert!(all(&beside).is_ok(), "what stands beside another is not compared itself");
    }
}
