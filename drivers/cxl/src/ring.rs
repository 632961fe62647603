//! Rings in a pool: datagrams from one participant to another, and who wants to be looked at.
//!
//! A ring has one producer and one consumer. Each place begins with a word {number of the datagram
//! it holds, its length}, written last: the consumer looks at the next place and finds its number
//! there or not, so neither side reads what the other keeps of its position. Only a producer that
//! believes the ring full reads how far the consumer says it has come.
//!
//! What a lone datagram costs is the lines that cross one after the other. So the consumer's look
//! at a place touches all the lines that it expects there, as many as the last datagram had: they
//! cross at the same time.
//!
//! Because numbers are in the places, both positions can be found again in the pool: whoever takes
//! over a dead participant's slot continues its rings, and a death at any store loses at most the
//! datagram that it was writing.
//!
//! | part of a ring | writer |
//! |---|---|
//! | line 0: datagrams taken | consumer |
//! | places of {word, bytes} | producer |
//!
//! Before the rings each participant has its *bells*: a line with its wish (to be rung for or
//! not), a line with a bit for each participant that ever sent to it, and a line with a bit for
//! each that rang. The last two are changed by compare-and-swap, and so in coherent mode only.

use dmrpc_core::memory::{LINE_BYTES, Memory};

use crate::superblock::{Geometry, Mode};

#[cfg(test)]
mod models;

/// Most participants with rings: their bits fit into a word.
pub(crate) const PARTICIPANTS_MAX: u32 = 64;
/// Rings that a receiver polls one by one; beyond, it asks to be rung for.
pub(crate) const DIRECT_MAX: u32 = 8;

/// What two writers write is so far apart, because processors fetch lines in pairs.
const APART: u64 = 2 * LINE_BYTES;
/// Bytes of a place's word.
const WORD_BYTES: u64 = 8;
/// Bytes of a datagram that are on the line of its place's word.
const FIRST_BYTES: usize = (LINE_BYTES - WORD_BYTES) as usize;
/// Bits of a place's word that are the length.
const LENGTH_BITS: u32 = 16;
/// Numbers are counted modulo this: far more than a ring has places.
const NUMBER_MASK: u64 = (1 << (64 - LENGTH_BITS)) - 1;
/// Most lines of a place, beyond its first, that the consumer touches before it knows that they
/// hold something.
const AHEAD_MAX: u64 = 3;

/// Bytes of a participant's bells.
pub(crate) const fn bells_bytes(_participants: u64) -> u64 {
    3 * APART
}

/// Bytes from one place to the next: whole lines, an odd number of them, so that the first lines
/// of the places do not compete for the same sets of a cache.
const fn place_stride(datagram_bytes: u64) -> u64 {
    let lines = (WORD_BYTES + datagram_bytes).div_ceil(LINE_BYTES);
    (lines | 1) * LINE_BYTES
}

/// Bytes from one ring to the next.
pub(crate) const fn stride(slots: u64, datagram_bytes: u64) -> u64 {
    (APART + slots * place_stride(datagram_bytes)).next_multiple_of(APART)
}

/// Where the rings of a pool are, and how they are to be treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rings {
    base: u64,
    participants: u64,
    slots: u64,
    place_stride: u64,
    ring_stride: u64,
    pub(crate) datagram_bytes: u64,
    pub(crate) flush: bool,
}

impl Rings {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        Self {
            base: geometry.rings_offset,
            participants: geometry.ring_participants,
            slots: geometry.ring_slots,
            place_stride: place_stride(geometry.datagram_bytes),
            ring_stride: geometry.ring_stride,
            datagram_bytes: geometry.datagram_bytes,
            flush: geometry.mode == Mode::Flush,
        }
    }

    pub(crate) fn participants(&self) -> u32 {
        self.participants as u32
    }

    pub(crate) fn slots(&self) -> u64 {
        self.slots
    }

    fn bells(&self, receiver: u32) -> u64 {
        self.base + u64::from(receiver) * bells_bytes(self.participants)
    }

    /// Where a receiver says whether it wants to be rung for.
    fn wish(&self, receiver: u32) -> u64 {
        self.bells(receiver)
    }

    /// Where the senders to `receiver` have a bit each, if there are atomics.
    pub(crate) fn senders(&self, receiver: u32) -> u64 {
        self.bells(receiver) + APART
    }

    /// Where the senders that rang for `receiver` have a bit each.
    fn rung(&self, receiver: u32) -> u64 {
        self.bells(receiver) + 2 * APART
    }

    /// The ring from `sender` to `receiver`.
    fn ring(&self, sender: u32, receiver: u32) -> u64 {
        let number = u64::from(sender) * self.participants + u64::from(receiver);
        self.base + self.participants * bells_bytes(self.participants) + number * self.ring_stride
    }

    /// Where the ring at `ring` keeps datagram `number`.
    #[inline(always)]
    fn place(&self, ring: u64, number: u64) -> u64 {
        ring + APART + (number & (self.slots - 1)) * self.place_stride
    }

    /// Whether datagram `number` is in its place; its length.
    #[inline(always)]
    fn look(&self, memory: &impl Memory, ring: u64, number: u64) -> Option<usize> {
        let place = self.place(ring, number);
        if self.flush {
            memory.flush(place, WORD_BYTES);
        }
        let word = memory.load_u64(place);
        let holds = word >> LENGTH_BITS == number.wrapping_add(1) & NUMBER_MASK;
        holds.then_some((word & ((1 << LENGTH_BITS) - 1)) as usize)
    }

    /// The first number from `from` on that is not in its place: where a producer continues.
    fn end(&self, memory: &impl Memory, ring: u64, from: u64) -> u64 {
        let count = (0..self.slots)
            .take_while(|ahead| self.look(memory, ring, from.wrapping_add(*ahead)).is_some())
            .count();
        from.wrapping_add(count as u64)
    }

    fn load_taken(&self, memory: &impl Memory, ring: u64) -> u64 {
        if self.flush {
            memory.flush(ring, WORD_BYTES);
        }
        memory.load_u64(ring)
    }

    fn store_taken(&self, memory: &impl Memory, ring: u64, taken: u64) {
        memory.store_u64(ring, taken);
        if self.flush {
            memory.flush(ring, WORD_BYTES);
        }
    }

    /// A bit for each participant with rings.
    pub(crate) fn all(&self) -> u64 {
        u64::MAX >> (64 - self.participants)
    }

    /// Lets `receiver` know that `sender` will send to it.
    pub(crate) fn join(&self, memory: &impl Memory, sender: u32, receiver: u32) {
        if !self.flush {
            set_bit(memory, self.senders(receiver), sender);
        }
    }

    /// Says whether `receiver` wants to be rung for.
    pub(crate) fn store_wish(&self, memory: &impl Memory, receiver: u32, rings: bool) {
        if !self.flush {
            memory.store_u64(self.wish(receiver), rings.into());
            memory.fence();
        }
    }

    /// Rings for `receiver` if it wants that and nobody did for `sender` since it last looked.
    pub(crate) fn ring_bell(&self, memory: &impl Memory, sender: u32, receiver: u32) {
        if self.flush || memory.load_u64(self.wish(receiver)) == 0 {
            return;
        }
        // Either this sees that the bit was taken back, or whoever did sees the datagram.
        memory.fence();
        let rung = self.rung(receiver);
        if memory.load_u64(rung) & (1 << sender) == 0 {
            set_bit(memory, rung, sender);
        }
    }

    /// Takes back the bits of those that rang.
    pub(crate) fn take_rung(&self, memory: &impl Memory, receiver: u32) -> u64 {
        let at = self.rung(receiver);
        let mut bits = memory.load_u64(at);
        while bits != 0 {
            match memory.compare_exchange_u64(at, bits, 0) {
                Ok(_) => {
                    // Whoever still sees the old bits, and does not ring, put its datagram before.
                    memory.fence();
                    return bits & self.all();
                }
                Err(found) => bits = found,
            }
        }
        0
    }
}

fn set_bit(memory: &impl Memory, at: u64, bit: u32) {
    let mut bits = memory.load_u64(at);
    while bits & (1 << bit) == 0 {
        match memory.compare_exchange_u64(at, bits, bits | 1 << bit) {
            Ok(_) => return,
            Err(found) => bits = found,
        }
    }
}

/// The sending end of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Producer {
    ring: u64,
    /// Number of the next datagram.
    put: u64,
    /// How far the consumer is known to have come.
    taken: u64,
}

impl Producer {
    /// Continues the ring from `sender` to `receiver` where whoever was `sender` before ended.
    pub(crate) fn open(rings: &Rings, memory: &impl Memory, sender: u32, receiver: u32) -> Self {
        let ring = rings.ring(sender, receiver);
        let taken = rings.load_taken(memory, ring);
        Self { ring, put: rings.end(memory, ring, taken), taken }
    }

    /// Whether there is a free place.
    #[inline]
    pub(crate) fn has_room(&mut self, rings: &Rings, memory: &impl Memory) -> bool {
        if self.put.wrapping_sub(self.taken) < rings.slots() {
            return true;
        }
        let taken = rings.load_taken(memory, self.ring);
        // What cannot be was written by nobody who may.
        if self.put.wrapping_sub(taken) <= rings.slots() {
            self.taken = taken;
        }
        self.put.wrapping_sub(self.taken) < rings.slots()
    }

    /// Puts a datagram into the free place that there is.
    #[inline]
    pub(crate) fn put(&mut self, rings: &Rings, memory: &impl Memory, bytes: &[u8]) {
        let place = rings.place(self.ring, self.put);
        self.put = self.put.wrapping_add(1);
        // The consumer is looking at the first line: it is touched last and in one go, or it would
        // travel there and back an extra time.
        let (first, rest) = bytes.split_at(bytes.len().min(FIRST_BYTES));
        memory.write(place + LINE_BYTES, rest);
        memory.write(place + WORD_BYTES, first);
        if rings.flush {
            // The bytes are there before the word that says so.
            memory.flush(place + WORD_BYTES, bytes.len() as u64);
            memory.fence();
        }
        memory.store_u64(place, (self.put & NUMBER_MASK) << LENGTH_BITS | bytes.len() as u64);
        if rings.flush {
            memory.flush(place, WORD_BYTES);
        }
    }
}

/// The receiving end of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consumer {
    ring: u64,
    /// Number of the next datagram.
    next: u64,
    /// How far the producer has been told.
    told: u64,
    /// Lines beyond the first that the next datagram is expected to take: as many as the last.
    ahead: u64,
}

impl Consumer {
    /// Takes over the ring from `sender` to `receiver`; what is in it was meant for whoever was
    /// `receiver` before, and is skipped.
    pub(crate) fn open(rings: &Rings, memory: &impl Memory, sender: u32, receiver: u32) -> Self {
        let ring = rings.ring(sender, receiver);
        let next = rings.end(memory, ring, rings.load_taken(memory, ring));
        rings.store_taken(memory, ring, next);
        Self { ring, next, told: next, ahead: 0 }
    }

    /// The length of the datagram in the next place; `None` if there is nothing yet.
    #[inline(always)]
    pub(crate) fn look(&self, rings: &Rings, memory: &impl Memory) -> Option<usize> {
        let bytes = rings.look(memory, self.ring, self.next);
        if bytes.is_none() && !rings.flush {
            // When these lines change they come together with the first, not after it.
            let place = rings.place(self.ring, self.next);
            for line in 1..=self.ahead {
                memory.load_u64(place + line * LINE_BYTES);
            }
        }
        bytes
    }

    /// Copies the datagram of `bytes` bytes that was found in the next place to the front of
    /// `target`, which has room for the largest. Returns false, and skips it, if it is longer.
    #[inline(always)]
    pub(crate) fn take(
        &mut self,
        rings: &Rings,
        memory: &impl Memory,
        bytes: usize,
        target: &mut [u8],
    ) -> bool {
        let place = rings.place(self.ring, self.next);
        self.next = self.next.wrapping_add(1);
        if bytes as u64 > rings.datagram_bytes {
            return false;
        }
        self.ahead = ((WORD_BYTES + bytes as u64 - 1) / LINE_BYTES).min(AHEAD_MAX);
        if rings.flush {
            memory.flush(place, WORD_BYTES + bytes as u64);
        }
        memory.read(place + WORD_BYTES, &mut target[..bytes]);
        true
    }

    /// Tells the producer how far this end has come, if it may be waiting for that: when the ring
    /// was found empty, or a quarter of it was taken since it was last told.
    #[inline]
    pub(crate) fn tell(&mut self, rings: &Rings, memory: &impl Memory, found_empty: bool) {
        let behind = self.next.wrapping_sub(self.told);
        if behind != 0 && (found_empty || behind >= rings.slots() / 4) {
            rings.store_taken(memory, self.ring, self.next);
            self.told = self.next;
        }
    }
}
