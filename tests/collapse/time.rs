//! How long anybody waits for somebody else's call, and how long a call may take to be shared.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    cache,
    feed::whole,
    inner::{Inner, Read, ask, assert_idle, at_once, client, held, page, read, soon},
    settle,
};
use http::Response;
use tokio::{
    task::JoinHandle,
    time::{Instant, advance},
};
use tower::Layer;
use tower_response_cache::{Cache, ResponseCacheLayer};

#[tokio::test(start_paused = true)]
async fn waiting_is_bounded_at_five_seconds_then_each_goes_alone() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let starter = client(&service, page()).await;
    let waiting = [
        client(&service, page()).await,
        client(&service, page()).await,
    ];
    advance(Duration::from_millis(4_999)).await;
    settle().await;
    assert_eq!(inner.calls(), 1, "they wait");
    advance(Duration::from_millis(2)).await;
    settle().await;
    assert_eq!(inner.calls(), 3, "each its own call");
    permits.add_permits(3);
    let mut seen = Vec::new();
    for client in waiting {
        let answer = at_once("an answer", client).await.unwrap();
        assert!(
            answer.field("cache-status").contains("wait-timeout"),
            "{answer:?}"
        );
        seen.push(answer.complete().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["call 2: GET /page", "call 3: GET /page"]);
    let starter = at_once("an answer", starter).await.unwrap();
    assert_eq!(starter.complete(), "call 1: GET /page");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn each_waits_from_when_it_came() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache).wait_timeout(Duration::from_secs(2));
    let (permits, inner, service) = held(layer);
    let starter = client(&service, page()).await;
    let early = client(&service, page()).await;
    advance(Duration::from_millis(1500)).await;
    let late = client(&service, page()).await;
    advance(Duration::from_millis(600)).await;
    settle().await;
    assert_eq!(
        inner.calls(),
        2,
        "only the early one has waited for two seconds"
    );
    permits.add_permits(2);
    let early = at_once("an answer", early).await.unwrap();
    assert_eq!(early.complete(), "call 2: GET /page");
    for client in [starter, late] {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), "call 1: GET /page");
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_fill_over_its_time_runs_on_for_its_client_alone_and_is_not_stored() {
    let (cache, _) = cache();
    // With less time for the fill than for waiting.
    let layer = ResponseCacheLayer::new(&cache).wait_timeout(Duration::from_secs(3600));
    let (permits, inner, service) = held(layer);
    let starter = client(&service, page()).await;
    let waiting = [
        client(&service, page()).await,
        client(&service, page()).await,
    ];
    advance(Duration::from_millis(29_999)).await;
    settle().await;
    assert_eq!((inner.calls(), cache.stats().flights()), (1, 1));
    advance(Duration::from_millis(2)).await;
    settle().await;
    assert_eq!(inner.calls(), 2, "one of those waiting leads");
    permits.add_permits(1);
    let starter = at_once("its own answer", starter).await.unwrap();
    assert_eq!(starter.complete(), "call 1: GET /page");
    assert_eq!(cache.stats().stored(), 0);
    permits.add_permits(1);
    for client in waiting {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), "call 2: GET /page");
    }
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(hit.complete(), "call 2: GET /page");
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

/// A fill with 7 seconds of time that never answers, and what tells whether it was dropped.
async fn endless(cache: &Cache) -> (JoinHandle<Read>, tokio::sync::oneshot::Sender<()>) {
    let hand = Arc::new(Mutex::new(None));
    let give = hand.clone();
    let inner: Inner = Inner::new(move |_, _| {
        let (hold, held) = tokio::sync::oneshot::channel::<()>();
        *give.lock().unwrap() = Some(hold);
        async move {
            let _ = held.await;
            Ok(Response::new(whole("late")))
        }
    });
    let service = ResponseCacheLayer::new(cache)
        .fill_timeout(Duration::from_secs(7))
        .layer(inner);
    let starter = client(&service, page()).await;
    let hold = hand.lock().unwrap().take().expect("it was called");
    (starter, hold)
}

#[tokio::test(start_paused = true)]
async fn a_fill_over_its_time_whose_client_has_left_is_dropped() {
    let (cache, _) = cache();
    let (starter, hold) = endless(&cache).await;
    starter.abort();
    settle().await;
    advance(Duration::from_millis(6_999)).await;
    settle().await;
    assert!(!hold.is_closed(), "it has time left");
    advance(Duration::from_millis(2)).await;
    settle().await;
    assert!(hold.is_closed(), "dropped");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_fill_counts_from_its_start_also_when_its_client_leaves_later() {
    let (cache, _) = cache();
    let (starter, hold) = endless(&cache).await;
    advance(Duration::from_secs(5)).await;
    starter.abort();
    settle().await;
    assert!(!hold.is_closed(), "it has time left");
    advance(Duration::from_millis(2_001)).await;
    settle().await;
    assert!(hold.is_closed(), "dropped after seven seconds");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_fill_over_its_time_runs_on_with_its_client_and_is_dropped_when_that_leaves() {
    let (cache, _) = cache();
    let (starter, hold) = endless(&cache).await;
    advance(Duration::from_millis(7_001)).await;
    settle().await;
    assert!(!hold.is_closed(), "as without us");
    assert_idle(&cache).await;
    starter.abort();
    settle().await;
    assert!(hold.is_closed(), "as without us");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_answers_keeps_nobody_waiting_for_ever() {
    let (cache, _) = cache();
    let inner: Inner = Inner::new(|call, _| async move {
        if call == 1 {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(whole(format!("call {call}"))))
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let starter = client(&service, page()).await;
    let begin = Instant::now();
    let waiting = client(&service, page()).await;
    let answer = soon("an answer", waiting).await.unwrap();
    assert_eq!(answer.complete(), "call 2");
    assert!(begin.elapsed() >= Duration::from_secs(5));
    assert!(begin.elapsed() < Duration::from_millis(5_100));
    starter.abort();
    settle().await;
    advance(Duration::from_secs(31)).await;
    assert_idle(&cache).await;
}
