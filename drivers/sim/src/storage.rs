//! Memory for simulated endpoints: made once, handed back when an endpoint ends, used again.

use std::any::TypeId;
use std::cell::{Cell, RefCell};

use dmrpc_core::endpoint::cipher::{
    CipherRoom, CipherTable, Ciphers, PacketKey, PortableKey, SessionCipher,
};
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Config, ConfigError, Endpoint, TimerEntry, WaitEntries};
use dmrpc_core::time::Instant;

/// Storage that nobody uses now.
type Spare = (StorageSize, Storage<'static>);

/// Whose keys new endpoints encrypt with.
#[derive(Clone, Copy)]
struct Encryption {
    key_type: fn() -> TypeId,
    table: fn(usize) -> &'static mut (dyn Ciphers + Send),
}

impl Encryption {
    const fn by<K: PacketKey>() -> Self {
        Self { key_type: TypeId::of::<K>, table: ciphers::<K> }
    }
}

/// Ciphers of `count` sessions, with keys of `K`.
fn ciphers<K: PacketKey>(count: usize) -> &'static mut (dyn Ciphers + Send) {
    Box::leak(Box::new(CipherTable::new(vec![SessionCipher::<K>::EMPTY; count])))
}

/// Lets the endpoints that this thread makes from now on encrypt with keys of `K`; those of the
/// core until then.
pub fn encrypt_by<K: PacketKey>() {
    ENCRYPTION.set(Encryption::by::<K>());
}

thread_local! {
    static SPARE: RefCell<Vec<Spare>> = const { RefCell::new(Vec::new()) };
    static SPARE_ROOM: RefCell<Vec<CipherRoom<'static>>> = const { RefCell::new(Vec::new()) };
    static ENCRYPTION: Cell<Encryption> = const { Cell::new(Encryption::by::<PortableKey>()) };
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

/// An endpoint in storage of `size`, with room for encryption if it is to have that.
///
/// # Errors
/// A configuration that does not work, or not with storage of `size`.
pub fn endpoint(
    config: Config,
    size: StorageSize,
    now: Instant,
) -> Result<Endpoint<'static>, ConfigError> {
    if !config.encrypt {
        return Endpoint::new(config, take(size), now);
    }
    let needed = CipherRoom::needed(&size, config.payload_bytes_max);
    let encryption = ENCRYPTION.get();
    let spare = SPARE_ROOM.with_borrow_mut(|spare| {
        let fits = |room: &CipherRoom<'_>| {
            let key_type = room.sessions.key_type();
            key_type == (encryption.key_type)()
                && (room.sessions.count(), room.packet.len()) == needed
        };
        let at = spare.iter().position(fits)?;
        Some(spare.swap_remove(at))
    });
    let room = spare.unwrap_or_else(|| CipherRoom {
        sessions: (encryption.table)(needed.0),
        packet: vec![0; needed.1].leak(),
    });
    Endpoint::encrypted(config, take(size), room, now)
}

/// Ends an endpoint and hands back all that it was in.
pub fn give_back_all(endpoint: Endpoint<'static>) {
    let (storage, room) = endpoint.into_parts();
    give_back(storage);
    SPARE_ROOM.with_borrow_mut(|spare| spare.extend(room));
}

/// Hands storage back for the next [`take`] on this thread.
pub fn give_back(storage: Storage<'static>) {
    let size = storage.size();
    SPARE.with_borrow_mut(|spare| spare.push((size, storage)));
}
