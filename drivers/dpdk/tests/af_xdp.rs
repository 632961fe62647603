//! The suite that every driver passes, over `net_af_xdp` on veths, which shares packet buffers with
//! the kernel and has them on huge pages only. They are reserved here and given back.
//!
//! AF_XDP needs a pool of buffers to be one piece, which DPDK makes of memory that no earlier pool
//! was in: so each check runs in a process of its own.
#![cfg(feature = "dpdk")]

mod common;
#[path = "common/namespace.rs"]
mod namespace;

use std::process::Command;

use namespace::{Kind, own_namespace};

/// Set for the process that a check runs in.
const CHILD: &str = "DMRPC_TEST_CHILD";

/// Runs the test of that name in a process of its own, and `check` in that process.
fn in_own_process(name: &str, check: impl FnOnce(&mut Kind)) {
    if std::env::var_os(CHILD).is_some() {
        return check(&mut Kind::AfXdp);
    }
    if !own_namespace() {
        return;
    }
    common::reserve_huge_pages();
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
}

/// Makes a test of each check.
macro_rules! conformance_in_process {
    ($($check:ident),+ $(,)?) => {
        $(
            #[test]
            fn $check() {
                in_own_process(stringify!($check), |kind| {
                    dmrpc_conformance::checks::$check(kind)
                });
            }
        )+
    };
}

conformance_in_process!(
    capabilities_are_sane,
    nothing_comes_unasked,
    a_datagram_arrives_as_it_was_sent,
    a_burst_keeps_its_order,
    every_size_arrives_whole,
    empty_datagrams_do_as_stated,
    a_full_queue_recovers,
    many_senders_reach_one_receiver,
    a_request_is_answered_from_its_own_buffer,
    buffers_come_home,
    nothing_is_lost_below_the_depth,
    both_directions_at_once,
    an_index_beyond_the_burst_panics,
    a_datagram_too_long_panics,
    nobody_there_disturbs_nobody,
);
