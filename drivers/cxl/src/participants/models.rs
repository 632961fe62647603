//! Models of the slots: every order in which participants join and are given up.

use dmrpc_models::{Orders, Weak, fails, holds};
use loom::thread;

use super::{SLOT_BYTES, SlotState, Table, Word, field};
use crate::process::ProcessId;
use crate::superblock::Mode;

const SLOT: u32 = 0;

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start: u64::from(pid) * 10, host: u64::from(pid) * 100 }
}

fn table(memory: &Weak, mode: Mode) -> Table<Weak> {
    Table::at_offset(memory.clone(), 0, 1, mode)
}

/// Whoever the slot says lives there is the one that it describes.
fn is_who_it_says(table: &Table<Weak>) {
    let word = table.word(SLOT).expect("sense");
    if word.state == SlotState::Live {
        assert_eq!(table.process(SLOT, word), process(word.pid));
    }
}

/// Two processes want one slot, and a third one looks.
fn joining(orders: Orders, mode: Mode) -> impl Fn() + Send + Sync + 'static {
    move || {
        let memory = Weak::new(SLOT_BYTES, orders);
        let join = |pid| {
            let table = table(&memory, mode);
            thread::spawn(move || table.take(SLOT, 1, process(pid)))
        };
        let joiners = [join(1), join(2)];
        let table = table(&memory, mode);
        is_who_it_says(&table);
        let taken = joiners.map(|joiner| joiner.join().expect("it panics nowhere"));
        assert_eq!(taken.iter().flatten().count(), 1, "one of them has it");
        is_who_it_says(&table);
        assert_eq!(table.word(SLOT), taken.into_iter().flatten().next());
    }
}

#[test]
fn one_of_two_gets_a_slot_and_is_known() {
    assert!(holds(2, joining(Orders::REAL, Mode::Coherent)));
}

#[test]
fn joining_rests_on_swaps_and_their_order() {
    assert!(fails(2, joining(Orders::RELAXED_SWAPS, Mode::Coherent)));
    assert!(fails(2, joining(Orders::REAL, Mode::Flush)), "which has plain stores");
}

/// One that joins is taken for dead, as by another host that knows no process of its number. Its
/// slot is freed and another's. It may go on at any time, late.
fn given_up(orders: Orders, mode: Mode) -> impl Fn() + Send + Sync + 'static {
    move || {
        let memory = Weak::new(SLOT_BYTES, orders);
        let theirs = table(&memory, mode);
        let first = thread::spawn(move || theirs.take(SLOT, 1, process(1)));
        let table = table(&memory, mode);
        let word = table.word(SLOT).expect("sense");
        let dead = Word { state: SlotState::Dead, ..word };
        let given_up = word.state == SlotState::Joining && table.replace(SLOT, word, dead);
        let mut second = None;
        if given_up {
            table.clear(SLOT, dead);
            second = table.take(SLOT, 2, process(2));
            is_who_it_says(&table);
        }
        let first = first.join().expect("it panics nowhere");
        is_who_it_says(&table);
        assert!(!(given_up && first.is_some()), "it was told that it has it");
        if let Some(held) = second.or(first) {
            assert_eq!(table.word(SLOT), Some(held));
            let incarnation = table.load(SLOT, field::INCARNATION);
            assert_eq!(incarnation, u64::from(held.pid));
        }
    }
}

#[test]
fn who_was_taken_for_dead_does_not_become_another() {
    assert!(holds(3, given_up(Orders::REAL, Mode::Coherent)));
}
