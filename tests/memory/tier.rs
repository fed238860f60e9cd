//! The memory tier from outside: expiry, bounds, the switch, counters, and the seam to a remote
//! store.

use std::{sync::Arc, time::Duration};

use crate::support::{fake_store::FakeStore, *};
use axum::body::Body;
use bytes::Bytes;
use http::Response;
use tower_response_cache::{Cache, Clock, ManualClock, Reason, ResponseCacheLayer, Selector};

#[tokio::test]
async fn a_hit_has_the_age_of_its_entry_until_the_ttl_ends() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).jitter(0.0));
    let first = get(&app, "/").await;
    assert_eq!(first.x_cache(), "MISS");
    clock.advance(Duration::from_secs(59));
    let second = get(&app, "/").await;
    assert_eq!((second.x_cache(), second.field("age")), ("HIT", "59"));
    assert_eq!(second.body, first.body);
    clock.advance(Duration::from_secs(1));
    let third = get(&app, "/").await;
    assert_eq!((third.x_cache(), third.text()), ("MISS", "2 GET /"));
    assert!(
        third.cache_status().contains("fwd=stale"),
        "{}",
        third.cache_status()
    );
}

#[tokio::test(start_paused = true)]
async fn expired_bytes_are_given_back_without_anyone_asking() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for number in 0..50 {
        get(&app, &format!("/{number}")).await;
    }
    let full = cache.stats();
    assert_eq!(full.entries(), 50);
    assert!(full.bytes() > 50 * 500);
    settle().await;
    clock.advance(Duration::from_secs(62));
    tokio::time::advance(Duration::from_secs(2)).await;
    settle().await;
    let empty = cache.stats();
    assert_eq!(
        (empty.entries(), empty.bytes(), empty.expirations()),
        (0, 0, 50)
    );
    assert_eq!(empty.evictions(), 0);
}

#[test]
fn the_sweeper_starts_again_in_another_runtime() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for round in 1..=2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            get(&app, "/").await;
            settle().await;
            clock.advance(Duration::from_secs(62));
            if round == 2 {
                tokio::time::advance(Duration::from_secs(2)).await;
                settle().await;
            }
        });
    }
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn an_entry_too_heavy_for_memory_is_refused_and_counted() {
    let cache = builder().memory(256 << 10).build().unwrap();
    let origin = Origin::new(|_, _| async { Response::new(Body::from(vec![b'x'; 300 << 10])) });
    let layer = ResponseCacheLayer::new(&cache).max_body_size(10 << 20);
    let app = origin.behind(&layer);
    for _ in 0..2 {
        let answer = get(&app, "/").await;
        assert_eq!((answer.x_cache(), answer.body.len()), ("MISS", 300 << 10));
    }
    let stats = cache.stats();
    assert_eq!((stats.entries(), origin.calls()), (0, 2));
    let refused = stats.refusals(Reason::BodyTooLarge) + stats.refusals(Reason::NoRoom);
    assert_eq!(refused, 2, "{stats}");
}

#[tokio::test]
async fn what_is_evicted_is_counted_and_the_bound_holds() {
    let cache = builder().memory(1 << 20).build().unwrap();
    let origin = Origin::new(|_, _| async { Response::new(Body::from(vec![b'x'; 10_000])) });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for number in 0..500 {
        get(&app, &format!("/{number}")).await;
        assert!(cache.stats().bytes() <= 1 << 20);
    }
    let stats = cache.stats();
    assert!(stats.evictions() >= 390, "{stats}");
    assert_eq!(stats.evictions() + stats.entries(), 500);
}

#[tokio::test]
async fn the_switch_makes_the_cache_transparent_and_cold() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    assert!(get(&app, "/").await.is_hit());
    cache.set_enabled(false);
    let off = get(&app, "/").await;
    assert_eq!((off.x_cache(), off.text()), ("BYPASS", "2 GET /"));
    assert!(off.cache_status().contains("detail=disabled"));
    assert_eq!(cache.stats().bytes(), 0);
    cache.set_enabled(true);
    assert_eq!(get(&app, "/").await.text(), "3 GET /");
    assert!(get(&app, "/").await.is_hit());

    let disabled = origin.behind(&ResponseCacheLayer::new(Cache::disabled()));
    assert_eq!(get(&disabled, "/").await.x_cache(), "BYPASS");
    assert_eq!(get(&disabled, "/").await.x_cache(), "BYPASS");
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_fills_whose_clients_have_left() {
    let (cache, _clock) = cache();
    let gate = Arc::new(tokio::sync::Notify::new());
    let entered = Arc::new(tokio::sync::Notify::new());
    let origin = Origin::new({
        let (gate, entered) = (gate.clone(), entered.clone());
        move |_, _| {
            let (gate, entered) = (gate.clone(), entered.clone());
            async move {
                entered.notify_one();
                gate.notified().await;
                Response::new(Body::from("late"))
            }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let client = tokio::spawn({
        let app = app.clone();
        async move { get(&app, "/").await }
    });
    entered.notified().await;
    client.abort();
    settle().await;
    let closing = tokio::spawn({
        let cache = cache.clone();
        async move { cache.close().await }
    });
    settle().await;
    assert!(!closing.is_finished(), "the fill is still under way");
    gate.notify_one();
    closing.await.unwrap();
    assert_eq!(get(&app, "/").await.x_cache(), "HIT");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn what_one_node_stored_is_a_hit_on_another_with_its_age() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[("link", "<a>"), ("link", "<b>"), ("x-mine", "1")]);
    let (_, one) = store.node(&clock, &origin);
    let (_, two) = store.node(&clock, &origin);
    let first = get(&one, "/a?b").await;
    settle().await;
    let until = store.frames().values().next().unwrap().1;
    assert_eq!(until, clock.wall() + Duration::from_secs(60));
    clock.advance(Duration::from_secs(20));
    let second = get(&two, "/a?b").await;
    assert_eq!((second.x_cache(), second.field("age")), ("HIT", "20"));
    assert_eq!(second.body, first.body);
    assert_eq!(second.fields("link"), ["<a>", "<b>"]);
    assert_eq!(second.field("x-mine"), "1");
    // Promoted: the next hit asks nobody, and ends when the first would.
    let reads = store.reads();
    assert!(get(&two, "/a?b").await.is_hit());
    assert_eq!(store.reads(), reads);
    clock.advance(Duration::from_secs(40));
    assert_eq!(get(&two, "/a?b").await.x_cache(), "MISS");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_thousand_requests_for_what_only_the_store_has_are_one_read() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (_, one) = store.node(&clock, &origin);
    get(&one, "/").await;
    settle().await;
    let reads = store.reads();
    let (_, two) = store.node(&clock, &origin);
    let answers = futures_util::future::join_all((0..1000).map(|_| get(&two, "/"))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.is_hit() && answer.text() == "1 GET /")
    );
    assert_eq!(store.reads(), reads + 1);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn variants_reach_the_store_and_come_back() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|_, request| async move {
        let language = request.headers()["accept-language"]
            .to_str()
            .unwrap()
            .to_owned();
        let mut response = Response::new(Body::from(language));
        response
            .headers_mut()
            .insert("vary", "accept-language".parse().unwrap());
        response
    });
    let (_, one) = store.node(&clock, &origin);
    for language in ["de", "fr"] {
        get_with(&one, "/", &[("accept-language", language)]).await;
    }
    settle().await;
    let (_, two) = store.node(&clock, &origin);
    for language in ["de", "fr", "de"] {
        let answer = get_with(&two, "/", &[("accept-language", language)]).await;
        assert_eq!((answer.x_cache(), answer.text()), ("HIT", language));
    }
    let other = get_with(&two, "/", &[("accept-language", "it")]).await;
    assert_eq!((other.x_cache(), other.text()), ("MISS", "it"));
    assert_eq!(origin.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_or_hangs_never_fails_a_request() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (cache, app) = store.node(&clock, &origin);
    store.fail(true);
    assert_eq!(get(&app, "/a").await.x_cache(), "MISS");
    assert!(get(&app, "/a").await.is_hit(), "memory works all the same");
    settle().await;
    assert_eq!(cache.stats().store_errors(), 2, "one read, one write");
    store.hang(true);
    let before = tokio::time::Instant::now();
    assert_eq!(get(&app, "/b").await.x_cache(), "MISS");
    assert_eq!(
        before.elapsed(),
        Duration::from_millis(50),
        "of paused time"
    );
    cache.close().await;
    assert_eq!(store.closes(), 1);
}

#[tokio::test]
async fn an_invalidation_also_covers_what_other_nodes_wrote_to_the_store() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (_, one) = store.node(&clock, &origin);
    let (cache, two) = store.node(&clock, &origin);
    get(&one, "/a").await;
    settle().await;
    cache.invalidate(Selector::resource("test", "/a"));
    assert_eq!(get(&two, "/a").await.text(), "2 GET /a");
    assert!(get(&two, "/a").await.is_hit());
}

#[tokio::test]
async fn foreign_bytes_in_the_store_are_a_miss_and_replaced() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let (_, one) = store.node(&clock, &origin);
    get(&one, "/").await;
    settle().await;
    for (frame, _) in store.frames().values_mut() {
        *frame = Bytes::from_static(b"not a frame");
    }
    let (_, two) = store.node(&clock, &origin);
    assert_eq!(get(&two, "/").await.text(), "2 GET /");
    settle().await;
    let (_, three) = store.node(&clock, &origin);
    assert_eq!(get(&three, "/").await.text(), "2 GET /");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn entries_of_layers_with_closures_stay_in_memory() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::with_fields(&[]);
    let cache = Cache::builder()
        .store(store.clone())
        .clock(clock)
        .build()
        .unwrap();
    let layer = ResponseCacheLayer::new(&cache).bypass_when(|_| false);
    let app = origin.behind(&layer);
    get(&app, "/").await;
    settle().await;
    assert!(get(&app, "/").await.is_hit());
    assert!(store.frames().is_empty());
    assert_eq!(store.reads(), 0);
}
