//! What passes as it is: event streams and their like, and ranges and conditions on what may not be
//! stored.

use std::sync::Arc;

use crate::support::{
    Origin, cache,
    feed::{Feed, feed, whole},
    get,
    inner::{End, Inner, ask, assert_idle, at_once, behind, client, next, read, script},
    request, send,
};
use axum::body::Body;
use http::{HeaderMap, Response, StatusCode, header};
use tokio::sync::Notify;
use tower_response_cache::ResponseCacheLayer;

type Hand = Arc<std::sync::Mutex<Vec<Option<Feed>>>>;

/// A stream without an end: its head at once, its events one by one, never shared, dropped with its
/// client.
async fn passes_as_a_stream(fields: &'static [(&'static str, &'static str)]) {
    let (cache, _) = cache();
    let hands: Hand = Arc::default();
    let give = hands.clone();
    let inner: Inner = Inner::new(move |call, _| {
        let (hand, body) = feed(None);
        hand.data(format!("event 1 of {call}"));
        give.lock().unwrap().push(Some(hand));
        let mut response = Response::new(body);
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        std::future::ready(Ok(response))
    });
    let service = behind(ResponseCacheLayer::new(&cache), &inner);
    let one = at_once("a head", ask(&service, request("GET", "/", &[]))).await;
    let two = at_once("a head", ask(&service, request("GET", "/", &[]))).await;
    assert_eq!(inner.calls(), 2, "{fields:?}: streams are not shared");
    for (name, value) in fields {
        assert_eq!(one.headers()[*name], *value);
    }
    assert_eq!(one.headers()["x-cache"], "MISS");
    let (mut one, mut two) = (one.into_body(), two.into_body());
    assert_eq!(at_once("an event", next(&mut one)).await, "event 1 of 1");
    assert_eq!(at_once("an event", next(&mut two)).await, "event 1 of 2");
    let hands = std::mem::take(&mut *hands.lock().unwrap());
    let (of_one, of_two) = (hands[0].as_ref().unwrap(), hands[1].as_ref().unwrap());
    of_one.data("event 2 of 1");
    assert_eq!(at_once("an event", next(&mut one)).await, "event 2 of 1");
    drop(one);
    assert!(of_one.is_gone(), "{fields:?}: it ends when its client goes");
    assert!(!of_two.is_gone(), "{fields:?}: the other one goes on");
    of_two.data("event 2 of 2");
    assert_eq!(at_once("an event", next(&mut two)).await, "event 2 of 2");
    assert_eq!(cache.stats().stored(), 0);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_passes_at_once_and_ends_when_its_client_goes() {
    passes_as_a_stream(&[("content-type", "text/event-stream")]).await;
    passes_as_a_stream(&[("content-type", "Text/Event-Stream; charset=utf-8")]).await;
    passes_as_a_stream(&[
        ("content-type", "text/event-stream"),
        ("cache-control", "public, max-age=60"),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_uncacheable_event_stream_passes_at_once_and_ends_when_its_client_goes() {
    passes_as_a_stream(&[
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
    ])
    .await;
    passes_as_a_stream(&[("content-type", "text/plain"), ("cache-control", "private")]).await;
}

#[tokio::test(start_paused = true)]
async fn grpc_and_multipart_replace_pass_as_streams() {
    passes_as_a_stream(&[("content-type", "application/grpc")]).await;
    passes_as_a_stream(&[("content-type", "application/grpc+proto")]).await;
    passes_as_a_stream(&[("content-type", "multipart/x-mixed-replace; boundary=frame")]).await;
}

#[tokio::test(start_paused = true)]
async fn the_head_of_a_stream_does_not_wait_for_an_event() {
    let (cache, _) = cache();
    let (_hand, body) = feed(None);
    let inner = script(&[("content-type", "text/event-stream")], vec![body]);
    let service = behind(ResponseCacheLayer::new(&cache), &inner);
    let response = at_once("the head", ask(&service, request("GET", "/", &[]))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_an_event_stream_get_one_each() {
    let (cache, _) = cache();
    let go = Arc::new(Notify::new());
    let held = go.clone();
    let inner: Inner = Inner::new(move |call, _| {
        let held = held.clone();
        async move {
            if call == 1 {
                held.notified().await;
            }
            let (hand, body) = feed(None);
            hand.data(format!("stream {call}"));
            drop(hand);
            Ok(Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)
                .unwrap())
        }
    });
    let service = behind(ResponseCacheLayer::new(&cache), &inner);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(client(&service, request("GET", "/", &[])).await);
    }
    assert_eq!(inner.calls(), 1);
    go.notify_one();
    let mut seen = Vec::new();
    for client in clients {
        let answer = at_once("a stream", client).await.unwrap();
        assert_eq!(answer.end, End::Clean);
        seen.push(answer.text().to_owned());
    }
    seen.sort();
    assert_eq!(
        seen,
        ["stream 1", "stream 2", "stream 3", "stream 4", "stream 5"]
    );
    assert_idle(&cache).await;
}

// ---- ranges and conditions on what may not be stored ----

/// A page that is never stored, and answers Range and If-None-Match itself.
fn uncacheable_page() -> Origin {
    const PAGE: &str = "0123456789";
    Origin::new(|call, request| {
        let fields: &HeaderMap = request.headers();
        let mut response = Response::builder()
            .header("cache-control", "no-store")
            .header("etag", "\"page\"")
            .header("x-call", call);
        let body = if fields
            .get(header::IF_NONE_MATCH)
            .is_some_and(|tag| tag == "\"page\"")
        {
            response = response.status(304);
            ""
        } else if fields
            .get(header::RANGE)
            .is_some_and(|range| range == "bytes=2-4")
        {
            response = response.status(206).header("content-range", "bytes 2-4/10");
            &PAGE[2..5]
        } else {
            PAGE
        };
        std::future::ready(response.body(Body::from(body)).unwrap())
    })
}

#[tokio::test(start_paused = true)]
async fn a_range_or_a_condition_on_something_uncacheable_is_answered_as_without_us() {
    #[rustfmt::skip]
    let rows: [(&str, &str, u16, &str, &str); 4] = [
        ("range", "bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("if-none-match", "\"page\"", 304, "", ""),
        ("if-none-match", "\"other\"", 200, "", "0123456789"),
        ("if-modified-since", "Thu, 01 Jan 2026 12:00:00 GMT", 200, "", "0123456789"),
    ];
    for (name, value, status, content_range, body) in rows {
        for warm in [false, true] {
            let (cache, _) = cache();
            let origin = uncacheable_page();
            let app = origin.behind(&ResponseCacheLayer::new(&cache));
            if warm {
                assert_eq!(get(&app, "/").await.text(), "0123456789");
            }
            let before = origin.calls();
            let answer = send(&app, request("GET", "/", &[(name, value)])).await;
            let row = format!("{name}: {value}, warm: {warm}");
            assert_eq!(answer.status, status, "{row}");
            assert_eq!(answer.field("content-range"), content_range, "{row}");
            assert_eq!(answer.text(), body, "{row}");
            assert_eq!(answer.field("etag"), "\"page\"", "{row}");
            assert_eq!(answer.field("cache-control"), "no-store", "{row}");
            assert_eq!(answer.field("x-call"), (before + 1).to_string(), "{row}");
            assert_eq!(origin.calls(), before + 1, "{row}");
            // And nothing of it is left for the next one.
            let plain = get(&app, "/").await;
            assert_eq!(
                (plain.status, plain.text()),
                (StatusCode::OK, "0123456789"),
                "{row}"
            );
            assert_eq!(plain.field("content-range"), "", "{row}");
            assert_eq!(cache.stats().stored(), 0, "{row}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_fills_nothing_waits_for_no_flight() {
    for (name, value) in [
        ("range", "bytes=2-4"),
        ("if-match", "\"page\""),
        ("if-unmodified-since", "Thu, 01 Jan 2026 12:00:00 GMT"),
    ] {
        let (cache, _) = cache();
        let go = Arc::new(Notify::new());
        let held = go.clone();
        let inner: Inner = Inner::new(move |call, request| {
            let held = held.clone();
            async move {
                if call == 1 {
                    held.notified().await;
                }
                let range = request.headers().get("range");
                let range = range.map_or("none", |range| range.to_str().unwrap());
                Ok(Response::new(whole(format!("call {call}, range {range}"))))
            }
        });
        let service = behind(ResponseCacheLayer::new(&cache), &inner);
        let starter = client(&service, request("GET", "/", &[])).await;
        assert_eq!(cache.stats().flights(), 1);
        let own = at_once("its own answer", async {
            read(ask(&service, request("GET", "/", &[(name, value)])).await).await
        })
        .await;
        let range = if name == "range" { value } else { "none" };
        assert_eq!(own.complete(), format!("call 2, range {range}"));
        go.notify_one();
        assert_eq!(starter.await.unwrap().complete(), "call 1, range none");
        // What it got was not stored in place of the whole.
        let hit = read(ask(&service, request("GET", "/", &[])).await).await;
        assert_eq!(hit.field("x-cache"), "HIT", "{name}");
        assert_eq!(hit.complete(), "call 1, range none");
        assert_idle(&cache).await;
    }
}

#[tokio::test]
async fn a_range_is_cut_from_a_fresh_answer() {
    let (cache, _) = cache();
    let origin = Origin::with_fields(&[("etag", "\"a\"")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let whole = get(&app, "/a").await;
    assert_eq!(whole.text(), "1 GET /a");
    for (condition, status, text) in [
        (None, 206, "1 "),
        (Some(("if-range", "\"a\"")), 206, "1 "),
        (Some(("if-range", "\"b\"")), 200, "1 GET /a"),
    ] {
        let fields: Vec<_> = condition
            .into_iter()
            .chain([("range", "bytes=0-1")])
            .collect();
        let answer = send(&app, request("GET", "/a", &fields)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, text));
        assert!(answer.is_hit());
    }
    assert_eq!(origin.calls(), 1);
}
