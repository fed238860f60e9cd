//! Fields by which a response is stored or not.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_response_cache::fuzzing::response(data));
