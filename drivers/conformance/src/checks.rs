//! The checks. Each opens its own devices and panics if the driver does not conform.

use std::net::SocketAddrV4;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dmrpc_core::device::{Device, Rx, Tx};
use dmrpc_core::memory::{Memory, Plain};

use crate::traffic::{
    collect, expect, flush, pattern, payload, queue, quiet, receive, send, until,
};
use crate::{Harness, ZeroSize, allocations_of_this_thread};

/// Pushes after which a send queue is taken to be endless.
const QUEUE_LIMIT: usize = 1 << 20;

/// Longest payload of the check that allocates nothing.
const ECHO_BYTES_MAX: usize = 2048;

/// A device with its address.
type Node<H> = (<H as Harness>::Device, SocketAddrV4);

fn pair<H: Harness>(harness: &mut H) -> (Node<H>, Node<H>) {
    let mut nodes = harness.open(2);
    let second = nodes.pop().expect("two were asked for");
    let first = nodes.pop().expect("two were asked for");
    (first, second)
}

/// Sizes and bursts are possible ones, and stay the same.
pub fn capabilities_are_sane<H: Harness>(harness: &mut H) {
    let ((mut a, _), (b, _)) = pair(harness);
    let stated = a.capabilities();
    assert!(stated.burst_max > 0);
    assert!((64..=65_507).contains(&stated.datagram_bytes_max), "{stated:?}");
    assert!(harness.depth() > 0 && harness.devices_max() >= 2);
    assert_eq!(receive(&mut a).len(), 0);
    assert_eq!(a.capabilities(), stated);
    assert_eq!(b.capabilities(), stated);
}

/// A new device, and an empty flush, bring nothing.
pub fn nothing_comes_unasked<H: Harness>(harness: &mut H) {
    let ((mut a, _), (mut b, _)) = pair(harness);
    flush(&mut a);
    quiet(harness, &mut a);
    quiet(harness, &mut b);
}

/// One datagram: the sender's address, every byte, once.
pub fn a_datagram_arrives_as_it_was_sent<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let bytes = payload(1, 100);
    send(harness, &mut a, at_b, &bytes);
    let came = collect(harness, &mut b, 1);
    expect(&came[0], at_a, &bytes);
    quiet(harness, &mut b);
    quiet(harness, &mut a);
}

/// Datagrams of one flush arrive in the order in which they were pushed, several times over.
pub fn a_burst_keeps_its_order<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let burst = a.capabilities().burst_max.min(harness.depth());
    for round in 0..20 {
        // Bursts of every length, so that a ring wraps at every place.
        let count = 1 + (round * 7) % burst;
        for index in 0..count {
            queue(harness, &mut a, at_b, &payload(round * 100 + index, 40 + index));
        }
        flush(&mut a);
        let all = collect(harness, &mut b, count);
        for (index, came) in all.iter().enumerate() {
            expect(came, at_a, &payload(round * 100 + index, 40 + index));
        }
    }
}

/// Every size from one byte to the largest; long ones in steps.
pub fn every_size_arrives_whole<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let bytes_max = a.capabilities().datagram_bytes_max;
    let short = 1..=bytes_max.min(300);
    let long = (301..bytes_max).step_by(97);
    let around_max = [bytes_max - 1, bytes_max];
    for bytes in short.chain(long).chain(around_max) {
        let sent = payload(bytes, bytes);
        send(harness, &mut a, at_b, &sent);
        expect(&collect(harness, &mut b, 1)[0], at_a, &sent);
    }
}

/// Datagrams that end with lent bytes arrive like others, between others, and each loan comes back
/// once. Devices that copy have nothing to show.
pub fn what_is_lent_arrives_and_comes_back<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    // A device may have to learn where its peer is before it borrows for it.
    send(harness, &mut a, at_b, b"hello");
    collect(harness, &mut b, 1);
    send(harness, &mut b, at_a, b"hello");
    collect(harness, &mut a, 1);
    if !a.split().1.borrows(at_b) {
        return;
    }
    assert!(a.borrows(), "who would lend is told so before");
    let bytes_max = a.capabilities().datagram_bytes_max;
    let words = Box::leak(vec![0; bytes_max.div_ceil(8) + 1].into_boxed_slice());
    let memory = Plain::lasting(words);
    for round in 0..50 {
        let whole = bytes_max - round * 7 % 600;
        let sent = payload(round, whole);
        let (head, tail) = sent.split_at(48 + round % 13 * 2);
        memory.write(round as u64 % 5, tail);
        let loan = memory.loan(round as u64 % 5, tail.len() as u32).expect("it stays for ever");
        until(harness, "room for a datagram", || {
            let (_, mut tx) = a.split();
            let pushed = tx.push_borrowed(at_b, head.len(), &loan, (round % 64) as u8);
            pushed.map(|out| out.copy_from_slice(head))
        });
        queue(harness, &mut a, at_b, b"copied");
        let mut came = Vec::new();
        until(harness, "datagram with lent bytes", || {
            // A device may take its time to read them.
            flush(&mut a);
            came.extend(receive(&mut b));
            (came.len() >= 2).then_some(())
        });
        came.sort_by_key(|(_, bytes)| std::cmp::Reverse(bytes.len()));
        expect(&came[0], at_a, &sent);
        expect(&came[1], at_a, b"copied");
        let back = until(harness, "a loan that comes back", || {
            flush(&mut a);
            a.split().1.returned()
        });
        assert_eq!(back, ((round % 64) as u8, 1));
        assert_eq!(a.split().1.returned(), None, "each comes back once");
    }
}

/// A datagram without bytes does what the harness states, and those round it arrive.
pub fn empty_datagrams_do_as_stated<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let delivered = harness.zero_size() == ZeroSize::Delivered;
    for bytes in [&b"before"[..], b"", b"after"] {
        send(harness, &mut a, at_b, bytes);
        if !bytes.is_empty() || delivered {
            expect(&collect(harness, &mut b, 1)[0], at_a, bytes);
        }
    }
    quiet(harness, &mut b);
}

/// `push` says `None` once the queue is full, changes nothing then, and has room again after a
/// flush; what was queued arrives.
pub fn a_full_queue_recovers<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    for round in 0..3 {
        let (_, mut tx) = a.split();
        let mut count = 0;
        while let Some(buffer) = tx.push(at_b, 8) {
            buffer.copy_from_slice(&(round << 32 | count as u64).to_le_bytes());
            count += 1;
            assert!(count < QUEUE_LIMIT, "push never says that the queue is full");
        }
        assert!(count > 0, "an empty queue has room");
        assert!(tx.push(at_b, 8).is_none(), "still full");
        drop(tx);
        assert!(count <= harness.depth(), "state a depth of {count}, the send queue, or more");
        let mut all = Vec::new();
        until(harness, "end of a full queue", || {
            flush(&mut a);
            all.extend(receive(&mut b));
            (all.len() >= count).then_some(())
        });
        assert_eq!(all.len(), count, "datagrams received");
        for (index, came) in all.iter().enumerate() {
            expect(came, at_a, &(round << 32 | index as u64).to_le_bytes());
        }
    }
}

/// Several senders reach one receiver; each one's datagrams keep their order.
pub fn many_senders_reach_one_receiver<H: Harness>(harness: &mut H) {
    let senders = harness.devices_max().min(4) - 1;
    let each = (harness.depth() / senders).clamp(1, 20);
    let mut nodes = harness.open(senders + 1);
    let (mut sink, at_sink) = nodes.pop().expect("some were asked for");
    for index in 0..each {
        for (sender, (device, _)) in nodes.iter_mut().enumerate() {
            send(harness, device, at_sink, &payload(sender, 10 + index));
        }
    }
    let mut next = vec![0; senders];
    for came in collect(harness, &mut sink, each * senders) {
        let sender = nodes.iter().position(|(_, address)| *address == came.0);
        let sender = sender.expect("the address of one of the senders");
        expect(&came, nodes[sender].1, &payload(sender, 10 + next[sender]));
        next[sender] += 1;
    }
    assert!(next.iter().all(|count| *count == each));
}

/// Both halves are used at once: each datagram of a burst is answered while it still lies in its
/// receive buffer, and reading it again after the answer was queued gives the same bytes.
pub fn a_request_is_answered_from_its_own_buffer<H: Harness>(harness: &mut H) {
    let ((mut a, _), (mut b, at_b)) = pair(harness);
    let count = a.capabilities().burst_max.min(harness.depth()).min(16);
    let bytes_max = a.capabilities().datagram_bytes_max;
    for index in 0..count {
        queue(harness, &mut a, at_b, &payload(index, bytes_max - index));
    }
    flush(&mut a);
    let mut answered = 0;
    until(harness, "requests to answer", || {
        let (mut rx, mut tx) = b.split();
        for index in 0..rx.receive() {
            let (peer, bytes) = rx.packet(index);
            if let Some(buffer) = tx.push(peer, bytes.len()) {
                for (to, from) in buffer.iter_mut().zip(bytes) {
                    *to = !from;
                }
                answered += 1;
            }
            let again = rx.packet(index).1;
            assert!(std::ptr::eq(bytes, again), "a packet moved while its burst was current");
        }
        tx.flush();
        (answered == count).then_some(())
    });
    for (index, came) in collect(harness, &mut a, count).iter().enumerate() {
        let expected: Vec<u8> =
            payload(index, bytes_max - index).iter().map(|byte| !byte).collect();
        expect(came, at_b, &expected);
    }
}

/// Far more datagrams than there are buffers pass through: each burst releases the one before.
pub fn buffers_come_home<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let burst = a.capabilities().burst_max.min(harness.depth());
    for round in 0..20_000 / burst {
        for index in 0..burst {
            queue(harness, &mut a, at_b, &payload(round + index, 16));
        }
        flush(&mut a);
        for (index, came) in collect(harness, &mut b, burst).iter().enumerate() {
            expect(came, at_a, &payload(round + index, 16));
        }
    }
}

/// As many of the largest datagrams as the harness states wait for a receiver that is late.
pub fn nothing_is_lost_below_the_depth<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let bytes_max = a.capabilities().datagram_bytes_max;
    for _ in 0..3 {
        for index in 0..harness.depth() {
            send(harness, &mut a, at_b, &payload(index, bytes_max));
        }
        harness.settle();
        let all = collect(harness, &mut b, harness.depth());
        for (index, came) in all.iter().enumerate() {
            expect(came, at_a, &payload(index, bytes_max));
        }
    }
}

/// Both devices send before either receives.
pub fn both_directions_at_once<H: Harness>(harness: &mut H) {
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let count = harness.depth().min(8);
    for round in 0..50 {
        for index in 0..count {
            queue(harness, &mut a, at_b, &payload(round + index, 64));
            queue(harness, &mut b, at_a, &payload(round + index + 1, 65));
        }
        flush(&mut a);
        flush(&mut b);
        for (index, came) in collect(harness, &mut a, count).iter().enumerate() {
            expect(came, at_b, &payload(round + index + 1, 65));
        }
        for (index, came) in collect(harness, &mut b, count).iter().enumerate() {
            expect(came, at_a, &payload(round + index, 64));
        }
    }
}

/// An index at or beyond the length of the burst panics, also where an earlier burst was longer.
pub fn an_index_beyond_the_burst_panics<H: Harness>(harness: &mut H) {
    let ((mut a, _), (mut b, at_b)) = pair(harness);
    for _ in 0..2.min(harness.depth()) {
        send(harness, &mut a, at_b, b"x");
    }
    until(harness, "datagram", || {
        let (mut rx, _) = b.split();
        let count = rx.receive();
        let beyond = catch_unwind(AssertUnwindSafe(|| rx.packet(count).1.len()));
        assert!(beyond.is_err(), "packet {count} of a burst of {count} was handed out");
        (count > 0).then_some(())
    });
}

/// A datagram longer than the largest panics: it is a defect of the caller.
pub fn a_datagram_too_long_panics<H: Harness>(harness: &mut H) {
    let ((mut a, _), (_b, at_b)) = pair(harness);
    let bytes = a.capabilities().datagram_bytes_max + 1;
    let (_, mut tx) = a.split();
    let result = catch_unwind(AssertUnwindSafe(|| tx.push(at_b, bytes).is_some()));
    assert!(result.is_err(), "a datagram of {bytes} bytes was queued");
}

/// Datagrams to an address where nobody is are lost, and nothing else.
pub fn nobody_there_disturbs_nobody<H: Harness>(harness: &mut H) {
    let Some(nobody) = harness.nobody() else { return };
    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    for round in 0..50 {
        queue(harness, &mut a, nobody, b"is anybody there?");
        send(harness, &mut a, at_b, &payload(round, 33));
        expect(&collect(harness, &mut b, 1)[0], at_a, &payload(round, 33));
    }
    quiet(harness, &mut a);
}

/// Nothing allocates after the devices are open: pushes, flushes, receives, empty and full ones.
pub fn nothing_allocates_after_open<H: Harness>(harness: &mut H) {
    let before = allocations_of_this_thread();
    drop(std::hint::black_box(Box::new(before)));
    assert!(allocations_of_this_thread() > before, "CountingAllocator is not the global allocator");

    let ((mut a, at_a), (mut b, at_b)) = pair(harness);
    let bytes_max = a.capabilities().datagram_bytes_max.min(ECHO_BYTES_MAX);
    let burst = a.capabilities().burst_max.min(harness.depth());
    let mut allocated = 0;
    for round in 0..500 {
        let count = 1 + round % burst;
        let (mut sent, mut came) = (0, 0);
        until(harness, "answers", || {
            let before = allocations_of_this_thread();
            let (mut rx, mut tx) = a.split();
            while sent < count {
                let Some(buffer) = tx.push(at_b, 1 + (round * 13) % bytes_max) else { break };
                buffer.fill(pattern(round, 0));
                sent += 1;
            }
            tx.flush();
            let answers = rx.receive();
            for index in 0..answers {
                let (peer, bytes) = rx.packet(index);
                assert!(peer == at_b && bytes.iter().all(|byte| *byte == pattern(round, 1)));
            }
            came += answers;
            echo_once(&mut b, at_a, pattern(round, 1));
            allocated += allocations_of_this_thread() - before;
            (came >= count).then_some(())
        });
    }
    assert_eq!(allocated, 0, "allocations after open");
}

/// Answers one burst with datagrams of the same lengths, filled with `byte`.
fn echo_once<D: Device>(device: &mut D, expected: SocketAddrV4, byte: u8) {
    let (mut rx, mut tx) = device.split();
    for index in 0..rx.receive() {
        let (peer, bytes) = rx.packet(index);
        assert_eq!(peer, expected);
        if let Some(buffer) = tx.push(peer, bytes.len()) {
            buffer.fill(byte);
        }
    }
    tx.flush();
}
