//! What a hit, a bypass and a miss cost, against the handler that they stand in front of.
//!
//! `cargo bench --bench hit` prints nanoseconds, allocations and ratios. The times are of one run
//! on one machine; the ratios and the allocations are what the project promises. `-- --check` fails
//! where a promise is broken.
#![allow(missing_docs, clippy::print_stdout)]

mod support;

use std::{
    alloc::System,
    convert::Infallible,
    future::{Future, IntoFuture, Ready, ready},
    hint::black_box,
    pin::pin,
    process::ExitCode,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{Empty, Full};
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

const BODY: [u8; 1024] = [b'x'; 1024];

/// A handler that builds a response of eight fields and `size` bytes, as a handler does: from what
/// it has computed.
#[derive(Clone)]
struct Handler {
    size: usize,
}

impl Service<Request<Empty<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        let body = match self.size {
            1024 => Bytes::copy_from_slice(black_box(&BODY)),
            size => Bytes::from(vec![b'x'; size]),
        };
        let mut headers = HeaderMap::with_capacity(8);
        for (name, value) in [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            (
                header::CACHE_CONTROL,
                HeaderValue::from_static("public, max-age=600"),
            ),
            (header::VARY, HeaderValue::from_static("accept-language")),
            (header::SERVER, HeaderValue::from_static("bench")),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
            (
                header::REFERRER_POLICY,
                HeaderValue::from_static("no-referrer"),
            ),
        ] {
            headers.insert(name, value);
        }
        let etag = format!("\"{:x}\"", black_box(body.len()));
        headers.insert(header::ETAG, HeaderValue::try_from(etag).expect("visible"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut response = Response::new(Full::new(body));
        *response.headers_mut() = headers;
        ready(Ok(response))
    }
}

/// The same without `Vary`: one look-up instead of two.
#[derive(Clone)]
struct Plain(Handler);

impl Service<Request<Empty<Bytes>>> for Plain {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        let mut response = self
            .0
            .call(request)
            .into_inner()
            .unwrap_or_else(|never| match never {});
        let value = HeaderValue::from_static("no-referrer-when-downgrade");
        response.headers_mut().remove(header::VARY);
        response
            .headers_mut()
            .insert(header::X_FRAME_OPTIONS, value);
        ready(Ok(response))
    }
}

async fn axum_handler() -> axum::response::Response {
    let response = Plain(Handler { size: 1024 })
        .call(Request::new(Empty::new()))
        .into_inner();
    response
        .unwrap_or_else(|never| match never {})
        .map(axum::body::Body::new)
}

/// What a browser sends.
fn request(
    path: &'static str,
    extra: Option<(header::HeaderName, &'static str)>,
) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    for (name, value) in [
        (header::HOST, "example.com"),
        (
            header::USER_AGENT,
            "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
        ),
        (
            header::ACCEPT,
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        (header::ACCEPT_LANGUAGE, "en-US,en;q=0.5"),
        (header::ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some((name, value)) = extra {
        headers.insert(name, HeaderValue::from_static(value));
    }
    request
}

/// Polls a future that never waits.
fn now<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}

struct Figure {
    nanoseconds: f64,
    allocations: f64,
}

/// One round of calls: nanoseconds and allocations of each.
fn round<S, B>(service: &mut S, next: &dyn Fn(u64) -> Request<B>, first: u64) -> (f64, f64)
where
    S: Service<Request<B>, Error = Infallible>,
{
    // Requests are made beforehand: they are the server's work.
    let requests: Vec<_> = (0..CALLS).map(|call| next(first + call)).collect();
    let before = allocated();
    let start = Instant::now();
    for request in requests {
        let response = now(service.call(request)).unwrap_or_else(|never| match never {});
        drop(black_box(response));
    }
    let time = start.elapsed().as_nanos() as f64 / CALLS as f64;
    (time, (allocated() - before) as f64 / CALLS as f64)
}

/// Measures a service and its reference in turns, so that both see the same machine; the best
/// round of each counts, because noise only ever adds.
fn measure<R, S, B>(
    reference: &mut R,
    service: &mut S,
    next: impl Fn(u64) -> Request<B>,
) -> (Figure, Figure)
where
    R: Service<Request<B>, Error = Infallible>,
    S: Service<Request<B>, Error = Infallible>,
{
    let mut best = (Figure::WORST, Figure::WORST);
    for number in 0..ROUNDS {
        best.0.take(round(reference, &next, number * CALLS));
        best.1.take(round(service, &next, number * CALLS));
    }
    best
}

const CALLS: u64 = 4_000;
const ROUNDS: u64 = 60;

impl Figure {
    const WORST: Self = Self {
        nanoseconds: f64::INFINITY,
        allocations: f64::INFINITY,
    };

    fn take(&mut self, (nanoseconds, allocations): (f64, f64)) {
        self.nanoseconds = self.nanoseconds.min(nanoseconds);
        self.allocations = self.allocations.min(allocations);
    }
}

/// A thousand hits, for counting the instructions of `one_hit`. A request is made when the one before
/// is answered and dropped, as a connection does it: so the allocator is as it would be there. The
/// miss that comes first is not counted.
#[inline(never)]
fn count_hits<S>(service: &mut S, calls: usize)
where
    S: Service<Request<Empty<Bytes>>, Error = Infallible>,
{
    drop(now(service.call(request("/page?id=1", None))));
    for _ in 0..calls {
        let response = one_hit(service, request("/page?id=1", None));
        drop(black_box(response));
    }
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

/// How many thousand calls are counted, for a profiler that samples.
fn rounds() -> usize {
    let rounds = std::env::var("ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

#[inline(never)]
fn one_hit<S>(service: &mut S, request: Request<Empty<Bytes>>) -> S::Response
where
    S: Service<Request<Empty<Bytes>>, Error = Infallible>,
{
    now(service.call(request)).unwrap_or_else(|never| match never {})
}

fn main() -> ExitCode {
    let names = [
        "hit_time",
        "hit_allocations",
        "hit_of_64_kib",
        "vary_hit_time",
        "bypass_allocations",
        "miss_time",
        "decode_of_64_kib_bytes",
        "value_hit_allocations",
    ];
    if is_listed(&names) {
        return ExitCode::SUCCESS;
    }
    let plain = |size| Plain(Handler { size });
    let layer = ResponseCacheLayer::new(Cache::in_memory());
    let same = |_| request("/page?id=1", None);
    let personal = |_| request("/page?id=1", Some((header::AUTHORIZATION, "Bearer x")));

    if std::env::args().any(|argument| argument == "--count-hits") {
        // For `valgrind --tool=callgrind --toggle-collect='*one_hit*'`.
        let mut service = layer.layer(plain(1024));
        count_hits(&mut service, 1000 * rounds());
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "redis")]
    if std::env::args().any(|argument| argument == "--count-hits-before-redis") {
        // The same with a second tier. Outside of a runtime nothing is ever sent there.
        let cache = Cache::redis("redis://127.0.0.1:1", "bench").build();
        let layer = ResponseCacheLayer::new(cache.expect("the settings are good"));
        count_hits(&mut layer.layer(plain(1024)), 1000);
        return ExitCode::SUCCESS;
    }
    if std::env::args().any(|argument| argument == "--count-misses") {
        let mut service = layer.layer(plain(1024));
        for call in 0..1000 * rounds() {
            let mut request = request("/", None);
            *request.uri_mut() = format!("/miss/{call}").parse().expect("a path");
            drop(black_box(one_hit(&mut service, request)));
        }
        return ExitCode::SUCCESS;
    }
    let (bare, hit) = measure(&mut plain(1024), &mut layer.layer(plain(1024)), same);
    let (_, large) = measure(&mut plain(1024), &mut layer.layer(plain(65_536)), |_| {
        request("/large", None)
    });
    let (varying_bare, varying) = measure(
        &mut Handler { size: 1024 },
        &mut layer.layer(Handler { size: 1024 }),
        |_| request("/vary", None),
    );
    let bypassing = layer.clone().bypass_when(|_| true);
    let (bare_personal, bypass) = measure(
        &mut plain(1024),
        &mut bypassing.layer(plain(1024)),
        personal,
    );
    let (_, miss) = measure(&mut plain(1024), &mut layer.layer(plain(1024)), |call| {
        let mut request = request("/", None);
        *request.uri_mut() = format!("/miss/{call}").parse().expect("a path");
        request
    });

    // The same under axum: the handler that builds the response, behind routing.
    let router = || axum::Router::new().route("/page", axum::routing::get(axum_handler));
    let axum_request = |_| request("/page?id=1", None).map(|_| axum::body::Body::empty());
    let (bare_axum, inside) = measure(
        &mut router(),
        &mut router().layer(layer.clone()),
        axum_request,
    );
    let (_, around) = measure(
        &mut router(),
        &mut layer.clone().layer(router()),
        axum_request,
    );

    println!("{:<22} {:>10} {:>12}", "", "ns", "allocations");
    for (name, figure) in [
        ("bare handler", &bare),
        ("hit", &hit),
        ("hit, 64 KiB", &large),
        ("bare handler, Vary", &varying_bare),
        ("hit, Vary", &varying),
        ("bypass", &bypass),
        ("miss, stored", &miss),
        ("axum handler", &bare_axum),
        ("hit, in the Router", &inside),
        ("hit, around the Router", &around),
    ] {
        println!(
            "{name:<22} {:>10.0} {:>12.2}",
            figure.nanoseconds, figure.allocations
        );
    }
    let rows = [
        Row {
            name: names[0],
            reference: bare.nanoseconds,
            figure: hit.nanoseconds,
            bound: Some(bare.nanoseconds),
        },
        Row {
            name: names[1],
            reference: bare.allocations,
            figure: hit.allocations,
            bound: Some(2.0),
        },
        Row {
            name: names[2],
            reference: hit.nanoseconds,
            figure: large.nanoseconds,
            bound: Some(1.2 * hit.nanoseconds),
        },
        Row {
            name: names[3],
            reference: varying_bare.nanoseconds,
            figure: varying.nanoseconds,
            bound: None,
        },
        Row {
            name: names[4],
            reference: bare_personal.allocations,
            figure: bypass.allocations,
            bound: Some(bare_personal.allocations),
        },
        Row {
            name: names[5],
            reference: bare.nanoseconds,
            figure: miss.nanoseconds,
            // At most 2 µs more.
            bound: Some(bare.nanoseconds + 2_000.0),
        },
        Row {
            name: names[6],
            reference: bytes_of_decoding(1024),
            figure: bytes_of_decoding(65_536),
            bound: Some(bytes_of_decoding(1024)),
        },
        Row {
            name: names[7],
            reference: 0.0,
            figure: allocations_of_values(),
            bound: Some(0.0),
        },
    ];
    report(&rows)
}
