//! The cores, driven by shuttle: who leads, who waits, who is woken (`flight.rs`), and what is still
//! valid (`invalidation.rs`, `entry.rs`).
//!
//! Each test is a small program of a few threads that shuttle runs through thousands of schedules, some
//! drawn at random and some by probabilistic concurrency testing, which finds rarer orders. A thread
//! that waits for a waker that nobody calls is a deadlock, and shuttle fails the test with the
//! schedule, to be played again with `shuttle::replay`. Its atomics are sequentially consistent: what
//! is found here are orders of steps, not orders of memory.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --lib --target-dir target/shuttle cores`

mod flight;
mod log;

use http::{HeaderMap, StatusCode, Version};

use crate::{
    entry::{Entry, Lifetime, Origin, Said, Staleness, StoredHead},
    invalidation::Sequence,
    sync::Arc,
    target::Subject,
};

/// So many schedules of each kind; `SHUTTLE_SCHEDULES` says another number.
fn schedules() -> usize {
    let text = std::env::var("SHUTTLE_SCHEDULES");
    text.map_or(500, |text| text.parse().expect("a number"))
}

/// Runs a program through schedules at random, and by priorities that change at few points.
fn all_schedules(program: fn()) {
    shuttle::check_random(program, schedules());
    for depth in 2..5 {
        shuttle::check_pct(program, schedules() / 2, depth);
    }
}

/// Chance that belongs to the schedule.
fn below(bound: u64) -> u64 {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_range(0..bound)
}

fn head() -> Arc<StoredHead> {
    Arc::new(StoredHead {
        status: StatusCode::OK,
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        status_slot: false,
        own_tag: false,
        validator: None,
        lifetime: Lifetime {
            response_time: 0,
            initial_age: 0,
            freshness: 60_000,
            kept: 0,
        },
        staleness: Staleness::default(),
        groups: Box::default(),
        tags: Box::default(),
        said: Said::default(),
        shareable: true,
        shareable_with_authorization: false,
    })
}

fn origin(fill: u64, sequence: u64) -> Origin {
    Origin {
        fill,
        sequence: Sequence {
            local: sequence,
            shared: 0,
        },
        subject: Subject::response(Some(Some("h")), "/a", Some(None)),
    }
}

/// An entry whose body is one number.
fn entry(origin: Origin, value: u64) -> Arc<Entry> {
    let body = value.to_be_bytes().to_vec().into();
    Arc::new(Entry::new(head(), body, origin))
}

fn value(entry: &Entry) -> u64 {
    u64::from_be_bytes(entry.body[..].try_into().expect("eight bytes"))
}
