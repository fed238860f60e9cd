//! What a request may demand (RFC 9111, 5.2.1 and 5.4).

use crate::support::story::{
    BOTH, Careful, Fields, Rfc9111, Row, World, ask, by, check, check_with, told,
};
use tower_response_cache::HonoredDirectives;

const TEN: (&str, &str) = ("cache-control", "max-age=10");
const A: (&str, &str) = ("etag", "\"a\"");
const NO_CACHE: Fields = &[("cache-control", "no-cache")];
const ONLY: Fields = &[("cache-control", "only-if-cached")];

/// What only the preset honours, and a layer that was told to.
#[rustfmt::skip]
const ALL: &[Row<'static>] = &[
    ("5.2.1.1: max-age: old enough to be refused", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(6, &[("cache-control", "max-age=5")], "MISS 200 2"), ask(0, &[], "HIT 200 2")]),
    ("5.2.1.1: max-age: just young enough", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(5, &[("cache-control", "max-age=5")], "HIT 200 1")]),
    ("5.2.1.1: max-age: Age as it was received counts", &[(200, &[TEN, ("age", "4")])],
        &[ask(0, &[], "MISS 200 1"), ask(2, &[("cache-control", "max-age=5")], "MISS 200 2")]),
    ("5.2.1.1: max-age=0 is what a reload sends", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(1, &[("cache-control", "Max-Age=0")], "MISS 200 2")]),
    ("5.2.1.1: max-age does not make fresh what is stale", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(10, &[("cache-control", "max-age=100")], "MISS 200 2")]),
    ("5.2.1.1: max-age validates where it can", &[(200, &[TEN, A]), (304, &[A])],
        &[ask(0, &[], "MISS 200 1"), ask(6, &[("cache-control", "max-age=5")], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
    ("5.2.1.1: a max-age in quotes is one (5.2)", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(6, &[("cache-control", "max-age=\"5\"")], "MISS 200 2")]),
    ("5.2.1.1: of two the stricter", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(6, &[("cache-control", "max-age=9, max-age=5")], "MISS 200 2")]),

    ("5.2.1.2: max-stale: within", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(14, &[("cache-control", "max-stale=5")], "STALE 200 1")]),
    ("5.2.1.2: max-stale: just within", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(15, &[("cache-control", "max-stale=5")], "STALE 200 1")]),
    ("5.2.1.2: max-stale: beyond", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(16, &[("cache-control", "max-stale=5")], "MISS 200 2")]),
    ("5.2.1.2: max-stale without a number: any", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(1000, &[("cache-control", "max-stale")], "STALE 200 1 or MISS 200 2")]),
    ("5.2.1.2: max-stale without a number, soon", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(15, &[("cache-control", "max-stale")], "STALE 200 1")]),
    ("5.2.1.2: max-stale that is no number", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(15, &[("cache-control", "max-stale=a")], "MISS 200 2")]),
    ("5.2.1.2: max-stale: fresh is a hit", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(9, &[("cache-control", "max-stale=5")], "HIT 200 1")]),
    ("5.2.1.2: max-stale for a HEAD", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), by("HEAD", 14, &[("cache-control", "max-stale=5")], "STALE 200")]),
    ("5.2.1.2: max-stale and only-if-cached", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(14, &[("cache-control", "only-if-cached, max-stale=5")], "STALE 200 1")]),
    ("5.2.1.2: max-stale and no-cache: the latter", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(14, &[("cache-control", "max-stale=5, no-cache")], "MISS 200 2")]),

    ("5.2.1.3: min-fresh: enough is left", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(5, &[("cache-control", "min-fresh=5")], "HIT 200 1")]),
    ("5.2.1.3: min-fresh: not enough is left", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(6, &[("cache-control", "min-fresh=5")], "MISS 200 2")]),
    ("5.2.1.3: min-fresh beyond all lifetimes", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "min-fresh=99999999999999")], "MISS 200 2")]),
    ("5.2.1.3: min-fresh forbids a refresh in the background", &[(200, &[("cache-control", "max-age=10, stale-while-revalidate=60")])],
        &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "min-fresh=1")], "MISS 200 2")]),
    ("5.2.1.1: max-age forbids a refresh in the background", &[(200, &[("cache-control", "max-age=10, stale-while-revalidate=60")])],
        &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "max-age=5")], "MISS 200 2")]),

    ("5.4: Pragma: no-cache where there is no Cache-Control", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(0, &[("pragma", "no-cache")], "MISS 200 2"), ask(0, &[], "HIT 200 2")]),
    ("5.4: Pragma in another case and among others", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(0, &[("pragma", "x=\"y\", No-Cache")], "MISS 200 2")]),
    ("5.4: Pragma beside Cache-Control is ignored", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(0, &[("pragma", "no-cache"), ("cache-control", "max-age=10")], "HIT 200 1")]),
    ("5.4: another Pragma means nothing", &[(200, &[TEN])],
        &[ask(0, &[], "MISS 200 1"), ask(0, &[("pragma", "x-no-cache")], "HIT 200 1")]),
];

#[tokio::test]
async fn section_5_2_1_all_demands_are_met_by_the_preset() {
    check(&[Rfc9111], ALL).await;
}

#[tokio::test]
async fn section_5_2_1_all_demands_are_met_by_a_layer_that_was_told_to() {
    check_with(&[Careful], ALL, |layer| {
        layer.request_directives(HonoredDirectives::All)
    })
    .await;
}

/// Every reload of a browser sends `max-age=0`.
#[tokio::test]
async fn section_5_2_1_by_default_ages_are_not_the_clients_to_choose() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("5.2.1.1: max-age", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(6, &[("cache-control", "max-age=0")], "HIT 200 1")]),
        ("5.2.1.2: max-stale", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "max-stale=100")], "MISS 200 2")]),
        ("5.2.1.3: min-fresh", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(6, &[("cache-control", "min-fresh=9")], "HIT 200 1")]),
        ("5.4: Pragma", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(6, &[("pragma", "no-cache")], "HIT 200 1")]),
    ];
    check(&[Careful], rows).await;
}

/// 4.2.4: what the response forbids, no request allows.
#[tokio::test]
async fn client_max_stale_cannot_widen_what_the_response_forbids() {
    const ANY: Fields = &[("cache-control", "max-stale")];
    const WITHIN: Fields = &[("cache-control", "max-stale=100")];
    const NEW: Fields = &[TEN];
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("must-revalidate", &[(200, &[("cache-control", "max-age=10, must-revalidate")]), (200, NEW)],
            &[ask(0, &[], "MISS 200 1"), ask(11, WITHIN, "MISS 200 2")]),
        ("proxy-revalidate", &[(200, &[("cache-control", "max-age=10, proxy-revalidate")]), (200, NEW)],
            &[ask(0, &[], "MISS 200 1"), ask(11, ANY, "MISS 200 2")]),
        ("s-maxage", &[(200, &[("cache-control", "s-maxage=10")]), (200, NEW)],
            &[ask(0, &[], "MISS 200 1"), ask(11, WITHIN, "MISS 200 2")]),
        ("no-cache", &[(200, &[("cache-control", "max-age=10, no-cache"), A]), (200, NEW)],
            &[ask(0, &[], "MISS 200 1"), ask(1, ANY, "MISS 200 2")]),
        ("must-revalidate on a line of its own", &[(200, &[TEN, ("cache-control", "Must-Revalidate")]), (200, NEW)],
            &[ask(0, &[], "MISS 200 1"), ask(11, ANY, "MISS 200 2")]),
        ("must-revalidate and only-if-cached", &[(200, &[("cache-control", "max-age=10, must-revalidate")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "max-stale, only-if-cached")], "MISS 504")]),
        ("must-revalidate that came with a 304", &[(200, &[TEN, A]), (304, &[A, ("cache-control", "max-age=10, must-revalidate")]), (200, NEW)],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 1"), ask(11, ANY, "MISS 200 3")]),
    ];
    check(&[Rfc9111], rows).await;
    check_with(&[Careful], rows, |layer| {
        layer.request_directives(HonoredDirectives::All)
    })
    .await;
}

#[tokio::test]
async fn section_5_2_1_4_to_7_what_is_honoured_by_default() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("5.2.1.4: no-cache is not answered from the store", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, NO_CACHE, "MISS 200 2"), ask(0, &[], "HIT 200 2")]),
        ("5.2.1.4: no-cache validates where it can", &[(200, &[TEN, A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(5, NO_CACHE, "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 1")]),
        ("5.2.1.4: no-cache in another case and on another line", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "x=y"), ("cache-control", "NO-CACHE")], "MISS 200 2")]),
        ("5.2.1.4: no-cache in quotes is an argument", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "x=\"no-cache\"")], "HIT 200 1")]),
        ("5.2.1.4: no-cache of one who has it", &[(200, &[TEN, A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "no-cache"), ("if-none-match", "\"a\"")], "MISS 304")]),
        ("5.2.1.5: no-store is not stored", &[(200, &[TEN])],
            &[ask(0, &[("cache-control", "no-store")], "BYPASS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("5.2.1.5: no-store leaves what is stored", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "No-Store")], "BYPASS 200 2"), ask(0, &[], "HIT 200 1")]),
        ("5.2.1.6: no-transform is no matter for a cache that transforms nothing", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "no-transform")], "HIT 200 1")]),
        ("5.2.1.7: only-if-cached where nothing is stored", &[(200, &[TEN])],
            &[ask(0, ONLY, "MISS 504"), ask(0, &[], "MISS 200 1"), ask(0, ONLY, "HIT 200 1")]),
        ("5.2.1.7: only-if-cached where it is stale", &[(200, &[TEN, A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, ONLY, "MISS 504")]),
        ("5.2.1.7: only-if-cached for a HEAD", &[(200, &[TEN])],
            &[by("HEAD", 0, ONLY, "MISS 504"), ask(0, &[], "MISS 200 1"), by("HEAD", 0, ONLY, "HIT 200")]),
        ("5.2.1.7: only-if-cached and another variant", &[(200, &[TEN, ("vary", "x-a")])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(0, &[("x-a", "2"), ("cache-control", "only-if-cached")], "MISS 504")]),
        ("5.2.1.7: only-if-cached and no-cache", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "no-cache, only-if-cached")], "MISS 504")]),
        ("5.2: what is not known is ignored", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[("cache-control", "x-y=\"a, no-cache\", , =, z")], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn a_layer_may_ignore_all_demands_but_only_if_cached() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("no-cache", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, NO_CACHE, "HIT 200 1")]),
        ("no-store", &[(200, &[TEN])],
            &[ask(0, &[("cache-control", "no-store")], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("max-age", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(5, &[("cache-control", "max-age=0")], "HIT 200 1")]),
        ("Pragma", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(5, &[("pragma", "no-cache")], "HIT 200 1")]),
        ("max-stale", &[(200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "max-stale")], "MISS 200 2")]),
        ("only-if-cached", &[(200, &[TEN])],
            &[ask(0, ONLY, "MISS 504")]),
    ];
    check_with(BOTH, rows, |layer| layer.ignore_request_directives()).await;
}

/// 5.2: a cache passes directives on, those that it acts on as well.
#[tokio::test]
async fn section_5_2_directives_of_requests_are_passed_on() {
    for preset in BOTH {
        let world = World::new(*preset, &[(200, &[TEN, A])]);
        world.get(&[("cache-control", "x-y=1, max-age=5")]).await;
        let fields = [("cache-control", "no-cache"), ("cache-control", "x-z")];
        assert_eq!(told(&world.get(&fields).await), "MISS 200 2");
        assert_eq!(world.seen(1, "cache-control"), ["x-y=1, max-age=5"]);
        assert_eq!(world.seen(2, "cache-control"), ["no-cache", "x-z"]);
        let fields = [("cache-control", "no-cache"), ("pragma", "no-cache")];
        world.get(&fields).await;
        assert_eq!(world.seen(3, "pragma"), ["no-cache"]);
    }
}
