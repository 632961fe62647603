//! The operations, one at a time.

use dmrpc_apps::client::{Client, wait_up};
use dmrpc_apps::cycle::Cycle;
use dmrpc_apps::error::AppError;
use dmrpc_apps::pattern;
use dmrpc_apps::places::{PLACE_BYTES_MIN, Places};
use dmrpc_cn::Peer;
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;

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
        Ok(self.client.memory(self.places.region().peer).free(self.places.region())?)
    }
}

impl Cycle<1> for Read<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 1], AppError> {
        let place = self.places.choose();
        let offset = self.places.offset(place);
        let region = self.places.region();
        let start = clock.now();
        self.client.memory(region.peer).read(region, offset, &mut self.found)?;
        let span = clock.now().since(start);
        if verify {
            self.places.check("read", self.places.sequence(place), &self.found)?;
        }
        Ok([span])
    }

    fn prepare(&mut self) {
        wait_up(self.client, self.places.region().peer);
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
        let sequence = places.count() as u64;
        Ok(Self { client, places, sequence, content, found: vec![0; bytes] })
    }

    pub(crate) fn end(self) -> Result<(), AppError> {
        Ok(self.client.memory(self.places.region().peer).free(self.places.region())?)
    }
}

impl Cycle<1> for Write<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 1], AppError> {
        let place = self.places.choose();
        let offset = self.places.offset(place);
        self.sequence += 1;
        pattern::stamp(self.sequence, &mut self.content);
        let region = self.places.region();
        let memory = self.client.memory(region.peer);
        let start = clock.now();
        memory.write(region, offset, &self.content)?;
        let span = clock.now().since(start);
        self.places.written(place, self.sequence);
        if verify {
            memory.read(region, offset, &mut self.found)?;
            self.places.check("write", self.sequence, &self.found)?;
        }
        Ok([span])
    }

    fn prepare(&mut self) {
        wait_up(self.client, self.places.region().peer);
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
