//! Packets of long messages that somebody between the ends forges: each arrives just before the
//! right one, in the very place where that is expected.

use dmrpc_host as _;

mod bulk;

use std::net::SocketAddrV4;

use bulk::{BYTES, DATAGRAM_BYTES, World};
use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::device::{Capabilities, Device, Rx};
use dmrpc_core::endpoint::Config;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::wire::control::Features;
use dmrpc_core::wire::packet::{Flags, HEADER_BYTES, Header, Kind};
use dmrpc_sim::memory::{MemoryDevice, MemoryRx, MemoryTx};

/// A device through which forgeries come in, too.
struct Forger {
    device: MemoryDevice,
    burst: Vec<(SocketAddrV4, Vec<u8>)>,
    forged: Forged,
}

/// How many there were of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forged {
    tags: u64,
    payloads: u64,
}

struct ForgerRx<'a> {
    rx: MemoryRx<'a>,
    burst: &'a mut Vec<(SocketAddrV4, Vec<u8>)>,
    forged: &'a mut Forged,
}

impl Device for Forger {
    type Rx<'a> = ForgerRx<'a>;
    type Tx<'a> = MemoryTx<'a>;

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn split(&mut self) -> (ForgerRx<'_>, MemoryTx<'_>) {
        let (rx, tx) = self.device.split();
        (ForgerRx { rx, burst: &mut self.burst, forged: &mut self.forged }, tx)
    }
}

impl Rx for ForgerRx<'_> {
    fn receive(&mut self) -> usize {
        self.burst.clear();
        for index in 0..self.rx.receive() {
            let (peer, bytes) = self.rx.packet(index);
            let header = Header::parse(bytes, Crc32c::detect()).expect("a packet");
            if matches!(header.kind, Kind::Request | Kind::Response) && header.packet > 0 {
                let payload = &bytes[HEADER_BYTES..];
                let tagged = Header { tag: header.tag ^ 1, ..header };
                self.burst.push((peer, emitted(tagged, payload)));
                self.forged.tags += 1;
                if header.flags.contains(Flags::PAYLOAD_CHECK) {
                    let mut changed = bytes.to_vec();
                    *changed.last_mut().expect("a payload") ^= 1;
                    self.burst.push((peer, changed));
                    self.forged.payloads += 1;
                    // With a checksum that is right, under a tag that is not.
                    let mut changed = payload.to_vec();
                    changed[0] ^= 1;
                    self.burst.push((peer, emitted(header, &changed)));
                    self.forged.tags += 1;
                }
            }
            self.burst.push((peer, bytes.to_vec()));
        }
        self.burst.len()
    }

    fn packet(&self, index: usize) -> (SocketAddrV4, &[u8]) {
        let (peer, bytes) = &self.burst[index];
        (*peer, bytes)
    }
}

fn emitted(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(payload);
    header.emit(&mut bytes, Crc32c::detect());
    bytes
}

#[test]
fn forgeries_in_the_place_of_the_next_packet_change_nothing() {
    let key = Some(Key::new(&[7; 32]).expect("long enough"));
    for (features, tells_places) in [
        (Features::PAYLOAD_CHECK, true),
        (Features::PAYLOAD_CHECK, false),
        (Features::empty(), true),
        (Features::empty(), false),
    ] {
        let wrap = |device| Forger { device, burst: Vec::new(), forged: Forged::default() };
        let mut world = World::new(wrap, |config| Config { features, key, ..config }, tells_places);
        // Twice, since what tags have in common is kept by message, and slots are used again.
        world.write_and_read();
        world.write_and_read();
        for (endpoint, device) in [&world.client, &world.server].into_iter().zip(&world.devices) {
            let counters = endpoint.counters();
            let found = Forged { tags: counters.bad_tag, payloads: counters.bad_checksum };
            assert_eq!(found, device.forged, "{features:?}, {tells_places}");
            assert!(found.tags > 2 * (BYTES / DATAGRAM_BYTES) as u64, "{found:?}");
            assert_eq!((counters.packets_resent, counters.duplicates), (0, 0));
        }
    }
}
