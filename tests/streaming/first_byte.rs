//! What streams through a miss: the first byte is never held back, and what is too long is handed
//! over.

use std::sync::Arc;

use crate::support::{
    cache,
    feed::{feed, whole},
    inner::{Inner, ask, assert_idle, at_once, behind, next, read, script},
    request, settle,
};
use axum::body::Body;
use futures_util::FutureExt;
use http::Response;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};
use tower_response_cache::{Reason, ResponseCacheLayer};

#[tokio::test(start_paused = true)]
async fn the_first_byte_arrives_while_the_handler_is_held_after_it() {
    for length in [None, Some(10)] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        let inner = script(&[], vec![body]);
        let service = behind(ResponseCacheLayer::new(&cache), &inner);

        let response = at_once("the head", ask(&service, request("GET", "/", &[]))).await;
        let mut body = response.into_body();
        settle().await;
        assert!(body.frame().now_or_never().is_none(), "nothing was sent");
        hand.data("first");
        let first = at_once("the first byte", next(&mut body)).await;
        assert_eq!(first, "first", "length {length:?}");
        settle().await;
        assert!(body.frame().now_or_never().is_none(), "the rest is held");

        hand.data(" last");
        drop(hand);
        let last = at_once("the rest", body.collect()).await.unwrap();
        assert_eq!(last.to_bytes(), " last", "length {length:?}");

        let again = read(ask(&service, request("GET", "/", &[])).await).await;
        assert_eq!(again.complete(), "first last", "length {length:?}");
        assert_eq!(again.field("x-cache"), "HIT");
        assert_eq!(inner.calls(), 1);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_wait_for_its_own_first_byte_to_be_read() {
    // The handler sends the next piece only when its client has said that it has the one before.
    let (cache, _) = cache();
    let read_it = Arc::new(Notify::new());
    let waiting = read_it.clone();
    let inner: Inner<Body> = Inner::new(move |_, _| {
        let waiting = waiting.clone();
        let pieces = futures_util::stream::unfold(0, move |piece| {
            let waiting = waiting.clone();
            async move {
                if piece > 0 {
                    waiting.notified().await;
                }
                let data = Ok::<_, std::io::Error>(format!("[{piece}]"));
                (piece < 4).then_some((data, piece + 1))
            }
        });
        std::future::ready(Ok(Response::new(Body::from_stream(pieces))))
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let response = service.oneshot(request("GET", "/", &[])).await.unwrap();
    let mut body = response.into_body();
    for piece in 0..4 {
        let frame = at_once("the next piece", body.frame()).await;
        let data = frame.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, format!("[{piece}]"));
        read_it.notify_one();
    }
    assert!(at_once("the end", body.frame()).await.is_none());
    drop(body);
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_slows_nobody() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let inner = script(&[], vec![body]);
    let service = behind(ResponseCacheLayer::new(&cache), &inner);
    let unread = ask(&service, request("GET", "/", &[])).await;
    for _ in 0..100 {
        hand.data(vec![b'x'; 1000]);
    }
    drop(hand);
    let other = at_once("the other answer", async {
        read(ask(&service, request("GET", "/", &[])).await).await
    })
    .await;
    assert_eq!(other.complete().len(), 100_000);
    assert_eq!(inner.calls(), 1);
    let late = read(unread).await;
    assert_eq!(late.complete().len(), 100_000);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_read_to_its_end_is_a_hit_when_asked_again() {
    // The entry is there before the last frame is: the second request is sent without a turn of the
    // scheduler in between.
    for length in [None, Some(9)] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        for piece in ["one", "two", "end"] {
            hand.data(piece);
        }
        drop(hand);
        let inner = script(&[], vec![body]);
        let service = behind(ResponseCacheLayer::new(&cache), &inner);
        let mut body = ask(&service, request("GET", "/", &[])).await.into_body();
        let mut seen = Vec::new();
        while seen.len() < 9 {
            seen.extend_from_slice(&next(&mut body).await);
        }
        let again = ask(&service, request("GET", "/", &[])).now_or_never();
        let again = again.expect("a hit is ready at once");
        assert_eq!(again.headers()["x-cache"], "HIT", "length {length:?}");
        assert_eq!(read(again).await.complete(), "onetwoend");
        assert_eq!(inner.calls(), 1);
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_is_a_hit_as_soon_as_its_head_was_seen() {
    let (cache, _) = cache();
    let inner = script(&[("x-whose", "empty")], vec![whole("")]);
    let service = behind(ResponseCacheLayer::new(&cache), &inner);
    let response = ask(&service, request("GET", "/", &[])).await;
    assert_eq!(response.headers()["x-cache"], "MISS");
    let again = ask(&service, request("GET", "/", &[])).now_or_never();
    let again = read(again.expect("a hit is ready at once")).await;
    assert_eq!((again.field("x-cache"), again.complete()), ("HIT", ""));
    assert_eq!(again.field("x-whose"), "empty");
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_gone_midway_costs_no_second_call() {
    for length in [None, Some(10)] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        let inner = script(&[], vec![body]);
        let service = behind(ResponseCacheLayer::new(&cache), &inner);
        let mut body = ask(&service, request("GET", "/", &[])).await.into_body();
        hand.data("first");
        assert_eq!(next(&mut body).await, "first");
        drop(body);
        settle().await;
        assert!(!hand.is_gone(), "the fill goes on, length {length:?}");
        hand.data(" last");
        drop(hand);
        settle().await;
        let again = read(ask(&service, request("GET", "/", &[])).await).await;
        assert_eq!(again.complete(), "first last", "length {length:?}");
        assert_eq!(again.field("x-cache"), "HIT");
        assert_eq!(inner.calls(), 1);
        assert_idle(&cache).await;
    }
}

// ---- what is over the limit ----

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_is_handed_over_whole_and_with_backpressure() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let inner = script(&[("x-whose", "big")], vec![body]);
    let service = behind(ResponseCacheLayer::new(&cache).max_body_size(100), &inner);
    let response = ask(&service, request("GET", "/", &[])).await;
    assert_eq!(response.headers()["x-whose"], "big");
    let mut sent = Vec::new();
    for piece in 0..100 {
        let data = format!("{piece:10}");
        sent.extend_from_slice(data.as_bytes());
        hand.data(data);
    }
    settle().await;
    let taken = hand.taken();
    assert!(
        taken <= 12,
        "it reads only as far as it may keep: {taken} frames"
    );
    assert_eq!(cache.stats().flights(), 0);
    let buffered = cache.stats().buffered_bytes();
    assert!(buffered < 4096, "only the prefix, of 11 frames: {buffered}");

    let mut body = response.into_body();
    let mut seen = Vec::new();
    while seen.len() < 200 {
        seen.extend_from_slice(&at_once("a piece", next(&mut body)).await);
    }
    settle().await;
    assert!(
        hand.taken() <= 21,
        "no further than the client reads: {}",
        hand.taken()
    );
    drop(hand);
    let rest = at_once("the rest", body.collect())
        .await
        .unwrap()
        .to_bytes();
    seen.extend_from_slice(&rest);
    assert_eq!(seen, sent);
    assert_eq!(cache.stats().stored(), 0);
    assert_eq!(cache.stats().refusals(Reason::BodyTooLarge), 1);

    let again = read(ask(&service, request("GET", "/", &[])).await).await;
    assert_eq!(again.complete(), "own answer 2");
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_live_rest_over_the_limit_still_streams_and_is_dropped_with_its_client() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let inner = script(&[], vec![body]);
    let service = behind(ResponseCacheLayer::new(&cache).max_body_size(4), &inner);
    let mut body = ask(&service, request("GET", "/", &[])).await.into_body();
    for piece in ["one", "two", "three", "four"] {
        hand.data(piece);
        assert_eq!(at_once("a piece", next(&mut body)).await, piece);
    }
    assert!(!hand.is_gone());
    drop(body);
    settle().await;
    assert!(hand.is_gone(), "nobody reads it any more");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_declared_length_over_the_limit_passes_untouched_at_once() {
    let (cache, _) = cache();
    let (hand, body) = feed(11);
    let inner = script(&[("content-length", "11")], vec![body]);
    let service = behind(ResponseCacheLayer::new(&cache).max_body_size(10), &inner);
    let response = at_once("the head", ask(&service, request("GET", "/", &[]))).await;
    assert_eq!(response.headers()["content-length"], "11");
    assert_eq!(response.body().size_hint().exact(), Some(11));
    hand.data("hello ");
    settle().await;
    assert_eq!(hand.taken(), 0, "nobody else reads it");
    let mut body = response.into_body();
    assert_eq!(at_once("a piece", next(&mut body)).await, "hello ");
    hand.data("world");
    drop(hand);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "world");
    assert_eq!(cache.stats().refusals(Reason::BodyTooLarge), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_itself_is_stored_and_one_byte_more_is_not() {
    for (length, size, stored) in [
        (None, 10, true),
        (None, 11, false),
        (Some(10), 10, true),
        (Some(11), 11, false),
    ] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        hand.data("0123");
        hand.data(vec![b'x'; size - 4]);
        drop(hand);
        let inner = script(&[], vec![body]);
        let service = behind(ResponseCacheLayer::new(&cache).max_body_size(10), &inner);
        let first = read(ask(&service, request("GET", "/", &[])).await).await;
        assert_eq!(first.complete().len(), size);
        assert!(first.text().starts_with("0123x"));
        settle().await;
        assert_eq!(cache.stats().stored() == 1, stored, "{size} of {length:?}");
        let again = read(ask(&service, request("GET", "/", &[])).await).await;
        assert_eq!(
            again.field("x-cache") == "HIT",
            stored,
            "{size} of {length:?}"
        );
        assert_eq!(again.text() == first.text(), stored);
    }
}
