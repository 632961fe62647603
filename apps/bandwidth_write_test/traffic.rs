//! Writes to random places, and the reads that verify some of them.

use std::collections::VecDeque;

use dmrpc_apps::bandwidth::TrafficOf;
use dmrpc_apps::client::{Client, wait_up};
use dmrpc_apps::error::AppError;
use dmrpc_apps::pattern;
use dmrpc_apps::places::Places;
use dmrpc_apps::window::{Begun, Ended, Traffic};
use dmrpc_cn::memory::Cause;
use dmrpc_cn::{Error, Finished, OperationError, Peer, Ticket};

pub(crate) struct Writes;

impl TrafficOf for Writes {
    type Traffic<'c> = Write<'c>;

    fn of<'c>(
        &mut self,
        client: &'c Client,
        peers: &[Peer],
        seed: u64,
        bytes: usize,
    ) -> Result<Write<'c>, AppError> {
        let lanes = peers.iter().map(|&peer| Places::new(client, peer, seed, bytes));
        let lanes: Vec<_> = lanes.collect::<Result<_, _>>()?;
        let sequence = lanes.first().map_or(0, Places::count) as u64;
        Ok(Write { client, lanes, next: 0, seed, sequence, to_verify: VecDeque::new() })
    }
}

/// Writes to random places.
pub(crate) struct Write<'c> {
    client: &'c Client,
    /// The places of each session.
    lanes: Vec<Places>,
    /// The session whose turn it is.
    next: usize,
    seed: u64,
    sequence: u64,
    /// Places that are to be read next: the session and the place.
    to_verify: VecDeque<(usize, usize)>,
}

/// What is in flight.
#[derive(Clone, Copy)]
pub(crate) enum InFlight {
    Write {
        lane: usize,
        place: usize,
    },
    /// A read of a place whose last write before had this number.
    Verify {
        lane: usize,
        sequence: u64,
    },
}

/// What could not begin for want of room will later.
fn room(result: Result<Ticket, OperationError>) -> Result<Option<Ticket>, AppError> {
    match result {
        Ok(ticket) => Ok(Some(ticket)),
        Err(error) if matches!(error.cause, Cause::Call(error) if error.is_room()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Write<'_> {
    /// Begins a read of a place. It takes effect after the writes that began before it, and before
    /// those that follow.
    fn begin_verification(
        &mut self,
        (lane, place): (usize, usize),
    ) -> Result<Option<(Ticket, InFlight)>, AppError> {
        let places = &self.lanes[lane];
        let region = places.region();
        let pipeline = self.client.memory(region.peer).start();
        let ticket = room(pipeline.read(region, places.offset(place), places.bytes()))?;
        let sequence = places.sequence(place);
        Ok(ticket.map(|ticket| (ticket, InFlight::Verify { lane, sequence })))
    }

    fn begin_write(&mut self, lane: usize) -> Result<Option<(Ticket, InFlight)>, AppError> {
        let places = &mut self.lanes[lane];
        let mut buffer = match self.client.buffer(places.bytes()) {
            Ok(buffer) => buffer,
            Err(error) if error.is_room() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !pattern::looks_filled(self.seed, &buffer) {
            pattern::fill(self.seed, &mut buffer);
        }
        let sequence = self.sequence + 1;
        pattern::stamp(sequence, &mut buffer);
        let place = places.choose();
        let (region, offset) = (places.region(), places.offset(place));
        let pipeline = self.client.memory(region.peer).start();
        let Some(ticket) = room(pipeline.write_buffer(region, offset, buffer))? else {
            return Ok(None);
        };
        self.sequence = sequence;
        places.written(place, sequence);
        Ok(Some((ticket, InFlight::Write { lane, place })))
    }
}

impl Traffic for Write<'_> {
    type Context = InFlight;

    fn begin(&mut self) -> Result<Begun<InFlight>, AppError> {
        if let Some(&target) = self.to_verify.front()
            && let Some((ticket, context)) = self.begin_verification(target)?
        {
            self.to_verify.pop_front();
            return Ok(Begun::Operation(ticket, context));
        }
        for _ in 0..self.lanes.len() {
            let lane = self.next;
            self.next = (lane + 1) % self.lanes.len();
            if let Some((ticket, context)) = self.begin_write(lane)? {
                return Ok(Begun::Operation(ticket, context));
            }
        }
        Ok(Begun::Full)
    }

    fn end(
        &mut self,
        context: InFlight,
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError> {
        match context {
            InFlight::Write { lane, place } => {
                result?.checked()?;
                if verify {
                    self.to_verify.push_back((lane, place));
                }
                Ok(Ended::Counted { verified: false })
            }
            InFlight::Verify { lane, sequence } => {
                let buffer = result?.bytes_read()?;
                let found = buffer.as_deref().unwrap_or_default();
                self.lanes[lane].check("write", sequence, found)?;
                Ok(Ended::Verification)
            }
        }
    }

    fn prepare(&mut self) {
        self.lanes.iter().for_each(|places| wait_up(self.client, places.region().peer));
    }
}
