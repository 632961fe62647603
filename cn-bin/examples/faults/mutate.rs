//! A sender of bad packets: those of a capture, changed, some with a right checksum again.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use dmrpc_core::wire::packet::{HEADER_BYTES, Kind};
use dmrpc_sim::forge;

use super::{Common, Random};

/// Before the datagram in each record: the record's header, Ethernet, IPv4 and UDP.
const BEFORE: usize = 16 + 42;
const FILE_HEADER: usize = 24;
/// Bytes that a changed packet has more than before, at most.
const LONGER_MAX: usize = 600;
/// How long a hello waits for its answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Where a hello has the cookie, and where a challenge does.
const HELLO_COOKIE_AT: usize = HEADER_BYTES + 40;
const CHALLENGE_COOKIE_AT: usize = HEADER_BYTES + 8;
/// Where a server's answer to a hello has the name of the session.
const ACK_SESSION_AT: usize = HEADER_BYTES + 16;

/// The datagrams of a capture.
fn datagrams(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).expect("a capture");
    let (mut all, mut at) = (Vec::new(), FILE_HEADER);
    while let Some(length) = file.get(at + 8..at + 12) {
        let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
        let Some(datagram) = file.get(at + BEFORE..at + 16 + length) else { break };
        if datagram.len() >= HEADER_BYTES {
            all.push(datagram.to_vec());
        }
        at += 16 + length;
    }
    all
}

fn is(packet: &[u8], kind: Kind) -> bool {
    forge::kind(packet) == Some(kind as u8)
}

/// Sends bad packets for so long.
pub(super) fn run(common: &Common, capture: &Path) {
    let packets = datagrams(capture);
    assert!(packets.len() > 10, "{} has {} packets", capture.display(), packets.len());
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(common.memory_node).expect("an address");
    socket.set_nonblocking(true).expect("a socket");
    let mut random = Random(common.seed);
    let until = Instant::now() + Duration::from_secs(common.seconds);
    // A capture has few of them, and without one there is no session.
    let hellos: Vec<_> = packets.iter().filter(|packet| is(packet, Kind::Hello)).collect();
    assert!(!hellos.is_empty(), "{} has no hello", capture.display());
    let mut asked = Instant::now();
    let (mut sent, mut answers, mut sessions) = (0_u64, 0_u64, 0_u64);
    let mut session: Option<[u8; 8]> = None;
    // The last hello that was sent as it was, to be repeated with what it is challenged for.
    let mut hello = Vec::new();
    let mut recent: VecDeque<Vec<u8>> = VecDeque::new();
    while Instant::now() < until {
        let mut packet = packets[random.below(packets.len())].clone();
        if session.is_none() && asked.elapsed() > ASK_AGAIN_AFTER {
            packet = hellos[random.below(hellos.len())].clone();
            asked = Instant::now();
        }
        // A session of one's own, so that more than the door is tried.
        if !is(&packet, Kind::Hello)
            && let Some(session) = session
            && random.below(4) != 0
        {
            forge::set_session(&mut packet, session);
        }
        let kept = is(&packet, Kind::Hello) && (session.is_none() || random.below(4) == 0);
        if kept {
            hello = packet.clone();
        } else {
            change(&mut packet, &mut random);
            if random.below(8) != 0 {
                forge::seal(&mut packet);
            }
        }
        if !kept
            && random.below(8) == 0
            && let Some(old) = recent.pop_front()
        {
            packet = old;
        }
        if socket.send(&packet).is_ok() {
            sent += 1;
        }
        recent.push_back(packet);
        recent.truncate(256);
        let mut buffer = [0; 65_536];
        while let Ok(length) = socket.recv(&mut buffer) {
            answers += 1;
            if is(&buffer, Kind::Challenge)
                && length >= CHALLENGE_COOKIE_AT + 8
                && hello.len() >= HELLO_COOKIE_AT + 8
            {
                let cookie = &buffer[CHALLENGE_COOKIE_AT..CHALLENGE_COOKIE_AT + 8];
                hello[HELLO_COOKIE_AT..HELLO_COOKIE_AT + 8].copy_from_slice(cookie);
                forge::seal(&mut hello);
                let _ = socket.send(&hello);
            }
            if is(&buffer, Kind::HelloAck) && length >= ACK_SESSION_AT + 8 {
                let place = &buffer[ACK_SESSION_AT..ACK_SESSION_AT + 8];
                session = Some(place.try_into().expect("8 bytes"));
                sessions += 1;
            }
            if is(&buffer, Kind::Reset) {
                session = None;
            }
        }
        if sent.is_multiple_of(16) {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    println!(
        "{{\"app\":\"faults_mutate\",\"seed\":{},\"sent\":{sent},\"answers\":{answers},\
         \"sessions\":{sessions}}}",
        common.seed,
    );
    assert!(sessions > 0, "nothing got past the door");
}

/// Changes bytes, and perhaps the length.
pub(super) fn change(packet: &mut Vec<u8>, random: &mut Random) {
    let longest = packet.len() + LONGER_MAX;
    forge::change(packet, longest, |bound| random.below(bound as usize) as u64);
}
