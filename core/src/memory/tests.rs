//! One suite for every back end, and what is special about each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::vec;

use super::*;

/// What every back end must do, seen through one handle.
fn behaves_as_memory(memory: &dyn Memory) {
    memory.fill_zero(0, 512);
    memory.store_u32(4, 7);
    memory.store_u64(8, u64::MAX);
    assert_eq!((memory.load_u32(4), memory.load_u64(8)), (7, u64::MAX));
    assert_eq!(memory.compare_exchange_u64(8, 1, 2), Err(u64::MAX));
    assert_eq!(memory.compare_exchange_u64(8, u64::MAX, 2), Ok(u64::MAX));
    assert_eq!(memory.load_u64(8), 2);
    let source: vec::Vec<u8> = (0..150).collect();
    memory.write(61, &source);
    memory.copy(61, 300, 150);
    let mut target = [0; 150];
    memory.read(300, &mut target);
    assert_eq!(target[..], source[..]);
    memory.fill_zero(301, 148);
    memory.read(300, &mut target);
    assert_eq!((target[0], target[149]), (0, 149));
    assert!(target[1..149].iter().all(|byte| *byte == 0));
    memory.flush(0, 512);
    memory.fence();
    assert_eq!(memory.load_u32(4), 7);
}

#[test]
fn every_back_end_behaves_as_memory() {
    let mut words = vec![u64::MAX; 64];
    behaves_as_memory(&Plain::new(&mut words));
    behaves_as_memory(&Atomic::new(&mut words));
    behaves_as_memory(&Counted::new(Plain::new(&mut words), || {}));
    let mut lines = [Line::EMPTY; 3];
    behaves_as_memory(&Stale::new(Plain::new(&mut words), &mut lines));
}

#[test]
fn who_is_alone_writes_in_place() {
    let (mut words, mut others) = (vec![0; 8], vec![0; 8]);
    let mut memory = Plain::new(&mut words);
    memory.alone(3, 5).expect("nobody else is there").copy_from_slice(b"bytes");
    let mut found = [0; 6];
    memory.read(2, &mut found);
    assert_eq!(&found, b"\0bytes");
    assert!(memory.alone(60, 4).is_some_and(|rest| rest == [0; 4]));
    assert!(catch_unwind(AssertUnwindSafe(|| memory.alone(60, 5).is_some())).is_err());
    assert!(Atomic::new(&mut others).alone(0, 8).is_none(), "others may look");
}

#[test]
fn the_words_of_a_line_are_those_of_the_memory() {
    fn behaves(memory: &impl Memory) {
        memory.fill_zero(0, 256);
        let record = Record::new(memory, 128);
        assert_eq!(record.offset(), 128);
        record.store_u32(4, 7);
        record.store_u64(56, u64::MAX);
        assert_eq!((memory.load_u32(132), memory.load_u64(184)), (7, u64::MAX));
        memory.store_u64(136, 9);
        assert_eq!((record.load_u32(4), record.load_u64(8)), (7, 9));
        assert_eq!(record.compare_exchange_u64(8, 1, 2), Err(9));
        assert_eq!(record.compare_exchange_u64(8, 9, 2), Ok(9));
        assert_eq!(memory.load_u64(136), 2);
    }
    let mut words = vec![u64::MAX; 64];
    behaves(&Plain::new(&mut words));
    behaves(&Atomic::new(&mut words));
    let counted = Counted::new(Atomic::new(&mut words), || {});
    behaves(&counted);
    let touches = Touches { loads: 7, stores: 4, bytes: 256, bulks: 1 };
    assert_eq!(counted.touches(), touches, "each access is seen");
}

#[test]
fn a_line_outside_the_pool_or_of_two_halves_panics() {
    let mut words = vec![0; 20];
    let memory = Atomic::new(&mut words);
    assert!(memory.line(64).is_some());
    // The last line is not whole; the others begin where none does, or lie beyond.
    for offset in [128, 8, 63, 32, u64::MAX - 63, u64::MAX] {
        let line = AssertUnwindSafe(|| memory.line(offset).is_some());
        assert!(catch_unwind(line).is_err(), "{offset}");
    }
    for field in [60, 64, 4, u64::MAX - 7] {
        let word = AssertUnwindSafe(|| Record::new(&memory, 0).load_u64(field));
        assert!(catch_unwind(word).is_err(), "{field}");
    }
}

#[test]
fn accesses_outside_the_pool_panic() {
    let mut words = vec![0; 8];
    let memory = Plain::new(&mut words);
    for offset in [57, 64, u64::MAX - 3, u64::MAX] {
        assert!(catch_unwind(AssertUnwindSafe(|| memory.load_u64(offset))).is_err());
    }
    assert!(catch_unwind(AssertUnwindSafe(|| memory.write(60, &[0; 5]))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| memory.copy(0, 4, 8))).is_err());
}

#[test]
fn death_comes_at_the_chosen_store_and_not_before() {
    let mut words = vec![0; 8];
    let memory = Counted::new(Plain::new(&mut words), || panic!("died"));
    memory.die_at_store(Some(2));
    memory.store_u64(0, 1);
    memory.store_u64(8, 1);
    assert!(catch_unwind(AssertUnwindSafe(|| memory.store_u64(16, 1))).is_err());
    assert_eq!(memory.load_u64(16), 0);
    memory.store_u64(16, 1);
    assert_eq!(memory.touches(), Touches { loads: 1, stores: 3, bytes: 0, bulks: 0 });
}

#[test]
fn a_stale_reader_sees_old_bytes_until_both_sides_flush() {
    let mut words = vec![0; 64];
    let pool = Plain::new(&mut words);
    let (mut lines_a, mut lines_b) = ([Line::EMPTY; 4], [Line::EMPTY; 4]);
    let writer = Stale::new(&pool, &mut lines_a);
    let reader = Stale::new(&pool, &mut lines_b);
    assert_eq!(reader.load_u64(0), 0);
    writer.store_u64(0, 9);
    reader.flush(0, 8);
    assert_eq!(reader.load_u64(0), 0, "not written back yet");
    writer.flush(0, 8);
    assert_eq!(reader.load_u64(0), 0, "still the reader's old line");
    reader.flush(0, 8);
    assert_eq!(reader.load_u64(0), 9);
}
