//! The slots of participants: whose each is, and how it changes hands.

use dmrpc_core::memory::Memory;

use crate::mapping::PoolMemory;
use crate::process::{Fate, Observed, ProcessId};
use crate::superblock::{Geometry, Mode};

/// Bytes of a slot: two cache lines, each with a writer of its own.
pub(crate) const SLOT_BYTES: u64 = 128;

/// Places in a slot.
pub(super) mod field {
    /// Process number, life, state.
    pub(in crate::participants) const WORD: u64 = 0;
    pub(in crate::participants) const START: u64 = 8;
    pub(in crate::participants) const HOST: u64 = 16;
    pub(in crate::participants) const INCARNATION: u64 = 24;
    /// On a line of its own.
    pub(in crate::participants) const HEARTBEAT: u64 = 64;
}

/// What a slot is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nobody's.
    Free,
    /// Taken; who it is has not been written in full.
    Joining,
    /// In use.
    Live,
    /// Its participant said goodbye; what it held is not freed yet.
    Left,
    /// Its participant is dead; what it held is not freed yet.
    Dead,
}

/// A slot's first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) pid: u32,
    pub(super) life: u32,
    pub(super) state: SlotState,
}

const LIFE_MAX: u32 = (1 << 28) - 1;

impl Word {
    pub(super) fn of(bits: u64) -> Option<Self> {
        let state = match bits & 0xF {
            0 => SlotState::Free,
            1 => SlotState::Joining,
            2 => SlotState::Live,
            3 => SlotState::Left,
            4 => SlotState::Dead,
            _ => return None,
        };
        Some(Self { pid: (bits >> 32) as u32, life: (bits >> 4) as u32 & LIFE_MAX, state })
    }

    /// Whether somebody is, or becomes, the participant.
    pub(super) fn is_taken(self) -> bool {
        matches!(self.state, SlotState::Joining | SlotState::Live)
    }

    pub(super) fn bits(self) -> u64 {
        u64::from(self.pid) << 32 | u64::from(self.life) << 4 | self.state as u64
    }
}

/// The table of participants of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Table<M = PoolMemory> {
    pub(super) memory: M,
    base: u64,
    pub(super) slots: u32,
    pub(super) mode: Mode,
}

impl<M: Memory> Table<M> {
    /// The table of a pool, as far as `memory` has it.
    pub(crate) fn new(memory: M, geometry: &Geometry) -> Self {
        let Geometry { participants_offset: base, participants, mode, .. } = *geometry;
        Self::at_offset(memory, base, participants as u32, mode)
    }

    /// Up to `slots` slots from `base` on.
    pub(crate) fn at_offset(memory: M, base: u64, slots: u32, mode: Mode) -> Self {
        let room = memory.len().saturating_sub(base) / SLOT_BYTES;
        Self { memory, base, slots: room.min(slots.into()) as u32, mode }
    }

    pub(super) fn is_in_flush_mode(&self) -> bool {
        self.mode == Mode::Flush
    }

    fn at(&self, index: u32, field: u64) -> u64 {
        self.base + u64::from(index) * SLOT_BYTES + field
    }

    pub(super) fn load(&self, index: u32, field: u64) -> u64 {
        let at = self.at(index, field);
        if self.mode == Mode::Flush {
            self.memory.flush(at, 8);
        }
        self.memory.load_u64(at)
    }

    pub(super) fn store(&self, index: u32, field: u64, value: u64) {
        let at = self.at(index, field);
        self.memory.store_u64(at, value);
        if self.mode == Mode::Flush {
            self.memory.flush(at, 8);
        }
    }

    /// Puts `new` where `current` is. Without atomics across hosts a slot has one writer at a
    /// time by agreement: its participant from joining to its end, the memory node afterwards.
    fn swap(&self, index: u32, field: u64, current: u64, new: u64) -> bool {
        match self.mode {
            Mode::Coherent => {
                let at = self.at(index, field);
                self.memory.compare_exchange_u64(at, current, new).is_ok()
            }
            Mode::Flush => {
                let is_current = self.load(index, field) == current;
                if is_current {
                    self.store(index, field, new);
                }
                is_current
            }
        }
    }

    /// The word; one that makes no sense was written by nobody who may, and its slot is not used.
    pub(super) fn word(&self, index: u32) -> Option<Word> {
        Word::of(self.load(index, field::WORD))
    }

    pub(super) fn replace(&self, index: u32, current: Word, new: Word) -> bool {
        self.swap(index, field::WORD, current.bits(), new.bits())
    }

    pub(super) fn process(&self, index: u32, word: Word) -> ProcessId {
        let known = word.state != SlotState::Joining;
        let start = if known { self.load(index, field::START) } else { 0 };
        let host = self.load(index, field::HOST);
        // Who is joining and has not said where is judged by whoever looks. If that is wrong, it
        // loses the slot and nothing else: it holds nothing yet, see `take`.
        let host = if known || host != 0 { host } else { crate::process::own_host() };
        ProcessId { pid: word.pid, start, host }
    }

    /// A participant, but `own`, whose process is not known to be gone, if there is one. With
    /// `sure`, only one of this host.
    pub(crate) fn anybody_but(&self, own: Option<u32>, sure: bool) -> Option<(u32, ProcessId)> {
        (0..self.slots).filter(|index| Some(*index) != own).find_map(|index| {
            let word = self.word(index).filter(|word| word.is_taken())?;
            let id = self.process(index, word);
            match Observed::new(id).fate() {
                Fate::Alive | Fate::Unseen => Some((index, id)),
                Fate::Unknown if !sure => Some((index, id)),
                Fate::Unknown | Fate::Gone => None,
            }
        })
    }

    /// A process of this host that is a participant, in what may be a table: a superblock that
    /// says so is not there. Only slots that name this host count, which no other bytes do.
    pub(crate) fn anybody_here(&self) -> Option<(u32, ProcessId)> {
        let here = crate::process::own_host();
        (0..self.slots).find_map(|index| {
            let word = self.word(index).filter(|word| word.is_taken())?;
            let id = self.process(index, word);
            let says_here = self.load(index, field::HOST) == here;
            (says_here && Observed::new(id).fate() != Fate::Gone).then_some((index, id))
        })
    }

    /// Frees slot `index`, on behalf of process `own`, if its participant has left, or `is_gone`
    /// says so of its process.
    pub(crate) fn end_if_gone(
        &self,
        index: u32,
        own: ProcessId,
        is_gone: impl Fn(ProcessId) -> bool,
    ) {
        if index >= self.slots {
            return;
        }
        let Some(word) = self.word(index) else { return };
        let gone = match word.state {
            SlotState::Free => false,
            SlotState::Left | SlotState::Dead => true,
            SlotState::Joining | SlotState::Live => is_gone(self.process(index, word)),
        };
        // As if joining, so that one alone clears the slot, and can be judged if it dies.
        let mine = Word { pid: own.pid, state: SlotState::Joining, ..word };
        if gone && self.replace(index, word, mine) {
            self.clear(index, mine);
        }
    }

    /// Frees a slot that is the caller's to free. Who has been there is not known any more: the
    /// next one is not to be judged by it.
    pub(super) fn clear(&self, index: u32, word: Word) {
        for field in [field::HOST, field::START] {
            // What a late joiner writes meanwhile is as good: the next one writes over it.
            self.swap(index, field, self.load(index, field), 0);
        }
        self.replace(index, word, Word { pid: 0, state: SlotState::Free, ..word });
    }

    /// Gives up a slot: the word that it then has, or none if it was given up by others.
    pub(super) fn leave(&self, index: u32, word: Word) -> Option<Word> {
        let left = Word { state: SlotState::Left, ..word };
        self.replace(index, word, left).then_some(left)
    }

    /// Takes slot `index` for process `own`.
    pub(super) fn take(&self, index: u32, incarnation: u64, own: ProcessId) -> Option<Word> {
        let found = self.word(index)?;
        if found.state != SlotState::Free || found.life == LIFE_MAX {
            return None;
        }
        let joining = Word { pid: own.pid, life: found.life + 1, state: SlotState::Joining };
        let live = Word { state: SlotState::Live, ..joining };
        if self.mode == Mode::Flush {
            // Its one writer by agreement: so nobody ever sees one who has not said who it is.
            self.store(index, field::HOST, own.host);
            self.store(index, field::START, own.start);
            self.store(index, field::INCARNATION, incarnation);
            return self.replace(index, found, live).then_some(live);
        }
        let fields =
            [(field::HOST, own.host), (field::START, own.start), (field::INCARNATION, incarnation)];
        let found_fields = fields.map(|(field, _)| self.load(index, field));
        if !self.replace(index, found, joining) {
            return None;
        }
        // Who was taken for dead in here, and comes late, changes nothing of the next one's: it
        // only writes over what it found. If the next one is the later of the two, it gives up.
        let mut told = fields.iter().zip(found_fields);
        if !told.all(|((field, new), found)| self.swap(index, *field, found, *new)) {
            self.leave(index, joining);
            return None;
        }
        // Not if it was taken for dead meanwhile.
        self.replace(index, joining, live).then_some(live)
    }
}
