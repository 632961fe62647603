//! Hosts that somebody who can know says are gone.
//!
//! A participant of another host may be silent because its host is gone, or because it is cut off
//! and will write again. Nobody here can tell, so what it held stays as it is, until an operator
//! names the host in a word of the pool that the memory node looks at. Only the operator's command
//! writes that line.

use dmrpc_core::memory::Memory;

use super::table::field;
use super::{Table, Watch};
use crate::superblock::LOST_HOST;

impl Table {
    /// Names the host that is known to be gone; 0 for none any more.
    pub(crate) fn name_lost(&self, host: u64) {
        self.memory.store_u64(LOST_HOST, host);
        self.memory.flush(LOST_HOST, 8);
    }

    fn lost_host(&self) -> u64 {
        if self.is_in_flush_mode() {
            self.memory.flush(LOST_HOST, 8);
        }
        self.memory.load_u64(LOST_HOST)
    }

    /// The host of a slot's participant; `None` if there is none.
    pub(crate) fn host_of(&self, index: u32) -> Option<u64> {
        let word = self.word(index)?;
        word.is_taken().then(|| self.load(index, field::HOST))
    }

    /// A participant of another host than this, and that host.
    pub(crate) fn anybody_elsewhere(&self) -> Option<(u32, u64)> {
        let own = crate::process::own_host();
        (0..self.slots).find_map(|index| {
            let host = self.host_of(index)?;
            // Who is joining has not said yet, and looks for itself afterwards.
            (host != own && host != 0).then_some((index, host))
        })
    }

    /// The slots of a host's participants that are not given up.
    pub(crate) fn slots_of(&self, host: u64) -> Vec<u32> {
        (0..self.slots).filter(|index| self.host_of(*index) == Some(host)).collect()
    }
}

impl Watch {
    /// The host of a participant; `None` if there is none.
    pub fn host_of(&self, index: u32) -> Option<u64> {
        self.table.host_of(index)
    }

    /// Gives up what is silent and of the host that an operator has named.
    pub(super) fn heed_operator(&mut self) {
        let host = self.table.lost_host();
        if host == 0 || host == crate::process::own_host() {
            return;
        }
        for index in 0..self.table.slots {
            if self.known[index as usize].silent && self.table.host_of(index) == Some(host) {
                self.confirm_lost(index);
            }
        }
    }
}
