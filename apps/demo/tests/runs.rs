//! The demo over each driver, and what it refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use dmrpc_host as _;

/// The file that is sent: some pages, the last one not whole.
const BYTES: usize = 300_001;

fn demo() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_demo"))
}

/// The memory node is of another package, so cargo does not build it for this test.
fn build_memory_node() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let release = demo().parent().is_some_and(|folder| folder.ends_with("release"));
        let profile = if release { "release" } else { "test" };
        let args = ["build", "--quiet", "-p", "dmrpc-mn", "--profile", profile];
        let features = if cfg!(feature = "dpdk") { &["--features", "dpdk"][..] } else { &[] };
        let status = Command::new(env!("CARGO")).args(args).args(features).status();
        assert!(status.expect("cargo").success());
    });
}

/// A folder with a file to send, removed in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dmrpc-demo-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let bytes: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        std::fs::write(folder.join("file"), bytes).expect("a file");
        Self(folder)
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(demo());
        command.arg("--file").arg(self.0.join("file")).arg("--out").arg(self.0.join("out"));
        command.args(line.split_whitespace()).output().expect("it starts")
    }

    /// Both ways of sending are verified, and both files are written.
    fn works(&self, line: &str) {
        build_memory_node();
        let output = self.run(line);
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {said}{error}");
        for part in ["by reference: ", "by value: "] {
            let verified =
                said.lines().any(|line| line.starts_with(part) && line.contains("verified"));
            assert!(verified, "{line}: {said}");
        }
        let files: Vec<Vec<u8>> = std::fs::read_dir(self.0.join("out"))
            .expect("a folder")
            .map(|entry| std::fs::read(entry.expect("a file").path()).expect("a file"))
            .collect();
        assert!(matches!(&files[..], [a, b] if a.len() == BYTES && b.len() == BYTES && a != b));
    }

    /// One line that says what was wrong and what would be right.
    fn refuses(&self, line: &str, code: i32, parts: &[&str]) {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {error}");
        assert_eq!(error.lines().count(), 1, "{line}: {error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{line}: {error}");
    }
}

#[test]
fn over_udp() {
    Folder::new("udp").works("--local udp");
}

#[test]
fn through_a_pool() {
    Folder::new("cxl").works("--local cxl");
    let pools = std::fs::read_dir("/dev/shm").expect("tmpfs").flatten();
    let names = pools.filter_map(|entry| entry.file_name().into_string().ok());
    // Another test's may be there; each is named for its process.
    let left = names.filter_map(|name| name.strip_prefix("dmrpc-demo-")?.parse::<u32>().ok());
    for process in left {
        assert!(Path::new(&format!("/proc/{process}")).exists(), "the pool of {process} is left");
    }
}

#[cfg(feature = "dpdk")]
#[test]
fn over_dpdk() {
    use dmrpc_host::network::Network;
    if dmrpc_conformance::may(Network::new(), "network namespaces") {
        Folder::new("veth").works("--local veth --dpdk-no-huge");
    }
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn without_dpdk_it_says_how_to_get_it() {
    let parts = ["built without DPDK", "libdpdk-dev", "--features dpdk"];
    Folder::new("without").refuses("--local veth", 1, &parts);
}

#[test]
fn it_brings_up_its_own() {
    let folder = Folder::new("refused");
    folder.refuses("--driver udp", 2, &["--local", "instead of --driver"]);
    folder.refuses("--pool /dev/shm/pool", 2, &["--local", "--pool"]);
    folder.refuses("--local udp --dpdk-no-huge", 2, &["--dpdk-no-huge is for DPDK"]);
}
