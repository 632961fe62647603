//! Hosts that are not coherent.

use std::collections::BTreeMap;
use std::sync::Arc;

use dmrpc_core::memory::{LINE_BYTES, Memory};
use loom::sync::Mutex;

/// A line in a cache.
#[derive(Clone, Copy)]
struct Line {
    bytes: [u8; LINE_BYTES as usize],
    is_dirty: bool,
}

struct State {
    pool: Vec<u8>,
    /// A cache a host: lines by their offsets.
    caches: Vec<BTreeMap<u64, Line>>,
}

impl State {
    fn line(&mut self, host: usize, at: u64) -> &mut Line {
        let Self { pool, caches } = self;
        caches[host].entry(at).or_insert_with(|| {
            let mut bytes = [0; LINE_BYTES as usize];
            bytes.copy_from_slice(&pool[at as usize..][..LINE_BYTES as usize]);
            Line { bytes, is_dirty: false }
        })
    }

    /// Writes a line back, if it was changed, and forgets it.
    fn drop_line(&mut self, host: usize, at: u64) {
        if let Some(line) = self.caches[host].remove(&at)
            && line.is_dirty
        {
            self.pool[at as usize..][..LINE_BYTES as usize].copy_from_slice(&line.bytes);
        }
    }
}

/// A flush that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Which host asks.
    pub host: usize,
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// A pool and the hosts that map it. Clones are the same; made within a model only.
#[derive(Clone)]
pub struct Hosts(Arc<Mutex<State>>);

impl Hosts {
    /// A pool of `bytes` bytes of zeros, a whole number of lines, and so many hosts.
    pub fn new(bytes: u64, hosts: usize) -> Self {
        assert!(bytes.is_multiple_of(LINE_BYTES), "{bytes} bytes are no whole number of lines");
        let state = State { pool: vec![0; bytes as usize], caches: vec![BTreeMap::new(); hosts] };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().expect("nobody panics in it"))
    }

    /// What host `host` sees of the pool; `omits` says which of its flushes are left out.
    pub fn host(&self, host: usize, omits: impl Fn(Flush) -> bool + 'static) -> Host {
        Host { hosts: self.clone(), host, omits: Box::new(omits) }
    }

    /// Host `host` lets a line go, as caches do whenever they like.
    pub fn evict(&self, host: usize, line: u64) {
        self.state(|state| state.drop_line(host, line / LINE_BYTES * LINE_BYTES));
    }
}

/// One host's view of a pool. Each access to a line is a step of its own.
pub struct Host {
    hosts: Hosts,
    host: usize,
    omits: Box<dyn Fn(Flush) -> bool>,
}

impl Host {
    /// Calls `f` with each line of a range and where its bytes are in a buffer.
    fn pieces(offset: u64, len: usize, mut f: impl FnMut(u64, std::ops::Range<usize>, usize)) {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let start = (at % LINE_BYTES) as usize;
            let bytes = (len - done).min(LINE_BYTES as usize - start);
            f(at - start as u64, start..start + bytes, done);
            done += bytes;
        }
    }
}

impl Memory for Host {
    fn len(&self) -> u64 {
        self.hosts.state(|state| state.pool.len() as u64)
    }

    fn shared(&self) -> bool {
        true
    }

    fn load_u32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn load_u64(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn store_u32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn store_u64(&self, offset: u64, value: u64) {
        self.write(offset, &value.to_le_bytes());
    }

    /// On this host's own line: to the others it is worth nothing.
    fn compare_exchange_u64(&self, offset: u64, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load_u64(offset);
        if found != current {
            return Err(found);
        }
        self.store_u64(offset, new);
        Ok(found)
    }

    fn read(&self, offset: u64, target: &mut [u8]) {
        Self::pieces(offset, target.len(), |at, range, done| {
            let piece = &mut target[done..done + range.len()];
            self.hosts.state(|state| {
                piece.copy_from_slice(&state.line(self.host, at).bytes[range]);
            });
        });
    }

    fn write(&self, offset: u64, source: &[u8]) {
        Self::pieces(offset, source.len(), |at, range, done| {
            let piece = &source[done..done + range.len()];
            self.hosts.state(|state| {
                let line = state.line(self.host, at);
                line.bytes[range].copy_from_slice(piece);
                line.is_dirty = true;
            });
        });
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        let mut bytes = vec![0; len as usize];
        self.read(source, &mut bytes);
        self.write(target, &bytes);
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        self.write(offset, &vec![0; len as usize]);
    }

    fn flush(&self, offset: u64, len: u64) {
        if (self.omits)(Flush { host: self.host, offset, len }) {
            return;
        }
        Self::pieces(offset, len as usize, |at, _, _| {
            self.hosts.state(|state| state.drop_line(self.host, at));
        });
    }

    /// All steps are in one order anyway.
    fn fence(&self) {}
}
