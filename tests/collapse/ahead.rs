//! Refreshes ahead of the end: by chance, but where these tests ask so often that it is certain.

use std::{sync::Arc, time::Duration};

use crate::support::{
    cache,
    feed::{FeedBody, feed, whole},
    inner::{Inner, assert_idle, at_once, client, page},
    request, settle,
};
use axum::body::Body;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tower::Layer;
use tower_response_cache::{Cache, ManualClock, ResponseCache, ResponseCacheLayer, Selector};

const SECOND: Duration = Duration::from_secs(1);
/// So often that it is certain.
const OFTEN: usize = 200;

/// The inner service's own error.
#[derive(Debug)]
struct Away;

type Handler = Inner<FeedBody, Away>;
type Service = ResponseCache<Handler>;

/// What later calls do, once they have their permit.
#[derive(Debug, Clone, Copy)]
enum Then {
    Answers,
    Fails,
    Errs,
    Panics,
}

/// Each call waits for a permit. What it answers is fresh for 100 seconds.
fn held(then: Then) -> (Arc<Semaphore>, Handler) {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner = Handler::new(move |call, request: Request<Body>| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let asked = request.headers().contains_key("if-none-match");
            let response = Response::builder()
                .header("cache-control", "max-age=100")
                .header("etag", format!("\"{call}\""))
                .header("x-asked", asked.to_string());
            match then {
                Then::Answers => {}
                _ if call == 1 => {}
                Then::Fails => return Ok(response.status(503).body(whole("failed")).unwrap()),
                Then::Errs => return Err(Away),
                Then::Panics => panic!("the handler panics"),
            }
            Ok(response.body(whole(format!("call {call}"))).unwrap())
        }
    });
    (permits, inner)
}

/// `X-Cache` and the body of an answer that is there without waiting.
async fn once(service: &Service) -> (String, String) {
    let client = client(service, page()).await;
    let read = at_once("an answer", client).await.unwrap();
    (read.field("x-cache").to_owned(), read.complete().to_owned())
}

fn hit(call: usize) -> (String, String) {
    ("HIT".to_owned(), format!("call {call}"))
}

async fn often(service: &Service, call: usize) {
    for _ in 0..OFTEN {
        assert_eq!(once(service).await, hit(call));
    }
}

/// Stores the first answer, which took 10 seconds and is fresh for 100.
async fn fill(service: &Service, permits: &Semaphore, clock: &ManualClock) {
    let first = client(service, page()).await;
    clock.advance(10 * SECOND);
    permits.add_permits(1);
    let first = at_once("an answer", first).await.unwrap();
    assert_eq!(first.complete(), "call 1");
}

fn eager(cache: &Cache) -> ResponseCacheLayer {
    ResponseCacheLayer::new(cache).refresh_ahead(100.0)
}

#[tokio::test(start_paused = true)]
async fn what_is_near_its_end_is_refreshed_by_one_call_while_all_get_hits() {
    let (cache, clock) = cache();
    let (permits, inner) = held(Then::Answers);
    // Less eager: what costs a second is not refreshed again at once.
    let layer = eager(&cache).refresh_ahead(5.0);
    let service = layer.layer(inner.clone());
    fill(&service, &permits, &clock).await;
    clock.advance(90 * SECOND);
    often(&service, 1).await;
    assert_eq!(inner.calls(), 2, "one refreshes, held in the handler");
    // Later, too, nobody joins it twice.
    clock.advance(SECOND);
    often(&service, 1).await;
    assert_eq!(inner.calls(), 2);
    permits.add_permits(1);
    settle().await;
    assert_eq!(once(&service).await, hit(2));
    let stats = cache.stats();
    assert_eq!((stats.hits(), stats.misses()), (2 * OFTEN as u64 + 1, 1));
    assert_eq!((stats.fills(), stats.stale(), inner.calls()), (2, 0, 2));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_refreshed_ahead_unless_the_layer_says_so() {
    for layer in [
        |cache: &Cache| ResponseCacheLayer::new(cache),
        |cache: &Cache| ResponseCacheLayer::rfc9111(cache),
        |cache: &Cache| eager(cache).refresh_ahead(0.0),
        |cache: &Cache| eager(cache).refresh_ahead(f64::NAN),
        |cache: &Cache| eager(cache).refresh_ahead(-1.0),
        |cache: &Cache| eager(cache).detach(false),
    ] {
        let (cache, clock) = cache();
        let (permits, inner) = held(Then::Answers);
        let service = layer(&cache).layer(inner.clone());
        fill(&service, &permits, &clock).await;
        clock.advance(99 * SECOND);
        often(&service, 1).await;
        assert_eq!(inner.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_far_from_its_end_for_what_it_cost_is_not_refreshed() {
    let (cache, clock) = cache();
    let (permits, inner) = held(Then::Answers);
    let layer = ResponseCacheLayer::new(&cache).refresh_ahead(0.2);
    let service = layer.layer(inner.clone());
    fill(&service, &permits, &clock).await;
    // 2 seconds of 10 count, and no chance reaches further than 37 times that.
    often(&service, 1).await;
    assert_eq!(inner.calls(), 1, "100 seconds are left");
    clock.advance(98 * SECOND);
    often(&service, 1).await;
    assert_eq!(inner.calls(), 2, "2 seconds are left");
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_body_takes_is_part_of_its_cost() {
    for took in [Duration::ZERO, 10 * SECOND] {
        let (cache, clock) = cache();
        let (feed, body) = feed(None);
        let body = Arc::new(std::sync::Mutex::new(Some(body)));
        let inner = Handler::new(move |call, _| {
            let body = body.lock().unwrap().take();
            async move {
                let body = body.unwrap_or_else(|| whole(format!("call {call}")));
                let response = Response::builder().header("cache-control", "max-age=100");
                Ok(response.body(body).unwrap())
            }
        });
        let service = eager(&cache).layer(inner.clone());
        let first = client(&service, page()).await;
        feed.data("call ");
        clock.advance(took);
        settle().await;
        feed.data("1");
        drop(feed);
        at_once("an answer", first).await.unwrap();
        clock.advance(80 * SECOND);
        for _ in 0..OFTEN {
            once(&service).await;
        }
        let calls = if took.is_zero() { 1 } else { 2 };
        assert_eq!(inner.calls(), calls, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_come_after_the_end_wait_for_the_refresh_that_began_before() {
    let (cache, clock) = cache();
    let (permits, inner) = held(Then::Answers);
    let service = eager(&cache).layer(inner.clone());
    fill(&service, &permits, &clock).await;
    clock.advance(99 * SECOND);
    often(&service, 1).await;
    assert_eq!(inner.calls(), 2);
    clock.advance(2 * SECOND);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(client(&service, page()).await);
    }
    assert_eq!(inner.calls(), 2);
    permits.add_permits(1);
    for client in waiting {
        let read = at_once("an answer", client).await.unwrap();
        assert_eq!((read.field("x-cache"), read.complete()), ("MISS", "call 2"));
    }
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_ahead_that_fails_leaves_what_is_fresh_and_pauses() {
    for then in [Then::Fails, Then::Errs, Then::Panics] {
        let (cache, clock) = cache();
        let (permits, inner) = held(then);
        let service = eager(&cache).layer(inner.clone());
        fill(&service, &permits, &clock).await;
        permits.add_permits(100);
        clock.advance(80 * SECOND);
        let mut tries = Vec::new();
        for second in 0..9 {
            let before = inner.calls();
            often(&service, 1).await;
            settle().await;
            assert!(inner.calls() <= before + 1, "{then:?}: one try");
            if inner.calls() > before {
                tries.push(second);
            }
            clock.advance(SECOND);
        }
        assert_eq!(tries, [0, 1, 3, 7], "{then:?}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_asks_for_no_call_refreshes_nothing_ahead() {
    let (cache, clock) = cache();
    let (permits, inner) = held(Then::Answers);
    let service = eager(&cache).layer(inner.clone());
    fill(&service, &permits, &clock).await;
    clock.advance(80 * SECOND);
    for _ in 0..OFTEN {
        for asked in [
            request("HEAD", "/page", &[]),
            request("GET", "/page", &[("cache-control", "only-if-cached")]),
        ] {
            let client = client(&service, asked).await;
            let read = at_once("an answer", client).await.unwrap();
            assert_eq!(read.field("x-cache"), "HIT");
        }
    }
    assert_eq!(inner.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_ahead_asks_for_what_is_stored_and_brings_all_of_it() {
    let (cache, clock) = cache();
    let (permits, inner) = held(Then::Answers);
    let service = eager(&cache).layer(inner.clone());
    fill(&service, &permits, &clock).await;
    clock.advance(80 * SECOND);
    for _ in 0..OFTEN {
        let asked = request("GET", "/page", &[("range", "bytes=0-1")]);
        let client = client(&service, asked).await;
        let read = at_once("an answer", client).await.unwrap();
        assert_eq!((read.head.status.as_u16(), read.complete()), (206, "ca"));
    }
    permits.add_permits(1);
    settle().await;
    let client = client(&service, page()).await;
    let read = at_once("an answer", client).await.unwrap();
    assert_eq!((read.field("x-cache"), read.complete()), ("HIT", "call 2"));
    assert_eq!(read.field("x-asked"), "true");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_during_a_refresh_ahead_wins() {
    let (cache, clock) = cache();
    let (permits, inner) = held(Then::Answers);
    let service = eager(&cache).layer(inner.clone());
    fill(&service, &permits, &clock).await;
    clock.advance(80 * SECOND);
    often(&service, 1).await;
    cache.invalidate(Selector::resource("test", "/page"));
    permits.add_permits(1);
    settle().await;
    let next = client(&service, page()).await;
    assert_eq!(inner.calls(), 3, "what began before is not used");
    permits.add_permits(1);
    let next = at_once("an answer", next).await.unwrap();
    assert_eq!(next.complete(), "call 3");
    assert_idle(&cache).await;
}
