//! Rings beyond what the conformance suite does: bells, deaths, stale caches, nonsense.

use dmrpc_host as _;

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::memory::{Atomic, Line, Memory, Stale};
use dmrpc_cxl::device::{REFUSALS_MAX, address_of, participant_at};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Geometry, Mapping, Mode, Pool, PoolConfig, RingDevice};

fn pool(mode: Mode, participants: u32) -> Pool {
    let config = PoolConfig {
        participants,
        ring_participants: participants,
        ring_slots: 16,
        datagram_bytes: 256,
        ..PoolConfig::default()
    };
    let mapping = Mapping::memfd("rings", 64 << 20).expect("64 MiB");
    Pool::format(mapping, mode, &config, (1, [7; 2]), Overwrite::Unused).expect("room")
}

fn device(pool: &Pool, index: u32) -> RingDevice {
    RingDevice::new(pool.memory().clone(), pool.geometry(), index).expect("it has rings")
}

fn send<M: Memory>(device: &mut RingDevice<M>, to: u32, bytes: &[u8]) {
    let (_, mut tx) = device.split();
    tx.push(address_of(to), bytes.len()).expect("room").copy_from_slice(bytes);
    tx.flush();
}

/// What the next bursts bring: sender and first byte.
fn receive<M: Memory>(device: &mut RingDevice<M>, polls: u32) -> Vec<(u32, u8)> {
    let mut all = Vec::new();
    for _ in 0..polls {
        let (mut rx, _) = device.split();
        for index in 0..rx.receive() {
            let (address, bytes) = rx.packet(index);
            all.push((participant_at(address).expect("a participant"), bytes[0]));
        }
    }
    all
}

#[test]
fn addresses_are_numbers_and_back() {
    for index in [0, 1, 255, 256, 1023] {
        assert_eq!(participant_at(address_of(index)), Some(index));
    }
    assert_eq!(participant_at("127.0.0.1:7".parse().expect("an address")), None);
}

#[test]
fn more_senders_than_are_polled_one_by_one() {
    let pool = pool(Mode::Coherent, 64);
    let mut sink = device(&pool, 0);
    let mut sources: Vec<_> = (1..64).map(|index| device(&pool, index)).collect();
    for round in 0..100u8 {
        // All of them, or one that may be any: the first rounds make them many.
        for (index, source) in sources.iter_mut().enumerate() {
            if round < 2 || index == usize::from(round) % 63 {
                send(source, 0, &[round; 8]);
            }
        }
        let mut came = receive(&mut sink, 3);
        came.sort_unstable();
        let expected: Vec<(u32, u8)> = (1..64)
            .filter(|index| round < 2 || index - 1 == u32::from(round) % 63)
            .map(|index| (index, round))
            .collect();
        assert_eq!(came, expected);
    }
}

/// Threads send while the receiver goes over from polling to bells; nothing is lost or doubled.
#[test]
fn no_datagram_is_overlooked_while_bells_come_into_use() {
    const EACH: u32 = 2_000;
    let pool = pool(Mode::Coherent, 12);
    let mut sink = device(&pool, 0);
    std::thread::scope(|scope| {
        for index in 1..12 {
            let mut source = device(&pool, index);
            scope.spawn(move || {
                for number in 0..EACH {
                    loop {
                        let (_, mut tx) = source.split();
                        if let Some(buffer) = tx.push(address_of(0), 4) {
                            buffer.copy_from_slice(&number.to_le_bytes());
                            tx.flush();
                            break;
                        }
                        // Far from as often as would make it drop.
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                }
            });
        }
        let mut next = [0u32; 12];
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while next[1..].iter().any(|count| *count < EACH) {
            let (mut rx, _) = sink.split();
            let count = rx.receive();
            for packet in 0..count {
                let (address, bytes) = rx.packet(packet);
                let sender = participant_at(address).expect("a participant") as usize;
                let number = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
                assert_eq!(number, next[sender], "from {sender}");
                next[sender] = number + 1;
            }
            if count == 0 {
                std::thread::yield_now();
            }
            assert!(std::time::Instant::now() < end, "stuck at {next:?}");
        }
    });
}

#[test]
fn a_sender_that_died_before_it_rang_is_heard_all_the_same() {
    let pool = pool(Mode::Coherent, 16);
    let mut sink = device(&pool, 0);
    let mut sources: Vec<_> = (1..16).map(|index| device(&pool, index)).collect();
    for source in &mut sources {
        send(source, 0, &[1]);
    }
    assert_eq!(receive(&mut sink, 3).len(), 15);
    // A second push puts the first into the ring; without a flush no bell rings.
    let (_, mut tx) = sources[9].split();
    for _ in 0..2 {
        tx.push(address_of(0), 1).expect("room")[0] = 2;
    }
    assert_eq!(receive(&mut sink, 16), [(10, 2)], "within as many polls as participants");
}

#[test]
fn who_takes_over_a_slot_continues_its_rings() {
    let pool = pool(Mode::Coherent, 4);
    let mut b = device(&pool, 2);
    for life in 0..50u8 {
        // A new life of the sender each time; its predecessor's datagrams are still there or not.
        let mut a = device(&pool, 1);
        for number in 0..3 {
            send(&mut a, 2, &[life.wrapping_mul(3).wrapping_add(number)]);
        }
        if life % 2 == 1 {
            let came: Vec<u8> = receive(&mut b, 2).into_iter().map(|(_, byte)| byte).collect();
            let first = (life - 1).wrapping_mul(3);
            let expected: Vec<u8> = (0..6).map(|number| first.wrapping_add(number)).collect();
            assert_eq!(came, expected);
        }
    }
    // A new life of the receiver does not get what was sent to the old one.
    let mut a = device(&pool, 1);
    send(&mut a, 2, &[100]);
    let mut b = device(&pool, 2);
    send(&mut a, 2, &[101]);
    assert_eq!(receive(&mut b, 2), [(1, 101)]);
}

#[test]
fn a_receiver_that_stopped_does_not_hold_up_others() {
    let pool = pool(Mode::Coherent, 4);
    let (mut a, mut b) = (device(&pool, 1), device(&pool, 2));
    for _ in 0..16 {
        send(&mut a, 3, &[1]);
    }
    let (_, mut tx) = a.split();
    for _ in 0..REFUSALS_MAX {
        assert!(tx.push(address_of(3), 1).is_none(), "the ring is full");
    }
    tx.push(address_of(3), 1).expect("dropped")[0] = 9;
    tx.flush();
    send(&mut a, 2, &[2]);
    assert_eq!(receive(&mut b, 1), [(1, 2)]);
    assert_eq!(a.stats().dropped_full, 1);
    let mut late = RingDevice::new(pool.memory().clone(), pool.geometry(), 3).expect("rings");
    send(&mut a, 3, &[3]);
    assert_eq!(receive(&mut late, 2), [(1, 3)], "a new life takes what is new");
}

#[test]
fn nonsense_in_the_rings_is_counted_and_harmless() {
    let pool = pool(Mode::Coherent, 4);
    let (mut a, mut b) = (device(&pool, 1), device(&pool, 2));
    let geometry = *pool.geometry();
    let words = (geometry.store_offset - geometry.rings_offset) / 8;
    let mut state = 12345u64;
    for round in 0..200_000u32 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = geometry.rings_offset + (state >> 20) % words * 8;
        // Words that look right are the dangerous ones: near numbers with any length.
        let value = if round % 2 == 0 { state } else { (state >> 60) << 16 | state & 0xFFFF };
        pool.memory().store_u64(offset, value);
        let (_, mut tx) = a.split();
        if let Some(buffer) = tx.push(address_of(2), 8) {
            buffer.fill(1);
        }
        tx.flush();
        receive(&mut b, 1);
    }
    assert!(b.stats().received > 0);
    // Fresh ones start from whatever is there.
    let (mut a, mut b) = (device(&pool, 1), device(&pool, 2));
    send(&mut a, 2, &[7]);
    receive(&mut b, 1);
}

/// Two hosts whose caches keep every line until it is flushed.
#[test]
fn flush_mode_works_where_nothing_is_coherent() {
    let sized = pool(Mode::Flush, 2);
    let geometry: Geometry = *sized.geometry();
    let bytes = geometry.store_offset as usize;
    let mut words = vec![0; bytes / 8];
    let shared = Atomic::new(&mut words);
    let lines = bytes / 64;
    let (mut lines_a, mut lines_b) = (vec![Line::EMPTY; lines], vec![Line::EMPTY; lines]);
    let host_a = Stale::new(&shared, &mut lines_a);
    let host_b = Stale::new(&shared, &mut lines_b);
    let mut a = RingDevice::new(&host_a, &geometry, 0).expect("rings");
    let mut b = RingDevice::new(&host_b, &geometry, 1).expect("rings");
    for round in 0..200u8 {
        let content = [round; 200];
        send(&mut a, 1, &content);
        assert_eq!(receive(&mut b, 1), [(0, round)], "a missing flush");
        send(&mut b, 0, &content[..usize::from(round).max(1)]);
        assert_eq!(receive(&mut a, 1), [(1, round)], "a missing flush");
        receive(&mut b, 1);
    }
}
