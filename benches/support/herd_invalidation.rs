//! What invalidations cost: those who invalidate, and those who are answered meanwhile.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use tower::{Layer, Service};
use tower_response_cache::{Cache, ResponseCache, ResponseCacheLayer, Selector, Tags};

use crate::{herd::quantile, support::Row};

const HITS: &str = "hits_while_1000_a_second";
const RESOURCE: &str = "invalidate_a_resource";
const TAG: &str = "invalidate_a_tag";
const PATTERN: &str = "invalidate_a_pattern";

/// Names of the rows.
pub(crate) const NAMES: [&str; 4] = [HITS, RESOURCE, TAG, PATTERN];

/// What the entries of [`invalidating`] have in common.
fn of_all() -> Selector {
    Selector::resource("example.com", "/page")
}

fn tag_of_all() -> Selector {
    Selector::tag("pages")
}

fn pattern_of_all() -> Selector {
    Selector::path("/p*")
}

/// What no entry has: by resource, tag and pattern.
fn unrelated(number: u64) -> Selector {
    match number % 3 {
        0 => Selector::resource("example.com", &format!("/other/{number}")),
        1 => Selector::tag(format!("other {number}")),
        // Not more of them than the log keeps: beyond that everything older would be a miss.
        _ => Selector::path(&format!("/other/{}/*", number % 500)),
    }
}

/// Answers at once.
#[derive(Clone)]
struct Handler;

impl Service<Request<Empty<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        let mut response = Response::new(Full::new(Bytes::from_static(b"a page")));
        response
            .extensions_mut()
            .insert(Tags::new(["pages", "more"]));
        ready(Ok(response))
    }
}

/// Whoever says another number has entries of its own.
fn request(path: &str, number: usize) -> Request<Empty<Bytes>> {
    let request = Request::builder().uri(path).header("host", "example.com");
    let request = request.header("x-number", number).body(Empty::new());
    request.expect("a request")
}

/// The `X-Cache` of the answer, which is there at once.
fn ask(service: &mut ResponseCache<Handler>, request: Request<Empty<Bytes>>) -> bool {
    let response = service.call(request).now_or_never().expect("at once");
    let response = response.unwrap_or_else(|never| match never {});
    response.headers()["x-cache"] == "HIT"
}

fn cache() -> Cache {
    let cache = Cache::builder().memory(1 << 30).build();
    cache.expect("the settings are good")
}

// ---- invalidating ----

const CALLS: u32 = 100;
const ROUNDS: usize = 15;

/// Nanoseconds of an invalidation of so many entries, which all were usable before the first of a
/// round: whoever looked at each of them would take milliseconds for that.
fn invalidating(entries: usize, selector: fn() -> Selector) -> f64 {
    let cache = cache();
    let layer = ResponseCacheLayer::new(&cache).partition_by("number", |head| {
        let number = head.headers.get("x-number")?;
        number.to_str().ok().map(str::to_owned)
    });
    let mut service = layer.layer(Handler);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        for number in 0..entries {
            assert!(!ask(&mut service, request("/page", number)));
        }
        assert!(ask(&mut service, request("/page", 0)));
        let begin = Instant::now();
        for _ in 0..CALLS {
            cache.invalidate(selector());
        }
        times.push(begin.elapsed().as_nanos() as f64 / f64::from(CALLS));
        assert!(cache.stats().entries() >= entries as u64);
    }
    quantile(&mut times, 0.5)
}

/// At most twice as much for 100,000 entries as for ten, and below 10 µs.
fn by(name: &'static str, selector: fn() -> Selector) -> Row {
    let few = invalidating(10, selector);
    Row {
        name,
        reference: few,
        figure: invalidating(100_000, selector),
        bound: Some((2.0 * few).min(10_000.0)),
    }
}

// ---- hits meanwhile ----

const PAGES: usize = 1_000;
const SLICE: Duration = Duration::from_millis(200);
const SLICES: usize = 15;
/// From one invalidation to the next.
const PACE: Duration = Duration::from_millis(1);

/// Nanoseconds of each hit, for so long.
fn hits(service: &mut ResponseCache<Handler>, pages: &[String]) -> f64 {
    let (begin, mut hits) = (Instant::now(), 0_u32);
    while begin.elapsed() < SLICE {
        for page in pages {
            assert!(ask(service, request(page, 0)), "{page}");
        }
        hits += pages.len() as u32;
    }
    begin.elapsed().as_nanos() as f64 / f64::from(hits)
}

/// Invalidates what nobody has, a thousand times a second while it may.
fn disturb(cache: &Cache, may: &AtomicBool, is_over: &AtomicBool, count: &AtomicU64) {
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        if may.load(Ordering::Relaxed) {
            cache.invalidate(unrelated(count.fetch_add(1, Ordering::Relaxed)));
        }
        // Late ones are caught up with.
        next += PACE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// In turns, and the median of each; at least 80 % of the hits are left.
fn meanwhile() -> Row {
    let cache = cache();
    let mut service = ResponseCacheLayer::new(&cache)
        .ttl(Duration::from_secs(3600))
        .layer(Handler);
    let pages: Vec<String> = (0..PAGES).map(|page| format!("/page/{page}")).collect();
    for page in &pages {
        ask(&mut service, request(page, 0));
    }
    let (may, is_over, count) = (
        AtomicBool::new(false),
        AtomicBool::new(false),
        AtomicU64::new(0),
    );
    let (mut alone, mut disturbed) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| disturb(&cache, &may, &is_over, &count));
        for _ in 0..SLICES {
            may.store(false, Ordering::Relaxed);
            alone.push(hits(&mut service, &pages));
            may.store(true, Ordering::Relaxed);
            disturbed.push(hits(&mut service, &pages));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let expected = SLICES as u128 * SLICE.as_millis();
    let count = u128::from(count.into_inner());
    assert!(count > expected / 2, "only {count} invalidations");
    let alone = quantile(&mut alone, 0.5);
    Row {
        name: HITS,
        reference: alone,
        figure: quantile(&mut disturbed, 0.5),
        bound: Some(alone / 0.8),
    }
}

/// The rows of this file that are asked for.
pub(crate) fn rows(is_selected: impl Fn(&str) -> bool) -> Vec<Row> {
    let mut rows = Vec::new();
    if is_selected(HITS) {
        rows.push(meanwhile());
    }
    if is_selected(RESOURCE) {
        rows.push(by(RESOURCE, of_all));
    }
    if is_selected(TAG) {
        rows.push(by(TAG, tag_of_all));
    }
    if is_selected(PATTERN) {
        rows.push(by(PATTERN, pattern_of_all));
    }
    rows
}
