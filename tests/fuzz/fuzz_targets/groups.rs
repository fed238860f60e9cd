//! `Cache-Groups` and `Cache-Group-Invalidation`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_response_cache::fuzzing::groups(data));
