//! Who joins a flight that is under way, and who does not.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use crate::support::{
    self, cache,
    feed::{feed, whole},
    inner::{Inner, ask, assert_idle, at_once, client, held, page, read},
    request, settle,
};
use futures_util::future::poll_immediate;
use http::Response;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{Reason, ResponseCacheLayer, Selector};

#[tokio::test(start_paused = true)]
async fn different_keys_do_not_wait_for_each_other() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let mut clients = Vec::new();
    for path in ["/a", "/b", "/a?q", "/a?"] {
        clients.push((path, client(&service, request("GET", path, &[])).await));
    }
    let other_host = request("GET", "/a", &[("host", "other")]);
    clients.push(("/a", client(&service, other_host).await));
    assert_eq!(inner.calls(), 5);
    assert_eq!(cache.stats().flights(), 5);
    permits.add_permits(5);
    for (n, (path, client)) in clients.into_iter().enumerate() {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), format!("call {}: GET {path}", n + 1));
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_with_no_cache_joins_only_a_flight_that_started_after_it_came() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let no_cache = || request("GET", "/page", &[("cache-control", "no-cache")]);
    let before = client(&service, page()).await;
    let mut demanding = Vec::new();
    for _ in 0..10 {
        demanding.push(client(&service, no_cache()).await);
    }
    assert!(inner.calls() >= 2, "the older flight is not good enough");
    permits.add_permits(20);
    assert_eq!(
        at_once("an answer", before).await.unwrap().complete(),
        "call 1: GET /page"
    );
    // The first of them started the second call; those who came after that share a third.
    for (n, demanding) in demanding.into_iter().enumerate() {
        let answer = at_once("an answer", demanding).await.unwrap();
        let call = if n == 0 { 2 } else { 3 };
        assert_eq!(answer.complete(), format!("call {call}: GET /page"));
    }
    assert!(
        inner.calls() <= 3,
        "many at once are collapsed: {}",
        inner.calls()
    );
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn many_requests_with_no_cache_that_find_a_stored_answer_cost_few_calls() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    permits.add_permits(1);
    assert_eq!(
        read(ask(&service, page()).await).await.complete(),
        "call 1: GET /page"
    );
    let no_cache = || request("GET", "/page", &[("cache-control", "no-cache")]);
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(client(&service, no_cache()).await);
    }
    permits.add_permits(50);
    for client in clients {
        let answer = at_once("an answer", client).await.unwrap();
        assert_ne!(answer.complete(), "call 1: GET /page");
    }
    assert!((2..=3).contains(&inner.calls()), "{}", inner.calls());
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_joins_the_flight_of_a_get() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let get = client(&service, page()).await;
    let head = client(&service, request("HEAD", "/page", &[])).await;
    assert_eq!(inner.calls(), 1);
    permits.add_permits(1);
    let get = at_once("an answer", get).await.unwrap();
    let head = at_once("a head", head).await.unwrap();
    assert_eq!(get.complete(), "call 1: GET /page");
    assert_eq!((head.field("x-call"), head.complete()), ("1", ""));
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_alone_is_forwarded_alone_and_not_stored() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let one = client(&service, request("HEAD", "/page", &[])).await;
    let two = client(&service, request("HEAD", "/page", &[])).await;
    let get = client(&service, page()).await;
    assert_eq!(inner.calls(), 3, "nobody waits for a HEAD");
    permits.add_permits(3);
    let one = at_once("a head", one).await.unwrap();
    let two = at_once("a head", two).await.unwrap();
    assert_eq!((one.field("x-call"), two.field("x-call")), ("1", "2"));
    let get = at_once("an answer", get).await.unwrap();
    assert_eq!(get.complete(), "call 3: GET /page");
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(hit.complete(), "call 3: GET /page");
    assert_eq!(cache.stats().stored(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_during_a_fill_wins() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let before = client(&service, page()).await;
    cache.invalidate(Selector::resource("test", "/page"));
    let after = client(&service, page()).await;
    assert_eq!(
        inner.calls(),
        2,
        "what began before may have read the old data"
    );
    permits.add_permits(3);
    assert_eq!(
        at_once("an answer", before).await.unwrap().complete(),
        "call 1: GET /page"
    );
    assert_eq!(
        at_once("an answer", after).await.unwrap().complete(),
        "call 2: GET /page"
    );
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(hit.complete(), "call 2: GET /page");
    assert_eq!(hit.field("x-cache"), "HIT");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_while_the_body_is_read_wins() {
    for selector in [Selector::all(), Selector::resource("test", "/page")] {
        let (cache, _) = cache();
        let (hand, body) = feed(None);
        let first = std::sync::Mutex::new(Some(body));
        let inner: Inner = Inner::new(move |call, _| {
            let body = first.lock().unwrap().take();
            let body = body.unwrap_or_else(|| whole(format!("new {call}")));
            std::future::ready(Ok(Response::new(body)))
        });
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        let before = client(&service, page()).await;
        hand.data("old");
        settle().await;
        cache.invalidate(selector);
        drop(hand);
        assert_eq!(
            at_once("an answer", before).await.unwrap().complete(),
            "old"
        );
        let after = read(ask(&service, page()).await).await;
        assert_eq!(
            (after.field("x-cache"), after.complete()),
            ("MISS", "new 2")
        );
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_of_something_else_leaves_a_fill_alone() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let before = client(&service, page()).await;
    for (authority, path) in [("test", "/other"), ("other", "/page"), ("test", "/page?q")] {
        cache.invalidate(Selector::resource(authority, path));
    }
    let after = client(&service, page()).await;
    assert_eq!(inner.calls(), 1);
    permits.add_permits(1);
    for client in [before, after] {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), "call 1: GET /page");
    }
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(hit.field("x-cache"), "HIT");
}

#[tokio::test(start_paused = true)]
async fn four_encodings_at_once_cost_at_most_five_calls() {
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |_, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let coding = request.headers()["accept-encoding"].clone();
            let body = whole(format!("for {}", coding.to_str().unwrap()));
            Ok(Response::builder()
                .header("vary", "Accept-Encoding")
                .header("content-encoding", coding)
                .body(body)
                .unwrap())
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let codings = ["gzip", "br", "zstd", "identity"];
    let ask_for = |n: usize| request("GET", "/page", &[("accept-encoding", codings[n % 4])]);
    let mut clients = Vec::new();
    for n in 0..40 {
        clients.push(client(&service, ask_for(n)).await);
    }
    assert_eq!(
        inner.calls(),
        1,
        "before the head nobody knows that it varies"
    );
    permits.add_permits(40);
    for (n, client) in clients.into_iter().enumerate() {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), format!("for {}", codings[n % 4]));
        assert_eq!(answer.field("content-encoding"), codings[n % 4]);
    }
    let calls = inner.calls();
    assert!((4..=5).contains(&calls), "{calls} calls");
    for (n, coding) in codings.into_iter().enumerate() {
        let hit = read(ask(&service, ask_for(n)).await).await;
        assert_eq!(hit.field("x-cache"), "HIT");
        assert_eq!(hit.complete(), format!("for {coding}"));
    }
    assert_eq!(inner.calls(), calls);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_known_vary_makes_a_flight_for_each_variant_from_the_start() {
    let (cache, clock) = cache();
    let permits = Arc::new(Semaphore::new(1));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |_, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let theme = request.headers()["x-theme"].to_str().unwrap().to_owned();
            Ok(Response::builder()
                .header("vary", "X-Theme")
                .body(whole(theme))
                .unwrap())
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let ask_for = |theme| request("GET", "/page", &[("x-theme", theme)]);
    assert_eq!(
        read(ask(&service, ask_for("dark")).await).await.complete(),
        "dark"
    );
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(("light", client(&service, ask_for("light")).await));
        clients.push(("plain", client(&service, ask_for("plain")).await));
    }
    assert_eq!(
        inner.calls(),
        3,
        "one each, at once, since the key is known to vary"
    );
    permits.add_permits(20);
    for (theme, client) in clients {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), theme);
    }
    assert_eq!(inner.calls(), 3);
    clock.advance(Duration::from_secs(1));
    let hit = read(ask(&service, ask_for("dark")).await).await;
    assert_eq!((hit.field("x-cache"), hit.complete()), ("HIT", "dark"));
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_credential_or_a_cookie_waits_for_nobody_and_nobody_for_it() {
    #[rustfmt::skip]
    let rows = [
        ("authorization", "Bearer of one", Reason::Authorization),
        ("cookie", "session=of one", Reason::Cookie),
        ("x-api-key", "of one", Reason::Credential),
    ];
    for (name, value, reason) in rows {
        let (cache, _) = cache();
        let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
        let own = || request("GET", "/page", &[(name, value)]);
        let public = client(&service, page()).await;
        let one = client(&service, own()).await;
        let two = client(&service, own()).await;
        assert_eq!(inner.calls(), 3, "{name}");
        permits.add_permits(3);
        let seen = [public, one, two];
        for (n, client) in seen.into_iter().enumerate() {
            let answer = at_once("an answer", client).await.unwrap();
            assert_eq!(
                answer.complete(),
                format!("call {}: GET /page", n + 1),
                "{name}"
            );
        }
        assert_eq!(cache.stats().bypasses(reason), 2, "{name}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_is_bounded_at_16384_for_one_key() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let _starter = client(&service, page()).await;
    let mut waiting = Vec::new();
    let mut last = None;
    for n in 0..=16_384 {
        let mut asking = Box::pin(ask(&service, page()));
        assert!(poll_immediate(asking.as_mut()).await.is_none());
        if n < 16_384 {
            assert_eq!(inner.calls(), 1, "request {n} waits");
            waiting.push(asking);
        } else {
            last = Some(asking);
        }
    }
    assert_eq!(inner.calls(), 2, "one more goes on alone");
    permits.add_permits(2);
    let last = read(at_once("its own answer", last.unwrap()).await).await;
    assert_eq!(last.complete(), "call 2: GET /page");
    for asking in waiting {
        let answer = read(at_once("an answer", asking).await).await;
        assert_eq!(answer.complete(), "call 1: GET /page");
    }
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test]
async fn a_future_that_is_never_polled_leaves_nothing_behind() {
    let (cache, _) = cache();
    let inner: Inner =
        Inner::new(|call, _| async move { Ok(Response::new(whole(format!("call {call}")))) });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    for _ in 0..3 {
        let mut service = service.clone();
        poll_fn(|cx| Poll::Ready(service.poll_ready(cx).is_ready())).await;
        drop(service.call(page()));
    }
    settle().await;
    let answer = read(service.clone().oneshot(page()).await.unwrap()).await;
    assert_eq!(answer.complete(), "call 1");
    assert!(inner.calls() <= 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn caches_do_not_share_flights() {
    let (one, two) = (support::in_memory(), support::in_memory());
    let (permits, inner, service) = held(ResponseCacheLayer::new(&one));
    let other = ResponseCacheLayer::new(&two).layer(inner.clone());
    let of_one = client(&service, page()).await;
    let of_two = client(&other, page()).await;
    assert_eq!(inner.calls(), 2);
    permits.add_permits(2);
    assert_eq!(
        at_once("an answer", of_one).await.unwrap().complete(),
        "call 1: GET /page"
    );
    assert_eq!(
        at_once("an answer", of_two).await.unwrap().complete(),
        "call 2: GET /page"
    );
    assert_idle(&one).await;
    assert_idle(&two).await;
}
