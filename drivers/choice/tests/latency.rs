//! `--cxl-latency-ns` as the programs use it: a pool that is opened with the flag is as slow as it
//! says.

use dmrpc_host as _;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::Parser;
use dmrpc_choice::{Driver, DriverArgs};
use dmrpc_core::memory::{LINE_BYTES, Memory};
use dmrpc_cxl::latency::{chase, prepare_chase};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig};
use dmrpc_host::clock::Clock;

const BYTES: u64 = 32 << 20;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    driver: DriverArgs,
}

struct Path(PathBuf);

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_chase_through_a_slow_pool_takes_the_latency_asked_for() {
    let path = Path(format!("/dev/shm/dmrpc-latency-{}", std::process::id()).into());
    let (mapping, _) = Mapping::create(&path.0, BYTES).expect("tmpfs");
    let config = PoolConfig { ring_participants: 4, ..PoolConfig::default() };
    let made = Pool::format(mapping, Mode::Coherent, &config, (5, [7; 2]), Overwrite::Unused);
    let store = made.expect("room").store_memory();
    prepare_chase(&store, 0, store.len() / LINE_BYTES, 7);
    let clock = Clock::new();
    for nanos in [400_u64, 1000, 3000] {
        let text = nanos.to_string();
        let pool = path.0.to_str().expect("a plain name");
        let flags = Flags::parse_from(["test", "--pool", pool, "--cxl-latency-ns", &text]).driver;
        let driver = Driver::start(&flags, flags.datagram_bytes(), 1).expect("a pool");
        let anywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let device = driver.device(0, anywhere).expect("a slot");
        let (pool, _) = device.pool().expect("it is one");
        let memory = pool.store_memory();
        // Other processes take the core away now and then: the best of some tries counts.
        let mut at = 0;
        let tries = (0..100).map(|_| chase(&memory, &clock, &mut at, 200));
        let found = tries.fold(f64::INFINITY, f64::min);
        let share = found / nanos as f64;
        assert!((0.8..1.2).contains(&share), "{found:.0} ns instead of {nanos}");
    }
}
