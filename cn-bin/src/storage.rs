//! An endpoint together with the memory that it works in.
//!
//! An [`Endpoint`] borrows its tables. Here it borrows them from the value that holds it, which
//! Rust's references cannot express, so this module keeps the tables behind raw pointers. For the
//! same reason the pieces of buffers that lie side by side are here.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use dmrpc_core::endpoint::cipher::CipherRoom;
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Config, ConfigError, Endpoint, TimerEntry, WaitEntries};
use dmrpc_core::time::Instant;
use dmrpc_host::cipher::{SessionCiphers, session_ciphers};
use dmrpc_host::table::{table, zeros};

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

// SAFETY: what is shared of it is the address only, which nobody changes.
unsafe impl<T: Send> Sync for Lent<T> {}

/// Pieces begin at multiples of this: a cache line.
const PIECE_ALIGN: usize = 64;

/// Bytes of an allocation that others lie side by side in. It goes when the last of them does.
pub(crate) struct Piece {
    /// Keeps the bytes where they are; none of a piece without any.
    _whole: Option<Arc<Lent<u8>>>,
    bytes: NonNull<[u8]>,
}

impl Piece {
    /// `count` pieces of `bytes` bytes each, all zero. Together they may be large enough for huge
    /// pages where one alone is not, and take up memory as they are touched.
    pub(crate) fn several(count: usize, bytes: usize) -> impl Iterator<Item = Self> {
        let stride = bytes.next_multiple_of(PIECE_ALIGN);
        let whole = Arc::new(Lent(Box::into_raw(zeros(count * stride + PIECE_ALIGN))));
        (0..count).filter_map(move |number| {
            let first = whole.0.cast::<u8>();
            let at = first.align_offset(PIECE_ALIGN) + number * stride;
            // SAFETY: `count` strides fit behind the first aligned byte, so this one's bytes are
            // within the allocation.
            let first = unsafe { first.add(at) };
            let bytes = NonNull::slice_from_raw_parts(NonNull::new(first)?, bytes);
            Some(Self { _whole: Some(Arc::clone(&whole)), bytes })
        })
    }
}

impl Default for Piece {
    fn default() -> Self {
        Self { _whole: None, bytes: NonNull::from(&mut [] as &mut [u8]) }
    }
}

impl Deref for Piece {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: no bytes, or initialised ones of an allocation that is kept, which no other piece
        // has.
        unsafe { self.bytes.as_ref() }
    }
}

impl DerefMut for Piece {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the same, and this piece is borrowed mutably.
        unsafe { self.bytes.as_mut() }
    }
}

// SAFETY: it has its bytes alone, as a box does, and what it shares is counted atomically.
unsafe impl Send for Piece {}

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

    #[test]
    fn pieces_lie_side_by_side_and_outlive_each_other() {
        let mut pieces: Vec<Piece> = Piece::several(3, 1_000).collect();
        for (number, piece) in pieces.iter_mut().enumerate() {
            assert_eq!((piece.len(), piece.as_ptr().addr() % PIECE_ALIGN), (1_000, 0));
            assert!(piece.iter().all(|byte| *byte == 0));
            piece.fill(number as u8 + 1);
        }
        let last = pieces.pop().expect("three");
        let elsewhere = std::thread::spawn(move || last.iter().all(|byte| *byte == 3));
        drop(pieces);
        assert!(elsewhere.join().expect("no panic"));
        assert!(Piece::default().is_empty() && Piece::several(0, 8).next().is_none());
        assert!(Piece::several(2, 0).all(|piece| piece.is_empty()));
    }
}
