//! Invalidation where caches share a remote store: what one has stored, another one selects by its tags.

use std::time::Duration;

use tower_response_cache::{
    Cache, HonoredDirectives, Link, ManualClock, ResponseCacheLayer, Selector, Tags,
};

use crate::support::{
    self, App, Origin, fake_store::FakeStore, get, get_with, scripted::response, settle,
};

/// Each answer has a tag and a group.
fn tagged() -> Origin {
    Origin::new(|call, _| {
        let fields = [("cache-groups", "\"g\"")];
        let mut response = response(200, &fields, format!("{call}"));
        response.extensions_mut().insert(Tags::new(["t"]));
        std::future::ready(response)
    })
}

/// A cache in front of the store, whose responses are fresh for a minute, and stand in for failures for half of one.
fn node(store: &FakeStore, clock: &ManualClock, origin: &Origin) -> (Cache, App) {
    let builder = Cache::builder().store(store.clone()).clock(clock.clone());
    let cache = builder.build().unwrap();
    let layer = ResponseCacheLayer::new(&cache)
        .ttl(Duration::from_secs(60))
        .stale_if_error(Duration::from_secs(30))
        .request_directives(HonoredDirectives::All)
        .jitter(0.0);
    (cache, origin.behind(&layer))
}

/// `/a`, stored by one cache.
async fn stored() -> (FakeStore, ManualClock, Origin, Cache, App) {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = tagged();
    let (cache, app) = node(&store, &clock, &origin);
    // Its numbers are higher than those of the others, and mean nothing to them.
    for _ in 0..5 {
        cache.invalidate(Selector::path("/another"));
    }
    assert_eq!(get(&app, "/a").await.text(), "1");
    settle().await;
    assert_eq!(store.frames().len(), 1);
    (store, clock, origin, cache, app)
}

#[tokio::test]
async fn what_one_cache_has_stored_another_one_selects_by_its_tags_and_groups() {
    for selector in [Selector::tag("t"), Selector::tag("g")] {
        // In memory already, or still in the store.
        for is_known in [true, false] {
            let (store, clock, origin, _one, _) = stored().await;
            let (other, app) = node(&store, &clock, &origin);
            other.invalidate(Selector::path("/another"));
            if is_known {
                let answer = get(&app, "/a").await;
                assert_eq!((answer.x_cache(), answer.text()), ("HIT", "1"));
            }
            other.invalidate(selector.clone());
            let answer = get(&app, "/a").await;
            assert_eq!(
                (answer.x_cache(), answer.text()),
                ("MISS", "2"),
                "{selector:?}, in memory: {is_known}"
            );
            assert!(get(&app, "/a").await.is_hit());
            assert_eq!(origin.calls(), 2);
        }
    }
}

#[tokio::test]
async fn what_a_cache_has_stored_after_an_invalidation_it_uses_when_the_store_gives_it_back() {
    let (store, clock, origin, cache, app) = stored().await;
    cache.invalidate(Selector::tag("t"));
    assert_eq!(get(&app, "/a").await.text(), "2");
    settle().await;
    clock.advance(Duration::from_secs(5));
    let reads = store.reads();
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "2"));
    assert_eq!(store.reads(), reads + 1, "the store was asked");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn what_is_soft_deletes_nothing_in_the_store() {
    for selector in [Selector::resource("test", "/a"), Selector::tag("t")] {
        let (store, _clock, _origin, cache, _) = stored().await;
        cache.invalidate(selector.clone().soft());
        settle().await;
        assert_eq!(
            (store.deletes(), store.frames().len()),
            (0, 1),
            "{selector:?}"
        );
    }
    let (store, _clock, _origin, cache, _) = stored().await;
    cache.invalidate(Selector::resource("test", "/a"));
    settle().await;
    assert_eq!(store.frames().len(), 0, "what is hard does");
}

#[tokio::test]
async fn what_is_soft_was_stale_before_it_came_from_the_store() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|call, _| {
        let status = if call == 1 { 200 } else { 503 };
        let mut response = response(status, &[], format!("{call}"));
        response.extensions_mut().insert(Tags::new(["t"]));
        std::future::ready(response)
    });
    let (_one, app) = node(&store, &clock, &origin);
    get(&app, "/a").await;
    settle().await;
    let (other, app) = node(&store, &clock, &origin);
    clock.advance(Duration::from_secs(10));
    other.invalidate(Selector::tag("t").soft());
    clock.advance(Duration::from_millis(29_999));
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("STALE", "1"));
    assert_eq!(answer.field("age"), "39");
    let status = answer.cache_status();
    assert!(status.contains("fwd=stale"), "{status}");
    assert!(
        status.contains("ttl=-30"),
        "since the tenth second: {status}"
    );
    clock.advance(Duration::from_millis(1));
    let answer = get(&app, "/a").await;
    assert_eq!(answer.status, 503, "its window ends when it does elsewhere");
}

#[tokio::test]
async fn what_is_soft_and_comes_from_the_store_is_served_to_those_who_accept_it_so_stale() {
    for (most, expected) in [("max-stale=9", "2"), ("max-stale=10", "1")] {
        let (store, clock, origin, _one, _) = stored().await;
        let (other, app) = node(&store, &clock, &origin);
        clock.advance(Duration::from_secs(10));
        other.invalidate(Selector::tag("t").soft());
        clock.advance(Duration::from_secs(10));
        let answer = get_with(&app, "/a", &[("cache-control", most)]).await;
        assert_eq!(answer.text(), expected, "{most}");
    }
}

#[tokio::test]
async fn what_became_stale_softly_while_it_waited_is_not_written() {
    let (store, clock, origin) = (FakeStore::default(), ManualClock::new(), tagged());
    let (cache, app) = node(&store, &clock, &origin);
    store.set_link(Link::Connecting(None));
    get(&app, "/a").await;
    settle().await;
    cache.invalidate(Selector::tag("t").soft());
    store.set_link(Link::Up);
    support::eventually("the outbox is empty", || {
        cache.stats().remote().outbox_bytes() == 0
    })
    .await;
    // Another cache would take it for fresh.
    assert_eq!((store.writes(), store.frames().len()), (0, 0));
}
