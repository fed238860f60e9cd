//! What a response may direct (RFC 9111, 5.2.2; RFC 8246).

use crate::support::story::{
    BOTH, Careful, Fields, Rfc9111, Row, Says, World, ask, by, check, check_with, told,
};
use std::time::Duration;

const A: (&str, &str) = ("etag", "\"a\"");

#[tokio::test]
async fn section_5_2_2_what_each_directive_means_to_a_shared_cache() {
    const LONG: Says = (200, &[("cache-control", "max-age=60")]);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("5.2.2.1: max-age", &[(200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.2.2.1: max-age=0 is stale at once", &[(200, &[("cache-control", "max-age=0")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.2: must-revalidate: fresh is reused", &[(200, &[("cache-control", "max-age=10, must-revalidate")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("5.2.2.2: must-revalidate: stale is validated", &[(200, &[("cache-control", "max-age=10, must-revalidate, stale-while-revalidate=60"), A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("5.2.2.2: must-revalidate: an error is passed on", &[(200, &[("cache-control", "max-age=10, must-revalidate, stale-if-error=60"), A]), (503, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 503 2")]),
        ("5.2.2.3: must-understand of a status that is", &[(200, &[("cache-control", "max-age=60, must-understand")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("5.2.2.3: must-understand of a status that is not", &[(299, &[("cache-control", "max-age=60, must-understand")])],
            &[ask(0, &[], "MISS 299 1"), ask(0, &[], "MISS 299 2")]),
        ("5.2.2.3: must-understand and no-store of a status that is not", &[(299, &[("cache-control", "max-age=60, must-understand, no-store")])],
            &[ask(0, &[], "MISS 299 1"), ask(0, &[], "MISS 299 2")]),
        ("5.2.2.4: no-cache is not reused without validation", &[(200, &[("cache-control", "max-age=60, no-cache")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.4: no-cache in another case", &[(200, &[("cache-control", "public,NO-CACHE,s-maxage=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.4: no-cache with a list that is empty", &[(200, &[("cache-control", "max-age=60, no-cache=\"\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.4: no-cache and validation", &[(200, &[("cache-control", "no-cache"), A]), (304, &[A]), LONG],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 1 or MISS 304")]),
        ("5.2.2.4: no-cache in quotes is an argument", &[(200, &[("cache-control", "max-age=60, x=\"no-cache\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("5.2.2.5: no-store", &[(200, &[("cache-control", "no-store, max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.5: no-store behind a quote that is never closed", &[(200, &[("cache-control", "max-age=60, x=\"a, no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.7: private", &[(200, &[("cache-control", "private, max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.7: private with max-age=0 and Expires", &[(200, &[("cache-control", "Private"), ("expires", "Thu, 01 Jan 2026 13:00:00 GMT")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.7: private with a list that is empty", &[(200, &[("cache-control", "max-age=60, private=\"\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.8: proxy-revalidate: fresh is reused", &[(200, &[("cache-control", "max-age=10, proxy-revalidate")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("5.2.2.8: proxy-revalidate: stale is validated", &[(200, &[("cache-control", "max-age=10, proxy-revalidate, stale-while-revalidate=60"), A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1")]),
        ("5.2.2.8: proxy-revalidate: an error is passed on", &[(200, &[("cache-control", "max-age=10, proxy-revalidate, stale-if-error=60")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 500 2")]),
        ("5.2.2.9: public does not lengthen", &[(200, &[("cache-control", "public, max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.2.2.10: s-maxage", &[(200, &[("cache-control", "max-age=0, s-maxage=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("5.2.2.10: s-maxage=0", &[(200, &[("cache-control", "max-age=60, s-maxage=0")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.2.10: s-maxage: an error is passed on", &[(200, &[("cache-control", "s-maxage=10"), A]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 500 2")]),
        ("5.2.3: what is not known is ignored", &[(200, &[("cache-control", "max-age=60, community=\"UCI, private\", x, =, ,")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

/// 5.2.2.3: a cache that understands the status ignores the `no-store` that is for those who do not.
#[tokio::test]
async fn section_5_2_2_3_must_understand_lifts_the_no_store_beside_it_in_the_preset() {
    const SAYS: &[Says] = &[(
        200,
        &[("cache-control", "no-store, must-understand, max-age=60")],
    )];
    #[rustfmt::skip]
    let rows: &[Row] = &[("5.2.2.3: understood", SAYS, &[ask(0, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")])];
    check(&[Rfc9111], rows).await;
    #[rustfmt::skip]
    let rows: &[Row] = &[("5.2.2.3: by default nothing lifts it", SAYS, &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")])];
    check(&[Careful], rows).await;
}

/// 5.2.2.4 and 5.2.2.7 with names: the fields are not reused, or nothing is.
#[tokio::test]
async fn sections_5_2_2_4_and_5_2_2_7_fields_that_are_named_are_not_handed_on() {
    for preset in BOTH {
        for said in [
            "max-age=60, no-cache=\"x-mine\"",
            "max-age=60, no-cache=x-mine",
            "max-age=60, no-cache=\"x-other, X-Mine\"",
            "max-age=60, private=\"x-mine\"",
            "max-age=60, private=x-mine",
            "max-age=60, PRIVATE=\" X-Mine , x-other\"",
            "private=\"x-other\", max-age=60, private=\"x-mine\"",
        ] {
            let fields = [("cache-control", said), ("x-mine", "secret")];
            let (cache, _clock) = crate::support::cache();
            let origin = crate::support::Origin::with_fields(&fields);
            let app = origin.behind(&match preset {
                Careful => tower_response_cache::ResponseCacheLayer::new(&cache),
                Rfc9111 => tower_response_cache::ResponseCacheLayer::rfc9111(&cache),
            });
            crate::support::get(&app, "/").await;
            let answer = crate::support::get(&app, "/").await;
            let is_kept = answer.headers.contains_key("x-mine");
            assert!(!(answer.is_hit() && is_kept), "{preset:?} {said}");
            assert!(answer.is_hit() || origin.calls() == 2, "{preset:?} {said}");
            if *preset == Careful {
                assert_eq!(origin.calls(), 2, "by default as if there were no names");
            }
        }
    }
}

/// 5.2.2.6: what comes from the store is what came from the inner service.
#[tokio::test]
async fn section_5_2_2_6_nothing_is_transformed() {
    const SAYS: &[Says] = &[(
        200,
        &[
            ("cache-control", "no-transform, max-age=60"),
            ("content-type", "text/html"),
            ("content-encoding", "identity"),
            ("content-length", "1"),
        ],
    )];
    for preset in BOTH {
        let world = World::new(*preset, SAYS);
        let first = world.get(&[("accept-encoding", "gzip")]).await;
        let hit = world.get(&[("accept-encoding", "gzip")]).await;
        assert_eq!(told(&hit), "HIT 200 1");
        assert_eq!(hit.body, first.body);
        for (name, value) in SAYS[0].1 {
            assert_eq!(hit.fields(name), [*value], "{preset:?} {name}");
        }
    }
}

/// 5.2: directives go on to the client, those that were for this cache as well.
#[tokio::test]
async fn section_5_2_directives_of_responses_are_passed_on() {
    #[rustfmt::skip]
    const SAYS: &[Says] = &[(200, &[
        ("cache-control", "public, s-maxage=60, max-age=5"),
        ("cache-control", "X-Y=\"a, b\", immutable, stale-if-error=7"),
        ("expires", "Thu, 01 Jan 2026 12:00:05 GMT"),
        ("pragma", "x"),
    ])];
    for preset in BOTH {
        let world = World::new(*preset, SAYS);
        for x_cache in ["MISS", "HIT"] {
            let answer = world.get(&[]).await;
            assert_eq!(answer.x_cache(), x_cache);
            for name in ["cache-control", "expires", "pragma"] {
                let said = SAYS[0].1.iter().filter(|field| field.0 == name);
                let said: Vec<_> = said.map(|field| field.1).collect();
                assert_eq!(answer.fields(name), said, "{preset:?} {name}");
            }
        }
    }
}

#[tokio::test]
async fn rfc_8246_immutable_is_passed_on_and_makes_nothing_live_longer() {
    const RELOAD: Fields = &[("cache-control", "no-cache")];
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("RFC 8246, 2: it is fresh as long as it says", &[(200, &[("cache-control", "max-age=10, immutable")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("RFC 8246, 2: alone it is no lifetime; a reload by force still is one", &[(200, &[("cache-control", "max-age=10, immutable")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, RELOAD, "MISS 200 2")]),
        ("RFC 8246, 2: an argument does not matter", &[(200, &[("cache-control", "max-age=10, immutable=\"x\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("RFC 8246: HEAD sees it", &[(200, &[("cache-control", "max-age=10, immutable")])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 0, &[], "HIT 200")]),
    ];
    check(BOTH, rows).await;
    let rows: &[Row] = &[(
        "RFC 8246, 2: no lifetime, no storage",
        &[(200, &[("cache-control", "immutable")])],
        &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")],
    )];
    check(&[Rfc9111], rows).await;
    for preset in BOTH {
        let world = World::new(
            *preset,
            &[(200, &[("cache-control", "max-age=10, immutable")])],
        );
        for _ in 0..2 {
            let answer = world.get(&[]).await;
            assert_eq!(answer.field("cache-control"), "max-age=10, immutable");
        }
    }
}

/// The layer's lifetime is for what says nothing; what it forces is for all but what forbids.
#[tokio::test]
async fn section_4_2_1_what_the_layer_says_beside_the_directives() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("max-age beats the ttl of the layer", &[(200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 2")]),
        ("silent responses have the ttl of the layer", &[(200, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(99, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
    ];
    let ttl = Duration::from_secs(100);
    check_with(&[Careful], rows, |layer| layer.ttl(ttl).jitter(0.0)).await;
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("force_ttl beats max-age", &[(200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(99, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("force_ttl beats no no-store", &[(200, &[("cache-control", "no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("force_ttl beats no private", &[(200, &[("cache-control", "private")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("force_ttl beats no no-cache", &[(200, &[("cache-control", "no-cache")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
    ];
    check_with(BOTH, rows, |layer| layer.force_ttl(ttl)).await;
}
