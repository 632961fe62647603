//! What DmRPC's std binaries share: everything round a poll loop that is not protocol.
//!
//! * [`clock`]: time for the core, cheaply.
//! * [`cipher`]: encryption by the processor's instructions.
//! * [`affinity`]: which core a loop runs on. [`idle`]: what it does when there is nothing to do.
//! * [`events`]: what happened last, as text, on demand and in a panic.
//! * [`signals`]: stop and statistics on demand.
//! * [`cli`]: command lines, refused in one line. [`cluster`]: who is where. [`size`]: sizes and
//!   spans of time.
//! * [`local`]: child processes for `--local`, certain to come down again.
//! * [`key`]: the pre-shared key, from a file or the environment.
//! * [`metered`]: a device that keeps an account of what was sent to whom.
//! * [`network`]: network namespaces that nobody has to take down.
//! * [`captured`], [`pcap`]: a device that writes what passes to a capture file.
//! * [`polls`]: what a poll loop does, counted.
//! * [`raw`]: yardsticks of the bare device and the bare socket.
//! * [`table`]: large tables on huge pages.
//! * [`spsc`]: a ring between an ordinary thread and a poll loop.
//! * [`steer`]: several cores behind one address.
//! * `log` (feature `log`): deferred logging with defmt.
#![deny(unsafe_code)]

pub mod affinity;
pub mod captured;
pub mod cipher;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod events;
pub mod idle;
pub mod key;
pub mod local;
#[cfg(feature = "log")]
pub mod log;
pub mod metered;
pub mod network;
pub mod pcap;
pub mod polls;
pub mod raw;
pub mod signals;
pub mod size;
#[allow(unsafe_code)]
pub mod spsc;
#[cfg(test)]
#[path = "spsc/tests.rs"]
mod spsc_tests;
pub mod steer;
#[allow(unsafe_code)]
mod sync;
#[allow(unsafe_code)]
mod sys;
pub mod table;
