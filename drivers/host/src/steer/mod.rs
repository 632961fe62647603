//! Several cores behind one address: each frame reaches the core that serves its sender.
//!
//! A port with several queue pairs spreads what comes in over them as it likes. Each core's
//! endpoint knows its own sessions only, so a core that receives a frame of another core's peer
//! hands it over through a ring with one producer and one consumer. A peer belongs to the core that
//! heard of it first. Cores at different addresses (several endpoints of one program behind one
//! port) get what is for their own.
//!
//! Frames are handed over below the Ethernet port, so that the core that gets one learns from it
//! where its neighbour is, and answers to questions for neighbours go to all cores.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use dmrpc_core::port::{FRAMES_A_BURST, FrameCapabilities, FrameDevice, FrameRx};

mod owners;
#[cfg(test)]
mod owners_tests;
mod rings;
#[cfg(test)]
mod tests;

use owners::{Key, Owners};
use rings::{Incoming, Outgoing, Parcel, way};

/// Frames on their way from one lane to another, at most: some bursts.
const WAY_FRAMES: usize = 256;
/// What begins a frame with a datagram, in bytes: the headers of Ethernet, IPv4 and UDP.
const HEADERS_BYTES: usize = 14 + 20 + 8;

/// What a lane has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerStats {
    /// Frames handed to other lanes.
    pub handed_over: u64,
    /// Frames taken from other lanes.
    pub taken_over: u64,
    /// Frames for other lanes that were dropped because the way was full.
    pub dropped: u64,
}

/// A sender whose frames come in at another queue than that of the lane that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Astray {
    /// The sender.
    pub peer: SocketAddrV4,
    /// The lane that serves it.
    pub lane: usize,
}

struct Shared {
    owners: Owners,
    /// The address of each lane; zero until it has one.
    addresses: Box<[AtomicU64]>,
}

/// The lanes that nobody has: one for each core.
type Shelf = Mutex<Vec<Option<Lane>>>;

/// The places of cores that share ports.
#[derive(Debug)]
pub struct Lanes(Arc<Shelf>);

/// One core's place among those that share ports. Goes back where it came from when the driver that
/// has it is dropped.
pub struct Lane {
    number: usize,
    shelf: Weak<Shelf>,
    shared: Arc<Shared>,
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Option<Incoming>>,
    /// Frames of the burst that are ours, as the driver numbers them.
    kept: Vec<usize>,
    /// Frames of the burst that other lanes handed over, and by whom.
    held: Vec<(usize, Parcel)>,
    /// Whether the next burst is to be of other lanes' frames.
    others_first: bool,
    /// Whether the burst is.
    of_others: bool,
    astray: Cell<Option<Astray>>,
    stats: SteerStats,
}

impl Lanes {
    /// Places for so many cores that share ports for frames of so many bytes.
    ///
    /// # Panics
    /// If `count` is 0 or more than 65,535.
    pub fn new(count: usize, frame_bytes_max: usize) -> Self {
        assert!((1..=usize::from(u16::MAX)).contains(&count), "1 to 65,535 lanes, not {count}");
        let shared = Arc::new(Shared {
            owners: Owners::new(count),
            addresses: (0..count).map(|_| AtomicU64::new(0)).collect(),
        });
        let shelf = Arc::new(Mutex::new(Vec::with_capacity(count)));
        let mut lanes: Vec<Lane> = (0..count)
            .map(|number| Lane {
                number,
                shelf: Arc::downgrade(&shelf),
                shared: Arc::clone(&shared),
                outgoing: (0..count).map(|_| None).collect(),
                incoming: (0..count).map(|_| None).collect(),
                kept: Vec::with_capacity(FRAMES_A_BURST),
                held: Vec::with_capacity(FRAMES_A_BURST),
                others_first: false,
                of_others: false,
                astray: Cell::new(None),
                stats: SteerStats::default(),
            })
            .collect();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let (outgoing, incoming) = way(WAY_FRAMES, frame_bytes_max);
                lanes[from].outgoing[to] = Some(outgoing);
                lanes[to].incoming[from] = Some(incoming);
            }
        }
        put_all(&shelf, lanes);
        Self(shelf)
    }

    /// The place of core `number`; `None` if there is none, or somebody has it.
    pub fn take(&self, number: usize) -> Option<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        lanes.get_mut(number)?.take()
    }
}

fn put_all(shelf: &Shelf, lanes: Vec<Lane>) {
    let mut places = shelf.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    places.extend(lanes.into_iter().map(Some));
}

/// Whom a frame is for.
enum Whose {
    Ours,
    Lane(usize),
    All,
}

impl Lane {
    /// Says at which address this lane's endpoint is.
    pub fn set_address(&mut self, address: SocketAddrV4) {
        let key = Key::of(address);
        self.shared.addresses[self.number].store(key.number(), Ordering::Release);
    }

    /// What was counted so far.
    pub fn stats(&self) -> SteerStats {
        self.stats
    }

    /// A sender whose frames were handed over since the last call, for a rule in the port.
    pub fn astray(&self) -> Option<Astray> {
        self.astray.take()
    }

    /// Goes back to the shelf that it came from, without what it was handed.
    fn go_home(mut self) {
        self.shared.addresses[self.number].store(0, Ordering::Release);
        self.release();
        while self.take_in() > 0 {
            self.release();
        }
        (self.stats, self.astray) = (SteerStats::default(), Cell::new(None));
        if let Some(shelf) = self.shelf.upgrade() {
            let mut places = shelf.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let number = self.number;
            places[number] = Some(self);
        }
    }

    #[inline]
    fn whose(&mut self, frame: &[u8]) -> Whose {
        match parse(frame) {
            Frame::Datagram { from, to } => {
                let addresses = &self.shared.addresses;
                let mut lanes = addresses.iter().map(|word| word.load(Ordering::Relaxed));
                let Some(first) = lanes.position(|address| address == to.number()) else {
                    return Whose::Ours;
                };
                // Lanes of one address share its senders.
                let lane = match lanes.any(|address| address == to.number()) {
                    true => self.shared.owners.find(from, self.number),
                    false => first,
                };
                if lane == self.number {
                    return Whose::Ours;
                }
                let peer = SocketAddrV4::new(from.ip(), from.port());
                self.astray.set(Some(Astray { peer, lane }));
                Whose::Lane(lane)
            }
            Frame::NeighbourAnswer => Whose::All,
            Frame::Other => Whose::Ours,
        }
    }

    fn hand_over(&mut self, lane: usize, frame: &[u8]) {
        let Some(Some(outgoing)) = self.outgoing.get_mut(lane) else { return };
        match outgoing.hand_over(frame) {
            true => self.stats.handed_over += 1,
            false => self.stats.dropped += 1,
        }
    }

    /// Keeps what is ours of a burst and hands over the rest. Returns how many are ours.
    fn sort<R: FrameRx>(&mut self, rx: &R, count: usize) -> usize {
        self.kept.clear();
        self.of_others = false;
        for index in 0..count {
            let frame = rx.frame(index);
            match self.whose(frame) {
                Whose::Ours => self.kept.push(index),
                Whose::Lane(lane) => self.hand_over(lane, frame),
                Whose::All => {
                    self.kept.push(index);
                    let (own, lanes) = (self.number, self.outgoing.len());
                    for lane in (0..lanes).filter(|lane| *lane != own) {
                        self.hand_over(lane, frame);
                    }
                }
            }
        }
        self.kept.len()
    }

    /// Takes in what other lanes have handed over. Returns how many frames.
    fn take_in(&mut self) -> usize {
        self.of_others = true;
        for (from, incoming) in self.incoming.iter_mut().enumerate() {
            let Some(incoming) = incoming else { continue };
            while self.held.len() < FRAMES_A_BURST
                && let Some(parcel) = incoming.take()
            {
                self.held.push((from, parcel));
            }
        }
        self.stats.taken_over += self.held.len() as u64;
        self.held.len()
    }

    /// Gives the buffers of other lanes' frames back.
    fn release(&mut self) {
        for (from, parcel) in self.held.drain(..) {
            if let Some(incoming) = &mut self.incoming[from] {
                incoming.give_back(parcel);
            }
        }
    }
}

/// What steering needs to know of a frame.
enum Frame {
    Datagram { from: Key, to: Key },
    NeighbourAnswer,
    Other,
}

fn parse(frame: &[u8]) -> Frame {
    const ARP_ANSWER: [u8; 2] = [0, 2];
    let Some((head, _)) = frame.split_first_chunk::<HEADERS_BYTES>() else { return Frame::Other };
    match [head[12], head[13]] {
        // IPv4 without options, whole, UDP.
        [8, 0] if head[14] == 0x45 && head[20] & 0x3F == 0 && head[21] == 0 && head[23] == 17 => {
            let ip = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
            let port = |at: usize| [head[at], head[at + 1]];
            let (from, to) = (Key::new(ip(26), port(34)), Key::new(ip(30), port(36)));
            Frame::Datagram { from, to }
        }
        [8, 6] if head[20..22] == ARP_ANSWER => Frame::NeighbourAnswer,
        _ => Frame::Other,
    }
}

/// A driver of frames on one core of several, if it has a [`Lane`]; else just the driver.
pub struct Steered<D> {
    driver: D,
    lane: Option<Lane>,
}

impl<D> Steered<D> {
    /// `driver` in its place among others.
    pub fn new(driver: D, lane: Option<Lane>) -> Self {
        Self { driver, lane }
    }

    /// The driver.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// What was counted so far.
    pub fn stats(&self) -> SteerStats {
        self.lane.as_ref().map_or(SteerStats::default(), Lane::stats)
    }

    /// As [`Lane::astray`].
    pub fn astray(&self) -> Option<Astray> {
        self.lane.as_ref()?.astray()
    }
}

impl<D> Drop for Steered<D> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            lane.go_home();
        }
    }
}

impl<D: FrameDevice> FrameDevice for Steered<D> {
    type Rx<'a>
        = SteeredRx<'a, D>
    where
        Self: 'a;
    type Tx<'a>
        = D::Tx<'a>
    where
        Self: 'a;

    fn capabilities(&self) -> FrameCapabilities {
        self.driver.capabilities()
    }

    #[inline]
    fn borrows(&self) -> bool {
        self.driver.borrows()
    }

    fn split(&mut self) -> (SteeredRx<'_, D>, D::Tx<'_>) {
        let (rx, tx) = self.driver.split();
        (SteeredRx { rx, lane: self.lane.as_mut() }, tx)
    }
}

/// The receiving half of a [`Steered`] driver.
pub struct SteeredRx<'a, D: FrameDevice + 'a> {
    rx: D::Rx<'a>,
    lane: Option<&'a mut Lane>,
}

impl<D: FrameDevice> FrameRx for SteeredRx<'_, D> {
    #[inline]
    fn receive(&mut self) -> usize {
        let Some(lane) = &mut self.lane else { return self.rx.receive() };
        lane.release();
        // Neither may starve the other.
        lane.others_first = !lane.others_first;
        if lane.others_first {
            let count = lane.take_in();
            if count > 0 {
                return count;
            }
        }
        let count = self.rx.receive();
        let kept = lane.sort(&self.rx, count);
        if kept > 0 || lane.others_first { kept } else { lane.take_in() }
    }

    #[inline]
    fn frame(&self, index: usize) -> &[u8] {
        match &self.lane {
            Some(lane) if lane.of_others => lane.held[index].1.frame(),
            Some(lane) => self.rx.frame(lane.kept[index]),
            None => self.rx.frame(index),
        }
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.shared.addresses[self.number].load(Ordering::Relaxed);
        let address = SocketAddrV4::new(Ipv4Addr::from((key >> 16) as u32), key as u16);
        f.debug_struct("Lane").field("number", &self.number).field("address", &address).finish()
    }
}
