//! Models of rings and bells: every order that two participants, and the memory between them, may
//! take. Each is run again with what it relies on left out, and must fail.

use dmrpc_core::memory::Memory;
use dmrpc_models::{Flush, Hosts, Orders, Weak, fails, holds};
use loom::thread;

use super::{APART, Consumer, Producer, Rings, WORD_BYTES, bells_bytes, place_stride, stride};

/// Who sends, and who receives.
const SENDER: u32 = 0;
const RECEIVER: u32 = 1;
/// Bytes of the largest datagram: on two lines with its place's word.
const DATAGRAM_BYTES: u64 = 64;

fn rings(slots: u64, flush: bool) -> Rings {
    Rings {
        base: 0,
        participants: 2,
        slots,
        place_stride: place_stride(DATAGRAM_BYTES),
        places_bytes: slots * place_stride(DATAGRAM_BYTES),
        ring_stride: stride(slots, DATAGRAM_BYTES),
        datagram_bytes: DATAGRAM_BYTES,
        flush,
    }
}

/// Bytes of a pool with these rings, up to the end of the one that is used.
fn pool_bytes(rings: &Rings) -> u64 {
    rings.ring(SENDER, RECEIVER) + rings.ring_stride
}

/// What datagram `number` is: the last line is used by every second one only.
fn datagram(number: u64) -> Vec<u8> {
    let words = if number.is_multiple_of(2) { 8 } else { 1 };
    (0..words).flat_map(|word| (number << 8 | word).to_le_bytes()).collect()
}

/// Puts `count` datagrams, each when there is room, which it looks for at most `looks` times.
/// Returns how many were put.
fn send(memory: &impl Memory, rings: &Rings, count: u64, looks: usize) -> u64 {
    let mut producer = Producer::at(rings, rings.ring(SENDER, RECEIVER), 0, 0);
    let mut put = 0;
    for _ in 0..looks {
        if put < count && producer.has_room(rings, memory) {
            producer.put(rings, memory, &datagram(put));
            put += 1;
        } else {
            thread::yield_now();
        }
    }
    put
}

/// Takes what is there; each must be the next, whole.
fn drain(memory: &impl Memory, rings: &Rings, consumer: &mut Consumer, taken: &mut u64) {
    while let Some(bytes) = consumer.look(rings, memory) {
        let mut target = [0; DATAGRAM_BYTES as usize];
        assert!(consumer.take(rings, memory, bytes, &mut target), "{bytes} bytes");
        assert_eq!(target[..bytes], datagram(*taken), "datagram {taken}");
        *taken += 1;
        consumer.tell(rings, memory);
    }
}

/// Three datagrams through a ring of two places.
fn ring_model(orders: Orders) -> impl Fn() + Send + Sync + 'static {
    move || {
        let rings = rings(2, false);
        let memory = Weak::new(pool_bytes(&rings), orders);
        let theirs = memory.clone();
        let sender = thread::spawn(move || send(&theirs, &rings, 3, 4));
        let mut consumer = Consumer::at(&rings, rings.ring(SENDER, RECEIVER), 0);
        let mut taken = 0;
        for _ in 0..2 {
            drain(&memory, &rings, &mut consumer, &mut taken);
            thread::yield_now();
        }
        let put = sender.join().expect("it panics nowhere");
        drain(&memory, &rings, &mut consumer, &mut taken);
        assert_eq!(taken, put, "what was put is there");
        assert!(put >= 2, "there was room");
    }
}

#[test]
fn datagrams_are_whole_and_in_order() {
    assert!(holds(2, ring_model(Orders::REAL)));
}

#[test]
fn the_order_of_datagrams_rests_on_acquire_and_release() {
    assert!(fails(2, ring_model(Orders::RELAXED_LOADS)));
    assert!(fails(2, ring_model(Orders::RELAXED_STORES)));
}

/// A receiver that is rung for: it looks at the ring when the bell rang, and only then.
fn bell_model(orders: Orders) -> impl Fn() + Send + Sync + 'static {
    move || {
        let rings = rings(4, false);
        let memory = Weak::new(pool_bytes(&rings), orders);
        rings.store_wish(&memory, RECEIVER, true);
        let theirs = memory.clone();
        let sender = thread::spawn(move || {
            let mut producer = Producer::at(&rings, rings.ring(SENDER, RECEIVER), 0, 0);
            for number in 0..2 {
                producer.put(&rings, &theirs, &datagram(2 * number + 1));
                rings.ring_bell(&theirs, SENDER, RECEIVER);
            }
        });
        let mut consumer = Consumer::at(&rings, rings.ring(SENDER, RECEIVER), 0);
        let mut taken = 0;
        let mut poll = || {
            if rings.take_rung(&memory, RECEIVER) & 1 << SENDER != 0 {
                while let Some(bytes) = consumer.look(&rings, &memory) {
                    let mut target = [0; DATAGRAM_BYTES as usize];
                    assert!(consumer.take(&rings, &memory, bytes, &mut target), "{bytes} bytes");
                    assert_eq!(target[..bytes], datagram(2 * taken + 1));
                    taken += 1;
                }
            }
            taken
        };
        poll();
        poll();
        sender.join().expect("it panics nowhere");
        assert_eq!(poll(), 2, "a bell for each, or for both");
    }
}

#[test]
fn no_datagram_is_left_without_a_bell() {
    assert!(holds(3, bell_model(Orders::REAL)));
}

#[test]
fn bells_rest_on_fences() {
    assert!(fails(6, bell_model(Orders::NO_FENCES)));
}

/// Two senders ring at the same time, and the receiver takes their bits back meanwhile.
fn two_bells_model(orders: Orders) -> impl Fn() + Send + Sync + 'static {
    move || {
        let rings = rings(2, false);
        let memory = Weak::new(2 * bells_bytes(2), orders);
        rings.store_wish(&memory, RECEIVER, true);
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let memory = memory.clone();
                thread::spawn(move || {
                    rings.join(&memory, sender, RECEIVER);
                    rings.ring_bell(&memory, sender, RECEIVER);
                })
            })
            .collect();
        let early = rings.take_rung(&memory, RECEIVER);
        for sender in senders {
            sender.join().expect("it panics nowhere");
        }
        let late = rings.take_rung(&memory, RECEIVER);
        assert_eq!((early | late, early & late), (0b11, 0), "each bell is heard, once");
        assert_eq!(memory.load_u64(rings.senders(RECEIVER)), 0b11, "each sender is known");
    }
}

#[test]
fn bells_of_two_senders_are_both_heard() {
    assert!(holds(3, two_bells_model(Orders::REAL)));
}

// Mailboxes of hosts that are not coherent.

/// Which flush of a mailbox is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Omitted {
    None,
    /// Of a datagram's bytes, before the word that says that they are there.
    Bytes,
    /// Of that word.
    Word,
    /// Of the consumer's line, before it looks whether a datagram is there.
    Look,
    /// Of the consumer's lines, before it reads a datagram's bytes.
    Take,
    /// Of how far the consumer says that it has come.
    Tell,
    /// Of that line, before the producer reads it.
    Room,
}

impl Omitted {
    const SENDERS: [Self; 3] = [Self::Bytes, Self::Word, Self::Room];
    const RECEIVERS: [Self; 3] = [Self::Look, Self::Take, Self::Tell];

    /// Whether it is this flush.
    fn is(self, rings: &Rings, flush: Flush) -> bool {
        let ring = rings.ring(SENDER, RECEIVER);
        let of_place = (flush.offset >= ring + APART).then(|| {
            let into = (flush.offset - ring - APART) % rings.place_stride;
            (into, flush.len == WORD_BYTES)
        });
        let what = match (flush.host as u32, of_place) {
            (SENDER, Some((0, _))) => Self::Word,
            (SENDER, Some(_)) => Self::Bytes,
            (SENDER, None) => Self::Room,
            (_, Some((_, true))) => Self::Look,
            (_, Some((_, false))) => Self::Take,
            (_, None) => Self::Tell,
        };
        what == self
    }
}

/// Four datagrams through a mailbox of two places, between hosts whose caches let any of the first
/// place's lines go at any time.
fn mailbox_model(omitted: Omitted) -> impl Fn() + Send + Sync + 'static {
    move || {
        let rings = rings(2, true);
        let hosts = Hosts::new(pool_bytes(&rings), 2);
        let host = |number| hosts.host(number, move |flush| omitted.is(&rings, flush));
        let (theirs, ours) = (host(0), host(1));
        let place = rings.place(rings.ring(SENDER, RECEIVER), 0);
        let caches = hosts.clone();
        let cache = thread::spawn(move || caches.evict(SENDER as usize, place));
        let sender = thread::spawn(move || send(&theirs, &rings, 4, 5));
        let mut consumer = Consumer::at(&rings, rings.ring(SENDER, RECEIVER), 0);
        let mut taken = 0;
        for _ in 0..2 {
            drain(&ours, &rings, &mut consumer, &mut taken);
            thread::yield_now();
        }
        let put = sender.join().expect("it panics nowhere");
        cache.join().expect("it panics nowhere");
        drain(&ours, &rings, &mut consumer, &mut taken);
        assert_eq!(taken, put, "what was put is there");
        // The sender's next look finds all that was told.
        let sender = hosts.host(SENDER as usize, move |flush| omitted.is(&rings, flush));
        assert_eq!(rings.load_taken(&sender, rings.ring(SENDER, RECEIVER)), taken);
    }
}

#[test]
fn mailboxes_need_no_coherence() {
    assert!(holds(2, mailbox_model(Omitted::None)));
}

#[test]
fn each_flush_of_a_mailboxs_sender_is_needed() {
    for omitted in Omitted::SENDERS {
        assert!(fails(2, mailbox_model(omitted)), "nobody misses the flush of {omitted:?}");
    }
}

#[test]
fn each_flush_of_a_mailboxs_receiver_is_needed() {
    for omitted in Omitted::RECEIVERS {
        assert!(fails(2, mailbox_model(omitted)), "nobody misses the flush of {omitted:?}");
    }
}
