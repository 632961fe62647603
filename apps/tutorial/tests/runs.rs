//! The README's tutorial, step by step: four processes, a cluster file and a key file.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A process, killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with the tutorial's files, removed in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    /// The cluster file with ports that are free now, and a key.
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("dmrpc-tutorial-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut text = include_str!("../cluster.toml").to_owned();
        let sockets = [7410, 7411, 7412, 7413].map(|port| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let free = socket.local_addr().expect("bound").port();
            text = text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{free}"));
            socket
        });
        drop(sockets);
        std::fs::write(folder.join("cluster.toml"), text).expect("a file");
        std::fs::write(folder.join("key"), "a key of more than sixteen bytes").expect("a file");
        Self(folder)
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.0).env("DMRPC_KEY_FILE", "key");
        command
    }

    fn start(&self, program: &Path, args: &[&str]) -> Killed {
        let mut command = self.command(program, args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready "), "{args:?}: {line}");
        Killed(child)
    }

    fn client(&self, file: &str) -> Output {
        self.command(tutorial(), &["client", "cluster.toml", file]).output().expect("it starts")
    }
}

fn tutorial() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tutorial"))
}

/// The memory node is of another package, so cargo does not build it for this test.
fn memory_node() -> PathBuf {
    let folder = tutorial().parent().expect("a folder");
    let program = folder.join("dmrpc-mn");
    if !program.exists() {
        let profile = if folder.ends_with("release") { "release" } else { "test" };
        let args = ["build", "--quiet", "-p", "dmrpc-mn", "--profile", profile];
        assert!(Command::new(env!("CARGO")).args(args).status().expect("cargo").success());
    }
    program
}

#[test]
fn a_letter_is_stamped_and_why_one_is_not_reaches_its_sender() {
    let folder = Folder::new();
    let cluster = ["--cluster", "cluster.toml", "--server-index", "0", "--pool-size", "16MiB"];
    let _memory = folder.start(&memory_node(), &cluster);
    let stamp = folder.start(tutorial(), &["stamp", "cluster.toml"]);
    let _desk = folder.start(tutorial(), &["desk", "cluster.toml"]);

    std::fs::write(folder.0.join("letter"), "Dear reader, all is well.").expect("a file");
    let output = folder.client("letter");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().last(), Some("[stamped] r, all is well."));

    // Too short for the stamp: what the memory node says comes back over both services.
    std::fs::write(folder.0.join("note"), "Hi!").expect("a file");
    let output = folder.client("note");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("was not stamped: write of 10 bytes"), "{error}");

    // Nobody to stamp: the desk's own reason.
    drop(stamp);
    let output = folder.client("letter");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");

    // Another key, and nobody speaks to it.
    let mut stranger = folder.command(tutorial(), &["client", "cluster.toml", "letter"]);
    stranger.env_remove("DMRPC_KEY_FILE").env("DMRPC_KEY", "some other key, long enough");
    let output = stranger.output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("same key"), "{error}");
}
