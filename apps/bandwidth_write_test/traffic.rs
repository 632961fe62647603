//! Writes to random places, and the reads that verify some of them.

use std::collections::VecDeque;

use dmrpc_apps::bandwidth::TrafficOf;
use dmrpc_apps::client::Client;
use dmrpc_apps::error::AppError;
use dmrpc_apps::lanes::{Lanes, room};
use dmrpc_apps::pattern;
use dmrpc_apps::window::{Begun, Ended, Traffic};
use dmrpc_cn::{Error, Finished, Peer, Ticket};

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
        let mut lanes = Lanes::new(client, peers, seed, bytes)?;
        let sequence = lanes.places(0).count() as u64;
        Ok(Write { lanes, seed, sequence, to_verify: VecDeque::new() })
    }
}

/// Writes to random places.
pub(crate) struct Write<'c> {
    lanes: Lanes<'c>,
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

impl Write<'_> {
    /// Begins a read of a place. It takes effect after the writes that began before it, and before
    /// those that follow.
    fn begin_verification(
        &mut self,
        (lane, place): (usize, usize),
    ) -> Result<Option<(Ticket, InFlight)>, AppError> {
        let client = self.lanes.client;
        let places = self.lanes.places(lane);
        let region = places.region();
        let pipeline = client.memory(region.peer).start();
        let ticket = room(pipeline.read(region, places.offset(place), places.bytes()))?;
        let sequence = places.sequence(place);
        Ok(ticket.map(|ticket| (ticket, InFlight::Verify { lane, sequence })))
    }

    fn begin_write(&mut self) -> Result<Option<(Ticket, InFlight)>, AppError> {
        let (seed, sequence) = (self.seed, self.sequence + 1);
        let begun = self.lanes.begin(|client, lane, places| {
            let mut buffer = match client.buffer(places.bytes()) {
                Ok(buffer) => buffer,
                Err(error) if error.is_room() => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if !pattern::looks_filled(seed, &buffer) {
                pattern::fill(seed, &mut buffer);
            }
            pattern::stamp(sequence, &mut buffer);
            let place = places.choose();
            let (region, offset) = (places.region(), places.offset(place));
            let pipeline = client.memory(region.peer).start();
            let Some(ticket) = room(pipeline.write_buffer(region, offset, buffer))? else {
                return Ok(None);
            };
            places.written(place, sequence);
            Ok(Some((ticket, InFlight::Write { lane, place })))
        })?;
        self.sequence += u64::from(begun.is_some());
        Ok(begun)
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
        let begun = self.begin_write()?;
        Ok(begun.map_or(Begun::Full, |(ticket, context)| Begun::Operation(ticket, context)))
    }

    fn end(
        &mut self,
        context: InFlight,
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError> {
        match context {
            InFlight::Write { lane, place } => {
                result?.check()?;
                if verify {
                    self.to_verify.push_back((lane, place));
                }
                Ok(Ended::Counted { verified: false })
            }
            InFlight::Verify { lane, sequence } => {
                let buffer = result?.bytes_read()?;
                let found = buffer.as_deref().unwrap_or_default();
                self.lanes.places(lane).check("write", sequence, found)?;
                Ok(Ended::Verification)
            }
        }
    }

    fn prepare(&mut self) {
        self.lanes.wait_up();
    }
}
