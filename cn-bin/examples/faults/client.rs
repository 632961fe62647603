//! A client that works on memory, whatever happens to the network and the memory node.

use std::path::Path;
use std::time::{Duration, Instant};

use dmrpc_choice::AnyDevice;
use dmrpc_cn::memory::{ALL_RIGHTS, Cause};
use dmrpc_cn::{
    CallError, CallOptions, Error, IdleStrategy, Memory, Node, NodeConfig, OperationError, Peer,
    Ref,
};
use dmrpc_host::captured::Captured;
use dmrpc_udp::{UdpConfig, UdpDevice};

use super::{Common, Random};

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
    connects_failed: u64,
    bytes_compared: u64,
}

struct Client<'n> {
    node: &'n Node<AnyDevice>,
    memory: Memory<'n, AnyDevice>,
    random: Random,
    kept: Vec<(Ref, Vec<u8>)>,
    account: Account,
    lost: bool,
}

/// Works for so long, gives everything back, and prints the account.
pub(super) fn run(common: &Common, pcap: Option<&Path>) {
    let any = "0.0.0.0:0".parse().expect("an address");
    let config =
        NodeConfig { idle: IdleStrategy::Sleep, datagram_bytes: 1472, ..NodeConfig::at(any) };
    let mut udp = UdpConfig::at(any);
    udp.datagram_bytes_max = config.datagram_bytes;
    let device = UdpDevice::open(udp).expect("a socket");
    let local = device.local_addr();
    let device = match pcap {
        None => AnyDevice::Udp(device),
        Some(path) => {
            let captured = Captured::new(device, local, path);
            AnyDevice::UdpCaptured(captured.expect("a capture file"))
        }
    };
    let node = Node::new(device, local, &config).expect("a node");
    let until = Instant::now() + Duration::from_secs(common.seconds);
    let mut random = Random(common.seed);
    let mut account = Account::default();
    while Instant::now() < until {
        let peer = match node.connect(common.memory_node) {
            Ok(peer) => peer,
            Err(_) => {
                account.connects_failed += 1;
                continue;
            }
        };
        account.sessions += 1;
        let options = CallOptions {
            deadline: Some(dmrpc_cn::Duration::from_secs(3)),
            ..CallOptions::default()
        };
        let memory = node.memory(peer).with_options(options);
        let kept = Vec::new();
        let mut client = Client { node: &node, memory, random, kept, account, lost: false };
        client.session(peer, until);
        (random, account) = (client.random, client.account);
        node.disconnect(peer);
    }
    let Account { begun, done, refused, not_executed, unknown, sessions, .. } = account;
    assert_eq!(begun, done + refused + not_executed + unknown, "every call is accounted for");
    println!(
        "{{\"app\":\"faults_client\",\"seed\":{},\"calls\":{begun},\"done\":{done},\
         \"refused\":{refused},\"not_executed\":{not_executed},\"unknown\":{unknown},\
         \"sessions\":{sessions},\"connects_failed\":{},\"bytes_compared\":{},\"wrong\":0}}",
        common.seed, account.connects_failed, account.bytes_compared,
    );
}

impl Client<'_> {
    /// Works until the time is over, or the session.
    fn session(&mut self, peer: Peer, until: Instant) {
        while Instant::now() < until && !self.lost {
            match self.random.below(6) {
                0 | 1 => self.put(),
                2 => self.read(),
                3 => self.write(),
                4 => self.claim(),
                _ => self.drop_one(),
            }
            if !self.node.is_up(peer) && !self.lost {
                // Suspected, perhaps: calls fail at once until it is heard of again.
                std::thread::sleep(Duration::from_millis(20));
                self.node.poll();
                self.lost = self.node.peer_incarnation(peer).is_none();
            }
        }
        while !self.lost && !self.kept.is_empty() {
            self.drop_one();
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
            Cause::Call(error) => {
                self.account.not_executed += 1;
                let over = matches!(error, Error::SessionLost { .. } | Error::StalePeer);
                self.lost |= over;
            }
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
            assert_eq!(out, self.kept[at].1[offset..][..out.len()], "the bytes of a reference");
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
            assert_eq!(out, bytes, "what was taken");
            self.account.bytes_compared += out.len() as u64;
        }
    }
}
