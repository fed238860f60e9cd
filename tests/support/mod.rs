//! What the tests share: an origin that counts its calls, and a short way to ask.
#![allow(dead_code, unreachable_pub)]

#[cfg(feature = "redis")]
pub(crate) mod deployment;
pub mod dice;
#[cfg(feature = "redis")]
mod elsewhere;
pub mod fake_store;
pub mod fault_proxy;
pub mod feed;
pub mod inner;
pub mod load;
pub mod loads;
pub mod log;
pub(crate) mod redis_server;
pub mod scripted;
pub mod story;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_response_cache::{Cache, CacheBuilder, ManualClock, ResponseCacheLayer};

/// A service as an application sees it.
pub type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// An inner service that counts its calls and answers from a script.
#[derive(Clone)]
pub struct Origin {
    calls: Arc<AtomicUsize>,
    script: Arc<dyn Fn(usize, Request<Body>) -> Answering + Send + Sync>,
}

impl Origin {
    /// Answers each call by `script`, which gets the number of the call, from 1, and the request.
    pub fn new<F>(script: impl Fn(usize, Request<Body>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self {
            calls: Arc::default(),
            script: Arc::new(move |call, request| Box::pin(script(call, request))),
        }
    }

    /// Answers 200 with these fields; the body names the call, the method and the URI.
    pub fn with_fields(fields: &[(&'static str, &str)]) -> Self {
        let fields: Vec<(&'static str, String)> = fields
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        Self::new(move |call, request| {
            let body = format!("{call} {} {}", request.method(), request.uri());
            let mut response = Response::new(Body::from(body));
            for (name, value) in &fields {
                response
                    .headers_mut()
                    .append(*name, value.parse().expect("a field value"));
            }
            std::future::ready(response)
        })
    }

    /// How often it was called.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// As a service.
    pub fn service(&self) -> App {
        let this = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let call = this.calls.fetch_add(1, Ordering::SeqCst) + 1;
            let answering = (this.script)(call, request);
            async move { Ok::<_, Infallible>(answering.await) }
        }))
    }

    /// Behind a layer.
    pub fn behind(&self, layer: &ResponseCacheLayer) -> App {
        app(layer, self.service())
    }
}

/// `inner` behind a layer, with plain bodies again.
pub fn app(layer: &ResponseCacheLayer, inner: App) -> App {
    let cached = layer.layer(inner);
    BoxCloneSyncService::new(ServiceExt::map_response(cached, |response: Response<_>| {
        response.map(Body::new)
    }))
}

/// Whether the tests run on memory and Redis: `TEST_STORE=redis`.
pub fn is_on_redis() -> bool {
    match std::env::var("TEST_STORE") {
        Err(_) => false,
        Ok(store) if store == "redis" => true,
        Ok(other) => panic!("TEST_STORE={other} is not known; leave it away, or say redis"),
    }
}

/// The builder of a cache in memory; with `TEST_STORE=redis` also in a Redis of its own, which it
/// is connected to.
#[track_caller]
pub fn builder() -> CacheBuilder {
    if !is_on_redis() {
        return Cache::builder();
    }
    #[cfg(feature = "redis")]
    return elsewhere::builder();
    #[cfg(not(feature = "redis"))]
    panic!("TEST_STORE=redis needs the feature redis: add --all-features");
}

/// A cache with the defaults, on [`builder`].
#[track_caller]
pub fn in_memory() -> Cache {
    builder().build().expect("the defaults are good")
}

/// A cache whose clock stands still, on [`builder`].
#[track_caller]
pub fn cache() -> (Cache, ManualClock) {
    let clock = ManualClock::new();
    let cache = builder()
        .clock(clock.clone())
        .build()
        .expect("the defaults are good");
    (cache, clock)
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The only line of a field, or `""`.
    pub fn field(&self, name: &str) -> &str {
        let mut lines = self.fields(name);
        assert!(lines.len() <= 1, "several lines of {name}: {lines:?}");
        lines.pop().unwrap_or("")
    }

    /// All lines of a field.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().expect("visible ASCII"))
            .collect()
    }

    pub fn x_cache(&self) -> &str {
        self.field("x-cache")
    }

    pub fn cache_status(&self) -> &str {
        self.field("cache-status")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn is_hit(&self) -> bool {
        self.x_cache() == "HIT"
    }
}

/// Sends a request and reads the answer; panics when the body breaks off.
pub async fn send(app: &App, request: Request<Body>) -> Answer {
    let response = app
        .clone()
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {});
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        body,
    }
}

/// A request with fields, on `http://test` in origin form.
pub fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !fields
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request = request.header("host", "test");
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).expect("a request")
}

/// GETs a path.
pub async fn get(app: &App, path: &str) -> Answer {
    send(app, request("GET", path, &[])).await
}

/// GETs a path with fields.
pub async fn get_with(app: &App, path: &str, fields: &[(&str, &str)]) -> Answer {
    send(app, request("GET", path, fields)).await
}

/// Lets every other task run until all wait for something, and not for Redis.
pub async fn settle() {
    let begin = std::time::Instant::now();
    loop {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        if !waits_for_redis() {
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "Redis never answers"
        );
    }
}

fn waits_for_redis() -> bool {
    #[cfg(feature = "redis")]
    return elsewhere::is_busy();
    #[cfg(not(feature = "redis"))]
    return false;
}

/// Polls until `condition` holds; panics after a generous time.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < end, "still not so: {what}");
        tokio::task::yield_now().await;
    }
}
