//! The tables of slots, and where in them those of a session lie.
//!
//! A session that makes a few calls at a time uses its first slots only: a call takes the first
//! that is free. In a table for a few sessions all slots of one lie together, so that those of one
//! with many calls are neighbours. In one for thousands, where they are far too many for any cache,
//! all first slots lie together, then all second ones, and so on: what is in use is dense, and
//! takes a fraction of the pages that it would take session by session. A processor knows the
//! places of one to three thousand pages by heart, and of all others it has to look them up.

use core::ops::{Index, IndexMut};

/// A table of the slots of many sessions, each with as many.
pub(super) struct Slots<'m, S> {
    slots: &'m mut [S],
    layout: Layout,
}

impl<'m, S> Slots<'m, S> {
    /// Of `sessions` sessions, which share `slots` evenly; `apart` if all first slots lie together,
    /// not all of a session.
    pub(super) fn new(slots: &'m mut [S], sessions: usize, apart: bool) -> Self {
        let layout = Layout::new(sessions, slots.len().checked_div(sessions).unwrap_or(0), apart);
        Self { slots, layout }
    }

    pub(super) fn into_inner(self) -> &'m mut [S] {
        self.slots
    }

    /// How many there are.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Where slot `number` of a session is.
    #[inline(always)]
    pub(super) fn at(&self, session: usize, number: usize) -> usize {
        self.layout.at(session, number)
    }

    /// The same of a session with `slots` slots; `None` if it has no such slot.
    #[inline]
    pub(super) fn find(&self, session: usize, number: u16, slots: u16) -> Option<usize> {
        (number < slots).then(|| self.at(session, number.into()))
    }

    /// Whose the slot at `index` is, and which of its session's.
    #[inline]
    pub(super) fn place(&self, index: usize) -> (usize, usize) {
        self.layout.place(index)
    }

    /// Whose the slot at `index` is.
    #[inline]
    pub(super) fn session(&self, index: usize) -> usize {
        self.place(index).0
    }

    /// Which of its session's slots the one at `index` is.
    #[inline]
    pub(super) fn number(&self, index: usize) -> usize {
        self.place(index).1
    }

    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> Option<&S> {
        self.slots.get(index)
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut S> {
        self.slots.get_mut(index)
    }

    /// The first `count` slots of a session.
    pub(super) fn of(&self, session: usize, count: u16) -> impl Iterator<Item = &S> {
        (0..usize::from(count)).map(move |number| &self.slots[self.at(session, number)])
    }
}

impl<S> Index<usize> for Slots<'_, S> {
    type Output = S;

    #[inline(always)]
    fn index(&self, index: usize) -> &S {
        &self.slots[index]
    }
}

impl<S> IndexMut<usize> for Slots<'_, S> {
    #[inline(always)]
    fn index_mut(&mut self, index: usize) -> &mut S {
        &mut self.slots[index]
    }
}

/// How the slots of sessions are numbered through: along one of the two, whose neighbours are
/// neighbours in the table, then along the other.
#[derive(Clone, Copy, Debug)]
struct Layout {
    session_stride: usize,
    slot_stride: usize,
    /// The longer of the strides: how many neighbours there are.
    row: usize,
    /// 2^64 / `row`, rounded up: so that finding a row takes no division.
    rows_a_step: u64,
}

impl Layout {
    fn new(sessions: usize, slots: usize, apart: bool) -> Self {
        // One each way is the same either way, and a row of one has no such reciprocal.
        let apart = if slots <= 1 { true } else { apart && sessions > 1 };
        let row = if apart { sessions } else { slots };
        let (session_stride, slot_stride) = if apart { (1, row) } else { (row, 1) };
        let rows_a_step = if row <= 1 { 0 } else { u64::MAX / row as u64 + 1 };
        Self { session_stride, slot_stride, row, rows_a_step }
    }

    #[inline(always)]
    fn at(&self, session: usize, number: usize) -> usize {
        session * self.session_stride + number * self.slot_stride
    }

    /// Session and number of the slot at `index`. Exact for tables of less than 2^32 slots: the
    /// reciprocal is too large by less than 1, the index times that less than 2^64 / `row`. See
    /// Granlund and Montgomery, "Division by invariant integers using multiplication" (1994).
    #[inline]
    fn place(&self, index: usize) -> (usize, usize) {
        let row = (index as u128 * u128::from(self.rows_a_step)) >> 64;
        let row = row as usize;
        let along = index - row * self.row;
        if self.session_stride == 1 { (along, row) } else { (row, along) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;

    use super::*;

    proptest! {
        /// Every slot of every session has a place of its own, from which it is found back.
        #[test]
        fn places_are_found_back(
            sessions in 1usize..3_000,
            slots in (0u32..=6).prop_map(|shift| 1usize << shift),
            apart in any::<bool>(),
        ) {
            let layout = Layout::new(sessions, slots, apart);
            let mut seen = vec![false; sessions * slots];
            for session in 0..sessions {
                for number in 0..slots {
                    let index = layout.at(session, number);
                    prop_assert!(!std::mem::replace(&mut seen[index], true));
                    prop_assert_eq!(layout.place(index), (session, number));
                }
            }
        }

        /// Also in the largest tables.
        #[test]
        fn places_of_large_tables_are_found_back(
            sessions in 1usize..1 << 26,
            session in any::<prop::sample::Index>(),
            number in 0usize..64,
            apart in any::<bool>(),
        ) {
            let layout = Layout::new(sessions, 64, apart);
            for session in [session.index(sessions), 0, sessions - 1] {
                prop_assert_eq!(layout.place(layout.at(session, number)), (session, number));
            }
        }
    }

    #[test]
    fn neighbours_are_slots_of_one_session_or_first_slots_of_all() {
        let mut memory = [0; 12];
        let together = Slots::new(&mut memory, 3, false);
        assert_eq!((together.at(0, 1), together.at(1, 0)), (1, 4));
        let mut memory = [0; 12];
        let apart = Slots::new(&mut memory, 3, true);
        assert_eq!((apart.at(0, 1), apart.at(1, 0)), (3, 1));
        assert_eq!(apart.of(1, 2).count(), 2);
    }

    #[test]
    fn a_table_of_no_sessions_has_no_slots() {
        let mut slots = Slots::<u8>::new(&mut [], 0, true);
        assert_eq!(slots.len(), 0);
        assert!(slots.get_mut(slots.at(0, 0)).is_none());
    }
}
