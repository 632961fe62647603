//! Operations of one way, so many at a time: each a *lane* with an object of its own, whose phases
//! follow each other, while the other lanes are in theirs.

use dmrpc_apps::block::{Block, Tally};
use dmrpc_apps::client::{Client, patiently, wait_up};
use dmrpc_apps::error::AppError;
use dmrpc_apps::lanes::room;
use dmrpc_apps::pattern::{self, Random};
use dmrpc_cn::memory::Cause;
use dmrpc_cn::{Buffer, Error, Finished, Operation, OperationError, Peer, Ref, Region, Ticket};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_host::clock::Clock;

use crate::plan::{PAGE_BYTES, Phase, State, Way};

/// So many errors in a block end the run.
const ERRORS_MAX: u64 = 10;
/// Nothing ended for so long, beyond every deadline: nothing will.
const STALL: Duration = Duration::from_secs(30);
/// Most pages that an operation writes.
pub(crate) const PAGES_MAX: usize = 8;

/// The two endpoints of this process and their sessions with the memory node.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) producer: &'a Client,
    pub(crate) producer_peer: Peer,
    pub(crate) receiver: &'a Client,
    pub(crate) receiver_peer: Peer,
}

impl<'a> Ends<'a> {
    /// A buffer of the producer's with the object's bytes.
    pub(crate) fn object_buffer(&self, job: &Job) -> Result<Buffer<'a>, OperationError> {
        let length = job.object_bytes as u64;
        let no_room = |error| OperationError {
            operation: Operation::Put,
            offset: 0,
            length,
            cause: Cause::Call(error),
        };
        let mut buffer = self.producer.buffer(job.object_bytes).map_err(no_room)?;
        if !pattern::looks_filled(job.seed, &buffer) {
            buffer.copy_from_slice(&job.content);
        }
        Ok(buffer)
    }

    /// Waits until the memory node is heard of at both ends.
    pub(crate) fn wait_up(&self) {
        wait_up(self.producer, self.producer_peer);
        wait_up(self.receiver, self.receiver_peer);
    }
}

/// What an operation does, whichever way.
pub(crate) struct Job {
    /// Length of the object.
    pub(crate) object_bytes: usize,
    /// Pages that the receiver writes.
    pub(crate) pages: usize,
    /// Bytes that it writes to each.
    pub(crate) write_bytes: usize,
    /// The object's bytes.
    pub(crate) content: Vec<u8>,
    pub(crate) seed: u64,
}

impl Job {
    pub(crate) fn new(object_bytes: usize, pages: usize, write_bytes: usize, seed: u64) -> Self {
        let mut content = vec![0; object_bytes];
        pattern::fill(seed, &mut content);
        Self { object_bytes, pages, write_bytes, content, seed }
    }
}

/// An operation after the other on one object.
struct Lane {
    object: Region,
    copy: Option<Region>,
    reference: Option<Ref>,
    region: Option<Region>,
    offsets: [u64; PAGES_MAX],
    patch: Vec<u8>,
    /// Number of the phase; none between operations.
    phase: Option<usize>,
    /// Memory operations of the phase that have begun.
    begun: usize,
    /// And ended.
    ended: usize,
    begun_at: Instant,
    /// Something has gone wrong in this operation.
    failed: bool,
}

struct Flight {
    ticket: Ticket,
    is_producers: bool,
    lane: usize,
}

/// Operations of one way.
pub(crate) struct Lanes<'a> {
    ends: Ends<'a>,
    job: &'a Job,
    phases: &'static [Phase],
    /// So many phases make what is timed; what follows clears up.
    timed: usize,
    lanes: Vec<Lane>,
    flights: Vec<Flight>,
    sequence: u64,
    random: Random,
    found: Vec<u8>,
}

impl<'a> Lanes<'a> {
    /// `count` lanes, with an object each.
    pub(crate) fn new(
        ends: Ends<'a>,
        job: &'a Job,
        way: Way,
        count: usize,
    ) -> Result<Self, AppError> {
        let (phases, timed) = way.plan(job.pages);
        let mut patch = vec![0; job.write_bytes];
        pattern::fill(job.seed + 1, &mut patch);
        let peer = ends.producer_peer;
        let memory = ends.producer.memory(peer);
        let lane = |_| {
            let object = patiently(ends.producer, peer, || memory.alloc(job.object_bytes as u64))?;
            patiently(ends.producer, peer, || memory.write(object, 0, &job.content))?;
            Ok(Lane {
                object,
                copy: None,
                reference: None,
                region: None,
                offsets: [0; PAGES_MAX],
                patch: patch.clone(),
                phase: None,
                begun: 0,
                ended: 0,
                begun_at: Instant::ZERO,
                failed: false,
            })
        };
        let lanes = (0..count).map(lane).collect::<Result<_, AppError>>()?;
        Ok(Self {
            ends,
            job,
            phases,
            timed,
            lanes,
            flights: Vec::with_capacity(count * (PAGES_MAX + 2)),
            sequence: 0,
            random: Random::new(job.seed),
            found: vec![0; job.object_bytes],
        })
    }

    /// Gives the objects back.
    pub(crate) fn end(self) -> Result<(), AppError> {
        let Ends { producer, producer_peer, .. } = self.ends;
        let memory = producer.memory(producer_peer);
        let mut lanes = self.lanes.iter();
        lanes.try_for_each(|lane| patiently(producer, producer_peer, || memory.free(lane.object)))
    }

    /// Measures a block. With `verify_all` the whole of every object and of its receiver's bytes is
    /// compared, else of one operation in 64.
    pub(crate) fn measure(
        &mut self,
        clock: &Clock,
        block: &mut Block,
        verify_all: bool,
    ) -> Result<Tally, AppError> {
        self.ends.wait_up();
        let mut tally = Tally::new();
        let mut begun = 0;
        block.restart(clock);
        let start = clock.now();
        let mut verifying = Duration::ZERO;
        let mut progress_at = start;
        loop {
            for lane in 0..self.lanes.len() {
                if self.lanes[lane].phase.is_none() && block.more(clock, begun) {
                    self.start(lane, clock.now());
                    begun += 1;
                }
                self.begin(lane)?;
            }
            if self.lanes.iter().all(|lane| lane.phase.is_none()) {
                break;
            }
            self.step();
            let now = clock.now();
            while let Some((lane, result)) = self.next_ended() {
                progress_at = now;
                if let Err(error) = result {
                    tally.errors += u64::from(!self.lanes[lane].failed);
                    self.lanes[lane].failed = true;
                    if tally.errors >= ERRORS_MAX {
                        return Err(error);
                    }
                    dmrpc_host::cli::complain("failed", error);
                }
                verifying = verifying + self.next_phase(lane, clock, &mut tally, verify_all)?;
            }
            if now.since(progress_at) > STALL {
                return Err(AppError::Stalled { in_flight: self.flights.len() });
            }
        }
        tally.elapsed_ns = clock.now().since(start).as_nanos() - verifying.as_nanos();
        Ok(tally)
    }

    /// Starts an operation: chooses its pages and bytes.
    fn start(&mut self, lane: usize, now: Instant) {
        self.sequence += 1;
        let pages = self.job.object_bytes / PAGE_BYTES;
        let first = self.random.below(pages);
        let lane = &mut self.lanes[lane];
        for (index, offset) in lane.offsets[..self.job.pages].iter_mut().enumerate() {
            // Different pages, spread over the object.
            let page = (first + index * pages / self.job.pages) % pages;
            *offset = (page * PAGE_BYTES) as u64;
        }
        pattern::stamp(self.sequence, &mut lane.patch);
        (lane.copy, lane.reference, lane.region) = (None, None, None);
        (lane.phase, lane.begun, lane.ended) = (Some(0), 0, 0);
        (lane.begun_at, lane.failed) = (now, false);
    }

    /// Begins what the lane's phase has left to begin, as far as there is room.
    fn begin(&mut self, index: usize) -> Result<(), AppError> {
        let lane = &mut self.lanes[index];
        let Some(phase) = lane.phase.map(|number| self.phases[number]) else { return Ok(()) };
        while lane.begun < phase.operations(self.job) {
            let state = State {
                object: lane.object,
                copy: lane.copy,
                reference: lane.reference,
                region: lane.region,
                offsets: &lane.offsets[..self.job.pages],
                patch: &lane.patch,
            };
            let begun = match room(phase.begin(lane.begun, &self.ends, self.job, &state)) {
                Err(error) if error.is_suspicion() => None,
                begun => begun?,
            };
            let Some(ticket) = begun else { return Ok(()) };
            let is_producers = phase.is_producers();
            self.flights.push(Flight { ticket, is_producers, lane: index });
            lane.begun += 1;
        }
        Ok(())
    }

    /// Polls the endpoints that wait for something; both if nothing could begin.
    fn step(&self) {
        let waits = |is_producers| {
            self.flights.is_empty()
                || self.flights.iter().any(|flight| flight.is_producers == is_producers)
        };
        if waits(true) {
            self.ends.producer.step();
        }
        if waits(false) {
            self.ends.receiver.step();
        }
    }

    /// The lane of the next memory operation that has ended, and how.
    fn next_ended(&mut self) -> Option<(usize, Result<(), AppError>)> {
        for (client, is_producers) in [(self.ends.producer, true), (self.ends.receiver, false)] {
            while let Some(ticket) = client.next_ended() {
                let is_it = |flight: &Flight| {
                    flight.ticket == ticket && flight.is_producers == is_producers
                };
                let Some(at) = self.flights.iter().position(is_it) else { continue };
                let flight = self.flights.swap_remove(at);
                let lane = &mut self.lanes[flight.lane];
                lane.ended += 1;
                let Some(result) = client.try_finish(ticket) else { continue };
                let phase = lane.phase.map(|number| self.phases[number]);
                return Some((flight.lane, lane.keep(phase, result)));
            }
        }
        None
    }

    /// Goes on to the next phase if all of this one has ended. Returns the time that verification
    /// took.
    fn next_phase(
        &mut self,
        index: usize,
        clock: &Clock,
        tally: &mut Tally,
        verify_all: bool,
    ) -> Result<Duration, AppError> {
        let lane = &mut self.lanes[index];
        let Some(number) = lane.phase else { return Ok(Duration::ZERO) };
        if lane.ended < self.phases[number].operations(self.job) {
            return Ok(Duration::ZERO);
        }
        (lane.begun, lane.ended) = (0, 0);
        if lane.failed {
            // What it had goes with the session.
            lane.phase = None;
            return Ok(Duration::ZERO);
        }
        lane.phase = Some(number + 1).filter(|next| *next < self.phases.len());
        if number + 1 != self.timed {
            return Ok(Duration::ZERO);
        }
        let now = clock.now();
        tally.record_concurrent(now.since(lane.begun_at));
        if !verify_all && !self.random.samples() {
            return Ok(Duration::ZERO);
        }
        self.verify(index)?;
        tally.verified += 1;
        Ok(clock.now().since(now))
    }

    /// The receiver must see the object with its own writes, the producer its object as it was.
    fn verify(&mut self, index: usize) -> Result<(), AppError> {
        let lane = &self.lanes[index];
        let wrong = |found: &[u8], expected: &[u8]| {
            found.iter().zip(expected).position(|(found, right)| found != right)
        };
        let mut expected = self.job.content.clone();
        let Ends { producer, producer_peer, receiver, receiver_peer } = self.ends;
        let found = &mut self.found;
        let memory = producer.memory(producer_peer);
        patiently(producer, producer_peer, || memory.read(lane.object, 0, found))?;
        if let Some(at) = wrong(&self.found, &expected) {
            return Err(AppError::WrongBytes { op: "create_ref", bytes: expected.len(), at });
        }
        for offset in &lane.offsets[..self.job.pages] {
            expected[*offset as usize..][..lane.patch.len()].copy_from_slice(&lane.patch);
        }
        let region = lane.region.expect("the receiver has just written to it");
        let found = &mut self.found;
        let memory = receiver.memory(receiver_peer);
        patiently(receiver, receiver_peer, || memory.read(region, 0, found))?;
        match wrong(&self.found, &expected) {
            None => Ok(()),
            Some(at) => Err(AppError::WrongBytes { op: "cow_write", bytes: expected.len(), at }),
        }
    }
}

impl Lane {
    /// Keeps what a memory operation made.
    fn keep(
        &mut self,
        phase: Option<Phase>,
        result: Result<Finished<'_>, Error>,
    ) -> Result<(), AppError> {
        let finished = result?;
        match finished.operation {
            Operation::CreateRef | Operation::Put => {
                self.reference = Some(finished.reference()?);
            }
            Operation::TakeRegion if phase == Some(Phase::Own) => {
                self.copy = Some(finished.region()?);
            }
            Operation::TakeRegion => self.region = Some(finished.region()?),
            _ => finished.check()?,
        }
        Ok(())
    }
}
