//! The yardsticks of `dmrpc-host`, over this device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dmrpc_core::time::Duration;
use dmrpc_host::raw::{RawClient, RawError, respond};
use dmrpc_udp::{UdpConfig, UdpDevice};

fn open() -> UdpDevice {
    UdpDevice::open(UdpConfig::LOOPBACK).expect("loopback is there")
}

#[test]
fn round_trips_echoes_and_one_way() {
    let stop = AtomicBool::new(false);
    let (mut server, mut device) = (open(), open());
    let peer = server.local_addr();
    thread::scope(|scope| {
        scope.spawn(|| respond(&mut server, || stop.load(Ordering::Relaxed)));
        let mut client = RawClient::new(&mut device, peer);
        let rtt = client.rtt(64, 4160, 500).expect("it answers");
        assert_eq!((rtt.count, rtt.histogram.len()), (500, 500));
        for window in [2, 32] {
            let echo = client.echo(1000, 64, window, 2000).expect("it answers");
            assert!(echo.count >= 2000 && echo.count < 2000 + u64::from(window));
            assert!(echo.ops_per_s() > 0.0);
        }
        let span = Duration::from_millis(20);
        let oneway = client.oneway(256, span).expect("it answers");
        assert!(oneway.count > 0 && oneway.elapsed >= span, "{oneway:?}");
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nobody_there_and_wrong_sizes() {
    let (silent, mut device) = (open(), open());
    let peer = silent.local_addr();
    let mut client = RawClient::new(&mut device, peer);
    assert_eq!(client.rtt(64, 64, 1).expect_err("silence"), RawError::NoAnswer { peer });
    let error = client.rtt(64, 9001, 1).expect_err("too long").to_string();
    assert!(error.contains("9001 bytes") && error.contains("9000"), "{error}");
}
