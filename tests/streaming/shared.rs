//! Several who read one body while it arrives, and what becomes of them when it breaks.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    self, cache,
    feed::{Broken, Feed, FeedBody, feed, whole},
    inner::{End, Inner, ask, assert_idle, at_once, client, next, read, soon},
    request, settle,
};
use axum::body::Body;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_response_cache::{Cache, Reason, ResponseBody, ResponseCache, ResponseCacheLayer};

type Service = ResponseCache<Inner<FeedBody>>;

/// The first call gets this body, later ones `own answer N`; no length but the one of the first
/// body is declared.
fn held(
    cache: &Cache,
    fields: &'static [(&'static str, &'static str)],
    first: FeedBody,
) -> (Inner, Service) {
    held_by(ResponseCacheLayer::new(cache), fields, first)
}

fn held_by(
    layer: ResponseCacheLayer,
    fields: &'static [(&'static str, &'static str)],
    first: FeedBody,
) -> (Inner, Service) {
    let first = Mutex::new(Some(first));
    let inner = Inner::new(move |call, _| {
        let response = match first.lock().unwrap().take() {
            Some(body) => {
                let mut response = Response::new(body);
                for (name, value) in fields {
                    response.headers_mut().append(*name, value.parse().unwrap());
                }
                response
            }
            None => Response::new(whole(format!("own answer {call}"))),
        };
        std::future::ready(Ok(response))
    });
    let service = layer.layer(inner.clone());
    (inner, service)
}

/// The starter's body after its first piece.
async fn started(service: &Service, hand: &Feed, first: &'static str) -> ResponseBody<FeedBody> {
    let mut body = ask(service, request("GET", "/", &[])).await.into_body();
    hand.data(first);
    assert_eq!(next(&mut body).await, first);
    body
}

// ---- followers ----

#[tokio::test(start_paused = true)]
async fn followers_of_a_declared_length_stream_along() {
    let (cache, _) = cache();
    let (hand, body) = feed(15);
    let (inner, service) = held(&cache, &[("content-length", "15")], body);
    let mut starter = started(&service, &hand, "first").await;

    let early = at_once("a head", ask(&service, request("GET", "/", &[]))).await;
    assert_eq!(early.headers()["content-length"], "15");
    assert_eq!(early.headers()["x-cache"], "MISS");
    let status = early.headers()["cache-status"].to_str().unwrap();
    assert!(status.contains("collapsed"), "{status}");
    let mut early = early.into_body();
    assert_eq!(at_once("what was read", next(&mut early)).await, "first");

    hand.data(" then");
    assert_eq!(at_once("a piece", next(&mut early)).await, " then");
    assert_eq!(at_once("a piece", next(&mut starter)).await, " then");

    let late = at_once("a head", ask(&service, request("GET", "/", &[]))).await;
    let mut late = late.into_body();
    let mut seen = Vec::new();
    while seen.len() < 10 {
        seen.extend_from_slice(&at_once("a piece", next(&mut late)).await);
    }
    assert_eq!(seen, b"first then");

    hand.data(" last");
    drop(hand);
    for body in [starter, early, late] {
        let rest = at_once("the end", body.collect()).await.unwrap();
        assert_eq!(rest.to_bytes(), " last");
    }
    assert_eq!(inner.calls(), 1);
    assert_eq!(cache.stats().collapsed(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_goes_on_when_the_starter_leaves_midway() {
    let (cache, _) = cache();
    let (hand, body) = feed(10);
    let (inner, service) = held(&cache, &[("content-length", "10")], body);
    let starter = started(&service, &hand, "first").await;
    let follower = client(&service, request("GET", "/", &[])).await;
    drop(starter);
    settle().await;
    hand.data(" last");
    drop(hand);
    let follower = at_once("the end", follower).await.unwrap();
    assert_eq!(follower.complete(), "first last");
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn followers_of_an_unknown_length_go_on_alone_after_250_ms() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let (inner, service) = held(&cache, &[], body);
    let mut starter = started(&service, &hand, "first").await;
    let begin = Instant::now();
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(client(&service, request("GET", "/", &[])).await);
    }
    advance(Duration::from_millis(249)).await;
    settle().await;
    assert_eq!(inner.calls(), 1, "after 249 ms they wait");
    assert!(followers.iter().all(|follower| !follower.is_finished()));

    advance(Duration::from_millis(2)).await;
    let mut seen = Vec::new();
    for follower in followers {
        let follower = soon("an answer of its own", follower).await.unwrap();
        seen.push(follower.complete().to_owned());
    }
    assert_eq!(begin.elapsed(), Duration::from_millis(251));
    seen.sort();
    assert_eq!(seen, ["own answer 2", "own answer 3", "own answer 4"]);
    assert_eq!(inner.calls(), 4);

    // The fill goes on meanwhile.
    hand.data(" last");
    drop(hand);
    assert_eq!(at_once("a piece", next(&mut starter)).await, " last");
    assert!(starter.frame().await.is_none());
    let hit = read(ask(&service, request("GET", "/", &[])).await).await;
    assert_eq!(hit.field("x-cache"), "HIT");
    assert_eq!(inner.calls(), 4);
    drop(starter);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn followers_of_an_unknown_length_share_what_ends_in_time() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let (inner, service) = held(&cache, &[], body);
    let starter = started(&service, &hand, "first").await;
    let one = client(&service, request("GET", "/", &[])).await;
    let two = client(&service, request("GET", "/", &[])).await;
    advance(Duration::from_millis(200)).await;
    settle().await;
    hand.data(" last");
    drop(hand);
    for follower in [one, two] {
        let follower = at_once("the end", follower).await.unwrap();
        assert_eq!(follower.complete(), "first last");
    }
    assert_eq!(inner.calls(), 1);
    drop(starter);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn followers_of_an_unknown_length_go_on_alone_as_soon_as_it_is_over_the_limit() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let layer = ResponseCacheLayer::new(&cache).max_body_size(20);
    let (inner, service) = held_by(layer, &[], body);
    let starter = started(&service, &hand, "first").await;
    let one = client(&service, request("GET", "/", &[])).await;
    let two = client(&service, request("GET", "/", &[])).await;
    hand.data(vec![b'x'; 30]);
    let one = at_once("an answer of its own", one).await.unwrap();
    let two = at_once("an answer of its own", two).await.unwrap();
    let mut seen = [one.complete(), two.complete()];
    seen.sort_unstable();
    assert_eq!(seen, ["own answer 2", "own answer 3"]);
    drop(hand);
    let rest = at_once("the rest", starter.collect()).await.unwrap();
    assert_eq!(rest.to_bytes(), vec![b'x'; 30]);
    assert_eq!(inner.calls(), 3);
    assert_idle(&cache).await;
}

// ---- bodies that break ----

#[tokio::test(start_paused = true)]
async fn a_broken_body_is_its_own_error_for_the_starter_and_incomplete_for_the_others() {
    let (cache, _) = cache();
    let (hand, body) = feed(100);
    let (inner, service) = held(&cache, &[("content-length", "100")], body);
    let starter = client(&service, request("GET", "/", &[])).await;
    hand.data("half");
    let along = client(&service, request("GET", "/", &[])).await;
    let another = client(&service, request("GET", "/", &[])).await;
    hand.fail("the disk is gone");
    let starter = at_once("the starter's end", starter).await.unwrap();
    assert_eq!(starter.text(), "half");
    assert_eq!(starter.end, End::Inner(Broken("the disk is gone")));
    for follower in [along, another] {
        let follower = at_once("a follower's end", follower).await.unwrap();
        assert_eq!(follower.text(), "half");
        assert_eq!(follower.end, End::Incomplete);
    }
    assert_eq!(inner.calls(), 1);
    assert_eq!(cache.stats().stored(), 0);
    assert_eq!(cache.stats().refusals(Reason::BodyError), 1);

    let next = read(ask(&service, request("GET", "/", &[])).await).await;
    assert_eq!(next.complete(), "own answer 2");
    assert_eq!(next.field("x-cache"), "MISS");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_the_end_of_a_body_that_breaks_get_a_whole_one() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let (inner, service) = held(&cache, &[], body);
    let starter = client(&service, request("GET", "/", &[])).await;
    hand.data("half");
    let one = client(&service, request("GET", "/", &[])).await;
    let two = client(&service, request("GET", "/", &[])).await;
    hand.fail("the disk is gone");
    let starter = at_once("the starter's end", starter).await.unwrap();
    assert_eq!(starter.text(), "half");
    assert_eq!(starter.end, End::Inner(Broken("the disk is gone")));
    for follower in [one, two] {
        let follower = at_once("an answer", follower).await.unwrap();
        assert!(follower.complete().starts_with("own answer "));
    }
    assert!((2..=3).contains(&inner.calls()), "{}", inner.calls());
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_while_its_starter_is_gone_stores_nothing() {
    for length in [None, Some(100)] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        let (inner, service) = held(&cache, &[], body);
        let starter = started(&service, &hand, "half").await;
        drop(starter);
        settle().await;
        hand.fail("the disk is gone");
        settle().await;
        assert_eq!(cache.stats().stored(), 0);
        let next = read(ask(&service, request("GET", "/", &[])).await).await;
        assert_eq!(next.complete(), "own answer 2", "length {length:?}");
        assert_eq!(inner.calls(), 2);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_over_the_limit_is_an_error_too() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let layer = ResponseCacheLayer::new(&cache).max_body_size(4);
    let (_, service) = held_by(layer, &[], body);
    let starter = client(&service, request("GET", "/", &[])).await;
    hand.data("longer than four");
    settle().await;
    hand.data(", and then");
    hand.fail("the disk is gone");
    let starter = at_once("its end", starter).await.unwrap();
    assert_eq!(starter.text(), "longer than four, and then");
    assert_eq!(starter.end, End::Inner(Broken("the disk is gone")));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_shorter_than_its_content_length_is_never_stored_nor_ended_cleanly() {
    // The length stands in the field, in the body's own hint, or in both.
    const FIELD: &[(&str, &str)] = &[("content-length", "10")];
    for (fields, length) in [(FIELD, None), (FIELD, Some(10)), (&[] as &[_], Some(10))] {
        let row = format!("{fields:?}, {length:?}");
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        let (_, service) = held(&cache, fields, body);
        let starter = client(&service, request("GET", "/", &[])).await;
        hand.data("half");
        let follower = client(&service, request("GET", "/", &[])).await;
        drop(hand);
        let starter = at_once("the starter's end", starter).await.unwrap();
        assert_eq!(starter.text(), "half", "{row}");
        assert_eq!(starter.end, End::Incomplete, "{row}");
        let follower = at_once("the follower's end", follower).await.unwrap();
        match follower.end {
            End::Clean => assert_eq!(follower.text(), "own answer 2", "{row}"),
            _ => assert_eq!(follower.text(), "half", "{row}"),
        }
        assert_eq!(cache.stats().refusals(Reason::BodyLength), 1, "{row}");
        let next = read(ask(&service, request("GET", "/", &[])).await).await;
        assert!(next.complete().starts_with("own answer "), "{row}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_longer_than_its_content_length_is_never_stored() {
    const FIELD: &[(&str, &str)] = &[("content-length", "4")];
    for length in [None, Some(4)] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        let (_, service) = held(&cache, FIELD, body);
        let starter = client(&service, request("GET", "/", &[])).await;
        hand.data("fo");
        let follower = client(&service, request("GET", "/", &[])).await;
        hand.data("ur and more");
        drop(hand);
        let starter = at_once("the starter's end", starter).await.unwrap();
        // As it came, or an error: never a shorter one that looks whole.
        if starter.end == End::Clean {
            assert_eq!(starter.text(), "four and more", "{length:?}");
        }
        let follower = at_once("the follower's end", follower).await.unwrap();
        if follower.end == End::Clean {
            assert_eq!(follower.text(), "own answer 2", "{length:?}");
        }
        assert_eq!(cache.stats().refusals(Reason::BodyLength), 1, "{length:?}");
        let next = read(ask(&service, request("GET", "/", &[])).await).await;
        assert!(next.complete().starts_with("own answer "), "{length:?}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_reach_the_starter_and_nothing_is_stored() {
    for length in [None, Some(4)] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        let (inner, service) = held(&cache, &[], body);
        let response = ask(&service, request("GET", "/", &[])).await;
        hand.data("body");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "of the body".parse().unwrap());
        hand.trailers(trailers);
        drop(hand);
        let read_all = at_once("all of it", response.into_body().collect()).await;
        let collected = read_all.unwrap();
        assert_eq!(
            collected.trailers().expect("trailers")["x-checksum"],
            "of the body"
        );
        assert_eq!(collected.to_bytes(), "body");
        assert_eq!(cache.stats().stored(), 0, "{length:?}");
        assert_eq!(cache.stats().refusals(Reason::Trailers), 1);
        let next = read(ask(&service, request("GET", "/", &[])).await).await;
        assert_eq!(next.complete(), "own answer 2");
        assert_eq!(inner.calls(), 2);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_body_with_trailers_get_one_each() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let (inner, service) = held(&cache, &[], body);
    let starter = client(&service, request("GET", "/", &[])).await;
    let follower = client(&service, request("GET", "/", &[])).await;
    hand.data("body");
    hand.trailers(HeaderMap::new());
    drop(hand);
    assert_eq!(at_once("an end", starter).await.unwrap().complete(), "body");
    let follower = at_once("an end", follower).await.unwrap();
    assert_eq!(follower.complete(), "own answer 2");
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_compressing_layer_a_broken_body_is_no_valid_short_answer() {
    // A clean end would become a valid gzip stream of half the page.
    for breaks in [true, false] {
        let (cache, _) = cache();
        let (hand, body) = feed(1000);
        let (inner, cached) = held(&cache, &[("content-type", "text/plain")], body);
        let app = ServiceBuilder::new()
            .layer(CompressionLayer::new())
            .service(cached.clone());
        let ask_for_gzip = || {
            let app = app.clone();
            let request = request("GET", "/", &[("accept-encoding", "gzip")]);
            tokio::spawn(async move {
                let response = app.oneshot(request).await.unwrap();
                assert_eq!(response.headers()["content-encoding"], "gzip");
                Body::new(response.into_body()).collect().await
            })
        };
        let starter = ask_for_gzip();
        settle().await;
        hand.data(vec![b'x'; 500]);
        let follower = ask_for_gzip();
        settle().await;
        assert_eq!(inner.calls(), 1);
        if breaks {
            hand.fail("the disk is gone");
        } else {
            hand.data(vec![b'x'; 500]);
        }
        drop(hand);
        let starter = at_once("the starter's end", starter).await.unwrap();
        let follower = at_once("the follower's end", follower).await.unwrap();
        assert_eq!(starter.is_err(), breaks, "the starter");
        assert_eq!(follower.is_err(), breaks, "the follower");
        assert_eq!(cache.stats().stored() == 1, !breaks);
        assert_idle(&cache).await;
    }
}

// ---- room ----

#[tokio::test(start_paused = true)]
async fn all_flights_together_buffer_a_quarter_of_the_memory_and_the_rest_streams_to_its_starter() {
    let cache = support::builder().memory(1 << 20).build().unwrap();
    let hands = Arc::new(Mutex::new(Vec::new()));
    let give = hands.clone();
    let inner: Inner = Inner::new(move |_, _| {
        let (hand, body) = feed(None);
        give.lock().unwrap().push(hand);
        std::future::ready(Ok(Response::new(body)))
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let mut bodies = Vec::new();
    for page in 0..8 {
        let response = ask(&service, request("GET", &format!("/{page}"), &[])).await;
        bodies.push(response.into_body());
    }
    let hands = std::mem::take(&mut *hands.lock().unwrap());
    for _ in 0..10 {
        for hand in &hands {
            hand.data(vec![b'x'; 8 << 10]);
        }
        settle().await;
        let buffered = cache.stats().buffered_bytes();
        assert!(buffered <= 256 << 10, "{buffered} bytes are buffered");
    }
    drop(hands);
    for body in bodies {
        let body = at_once("the end", body.collect()).await.unwrap();
        assert_eq!(body.to_bytes().len(), 80 << 10);
    }
    let stats = cache.stats();
    assert!(stats.refusals(Reason::NoRoom) >= 1, "{stats}");
    assert_eq!(
        stats.refusals(Reason::NoRoom) + stats.stored(),
        8,
        "{stats}"
    );
    assert_idle(&cache).await;
}
