//! The layer among the middlewares of tower and tower-http, inside and outside of it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use crate::support::{
    self, App, Origin, cache, get as get_page, get_with,
    inner::{at_once, soon},
    request, send, settle,
};
use axum::{BoxError, body::Body};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit,
    load_shed::LoadShed, util::BoxCloneSyncService,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_response_cache::ResponseCacheLayer;

/// A service with the error that most of tower's middlewares have.
type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

fn boxed<S, B>(service: S) -> Boxed
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service.map_response(|response: Response<B>| response.map(Body::new));
    BoxCloneSyncService::new(service.map_err(Into::into))
}

async fn ask(service: &Boxed, path: &str) -> Result<(String, String), BoxError> {
    let response = service.clone().oneshot(request("GET", path, &[])).await?;
    let x_cache = response.headers().get("x-cache").cloned();
    let x_cache = x_cache.map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await?.to_bytes();
    Ok((x_cache, String::from_utf8(body.to_vec())?))
}

fn said(x_cache: &str, body: &str) -> (String, String) {
    (x_cache.to_owned(), body.to_owned())
}

/// Waits for a permit where the path begins with `/slow`.
fn slow_origin() -> (Arc<Semaphore>, Origin) {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let origin = Origin::new(move |call, request| {
        let held = held.clone();
        async move {
            if request.uri().path().starts_with("/slow") {
                held.acquire().await.unwrap().forget();
            }
            let body = format!("{call} {}", request.uri().path());
            Response::new(Body::from(body))
        }
    });
    (permits, origin)
}

// ---- the inner limit ----

#[tokio::test(start_paused = true)]
async fn hits_are_served_while_the_inner_concurrency_limit_is_exhausted() {
    let (cache, _) = cache();
    let (permits, origin) = slow_origin();
    let app = boxed(
        ServiceBuilder::new()
            .layer(ResponseCacheLayer::new(&cache))
            .concurrency_limit(1)
            .service(origin.service()),
    );
    assert_eq!(ask(&app, "/warm").await.unwrap(), said("MISS", "1 /warm"));
    let asking = |path: &'static str| {
        let app = app.clone();
        tokio::spawn(async move { ask(&app, path).await.unwrap() })
    };
    let slow = asking("/slow");
    settle().await;
    assert_eq!(origin.calls(), 2, "the only place is taken");
    let other = asking("/other");
    settle().await;
    for _ in 0..10 {
        let hit = at_once("a hit", ask(&app, "/warm")).await.unwrap();
        assert_eq!(hit, said("HIT", "1 /warm"));
    }
    assert_eq!(origin.calls(), 2);
    assert!(!other.is_finished(), "a miss waits for a place");
    permits.add_permits(1);
    let slow = at_once("an answer", slow).await.unwrap();
    assert_eq!(slow, said("MISS", "2 /slow"));
    let other = at_once("an answer", other).await.unwrap();
    assert_eq!(other, said("MISS", "3 /other"));
}

#[tokio::test(start_paused = true)]
async fn hits_are_served_while_an_inner_load_shed_turns_misses_away() {
    let (cache, _) = cache();
    let (permits, origin) = slow_origin();
    let app = boxed(
        ServiceBuilder::new()
            .layer(ResponseCacheLayer::new(&cache))
            .load_shed()
            .concurrency_limit(1)
            .service(origin.service()),
    );
    assert_eq!(ask(&app, "/warm").await.unwrap(), said("MISS", "1 /warm"));
    let holding = app.clone();
    let slow = tokio::spawn(async move { ask(&holding, "/slow").await.unwrap() });
    settle().await;
    let hit = at_once("a hit", ask(&app, "/warm")).await.unwrap();
    assert_eq!(hit, said("HIT", "1 /warm"));
    let shed = at_once("an error", ask(&app, "/other")).await.unwrap_err();
    assert!(shed.is::<tower::load_shed::error::Overloaded>(), "{shed}");
    permits.add_permits(1);
    assert_eq!(slow.await.unwrap(), said("MISS", "2 /slow"));
    // And it was not remembered.
    assert_eq!(ask(&app, "/other").await.unwrap(), said("MISS", "3 /other"));
}

#[tokio::test(start_paused = true)]
async fn the_layer_is_ready_whatever_is_inside() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Request<Body>> for NeverReady {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            panic!("called without being ready")
        }
    }
    let (cache, _) = cache();
    let mut cached = ResponseCacheLayer::new(&cache).layer(NeverReady);
    assert!(cached.ready().now_or_never().is_some());
    let waiting = tokio::spawn(cached.call(request("GET", "/", &[])));
    settle().await;
    assert!(!waiting.is_finished());
    waiting.abort();
}

/// A service that panics when it is called without having said that it is ready, as some of tower
/// do; its clones are not ready.
struct Strict(App, bool);

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self(self.0.clone(), false)
    }
}

impl Service<Request<Body>> for Strict {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <App as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.1 = true;
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.1), "called without being ready");
        self.0.call(request)
    }
}

#[tokio::test]
async fn the_inner_service_is_called_only_when_it_is_ready() {
    let (cache, _) = cache();
    let origin = Origin::with_fields(&[]);
    let strict = Strict(origin.service(), false);
    let app = App::new(boxed_back(ResponseCacheLayer::new(&cache).layer(strict)));
    for (method, path, fields) in [
        ("GET", "/", &[] as &[_]),
        ("GET", "/", &[]),
        ("POST", "/", &[]),
        ("HEAD", "/", &[]),
        ("GET", "/", &[("cookie", "session=1")]),
        ("GET", "/not-stored", &[("range", "bytes=0-1")]),
        ("GET", "/", &[("cache-control", "no-cache")]),
        ("GET", "/", &[("cache-control", "no-store")]),
    ] {
        assert_eq!(send(&app, request(method, path, fields)).await.status, 200);
    }
}

fn boxed_back<S, B>(
    service: S,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = S::Error, Future: Send> + Clone
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Future: Send,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    service.map_response(|response: Response<B>| response.map(Body::new))
}

// ---- each middleware inside, outside, and on both sides ----

type Wrap = fn(Boxed) -> Boxed;

fn middlewares() -> Vec<(&'static str, Wrap)> {
    vec![
        ("nothing", |inner| inner),
        ("ConcurrencyLimit", |inner| {
            boxed(ConcurrencyLimit::new(inner, 2))
        }),
        ("Buffer", |inner| boxed(Buffer::new(inner, 4))),
        ("LoadShed", |inner| boxed(LoadShed::new(inner))),
        ("Timeout", |inner| {
            boxed(tower::timeout::Timeout::new(inner, Duration::from_secs(60)))
        }),
        ("http Timeout", |inner| {
            let timeout = TimeoutLayer::with_status_code(
                StatusCode::REQUEST_TIMEOUT,
                Duration::from_secs(60),
            );
            boxed(timeout.layer(inner))
        }),
        ("CatchPanic", |inner| {
            boxed(CatchPanicLayer::new().layer(inner))
        }),
        ("Compression", |inner| {
            boxed(CompressionLayer::new().layer(inner))
        }),
        ("Trace", |inner| {
            boxed(TraceLayer::new_for_http().layer(inner))
        }),
        ("Cors", |inner| boxed(CorsLayer::permissive().layer(inner))),
        ("SetResponseHeader", |inner| {
            let name = HeaderName::from_static("x-set");
            let value = HeaderValue::from_static("set");
            boxed(SetResponseHeaderLayer::overriding(name, value).layer(inner))
        }),
        ("several", |inner| {
            boxed(
                ServiceBuilder::new()
                    .buffer::<Request<Body>>(16)
                    .load_shed()
                    .concurrency_limit(8)
                    .timeout(Duration::from_secs(60))
                    .layer(CatchPanicLayer::new())
                    .service(inner),
            )
        }),
    ]
}

#[tokio::test(start_paused = true)]
async fn it_works_with_each_middleware_inside_and_outside() {
    for (outside, wrap_outside) in middlewares() {
        for (inside, wrap_inside) in middlewares() {
            let row = format!("{outside} outside, {inside} inside");
            let (cache, _) = cache();
            let origin = Origin::new(|call, request| {
                let body = format!("{call} {} {}", request.uri(), "x".repeat(100));
                let response = Response::builder().header("content-type", "text/plain");
                std::future::ready(response.body(Body::from(body)).unwrap())
            });
            let inner = wrap_inside(boxed(origin.service()));
            let cached = ResponseCacheLayer::new(&cache).layer(inner);
            let app = wrap_outside(boxed(cached));
            let body = |call: usize, path: &str| format!("{call} {path} {}", "x".repeat(100));
            let ask = |path: &'static str| {
                let app = app.clone();
                async move { soon("an answer", ask(&app, path)).await.unwrap() }
            };
            assert_eq!(ask("/a").await, said("MISS", &body(1, "/a")), "{row}");
            assert_eq!(ask("/a").await, said("HIT", &body(1, "/a")), "{row}");
            assert_eq!(ask("/b").await, said("MISS", &body(2, "/b")), "{row}");
            assert_eq!(ask("/a").await, said("HIT", &body(1, "/a")), "{row}");
            assert_eq!(origin.calls(), 2, "{row}");
            settle().await;
            assert_eq!(cache.stats().flights(), 0, "{row}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_key_costs_one_call_with_each_middleware_inside() {
    for (inside, wrap) in middlewares() {
        let (cache, _) = cache();
        let (permits, origin) = slow_origin();
        let inner = wrap(boxed(origin.service()));
        let app = boxed(ResponseCacheLayer::new(&cache).layer(inner));
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let app = app.clone();
                tokio::spawn(async move { ask(&app, "/slow").await })
            })
            .collect();
        settle().await;
        permits.add_permits(50);
        for client in clients {
            let answer = at_once("an answer", client).await.unwrap();
            assert_eq!(answer.unwrap(), said("MISS", "1 /slow"), "{inside}");
        }
        assert_eq!(origin.calls(), 1, "{inside}");
    }
}

// ---- what each is for still works ----

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_ends_the_call_and_is_not_remembered() {
    let (cache, _) = cache();
    let (permits, origin) = slow_origin();
    let app = boxed(
        ServiceBuilder::new()
            .layer(ResponseCacheLayer::new(&cache))
            .timeout(Duration::from_secs(2))
            .service(origin.service()),
    );
    let error = soon("the timeout", ask(&app, "/slow")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    permits.add_permits(1);
    assert_eq!(ask(&app, "/slow").await.unwrap(), said("MISS", "2 /slow"));
    assert_eq!(ask(&app, "/slow").await.unwrap(), said("HIT", "2 /slow"));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_ends_the_wait_and_the_fill_goes_on() {
    let (cache, _) = cache();
    let (permits, origin) = slow_origin();
    let app = boxed(
        ServiceBuilder::new()
            .timeout(Duration::from_secs(2))
            .layer(ResponseCacheLayer::new(&cache))
            .service(origin.service()),
    );
    let error = soon("the timeout", ask(&app, "/slow")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    permits.add_permits(1);
    settle().await;
    assert_eq!(ask(&app, "/slow").await.unwrap(), said("HIT", "1 /slow"));
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_panic_is_caught_by_catch_panic_inside_and_outside() {
    let panicking = |call: usize| -> Response<Body> {
        assert!(call > 1, "the first call panics");
        Response::new(Body::from(format!("call {call}")))
    };
    for is_inside in [true, false] {
        let (cache, _) = cache();
        let origin = Origin::new(move |call, _| async move { panicking(call) });
        let app = if is_inside {
            let inner = CatchPanicLayer::new().layer(origin.service());
            boxed(ResponseCacheLayer::new(&cache).layer(inner))
        } else {
            boxed(CatchPanicLayer::new().layer(boxed(
                ResponseCacheLayer::new(&cache).layer(origin.service()),
            )))
        };
        let response = app.clone().oneshot(request("GET", "/", &[])).await.unwrap();
        assert_eq!(response.status(), 500, "inside: {is_inside}");
        assert_eq!(ask(&app, "/").await.unwrap(), said("MISS", "call 2"));
        assert_eq!(ask(&app, "/").await.unwrap(), said("HIT", "call 2"));
        settle().await;
        assert_eq!(cache.stats().flights(), 0);
    }
}

fn text_origin() -> Origin {
    Origin::new(|call, _| {
        let response = Response::builder().header("content-type", "text/plain");
        let body = format!("{call} {}", "text ".repeat(500));
        std::future::ready(response.body(Body::from(body)).unwrap())
    })
}

#[tokio::test]
async fn compression_inside_stores_each_encoding_with_its_own_fields() {
    let (cache, _) = cache();
    let origin = text_origin();
    let compressing = App::new(boxed_back(CompressionLayer::new().layer(origin.service())));
    let app = support::app(&ResponseCacheLayer::new(&cache), compressing);
    let codings = ["gzip", "br", "identity"];
    let mut cold = Vec::new();
    for coding in codings {
        cold.push(get_with(&app, "/", &[("accept-encoding", coding)]).await);
    }
    for (coding, cold) in codings.into_iter().zip(&cold) {
        let hit = get_with(&app, "/", &[("accept-encoding", coding)]).await;
        assert!(hit.is_hit(), "{coding}");
        assert_eq!(hit.body, cold.body, "{coding}");
        let expected = if coding == "identity" { "" } else { coding };
        assert_eq!(hit.field("content-encoding"), expected);
        match coding {
            "gzip" => assert_eq!(hit.body[..2], [0x1f, 0x8b]),
            "identity" => assert!(hit.text().starts_with("3 text text")),
            _ => assert!(hit.body.len() < 100),
        }
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn compression_outside_encodes_one_stored_answer_for_each_client() {
    let (cache, _) = cache();
    let origin = text_origin();
    let cached = origin.behind(&ResponseCacheLayer::new(&cache));
    let app = App::new(boxed_back(CompressionLayer::new().layer(cached)));
    for (n, coding) in ["gzip", "br", "identity", "gzip"].into_iter().enumerate() {
        let answer = get_with(&app, "/", &[("accept-encoding", coding)]).await;
        assert_eq!(answer.is_hit(), n > 0);
        let expected = if coding == "identity" { "" } else { coding };
        assert_eq!(answer.field("content-encoding"), expected);
        if coding == "identity" {
            assert!(answer.text().starts_with("1 text text"));
        } else {
            assert!(answer.body.len() < 100);
        }
    }
    assert_eq!(origin.calls(), 1);
    assert_eq!(cache.stats().entries(), 1);
}

#[tokio::test]
async fn request_ids_are_not_replayed_from_inside_and_each_has_its_own_from_outside() {
    for is_inside in [true, false] {
        let (cache, _) = cache();
        let origin = Origin::with_fields(&[]);
        let ids = ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(PropagateRequestIdLayer::x_request_id());
        let layer = ResponseCacheLayer::new(&cache);
        let app = if is_inside {
            support::app(&layer, App::new(ids.service(origin.service())))
        } else {
            App::new(ids.service(origin.behind(&layer)))
        };
        let first = get_page(&app, "/").await;
        let second = get_page(&app, "/").await;
        assert!(second.is_hit());
        assert_ne!(first.field("x-request-id"), "");
        assert_ne!(first.field("x-request-id"), second.field("x-request-id"));
        assert_eq!(second.field("x-request-id").is_empty(), is_inside);
    }
}

#[tokio::test]
async fn cors_inside_keeps_origins_apart() {
    let (cache, _) = cache();
    let origin = Origin::with_fields(&[]);
    let cors = CorsLayer::new().allow_origin([
        HeaderValue::from_static("https://a.example"),
        HeaderValue::from_static("https://b.example"),
    ]);
    let inner = App::new(boxed_back(cors.layer(origin.service())));
    let app = support::app(&ResponseCacheLayer::new(&cache), inner);
    for round in 0..2 {
        for site in ["https://a.example", "https://b.example"] {
            let answer = get_with(&app, "/", &[("origin", site)]).await;
            assert_eq!(answer.field("access-control-allow-origin"), site);
            assert_eq!(answer.is_hit(), round > 0);
        }
        assert_eq!(
            get_page(&app, "/")
                .await
                .field("access-control-allow-origin"),
            ""
        );
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failing_service_behind_a_buffer_is_an_error_for_misses_and_nothing_for_hits() {
    let (cache, _) = cache();
    let alive = Arc::new(AtomicBool::new(true));
    let failing = alive.clone();
    let origin = Origin::with_fields(&[]);
    let service = origin.service().map_err(|never| match never {});
    let service = tower::service_fn(move |request| {
        let (service, failing) = (service.clone(), failing.clone());
        async move {
            if !failing.load(Ordering::SeqCst) {
                return Err(BoxError::from("the database is away"));
            }
            service.oneshot(request).await
        }
    });
    let app = boxed(
        ServiceBuilder::new()
            .layer(ResponseCacheLayer::new(&cache))
            .buffer(4)
            .service(service),
    );
    assert_eq!(ask(&app, "/a").await.unwrap(), said("MISS", "1 GET /a"));
    alive.store(false, Ordering::SeqCst);
    let error = ask(&app, "/b").await.unwrap_err();
    assert_eq!(error.to_string(), "the database is away");
    assert_eq!(ask(&app, "/a").await.unwrap(), said("HIT", "1 GET /a"));
}
