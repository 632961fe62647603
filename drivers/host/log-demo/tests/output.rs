//! What the demo prints.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> (Output, Vec<String>) {
    let output = Command::new(env!("CARGO_BIN_EXE_dmrpc-log-demo"))
        .args(arguments)
        .output()
        .expect("it was just built");
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    assert!(output.status.success(), "{text}");
    (output, text.lines().map(str::to_owned).collect())
}

/// The line without its time, which is checked for its form.
fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_at(16);
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "00:00:00.000000 ", "{line}");
    rest
}

#[test]
fn every_message_is_formatted() {
    let (output, lines) = run(&[]);
    let lines: Vec<&str> = lines.iter().map(|line| without_time(line)).collect();
    let mut expected = vec![
        "info  demo: hello",
        "error demo: frame 7 of 1099511627776, 0.5",
        "warn  demo: text näh and bytes [1, ab]",
        "info  demo: Range { offset: 4096, bytes: 12 } and Some(-3)",
        "info  demo: 127.0.0.1",
        "warn  demo: from another thread, number 2",
        "warn  demo: 1 log messages were dropped",
    ];
    let mut lines = lines;
    // The report of the message that was too long may come at any place.
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "dropped 1\n");
}

#[test]
fn messages_are_in_order_of_time() {
    let (_, lines) = run(&[]);
    let times: Vec<&str> =
        lines.iter().filter(|line| !line.contains("dropped")).map(|line| &line[..15]).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_full_ring_drops_and_counts() {
    let (output, lines) = run(&["--flood"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    let last = text.lines().last().expect("it prints");
    let dropped: usize =
        last.strip_prefix("dropped ").expect("so it says").parse().expect("digits");
    let floods = lines.iter().filter(|line| line.contains("flood")).count();
    let lost_elsewhere = 1_000_000 - floods;
    assert!(dropped >= lost_elsewhere && dropped > 0, "{dropped} of {lost_elsewhere}");
    assert!(lines.iter().any(|line| line.ends_with("log messages were dropped")));
}
