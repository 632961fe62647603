//! The ciphers of an endpoint's sessions, whoever encrypts.

use core::any::TypeId;
use core::marker::PhantomData;

use super::super::host::Side;
use super::super::table::StorageSize;
use super::{PacketKey, SessionCipher, Unopened};
use crate::wire::packet::HEADER_BYTES;

/// What encryption takes of memory beside an endpoint's tables.
#[derive(Debug)]
pub struct CipherRoom<'m> {
    /// One for each session, of both kinds: a [`CipherTable`].
    pub sessions: &'m mut (dyn Ciphers + Send + 'static),
    /// Where packets are decrypted: as long as the device's largest datagram.
    pub packet: &'m mut [u8],
}

impl CipherRoom<'_> {
    /// Ciphers, and bytes of a packet, that an endpoint with storage of `size` and such payloads
    /// needs.
    pub const fn needed(size: &StorageSize, payload_bytes_max: u32) -> (usize, usize) {
        let sessions = size.client_sessions + size.server_sessions;
        (sessions, HEADER_BYTES + payload_bytes_max as usize)
    }

    /// The same in bytes, with keys of `K`.
    pub const fn bytes<K>(size: &StorageSize, payload_bytes_max: u32) -> usize {
        let (sessions, packet) = Self::needed(size, payload_bytes_max);
        sessions * size_of::<SessionCipher<K>>() + packet
    }
}

/// The ciphers of many sessions. An endpoint calls them through this, once a packet, so that it is
/// the same whoever encrypts; [`CipherTable`] is all that has it.
pub trait Ciphers: sealed::Sealed + core::fmt::Debug {
    /// Of how many sessions.
    fn count(&self) -> usize;

    /// The type of their keys.
    fn key_type(&self) -> TypeId;

    /// Forgets all keys.
    fn forget(&mut self);

    /// Makes the cipher at `place` that of a session with these secret bytes, of which this end is
    /// `side`.
    fn begin(&mut self, place: usize, secret: [u8; 16], side: Side);

    /// Encrypts a finished packet, see [`SessionCipher`], by the cipher at `place`.
    ///
    /// # Panics
    /// If there is none, or `datagram` has no room for header and tag.
    fn seal(&self, place: usize, datagram: &mut [u8]);

    /// Decrypts a packet to the front of `room`. Returns its length, and whether it is a goodbye
    /// to a session that was never used.
    ///
    /// # Errors
    /// It is not opened.
    fn open(
        &mut self,
        place: usize,
        datagram: &[u8],
        room: &mut [u8],
    ) -> Result<(usize, bool), Unopened>;
}

mod sealed {
    /// Keeps it among us what an endpoint relies on.
    pub trait Sealed {}
}

/// Ciphers with keys of `K`, in a `T` of them: an array, a `Vec`, a boxed slice.
#[derive(Clone)]
pub struct CipherTable<K, T> {
    sessions: T,
    keys: PhantomData<K>,
}

impl<K: PacketKey, T: AsMut<[SessionCipher<K>]>> CipherTable<K, T> {
    /// Those of `sessions`.
    pub const fn new(sessions: T) -> Self {
        Self { sessions, keys: PhantomData }
    }
}

impl<K, T> core::fmt::Debug for CipherTable<K, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CipherTable(..)")
    }
}

impl<K, T> sealed::Sealed for CipherTable<K, T> {}

impl<K, T> Ciphers for CipherTable<K, T>
where
    K: PacketKey,
    T: AsMut<[SessionCipher<K>]> + AsRef<[SessionCipher<K>]>,
{
    fn count(&self) -> usize {
        self.sessions.as_ref().len()
    }

    fn key_type(&self) -> TypeId {
        TypeId::of::<K>()
    }

    fn forget(&mut self) {
        self.sessions.as_mut().fill(SessionCipher::EMPTY);
    }

    fn begin(&mut self, place: usize, secret: [u8; 16], side: Side) {
        self.sessions.as_mut()[place] = SessionCipher::new(secret, side);
    }

    fn seal(&self, place: usize, datagram: &mut [u8]) {
        self.sessions.as_ref()[place].seal(datagram);
    }

    fn open(
        &mut self,
        place: usize,
        datagram: &[u8],
        room: &mut [u8],
    ) -> Result<(usize, bool), Unopened> {
        self.sessions.as_mut()[place].open(datagram, room)
    }
}
