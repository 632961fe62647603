//! See `dmrpc_fuzz::port`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmrpc_fuzz::port::run(data));
