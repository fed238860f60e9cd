//! `No-Vary-Search`, and a query.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_response_cache::fuzzing::search(data));
