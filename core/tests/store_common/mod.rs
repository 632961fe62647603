//! What the tests of the store share: pools of several kinds, and the audit.
#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::HashMap;

use dmrpc_core::memory::Memory;
use dmrpc_core::store::{Config, Layout, Store};
use dmrpc_core::time::Instant;

/// A small pool: enough for a few regions of up to a hundred pages.
pub(crate) const SMALL: Config = Config {
    frames: 200,
    nodes: 120,
    versions: 32,
    regions: 24,
    entries: 24,
    holders: 6,
    pins: 8,
    stages: 4,
    detached_max: 4,
    holds_max: 1 << 20,
    grace_ns: 1_000,
    participants: 1,
};

/// Dirty memory for a pool: every byte is somebody else's.
pub(crate) fn dirty_pool(config: &Config) -> Vec<u64> {
    let bytes = Layout::new(config).expect("a legal configuration").bytes();
    vec![0xDEAD_BEEF_DEAD_BEEF; bytes.div_ceil(8) as usize]
}

/// Audits a store and fails the test with what it found.
pub(crate) fn audit<M: Memory>(store: &Store<M>) {
    let mut scratch = vec![0; store.check_scratch_bytes()];
    store.check(&mut scratch).unwrap_or_else(|fault| panic!("{fault}"));
}

/// Reclaims until nothing is left to do, and fails if that takes for ever.
pub(crate) fn settle<M: Memory>(store: &mut Store<M>, now: Instant) {
    let mut steps = 0u64;
    while store.reclaim(now, 64) == 64 {
        steps += 64;
        assert!(steps < 10_000_000, "reclamation does not end");
    }
    assert!(!store.pending());
}

/// Asserts that everything but holders is home.
pub(crate) fn assert_all_home<M: Memory>(store: &Store<M>) {
    let stats = store.stats();
    for (name, usage) in [
        ("frames", stats.frames),
        ("nodes", stats.nodes),
        ("versions", stats.versions),
        ("regions", stats.regions),
        ("entries", stats.entries),
        ("pins", stats.pins),
        ("stages", stats.stages),
    ] {
        assert_eq!((usage.in_use, usage.reserved), (0, 0), "{name} are not all home");
    }
    assert_eq!(stats.detached, 0);
}

/// Memory of any size that takes only what is written, for sparse pools of many GiB.
#[derive(Default)]
pub(crate) struct Sparse {
    pages: RefCell<HashMap<u64, Box<[u8; 4096]>>>,
    len: u64,
}

impl Sparse {
    pub(crate) fn new(len: u64) -> Self {
        Self { pages: RefCell::default(), len }
    }

    fn each(&self, offset: u64, len: u64, mut f: impl FnMut(&mut [u8], usize)) {
        assert!(offset + len <= self.len, "outside the pool");
        let mut pages = self.pages.borrow_mut();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let start = (at % 4096) as usize;
            let n = (len - done).min(4096 - start as u64) as usize;
            let page = pages.entry(at / 4096).or_insert_with(|| Box::new([0xA5; 4096]));
            f(&mut page[start..start + n], done as usize);
            done += n as u64;
        }
    }
}

impl Memory for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn load_u32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_ne_bytes(bytes)
    }

    fn load_u64(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_ne_bytes(bytes)
    }

    fn store_u32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_ne_bytes());
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.write(offset, &value.to_ne_bytes());
    }

    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load_u64(offset);
        if found != current {
            return Err(found);
        }
        self.store_u64(offset, new);
        Ok(found)
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        self.each(offset, target.len() as u64, |piece, at| {
            target[at..at + piece.len()].copy_from_slice(piece);
        });
    }

    fn write(&self, offset: u64, source: &[u8]) {
        self.each(offset, source.len() as u64, |piece, at| {
            piece.copy_from_slice(&source[at..at + piece.len()]);
        });
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        let mut bytes = vec![0; len as usize];
        self.read(source, &mut bytes);
        self.write(target, &bytes);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.each(offset, len, |piece, _| piece.fill(0));
    }

    fn flush(&self, _: u64, _: u64) {}

    fn fence(&self) {}
}
