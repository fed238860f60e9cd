//! Mistakes that were made on the way here, each a test so that it is not made again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{fake_store::FakeStore, *};
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderName, Request, Response};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tower::ServiceExt;
use tower_response_cache::*;

#[tokio::test]
async fn a_head_with_a_cookie_never_fills_the_get() {
    let (cache, _clock) = cache();
    let gate = Arc::new(Notify::new());
    let entered = Arc::new(Notify::new());
    let origin = Origin::new({
        let (gate, entered) = (gate.clone(), entered.clone());
        move |call, request| {
            let (gate, entered) = (gate.clone(), entered.clone());
            async move {
                let body = if request.method() == "HEAD" {
                    Body::empty()
                } else {
                    if call == 1 {
                        entered.notify_one();
                        gate.notified().await;
                    }
                    Body::from("the page")
                };
                let mut r = Response::new(body);
                r.headers_mut()
                    .insert("cache-control", "public, max-age=60".parse().unwrap());
                r
            }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = tokio::spawn({
        let app = app.clone();
        async move { get(&app, "/").await }
    });
    entered.notified().await;
    let head = send(&app, request("HEAD", "/", &[("cookie", "s=1")])).await;
    println!("HEAD: {} {}", head.x_cache(), head.cache_status());
    gate.notify_one();
    assert_eq!(first.await.unwrap().text(), "the page");
    let next = get(&app, "/").await;
    assert_eq!(
        next.text(),
        "the page",
        "{} {}",
        next.x_cache(),
        next.cache_status()
    );
}

#[tokio::test]
async fn a_forwarded_host_with_a_space_is_in_the_key() {
    let (cache, _clock) = cache();
    // As `axum_extra::extract::Host` reads it.
    let origin = Origin::new(|_, request| async move {
        let host = request
            .headers()
            .get("forwarded")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| {
                v.split(',').next()?.split(';').find_map(|pair| {
                    let (key, value) = pair.split_once('=')?;
                    key.trim()
                        .eq_ignore_ascii_case("host")
                        .then(|| value.trim().trim_matches('"').to_owned())
                })
            });
        Response::new(Body::from(format!(
            "<a href=https://{}/>",
            host.unwrap_or("test".into())
        )))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get_with(
        &app,
        "/",
        &[("forwarded", "host =evil.example, for=6.6.6.6")],
    )
    .await;
    let victim = get_with(&app, "/", &[("forwarded", "for=1.2.3.4")]).await;
    assert_eq!(
        victim.text(),
        "<a href=https://test/>",
        "{}",
        victim.x_cache()
    );
}

#[tokio::test]
async fn a_frame_cut_in_its_body_is_a_miss() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|_, _| async { Response::new(Body::from("a whole body")) });
    let (_, one) = store.node(&clock, &origin);
    get(&one, "/").await;
    settle().await;
    store.cut_frames_by(5);
    let (_, two) = store.node(&clock, &origin);
    let answer = get(&two, "/").await;
    assert_eq!(
        answer.text(),
        "a whole body",
        "{} {:?}",
        answer.x_cache(),
        answer.headers
    );
}

#[tokio::test]
async fn no_cache_is_not_answered_by_what_was_promoted_meanwhile() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let old = Origin::new(|_, _| async { Response::new(Body::from("old")) });
    let (_, one) = store.node(&clock, &old);
    get(&one, "/").await;
    settle().await;
    let gate = Arc::new(Notify::new());
    let origin = Origin::new({
        let gate = gate.clone();
        move |call, _| {
            let gate = gate.clone();
            async move {
                if call == 1 {
                    gate.notified().await;
                }
                Response::new(Body::from("new"))
            }
        }
    });
    let (_cache, two) = store.node(&clock, &origin);
    let ask = |fields: &'static [(&'static str, &'static str)]| {
        let app = two.clone();
        tokio::spawn(async move { get_with(&app, "/", fields).await })
    };
    let first = ask(&[("cache-control", "no-cache")]);
    settle().await;
    let second = ask(&[("cache-control", "no-cache")]);
    settle().await;
    let plain = ask(&[]).await.unwrap();
    assert_eq!((plain.x_cache(), plain.text()), ("HIT", "old"));
    gate.notify_one();
    assert_eq!(first.await.unwrap().text(), "new");
    let second = second.await.unwrap();
    let later = get(&two, "/").await;
    println!(
        "second {} {}, later {} {}",
        second.x_cache(),
        second.text(),
        later.x_cache(),
        later.text()
    );
    assert_eq!(second.text(), "new", "no-cache: {}", second.x_cache());
    assert_eq!(later.text(), "new");
}

#[tokio::test]
async fn a_fill_timeout_without_end_panics_nowhere() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let layer = ResponseCacheLayer::new(&cache)
        .fill_timeout(Duration::MAX)
        .wait_timeout(Duration::MAX)
        .ttl(Duration::MAX);
    get(&origin.behind(&layer), "/").await;
}

#[tokio::test]
async fn a_signed_in_visitor_does_not_end_collapsing_for_the_others() {
    for field in [("cache-control", "private"), ("set-cookie", "s=2")] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |_, request| async move {
            tokio::task::yield_now().await;
            let mut r = Response::new(Body::from("x"));
            if request.headers().contains_key("cookie") {
                r.headers_mut().insert(field.0, field.1.parse().unwrap());
            }
            r
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get_with(&app, "/", &[("cookie", "s=1")]).await;
        let before = origin.calls();
        futures_util::future::join_all((0..200).map(|_| get(&app, "/"))).await;
        assert_eq!(origin.calls() - before, 1, "{field:?}");
    }
}

#[tokio::test]
async fn a_hit_of_nested_layers_is_what_the_miss_was() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let origin = Origin::with_fields(&[]);
    let inner = origin.behind(&layer.clone().ttl(Duration::from_secs(300)));
    let between =
        tower::util::BoxCloneSyncService::new(inner.map_response(|mut r: Response<Body>| {
            r.headers_mut().insert(
                "content-security-policy",
                "default-src 'self'".parse().unwrap(),
            );
            r
        }));
    let app = app(&layer, between);
    let miss = get(&app, "/").await;
    let hit = get(&app, "/").await;
    println!("{} / {}", miss.x_cache(), hit.x_cache());
    assert_eq!(
        hit.field("content-security-policy"),
        miss.field("content-security-policy")
    );
}

#[tokio::test]
async fn an_added_credential_is_one_whatever_its_name() {
    for name in [
        "forwarded",
        "origin",
        "range",
        "if-match",
        "x-forwarded-host",
        "x-mine",
        "host",
        "cache-control",
    ] {
        let (cache, _clock) = cache();
        let origin = Origin::new(|_, request| async move {
            Response::new(Body::from(format!("{:?}", request.headers())))
        });
        let credentials = Credentials::default().add(HeaderName::from_static(name));
        let app = origin.behind(&ResponseCacheLayer::new(&cache).credentials(credentials));
        get_with(&app, "/", &[(name, "a")]).await;
        let b = get_with(&app, "/", &[(name, "b")]).await;
        println!("{name}: {} {}", b.x_cache(), b.cache_status());
        if b.is_hit() {
            println!("   SHARED {name}: {}", b.text());
        }
    }
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, request| async move {
        Response::new(Body::from(format!(
            "{:?}",
            request.headers().get("forwarded")
        )))
    });
    let credentials = Credentials::default().add(http::header::FORWARDED);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).credentials(credentials));
    get_with(&app, "/", &[("forwarded", "for=alice")]).await;
    let bob = get_with(&app, "/", &[("forwarded", "for=bob")]).await;
    assert!(!bob.is_hit(), "bob gets {}", bob.text());
}

#[tokio::test]
async fn a_get_with_a_body_that_no_field_announces_is_not_stored() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Body::from(body))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    // As `RequestDecompressionLayer` outside leaves it: Content-Length taken away.
    let fat = Request::get("/")
        .header("host", "test")
        .body(Body::from("evil"))
        .unwrap();
    send(&app, fat).await;
    assert_eq!(get(&app, "/").await.text(), "");
}

#[tokio::test]
async fn keys_of_the_store_stay_below_16_kib() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[("vary", "x-long")]);
    let (cache, app) = store.node(&clock, &origin);
    get_with(&app, "/", &[("x-long", &"x".repeat(60_000))]).await;
    settle().await;
    println!("{}", cache.stats());
    let longest = store.longest_key();
    assert!(longest <= 17 << 10, "{longest}");
}

fn two_parts(size: usize) -> Response<Body> {
    let half = Bytes::from(vec![b'x'; size / 2]);
    let parts = stream::once(std::future::ready(half.clone())).chain(stream::once(async move {
        tokio::task::yield_now().await;
        half
    }));
    let mut r = Response::new(Body::from_stream(
        parts.map(Ok::<_, std::convert::Infallible>),
    ));
    r.headers_mut().insert("content-length", size.into());
    r
}
#[tokio::test]
async fn what_can_never_be_stored_is_not_gathered_first() {
    let cache = builder().memory(1 << 20).build().unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new({
        let read = read.clone();
        move |_, _| {
            let read = read.clone();
            async move {
                static BLOCK: [u8; 65536] = [b'x'; 65536];
                let frames = stream::iter(0..4096).map(move |_| {
                    read.fetch_add(BLOCK.len(), Ordering::SeqCst);
                    Ok::<_, std::convert::Infallible>(Bytes::from_static(&BLOCK))
                });
                Response::new(Body::from_stream(frames))
            }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache).max_body_size(1 << 30));
    let response = app.clone().oneshot(request("GET", "/", &[])).await.unwrap();
    let gathered = read.load(Ordering::SeqCst);
    drop(response);
    assert!(
        gathered <= 4 << 20,
        "{} MiB before the head, memory is 1 MiB",
        gathered >> 20
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_byte_of_a_declared_length_does_not_wait_for_the_end_of_the_stream() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| async {
        let parts = stream::once(std::future::ready(Bytes::from("hel")))
            .chain(stream::once(async {
                tokio::task::yield_now().await;
                Bytes::from("lo")
            }))
            // The sender lives on: audit, clean-up.
            .chain(stream::once(async {
                tokio::time::sleep(Duration::from_secs(20)).await; // of paused time
                Bytes::new()
            }));
        let mut r = Response::new(Body::from_stream(
            parts.map(Ok::<_, std::convert::Infallible>),
        ));
        r.headers_mut().insert("content-length", 5.into());
        r
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let before = tokio::time::Instant::now();
    let response = app.clone().oneshot(request("GET", "/", &[])).await.unwrap();
    let mut body = response.into_body();
    let mut got = 0;
    while got < 5 {
        got += body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            .len();
    }
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
}
#[tokio::test]
async fn who_has_all_bytes_of_a_declared_length_gets_a_hit() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| async {
        let parts =
            stream::once(std::future::ready(Bytes::from("hello"))).chain(stream::once(async {
                tokio::task::yield_now().await;
                Bytes::new()
            }));
        let mut r = Response::new(Body::from_stream(
            parts.map(Ok::<_, std::convert::Infallible>),
        ));
        r.headers_mut().insert("content-length", 5.into());
        r
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let response = app.clone().oneshot(request("GET", "/", &[])).await.unwrap();
    let mut body = response.into_body();
    // A client over HTTP/1 is done here: it knows the length.
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "hello"
    );
    let again = get(&app, "/").await;
    assert!(again.is_hit(), "{}", again.cache_status());
}

fn two_steps(gate: Arc<Notify>) -> Response<Body> {
    let parts =
        stream::once(std::future::ready(Bytes::from("a"))).chain(stream::once(async move {
            gate.notified().await;
            Bytes::from("b")
        }));
    Response::new(Body::from_stream(
        parts.map(Ok::<_, std::convert::Infallible>),
    ))
}
#[tokio::test(start_paused = true)]
async fn close_waits_for_bodies_whose_clients_have_left() {
    let (cache, _clock) = cache();
    let gate = Arc::new(Notify::new());
    let origin = Origin::new({
        let gate = gate.clone();
        move |_, _| {
            let gate = gate.clone();
            async move { two_steps(gate) }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    drop(app.clone().oneshot(request("GET", "/", &[])).await.unwrap());
    settle().await;
    let closing = tokio::spawn({
        let cache = cache.clone();
        async move { cache.close().await }
    });
    settle().await;
    let finished = closing.is_finished();
    gate.notify_one();
    closing.await.unwrap();
    assert!(!finished, "closed with the body of a fill under way");
}
#[tokio::test]
async fn bodies_without_clients_are_bounded_in_number() {
    let (cache, _clock) = cache();
    let gate = Arc::new(Notify::new());
    let origin = Origin::new({
        let gate = gate.clone();
        move |_, _| {
            let gate = gate.clone();
            async move { two_steps(gate) }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for n in 0..5000 {
        drop(
            app.clone()
                .oneshot(request("GET", &format!("/{n}"), &[]))
                .await
                .unwrap(),
        );
    }
    settle().await;
    let flights = cache.stats().flights();
    assert!(flights <= 1024, "{flights} bodies are read for nobody");
}

#[tokio::test]
async fn a_post_is_passed_as_it_is_also_when_the_cache_is_off() {
    let (cache, _clock) = cache();
    let app = Origin::with_fields(&[]).behind(&ResponseCacheLayer::new(&cache));
    cache.set_enabled(false);
    let answer = send(&app, request("POST", "/", &[])).await;
    assert_eq!((answer.x_cache(), answer.cache_status()), ("", ""));
}

#[tokio::test]
async fn a_head_of_a_stored_204_has_no_content_length() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| async {
        let mut r = Response::new(Body::empty());
        *r.status_mut() = http::StatusCode::NO_CONTENT;
        r
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let head = send(&app, request("HEAD", "/", &[])).await;
    assert_eq!(
        (head.x_cache(), head.field("content-length")),
        ("HIT", ""),
        "RFC 9110, 8.6"
    );
}

#[tokio::test]
async fn expired_variants_are_filled_side_by_side() {
    let (cache, clock) = cache();
    let gate = Arc::new(Notify::new());
    let origin = Origin::new({
        let gate = gate.clone();
        move |call, request| {
            let gate = gate.clone();
            async move {
                let language = request.headers()["accept-language"]
                    .to_str()
                    .unwrap()
                    .to_owned();
                if call == 3 {
                    gate.notified().await;
                }
                let mut r = Response::new(Body::from(language));
                r.headers_mut()
                    .insert("vary", "accept-language".parse().unwrap());
                r
            }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for language in ["de", "fr"] {
        get_with(&app, "/", &[("accept-language", language)]).await;
    }
    clock.advance(Duration::from_secs(61));
    let de = tokio::spawn({
        let app = app.clone();
        async move { get_with(&app, "/", &[("accept-language", "de")]).await }
    });
    settle().await;
    let fr = tokio::time::timeout(
        Duration::from_millis(300),
        get_with(&app, "/", &[("accept-language", "fr")]),
    )
    .await;
    gate.notify_one();
    de.await.unwrap();
    assert!(fr.is_ok(), "fr waits for the slow fill of de");
}

#[tokio::test(start_paused = true)]
async fn waiters_do_not_outwait_the_fill_timeout() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| async move {
        if call == 1 {
            tokio::time::sleep(Duration::from_secs(50)).await; // of paused time
        }
        Response::new(Body::from("x"))
    });
    let layer = ResponseCacheLayer::new(&cache)
        .fill_timeout(Duration::from_secs(1))
        .wait_timeout(Duration::from_secs(60));
    let app = origin.behind(&layer);
    let first = tokio::spawn({
        let app = app.clone();
        async move { get(&app, "/").await }
    });
    settle().await;
    let before = tokio::time::Instant::now();
    get(&app, "/").await;
    let waited = before.elapsed();
    first.await.unwrap();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[test]
fn a_runtime_without_timers_is_served() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (cache, _clock) = cache();
        let origin = Origin::new(|_, _| async { two_parts(10) });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let response = app.clone().oneshot(request("GET", "/", &[])).await.unwrap();
        let body = response.into_body().collect().await;
        assert!(body.is_ok(), "{:?}", body.err());
    });
}

#[tokio::test]
async fn an_ignored_parameter_is_ignored_at_the_root_of_a_nested_router() {
    use axum::{Router, routing::get};
    let cache = in_memory();
    let layer = ResponseCacheLayer::new(&cache).query(Query::ignore(["utm_*"]));
    let nested = Router::new().route("/", get(|| async { "x" }).layer(layer));
    let app = Router::new().nest("/api", nested);
    let ask = |path: &'static str| {
        let app = app.clone();
        async move {
            let r = app.oneshot(request("GET", path, &[])).await.unwrap();
            r.headers()["x-cache"].to_str().unwrap().to_owned()
        }
    };
    ask("/api?utm_a=1").await;
    assert_eq!(ask("/api?utm_a=2").await, "HIT");
}

#[tokio::test]
async fn many_cookies_cost_little() {
    let cache = in_memory();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).ignore_cookies(ANALYTICS_COOKIES));
    get(&app, "/").await;
    let cookies = "ph_a;".repeat(80_000);
    let answer = get_with(&app, "/", &[("cookie", &cookies)]).await;
    assert_eq!(answer.x_cache(), "BYPASS");
    // They are not taken apart, one by one.
    assert!(
        answer
            .cache_status()
            .ends_with("fwd=bypass; detail=key-too-long")
    );
}

#[tokio::test]
async fn shared_failures_of_many_fields_panic_nowhere() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| async {
        let mut r = Response::new(Body::from("x"));
        *r.status_mut() = http::StatusCode::BAD_GATEWAY;
        for n in 0..24_000 {
            r.headers_mut().append(
                HeaderName::from_bytes(format!("x-{n}").as_bytes()).unwrap(),
                1.into(),
            );
        }
        r
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    assert_eq!(get(&app, "/").await.status, 502);
}

#[tokio::test]
async fn vary_cookie_with_ignored_cookies_gives_hits() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("vary", "cookie")]);
    let app = origin.behind(
        &ResponseCacheLayer::new(&cache)
            .ignore_cookies(["_ga"])
            .vary_on_cookie("lang"),
    );
    get_with(&app, "/", &[("cookie", "lang=de; _ga=1")]).await;
    let second = get_with(&app, "/", &[("cookie", "lang=de; _ga=2")]).await;
    assert!(second.is_hit(), "{}", second.cache_status());
}

#[tokio::test]
async fn a_range_request_on_a_miss_shows_the_handler_no_ignored_parameter() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let layer = ResponseCacheLayer::new(&cache)
        .query(Query::ignore(["utm_*"]))
        .ignore_cookies(["_ga"]);
    let app = origin.behind(&layer);
    let answer = get_with(&app, "/?utm_a=1", &[("range", "bytes=0-1")]).await;
    assert_eq!(answer.text(), "1 GET /");
}
