//! Who is attached to a pool, and who died.
//!
//! Each participant has a slot of two lines. The first says who it is, the second is its heartbeat,
//! which it alone writes. A slot's first word is {process number, life, state}, so that the one
//! compare-and-swap that takes a slot also says who took it: no death leaves a slot that nobody
//! can judge. A life is a number that grows with each taking.
//!
//! On one host a participant is dead when its process is gone, and only then: see
//! [`process`](crate::process). One of another host can be silent, but silence is no death: its
//! slot, and what it holds, stay until an operator who knows confirms it (see `lost`).

mod error;
mod lost;

use dmrpc_core::memory::Memory;
use dmrpc_core::time::{Duration, Instant};

use crate::mapping::PoolMemory;
use crate::process::{Fate, Observed, ProcessId};
use crate::superblock::{Geometry, Mode};

pub use error::AttachError;

/// Bytes of a slot: two cache lines, each with a writer of its own.
pub(crate) const SLOT_BYTES: u64 = 128;

/// Places in a slot.
mod field {
    /// Process number, life, state.
    pub(super) const WORD: u64 = 0;
    pub(super) const START: u64 = 8;
    pub(super) const HOST: u64 = 16;
    pub(super) const INCARNATION: u64 = 24;
    /// On a line of its own.
    pub(super) const HEARTBEAT: u64 = 64;
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
struct Word {
    pid: u32,
    life: u32,
    state: SlotState,
}

const LIFE_MAX: u32 = (1 << 28) - 1;

impl Word {
    fn of(bits: u64) -> Option<Self> {
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

    fn bits(self) -> u64 {
        u64::from(self.pid) << 32 | u64::from(self.life) << 4 | self.state as u64
    }
}

/// The table of participants of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    memory: PoolMemory,
    base: u64,
    slots: u32,
    mode: Mode,
}

impl Table {
    pub(crate) fn new(memory: PoolMemory, geometry: &Geometry) -> Self {
        Self {
            memory,
            base: geometry.participants_offset,
            slots: geometry.participants as u32,
            mode: geometry.mode,
        }
    }

    fn is_in_flush_mode(&self) -> bool {
        self.mode == Mode::Flush
    }

    fn at(&self, index: u32, field: u64) -> u64 {
        self.base + u64::from(index) * SLOT_BYTES + field
    }

    fn load(&self, index: u32, field: u64) -> u64 {
        let at = self.at(index, field);
        if self.mode == Mode::Flush {
            self.memory.flush(at, 8);
        }
        self.memory.load_u64(at)
    }

    fn store(&self, index: u32, field: u64, value: u64) {
        let at = self.at(index, field);
        self.memory.store_u64(at, value);
        if self.mode == Mode::Flush {
            self.memory.flush(at, 8);
        }
    }

    /// The word; one that makes no sense was written by nobody who may, and its slot is not used.
    fn word(&self, index: u32) -> Option<Word> {
        Word::of(self.load(index, field::WORD))
    }

    /// Puts `new` where `current` is. Without atomics across hosts a slot has one writer at a
    /// time by agreement: its participant from joining to its end, the memory node afterwards.
    fn replace(&self, index: u32, current: Word, new: Word) -> bool {
        match self.mode {
            Mode::Coherent => {
                let at = self.at(index, field::WORD);
                self.memory.compare_exchange_u64(at, current.bits(), new.bits()).is_ok()
            }
            Mode::Flush => {
                let is_current = self.word(index) == Some(current);
                if is_current {
                    self.store(index, field::WORD, new.bits());
                }
                is_current
            }
        }
    }

    fn process(&self, index: u32, word: Word) -> ProcessId {
        let known = word.state != SlotState::Joining;
        let start = if known { self.load(index, field::START) } else { 0 };
        let host = self.load(index, field::HOST);
        // Who died while joining did so on this host, or is judged by whoever shares its host.
        let host = if known || host != 0 { host } else { crate::process::own_host() };
        ProcessId { pid: word.pid, start, host }
    }

    /// A participant, but `own`, whose process is not known to be gone, if there is one. With
    /// `sure`, only one of this host.
    pub(crate) fn anybody_but(&self, own: Option<u32>, sure: bool) -> Option<(u32, ProcessId)> {
        (0..self.slots).filter(|index| Some(*index) != own).find_map(|index| {
            let word = self.word(index)?;
            if matches!(word.state, SlotState::Free | SlotState::Left | SlotState::Dead) {
                return None;
            }
            let id = self.process(index, word);
            match Observed::new(id).fate() {
                Fate::Alive | Fate::Unseen => Some((index, id)),
                Fate::Unknown if !sure => Some((index, id)),
                Fate::Unknown | Fate::Gone => None,
            }
        })
    }

    /// Frees slot `index` if its participant has left, or its process is known to be gone.
    pub(crate) fn end_if_gone(&self, index: u32) {
        if index >= self.slots {
            return;
        }
        let Some(word) = self.word(index) else { return };
        let gone = match word.state {
            SlotState::Free => false,
            SlotState::Left | SlotState::Dead => true,
            _ => Observed::new(self.process(index, word)).fate() == Fate::Gone,
        };
        let free = Word { pid: 0, state: SlotState::Free, ..word };
        if gone {
            self.replace(index, word, free);
        }
    }

    /// Takes slot `index`.
    fn take(&self, index: u32, incarnation: u64) -> Option<Word> {
        let found = self.word(index)?;
        if found.state != SlotState::Free || found.life == LIFE_MAX {
            return None;
        }
        let own = ProcessId::own();
        let joining = Word { pid: own.pid, life: found.life + 1, state: SlotState::Joining };
        if !self.replace(index, found, joining) {
            return None;
        }
        self.store(index, field::HOST, own.host);
        self.store(index, field::START, own.start);
        self.store(index, field::INCARNATION, incarnation);
        let live = Word { state: SlotState::Live, ..joining };
        self.store(index, field::WORD, live.bits());
        Some(live)
    }
}

/// A place in a pool, given up when dropped.
#[derive(Debug)]
pub struct Participant {
    table: Table,
    index: u32,
    word: Word,
    incarnation: u64,
    beats: u64,
}

impl Participant {
    /// Takes slot `index`, or the first free one from 1 on: slot 0 is the memory node's.
    pub(crate) fn attach(
        table: Table,
        index: Option<u32>,
        incarnation: u64,
    ) -> Result<Self, AttachError> {
        let slots = table.slots;
        let (index, word) = match index {
            Some(index) if index >= slots => return Err(AttachError::NoSlot { index, slots }),
            Some(index) => match table.take(index, incarnation) {
                Some(word) => (index, word),
                None => return Err(taken(&table, index)),
            },
            None if table.mode == Mode::Flush => return Err(AttachError::SlotNeeded),
            None => (1..slots)
                .find_map(|index| table.take(index, incarnation).map(|word| (index, word)))
                .ok_or(AttachError::Full { slots })?,
        };
        Ok(Self { table, index, word, incarnation, beats: 0 })
    }

    /// Its number in the pool.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Which taking of its slot this is.
    pub fn life(&self) -> u32 {
        self.word.life
    }

    /// The incarnation that it gave.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Shows that it is there. To be called several times a lease where hosts share a pool.
    pub fn beat(&mut self) {
        self.beats += 1;
        self.table.store(self.index, field::HEARTBEAT, self.beats);
    }

    /// Whether the slot is still this participant's: not so after it was confirmed lost.
    pub fn is_attached(&self) -> bool {
        self.table.word(self.index) == Some(self.word)
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        let left = Word { state: SlotState::Left, ..self.word };
        self.table.replace(self.index, self.word, left);
    }
}

fn taken(table: &Table, index: u32) -> AttachError {
    let Some(word) = table.word(index) else {
        return AttachError::Taken { index, pid: 0, gone: false };
    };
    let gone = match word.state {
        SlotState::Left | SlotState::Dead => true,
        _ => Observed::new(table.process(index, word)).fate() == Fate::Gone,
    };
    AttachError::Taken { index, pid: word.pid, gone }
}

/// What a watch noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody attached.
    Joined {
        /// The slot.
        index: u32,
        /// Its process.
        pid: u32,
    },
    /// A participant said goodbye. What it held is to be freed, and then [`Watch::release`] called.
    Left {
        /// The slot.
        index: u32,
    },
    /// A participant's process is gone. What it held is to be recovered, and then
    /// [`Watch::release`] called.
    Died {
        /// The slot.
        index: u32,
        /// The process that it was.
        pid: u32,
    },
    /// A participant of another host has not been heard of for the lease. What it could write
    /// stays as it is until [`Watch::confirm_lost`] or the next sign of life.
    Silent {
        /// The slot.
        index: u32,
    },
    /// A participant that was silent showed life.
    Heard {
        /// The slot.
        index: u32,
    },
}

/// What a watch knows of a slot.
#[derive(Debug, Default)]
struct Known {
    bits: u64,
    process: Option<Observed>,
    beats: u64,
    heard_at: Instant,
    silent: bool,
}

/// Watches all participants: the memory node's task.
#[derive(Debug)]
pub struct Watch {
    table: Table,
    /// The slot that is not watched: one's own.
    own: u32,
    lease: Duration,
    known: Vec<Known>,
    next: u32,
}

impl Watch {
    pub(crate) fn new(table: Table, own: &Participant, lease: Duration) -> Self {
        let known = (0..table.slots).map(|_| Known::default()).collect();
        Self { table, own: own.index, lease, known, next: 0 }
    }

    /// Looks at all slots, once round, until something is noticed. `None`: nothing new.
    pub fn look(&mut self, now: Instant) -> Option<Event> {
        self.heed_operator();
        for _ in 0..self.table.slots {
            let index = self.next;
            self.next = (self.next + 1) % self.table.slots;
            if index == self.own {
                continue;
            }
            if let Some(event) = self.look_at(index, now) {
                return Some(event);
            }
        }
        None
    }

    fn look_at(&mut self, index: u32, now: Instant) -> Option<Event> {
        let bits = self.table.load(index, field::WORD);
        let known = &mut self.known[index as usize];
        let word = Word::of(bits)?;
        if bits != known.bits {
            *known = Known { bits, heard_at: now, ..Known::default() };
            match word.state {
                SlotState::Free => return None,
                SlotState::Left => return Some(Event::Left { index }),
                SlotState::Joining | SlotState::Live | SlotState::Dead => {
                    known.process = Some(Observed::new(self.table.process(index, word)));
                }
            }
            if word.state == SlotState::Live {
                return Some(Event::Joined { index, pid: word.pid });
            }
        }
        match known.process.as_mut()?.fate() {
            Fate::Alive | Fate::Unseen => None,
            Fate::Gone => self.declare_dead(index, word),
            Fate::Unknown => self.listen(index, now),
        }
    }

    fn declare_dead(&mut self, index: u32, word: Word) -> Option<Event> {
        let dead = Word { state: SlotState::Dead, ..word };
        if word.state != SlotState::Dead && !self.table.replace(index, word, dead) {
            return None;
        }
        self.known[index as usize] = Known { bits: dead.bits(), ..Known::default() };
        Some(Event::Died { index, pid: word.pid })
    }

    /// Has a participant of another host been heard of?
    fn listen(&mut self, index: u32, now: Instant) -> Option<Event> {
        let beats = self.table.load(index, field::HEARTBEAT);
        let known = &mut self.known[index as usize];
        if beats != known.beats {
            (known.beats, known.heard_at) = (beats, now);
            return std::mem::take(&mut known.silent).then_some(Event::Heard { index });
        }
        let is_over = now.since(known.heard_at) >= self.lease;
        (is_over && !std::mem::replace(&mut known.silent, is_over))
            .then_some(Event::Silent { index })
    }

    /// Declares a silent participant of another host dead, on the word of somebody who knows that
    /// its host is gone. What is noticed next is its death.
    ///
    /// Returns whether there was one: a participant of this host, or one that was heard of within
    /// the lease, is not declared dead by anybody's word.
    pub fn confirm_lost(&mut self, index: u32) -> bool {
        let Some(known) = self.known.get_mut(index as usize) else { return false };
        if !known.silent {
            return false;
        }
        let Some(word) = Word::of(known.bits) else { return false };
        let dead = Word { state: SlotState::Dead, ..word };
        if !self.table.replace(index, word, dead) {
            return false;
        }
        // Its host is gone, so its process is: a process that never was says so.
        let nobody = ProcessId { pid: u32::MAX >> 1, start: 1, host: crate::process::own_host() };
        known.bits = dead.bits();
        known.process = Some(Observed::new(nobody));
        true
    }

    /// Frees the slot of a participant that left or died, once what it held is back.
    pub fn release(&mut self, index: u32) {
        if let Some(word) = self.table.word(index)
            && matches!(word.state, SlotState::Left | SlotState::Dead)
        {
            let free = Word { pid: 0, state: SlotState::Free, ..word };
            self.table.store(index, field::HOST, 0);
            self.table.store(index, field::WORD, free.bits());
            self.known[index as usize] = Known { bits: free.bits(), ..Known::default() };
        }
    }
}
