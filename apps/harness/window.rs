//! Operations many at a time: so many in flight, the next begun as soon as one ends.

use dmrpc_cn::{Error, Finished, Ticket};
use dmrpc_core::time::{Duration, Instant};
use dmrpc_host::clock::Clock;

use crate::block::{Block, Tally};
use crate::client::Client;
use crate::error::AppError;
use crate::pattern::Random;

/// So many errors in a block end the run.
const ERRORS_MAX: u64 = 10;

/// Nothing ended for so long, beyond every deadline: nothing will.
const STALL: Duration = Duration::from_secs(30);

/// What a [`Traffic`] began.
#[derive(Debug)]
pub enum Begun<C> {
    /// An operation, and what will be needed at its end.
    Operation(Ticket, C),
    /// Nothing: there is no room until another ends.
    Full,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Well, and it counts.
    Counted {
        /// Whether its bytes were compared.
        verified: bool,
    },
    /// Well; it was there to verify another one, and does not count as an operation.
    Verification,
}

/// Operations of one kind, as many as are wanted.
pub trait Traffic {
    /// What is kept of an operation in flight.
    type Context;

    /// Begins an operation.
    ///
    /// # Errors
    /// It makes no sense to go on.
    fn begin(&mut self) -> Result<Begun<Self::Context>, AppError>;

    /// As [`Traffic::begin`], of an operation that `verify` is going to be said of at its end.
    ///
    /// # Errors
    /// As [`Traffic::begin`].
    fn begin_with(&mut self, verify: bool) -> Result<Begun<Self::Context>, AppError> {
        let _ = verify;
        self.begin()
    }

    /// Polls once.
    fn step(&mut self, client: &Client) {
        client.step();
    }

    /// Looks at the end of an operation. With `verify`, its bytes are to be compared.
    ///
    /// # Errors
    /// It failed or brought wrong bytes.
    fn end(
        &mut self,
        context: Self::Context,
        result: Result<Finished<'_>, Error>,
        verify: bool,
    ) -> Result<Ended, AppError>;

    /// Gets ready for a block.
    fn prepare(&mut self) {}
}

struct InFlight<C> {
    ticket: Ticket,
    begun_at: Instant,
    verify: bool,
    context: C,
}

/// Operations in flight, in the places that their tickets name.
struct Flights<C> {
    places: Vec<Option<InFlight<C>>>,
    count: usize,
}

impl<C> Flights<C> {
    fn new() -> Self {
        Self { places: Vec::new(), count: 0 }
    }

    fn begin(&mut self, ticket: Ticket, flight: InFlight<C>) {
        if self.places.len() <= ticket.place() {
            self.places.resize_with(ticket.place() + 1, || None);
        }
        self.places[ticket.place()] = Some(flight);
        self.count += 1;
    }

    /// Takes out what was begun as `ticket`; `None` if that was not here.
    fn end(&mut self, ticket: Ticket) -> Option<InFlight<C>> {
        let place = self.places.get_mut(ticket.place())?;
        let flight = place.take_if(|flight| flight.ticket == ticket)?;
        self.count -= 1;
        Some(flight)
    }
}

/// Measures a block with `concurrency` operations in flight. `verify_all` or one in 64.
///
/// # Errors
/// Several operations failed; single failures are counted.
pub fn measure<T: Traffic>(
    traffic: &mut T,
    client: &Client,
    (clock, block): (&Clock, &mut Block),
    concurrency: usize,
    (random, verify_all): (&mut Random, bool),
) -> Result<Tally, AppError> {
    let mut tally = Tally::new();
    let mut flights = Flights::new();
    let mut begun = 0;
    traffic.prepare();
    block.restart(clock);
    let start = clock.now();
    let (mut now, mut progress_at) = (start, start);
    loop {
        let mut full = false;
        // All that begins before the next poll leaves with it, so the clock is read once a poll.
        while flights.count < concurrency && block.more_at(now, begun) {
            let verify = verify_all || random.samples();
            let begun_now = match traffic.begin_with(verify) {
                Err(error) if error.is_suspicion() => Begun::Full,
                result => result?,
            };
            match begun_now {
                Begun::Full => {
                    full = true;
                    break;
                }
                Begun::Operation(ticket, context) => {
                    flights.begin(ticket, InFlight { ticket, begun_at: now, verify, context });
                    begun += 1;
                }
            }
        }
        if flights.count == 0 && !full {
            break;
        }
        traffic.step(client);
        now = clock.now();
        if now.since(progress_at) > STALL {
            return Err(AppError::Stalled { in_flight: flights.count });
        }
        while let Some(ticket) = client.next_ended() {
            let Some(flight) = flights.end(ticket) else { continue };
            progress_at = now;
            let Some(result) = client.try_finish(ticket) else { continue };
            let span = now.since(flight.begun_at);
            match traffic.end(flight.context, result, flight.verify) {
                Ok(Ended::Counted { verified }) => {
                    tally.record_concurrent(span);
                    tally.verified += u64::from(verified);
                }
                Ok(Ended::Verification) => tally.verified += 1,
                Err(error) => {
                    tally.errors += 1;
                    if tally.errors >= ERRORS_MAX {
                        return Err(error);
                    }
                    dmrpc_host::cli::complain("failed", error);
                }
            }
        }
    }
    tally.elapsed_ns = clock.now().since(start).as_nanos();
    Ok(tally)
}
