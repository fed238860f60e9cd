//! Where no more may wait, or not any longer: what is stale, else a call of one's own, else 503.

use std::{sync::Arc, time::Duration};

use crate::support::{
    cache,
    feed::{feed, whole},
    inner::{Inner, Read, assert_idle, at_once, client, held, page, script},
    request, settle,
};
use http::Response;
use tokio::sync::Semaphore;
use tower::Layer;
use tower_response_cache::{Overflow, ResponseCache, ResponseCacheLayer};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Overflow = Overflow::Unavailable {
    retry_after: Duration::from_millis(1_200),
};

fn assert_turned_away(read: &Read, detail: &str) {
    assert_eq!(read.head.status, 503);
    assert_eq!(read.field("retry-after"), "2", "not too early");
    assert_eq!((read.complete(), read.field("x-cache")), ("", "MISS"));
    let said = format!("tower-response-cache; detail={detail}");
    assert_eq!(read.field("cache-status"), said);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_and_those_beyond_go_alone_or_are_turned_away() {
    for overflow in [Overflow::default(), SOON] {
        let (cache, _) = cache();
        let layer = ResponseCacheLayer::new(&cache).max_waiting(3);
        let (permits, inner, service) = held(layer.overflow(overflow));
        let starter = client(&service, page()).await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(client(&service, page()).await);
        }
        assert_eq!(inner.calls(), 1);
        let beyond = client(&service, page()).await;
        match overflow {
            Overflow::Alone => {
                assert_eq!((inner.calls(), cache.stats().turned_away()), (2, 0));
                permits.add_permits(2);
                let read = at_once("its own answer", beyond).await.unwrap();
                let said = read.field("cache-status");
                assert!(said.contains("detail=too-many-waiting"), "{said}");
            }
            _ => {
                let read = at_once("an answer", beyond).await.unwrap();
                assert_turned_away(&read, "too-many-waiting");
                let stats = cache.stats();
                let counted = (inner.calls(), stats.turned_away(), stats.misses());
                // Those who wait are counted when they have their answer.
                assert_eq!(counted, (1, 1, 2));
                permits.add_permits(1);
            }
        }
        waiting.push(starter);
        for client in waiting {
            let read = at_once("an answer", client).await.unwrap();
            assert_eq!(read.head.status, 200);
        }
        let hit = at_once("a hit", client(&service, page()).await).await;
        assert_eq!(hit.unwrap().field("x-cache"), "HIT");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_long_enough_is_turned_away_where_the_layer_says_so() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache).overflow(SOON));
    let starter = client(&service, page()).await;
    let no_cache = [("cache-control", "no-cache")];
    let waiting = [
        client(&service, page()).await,
        client(&service, request("HEAD", "/page", &[])).await,
    ];
    tokio::time::advance(5 * SECOND).await;
    settle().await;
    for client in waiting {
        let read = at_once("an answer", client).await.unwrap();
        assert_turned_away(&read, "wait-timeout");
    }
    // One who wants a newer answer waits for another flight.
    let forced = client(&service, request("GET", "/page", &no_cache)).await;
    let behind = client(&service, request("GET", "/page", &no_cache)).await;
    assert_eq!(inner.calls(), 2);
    tokio::time::advance(5 * SECOND).await;
    settle().await;
    let behind = at_once("an answer", behind).await.unwrap();
    assert_turned_away(&behind, "wait-timeout");
    assert_eq!((inner.calls(), cache.stats().turned_away()), (2, 3));
    permits.add_permits(2);
    for client in [starter, forced] {
        let read = at_once("an answer", client).await.unwrap();
        assert_eq!(read.head.status, 200, "a starter is never turned away");
    }
    assert_idle(&cache).await;
}

/// Answers once, for 10 seconds and 60 more where it fails; then holds each call.
fn stale(layer: ResponseCacheLayer) -> (Arc<Semaphore>, Inner, ResponseCache<Inner>) {
    let permits = Arc::new(Semaphore::new(1));
    let held = permits.clone();
    let inner = Inner::new(move |call, _| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let response =
                Response::builder().header("cache-control", "max-age=10, stale-if-error=60");
            Ok(response.body(whole(format!("call {call}"))).unwrap())
        }
    });
    (permits, inner.clone(), layer.layer(inner))
}

#[tokio::test(start_paused = true)]
async fn rather_than_being_turned_away_one_gets_what_is_stale() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache)
        .max_waiting(1)
        .overflow(SOON);
    let (permits, inner, service) = stale(layer);
    at_once("an answer", client(&service, page()).await)
        .await
        .unwrap();
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    let waiting = client(&service, page()).await;
    let beyond = client(&service, page()).await;
    let beyond = at_once("an answer", beyond).await.unwrap();
    assert_eq!(
        (beyond.field("x-cache"), beyond.complete()),
        ("STALE", "call 1")
    );
    assert_eq!((inner.calls(), cache.stats().turned_away()), (2, 0));
    permits.add_permits(1);
    for client in [starter, waiting] {
        let read = at_once("an answer", client).await.unwrap();
        assert_eq!(read.complete(), "call 2");
    }
    // Behind the window there is nothing but 503.
    clock.advance(80 * SECOND);
    let _starter = client(&service, page()).await;
    let _waiting = client(&service, page()).await;
    let beyond = client(&service, page()).await;
    let beyond = at_once("an answer", beyond).await.unwrap();
    assert_turned_away(&beyond, "too-many-waiting");
}

#[tokio::test(start_paused = true)]
async fn with_room_for_nobody_each_goes_alone() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache).max_waiting(0));
    let mut clients = Vec::new();
    for calls in 1..=5 {
        clients.push(client(&service, page()).await);
        assert_eq!(inner.calls(), calls);
    }
    permits.add_permits(5);
    for client in clients {
        at_once("an answer", client).await.unwrap();
    }
    assert_idle(&cache).await;
}

/// A body of unknown length that goes on is no service that is overloaded.
#[tokio::test(start_paused = true)]
async fn nobody_is_turned_away_for_a_body_without_a_length() {
    let (cache, _) = cache();
    let (feed, body) = feed(None);
    let inner = script(&[], vec![body]);
    let service = ResponseCacheLayer::new(&cache)
        .overflow(SOON)
        .layer(inner.clone());
    let _starter = client(&service, page()).await;
    let waiting = client(&service, page()).await;
    feed.data("a part");
    tokio::time::advance(Duration::from_millis(260)).await;
    settle().await;
    let read = at_once("an answer", waiting).await.unwrap();
    assert_eq!(read.complete(), "own answer 2");
}
