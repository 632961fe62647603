//! What must hold of every row, however short the run.

use crate::results::{Error, Results, Row};

/// Complains about rows with errors, without a rate, or whose bytes nobody compared.
///
/// # Errors
/// [`Error::Bad`] with all complaints.
pub(crate) fn all(results: &Results) -> Result<(), Error> {
    let mut complaints = Vec::new();
    for file in &results.files {
        if file.rows.is_empty() {
            complaints.push(format!("{} has no rows", file.name));
        }
        for row in &file.rows {
            if let Some(complaint) = complaint(row) {
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

fn complaint(row: &Row) -> Option<String> {
    if row.count == 0 || row.ops_per_s <= 0.0 {
        return Some("nothing was done".to_owned());
    }
    if row.is_raw() {
        return None;
    }
    if row.errors > 0 {
        return Some(format!("{} errors", row.errors));
    }
    (row.verified == 0).then(|| "no bytes were compared".to_owned())
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
        let raw = Row { op: "raw_rtt".into(), verified: 0, errors: 2, ..good };
        assert!(all(&results(raw)).is_ok(), "a bare device may lose datagrams");
    }
}
