//! Plots: what is measured over the size, ours and the bare device's, on logarithmic axes.

use std::path::Path;

use dmrpc_host::size::ByteSize;
use plotters::prelude::*;

use crate::results::{Error, File, Results, Row};

/// A plot that was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plot {
    /// The file of results that it is of.
    pub(crate) of: String,
    /// Its file, in the same folder.
    pub(crate) file: String,
    /// What it shows.
    pub(crate) title: String,
}

/// A line of a plot: its name, whether it is of the bare device, and its points: size, as a power
/// of two, and value.
struct Line {
    name: String,
    raw: bool,
    points: Vec<(f64, f64)>,
}

/// Width and height in pixels.
const SIZE: (u32, u32) = (760, 460);

/// Draws all plots of a folder's results into it.
///
/// # Errors
/// [`Error::Plot`].
pub(crate) fn all(results: &Results, folder: &Path) -> Result<Vec<Plot>, Error> {
    let mut plots = Vec::new();
    for file in &results.files {
        let is_a_rate = |row: &Row| row.concurrency > 1 && row.gbit_per_s > 0.0;
        // What moves no bytes has no throughput.
        let one_at_a_time = !file.rows.iter().any(|row| is_a_rate(row) && row.beside.is_none());
        let (lines, unit) =
            if one_at_a_time { (times(file), "us") } else { (rates(file), "Gbit/s") };
        if lines.iter().all(|line| line.points.len() < 2) {
            continue;
        }
        let title = match one_at_a_time {
            true => format!("{}: median time by size", file.name),
            false => format!("{}: throughput by size", file.name),
        };
        let plot = Plot { of: file.name.clone(), file: format!("{}.svg", file.name), title };
        let path = folder.join(&plot.file);
        draw(&path, &plot.title, unit, &lines)
            .map_err(|error| Error::Plot { path, reason: error.to_string() })?;
        plots.push(plot);
    }
    Ok(plots)
}

/// The values of the rows that `choose` accepts, by size.
fn line(
    file: &File,
    name: String,
    raw: bool,
    choose: impl Fn(&Row) -> bool,
    value: impl Fn(&Row) -> f64,
) -> Line {
    let rows = file.rows.iter().filter(|row| choose(row) && value(row) > 0.0);
    let mut points: Vec<_> = rows.map(|row| ((row.size_bytes as f64).log2(), value(row))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Line { name, raw, points }
}

/// Median times of what moves bytes; of references, for the program that is about those.
fn times(file: &File) -> Vec<Line> {
    let micros = |row: &Row| row.p50_ns as f64 / 1e3;
    let mut lines = Vec::new();
    let is_alone = |row: &Row| row.concurrency == 1 && row.pages.is_none();
    let forks = file.rows.iter().any(|row| row.app == "fork_speed");
    let ops: &[&str] = if forks { &["create_ref", "map_ref"] } else { &["rpc", "read", "write"] };
    for &op in ops {
        let ours = |row: &Row| row.op == op && row.beside.is_none() && is_alone(row);
        lines.push(line(file, op.to_owned(), false, ours, micros));
        let beside = |row: &Row| row.is_raw() && row.beside.as_deref() == Some(op) && is_alone(row);
        lines.push(line(file, format!("bare socket, as {op}"), true, beside, micros));
    }
    lines
}

/// Throughput for each number in flight.
fn rates(file: &File) -> Vec<Line> {
    let mut numbers: Vec<u64> = file.rows.iter().map(|row| row.concurrency).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let gbit = |row: &Row| row.gbit_per_s;
    let ours = numbers.iter().map(|&number| {
        let name = format!("{number} in flight");
        line(file, name, false, |row| !row.is_raw() && row.concurrency == number, gbit)
    });
    let mut lines: Vec<_> = ours.collect();
    // One way it makes no difference how many are said to be in flight.
    if let Some(&most) = numbers.last() {
        let raw = |row: &Row| row.op == "raw_oneway" && row.concurrency == most;
        let mut bare = line(file, "bare device, one way".to_owned(), true, raw, gbit);
        bare.points.dedup_by_key(|point| point.0);
        lines.push(bare);
    }
    lines
}

fn draw(
    path: &Path,
    title: &str,
    unit: &str,
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let ends = |of: fn(&(f64, f64)) -> f64| {
        points()
            .map(of)
            .fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
    };
    let (smallest, largest) = ends(|point| point.0);
    let (least, most) = ends(|point| point.1);
    let sizes = smallest.floor()..largest.ceil();
    // Marks at whole powers of two only.
    let marks = (sizes.end - sizes.start) as usize;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(sizes, (least * 0.8..most * 1.25).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("size")
        .y_desc(unit)
        .x_labels(marks.clamp(2, 12))
        .x_label_formatter(&|power| ByteSize(1 << (power.round() as u32)).to_string())
        .y_label_formatter(&|value| format!("{value}"))
        .light_line_style(WHITE)
        .draw()?;
    for (index, line) in lines.iter().filter(|line| !line.points.is_empty()).enumerate() {
        // A line and the bare device's beside it have neighbouring numbers.
        let color = Palette99::pick(index).to_rgba();
        let style = ShapeStyle { color, filled: true, stroke_width: if line.raw { 1 } else { 2 } };
        let radius = if line.raw { 2 } else { 4 };
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(radius))?
            .label(line.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_drawn() {
        let row = |op: &str, size_bytes, p50_ns| Row {
            op: op.into(),
            size_bytes,
            concurrency: 1,
            p50_ns,
            ..Row::default()
        };
        let rows = vec![row("rpc", 64, 9_000), row("rpc", 4096, 12_000), row("free", 64, 1)];
        let file = File { name: "latency_test".into(), rows, ..File::default() };
        let folder = std::env::temp_dir().join(format!("dmrpc-plot-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let plots = all(&Results { files: vec![file] }, &folder).expect("two points");
        assert_eq!(plots[0].file, "latency_test.svg");
        let text = std::fs::read_to_string(folder.join("latency_test.svg")).expect("drawn");
        assert!(text.contains("<svg") && text.contains("rpc"), "{text}");
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
