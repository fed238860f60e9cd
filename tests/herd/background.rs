//! Point 6: what runs in the background is bounded in number and time, and ended by `close`.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use futures_util::future::poll_immediate;
use http::{Request, Response};
use tokio::{
    sync::Semaphore,
    time::{Instant, advance},
};
use tower::{Layer, Service as _};
use tower_response_cache::{Cache, ResponseCacheLayer};

use super::crowd::{Alive, Service, answers, crowd_of, visit};
use crate::support::{
    cache,
    feed::{FeedBody, feed, whole},
    inner::{Inner, ask, assert_idle, at_once, read, soon},
    request, settle,
};

/// Calls that wait for permits, and how many of them are there.
fn held(cache: &Cache) -> (Arc<Semaphore>, Alive, Inner, Service) {
    let (permits, running) = (Arc::new(Semaphore::new(0)), Alive::default());
    let (held, alive) = (permits.clone(), running.clone());
    let inner = Inner::new(move |call, _: Request<Body>| {
        let (held, one) = (held.clone(), alive.one());
        async move {
            let _one = one;
            held.acquire().await.unwrap().forget();
            Ok(Response::new(whole(format!("call {call}"))))
        }
    });
    let service = ResponseCacheLayer::new(cache).layer(inner.clone());
    (permits, running, inner, service)
}

fn numbered(n: usize) -> Request<Body> {
    request("GET", &format!("/{n}"), &[])
}

/// Begins so many requests, and leaves them.
async fn abandon(service: &Service, count: usize) {
    for n in 0..count {
        let mut asking = Box::pin(service.clone().call(numbered(n)));
        assert!(poll_immediate(asking.as_mut()).await.is_none());
    }
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn of_too_many_fills_that_were_left_the_rest_is_dropped_and_nothing_hangs() {
    const MANY: usize = 20_000;
    let (cache, _) = cache();
    let (permits, running, inner, service) = held(&cache);
    abandon(&service, MANY).await;
    let bound = running.count();
    assert!((1..=4_096).contains(&bound), "{bound} go on");
    assert_eq!(cache.stats().flights(), bound as u64, "{}", cache.stats());
    // What was dropped is asked for again; what goes on is joined.
    let calls = inner.calls();
    let last = visit(&service, numbered(MANY - 1));
    let first = visit(&service, numbered(0));
    settle().await;
    assert_eq!(inner.calls(), calls + 1);
    permits.add_permits(MANY);
    for answer in answers(vec![last, first]).await {
        assert!(answer.complete().starts_with("call "));
    }
    settle().await;
    assert_eq!(running.count(), 0);
    assert_eq!(cache.stats().stored(), bound as u64 + 1);
    assert_idle(&cache).await;
    // There is room again.
    let fresh = |n| request("GET", &format!("/again/{n}"), &[]);
    let visits = crowd_of(&service, 10, fresh).await;
    visits.iter().for_each(|visit| visit.abort());
    settle().await;
    assert_eq!(running.count(), 0, "permits were there");
    assert_eq!(cache.stats().stored(), bound as u64 + 11);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_fill_that_is_dropped_for_lack_of_room_lead_again() {
    let (cache, _) = cache();
    let (permits, running, inner, service) = held(&cache);
    abandon(&service, 20_000).await;
    let full = running.count();
    let page = || request("GET", "/wanted", &[]);
    let starter = visit(&service, page());
    let waiting = crowd_of(&service, 20, |_| page()).await;
    assert_eq!(running.count(), full + 1);
    let calls = inner.calls();
    starter.abort();
    settle().await;
    assert_eq!(inner.calls(), calls + 1, "one of them leads");
    permits.add_permits(20_000);
    let expected = format!("call {}", calls + 1);
    for answer in answers(waiting).await {
        assert_eq!(answer.complete(), expected);
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn close_ends_what_runs_in_the_background_within_its_bound() {
    let (cache, _) = cache();
    let (permits, running, inner, service) = held(&cache);
    abandon(&service, 100).await;
    assert_eq!(running.count(), 100);
    let begin = Instant::now();
    soon("close ends", cache.close()).await;
    let took = begin.elapsed();
    assert!(took <= Duration::from_millis(5_100), "{took:?}");
    settle().await;
    assert_eq!(running.count(), 0, "a handler is left");
    assert_idle(&cache).await;
    // Nothing of the kind is begun any more; the cache goes on from memory.
    abandon(&service, 1).await;
    assert_eq!(running.count(), 0);
    permits.add_permits(1);
    let answer = read(ask(&service, numbered(0)).await).await;
    assert_eq!(answer.complete(), format!("call {}", inner.calls()));
    let hit = read(ask(&service, numbered(0)).await).await;
    assert_eq!(hit.field("x-cache"), "HIT");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_what_ends_in_time_and_then_ends_itself() {
    let (cache, _) = cache();
    let (permits, running, _, service) = held(&cache);
    abandon(&service, 10).await;
    let closing = tokio::spawn({
        let cache = cache.clone();
        async move { cache.close().await }
    });
    settle().await;
    assert!(!closing.is_finished());
    advance(Duration::from_secs(2)).await;
    permits.add_permits(10);
    at_once("close ends", closing).await.unwrap();
    assert_eq!((running.count(), cache.stats().stored()), (0, 10));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn close_ends_bodies_that_nobody_reads_and_leaves_those_of_clients_alone() {
    let (cache, _) = cache();
    let hands = Arc::new(std::sync::Mutex::new(Vec::new()));
    let gives = hands.clone();
    let inner: Inner = Inner::new(move |_, _: Request<Body>| {
        let (hand, body): (_, FeedBody) = feed(10);
        gives.lock().unwrap().push(hand);
        std::future::ready(Ok(Response::new(body)))
    });
    let service: Service = ResponseCacheLayer::new(&cache).layer(inner);
    drop(ask(&service, numbered(0)).await);
    let with_client = ask(&service, numbered(1)).await;
    settle().await;
    let hands = std::mem::take(&mut *hands.lock().unwrap());
    assert!(!hands[0].is_gone(), "it is read in the background");
    soon("close ends", cache.close()).await;
    settle().await;
    assert!(hands[0].is_gone(), "it is left");
    hands[1].data("0123456789");
    drop(hands);
    assert_eq!(
        at_once("an end", read(with_client)).await.complete(),
        "0123456789"
    );
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn no_refresh_is_begun_after_close_and_one_that_runs_is_ended() {
    let (cache, clock) = cache();
    let (permits, running, inner, _) = held(&cache);
    let service: Service = ResponseCacheLayer::new(&cache)
        .ttl(Duration::from_secs(10))
        .jitter(0.0)
        .stale_while_revalidate(Duration::from_secs(600))
        .layer(inner.clone());
    permits.add_permits(2);
    for n in 0..2 {
        read(ask(&service, numbered(n)).await).await;
    }
    // Less than a minute: after that a remote store is asked for the time, which has not moved.
    clock.advance(Duration::from_secs(11));
    let stale = read(ask(&service, numbered(0)).await).await;
    assert_eq!(stale.field("x-cache"), "STALE");
    settle().await;
    assert_eq!(running.count(), 1, "it is refreshed");
    soon("close ends", cache.close()).await;
    settle().await;
    assert_eq!(running.count(), 0, "the refresh is ended");
    let calls = inner.calls();
    let next = visit(&service, numbered(1));
    settle().await;
    // Whether it is stale or made anew, nothing runs without a client.
    permits.add_permits(1);
    at_once("an answer", next)
        .await
        .unwrap()
        .unwrap()
        .complete();
    settle().await;
    assert!(inner.calls() <= calls + 1);
    assert_eq!(running.count(), 0);
    assert_idle(&cache).await;
}
