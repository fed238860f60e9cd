//! Values of fields that `Vary` nominates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_response_cache::fuzzing::nominated(data));
