//! The compute node process.
fn main() {}
