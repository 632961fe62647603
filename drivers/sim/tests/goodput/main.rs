//! What is left of a link's rate when packets get lost or overtake each other, when many answer
//! at once, and how it is shared. Hosts on a switch under a virtual clock (`dmrpc_sim::link`):
//! 100 Gbit/s, 10 us for a round trip, an MTU of 1500. Each test prints its rows; run with
//! `--nocapture` to see them.

use dmrpc_host as _;

mod bulk;
mod flood;
mod incast;
mod loss;
mod shares;
