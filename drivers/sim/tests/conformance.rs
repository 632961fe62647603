//! The suite that every driver passes.

use dmrpc_host as _;

mod memory {
    use dmrpc_conformance::{CountingAllocator, Harness, ZeroSize};
    use dmrpc_sim::memory::{MemoryDevice, pair};
    use std::net::{Ipv4Addr, SocketAddrV4};

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    const BURSTS: usize = 64;

    struct Wire;

    impl Harness for Wire {
        type Device = MemoryDevice;

        fn open(&mut self, count: usize) -> Vec<(MemoryDevice, SocketAddrV4)> {
            let address = |last| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 4000);
            let (a, b) = pair(address(1), address(2), 1472, BURSTS);
            [(a, address(1)), (b, address(2))].into_iter().take(count).collect()
        }

        fn devices_max(&self) -> usize {
            2
        }

        fn depth(&self) -> usize {
            BURSTS
        }

        fn zero_size(&self) -> ZeroSize {
            ZeroSize::Delivered
        }
    }

    dmrpc_conformance::conformance!(Wire);
    dmrpc_conformance::conformance_allocations!(Wire);
}

mod borrowing {
    use dmrpc_conformance::{Harness, ZeroSize};
    use dmrpc_sim::borrowing::{Borrowing, Keeping};
    use dmrpc_sim::memory::{MemoryDevice, pair};
    use std::net::{Ipv4Addr, SocketAddrV4};

    const BURSTS: usize = 64;

    struct Late;

    impl Harness for Late {
        type Device = Borrowing<MemoryDevice>;

        fn open(&mut self, count: usize) -> Vec<(Borrowing<MemoryDevice>, SocketAddrV4)> {
            let address = |last| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 4000);
            let (a, b) = pair(address(1), address(2), 1472, BURSTS);
            let keeping = Keeping { read_after_max: 3, return_after_max: 9, ..Keeping::default() };
            let late = |device| Borrowing::new(device, keeping, 1);
            [(late(a), address(1)), (late(b), address(2))].into_iter().take(count).collect()
        }

        fn devices_max(&self) -> usize {
            2
        }

        fn depth(&self) -> usize {
            BURSTS
        }

        fn zero_size(&self) -> ZeroSize {
            ZeroSize::Delivered
        }
    }

    dmrpc_conformance::conformance!(Late);
}

mod network {
    use dmrpc_conformance::{Harness, ZeroSize};
    use dmrpc_core::time::Duration;
    use dmrpc_sim::faults::Faults;
    use dmrpc_sim::network::{Network, NetworkDevice};
    use std::net::{Ipv4Addr, SocketAddrV4};

    struct Lossless(Network);

    impl Harness for Lossless {
        type Device = NetworkDevice;

        fn open(&mut self, count: usize) -> Vec<(NetworkDevice, SocketAddrV4)> {
            (0..count)
                .map(|index| {
                    let address = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, index as u8), 4000);
                    (self.0.open(address, 1472), address)
                })
                .collect()
        }

        fn devices_max(&self) -> usize {
            8
        }

        fn depth(&self) -> usize {
            1_000
        }

        fn zero_size(&self) -> ZeroSize {
            ZeroSize::Delivered
        }

        fn nobody(&self) -> Option<SocketAddrV4> {
            Some(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 99), 4000))
        }

        fn settle(&mut self) {
            self.0.advance(self.0.now() + Duration::from_micros(1));
        }
    }

    dmrpc_conformance::conformance!(Lossless(Network::new(1, Faults::NONE)));
}
