//! What must not grow: ratios within one run, that hold on any machine.
//!
//! `cargo bench --bench promises` prints them; `-- --check` fails where one is broken.
#![allow(missing_docs, clippy::print_stdout)]

mod support;

use std::{alloc::System, hint::black_box, process::ExitCode, time::Instant};

use bytes::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{Row, is_listed, report};
use tower_response_cache::fuzzing::{KEY, decode, encode};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NAMES: [&str; 2] = ["decode_of_64_kib", "decode_of_64_kib_bytes"];

const CALLS: u32 = 2_000;
const ROUNDS: u32 = 100;

/// Nanoseconds and allocated bytes of each decoding.
fn round(frame: &Bytes) -> (f64, f64) {
    let before = ALLOCATOR.stats().bytes_allocated;
    let start = Instant::now();
    for _ in 0..CALLS {
        let decoded = decode(KEY, black_box(frame));
        drop(black_box(decoded.expect("a frame")));
    }
    let time = start.elapsed().as_nanos() as f64;
    let bytes = (ALLOCATOR.stats().bytes_allocated - before) as f64;
    (time / f64::from(CALLS), bytes / f64::from(CALLS))
}

/// Decoding a frame does not look at its body. In turns, and the best of each: noise only adds.
fn decoding() -> [Row; 2] {
    let frames = [1024, 65_536].map(|size| encode(KEY, &vec![b'x'; size]));
    let mut times = [f64::INFINITY; 2];
    let mut bytes = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        for (number, frame) in frames.iter().enumerate() {
            let (time, allocated) = round(frame);
            times[number] = times[number].min(time);
            bytes[number] = bytes[number].min(allocated);
        }
    }
    [
        Row {
            name: NAMES[0],
            reference: times[0],
            figure: times[1],
            bound: Some(1.1 * times[0]),
        },
        Row {
            name: NAMES[1],
            reference: bytes[0],
            figure: bytes[1],
            bound: Some(bytes[0]),
        },
    ]
}

fn main() -> ExitCode {
    if is_listed(&NAMES) {
        return ExitCode::SUCCESS;
    }
    report(&decoding())
}
