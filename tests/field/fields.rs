//! Bugs seen elsewhere, each with a test: how `Cache-Control` is read, and which fields come back.

use std::time::Duration;

use crate::support::{
    self, Origin, cache, get, get_with, request,
    scripted::{detail, response},
    send,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tower_response_cache::ResponseCacheLayer;

/// Answers with these lines of `Cache-Control`.
fn saying(lines: &[&str]) -> Origin {
    let fields: Vec<_> = lines.iter().map(|line| ("cache-control", *line)).collect();
    Origin::with_fields(&fields)
}

#[tokio::test]
async fn what_forbids_storing_is_found_in_any_case_and_on_any_line() {
    let rows: [(&[&str], &str); 14] = [
        (&["NO-STORE"], "no-store"),
        (&["No-Store, Max-Age=600"], "no-store"),
        (&["max-age=600", "no-store"], "no-store"),
        (&["no-store", "public, max-age=600"], "no-store"),
        (&["max-age=600,no-store"], "no-store"),
        (&["max-age=600 ,\tno-store "], "no-store"),
        (&[",, ,no-store"], "no-store"),
        (&["PRIVATE"], "private"),
        (&["max-age=600", "Private"], "private"),
        (&["private=\"x-user\", max-age=600"], "private"),
        (&["private=x-user"], "private"),
        (&["public", "No-Cache"], "no-cache"),
        (
            &["no-cache=\"set-cookie, x-user\", max-age=600"],
            "no-cache",
        ),
        (&["ext=\"a\\\"b, \", no-store"], "no-store"),
    ];
    for (lines, reason) in rows {
        let (cache, _clock) = cache();
        let origin = saying(lines);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = get(&app, "/").await;
        assert_eq!(detail(&first), reason, "{lines:?}");
        assert!(get(&app, "/").await.text().starts_with("2 "), "{lines:?}");
        assert_eq!(cache.stats().entries(), 0, "{lines:?}");
    }
}

#[tokio::test]
async fn what_stands_in_quotes_or_in_a_longer_name_forbids_nothing() {
    for lines in [
        &["ext=\"no-store, private\", max-age=600"][..],
        &["ext=\"a, no-store\"", "max-age=600"],
        &["ext=\"a\\\", no-store\", max-age=600"],
        &["x-no-store, max-age=600"],
        &["no-store-please, max-age=600"],
        &["not-private, max-age=600"],
        &["no-transform, max-age=600"],
    ] {
        let (cache, _clock) = cache();
        let origin = saying(lines);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/").await;
        let second = get(&app, "/").await;
        assert!(second.is_hit(), "{lines:?}: {}", second.cache_status());
        assert_eq!(
            second.fields("cache-control"),
            lines,
            "as the origin wrote it"
        );
    }
}

#[tokio::test]
async fn lifetimes_are_found_in_any_case_and_on_any_line() {
    for lines in [
        &["Max-Age=10"][..],
        &["public", "MAX-AGE=10"],
        &["ext=\"max-age=600\", max-age=10"],
        &["max-age=600", "S-MaxAge=10"],
        &["s-maxage=10,max-age=600"],
        &["max-age=10;, s-maxage=10"],
    ] {
        let (cache, clock) = cache();
        let origin = saying(lines);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/").await;
        clock.advance(Duration::from_millis(9_900));
        assert!(get(&app, "/").await.is_hit(), "{lines:?}");
        clock.advance(Duration::from_millis(200));
        assert!(!get(&app, "/").await.is_hit(), "{lines:?}");
        assert_eq!(origin.calls(), 2);
    }
}

#[tokio::test]
async fn a_directive_that_cannot_be_read_makes_nothing_fresh() {
    for lines in [
        &["max-age=ten"][..],
        &["max-age=-1"],
        &["max-age="],
        &["max-age"],
        &["max-age=1.5"],
        &["s-maxage=soon, max-age=600"],
        &["max-age=10x"],
    ] {
        let (cache, _clock) = cache();
        let origin = saying(lines);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/").await;
        assert!(!get(&app, "/").await.is_hit(), "{lines:?}");
    }
}

fn sorted(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let ours = ["x-cache", "cache-status", "age", "date"];
    let mut fields: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !ours.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    // Stable: the lines of one field keep their order.
    fields.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    fields
}

const FIELDS: &[(&str, &str)] = &[
    ("link", "</a.css>; rel=preload"),
    ("content-type", "text/html; charset=utf-8"),
    ("link", "</b.js>; rel=preload"),
    ("x-empty", ""),
    ("x-odd", " spaces and \u{fc} are kept "),
    ("x-twice", "the same"),
    ("x-twice", "the same"),
    ("www-authenticate", "Basic realm=\"a, b\", Digest realm=c"),
    ("warning", "199 - first"),
    ("warning", "199 - second"),
    ("etag", "\"v1\""),
    ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ("content-language", "en"),
    ("location", "/elsewhere"),
    ("link", "</c.png>; rel=preload"),
];

#[tokio::test]
async fn a_repeated_field_comes_back_with_all_its_lines_in_their_order() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| std::future::ready(response(200, FIELDS, "page")));
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = get(&app, "/").await;
    let second = get(&app, "/").await;
    assert!(second.is_hit());
    for answer in [first, second] {
        let links = [
            "</a.css>; rel=preload",
            "</b.js>; rel=preload",
            "</c.png>; rel=preload",
        ];
        assert_eq!(answer.fields("link"), links);
        assert_eq!(answer.fields("x-twice"), ["the same", "the same"]);
        assert_eq!(answer.fields("warning"), ["199 - first", "199 - second"]);
    }
}

#[tokio::test]
async fn the_stored_status_and_all_fields_come_back() {
    for status in [200, 203, 204, 301, 308, 201, 300, 302, 303, 307, 404, 410] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |_, _| {
            let mut answer = response(status, FIELDS, if status == 204 { "" } else { "page" });
            let forever = HeaderValue::from_static("max-age=600");
            answer.headers_mut().insert("cache-control", forever);
            std::future::ready(answer)
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let mut expected = FIELDS.to_vec();
        expected.push(("cache-control", "max-age=600"));
        let expected = sorted(response(status, &expected, "").headers());
        let first = get(&app, "/").await;
        let second = get(&app, "/").await;
        assert!(second.is_hit(), "{status}");
        for answer in [first, second] {
            assert_eq!(answer.status, status);
            assert_eq!(sorted(&answer.headers), expected, "{status}");
            assert_eq!(answer.text(), if status == 204 { "" } else { "page" });
        }
    }
}

#[tokio::test]
async fn the_date_of_a_hit_is_that_of_its_making() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    clock.advance(Duration::from_secs(5));
    let hit = get(&app, "/").await;
    // The clock of the tests starts on this day at noon.
    assert_eq!(hit.field("date"), "Thu, 01 Jan 2026 12:00:00 GMT");
    assert_eq!(hit.field("age"), "5");
    let (cache, _clock) = support::cache();
    let said = "Thu, 01 Jan 2026 11:59:30 GMT";
    let origin = Origin::with_fields(&[("date", said)]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    assert_eq!(get(&app, "/").await.field("date"), said);
}

#[tokio::test]
async fn an_age_that_came_with_a_response_is_counted() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[("age", "30"), ("cache-control", "max-age=60")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    clock.advance(Duration::from_secs(29));
    let hit = get(&app, "/").await;
    assert!(hit.is_hit());
    assert_eq!(hit.field("age"), "59");
    clock.advance(Duration::from_secs(2));
    assert!(!get(&app, "/").await.is_hit());
}

#[tokio::test]
async fn fields_of_one_connection_are_not_replayed() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| {
        let fields = [
            ("connection", "close, X-Hop"),
            ("x-hop", "of this connection"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("te", "trailers"),
            ("x-kept", "yes"),
        ];
        std::future::ready(response(200, &fields, format!("page {call}")))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let hit = get(&app, "/").await;
    assert!(hit.is_hit());
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "te",
    ] {
        assert_eq!(hit.fields(name), [""; 0], "{name}");
    }
    assert_eq!(hit.field("x-kept"), "yes");
}

#[tokio::test]
async fn words_of_ours_from_inside_are_replaced_or_kept_as_the_fields_demand() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[
        ("x-cache", "HIT from a proxy"),
        ("x-cache", "MISS from another"),
        ("cache-status", "proxy; hit"),
    ]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for expected in ["MISS", "HIT"] {
        let answer = get(&app, "/").await;
        assert_eq!(answer.x_cache(), expected, "an inner X-Cache is replaced");
        let lines = answer.fields("cache-status").join(", ");
        let (inner, ours) = lines.split_once(", ").unwrap();
        assert_eq!(
            inner, "proxy; hit",
            "Cache-Status is a list, nearest to the origin first"
        );
        assert!(ours.starts_with("tower-response-cache; "), "{ours}");
    }
}

#[tokio::test]
async fn a_hit_says_how_old_and_how_long_it_is() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).jitter(0.0));
    let miss = get(&app, "/").await;
    assert_eq!(miss.fields("age"), [""; 0]);
    assert!(miss.cache_status().contains("fwd=uri-miss"));
    assert!(miss.cache_status().contains("; stored"));
    clock.advance(Duration::from_secs(20));
    let hit = get(&app, "/").await;
    assert_eq!(hit.field("age"), "20");
    assert_eq!(hit.cache_status(), "tower-response-cache; hit; ttl=40");
    clock.advance(Duration::from_secs(41));
    let stale = get(&app, "/").await;
    assert_eq!(stale.x_cache(), "MISS");
    assert!(
        stale.cache_status().contains("fwd=stale"),
        "{}",
        stale.cache_status()
    );
}

#[tokio::test]
async fn stored_fields_are_those_of_the_response_whatever_the_next_request_carries() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("x-of", "the response")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = send(&app, request("GET", "/", &[("x-of", "request 1")])).await;
    let second = get_with(&app, "/", &[("x-of", "request 2"), ("age", "7")]).await;
    assert!(second.is_hit());
    assert_eq!(sorted(&first.headers), sorted(&second.headers));
}
