//! RFC 9111, 4.4: what an unsafe method invalidates, before its answer leaves.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::support::{
    App, Origin, app, cache, get, get_with, request,
    scripted::{Frame, Gate, by_hand, response},
    send, settle,
};
use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response, Version};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, ServiceExt, limit::GlobalConcurrencyLimitLayer};
use tower_response_cache::{Query, ResponseCacheLayer, Selector};

/// Answers GETs with the number of the call, and everything else as the request says: `x-status`,
/// `x-location`, `x-content-location` (several, where it is said several times).
fn site(fields: &'static [(&'static str, &'static str)]) -> Origin {
    Origin::new(move |call, request: Request<Body>| {
        std::future::ready(if request.method() == "GET" {
            response(200, fields, format!("page {call}"))
        } else {
            written(&request)
        })
    })
}

fn written(request: &Request<Body>) -> Response<Body> {
    let status = request.headers().get("x-status");
    let status = status.map_or(200, |value| value.to_str().unwrap().parse().unwrap());
    let mut answer = response(status, &[], "done");
    for name in ["location", "content-location"] {
        for value in request.headers().get_all(format!("x-{name}")) {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

fn start() -> App {
    let (cache, _clock) = cache();
    site(&[]).behind(&ResponseCacheLayer::new(&cache))
}

async fn warm(app: &App, paths: &[&str]) {
    for path in paths {
        get(app, path).await;
        assert!(get(app, path).await.is_hit(), "{path}");
    }
}

/// Which of these are hits no more, each asked for once.
async fn invalidated<'a>(app: &App, paths: &[&'a str]) -> Vec<&'a str> {
    let mut found = Vec::new();
    for path in paths {
        if !get(app, path).await.is_hit() {
            found.push(*path);
        }
    }
    found
}

/// Asks in a task of its own, which waits for something when this returns.
async fn begin(app: &App, request: Request<Body>) -> JoinHandle<String> {
    let app = app.clone();
    let task = tokio::spawn(async move { send(&app, request).await.text().to_owned() });
    settle().await;
    task
}

#[tokio::test]
async fn a_get_after_a_post_is_made_anew() {
    let app = start();
    warm(&app, &["/a"]).await;
    assert_eq!(get(&app, "/a").await.text(), "page 1");
    let posted = send(&app, request("POST", "/a", &[])).await;
    assert_eq!(posted.text(), "done");
    assert!(posted.headers.is_empty(), "not a word of ours: {posted:?}");
    let next = get(&app, "/a").await;
    assert_eq!((next.x_cache(), next.text()), ("MISS", "page 3"));
    assert!(get(&app, "/a").await.is_hit(), "stored again");
}

#[tokio::test]
async fn unsafe_and_unknown_methods_invalidate_and_safe_ones_do_not() {
    #[rustfmt::skip]
    let rows = [
        ("§4.4: POST", "POST", true),
        ("§4.4: PUT", "PUT", true),
        ("§4.4: PATCH", "PATCH", true),
        ("§4.4: DELETE", "DELETE", true),
        ("§4.4: a method whose safety is unknown", "FROBNICATE", true),
        ("RFC 9110, 9.1: a method has case", "get", true),
        ("RFC 9110, 9.2.1: OPTIONS is safe", "OPTIONS", false),
        ("RFC 9110, 9.2.1: TRACE is safe", "TRACE", false),
        ("RFC 9110, 9.2.1: HEAD is safe", "HEAD", false),
        ("RFC 10008: QUERY is safe", "QUERY", false),
    ];
    for (sentence, method, invalidates) in rows {
        let app = start();
        warm(&app, &["/a"]).await;
        send(&app, request(method, "/a", &[])).await;
        assert_eq!(get(&app, "/a").await.is_hit(), !invalidates, "{sentence}");
    }
}

#[tokio::test]
async fn only_an_answer_that_is_no_error_invalidates() {
    #[rustfmt::skip]
    let rows = [
        ("§4.4: 200", "200", true),
        ("§4.4: 201", "201", true),
        ("§4.4: 204", "204", true),
        ("§4.4: a redirection is no error", "303", true),
        ("§4.4: 400", "400", false),
        ("§4.4: 404", "404", false),
        ("§4.4: 409", "409", false),
        ("§4.4: 500", "500", false),
        ("§4.4: 503", "503", false),
    ];
    for (sentence, status, invalidates) in rows {
        let app = start();
        warm(&app, &["/a", "/b"]).await;
        let fields = [("x-status", status), ("x-location", "/b")];
        send(&app, request("POST", "/a", &fields)).await;
        let expected: &[&str] = if invalidates { &["/a", "/b"] } else { &[] };
        assert_eq!(
            invalidated(&app, &["/a", "/b"]).await,
            expected,
            "{sentence}"
        );
    }
}

#[tokio::test]
async fn an_inner_error_invalidates_nothing() {
    let (cache, _clock) = cache();
    let inner = tower::service_fn(|request: Request<Body>| {
        std::future::ready(match request.method().as_str() {
            "GET" => Ok(response(200, &[], "page")),
            _ => Err("the database is away"),
        })
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner);
    let x_cache = async |method| {
        let asked = service.clone().oneshot(request(method, "/a", &[]));
        let response = asked.await?.map(Body::new);
        let x_cache = response.headers()["x-cache"].clone();
        axum::body::to_bytes(response.into_body(), 9).await.unwrap();
        Ok(x_cache)
    };
    assert_eq!(x_cache("GET").await.unwrap(), "MISS");
    assert_eq!(x_cache("POST").await, Err("the database is away"));
    assert_eq!(x_cache("GET").await.unwrap(), "HIT");
}

#[tokio::test]
async fn what_an_answer_names_on_its_own_origin_is_invalidated_too() {
    const ALL: &[&str] = &["/users", "/users/7", "/users/7?full", "/users/a", "/", "/a"];
    type Fields = &'static [(&'static str, &'static str)];
    #[rustfmt::skip]
    let rows: &[(&str, Fields, &[&str])] = &[
        ("§4.4: nothing but the target", &[], &["/users"]),
        ("§4.4: Location", &[("x-location", "/users/7")], &["/users", "/users/7"]),
        ("§4.4: with its query", &[("x-location", "/users/7?full")], &["/users", "/users/7?full"]),
        ("§4.4: Content-Location", &[("x-content-location", "/users/7")], &["/users", "/users/7"]),
        ("§4.4: both", &[("x-location", "/users/7"), ("x-content-location", "/a")],
            &["/users", "/users/7", "/a"]),
        ("§4.4: the same origin", &[("x-location", "https://TEST/users/7")], &["/users", "/users/7"]),
        ("§4.4: its default port", &[("x-location", "http://test:80/users/7")], &["/users", "/users/7"]),
        ("§4.4: the root of the same origin", &[("x-location", "http://test")], &["/users", "/"]),
        ("§4.4: another host", &[("x-location", "https://other/users/7")], &["/users"]),
        ("§4.4: another port", &[("x-location", "http://test:81/users/7")], &["/users"]),
        ("§4.4: another authority", &[("x-location", "//other/users/7")], &["/users"]),
        ("RFC 3986, 5.2: a relative path", &[("x-content-location", "users/7")], &["/users", "/users/7"]),
        ("RFC 3986, 5.2: with dots", &[("x-content-location", "./b/../a")], &["/users", "/a"]),
        ("RFC 3986, 5.2: the same authority", &[("x-location", "//test/a")], &["/users", "/a"]),
        ("RFC 3986, 3.5: without the fragment", &[("x-location", "/a#top")], &["/users", "/a"]),
        ("RFC 9110, 10.2.2: several are none", &[("x-location", "/a"), ("x-location", "/")], &["/users"]),
        ("what is no reference is none", &[("x-location", "/a b")], &["/users"]),
    ];
    for (sentence, fields, expected) in rows {
        let app = start();
        warm(&app, ALL).await;
        send(&app, request("POST", "/users", fields)).await;
        assert_eq!(invalidated(&app, ALL).await, *expected, "{sentence}");
    }
}

#[tokio::test]
async fn schemes_are_compared_where_both_are_known() {
    let (a, b) = ("https://test/a", "https://test/b");
    for (location, expected) in [
        ("https://test/b", &[a, b][..]),
        ("https://test:443/b", &[a, b]),
        ("http://test/b", &[a]),
        ("//test/b", &[a, b]),
    ] {
        let app = start();
        warm(&app, &[a, b]).await;
        send(&app, request("POST", a, &[("x-location", location)])).await;
        assert_eq!(invalidated(&app, &[a, b]).await, expected, "{location}");
    }
}

#[tokio::test]
async fn the_target_is_the_uri_of_the_key() {
    let http_2 = |method: &str, uri: &str| {
        Request::builder()
            .method(method)
            .uri(uri)
            .version(Version::HTTP_2)
            .body(Body::empty())
            .unwrap()
    };
    let app = start();
    let uri = "http://Example.com:80/a?b";
    send(&app, http_2("GET", uri)).await;
    assert!(send(&app, http_2("GET", uri)).await.is_hit());
    // In HTTP/1 there is no scheme, which is part of the key, but not of what is invalidated.
    let others = [("host", "other")];
    let same = [("host", "example.com")];
    send(&app, request("POST", "/a?b", &others)).await;
    send(&app, request("POST", "/a", &same)).await;
    assert!(send(&app, http_2("GET", uri)).await.is_hit());
    send(&app, request("POST", "/a?b", &same)).await;
    assert!(!send(&app, http_2("GET", uri)).await.is_hit());
    send(&app, http_2("PUT", "http://example.com/a?b")).await;
    assert!(!send(&app, http_2("GET", uri)).await.is_hit());
    // RFC 9112, 3.2.2: the absolute form wins over `Host`.
    assert!(send(&app, http_2("GET", uri)).await.is_hit());
    send(&app, request("POST", "http://example.com/a?b", &others)).await;
    assert!(!send(&app, http_2("GET", uri)).await.is_hit());
}

#[tokio::test]
async fn all_variants_partitions_and_layers_of_the_target_are_invalidated() {
    let (cache, _clock) = cache();
    let origin = site(&[("vary", "accept")]);
    let layer = ResponseCacheLayer::new(&cache);
    let user = |head: &http::request::Parts| Some(format!("{:?}", head.headers.get("x-user")));
    let layers = [
        layer.clone(),
        layer.clone().ignore_host(),
        layer.clone().query(Query::ignore(["utm_*"])),
        layer.clone().vary_on_cookie("lang"),
        layer.clone().partition_by("user", user),
    ];
    let apps: Vec<_> = layers.iter().map(|layer| origin.behind(layer)).collect();
    let asked: [&[(&str, &str)]; 3] = [
        &[("accept", "text/html")],
        &[("accept", "text/plain"), ("x-user", "a")],
        &[("x-user", "b"), ("hx-request", "true")],
    ];
    // By whichever layer the unsafe method comes, with a location or by its own URI.
    for (posting, (path, location)) in apps
        .iter()
        .zip([("/a?q=1", ""), ("/b", "/a?q=1")].iter().cycle())
    {
        for expected in [false, true] {
            for app in &apps {
                for fields in asked {
                    assert_eq!(get_with(app, "/a?q=1", fields).await.is_hit(), expected);
                }
            }
        }
        let fields = [
            ("x-location", *location),
            ("x-user", "c"),
            ("cookie", "lang=de"),
        ];
        send(posting, request("POST", path, &fields)).await;
        for (index, app) in apps.iter().enumerate() {
            for fields in asked {
                let answer = get_with(app, "/a?q=1", fields).await;
                assert!(!answer.is_hit(), "layer {index}, {fields:?}");
            }
        }
        cache.invalidate(Selector::all());
    }
}

#[tokio::test]
async fn a_layer_that_ignores_the_host_invalidates_for_all_hosts() {
    let (cache, _clock) = cache();
    let app = site(&[]).behind(&ResponseCacheLayer::new(&cache).ignore_host());
    for fields in [&[("host", "a")], &[("host", "b")]] {
        warm(&app, &["/a", "/b"]).await;
        send(&app, request("POST", "/a", fields)).await;
        assert_eq!(invalidated(&app, &["/a", "/b"]).await, ["/a"]);
    }
    // §4.4: another origin stays another one.
    let elsewhere = [("host", "a"), ("x-location", "http://b/b")];
    send(&app, request("POST", "/a", &elsewhere)).await;
    assert!(get(&app, "/b").await.is_hit());
}

#[tokio::test]
async fn in_a_nested_router_the_uri_is_the_one_that_the_client_sent() {
    let (cache, _clock) = cache();
    let inside = Router::new()
        .route_service("/a", site(&[]).service())
        .route_service("/b", site(&[]).service())
        .layer(ResponseCacheLayer::new(&cache));
    let outside = site(&[]).behind(&ResponseCacheLayer::new(&cache));
    let router = Router::new().nest("/api", inside).fallback_service(outside);
    let app = App::new(router);
    let all = ["/api/a", "/api/b", "/a", "/b"];
    for (location, expected) in [
        ("/other", &["/api/a"][..]),
        ("b", &["/api/a", "/api/b"]),
        ("/api/b", &["/api/a", "/api/b"]),
        ("/b", &["/api/a", "/b"]),
    ] {
        warm(&app, &all).await;
        send(&app, request("POST", "/api/a", &[("x-location", location)])).await;
        assert_eq!(invalidated(&app, &all).await, expected, "{location}");
    }
}

#[tokio::test]
async fn it_is_done_before_the_answer_leaves() {
    let (cache, _clock) = cache();
    let (sender, body) = by_hand();
    let body = std::sync::Mutex::new(Some(body));
    let origin = Origin::new(move |call, request: Request<Body>| {
        let answer = match request.method().as_str() {
            "GET" => response(200, &[], format!("page {call}")),
            _ => response(200, &[], body.lock().unwrap().take().unwrap()),
        };
        std::future::ready(answer)
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    warm(&app, &["/a"]).await;
    let head = app.clone().oneshot(request("POST", "/a", &[])).await;
    assert_eq!(
        get(&app, "/a").await.text(),
        "page 3",
        "the body is still to come"
    );
    // What is stored after the head stays: the body tells nothing.
    let frame: Frame = Ok(Bytes::from("done"));
    sender.send(frame).unwrap();
    drop(sender);
    let body = head.unwrap_or_else(|never: Infallible| match never {});
    let body = axum::body::to_bytes(body.into_body(), 9).await.unwrap();
    assert_eq!(body, "done");
    assert!(get(&app, "/a").await.is_hit());
}

/// A site whose calls with `x-held` wait before a door once they have run.
fn held() -> (Gate, Origin) {
    let gate = Gate::shut();
    let held = gate.clone();
    let origin = Origin::new(move |call, request: Request<Body>| {
        let held = held.clone();
        async move {
            if request.headers().contains_key("x-held") {
                held.pass().await;
            }
            match request.method().as_str() {
                "GET" => response(200, &[], format!("page {call}")),
                _ => written(&request),
            }
        }
    });
    (gate, origin)
}

#[tokio::test]
async fn a_fill_that_began_before_is_not_used_afterwards() {
    let rows = [("/a", "/x"), ("/x", "/a")];
    for (target, location) in rows {
        let (cache, _clock) = cache();
        let (gate, origin) = held();
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let fill = begin(&app, request("GET", "/a", &[("x-held", "1")])).await;
        send(&app, request("POST", target, &[("x-location", location)])).await;
        gate.open();
        assert_eq!(fill.await.unwrap(), "page 1", "its own client is answered");
        let next = get(&app, "/a").await;
        assert_eq!((next.is_hit(), next.text()), (false, "page 3"), "{target}");
        assert!(get(&app, "/a").await.is_hit());
    }
}

#[tokio::test]
async fn who_asks_after_an_unsafe_method_waits_for_no_call_that_began_before_it() {
    let (cache, _clock) = cache();
    let (gate, origin) = held();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let early = begin(&app, request("GET", "/a", &[("x-held", "1")])).await;
    send(&app, request("POST", "/a", &[])).await;
    let late = begin(&app, request("GET", "/a", &[])).await;
    assert_eq!(origin.calls(), 3);
    assert_eq!(late.await.unwrap(), "page 3");
    gate.open();
    assert_eq!(early.await.unwrap(), "page 1");
    let next = get(&app, "/a").await;
    assert_eq!((next.is_hit(), next.text()), (true, "page 3"));
}

#[tokio::test]
async fn a_fill_that_ends_before_the_answer_is_not_used_after_it() {
    let (cache, _clock) = cache();
    let (gate, origin) = held();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let post = begin(&app, request("POST", "/a", &[("x-held", "1")])).await;
    warm(&app, &["/a"]).await;
    gate.open();
    assert_eq!(post.await.unwrap(), "done");
    assert_eq!(get(&app, "/a").await.text(), "page 3");
}

#[tokio::test]
async fn a_client_gone_midway_leaves_its_target_invalidated() {
    let (cache, _clock) = cache();
    let (gate, origin) = held();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    warm(&app, &["/a", "/b"]).await;
    let fields = [("x-held", "1"), ("x-location", "/b")];
    let post = begin(&app, request("POST", "/a", &fields)).await;
    assert_eq!(gate.waiting(), 1);
    assert!(get(&app, "/a").await.is_hit(), "not yet");
    post.abort();
    settle().await;
    assert_eq!(gate.waiting(), 0);
    assert_eq!(invalidated(&app, &["/a", "/b"]).await, ["/a"]);
    // A safe method changes nothing, whether it is answered or not.
    let options = begin(&app, request("OPTIONS", "/a", &[("x-held", "1")])).await;
    options.abort();
    settle().await;
    assert!(get(&app, "/a").await.is_hit());
}

/// Does something when it is dropped.
struct Last<F: FnMut()>(F);

impl<F: FnMut()> Drop for Last<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[tokio::test]
async fn what_a_call_does_when_it_is_dropped_comes_before_the_invalidation() {
    let (cache, _clock) = cache();
    let dropped = Arc::new(AtomicU64::new(0));
    let number = {
        let cache = cache.clone();
        move || {
            cache
                .invalidate(Selector::resource("test", "/b"))
                .sequence()
        }
    };
    let (count, noted) = (number.clone(), dropped.clone());
    let origin = Origin::new(move |_, _| {
        let (count, noted) = (count.clone(), noted.clone());
        async move {
            let _last = Last(move || noted.store(count(), Ordering::SeqCst));
            std::future::pending().await
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let post = begin(&app, request("POST", "/a", &[])).await;
    post.abort();
    settle().await;
    // Between these two numbers is that of the target.
    assert_eq!(number(), dropped.load(Ordering::SeqCst) + 2);
}

#[tokio::test]
async fn a_client_gone_before_the_inner_service_was_called_has_changed_nothing() {
    let (cache, _clock) = cache();
    let permits = Arc::new(Semaphore::new(1));
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
    let origin = site(&[]);
    let inner = App::new(limit.layer(origin.service()));
    let app = app(&ResponseCacheLayer::new(&cache), inner);
    warm(&app, &["/a"]).await;
    let permit = permits.acquire().await.unwrap();
    let post = begin(&app, request("POST", "/a", &[])).await;
    post.abort();
    settle().await;
    drop(permit);
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(origin.calls(), 1);
    let permit = permits.acquire().await.unwrap();
    let post = begin(&app, request("POST", "/a", &[])).await;
    drop(permit);
    assert_eq!(post.await.unwrap(), "done");
    assert!(!get(&app, "/a").await.is_hit());
}

#[tokio::test]
async fn a_panic_leaves_the_target_invalidated() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, request: Request<Body>| {
        let is_get = request.method() == "GET";
        // Where a service does its work when it is called, and where it does so in its future.
        assert!(is_get || request.uri().query().is_some(), "called");
        async move {
            assert!(is_get, "polled");
            response(200, &[], format!("page {call}"))
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for path in ["/a", "/a?b"] {
        warm(&app, &[path]).await;
        let post = begin(&app, request("POST", path, &[])).await;
        assert!(post.await.unwrap_err().is_panic());
        assert!(!get(&app, path).await.is_hit(), "{path}");
    }
}

#[tokio::test]
async fn other_resources_stay() {
    let app = start();
    let all = ["/a", "/a?b", "/a?", "/a/", "/a/b", "/"];
    for path in all {
        warm(&app, &all).await;
        send(&app, request("DELETE", path, &[])).await;
        assert_eq!(invalidated(&app, &all).await, [path]);
    }
}
