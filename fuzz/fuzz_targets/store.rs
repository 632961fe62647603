//! See `dmrpc_fuzz::store`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmrpc_fuzz::store::run(data));
