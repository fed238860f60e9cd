//! What a response says besides its fields: invalidations, heard before it leaves, and a field with tags.

use std::time::Duration;

use axum::{
    Json, Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    routing::{get as route_get, post as route_post},
};
use http::{HeaderName, Method, StatusCode};
use tower::{Layer, ServiceExt};
use tower_response_cache::{Cache, CachePolicy, Invalidate, ResponseCacheLayer, Selector, Tags};

use crate::support::{App, Origin, app, cache, get, get_with, request, scripted::response, send};

/// What a request says.
type Fields = &'static [(&'static str, &'static str)];

/// GETs of pages with a tag; everything else, and `/change`, invalidates it.
fn changing(status: u16) -> Origin {
    Origin::new(move |call, request| {
        let is_page = *request.method() == Method::GET && request.uri().path() != "/change";
        let mut response = response(if is_page { 200 } else { status }, &[], format!("{call}"));
        match is_page {
            true => response.extensions_mut().insert(Tags::new(["t"])).is_some(),
            false => response
                .extensions_mut()
                .insert(Invalidate::tag("t"))
                .is_some(),
        };
        std::future::ready(response)
    })
}

#[tokio::test]
async fn on_axum_a_handler_says_what_it_has_changed() {
    let (cache, _clock) = cache();
    let router = Router::new()
        .route(
            "/users",
            route_get(|| async { (Tags::new(["users"]), Json(["Ada"])) })
                .post(|| async {
                    (
                        Invalidate::tag("users"),
                        Invalidate::new(Selector::path("/top/*")),
                        "new",
                    )
                })
                .delete(|| async { (StatusCode::NO_CONTENT, Invalidate::tag("users")) }),
        )
        .route("/top/{n}", route_get(|| async { "top" }))
        .layer(ResponseCacheLayer::new(&cache));
    let app = App::new(
        router
            .into_service()
            .map_response(|response| response.map(Body::new)),
    );
    for path in ["/users?page=2", "/top/1"] {
        get(&app, path).await;
        assert!(get(&app, path).await.is_hit(), "{path}");
    }
    let answer = send(&app, request("POST", "/users", &[])).await;
    assert_eq!(answer.text(), "new");
    for path in ["/users?page=2", "/top/1"] {
        assert!(!get(&app, path).await.is_hit(), "{path}");
        assert!(get(&app, path).await.is_hit(), "{path}");
    }
    let answer = send(&app, request("DELETE", "/users", &[])).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::NO_CONTENT, ""));
    assert!(!get(&app, "/users?page=2").await.is_hit());
}

#[tokio::test]
async fn what_is_said_counts_for_every_method_status_and_way_through_the_layer() {
    #[rustfmt::skip]
    let rows: &[(&str, &str, u16, Fields)] = &[
        ("an unsafe method", "POST", 200, &[]),
        ("an error", "POST", 500, &[]),
        ("another safe method", "OPTIONS", 200, &[]),
        ("a GET that is stored", "GET", 200, &[]),
        ("a GET that is not", "GET", 400, &[]),
        ("a failure", "GET", 500, &[]),
        ("a HEAD", "HEAD", 200, &[]),
        ("a bypass", "GET", 200, &[("cookie", "a=b")]),
        ("no-store", "GET", 200, &[("cache-control", "no-store")]),
        ("a range", "GET", 200, &[("range", "bytes=0-1")]),
    ];
    for (sentence, method, status, fields) in rows {
        let (cache, _clock) = cache();
        let app = changing(*status).behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/page").await;
        assert!(get(&app, "/page").await.is_hit());
        let before = cache.sequence().number();
        send(&app, request(method, "/change", fields)).await;
        assert!(cache.sequence().number() > before, "{sentence}");
        assert!(!get(&app, "/page").await.is_hit(), "{sentence}");
    }
}

#[tokio::test]
async fn a_cache_that_is_switched_off_hears_it_too() {
    let (cache, _clock) = cache();
    let app = changing(200).behind(&ResponseCacheLayer::new(&cache));
    cache.set_enabled(false);
    let before = cache.sequence().number();
    get(&app, "/change").await;
    assert_eq!(cache.sequence().number(), before + 1);
}

#[tokio::test]
async fn nested_layers_of_one_cache_hear_it_once_and_another_cache_as_well() {
    let ((inner, _), (outer, _)) = (cache(), cache());
    let layer = ResponseCacheLayer::new(&inner);
    let once = changing(200).behind(&layer);
    let twice = app(&layer, once);
    let other = app(&ResponseCacheLayer::new(&outer), twice);
    get(&other, "/change").await;
    assert_eq!(
        (inner.sequence().number(), outer.sequence().number()),
        (1, 1)
    );
}

#[tokio::test]
async fn what_is_added_between_two_layers_is_heard_by_the_outer_one() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let add = |request: Request, next: Next| async move {
        (Invalidate::tag("audit"), next.run(request).await)
    };
    let page = || async { (Tags::new(["audit"]), "page") };
    let change = || async { (Invalidate::tag("users"), "changed") };
    let router = Router::new()
        .route("/page", route_get(page))
        .route("/change", route_post(change).layer(layer.clone()))
        .route_layer(middleware::from_fn(add))
        .layer(layer);
    let app = App::new(
        router
            .into_service()
            .map_response(|response| response.map(Body::new)),
    );
    let before = cache.sequence().number();
    send(&app, request("POST", "/change", &[])).await;
    // The tag of the handler once; the resource twice, once by each layer; the tag of what is between.
    assert_eq!(cache.sequence().number(), before + 4);
}

#[tokio::test]
async fn what_handlers_and_middlewares_say_adds_up() {
    let (cache, _clock) = cache();
    let add = |request: Request, next: Next| async move {
        let policy = CachePolicy::new().tag("policy of all");
        (Tags::new(["all"]), policy, next.run(request).await)
    };
    let page = || async {
        let policy = CachePolicy::ttl(Duration::from_secs(5)).tag("policy of one");
        (Tags::new(["one"]), Tags::new(["two"]), policy, "page")
    };
    let router = Router::new()
        .route("/page", route_get(page))
        .route_layer(middleware::from_fn(add))
        .layer(ResponseCacheLayer::new(&cache));
    let app = App::new(
        router
            .into_service()
            .map_response(|response| response.map(Body::new)),
    );
    get(&app, "/page").await;
    for tag in ["all", "one", "two", "policy of all", "policy of one"] {
        assert!(get(&app, "/page").await.is_hit(), "{tag}");
        cache.invalidate(Selector::tag(tag));
        assert!(!get(&app, "/page").await.is_hit(), "{tag}");
    }
}

#[tokio::test]
async fn a_layer_with_a_tag_field_does_not_serve_what_one_without_has_stored() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("cache-tag", "a")]);
    let layer = ResponseCacheLayer::new(&cache);
    let plain = origin.behind(&layer);
    let tagged = origin.behind(&layer.tag_field(HeaderName::from_static("cache-tag")));
    assert_eq!(get(&plain, "/a").await.field("cache-tag"), "a");
    let answer = get(&tagged, "/a").await;
    assert_eq!((answer.x_cache(), answer.field("cache-tag")), ("MISS", ""));
}

#[tokio::test]
async fn it_is_done_before_the_answer_leaves() {
    let (cache, _clock) = cache();
    let service = ResponseCacheLayer::new(&cache).layer(changing(200).service());
    let response = service
        .oneshot(request("POST", "/change", &[]))
        .await
        .unwrap();
    // Two for the tag and the resource; the body is unread.
    assert_eq!(cache.sequence().number(), 2);
    drop(response);
}

#[tokio::test]
async fn a_tag_field_is_taken_off_every_response_that_passes() {
    let (cache, _clock): (Cache, _) = cache();
    let origin = Origin::with_fields(&[("cache-tag", "a"), ("cache-tag", "b"), ("x-other", "c")]);
    let name = HeaderName::from_static("cache-tag");
    let app = origin.behind(&ResponseCacheLayer::new(&cache).tag_field(name));
    #[rustfmt::skip]
    let rows: &[(&str, &str, Fields)] = &[
        ("stored", "GET", &[]),
        ("from the store", "GET", &[]),
        ("an unsafe method", "POST", &[]),
        ("a safe method", "OPTIONS", &[]),
        ("a bypass", "GET", &[("cookie", "a=b")]),
        ("a HEAD", "HEAD", &[]),
        ("no-cache", "GET", &[("cache-control", "no-cache")]),
    ];
    for (sentence, method, fields) in rows {
        let answer = send(&app, request(method, "/a", fields)).await;
        assert_eq!(answer.fields("cache-tag"), [""; 0], "{sentence}");
        assert_eq!(answer.field("x-other"), "c", "{sentence}");
    }
    assert!(get_with(&app, "/a", &[]).await.is_hit());
    cache.invalidate(Selector::tag("b"));
    assert!(!get(&app, "/a").await.is_hit());
}
