//! DPDK's environment, from our own configuration.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::DpdkError;
use crate::{log, sys};

/// How DPDK is started.
#[derive(Clone, Debug, Default)]
pub struct EalConfig {
    /// PCI addresses of devices to be used, which have to be bound to a driver that DPDK knows.
    pub pci: Vec<String>,
    /// Further arguments, as DPDK documents them.
    pub arguments: Vec<String>,
    /// Whether to do without huge pages. Slower; no zero-copy over `net_memif`.
    pub no_huge: bool,
    /// Memory without huge pages, in MiB. With them, memory is taken as it is needed.
    pub memory_mib: u32,
    /// Cores that DPDK's own threads may run on.
    pub cores: Vec<usize>,
}

/// DPDK, started in this process. It cannot be stopped and started again.
#[derive(Debug)]
pub struct Eal {
    no_huge: bool,
}

/// What the names of DPDK's files begin with; the process's number follows.
const PREFIX: &str = "dmrpc-";

/// Whether DPDK was started.
static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. The calling thread is one that it knows from then on.
    ///
    /// It runs *in memory*: no configuration files, no sockets, huge pages without names, so that
    /// nothing is left behind however the process ends.
    ///
    /// # Errors
    /// [`DpdkError`]: no huge pages, the wrong release, or what DPDK says.
    pub fn start(config: &EalConfig) -> Result<Self, DpdkError> {
        let (compiled, found) = sys::versions();
        if !is_release(&found, &compiled) {
            return Err(DpdkError::Version { compiled, found });
        }
        if !config.no_huge && !huge_page_is_free() {
            return Err(DpdkError::NoHugePages);
        }
        let arguments = arguments(config);
        let texts: Vec<CString> =
            arguments.iter().map(|text| c_string(text)).collect::<Result<_, _>>()?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(DpdkError::AlreadyStarted);
        }
        log::capture();
        let started = log::with_standard_files(|| sys::start(&texts));
        remove_runtime_folder();
        let said = log::take();
        // After the flags for DPDK, which might say otherwise.
        sys::hear_of_links();
        match started {
            Ok(()) => Ok(Self { no_huge: config.no_huge }),
            Err(source) => {
                let said = if said.is_empty() { source.to_string() } else { said };
                Err(DpdkError::Start { arguments: arguments[1..].join(" "), said })
            }
        }
    }

    /// Whether memory comes from huge pages.
    pub fn has_huge_pages(&self) -> bool {
        !self.no_huge
    }

    /// Makes a virtual device of `NAME[,KEY=VALUE...]` and returns its name, which is its port's.
    ///
    /// # Errors
    /// [`DpdkError::Vdev`].
    pub fn add_vdev(&self, text: &str) -> Result<String, DpdkError> {
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        if sys::port_by_name(&c_string(name)?).is_some() {
            return Err(DpdkError::Twice { name: name.to_owned() });
        }
        log::take();
        sys::add_vdev(&c_string(name)?, &c_string(arguments)?).map_err(|source| {
            let said = match log::take() {
                said if said.is_empty() => source.to_string(),
                said => said,
            };
            DpdkError::Vdev { given: text.to_owned(), said, root: may_have_interfaces() }
        })?;
        Ok(name.to_owned())
    }

    /// The names of all ports that there are.
    pub fn ports(&self) -> Vec<String> {
        sys::ports().into_iter().filter_map(sys::port_name).collect()
    }

    /// Makes the calling thread one that DPDK knows: its pools then have a cache for it. The thread
    /// that called [`Eal::start`] is one already.
    ///
    /// # Errors
    /// [`DpdkError::Port`]: there are too many threads.
    pub fn register_thread(&self) -> Result<(), DpdkError> {
        sys::register_thread().map_err(|source| DpdkError::Port {
            port: "a thread".to_owned(),
            doing: "registering",
            source,
            said: log::take(),
        })
    }
}

/// Whether this process may have interfaces of the kernel's, as root usually does: `CAP_NET_ADMIN`
/// and `CAP_NET_RAW` (capabilities(7): bits of a mask).
fn may_have_interfaces() -> bool {
    const BOTH: u64 = 1 << 12 | 1 << 13;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & BOTH == BOTH)
}

/// Removes the folder that DPDK makes for files even when it is to make none, and those of
/// processes that were killed before they came to it.
fn remove_runtime_folder() {
    let folder = sys::runtime_folder();
    // They fail if there is none, or if others have something there.
    let _ = fs::remove_dir(&folder);
    if let Some(parent) = folder.parent() {
        remove_folders_of_the_dead(parent);
        let _ = fs::remove_dir(parent);
    }
}

/// Removes from `parent` the empty folders of our processes that are no more.
fn remove_folders_of_the_dead(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Whether `found`, such as "DPDK 22.11.11", is of `release`, such as "22.11".
fn is_release(found: &str, release: &str) -> bool {
    let number = found.strip_prefix("DPDK ").unwrap_or(found);
    number.strip_prefix(release).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

pub(crate) fn c_string(text: &str) -> Result<CString, DpdkError> {
    CString::new(text).map_err(|_| DpdkError::Argument { given: text.to_owned() })
}

/// Whether a huge page of any size is free.
fn huge_page_is_free() -> bool {
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let free = sizes.filter_map(|size| fs::read_to_string(size.path().join("free_hugepages")).ok());
    free.filter_map(|count| count.trim().parse::<u64>().ok()).any(|count| count > 0)
}

fn arguments(config: &EalConfig) -> Vec<String> {
    let cores: Vec<String> = config.cores.iter().map(usize::to_string).collect();
    // One thread of ours, which pins itself: DPDK is to start no workers.
    let lcores = if cores.is_empty() { "0".to_owned() } else { format!("0@({})", cores.join(",")) };
    let mut arguments = vec![
        "dmrpc".to_owned(),
        format!("--lcores={lcores}"),
        // Of "in memory", which cannot be had without huge pages, the part that can.
        if config.no_huge { "--no-shconf" } else { "--in-memory" }.to_owned(),
        "--no-telemetry".to_owned(),
        format!("--file-prefix={PREFIX}{}", std::process::id()),
        "--log-level=*:error".to_owned(),
    ];
    if config.no_huge {
        arguments.push("--no-huge".to_owned());
        arguments.push(format!("-m{}", config.memory_mib.max(1)));
    }
    match config.pci.is_empty() {
        // Without a device that reads memory by itself, virtual addresses will do; a pool is then
        // one piece, without which AF_XDP shares only the first of its pieces with the kernel.
        true => arguments.extend(["--no-pci", "--iova-mode=va"].map(str::to_owned)),
        false => arguments.extend(config.pci.iter().map(|address| format!("--allow={address}"))),
    }
    arguments.extend(config.arguments.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert!(is_release("DPDK 22.11.11", "22.11"));
        assert!(is_release("DPDK 22.11", "22.11"));
        for other in ["DPDK 22.110", "DPDK 23.11.1", "DPDK 2.11", ""] {
            assert!(!is_release(other, "22.11"), "{other}");
        }
    }

    #[test]
    fn folders_of_the_dead_go() {
        let parent = std::env::temp_dir().join(format!("dmrpc-eal-test-{}", std::process::id()));
        // Numbers of processes end below this one (Linux, PID_MAX_LIMIT).
        let dead = parent.join(format!("{PREFIX}4194305"));
        let in_use = parent.join(format!("{PREFIX}4194306"));
        let alive = parent.join(format!("{PREFIX}{}", std::process::id()));
        let foreign = parent.join("testpmd-4194305");
        for folder in [&dead, &in_use.join("file"), &alive, &foreign] {
            fs::create_dir_all(folder).expect("a folder in it");
        }
        remove_folders_of_the_dead(&parent);
        assert!(!dead.exists(), "an empty folder of a process that is no more");
        assert!(in_use.exists() && alive.exists() && foreign.exists(), "others stay");
        fs::remove_dir_all(&parent).expect("the test's folder");
    }

    #[test]
    fn a_port_or_none_of_pci() {
        let none = arguments(&EalConfig { no_huge: true, memory_mib: 64, ..EalConfig::default() });
        assert!(none.contains(&"--no-pci".to_owned()) && none.contains(&"-m64".to_owned()));
        let pci = vec!["0000:01:00.0".to_owned()];
        let one = arguments(&EalConfig { pci, cores: vec![0, 1], ..EalConfig::default() });
        assert!(one.contains(&"--allow=0000:01:00.0".to_owned()));
        assert!(one.contains(&"--lcores=0@(0,1)".to_owned()) && !one.contains(&"-m1".to_owned()));
    }
}
