//! Operations that know at once which words they change: all of them logged together, and each
//! line looked at once.
//!
//! Such an operation gathers its changes while it finds out whether it may happen, and fills
//! records that nobody sees yet. Then it needs few stores: the log, where the shared word is, the
//! progress word, the changes, the compare-and-swap, the progress word again; see the text of
//! [`super::redo`] on why whoever dies in between is undone or has finished.

use super::Store;
use super::records::{participant as field, tagged};
use super::redo::{Decided, Progress, kind, phase, tag, value};
use crate::memory::{LINE_BYTES, Memory, Record};

/// A word that only this participant writes, before and after an operation.
pub(super) struct Change<'m, M> {
    line: Record<'m, M>,
    /// Where it is in the line.
    field: u64,
    wide: bool,
    old: u64,
    new: u64,
}

impl<M> Clone for Change<'_, M> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Change<'_, M> {}

impl<'m, M: Memory> Change<'m, M> {
    /// Of the 4 bytes at `field` of a line.
    #[inline(always)]
    pub(super) fn u32(line: Record<'m, M>, field: u64, old: u32, new: u32) -> Self {
        Self { line, field, wide: false, old: old.into(), new: new.into() }
    }

    /// Of the 8 bytes at `field` of a line.
    #[inline(always)]
    pub(super) fn u64(line: Record<'m, M>, field: u64, old: u64, new: u64) -> Self {
        Self { line, field, wide: true, old, new }
    }

    /// Where the word is, as the log has it: odd for 8 bytes.
    #[inline(always)]
    fn logged(&self) -> u64 {
        self.line.offset() + (self.field | u64::from(self.wide))
    }

    #[inline(always)]
    fn apply(&self) {
        if self.wide {
            self.line.store_u64(self.field, self.new);
        } else {
            self.line.store_u32(self.field, self.new as u32);
        }
    }
}

/// Makes changes. A loop, not an iterator's method: that was not inlined.
#[inline(always)]
fn apply_all<M: Memory>(changes: &[Change<'_, M>]) {
    for change in changes {
        change.apply();
    }
}

/// A shared word: where in which line it is, and what it was when it was looked at.
pub(super) struct Shared<'m, M> {
    line: Record<'m, M>,
    field: u64,
    word: u64,
}

impl<'m, M: Memory> Shared<'m, M> {
    /// Looks at the word at `field` of a line.
    #[inline(always)]
    pub(super) fn new(line: Record<'m, M>, field: u64) -> Self {
        Self { line, field, word: line.load_u64(field) }
    }

    /// Its value, without a name.
    #[inline(always)]
    pub(super) fn value(&self) -> u64 {
        value(self.word)
    }

    #[inline(always)]
    fn at(&self) -> u64 {
        self.line.offset() + self.field
    }
}

impl<M: Memory> Store<M> {
    /// Changes words of this participant's, in an operation that may go on.
    #[inline(always)]
    pub(super) fn set_all<const N: usize>(&self, changes: [Change<'_, M>; N]) {
        for change in changes {
            if self.mem.shared() {
                self.log(change.logged(), change.old);
            }
            change.apply();
        }
    }

    /// Changes the value of a shared word in one step, last in the operation, which is decided
    /// by it. `change` may be asked several times, as others change the word; if it has no
    /// answer, nothing is changed, and the operation must be undone.
    pub(super) fn decide(
        &self,
        target: u64,
        change: impl Fn(&Self, u64) -> Option<u64>,
    ) -> Option<Decided> {
        let line = self.line(target & !(LINE_BYTES - 1));
        self.decide_all([], Shared::new(line, target & (LINE_BYTES - 1)), change)
    }

    /// The same, and before it changes words of this participant's.
    #[inline(always)]
    pub(super) fn decide_all<const N: usize>(
        &self,
        changes: [Change<'_, M>; N],
        mut target: Shared<'_, M>,
        change: impl Fn(&Self, u64) -> Option<u64>,
    ) -> Option<Decided> {
        if !self.mem.shared() {
            apply_all(&changes);
            let before = target.word;
            let after = change(self, before)?;
            target.line.store_u64(target.field, after);
            return Some(Decided { before, after });
        }
        let sequence = self.announce(&changes, &target);
        apply_all(&changes);
        loop {
            let before = target.value();
            let after = change(self, before)?;
            let name = target.word & !tagged::VALUE;
            if name != 0 && (name >> tagged::WHO_SHIFT) as u32 != self.me {
                self.help(target.at(), target.word);
            }
            let new = tag(self.me, sequence) | value(after);
            match target.line.compare_exchange_u64(target.field, target.word, new) {
                Ok(_) => return Some(Decided { before, after }),
                Err(other) => target.word = other,
            }
        }
    }

    /// Logs words that are about to be changed, and says that a change of `target` decides. The
    /// number of the operation.
    #[inline(always)]
    fn announce<const N: usize>(
        &self,
        changes: &[Change<'_, M>; N],
        target: &Shared<'_, M>,
    ) -> u64 {
        if !self.open.get() {
            self.begin();
        }
        // Our own name of an earlier life of the counter must not pass for this operation's.
        while target.word & !tagged::VALUE == tag(self.me, self.sequence.get()) {
            self.next_sequence();
        }
        let sequence = self.sequence.get();
        let logged = self.log_all(changes);
        let line = self.line(self.area + field::PROGRESS);
        line.store_u64(field::TARGET - field::PROGRESS, target.at() | kind::TAGGED);
        line.store_u64(0, Progress::new(sequence, logged, phase::DECIDING).0);
        sequence
    }

    /// Logs words, which are counted by the next store of the progress word; how many there are
    /// in the log now.
    #[inline(always)]
    fn log_all<const N: usize>(&self, changes: &[Change<'_, M>; N]) -> u64 {
        const { assert!(N <= LOG_LINE, "more than are in a line of the log") };
        if self.logged.get() == 0 {
            let line = self.line(self.area + field::LOG);
            for (position, change) in changes.iter().enumerate() {
                line.store_u64(16 * position as u64, change.logged());
                line.store_u64(16 * position as u64 + 8, change.old);
            }
            self.logged.set(N as u64);
            N as u64
        } else {
            // One by one: handed over as a slice, all of them would have to be in memory.
            for change in changes {
                self.log(change.logged(), change.old);
            }
            self.logged.get()
        }
    }
}

/// Words in a line of the log.
const LOG_LINE: usize = 4;
const _: () = assert!(field::LOG.is_multiple_of(64) && field::PROGRESS.is_multiple_of(64));
