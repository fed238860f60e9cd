//! What is remembered of a route where nothing is storable, and what is not.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{cache, is_on_redis, request, settle};
use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_response_cache::{Cache, CachePolicy, ManualClock, ResponseCacheLayer, Selector};

/// Two routes, `/items/{name}` and `/others/{name}`. What a name begins with says what its answer is;
/// one with `held` waits for a permit.
struct Site {
    app: Router,
    permits: Arc<Semaphore>,
    held: Arc<AtomicUsize>,
    cache: Cache,
    clock: ManualClock,
}

impl Site {
    fn new() -> Self {
        let (cache, clock) = cache();
        let permits = Arc::new(Semaphore::new(0));
        let held: Arc<AtomicUsize> = Arc::default();
        let (gate, count) = (permits.clone(), held.clone());
        let handler = move |Path(name): Path<String>| {
            let (gate, count) = (gate.clone(), count.clone());
            async move {
                if name.contains("held") {
                    count.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                }
                answer(&name)
            }
        };
        let layer = ResponseCacheLayer::new(&cache);
        let app = Router::new()
            .route("/items/{name}", get(handler.clone()).layer(layer.clone()))
            .route("/others/{name}", get(handler).layer(layer));
        Self {
            app,
            permits,
            held,
            cache,
            clock,
        }
    }

    async fn ask(&self, path: &str) {
        self.ask_with(path, &[]).await;
    }

    async fn ask_with(&self, path: &str, fields: &[(&str, &str)]) {
        let asked = self.app.clone().oneshot(request("GET", path, fields));
        asked.await.unwrap().into_body().collect().await.unwrap();
    }

    /// How many of five who ask for a cold key at once are in the handler at the same time.
    async fn in_parallel(&self, path: &str) -> usize {
        assert!(path.contains("held"));
        let before = self.held.load(Ordering::SeqCst);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let asked = self.app.clone().oneshot(request("GET", path, &[]));
            clients.push(tokio::spawn(asked));
            settle().await;
        }
        let calls = self.held.load(Ordering::SeqCst) - before;
        self.permits.add_permits(5);
        for client in clients {
            let response = client.await.unwrap().unwrap();
            response.into_body().collect().await.unwrap();
        }
        self.permits.forget_permits(5);
        calls
    }

    /// So many private pages of a route, each asked for once.
    async fn private(&self, numbers: Range<u32>) {
        for number in numbers {
            self.ask(&format!("/items/private-{number}")).await;
        }
    }
}

fn answer(name: &str) -> Response {
    let what = name.split('-').next().unwrap_or_default();
    match what {
        "private" => [("cache-control", "private")].into_response(),
        "store" => [("cache-control", "no-store")].into_response(),
        "cookie" => [("set-cookie", "session=1")].into_response(),
        "policy" => (CachePolicy::no_store(), "").into_response(),
        "silent" => ().into_response(),
        "missing" => http::StatusCode::NOT_FOUND.into_response(),
        "lost" => (http::StatusCode::NOT_FOUND, [("cache-control", "private")]).into_response(),
        "moved" => (http::StatusCode::FOUND, [("set-cookie", "a=1")]).into_response(),
        "large" => "x".repeat(2 << 20).into_response(),
        "public" => [("cache-control", "public, max-age=10")].into_response(),
        "tagged" => [("cache-control", "max-age=10"), ("etag", "\"1\"")].into_response(),
        // Says nothing of itself or of others.
        _ => http::StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[tokio::test(start_paused = true)]
async fn after_eight_refused_keys_nobody_waits_for_a_cold_key_of_the_route() {
    let site = Site::new();
    site.private(0..7).await;
    // Those known already are no others.
    site.private(0..7).await;
    assert_eq!(site.in_parallel("/items/held-1").await, 1);
    site.private(7..8).await;
    assert_eq!(site.in_parallel("/items/held-2").await, 5);
    assert_eq!(site.in_parallel("/items/held-2").await, 5);
    assert_eq!(site.in_parallel("/others/held-2").await, 1, "another route");
    // After a minute without another it is forgotten.
    site.clock.advance(Duration::from_secs(60));
    assert_eq!(site.in_parallel("/items/held-3").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_storable_head_of_any_key_lifts_it_at_once() {
    let site = Site::new();
    site.private(0..8).await;
    assert_eq!(site.in_parallel("/items/held-1").await, 5);
    site.ask("/items/public-1").await;
    assert_eq!(site.in_parallel("/items/held-1").await, 1);
    // That one was passed on (unless it was looked for in Redis first), and the next is stored.
    if !is_on_redis() {
        assert_eq!(site.cache.stats().stored(), 0);
        site.ask("/items/public-1").await;
    }
    assert_eq!(site.cache.stats().stored(), 1);
    // In between it begins anew.
    site.private(10..17).await;
    site.ask("/items/public-2").await;
    site.private(20..27).await;
    assert_eq!(site.in_parallel("/items/held-1").await, 1);
    site.private(27..28).await;
    assert_eq!(site.in_parallel("/items/held-1").await, 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_key_is_more_than_what_is_known_of_its_route() {
    let site = Site::new();
    site.permits.add_permits(1);
    // Stale, but with a tag, so that it is kept.
    site.ask("/items/tagged-held").await;
    site.private(0..8).await;
    site.clock.advance(Duration::from_secs(11));
    assert_eq!(site.in_parallel("/items/held-1").await, 5);
    assert_eq!(site.in_parallel("/items/tagged-held").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_stored_once_is_not_cold_when_it_was_invalidated() {
    let site = Site::new();
    site.permits.add_permits(1);
    site.ask("/items/public-held").await;
    site.private(0..8).await;
    assert_eq!(site.in_parallel("/items/held-1").await, 5);
    site.cache.invalidate(Selector::path("/items/public-held"));
    assert_eq!(site.in_parallel("/items/public-held").await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_route_is_not_remembered_of_it() {
    let rows = [
        ("private", &[][..], 5),
        ("store", &[], 5),
        ("cookie", &[], 5),
        ("policy", &[], 5),
        // What is not there, moved, too long or broken is that of one key.
        ("missing", &[], 1),
        ("lost", &[], 1),
        ("moved", &[], 1),
        ("large", &[], 1),
        ("broken", &[], 1),
        ("silent", &[], 1),
        // What is for one person says nothing of the others.
        ("silent", &[("cookie", "session=1")], 1),
        ("private", &[("authorization", "Basic YTpi")], 1),
    ];
    for (what, fields, expected) in rows {
        let site = Site::new();
        for number in 0..20 {
            let path = format!("/items/{what}-{number}");
            site.ask_with(&path, fields).await;
        }
        let calls = site.in_parallel("/items/held-1").await;
        assert_eq!(calls, expected, "{what} {fields:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_ask_for_pages_of_such_a_route_are_all_in_the_handler_at_once() {
    let site = Site::new();
    site.private(0..8).await;
    let mut clients = Vec::new();
    for number in 0..100 {
        let path = format!("/items/private-held-{}", number % 10);
        let asked = site.app.clone().oneshot(request("GET", &path, &[]));
        clients.push(tokio::spawn(asked));
    }
    settle().await;
    assert_eq!(site.held.load(Ordering::SeqCst), 100);
    site.permits.add_permits(100);
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap().status(), 200);
    }
}
