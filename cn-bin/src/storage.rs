//! An endpoint together with the memory that it works in.
//!
//! An [`Endpoint`] borrows its tables. Here it borrows them from the value that holds it, which
//! Rust's references cannot express, so this module keeps the tables behind raw pointers. For the
//! same reason the pieces of buffers that lie side by side are here.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, slice_from_raw_parts_mut};

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

/// Pieces begin at multiples of this: a cache line.
const PIECE_ALIGN: usize = 64;

/// The bytes of a buffer, which nobody else has: a part of an allocation of [`Places`].
pub(crate) struct Piece(NonNull<[u8]>);

impl Default for Piece {
    fn default() -> Self {
        Self(NonNull::from(&mut [] as &mut [u8]))
    }
}

impl Deref for Piece {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: no bytes, or initialised ones that no other piece has, of an allocation that
        // stays as long as a piece of it is about.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Piece {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the same, and this piece is borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

// SAFETY: it has its bytes alone, as a box does.
unsafe impl Send for Piece {}

/// Where buffers are while nobody has them. Those of one length lie side by side: together they may
/// be large enough for huge pages where one alone is not. They take up memory as they are touched.
pub(crate) struct Places {
    places: Box<[Option<Piece>]>,
    /// What the pieces are parts of.
    wholes: ManuallyDrop<Vec<Lent<u8>>>,
    /// Bytes of all of them.
    bytes: usize,
}

impl Places {
    /// For each of `classes` so many buffers of so many bytes, all zero.
    pub(crate) fn new(classes: impl Iterator<Item = (usize, usize)>) -> Self {
        let (mut places, mut wholes, mut sum) = (Vec::new(), Vec::new(), 0);
        for (count, bytes) in classes {
            sum += count * bytes;
            let stride = bytes.next_multiple_of(PIECE_ALIGN);
            let whole = Lent(Box::into_raw(zeros(count * stride + PIECE_ALIGN)));
            let first = whole.0.cast::<u8>();
            let aligned = first.align_offset(PIECE_ALIGN);
            places.extend((0..count).map(|number| {
                // SAFETY: `count` strides fit behind the first aligned byte, so this one's bytes
                // are within the allocation.
                let first = unsafe { first.add(aligned + number * stride) };
                NonNull::new(slice_from_raw_parts_mut(first, bytes)).map(Piece)
            }));
            wholes.push(whole);
        }
        Self { places: places.into(), wholes: ManuallyDrop::new(wholes), bytes: sum }
    }

    /// The bytes of one; none if it is not here.
    #[inline]
    pub(crate) fn look(&self, index: usize) -> &[u8] {
        self.places[index].as_deref().unwrap_or_default()
    }

    /// The same, to be written.
    #[inline]
    pub(crate) fn bytes(&mut self, index: usize) -> &mut [u8] {
        self.places[index].as_deref_mut().unwrap_or_default()
    }

    /// Takes one out.
    #[inline]
    pub(crate) fn take(&mut self, index: usize) -> Option<Piece> {
        self.places.get_mut(index)?.take()
    }

    /// Puts one back.
    #[inline]
    pub(crate) fn put(&mut self, index: usize, piece: Piece) {
        self.places[index] = Some(piece);
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let own = |piece: &&Piece| {
            let at = piece.0.cast::<u8>().as_ptr().cast_const();
            self.wholes.iter().any(|whole| {
                let first = whole.0.cast::<u8>().cast_const();
                (first..first.wrapping_add(whole.0.len())).contains(&at)
            })
        };
        let here: usize = self.places.iter().flatten().filter(own).map(|piece| piece.len()).sum();
        // What somebody still has stays where it is, for ever.
        if here == self.bytes {
            // SAFETY: not used again. Pieces are parts of these that nobody else has, and those
            // that are here are all of it.
            unsafe { ManuallyDrop::drop(&mut self.wholes) }
        }
    }
}

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
    fn pieces_lie_side_by_side_and_outlive_their_places() {
        let mut places = Places::new([(3, 1_000), (0, 8), (2, 0)].into_iter());
        assert_eq!(places.places.len(), 5);
        for number in 0..3 {
            let mut piece = places.take(number).expect("it is here");
            assert_eq!((piece.len(), piece.as_ptr().addr() % PIECE_ALIGN), (1_000, 0));
            assert!(piece.iter().all(|byte| *byte == 0));
            piece.fill(number as u8 + 1);
            assert!(places.look(number).is_empty() && places.take(number).is_none());
            places.put(number, piece);
        }
        assert_eq!((places.look(0), places.look(1)), (&[1; 1_000][..], &[2; 1_000][..]));
        places.bytes(1).fill(4);
        assert_eq!(places.look(1), [4; 1_000]);
        let last = places.take(2).expect("it is here");
        let elsewhere = std::thread::spawn(move || last.iter().all(|byte| *byte == 3));
        drop(places);
        assert!(elsewhere.join().expect("no panic"));
        assert!(Piece::default().is_empty());
    }
}
