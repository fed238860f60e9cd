//! `If-None-Match` and `If-Modified-Since`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_response_cache::fuzzing::validation(data));
