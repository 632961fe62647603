//! The memory of a memory node: the pool, and the tables of its endpoint.

use std::fs;
use std::io;

use dmrpc_core::endpoint::cipher::CipherRoom;
use dmrpc_core::endpoint::table::{
    ClientSession, ClientSlot, ServerSession, ServerSlot, Storage, StorageSize,
};
use dmrpc_core::endpoint::{Config, TimerEntry, WaitEntries};
use dmrpc_host::cipher::{SessionCiphers, session_ciphers};
use dmrpc_host::table::table;
use memmap2::{Advice, MmapMut, MmapOptions};

/// Maps `bytes` bytes of zeros. Pages are taken from the system as they are first touched.
pub(crate) fn map_pool(bytes: usize, huge_pages: bool) -> io::Result<MmapMut> {
    let mut options = MmapOptions::new();
    options.len(bytes);
    if huge_pages {
        // 2^21 bytes: 2 MiB.
        options.huge(Some(21));
    }
    let pool = options.map_anon()?;
    // Pages of 2 MiB as far as the system has them, so that long transfers find their addresses in
    // the processor's tables. Without them all works the same.
    let _ = pool.advise(Advice::HugePage);
    Ok(pool)
}

/// Memory that the system can give, in bytes, by its own estimate; `None` if it does not tell.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The memory of an endpoint, allocated once.
pub(crate) struct EndpointMemory {
    client_sessions: Vec<ClientSession>,
    client_slots: Vec<ClientSlot>,
    server_sessions: Vec<ServerSession>,
    server_slots: Vec<ServerSlot>,
    timers: Vec<TimerEntry>,
    ciphers: SessionCiphers,
    packet: Vec<u8>,
    waits: Vec<WaitEntries>,
}

impl EndpointMemory {
    /// For an endpoint of `config` with storage of `size`.
    pub(crate) fn new(config: &Config, size: &StorageSize) -> Self {
        let (ciphers, packet_bytes) = match config.encrypt {
            true => CipherRoom::needed(size, config.payload_bytes_max),
            false => (0, 0),
        };
        Self {
            ciphers: session_ciphers(ciphers),
            packet: vec![0; packet_bytes],
            client_sessions: table(ClientSession::EMPTY, size.client_sessions),
            client_slots: table(ClientSlot::EMPTY, size.client_slots),
            server_sessions: table(ServerSession::EMPTY, size.server_sessions),
            server_slots: table(ServerSlot::EMPTY, size.server_slots),
            timers: table(TimerEntry::EMPTY, size.timers),
            waits: table(WaitEntries::EMPTY, size.waits),
        }
    }

    /// All of it.
    pub(crate) fn lend(&mut self) -> (Storage<'_>, CipherRoom<'_>) {
        let storage = Storage {
            client_sessions: &mut self.client_sessions,
            client_slots: &mut self.client_slots,
            server_sessions: &mut self.server_sessions,
            server_slots: &mut self.server_slots,
            timers: &mut self.timers,
            waits: &mut self.waits,
        };
        (storage, CipherRoom { sessions: &mut self.ciphers, packet: &mut self.packet })
    }
}
