//! What a second reader found about the remote store: lives of zero, many variants at once, debts
//! that nobody can pay, runtimes that are not there.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::support::{
    self, App, Origin, fake_store::FakeStore, get, get_with, request, send, settle,
};
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::join_all;
use http::Response;
use tower_response_cache::{
    Cache, CacheBuilder, Link, ManualClock, ResponseCacheLayer, Selector, Store, StoreError,
    StoreFuture, StoreKey, Stored,
};

fn builder(store: &FakeStore, clock: &ManualClock) -> CacheBuilder {
    Cache::builder().store(store.clone()).clock(clock.clone())
}

/// A clock that has been running for a while, as in every process but the newest.
fn running() -> ManualClock {
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(100));
    clock
}

async fn stored() -> (FakeStore, ManualClock, Origin, Cache, App) {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    assert_eq!(get(&app, "/a").await.text(), "1 GET /a");
    settle().await;
    assert_eq!(store.writes(), 1);
    (store, clock, origin, cache, app)
}

// ---- memory that never answers on its own ----

#[tokio::test]
async fn what_memory_has_no_room_for_is_answered_from_the_store() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::new(|_, _| async {
        Response::builder()
            .header("cache-control", "max-age=60")
            .body(Body::from(vec![b'x'; 80 << 10]))
            .unwrap()
    });
    let (_large, app) = store.node(&clock, &origin);
    assert_eq!(get(&app, "/a").await.x_cache(), "MISS");
    settle().await;
    assert_eq!(store.writes(), 1);
    let cache = builder(&store, &clock).memory(64 << 10).build().unwrap();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let reads = store.reads();
    for (turn, method) in (1..).zip(["GET", "HEAD", "GET"]) {
        assert!(send(&app, request(method, "/a", &[])).await.is_hit());
        assert_eq!(store.reads(), reads + turn, "memory has nothing");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn without_a_life_in_memory_every_request_is_answered_from_the_store() {
    let (store, clock, origin, ..) = stored().await;
    let cache = builder(&store, &clock)
        .memory_ttl(Duration::ZERO)
        .build()
        .unwrap();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for _ in 0..3 {
        let answer = get(&app, "/a").await;
        assert_eq!((answer.x_cache(), answer.text()), ("HIT", "1 GET /a"));
    }
    let reads = store.reads();
    store.yield_before_answers(4);
    let answers = join_all((0..1000).map(|_| get(&app, "/a"))).await;
    assert!(answers.iter().all(support::Answer::is_hit));
    assert_eq!(origin.calls(), 1);
    assert_eq!(store.reads(), reads + 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_life_in_memory_it_still_answers_for_a_store_that_does_not() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let cache = builder(&store, &clock)
        .memory_ttl(Duration::ZERO)
        .build()
        .unwrap();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/a").await;
    settle().await;
    store.hang(true);
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(origin.calls(), 1);
}

// ---- variants ----

#[tokio::test]
async fn many_variants_that_only_the_store_has_are_no_calls_at_all() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[("vary", "accept-language")]);
    let languages: Vec<String> = (0..20).map(|n| format!("x-{n}")).collect();
    let (_, one) = store.node(&clock, &origin);
    for language in &languages {
        get_with(&one, "/a", &[("accept-language", language)]).await;
    }
    settle().await;
    assert_eq!((store.frames().len(), origin.calls()), (21, 20));
    let (_, two) = store.node(&clock, &origin);
    store.yield_before_answers(4);
    let requests = languages
        .iter()
        .cycle()
        .take(200)
        .map(|language| async { get_with(&two, "/a", &[("accept-language", language)]).await });
    let answers = join_all(requests).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.text(), format!("{} GET /a", n % 20 + 1));
    }
    assert_eq!(origin.calls(), 20);
}

// ---- marks, and what is known to be gone ----

#[tokio::test]
async fn what_is_fresh_in_memory_is_not_given_up_because_one_answer_was_not_storable() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::new(|call, _| async move {
        let mut response = Response::new(Body::from(call.to_string()));
        if call > 1 {
            let no_store = "no-store".parse().unwrap();
            response.headers_mut().insert("cache-control", no_store);
        }
        response
    });
    let (_, app) = store.node(&clock, &origin);
    get(&app, "/a").await;
    settle().await;
    let no_cache = [("cache-control", "no-cache")];
    assert_eq!(get_with(&app, "/a", &no_cache).await.text(), "2");
    assert!(get(&app, "/a").await.is_hit(), "memory alone");
    clock.advance(Duration::from_secs(5));
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "1"));
}

#[tokio::test]
async fn what_was_gone_and_is_back_in_the_store_is_a_hit() {
    let (store, clock, origin, _, one) = stored().await;
    let (_, two) = store.node(&clock, &origin);
    store.frames().clear();
    clock.advance(Duration::from_secs(5));
    // Learns that it is gone, and fills nothing.
    let head = send(&one, request("HEAD", "/a", &[])).await;
    assert_eq!(head.x_cache(), "MISS");
    let filled = get(&two, "/a").await;
    settle().await;
    let answer = get(&one, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", filled.text()));
}

// ---- debts ----

/// Hands on, and counts how often it is asked for its link.
#[derive(Debug, Clone, Default)]
struct Watched {
    inner: FakeStore,
    links: Arc<AtomicUsize>,
}

impl Store for Watched {
    fn get<'a>(&'a self, key: &'a StoreKey<'a>, limit: usize) -> StoreFuture<'a, Option<Stored>> {
        self.inner.get(key, limit)
    }
    fn set<'a>(
        &'a self,
        key: &'a StoreKey<'a>,
        frame: Bytes,
        until: SystemTime,
    ) -> StoreFuture<'a, ()> {
        self.inner.set(key, frame, until)
    }
    fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()> {
        self.inner.delete(key)
    }
    fn link(&self) -> Link {
        self.links.fetch_add(1, Ordering::SeqCst);
        self.inner.link()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_to_a_store_out_of_reach_costs_next_to_nothing() {
    let store = Watched::default();
    let cache = Cache::builder().store(store.clone()).build().unwrap();
    let origin = Origin::with_fields(&[]);
    let _app = origin.behind(&ResponseCacheLayer::new(&cache));
    store.inner.set_link(Link::Connecting(Some("away".into())));
    for n in 0..1000 {
        cache.invalidate(Selector::resource("test", &format!("/{n}")));
    }
    settle().await;
    let before = store.links.load(Ordering::SeqCst);
    for _ in 0..100 {
        tokio::time::advance(Duration::from_millis(100)).await;
        settle().await;
    }
    let asked = store.links.load(Ordering::SeqCst) - before;
    assert!(asked < 5_000, "{asked} times in 10 seconds");
    store.inner.set_link(Link::Up);
    tokio::time::advance(Duration::from_secs(1)).await;
    settle().await;
    assert_eq!(store.inner.deletes(), 6000, "each by scheme and depth");
}

#[tokio::test(start_paused = true)]
async fn a_closed_store_is_left_alone() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[]);
    let (cache, _app) = store.node(&clock, &origin);
    store.fail(true);
    cache.invalidate(Selector::resource("test", "/a"));
    settle().await;
    cache.close().await;
    cache.close().await;
    assert_eq!(store.closes(), 1);
    let deletes = store.deletes();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(1)).await;
        settle().await;
    }
    assert_eq!(store.deletes(), deletes);
    assert_eq!(cache.stats().remote().outbox_bytes(), 0);
}

/// Refuses everything, and tells when it is gone.
#[derive(Debug)]
struct Refusing(#[expect(dead_code)] Arc<()>);

impl Store for Refusing {
    fn get<'a>(&'a self, _: &'a StoreKey<'a>, _: usize) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async { Ok(None) })
    }
    fn set<'a>(&'a self, _: &'a StoreKey<'a>, _: Bytes, _: SystemTime) -> StoreFuture<'a, ()> {
        Box::pin(async { Err(StoreError::refused("no")) })
    }
    fn delete<'a>(&'a self, _: &'a StoreKey<'a>) -> StoreFuture<'a, ()> {
        Box::pin(async { Err(StoreError::refused("no")) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_dropped_takes_its_store_along() {
    let life = Arc::new(());
    let store = Refusing(life.clone());
    let cache = Cache::builder().store(store).build().unwrap();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/a").await;
    cache.invalidate(Selector::resource("test", "/a"));
    settle().await;
    drop((cache, app));
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(1)).await;
        settle().await;
    }
    assert_eq!(Arc::strong_count(&life), 1, "a task still tries");
}

#[tokio::test(start_paused = true)]
async fn an_owed_deletion_takes_no_room_for_the_body_it_once_was() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::new(|_, _| async { Response::new(Body::from(vec![b'x'; 500_000])) });
    let (cache, app) = store.node(&clock, &origin);
    get(&app, "/a").await;
    settle().await;
    store.fail(true);
    cache.invalidate(Selector::resource("test", "/a"));
    get(&app, "/a").await;
    settle().await;
    let waiting = cache.stats().remote().outbox_bytes();
    assert!(waiting < 10_000, "{waiting}");
}

// ---- runtimes ----

fn in_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn a_deletion_that_was_asked_for_outside_of_any_runtime_is_done_by_the_next_look_up() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    in_a_runtime(async {
        get(&app, "/a").await;
        settle().await;
    });
    assert_eq!(store.frames().len(), 1);
    cache.invalidate(Selector::resource("test", "/a"));
    in_a_runtime(async {
        let only_if_cached = [("cache-control", "only-if-cached")];
        get_with(&app, "/other", &only_if_cached).await;
        settle().await;
    });
    assert!(store.frames().is_empty());
}

#[test]
fn closing_does_what_was_asked_for_outside_of_any_runtime() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    in_a_runtime(async {
        get(&app, "/a").await;
        settle().await;
    });
    cache.invalidate(Selector::resource("test", "/a"));
    in_a_runtime(async {
        tokio::time::pause();
        cache.close().await;
    });
    assert!(store.frames().is_empty());
}

// ---- what is the same for all ----

#[test]
fn builder_and_cache_can_be_shared_between_threads() {
    fn can_be<T: Send + Sync>() {}
    can_be::<CacheBuilder>();
    can_be::<Cache>();
    can_be::<ResponseCacheLayer>();
    can_be::<tower_response_cache::Health>();
}

// ---- deletions ----

#[tokio::test]
async fn an_invalidation_also_deletes_what_came_through_a_proxy() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    get_with(&app, "/a", &[("x-forwarded-proto", "https")]).await;
    settle().await;
    cache.invalidate(Selector::resource("test", "/a"));
    settle().await;
    assert!(store.frames().is_empty(), "still there for other nodes");
}

#[tokio::test]
async fn a_variant_does_not_come_back_with_the_next_one() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[("vary", "accept-language")]);
    let (cache, app) = store.node(&clock, &origin);
    for language in ["en", "de"] {
        get_with(&app, "/a", &[("accept-language", language)]).await;
    }
    settle().await;
    cache.invalidate(Selector::resource("test", "/a"));
    settle().await;
    get_with(&app, "/a", &[("accept-language", "en")]).await;
    settle().await;
    let (_, other) = store.node(&clock, &origin);
    let answer = get_with(&other, "/a", &[("accept-language", "de")]).await;
    assert_eq!(answer.text(), "4 GET /a", "2 was invalidated");
}

#[tokio::test]
async fn a_node_that_has_just_started_deletes_what_nested_layers_stored() {
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[]);
    let node = || {
        let cache = builder(&store, &clock).build().unwrap();
        let layer = ResponseCacheLayer::new(&cache);
        let inner = origin.behind(&layer);
        (cache, support::app(&layer, inner))
    };
    let (_, app) = node();
    get(&app, "/a").await;
    settle().await;
    assert_eq!(store.frames().len(), 1);
    let (other, _app) = node();
    other.invalidate(Selector::resource("test", "/a"));
    settle().await;
    assert!(store.frames().is_empty());
}

#[tokio::test]
async fn what_another_node_deleted_is_served_stale_only_by_who_asks_for_it_again() {
    let stale = "max-age=10, stale-while-revalidate=600";
    let (store, clock) = (FakeStore::default(), running());
    let origin = Origin::with_fields(&[("cache-control", stale)]);
    let (_, one) = store.node(&clock, &origin);
    let (other, _) = store.node(&clock, &origin);
    get(&one, "/a").await;
    settle().await;
    clock.advance(Duration::from_secs(20));
    other.invalidate(Selector::resource("test", "/a"));
    settle().await;
    assert!(store.frames().is_empty(), "it is deleted there");
    // These would not bring a newer one, ever.
    let only = [("cache-control", "only-if-cached")];
    assert_eq!(get_with(&one, "/a", &only).await.status.as_u16(), 504);
    assert_eq!(
        send(&one, request("HEAD", "/a", &[])).await.x_cache(),
        "MISS"
    );
}

// ---- what is stale ----

#[tokio::test]
async fn what_is_known_to_be_gone_is_not_served_stale_either() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|call, _| {
        const WINDOWS: &str = "max-age=20, stale-while-revalidate=100, stale-if-error=100";
        let (status, said) = match call {
            1 => (200, WINDOWS),
            2 => (200, "no-store"),
            _ => (503, ""),
        };
        let response = Response::builder().status(status);
        let response = response.header("cache-control", said);
        std::future::ready(response.body(Body::from(call.to_string())).unwrap())
    });
    let (_, app) = store.node(&clock, &origin);
    get(&app, "/a").await;
    settle().await;
    store.frames().clear();
    clock.advance(Duration::from_secs(6));
    assert_eq!(get(&app, "/a").await.text(), "2", "gone, as it turns out");
    clock.advance(Duration::from_secs(20));
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("MISS", "3"));
}

#[tokio::test]
async fn a_frame_is_kept_for_as_long_as_it_can_be_validated() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|_, request| {
        let mut response = Response::builder().header("cache-control", "max-age=60");
        if request.uri().path() == "/tagged" {
            response = response.header("etag", "\"a\"");
        }
        std::future::ready(response.body(Body::from("body")).unwrap())
    });
    let (_, app) = store.node(&clock, &origin);
    let mut ends = Vec::new();
    for path in ["/plain", "/tagged"] {
        get(&app, path).await;
        settle().await;
        let frames = store.frames();
        let written = frames.values().map(|(_, end)| *end);
        ends.push(written.max().expect("it is written"));
        drop(frames);
    }
    let later = ends[1].duration_since(ends[0]).unwrap();
    assert_eq!(later, Duration::from_secs(3600));
}

#[tokio::test]
async fn a_tag_made_elsewhere_is_not_sent_to_the_handler_either() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|call, request| {
        assert!(!request.headers().contains_key("if-none-match"));
        let is_asked = request.headers().contains_key("if-modified-since");
        assert_eq!(is_asked, call > 1);
        let response = Response::builder()
            .status(if is_asked { 304 } else { 200 })
            .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT");
        let body = if is_asked { "" } else { "body" };
        std::future::ready(response.body(Body::from(body)).unwrap())
    });
    let (_, app) = store.node(&clock, &origin);
    let tag = get(&app, "/a").await.field("etag").to_owned();
    settle().await;
    let (_, other) = store.node(&clock, &origin);
    let hit = get(&other, "/a").await;
    assert_eq!((hit.x_cache(), hit.field("etag")), ("HIT", &*tag));
    clock.advance(Duration::from_secs(61));
    let validated = get(&other, "/a").await;
    assert_eq!((validated.text(), origin.calls()), ("body", 2));
    assert_eq!(validated.field("etag"), tag);
}
