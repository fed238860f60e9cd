//! Constructing responses from the store (RFC 9111, 4 to 4.2.4): which one, for how long, how old.

use std::time::Duration;

use crate::support::{
    Origin, cache, get, request,
    scripted::response,
    send,
    story::{BOTH, Careful, Preset, Rfc9111, Row, Says, World, ask, by, check, check_with, told},
};
use tower_response_cache::{ManualClock, ResponseCacheLayer};

const NOON: &str = "Thu, 01 Jan 2026 12:00:00 GMT";
const TEN_SECONDS_LATER: &str = "Thu, 01 Jan 2026 12:00:10 GMT";

fn layer(preset: Preset, cache: &tower_response_cache::Cache) -> ResponseCacheLayer {
    match preset {
        Careful => ResponseCacheLayer::new(cache),
        Rfc9111 => ResponseCacheLayer::rfc9111(cache),
    }
}

#[tokio::test]
async fn section_4_a_stored_response_answers_only_what_it_may() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4: HEAD is answered from a GET", &[(200, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 0, &[], "HIT 200")]),
        ("4: GET is not answered from a HEAD", &[(200, &[("cache-control", "max-age=60"), ("content-length", "1")])],
            &[by("HEAD", 0, &[], "MISS 200"), ask(0, &[], "MISS 200 2")]),
        ("4: an unsafe method is written through", &[(200, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), by("PUT", 0, &[], "200 2"), by("DELETE", 0, &[], "200 3"), by("POST", 0, &[], "200 4")]),
        ("4: OPTIONS is not answered from a GET", &[(200, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), by("OPTIONS", 0, &[], "200 2")]),
        ("4: what is stale is validated", &[(200, &[("cache-control", "max-age=60"), ("etag", "\"a\"")]), (304, &[("etag", "\"a\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(59, &[], "HIT 200 1"), ask(1, &[], "MISS 200 1"), ask(59, &[], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_4_another_uri_is_another_response() {
    for preset in BOTH {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
        let app = origin.behind(&layer(*preset, &cache));
        let uris = [
            "/", "/a", "/A", "/a/", "/a?", "/a?b", "/a?b=", "/a%62", "/ab",
        ];
        for uri in uris {
            assert_eq!(get(&app, uri).await.x_cache(), "MISS", "{uri}");
        }
        for uri in uris {
            let answer = get(&app, uri).await;
            assert!(answer.is_hit() && answer.text().ends_with(&format!("GET {uri}")));
        }
        let elsewhere = send(&app, request("GET", "/", &[("host", "elsewhere")])).await;
        assert_eq!(elsewhere.x_cache(), "MISS");
    }
}

#[tokio::test]
async fn section_4_1_vary_chooses_the_response() {
    const A: (&str, &str) = ("cache-control", "max-age=60");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.1: the same value", &[(200, &[A, ("vary", "x-a")])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(0, &[("x-a", "1")], "HIT 200 1")]),
        ("4.1: another value", &[(200, &[A, ("vary", "x-a")])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(0, &[("x-a", "2")], "MISS 200 2"),
              ask(0, &[("x-a", "1")], "HIT 200 1"), ask(0, &[("x-a", "2")], "HIT 200 2")]),
        ("4.1: absent is not empty", &[(200, &[A, ("vary", "x-a")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("x-a", "")], "MISS 200 2"), ask(0, &[], "HIT 200 1")]),
        ("4.1: absent only matches absent", &[(200, &[A, ("vary", "x-a")])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(0, &[], "MISS 200 2"), ask(0, &[], "HIT 200 2")]),
        ("4.1: the case of names does not matter, that of values does", &[(200, &[A, ("vary", "X-A")])],
            &[ask(0, &[("x-a", "v")], "MISS 200 1"), ask(0, &[("X-a", "v")], "HIT 200 1"), ask(0, &[("x-a", "V")], "MISS 200 2")]),
        ("4.1: all names have to match", &[(200, &[A, ("vary", "x-a, x-b")])],
            &[ask(0, &[("x-a", "1"), ("x-b", "1")], "MISS 200 1"), ask(0, &[("x-a", "1"), ("x-b", "2")], "MISS 200 2"),
              ask(0, &[("x-a", "2"), ("x-b", "1")], "MISS 200 3"), ask(0, &[("x-b", "1"), ("x-a", "1")], "HIT 200 1")]),
        ("4.1: all lines of Vary count", &[(200, &[A, ("vary", "x-a"), ("vary", "x-b")])],
            &[ask(0, &[("x-a", "1"), ("x-b", "1")], "MISS 200 1"), ask(0, &[("x-a", "1"), ("x-b", "2")], "MISS 200 2")]),
        ("4.1: several lines are one list", &[(200, &[A, ("vary", "x-a")])],
            &[ask(0, &[("x-a", "1"), ("x-a", "2")], "MISS 200 1"), ask(0, &[("x-a", "1, 2")], "HIT 200 1 or MISS 200 2"),
              ask(0, &[("x-a", "2, 1")], "MISS 200 2 or MISS 200 3")]),
        ("4.1: a value is not the beginning of another", &[(200, &[A, ("vary", "x-a")])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(0, &[("x-a", "12")], "MISS 200 2"), ask(0, &[("x-a", "1, 2")], "MISS 200 3")]),
        ("4.1: languages in another order mean another thing", &[(200, &[A, ("vary", "accept-language")])],
            &[ask(0, &[("accept-language", "de, en;q=0.5")], "MISS 200 1"), ask(0, &[("accept-language", "en, de;q=0.5")], "MISS 200 2")]),
        ("4.1: `*` never matches", &[(200, &[A, ("vary", "*")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.1: `*` in a list never matches", &[(200, &[A, ("vary", "x-a, *, x-b")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.1: `*` on another line never matches", &[(200, &[A, ("vary", "x-a"), ("vary", "*")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.1: an empty Vary names nothing", &[(200, &[A, ("vary", "")])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(0, &[("x-a", "2")], "HIT 200 1")]),
        ("4.1: a response that varies does not answer for one that matches it not, whatever was stored before",
            &[(200, &[A]), (200, &[A, ("vary", "x-a")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "no-cache"), ("x-a", "1")], "MISS 200 2"),
              ask(0, &[("x-a", "1")], "HIT 200 2"), ask(0, &[("x-a", "2")], "HIT 200 1 or MISS 200 3")]),
        ("4: of several that match the latest is used", &[(200, &[A, ("vary", "x-a")]), (200, &[A, ("vary", "x-b")])],
            &[ask(0, &[("x-a", "1"), ("x-b", "1")], "MISS 200 1"),
              ask(1, &[("x-a", "1"), ("x-b", "1"), ("cache-control", "no-cache")], "MISS 200 2"),
              ask(0, &[("x-a", "1"), ("x-b", "1")], "HIT 200 2")]),
    ];
    check(BOTH, rows).await;
}

/// What else tells responses apart is for the default to guess; by the text it is `Vary` alone.
#[tokio::test]
async fn section_4_1_by_the_preset_only_vary_tells_responses_apart() {
    const A: (&str, &str) = ("cache-control", "max-age=60");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.1: a field that many handlers read", &[(200, &[A])],
            &[ask(0, &[("x-requested-with", "a")], "MISS 200 1"), ask(0, &[("x-forwarded-host", "b")], "HIT 200 1"), ask(0, &[("origin", "http://c")], "HIT 200 1")]),
        ("4.1: an encoding without Vary", &[(200, &[A, ("content-encoding", "gzip")])],
            &[ask(0, &[("accept-encoding", "gzip")], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("4.1: Vary: Cookie", &[(200, &[A, ("vary", "Cookie")])],
            &[ask(0, &[("cookie", "a=1")], "MISS 200 1"), ask(0, &[("cookie", "a=2")], "MISS 200 2"), ask(0, &[], "MISS 200 3"), ask(0, &[("cookie", "a=1")], "HIT 200 1")]),
        ("4.1: Vary: Authorization, and public", &[(200, &[("cache-control", "public, max-age=60"), ("vary", "authorization")])],
            &[ask(0, &[("authorization", "a")], "MISS 200 1 or BYPASS 200 1"), ask(0, &[("authorization", "b")], "MISS 200 2 or BYPASS 200 2"), ask(0, &[], "MISS 200 3")]),
        ("4.1: Vary: User-Agent", &[(200, &[A, ("vary", "user-agent")])],
            &[ask(0, &[("user-agent", "a")], "MISS 200 1"), ask(0, &[("user-agent", "b")], "MISS 200 2"), ask(0, &[("user-agent", "a")], "HIT 200 1")]),
    ];
    check(&[Rfc9111], rows).await;
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("by default: a field that many handlers read", &[(200, &[A])],
            &[ask(0, &[("x-requested-with", "a")], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("by default: an encoding without Vary", &[(200, &[A, ("content-encoding", "gzip")])],
            &[ask(0, &[("accept-encoding", "gzip")], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("by default: Vary: Cookie", &[(200, &[A, ("vary", "Cookie")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
    ];
    check(&[Careful], rows).await;
}

#[tokio::test]
async fn section_4_2_fresh_is_what_is_younger_than_its_lifetime() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.2: younger is fresh, as old is stale", &[(200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2: dates in another case", &[(200, &[("date", NOON), ("expires", "thu, 01 jan 2026 12:00:10 gmt")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2: another zone than GMT is no date", &[(200, &[("date", NOON), ("expires", "Thu, 01 Jan 2026 12:00:10 EST")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2: a number as the zone is no date", &[(200, &[("date", NOON), ("expires", "Thu, 01 Jan 2026 12:00:10 +0000")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.1: s-maxage beats max-age and Expires", &[(200, &[("cache-control", "max-age=1, s-maxage=10"), ("expires", NOON)])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.1: s-maxage beats them also where it is shorter", &[(200, &[("cache-control", "s-maxage=1, max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.1: max-age beats Expires", &[(200, &[("cache-control", "max-age=10"), ("expires", NOON), ("date", NOON)])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.1: Expires counts from Date", &[(200, &[("date", NOON), ("expires", TEN_SECONDS_LATER)])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.1: Expires without Date counts from when it came", &[(200, &[("expires", TEN_SECONDS_LATER)])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.1: of two max-age the shorter", &[(200, &[("cache-control", "max-age=10, max-age=100")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("4.2.1: of two max-age the shorter, on two lines", &[(200, &[("cache-control", "max-age=100"), ("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("4.2.1: of two Expires the earlier", &[(200, &[("date", NOON), ("expires", "Thu, 01 Jan 2026 13:00:00 GMT"), ("expires", TEN_SECONDS_LATER)])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("4.2.1: max-age and no-cache: the latter", &[(200, &[("cache-control", "max-age=10, no-cache")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.1: a max-age that is no number is stale", &[(200, &[("cache-control", "max-age=a")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.1: a max-age that is no number, though Expires is one", &[(200, &[("cache-control", "max-age=1.5"), ("expires", "Thu, 01 Jan 2026 13:00:00 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(2, &[], "MISS 200 2")]),
        ("4.2.1: a max-age below zero is stale", &[(200, &[("cache-control", "max-age=-1")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.1: a max-age without a number is stale", &[(200, &[("cache-control", "max-age")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.1: an s-maxage that is no number does not leave max-age", &[(200, &[("cache-control", "s-maxage=a, max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2: numbers in quotes are numbers", &[(200, &[("cache-control", "max-age=\"10\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("1.2.2: more than 2^31 is as good as for ever", &[(200, &[("cache-control", "max-age=99999999999999999999")])],
            &[ask(0, &[], "MISS 200 1"), ask(2_000_000_000, &[], "HIT 200 1 or MISS 200 2")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_5_3_expires_invalid_is_expired() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("5.3: zero", &[(200, &[("expires", "0")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.3: minus one", &[(200, &[("expires", "-1")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.3: empty", &[(200, &[("expires", "")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.3: seconds", &[(200, &[("expires", "1893456000")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.3: a day that is none", &[(200, &[("expires", "Thu, 32 Jan 2026 12:10:00 GMT")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.3: words", &[(200, &[("expires", "in an hour")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.3: invalid, and no heuristic stands in", &[(200, &[("expires", "0"), ("last-modified", "Thu, 01 Jan 2015 12:00:00 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2 or MISS 304")]),
        ("5.3: invalid before a valid one", &[(200, &[("expires", "0"), ("expires", "Thu, 01 Jan 2026 13:00:00 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.3: invalid, but max-age counts", &[(200, &[("expires", "0"), ("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("5.3: the form of RFC 850", &[(200, &[("date", NOON), ("expires", "Thursday, 01-Jan-26 12:00:10 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.3: the form of asctime", &[(200, &[("date", NOON), ("expires", "Thu Jan  1 12:00:10 2026")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_4_2_2_a_heuristic_is_a_tenth_of_the_time_since_the_last_change() {
    const A_HUNDRED_SECONDS_AGO: &str = "Thu, 01 Jan 2026 11:58:20 GMT";
    const CHANGED: (&str, &str) = ("last-modified", A_HUNDRED_SECONDS_AGO);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.2.2: 200", &[(200, &[CHANGED])], &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.2: 203", &[(203, &[CHANGED])], &[ask(0, &[], "MISS 203 1"), ask(9, &[], "HIT 203 1"), ask(1, &[], "MISS 203 2")]),
        ("4.2.2: 404", &[(404, &[CHANGED])], &[ask(0, &[], "MISS 404 1"), ask(9, &[], "HIT 404 1"), ask(1, &[], "MISS 404 2")]),
        ("4.2.2: 501", &[(501, &[CHANGED])], &[ask(0, &[], "MISS 501 1"), ask(9, &[], "HIT 501 1"), ask(1, &[], "MISS 501 2")]),
        ("4.2.2: 201 is not cacheable by itself", &[(201, &[CHANGED])], &[ask(0, &[], "MISS 201 1"), ask(0, &[], "MISS 201 2")]),
        ("4.2.2: 403 is not", &[(403, &[CHANGED])], &[ask(0, &[], "MISS 403 1"), ask(0, &[], "MISS 403 2")]),
        ("4.2.2: 500 is not", &[(500, &[CHANGED])], &[ask(0, &[], "MISS 500 1"), ask(0, &[], "MISS 500 2")]),
        ("4.2.2: never where an expiry is said", &[(200, &[CHANGED, ("cache-control", "max-age=2")])],
            &[ask(0, &[], "MISS 200 1"), ask(3, &[], "MISS 200 2")]),
        ("4.2.2: never where Expires has passed", &[(200, &[CHANGED, ("expires", NOON)])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.2: from Date, not from now", &[(200, &[CHANGED, ("date", "Thu, 01 Jan 2026 11:58:30 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.2: changed in the future is changed now", &[(200, &[("last-modified", "Fri, 02 Jan 2026 12:00:00 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.2: no date, no heuristic", &[(200, &[("last-modified", "yesterday")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.2: a day at the most", &[(200, &[("last-modified", "Thu, 01 Jan 2015 12:00:00 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(86_399, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
    ];
    check(&[Rfc9111], rows).await;
    let only = &rows[..1];
    check_with(&[Careful], only, |layer| layer.heuristic(true)).await;
    #[rustfmt::skip]
    let off: &[Row] = &[("4.2.2: switched off, nothing is said", &[(200, &[CHANGED])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")])];
    check_with(&[Rfc9111], off, |layer| layer.heuristic(false)).await;
}

#[tokio::test]
async fn age_as_received_is_counted() {
    const TEN: (&str, &str) = ("cache-control", "max-age=10");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.2.3: Age", &[(200, &[TEN, ("age", "4")])], &[ask(0, &[], "MISS 200 1"), ask(5, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.3: Age as long as the lifetime", &[(200, &[TEN, ("age", "10")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("4.2.3: what Date tells", &[(200, &[TEN, ("date", "Thu, 01 Jan 2026 11:59:56 GMT")])], &[ask(0, &[], "MISS 200 1"), ask(5, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.3: the greater of both", &[(200, &[TEN, ("date", "Thu, 01 Jan 2026 11:59:56 GMT"), ("age", "2")])], &[ask(0, &[], "MISS 200 1"), ask(5, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.3: the greater of both, turned round", &[(200, &[TEN, ("date", "Thu, 01 Jan 2026 11:59:58 GMT"), ("age", "4")])], &[ask(0, &[], "MISS 200 1"), ask(5, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.3: a Date in the future is no negative age", &[(200, &[TEN, ("date", "Thu, 01 Jan 2026 12:05:00 GMT")])], &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("4.2.3: a Date that is none", &[(200, &[TEN, ("date", "today")])], &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1 or MISS 200 2"), ask(1, &[], "MISS 200 2 or MISS 200 3")]),
        ("5.1: of a list the first", &[(200, &[TEN, ("age", "4, 0")])], &[ask(0, &[], "MISS 200 1"), ask(5, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.1: of a list the first, though the second is greater", &[(200, &[TEN, ("age", "4, 9")])], &[ask(0, &[], "MISS 200 1"), ask(5, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.1: of lines the first", &[(200, &[TEN, ("age", "4"), ("age", "0")])], &[ask(0, &[], "MISS 200 1"), ask(5, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.1: what is no number is ignored", &[(200, &[TEN, ("age", "old")])], &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("5.1: what is below zero is ignored", &[(200, &[TEN, ("age", "-20")])], &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.1: a fraction is ignored", &[(200, &[TEN, ("age", "20.5")])], &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("5.1: more than fits is very old", &[(200, &[TEN, ("age", "99999999999999999999")])], &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_5_1_what_is_from_the_store_says_its_age() {
    #[rustfmt::skip]
    let rows: &[(&str, &[Says], u64, &str)] = &[
        ("4: none was there", &[(200, &[("cache-control", "max-age=60")])], 7, "7"),
        ("4: at once", &[(200, &[("cache-control", "max-age=60")])], 0, "0"),
        ("4: the one that was there is replaced", &[(200, &[("cache-control", "max-age=60"), ("age", "5")])], 3, "8"),
        ("5.1: one for several", &[(200, &[("cache-control", "max-age=60"), ("age", "5"), ("age", "1")])], 3, "8"),
        ("4.2.3: what Date tells", &[(200, &[("cache-control", "max-age=60"), ("date", "Thu, 01 Jan 2026 11:59:50 GMT")])], 3, "13"),
    ];
    for preset in BOTH {
        for (sentence, says, after, age) in rows {
            let world = World::new(*preset, says);
            world.get(&[]).await;
            world.pass(*after);
            let answer = world.get(&[]).await;
            assert_eq!(told(&answer), "HIT 200 1", "{sentence}");
            assert_eq!(answer.fields("age"), [*age], "{preset:?} {sentence}");
        }
    }
}

/// corrected_age_value = age_value + response_delay
#[tokio::test]
async fn section_4_2_3_the_time_a_call_takes_counts_as_age() {
    for preset in BOTH {
        let (cache, clock) = cache();
        let hand: ManualClock = clock.clone();
        let origin = Origin::new(move |_, _| {
            hand.advance(Duration::from_secs(3));
            let fields = [("cache-control", "max-age=10"), ("age", "2")];
            std::future::ready(response(200, &fields, "text"))
        });
        let app = origin.behind(&layer(*preset, &cache));
        get(&app, "/").await;
        let answer = get(&app, "/").await;
        assert_eq!((answer.x_cache(), answer.field("age")), ("HIT", "5"));
        clock.advance(Duration::from_secs(5));
        assert_eq!(get(&app, "/").await.x_cache(), "MISS", "{preset:?}");
    }
}

#[tokio::test]
async fn section_4_2_4_stale_is_not_served_where_nothing_allows_it() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.2.4: not by itself", &[(200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")]), (200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 2")]),
        ("4.2.4: not for a 500", &[(200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 500 2")]),
        ("4.2.4: not for a HEAD", &[(200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 10, &[], "MISS 200")]),
        ("4.2.4: not for a Range", &[(200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[("range", "bytes=0-0")], "MISS 200 2 or MISS 206 1")]),
        ("4.2.4: not for conditions", &[(200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")]), (200, &[("etag", "\"b\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[("if-none-match", "\"a\"")], "MISS 200 2")]),
    ];
    check(BOTH, rows).await;
}
