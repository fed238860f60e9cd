//! What must not grow: ratios within one run, that hold on any machine.
//!
//! `cargo bench --bench promises` prints them; `-- --check` fails where one is broken, and `-- storm
//! wake` measures only those whose names have one of these in them. Those of Redis need feature `redis`
//! and start a redis-server of their own. Nothing counts allocations here: that
//! would be a cost for several threads.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "support/handler.rs"]
#[allow(dead_code, reason = "each bench takes what it needs of it")]
mod handler;
#[path = "support/herd.rs"]
mod herd;
#[path = "support/herd_invalidation.rs"]
mod herd_invalidation;
#[path = "support/herd_sockets.rs"]
mod herd_sockets;
#[path = "support/hit_time.rs"]
mod hit_time;
#[cfg(feature = "redis")]
#[path = "support/nodes.rs"]
mod nodes;
#[cfg(feature = "redis")]
#[path = "support/redis_hit.rs"]
mod redis_hit;
#[cfg(feature = "redis")]
#[path = "../tests/support/redis_server.rs"]
mod redis_server;
mod support;
#[path = "support/value_hit.rs"]
mod value_hit;

use std::{hint::black_box, process::ExitCode, time::Instant};

use bytes::Bytes;
use support::{Row, is_listed, report};
use tower_response_cache::fuzzing::{KEY, decode, encode};

const DECODING: &str = "decode_of_64_kib";
const CALLS: u32 = 2_000;
const ROUNDS: u32 = 100;

/// Nanoseconds of each decoding.
fn round(frame: &Bytes) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        let decoded = decode(KEY, black_box(frame));
        drop(black_box(decoded.expect("a frame")));
    }
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

/// Decoding a frame does not look at its body. In turns, and the best of each: noise only adds.
fn decoding() -> Row {
    let frames = [1024, 65_536].map(|size| encode(KEY, &vec![b'x'; size]));
    let mut times = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        for (time, frame) in times.iter_mut().zip(&frames) {
            *time = time.min(round(frame));
        }
    }
    Row {
        name: DECODING,
        reference: times[0],
        figure: times[1],
        bound: Some(1.1 * times[0]),
    }
}

/// Whether a row is to be measured: no name was given, or a part of its name.
fn is_selected(name: &str) -> bool {
    let mut parts = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .peekable();
    parts.peek().is_none() || parts.any(|part| name.contains(&part))
}

fn main() -> ExitCode {
    let mut names = vec![DECODING, value_hit::NAME];
    names.extend(hit_time::NAMES);
    names.extend(herd::NAMES);
    names.push(herd_sockets::NAME);
    names.extend(herd_invalidation::NAMES);
    #[cfg(feature = "redis")]
    {
        names.extend(redis_hit::names());
        names.extend(nodes::NAMES);
    }
    if is_listed(&names) {
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "redis")]
    {
        let arguments: Vec<String> = std::env::args().collect();
        if let [_, side, size, tasks, ..] = arguments.as_slice() {
            if let (Ok(size), Ok(tasks)) = (size.parse(), tasks.parse()) {
                redis_hit::profile(side, size, tasks);
                return ExitCode::SUCCESS;
            }
        }
    }
    let mut rows = Vec::new();
    if is_selected(DECODING) {
        rows.push(decoding());
    }
    rows.extend(hit_time::rows(is_selected));
    rows.extend(herd::rows(is_selected));
    if is_selected(herd_sockets::NAME) {
        rows.push(herd_sockets::row());
    }
    rows.extend(herd_invalidation::rows(is_selected));
    if is_selected(value_hit::NAME) {
        rows.push(value_hit::row());
    }
    #[cfg(feature = "redis")]
    if redis_hit::names().any(is_selected) {
        rows.extend(redis_hit::rows(is_selected));
    }
    #[cfg(feature = "redis")]
    rows.extend(nodes::rows(is_selected));
    report(&rows)
}
