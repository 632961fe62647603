use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use dmrpc_core::port::FrameTx;

use super::*;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7400);
const FRAME_BYTES_MAX: usize = 200;

/// One queue of a port: what came in there.
#[derive(Clone, Default)]
struct Queue(Rc<RefCell<VecDeque<Vec<u8>>>>, Vec<Vec<u8>>);
struct QueueRx<'a>(&'a mut Queue);
struct NoTx;

impl FrameDevice for Queue {
    type Rx<'a> = QueueRx<'a>;
    type Tx<'a> = NoTx;

    fn capabilities(&self) -> FrameCapabilities {
        FrameCapabilities { frame_bytes_max: FRAME_BYTES_MAX, burst_max: 32 }
    }

    fn split(&mut self) -> (QueueRx<'_>, NoTx) {
        (QueueRx(self), NoTx)
    }
}

impl FrameRx for QueueRx<'_> {
    fn receive(&mut self) -> usize {
        let mut waiting = self.0.0.borrow_mut();
        let count = waiting.len().min(32);
        self.0.1 = waiting.drain(..count).collect();
        count
    }

    fn frame(&self, index: usize) -> &[u8] {
        &self.0.1[index]
    }
}

impl FrameTx for NoTx {
    fn push(&mut self, _: usize) -> Option<&mut [u8]> {
        None
    }

    fn flush(&mut self) {}
}

fn datagram(from: SocketAddrV4, to: SocketAddrV4, number: u32) -> Vec<u8> {
    let mut frame = vec![0; HEADERS_BYTES];
    (frame[12], frame[14], frame[23]) = (8, 0x45, 17);
    frame[26..30].copy_from_slice(&from.ip().octets());
    frame[30..34].copy_from_slice(&to.ip().octets());
    frame[34..36].copy_from_slice(&from.port().to_be_bytes());
    frame[36..38].copy_from_slice(&to.port().to_be_bytes());
    frame.extend(number.to_le_bytes());
    frame
}

fn arp(operation: u8) -> Vec<u8> {
    let mut frame = vec![0; 42];
    (frame[12], frame[13], frame[21]) = (8, 6, operation);
    frame
}

fn ports(addresses: &[SocketAddrV4]) -> (Lanes, Vec<Queue>, Vec<Steered<Queue>>) {
    let lanes = Lanes::new(addresses.len(), FRAME_BYTES_MAX);
    let queues: Vec<Queue> = addresses.iter().map(|_| Queue::default()).collect();
    let open = |(number, address): (usize, &SocketAddrV4)| {
        let mut lane = lanes.take(number).expect("free");
        lane.set_address(*address);
        Steered::new(queues[number].clone(), Some(lane))
    };
    let ports = addresses.iter().enumerate().map(open).collect();
    (lanes, queues, ports)
}

/// All that a port receives until nothing comes.
fn drain(port: &mut Steered<Queue>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut empty = 0;
    while empty < 2 {
        let (mut rx, _) = port.split();
        let count = rx.receive();
        found.extend((0..count).map(|index| rx.frame(index).to_vec()));
        // A burst may be all for others.
        let more = count > 0 || !port.driver().0.borrow().is_empty();
        empty = if more { 0 } else { empty + 1 };
    }
    found
}

fn number(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[HEADERS_BYTES..][..4].try_into().expect("four bytes"))
}

/// Numbers without a pattern, the same each time.
fn scatter(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 16
}

#[test]
fn each_sender_is_served_by_one_lane_whatever_queue_the_port_picks() {
    const LANES: usize = 3;
    let (_lanes, queues, mut ports) = ports(&[SERVER; LANES]);
    let mut state = 7;
    let mut lane_of = [None; 50];
    let mut seen = vec![0; 20_000];
    let mut astray = 0;
    for first in (0..20_000).step_by(40) {
        for number in first..first + 40 {
            let from = SocketAddrV4::new([10, 0, 1, 1].into(), 1000 + (number % 50) as u16);
            let queue = &queues[scatter(&mut state) as usize % LANES];
            queue.0.borrow_mut().push_back(datagram(from, SERVER, number));
        }
        // Each port hands over what is not its own, and takes in what is.
        for lane in (0..LANES).chain(0..LANES) {
            for frame in drain(&mut ports[lane]) {
                let number = number(&frame);
                seen[number as usize] += 1;
                let owner = lane_of[number as usize % 50].get_or_insert(lane);
                assert_eq!(*owner, lane, "sender {}", number % 50);
            }
            if let Some(Astray { peer, lane: owner }) = ports[lane].astray() {
                astray += 1;
                assert_ne!(owner, lane);
                assert_eq!(lane_of[usize::from(peer.port() - 1000)].unwrap_or(owner), owner);
            }
        }
    }
    assert!(seen.iter().all(|count| *count == 1), "each frame arrives once");
    let sum = |get: fn(SteerStats) -> u64| ports.iter().map(|port| get(port.stats())).sum::<u64>();
    assert!(sum(|stats| stats.handed_over) > 10_000 && astray > 100);
    assert_eq!(sum(|stats| stats.handed_over), sum(|stats| stats.taken_over));
    assert_eq!(sum(|stats| stats.dropped), 0);
}

#[test]
fn lanes_at_addresses_of_their_own_get_what_is_for_them() {
    let other = SocketAddrV4::new(*SERVER.ip(), 7401);
    let (lanes, queues, mut ports) = ports(&[SERVER, other]);
    let from = SocketAddrV4::new([10, 0, 1, 1].into(), 1000);
    let nobody = SocketAddrV4::new(*SERVER.ip(), 9);
    for (number, to) in [SERVER, other, nobody, other].into_iter().enumerate() {
        queues[0].0.borrow_mut().push_back(datagram(from, to, number as u32));
    }
    let numbers = |frames: Vec<Vec<u8>>| frames.iter().map(|frame| number(frame)).collect();
    let ours: Vec<u32> = numbers(drain(&mut ports[0]));
    let theirs: Vec<u32> = numbers(drain(&mut ports[1]));
    assert_eq!((ours, theirs), (vec![0, 2], vec![1, 3]));

    // Questions for neighbours are for whoever gets them, answers for all.
    queues[1].0.borrow_mut().extend([arp(1), arp(2), vec![0; 10]]);
    assert_eq!(drain(&mut ports[1]), [arp(1), arp(2), vec![0; 10]]);
    assert_eq!(drain(&mut ports[0]), [arp(2)]);

    // A lane comes back with its driver, without what was handed to it meanwhile.
    assert!(lanes.take(1).is_none() && lanes.take(2).is_none());
    queues[0].0.borrow_mut().push_back(datagram(from, other, 5));
    assert_eq!(drain(&mut ports[0]), Vec::<Vec<u8>>::new());
    drop(ports.pop());
    let mut lane = lanes.take(1).expect("it came back");
    lane.set_address(other);
    let mut again = Steered::new(queues[1].clone(), Some(lane));
    assert_eq!(drain(&mut again), Vec::<Vec<u8>>::new());
    queues[0].0.borrow_mut().push_back(datagram(from, other, 6));
    drain(&mut ports[0]);
    assert_eq!(drain(&mut again).iter().map(|frame| number(frame)).collect::<Vec<_>>(), [6]);
}

#[test]
fn a_lane_that_does_not_keep_up_loses_frames_and_they_are_counted() {
    let (_lanes, queues, mut ports) = ports(&[SERVER; 2]);
    let from = SocketAddrV4::new([10, 0, 1, 1].into(), 1000);
    queues[1].0.borrow_mut().push_back(datagram(from, SERVER, 0));
    assert_eq!(drain(&mut ports[1]).len(), 1);
    for number in 0..400 {
        queues[0].0.borrow_mut().push_back(datagram(from, SERVER, number));
    }
    queues[0].0.borrow_mut().push_back(vec![1; HEADERS_BYTES]);
    assert_eq!(drain(&mut ports[0]).len(), 1);
    let stats = ports[0].stats();
    assert_eq!((stats.handed_over, stats.dropped), (256, 144));
    assert_eq!(drain(&mut ports[1]).len(), 256);
}

#[test]
fn without_a_lane_it_is_just_the_driver() {
    let queue = Queue::default();
    let mut port = Steered::new(queue.clone(), None);
    let from = SocketAddrV4::new([10, 0, 1, 1].into(), 1000);
    queue.0.borrow_mut().push_back(datagram(from, SERVER, 1));
    assert_eq!(drain(&mut port), [datagram(from, SERVER, 1)]);
    assert_eq!(port.stats(), SteerStats::default());
}
