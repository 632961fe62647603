//! The redo line: how an operation on several words happens wholly or not at all, even if its
//! participant dies in the middle.
//!
//! Every operation changes words that only this participant writes (its caches and counters, its
//! regions and trees), and at most one *shared* word. Each own word is logged with its old value
//! before it is changed. The change of the shared word comes last, in one compare-and-swap, and
//! *decides*: recovery undoes the log of an operation that was not decided, and forgets the log
//! of one that was. Operations that have no shared word are decided when their log is forgotten.
//!
//! Operations that know at once which words they change log them together
//! ([`Store::decide_all`]): all old values, then one store of the progress word, which counts them
//! and says that the operation is deciding, then the changes. Whoever dies among these is undone,
//! for the shared word has not its name yet; to undo what was not done yet changes nothing.
//!
//! Whether a compare-and-swap of a dead participant succeeded must be known although others go
//! on changing the word. So a shared word names who changed it last, and with which operation;
//! and whoever overwrites the name of another first marks that one's redo line as decided.
//!
//! Memory that is not shared dies with its owner: nothing is logged there and nothing marked.

use super::Store;
use super::records::{participant as field, tagged};
use crate::memory::Memory;

/// How far an operation is, in the low bits of its progress word.
pub(super) mod phase {
    /// None runs.
    pub(crate) const IDLE: u64 = 0;
    /// Own words are being changed.
    pub(crate) const OPEN: u64 = 1;
    /// All own words are changed, the shared one may be.
    pub(crate) const DECIDING: u64 = 2;
    /// Somebody saw that the shared one is.
    pub(crate) const DECIDED: u64 = 3;
    /// All of these.
    pub(crate) const MASK: u64 = 3;
}

/// How to tell whether the shared word of an operation was changed: in the low bits of where it
/// is.
pub(super) mod kind {
    /// It has the participant and the operation's number, or had.
    pub(crate) const TAGGED: u64 = 0;
    /// It is what the line says it would be, or was.
    pub(crate) const WORD: u64 = 1;
    /// The version in the line is among the children of the one whose list this is.
    pub(crate) const PUSHED: u64 = 2;
    /// It is not any more.
    pub(crate) const REMOVED: u64 = 3;
    /// All of these.
    pub(crate) const MASK: u64 = 7;
}

/// A progress word: the operation's number, the words it has logged, and its phase.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress(pub(super) u64);

impl Progress {
    const LOGGED_BITS: u32 = 14;

    #[inline(always)]
    pub(super) const fn new(sequence: u64, logged: u64, phase: u64) -> Self {
        Self(sequence << (Self::LOGGED_BITS + 2) | logged << 2 | phase)
    }

    #[inline(always)]
    pub(super) const fn sequence(self) -> u64 {
        self.0 >> (Self::LOGGED_BITS + 2)
    }

    #[inline(always)]
    pub(super) const fn logged(self) -> u64 {
        (self.0 >> 2) & ((1 << Self::LOGGED_BITS) - 1)
    }

    /// The same when nothing runs any more.
    #[inline(always)]
    pub(super) const fn idle(self) -> Self {
        Self::new(self.sequence(), 0, phase::IDLE)
    }

    #[inline(always)]
    pub(super) const fn phase(self) -> u64 {
        self.0 & phase::MASK
    }
}

/// The name in a shared word of operation `sequence` of participant `who`.
#[inline(always)]
pub(super) const fn tag(who: u32, sequence: u64) -> u64 {
    (who as u64) << tagged::WHO_SHIFT | (sequence & tagged::SEQUENCE) << tagged::VALUE_BITS
}

/// The value in a shared word.
#[inline(always)]
pub(super) const fn value(word: u64) -> u64 {
    word & tagged::VALUE
}

/// What a decision made of a shared word's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) before: u64,
    pub(super) after: u64,
}

impl<M: Memory> Store<M> {
    /// Changes 4 bytes that only this participant writes.
    #[inline(always)]
    pub(super) fn set_u32(&self, at: u64, value: u32) {
        if self.mem.shared() {
            let old = self.mem.load_u32(at);
            self.log(at, old.into());
        }
        self.mem.store_u32(at, value);
    }

    /// Changes 8 bytes that only this participant writes.
    #[inline(always)]
    pub(super) fn set_u64(&self, at: u64, value: u64) {
        if self.mem.shared() {
            let old = self.mem.load_u64(at);
            self.log(at | 1, old);
        }
        self.mem.store_u64(at, value);
    }

    /// Notes what a word was; the place is odd for 8 bytes.
    #[inline(never)]
    pub(super) fn log(&self, at: u64, old: u64) {
        if !self.open.get() {
            self.begin();
        }
        if self.logged.get() >= field::LOG_MAX {
            // No operation on a sound pool has so many words.
            self.corrupt.set(true);
            return;
        }
        let entry = self.area + field::LOG + 16 * self.logged.get();
        self.mem.store_u64(entry, at);
        self.mem.store_u64(entry + 8, old);
        self.logged.set(self.logged.get() + 1);
        self.progress(phase::OPEN);
    }

    #[inline(always)]
    pub(super) fn begin(&self) {
        self.open.set(true);
        self.logged.set(0);
        self.next_sequence();
    }

    #[inline(always)]
    pub(super) fn next_sequence(&self) {
        let mut next = self.sequence.get() + 1;
        if next & tagged::SEQUENCE == 0 {
            next += 1;
        }
        self.sequence.set(next);
    }

    #[inline(always)]
    fn progress(&self, phase: u64) {
        let word = Progress::new(self.sequence.get(), self.logged.get(), phase);
        self.line(self.area + field::PROGRESS).store_u64(0, word.0);
    }

    /// Ends the operation: what it changed stays.
    #[inline(always)]
    pub(super) fn close(&self) {
        if self.mem.shared() && self.open.get() {
            self.open.set(false);
            self.logged.set(0);
            self.progress(phase::IDLE);
        }
    }

    /// Ends the operation as if it had not begun. Only where memory is shared: elsewhere all that
    /// could refuse is checked before.
    pub(super) fn undo(&self) {
        if self.open.get() {
            self.undo_log(self.area, self.logged.get());
            self.open.set(false);
            self.logged.set(0);
            self.progress(phase::IDLE);
        }
    }

    /// Gives the last `logged` words of a participant's log their old values, newest first.
    pub(super) fn undo_log(&self, area: u64, logged: u64) {
        for position in (0..logged.min(field::LOG_MAX)).rev() {
            let entry = area + field::LOG + 16 * position;
            let (at, old) = (self.mem.load_u64(entry), self.mem.load_u64(entry + 8));
            let (place, bytes) = if at & 1 == 0 { (at & !3, 4) } else { (at & !7, 8) };
            if place > self.lay.bytes() - bytes {
                self.corrupt.set(true);
            } else if bytes == 4 {
                self.mem.store_u32(place, old as u32);
            } else {
                self.mem.store_u64(place, old);
            }
        }
    }

    /// Announces that `target` is about to be changed, and how to tell.
    fn announce_target(&self, target: u64, kind: u64, new: u64) {
        self.mem.store_u64(self.area + field::TARGET, target | kind);
        self.mem.store_u64(self.area + field::NEW, new);
        self.progress(phase::DECIDING);
    }

    /// Changes flags in a shared word without deciding anything: the name in it stays.
    pub(super) fn adjust(
        &self,
        target: u64,
        change: impl Fn(u64) -> Option<u64>,
    ) -> Option<Decided> {
        let mut word = self.mem.load_u64(target);
        loop {
            let before = value(word);
            let after = change(before)?;
            let new = word & !tagged::VALUE | value(after);
            match self.mem.compare_exchange_u64(target, word, new) {
                Ok(_) => return Some(Decided { before, after }),
                Err(other) => word = other,
            }
        }
    }

    /// Puts `new` in the place of `old`, last in the operation, which is decided by it. The words
    /// have no names: `helped` is the participant that may have put `old` there.
    pub(super) fn decide_word(
        &mut self,
        target: u64,
        (old, new): (u64, u64),
        helped: Option<u32>,
    ) -> bool {
        if self.mem.shared() {
            if !self.open.get() {
                self.begin();
            }
            self.announce_target(target, kind::WORD, new);
            if let Some(who) = helped {
                self.help_word(target, old, who);
            }
        }
        self.mem.compare_exchange_u64(target, old, new).is_ok()
    }

    /// Says that the operation is decided by a change of the list of children at `target`, of
    /// which `child` becomes or ceases to be a part.
    pub(super) fn announce_list(&mut self, target: u64, kind: u64, child: u32) {
        if self.mem.shared() {
            if !self.open.get() {
                self.begin();
            }
            self.announce_target(target, kind, child.into());
        }
    }

    /// Marks the operation of whoever is named in `word` as decided, before that is overwritten.
    #[cold]
    pub(super) fn help(&self, target: u64, word: u64) {
        let who = (word >> tagged::WHO_SHIFT) as u32;
        if who >= self.lay.config.participants {
            self.corrupt.set(true);
            return;
        }
        let area = self.lay.participant(who);
        let progress = Progress(self.mem.load_u64(area + field::PROGRESS));
        if progress.phase() == phase::DECIDING
            && tag(who, progress.sequence()) == word & !tagged::VALUE
        {
            self.mark_decided(area, progress, kind::TAGGED, target, word);
        }
    }

    /// The same for words without names.
    pub(super) fn help_word(&self, target: u64, word: u64, who: u32) {
        if who == self.me || who >= self.lay.config.participants {
            return;
        }
        let area = self.lay.participant(who);
        let progress = Progress(self.mem.load_u64(area + field::PROGRESS));
        if progress.phase() == phase::DECIDING && self.mem.load_u64(area + field::NEW) == word {
            self.mark_decided(area, progress, kind::WORD, target, word);
        }
    }

    /// Marks a line if it still speaks of `target`, and `target` still is `word`.
    #[cold]
    fn mark_decided(&self, area: u64, progress: Progress, kind: u64, target: u64, word: u64) {
        if self.mem.load_u64(area + field::TARGET) == target | kind
            && self.mem.load_u64(area + field::PROGRESS) == progress.0
            && self.mem.load_u64(target) == word
        {
            let decided = progress.0 | phase::DECIDED;
            let _ = self.mem.compare_exchange_u64(area + field::PROGRESS, progress.0, decided);
        }
    }

    /// Says that a version may get the flag that sends it to the reclaimer, so that recovery
    /// finds one that got it and was not sent.
    #[inline(always)]
    pub(super) fn begin_posting(&self, version: u32) {
        if self.mem.shared() {
            self.posting(version.wrapping_add(1));
        }
    }

    /// Says that it was sent, or did not get the flag.
    #[inline(always)]
    pub(super) fn end_posting(&self) {
        if self.mem.shared() {
            self.posting(0);
        }
    }

    #[inline(always)]
    fn posting(&self, link: u32) {
        let line = self.line(self.area + field::PROGRESS);
        line.store_u32(field::POSTING - field::PROGRESS, link);
    }

    /// Puts a record on a stack that only the reclaimer takes from.
    pub(super) fn post(&self, stack: u64, link_at: u64, link: u32) {
        let mut first = self.mem.load_u64(stack);
        loop {
            self.mem.store_u32(link_at, first as u32);
            match self.mem.compare_exchange_u64(stack, first, link.into()) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }
}

const _: () = assert!(phase::DECIDED == phase::DECIDING | 1);
