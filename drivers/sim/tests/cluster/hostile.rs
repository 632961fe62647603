//! A compute node that keeps to no rules: what it sends is changed and sealed again, invented, or
//! sent once more, from its own address and in its own sessions.

use std::net::SocketAddrV4;
use std::rc::Rc;

use dmrpc_core::endpoint::Counters;
use dmrpc_core::time::{Duration, Instant};
use dmrpc_core::wire::memory_op::{RegionName, RegionOperand, STEP_BYTES, STEPS_MAX, Step, put};
use dmrpc_core::wire::reference::{Ref, Rights};
use dmrpc_sim::cluster::Cluster;
use dmrpc_sim::forge;
use dmrpc_sim::network::Network;
use dmrpc_sim::random::Random;

use crate::client::{FIRST, Request};
use crate::compute::Cn;
use crate::net::{DATAGRAM_BYTES, Node, address, index_of};
use crate::program::any_bytes;

/// Packets of its own that it remembers.
const KEPT: usize = 64;

/// Packets, or operations, after which it calms down: a seed is not about it alone.
const EAGER: u64 = 1_000;

/// Makes bad packets of good ones.
pub(crate) struct Forger {
    random: Random,
    network: Network,
    index: usize,
    memory_nodes: usize,
    kept: Vec<(SocketAddrV4, Vec<u8>)>,
    next: Instant,
    /// Packets sent.
    sent: u64,
    /// Packets that a memory node refused to take for what they looked like.
    pub(crate) refused: u64,
}

/// Packets that were dropped, or were of nothing that is going on.
fn dropped(counters: &Counters) -> u64 {
    let bad = counters.malformed + counters.bad_length + counters.bad_version;
    let forged = counters.bad_checksum + counters.bad_tag;
    bad + forged + counters.unknown_session + counters.stale + counters.duplicates
}

impl Forger {
    pub(crate) fn new(index: usize, memory_nodes: usize, network: Network, seed: u64) -> Self {
        network.record_from(Some(address(index)));
        let random = Random::new(seed);
        let next = Instant::ZERO;
        Self { random, network, index, memory_nodes, kept: Vec::new(), next, sent: 0, refused: 0 }
    }

    /// Sends some packets, if it is time.
    pub(crate) fn act(&mut self, cluster: &mut Cluster<Node<'_>>) {
        let now = self.network.now();
        if now < self.next {
            return;
        }
        let most = if self.sent < EAGER { 3_000_000 } else { 300_000_000 };
        self.next = now + Duration::from_nanos(self.random.within(10_000..=most));
        for (_, to, bytes) in self.network.recorded() {
            if self.kept.len() == KEPT {
                self.kept.swap_remove(self.random.below(KEPT as u64) as usize);
            }
            self.kept.push((to, bytes));
        }
        for _ in 0..self.random.below(4) {
            self.send_one(cluster);
        }
    }

    fn send_one(&mut self, cluster: &mut Cluster<Node<'_>>) {
        let invented = self.kept.is_empty() || self.random.below(16) == 0;
        let (to, mut bytes) = if invented {
            let to = address(self.random.below(self.memory_nodes as u64) as usize);
            let length = self.random.below(DATAGRAM_BYTES as u64);
            (to, (0..length).map(|_| self.random.draw() as u8).collect())
        } else {
            self.kept[self.random.below(self.kept.len() as u64) as usize].clone()
        };
        match self.random.below(4) {
            // As it was, or as it was invented.
            0 => {}
            1 => self.change(&mut bytes),
            _ => {
                self.change(&mut bytes);
                forge::seal(&mut bytes);
            }
        }
        self.sent += 1;
        let (from, server) = (address(self.index), index_of(to));
        // Some are looked at alone, so that it can be told what became of them.
        if server < self.memory_nodes
            && self.random.below(4) == 0
            && let Some([was, is]) = cluster.hand_over(server, from, bytes.clone())
        {
            assert_eq!(is.datagrams_received, was.datagrams_received + 1);
            self.refused += u64::from(dropped(&is) > dropped(&was));
            return;
        }
        self.network.inject(from, to, &bytes);
    }
    fn change(&mut self, bytes: &mut Vec<u8>) {
        forge::change(bytes, DATAGRAM_BYTES, |bound| self.random.below(bound));
    }
}

/// Asks for this and that, and does not look at what it gets.
pub(crate) async fn program(cn: Cn) {
    let mut refs: Vec<Ref> = Vec::new();
    let mut region = RegionName(1 << 24);
    for operation in 0_u64.. {
        let node = cn.below(cn.memory_nodes);
        let named = RegionOperand::Named(region);
        let body = any_bytes(&cn, [0, 40, 5_000, 30_000][cn.below(4)]);
        let length = body.len() as u64;
        let random_steps = any_bytes(&cn, STEP_BYTES * cn.below(STEPS_MAX + 2));
        let steps: Vec<Step> = match cn.below(8) {
            0 => vec![Step::Alloc { length: 1 + length }],
            1 => vec![Step::Write { region: named, offset: cn.below(9_000) as u64 }],
            2 => vec![Step::Read { region: named, offset: 0, length: 1 + length }],
            3 => put(length, Rights::all()).to_vec(),
            4 => vec![Step::CreateRef { region: named, offset: 0, length: 1, rights: Rights::MAP }],
            5 => vec![Step::MapRef { reference: FIRST }],
            6 => vec![Step::ClaimRef { reference: FIRST }],
            _ => Vec::new(),
        };
        let mut mine: Vec<Ref> = refs.iter().copied().take(1).collect();
        for reference in &mut mine {
            if cn.below(2) == 0 {
                reference.tag ^= 1 << cn.below(64);
                reference.generation = reference.generation.wrapping_add(cn.below(3) as u64);
            }
        }
        let room = 1 + body.len();
        let request =
            Request { refs: &mine, body: Rc::clone(&body), room, ..Request::new(node, &steps) };
        let call = if steps.is_empty() {
            cn.memory_raw(request, random_steps.to_vec())
        } else {
            cn.memory(request)
        };
        if let Some((made, regions)) = call.loot().await {
            refs.splice(0..0, made);
            refs.truncate(4);
            region = regions.into_iter().map(RegionName).find(|name| name.0 != 0).unwrap_or(region);
        }
        let most = if operation < EAGER { 3_000 } else { 300_000 };
        cn.sleep(Duration::from_micros(cn.below(most) as u64)).await;
    }
}
