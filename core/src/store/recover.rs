//! What the reclaimer does for a participant that died, or left: finish or undo its last
//! operation, take over its caches, and end what it had.

use super::error::FormatError;
use super::ids::HolderId;
use super::participant::RECLAIMER;
use super::records::{
    LINK, STAMPED, STATE_BITS, STATE_LIVE, WORD, count, entry, holder, participant as field, pin,
    superblock, tagged, version,
};
use super::redo::{Progress, kind, phase, tag};
use super::{Memory, Store};
use crate::time::Instant;

impl<M: Memory> Store<M> {
    /// Ends a participant whose process or core is gone, so that somebody may attach as it again.
    /// Its last operation is finished or has never been, its free records return, its pins end,
    /// and its holders leave as with [`Store::holder_leave`]; [`Store::reclaim`] does the rest.
    /// Nobody else has to wait meanwhile. False means that another participant must finish, or
    /// be recovered, first: ask again.
    ///
    /// The caller knows that the participant is gone: nothing here can find that out.
    ///
    /// # Errors
    /// [`FormatError::NoParticipant`], also for participant 0, which [`Store::open`] recovers,
    /// and if this handle is not participant 0.
    pub fn recover(
        &mut self,
        participant: u32,
        now: Instant,
    ) -> core::result::Result<bool, FormatError> {
        self.check_participant(participant)?;
        if participant == RECLAIMER || self.me != RECLAIMER {
            let participants = self.lay.config.participants;
            return Err(FormatError::NoParticipant { participant, participants });
        }
        let area = self.lay.participant(participant);
        let state = self.mem.load_u64(area + field::STATE);
        let incarnation = state >> field::STATE_BITS << field::STATE_BITS;
        if state & ((1 << field::STATE_BITS) - 1) == field::FREE {
            return Ok(true);
        }
        self.mem.store_u64(area + field::STATE, incarnation | field::RECOVERING);
        self.settle_line(participant);
        if !self.settle_post(area) {
            return Ok(false);
        }
        self.pay(area);
        self.adopt_caches(area);
        self.end_pins(participant);
        let now = self.advance(now);
        self.end_holders(participant, now);
        self.balance();
        self.corrupt.set(false);
        self.mem.store_u64(area + field::STATE, incarnation | field::FREE);
        Ok(true)
    }

    /// The same for participant 0's own earlier life, which keeps its caches and what it has.
    pub(super) fn recover_self(&mut self) {
        self.settle_line(RECLAIMER);
        self.let_go();
        for (stack, drained) in
            [(superblock::WORK, superblock::DRAINED), (superblock::LEFT, superblock::LEFT_DRAINED)]
        {
            self.settle_drain(stack, drained);
        }
        while !self.settle_post(self.area) {
            core::hint::spin_loop();
        }
        self.resume_sequence();
        self.pay(self.area);
        for table in self.lay.tables() {
            self.keep_popped(table);
        }
        self.hand_over_leaving(RECLAIMER);
        self.corrupt.set(false);
    }

    /// Lets the holders of this participant's earlier life leave, as with
    /// [`Store::holder_leave`]: whoever they were for was forgotten with it. For one that has come
    /// back, before it lets anybody in.
    pub fn end_earlier_holders(&mut self, now: Instant) {
        let now = if self.me == RECLAIMER { self.advance(now) } else { now };
        self.end_holders(self.me, now);
    }

    /// Undoes the operation that a participant's redo line speaks of, unless it was decided.
    fn settle_line(&mut self, who: u32) {
        let area = self.lay.participant(who);
        let progress = Progress(self.mem.load_u64(area + field::PROGRESS));
        let decided = match progress.phase() {
            phase::IDLE => true,
            phase::OPEN => false,
            _ => self.was_decided(area, who, progress),
        };
        if !decided {
            self.undo_log(area, progress.logged());
        }
        self.mem.store_u32(area + field::WRITING, 0);
        self.mem.store_u64(area + field::PROGRESS, progress.idle().0);
    }

    /// Whether the shared word of an operation was changed.
    fn was_decided(&mut self, area: u64, who: u32, progress: Progress) -> bool {
        let announced = self.mem.load_u64(area + field::TARGET);
        let (target, kind) = (announced & !kind::MASK, announced & kind::MASK);
        let new = self.mem.load_u64(area + field::NEW);
        if target > self.lay.bytes() - 8 {
            self.corrupt.set(true);
            return true;
        }
        let seen = match kind {
            kind::TAGGED => {
                self.mem.load_u64(target) & !tagged::VALUE == tag(who, progress.sequence())
            }
            kind::WORD => self.mem.load_u64(target) == new,
            kind::PUSHED => {
                let listed = self.is_listed(target, new as u32);
                let parent = self.mem.load_u32(self.version_at(new as u32) + version::PARENT);
                if let Some(parent) = parent.checked_sub(1).filter(|_| listed) {
                    self.mark_forked(parent);
                }
                return listed;
            }
            _ => return !self.is_listed(target, new as u32),
        };
        // Whoever changed the word since has marked the line before.
        seen || Progress(self.mem.load_u64(area + field::PROGRESS)).phase() == phase::DECIDED
    }

    /// Hands the version that a participant was about to hand over to the reclaimer, if it said
    /// that it would and did not. False if somebody else may be about to.
    fn settle_post(&mut self, area: u64) -> bool {
        let posting = self.mem.load_u32(area + field::POSTING);
        let Some(version) = posting.checked_sub(1) else { return true };
        let others =
            (0..self.lay.config.participants).map(|who| self.lay.participant(who)).any(|other| {
                let state = self.mem.load_u64(other + field::STATE);
                other != area
                    && state & ((1 << field::STATE_BITS) - 1) == field::ATTACHED
                    && self.mem.load_u32(other + field::POSTING) == posting
            });
        if others {
            return false;
        }
        let waits = self.is_in_chain(self.mem.load_u64(superblock::WORK) as u32, version)
            || self.is_in_chain(self.mem.load_u32(superblock::DRAINED), version);
        if self.count(version).has(count::QUEUED) && !waits && self.is_version(version) {
            let link_at = self.version_at(version) + LINK;
            self.post(superblock::WORK, link_at, version.wrapping_add(1));
        }
        self.mem.store_u32(area + field::POSTING, 0);
        true
    }

    /// Whether a version is in a chain of those that wait.
    fn is_in_chain(&self, mut link: u32, version: u32) -> bool {
        for _ in 0..self.lay.versions.limit {
            match link.checked_sub(1) {
                None => return false,
                Some(found) if found == version => return true,
                Some(found) => link = self.mem.load_u32(self.version_at(found) + LINK),
            }
        }
        false
    }

    /// Empties `drained` if what it has is on the stack still: the reclaimer died in between.
    fn settle_drain(&mut self, stack: u64, drained: u64) {
        let first = self.mem.load_u32(drained);
        let mut link = self.mem.load_u64(stack) as u32;
        let table = if stack == superblock::WORK { self.lay.versions } else { self.lay.holders };
        for _ in 0..table.limit {
            if link == first && first != 0 {
                self.mem.store_u32(drained, 0);
            }
            let Some(index) = link.checked_sub(1) else { return };
            link = self.mem.load_u32(self.at(table, index) + LINK);
        }
    }

    /// Takes over the free records and the credit of a participant that is gone.
    fn adopt_caches(&mut self, area: u64) {
        for table in self.lay.tables() {
            self.caches = area;
            self.keep_popped(table);
            while self.cached(area, table) != 0 && !self.corrupt.get() {
                self.caches = area;
                let index = self.take(table);
                self.caches = self.area;
                self.put(table, index);
                self.close();
            }
            self.caches = self.area;
            if table.id >= STAMPED {
                let at = area + field::CACHES + table.id * field::CACHE_BYTES + field::CREDIT;
                let credit = self.mem.load_u64(at);
                self.set_u64(at, 0);
                self.add_credit(table, credit as i64);
                self.close();
            }
        }
    }

    /// Ends the pins of a participant that is gone.
    fn end_pins(&mut self, participant: u32) {
        for index in 0..self.high(self.lay.pins) {
            let at = self.at(self.lay.pins, index);
            let live = self.mem.load_u64(at + WORD) & ((1 << STATE_BITS) - 1) == STATE_LIVE;
            if live && self.mem.load_u32(at + pin::PARTICIPANT) == participant {
                self.end_pin(index);
            }
        }
    }

    /// Lets the holders of a participant that is gone leave.
    fn end_holders(&mut self, participant: u32, now: Instant) {
        self.hand_over_leaving(participant);
        for index in 0..self.high(self.lay.holders) {
            if self.is_of(index, participant) && self.live_holder(index).is_some() {
                self.leave_at(index, now);
            }
        }
    }

    /// Hands the reclaimer the holders that left and were not handed over: their participant died
    /// in between.
    fn hand_over_leaving(&mut self, participant: u32) {
        for index in 0..self.high(self.lay.holders) {
            if self.is_of(index, participant) && self.is_leaving(index) && !self.is_left(index) {
                self.post(superblock::LEFT, self.at(self.lay.holders, index) + LINK, index + 1);
            }
        }
    }

    /// Whether a holder is a participant's.
    fn is_of(&self, holder: u32, participant: u32) -> bool {
        let at = self.at(self.lay.holders, holder);
        self.mem.load_u32(at + holder::PARTICIPANT) == participant
    }

    /// Whether a holder that left is among those that wait.
    fn is_left(&self, holder: u32) -> bool {
        let stack = self.mem.load_u64(superblock::LEFT) as u32;
        let [drained, turned] =
            [superblock::LEFT_DRAINED, superblock::LEFT_TURNED].map(|at| self.mem.load_u32(at));
        [stack, drained, turned].into_iter().any(|first| {
            let mut link = first;
            for _ in 0..self.lay.holders.limit {
                match link.checked_sub(1) {
                    None => return false,
                    Some(found) if found == holder => return true,
                    Some(found) => {
                        link = self.mem.load_u32(self.at(self.lay.holders, found) + LINK)
                    }
                }
            }
            false
        })
    }

    /// The live holders of a participant: for a session of it that goes on after a restart.
    pub fn holders_of(&self, participant: u32) -> impl Iterator<Item = HolderId> + '_ {
        (0..self.high(self.lay.holders)).filter_map(move |index| {
            self.live_holder(index).filter(|_| self.is_of(index, participant))
        })
    }
}

const _: () = assert!(entry::NOBODY + (tagged::WHO_LIMIT as u64) <= entry::OWNER + 1);
