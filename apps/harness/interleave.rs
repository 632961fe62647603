//! Blocks of ours and of the bare device in turns, and the ratio of the two.
//!
//! The machine's speed changes from one tenth of a second to the next. Of two neighbouring blocks
//! it is nearly the same, so the median of the blocks' ratios holds where a ratio of sums would
//! not.

use std::fmt;

use serde::Serialize;

use crate::block::Tally;

/// A ratio taken block by block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the blocks' ratios.
    pub median: f64,
    /// The lower quartile.
    pub lower_quartile: f64,
    /// The upper quartile.
    pub upper_quartile: f64,
    /// How many blocks there were.
    pub blocks: u64,
}

impl Ratio {
    /// The median and quartiles of `ratios`. `None` if there are none.
    pub fn of(mut ratios: Vec<f64>) -> Option<Self> {
        ratios.retain(|ratio| ratio.is_finite());
        ratios.sort_by(f64::total_cmp);
        let last = ratios.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, above) = (ratios[place.floor() as usize], ratios[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Self {
            median: at(0.5),
            lower_quartile: at(0.25),
            upper_quartile: at(0.75),
            blocks: ratios.len() as u64,
        })
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, lower_quartile, upper_quartile, .. } = self;
        write!(f, "{median:.3} ({lower_quartile:.3}-{upper_quartile:.3})")
    }
}

/// What a ratio compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Median times: 1.25 means a quarter slower than the bare device.
    Medians,
    /// The same the other way round: 2 means twice as fast as the other.
    Speedup,
    /// Bytes a second, of operations of the given numbers of bytes (ours, the bare device's): 0.8
    /// means four fifths of what the bare device carries.
    Rates(u64, u64),
}

impl Compare {
    /// The ratio of one block of ours and one of the bare device.
    pub fn ratio(self, ours: &Tally, bare: &Tally) -> f64 {
        match self {
            Self::Medians => ours.median_ns() as f64 / bare.median_ns() as f64,
            Self::Speedup => bare.median_ns() as f64 / ours.median_ns() as f64,
            Self::Rates(our_bytes, bare_bytes) => {
                ours.ops_per_s() * our_bytes as f64 / (bare.ops_per_s() * bare_bytes as f64)
            }
        }
    }
}

/// Sums of blocks in turns, for each of `N` operations measured in the same blocks.
#[derive(Clone, Debug)]
pub struct Turns<const N: usize> {
    /// Ours.
    pub ours: [Tally; N],
    /// The bare device's; nothing in it if it was not measured.
    pub bare: Tally,
    ratios: [Vec<f64>; N],
}

impl<const N: usize> Default for Turns<N> {
    fn default() -> Self {
        Self {
            ours: std::array::from_fn(|_| Tally::new()),
            bare: Tally::new(),
            ratios: std::array::from_fn(|_| Vec::new()),
        }
    }
}

impl<const N: usize> Turns<N> {
    /// Adds a block of ours and, if there is one, its neighbour of the bare device.
    pub fn add(&mut self, ours: &[Tally; N], bare: Option<&Tally>, compare: Compare) {
        for (index, tally) in ours.iter().enumerate() {
            self.ours[index].merge(tally);
            if let Some(bare) = bare
                && tally.count > 0
                && bare.count > 0
            {
                self.ratios[index].push(compare.ratio(tally, bare));
            }
        }
        if let Some(bare) = bare {
            self.bare.merge(bare);
        }
    }

    /// The ratio of operation `index`.
    pub fn ratio(&self, index: usize) -> Option<Ratio> {
        Ratio::of(self.ratios[index].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmrpc_core::time::Duration;

    #[test]
    fn medians_and_quartiles() {
        let ratio = Ratio::of(vec![5.0, 1.0, 4.0, 2.0, 3.0, f64::NAN]).expect("some");
        let expected = Ratio { median: 3.0, lower_quartile: 2.0, upper_quartile: 4.0, blocks: 5 };
        assert_eq!(ratio, expected);
        assert_eq!(Ratio::of(vec![1.0, 2.0]).expect("some").median, 1.5);
        assert_eq!(Ratio::of(vec![]), None);
    }

    #[test]
    fn blocks_in_turns() {
        let tally = |nanos: u64| {
            let mut tally = Tally::new();
            (0..10).for_each(|_| tally.record(Duration::from_nanos(nanos)));
            tally
        };
        let mut turns = Turns::default();
        for slowness in [1, 10, 100] {
            turns.add(&[tally(1200 * slowness)], Some(&tally(1000 * slowness)), Compare::Medians);
        }
        let ratio = turns.ratio(0).expect("three blocks");
        assert!((ratio.median - 1.2).abs() < 0.01, "{ratio:?}");
        let rates = Compare::Rates(800, 1000).ratio(&tally(1000), &tally(1000));
        assert!((rates - 0.8).abs() < 1e-9);
        let speedup = Compare::Speedup.ratio(&tally(1000), &tally(15_000));
        assert!((speedup - 15.0).abs() < 0.1, "{speedup}");
    }
}
