//! Memory for simulated endpoints: made once, handed back when an endpoint ends, used again.

use std::cell::RefCell;

use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{TimerEntry, WaitEntries};

/// Storage that nobody uses now.
type Spare = (StorageSize, Storage<'static>);

thread_local! {
    static SPARE: RefCell<Vec<Spare>> = const { RefCell::new(Vec::new()) };
}

/// Storage of `size`, from what was handed back or else new.
pub fn take(size: StorageSize) -> Storage<'static> {
    let spare = SPARE.with_borrow_mut(|spare| {
        let at = spare.iter().position(|(of, _)| *of == size)?;
        Some(spare.swap_remove(at).1)
    });
    spare.unwrap_or_else(|| Storage {
        client_sessions: vec![ClientSession::EMPTY; size.client_sessions].leak(),
        client_slots: vec![ClientSlot::EMPTY; size.client_slots].leak(),
        server_sessions: vec![ServerSession::EMPTY; size.server_sessions].leak(),
        server_slots: vec![ServerSlot::EMPTY; size.server_slots].leak(),
        timers: vec![TimerEntry::EMPTY; size.timers].leak(),
        waits: vec![WaitEntries::EMPTY; size.waits].leak(),
    })
}

/// Hands storage back for the next [`take`] on this thread.
pub fn give_back(storage: Storage<'static>) {
    let size = storage.size();
    SPARE.with_borrow_mut(|spare| spare.push((size, storage)));
}
