//! `--pcap`, and the Wireshark dissector on what it captured.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Server;
use dmrpc_core::endpoint::auth::Key;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = format!("dmrpc-capture-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(path);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn cn(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dmrpc-cn")).args(arguments).output();
    let output = output.expect("it was just built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// Lines of `fields` for the packets for which `filter` holds.
fn tshark(capture: &str, filter: &str, fields: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/wireshark/dmrpc.lua");
    let mut command = Command::new("tshark");
    command.arg("-X").arg(format!("lua_script:{}", script.display()));
    command.args(["-r", capture, "-Y", filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark; ci/setup installs it");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(!error.contains("Lua: "), "the dissector runs: {error}");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn a_capture_shows_what_was_asked_for() {
    let scratch = Scratch::new("plain");
    let server = Server::memory_node();
    let address = server.address.to_string();
    let file = |name: &str| scratch.0.join(name).to_str().expect("text").to_owned();
    let (input, first, second) = (file("input"), file("first.pcap"), file("second.pcap"));
    std::fs::write(&input, [7; 30_000]).expect("a file");

    let common = ["--memory-node", &address, "--datagram-size", "1472B", "--pcap"];
    let reference = cn(&[&["ref", "--file", &input][..], &common, &[&first]].concat());
    let arguments = ["read", "--ref", &reference, "--out", &file("output")];
    cn(&[&arguments[..], &common, &[&second]].concat());

    // Everything is ours, and nothing is wrong with it.
    let all = tshark(&first, "udp", &["frame.number"]).len();
    let ours = tshark(&first, "dmrpc", &["frame.number"]).len();
    assert!(all > 20, "{all} packets");
    assert_eq!(all, ours);
    for capture in [&first, &second] {
        let wrong = "dmrpc.bad_length || dmrpc.bad_kind || _ws.malformed || ip.checksum_bad.expert";
        assert_eq!(tshark(capture, wrong, &["frame.number"]), [""; 0]);
    }
    // `put` is alloc, write and create_ref in one request of 21 packets and more.
    let put =
        tshark(&first, "dmrpc.kind == 4 && dmrpc.step == 5", &["dmrpc.step", "dmrpc.message"]);
    assert!(put[0].starts_with("1,4,5"), "{put:?}");
    let packets = tshark(&first, "dmrpc.kind == 4 && dmrpc.packet > 0", &["dmrpc.packet"]);
    assert!(packets.len() >= 20, "{packets:?}");
    // The reference that was printed is the one that travelled.
    let seen = tshark(&second, "dmrpc.kind == 4 && dmrpc.step == 11", &["dmrpc.ref"]);
    assert_eq!(seen[0], reference);
    let status = tshark(&second, "dmrpc.kind == 5 && dmrpc.packet == 0", &["dmrpc.status"]);
    assert!(status.iter().all(|status| status == "0x0000"), "{status:?}");
}

#[test]
fn a_capture_of_encrypted_packets_shows_that_they_are() {
    let scratch = Scratch::new("encrypted");
    let secret = "sixteen bytes and more";
    let server = Server::encrypting_memory_node(Key::new(secret.as_bytes()).expect("long enough"));
    let address = server.address.to_string();
    let file = |name: &str| scratch.0.join(name).to_str().expect("text").to_owned();
    let (input, output, capture, key) =
        (file("input"), file("output"), file("encrypted.pcap"), file("key"));
    let text: Vec<u8> = b"nobody reads this ".repeat(2_000);
    std::fs::write(&input, &text).expect("a file");
    std::fs::write(&key, secret).expect("a file");

    let common = ["--memory-node", &address, "--datagram-size", "1472B", "--key-file", &key];
    let asked = ["ref", "--file", &input, "--encrypt", "--pcap", &capture];
    let reference = cn(&[&asked[..], &common].concat());
    cn(&[&["read", "--ref", &reference, "--out", &output, "--encrypt"][..], &common].concat());
    assert!(std::fs::read(&output).expect("read back") == text);

    let packets = std::fs::read(&capture).expect("a capture");
    assert!(packets.len() > text.len());
    assert!(!packets.windows(18).any(|part| part == b"nobody reads this "), "in clear");
    let all = tshark(&capture, "udp", &["frame.number"]).len();
    let hidden = tshark(&capture, "dmrpc.encrypted == 1", &["dmrpc.kind", "dmrpc.number"]);
    // All but the greetings: hello, challenge, hello, answer.
    assert_eq!(all, hidden.len() + 4);
    assert!(hidden.iter().filter(|packet| packet.starts_with("4\t")).count() > 20, "{hidden:?}");
    let wrong = "dmrpc.bad_length || dmrpc.bad_kind || _ws.malformed";
    assert_eq!(tshark(&capture, wrong, &["frame.number"]), [""; 0]);

    // Without --encrypt there is no session, and the reason is told.
    let output = Command::new(env!("CARGO_BIN_EXE_dmrpc-cn"))
        .args(["ping"])
        .args(common)
        .output()
        .expect("it was just built");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("one end encrypts and the other does not"), "{error}");
}

#[test]
fn a_capture_that_cannot_be_written_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_dmrpc-cn"))
        .args(["ping", "--memory-node", "127.0.0.1:7400", "--pcap", "/no/such/place.pcap"])
        .output()
        .expect("it was just built");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--pcap /no/such/place.pcap cannot be written"), "{error}");
}
