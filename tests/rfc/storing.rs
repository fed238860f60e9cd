//! Storing responses (RFC 9111, 3): which, what of them, and for whom.

use crate::support::{
    Origin, cache, get, request,
    scripted::{broken, in_frames, response},
    send,
    story::{BOTH, Careful, Rfc9111, Row, World, ask, by, check, told},
};
use tower_response_cache::ResponseCacheLayer;

const EXPIRES: &str = "Thu, 01 Jan 2026 13:00:00 GMT";
const CHANGED: &str = "Thu, 01 Jan 2026 11:00:00 GMT";

#[tokio::test]
async fn section_3_a_response_is_stored_only_if_all_of_it_holds() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3: a GET is understood", &[(200, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3: POST is not stored", &[(200, &[("cache-control", "max-age=60")])],
            &[by("POST", 0, &[], "200 1"), by("POST", 0, &[], "200 2"), ask(0, &[], "MISS 200 3")]),
        ("3: POST with Content-Location is not stored either", &[(200, &[("cache-control", "max-age=60"), ("content-location", "/")])],
            &[by("POST", 0, &[], "200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: OPTIONS is not stored (RFC 9110, 9.3.7)", &[(200, &[("cache-control", "max-age=60")])],
            &[by("OPTIONS", 0, &[], "200 1"), by("OPTIONS", 0, &[], "200 2"), ask(0, &[], "MISS 200 3")]),
        ("3: a method that is not known is not stored", &[(200, &[("cache-control", "max-age=60")])],
            &[by("BREW", 0, &[], "200 1"), by("BREW", 0, &[], "200 2")]),
        ("3: 206 is no whole response", &[(206, &[("cache-control", "max-age=60"), ("content-range", "bytes 0-0/2")])],
            &[ask(0, &[], "MISS 206 1"), ask(0, &[], "MISS 206 2")]),
        ("3: 304 to a request without conditions is no response to reuse", &[(304, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 304"), ask(0, &[], "MISS 304")]),
        ("3: no-store in the response", &[(200, &[("cache-control", "max-age=60, no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: no-store on a line of its own", &[(200, &[("cache-control", "max-age=60"), ("cache-control", "No-Store")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: no-store with an argument that it does not have", &[(200, &[("cache-control", "no-store=\"a\", max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: private in a shared cache", &[(200, &[("cache-control", "private, max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: private beats public and s-maxage", &[(200, &[("cache-control", "public, s-maxage=60, PRIVATE")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: Expires is enough", &[(200, &[("expires", EXPIRES)])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3: s-maxage is enough", &[(200, &[("cache-control", "s-maxage=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3: a directive that is not known forbids nothing", &[(200, &[("cache-control", "x-else=\"no-store, private\", max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3: an empty body is a body", &[(204, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 204"), ask(0, &[], "HIT 204")]),
        ("3: Pragma in a response means nothing (5.4)", &[(200, &[("cache-control", "max-age=60"), ("pragma", "no-cache")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_3_the_preset_stores_what_says_how_long_it_is_fresh() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3: nothing is said", &[(200, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: public alone says no lifetime", &[(200, &[("cache-control", "public")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3: when it was changed, for a status that is cacheable by itself", &[(200, &[("last-modified", CHANGED)])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3: when it was changed, for one that is not", &[(302, &[("last-modified", CHANGED), ("location", "/a")])],
            &[ask(0, &[], "MISS 302 1"), ask(0, &[], "MISS 302 2")]),
        ("3: 400 with max-age", &[(400, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 400 1"), ask(0, &[], "HIT 400 1")]),
        ("3: 403 with max-age", &[(403, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 403 1"), ask(0, &[], "HIT 403 1")]),
        ("3: 429 with Expires", &[(429, &[("expires", EXPIRES)])],
            &[ask(0, &[], "MISS 429 1"), ask(0, &[], "HIT 429 1")]),
        ("3: 500 with max-age", &[(500, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 500 1"), ask(0, &[], "HIT 500 1")]),
        ("3: 503 with s-maxage", &[(503, &[("cache-control", "s-maxage=60")])],
            &[ask(0, &[], "MISS 503 1"), ask(0, &[], "HIT 503 1")]),
        ("3: a status that is not known", &[(599, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 599 1"), ask(0, &[], "HIT 599 1")]),
        ("3: a status that is not known, and has to be understood", &[(599, &[("cache-control", "max-age=60, must-understand")])],
            &[ask(0, &[], "MISS 599 1"), ask(0, &[], "MISS 599 2")]),
        ("3: 503 that says nothing", &[(503, &[])],
            &[ask(0, &[], "MISS 503 1"), ask(0, &[], "MISS 503 2")]),
        ("3: a cookie of the request does not matter", &[(200, &[("cache-control", "max-age=60")])],
            &[ask(0, &[("cookie", "a=1")], "MISS 200 1"), ask(0, &[("cookie", "a=2")], "HIT 200 1")]),
        ("3: Set-Cookie does not matter: that is left to Cache-Control (7.3)", &[(200, &[("cache-control", "max-age=60"), ("set-cookie", "a=1")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
    ];
    check(&[Rfc9111], rows).await;
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3: by default a 200 that says nothing lives for the ttl of the layer", &[(200, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3: by default a blanket field does not share a 400", &[(400, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 400 1"), ask(0, &[], "MISS 400 2")]),
        ("3: by default a cookie goes alone", &[(200, &[("cache-control", "max-age=60")])],
            &[ask(0, &[("cookie", "a=1")], "BYPASS 200 1"), ask(0, &[("cookie", "a=2")], "BYPASS 200 2")]),
        ("3: by default Set-Cookie is not stored", &[(200, &[("cache-control", "max-age=60"), ("set-cookie", "a=1")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
    ];
    check(&[Careful], rows).await;
}

#[tokio::test]
async fn section_3_1_all_fields_are_stored_but_those_of_the_connection_and_the_proxy() {
    const SAYS: &[(u16, &[(&str, &str)])] = &[(
        200,
        &[
            ("cache-control", "max-age=60"),
            ("connection", "X-Hop, keep-alive"),
            ("connection", "x-other-hop"),
            ("x-hop", "1"),
            ("x-other-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "a"),
            ("proxy-authorization", "b"),
            ("x-unknown", "one"),
            ("x-unknown", "two, three"),
            ("content-type", "text/odd"),
            ("link", "</a>"),
            ("link", "</b>"),
            ("warning", "199 - old"),
            ("x-empty", ""),
        ],
    )];
    for preset in BOTH {
        let world = World::new(*preset, SAYS);
        let first = world.get(&[]).await;
        let answer = world.get(&[]).await;
        assert_eq!(told(&answer), "HIT 200 1");
        for name in [
            "connection",
            "x-hop",
            "x-other-hop",
            "keep-alive",
            "proxy-connection",
            "te",
            "upgrade",
            "proxy-authenticate",
            "proxy-authentication-info",
            "proxy-authorization",
        ] {
            assert!(!answer.headers.contains_key(name), "{preset:?} {name}");
        }
        for name in [
            "cache-control",
            "x-unknown",
            "content-type",
            "link",
            "warning",
            "x-empty",
        ] {
            assert_eq!(answer.fields(name), first.fields(name), "{preset:?} {name}");
        }
        assert_eq!(answer.fields("x-unknown"), ["one", "two, three"]);
        assert!(answer.headers.contains_key("x-empty"));
    }
}

/// 3.1 wants them all; by default those of one exchange are not replayed to others.
#[tokio::test]
async fn section_3_1_fields_of_one_exchange_are_stored_by_the_preset_alone() {
    const FIELDS: &[(&str, &str)] = &[
        ("cache-control", "max-age=60"),
        ("x-request-id", "1"),
        ("traceparent", "2"),
        ("server-timing", "3"),
        ("ratelimit-limit", "4"),
    ];
    for preset in BOTH {
        let world = World::new(*preset, &[(200, FIELDS)]);
        world.get(&[]).await;
        let answer = world.get(&[]).await;
        assert!(answer.is_hit());
        for (name, _) in &FIELDS[1..] {
            let is_there = answer.headers.contains_key(*name);
            assert_eq!(is_there, *preset == Rfc9111, "{preset:?} {name}");
        }
    }
}

/// What is not stored decides all the same: a field that `Connection` names is one.
#[tokio::test]
async fn section_3_1_what_connection_names_decides_before_it_is_dropped() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3.1: Connection: cache-control hides no no-store", &[(200, &[("connection", "cache-control"), ("cache-control", "no-store, max-age=60"), ("expires", EXPIRES)])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3.1: Connection: vary hides no Vary", &[(200, &[("connection", "vary"), ("vary", "x-a"), ("cache-control", "max-age=60")])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(0, &[("x-a", "2")], "MISS 200 2")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_3_2_a_304_replaces_the_fields_that_it_has() {
    const SAYS: &[(u16, &[(&str, &str)])] = &[
        (
            200,
            &[
                ("cache-control", "max-age=10"),
                ("etag", "\"a\""),
                ("content-length", "1"),
                ("content-type", "text/plain"),
                ("x-kept", "first"),
                ("x-changed", "first"),
                ("x-hop", "kept"),
                ("link", "</a>"),
                ("link", "</b>"),
                ("date", "Thu, 01 Jan 2026 12:00:00 GMT"),
            ],
        ),
        (
            304,
            &[
                ("cache-control", "max-age=20"),
                ("etag", "\"a\""),
                ("content-length", "0"),
                ("connection", "x-hop"),
                ("x-hop", "dropped"),
                ("proxy-authenticate", "Basic"),
                ("x-changed", "second"),
                ("x-new", "new"),
                ("link", "</c>"),
                ("link", "</d>"),
                ("date", "Thu, 01 Jan 2026 12:00:11 GMT"),
            ],
        ),
    ];
    for preset in BOTH {
        let world = World::new(*preset, SAYS);
        world.get(&[]).await;
        world.pass(11);
        let validated = world.get(&[]).await;
        assert_eq!(told(&validated), "MISS 200 1", "{preset:?}");
        world.pass(15);
        let hit = world.get(&[]).await;
        assert_eq!(told(&hit), "HIT 200 1", "{preset:?}: fresh for 20 seconds");
        for answer in [&validated, &hit] {
            for (name, lines) in [
                ("cache-control", &["max-age=20"][..]),
                ("etag", &["\"a\""]),
                ("content-length", &["1"]),
                ("content-type", &["text/plain"]),
                ("x-kept", &["first"]),
                ("x-changed", &["second"]),
                ("x-new", &["new"]),
                ("x-hop", &["kept"]),
                ("proxy-authenticate", &[]),
                ("connection", &[]),
                ("date", &["Thu, 01 Jan 2026 12:00:11 GMT"]),
            ] {
                assert_eq!(answer.fields(name), lines, "{preset:?} {name}");
            }
        }
        assert_eq!(hit.field("age"), "15", "{preset:?}");
        world.pass(5);
        assert_eq!(told(&world.get(&[]).await), "MISS 200 1", "{preset:?}");
        assert_eq!(world.origin.calls(), 3);
    }
}

#[tokio::test]
async fn repeated_fields_after_a_304() {
    const SAYS: &[(u16, &[(&str, &str)])] = &[
        (
            200,
            &[
                ("cache-control", "max-age=10"),
                ("etag", "\"a\""),
                ("link", "</a>"),
                ("link", "</b>"),
                ("x-two", "1"),
                ("x-two", "2"),
            ],
        ),
        (
            304,
            &[("etag", "\"a\""), ("link", "</c>"), ("link", "</d, e>")],
        ),
    ];
    for preset in BOTH {
        let world = World::new(*preset, SAYS);
        world.get(&[]).await;
        world.pass(11);
        for x_cache in ["MISS", "HIT"] {
            let answer = world.get(&[]).await;
            assert_eq!(answer.x_cache(), x_cache);
            assert_eq!(answer.fields("link"), ["</c>", "</d, e>"], "{preset:?}");
            assert_eq!(answer.fields("x-two"), ["1", "2"], "{preset:?}");
        }
    }
}

#[tokio::test]
async fn section_3_3_incomplete_responses_are_not_stored() {
    for preset in BOTH {
        for length in ["4", "3"] {
            let (cache, _clock) = cache();
            let origin = Origin::new(move |call, _| {
                let fields = [("cache-control", "max-age=60"), ("content-length", length)];
                let frames = match (call, length) {
                    (1, "4") => vec![Ok("abc".into())],
                    (1, _) => vec![Ok("ab".into()), broken()],
                    (_, "4") => vec![Ok("abcd".into())],
                    (..) => vec![Ok("abc".into())],
                };
                std::future::ready(response(200, &fields, in_frames(frames)))
            });
            let app = origin.behind(&match preset {
                Careful => ResponseCacheLayer::new(&cache),
                Rfc9111 => ResponseCacheLayer::rfc9111(&cache),
            });
            // The first may break off for its client, too.
            let asking = tokio::spawn({
                let app = app.clone();
                async move { send(&app, request("GET", "/", &[])).await }
            });
            drop(asking.await);
            let answer = get(&app, "/").await;
            assert_eq!(answer.x_cache(), "MISS", "{preset:?} {length}");
            assert_eq!(answer.text().len().to_string(), length);
            assert!(get(&app, "/").await.is_hit());
        }
    }
}

#[tokio::test]
async fn section_3_3_and_3_4_parts_are_neither_stored_nor_put_together() {
    const FIRST: &[(&str, &str)] = &[
        ("cache-control", "max-age=60"),
        ("etag", "\"a\""),
        ("content-range", "bytes 0-0/2"),
    ];
    const SECOND: &[(&str, &str)] = &[
        ("cache-control", "max-age=60"),
        ("etag", "\"a\""),
        ("content-range", "bytes 1-1/2"),
    ];
    const WHOLE: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3.4: two parts are not a whole", &[(206, FIRST), (206, SECOND), (200, WHOLE)],
            &[ask(0, &[("range", "bytes=0-0")], "MISS 206 1"), ask(0, &[("range", "bytes=1-1")], "MISS 206 2"),
              ask(0, &[], "MISS 200 3"), ask(0, &[], "HIT 200 3")]),
        ("3.3: a part does not take the place of the whole", &[(200, WHOLE), (206, FIRST)],
            &[ask(0, &[], "MISS 200 1"), ask(61, &[("range", "bytes=0-0")], "MISS 206 2 or MISS 206 1"),
              ask(0, &[], "HIT 200 1 or MISS 206 3")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_3_5_authorization_is_shared_only_where_the_response_says_so() {
    const ALICE: &[(&str, &str)] = &[("authorization", "Basic alice")];
    const BOB: &[(&str, &str)] = &[("authorization", "Basic bob")];
    const MAX_AGE: &[(&str, &str)] = &[("cache-control", "max-age=60")];
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3.5: max-age says nothing of others", &[(200, MAX_AGE)],
            &[ask(0, ALICE, "BYPASS 200 1"), ask(0, BOB, "BYPASS 200 2"), ask(0, &[], "MISS 200 3")]),
        ("3.5: the same client is no other case", &[(200, MAX_AGE)],
            &[ask(0, ALICE, "BYPASS 200 1"), ask(0, ALICE, "BYPASS 200 2")]),
        ("3.5: Expires neither", &[(200, &[("expires", EXPIRES)])],
            &[ask(0, ALICE, "BYPASS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("3.5: proxy-revalidate is not in the list", &[(200, &[("cache-control", "max-age=60, proxy-revalidate")])],
            &[ask(0, ALICE, "BYPASS 200 1"), ask(0, BOB, "BYPASS 200 2")]),
        ("3.5: public", &[(200, &[("cache-control", "public, max-age=60")])],
            &[ask(0, ALICE, "MISS 200 1 or BYPASS 200 1"), ask(0, BOB, "HIT 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3.5: s-maxage", &[(200, &[("cache-control", "s-maxage=60")])],
            &[ask(0, ALICE, "MISS 200 1 or BYPASS 200 1"), ask(0, BOB, "HIT 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3.5: must-revalidate", &[(200, &[("cache-control", "must-revalidate, max-age=60")])],
            &[ask(0, ALICE, "MISS 200 1 or BYPASS 200 1"), ask(0, BOB, "HIT 200 1"), ask(0, &[], "HIT 200 1")]),
        ("3.5: a validation for one does not open it to others", &[(200, &[("cache-control", "public, max-age=10"), ("etag", "\"a\"")]), (304, &[("etag", "\"a\""), ("cache-control", "max-age=60")]), (200, MAX_AGE)],
            &[ask(0, &[], "MISS 200 1"), ask(10, ALICE, "MISS 200 1 or BYPASS 200 1"), ask(0, BOB, "MISS 200 3 or BYPASS 200 3")]),
        ("3.5: what is stale and not for all is not even asked about", &[(200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")]), (200, MAX_AGE)],
            &[ask(0, &[], "MISS 200 1"), ask(10, ALICE, "BYPASS 200 2"), ask(0, BOB, "BYPASS 200 3")]),
        ("3.5: stale does not stand in for one whom it is not for", &[(200, &[("cache-control", "max-age=10, stale-if-error=60, stale-while-revalidate=60")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, ALICE, "BYPASS 500 2")]),
        ("3.5: stale stands in for one whom it is for", &[(200, &[("cache-control", "public, max-age=10, stale-if-error=60")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, ALICE, "STALE 200 1")]),
        ("3.5: public in quotes is an argument", &[(200, &[("cache-control", "x=\"public\", max-age=60")])],
            &[ask(0, ALICE, "BYPASS 200 1"), ask(0, BOB, "BYPASS 200 2")]),
        ("3.5: an empty field is there", &[(200, MAX_AGE)],
            &[ask(0, &[("authorization", "")], "BYPASS 200 1"), ask(0, BOB, "BYPASS 200 2")]),
    ];
    check(BOTH, rows).await;
}
