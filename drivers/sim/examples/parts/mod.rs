//! What each safeguard costs: the same work with all of them off, with each alone, and with all on,
//! in turns, so that whatever else the machine does hits all of them alike.

use dmrpc_core::endpoint::Config;
use dmrpc_core::endpoint::auth::Key;
use dmrpc_core::endpoint::congestion::Congestion;
use dmrpc_core::time::Duration;
use dmrpc_core::wire::control::Features;

/// Which safeguards are on.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) auth: bool,
    pub(crate) encrypt: bool,
    pub(crate) integrity: bool,
    pub(crate) leases: bool,
    pub(crate) congestion: bool,
}

impl Parts {
    /// What the command line asks for.
    pub(crate) fn of_flags(flag: impl Fn(&str) -> bool) -> Self {
        Self {
            auth: flag("--auth"),
            encrypt: flag("--encrypt"),
            integrity: !flag("--no-integrity"),
            leases: !flag("--no-leases"),
            congestion: !flag("--no-congestion"),
        }
    }

    /// Sets an endpoint up so.
    pub(crate) fn apply(self, config: &mut Config) {
        config.encrypt = self.encrypt;
        if self.auth || self.encrypt {
            config.key = Some(Key::new(b"for measurements only").expect("long enough"));
        }
        if !self.integrity {
            config.features -= Features::PAYLOAD_CHECK;
        }
        if !self.leases {
            let long = Duration::from_secs(86_400);
            (config.keep_alive, config.suspect_after, config.lease) = (long, long, long);
        }
        if !self.congestion {
            config.congestion = Congestion::None;
        }
    }
}

const OFF: Parts =
    Parts { auth: false, encrypt: false, integrity: false, leases: false, congestion: false };
const DEFAULT: Parts = Parts { integrity: true, leases: true, congestion: true, ..OFF };

/// All that are compared, the one that they are compared with first.
pub(crate) const ROWS: [(&str, Parts); 8] = [
    ("all off", OFF),
    ("payload check", Parts { integrity: true, ..OFF }),
    ("leases", Parts { leases: true, ..OFF }),
    ("congestion control", Parts { congestion: true, ..OFF }),
    ("tags", Parts { auth: true, ..OFF }),
    ("the default", DEFAULT),
    ("all on", Parts { auth: true, ..DEFAULT }),
    ("encryption", Parts { encrypt: true, ..DEFAULT }),
];

/// Prints a line for each: the median rate that `rate_of` finds for that row, in `unit`, and how
/// much of the rate with all off it takes, turn by turn (median and quartiles), in so many turns,
/// an odd number. Each turn has an order of its own, for whoever follows a slow row finds less in
/// the caches.
pub(crate) fn compare(unit: &str, turns: usize, mut rate_of: impl FnMut(Parts) -> f64) {
    let mut rates = ROWS.map(|_| Vec::with_capacity(turns));
    let (mut order, mut random) = (core::array::from_fn(|row| row), 0x9E37_79B9_7F4A_7C15);
    // The first turn warms up.
    for turn in 0..=turns {
        shuffle::<{ ROWS.len() }>(&mut order, &mut random);
        for row in order {
            let rate = rate_of(ROWS[row].1);
            if turn > 0 {
                rates[row].push(rate);
            }
        }
    }
    for ((name, _), of_row) in ROWS.iter().zip(&rates) {
        let taken = of_row.iter().zip(&rates[0]).map(|(rate, off)| 100.0 * (1.0 - rate / off));
        let (taken, rate) = (sorted(taken.collect()), sorted(of_row.clone()));
        let at = |values: &[f64], quarter: usize| values[(turns - 1) * quarter / 4];
        println!(
            "{name:<20} {:>12.2} {unit}, {:>5.1} % less ({:.1} to {:.1})",
            at(&rate, 2),
            at(&taken, 2),
            at(&taken, 1),
            at(&taken, 3)
        );
    }
}

/// Puts `order` into an order picked at random (Fisher and Yates).
fn shuffle<const COUNT: usize>(order: &mut [usize; COUNT], random: &mut u64) {
    for at in (1..COUNT).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        order.swap(at, (*random % (at as u64 + 1)) as usize);
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
