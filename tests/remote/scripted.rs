//! A remote store behind memory: when it is asked, what memory does on its own, and what is owed
//! to it.

use std::time::Duration;

use crate::support::{
    self, App, Origin, fake_store::FakeStore, get, get_with, request, send, settle,
};
use axum::body::Body;
use http::Response;
use tower_response_cache::{
    BreakerState, Cache, CacheBuilder, Link, ManualClock, ResponseCacheLayer, Selector,
};

const DEADLINE: Duration = Duration::from_millis(50);

fn builder(store: &FakeStore, clock: &ManualClock) -> CacheBuilder {
    Cache::builder().store(store.clone()).clock(clock.clone())
}

/// A node that stored `/a`, and all that is needed for another one.
async fn stored() -> (FakeStore, ManualClock, Origin, Cache, App) {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    assert_eq!(get(&app, "/a").await.text(), "1 GET /a");
    settle().await;
    assert_eq!(store.writes(), 1);
    (store, clock, origin, cache, app)
}

#[tokio::test]
async fn after_five_seconds_the_store_is_asked_before_memory_answers() {
    let (store, clock, origin, _, app) = stored().await;
    let reads = store.reads();
    clock.advance(Duration::from_millis(4_999));
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(store.reads(), reads);
    clock.advance(Duration::from_millis(1));
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.field("age")), ("HIT", "5"));
    assert_eq!(store.reads(), reads + 1);
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(store.reads(), reads + 1, "memory is good for another 5 s");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn what_the_store_has_no_more_is_not_served_from_memory() {
    let (store, clock, origin, _, app) = stored().await;
    store.frames().clear();
    assert!(get(&app, "/a").await.is_hit(), "nobody has asked yet");
    clock.advance(Duration::from_secs(5));
    assert_eq!(get(&app, "/a").await.text(), "2 GET /a");
    settle().await;
    assert_eq!(store.frames().len(), 1);
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn what_is_known_to_be_gone_does_not_come_back_when_the_store_is_out_of_reach() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|call, _| async move {
        let mut response = Response::new(Body::from(call.to_string()));
        if call > 1 {
            response
                .headers_mut()
                .insert("cache-control", "no-store".parse().unwrap());
        }
        response
    });
    let (_, app) = store.node(&clock, &origin);
    assert_eq!(get(&app, "/a").await.text(), "1");
    settle().await;
    store.frames().clear();
    clock.advance(Duration::from_secs(5));
    assert_eq!(get(&app, "/a").await.text(), "2");
    store.set_link(Link::Connecting(Some("gone".into())));
    assert_eq!(get(&app, "/a").await.text(), "3");
}

#[tokio::test]
async fn what_another_node_stored_in_the_meantime_replaces_memory() {
    let (store, clock, origin, _, one) = stored().await;
    let (_, two) = store.node(&clock, &origin);
    let no_cache = [("cache-control", "no-cache")];
    assert_eq!(get_with(&two, "/a", &no_cache).await.text(), "2 GET /a");
    settle().await;
    assert_eq!(get(&one, "/a").await.text(), "1 GET /a");
    clock.advance(Duration::from_secs(5));
    let answer = get(&one, "/a").await;
    assert_eq!((answer.text(), answer.field("age")), ("2 GET /a", "5"));
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn memory_answers_for_a_store_that_does_not() {
    let (store, clock, origin, cache, app) = stored().await;
    clock.advance(Duration::from_secs(5));
    store.hang(true);
    let before = tokio::time::Instant::now();
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(before.elapsed(), DEADLINE);
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(before.elapsed(), DEADLINE, "not asked again for 5 s");
    store.set_link(Link::Connecting(None));
    clock.advance(Duration::from_secs(20));
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(before.elapsed(), DEADLINE, "there is nobody to ask");
    clock.advance(Duration::from_secs(35));
    assert_eq!(
        get(&app, "/a").await.text(),
        "2 GET /a",
        "but to its end only"
    );
    assert_eq!(origin.calls(), 2);
    assert_eq!(cache.stats().remote().timeouts(), 1);
}

#[tokio::test]
async fn what_the_store_did_not_take_lives_in_memory_to_its_end() {
    for refuses in [false, true] {
        let (store, clock) = (FakeStore::default(), ManualClock::new());
        let origin = Origin::with_fields(&[]);
        let (_, app) = store.node(&clock, &origin);
        store.refuse_writes(refuses);
        store.fail(!refuses);
        get(&app, "/a").await;
        settle().await;
        store.fail(false);
        clock.advance(Duration::from_secs(59));
        assert!(get(&app, "/a").await.is_hit(), "refused: {refuses}");
        assert_eq!(origin.calls(), 1);
    }
}

#[tokio::test]
async fn what_fills_nothing_is_answered_from_the_store() {
    let (store, clock, origin, ..) = stored().await;
    for (method, fields) in [
        ("HEAD", &[][..]),
        ("GET", &[("range", "bytes=0-1")][..]),
        ("GET", &[("if-none-match", "\"x\"")][..]),
        ("GET", &[("cache-control", "only-if-cached")][..]),
        ("HEAD", &[("cache-control", "only-if-cached")][..]),
    ] {
        let (_, app) = store.node(&clock, &origin);
        let answer = send(&app, request(method, "/a", fields)).await;
        assert_eq!(answer.x_cache(), "HIT", "{method} {fields:?}");
        let reads = store.reads();
        let other = send(&app, request(method, "/b", fields)).await;
        assert_ne!(other.x_cache(), "HIT", "{method} {fields:?}");
        assert_eq!(store.reads(), reads + 1, "{method} {fields:?}");
    }
    assert_eq!(origin.calls(), 4, "/b, but for only-if-cached");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_heads_of_what_only_the_store_has_are_one_read() {
    let (store, clock, origin, ..) = stored().await;
    let (_, app) = store.node(&clock, &origin);
    let reads = store.reads();
    // So that all have come before it answers the first.
    store.yield_before_answers(10);
    let heads = (0..1000).map(|_| send(&app, request("HEAD", "/a", &[])));
    let answers = futures_util::future::join_all(heads).await;
    assert!(answers.iter().all(support::Answer::is_hit));
    assert_eq!(store.reads(), reads + 1);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn all_layers_together_wait_no_longer_than_one_deadline() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let cache = builder(&store, &clock).build().unwrap();
    let layer = ResponseCacheLayer::new(&cache);
    let inner = origin.behind(&layer);
    let app = support::app(&layer, support::app(&layer.clone().ignore_host(), inner));
    store.hang(true);
    let before = tokio::time::Instant::now();
    for path in ["/a", "/b", "/c"] {
        get(&app, path).await;
    }
    assert_eq!(before.elapsed(), 3 * DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_store_in_trouble_is_left_alone_and_tried_again() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    store.hang(true);
    let before = tokio::time::Instant::now();
    for n in 0..20 {
        get(&app, &format!("/{n}")).await;
    }
    assert_eq!(before.elapsed(), 5 * DEADLINE);
    assert_eq!(cache.health().reads(), BreakerState::Open);
    let stats = cache.stats();
    assert_eq!(stats.remote().reads(), 5);
    assert!(stats.remote().skipped() >= 15, "{stats}");
    assert!(!cache.health().is_good());
    store.hang(false);
    tokio::time::advance(Duration::from_millis(800)).await;
    get(&app, "/again").await;
    settle().await;
    assert_eq!(cache.health().reads(), BreakerState::Closed);
    tokio::time::advance(Duration::from_millis(800)).await;
    get(&app, "/and-again").await;
    settle().await;
    assert!(cache.health().is_good(), "{}", cache.health());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_back_is_tried_at_once() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    store.hang(true);
    for n in 0..20 {
        get(&app, &format!("/{n}")).await;
    }
    store.set_link(Link::Connecting(Some("lost".into())));
    get(&app, "/x").await;
    store.hang(false);
    store.set_link(Link::Up);
    let reads = store.reads();
    get(&app, "/y").await;
    assert_eq!(store.reads(), reads + 1);
    assert_eq!(cache.health().reads(), BreakerState::Closed);
}

#[tokio::test]
async fn a_store_that_takes_nothing_is_read_all_the_same() {
    let (store, clock, origin, ..) = stored().await;
    let (cache, app) = store.node(&clock, &origin);
    store.refuse_writes(true);
    for n in 0..10 {
        get(&app, &format!("/{n}")).await;
        settle().await;
    }
    assert_eq!(cache.health().writes(), BreakerState::Open);
    assert_eq!(cache.health().reads(), BreakerState::Closed);
    assert_eq!(get(&app, "/a").await.text(), "1 GET /a");
}

#[tokio::test]
async fn an_invalidated_resource_is_deleted_in_the_store_under_every_layers_key() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let cache = builder(&store, &clock).build().unwrap();
    let layer = ResponseCacheLayer::new(&cache);
    let apps = [
        origin.behind(&layer),
        origin.behind(&layer.clone().ignore_host()),
        origin.behind(&layer.query(tower_response_cache::Query::ignore(["utm_*"]))),
    ];
    for app in &apps {
        get(app, "/a?b=1").await;
        get(app, "/other").await;
    }
    settle().await;
    assert_eq!(store.frames().len(), 6);
    // By a node that has never seen them.
    let other = builder(&store, &clock).build().unwrap();
    let layer = ResponseCacheLayer::new(&other);
    let _apps = [
        origin.behind(&layer),
        origin.behind(&layer.clone().ignore_host()),
        origin.behind(&layer.query(tower_response_cache::Query::ignore(["utm_*"]))),
    ];
    other.invalidate(Selector::resource("test", "/a?b=1"));
    settle().await;
    assert_eq!(store.frames().len(), 3);
}

#[tokio::test]
async fn an_unsafe_method_deletes_in_the_store_what_it_invalidates() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[("location", "/b"), ("content-location", "http://other/c")]);
    let (_, app) = store.node(&clock, &origin);
    // By a node that has never seen them, and whether it is switched on or not.
    let (cache, other) = store.node(&clock, &origin);
    for enabled in [true, false] {
        cache.set_enabled(enabled);
        for path in ["/a", "/b", "/c"] {
            get(&app, path).await;
        }
        settle().await;
        assert_eq!(store.frames().len(), 3);
        support::send(&other, support::request("POST", "/a", &[])).await;
        settle().await;
        assert_eq!(store.frames().len(), 1, "enabled: {enabled}");
        clock.advance(Duration::from_secs(61));
        store.frames().clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_owed_until_it_is_done() {
    let (store, _, origin, cache, app) = stored().await;
    store.hang(true);
    cache.invalidate(Selector::resource("test", "/a"));
    settle().await;
    // What is filled anew takes its place, and is not written either.
    store.hang(false);
    store.fail(true);
    assert_eq!(get(&app, "/a").await.text(), "2 GET /a");
    tokio::time::advance(Duration::from_secs(1)).await;
    settle().await;
    assert_eq!(store.frames().len(), 1);
    store.fail(false);
    for _ in 0..20 {
        tokio::time::advance(Duration::from_millis(500)).await;
        settle().await;
    }
    assert!(store.frames().is_empty());
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn what_was_invalidated_while_it_waited_is_not_written() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    store.set_link(Link::Connecting(None));
    get(&app, "/a").await;
    settle().await;
    cache.invalidate(Selector::all());
    store.set_link(Link::Up);
    support::eventually("the outbox is empty", || {
        cache.stats().remote().outbox_bytes() == 0
    })
    .await;
    assert!(store.frames().is_empty());
    assert_eq!(store.writes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_written_is_bounded_in_bytes() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|_, _| async { Response::new(Body::from(vec![b'x'; 500_000])) });
    let (cache, app) = store.node(&clock, &origin);
    store.set_link(Link::Connecting(None));
    for n in 0..100 {
        get(&app, &format!("/{n}")).await;
    }
    let stats = cache.stats();
    let waiting = stats.remote().outbox_bytes();
    assert!((15 << 20..=16 << 20).contains(&waiting), "{waiting}");
    assert!(stats.remote().dropped() > 60, "{stats}");
    // What never finds a link is given up.
    for _ in 0..20 {
        tokio::time::advance(Duration::from_millis(100)).await;
        settle().await;
    }
    assert_eq!(cache.stats().remote().outbox_bytes(), 0);
}

#[tokio::test]
async fn closing_sends_what_waits_and_ends_the_link() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    for n in 0..100 {
        get(&app, &format!("/{n}")).await;
    }
    cache.close().await;
    assert_eq!(store.frames().len(), 100);
    assert_eq!(store.closes(), 1);
    let reads = store.reads();
    clock.advance(Duration::from_secs(10));
    assert!(get(&app, "/1").await.is_hit(), "memory only from now on");
    assert_eq!(get(&app, "/new").await.x_cache(), "MISS");
    assert_eq!(store.reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn neither_connecting_nor_closing_waits_for_ever() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let cache = builder(&store, &clock).build().unwrap();
    store.never_end();
    let before = tokio::time::Instant::now();
    let error = cache.connect().await.unwrap_err().to_string();
    assert!(error.contains("did not answer within 500 ms"), "{error}");
    assert!(before.elapsed() <= Duration::from_millis(600));
    cache.close().await;
    assert!(before.elapsed() <= Duration::from_secs(6));
}

#[tokio::test]
async fn named_partitions_reach_the_store_and_are_kept_apart() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let node = || {
        let cache = builder(&store, &clock).build().unwrap();
        let layer = ResponseCacheLayer::new(&cache).partition_by("tenant", |head| {
            Some(head.headers.get("x-tenant")?.to_str().ok()?.to_owned())
        });
        origin.behind(&layer)
    };
    let one = node();
    get_with(&one, "/a", &[("x-tenant", "1")]).await;
    settle().await;
    let two = node();
    let same = get_with(&two, "/a", &[("x-tenant", "1")]).await;
    assert_eq!((same.x_cache(), same.text()), ("HIT", "1 GET /a"));
    let other = get_with(&two, "/a", &[("x-tenant", "2")]).await;
    assert_eq!((other.x_cache(), other.text()), ("MISS", "2 GET /a"));
    let plain = origin.behind(&ResponseCacheLayer::new(
        builder(&store, &clock).build().unwrap(),
    ));
    assert_eq!(get(&plain, "/a").await.text(), "3 GET /a");
}

#[tokio::test]
async fn a_store_that_panics_fails_no_request() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    store.panic(true);
    assert_eq!(get(&app, "/a").await.x_cache(), "MISS");
    settle().await;
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(cache.stats().store_errors(), 2);
    store.panic(false);
    get(&app, "/b").await;
    settle().await;
    assert_eq!(store.frames().len(), 1);
}

#[tokio::test]
async fn a_starter_that_leaves_at_any_moment_of_the_look_up_leaves_nothing_behind() {
    let (store, clock, origin, ..) = stored().await;
    for polls in 0..12 {
        let (cache, app) = store.node(&clock, &origin);
        store.yield_before_answers(4);
        let mut starter = Box::pin(get(&app, "/a"));
        for _ in 0..polls {
            let poll = futures_util::poll!(starter.as_mut());
            if poll.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(starter);
        let answer = get(&app, "/a").await;
        assert_eq!((answer.x_cache(), answer.text()), ("HIT", "1 GET /a"));
        support::eventually("no flight is left", || cache.stats().flights() == 0).await;
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn an_invalidation_during_the_look_up_wins() {
    let (store, clock, origin, ..) = stored().await;
    let (cache, app) = store.node(&clock, &origin);
    store.yield_before_answers(4);
    let mut request = Box::pin(get(&app, "/a"));
    assert!(futures_util::poll!(request.as_mut()).is_pending());
    cache.invalidate(Selector::resource("test", "/a"));
    assert_eq!(request.await.text(), "2 GET /a");
    assert_eq!(get(&app, "/a").await.text(), "2 GET /a");
}

#[tokio::test]
async fn a_seal_that_panics_fails_no_request() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let cache = builder(&store, &clock)
        .memory_ttl(Duration::ZERO)
        .seal(|frame| frame, |_| panic!("told to panic"))
        .build()
        .unwrap();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/a").await;
    settle().await;
    assert!(get(&app, "/a").await.is_hit(), "from memory");
    assert_eq!(store.writes(), 1);
    assert_eq!(cache.stats().store_errors(), 1);
}

#[tokio::test]
async fn what_the_store_answers_is_used_however_short_memory_answers_on_its_own() {
    let (store, clock, origin, ..) = stored().await;
    let cache = builder(&store, &clock)
        .memory_ttl(Duration::ZERO)
        .build()
        .unwrap();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    store.yield_before_answers(4);
    for turn in 1..=3 {
        // Those who wait for the same look-up use its answer, too.
        let asked = (0..20).map(|_| get(&app, "/a"));
        for answer in futures_util::future::join_all(asked).await {
            assert_eq!((answer.x_cache(), answer.text()), ("HIT", "1 GET /a"));
        }
        assert_eq!(cache.stats().remote().reads(), turn);
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(origin.calls(), 1);
}
