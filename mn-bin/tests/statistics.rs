//! What a memory node says about its core while it is at work.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dmrpc_cn::{BufferClass, Node, NodeConfig, Peer};
use dmrpc_conformance::Killed;
use dmrpc_host as _;
use dmrpc_udp::{UdpConfig, UdpDevice};

/// Enough for some requests to be timed.
const CALLS: usize = 1000;
/// How long a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.expect("kill is there").success());
}

/// A memory node, and where it serves.
fn serve(flags: &[&str]) -> (Killed, SocketAddrV4) {
    let (serving, address) = Killed::serving(
        Command::new(env!("CARGO_BIN_EXE_dmrpc-mn"))
            .args(["--bind", "127.0.0.1:0", "--pool-size", "8MiB"])
            .args(flags)
            .stderr(Stdio::piped()),
    );
    (serving, address.parse().expect("an address"))
}

/// Another node with a session.
fn node_at_once(address: SocketAddrV4) -> (Node<UdpDevice>, Peer) {
    let class = BufferClass { count: 1, bytes: 4096 };
    let config = NodeConfig { buffers: [class; 3], ..NodeConfig::default() };
    let node = Node::open_udp(&config).expect("a node");
    let peer = node.connect(address).expect("it serves");
    (node, peer)
}

/// All that the memory node tells whoever asks over the network.
fn all_pages(node: &Node<UdpDevice>, peer: Peer) -> String {
    let mut pages = String::new();
    for number in 0.. {
        let mut page = [0; 1024];
        let reply = node.statistics_page(peer, number, &mut page).expect("an answer");
        if reply.body_bytes == 0 {
            break;
        }
        pages += std::str::from_utf8(&page[..reply.body_bytes]).expect("text");
    }
    pages
}

/// What the memory node tells of the session of the node at `address`: the number behind `name`.
fn of_session(pages: &str, address: SocketAddrV4, name: &str) -> u64 {
    let end = format!("_address {address}");
    let session = pages.lines().find_map(|line| line.strip_suffix(&end)).expect(pages);
    let begin = format!("{session}_{name} ");
    let value = pages.lines().find_map(|line| line.strip_prefix(&begin)).expect(pages);
    value.parse().expect("a number")
}

/// An answer that its reader does not fetch keeps what it is made of, in that one's name.
#[test]
fn pins_are_told_by_holder() {
    let (serving, address) = serve(&["--json"]);
    let node = || Node::open_udp(&NodeConfig::default()).expect("a node");
    let (reader, other) = (node(), node());
    let (of_reader, of_other) =
        (reader.connect(address).expect("it serves"), other.connect(address).expect("it serves"));
    let pins =
        |of: &Node<UdpDevice>| of_session(&all_pages(&other, of_other), of.local_addr(), "pins");
    assert_eq!((pins(&reader), pins(&other)), (0, 0));

    const BYTES: usize = 1 << 20;
    let memory = reader.memory(of_reader);
    let region = memory.alloc(BYTES as u64).expect("room");
    memory.write(region, 0, &vec![7; BYTES]).expect("room");
    let reading = memory.start().read(region, 0, BYTES).expect("it begins");
    // The question leaves, and nobody looks at what comes back.
    reader.poll();
    let end = Instant::now() + PATIENCE;
    while pins(&reader) == 0 {
        assert!(Instant::now() < end, "nothing is pinned");
    }
    assert_eq!((pins(&reader), pins(&other)), (1, 0));
    let read = loop {
        match reader.try_finish(reading) {
            Some(read) => break read.expect("all of it comes"),
            None => _ = reader.step(),
        }
    };
    drop(read);
    while pins(&reader) != 0 {
        // The last acknowledgement leaves by itself, as long as somebody polls.
        reader.poll();
        assert!(Instant::now() < end, "the answer came, and is pinned");
    }
    drop(serving);
}

#[test]
fn a_core_tells_what_it_does() {
    let (mut serving, address) =
        serve(&["--json", "--sessions", "80", "--sessions-per-address", "80"]);

    let device = UdpDevice::open(UdpConfig::at("127.0.0.1:0".parse().expect("an address")))
        .expect("a socket");
    let local = device.local_addr();
    let node = Node::new(device, local, &NodeConfig::default()).expect("a node");
    let peer = node.connect(address).expect("it serves");
    let memory = node.memory(peer);
    for number in 0..CALLS {
        let bytes = number.to_le_bytes();
        let reference = memory.put(&bytes).expect("put");
        let mut found = [0; 8];
        memory.take(&reference, &mut found).expect("take");
        assert_eq!(found, bytes);
    }
    let polls = node.statistics().polls;
    assert!(polls.packets >= 2 * CALLS as u64 && polls.sent >= 2 * CALLS as u64, "{polls:?}");
    assert!(polls.bursts <= polls.polls - polls.empty && polls.busy_ns > 0, "{polls:?}");

    // The same for whoever asks over the network: all pages.
    let pages = all_pages(&node, peer);
    let count = |name: &str| -> u64 {
        let line = pages.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {pages}")).parse().expect("a number")
    };
    assert!(count("core_packets") >= 2 * CALLS as u64 - 10, "{pages}");
    assert!(count("core_bursts") <= count("core_polls") - count("core_polls_empty"), "{pages}");
    assert!(count("core_busy_ns") > 0 && count("core_requests_timed_ns") > 0, "{pages}");
    assert!(count("core_requests") <= 128 * count("core_requests_timed"), "{pages}");

    // Whose they are and what they hold, beyond the first 64 sessions of a table, too.
    let more: Vec<_> = (0..69).map(|_| node_at_once(address)).collect();
    let (last, region) = more
        .last()
        .map(|(node, memory_node)| {
            let memory = node.memory(*memory_node);
            (node.local_addr(), memory.alloc(8192).expect("room"))
        })
        .expect("some");
    // Nobody has polled the first one meanwhile, so it may think that it is alone.
    while !node.is_up(peer) {
        node.step();
    }
    let reference = node.memory(peer).put(b"held").expect("room");
    assert_eq!((region.length, reference.length), (8192, 4));
    let pages = all_pages(&node, peer);
    let told = pages.lines().find(|line| line.ends_with(&format!("_address {last}")));
    let name = told.and_then(|line| line.strip_suffix(&format!("_address {last}"))).expect(&pages);
    assert!(pages.contains(&format!("{name}_regions 1\n")), "{pages}");

    signal(&serving.0, "-USR1");
    let mut stderr = BufReader::new(serving.0.stderr.take().expect("piped"));
    let mut report = String::new();
    while !report.starts_with('{') {
        report.clear();
        assert!(stderr.read_line(&mut report).expect("text") > 0, "it ended without a report");
    }
    let mut dumped = String::new();
    stderr.read_line(&mut dumped).expect("text");
    let dumped: serde_json::Value = serde_json::from_str(&dumped).expect("JSON");
    let sessions = dumped["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 70, "{dumped}");
    let of = |address: SocketAddrV4| {
        sessions.iter().find(|session| session["address"] == address.to_string()).expect("listed")
    };
    assert_eq!((&of(last)["regions"], &of(last)["pages"]), (&1.into(), &2.into()), "{dumped}");
    assert_eq!(of(local)["references"], 1, "{dumped}");
    assert_eq!(of(local)["pins"], 0, "{dumped}");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    let packets = number("packets_per_s") * number("seconds");
    assert!(packets >= 2.0 * CALLS as f64, "{packets} packets");
    assert!((1.0..=64.0).contains(&number("burst_fill")), "{report}");
    assert!((0.0..1.0).contains(&number("empty_polls")), "{report}");
    // A request is part of a poll, and takes some of the time.
    assert!(number("handler_cycles") > 10.0, "{report}");
    assert!(number("poll_cycles") > 100.0, "{report}");
    assert!((0.0..1.0).contains(&number("handler_share")) && number("handler_share") > 0.0);

    signal(&serving.0, "-TERM");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert!(serving.0.wait().expect("it ends").success(), "{rest}");
}
