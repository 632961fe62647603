//! The suite that every driver passes, over pools of every mode and number of participants.

use dmrpc_host as _;

use std::net::SocketAddrV4;

use dmrpc_conformance::{CountingAllocator, Harness, ZeroSize};
use dmrpc_cxl::pool::Overwrite;
use dmrpc_cxl::{Mapping, Mode, Participant, Pool, PoolConfig, RingDevice};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SLOTS: usize = 64;

struct Rings {
    mode: Mode,
    participants: u32,
    /// The pool lives as long as its participants.
    open: Option<(Pool, Vec<Participant>)>,
}

impl Rings {
    fn of(mode: Mode, participants: u32) -> Self {
        Self { mode, participants, open: None }
    }
}

impl Harness for Rings {
    type Device = RingDevice;

    fn open(&mut self, count: usize) -> Vec<(RingDevice, SocketAddrV4)> {
        let config = PoolConfig {
            participants: self.participants,
            ring_participants: self.participants,
            ring_slots: SLOTS as u32,
            datagram_bytes: 1472,
            ..PoolConfig::default()
        };
        let mapping = Mapping::memfd("conformance", 64 << 20).expect("64 MiB");
        let pool = Pool::format(mapping, self.mode, &config, (1, [7; 2]), Overwrite::Unused)
            .expect("room");
        // The last ones, so that with many participants bits and rings far out are used.
        let from = self.participants - count as u32;
        let participants: Vec<_> = (from..self.participants)
            .map(|index| pool.attach(Some(index), 1).expect("a free slot"))
            .collect();
        let devices = participants
            .iter()
            .map(|participant| {
                let device = RingDevice::open(&pool, participant).expect("it has rings");
                let address = device.local_addr();
                (device, address)
            })
            .collect();
        self.open = Some((pool, participants));
        devices
    }

    fn devices_max(&self) -> usize {
        self.participants.min(16) as usize
    }

    fn depth(&self) -> usize {
        SLOTS
    }

    fn zero_size(&self) -> ZeroSize {
        ZeroSize::Delivered
    }

    fn nobody(&self) -> Option<SocketAddrV4> {
        Some("10.0.0.1:99".parse().expect("an address"))
    }
}

mod coherent {
    use super::*;
    dmrpc_conformance::conformance!(Rings::of(Mode::Coherent, 8));
    dmrpc_conformance::conformance_allocations!(Rings::of(Mode::Coherent, 8));
}

mod flush {
    use super::*;
    dmrpc_conformance::conformance!(Rings::of(Mode::Flush, 4));
}
