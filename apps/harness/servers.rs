//! The servers that a program measures against.
//!
//! Children of `--local` share one core, each would take all of it while it polls, and what is
//! compared has to run on the same core. So one of them runs at a time; the others are stopped
//! (SIGSTOP) until it is their turn.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dmrpc_choice::{AnyDevice, Driver, LinkKind, LocalLinks, local_links};
use dmrpc_host::affinity::{CoreError, CoreList, available_cores};
use dmrpc_host::cluster::{Cluster, Role as ClusterRole};
use dmrpc_host::idle::IdleStrategy;
use dmrpc_host::local::{LocalError, LocalProcess};

use crate::args::{Args, Driver as LocalDriver};
use crate::error::AppError;
use crate::local_pool::LocalPool;
use crate::raw::RAW_DEVICES;
use crate::said::Said;

/// How long a child may take until it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a child may take to end when asked to.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a stopped child may take until the kernel says so.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A lease that outlasts every pause of a child.
const LOCAL_LEASE: &str = "1h";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// A memory node.
    MemoryNode,
    /// A compute node that echoes.
    Echo,
    /// The bare socket.
    RawSocket,
    /// The bare device.
    RawDevice,
    /// The bare device with trains of datagrams.
    RawTrain,
}

impl Server {
    /// What messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryNode => "memory node (role mn)",
            Self::Echo => "echo service (role cn)",
            Self::RawSocket => "raw socket",
            Self::RawDevice => "raw device",
            Self::RawTrain => "raw trains",
        }
    }

    /// Whether it is there for `--raw` only.
    pub fn is_raw(self) -> bool {
        matches!(self, Self::RawSocket | Self::RawDevice | Self::RawTrain)
    }
}

/// How the servers of `--local` share their core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One at a time runs, with the idle strategy of the command line.
    InTurns,
    /// All run and sleep when there is nothing to do.
    Together,
}

/// A child and whether it is stopped.
struct Child {
    server: Server,
    address: SocketAddrV4,
    process: LocalProcess,
    paused: bool,
}

/// The servers of one run.
pub struct Servers {
    children: Vec<Child>,
    remote: Vec<(Server, SocketAddrV4)>,
    sharing: Sharing,
    client_core: Option<usize>,
    client_address: SocketAddrV4,
    encrypts: bool,
    /// Dropped last: children are gone before their links are.
    network: Network,
}

/// What carries packets between this program and its servers.
enum Network {
    /// What the command line says.
    Driver(Driver),
    /// A link to each child, which has its place among the children as its number.
    Links(Box<dyn LocalLinks>),
    /// A pool that this program made and the children map.
    Pool(LocalPool),
}

fn links(kind: LinkKind, args: &Args) -> Result<Network, AppError> {
    Ok(Network::Links(local_links(kind, &args.driver, args.datagram_bytes())?))
}

impl Servers {
    /// Whether packets to and from them are encrypted.
    pub fn encrypts(&self) -> bool {
        self.encrypts
    }

    /// Starts, or finds in the cluster file, those that are `needed`.
    ///
    /// # Errors
    /// [`AppError`]: whatever is missing or does not start.
    pub fn bring_up(args: &Args, needed: &[Server], sharing: Sharing) -> Result<Self, AppError> {
        match &args.cluster {
            Some(path) => Self::of_cluster(args, path, needed),
            None => Self::of_children(args, needed, sharing),
        }
    }

    fn of_cluster(args: &Args, path: &Path, needed: &[Server]) -> Result<Self, AppError> {
        let cluster = Cluster::load(path)?;
        let index = args.client_index.unwrap_or_default();
        let client = cluster.select(index, ClusterRole::ComputeNode)?;
        let mut remote = Vec::new();
        for &index in &args.server_index {
            let process = match cluster.select(index, ClusterRole::MemoryNode) {
                Ok(process) => process,
                Err(_) => cluster.select(index, ClusterRole::ComputeNode)?,
            };
            let server = match process.role {
                ClusterRole::MemoryNode => Server::MemoryNode,
                ClusterRole::ComputeNode => Server::Echo,
            };
            remote.push((server, process.address));
        }
        for server in needed.iter().filter(|server| !server.is_raw()) {
            if !remote.iter().any(|(present, _)| present == server) {
                return Err(AppError::NoServer { needed: server.name() });
            }
        }
        if let Some(list) = &args.cores {
            list.check()?;
        }
        let given = args.cores.as_ref().and_then(|list| list.cores().first().copied());
        let client_core = given.or(client.core);
        Ok(Self {
            children: Vec::new(),
            remote,
            sharing: Sharing::Together,
            client_core,
            client_address: client.address,
            encrypts: args.encrypt || cluster.encrypts(),
            network: Network::Driver(Driver::start_for(
                &args.driver,
                args.datagram_bytes(),
                endpoints(needed),
            )?),
        })
    }

    fn of_children(args: &Args, needed: &[Server], sharing: Sharing) -> Result<Self, AppError> {
        let cores = two_cores(args.cores.as_ref())?;
        let mut servers = Self {
            children: Vec::new(),
            remote: Vec::new(),
            sharing,
            client_core: Some(cores.0),
            client_address: args.bind,
            encrypts: args.encrypt,
            network: match args.local {
                Some(LocalDriver::Memif) => links(LinkKind::Memif, args)?,
                Some(LocalDriver::Veth) => links(LinkKind::Veth, args)?,
                Some(LocalDriver::Cxl) => {
                    let raw = if args.raw { RAW_DEVICES } else { 0 };
                    Network::Pool(LocalPool::make(args, endpoints(needed) + raw)?)
                }
                _ => Network::Driver(Driver::start(&args.driver, args.datagram_bytes(), 1)?),
            },
        };
        for (server, endpoints) in servers.wanted(args, needed) {
            let idle = match sharing {
                Sharing::InTurns => args.idle,
                Sharing::Together => IdleStrategy::Sleep,
            };
            let mut command = command(server, args, cores.1, idle)?;
            let number = servers.children.len();
            match &servers.network {
                Network::Links(links) => {
                    command.args(links.flags(number, endpoints)?);
                    links.settle(number, &mut command);
                }
                Network::Pool(pool) => {
                    command.args(pool.flags());
                }
                Network::Driver(_) => {
                    command.args(["--bind", "127.0.0.1:0"]);
                }
            }
            let said = Said::of(&mut command)?;
            let mut process = LocalProcess::spawn(server.name(), command)?;
            let line = match process.wait_line("ready ", READY_TIMEOUT) {
                Ok(line) => line,
                Err(error) => {
                    drop(process);
                    return Err(said.instead_of(error));
                }
            };
            said.ready();
            let address = line["ready ".len()..].trim().parse();
            let address = address.map_err(|_| AppError::BadReady { line })?;
            if let Network::Links(links) = &mut servers.network {
                links.connect(number, endpoints)?;
            }
            servers.children.push(Child { server, address, process, paused: false });
            if sharing == Sharing::InTurns {
                // Otherwise the next one would wait for its core.
                let child = servers.children.last_mut().expect("just pushed");
                child.pause()?;
            }
        }
        if let Network::Links(links) = &mut servers.network {
            links.seal();
        }
        Ok(servers)
    }

    /// The servers to bring up, each once, and to how many endpoints of ours: as often as it is
    /// named.
    fn wanted(&self, args: &Args, needed: &[Server]) -> Vec<(Server, usize)> {
        let mut wanted: Vec<(Server, usize)> = Vec::new();
        for &server in needed.iter().filter(|server| args.raw || !server.is_raw()) {
            let sockets = matches!(self.network, Network::Driver(_));
            if server == Server::RawSocket && !sockets {
                continue;
            }
            match wanted.iter_mut().find(|(known, _)| *known == server) {
                Some((_, endpoints)) => *endpoints += 1,
                None => wanted.push((server, 1)),
            }
        }
        wanted
    }

    /// Opens a device that reaches all servers but the raw ones, at `bind` unless its links say
    /// where it is.
    ///
    /// # Errors
    /// [`AppError::Device`], and [`AppError::Local`] if a child has ended.
    pub fn device(&mut self, bind: SocketAddrV4) -> Result<AnyDevice, AppError> {
        self.open_device(bind, |server| !server.is_raw())
    }

    /// Opens a device that reaches one of the raw servers.
    ///
    /// # Errors
    /// As [`Servers::device`].
    pub fn raw_device(&mut self, args: &Args, server: Server) -> Result<AnyDevice, AppError> {
        self.open_device(args.bind, |other| other == server)
    }

    fn open_device(
        &mut self,
        bind: SocketAddrV4,
        reaches: impl Fn(Server) -> bool,
    ) -> Result<AnyDevice, AppError> {
        if matches!(self.network, Network::Pool(_)) {
            // It frees the number of an endpoint that was closed, which it cannot while stopped.
            self.activate(Server::MemoryNode)?;
        }
        match &self.network {
            Network::Driver(driver) => Ok(driver.endpoint(bind)?),
            Network::Pool(pool) => {
                if !self.children.iter().any(|child| child.server == Server::MemoryNode) {
                    pool.free_left();
                }
                Ok(pool.device(bind)?)
            }
            Network::Links(links) => {
                let children = self.children.iter().enumerate();
                let children = children.filter(|(_, child)| reaches(child.server));
                let numbers: Vec<usize> = children.map(|(number, _)| number).collect();
                Ok(links.device(&numbers)?)
            }
        }
    }

    /// The core that this program is to run on, if it matters.
    pub fn client_core(&self) -> Option<usize> {
        self.client_core
    }

    /// Where this program's own endpoint is to be bound.
    pub fn client_address(&self) -> SocketAddrV4 {
        self.client_address
    }

    /// Where a server is.
    ///
    /// # Errors
    /// [`AppError::NoServer`]: it was not asked for at the start.
    pub fn address(&self, server: Server) -> Result<SocketAddrV4, AppError> {
        let children = self.children.iter().map(|child| (child.server, child.address));
        let mut all = children.chain(self.remote.iter().copied());
        let found = all.find(|(present, _)| *present == server);
        found.map(|(_, address)| address).ok_or(AppError::NoServer { needed: server.name() })
    }

    /// Lets `server` run, and nobody else if they take turns.
    ///
    /// # Errors
    /// [`AppError::Local`]: a child has ended or cannot be controlled.
    pub fn activate(&mut self, server: Server) -> Result<(), AppError> {
        if self.sharing == Sharing::InTurns {
            for child in self.children.iter_mut().filter(|child| child.server != server) {
                child.pause()?;
            }
        }
        for child in self.children.iter_mut().filter(|child| child.server == server) {
            child.resume()?;
        }
        Ok(())
    }

    /// Asks the children to end and waits until they have.
    ///
    /// # Errors
    /// [`AppError::Local`]: one of them had ended already, or ended as failed.
    pub fn take_down(mut self) -> Result<(), AppError> {
        for child in &mut self.children {
            child.resume()?;
            let status = child.process.stop(STOP_TIMEOUT)?;
            if !status.success() {
                let name = child.server.name().to_owned();
                return Err(LocalError::Ended { name, status: Some(status) }.into());
            }
        }
        Ok(())
    }
}

impl Child {
    fn pause(&mut self) -> Result<(), AppError> {
        if self.paused {
            return Ok(());
        }
        self.check_alive()?;
        self.process.signal(libc::SIGSTOP)?;
        let end = Instant::now() + PAUSE_TIMEOUT;
        while !is_stopped(self.process.id()) {
            self.check_alive()?;
            if Instant::now() > end {
                let (name, awaited) = (self.server.name().to_owned(), "stop".to_owned());
                return Err(LocalError::Timeout { name, awaited, timeout: PAUSE_TIMEOUT }.into());
            }
        }
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), AppError> {
        if self.paused {
            self.process.signal(libc::SIGCONT)?;
            self.paused = false;
        }
        self.check_alive()
    }

    fn check_alive(&mut self) -> Result<(), AppError> {
        match self.process.try_wait()? {
            None => Ok(()),
            status => Err(LocalError::Ended { name: self.server.name().to_owned(), status }.into()),
        }
    }
}

/// How many endpoints of ours are at work at a time: as many as the server named most often has.
fn endpoints(needed: &[Server]) -> usize {
    let times = |server: &Server| needed.iter().filter(|other| *other == server).count();
    needed.iter().map(times).max().unwrap_or(1)
}

/// Whether the kernel has stopped a process.
fn is_stopped(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The state follows the name in brackets, which may itself contain brackets.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// The core of this program and that of its children.
fn two_cores(given: Option<&CoreList>) -> Result<(usize, usize), AppError> {
    let cores = match given {
        Some(list) => {
            list.check()?;
            list.cores().to_vec()
        }
        None => available_cores()?,
    };
    match cores[..] {
        [client, server, ..] => Ok((client, server)),
        _ => Err(CoreError::TooFew { needed: 2, given: cores.len() }.into()),
    }
}

/// What starts `server` on `core`.
fn command(
    server: Server,
    args: &Args,
    core: usize,
    idle: IdleStrategy,
) -> Result<Command, AppError> {
    let datagram_size = format!("{}B", args.datagram_bytes());
    let (core, idle) = (core.to_string(), idle.to_string());
    let mut command = match server {
        Server::MemoryNode => {
            let mut command = Command::new(sibling("dmrpc-mn", "dmrpc-mn")?);
            command.args(["--idle", &idle, "--lease", LOCAL_LEASE]);
            command.args(["--pool-size", &args.pool_size.to_string()]);
            if args.no_payload_check {
                command.arg("--no-payload-check");
            }
            command
        }
        Server::Echo | Server::RawSocket | Server::RawDevice | Server::RawTrain => {
            let own = std::env::current_exe().map_err(AppError::Output)?;
            let mut command = Command::new(own);
            let role = match server {
                Server::Echo => "echo",
                Server::RawSocket => "raw-socket",
                Server::RawDevice => "raw-device",
                _ => "raw-train",
            };
            command.args(["--role", role, "--idle", &idle]);
            if args.no_payload_check {
                command.arg("--no-payload-check");
            }
            command
        }
    };
    if args.encrypt {
        command.arg("--encrypt");
    }
    if server == Server::Echo
        && let Some(sessions) = args.sessions
    {
        command.args(["--sessions", &sessions.to_string()]);
    }
    command.args(["--cores", &core, "--datagram-size", &datagram_size]);
    command.args(["--congestion", &args.congestion.to_string()]);
    if let Some(file) = &args.key_file {
        command.arg("--key-file").arg(file);
    }
    Ok(command)
}

/// The program `name` beside this one.
fn sibling(name: &str, package: &'static str) -> Result<PathBuf, AppError> {
    let path = std::env::current_exe().map_err(AppError::Output)?.with_file_name(name);
    if path.exists() { Ok(path) } else { Err(AppError::NotBuilt { path, package }) }
}
