//! An endpoint together with the memory that it works in.
//!
//! An [`Endpoint`] borrows its tables. Here it borrows them from the value that holds it, which
//! Rust's references cannot express, so this module keeps the tables behind raw pointers.

use dmrpc_core::endpoint::cipher::CipherRoom;
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Config, ConfigError, Endpoint, TimerEntry, WaitEntries};
use dmrpc_core::time::Instant;
use dmrpc_host::cipher::{SessionCiphers, session_ciphers};
use dmrpc_host::table::table;

/// A boxed slice that is lent out as if for ever, until dropped.
struct Lent<T>(*mut [T]);

impl<T: Clone> Lent<T> {
    fn new(value: T, count: usize) -> Self {
        Self(Box::into_raw(table(value, count).into_boxed_slice()))
    }

    /// The slice.
    ///
    /// # Safety
    /// To be called once, and what it returns is not used after `self` is dropped.
    unsafe fn lend(&self) -> &'static mut [T] {
        // SAFETY: the pointer came from a box that nobody else has, is valid until `self` is
        // dropped, and the caller promises that this is the only borrow.
        unsafe { &mut *self.0 }
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` and is given back once; whoever borrowed
        // the slice has promised not to use it any more.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

// SAFETY: it owns what it points to, as a box does.
unsafe impl<T: Send> Send for Lent<T> {}

/// An endpoint and its tables.
pub(crate) struct OwnedEndpoint {
    // Fields are dropped in this order: the endpoint goes before what it borrows.
    endpoint: Endpoint<'static>,
    _tables: Tables,
}

/// What an endpoint works in.
struct Tables {
    client_sessions: Lent<ClientSession>,
    client_slots: Lent<ClientSlot>,
    server_sessions: Lent<ServerSession>,
    server_slots: Lent<ServerSlot>,
    timers: Lent<TimerEntry>,
    /// One table.
    ciphers: Lent<SessionCiphers>,
    packet: Lent<u8>,
    waits: Lent<WaitEntries>,
}

impl OwnedEndpoint {
    /// An endpoint with so many sessions of each kind, in memory of its own.
    pub(crate) fn new(
        config: Config,
        clients: usize,
        servers: usize,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let size = StorageSize::new(clients, servers, config.slots_per_session.into());
        let (ciphers, packet_bytes) = match config.encrypt {
            true => CipherRoom::needed(&size, config.payload_bytes_max),
            false => (0, 0),
        };
        let tables = Tables {
            client_sessions: Lent::new(ClientSession::EMPTY, size.client_sessions),
            client_slots: Lent::new(ClientSlot::EMPTY, size.client_slots),
            server_sessions: Lent::new(ServerSession::EMPTY, size.server_sessions),
            server_slots: Lent::new(ServerSlot::EMPTY, size.server_slots),
            timers: Lent::new(TimerEntry::EMPTY, size.timers),
            ciphers: Lent::new(session_ciphers(ciphers), 1),
            packet: Lent::new(0, packet_bytes),
            waits: Lent::new(WaitEntries::EMPTY, size.waits),
        };
        // SAFETY: each table is lent once, here; the endpoint is the only borrower, is dropped
        // before the tables, and never leaves this value: `with` lends it with a lifetime that
        // does not let the caller keep or exchange what it borrows.
        let (storage, room) = unsafe {
            let storage = Storage {
                client_sessions: tables.client_sessions.lend(),
                client_slots: tables.client_slots.lend(),
                server_sessions: tables.server_sessions.lend(),
                server_slots: tables.server_slots.lend(),
                timers: tables.timers.lend(),
                waits: tables.waits.lend(),
            };
            let sessions = &mut tables.ciphers.lend()[0];
            let room = CipherRoom { sessions, packet: tables.packet.lend() };
            (storage, room)
        };
        Ok(Self { endpoint: Endpoint::encrypted(config, storage, room, now)?, _tables: tables })
    }

    /// The endpoint.
    pub(crate) fn get(&self) -> &Endpoint<'_> {
        &self.endpoint
    }

    /// Lets `work` use the endpoint; for any lifetime of its tables, so that it cannot be swapped
    /// with that of another owner.
    #[inline]
    pub(crate) fn with<R>(
        &mut self,
        work: impl for<'e, 'm> FnOnce(&'e mut Endpoint<'m>) -> R,
    ) -> R {
        work(&mut self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_live_as_long_as_the_endpoint() {
        let config = Config::new(1, 1500);
        let mut owned = OwnedEndpoint::new(config, 2, 2, Instant::ZERO).expect("legal");
        let moved = owned.with(|endpoint| endpoint.poll_at(Instant::ZERO));
        let owned = Box::new(owned);
        assert_eq!(owned.get().poll_at(Instant::ZERO), moved);
    }
}
