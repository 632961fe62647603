//! What the store costs in a mapped pool, in ratios of one run: each row beside its yardstick.
//!
//! `pool_bars [refs] [handoff] [chain] [cow] [recovery] [growth] [chase] [--blocks N]` measures
//! those named, or all, and prints a line of JSON a row: `ratio` is to what `beside` names (the
//! median over the blocks, with quartiles), `bar` what it should be, `met` whether it is.
//!
//! `pool_bars count --pool-gib N --refs N --participants N --rounds N` does `rounds` operations
//! and measures nothing: for counting the instructions of `measured_operation`. With `--forward N`
//! the operation is what a service does that forwards an argument of N bytes.

mod bench;
mod chain;
mod cow;
mod growth;
mod private;
mod recovery;
mod refs;

use dmrpc_host as _;

/// What goes wrong says so itself.
type Failure = Box<dyn std::error::Error>;

fn number(name: &str, default: u64) -> u64 {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    args.next().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("{name} {text}: a number is wanted");
            std::process::exit(2)
        })
    })
}

/// A group of rows: its name, and what measures it in so many blocks.
type Group = (&'static str, fn(u64) -> Result<(), Failure>);

const GROUPS: [Group; 7] = [
    ("refs", refs::own),
    ("handoff", refs::handed_over),
    ("chain", chain::measure),
    ("cow", cow::measure),
    ("recovery", recovery::measure),
    ("growth", growth::measure),
    ("chase", growth::chase),
];

fn main() -> Result<(), Failure> {
    let names: Vec<String> =
        std::env::args().skip(1).take_while(|arg| !arg.starts_with("--")).collect();
    if names.iter().any(|name| name == "count") {
        return match number("--forward", 0) {
            0 => growth::count(),
            bytes => chain::count(bytes, number("--rounds", 1000)),
        };
    }
    if let Some(unknown) = names.iter().find(|name| !GROUPS.iter().any(|(known, _)| known == name))
    {
        let known: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
        eprintln!("pool_bars {unknown}: give some of {}, or count", known.join(", "));
        std::process::exit(2);
    }
    let blocks = number("--blocks", 21);
    bench::pin_here()?;
    for (name, measure) in GROUPS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            measure(blocks)?;
        }
    }
    Ok(())
}
