//! What a hit, a bypass and a miss allocate, and a thousand of each for those who count instructions.
//!
//! `cargo bench --bench hit` prints allocations; `-- --check` fails where a promise is broken. How long
//! each takes is in `promises.rs`, which has an allocator that does not count.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "support/handler.rs"]
#[allow(dead_code, reason = "each bench takes what it needs of it")]
mod handler;
mod support;

use std::{
    alloc::System, convert::Infallible, future::IntoFuture, hint::black_box, process::ExitCode,
};

use bytes::Bytes;
use handler::{Handler, Plain, Uncacheable, now, request};
use http::{Request, header};
use http_body_util::Empty;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{Row, is_listed, report};
use tower::{Layer, Service};
use tower_response_cache::{
    Cache, ResponseCacheLayer, ValueKey,
    fuzzing::{KEY, decode, encode},
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How often memory was asked for so far; nothing but the measuring thread runs.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// A thousand calls, for counting the instructions of `one_hit`. A request is made when the one before
/// is answered and dropped, as a connection does it: so the allocator is as it would be there. The
/// call that comes first is not counted.
#[inline(never)]
fn count<S>(service: &mut S, calls: usize)
where
    S: Service<Request<Empty<Bytes>>, Error = Infallible>,
{
    drop(now(service.call(request("/page?id=1", None))));
    for _ in 0..calls {
        let response = one_hit(service, request("/page?id=1", None));
        drop(black_box(response));
    }
}

#[inline(never)]
fn one_hit<S>(service: &mut S, request: Request<Empty<Bytes>>) -> S::Response
where
    S: Service<Request<Empty<Bytes>>, Error = Infallible>,
{
    now(service.call(request)).unwrap_or_else(|never| match never {})
}

/// How many thousand calls are counted, for a profiler that samples.
fn rounds() -> usize {
    let rounds = std::env::var("ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Allocations of each call, over a thousand of them; the best of some rounds, since a table of the cache
/// grows at times.
fn allocations<S>(service: &mut S, next: impl Fn(usize) -> Request<Empty<Bytes>>) -> f64
where
    S: Service<Request<Empty<Bytes>>, Error = Infallible>,
{
    let mut least = usize::MAX;
    for round in 0..10 {
        let mut taken = 0;
        for call in 0..1_000 {
            let request = next(1_000 * round + call);
            let before = allocated();
            drop(black_box(one_hit(service, request)));
            taken += allocated() - before;
        }
        least = least.min(taken);
    }
    least as f64 / 1_000.0
}

/// What is allocated to decode a frame from a remote store; `promises.rs` has the time.
fn bytes_of_decoding(size: usize) -> f64 {
    let frame = encode(KEY, &vec![b'x'; size]);
    // Whatever is made once is made before.
    drop(decode(KEY, &frame).expect("a frame"));
    let before = ALLOCATOR.stats().bytes_allocated;
    drop(black_box(decode(KEY, black_box(&frame)).expect("a frame")));
    (ALLOCATOR.stats().bytes_allocated - before) as f64
}

/// What a hit of a value with a prepared key allocates, over a thousand of them; `promises.rs` has the time.
fn allocations_of_values() -> f64 {
    let cache = Cache::in_memory();
    let key = ValueKey::new(("user", 42)).expect("a key");
    let get = || {
        now(cache.get::<String>(&key))
            .ok()
            .flatten()
            .expect("it is there")
    };
    now(cache.set(&key, "Ada".to_owned()).into_future()).expect("it can be kept");
    drop(get());
    let before = allocated();
    for _ in 0..1_000 {
        drop(black_box(get()));
    }
    (allocated() - before) as f64
}

/// For `valgrind --tool=callgrind --toggle-collect='*one_hit*'`: `--count-hits`, `--count-misses`,
/// `--count-uncacheable`, `--count-bare`, and with feature `redis` `--count-hits-before-redis`.
fn is_counting(layer: &ResponseCacheLayer) -> bool {
    let is_asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    let calls = 1000 * rounds();
    if is_asked("--count-hits") {
        count(&mut layer.layer(Plain(Handler { size: 1024 })), calls);
        return true;
    }
    if is_asked("--count-uncacheable") {
        count(&mut layer.layer(Uncacheable), calls);
        return true;
    }
    if is_asked("--count-bare") {
        count(&mut Uncacheable, calls);
        return true;
    }
    #[cfg(feature = "redis")]
    if is_asked("--count-hits-before-redis") {
        // The same with a second tier. Outside of a runtime nothing is ever sent there.
        let cache = Cache::redis("redis://127.0.0.1:1", "bench").build();
        let layer = ResponseCacheLayer::new(cache.expect("the settings are good"));
        count(&mut layer.layer(Plain(Handler { size: 1024 })), 1000);
        return true;
    }
    if is_asked("--count-misses") {
        let mut service = layer.layer(Plain(Handler { size: 1024 }));
        for call in 0..calls {
            let request = another(call);
            drop(black_box(one_hit(&mut service, request)));
        }
        return true;
    }
    false
}

/// A request for a page that nobody has asked for yet.
fn another(call: usize) -> Request<Empty<Bytes>> {
    let mut request = request("/", None);
    *request.uri_mut() = format!("/miss/{call}").parse().expect("a path");
    request
}

fn main() -> ExitCode {
    let names = [
        "hit_allocations",
        "bypass_allocations",
        "miss_allocations",
        "decode_of_64_kib_bytes",
        "value_hit_allocations",
    ];
    if is_listed(&names) {
        return ExitCode::SUCCESS;
    }
    let layer = ResponseCacheLayer::new(Cache::in_memory());
    if is_counting(&layer) {
        return ExitCode::SUCCESS;
    }
    let page = |_| request("/page?id=1", None);
    let personal = |_| request("/page?id=1", Some((header::AUTHORIZATION, "Bearer x")));
    let mut bare = Plain(Handler { size: 1024 });
    let mut cached = layer.layer(bare.clone());
    let mut bypassing = layer.clone().bypass_when(|_| true).layer(bare.clone());
    let of_handler = allocations(&mut bare, page);
    let of_handler_when_personal = allocations(&mut bare, personal);
    let row = |name, reference, figure, bound| Row {
        name,
        reference,
        figure,
        bound,
    };
    let rows = [
        row(
            names[0],
            of_handler,
            allocations(&mut cached, page),
            Some(2.0),
        ),
        row(
            names[1],
            of_handler_when_personal,
            allocations(&mut bypassing, personal),
            Some(of_handler_when_personal),
        ),
        row(
            names[2],
            of_handler,
            allocations(&mut cached, another),
            None,
        ),
        row(
            names[3],
            bytes_of_decoding(1024),
            bytes_of_decoding(65_536),
            Some(bytes_of_decoding(1024)),
        ),
        row(names[4], 0.0, allocations_of_values(), Some(0.0)),
    ];
    report(&rows)
}
