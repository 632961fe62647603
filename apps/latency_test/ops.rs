//! The operations, one at a time.

use dmrpc_apps::client::{Client, wait_up};
use dmrpc_apps::cycle::Cycle;
use dmrpc_apps::error::AppError;
use dmrpc_apps::pattern::{self, Random};
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Arg, Method, Peer, Region};
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;

/// The method that is called. An echo answers any.
const ECHO: Method = Method(1);

/// `rpc`: a call of an echo with one inline argument.
pub(crate) struct Rpc<'a> {
    client: &'a Client,
    peer: Peer,
    seed: u64,
    sequence: u64,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl<'a> Rpc<'a> {
    pub(crate) fn new(client: &'a Client, peer: Peer, seed: u64, bytes: usize) -> Self {
        let mut request = vec![0; bytes];
        pattern::fill(seed, &mut request);
        Self { client, peer, seed, sequence: 0, request, answer: vec![0; bytes] }
    }
}

impl Cycle<1> for Rpc<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 1], AppError> {
        self.sequence += 1;
        pattern::stamp(self.sequence, &mut self.request);
        let start = clock.now();
        let args = [Arg::Inline(&self.request)];
        let reply = self.client.call(self.peer, ECHO, &args, &mut self.answer)?;
        let span = clock.now().since(start);
        let bytes = self.request.len();
        if reply.body_bytes != bytes {
            return Err(AppError::WrongBytes { op: "rpc", bytes, at: reply.body_bytes });
        }
        if verify {
            match pattern::first_unstamped(self.seed, self.sequence, &self.answer) {
                None => {}
                Some(at) => return Err(AppError::WrongBytes { op: "rpc", bytes, at }),
            }
        }
        Ok([span])
    }

    fn prepare(&mut self) {
        wait_up(self.client, self.peer);
    }
}

/// Bytes of the region that `read` and `write` move about in.
const REGION_BYTES: usize = 4 << 20;
/// Places in it at least and at most.
const PLACES: (usize, usize) = (2, 256);
/// Distance of two places at least: a page.
const PLACE_BYTES_MIN: usize = 4096;

/// A region of several places of one size, with known bytes in each.
struct Places {
    region: Region,
    place_bytes: usize,
    /// What was last written to each place.
    sequences: Vec<u64>,
    seed: u64,
    random: Random,
}

impl Places {
    fn new(client: &Client, peer: Peer, seed: u64, bytes: usize) -> Result<Self, AppError> {
        let place_bytes = bytes.max(PLACE_BYTES_MIN);
        let count = (REGION_BYTES / place_bytes).clamp(PLACES.0, PLACES.1);
        let memory = client.memory(peer);
        let region = memory.alloc((count * place_bytes) as u64)?;
        let mut content = vec![0; bytes];
        pattern::fill(seed, &mut content);
        for place in 0..count {
            pattern::stamp(place as u64, &mut content);
            memory.write(region, (place * place_bytes) as u64, &content)?;
        }
        let sequences = (0..count as u64).collect();
        Ok(Self { region, place_bytes, sequences, seed, random: Random::new(seed) })
    }

    /// Chooses a place; returns its number and offset.
    fn choose(&mut self) -> (usize, u64) {
        let place = self.random.below(self.sequences.len());
        (place, (place * self.place_bytes) as u64)
    }

    fn check(&self, op: &'static str, place: usize, found: &[u8]) -> Result<(), AppError> {
        match pattern::first_unstamped(self.seed, self.sequences[place], found) {
            None => Ok(()),
            Some(at) => Err(AppError::WrongBytes { op, bytes: found.len(), at }),
        }
    }
}

/// `read`: of a random place of a region.
pub(crate) struct Read<'a> {
    client: &'a Client,
    places: Places,
    found: Vec<u8>,
}

impl<'a> Read<'a> {
    pub(crate) fn new(
        client: &'a Client,
        peer: Peer,
        seed: u64,
        bytes: usize,
    ) -> Result<Self, AppError> {
        let places = Places::new(client, peer, seed, bytes)?;
        Ok(Self { client, places, found: vec![0; bytes] })
    }

    pub(crate) fn end(self) -> Result<(), AppError> {
        Ok(self.client.memory(self.places.region.peer).free(self.places.region)?)
    }
}

impl Cycle<1> for Read<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 1], AppError> {
        let (place, offset) = self.places.choose();
        let region = self.places.region;
        let start = clock.now();
        self.client.memory(region.peer).read(region, offset, &mut self.found)?;
        let span = clock.now().since(start);
        if verify {
            self.places.check("read", place, &self.found)?;
        }
        Ok([span])
    }

    fn prepare(&mut self) {
        wait_up(self.client, self.places.region.peer);
    }
}

/// `write`: to a random place of a region.
pub(crate) struct Write<'a> {
    client: &'a Client,
    places: Places,
    sequence: u64,
    content: Vec<u8>,
    found: Vec<u8>,
}

impl<'a> Write<'a> {
    pub(crate) fn new(
        client: &'a Client,
        peer: Peer,
        seed: u64,
        bytes: usize,
    ) -> Result<Self, AppError> {
        let places = Places::new(client, peer, seed, bytes)?;
        let mut content = vec![0; bytes];
        pattern::fill(seed, &mut content);
        let sequence = places.sequences.len() as u64;
        Ok(Self { client, places, sequence, content, found: vec![0; bytes] })
    }

    pub(crate) fn end(self) -> Result<(), AppError> {
        Ok(self.client.memory(self.places.region.peer).free(self.places.region)?)
    }
}

impl Cycle<1> for Write<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 1], AppError> {
        let (place, offset) = self.places.choose();
        self.sequence += 1;
        pattern::stamp(self.sequence, &mut self.content);
        let region = self.places.region;
        let memory = self.client.memory(region.peer);
        let start = clock.now();
        memory.write(region, offset, &self.content)?;
        let span = clock.now().since(start);
        self.places.sequences[place] = self.sequence;
        if verify {
            memory.read(region, offset, &mut self.found)?;
            self.places.check("write", place, &self.found)?;
        }
        Ok([span])
    }

    fn prepare(&mut self) {
        wait_up(self.client, self.places.region.peer);
    }
}

/// The names of what [`References`] measures, in its order.
pub(crate) const REFERENCE_OPS: [&str; 5] = ["alloc", "create_ref", "map_ref", "drop_ref", "free"];

/// The life of a region and of a reference to it.
pub(crate) struct References<'a> {
    client: &'a Client,
    peer: Peer,
    seed: u64,
    sequence: u64,
    content: Vec<u8>,
    found: Vec<u8>,
}

impl<'a> References<'a> {
    pub(crate) fn new(client: &'a Client, peer: Peer, seed: u64, bytes: usize) -> Self {
        let mut content = vec![0; bytes];
        pattern::fill(seed, &mut content);
        Self { client, peer, seed, sequence: 0, content, found: vec![0; bytes] }
    }
}

impl Cycle<5> for References<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 5], AppError> {
        let memory = self.client.memory(self.peer);
        let bytes = self.content.len();
        let mut spans = [Duration::ZERO; 5];
        let start = clock.now();
        let region = memory.alloc(bytes as u64)?;
        spans[0] = clock.now().since(start);

        self.sequence += 1;
        pattern::stamp(self.sequence, &mut self.content);
        // The first page suffices to have something to refer to; all of it to compare.
        let written = if verify { bytes } else { bytes.min(PLACE_BYTES_MIN) };
        memory.write(region, 0, &self.content[..written])?;

        let start = clock.now();
        let reference = memory.create_ref(region, 0, bytes as u64, ALL_RIGHTS)?;
        spans[1] = clock.now().since(start);

        let start = clock.now();
        let mapped = memory.map_ref(&reference)?;
        spans[2] = clock.now().since(start);
        if verify {
            // What is written after the reference was made must not be seen through it.
            memory.write(region, 0, &[0xFF])?;
            memory.read(mapped, 0, &mut self.found)?;
            if let Some(at) = pattern::first_unstamped(self.seed, self.sequence, &self.found) {
                return Err(AppError::WrongBytes { op: "map_ref", bytes, at });
            }
        }
        memory.free(mapped)?;

        let start = clock.now();
        memory.drop_ref(&reference)?;
        spans[3] = clock.now().since(start);

        let start = clock.now();
        memory.free(region)?;
        spans[4] = clock.now().since(start);
        Ok(spans)
    }

    fn prepare(&mut self) {
        wait_up(self.client, self.peer);
    }
}
