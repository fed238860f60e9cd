//! What is stored stays within the bound, by the count of the allocator (F9). Alone in its process,
//! because the allocator counts everything.

use std::{alloc::System, convert::Infallible, task::Context, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{Empty, Full};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tower::{Layer, Service};
use tower_response_cache::{Cache, ResponseCache, ResponseCacheLayer};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn live_bytes() -> u64 {
    let stats = ALLOCATOR.stats();
    // A growing block is counted as a whole when it is made, and by its growth after that.
    (stats.bytes_allocated as i64 - stats.bytes_deallocated as i64).max(0) as u64
}

#[derive(Clone)]
struct Handler;

impl Service<Request<Empty<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        // From 12 bytes to some kilobytes: small entries are mostly overhead.
        let path = request.uri().path();
        let number: usize = path[3..].parse().unwrap();
        let body = match number % 16 {
            0 => path.repeat(400),
            1..8 => path.repeat(40),
            _ => path.to_owned(),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(
            header::ETAG,
            HeaderValue::try_from(format!("\"{number}\"")).unwrap(),
        );
        std::future::ready(Ok(response))
    }
}

async fn ask(app: &mut ResponseCache<Handler>, path: String) -> bool {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = path.parse().unwrap();
    let response = app.call(request).await.unwrap();
    response.headers()["x-cache"] == "HIT"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_keys_stay_within_the_bound_and_the_hot_ones_hit() {
    const BOUND: u64 = 24 << 20;
    const KEYS: u64 = 1_000_000;
    const HOT: u64 = 1_000;

    let before = live_bytes();
    let cache = Cache::builder().memory(BOUND).build().unwrap();
    let layer = ResponseCacheLayer::new(&cache).ttl(Duration::from_secs(3600));
    let mut workers = Vec::new();
    for worker in 0..2 {
        let mut app = layer.layer(Handler);
        workers.push(tokio::spawn(async move {
            let (mut hits, mut asked, mut peak) = (0_u64, 0_u64, 0);
            for key in (worker..KEYS).step_by(2) {
                ask(&mut app, format!("/k/{key}")).await;
                peak = peak.max(live_bytes());
                if key % 8 == worker {
                    // Each of the hot keys comes round after some thousands of others.
                    let hot = (key / 8).wrapping_mul(7919) % HOT;
                    let is_hit = ask(&mut app, format!("/h/{hot}")).await;
                    // The first rounds fill.
                    if key > KEYS / 10 {
                        hits += u64::from(is_hit);
                        asked += 1;
                    }
                }
            }
            (hits, asked, peak)
        }));
    }
    let (mut hits, mut asked, mut peak) = (0, 0, 0);
    for worker in workers {
        let (more_hits, more_asked, this_peak) = worker.await.unwrap();
        (hits, asked, peak) = (hits + more_hits, asked + more_asked, this_peak.max(peak));
    }
    let stats = cache.stats();
    let grown = peak.saturating_sub(before);
    println!(
        "bound {BOUND}, peak {grown} ({:.3}), counted {}",
        grown as f64 / BOUND as f64,
        stats.bytes()
    );
    println!("hot hits {hits} of {asked}; {stats}");
    assert!(
        stats.bytes() <= BOUND && stats.bytes() > BOUND * 8 / 10,
        "{stats}"
    );
    assert!(
        grown <= BOUND + BOUND / 10,
        "{grown} bytes are live, {BOUND} is the bound"
    );
    assert!(stats.evictions() > KEYS * 9 / 10, "{stats}");
    assert!(
        asked > 100_000 && hits * 10 >= asked * 9,
        "{hits} of {asked}"
    );
}
