//! See `dmrpc_fuzz::client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmrpc_fuzz::client::run(data));
