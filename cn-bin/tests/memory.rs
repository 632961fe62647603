//! Memory operations against a real memory node over loopback.

mod common;

use common::{Server, node, pattern};
use dmrpc_cn::memory::{ALL_RIGHTS, Cause, MESSAGE_BODY_BYTES_MAX};
use dmrpc_cn::{
    Arg, ClusterDirectory, Error, Memory, MemoryError, Method, Node, OperationError, Ref, Rights,
    Status,
};
use dmrpc_udp::UdpDevice;

fn read_all(memory: Memory<'_, UdpDevice>, reference: &Ref) -> Vec<u8> {
    let mut bytes = vec![0; reference.length as usize];
    memory.read_ref(reference, 0, &mut bytes).expect("readable");
    bytes
}

fn fails<T: std::fmt::Debug>(result: Result<T, OperationError>, expected: MemoryError) {
    assert_eq!(result.expect_err("it must fail").memory(), Some(expected));
}

#[test]
fn every_operation_once() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    let region = memory.alloc(100_000).expect("room");
    let mut bytes = vec![1; 100_000];
    memory.read(region, 0, &mut bytes).expect("readable");
    assert!(bytes.iter().all(|&byte| byte == 0));
    let text = pattern(60_000, 1);
    memory.write(region, 5_000, &text).expect("writable");
    memory.write(region, 1, b"abc").expect("writable");
    memory.read(region, 0, &mut bytes).expect("readable");
    assert!(bytes[5_000..65_000] == text[..] && &bytes[..5] == b"\0abc\0");

    let reference = memory.create_ref(region, 1, 64_999, ALL_RIGHTS).expect("room");
    memory.write(region, 0, &pattern(70_000, 9)).expect("writable");
    assert!(read_all(memory, &reference) == bytes[1..65_000]);

    let mapped = memory.map_ref(&reference).expect("mappable");
    assert_eq!(mapped.length, 64_999);
    memory.write(mapped, 0, b"xyz").expect("writable");
    assert!(read_all(memory, &reference) == bytes[1..65_000]);
    memory.free(mapped).expect("ours");

    let narrow = memory.narrow(&reference, 0, 3, Rights::MAP).expect("within");
    assert_eq!(read_all(memory, &narrow), b"abc");
    let claimed = memory.claim_ref(&reference).expect("ours");
    fails(memory.map_ref(&reference), MemoryError::Consumed);
    memory.detach(&claimed).expect("ours");
    let again = memory.claim_ref(&claimed).expect("detached");
    memory.drop_ref(&again).expect("ours");
    memory.free(region).expect("ours");
    fails(memory.free(region), MemoryError::UnknownRegion);
    assert_eq!(node.statistics().calls_outstanding, 0);
}

#[test]
fn put_and_take_of_every_size() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    for size in [1, 700, 4096, 9_000, 1 << 20, MESSAGE_BODY_BYTES_MAX, MESSAGE_BODY_BYTES_MAX + 5] {
        let bytes = pattern(size, size);
        let reference = memory.put(&bytes).expect("room");
        assert_eq!(reference.length, size as u64);
        let mut short = vec![0; size - 1];
        let error = memory.take(&reference, &mut short).expect_err("no room");
        assert_eq!(error.cause, Cause::RoomTooSmall { room: size - 1 });
        let mut out = vec![0; size + 10];
        assert_eq!(memory.take(&reference, &mut out), Ok(size));
        assert!(out[..size] == bytes[..], "{size} bytes differ");
        assert!(memory.take(&reference, &mut out).is_err());
    }
    fails(memory.put(&[]), MemoryError::ZeroLength);
}

#[test]
fn references_become_regions() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    let original = pattern(100_000, 3);
    // Short, of one datagram, of several.
    for size in [3, 4_000, 50_000] {
        let (kept, patch) = (memory.put(&original).expect("room"), pattern(size, 4));
        let source = memory.map_ref(&kept).expect("mappable");
        let given = memory.create_ref(source, 0, source.length, ALL_RIGHTS).expect("room");
        let past = memory.take_and_write(&given, 100_000, &patch);
        let error = past.expect_err("past the end");
        let end = 100_000 + size as u64;
        assert_eq!(error.memory(), Some(MemoryError::OutOfRange { end, size: 100_000 }));
        // That was nothing: the reference is as it was.
        let region = memory.take_and_write(&given, 10, &patch).expect("ours");
        assert_eq!((region.length, region.peer), (100_000, memory.peer()));
        fails(memory.map_ref(&given), MemoryError::StaleReference);
        let mut bytes = vec![0; 100_000];
        memory.read(region, 0, &mut bytes).expect("readable");
        assert!(bytes[..10] == original[..10] && bytes[10..10 + size] == patch[..]);
        assert!(bytes[10 + size..] == original[10 + size..]);
        assert!(read_all(memory, &kept) == original, "nobody else sees it");
        let region_of_kept = memory.take_region(&kept).expect("ours");
        memory.read(region_of_kept, 0, &mut bytes).expect("readable");
        assert!(bytes == original);
        for region in [source, region, region_of_kept] {
            memory.free(region).expect("ours");
        }
        assert!(memory.take_region(&kept).is_err());
    }
    let region = memory.alloc(100).expect("room");
    let weak = memory.create_ref(region, 0, 100, Rights::MAP).expect("room");
    fails(memory.take_region(&weak), MemoryError::MissingRights { rights: Rights::CONSUME });
    memory.drop_ref(&weak).expect_err("without the right to");
    // The same as tickets and as futures.
    let given = memory.create_ref(region, 0, 100, ALL_RIGHTS).expect("room");
    let ticket = memory.start().take_and_write(&given, 0, b"ab").expect("room");
    while node.next_ended() != Some(ticket) {
        node.step();
    }
    let finished = node.try_finish(ticket).expect("it has ended").expect("an answer");
    let region = finished.region().expect("ours");
    let given = memory.create_ref(region, 0, 100, ALL_RIGHTS).expect("room");
    let asynchronous = memory.asynchronous();
    let mut bytes = [0; 3];
    node.block_on(async {
        let region = asynchronous.take_and_write(&given, 1, b"c").await.expect("ours");
        asynchronous.read(region, 0, &mut bytes).await.expect("readable");
        let given = asynchronous.create_ref(region, 0, 100, ALL_RIGHTS).await.expect("room");
        asynchronous.take_region(&given).await.expect("ours");
    });
    assert_eq!(&bytes, b"ac\0");
}

#[test]
fn a_goodbye_gives_all_memory_back_at_once() {
    let server = Server::memory_node();
    for _ in 0..3 {
        // Each takes more than half of the pool, in two sessions.
        let node = node();
        for _ in 0..2 {
            let memory = node.memory(node.connect(server.address).expect("it runs"));
            memory.alloc(common::POOL_BYTES / 3).expect("the one before has gone");
        }
        node.disconnect_all();
        let peer = node.connect(server.address).expect("a node may connect again");
        assert!(node.is_up(peer));
        node.disconnect_all();
        assert!(!node.is_up(peer));
    }
}

#[test]
fn errors_name_operation_and_values() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    let region = memory.alloc(8192).expect("room");
    let error = memory.read(region, 4096, &mut [0; 5000]).expect_err("past the end");
    assert_eq!(error.memory(), Some(MemoryError::OutOfRange { end: 9096, size: 8192 }));
    let text = error.to_string();
    assert!(text.contains("read of 5000 bytes at offset 4096"), "{text}");
    assert!(text.contains("9096") && text.contains("8192"), "{text}");
    assert!(memory.read(region, u64::MAX, &mut [0; 2]).is_err());
    assert!(memory.write(region, u64::MAX - 1, &[0; 100_000]).is_err());
    fails(memory.read(region, 0, &mut []), MemoryError::ZeroLength);
    fails(memory.alloc(0), MemoryError::ZeroLength);
    let reference = memory.create_ref(region, 0, 10, Rights::MAP).expect("room");
    let rights = Rights::CONSUME;
    fails(memory.claim_ref(&reference), MemoryError::MissingRights { rights });
    let forged = Ref { length: 20, ..reference };
    fails(memory.map_ref(&forged), MemoryError::Forged);
    let foreign = Ref { memory_node: 5, ..reference };
    fails(memory.map_ref(&foreign), MemoryError::WrongNode { memory_node: 5 });

    let echo = Server::echo();
    let not_memory = node.memory(node.connect(echo.address).expect("it runs"));
    let error = not_memory.alloc(10).expect_err("no memory node");
    assert!(error.to_string().contains("no memory node"), "{error}");
    // After all of that the session works.
    memory.write(region, 0, b"fine").expect("writable");
}

#[test]
fn pipelined_operations_on_a_region_keep_their_order() {
    let (server, node) = (Server::memory_node(), node());
    let peer = node.connect(server.address).expect("it runs");
    let memory = node.memory(peer);
    let region = memory.alloc(1 << 20).expect("room");
    for round in 0..30 {
        // Writes of one and of many packets, then a reference, then another write.
        let (long, short) = (pattern(40_000, round), pattern(300, round + 1));
        let start = memory.start();
        let write_long = start.write(region, 0, &long).expect("begun");
        let write_short = start.write(region, 100, &short).expect("begun");
        let create = start.create_ref(region, 0, 40_000, ALL_RIGHTS).expect("begun");
        let mut buffer = node.buffer(40_000).expect("there are some");
        buffer.fill(0xEE);
        let overwrite = start.write_buffer(region, 0, buffer).expect("begun");
        let read = start.read(region, 0, 40_000).expect("begun");
        let finish = |ticket| node.block_on(node.ended(ticket)).expect("answered");
        finish(write_long).checked().expect("written");
        finish(write_short).checked().expect("written");
        finish(overwrite).checked().expect("written");
        let read = finish(read).bytes_read().expect("read").expect("a buffer");
        assert!(read.iter().all(|&byte| byte == 0xEE));
        let reference = finish(create).reference().expect("made");
        let mut expected = long;
        expected[100..400].copy_from_slice(&short);
        assert!(read_all(memory, &reference) == expected, "round {round}");
        memory.drop_ref(&reference).expect("ours");
    }
}

#[test]
fn awaited_operations() {
    let (server, node) = (Server::memory_node(), node());
    node.block_on(async {
        let peer = node.connect_async(server.address).await.expect("it runs");
        let memory = node.memory(peer).asynchronous();
        let region = memory.alloc(50_000).await.expect("room");
        let bytes = pattern(50_000, 4);
        memory.write(region, 0, &bytes).await.expect("writable");
        let reference = memory.create_ref(region, 0, 50_000, ALL_RIGHTS).await.expect("room");
        let mapped = memory.map_ref(&reference).await.expect("mappable");
        let mut out = vec![0; 50_000];
        memory.read(mapped, 0, &mut out).await.expect("readable");
        assert!(out == bytes);
        let narrow = memory.narrow(&reference, 5, 10, ALL_RIGHTS).await.expect("within");
        memory.read_ref(&narrow, 1, &mut out[..4]).await.expect("readable");
        assert_eq!(out[..4], bytes[6..10]);
        memory.free(mapped).await.expect("ours");
        memory.detach(&reference).await.expect("ours");
        let claimed = memory.claim_ref(&reference).await.expect("detached");
        memory.drop_ref(&claimed).await.expect("ours");
        memory.free(region).await.expect("ours");
        let put = memory.put(&bytes).await.expect("room");
        assert_eq!(memory.take(&put, &mut out).await, Ok(50_000));
        assert!(out == bytes);
    });
}

#[test]
fn arguments_are_fetched_whether_by_value_or_by_reference() {
    let memory_node = Server::memory_node();
    let address = memory_node.address;
    let server = Server::node(move |node, stop| {
        node.set_directory(ClusterDirectory::from_iter([address]));
        let service = node.serve(|_, call| async move {
            let mut bytes = vec![0; 1 << 20];
            let length = call.fetch(0, &mut bytes).await.expect("reachable");
            let sum = bytes[..length].iter().map(|&byte| u64::from(byte)).sum::<u64>();
            let error = call.fetch(1, &mut bytes).await.expect_err("one argument");
            assert!(error.to_string().contains("no argument 1"), "{error}");
            call.reply(Status::OK, &[Arg::Inline(&sum.to_le_bytes())]).expect("short");
        });
        service.run(|| stop.load(std::sync::atomic::Ordering::Relaxed));
    });
    let node = node();
    let memory = node.memory(node.connect(address).expect("it runs"));
    let peer = node.connect(server.address).expect("it runs");
    for size in [1, 1000, 500_000] {
        let bytes = pattern(size, 6);
        let arg = node.pass(memory, &bytes).expect("room");
        assert_eq!(matches!(arg, Arg::Inline(_)), size < 10_000);
        let mut sum = [0; 8];
        node.call(peer, Method(1), &[arg], &mut sum).expect("an answer");
        let expected = bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        assert_eq!(u64::from_le_bytes(sum), expected);
        if let Arg::Ref(reference) = arg {
            memory.drop_ref(&reference).expect("ours");
        }
    }
}

#[test]
fn a_reference_survives_its_maker_when_detached() {
    let server = Server::memory_node();
    let reference = {
        let node: Node<UdpDevice> = node();
        let peer = node.connect(server.address).expect("it runs");
        let memory = node.memory(peer);
        let reference = memory.put(&pattern(10_000, 8)).expect("room");
        memory.detach(&reference).expect("ours");
        node.disconnect(peer);
        reference
    };
    let node = node();
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    let mut out = vec![0; 10_000];
    assert_eq!(memory.take(&reference, &mut out), Ok(10_000));
    assert!(out == pattern(10_000, 8));
}

#[test]
fn a_reference_that_no_memory_node_could_have_made_is_a_forgery() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    let reference = memory.put(&[1; 100]).expect("room");
    let mut out = [0; 10];
    for bad in [Ref { length: 0, ..reference }, Ref { offset: u64::MAX, ..reference }] {
        fails(memory.map_ref(&bad), MemoryError::Forged);
        fails(memory.read_ref(&bad, 0, &mut out), MemoryError::Forged);
        fails(memory.claim_ref(&bad), MemoryError::Forged);
        fails(memory.detach(&bad), MemoryError::Forged);
        fails(memory.drop_ref(&bad), MemoryError::Forged);
        fails(memory.narrow(&bad, 0, 1, Rights::MAP), MemoryError::Forged);
        let pending = memory.asynchronous();
        fails(node.block_on(pending.map_ref(&bad)), MemoryError::Forged);
    }
    assert_eq!(read_all(memory, &reference), [1; 100]);
}

#[test]
fn a_long_transfer_out_of_range_has_no_effect() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    let size = MESSAGE_BODY_BYTES_MAX as u64 + 5_000;
    let region = memory.alloc(size).expect("room");
    memory.write(region, 0, &[1; 10]).expect("writable");
    let reference = memory.create_ref(region, 0, size, ALL_RIGHTS).expect("room");
    // The first message's worth of bytes would be within the region.
    let mut bytes = vec![2; size as usize];
    for (offset, end) in [(1, size + 1), (u64::MAX, u64::MAX)] {
        let expected = MemoryError::OutOfRange { end, size };
        fails(memory.write(region, offset, &bytes), expected);
        fails(memory.read(region, offset, &mut bytes), expected);
        fails(memory.read_ref(&reference, offset, &mut bytes), expected);
        let pending = memory.asynchronous();
        fails(node.block_on(pending.write(region, offset, &bytes)), expected);
        fails(node.block_on(pending.read(region, offset, &mut bytes)), expected);
        fails(node.block_on(pending.read_ref(&reference, offset, &mut bytes)), expected);
        assert!(bytes.iter().all(|&byte| byte == 2), "nothing was read");
    }
    memory.read(region, 0, &mut bytes).expect("readable");
    assert!(bytes[..10] == [1; 10] && bytes[10..].iter().all(|&byte| byte == 0));
}

#[test]
fn visited_reads_show_each_byte_once() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    // One packet, several, and more than a message.
    for bytes in [10, 200_000, MESSAGE_BODY_BYTES_MAX + 5_000] {
        let text = pattern(bytes, 3);
        let region = memory.alloc(bytes as u64 + 7).expect("room");
        memory.write(region, 7, &text).expect("writable");
        let mut seen = vec![0u8; bytes];
        let mut found = vec![0; bytes];
        let visit = |offset: u64, chunk: &[u8]| {
            let at = offset as usize;
            found[at..at + chunk.len()].copy_from_slice(chunk);
            seen[at..at + chunk.len()].iter_mut().for_each(|count| *count += 1);
        };
        memory.visit(region, 7, bytes, visit).expect("readable");
        assert!(found == text && seen.iter().all(|&count| count == 1), "{bytes} bytes");
        fails(
            memory.visit(region, 8, bytes, |_, _| panic!("nothing comes")),
            MemoryError::OutOfRange { end: bytes as u64 + 8, size: bytes as u64 + 7 },
        );
        memory.free(region).expect("ours");
    }
    assert_eq!(node.statistics().calls_outstanding, 0);
}

#[test]
fn many_visited_reads_are_told_apart_and_need_their_visitor() {
    let (server, node) = (Server::memory_node(), node());
    let memory = node.memory(node.connect(server.address).expect("it runs"));
    let text = pattern(400_000, 4);
    let reference = memory.put(&text).expect("room");
    let part = 50_000;
    let begin = |number: usize| {
        let offset = (number * part) as u64;
        memory.start().visit_ref(&reference, offset, part).expect("room")
    };
    let tickets: Vec<_> = (0..8).map(begin).collect();
    let (mut right, mut ended) = (0, 0);
    while ended < tickets.len() {
        node.step_visiting(&mut |ticket, offset, bytes| {
            let number = tickets.iter().position(|known| *known == ticket).expect("ours");
            assert!(bytes == &text[number * part + offset as usize..][..bytes.len()]);
            right += bytes.len();
        });
        while let Some(ticket) = node.next_ended() {
            let finished = node.try_finish(ticket).expect("ended").expect("read");
            assert!(finished.bytes_read().expect("all of it").is_none(), "no buffer was needed");
            ended += 1;
        }
    }
    assert_eq!(right, text.len());
    for bytes in [10, part] {
        let ticket = memory.start().visit_ref(&reference, 0, bytes).expect("room");
        let ended = loop {
            node.step();
            if let Some(ended) = node.try_finish(ticket) {
                break ended;
            }
        };
        assert_eq!(ended.expect_err("nobody looked"), Error::NotVisited);
    }
    assert_eq!(node.statistics().calls_outstanding, 0);
}
