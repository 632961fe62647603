//! Tests of `spsc`, which are not part of it because models compile that file, too.

use std::sync::Arc;
use std::thread;

use crate::spsc::ring;

#[test]
fn holds_its_capacity_and_keeps_order() {
    let (mut producer, mut consumer) = ring(5);
    assert_eq!(producer.capacity(), 8);
    for round in 0..100 {
        for i in 0..8 {
            assert_eq!(producer.push(round * 8 + i), Ok(()));
        }
        assert_eq!(producer.push(0), Err(0));
        assert_eq!(consumer.count(), 8);
        for i in 0..8 {
            assert_eq!(consumer.pop(), Some(round * 8 + i));
        }
        assert_eq!(consumer.pop(), None);
    }
}

#[test]
fn parts_go_round_the_end_whole_or_not_at_all() {
    let (mut producer, mut consumer) = ring::<u8>(16);
    let mut next = 0_u8;
    for length in (0..=16).cycle().take(500) {
        let bytes: Vec<u8> = (0..length).map(|i| next.wrapping_add(i as u8)).collect();
        let (first, second) = bytes.split_at(length / 3);
        assert!(producer.push_all(&[first, &[], second]));
        if length > 0 {
            assert!(!producer.push_all(&[&[0; 17 - 1]]));
        }
        let mut out = vec![0; length + 1];
        assert!(!consumer.pop_all(&mut out));
        assert!(consumer.pop_all(&mut out[..length]));
        assert_eq!(out[..length], bytes);
        next = next.wrapping_add(length as u8);
    }
    assert!(!producer.push_all(&[&[0; 17]]));
}

#[test]
fn what_was_not_taken_is_dropped_once() {
    struct Tracked(Arc<()>);
    let witness = Arc::new(());
    let (mut producer, mut consumer) = ring(4);
    for _ in 0..4 {
        assert!(producer.push(Tracked(witness.clone())).is_ok());
    }
    drop(consumer.pop().expect("four are there").0);
    assert_eq!(Arc::strong_count(&witness), 4);
    assert!(!producer.is_abandoned());
    drop(consumer);
    assert!(producer.is_abandoned());
    drop(producer);
    assert_eq!(Arc::strong_count(&witness), 1);
}

#[test]
fn two_threads_lose_and_reorder_nothing() {
    const COUNT: u64 = 200_000;
    let (mut producer, mut consumer) = ring::<u64>(64);
    let sender = thread::spawn(move || {
        let mut next = 0;
        while next < COUNT {
            let done = if next % 3 == 0 && next + 2 <= COUNT {
                if producer.push_all(&[&[next], &[next + 1]]) { 2 } else { 0 }
            } else {
                u64::from(producer.push(next).is_ok())
            };
            next += done;
            if done == 0 {
                thread::yield_now();
            }
        }
    });
    for expected in 0..COUNT {
        loop {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(item, expected);
                    break;
                }
                None => thread::yield_now(),
            }
        }
    }
    sender.join().expect("no panic");
    assert_eq!(consumer.pop(), None);
    assert!(consumer.is_abandoned());
}
