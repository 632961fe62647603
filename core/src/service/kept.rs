//! Which session an answer is for that is kept as a pin: for the account of who holds what.

use super::memory_node::MemoryNode;
use crate::endpoint::host::SessionId;
use crate::memory::Memory;
use crate::store::PinId;

fn mark_of(session: SessionId) -> u64 {
    u64::from(session.generation) << 32 | u64::from(session.index)
}

impl<M: Memory> MemoryNode<'_, M> {
    /// Notes that an answer of `session` is made of `pin`.
    pub(super) fn keep(&mut self, session: SessionId, pin: PinId) {
        let marked = self.store.mark_pin(pin, mark_of(session));
        debug_assert!(marked.is_ok(), "pinned a moment ago");
        self.sessions[session.index as usize].pins += 1;
    }

    /// Ends the pin of an answer. Its session may be over, and its place be another's.
    pub(super) fn let_go(&mut self, pin: PinId) {
        let mark = self.store.pin_mark(pin);
        let unpinned = self.store.unpin(pin);
        debug_assert!(unpinned.is_ok(), "a source is released once");
        let Ok(mark) = mark else { return };
        let (index, generation) = (mark as u32 as usize, (mark >> 32) as u32);
        let entry = self.sessions.get_mut(index);
        if let Some(entry) = entry.filter(|entry| entry.generation == generation) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }
}
