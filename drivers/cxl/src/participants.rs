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

#[cfg(test)]
mod deaths;
mod error;
mod lost;
#[cfg(test)]
mod models;
mod table;

use dmrpc_core::time::{Duration, Instant};

use crate::process::{Fate, Observed, ProcessId};
use crate::superblock::Mode;

pub use error::AttachError;
pub use table::SlotState;
pub(crate) use table::{SLOT_BYTES, Table};
use table::{Word, field};

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
        let own = ProcessId::own();
        let (index, word) = match index {
            Some(index) if index >= slots => return Err(AttachError::NoSlot { index, slots }),
            Some(index) => match table.take(index, incarnation, own) {
                Some(word) => (index, word),
                None => return Err(taken(&table, index)),
            },
            None if table.mode == Mode::Flush => return Err(AttachError::SlotNeeded),
            None => (1..slots)
                .find_map(|index| table.take(index, incarnation, own).map(|word| (index, word)))
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
        self.table.leave(self.index, self.word);
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
    /// A participant's slot is another's already, without [`Watch::release`]: what the earlier one
    /// has at the memory node ends. What it held is recovered when the slot is free again.
    Replaced {
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
            let before = Word::of(known.bits).filter(|before| before.is_taken());
            *known = Known { bits, heard_at: now, ..Known::default() };
            match word.state {
                // Somebody freed it who had no business to: nobody may take it before recovery.
                SlotState::Free => {
                    let pid = before?.pid;
                    return self.declare_dead(index, word, pid);
                }
                SlotState::Left => return Some(Event::Left { index }),
                SlotState::Dead => return self.declare_dead(index, word, word.pid),
                SlotState::Joining | SlotState::Live => {
                    known.process = Some(Observed::new(self.table.process(index, word)));
                }
            }
            if let Some(before) = before.filter(|before| before.life != word.life) {
                return Some(Event::Replaced { index, pid: before.pid });
            }
            if word.state == SlotState::Live {
                return Some(Event::Joined { index, pid: word.pid });
            }
        }
        match known.process.as_mut()?.fate() {
            Fate::Alive | Fate::Unseen => None,
            Fate::Gone => self.declare_dead(index, word, word.pid),
            Fate::Unknown => self.listen(index, now),
        }
    }

    fn declare_dead(&mut self, index: u32, word: Word, pid: u32) -> Option<Event> {
        let dead = Word { state: SlotState::Dead, ..word };
        if word.state != SlotState::Dead && !self.table.replace(index, word, dead) {
            return None;
        }
        self.known[index as usize] = Known { bits: dead.bits(), ..Known::default() };
        Some(Event::Died { index, pid })
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
        let Some(known) = self.known.get(index as usize) else { return false };
        if !known.silent {
            return false;
        }
        let Some(word) = Word::of(known.bits) else { return false };
        // The next look finds it.
        self.table.replace(index, word, Word { state: SlotState::Dead, ..word })
    }

    /// Frees the slot of a participant that left or died, once what it held is back. Other slots,
    /// and what is none, stay as they are.
    pub fn release(&mut self, index: u32) {
        // What lies behind the table is no slot, whatever it looks like.
        if let Some(known) = self.known.get_mut(index as usize)
            && let Some(word) = self.table.word(index)
            && matches!(word.state, SlotState::Left | SlotState::Dead)
        {
            self.table.clear(index, word);
            let bits = Word { pid: 0, state: SlotState::Free, ..word }.bits();
            *known = Known { bits, ..Known::default() };
        }
    }
}
