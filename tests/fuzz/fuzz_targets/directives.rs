//! `Cache-Control`, of requests and of responses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_response_cache::fuzzing::directives(data));
