//! A client that works on memory, whatever happens to the network and the memory node.

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant};

use dmrpc_choice::AnyDevice;
use dmrpc_cn::memory::{ALL_RIGHTS, Cause};
use dmrpc_cn::{
    Arg, CallError, CallOptions, Error, IdleStrategy, Memory, Method, Node, NodeConfig,
    OperationError, Peer, Ref, Status,
};
use dmrpc_host::captured::Captured;
use dmrpc_host::key;
use dmrpc_udp::{UdpConfig, UdpDevice};

use super::{Common, Random, Secrecy};

/// References that it keeps at most.
const KEEP: usize = 8;

/// How every call ended.
#[derive(Debug, Default)]
struct Account {
    begun: u64,
    done: u64,
    /// Answered with an error of the memory node.
    refused: u64,
    /// Certainly not executed.
    not_executed: u64,
    unknown: u64,
    sessions: u64,
    bytes_compared: u64,
    /// Calls that went to the service and back.
    passed_on: u64,
}

struct Client<'n> {
    node: &'n Node<AnyDevice>,
    memory: Memory<'n, AnyDevice>,
    service: Option<Peer>,
    random: Random,
    kept: Vec<(Ref, Vec<u8>)>,
    account: Account,
    /// Whether its packets are changed on the way.
    hostile: bool,
}

/// Works for so long, gives everything back, and prints the account.
pub(super) fn run(
    common: &Common,
    pcap: Option<&Path>,
    hostile: bool,
    service: Option<SocketAddrV4>,
    secrecy: &Secrecy,
) {
    let any = "0.0.0.0:0".parse().expect("an address");
    let config = NodeConfig {
        idle: IdleStrategy::Sleep,
        datagram_bytes: 1472,
        key: key::load(secrecy.key_file.as_deref()).expect("a key"),
        encrypt: secrecy.encrypt,
        ..NodeConfig::at(any)
    };
    let mut udp = UdpConfig::at(any);
    udp.datagram_bytes_max = config.datagram_bytes;
    let device = UdpDevice::open(udp).expect("a socket");
    let local = device.local_addr();
    let device = match pcap {
        None => AnyDevice::plain(device),
        Some(path) => {
            let captured = Captured::new(device.into(), local, path);
            AnyDevice::Captured(captured.expect("a capture file"))
        }
    };
    let node = Node::new(device, local, &config).expect("a node");
    let mut client = Client {
        memory: node.memory(connect(&node, common, common.memory_node)),
        service: service.map(|service| connect(&node, common, service)),
        node: &node,
        random: Random(common.seed),
        kept: Vec::new(),
        account: Account { sessions: 1, ..Account::default() },
        hostile,
    };
    client.work(Instant::now() + Duration::from_secs(common.seconds));
    node.disconnect_all();
    let Account { begun, done, refused, not_executed, unknown, sessions, .. } = client.account;
    assert_eq!(begun, done + refused + not_executed + unknown, "every call is accounted for");
    println!(
        "{{\"app\":\"faults_client\",\"seed\":{},\"hostile\":{hostile},\"calls\":{begun},\
         \"done\":{done},\"refused\":{refused},\"not_executed\":{not_executed},\
         \"unknown\":{unknown},\"sessions\":{sessions},\"bytes_compared\":{},\
         \"passed_on\":{},\"wrong\":0}}",
        common.seed, client.account.bytes_compared, client.account.passed_on,
    );
}

/// The only session of each that it asks for: the library opens those that follow.
fn connect(node: &Node<AnyDevice>, common: &Common, to: SocketAddrV4) -> Peer {
    let end = Instant::now() + Duration::from_secs(common.seconds);
    loop {
        match node.connect(to) {
            Ok(peer) => return peer,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

fn options() -> CallOptions {
    let deadline = Some(dmrpc_cn::Duration::from_secs(3));
    CallOptions { deadline, ..CallOptions::default() }
}

impl Client<'_> {
    /// Works until the time is over, and gives everything back.
    fn work(&mut self, until: Instant) {
        self.memory = self.memory.with_options(options());
        while Instant::now() < until {
            match self.random.below(6) {
                0 | 1 => self.put(),
                2 => self.read(),
                3 => self.write(),
                4 => self.claim(),
                5 if self.service.is_some() && self.random.below(2) == 0 => self.call(),
                _ => self.drop_one(),
            }
            self.look_for_losses();
            if !self.node.is_up(self.memory.peer()) {
                // Suspected or lost: calls fail at once until it is heard of again.
                std::thread::sleep(Duration::from_millis(20));
                self.node.poll();
            }
        }
        while !self.kept.is_empty() {
            self.drop_one();
        }
    }

    /// What a lost session owned is gone: the references of an earlier life for certain, the
    /// others after their grace.
    fn look_for_losses(&mut self) {
        while let Some(loss) = self.node.next_loss() {
            self.account.sessions += 1;
            self.kept.retain(|(reference, _)| !loss.took_ref(reference));
        }
    }

    /// Enters how a call ended.
    fn enter<T>(&mut self, result: Result<T, OperationError>) -> Option<T> {
        self.account.begun += 1;
        let error = match result {
            Ok(value) => {
                self.account.done += 1;
                return Some(value);
            }
            Err(error) => error,
        };
        match error.cause {
            Cause::Call(Error::Call { error: CallError::OutcomeUnknown, .. }) => {
                self.account.unknown += 1;
            }
            Cause::Call(_) => self.account.not_executed += 1,
            _ => self.account.refused += 1,
        }
        None
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = 1 + if self.random.below(4) == 0 {
            self.random.below(200_000)
        } else {
            self.random.below(9_000)
        };
        let seed = self.random.below(256);
        (0..length).map(|at| (at * 31 + at / 253 + seed) as u8).collect()
    }

    fn any(&mut self) -> Option<usize> {
        (!self.kept.is_empty()).then(|| self.random.below(self.kept.len()))
    }

    fn put(&mut self) {
        if self.kept.len() == KEEP {
            return self.drop_one();
        }
        let bytes = self.bytes();
        let made = self.memory.put(&bytes);
        if let Some(reference) = self.enter(made) {
            self.kept.push((reference, bytes));
        }
    }

    /// Compares some bytes of a reference.
    fn read(&mut self) {
        let Some(at) = self.any() else { return };
        let length = self.kept[at].1.len();
        let offset = self.random.below(length);
        let mut out = vec![0; 1 + self.random.below(length - offset)];
        let read = self.memory.read_ref(&self.kept[at].0, offset as u64, &mut out);
        if self.enter(read).is_some() {
            let same = out == self.kept[at].1[offset..][..out.len()];
            assert!(same || self.hostile, "the bytes of a reference");
            self.account.bytes_compared += out.len() as u64;
        }
    }

    /// Maps a reference, changes the copy, and makes a reference of that.
    fn write(&mut self) {
        let Some(at) = self.any() else { return };
        let mapped = self.memory.map_ref(&self.kept[at].0);
        let Some(region) = self.enter(mapped) else { return };
        let (reference, mut bytes) = (self.kept[at].0, self.kept[at].1.clone());
        let offset = self.random.below(bytes.len());
        let change = self.bytes();
        let change = &change[..change.len().min(bytes.len() - offset)];
        let written = self.memory.write(region, offset as u64, change);
        if self.enter(written).is_some() {
            bytes[offset..][..change.len()].copy_from_slice(change);
            let made = self.memory.create_ref(region, 0, bytes.len() as u64, ALL_RIGHTS);
            if let Some(made) = self.enter(made) {
                let dropped = self.memory.drop_ref(&reference);
                self.enter(dropped);
                self.kept[at] = (made, bytes);
            }
        }
        let freed = self.memory.free(region);
        self.enter(freed);
    }

    /// Passes a reference to the service, which answers with what it gets.
    fn call(&mut self) {
        let (Some(at), Some(peer)) = (self.any(), self.service) else { return };
        let (reference, mut bytes) = (self.kept[at].0, self.bytes());
        bytes.truncate(9_000);
        let (args, mut out) = ([Arg::Ref(reference), Arg::Inline(&bytes)], vec![0; bytes.len()]);
        let answer = self.node.call_with(peer, Method(1), &args, &mut out, options());
        self.account.begun += 1;
        match answer {
            Ok(reply) if reply.status == Status::OK => {
                assert!(reply.refs().eq([reference]), "the reference that was passed on");
                assert!(out == bytes, "the bytes that were passed on");
                self.account.bytes_compared += bytes.len() as u64;
                self.account.passed_on += 1;
                self.account.done += 1;
            }
            Ok(_) => self.account.refused += 1,
            Err(Error::Call { error: CallError::OutcomeUnknown, .. }) => self.account.unknown += 1,
            Err(_) => self.account.not_executed += 1,
        }
    }

    fn claim(&mut self) {
        let Some(at) = self.any() else { return };
        let claimed = self.memory.claim_ref(&self.kept[at].0);
        match self.enter(claimed) {
            Some(claimed) => self.kept[at].0 = claimed,
            // Perhaps it was claimed and the answer got lost: then nobody has its name.
            None => drop(self.kept.swap_remove(at)),
        }
    }

    /// Ends one, comparing its bytes on the way or not.
    fn drop_one(&mut self) {
        let Some(at) = self.any() else { return };
        let (reference, bytes) = self.kept.swap_remove(at);
        if self.random.below(2) == 0 {
            let dropped = self.memory.drop_ref(&reference);
            self.enter(dropped);
            return;
        }
        let mut out = vec![0; bytes.len()];
        let taken = self.memory.take(&reference, &mut out);
        if self.enter(taken).is_some() {
            assert!(out == bytes || self.hostile, "what was taken");
            self.account.bytes_compared += out.len() as u64;
        }
    }
}
