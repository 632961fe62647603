//! What the UDP device adds to the round trip of the bare socket, and what it gains by bursts.
//!
//! Two threads, on two cores where there are two. Blocks of round trips over the bare socket and
//! over the device alternate; the ratio of their medians is taken block by block. `--plain` sends
//! and receives without trains.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use dmrpc_core::time::Duration;
use dmrpc_host::affinity::{available_cores, pin_to_core};
use dmrpc_host::clock::Clock;
use dmrpc_host::raw::socket::RawSocket;
use dmrpc_host::raw::{RawClient, respond};
use dmrpc_udp::{UdpConfig, UdpDevice};

const BLOCKS: usize = 21;
const ROUND_TRIPS: u64 = 4000;
const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// What the responder serves.
const SOCKET: u8 = 0;
const DEVICE: u8 = 1;
const END: u8 = 2;

fn config() -> UdpConfig {
    let trains = !std::env::args().any(|argument| argument == "--plain");
    UdpConfig { trains, ..UdpConfig::LOOPBACK }
}

fn main() -> Result<(), Box<dyn Error>> {
    let cores = available_cores()?;
    let mode = AtomicU8::new(SOCKET);
    let mut socket = RawSocket::bind(LOOPBACK)?;
    let mut device = UdpDevice::open(config())?;
    let (socket_peer, device_peer) = (socket.local_addr()?, device.local_addr());
    thread::scope(|scope| {
        scope.spawn(|| {
            if let [_, core, ..] = cores[..] {
                pin_to_core(core).expect("it is available");
            }
            while mode.load(Ordering::Acquire) != END {
                socket.respond(|| mode.load(Ordering::Acquire) != SOCKET);
                respond(&mut device, || mode.load(Ordering::Acquire) != DEVICE);
            }
        });
        let result = pin_to_core(cores[0])
            .map_err(Into::into)
            .and_then(|()| measure(&mode, socket_peer, device_peer));
        mode.store(END, Ordering::Release);
        result
    })
}

fn measure(
    mode: &AtomicU8,
    socket_peer: SocketAddrV4,
    device_peer: SocketAddrV4,
) -> Result<(), Box<dyn Error>> {
    let clock = Clock::new();
    let mut socket = RawSocket::bind(LOOPBACK)?;
    let mut device = UdpDevice::open(config())?;
    println!("kernel buffers: {:?} bytes", device.socket_buffer_bytes());
    println!("request answer | socket p50 ns | device p50 ns | ratio: lower median upper quartile");
    for (request, answer) in [(64, 64), (128, 128), (64, 4096 + 64), (8000, 8000)] {
        let mut medians = Vec::new();
        for _ in 0..BLOCKS {
            mode.store(SOCKET, Ordering::Release);
            let bare = socket.rtt(&clock, socket_peer, request, answer, ROUND_TRIPS)?;
            mode.store(DEVICE, Ordering::Release);
            let ours =
                RawClient::new(&mut device, device_peer).rtt(request, answer, ROUND_TRIPS)?;
            let p50 = |histogram: &hdrhistogram::Histogram<u64>| histogram.value_at_quantile(0.5);
            medians.push((p50(&bare.histogram), p50(&ours.histogram)));
        }
        let middle = |mut values: Vec<u64>| {
            values.sort_unstable();
            values[values.len() / 2]
        };
        let mut ratios: Vec<f64> = medians.iter().map(|(a, b)| *b as f64 / *a as f64).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{request:7} {answer:6} | {:13} | {:13} | {:.3} {:.3} {:.3}",
            middle(medians.iter().map(|pair| pair.0).collect()),
            middle(medians.iter().map(|pair| pair.1).collect()),
            ratios[BLOCKS / 4],
            ratios[BLOCKS / 2],
            ratios[BLOCKS * 3 / 4],
        );
    }
    for (bytes, window) in [(64, 1), (64, 8), (64, 32), (4160, 1), (4160, 32), (8000, 32)] {
        let result =
            RawClient::new(&mut device, device_peer).echo(bytes, bytes, window, 100_000)?;
        println!(
            "echo {bytes:5} B, window {window:2}: {:7.0} a second, p50 {} ns, {} lost",
            result.ops_per_s(),
            result.histogram.value_at_quantile(0.5),
            result.lost,
        );
    }
    for bytes in [64, 1472, 8000] {
        let result =
            RawClient::new(&mut device, device_peer).oneway(bytes, Duration::from_millis(500))?;
        let gbit_per_s = result.ops_per_s() * bytes as f64 * 8.0 / 1e9;
        println!(
            "one way {bytes:5} B: {:7.0} a second, {gbit_per_s:.2} Gbit/s, {} lost",
            result.ops_per_s(),
            result.lost,
        );
    }
    println!("{:?}", device.stats());
    Ok(())
}
