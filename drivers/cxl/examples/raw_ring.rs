//! scratch
use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Pool, PoolConfig, RingDevice, device};
use dmrpc_host as _;
use dmrpc_host::affinity::{available_cores, pin_to_core};
use dmrpc_host::clock::Clock;
#[repr(align(256))]
struct Apart(std::sync::atomic::AtomicBool);
fn main() {
    let mapping = Mapping::memfd("raw-ring", 64 << 20).unwrap();
    let pool = Pool::format(mapping, Mode::Coherent, &PoolConfig::default(), (1, [7; 2]), Overwrite::Unused).unwrap();
    let cores = available_cores().unwrap();
    let bytes: usize = std::env::args().nth(1).map_or(96, |t| t.parse().unwrap());
    let stop = Box::new(Apart(std::sync::atomic::AtomicBool::new(false)));
    std::thread::scope(|s| {
        s.spawn(|| {
            pin_to_core(cores[1]).unwrap();
            let p = pool.attach(Some(1), 1).unwrap();
            let mut d = RingDevice::open(&pool, &p).unwrap();
            let m = vec![7u8; bytes];
            while !stop.0.load(std::sync::atomic::Ordering::Relaxed) {
                let (mut rx, mut tx) = d.split();
                if rx.receive() > 0 {
                    let (peer, b) = rx.packet(0);
                    let h: [u8; 24] = b[..24].try_into().unwrap();
                    tx.put(peer, &h, &m);
                    tx.flush();
                }
            }
        });
        pin_to_core(cores[0]).unwrap();
        let p = pool.attach(Some(2), 2).unwrap();
        let mut d = RingDevice::open(&pool, &p).unwrap();
        let m = vec![7u8; bytes];
        let clock = Clock::new();
        let mut v = vec![];
        for i in 0..40000u64 {
            let start = clock.now();
            let (mut rx, mut tx) = d.split();
            let mut h = [0; 24];
            h[..8].copy_from_slice(&i.to_le_bytes());
            tx.put(device::address_of(1), &h, &m);
            tx.flush();
            while rx.receive() == 0 {}
            assert_eq!(rx.packet(0).1[..24], h);
            v.push(clock.now().since(start).as_nanos());
        }
        stop.0.store(true, std::sync::atomic::Ordering::Relaxed);
        v.sort();
        println!("raw ring {bytes}: p50 {} p10 {}", v[v.len() / 2], v[v.len() / 10]);
    });
}
