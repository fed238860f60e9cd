//! Bugs seen elsewhere, each with a test: methods, HEAD and Range.

use crate::support::{
    self, Origin, app, cache, get, get_with, request,
    scripted::{Gate, detail, response},
    send, settle,
};
use axum::{Router, body::Body, routing::get as route_get};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CACHE_CONTROL};
use http_body_util::BodyExt;
use tower::{ServiceExt, util::BoxCloneSyncService};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_response_cache::ResponseCacheLayer;

const OTHER_METHODS: &[&str] = &[
    "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "Get",
];

/// Names the call, the method and what was sent, and asks everybody to store it.
fn echo() -> Origin {
    Origin::new(|call, request: Request<Body>| async move {
        let method = request.method().clone();
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let sent = String::from_utf8(sent.to_vec()).unwrap();
        let body = format!("{call} {method} {sent}");
        response(200, &[("cache-control", "public, max-age=600")], body)
    })
}

#[tokio::test]
async fn a_post_or_put_is_never_stored_whatever_the_response_says() {
    for method in OTHER_METHODS {
        let (cache, _clock) = cache();
        let origin = echo();
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        for call in 1..=3 {
            let mut request = request(method, "/", &[("content-length", "7")]);
            *request.body_mut() = Body::from(format!("order {call}"));
            let answer = send(&app, request).await;
            assert_eq!(answer.text(), format!("{call} {method} order {call}"));
        }
        assert_eq!(origin.calls(), 3, "{method}");
        assert_eq!(cache.stats().entries(), 0, "{method}");
    }
}

#[tokio::test]
async fn the_answer_to_a_post_is_not_given_to_a_get() {
    for method in OTHER_METHODS {
        let (cache, _clock) = cache();
        let origin = echo();
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        send(&app, request(method, "/", &[])).await;
        assert_eq!(get(&app, "/").await.text(), "2 GET ", "{method}");
    }
}

#[tokio::test]
async fn the_answer_to_a_get_is_not_given_to_a_post() {
    for method in OTHER_METHODS {
        let (cache, _clock) = cache();
        let origin = echo();
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/").await;
        assert!(get(&app, "/").await.is_hit());
        let answer = send(&app, request(method, "/", &[])).await;
        assert_eq!(answer.text(), format!("2 {method} "));
    }
}

#[tokio::test]
async fn other_methods_are_answered_without_a_word_of_ours() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("x-cache", "HIT of a proxy"), ("server-timing", "db")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for method in OTHER_METHODS {
        let answer = send(&app, request(method, "/", &[])).await;
        let mut expected = HeaderMap::new();
        expected.insert("x-cache", HeaderValue::from_static("HIT of a proxy"));
        expected.insert("server-timing", HeaderValue::from_static("db"));
        assert_eq!(answer.headers, expected, "{method}");
    }
}

/// A real router, whose `get` answers HEAD as well.
fn router() -> (Origin, Router) {
    let origin = Origin::new(|call, request| {
        let length = if request.method() == "HEAD" { "" } else { "!" };
        let body = format!("page {call}{length}");
        std::future::ready(response(200, &[("x-call", &call.to_string())], body))
    });
    let router = Router::new().route_service("/", origin.service());
    (origin, router)
}

fn routed(layer: &ResponseCacheLayer, router: Router) -> support::App {
    app(layer, BoxCloneSyncService::new(router))
}

#[tokio::test]
async fn a_get_after_a_head_has_its_body() {
    let (cache, _clock) = cache();
    let (origin, router) = router();
    let app = routed(&ResponseCacheLayer::new(&cache), router);
    let head = send(&app, request("HEAD", "/", &[])).await;
    assert_eq!(head.x_cache(), "MISS");
    assert_eq!(detail(&head), "head");
    let first = get(&app, "/").await;
    assert!(!first.is_hit());
    assert_eq!(first.text(), "page 2!");
    let second = get(&app, "/").await;
    assert!(second.is_hit());
    assert_eq!(second.text(), "page 2!");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_head_after_a_get_has_its_fields_and_no_body() {
    let (cache, _clock) = cache();
    let (origin, router) = router();
    let app = routed(&ResponseCacheLayer::new(&cache), router);
    let first = get(&app, "/").await;
    let head = send(&app, request("HEAD", "/", &[])).await;
    assert!(head.is_hit());
    assert!(head.body.is_empty());
    assert_eq!(head.field("x-call"), "1");
    assert!(["", "7"].contains(&head.field("content-length")));
    let second = get(&app, "/").await;
    assert!(second.is_hit(), "the body is still there");
    assert_eq!(second.body, first.body);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn heads_alone_fill_nothing() {
    let (cache, _clock) = cache();
    let (origin, router) = router();
    let app = routed(&ResponseCacheLayer::new(&cache), router);
    for call in 1..=3 {
        let head = send(&app, request("HEAD", "/", &[])).await;
        assert_eq!(head.field("x-call"), call.to_string());
    }
    assert_eq!(origin.calls(), 3);
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn a_head_joins_the_flight_of_a_get() {
    let (cache, _clock) = cache();
    let gate = Gate::shut();
    let held = gate.clone();
    let origin = Origin::new(move |call, request| {
        let held = held.clone();
        async move {
            held.pass().await;
            let text = format!("{call} {}", request.method());
            response(200, &[("x-call", &call.to_string())], text)
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let whole = tokio::spawn({
        let app = app.clone();
        async move { get(&app, "/").await }
    });
    settle().await;
    let head = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("HEAD", "/", &[])).await }
    });
    settle().await;
    assert_eq!(origin.calls(), 1);
    gate.open();
    assert_eq!(whole.await.unwrap().text(), "1 GET");
    let head = head.await.unwrap();
    assert_eq!(head.field("x-call"), "1");
    assert!(head.body.is_empty());
    assert_eq!(origin.calls(), 1);
}

/// Serves `text` and honours `Range: bytes=0-3` and `If-None-Match: "v1"`.
fn ranged(fields: &'static [(&'static str, &'static str)]) -> Origin {
    const TEXT: &str = "the whole text";
    Origin::new(move |call, request| {
        let asked = |name| request.headers().get(name).map(HeaderValue::as_bytes);
        let mut answer = if asked("range") == Some(b"bytes=0-3") {
            response(206, &[("content-range", "bytes 0-3/14")], &TEXT[..4])
        } else if asked("if-none-match") == Some(b"\"v1\"") {
            response(304, &[("etag", "\"v1\"")], "")
        } else {
            response(200, &[("etag", "\"v1\"")], TEXT)
        };
        for (name, value) in fields {
            answer.headers_mut().insert(*name, value.parse().unwrap());
        }
        answer.headers_mut().insert("x-call", call.into());
        std::future::ready(answer)
    })
}

#[tokio::test]
async fn a_get_after_a_range_request_is_whole() {
    let (cache, _clock) = cache();
    for fields in [&[][..], &[("cache-control", "public, max-age=600")][..]] {
        cache.invalidate(tower_response_cache::Selector::all());
        let origin = ranged(fields);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        for call in 1..=2 {
            let part = get_with(&app, "/", &[("range", "bytes=0-3")]).await;
            assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
            assert_eq!(part.text(), "the ");
            assert_eq!(part.field("content-range"), "bytes 0-3/14");
            assert_eq!(part.field("x-call"), call.to_string());
            assert_eq!((part.x_cache(), &*detail(&part)), ("MISS", "range"));
        }
        let whole = get(&app, "/").await;
        assert_eq!(
            (whole.status, whole.text()),
            (StatusCode::OK, "the whole text")
        );
        let again = get(&app, "/").await;
        assert!(again.is_hit());
        assert_eq!(
            (again.status, again.text()),
            (StatusCode::OK, "the whole text")
        );
        assert_eq!(origin.calls(), 3);
    }
}

#[tokio::test]
async fn a_range_request_that_finds_a_fresh_entry_gets_a_part_of_it() {
    let (cache, _clock) = cache();
    let origin = ranged(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let answer = get_with(&app, "/", &[("range", "bytes=0-3")]).await;
    assert!(answer.is_hit());
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::PARTIAL_CONTENT, "the ")
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_304_to_one_client_is_not_the_answer_to_the_next() {
    let (cache, _clock) = cache();
    let origin = ranged(&[("cache-control", "max-age=600")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let has_it = [("if-none-match", "\"v1\"")];
    let unchanged = get_with(&app, "/", &has_it).await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    assert_eq!((unchanged.x_cache(), unchanged.text()), ("MISS", ""));
    let whole = get(&app, "/").await;
    assert!(whole.is_hit());
    assert_eq!(
        (whole.status, whole.text()),
        (StatusCode::OK, "the whole text")
    );
    let stored = get_with(&app, "/", &has_it).await;
    assert!(stored.is_hit());
    assert_eq!(
        (stored.status, stored.text()),
        (StatusCode::NOT_MODIFIED, "")
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_range_or_conditional_on_something_uncacheable_is_answered_as_without_the_layer() {
    let (cache, _clock) = cache();
    let origin = ranged(&[("cache-control", "no-store")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for _ in 0..2 {
        get(&app, "/").await;
        let part = get_with(&app, "/", &[("range", "bytes=0-3")]).await;
        assert_eq!(
            (part.status, part.text()),
            (StatusCode::PARTIAL_CONTENT, "the ")
        );
        let unchanged = get_with(&app, "/", &[("if-none-match", "\"v1\"")]).await;
        assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    }
    assert_eq!(origin.calls(), 6);
}

/// A blanket header over a whole router is what makes other caches store a POST.
#[tokio::test]
async fn a_blanket_max_age_over_a_router_stores_its_gets_alone() {
    let (cache, _clock) = cache();
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = move || {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        std::future::ready(format!("call {call}"))
    };
    let router: Router = Router::new()
        .route("/", route_get(count.clone()).post(count))
        .layer(SetResponseHeaderLayer::overriding(
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=600"),
        ))
        .layer(ResponseCacheLayer::new(&cache));
    let ask = async |method: &str| {
        let response: Response<Body> = router
            .clone()
            .oneshot(request(method, "/", &[]))
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    assert_eq!(ask("POST").await, "call 1");
    assert_eq!(ask("POST").await, "call 2");
    assert_eq!(ask("GET").await, "call 3");
    assert_eq!(ask("GET").await, "call 3");
    assert_eq!(ask("POST").await, "call 4");
}
