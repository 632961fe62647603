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
    /// Bytes of all places of a ring.
    places_bytes: u64,
    ring_stride: u64,
    pub(crate) datagram_bytes: u64,
    pub(crate) flush: bool,
}

impl Rings {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let place_stride = place_stride(geometry.datagram_bytes);
        Self {
            base: geometry.rings_offset,
            participants: geometry.ring_participants,
            slots: geometry.ring_slots,
            place_stride,
            places_bytes: geometry.ring_slots * place_stride,
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
    fn place(&self, ring: u64, number: u64) -> u64 {
        ring + APART + (number & (self.slots - 1)) * self.place_stride
    }

    /// The place behind `place`.
    #[inline(always)]
    fn place_behind(&self, ring: u64, place: u64) -> u64 {
        let behind = place + self.place_stride;
        let end = ring + APART + self.places_bytes;
        if behind == end { ring + APART } else { behind }
    }

    /// The length of the datagram at `place`, if its word is {its number, length} and `number` is
    /// what [`number_word`] makes of the number.
    #[inline(always)]
    fn look(&self, memory: &impl Memory, place: u64, number: u64) -> Option<usize> {
        if self.flush {
            memory.flush(place, WORD_BYTES);
        }
        let length = memory.load_u64(place) ^ number;
        (length >> LENGTH_BITS == 0).then_some(length as usize)
    }

    /// The first number from `from` on that is not in its place: where a producer continues.
    fn end(&self, memory: &impl Memory, ring: u64, from: u64) -> u64 {
        let count = (0..self.slots)
            .take_while(|ahead| {
                let number = from.wrapping_add(*ahead);
                self.look(memory, self.place(ring, number), number_word(number)).is_some()
            })
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

/// The word of a datagram's place without the length: numbers there begin with 1.
const fn number_word(number: u64) -> u64 {
    number.wrapping_add(1) << LENGTH_BITS
}

/// What the word of one datagram is more than that of the datagram before.
const NEXT: u64 = 1 << LENGTH_BITS;

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
    /// Its place, and the word there without the length.
    place: u64,
    word: u64,
    /// How far the consumer is known to have come.
    taken: u64,
}

impl Producer {
    /// Continues the ring from `sender` to `receiver` where whoever was `sender` before ended.
    pub(crate) fn open(rings: &Rings, memory: &impl Memory, sender: u32, receiver: u32) -> Self {
        let ring = rings.ring(sender, receiver);
        let taken = rings.load_taken(memory, ring);
        Self::at(rings, ring, rings.end(memory, ring, taken), taken)
    }

    /// The end of the ring at `ring` that puts datagram `put` next.
    fn at(rings: &Rings, ring: u64, put: u64, taken: u64) -> Self {
        Self { ring, put, place: rings.place(ring, put), word: number_word(put), taken }
    }

    /// Whether there is a free place.
    #[inline(always)]
    pub(crate) fn has_room(&mut self, rings: &Rings, memory: &impl Memory) -> bool {
        self.put.wrapping_sub(self.taken) < rings.slots() || self.has_more_room(rings, memory)
    }

    /// Whether there is, as far as the consumer says now.
    #[inline(never)]
    fn has_more_room(&mut self, rings: &Rings, memory: &impl Memory) -> bool {
        let taken = rings.load_taken(memory, self.ring);
        // What cannot be was written by nobody who may.
        if self.put.wrapping_sub(taken) <= rings.slots() {
            self.taken = taken;
        }
        self.put.wrapping_sub(self.taken) < rings.slots()
    }

    /// Puts a datagram into the free place that there is.
    #[inline(always)]
    pub(crate) fn put(&mut self, rings: &Rings, memory: &impl Memory, bytes: &[u8]) {
        let place = self.place;
        // The consumer is looking at the first line: it is touched last and in one go, or it would
        // travel there and back an extra time.
        if let Some((first, rest)) = bytes.split_first_chunk::<FIRST_BYTES>() {
            memory.write(place + LINE_BYTES, rest);
            memory.write(place + WORD_BYTES, first);
        } else {
            memory.write(place + WORD_BYTES, bytes);
        }
        self.publish(rings, memory, bytes.len());
    }

    /// The same of a datagram of two parts, the first of which fits the first line.
    #[inline(always)]
    pub(crate) fn put_parts<const N: usize>(
        &mut self,
        rings: &Rings,
        memory: &impl Memory,
        header: &[u8; N],
        message: &[u8],
    ) {
        const { assert!(N < FIRST_BYTES && N.is_multiple_of(8)) };
        let place = self.place;
        let message_at = place + WORD_BYTES + N as u64;
        if let Some((first, rest)) = message.split_at_checked(FIRST_BYTES - N) {
            memory.write(place + LINE_BYTES, rest);
            memory.write(message_at, first);
        } else {
            memory.write(message_at, message);
        }
        memory.write(place + WORD_BYTES, header);
        self.publish(rings, memory, N + message.len());
    }

    /// The datagram of `bytes` bytes in the next place is whole.
    #[inline(always)]
    fn publish(&mut self, rings: &Rings, memory: &impl Memory, bytes: usize) {
        let (place, word) = (self.place, self.word);
        self.put = self.put.wrapping_add(1);
        self.word = word.wrapping_add(NEXT);
        self.place = rings.place_behind(self.ring, place);
        if rings.flush {
            // The bytes are there before the word that says so.
            memory.flush(place + WORD_BYTES, bytes as u64);
            memory.fence();
        }
        memory.store_u64(place, word | bytes as u64);
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
    /// Its place, and the word there without the length.
    place: u64,
    word: u64,
    /// How far the producer has been told.
    told: u64,
    /// Bytes from the first to the last line that the next datagram is expected to take: as many
    /// as the last.
    ahead: u64,
}

impl Consumer {
    /// Takes over the ring from `sender` to `receiver`; what is in it was meant for whoever was
    /// `receiver` before, and is skipped.
    pub(crate) fn open(rings: &Rings, memory: &impl Memory, sender: u32, receiver: u32) -> Self {
        let ring = rings.ring(sender, receiver);
        let next = rings.end(memory, ring, rings.load_taken(memory, ring));
        rings.store_taken(memory, ring, next);
        Self::at(rings, ring, next)
    }

    /// The end of the ring at `ring` that takes datagram `next` next, and has told so.
    fn at(rings: &Rings, ring: u64, next: u64) -> Self {
        let (place, word) = (rings.place(ring, next), number_word(next));
        Self { ring, next, place, word, told: next, ahead: 0 }
    }

    /// The length of the datagram in the next place; `None` if there is nothing yet.
    #[inline(always)]
    pub(crate) fn peek(&self, rings: &Rings, memory: &impl Memory) -> Option<usize> {
        rings.look(memory, self.place, self.word)
    }

    /// The same for whoever looks until there is something.
    #[inline(always)]
    pub(crate) fn look(&self, rings: &Rings, memory: &impl Memory) -> Option<usize> {
        let bytes = self.peek(rings, memory);
        if bytes.is_none() && !rings.flush {
            // When these lines change they come together with the first, not after it.
            let mut line = self.ahead;
            while line != 0 {
                memory.load_u64(self.place + line);
                line -= LINE_BYTES;
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
        let place = self.place;
        self.next = self.next.wrapping_add(1);
        self.word = self.word.wrapping_add(NEXT);
        self.place = rings.place_behind(self.ring, place);
        if bytes as u64 > rings.datagram_bytes {
            return false;
        }
        let last = (WORD_BYTES + bytes as u64 - 1) & !(LINE_BYTES - 1);
        self.ahead = last.min(AHEAD_MAX * LINE_BYTES);
        if rings.flush {
            memory.flush(place, WORD_BYTES + bytes as u64);
        }
        memory.read(place + WORD_BYTES, &mut target[..bytes]);
        true
    }

    /// Tells the producer how far this end has come, each time that a quarter of the ring was
    /// taken: the producer asks only when it has filled all places that it knows to be free, and
    /// then has told this end of a whole ring since.
    #[inline(always)]
    pub(crate) fn tell(&mut self, rings: &Rings, memory: &impl Memory) {
        if self.next.wrapping_sub(self.told) >= rings.slots() / 4 {
            rings.store_taken(memory, self.ring, self.next);
            self.told = self.next;
        }
    }
}
