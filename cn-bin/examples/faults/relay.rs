//! A bad link as a process: datagrams that come to one address leave for another, and the answers
//! go back, through what `impair` does to them. For kernels without netem, and for what netem does
//! not do: with SIGUSR1 it holds back what clients send, and with another lets go of it.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use dmrpc_host::signals::Signals;

use super::impair::{Direction, Impairment};

/// A client that was silent for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// How long a thread sleeps at most.
const NAP: Duration = Duration::from_millis(50);

/// Where a relay stands and what it does.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Options {
    /// Where clients send to.
    #[arg(long)]
    listen: SocketAddrV4,
    /// Where it goes.
    #[arg(long)]
    to: SocketAddrV4,
    /// Of the random numbers.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    does: Impairment,
}

/// One client's way through the relay.
struct Flow {
    client: SocketAddr,
    upstream: UdpSocket,
}

/// One direction, and whoever waits for packets of it.
struct Pipe {
    direction: Mutex<Direction<Arc<Flow>>>,
    changed: Condvar,
}

impl Pipe {
    fn new(does: Impairment, seed: u64) -> Arc<Self> {
        let direction = Mutex::new(Direction::new(does, seed, Instant::now()));
        Arc::new(Self { direction, changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Direction<Arc<Flow>>> {
        self.direction.lock().expect("no thread panics with it")
    }

    fn push(&self, flow: &Arc<Flow>, bytes: &[u8]) {
        self.lock().push(Instant::now(), flow, bytes);
        self.changed.notify_one();
    }

    /// Sends what is due, for ever.
    fn drain(&self, send: impl Fn(&Flow, &[u8])) {
        let mut direction = self.lock();
        loop {
            let now = Instant::now();
            if let Some((flow, bytes)) = direction.pop(now) {
                drop(direction);
                send(&flow, &bytes);
                direction = self.lock();
                continue;
            }
            // A link that stands still is looked at again after a moment.
            let wait = direction.due().map_or(NAP, |due| due.saturating_duration_since(now));
            let wait = wait.clamp(Duration::from_micros(50), NAP);
            direction = self.changed.wait_timeout(direction, wait).expect("no panic").0;
        }
    }
}

/// Relays until it is told to stop, and says what it did.
pub(super) fn run(options: &Options) {
    let signals = Signals::install().expect("handlers");
    let front = Arc::new(UdpSocket::bind(options.listen).expect("an address of this host"));
    let up = Pipe::new(options.does, options.seed);
    // What a client gets back is not changed behind its checksum.
    let back = Impairment { mutate: Default::default(), ..options.does };
    let down = Pipe::new(back, options.seed ^ 0x5EED);
    let (pipe, to) = (Arc::clone(&up), options.to);
    thread::spawn(move || {
        // Errors are of a peer that is gone for now.
        pipe.drain(|flow, bytes| drop(flow.upstream.send(bytes)));
    });
    let (pipe, socket) = (Arc::clone(&down), Arc::clone(&front));
    thread::spawn(move || pipe.drain(|flow, bytes| drop(socket.send_to(bytes, flow.client))));
    println!("ready {}", front.local_addr().expect("bound"));
    let (pipe, answers) = (Arc::clone(&up), Arc::clone(&down));
    thread::spawn(move || listen(&front, to, &pipe, &answers));
    while !signals.stop_requested() {
        // Asked by SIGUSR1, it holds back what clients send, or lets go of it.
        if signals.take_dump_request() {
            up.lock().hold_or_let_go();
            up.changed.notify_one();
        }
        thread::sleep(NAP);
    }
    let (up, down) = (up.lock().effects.json(), down.lock().effects.json());
    println!("{{\"app\":\"faults_relay\",\"seed\":{},\"up\":{up},\"down\":{down}}}", options.seed);
}

/// Takes in what clients send.
fn listen(front: &UdpSocket, to: SocketAddrV4, up: &Pipe, down: &Arc<Pipe>) {
    let mut flows: HashMap<SocketAddr, Arc<Flow>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        // Of a client that is gone, the kernel says that its port is closed.
        let Ok((length, client)) = front.recv_from(&mut buffer) else { continue };
        // The thread of a forgotten client has let go of its flow.
        flows.retain(|_, flow| Arc::strong_count(flow) > 1);
        let flow = flows.entry(client).or_insert_with(|| open(client, to, down));
        up.push(flow, &buffer[..length]);
    }
}

/// A socket for one client, and a thread that takes in what comes back to it.
fn open(client: SocketAddr, to: SocketAddrV4, down: &Arc<Pipe>) -> Arc<Flow> {
    let upstream = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    upstream.connect(to).expect("an address");
    upstream.set_read_timeout(Some(NAP)).expect("a time");
    let flow = Arc::new(Flow { client, upstream });
    let (mine, down) = (Arc::clone(&flow), Arc::clone(down));
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let mut heard = Instant::now();
        while heard.elapsed() < FORGOTTEN_AFTER {
            if let Ok(length) = mine.upstream.recv(&mut buffer) {
                heard = Instant::now();
                down.push(&mine, &buffer[..length]);
            }
        }
    });
    flow
}
