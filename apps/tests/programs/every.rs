//! Every program over every link, briefly.

use crate::common::rows;

/// Each program with what makes it short, and an operation that it has to show.
const PROGRAMS: [(&str, &str, &str); 7] = [
    ("simple_test", "", "map_ref"),
    ("latency_test", "--seconds 0.05 --blocks 3 --warmup 20 --sizes 64B,20KiB", "create_ref"),
    ("bandwidth_read_test", "--seconds 0.05 --blocks 3 --sizes 4KiB --concurrency 1,8", "read"),
    ("bandwidth_write_test", "--seconds 0.05 --blocks 3 --sizes 4KiB --concurrency 1,8", "write"),
    ("rpc_test", "--seconds 0.05 --blocks 3 --sizes 32B,20KiB --concurrency 1,8", "rpc"),
    ("fork_speed", "--seconds 0.05 --blocks 3 --sizes 4KiB,1MiB", "create_ref"),
    (
        "fork_test",
        "--seconds 0.05 --blocks 3 --sizes 32KiB --pages 2 --write-sizes 1KiB --concurrency 1",
        "cow_write",
    ),
];

/// Runs all programs with `link` and looks at each row.
fn all(link: &str, driver: &str) {
    for (program, flags, wanted) in PROGRAMS {
        let line = format!("{link} {flags} --pool-size 256MiB --idle yield");
        let rows = rows(program, &line);
        assert!(rows.iter().any(|row| row["op"] == wanted), "{program} {line}: no {wanted}");
        for row in &rows {
            assert_eq!(row["driver"], driver, "{program} {line}: {row}");
            assert_eq!(row["errors"], 0, "{program} {line}: {row}");
            assert!(row["count"].as_u64() > Some(0), "{program} {line}: {row}");
            assert!(row["verified"].as_u64() > Some(0), "{program} {line}: {row}");
        }
    }
}

#[test]
fn over_udp() {
    all("--local udp", "udp");
}

#[test]
fn through_a_pool() {
    all("--local cxl", "cxl");
}

#[test]
fn through_a_pool_in_flush_mode() {
    all("--local cxl --coherence flush", "cxl-flush");
}

#[cfg(feature = "dpdk")]
#[test]
fn over_memif() {
    all("--local memif --dpdk-no-huge", "memif");
}

#[cfg(feature = "dpdk")]
#[test]
fn over_veths() {
    if dmrpc_conformance::may(dmrpc_host::network::Network::new(), "network namespaces") {
        all("--local veth --dpdk-no-huge", "veth");
    }
}
