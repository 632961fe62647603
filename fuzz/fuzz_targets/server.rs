//! See `dmrpc_fuzz::server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmrpc_fuzz::server::run(data));
