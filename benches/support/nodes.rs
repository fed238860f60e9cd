//! What it costs that nodes share a log of invalidations, and how far behind they are.
//!
//! In real time, with a redis-server of its own.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service};
use tower_response_cache::{Cache, ResponseCache, ResponseCacheLayer, Selector, Tags};

use crate::{
    herd::{quantile, runtime},
    redis_server::RedisServer,
    support::Row,
};

const TAG: &str = "redis_invalidate_a_tag_us";
const LAG: &str = "coherence_lag_p99_us";
const FAULTS: &str = "redis_away_p99_us";

/// Names of the rows.
pub(crate) const NAMES: [&str; 3] = [TAG, LAG, FAULTS];

/// Answers at once; every page has one tag, which its path names.
#[derive(Clone)]
struct Handler;

impl Service<Request<Empty<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        let tag = request.uri().path().split('/').nth(1);
        let tag = tag.unwrap_or_default().to_owned();
        let mut response = Response::new(Full::new(Bytes::from_static(b"a page")));
        response.extensions_mut().insert(Tags::new([tag]));
        ready(Ok(response))
    }
}

struct Node {
    cache: Cache,
    service: ResponseCache<Handler>,
}

impl Node {
    fn of(cache: Cache) -> Self {
        let layer = ResponseCacheLayer::new(&cache).ttl(Duration::from_secs(3600));
        Self {
            service: layer.layer(Handler),
            cache,
        }
    }

    async fn connected(server: &RedisServer, namespace: &str) -> Self {
        let cache = Cache::redis(server.url(), namespace).memory(512 << 20);
        let cache = cache.build().expect("the settings are good");
        cache.connect().await.expect("the server is there");
        while cache.health().is_hearing() != Some(true) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self::of(cache)
    }

    async fn ask(&mut self, path: &str) {
        let request = Request::builder().uri(path).header("host", "example.com");
        let request = request.body(Empty::new()).expect("a request");
        let response = self.service.call(request).await;
        let response = response.unwrap_or_else(|never| match never {});
        response.into_body().collect().await.expect("a body");
    }
}

/// Microseconds of the median invalidation of the tag of so many pages, until all can know.
async fn invalidating(server: &RedisServer, pages: usize) -> f64 {
    let mut node = Node::connected(server, &format!("tag-{pages}")).await;
    for page in 0..pages {
        node.ask(&format!("/many/{page}")).await;
        if page % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    while node.cache.stats().remote().outbox_bytes() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.cache.stats().entries(), pages as u64);
    let mut times = Vec::new();
    for _ in 0..300 {
        let start = Instant::now();
        let done = node.cache.invalidate(Selector::tag("many"));
        done.everywhere().await.expect("told");
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    node.cache.close().await;
    quantile(&mut times, 0.5)
}

/// One node invalidates 200 times a second, the other is asked 5,000 times a second: microseconds until
/// that has heard of it, at the 99th of a hundred.
async fn lag(server: &RedisServer) -> f64 {
    const INVALIDATIONS: u64 = 1_000;
    let near = Node::connected(server, "lag").await;
    let mut far = Node::connected(server, "lag").await;
    let heard = far.cache.clone();
    let invalidating = tokio::spawn(async move {
        let mut times = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        for number in 0..INVALIDATIONS {
            tick.tick().await;
            let start = Instant::now();
            near.cache
                .invalidate(Selector::tag(format!("{}", number % 50)));
            while heard.stats().remote().heard() <= number {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times
    });
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut asked = 0_u64;
    while !invalidating.is_finished() {
        tick.tick().await;
        for _ in 0..5 {
            far.ask(&format!("/{}/page", asked % 50)).await;
            asked += 1;
        }
    }
    let mut times = invalidating.await.expect("no invalidation fails");
    quantile(&mut times, 0.99)
}

/// Microseconds of a request at the 99th of a hundred, at a thousand a second over 500 pages.
async fn latency(node: &mut Node) -> f64 {
    let mut times = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for number in 0..4_000 {
        tick.tick().await;
        let start = Instant::now();
        node.ask(&format!("/page/{}", number % 500)).await;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    quantile(&mut times, 0.99)
}

/// The rows that are selected.
pub(crate) fn rows(is_selected: fn(&str) -> bool) -> Vec<Row> {
    let runtime = runtime();
    let mut rows = Vec::new();
    if is_selected(TAG) {
        let server = RedisServer::start();
        let few = runtime.block_on(invalidating(&server, 10));
        let many = runtime.block_on(invalidating(&server, 100_000));
        rows.push(Row {
            name: TAG,
            reference: few,
            figure: many,
            bound: Some((2.0 * few).min(1_000.0)),
        });
    }
    if is_selected(LAG) {
        let server = RedisServer::start();
        rows.push(Row {
            name: LAG,
            reference: 0.0,
            figure: runtime.block_on(lag(&server)),
            bound: Some(100_000.0),
        });
    }
    if is_selected(FAULTS) {
        let server = RedisServer::start();
        let reference = runtime.block_on(latency(&mut Node::of(Cache::in_memory())));
        let figure = runtime.block_on(async {
            let mut node = Node::connected(&server, "faults").await;
            node.ask("/page/0").await;
            // Nothing answers: connections are there until they are given up.
            server.stop();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(1) {
                node.ask(&format!("/warm/{}", begin.elapsed().as_millis()))
                    .await;
            }
            latency(&mut node).await
        });
        server.cont();
        rows.push(Row {
            name: FAULTS,
            reference,
            figure,
            bound: Some(reference + 5_000.0),
        });
    }
    rows
}
