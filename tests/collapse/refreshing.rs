//! Refreshes in the background: who waits, how often they are tried, and for how long what is stale is
//! served meanwhile.

use std::{future::Future, sync::Arc, time::Duration};

use crate::support::{
    cache,
    feed::{FeedBody, whole},
    inner::{Inner, assert_idle, at_once, client, page, read},
    settle,
};
use axum::body::Body;
use http::{Request, Response};
use tokio::sync::{Notify, Semaphore};
use tower::{Layer, ServiceExt};
use tower_response_cache::{ManualClock, ResponseCache, ResponseCacheLayer};

const SECOND: Duration = Duration::from_secs(1);
/// Fresh for 10 seconds, then served stale for 100 more.
const REFRESHED: &str = "max-age=10, stale-while-revalidate=100";

/// The inner service's own error.
#[derive(Debug)]
struct Away;

type Handler = Inner<FeedBody, Away>;
type Service = ResponseCache<Handler>;

fn answer(cache_control: &str, call: usize) -> Response<FeedBody> {
    Response::builder()
        .header("cache-control", cache_control)
        .body(whole(format!("call {call}")))
        .unwrap()
}

/// `X-Cache` and the body of an answer that is there without waiting.
async fn once(service: &Service) -> (String, String) {
    let client = client(service, page()).await;
    let read = at_once("an answer", client).await.unwrap();
    (read.field("x-cache").to_owned(), read.complete().to_owned())
}

/// What a client gets of the first call.
fn first(x_cache: &str) -> (String, String) {
    (x_cache.to_owned(), "call 1".to_owned())
}

/// What a later call comes to.
#[derive(Debug, Clone, Copy)]
enum Then {
    Fails,
    Errs,
    Panics,
    Hangs,
}

/// The first call answers at once with these fields, later ones end like this.
fn ends(cache_control: &'static str, then: Then) -> Handler {
    Inner::new(move |call, _: Request<Body>| async move {
        match then {
            _ if call == 1 => {}
            Then::Fails => {
                let failed = Response::builder().status(500).body(whole("failed"));
                return Ok(failed.unwrap());
            }
            Then::Errs => return Err(Away),
            Then::Panics => panic!("the handler panics"),
            Then::Hangs => std::future::pending().await,
        }
        Ok(answer(cache_control, call))
    })
}

/// Both clocks.
async fn pass(clock: &ManualClock, time: Duration) {
    clock.advance(time);
    tokio::time::advance(time).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_during_a_refresh_are_answered_at_once_and_cause_one_call() {
    let (cache, clock) = cache();
    let permit = Arc::new(Semaphore::new(1));
    let held = permit.clone();
    let inner = Handler::new(move |call, _| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            Ok(answer(REFRESHED, call))
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    assert_eq!(once(&service).await, first("MISS"));
    clock.advance(10 * SECOND);
    for _ in 0..10_000 {
        // One poll: it is there, or nobody got it without waiting.
        let asked = service.clone().oneshot(page());
        let answered = polled_once(asked).await.expect("nobody waits");
        let read = read(answered.unwrap()).await;
        assert_eq!(
            (read.field("x-cache"), read.complete()),
            ("STALE", "call 1")
        );
    }
    settle().await;
    assert_eq!((inner.calls(), cache.stats().stale()), (2, 10_000));
    permit.add_permits(1);
    settle().await;
    assert_eq!(once(&service).await, ("HIT".into(), "call 2".into()));
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

/// The output of a future that is ready when it is polled for the first time.
async fn polled_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_panics_or_hangs_leaves_what_is_stale_until_its_window_ends() {
    for then in [Then::Fails, Then::Errs, Then::Panics, Then::Hangs] {
        let (cache, clock) = cache();
        let inner = ends(REFRESHED, then);
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        assert_eq!(once(&service).await, first("MISS"));
        pass(&clock, 10 * SECOND).await;
        for second in 0..100 {
            assert_eq!(once(&service).await, first("STALE"), "{then:?} {second}");
            pass(&clock, SECOND).await;
        }
        // §4.2.4, RFC 5861, 3: not longer. Whoever comes now gets what the handler does.
        let before = inner.calls();
        let last = tokio::spawn(service.clone().oneshot(page()));
        settle().await;
        match then {
            Then::Hangs => assert!(!last.is_finished(), "it waits"),
            Then::Panics => assert!(last.await.unwrap_err().is_panic()),
            Then::Errs => assert!(matches!(last.await.unwrap(), Err(Away))),
            Then::Fails => assert_eq!(last.await.unwrap().unwrap().status(), 500),
        }
        // The fourth that hangs is within its 30 seconds.
        let more = usize::from(!matches!(then, Then::Hangs));
        assert_eq!(inner.calls(), before + more, "{then:?}");
    }
}

/// At which seconds of a minute and a half, with a request in each, the inner service was called.
async fn tries(service: &Service, inner: &Handler, clock: &ManualClock) -> Vec<u64> {
    let mut tries = Vec::new();
    for second in 0..90 {
        let before = inner.calls();
        for _ in 0..3 {
            assert_eq!(once(service).await, first("STALE"), "{second}");
            settle().await;
        }
        assert!(inner.calls() <= before + 1, "one try in an interval");
        if inner.calls() > before {
            tries.push(second);
        }
        pass(clock, SECOND).await;
    }
    tries
}

#[tokio::test(start_paused = true)]
async fn each_refresh_that_fails_doubles_the_pause_before_the_next() {
    for then in [Then::Fails, Then::Errs, Then::Panics] {
        let (cache, clock) = cache();
        let inner = ends(REFRESHED, then);
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        once(&service).await;
        pass(&clock, 10 * SECOND).await;
        let tries = tries(&service, &inner, &clock).await;
        assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63], "{then:?}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_pause_after_a_refresh_that_hangs_counts_from_its_end() {
    let (cache, clock) = cache();
    let inner = ends(REFRESHED, Then::Hangs);
    let layer = ResponseCacheLayer::new(&cache).fill_timeout(10 * SECOND);
    let service = layer.layer(inner.clone());
    once(&service).await;
    pass(&clock, 10 * SECOND).await;
    // 10 seconds each, and 1, 2, 4, 8 and 16 in between.
    let tries = tries(&service, &inner, &clock).await;
    assert_eq!(tries, [0, 11, 23, 37, 55, 81]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_succeeds_ends_the_pauses() {
    let (cache, clock) = cache();
    let inner = Handler::new(|call, _| async move {
        match call {
            1 | 5 => Ok(answer(REFRESHED, call)),
            _ => Err(Away),
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    once(&service).await;
    pass(&clock, 10 * SECOND).await;
    for calls in [2, 3, 3, 4, 4, 4, 4, 5] {
        assert_eq!(once(&service).await, first("STALE"));
        settle().await;
        assert_eq!(inner.calls(), calls);
        pass(&clock, SECOND).await;
    }
    assert_eq!(once(&service).await, ("HIT".into(), "call 5".into()));
    pass(&clock, 10 * SECOND).await;
    for calls in [6, 7, 7, 8] {
        once(&service).await;
        settle().await;
        assert_eq!(inner.calls(), calls, "from one second on again");
        pass(&clock, SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_from_the_start_is_refreshed_each_second_without_growing_pauses() {
    let (cache, clock) = cache();
    let inner =
        Handler::new(
            |call, _| async move { Ok(answer("max-age=0, stale-while-revalidate=30", call)) },
        );
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    once(&service).await;
    for calls in 2..10 {
        for _ in 0..3 {
            assert_eq!(once(&service).await.0, "STALE");
            settle().await;
            assert_eq!(inner.calls(), calls);
        }
        pass(&clock, SECOND).await;
    }
}

/// Behind its `stale-while-revalidate` a refresh may be under way still, and fail.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_refresh_that_fails_gets_what_may_stand_in() {
    for then in [Then::Fails, Then::Errs, Then::Hangs] {
        let (cache, clock) = cache();
        let go = Arc::new(Notify::new());
        let held = go.clone();
        let inner = Handler::new(move |call, _| {
            let held = held.clone();
            async move {
                if call > 1 {
                    held.notified().await;
                    match then {
                        Then::Errs => return Err(Away),
                        Then::Fails => {
                            let failed = Response::builder().status(502).body(whole("failed"));
                            return Ok(failed.unwrap());
                        }
                        Then::Hangs | Then::Panics => std::future::pending().await,
                    }
                }
                let said = "max-age=10, stale-while-revalidate=5, stale-if-error=60";
                Ok(answer(said, call))
            }
        });
        let layer = ResponseCacheLayer::new(&cache).wait_timeout(60 * SECOND);
        let service = layer.layer(inner.clone());
        once(&service).await;
        pass(&clock, 12 * SECOND).await;
        assert_eq!(once(&service).await, first("STALE"));
        pass(&clock, 4 * SECOND).await;
        let waiting = client(&service, page()).await;
        assert_eq!(inner.calls(), 2, "it waits for the refresh");
        go.notify_one();
        if let Then::Hangs = then {
            pass(&clock, 27 * SECOND).await;
        }
        let read = at_once("an answer", waiting).await.unwrap();
        let read = (read.field("x-cache"), read.complete());
        assert_eq!(read, ("STALE", "call 1"), "{then:?}");
        assert_eq!(inner.calls(), 2, "{then:?}");
        assert_idle(&cache).await;
    }
}
