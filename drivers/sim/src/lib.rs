//! Simulated devices, for tests and measurements that repeat exactly.
//!
//! - [`network`]: any number of devices on a network that loses, repeats, delays, reorders and
//!   corrupts what it carries, all drawn from one seed under a virtual clock;
//! - [`cluster`]: endpoints with their hosts on such a network, stepped from event to event;
//! - [`link`]: hosts on a switch, with rates and queues, for goodput, incast and fairness;
//! - [`memory`]: two devices joined by a wire in memory, for instruction counts and throughput;
//! - [`faults`]: what a network may do to packets, and how often it did;
//! - [`effects`]: how often that mattered;
//! - [`watched`]: the same where packets are encrypted;
//! - [`forge`]: bad packets made of good ones;
//! - [`random`]: the generator behind it.
#![forbid(unsafe_code)]

pub mod borrowing;
pub mod cluster;
pub mod effects;
pub mod faults;
pub mod forge;
pub mod link;
pub mod memory;
pub mod network;
pub mod random;
pub mod storage;
pub mod watched;
