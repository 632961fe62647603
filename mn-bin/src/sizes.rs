//! How a memory node's pool and tables are sized from its options.

use dmrpc_core::service::{DetachedAccount, Detachment};
use dmrpc_core::store::{Config as StoreConfig, Layout, Limits, PAGE_BYTES};
use memmap2::MmapMut;

use crate::error::Error;
use crate::memory::{available_bytes, map_pool};
use crate::options::Options;

/// Frames by which a pool that does not fit is made smaller: 1 MiB.
const FRAMES_A_STEP: u32 = 256;
/// Bytes of a pin's record.
const PIN_BYTES: u64 = 64;
/// Most pins that a store can name.
const PINS_LIMIT: u64 = 1 << 24;

/// The pool's memory, if the machine has it.
pub(crate) fn pool(bytes: u64, huge_pages: bool) -> Result<MmapMut, Error> {
    // Huge pages are reserved beforehand, so they are not among what is available: whether there
    // are enough, the mapping tells.
    let available = if huge_pages { None } else { available_bytes() };
    if let Some(available) = available.filter(|available| *available < bytes) {
        return Err(Error::PoolTooLarge { wanted: bytes, available });
    }
    map_pool(bytes as usize, huge_pages).map_err(|source| Error::PoolMap {
        bytes,
        huge_pages,
        source,
    })
}

/// The sizes of a store in a pool of so many bytes, for as many participants.
pub(crate) fn store_config(options: &Options, pool_bytes: u64, participants: u32) -> StoreConfig {
    let mut config = StoreConfig::for_pool_bytes(pool_bytes);
    config.participants = participants;
    config.grace_ns = options.grace.0.as_nanos();
    // A session that ended keeps its holder until its grace is over.
    let sessions = options.sessions as u32 * participants;
    config.holders = config.holders.max(2 * sessions);
    // Each slot may have an answer that is a pin; but pins take no more than a sixteenth of a pool.
    let pins_max = (pool_bytes / (16 * PIN_BYTES)).min(PINS_LIMIT);
    let pins = (u64::from(sessions) * u64::from(options.slots)).min(pins_max);
    config.pins = config.pins.max(pins as u32);
    // What was added, and tables for sharing, the frames make room for.
    let fits =
        |config: &StoreConfig| Layout::new(config).is_ok_and(|layout| layout.bytes() <= pool_bytes);
    while config.frames > FRAMES_A_STEP && !fits(&config) {
        config.frames -= FRAMES_A_STEP;
    }
    config
}

/// Who has detached what, of all cores: a place for each reference and each holder.
pub(crate) fn detached(config: &StoreConfig) -> (Vec<Detachment>, Vec<DetachedAccount>) {
    let references = (0..config.entries).map(|_| Detachment::default()).collect();
    (references, (0..config.holders).map(|_| DetachedAccount::default()).collect())
}

/// What one session may have.
pub(crate) fn limits(options: &Options) -> Limits {
    Limits {
        pages: options.session_quota.map_or(u64::MAX, |quota| quota.0.div_ceil(PAGE_BYTES)),
        regions: options.session_regions.unwrap_or(u32::MAX),
        entries: options.session_references.unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn each_slot_has_a_pin_where_the_pool_has_room_and_every_pool_fits() {
        let options = Options::parse_from(["dmrpc-mn", "--sessions", "100", "--slots", "32"]);
        assert!(store_config(&options, 256 << 20, 1).pins >= 3_200);
        assert!(store_config(&options, 256 << 20, 2).pins >= 6_400);
        for (bytes, participants) in [(2 << 20, 1), (8 << 20, 1), (64 << 20, 2), (1 << 30, 4)] {
            let config = store_config(&options, bytes, participants);
            assert!(u64::from(config.pins) * PIN_BYTES <= bytes / 8, "{config:?}");
            assert!(Layout::new(&config).is_ok_and(|layout| layout.bytes() <= bytes), "{config:?}");
        }
    }
}
