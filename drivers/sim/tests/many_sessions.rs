//! Thousands of sessions between two endpoints, over a wire in memory: time passes as the tests
//! let it.

use dmrpc_conformance as _;
use dmrpc_host as _;
use proptest as _;

use std::net::{Ipv4Addr, SocketAddrV4};

use dmrpc_core::endpoint::host::{SessionEvent, SessionId, Side};
use dmrpc_core::endpoint::table::StorageSize;
use dmrpc_core::endpoint::{Config, Endpoint, Host};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_sim::memory::{MemoryDevice, pair};
use dmrpc_sim::storage;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 2);
const DATAGRAM_BYTES: usize = 1472;
const SESSIONS: usize = 3_000;
const SLOTS: u16 = 2;
/// A wire that is full with far fewer packets than there are sessions.
const BURSTS: usize = 8;
/// The clock's step between polls.
const STEP: Duration = Duration::from_micros(20);
/// Most timers that a poll serves.
const TIMERS_A_POLL: u32 = 32;

/// Counts servers that were suspected, and sessions that are over. A server that was kept from
/// polling cannot know that its clients were, too.
#[derive(Default)]
struct Doubts(u32);

impl Host for Doubts {
    fn session(&mut self, _: Instant, side: Side, _: SessionId, event: SessionEvent) {
        let suspected = event == SessionEvent::Suspected && side == Side::Client;
        self.0 += u32::from(suspected || matches!(event, SessionEvent::Closed(_)));
    }
}

struct End {
    endpoint: Endpoint<'static>,
    device: MemoryDevice,
    host: Doubts,
}

impl End {
    fn new(incarnation: u64, device: MemoryDevice) -> Self {
        let config =
            Config { slots_per_session: SLOTS, ..Config::new(incarnation, DATAGRAM_BYTES) };
        let size = StorageSize::new(SESSIONS, SESSIONS, SLOTS.into());
        let endpoint = Endpoint::new(config, storage::take(size), Instant::ZERO);
        Self { endpoint: endpoint.expect("the defaults work"), device, host: Doubts::default() }
    }

    fn poll(&mut self, now: Instant) -> u32 {
        let polled = self.endpoint.poll(now, &mut self.device, &mut self.host);
        assert!(polled.fired <= TIMERS_A_POLL, "{} timers in one poll", polled.fired);
        polled.fired
    }
}

/// Two ends with all sessions open.
fn connected() -> ([End; 2], Instant) {
    let (a, b) = pair(CLIENT, SERVER, DATAGRAM_BYTES, BURSTS);
    let mut ends = [End::new(1, a), End::new(2, b)];
    let mut now = Instant::ZERO;
    for _ in 0..SESSIONS {
        let session = ends[0].endpoint.connect(now, SERVER).expect("room for one more");
        while !ends[0].endpoint.is_up(session) {
            now = now + STEP;
            for end in &mut ends {
                end.poll(now);
            }
        }
    }
    (ends, now)
}

/// Nobody polls for a while, so all sessions' timers are due at once: no poll serves more than its
/// share, every ping gets through a wire that would never hold them all, and no server is
/// suspected.
#[test]
fn after_a_pause_the_timers_of_thousands_are_served_a_few_at_a_time() {
    for pause in [200, 1_000, 8_000] {
        let (mut ends, mut now) = connected();
        now = now + Duration::from_millis(pause);
        let (resumed, mut fired) = (now, 0);
        let heard = |end: &End| {
            let mut sessions = end.endpoint.client_sessions();
            sessions.all(|session| session.last_heard >= resumed)
        };
        while !heard(&ends[0]) {
            now = now + STEP;
            fired += ends.iter_mut().map(|end| end.poll(now)).sum::<u32>();
            assert!(now.since(resumed) <= Duration::from_millis(10), "a ping was lost");
        }
        assert!(fired as usize >= SESSIONS, "{fired} timers");
        assert_eq!(ends.each_ref().map(|end| end.host.0), [0, 0], "doubts after {pause} ms");
    }
}
