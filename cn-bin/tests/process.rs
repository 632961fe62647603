//! The program itself, against a memory node and against itself.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Server, node, pattern};
use dmrpc_cn::{Arg, Method, Status};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dmrpc-cn"))
}

fn run(server: &Server, arguments: &[&str]) -> Output {
    let address = server.address.to_string();
    let mut command = program();
    command.args(arguments).args(["--memory-node", &address]).output().expect("it was just built")
}

/// What it printed, if all went well.
fn said(server: &Server, arguments: &[&str]) -> String {
    let output = run(server, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {error}");
    assert_eq!(error, "");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// A directory of one test's own, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dmrpc-cn-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("text").to_owned()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).expect("a file")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_goes_round_by_reference() {
    let (server, scratch) = (Server::memory_node(), Scratch::new("round"));
    let bytes = pattern(100_000, 5);
    let (file, patch) = (scratch.file("file", &bytes), scratch.file("patch", b"changed"));
    let out = scratch.file("out", b"");
    let reference = said(&server, &["ref", "--file", &file]);
    assert_eq!(reference.len(), 128);
    said(&server, &["read", "--ref", &reference, "--out", &out]);
    assert!(scratch.bytes("out") == bytes);
    let changed =
        said(&server, &["write", "--ref", &reference, "--offset", "4090", "--in", &patch]);
    let read = ["read", "--ref", &changed, "--offset", "4089", "--length", "9"];
    let output = run(&server, &read);
    let mut expected = bytes[4089..4098].to_vec();
    expected[1..8].copy_from_slice(b"changed");
    assert_eq!(output.stdout, expected);
    said(&server, &["read", "--ref", &reference, "--out", &out]);
    assert!(scratch.bytes("out") == bytes, "the original is as it was");
    let text = said(&server, &["map", "--ref", &reference]);
    assert_eq!(text, "100000 bytes in memory node 0, rights: map consume narrow drop");
    for reference in [&reference, &changed] {
        assert_eq!(said(&server, &["free", "--ref", reference]), "100000 bytes freed");
        let output = run(&server, &["read", "--ref", reference]);
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn alloc_ping_and_stat() {
    let server = Server::memory_node();
    let reference = said(&server, &["alloc", "--size", "1MiB"]);
    let output = run(&server, &["read", "--ref", &reference]);
    assert!(output.stdout.len() == 1 << 20 && output.stdout.iter().all(|&byte| byte == 0));
    assert!(said(&server, &["ping", "--count", "5"]).starts_with("5 round trips with 127.0.0.1:"));
    let json = said(&server, &["stat", "--json"]);
    let object: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(object["detached"], 1);
    assert_eq!(object["alloc_done"], 1);
    assert!(said(&server, &["stat"]).contains("frames_limit"));
    said(&server, &["free", "--ref", &reference]);
}

/// As any Unix tool in `tool | head`: no panic, no message.
#[test]
fn it_ends_quietly_when_nobody_reads() {
    use std::os::unix::process::ExitStatusExt;
    const SIGPIPE: i32 = 13;
    let server = Server::memory_node();
    let reference = said(&server, &["alloc", "--size", "1MiB"]);
    let address = server.address.to_string();
    for arguments in [&["stat"][..], &["read", "--ref", &reference], &["ping", "--json"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = program();
        command.args(arguments).args(["--memory-node", &address]).stdout(writer);
        let output = command.stderr(Stdio::piped()).output().expect("it was just built");
        assert_eq!(output.status.signal(), Some(SIGPIPE), "{arguments:?}: {}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

/// How long a busy machine may take for a refusal, or an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// One line on standard error, an exit code, and no waiting for anybody.
fn fails(command: &mut Command, code: i32, expected: &str) {
    let start = Instant::now();
    let output = command.output().expect("it was just built");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(expected), "{error}");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn values_out_of_their_range_are_usage_errors() {
    let nobody = ["--memory-node", "127.0.0.1:9"];
    for flags in [["--deadline", "0s"], ["--datagram-size", "100"], ["--datagram-size", "70000"]] {
        fails(program().arg("ping").args(flags).args(nobody), 2, flags[0]);
    }
    fails(program().args(["serve", "--bind", "127.0.0.1:0", "--report", "0s"]), 2, "--report");
    for address in ["0.0.0.0:7400", "127.0.0.1:0", "255.255.255.255:7400"] {
        fails(program().args(["ping", "--memory-node", address]), 2, "nobody can be reached");
    }
    let forward = ["serve", "--bind", "127.0.0.1:0", "--forward-to", "127.0.0.1:9"];
    fails(program().args(forward).args(["--slots", "4"]), 2, "give 8 to 64");
    fails(&mut program(), 2, "no command is given: give one of ping");
}

#[test]
fn a_file_without_an_end_is_refused() {
    let scratch = Scratch::new("endless");
    let pipe = scratch.0.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    for path in [pipe.to_str().expect("text"), "/dev/zero"] {
        let arguments = ["ref", "--memory-node", "127.0.0.1:9", "--file", path];
        fails(program().args(arguments), 1, "no regular file");
    }
    fails(program().args(["ref", "--memory-node", "127.0.0.1:9", "--file", "/"]), 1, "directory");
}

#[test]
fn what_a_forged_reference_claims_is_not_allocated() {
    let (server, scratch) = (Server::memory_node(), Scratch::new("forged"));
    let address = server.address.to_string();
    let out = scratch.file("out", b"as before");
    let reference = said(&server, &["alloc", "--size", "10"]);
    // 2^60 bytes; digits 64 to 79 are the length.
    let forged = format!("{}0000000000000010{}", &reference[..64], &reference[80..]);
    let read = ["read", "--memory-node", &address, "--ref", &forged];
    fails(program().args(read), 1, "not made by this memory node");
    fails(program().args(read).args(["--out", &out]), 1, "not made by this memory node");
    assert_eq!(scratch.bytes("out"), b"as before");
    // A long one that is genuine is read a part at a time.
    let long = said(&server, &["alloc", "--size", "20MiB"]);
    let output = run(&server, &["read", "--ref", &long, "--offset", "1"]);
    assert_eq!(output.stdout.len(), (20 << 20) - 1);
}

#[test]
fn a_reference_that_nobody_was_told_is_ended() {
    let server = Server::memory_node();
    let address = server.address.to_string();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let mut alloc = program();
    alloc.args(["alloc", "--size", "1MiB", "--memory-node", &address]).stdout(full);
    let output = alloc.stderr(Stdio::piped()).spawn().expect("it was just built");
    let output = output.wait_with_output().expect("our child");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("standard output cannot be written"), "{error}");
    assert!(said(&server, &["stat", "--json"]).contains("\"detached\":0"));
}

#[test]
fn errors_are_one_line_that_helps() {
    let nobody = ["--memory-node", "127.0.0.1:9"];
    fails(program().arg("ping").args(nobody), 1, "nobody answers at 127.0.0.1:9");
    fails(program().arg("ping"), 2, "--memory-node");
    fails(program().args(["ping", "--memory-node", "here"]), 2, "such as 127.0.0.1:7400");
    fails(program().args(["read", "--ref", "abc"]).args(nobody), 2, "128 hexadecimal digits");
    fails(program().args(["alloc", "--size", "lots"]).args(nobody), 2, "64KiB");
    fails(program().args(["ref", "--file", "/nowhere"]).args(nobody), 1, "/nowhere");
    fails(program().args(["ping", "--cluster", "/nowhere"]), 2, "/nowhere");
    fails(program().args(["ping", "--cores", "4095"]).args(nobody), 2, "core");
    fails(program().args(["serve", "--slots", "7"]), 2, "7 slots");
    fails(program().args(["serve", "--sessions", "0"]), 2, "0 server sessions");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = taken.local_addr().expect("bound").to_string();
    fails(program().args(["serve", "--bind", &address]), 1, &address);
    let echo = Server::echo();
    let address = echo.address.to_string();
    fails(program().args(["stat", "--memory-node", &address]), 1, "no statistics");
    let server = Server::memory_node();
    let address = server.address.to_string();
    fails(
        program().args(["alloc", "--size", "1TiB", "--memory-node", &address]),
        1,
        "out of frames",
    );
    let reference = said(&server, &["alloc", "--size", "10"]);
    let read = ["read", "--ref", &reference, "--offset", "8", "--length", "5"];
    fails(program().args(read).args(["--memory-node", &address]), 2, "--offset 8");
    let last = if reference.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{last}", &reference[..127]);
    let free = ["free", "--ref", &forged, "--memory-node", &address];
    fails(program().args(free), 1, "not made by this memory node");
}

/// A service in a process of its own, killed in the end if it must be.
struct Service {
    child: Child,
    address: SocketAddrV4,
    stderr: BufReader<ChildStderr>,
}

impl Service {
    fn start(arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["serve", "--bind", "127.0.0.1:0"]).args(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it was just built");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("ready ").expect(&line).parse().expect("an address");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, address, stderr }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args([name, &pid]).status();
        assert!(kill.expect("kill is there").success());
    }

    /// What it says on standard error up to and with the next line that has `part`.
    fn said_until(&mut self, part: &str) -> String {
        let mut text = String::new();
        let mut start = 0;
        while !text[start..].contains(part) {
            start = text.len();
            assert!(self.stderr.read_line(&mut text).expect("text") > 0, "no {part}: {text}");
        }
        text
    }

    /// Asks it to stop; returns what it printed to standard error, and was not read yet.
    fn stop(mut self) -> String {
        self.signal("-TERM");
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < end, "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.child.wait().expect("our child").success());
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn echo_and_forward() {
    let echo = Service::start(&[]);
    let to = echo.address.to_string();
    let mut forward =
        Service::start(&["--forward-to", &to, "--answer-size", "1MiB", "--report", "100ms"]);
    let node = node();
    let peer = node.connect(forward.address).expect("it runs");
    for size in [0, 10, 1_000, 9_000, 300_000] {
        let body = pattern(size, 2);
        let mut answer = vec![0; size];
        let args = [Arg::Inline(&body), Arg::Inline(b"")];
        let reply = node.call(peer, Method(3), &args, &mut answer).expect("an answer");
        assert_eq!((reply.status, reply.results().len()), (Status::OK, 2));
        assert!(answer == body);
    }
    let mut text = forward.said_until("requests/s");
    forward.signal("-USR1");
    text += &forward.said_until(" s completed ");
    text += &forward.stop();
    assert!(text.contains("requests/s"), "{text}");
    assert!(text.contains("served requests"), "{text}");
    assert!(text.contains(" s opened "), "what happened last: {text}");
    assert!(text.contains(" s request ") && text.contains(" s completed "), "{text}");
    // Nobody to forward to any more.
    let lonely = Service::start(&["--forward-to", &to]);
    echo.stop();
    let peer = node.connect(lonely.address).expect("it runs");
    let reply = node.call_with(
        peer,
        Method(3),
        &[],
        &mut [],
        dmrpc_cn::CallOptions {
            // Its own way to find out, 1.5 s, comes first.
            deadline: Some(dmrpc_cn::Duration::from_secs(20)),
            ..dmrpc_cn::CallOptions::default()
        },
    );
    assert_eq!(reply.expect("an answer").status, Status::NESTED_FAILED);
    assert!(lonely.stop().contains("nobody answers"));
}
