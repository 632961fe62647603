//! Operations one at a time, measured in blocks.

use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;

use crate::block::{Block, Tally};
use crate::error::AppError;
use crate::pattern::Random;

/// Operations before each block that are not measured: the server has just been woken.
const SETTLE: u64 = 16;
/// So many errors in a block end the run.
const ERRORS_MAX: u64 = 10;

/// So many times in a row a silent server is waited for.
const PATIENCE: u32 = 10;

/// `N` operations, one after the other, that are measured in the same blocks.
pub trait Cycle<const N: usize> {
    /// Makes each of them once and says how long each took. With `verify`, compares their bytes,
    /// which is not part of those times.
    ///
    /// # Errors
    /// One of them failed or brought wrong bytes.
    fn run(&mut self, clock: &Clock, verify: bool) -> Result<[Duration; N], AppError>;

    /// Gets ready for a block.
    fn prepare(&mut self) {}
}

/// Cycles `count` times, all verified, without measuring.
///
/// # Errors
/// A cycle failed: it makes no sense to go on.
pub fn warm_up<const N: usize>(
    cycle: &mut impl Cycle<N>,
    clock: &Clock,
    count: u64,
) -> Result<[Tally; N], AppError> {
    let mut tallies = std::array::from_fn(|_| Tally::new());
    cycle.prepare();
    for _ in 0..count {
        patiently(cycle, clock, true)?;
    }
    tallies.iter_mut().for_each(|tally| tally.verified = count);
    Ok(tallies)
}

/// Runs a cycle, again if the server was silent and nothing was sent.
fn patiently<const N: usize>(
    cycle: &mut impl Cycle<N>,
    clock: &Clock,
    verify: bool,
) -> Result<[Duration; N], AppError> {
    for _ in 0..PATIENCE {
        match cycle.run(clock, verify) {
            Err(error) if error.is_suspicion() => cycle.prepare(),
            result => return result,
        }
    }
    cycle.run(clock, verify)
}

/// Measures a block, one cycle in 64 of it verified.
///
/// # Errors
/// Several cycles failed; single failures are counted.
pub fn measure<const N: usize>(
    cycle: &mut impl Cycle<N>,
    clock: &Clock,
    block: &mut Block,
    random: &mut Random,
) -> Result<[Tally; N], AppError> {
    let mut tallies: [Tally; N] = std::array::from_fn(|_| Tally::new());
    cycle.prepare();
    for _ in 0..SETTLE {
        patiently(cycle, clock, false)?;
    }
    block.restart(clock);
    let mut begun = 0;
    while block.more(clock, begun) {
        begun += 1;
        let verify = random.samples();
        match patiently(cycle, clock, verify) {
            Ok(spans) => {
                for (tally, span) in tallies.iter_mut().zip(spans) {
                    tally.record(span);
                    tally.verified += u64::from(verify);
                }
            }
            Err(error) => {
                tallies.iter_mut().for_each(|tally| tally.errors += 1);
                if tallies[0].errors >= ERRORS_MAX {
                    return Err(error);
                }
                dmrpc_host::cli::complain("failed", error);
            }
        }
    }
    Ok(tallies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Budget;

    /// Fails every third time.
    struct Shaky(u64);

    impl Cycle<2> for Shaky {
        fn run(&mut self, _: &Clock, _: bool) -> Result<[Duration; 2], AppError> {
            self.0 += 1;
            match self.0 % 3 {
                0 if self.0 > SETTLE => Err(AppError::Stalled { in_flight: 1 }),
                _ => Ok([Duration::from_nanos(100), Duration::from_nanos(200)]),
            }
        }
    }

    #[test]
    fn failures_are_counted_and_many_end_the_run() {
        let clock = Clock::new();
        let mut random = Random::new(1);
        let mut block = Block::start(&clock, Budget::Count(9));
        let tallies =
            measure(&mut Shaky(0), &clock, &mut block, &mut random).expect("three failures");
        assert_eq!((tallies[0].count, tallies[0].errors), (6, 3));
        assert_eq!((tallies[0].median_ns(), tallies[1].median_ns()), (100, 200));
        let mut block = Block::start(&clock, Budget::Count(99));
        assert!(measure(&mut Shaky(0), &clock, &mut block, &mut random).is_err());
    }
}
