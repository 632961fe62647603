//! A wrapper that behaves as a host without cross-host coherence does.
#![deny(unsafe_code)]

use core::cell::RefCell;

use super::{LINE_BYTES, Memory};

/// One line of a simulated cache.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The line's offset in the pool, or `u64::MAX` for none.
    offset: u64,
    bytes: [u8; LINE_BYTES as usize],
    dirty: bool,
}

impl Line {
    /// An empty line, to make the cache's slice of.
    pub const EMPTY: Self =
        Self { offset: u64::MAX, bytes: [0; LINE_BYTES as usize], dirty: false };
}

/// One host's view of a pool without coherence: what it has read stays as it was, and what it
/// has written stays its own, until the line is flushed (or pushed out by another line).
///
/// Give each simulated host its own `Stale` over one shared memory. A missing flush then shows
/// as old bytes read or new bytes not seen, every time instead of once a month. Compare-and-swap
/// works on the cached line: across hosts it is as worthless here as it is there.
#[derive(Debug)]
pub struct Stale<'c, M> {
    memory: M,
    lines: RefCell<&'c mut [Line]>,
}

impl<'c, M: Memory> Stale<'c, M> {
    /// Wraps `memory` with a direct-mapped cache of the lines handed in.
    ///
    /// # Panics
    /// If there is no line, or the pool is not a whole number of lines.
    pub fn new(memory: M, lines: &'c mut [Line]) -> Self {
        assert!(!lines.is_empty(), "a cache needs at least one line");
        assert!(
            memory.len().is_multiple_of(LINE_BYTES),
            "the pool must be a multiple of {LINE_BYTES}"
        );
        lines.fill(Line::EMPTY);
        Self { memory, lines: RefCell::new(lines) }
    }

    /// Runs `f` on the cached line at `offset`, fetched first if it is not there.
    fn with_line<T>(&self, offset: u64, f: impl FnOnce(&mut Line) -> T) -> T {
        let mut lines = self.lines.borrow_mut();
        let index = (offset / LINE_BYTES) as usize % lines.len();
        let line = &mut lines[index];
        if line.offset != offset {
            self.write_back(line);
            self.memory.read(offset, &mut line.bytes);
            line.offset = offset;
        }
        f(line)
    }

    fn write_back(&self, line: &mut Line) {
        if line.dirty {
            self.memory.write(line.offset, &line.bytes);
            line.dirty = false;
        }
    }

    /// Calls `f` with (line offset, range in the line, position in the buffer) for each piece.
    fn pieces(offset: u64, len: usize, mut f: impl FnMut(u64, core::ops::Range<usize>, usize)) {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let start = (at % LINE_BYTES) as usize;
            let n = (len - done).min(LINE_BYTES as usize - start);
            f(at - start as u64, start..start + n, done);
            done += n;
        }
    }
}

impl<M: Memory> Memory for Stale<'_, M> {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn shared(&self) -> bool {
        self.memory.shared()
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
        Self::pieces(offset, target.len(), |line, range, done| {
            let piece = &mut target[done..done + range.len()];
            self.with_line(line, |line| piece.copy_from_slice(&line.bytes[range]));
        });
    }

    fn write(&self, offset: u64, source: &[u8]) {
        Self::pieces(offset, source.len(), |line, range, done| {
            let piece = &source[done..done + range.len()];
            self.with_line(line, |line| {
                line.bytes[range].copy_from_slice(piece);
                line.dirty = true;
            });
        });
    }

    fn copy(&self, source: u64, target: u64, len: u64) {
        let mut bytes = [0; LINE_BYTES as usize];
        Self::pieces(target, len as usize, |line, range, done| {
            let piece = &mut bytes[..range.len()];
            self.read(source + done as u64, piece);
            self.write(line + range.start as u64, piece);
        });
    }

    fn fill_zero(&self, offset: u64, len: u64) {
        let zeros = [0; LINE_BYTES as usize];
        Self::pieces(offset, len as usize, |line, range, _| {
            self.write(line + range.start as u64, &zeros[range]);
        });
    }

    fn flush(&self, offset: u64, len: u64) {
        let mut lines = self.lines.borrow_mut();
        Self::pieces(offset, len as usize, |at, _, _| {
            let index = (at / LINE_BYTES) as usize % lines.len();
            let line = &mut lines[index];
            if line.offset == at {
                self.write_back(line);
                line.offset = u64::MAX;
            }
        });
        self.memory.flush(offset, len);
    }

    fn fence(&self) {
        self.memory.fence();
    }
}
