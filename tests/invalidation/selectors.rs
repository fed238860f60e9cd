//! What each selector selects, seen from outside; what is soft.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderName, Response};
use tower_response_cache::{
    Cache, CachePolicy, ManualClock, ResponseCacheLayer, Selector, Tag, Tags,
};

use crate::support::{
    App, Origin, builder, cache, get, get_with, request,
    scripted::{Gate, detail, response},
    send, settle,
};

/// Each page has the tags that its query names, separated by commas.
fn tagged() -> Origin {
    Origin::new(|call, request| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let mut response = response(200, &[], format!("{call}"));
        let names = query.split(',').filter(|name| !name.is_empty());
        response
            .extensions_mut()
            .insert(Tags::new(names.map(str::to_owned)));
        std::future::ready(response)
    })
}

async fn warm(app: &App, paths: &[&str]) {
    for path in paths {
        get(app, path).await;
        assert!(get(app, path).await.is_hit(), "{path}");
    }
}

#[tokio::test]
async fn a_selector_selects_by_tag_path_pattern_or_prefix() {
    let paths = [
        "/users?users,user:1",
        "/users/1?user:1",
        "/users/1/posts?posts,user:1",
        "/users%2f1",
        "/posts?posts",
        "/?",
    ];
    #[rustfmt::skip]
    let rows: &[(&str, Selector, &[usize])] = &[
        ("a tag of three", Selector::tag("user:1"), &[0, 1, 2]),
        ("a tag of two", Selector::tag(String::from("posts")), &[2, 4]),
        ("a tag that nobody has", Selector::tag("user:"), &[]),
        ("the case of a tag counts", Tag::from_static("Posts").into(), &[]),
        ("a path, whatever its query", Selector::path("/users"), &[0]),
        ("what lies below a path", Selector::path("/users/*"), &[1, 2]),
        ("the middle of a path", Selector::path("/users/*/posts"), &[2]),
        ("the end of a path", Selector::path("*/posts"), &[2, 4]),
        ("nothing is decoded", Selector::path("/users%2f*"), &[3]),
        ("every path", Selector::path("*"), &[0, 1, 2, 3, 4, 5]),
        ("a prefix", Selector::path_prefix("/users/"), &[1, 2]),
        ("a star in a prefix is a star", Selector::path_prefix("/users/*"), &[]),
        ("a query is not in the path", Selector::path("/users?*"), &[]),
        ("values are not responses", Selector::values("*"), &[]),
        ("nor are their prefixes", Selector::value_prefix(""), &[]),
        ("all", Selector::all(), &[0, 1, 2, 3, 4, 5]),
    ];
    for (sentence, selector, selected) in rows {
        // Without a window in which it may be served, what is soft is as hard.
        for selector in [selector.clone(), selector.clone().soft()] {
            let (cache, _clock) = cache();
            let app = tagged().behind(&ResponseCacheLayer::new(&cache));
            warm(&app, &paths).await;
            cache.invalidate(selector);
            for (at, path) in paths.iter().enumerate() {
                let is_hit = get(&app, path).await.is_hit();
                assert_eq!(is_hit, !selected.contains(&at), "{sentence}: {path}");
                assert!(get(&app, path).await.is_hit(), "{sentence}: stored anew");
            }
            assert_eq!(cache.stats().invalidations(), 1);
        }
    }
}

#[tokio::test]
async fn a_tag_selects_every_host_variant_and_layer() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| {
        let mut response = response(200, &[("vary", "accept")], format!("{call}"));
        response.extensions_mut().insert(Tags::new(["t"]));
        std::future::ready(response)
    });
    let layer = ResponseCacheLayer::new(&cache);
    let apps = [layer.clone(), layer.ignore_host()].map(|layer| origin.behind(&layer));
    for expected in [false, true, false] {
        for app in &apps {
            for accept in ["text/html", "text/plain"] {
                let answer = get_with(app, "/a", &[("accept", accept)]).await;
                assert_eq!(answer.is_hit(), expected);
            }
        }
        if expected {
            cache.invalidate(Selector::tag("t"));
        }
    }
}

fn with_window(cache: &Cache) -> ResponseCacheLayer {
    ResponseCacheLayer::new(cache)
        .ttl(Duration::from_secs(60))
        .stale_while_revalidate(Duration::from_secs(30))
        .jitter(0.0)
}

/// After the first call it waits before a door.
fn held_after_the_first() -> (Gate, Origin) {
    let gate = Gate::shut();
    let held = gate.clone();
    let origin = Origin::new(move |call, _| {
        let held = held.clone();
        async move {
            if call > 1 {
                held.pass().await;
            }
            let mut response = response(200, &[], format!("{call}"));
            response.extensions_mut().insert(Tags::new(["t"]));
            response
        }
    });
    (gate, origin)
}

#[tokio::test(start_paused = true)]
async fn what_is_soft_is_served_stale_while_exactly_one_refresh_runs() {
    for selector in [
        Selector::tag("t"),
        Selector::path("/*"),
        Selector::resource("test", "/a"),
        Selector::all(),
    ] {
        let (cache, clock) = cache();
        let (gate, origin) = held_after_the_first();
        let app = origin.behind(&with_window(&cache));
        get(&app, "/a").await;
        settle().await;
        clock.advance(Duration::from_secs(10));
        cache.invalidate(selector.clone().soft());
        for _ in 0..100 {
            let answer = get(&app, "/a").await;
            assert_eq!(
                (answer.x_cache(), answer.text()),
                ("STALE", "1"),
                "{selector:?}"
            );
            settle().await;
        }
        let answer = get(&app, "/a").await;
        assert!(
            answer.cache_status().contains("ttl=0"),
            "{}",
            answer.cache_status()
        );
        assert_eq!(answer.field("age"), "10");
        assert_eq!(origin.calls(), 2, "{selector:?}");
        gate.open();
        settle().await;
        let answer = get(&app, "/a").await;
        assert_eq!(
            (answer.x_cache(), answer.text()),
            ("HIT", "2"),
            "{selector:?}"
        );
        assert_eq!((origin.calls(), cache.stats().stale()), (2, 101));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_soft_is_served_until_its_window_ends_however_often_it_is_invalidated() {
    let (cache, clock) = cache();
    let (_gate, origin) = held_after_the_first();
    let app = origin.behind(&with_window(&cache));
    get(&app, "/a").await;
    settle().await;
    for _ in 0..29 {
        cache.invalidate(Selector::tag("t").soft());
        assert_eq!(get(&app, "/a").await.x_cache(), "STALE");
        clock.advance(Duration::from_secs(1));
    }
    clock.advance(Duration::from_millis(999));
    assert_eq!(get(&app, "/a").await.x_cache(), "STALE");
    let status = get(&app, "/a").await;
    assert!(
        status.cache_status().contains("ttl=-30"),
        "{}",
        status.cache_status()
    );
    clock.advance(Duration::from_millis(1));
    let app = app.clone();
    let asked = tokio::spawn(async move { get(&app, "/a").await });
    settle().await;
    assert!(!asked.is_finished(), "nothing may be served any more");
}

#[tokio::test(start_paused = true)]
async fn what_was_filled_between_two_soft_ones_is_stale_since_the_first_that_it_met() {
    let (cache, clock) = cache();
    let (_gate, origin) = held_after_the_first();
    let app = origin.behind(&with_window(&cache));
    cache.invalidate(Selector::tag("t").soft());
    get(&app, "/a").await;
    settle().await;
    for _ in 0..3 {
        cache.invalidate(Selector::tag("t").soft());
        assert_eq!(get(&app, "/a").await.x_cache(), "STALE");
        clock.advance(Duration::from_secs(10));
    }
    cache.invalidate(Selector::tag("t").soft());
    let asked = tokio::spawn(async move { get(&app, "/a").await });
    settle().await;
    assert!(!asked.is_finished(), "nothing may be served any more");
}

#[tokio::test(start_paused = true)]
async fn what_is_softly_invalidated_while_it_is_refreshed_is_refreshed_again_after_a_second() {
    let (cache, clock) = cache();
    let (gate, origin) = held_after_the_first();
    let app = origin.behind(&with_window(&cache));
    get(&app, "/a").await;
    settle().await;
    cache.invalidate(Selector::tag("t").soft());
    get(&app, "/a").await;
    settle().await;
    cache.invalidate(Selector::tag("t").soft());
    gate.open();
    settle().await;
    for _ in 0..10 {
        let answer = get(&app, "/a").await;
        assert_eq!((answer.x_cache(), answer.text()), ("STALE", "2"));
        settle().await;
        assert_eq!(origin.calls(), 2, "not at once");
    }
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&app, "/a").await.text(), "2");
    settle().await;
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "3"));
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn what_is_soft_stands_in_for_failures_from_then_on_as_long_as_its_window() {
    let (cache, clock) = cache();
    let origin = Origin::new(|call, _| {
        let mut response = response(if call == 1 { 200 } else { 503 }, &[], format!("{call}"));
        response.extensions_mut().insert(Tags::new(["t"]));
        std::future::ready(response)
    });
    let layer = ResponseCacheLayer::new(&cache).ttl(Duration::from_secs(60));
    let window = Duration::from_secs(30);
    let app = origin.behind(&layer.stale_if_error(window).jitter(0.0));
    get(&app, "/a").await;
    settle().await;
    clock.advance(Duration::from_secs(10));
    cache.invalidate(Selector::tag("t").soft());
    clock.advance(Duration::from_millis(29_999));
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("STALE", "1"));
    clock.advance(Duration::from_millis(1));
    assert_eq!(get(&app, "/a").await.status, 503);
}

#[tokio::test]
async fn what_is_soft_is_forgotten_when_its_successor_is_not_stored() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| {
        let control = if call == 2 { "no-store" } else { "max-age=60" };
        let mut response = response(200, &[("cache-control", control)], format!("{call}"));
        response.extensions_mut().insert(Tags::new(["t"]));
        std::future::ready(response)
    });
    let app = origin.behind(&with_window(&cache));
    get(&app, "/a").await;
    settle().await;
    cache.invalidate(Selector::tag("t").soft());
    assert_eq!(get(&app, "/a").await.x_cache(), "STALE");
    settle().await;
    assert_eq!(origin.calls(), 2);
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("MISS", "3"));
}

#[tokio::test]
async fn a_pattern_of_values_and_one_of_paths_are_two() {
    let (cache, _clock) = cache();
    let app = tagged().behind(&ResponseCacheLayer::new(&cache));
    cache.invalidate(Selector::values("/a/*"));
    warm(&app, &["/a/b"]).await;
    cache.invalidate(Selector::path("/a/*"));
    assert!(!get(&app, "/a/b").await.is_hit());
    assert_eq!(cache.stats().records(), 2);
}

#[tokio::test]
async fn what_is_soft_is_validated_and_what_is_hard_is_not() {
    for (is_soft, expected) in [(true, "\"v\""), (false, "")] {
        let (cache, _clock) = cache();
        let origin = Origin::new(|_, request| {
            let condition = request.headers().get("if-none-match").cloned();
            let status = if condition.is_some() { 304 } else { 200 };
            let mut response = response(status, &[("etag", "\"v\"")], "");
            if let Some(condition) = condition {
                response.headers_mut().insert("x-condition", condition);
            }
            response.extensions_mut().insert(Tags::new(["t"]));
            std::future::ready(response)
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        warm(&app, &["/a"]).await;
        let selector = Selector::tag("t");
        cache.invalidate(if is_soft { selector.soft() } else { selector });
        let answer = get(&app, "/a").await;
        assert_eq!((answer.x_cache(), answer.status.as_u16()), ("MISS", 200));
        assert_eq!(answer.field("x-condition"), expected);
        assert!(get(&app, "/a").await.is_hit(), "good again");
        assert_eq!(cache.stats().validated(), u64::from(is_soft));
        // The 304 had tags of its own, the hit after it as well.
        cache.invalidate(Selector::tag("t"));
        assert!(!get(&app, "/a").await.is_hit());
    }
}

#[tokio::test]
async fn a_304_that_names_no_tags_leaves_those_that_are_stored() {
    let (cache, clock) = cache();
    let name = HeaderName::from_static("cache-tag");
    let origin = Origin::new(|call, _| {
        std::future::ready(match call {
            1 => response(200, &[("etag", "\"v\""), ("cache-tag", "a b")], "1"),
            2 => response(304, &[("etag", "\"v\"")], ""),
            3 => response(304, &[("etag", "\"v\""), ("cache-tag", "c")], ""),
            _ => response(200, &[], "later"),
        })
    });
    let layer = ResponseCacheLayer::new(&cache).tag_field(name).jitter(0.0);
    let app = origin.behind(&layer.ttl(Duration::from_secs(5)));
    get(&app, "/a").await;
    clock.advance(Duration::from_secs(5));
    assert_eq!(get(&app, "/a").await.text(), "1", "validated");
    assert!(get(&app, "/a").await.is_hit());
    cache.invalidate(Selector::tag("c"));
    assert!(get(&app, "/a").await.is_hit());
    cache.invalidate(Selector::tag("b").soft());
    assert_eq!(
        get(&app, "/a").await.x_cache(),
        "MISS",
        "still tagged, validated again"
    );
    assert_eq!(origin.calls(), 3);
    cache.invalidate(Selector::tag("b"));
    assert!(
        get(&app, "/a").await.is_hit(),
        "the last answer named others"
    );
    cache.invalidate(Selector::tag("c"));
    assert_eq!(get(&app, "/a").await.text(), "later");
}

#[tokio::test]
async fn a_304_whose_policy_names_tags_has_those_alone() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| {
        let status = if call == 2 { 304 } else { 200 };
        let mut response = response(status, &[("etag", "\"v\"")], format!("{call}"));
        let tag = if call == 2 { "c" } else { "a" };
        response
            .extensions_mut()
            .insert(CachePolicy::new().tag(tag));
        std::future::ready(response)
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/a").await;
    cache.invalidate(Selector::tag("a").soft());
    assert_eq!(get(&app, "/a").await.text(), "1", "validated");
    cache.invalidate(Selector::tag("a"));
    assert!(get(&app, "/a").await.is_hit());
    cache.invalidate(Selector::tag("c"));
    assert_eq!(get(&app, "/a").await.text(), "3");
}

#[tokio::test]
async fn a_head_that_freshens_brings_the_tags_of_its_field() {
    let (cache, clock) = cache();
    let name = HeaderName::from_static("cache-tag");
    let origin = Origin::new(|call, _| {
        let tag = if call == 2 { "c" } else { "a" };
        let fields = [
            ("etag", "\"v\""),
            ("content-length", "1"),
            ("cache-tag", tag),
        ];
        std::future::ready(response(200, &fields, format!("{call}")))
    });
    let layer = ResponseCacheLayer::new(&cache).tag_field(name).jitter(0.0);
    let app = origin.behind(&layer.ttl(Duration::from_secs(5)));
    get(&app, "/a").await;
    clock.advance(Duration::from_secs(5));
    send(&app, request("HEAD", "/a", &[])).await;
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "1"), "freshened");
    assert_eq!(answer.fields("cache-tag"), [""; 0], "no client sees it");
    cache.invalidate(Selector::tag("a"));
    assert!(get(&app, "/a").await.is_hit(), "the HEAD named another");
    cache.invalidate(Selector::tag("c"));
    assert_eq!(get(&app, "/a").await.text(), "3");
}

#[tokio::test]
async fn tags_come_from_extensions_policies_fields_and_groups() {
    type Tagging = fn(&mut Response<Body>);
    #[rustfmt::skip]
    let rows: &[(&str, Tagging)] = &[
        ("Tags", |r| { r.extensions_mut().insert(Tags::new(["x"]).and("t")); }),
        ("CachePolicy", |r| { r.extensions_mut().insert(CachePolicy::new().tag("x").tag("t")); }),
        ("both", |r| {
            r.extensions_mut().insert(Tags::new(["x"]));
            r.extensions_mut().insert(CachePolicy::new().tag("t"));
        }),
        ("the field of the layer", |r| { r.headers_mut().insert("surrogate-key", "x t".parse().unwrap()); }),
        ("field and Tags", |r| {
            r.extensions_mut().insert(Tags::new(["x"]));
            r.headers_mut().insert("surrogate-key", "t".parse().unwrap());
        }),
        ("Cache-Groups", |r| { r.headers_mut().insert("cache-groups", "\"x\", \"t\"".parse().unwrap()); }),
    ];
    for (sentence, tagging) in rows {
        let (cache, _clock) = cache();
        let tagging = *tagging;
        let origin = Origin::new(move |call, _| {
            let mut response = response(200, &[], format!("{call}"));
            tagging(&mut response);
            std::future::ready(response)
        });
        let name = HeaderName::from_static("surrogate-key");
        let app = origin.behind(&ResponseCacheLayer::new(&cache).tag_field(name));
        warm(&app, &["/a"]).await;
        let answer = get(&app, "/a").await;
        assert_eq!(answer.field("surrogate-key"), "", "{sentence}");
        cache.invalidate(Selector::tag("other"));
        assert!(get(&app, "/a").await.is_hit(), "{sentence}");
        for tag in ["t", "x"] {
            cache.invalidate(Selector::tag(tag));
            assert!(!get(&app, "/a").await.is_hit(), "{sentence}: {tag}");
        }
    }
}

#[tokio::test]
async fn a_response_with_more_tags_than_are_kept_is_not_stored() {
    for (count, expected) in [(32, ""), (33, "too-many-tags")] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |_, _| {
            let mut response = response(200, &[], "body");
            let tags = Tags::new((0..count).map(|number| format!("t{number}")));
            response.extensions_mut().insert(tags);
            std::future::ready(response)
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let answer = get(&app, "/a").await;
        assert_eq!(
            (detail(&answer), answer.text()),
            (expected.to_owned(), "body")
        );
        assert_eq!(get(&app, "/a").await.is_hit(), expected.is_empty());
    }
}

#[tokio::test]
async fn beyond_its_bound_the_log_forgets_the_oldest_and_what_is_older_is_a_miss() {
    let clock = ManualClock::new();
    let cache = builder().clock(clock).build().unwrap();
    let app = tagged().behind(&ResponseCacheLayer::new(&cache));
    warm(&app, &["/old?t"]).await;
    for number in 0..1_000 {
        cache.invalidate(Selector::path(&format!("/{number}/*")));
    }
    assert_eq!(cache.stats().records(), 1_000);
    assert!(
        get(&app, "/old?t").await.is_hit(),
        "none of them selects it"
    );
    cache.invalidate(Selector::path("/1000/*"));
    let stats = cache.stats();
    assert_eq!((stats.records(), stats.forgotten_records()), (1_000, 1));
    assert!(
        !get(&app, "/old?t").await.is_hit(),
        "nobody knows what was forgotten"
    );
    assert!(get(&app, "/old?t").await.is_hit());
    cache.invalidate(Selector::all());
    assert_eq!(cache.stats().records(), 0);
}
