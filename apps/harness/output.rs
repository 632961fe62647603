//! Results, for people as a table and for programs as JSON lines; and how far a long run is.

use std::io::{self, IsTerminal, Write};

use dmrpc_host::size::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::AppError;
use crate::row::{Details, Row};

/// Where results go.
pub struct Output {
    json: bool,
    heading_done: bool,
    progress: ProgressBar,
}

impl Output {
    /// Rows as JSON lines, or as a table.
    pub fn new(json: bool) -> Self {
        let progress = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = "{elapsed_precise} [{bar:30}] {pos}/{len} {msg}";
        progress.set_style(ProgressStyle::with_template(style).expect("a legal template"));
        if !io::stderr().is_terminal() {
            progress.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { json, heading_done: false, progress }
    }

    /// Says what comes next, in so many steps.
    pub fn expect(&mut self, what: &str, steps: u64) {
        self.progress.inc_length(steps);
        self.progress.set_message(what.to_owned());
    }

    /// A step is done.
    pub fn step(&mut self) {
        self.progress.inc(1);
    }

    /// Prints a row.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn row(&mut self, row: &Row) -> Result<(), AppError> {
        let line = if self.json {
            serde_json::to_string(row).map_err(|error| AppError::Output(error.into()))?
        } else if self.heading_done {
            table_line(row)
        } else {
            self.heading_done = true;
            format!("{HEADING}\n{}", table_line(row))
        };
        self.progress.suspend(|| print_line(&line))
    }

    /// Prints a line for people; nothing with `--json`.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn text(&mut self, line: &str) -> Result<(), AppError> {
        match self.json {
            true => Ok(()),
            false => self.progress.suspend(|| print_line(line)),
        }
    }

    /// Takes the progress bar away.
    pub fn finish(&mut self) {
        self.progress.finish_and_clear();
    }
}

fn print_line(line: &str) -> Result<(), AppError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(AppError::Output)
}

const HEADING: &str = "op            size  flight      count errors     p50 us     p99 us   p99.9 \
                       us        ops/s   Gbit/s  to raw (quartiles)";

fn table_line(row: &Row) -> String {
    let micros = |nanos: u64| match nanos {
        0 => "-".to_owned(),
        nanos => format!("{:.2}", nanos as f64 / 1e3),
    };
    let size = ByteSize(row.size_bytes).to_string();
    let gbit =
        if row.gbit_per_s == 0.0 { "-".to_owned() } else { format!("{:.3}", row.gbit_per_s) };
    let details = details_text(&row.details);
    let line = format!(
        "{:<10} {size:>7} {:>7} {:>10} {:>6} {:>10} {:>10} {:>10} {:>12.0} {gbit:>8}  {details}",
        row.op,
        row.concurrency,
        row.count,
        row.errors,
        micros(row.p50_ns),
        micros(row.p99_ns),
        micros(row.p999_ns),
        row.ops_per_s,
    );
    line.trim_end().to_owned()
}

/// Ratios, and what tells rows of one size apart.
fn details_text(details: &Details) -> String {
    let ratios = [
        ("", details.ratio_to_raw),
        ("rpc ", details.ratio_to_rpc),
        ("copy ", details.ratio_to_copy),
    ];
    let ratios = ratios.into_iter();
    let mut texts: Vec<_> =
        ratios.filter_map(|(name, ratio)| ratio.map(|ratio| format!("{name}{ratio}"))).collect();
    if let (Some(pages), Some(bytes)) = (details.pages, details.write_bytes) {
        texts.push(format!("{} in each of {pages} pages", ByteSize(bytes as u64)));
    }
    texts.extend(details.way.map(|way| format!("by {way}")));
    texts.join(", ")
}
