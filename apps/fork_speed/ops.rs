//! Making and mapping references to a region of any size, and proof that they refer to what was
//! there when they were made.

use dmrpc_apps::block::{Block, Budget, Tally};
use dmrpc_apps::client::{Client, patiently, wait_up};
use dmrpc_apps::cycle::Cycle;
use dmrpc_apps::error::AppError;
use dmrpc_apps::lanes::room;
use dmrpc_apps::pattern::{self, Random};
use dmrpc_apps::window::{self, Begun, Ended, Traffic};
use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{Error, Finished, Peer, Ref, Region};
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;

/// Places of a region that are written and looked at, at most.
const PLACES_MAX: u64 = 64;
/// Length of each in bytes, unless the region is shorter.
const PLACE_BYTES: usize = 64;
/// References that [`Rate`] makes before it ends them all.
const REFS: u64 = 256;

/// A region that is written here and there: its first bytes, its last, and some between.
struct Sparse<'a> {
    client: &'a Client,
    region: Region,
    content: Vec<u8>,
    /// What was last written to each place.
    sequences: Vec<u64>,
    sequence: u64,
    seed: u64,
    random: Random,
}

impl<'a> Sparse<'a> {
    fn new(client: &'a Client, peer: Peer, seed: u64, bytes: u64) -> Result<Self, AppError> {
        let memory = client.memory(peer);
        let region = patiently(client, peer, || memory.alloc(bytes))?;
        let mut content = vec![0; PLACE_BYTES.min(bytes as usize)];
        pattern::fill(seed, &mut content);
        let count = (bytes / 4096).clamp(1, PLACES_MAX) as usize;
        let (sequences, random) = (vec![0; count], Random::new(seed));
        let mut sparse = Self { client, region, content, sequences, sequence: 0, seed, random };
        for place in 0..count {
            sparse.write(place)?;
        }
        Ok(sparse)
    }

    /// Where a place begins, in bytes: the last one ends with the region.
    fn offset(&self, place: usize) -> u64 {
        let room = self.region.length - self.content.len() as u64;
        match self.sequences.len() as u64 - 1 {
            0 => 0,
            last => (u128::from(room) * place as u128 / u128::from(last)) as u64,
        }
    }

    fn choose(&mut self) -> usize {
        self.random.below(self.sequences.len())
    }

    /// Writes something new to a place.
    fn write(&mut self, place: usize) -> Result<(), AppError> {
        self.sequence += 1;
        pattern::stamp(self.sequence, &mut self.content);
        let peer = self.region.peer;
        let (memory, offset) = (self.client.memory(peer), self.offset(place));
        patiently(self.client, peer, || memory.write(self.region, offset, &self.content))?;
        self.sequences[place] = self.sequence;
        Ok(())
    }

    /// Compares what was found at a place with what was there when it had been written for the
    /// `sequence`-th time.
    fn check(&self, op: &'static str, sequence: u64, found: &[u8]) -> Result<(), AppError> {
        match pattern::first_unstamped(self.seed, sequence, found) {
            None => Ok(()),
            Some(at) => Err(AppError::WrongBytes { op, bytes: found.len(), at }),
        }
    }

    fn end(self) -> Result<(), AppError> {
        let (peer, memory) = (self.region.peer, self.client.memory(self.region.peer));
        patiently(self.client, peer, || memory.free(self.region))
    }
}

/// `create_ref` and `map_ref`, one at a time.
pub(crate) struct Fork<'a> {
    sparse: Sparse<'a>,
    found: Vec<u8>,
}

impl<'a> Fork<'a> {
    pub(crate) fn new(
        client: &'a Client,
        peer: Peer,
        seed: u64,
        bytes: u64,
    ) -> Result<Self, AppError> {
        let sparse = Sparse::new(client, peer, seed, bytes)?;
        let found = vec![0; sparse.content.len()];
        Ok(Self { sparse, found })
    }

    pub(crate) fn end(self) -> Result<(), AppError> {
        self.sparse.end()
    }
}

impl Cycle<2> for Fork<'_> {
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; 2], AppError> {
        let region = self.sparse.region;
        let memory = self.sparse.client.memory(region.peer);
        let start = clock.now();
        let reference = memory.create_ref(region, 0, region.length, ALL_RIGHTS)?;
        let created = clock.now();
        let mapped = memory.map_ref(&reference)?;
        let end = clock.now();
        if verify {
            // What is written after the reference was made must not be seen through it.
            let place = self.sparse.choose();
            let (offset, before) = (self.sparse.offset(place), self.sparse.sequences[place]);
            self.sparse.write(place)?;
            memory.read(mapped, offset, &mut self.found)?;
            self.sparse.check("map_ref", before, &self.found)?;
            memory.read(region, offset, &mut self.found)?;
            self.sparse.check("write", self.sparse.sequence, &self.found)?;
        }
        memory.free(mapped)?;
        memory.drop_ref(&reference)?;
        Ok([created.since(start), end.since(created)])
    }

    fn prepare(&mut self) {
        wait_up(self.sparse.client, self.sparse.region.peer);
    }
}

/// `create_ref`, many at a time.
pub(crate) struct Rate<'a> {
    /// A region of each session.
    regions: Vec<Sparse<'a>>,
    /// The session whose turn it is.
    next: usize,
    /// References made and not yet ended, each with its session.
    made: Vec<(usize, Ref)>,
}

impl<'a> Rate<'a> {
    pub(crate) fn new(
        client: &'a Client,
        peers: &[Peer],
        seed: u64,
        bytes: u64,
    ) -> Result<Self, AppError> {
        // All sessions together have the size that is measured in reserved memory each: one of
        // them allocates, the others map a reference to it.
        let first = Sparse::new(client, peers[0], seed, bytes)?;
        let mut regions = vec![first];
        for &peer in &peers[1..] {
            let region = share(client, &regions[0], peer)?;
            let Sparse { content, sequences, sequence, random, .. } = &regions[0];
            regions.push(Sparse {
                client,
                region,
                content: content.clone(),
                sequences: sequences.clone(),
                sequence: *sequence,
                seed,
                random: random.clone(),
            });
        }
        Ok(Self { regions, next: 0, made: Vec::with_capacity(REFS as usize) })
    }

    /// Measures a block: making is timed, ending is not.
    pub(crate) fn measure(
        &mut self,
        (clock, block): (&Clock, &mut Block),
        flights: usize,
        random: &mut Random,
    ) -> Result<Tally, AppError> {
        let client = self.regions[0].client;
        let mut sum = Tally::new();
        while block.more(clock, sum.count) {
            let count = match block.budget() {
                Budget::Count(count) => REFS.min(count - sum.count),
                Budget::Span(_) => REFS,
            };
            let part = &mut Block::start(clock, Budget::Count(count));
            let tally = window::measure(
                &mut Creates(self),
                client,
                (clock, part),
                flights,
                (random, false),
            )?;
            sum.merge(&tally);
            self.verify_one()?;
            sum.verified += 1;
            let part = &mut Block::start(clock, Budget::Count(self.made.len() as u64));
            let ended =
                window::measure(&mut Drops(self), client, (clock, part), flights, (random, false))?;
            sum.errors += ended.errors;
        }
        Ok(sum)
    }

    /// A write after a reference was made is not seen through it.
    fn verify_one(&mut self) -> Result<(), AppError> {
        let Some((lane, reference)) = self.made.last().copied() else { return Ok(()) };
        let sparse = &mut self.regions[lane];
        let place = sparse.choose();
        let (offset, before) = (sparse.offset(place), sparse.sequences[place]);
        sparse.write(place)?;
        let mut found = vec![0; sparse.content.len()];
        sparse.client.memory(sparse.region.peer).read_ref(&reference, offset, &mut found)?;
        sparse.check("create_ref", before, &found)
    }

    pub(crate) fn end(self) -> Result<(), AppError> {
        self.regions.into_iter().try_for_each(Sparse::end)
    }

    fn wait_up(&self) {
        self.regions.iter().for_each(|sparse| wait_up(sparse.client, sparse.region.peer));
    }
}

/// A region in the session `peer` with the bytes of `sparse`.
fn share(client: &Client, sparse: &Sparse<'_>, peer: Peer) -> Result<Region, AppError> {
    let region = sparse.region;
    let owner = client.memory(region.peer);
    let whole = || owner.create_ref(region, 0, region.length, ALL_RIGHTS);
    let reference = patiently(client, region.peer, whole)?;
    patiently(client, peer, || client.memory(peer).take_region(&reference))
}

struct Creates<'r, 'a>(&'r mut Rate<'a>);

impl Traffic for Creates<'_, '_> {
    /// The session.
    type Context = usize;

    fn begin(&mut self) -> Result<Begun<usize>, AppError> {
        let rate = &mut *self.0;
        for _ in 0..rate.regions.len() {
            let lane = rate.next;
            rate.next = (lane + 1) % rate.regions.len();
            let Sparse { client, region, .. } = rate.regions[lane];
            let pipeline = client.memory(region.peer).start();
            let begun = pipeline.create_ref(region, 0, region.length, ALL_RIGHTS);
            if let Some(ticket) = room(begun)? {
                return Ok(Begun::Operation(ticket, lane));
            }
        }
        Ok(Begun::Full)
    }

    fn end(
        &mut self,
        lane: usize,
        result: Result<Finished<'_>, Error>,
        _: bool,
    ) -> Result<Ended, AppError> {
        self.0.made.push((lane, result?.reference()?));
        Ok(Ended::Counted { verified: false })
    }

    fn prepare(&mut self) {
        self.0.wait_up();
    }
}

struct Drops<'r, 'a>(&'r mut Rate<'a>);

impl Traffic for Drops<'_, '_> {
    type Context = ();

    fn begin(&mut self) -> Result<Begun<()>, AppError> {
        let Some(&(lane, reference)) = self.0.made.last() else { return Ok(Begun::Full) };
        let Sparse { client, region, .. } = self.0.regions[lane];
        let begun = client.memory(region.peer).start().drop_ref(&reference);
        let Some(ticket) = room(begun)? else { return Ok(Begun::Full) };
        self.0.made.pop();
        Ok(Begun::Operation(ticket, ()))
    }

    fn end(
        &mut self,
        (): (),
        result: Result<Finished<'_>, Error>,
        _: bool,
    ) -> Result<Ended, AppError> {
        result?.check()?;
        Ok(Ended::Counted { verified: false })
    }

    fn prepare(&mut self) {
        self.0.wait_up();
    }
}
