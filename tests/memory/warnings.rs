//! What the cache says in the log: a route that is bypassed again and again, once, with the option
//! to look at.

use crate::support::{App, Origin, cache, get, get_with, log::Log};
use axum::{Router, routing::get as route_get};
use tower::util::BoxCloneSyncService;
use tower_response_cache::ResponseCacheLayer;
use tracing::{Level, dispatcher::DefaultGuard};

/// What this thread logs from now on, warnings and worse.
fn listen() -> (Log, DefaultGuard) {
    let log = Log::default();
    let listening = log.listen_from(Level::WARN);
    (log, listening)
}

fn users(layer: ResponseCacheLayer) -> App {
    let page = || async { "page" };
    let router = Router::new()
        .route("/users/{id}", route_get(page))
        .route("/orders", route_get(page))
        .layer(layer);
    BoxCloneSyncService::new(router)
}

#[tokio::test]
async fn after_twenty_bypasses_in_a_row_one_warning_names_route_reason_and_option() {
    for (field, reason, options) in [
        (
            "cookie",
            "cookie",
            &["ignore_cookies", "vary_on_cookie"][..],
        ),
        ("authorization", "authorization", &["partition_by"]),
        ("x-api-key", "credential", &["credentials"]),
    ] {
        let (log, _guard) = listen();
        let (cache, _clock) = cache();
        let app = users(ResponseCacheLayer::new(&cache));
        for i in 0..19 {
            get_with(&app, &format!("/users/{i}"), &[(field, "a=b")]).await;
        }
        assert_eq!(log.lines(), [""; 0], "{field}");
        for i in 19..100 {
            get_with(&app, &format!("/users/{i}"), &[(field, "a=b")]).await;
            assert_eq!(log.lines().len(), 1, "{field}, {i}");
        }
        let line = &log.lines()[0];
        assert!(line.contains("WARN"), "{line}");
        assert!(line.contains("GET /users/{id}: "), "{line}");
        assert!(line.contains(reason), "{line}");
        for option in options {
            assert!(line.contains(option), "{line}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_looked_up_ends_the_row() {
    let (log, _guard) = listen();
    let (cache, _clock) = cache();
    let app = users(ResponseCacheLayer::new(&cache));
    for _ in 0..5 {
        for i in 0..19 {
            get_with(&app, &format!("/users/{i}"), &[("cookie", "a=b")]).await;
        }
        get(&app, "/users/1").await;
    }
    assert_eq!(log.lines(), [""; 0]);
}

#[tokio::test]
async fn another_reason_ends_the_row() {
    let (log, _guard) = listen();
    let (cache, _clock) = cache();
    let app = users(ResponseCacheLayer::new(&cache));
    for i in 0..100 {
        let field = if i % 2 == 0 {
            "cookie"
        } else {
            "authorization"
        };
        get_with(&app, "/users/1", &[(field, "a=b")]).await;
    }
    assert_eq!(log.lines(), [""; 0]);
}

#[tokio::test]
async fn each_route_has_a_row_of_its_own() {
    let (log, _guard) = listen();
    let (cache, _clock) = cache();
    let app = users(ResponseCacheLayer::new(&cache));
    for _ in 0..19 {
        get_with(&app, "/users/1", &[("cookie", "a=b")]).await;
        get_with(&app, "/orders", &[("cookie", "a=b")]).await;
    }
    assert_eq!(log.lines(), [""; 0]);
    get_with(&app, "/orders", &[("cookie", "a=b")]).await;
    assert_eq!(log.lines().len(), 1);
    assert!(log.lines()[0].contains("GET /orders: "));
    get_with(&app, "/users/2", &[("cookie", "a=b")]).await;
    assert_eq!(log.lines().len(), 2);
    assert!(log.lines()[1].contains("GET /users/{id}: "));
}

#[tokio::test]
async fn without_a_router_the_path_is_named() {
    let (log, _guard) = listen();
    let (cache, _clock) = cache();
    let app = Origin::with_fields(&[]).behind(&ResponseCacheLayer::new(&cache));
    for _ in 0..40 {
        get_with(&app, "/a?secret=1", &[("cookie", "a=b")]).await;
    }
    assert_eq!(log.lines().len(), 1);
    let line = &log.lines()[0];
    assert!(line.contains("GET /a: "), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

#[tokio::test]
async fn requests_that_ask_to_be_passed_on_are_no_matter_for_a_warning() {
    let (log, _guard) = listen();
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).bypass_when(|head| head.uri.path() == "/orders");
    let app = users(layer);
    for _ in 0..40 {
        get(&app, "/orders").await;
        get_with(&app, "/users/1", &[("cache-control", "no-store")]).await;
    }
    assert_eq!(log.lines(), [""; 0]);
}

#[tokio::test]
async fn hits_and_misses_say_nothing() {
    let (log, _guard) = listen();
    let (cache, _clock) = cache();
    let app = users(ResponseCacheLayer::new(&cache));
    for i in 0..100 {
        get(&app, &format!("/users/{}", i % 50)).await;
    }
    assert_eq!(log.lines(), [""; 0]);
}
