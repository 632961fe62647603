//! A participant, or whoever ends one, may die before any store: its slot can be judged, comes back
//! and is another's, who is known for who it is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dmrpc_core::memory::{Atomic, Counted, Memory};

use super::{SLOT_BYTES, Table, Word, field};
use crate::participants::SlotState;
use crate::process::{ProcessId, own_host};
use crate::superblock::Mode;

const SLOT: u32 = 1;
/// The slots' first life: what is left of it must not be taken for the next.
const FIRST: u64 = 7;

type Slots<'m> = Table<&'m Counted<Atomic<'m>>>;

/// A process of this host, which is dead.
fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start: u64::from(pid) * 10, host: own_host() }
}

/// What is done when death comes, and what was before it.
#[derive(Clone, Copy, Debug)]
enum Act {
    Take,
    Leave,
    /// By another process, of one that left.
    EndLeft,
    /// By another process, of one that died.
    EndDead,
    /// By the memory node, of one that left.
    Release,
}

const ACTS: [Act; 5] = [Act::Take, Act::Leave, Act::EndLeft, Act::EndDead, Act::Release];

impl Act {
    /// Slots as they are before; the word of the participant, if there is one.
    fn prepare(self, table: &Slots<'_>) -> Option<Word> {
        let word = || table.take(SLOT, FIRST, process(11)).expect("free");
        match self {
            Self::Take => None,
            Self::Leave | Self::EndDead => Some(word()),
            Self::EndLeft | Self::Release => {
                let left = table.leave(SLOT, word());
                Some(left.expect("its own"))
            }
        }
    }

    fn run(self, table: &Slots<'_>, word: Option<Word>) {
        let word = word.unwrap_or(Word { pid: 0, life: 0, state: SlotState::Free });
        match self {
            Self::Take => assert!(table.take(SLOT, FIRST, process(12)).is_some()),
            Self::Leave => assert!(table.leave(SLOT, word).is_some()),
            Self::EndLeft => table.end_if_gone(SLOT, process(12), |_| false),
            Self::EndDead => table.end_if_gone(SLOT, process(12), |id| id == process(11)),
            Self::Release => table.clear(SLOT, word),
        }
    }
}

/// As the memory node does: judges, gives up, frees.
fn look_after(table: &Slots<'_>) {
    let Some(word) = table.word(SLOT) else { panic!("no word that makes sense") };
    let mut ended = word;
    if word.is_taken() {
        let id = table.process(SLOT, word);
        assert_eq!(id.host, own_host(), "nobody could judge it");
        let known = process(id.pid);
        assert!(matches!(id.pid, 11 | 12), "a process that never was: {id:?}");
        assert!(id.start == 0 || id.start == known.start, "it would be taken for another");
        ended = Word { state: SlotState::Dead, ..word };
        assert!(table.replace(SLOT, word, ended));
    }
    if ended.state != SlotState::Free {
        table.clear(SLOT, ended);
    }
}

/// Dies before store `at`; whether there was such a store.
fn die(mode: Mode, act: Act, at: u64) -> bool {
    let mut words = vec![0; (2 * SLOT_BYTES / 8) as usize];
    let memory = Counted::new(Atomic::new(&mut words), || std::panic::panic_any("dies here"));
    let table: Slots<'_> = Table::at_offset(&memory, 0, 2, mode);
    let word = act.prepare(&table);
    memory.die_at_store(Some(at));
    let died = catch_unwind(AssertUnwindSafe(|| act.run(&table, word))).is_err();
    memory.die_at_store(None);
    let life = table.word(SLOT).expect("sense").life;
    look_after(&table);
    let next = process(13);
    let taken = table.take(SLOT, 8, next).expect("free again");
    assert!(taken.life > life, "a life of its own");
    assert_eq!(table.process(SLOT, taken), next);
    let incarnation = memory.load_u64(u64::from(SLOT) * SLOT_BYTES + field::INCARNATION);
    assert_eq!(incarnation, 8);
    died
}

#[test]
fn whoever_dies_at_any_store_leaves_a_slot_that_comes_back() {
    for mode in [Mode::Coherent, Mode::Flush] {
        for act in ACTS {
            let deaths = (0..).take_while(|at| die(mode, act, *at)).count();
            let expected = match act {
                Act::Take if mode == Mode::Coherent => 5,
                Act::Take | Act::EndLeft | Act::EndDead => 4,
                Act::Release => 3,
                Act::Leave => 1,
            };
            assert_eq!(deaths, expected, "{act:?} in {mode} mode");
        }
    }
}

/// Who had a slot before is not who the next one is taken for while it joins.
#[test]
fn a_joiner_is_not_judged_by_who_was_there_before() {
    let mut words = vec![0; (2 * SLOT_BYTES / 8) as usize];
    let memory = Counted::new(Atomic::new(&mut words), || std::panic::panic_any("dies here"));
    let table: Slots<'_> = Table::at_offset(&memory, 0, 2, Mode::Coherent);
    let elsewhere = ProcessId { host: 77, ..process(11) };
    let word = table.take(SLOT, FIRST, elsewhere).expect("free");
    table.leave(SLOT, word).expect("its own");
    table.end_if_gone(SLOT, process(12), |_| false);
    memory.die_at_store(Some(1));
    let take = || table.take(SLOT, 8, process(13));
    assert!(catch_unwind(AssertUnwindSafe(take)).is_err(), "after its first store");
    let joining = table.word(SLOT).expect("sense");
    assert_eq!((joining.state, joining.pid), (SlotState::Joining, 13));
    assert_eq!(table.process(SLOT, joining).host, own_host(), "not the earlier one's");
}
