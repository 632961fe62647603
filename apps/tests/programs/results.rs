//! Each program runs briefly, and its rows keep the contract.

use crate::common::rows;
use serde_json::Value;

/// Fields of every row: name and whether it is a number, a text or a switch.
const NUMBERS: [&str; 9] = [
    "size_bytes",
    "concurrency",
    "count",
    "errors",
    "p50_ns",
    "p99_ns",
    "p999_ns",
    "ops_per_s",
    "gbit_per_s",
];
const TEXTS: [&str; 3] = ["app", "driver", "op"];
const SWITCHES: [&str; 5] = ["integrity", "auth", "congestion", "zero_copy", "zero_copy_transmit"];

/// Short enough for a test, on a machine that does other things meanwhile.
const BRIEF: &str = "--local udp --seconds 0.05 --blocks 3 --warmup 20 --pool-size 64MiB \
                     --idle yield";

fn check(app: &str, rows: &[Value]) {
    assert!(!rows.is_empty());
    for row in rows {
        assert!(NUMBERS.iter().all(|name| row[name].is_number()), "{row}");
        assert!(TEXTS.iter().all(|name| row[name].is_string()), "{row}");
        assert!(SWITCHES.iter().all(|name| row[name].is_boolean()), "{row}");
        assert_eq!(row["app"], app, "{row}");
        assert!(["udp", "cxl", "cxl-flush"].iter().any(|name| row["driver"] == *name), "{row}");
        assert!(row["count"].as_u64() > Some(0), "{row}");
        assert!(row["ops_per_s"].as_f64() > Some(0.0), "{row}");
        let raw = row["op"].as_str().is_some_and(|op| op.starts_with("raw_"));
        if !raw {
            assert_eq!(row["errors"], 0, "{row}");
            assert!(row["verified"].as_u64() > Some(0), "{row}");
        }
        assert_eq!(row["integrity"], !raw, "{row}");
        if row["p50_ns"].as_u64() > Some(0) {
            assert!(row["p50_ns"].as_u64() <= row["p99_ns"].as_u64(), "{row}");
        }
    }
}

fn ops(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["op"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn simple_test_tries_every_operation() {
    let rows = rows("simple_test", "--local udp --pool-size 64MiB");
    check("simple_test", &rows);
    let ops = ops(&rows);
    for op in [
        "rpc",
        "alloc",
        "read",
        "write",
        "create_ref",
        "map_ref",
        "claim_ref",
        "detach",
        "drop_ref",
        "narrow",
        "read_ref",
        "put",
        "take",
        "free",
    ] {
        assert!(ops.iter().any(|found| found == op), "{op} was not tried");
    }
}

#[test]
fn reads_are_looked_at_where_they_came_in() {
    // One packet, and several; where the pool is mapped none comes.
    for driver in ["--local udp", "--local cxl"] {
        let brief = BRIEF.replace("--local udp", driver);
        let line = format!("{brief} --sizes 64B,100KiB --concurrency 1,4 --zero-copy");
        let rows = rows("bandwidth_read_test", &line);
        check("bandwidth_read_test", &rows);
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row["zero_copy"] == true), "{rows:?}");
    }
}

#[test]
fn latency_test_measures_each_operation_beside_the_bare_socket() {
    let rows = rows("latency_test", &format!("{BRIEF} --raw --sizes 64B,20KiB"));
    check("latency_test", &rows);
    let ops = ops(&rows);
    for op in ["rpc", "read", "write", "alloc", "create_ref", "map_ref", "drop_ref", "free"] {
        let row = rows.iter().find(|row| row["op"] == op).expect(op);
        assert_eq!(row["ratio_to_raw"]["blocks"], 3, "{row}");
        assert!(row["ratio_to_raw"]["median"].as_f64() > Some(0.0), "{row}");
    }
    assert_eq!(ops.iter().filter(|op| *op == "raw_rtt").count(), 8);
    // 64 B are one datagram each way, with the protocol's header; 20 KiB three.
    let raw = rows.iter().find(|row| row["op"] == "raw_rtt" && row["beside"] == "rpc");
    assert_eq!(raw.expect("a raw row")["datagrams"], 2);
}

#[test]
fn bandwidth_tests_measure_sizes_and_numbers_in_flight() {
    for (app, op) in [("bandwidth_read_test", "read"), ("bandwidth_write_test", "write")] {
        let line = format!("{BRIEF} --raw --sizes 4KiB,100KiB --concurrency 1,40");
        let rows = rows(app, &line);
        check(app, &rows);
        assert_eq!(ops(&rows), [op, "raw_oneway"].repeat(4));
        let concurrency: Vec<_> = rows.iter().map(|row| row["concurrency"].clone()).collect();
        assert_eq!(concurrency, [1, 1, 40, 40].repeat(2));
    }
}

#[test]
fn rpc_test_echoes() {
    let rows = rows("rpc_test", &format!("{BRIEF} --raw --sizes 32B,64KiB --concurrency 1,16"));
    check("rpc_test", &rows);
    assert_eq!(
        ops(&rows),
        ["rpc", "raw_echo", "rpc", "raw_echo", "rpc", "raw_oneway", "rpc", "raw_oneway"]
    );
}

/// More sessions than it takes to fetch ahead, and fewer than calls.
#[test]
fn rpc_test_spreads_calls_over_sessions() {
    for sessions in [1_500, 3] {
        let line = format!("{BRIEF} --sizes 32B,16KiB --concurrency 40 --sessions {sessions}");
        let rows = rows("rpc_test", &line);
        check("rpc_test", &rows);
        assert_eq!(ops(&rows), ["rpc", "rpc"]);
        assert!(rows.iter().all(|row| row["sessions"] == sessions), "{rows:?}");
    }
}

#[test]
fn fork_speed_measures_references_beside_a_call() {
    let rows = rows("fork_speed", &format!("{BRIEF} --raw --sizes 4KiB,32MiB --concurrency 1,40"));
    check("fork_speed", &rows);
    let of_a_size =
        ["create_ref", "map_ref", "rpc", "raw_rtt", "create_ref", "rpc", "raw_echo"].repeat(2);
    assert_eq!(ops(&rows), of_a_size);
    for row in rows.iter().filter(|row| row["op"] == "create_ref") {
        assert_eq!(row["ratio_to_rpc"]["blocks"], 3, "{row}");
        assert!(row["ratio_to_raw"]["median"].as_f64() > Some(0.0), "{row}");
    }
}

#[test]
fn fork_test_compares_with_copying() {
    let line = "--raw --sizes 32KiB,200KiB --pages 1,8 --write-sizes 4B,4KiB --concurrency 1,3";
    let rows = rows("fork_test", &format!("{BRIEF} {line}"));
    check("fork_test", &rows);
    assert_eq!(ops(&rows).len(), 2 * 2 * 2 * 2 * 3);
    for rows in rows.chunks(3) {
        let raw = if rows[0]["concurrency"] == 1 { "raw_rtt" } else { "raw_echo" };
        assert_eq!(ops(rows), ["cow_write", "copy_write", raw]);
        assert!(rows[0]["ratio_to_copy"]["median"].as_f64() > Some(0.0), "{}", rows[0]);
        assert_eq!(rows[0]["way"], "reference");
        let way = rows[1]["way"].as_str().expect("a way");
        assert!(["value", "memory node"].contains(&way), "{way}");
        assert!(rows.iter().all(|row| row["pages"].is_number() && row["write_bytes"].is_number()));
    }
}

#[test]
fn switches_and_counts_are_taken() {
    let line = "--local udp --ops rpc --sizes 64B --count 50 --warmup 5 --blocks 5 --idle sleep \
                --no-payload-check";
    crate::common::build_memory_node();
    let row = &rows("latency_test", line)[0];
    assert_eq!(row["count"], 50);
    assert_eq!((&row["integrity"], &row["idle"]), (&false.into(), &"sleep".into()));
    assert_eq!((&row["auth"], &row["congestion"]), (&false.into(), &true.into()));

    let key = std::env::temp_dir().join(format!("dmrpc-app-key-{}", std::process::id()));
    std::fs::write(&key, "sixteen bytes or more\n").expect("a key file");
    let file = key.display();
    let line = format!("{BRIEF} --ops rpc,read --sizes 64B --congestion none --key-file {file}");
    let rows = rows("latency_test", &line);
    std::fs::remove_file(&key).expect("the key file");
    check("latency_test", &rows);
    assert_eq!(ops(&rows), ["rpc", "read"]);
    assert!(rows.iter().all(|row| row["auth"] == true && row["congestion"] == false));
}

#[test]
fn the_same_programs_run_through_a_pool() {
    let rows = rows("simple_test", "--local cxl --pool-size 64MiB");
    check("simple_test", &rows);
    assert!(rows.iter().all(|row| row["driver"] == "cxl"));
    assert!(ops(&rows).iter().any(|op| op == "map_ref"));
}

#[test]
fn encrypted_calls_run_through_a_pool() {
    let key = crate::common::KeyFile::new("pool");
    for mode in ["", "--coherence flush"] {
        let line = format!("--local cxl {mode} --pool-size 64MiB {}", key.encrypt());
        let rows = rows("simple_test", &line);
        check("simple_test", &rows);
        assert!(rows.iter().all(|row| row["auth"] == true), "{rows:?}");
    }
}

#[test]
fn the_same_programs_run_through_a_pool_in_flush_mode() {
    let rows = rows("simple_test", "--local cxl --coherence flush --pool-size 64MiB");
    check("simple_test", &rows);
    assert!(rows.iter().all(|row| row["driver"] == "cxl-flush"));
}

/// The programs that close an endpoint and open the next one, while the memory node, which gives
/// the number of the closed one back, takes turns with other servers.
#[test]
fn endpoints_are_opened_one_after_another_through_a_pool() {
    for (mode, driver) in [("", "cxl"), ("--coherence flush", "cxl-flush")] {
        // Counted: so that a machine that does other things meanwhile changes nothing.
        let brief = format!("--local cxl {mode} --pool-size 64MiB --warmup 20");
        for (app, line, count) in [
            ("latency_test", "--sizes 64B", 8),
            ("latency_test", "--sizes 64B --raw", 12),
            // More than there are references: who takes them frees what others made.
            (
                "fork_test",
                "--count 2000 --sizes 32KiB --pages 1 --write-sizes 4B --concurrency 1,3",
                4,
            ),
            ("fork_speed", "--sizes 4KiB --concurrency 1,4", 5),
            ("rpc_test", "--sizes 32B,4KiB --concurrency 1,4", 4),
            ("bandwidth_read_test", "--sizes 4KiB --concurrency 1,4 --raw", 4),
            ("bandwidth_write_test", "--sizes 4KiB --concurrency 1,4", 2),
        ] {
            let short = if line.contains("--count") { "" } else { "--count 60" };
            let rows = rows(app, &format!("{brief} --blocks 3 --idle yield {line} {short}"));
            check(app, &rows);
            assert_eq!(rows.len(), count, "{app} {mode} {line}: {rows:?}");
            assert!(rows.iter().all(|row| row["driver"] == driver), "{app} {mode}: {rows:?}");
        }
    }
}
