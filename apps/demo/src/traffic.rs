//! Who sent how many bytes over which hop.

use std::net::SocketAddrV4;

use dmrpc_choice::AnyDevice;
use dmrpc_cn::Node;
use dmrpc_host::metered::{Metered, Traffic, human_bytes};

/// A compute node of the demo.
pub(crate) type MeteredNode = Node<Metered<AnyDevice>>;

/// Bytes sent over one hop, in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hop {
    pub(crate) there: u64,
    pub(crate) back: u64,
}

impl Hop {
    /// What a node has exchanged with `peer` so far.
    pub(crate) fn of(node: &MeteredNode, peer: SocketAddrV4) -> Self {
        let bytes = |traffic: Traffic| traffic.bytes;
        node.with_device(|device| Self {
            there: bytes(device.sent_to(peer)),
            back: bytes(device.received_from(peer)),
        })
    }

    /// What has come since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { there: self.there - before.there, back: self.back - before.back }
    }

    /// As two words of an answer.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.there.to_le_bytes());
        bytes[8..].copy_from_slice(&self.back.to_le_bytes());
        bytes
    }

    /// From two words of an answer.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b] = bytes.as_chunks::<8>().0 else { unreachable!("16 bytes are two words") };
        Self { there: u64::from_le_bytes(*a), back: u64::from_le_bytes(*b) }
    }
}

/// The hops of the demo, in the order of the chain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hops {
    pub(crate) producer_memory: Hop,
    pub(crate) producer_forwarder: Hop,
    pub(crate) forwarder_transformer: Hop,
    pub(crate) transformer_memory: Hop,
}

impl Hops {
    fn named(&self) -> [(&'static str, &'static str, Hop); 4] {
        [
            ("producer", "memory node", self.producer_memory),
            ("producer", "forwarder", self.producer_forwarder),
            ("forwarder", "transformer", self.forwarder_transformer),
            ("transformer", "memory node", self.transformer_memory),
        ]
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            producer_memory: self.producer_memory.since(before.producer_memory),
            producer_forwarder: self.producer_forwarder.since(before.producer_forwarder),
            forwarder_transformer: self.forwarder_transformer.since(before.forwarder_transformer),
            transformer_memory: self.transformer_memory.since(before.transformer_memory),
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.named().iter().map(|(_, _, hop)| hop.there + hop.back).sum()
    }
}

/// Prints both runs side by side.
pub(crate) fn print(by_reference: &Hops, by_value: &Hops) {
    let row = |hop: &str, reference: u64, value: u64| {
        println!("  {hop:<26} {:>14} {:>14}", human_bytes(reference), human_bytes(value));
    };
    println!("{:<28} {:>14} {:>14}", "bytes sent", "by reference", "by value");
    for ((from, to, reference), (_, _, value)) in
        by_reference.named().into_iter().zip(by_value.named())
    {
        row(&format!("{from} -> {to}"), reference.there, value.there);
        row(&format!("{to} -> {from}"), reference.back, value.back);
    }
    row("all hops", by_reference.total(), by_value.total());
}
