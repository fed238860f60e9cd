//! Fields for some caches only (RFC 9213), and groups of responses (RFC 9875).

use std::{future::ready, time::Duration};

use axum::body::Body;
use http::{HeaderName, Response};
use tower_response_cache::{Cache, ManualClock, ResponseCacheLayer};

use crate::support::{
    Origin,
    fake_store::FakeStore,
    get, settle,
    story::{BOTH, Fields, Rfc9111, Row, World, ask, check, check_with},
};

const CDN: &str = "cdn-cache-control";

#[tokio::test]
async fn rfc_9213_a_targeted_field_counts_in_place_of_cache_control_and_expires() {
    const LATER: (&str, &str) = ("expires", "Thu, 01 Jan 2026 13:00:00 GMT");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("2.2: it counts in place of Cache-Control", &[(200, &[("cache-control", "no-store"), (CDN, "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("2.2: it forbids what Cache-Control allows", &[(200, &[("cache-control", "max-age=60"), (CDN, "no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("2.2: private for it", &[(200, &[("cache-control", "max-age=60"), (CDN, "private, max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("2.2: Expires does not count either", &[(200, &[LATER, (CDN, "must-revalidate")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("2.1: one that is no dictionary is ignored", &[(200, &[("cache-control", "max-age=10"), (CDN, "max-age=60, &&")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 2")]),
        ("2.1: one whose value has another type is ignored", &[(200, &[("cache-control", "no-store"), (CDN, "max-age=\"60\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("2.1: one that is empty is ignored", &[(200, &[("cache-control", "max-age=10"), (CDN, "")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("2.1: parameters and unknown members are ignored", &[(200, &[("cache-control", "no-store"), (CDN, "max-age=10;x=1, x-new=(1 2)")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("2.1: keys are lower case, or it is no dictionary", &[(200, &[("cache-control", "max-age=10"), (CDN, "No-Store, max-age=20")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(2, &[], "MISS 200 2")]),
        ("3.1: a window of staleness may stand in it", &[(200, &[("cache-control", "no-store"), (CDN, "max-age=10, stale-if-error=20")]), (503, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1")]),
        ("3.1: a targeted field for others says nothing here", &[(200, &[("cache-control", "max-age=10"), ("example-cache-control", "no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
    ];
    check(&[Rfc9111], rows).await;
    let told = |layer: ResponseCacheLayer| layer.targeted([HeaderName::from_static(CDN)]);
    check_with(BOTH, rows, told).await;
}

#[tokio::test]
async fn rfc_9213_by_default_no_field_is_targeted() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("2: CDN-Cache-Control allows nothing", &[(200, &[("cache-control", "no-store"), (CDN, "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 2")]),
        ("2: CDN-Cache-Control forbids nothing", &[(200, &[("cache-control", "max-age=10"), (CDN, "no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
    ];
    check(&[crate::support::story::Careful], rows).await;
}

#[tokio::test]
async fn rfc_9213_the_first_field_of_the_list_that_is_valid_counts_and_all_are_passed_on() {
    let fields: Fields = &[
        ("own-cache-control", "max-age=5"),
        (CDN, "max-age=60"),
        ("cache-control", "no-store"),
    ];
    let says: &'static [(u16, Fields)] = Box::leak(Box::new([(200, fields)]));
    let names = ["other-cache-control", "own-cache-control", CDN].map(HeaderName::from_static);
    let world = World::with(Rfc9111, says, |layer| layer.targeted(names));
    world.get(&[]).await;
    world.pass(4);
    let hit = world.get(&[]).await;
    assert_eq!(hit.cache_status(), "tower-response-cache; hit; ttl=1");
    for (name, value) in fields {
        assert_eq!(hit.field(name), *value);
    }
}

#[tokio::test]
async fn rfc_9875_groups_go_along_with_what_is_stored() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|_, _| {
        let response = Response::builder().header("cache-groups", "\"first group\", \"second\"");
        ready(response.body(Body::from("body")).unwrap())
    });
    let cache = Cache::builder()
        .store(store.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    // The field itself is not stored, so that the names stand nowhere else.
    let layer =
        ResponseCacheLayer::new(&cache).strip_fields([HeaderName::from_static("cache-groups")]);
    let app = origin.behind(&layer.ttl(Duration::from_secs(60)));
    get(&app, "/").await;
    settle().await;
    let frames = store.frames();
    let (frame, _) = frames.values().next().expect("it is stored");
    for group in [&b"first group"[..], b"second"] {
        assert!(frame.windows(group.len()).any(|window| window == group));
    }
}
