//! See `dmrpc_fuzz::pool`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmrpc_fuzz::pool::run(data));
