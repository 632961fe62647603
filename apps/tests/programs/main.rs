//! The programs as a person or a script meets them: they are started, and what they print and how
//! they end is looked at.

mod cluster;
mod common;
mod every;
#[cfg(feature = "dpdk")]
mod links;
mod refusals;
mod results;
