//! What `dmrpc-mn` says where it may not have what it is told to use, or somebody else has it: one
//! line, with what was wrong and what would be right.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dmrpc_host as _;

/// A folder, removed in the end with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dmrpc-rights-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// A file there that nobody may read or write.
    fn forbidden(&self, name: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, "a key of more than sixteen bytes").expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o000)).expect("ours");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, with the rights of its user alone: root without any capability is a user like any
/// other.
fn command(line: &str) -> Command {
    let program = env!("CARGO_BIN_EXE_dmrpc-mn");
    let is_root = fs::metadata("/proc/self").expect("/proc").uid() == 0;
    let mut command = Command::new(if is_root { "setpriv" } else { program });
    if is_root {
        command.args(["--bounding-set=-all", "--inh-caps=-all", program]);
    }
    command.args(line.split(' ')).args(["--pool-size", "32MiB"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn refused(mut command: Command, code: i32, parts: &[&str]) {
    let output = command.output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("dmrpc-mn: "), "{error}");
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[test]
fn files_that_may_not_be_used() {
    let folder = Folder::new("files");
    let key = folder.forbidden("key");
    let line = format!("--bind 127.0.0.1:0 --key-file {key}");
    refused(command(&line), 2, &[&key, "Permission denied", "may read"]);
    let pool = format!("/dev/shm/dmrpc-rights-{}", std::process::id());
    fs::write(&pool, [0; 4096]).expect("tmpfs");
    fs::set_permissions(&pool, Permissions::from_mode(0o000)).expect("ours");
    refused(command(&format!("--pool {pool}")), 1, &[&pool, "Permission denied", "may read and"]);
    fs::remove_file(&pool).expect("ours");
    fs::set_permissions(&folder.0, Permissions::from_mode(0o500)).expect("ours");
    let inside = folder.0.join("new").display().to_string();
    refused(command(&format!("--pool {inside}")), 1, &[&inside, "Permission denied", "/dev/shm"]);
    let line = format!("--bind 127.0.0.1:0 --pcap {inside}");
    refused(command(&line), 1, &["--pcap", &inside, "Permission denied", "give a file"]);
    assert!(!Path::new(&inside).exists());
}

#[test]
fn ports_that_are_taken_or_others() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    refused(command(&format!("--bind {address}")), 1, &[&address, "in use", "another port"]);
    let free_below = |line: &str| {
        // Where everybody may bind all ports there is nothing to refuse.
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let first: u16 = text.expect("/proc").trim().parse().expect("a port");
        if first > 80 {
            refused(command(line), 1, &["127.0.0.1:80", "not permitted", "above 1023"]);
        }
    };
    free_below("--bind 127.0.0.1:80");
}

#[test]
fn huge_pages_that_nobody_reserved() {
    let text = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    if text.is_ok_and(|text| text.trim() == "0") {
        let line = "--bind 127.0.0.1:0 --huge-pages";
        refused(command(line), 1, &["32MiB of huge pages", "nr_hugepages"]);
    }
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use dmrpc_conformance::Killed;

    use super::*;

    /// Another release of DPDK than the one that it was built for, as far as it can tell.
    #[test]
    fn another_release() {
        let folder = Folder::new("release");
        let (source, library) = (folder.0.join("other.c"), folder.0.join("other.so"));
        let text = "const char *rte_version(void) { return \"DPDK 99.11.0\"; }\n";
        fs::write(&source, text).expect("a file");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().expect("a C compiler").success());
        let mut command =
            command("--driver dpdk --dpdk-no-huge --dpdk-vdev net_null0 --bind 10.9.0.1:7400");
        command.env("LD_PRELOAD", &library);
        refused(command, 1, &["built for DPDK 2", "'DPDK 99.11.0'", "rebuild, or install"]);
    }

    #[test]
    fn a_device_that_another_process_has() {
        let folder = Folder::new("device");
        let socket = folder.0.join("socket").display().to_string();
        let line = |ip: &str| {
            format!(
                "--driver dpdk --dpdk-no-huge --bind {ip}:7400 --idle sleep --dpdk-vdev \
                 net_memif0,role=server,id=0,socket={socket},socket-abstract=no"
            )
        };
        let (_first, _) = Killed::serving(&mut command(&line("10.9.0.1")));
        let parts = [&socket, "in use", "stop the process that has it"];
        refused(command(&line("10.9.0.2")), 1, &parts);
    }

    #[test]
    fn interfaces_that_need_more_rights() {
        let line = "--driver dpdk --dpdk-no-huge --bind 10.9.0.1:7400 --dpdk-vdev \
                    net_af_packet0,iface=lo";
        refused(command(line), 1, &["net_af_packet0,iface=lo", "AF_PACKET", "root"]);
    }
}
