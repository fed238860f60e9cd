//! A slow inner service, where something stale may stand in: who waits for how long, and who does not
//! any more.

use std::{sync::Arc, time::Duration};

use crate::support::{
    cache,
    feed::{FeedBody, whole},
    inner::{Inner, Read, assert_idle, at_once, client, page},
    request, settle,
};
use http::Response;
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::Layer;
use tower_response_cache::{ManualClock, ResponseCache, ResponseCacheLayer};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
/// Fresh for 10 seconds, and for 100 more better than nothing.
const STANDS_IN: &str = "max-age=10, stale-if-error=100";

type Service = ResponseCache<Inner>;

/// The first call answers at once, later ones wait for a permit; a call that is dropped lets go of the
/// semaphore.
fn held(
    layer: ResponseCacheLayer,
    cache_control: &'static str,
) -> (Arc<Semaphore>, Inner, Service) {
    let permits = Arc::new(Semaphore::new(1));
    let held = permits.clone();
    let inner = Inner::new(move |call, _| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let response = Response::builder().header("cache-control", cache_control);
            Ok(response.body(whole(format!("call {call}"))).unwrap())
        }
    });
    (permits, inner.clone(), layer.layer(inner))
}

/// The same, filled, and stale by now.
async fn stale(layer: ResponseCacheLayer, clock: &ManualClock) -> (Arc<Semaphore>, Inner, Service) {
    let (permits, inner, service) = held(layer, STANDS_IN);
    assert_eq!(once(&service).await, answer("MISS", 1));
    clock.advance(12 * SECOND);
    (permits, inner, service)
}

fn answer(x_cache: &str, call: usize) -> (String, String) {
    (x_cache.to_owned(), format!("call {call}"))
}

fn seen(read: &Read) -> (String, String) {
    (read.field("x-cache").to_owned(), read.complete().to_owned())
}

/// What somebody gets without waiting.
async fn once(service: &Service) -> (String, String) {
    let client = client(service, page()).await;
    seen(&at_once("an answer", client).await.unwrap())
}

async fn three(service: &Service) -> [JoinHandle<Read>; 3] {
    [
        client(service, page()).await,
        client(service, page()).await,
        client(service, page()).await,
    ]
}

/// Both clocks.
async fn pass(clock: &ManualClock, time: Duration) {
    clock.advance(time);
    tokio::time::advance(time).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_soft_limit_all_who_wait_get_what_is_stale_and_the_call_goes_on() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).soft_timeout(SECOND);
    let (permits, inner, service) = stale(layer, &clock).await;
    let clients = three(&service).await;
    pass(&clock, 999 * MILLI).await;
    assert!(clients.iter().all(|client| !client.is_finished()));
    pass(&clock, 2 * MILLI).await;
    for client in clients {
        let read = at_once("an answer", client).await.unwrap();
        assert_eq!(seen(&read), answer("STALE", 1));
        let said = read.field("cache-status");
        assert!(
            said.contains("fwd=stale") && said.contains("ttl=-"),
            "{said}"
        );
    }
    let stats = cache.stats();
    assert_eq!((inner.calls(), stats.flights(), stats.stale()), (2, 1, 3));
    permits.add_permits(1);
    settle().await;
    assert_eq!(once(&service).await, answer("HIT", 2));
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn while_a_key_is_known_to_be_slow_nobody_waits_for_it() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).soft_timeout(SECOND);
    let (permits, inner, service) = stale(layer, &clock).await;
    let first = client(&service, page()).await;
    pass(&clock, SECOND).await;
    at_once("an answer", first).await.unwrap();
    for _ in 0..1_000 {
        assert_eq!(once(&service).await, answer("STALE", 1));
    }
    assert_eq!(inner.calls(), 2);
    // Not for a second alone: for as long as the call takes.
    for _ in 0..20 {
        pass(&clock, SECOND).await;
        assert_eq!(once(&service).await, answer("STALE", 1));
    }
    assert_eq!(inner.calls(), 2);
    permits.add_permits(1);
    settle().await;
    assert_eq!(once(&service).await, answer("HIT", 2));
    // It was stored: whoever finds that stale waits again.
    clock.advance(12 * SECOND);
    let next = client(&service, page()).await;
    assert!(!next.is_finished());
    permits.add_permits(1);
    let next = at_once("an answer", next).await.unwrap();
    assert_eq!(seen(&next), answer("MISS", 3));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_keeps_one_client_for_the_whole_time_and_not_the_next() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).fill_timeout(20 * SECOND);
    let (permits, inner, service) = stale(layer, &clock).await;
    let first = client(&service, page()).await;
    pass(&clock, 20 * SECOND).await;
    let first = at_once("after 20 seconds", first).await.unwrap();
    assert_eq!(seen(&first), answer("STALE", 1));
    let mut tries = Vec::new();
    for second in 0..60 {
        let before = inner.calls();
        for _ in 0..3 {
            assert_eq!(once(&service).await, answer("STALE", 1), "{second}");
        }
        if inner.calls() > before {
            tries.push(second);
        }
        pass(&clock, SECOND).await;
    }
    // One at a time, each for 20 seconds, and pauses of 1, 2 and 4.
    assert_eq!(tries, [1, 23, 47]);
    permits.add_permits(1);
    settle().await;
    assert_eq!(once(&service).await, answer("HIT", 5));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn when_one_has_waited_in_vain_those_who_come_next_do_not() {
    let (cache, clock) = cache();
    let (permits, inner, service) = stale(ResponseCacheLayer::new(&cache), &clock).await;
    let starter = client(&service, page()).await;
    let waiting = client(&service, page()).await;
    pass(&clock, 5 * SECOND).await;
    let waiting = at_once("after 5 seconds", waiting).await.unwrap();
    assert_eq!(seen(&waiting), answer("STALE", 1));
    for _ in 0..10 {
        assert_eq!(once(&service).await, answer("STALE", 1));
    }
    assert_eq!(inner.calls(), 2);
    assert!(!starter.is_finished(), "it has its 30 seconds");
    permits.add_permits(1);
    let starter = at_once("an answer", starter).await.unwrap();
    assert_eq!(seen(&starter), answer("MISS", 2));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_stand_in_the_soft_limit_does_not_count() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).soft_timeout(SECOND);
    let (permits, inner, service) = held(layer, STANDS_IN);
    permits.forget_permits(1);
    // Cold; stale for too long; and for one who wants nothing stale.
    for (behind, fields) in [
        (0, &[][..]),
        (111, &[]),
        (12, &[("cache-control", "no-cache")]),
    ] {
        clock.advance(behind * SECOND);
        let clients = [
            client(&service, request("GET", "/page", fields)).await,
            client(&service, request("GET", "/page", fields)).await,
        ];
        pass(&clock, 4 * SECOND).await;
        assert!(
            clients.iter().all(|client| !client.is_finished()),
            "{behind}"
        );
        permits.add_permits(2);
        for client in clients {
            let read = at_once("an answer", client).await.unwrap();
            assert_eq!(read.field("x-cache"), "MISS", "{behind}");
        }
        permits.forget_permits(2);
    }
    assert!(inner.calls() <= 4);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_stands_in_for_a_slow_service_until_its_window_ends() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).soft_timeout(SECOND);
    let (_permits, inner, service) = stale(layer, &clock).await;
    let first = client(&service, page()).await;
    pass(&clock, SECOND).await;
    at_once("an answer", first).await.unwrap();
    // From 13 to 109 seconds.
    for second in 13..110 {
        assert_eq!(once(&service).await, answer("STALE", 1), "{second}");
        pass(&clock, SECOND).await;
    }
    let calls = inner.calls();
    let last = three(&service).await;
    pass(&clock, 3 * SECOND).await;
    for client in last {
        assert!(!client.is_finished(), "RFC 5861, 4: not longer");
    }
    // And they wait for one call, of which the first four had 30 seconds each.
    assert!(calls == 5 && inner.calls() <= calls + 1, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_goes_on_in_the_background_a_slow_call_is_dropped_and_tried_again_seldom() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache)
        .soft_timeout(SECOND)
        .detach(false);
    let (permits, inner, service) = stale(layer, &clock).await;
    let idle = Arc::strong_count(&permits);
    let clients = three(&service).await;
    assert_eq!(Arc::strong_count(&permits), idle + 1);
    pass(&clock, SECOND).await;
    for client in clients {
        let read = at_once("an answer", client).await.unwrap();
        assert_eq!(seen(&read), answer("STALE", 1));
    }
    assert_eq!(Arc::strong_count(&permits), idle, "dropped");
    assert_eq!(once(&service).await, answer("STALE", 1));
    assert_eq!(inner.calls(), 2, "for a second nobody tries again");
    pass(&clock, SECOND).await;
    let second = client(&service, page()).await;
    assert_eq!(inner.calls(), 3);
    assert_eq!(
        once(&service).await,
        answer("STALE", 1),
        "nobody waits for it"
    );
    pass(&clock, SECOND).await;
    let second = at_once("an answer", second).await.unwrap();
    assert_eq!(seen(&second), answer("STALE", 1));
    pass(&clock, SECOND).await;
    assert_eq!(once(&service).await, answer("STALE", 1));
    assert_eq!(inner.calls(), 3, "for two seconds");
    pass(&clock, SECOND).await;
    permits.add_permits(1);
    assert_eq!(once(&service).await, answer("MISS", 4));
    // Whom something stale stands in for counts as a miss, whether it has waited or not.
    let stats = cache.stats();
    assert_eq!((stats.stale(), stats.misses()), (7, 9));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_starter_that_has_left_is_not_answered_and_its_call_goes_on() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).soft_timeout(SECOND);
    let (permits, inner, service) = stale(layer, &clock).await;
    let starter = client(&service, page()).await;
    starter.abort();
    settle().await;
    pass(&clock, 2 * SECOND).await;
    assert_eq!(cache.stats().stale(), 0);
    permits.add_permits(1);
    settle().await;
    assert_eq!(once(&service).await, answer("HIT", 2));
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

/// What a call that was too slow for its starter comes to is seen by those who wait for it still.
#[tokio::test(start_paused = true)]
async fn a_slow_call_that_fails_or_panics_in_the_end_is_nobodys_failure() {
    #[derive(Debug)]
    struct Away;
    for ends in ["500", "error", "panic"] {
        let (cache, clock) = cache();
        let permits = Arc::new(Semaphore::new(1));
        let held = permits.clone();
        let inner = Inner::<FeedBody, Away>::new(move |call, _| {
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                let response = Response::builder().header("cache-control", STANDS_IN);
                match ends {
                    _ if call == 1 => Ok(response.body(whole("call 1")).unwrap()),
                    "500" => Ok(response.status(500).body(whole("failed")).unwrap()),
                    "error" => Err(Away),
                    _ => panic!("the handler panics"),
                }
            }
        });
        let layer = ResponseCacheLayer::new(&cache).soft_timeout(SECOND);
        let service = layer.layer(inner.clone());
        client(&service, page()).await.await.unwrap();
        clock.advance(12 * SECOND);
        let starter = client(&service, page()).await;
        pass(&clock, 500 * MILLI).await;
        let waiting = client(&service, page()).await;
        pass(&clock, 500 * MILLI).await;
        let starter = at_once("an answer", starter).await.unwrap();
        assert_eq!(seen(&starter), answer("STALE", 1), "{ends}");
        permits.add_permits(1);
        let waiting = at_once("an answer", waiting).await.unwrap();
        assert_eq!(seen(&waiting), answer("STALE", 1), "{ends}");
        // And for a second nobody tries again.
        permits.add_permits(10);
        let next = client(&service, page()).await;
        let next = at_once("an answer", next).await.unwrap();
        assert_eq!(seen(&next), answer("STALE", 1), "{ends}");
        settle().await;
        assert_eq!(inner.calls(), 2, "{ends}");
        pass(&clock, SECOND).await;
        client(&service, page()).await.await.unwrap();
        settle().await;
        assert_eq!(inner.calls(), 3, "{ends}");
        assert_idle(&cache).await;
    }
}
