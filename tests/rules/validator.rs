//! A layer that can say itself whether what is stored still holds.

use std::{
    future::{pending, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use tower_response_cache::{Cache, ResponseCacheLayer, Selector};

use crate::support::{Origin, cache, get, get_with, inner::soon, settle};

const MINUTE: Duration = Duration::from_secs(61);

/// What the version is now, and how often it was asked for.
#[derive(Clone, Default)]
struct Version(Arc<(Mutex<Option<String>>, AtomicUsize)>);

impl Version {
    fn set(&self, version: impl Into<Option<&'static str>>) {
        *self.0.0.lock().unwrap() = version.into().map(str::to_owned);
    }

    fn asked(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    fn layer(&self, cache: &Cache) -> ResponseCacheLayer {
        let version = self.clone();
        ResponseCacheLayer::new(cache).validator(move |_| {
            version.0.1.fetch_add(1, Ordering::SeqCst);
            ready(version.0.0.lock().unwrap().clone())
        })
    }
}

#[tokio::test]
async fn what_is_stale_is_fresh_again_for_the_price_of_the_query() {
    let (cache, clock) = cache();
    let version = Version::default();
    version.set("1");
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&version.layer(&cache).jitter(0.0));
    let first = get(&app, "/").await;
    assert_eq!((first.x_cache(), version.asked()), ("MISS", 1));
    get(&app, "/").await;
    assert_eq!(version.asked(), 1, "what is fresh is not asked about");
    for asked in 2..5 {
        clock.advance(MINUTE);
        let again = get(&app, "/").await;
        assert_eq!((again.x_cache(), again.field("age")), ("HIT", "0"));
        assert_eq!(again.cache_status(), "tower-response-cache; hit; ttl=60");
        assert_eq!((again.text(), version.asked()), ("1 GET /", asked));
        let hit = get(&app, "/").await;
        assert_eq!((hit.x_cache(), hit.text()), ("HIT", "1 GET /"));
    }
    assert_eq!((origin.calls(), cache.stats().validated()), (1, 3));
}

#[tokio::test]
async fn another_version_or_none_is_no_confirmation() {
    let (longest, too_long) = ("v".repeat(256).leak(), "v".repeat(257).leak());
    let (longest, too_long): (&'static str, &'static str) = (longest, too_long);
    let rows: [(&str, Option<&'static str>, Option<&'static str>, usize); 8] = [
        ("the same", Some("1"), Some("1"), 1),
        ("another", Some("1"), Some("2"), 2),
        ("none then", None, Some("1"), 2),
        ("none now", Some("1"), None, 2),
        ("none both times", None, None, 2),
        ("an empty one says nothing", Some(""), Some(""), 2),
        ("the longest", Some(longest), Some(longest), 1),
        (
            "a longer one says nothing",
            Some(too_long),
            Some(too_long),
            2,
        ),
    ];
    for (sentence, then, now, calls) in rows {
        let (cache, clock) = cache();
        let version = Version::default();
        let origin = Origin::with_fields(&[]);
        let app = origin.behind(&version.layer(&cache));
        version.set(then);
        get(&app, "/").await;
        settle().await;
        clock.advance(MINUTE);
        version.set(now);
        let answer = get(&app, "/").await;
        assert_eq!(answer.text(), format!("{calls} GET /"), "{sentence}");
        assert_eq!(origin.calls(), calls, "{sentence}");
    }
}

#[tokio::test]
async fn the_version_is_that_of_before_the_call() {
    // The handler reads, then the data change: what it made is of the old version.
    let (cache, clock) = cache();
    let version = Version::default();
    version.set("1");
    let changes = version.clone();
    let origin = Origin::new(move |call, _| {
        changes.set("2");
        ready(Response::new(Body::from(call.to_string())))
    });
    let app = origin.behind(&version.layer(&cache));
    get(&app, "/").await;
    clock.advance(MINUTE);
    assert_eq!(
        get(&app, "/").await.text(),
        "2",
        "made by version 1, and 2 is now"
    );
}

#[tokio::test]
async fn what_was_invalidated_is_not_confirmed() {
    let (cache, clock) = cache();
    let version = Version::default();
    version.set("1");
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&version.layer(&cache));
    get(&app, "/").await;
    cache.invalidate(Selector::resource("test", "/"));
    assert_eq!(get(&app, "/").await.text(), "2 GET /");
    clock.advance(MINUTE);
    assert_eq!(get(&app, "/").await.text(), "2 GET /");
}

#[tokio::test]
async fn what_is_invalidated_while_the_version_is_asked_for_is_not_confirmed() {
    for now in ["1", "2"] {
        let (cache, clock) = cache();
        let origin = Origin::new(|call, request| {
            let is_asked = request.headers().contains_key("if-none-match");
            let response = Response::builder().header("etag", "\"a\"");
            let body = Body::from(format!("{call}, asked: {is_asked}"));
            ready(response.body(body).unwrap())
        });
        let (invalidated, asked) = (cache.clone(), AtomicUsize::new(0));
        let layer = ResponseCacheLayer::new(&cache).validator(move |_| {
            let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            if !is_first {
                invalidated.invalidate(Selector::resource("test", "/"));
            }
            ready(Some(if is_first { "1" } else { now }.to_owned()))
        });
        let app = origin.behind(&layer);
        get(&app, "/").await;
        clock.advance(MINUTE);
        assert_eq!(get(&app, "/").await.text(), "2, asked: false", "{now}");
    }
}

#[tokio::test]
async fn a_refresh_that_only_asks_for_the_version_is_no_hit_of_anybody() {
    let (cache, clock) = cache();
    let version = Version::default();
    version.set("1");
    let origin = Origin::with_fields(&[]);
    let layer = version.layer(&cache).stale_while_revalidate(MINUTE);
    let app = origin.behind(&layer);
    get(&app, "/").await;
    clock.advance(MINUTE);
    assert_eq!(get(&app, "/").await.x_cache(), "STALE");
    settle().await;
    let stats = cache.stats();
    assert_eq!((origin.calls(), version.asked()), (1, 2));
    assert_eq!((stats.hits(), stats.stale(), stats.misses()), (0, 1, 1));
    assert_eq!(get(&app, "/").await.x_cache(), "HIT");
}

#[tokio::test]
async fn a_hundred_who_find_it_stale_ask_once() {
    let (cache, clock) = cache();
    let version = Version::default();
    version.set("1");
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&version.layer(&cache));
    get(&app, "/").await;
    clock.advance(MINUTE);
    let answers = join_all((0..100).map(|_| get(&app, "/"))).await;
    assert!(answers.iter().all(|answer| answer.text() == "1 GET /"));
    assert_eq!((origin.calls(), version.asked()), (1, 2));
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so() {
    let (cache, clock) = cache();
    let version = Version::default();
    version.set("1");
    let origin = Origin::with_fields(&[("etag", "\"mine\"")]);
    let app = origin.behind(&version.layer(&cache));
    get(&app, "/").await;
    clock.advance(MINUTE);
    let known = get_with(&app, "/", &[("if-none-match", "\"mine\"")]).await;
    assert_eq!(
        (known.status, known.x_cache()),
        (StatusCode::NOT_MODIFIED, "HIT")
    );
    // Who demands a call gets one.
    let fresh = get_with(&app, "/", &[("cache-control", "no-cache")]).await;
    assert_eq!((fresh.x_cache(), origin.calls()), ("MISS", 2));
}

#[tokio::test(start_paused = true)]
async fn a_validator_that_never_answers_costs_a_second() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let layer = ResponseCacheLayer::new(&cache)
        .fill_timeout(Duration::from_secs(3))
        .validator(|_| pending());
    let app = origin.behind(&layer);
    for call in 1..3 {
        let begin = tokio::time::Instant::now();
        let answer = soon("an answer", get(&app, "/")).await;
        assert_eq!(answer.text(), format!("{call} GET /"));
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
        clock.advance(MINUTE);
    }
}
