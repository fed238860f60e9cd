//! What is stale, and many who want it: refreshed once, validated once, and never in anybody's way.

use std::{sync::Arc, time::Duration};

use crate::support::{
    cache,
    feed::{FeedBody, feed, whole},
    inner::{Inner, Read, assert_idle, at_once, behind, client, page, script},
    request, settle,
};
use axum::body::Body;
use http::{Request, Response, StatusCode};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, ServiceExt};
use tower_response_cache::{Cache, ResponseCache, ResponseCacheLayer, Selector};

const SECOND: Duration = Duration::from_secs(1);

type Service = ResponseCache<Inner<FeedBody, Away>>;

/// The inner service's own error.
#[derive(Debug)]
struct Away;

/// What the inner service does in a call.
#[derive(Clone, Copy)]
enum Does {
    /// 200, with a tag that names the call.
    Answers,
    /// 304, if it was asked whether `"1"` still holds.
    Confirms,
    Fails(u16),
    Errs,
    Panics,
    RefusesToStore,
}

/// The first call answers at once, fresh for 10 s; later ones wait for a permit each and do as told.
fn service(
    layer: ResponseCacheLayer,
    cache_control: &'static str,
    does: Does,
) -> (Arc<Semaphore>, Inner<FeedBody, Away>, Service) {
    let permits = Arc::new(Semaphore::new(1));
    let held = permits.clone();
    let inner = Inner::new(move |call, request: Request<Body>| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let does = if call == 1 { Does::Answers } else { does };
            let asked = request.headers().get("if-none-match").cloned();
            let response = Response::builder()
                .header("cache-control", cache_control)
                .header("etag", format!("\"{call}\""));
            let response = match does {
                Does::Answers => response.body(whole(format!("call {call}"))),
                Does::Confirms => {
                    assert_eq!(asked.expect("a condition"), "\"1\"");
                    Response::builder()
                        .status(304)
                        .header("cache-control", cache_control)
                        .header("etag", "\"1\"")
                        .header("x-call", call.to_string())
                        .body(whole(""))
                }
                Does::Fails(status) => Response::builder().status(status).body(whole("failed")),
                Does::Errs => return Err(Away),
                Does::Panics => panic!("the handler panics"),
                Does::RefusesToStore => Response::builder()
                    .header("cache-control", "private")
                    .body(whole(format!("private {call}"))),
            };
            Ok(response.unwrap())
        }
    });
    (permits, inner.clone(), layer.layer(inner))
}

const REFRESHED: &str = "max-age=10, stale-while-revalidate=30";
const STANDS_IN: &str = "max-age=10, stale-if-error=30";

async fn many(service: &Service, count: usize) -> Vec<JoinHandle<Read>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(client(service, page()).await);
    }
    clients
}

async fn answers(clients: Vec<JoinHandle<Read>>) -> Vec<(String, String)> {
    let mut answers = Vec::new();
    for client in clients {
        let read = at_once("an answer", client).await.unwrap();
        answers.push((read.field("x-cache").to_owned(), read.complete().to_owned()));
    }
    answers
}

/// One answer, read to its end.
async fn once(service: &Service) -> Read {
    let client = client(service, page()).await;
    at_once("an answer", client).await.unwrap()
}

fn all(x_cache: &str, text: &str, count: usize) -> Vec<(String, String)> {
    vec![(x_cache.to_owned(), text.to_owned()); count]
}

#[tokio::test(start_paused = true)]
async fn a_storm_at_expiry_is_answered_stale_and_refreshed_by_one_call() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let (permits, inner, service) = service(layer, REFRESHED, Does::Answers);
    assert_eq!(once(&service).await.complete(), "call 1");
    clock.advance(12 * SECOND);
    let clients = many(&service, 100).await;
    assert_eq!(answers(clients).await, all("STALE", "call 1", 100));
    assert_eq!(inner.calls(), 2, "one refreshes, held in the handler");
    permits.add_permits(1);
    settle().await;
    let fresh = once(&service).await;
    assert_eq!(
        (fresh.field("x-cache"), fresh.complete()),
        ("HIT", "call 2")
    );
    assert_eq!((inner.calls(), cache.stats().stale()), (2, 100));
    assert_eq!((cache.stats().hits(), cache.stats().misses()), (1, 1));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_leaves_the_stale_response_and_is_not_repeated_at_once() {
    for does in [Does::Fails(500), Does::Errs] {
        let (cache, clock) = cache();
        let (permits, inner, service) = service(ResponseCacheLayer::new(&cache), REFRESHED, does);
        once(&service).await;
        clock.advance(12 * SECOND);
        permits.add_permits(100);
        for _ in 0..5 {
            let stale = once(&service).await;
            assert_eq!(
                (stale.field("x-cache"), stale.complete()),
                ("STALE", "call 1")
            );
        }
        assert_eq!(inner.calls(), 2, "for a second nobody tries again");
        clock.advance(SECOND);
        assert_eq!(once(&service).await.field("x-cache"), "STALE");
        settle().await;
        assert_eq!(inner.calls(), 3);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_panics_is_nobodys_panic() {
    let (cache, clock) = cache();
    let (permits, inner, service) =
        service(ResponseCacheLayer::new(&cache), REFRESHED, Does::Panics);
    once(&service).await;
    clock.advance(12 * SECOND);
    permits.add_permits(10);
    for calls in 2..4 {
        for _ in 0..2 {
            assert_eq!(once(&service).await.field("x-cache"), "STALE");
            settle().await;
            assert_eq!(inner.calls(), calls, "a panic is a failure");
        }
        clock.advance(SECOND);
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_brings_what_may_not_be_stored_ends_the_stale_response() {
    let (cache, clock) = cache();
    let (permits, inner, service) = service(
        ResponseCacheLayer::new(&cache),
        REFRESHED,
        Does::RefusesToStore,
    );
    once(&service).await;
    clock.advance(12 * SECOND);
    permits.add_permits(10);
    assert_eq!(once(&service).await.complete(), "call 1");
    settle().await;
    let next = once(&service).await;
    assert_eq!(
        (next.field("x-cache"), next.complete()),
        ("MISS", "private 3")
    );
    assert_eq!(inner.calls(), 3);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_during_a_refresh_wins() {
    let (cache, clock) = cache();
    let (permits, inner, service) =
        service(ResponseCacheLayer::new(&cache), REFRESHED, Does::Answers);
    once(&service).await;
    clock.advance(12 * SECOND);
    assert_eq!(once(&service).await.field("x-cache"), "STALE");
    assert_eq!(inner.calls(), 2);
    cache.invalidate(Selector::resource("test", "/page"));
    // Neither what is stale nor what the refresh brings is used any more.
    let newcomer = client(&service, page()).await;
    assert_eq!(inner.calls(), 3, "it waits for nothing that started before");
    permits.add_permits(2);
    let read = at_once("an answer", newcomer).await.unwrap();
    assert_eq!((read.field("x-cache"), read.complete()), ("MISS", "call 3"));
    settle().await;
    let hit = once(&service).await;
    assert_eq!((hit.field("x-cache"), hit.complete()), ("HIT", "call 3"));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_run_in_the_background_nothing_stale_is_served_for_it() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).detach(false);
    let (permits, inner, service) = service(layer, REFRESHED, Does::Answers);
    once(&service).await;
    clock.advance(12 * SECOND);
    permits.add_permits(1);
    let read = once(&service).await;
    assert_eq!((read.field("x-cache"), read.complete()), ("MISS", "call 2"));
    assert_eq!(inner.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn many_who_find_it_stale_are_answered_by_one_validation() {
    let (cache, clock) = cache();
    let (permits, inner, service) = service(
        ResponseCacheLayer::new(&cache),
        "max-age=10",
        Does::Confirms,
    );
    once(&service).await;
    clock.advance(12 * SECOND);
    let clients = many(&service, 100).await;
    assert_eq!(inner.calls(), 2);
    permits.add_permits(1);
    assert_eq!(answers(clients).await, all("MISS", "call 1", 100));
    let hit = once(&service).await;
    assert_eq!((hit.field("x-cache"), hit.complete()), ("HIT", "call 1"));
    assert_eq!(hit.field("x-call"), "2", "updated by the 304");
    assert_eq!((inner.calls(), cache.stats().validated()), (2, 1));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_validation_goes_on_without_its_starter() {
    let (cache, clock) = cache();
    let (permits, inner, service) = service(
        ResponseCacheLayer::new(&cache),
        "max-age=10",
        Does::Confirms,
    );
    once(&service).await;
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    let waiting = many(&service, 20).await;
    starter.abort();
    settle().await;
    permits.add_permits(1);
    assert_eq!(answers(waiting).await, all("MISS", "call 1", 20));
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_during_a_validation_wins() {
    let (cache, clock) = cache();
    let (permits, inner, service) = service(
        ResponseCacheLayer::new(&cache),
        "max-age=10",
        Does::Confirms,
    );
    once(&service).await;
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    cache.invalidate(Selector::resource("test", "/page"));
    permits.add_permits(1);
    let read = at_once("an answer", starter).await.unwrap();
    assert_eq!(read.complete(), "call 1", "it asked before");
    // Whoever comes now asks anew, and without the tag of what was invalidated.
    let (_, plain) = (inner.calls(), client(&service, page()).await);
    assert_eq!(inner.calls(), 3);
    plain.abort();
    settle().await;
    assert_idle_after(&cache, &permits).await;
}

/// Lets go what is held in the handler; the one that asks for a condition that is not there panics.
async fn assert_idle_after(cache: &Cache, permits: &Semaphore) {
    permits.add_permits(10);
    assert_idle(cache).await;
}

#[tokio::test(start_paused = true)]
async fn what_must_be_validated_is_shared_with_nobody_who_waits() {
    let (cache, _) = cache();
    let (permits, inner, service) =
        service(ResponseCacheLayer::new(&cache), "no-cache", Does::Answers);
    assert_eq!(once(&service).await.complete(), "call 1");
    let clients = many(&service, 10).await;
    assert_eq!(inner.calls(), 11, "each asks for itself, at once");
    permits.add_permits(10);
    let mut texts: Vec<_> = answers(clients)
        .await
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 10, "each its own: {texts:?}");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_stands_in_for_everybody_who_waits_for_a_failure() {
    for (does, status) in [
        (Does::Fails(503), Some("503")),
        (Does::Fails(500), Some("500")),
        (Does::Errs, None),
    ] {
        let (cache, clock) = cache();
        let (permits, inner, service) = service(ResponseCacheLayer::new(&cache), STANDS_IN, does);
        once(&service).await;
        clock.advance(12 * SECOND);
        let clients = many(&service, 20).await;
        assert_eq!(inner.calls(), 2);
        permits.add_permits(1);
        for client in clients {
            let read = at_once("an answer", client).await.unwrap();
            assert_eq!(
                (read.field("x-cache"), read.complete()),
                ("STALE", "call 1")
            );
            let said = read.field("cache-status").to_owned();
            assert!(
                said.contains("fwd=stale") && said.contains("ttl=-2"),
                "{said}"
            );
            let status = status.map(|status| said.contains(&format!("fwd-status={status}")));
            assert_ne!(status, Some(false), "{said}");
        }
        assert_eq!((inner.calls(), cache.stats().stale()), (2, 20));
        assert_eq!(
            cache.stats().misses(),
            21,
            "they waited, and count as misses, too"
        );
        assert_idle(&cache).await;
        // Past its window nothing stands in.
        clock.advance(30 * SECOND);
        permits.add_permits(2);
        let last = service.clone().oneshot(page()).await;
        match (does, last) {
            (Does::Errs, Err(Away)) => {}
            (Does::Fails(status), Ok(response)) => assert_eq!(response.status(), status),
            (_, last) => panic!("{last:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_stands_in_for_a_service_that_is_slow() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).fill_timeout(20 * SECOND);
    let (_permits, inner, service) = service(layer, STANDS_IN, Does::Answers);
    once(&service).await;
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    let waiting = client(&service, page()).await;
    tokio::time::advance(6 * SECOND).await;
    settle().await;
    let read = at_once("who waits is answered after 5 s", waiting)
        .await
        .unwrap();
    assert_eq!(
        (read.field("x-cache"), read.complete()),
        ("STALE", "call 1")
    );
    assert!(!starter.is_finished());
    tokio::time::advance(15 * SECOND).await;
    settle().await;
    let read = at_once("who asked is answered after 20 s", starter)
        .await
        .unwrap();
    assert_eq!(
        (read.field("x-cache"), read.complete()),
        ("STALE", "call 1")
    );
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_or_a_condition_starts_a_refresh_for_all_or_none() {
    let (cache, clock) = cache();
    let (permits, inner, service) =
        service(ResponseCacheLayer::new(&cache), REFRESHED, Does::Answers);
    once(&service).await;
    clock.advance(12 * SECOND);
    let head = client(&service, request("HEAD", "/page", &[])).await;
    let head = at_once("an answer", head).await.unwrap();
    assert_eq!((head.field("x-cache"), head.complete()), ("STALE", ""));
    assert_eq!(
        inner.calls(),
        1,
        "a HEAD brings nothing that could be stored"
    );
    let known = request(
        "GET",
        "/page",
        &[("if-none-match", "\"1\""), ("range", "bytes=0-1")],
    );
    let known = client(&service, known).await;
    let known = at_once("an answer", known).await.unwrap();
    assert_eq!(known.head.status, StatusCode::NOT_MODIFIED);
    assert_eq!(known.field("x-cache"), "STALE");
    assert_eq!(inner.calls(), 2);
    permits.add_permits(1);
    settle().await;
    assert_eq!(
        once(&service).await.complete(),
        "call 2",
        "all of it was asked for"
    );
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_takes_its_time_is_no_failure() {
    let (cache, clock) = cache();
    let (feed, body) = feed(None);
    let bodies = vec![whole("call 1"), body];
    let inner = script(&[("cache-control", STANDS_IN)], bodies);
    let service = behind(ResponseCacheLayer::new(&cache), &inner);
    let first = client(&service, page()).await.await.unwrap();
    assert_eq!(first.complete(), "call 1");
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    let waiting = client(&service, page()).await;
    feed.data("a part");
    tokio::time::advance(Duration::from_millis(260)).await;
    settle().await;
    let read = at_once("an answer of its own", waiting).await.unwrap();
    assert_eq!(
        (read.field("x-cache"), read.complete()),
        ("MISS", "own answer 3")
    );
    feed.data(", and the rest");
    drop(feed);
    let read = at_once("the streamed answer", starter).await.unwrap();
    assert_eq!(read.complete(), "a part, and the rest");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn by_the_standard_only_what_cannot_be_reached_is_stood_in_for() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::rfc9111(&cache);
    let (permits, inner, service) = service(layer, "max-age=10", Does::Answers);
    once(&service).await;
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    let waiting = client(&service, page()).await;
    tokio::time::advance(6 * SECOND).await;
    settle().await;
    assert_eq!(inner.calls(), 3, "who has waited long enough goes alone");
    permits.add_permits(2);
    for client in [starter, waiting] {
        let read = at_once("an answer", client).await.unwrap();
        assert_eq!(read.field("x-cache"), "MISS");
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_starter_that_leaves_is_no_failure() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).detach(false);
    let (permits, inner, service) = service(layer, STANDS_IN, Does::Answers);
    once(&service).await;
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    let waiting = client(&service, page()).await;
    starter.abort();
    settle().await;
    assert_eq!(inner.calls(), 3, "who waited leads");
    permits.add_permits(2);
    let read = at_once("an answer", waiting).await.unwrap();
    assert_eq!((read.field("x-cache"), read.complete()), ("MISS", "call 3"));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn the_windows_of_a_layer_are_for_what_has_become_stale() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache)
        .stale_while_revalidate(30 * SECOND)
        .stale_if_error(30 * SECOND);
    let (permits, _, service) = service(layer, "max-age=0", Does::Fails(500));
    once(&service).await;
    permits.add_permits(1);
    let next = client(&service, page()).await.await.unwrap();
    assert_eq!(
        (next.head.status.as_u16(), next.field("x-cache")),
        (500, "MISS")
    );
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_gets_what_is_stale_and_refreshes_nothing() {
    let (cache, clock) = cache();
    let (permits, inner, service) =
        service(ResponseCacheLayer::new(&cache), REFRESHED, Does::Answers);
    once(&service).await;
    clock.advance(12 * SECOND);
    permits.add_permits(10);
    for _ in 0..2 {
        let asked = request("GET", "/page", &[("cache-control", "only-if-cached")]);
        let read = at_once("an answer", client(&service, asked).await);
        let read = read.await.unwrap();
        assert_eq!(
            (read.field("x-cache"), read.complete()),
            ("STALE", "call 1")
        );
        settle().await;
        assert_eq!(inner.calls(), 1, "it asked for no call");
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_never_ends_is_dropped_when_a_fill_would_be_late() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).fill_timeout(20 * SECOND);
    let (permits, inner, service) = service(layer, REFRESHED, Does::Answers);
    once(&service).await;
    settle().await;
    let idle = Arc::strong_count(&permits);
    clock.advance(12 * SECOND);
    assert_eq!(once(&service).await.field("x-cache"), "STALE");
    assert_eq!((inner.calls(), Arc::strong_count(&permits)), (2, idle + 1));
    tokio::time::advance(19 * SECOND).await;
    settle().await;
    assert_eq!(Arc::strong_count(&permits), idle + 1, "it has time still");
    tokio::time::advance(2 * SECOND).await;
    settle().await;
    assert_eq!(Arc::strong_count(&permits), idle, "nobody waits for it");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_stale_without_background_work_is_validated() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).detach(false);
    let (permits, inner, service) = service(layer, REFRESHED, Does::Confirms);
    once(&service).await;
    clock.advance(12 * SECOND);
    permits.add_permits(1);
    let read = once(&service).await;
    assert_eq!((read.field("x-cache"), read.complete()), ("MISS", "call 1"));
    assert_eq!((inner.calls(), cache.stats().validated()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_invalidated_meanwhile_stands_in_for_nothing() {
    for does in [Does::Fails(503), Does::Errs] {
        let (cache, clock) = cache();
        let (permits, _, service) = service(ResponseCacheLayer::new(&cache), STANDS_IN, does);
        once(&service).await;
        clock.advance(12 * SECOND);
        let asked = tokio::spawn(service.clone().oneshot(page()));
        settle().await;
        cache.invalidate(Selector::resource("test", "/page"));
        permits.add_permits(1);
        match (does, at_once("an answer", asked).await.unwrap()) {
            (Does::Errs, Err(Away)) => {}
            (Does::Fails(status), Ok(response)) => assert_eq!(response.status(), status),
            (_, answer) => panic!("{answer:?}"),
        }
        assert_idle(&cache).await;
    }
}

/// The first call is fresh for 10 s; the second, which waits for a permit, is a 304 with these
/// fields, and later ones are whole.
fn confirms_with(
    cache: &Cache,
    said: &'static str,
) -> (Arc<Semaphore>, Inner<FeedBody, Away>, Service) {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner = Inner::new(move |call, request: Request<Body>| {
        let held = held.clone();
        async move {
            if call > 1 {
                held.acquire().await.unwrap().forget();
            }
            let is_asked = request.headers().contains_key("if-none-match");
            let response = Response::builder().header("etag", "\"1\"");
            let response = match (call, is_asked) {
                (1, _) => response
                    .header("cache-control", STANDS_IN)
                    .body(whole("call 1")),
                (2, true) => response
                    .header("cache-control", said)
                    .status(304)
                    .body(whole("")),
                (_, is_asked) => response
                    .header("cache-control", "no-store")
                    .body(whole(format!("call {call}, asked: {is_asked}"))),
            };
            Ok(response.unwrap())
        }
    });
    let layer = ResponseCacheLayer::new(cache);
    (permits, inner.clone(), layer.layer(inner))
}

#[tokio::test(start_paused = true)]
async fn what_a_304_says_must_be_validated_each_time_is_shared_with_nobody_who_waits() {
    let (cache, clock) = cache();
    let (permits, inner, service) = confirms_with(&cache, "no-cache");
    once(&service).await;
    clock.advance(12 * SECOND);
    let starter = client(&service, page()).await;
    let waiting = many(&service, 10).await;
    assert_eq!(inner.calls(), 2);
    permits.add_permits(20);
    let starter = at_once("an answer", starter).await.unwrap();
    assert_eq!(starter.complete(), "call 1");
    let texts: Vec<_> = answers(waiting).await;
    assert!(texts.iter().all(|(_, text)| text != "call 1"), "{texts:?}");
    assert_eq!(inner.calls(), 12, "each asks for itself");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_304_that_may_not_be_stored_ends_what_was_stored() {
    for said in ["no-store", "private"] {
        let (cache, clock) = cache();
        let (permits, _, service) = confirms_with(&cache, said);
        once(&service).await;
        clock.advance(12 * SECOND);
        permits.add_permits(10);
        assert_eq!(once(&service).await.complete(), "call 1", "{said}");
        let next = once(&service).await;
        assert_eq!(next.complete(), "call 3, asked: false", "{said}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_says_nothing_of_what_is_stored() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).fill_timeout(20 * SECOND);
    let (permits, inner, service) = service(layer, "max-age=10", Does::Confirms);
    once(&service).await;
    clock.advance(12 * SECOND);
    let late = client(&service, page()).await;
    tokio::time::advance(21 * SECOND).await;
    settle().await;
    permits.add_permits(2);
    assert_eq!(
        at_once("an answer", late).await.unwrap().complete(),
        "call 1"
    );
    // The handler panics where it is not asked whether that still holds.
    let next = once(&service).await;
    assert_eq!((next.complete(), next.field("x-call")), ("call 1", "3"));
    assert_eq!(inner.calls(), 3);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_person_who_waits_gets_only_what_is_for_all_still() {
    let (cache, clock) = cache();
    let permits = Arc::new(Semaphore::new(1));
    let held = permits.clone();
    let inner = Inner::<FeedBody, Away>::new(move |call, _| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let said = match call {
                1 => "public, max-age=10",
                _ => "max-age=10",
            };
            let response = Response::builder().header("cache-control", said);
            Ok(response.body(whole(format!("call {call}"))).unwrap())
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    once(&service).await;
    clock.advance(12 * SECOND);
    let anybody = client(&service, page()).await;
    let asked = request("GET", "/page", &[("cookie", "session=1")]);
    let person = client(&service, asked).await;
    assert_eq!(inner.calls(), 2, "what is known of it is for all");
    permits.add_permits(2);
    let anybody = at_once("an answer", anybody).await.unwrap();
    assert_eq!(anybody.complete(), "call 2");
    let person = at_once("an answer", person).await.unwrap();
    assert_eq!(person.complete(), "call 3");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_from_the_start_is_asked_for_once_behind_its_window() {
    let (cache, clock) = cache();
    let (permits, inner, service) = service(
        ResponseCacheLayer::new(&cache),
        "max-age=0, stale-while-revalidate=30",
        Does::Answers,
    );
    once(&service).await;
    clock.advance(31 * SECOND);
    let clients = many(&service, 10).await;
    assert_eq!(inner.calls(), 2, "nothing says that it is for nobody");
    permits.add_permits(20);
    answers(clients).await;
    assert_idle(&cache).await;
}
