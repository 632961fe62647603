//! What the programs under `apps/` share: command line, processes, measurement, results.
//!
//! A program is a function from a [`Session`](session::Session) to rows: it asks the session for
//! the servers that it needs, which are children on this machine (`--local`) or processes of a
//! cluster, measures blocks of operations against them, and hands [`Row`](row::Row)s to the output.
//!
//! * [`args`]: the command line that all programs understand. [`error`]: why one ends early.
//! * [`session`]: from the command line to servers that answer, and down again.
//! * [`servers`]: children of `--local`, of which one at a time may run.
//! * [`role`]: what this program does when it is itself started as a child.
//! * [`block`]: the measuring of a block. [`cycle`]: of operations one at a time; [`window`]: of
//!   many in flight. [`client`]: the node that makes them.
//! * [`interleave`]: blocks of ours and of the
//!   bare device in turns, and the ratio of the two.
//! * [`frames`]: how long the datagrams of an operation are. [`raw`], [`train`]: the same datagrams
//!   over the bare device.
//! * [`bandwidth`]: sizes and numbers in flight, row by row. [`echo`]: calls of an echo.
//! * [`pattern`]: bytes that say where they belong, for verification; [`places`]: a region of them;
//!   [`lanes`]: such regions of several sessions.
//! * [`row`], [`output`]: results, for people and for programs.
#![forbid(unsafe_code)]

pub mod args;
pub mod bandwidth;
pub mod block;
pub mod client;
pub mod cycle;
pub mod echo;
pub mod error;
pub mod frames;
pub mod interleave;
pub mod lanes;
mod local_pool;
pub mod output;
pub mod pattern;
pub mod places;
pub mod raw;
pub mod role;
pub mod row;
mod said;
pub mod servers;
pub mod session;
pub mod train;
pub mod window;
