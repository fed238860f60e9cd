//! Validation (RFC 9111, 4.3): what is asked, what the answers mean, what clients with conditions get.

use crate::support::{
    Origin, cache, get,
    scripted::{Gate, response},
    settle,
    story::{BOTH, Careful, Fields, Rfc9111, Row, Says, World, ask, by, check, told},
};
use tower_response_cache::ResponseCacheLayer;

const CHANGED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const TEN: (&str, &str) = ("cache-control", "max-age=10");
const A: (&str, &str) = ("etag", "\"a\"");
const B: (&str, &str) = ("etag", "\"b\"");
const DATED: (&str, &str) = ("last-modified", CHANGED);

#[tokio::test]
async fn section_4_3_1_the_stored_validators_are_sent() {
    type Line = (
        &'static str,
        &'static [Says],
        &'static [&'static str],
        &'static [&'static str],
    );
    #[rustfmt::skip]
    let rows: &[Line] = &[
        ("4.3.1: the entity tag", &[(200, &[TEN, A])], &["\"a\""], &[]),
        ("4.3.1: a weak one as it is", &[(200, &[TEN, ("etag", "W/\"a\"")])], &["W/\"a\""], &[]),
        ("4.3.1: Last-Modified", &[(200, &[TEN, DATED])], &[], &[CHANGED]),
        ("4.3.1: Last-Modified as it came", &[(200, &[TEN, ("last-modified", "Wednesday, 21-Oct-15 07:28:00 GMT")])], &[], &["Wednesday, 21-Oct-15 07:28:00 GMT"]),
        ("4.3.1: both", &[(200, &[TEN, A, DATED])], &["\"a\""], &[CHANGED]),
        ("4.3.1: none", &[(200, &[TEN])], &[], &[]),
        ("4.3.1: of a 404", &[(404, &[TEN, A])], &["\"a\""], &[]),
    ];
    // The client's own conditions are not what is asked.
    const OWN: [Fields; 4] = [
        &[],
        &[("if-none-match", "\"z\"")],
        &[("if-modified-since", "Wed, 21 Oct 2020 07:28:00 GMT")],
        &[("if-none-match", "\"z\", \"y\""), ("cache-control", "x=y")],
    ];
    for preset in BOTH {
        for (sentence, says, tags, dates) in rows {
            for own in OWN {
                let world = World::new(*preset, says);
                world.get(&[]).await;
                world.pass(10);
                world.get(own).await;
                assert_eq!(world.origin.calls(), 2, "{preset:?} {sentence}");
                let seen = (
                    world.seen(2, "if-none-match"),
                    world.seen(2, "if-modified-since"),
                );
                let (their_tags, their_dates) = &seen;
                assert_eq!(their_tags, tags, "{preset:?} {sentence} {own:?}: {seen:?}");
                assert_eq!(
                    their_dates, dates,
                    "{preset:?} {sentence} {own:?}: {seen:?}"
                );
            }
        }
    }
}

/// A validation is that of the variant, so the request fields that select it go along.
#[tokio::test]
async fn section_4_3_1_the_fields_of_the_request_go_along() {
    for preset in BOTH {
        let world = World::new(*preset, &[(200, &[TEN, A, ("vary", "x-a")])]);
        let asked = [("x-a", "1"), ("user-agent", "me"), ("cache-control", "x=y")];
        world.get(&asked).await;
        world.pass(10);
        world.get(&asked).await;
        for (name, value) in asked {
            assert_eq!(world.seen(2, name), [value], "{preset:?} {name}");
        }
        assert_eq!(world.seen(2, "if-none-match"), ["\"a\""]);
    }
}

#[tokio::test]
async fn section_4_3_3_and_4_3_4_what_the_answer_to_a_validation_means() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.3: 304 makes it fresh again", &[(200, &[TEN, A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 1")]),
        ("4.3.3: 200 takes its place", &[(200, &[TEN, A]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 2"), ask(9, &[], "HIT 200 2")]),
        ("4.3.3: 200 with the same tag takes its place", &[(200, &[TEN, A]), (200, &[TEN, A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 2"), ask(9, &[], "HIT 200 2")]),
        ("4.3.3: 404 is the answer", &[(200, &[TEN, A]), (404, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 404 2"), ask(9, &[], "HIT 404 2")]),
        ("4.3.3: 200 that must not be stored is the answer, and the old one is not used any more", &[(200, &[TEN, A]), (200, &[("cache-control", "no-store")]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 2"), ask(0, &[], "MISS 200 3")]),
        ("4.3.3: 500 is passed on", &[(200, &[TEN, A]), (500, &[]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 500 2"), ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("4.3.3: 503 is passed on, and says itself when to come again", &[(200, &[TEN, A]), (503, &[("retry-after", "1")]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 503 2"), ask(0, &[], "MISS 200 1")]),
        ("4.3.4: 304 with another strong tag freshens nothing; at the most it answers once", &[(200, &[TEN, A]), (304, &[TEN, B]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1 or MISS 200 3"), ask(0, &[], "MISS 200 3 or HIT 200 3"), ask(9, &[], "HIT 200 3")]),
        ("4.3.4: 304 with the same weak tag", &[(200, &[TEN, ("etag", "W/\"a\"")]), (304, &[("etag", "W/\"a\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("4.3.4: 304 with another weak tag freshens nothing", &[(200, &[TEN, ("etag", "W/\"a\"")]), (304, &[("etag", "W/\"b\"")]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1 or MISS 200 3"), ask(0, &[], "MISS 200 3 or HIT 200 3")]),
        ("4.3.4: 304 with a strong tag is not of a weak one", &[(200, &[TEN, ("etag", "W/\"a\"")]), (304, &[A, ("x-n", "2")]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1 or MISS 200 3"), ask(0, &[], "MISS 200 3 or HIT 200 3")]),
        ("4.3.4: 304 with the date that was sent", &[(200, &[TEN, DATED]), (304, &[DATED])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("4.3.4: 304 with another lifetime", &[(200, &[TEN, A]), (304, &[A, ("cache-control", "max-age=3")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(2, &[], "HIT 200 1"), ask(1, &[], "MISS 200 1")]),
        ("4.3.4: 304 that says no-store", &[(200, &[TEN, A]), (304, &[A, ("cache-control", "no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(0, &[], "MISS 200 1 or MISS 304")]),
        ("4.3.4: 304 that says private", &[(200, &[TEN, A]), (304, &[A, ("cache-control", "private, max-age=60")]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(0, &[], "MISS 200 3")]),
        ("4.3.4: 304 that says Vary: *", &[(200, &[TEN, A]), (304, &[A, ("vary", "*")]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(0, &[], "MISS 200 3")]),
        ("4.3.4: 304 that says another Vary", &[(200, &[TEN, A]), (304, &[A, ("vary", "x-a")]), (200, &[TEN])],
            &[ask(0, &[("x-a", "1")], "MISS 200 1"), ask(10, &[("x-a", "1")], "MISS 200 1"), ask(0, &[("x-a", "1")], "HIT 200 1"), ask(0, &[("x-a", "2")], "MISS 200 3")]),
        ("4.3.4: 304 without a validator answers what was asked", &[(200, &[TEN, A]), (304, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("4.3.4: a stored 404 is a 404 again", &[(404, &[TEN, A]), (304, &[A])],
            &[ask(0, &[], "MISS 404 1"), ask(10, &[], "MISS 404 1"), ask(9, &[], "HIT 404 1")]),
        ("4.3: stale as it comes, and validated each time", &[(200, &[("cache-control", "max-age=0"), A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 1"), ask(5, &[], "MISS 200 1")]),
        ("4.3: stale as it comes, until a 304 says that it is fresh", &[(200, &[("cache-control", "max-age=0"), A]), (304, &[A, TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("4.3: no-cache, validated each time", &[(200, &[("cache-control", "no-cache, max-age=60"), A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(0, &[], "MISS 200 1"), ask(5, &[], "MISS 200 1")]),
        ("4.3.4: 304 with an Age", &[(200, &[TEN, A]), (304, &[A, ("age", "6")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(3, &[], "HIT 200 1"), ask(1, &[], "MISS 200 1")]),
        ("4.3.4: 304 without Age, where the stored one had one", &[(200, &[TEN, A, ("age", "6")]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(4, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

/// 304 for what was not asked by condition: nobody can do anything with it but pass it on.
#[tokio::test]
async fn section_4_3_3_a_304_that_nothing_asked_for_is_no_answer_from_the_store() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.3: nothing that has a validator is stored", &[(200, &[TEN]), (304, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 304 or MISS 200 1")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_4_3_2_clients_with_conditions_get_what_is_right_for_them_while_it_is_validated() {
    const HAS_A: Fields = &[("if-none-match", "\"a\"")];
    const HAS_B: Fields = &[("if-none-match", "\"b\"")];
    const HAS_ANY: Fields = &[("if-none-match", "*")];
    const SINCE: Fields = &[("if-modified-since", CHANGED)];
    const BEFORE: Fields = &[("if-modified-since", "Tue, 20 Oct 2015 07:28:00 GMT")];
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.2: has it, and it is still that", &[(200, &[TEN, A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_A, "MISS 304"), ask(0, &[], "HIT 200 1")]),
        ("4.3.2: has another, and it is still that", &[(200, &[TEN, A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_B, "MISS 200 1"), ask(0, HAS_A, "HIT 304")]),
        ("4.3.2: has the old one", &[(200, &[TEN, A]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_A, "MISS 200 2"), ask(0, HAS_B, "HIT 304")]),
        ("4.3.2: has the new one", &[(200, &[TEN, A]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_B, "MISS 304"), ask(0, &[], "HIT 200 2")]),
        ("4.3.2: has any", &[(200, &[TEN, A]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_ANY, "MISS 304"), ask(0, HAS_ANY, "HIT 304")]),
        ("4.3.2: has it since", &[(200, &[TEN, A, DATED]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, SINCE, "MISS 304"), ask(0, SINCE, "HIT 304")]),
        ("4.3.2: has one from before", &[(200, &[TEN, A, DATED]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, BEFORE, "MISS 200 1"), ask(0, BEFORE, "HIT 200 1")]),
        ("4.3.2: gets the error, though it has it", &[(200, &[TEN, A]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_A, "MISS 500 2")]),
        ("4.3.2: gets the 404, though it has it", &[(200, &[TEN, A]), (404, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_A, "MISS 404 2")]),
        ("4.3.2: weak is as good as strong", &[(200, &[TEN, ("etag", "W/\"a\"")]), (304, &[("etag", "W/\"a\"")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_A, "MISS 304"), ask(0, HAS_A, "HIT 304")]),
        ("4.3.2: If-None-Match beats If-Modified-Since", &[(200, &[TEN, A, DATED]), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[("if-none-match", "\"b\""), ("if-modified-since", CHANGED)], "MISS 200 1"), ask(0, &[("if-none-match", "\"a\""), ("if-modified-since", "Tue, 20 Oct 2015 07:28:00 GMT")], "HIT 304")]),
        ("4.3.2: a 304 of the client's is not that of the store", &[(200, &[TEN, A]), (304, &[TEN, B]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), ask(10, HAS_B, "MISS 200 1 or MISS 304"), ask(0, &[], "HIT 200 3 or MISS 200 3")]),
    ];
    check(BOTH, rows).await;
}

/// The same where each asks for itself.
#[tokio::test]
async fn section_4_3_2_conditions_beside_those_of_what_is_always_validated() {
    const ALWAYS: Fields = &[("cache-control", "no-cache"), A];
    const OWN: Fields = &[
        ("if-none-match", "\"a\""),
        ("if-modified-since", "Wed, 21 Oct 2020 07:28:00 GMT"),
    ];
    for preset in BOTH {
        let world = World::new(*preset, &[(200, ALWAYS), (304, ALWAYS)]);
        world.get(&[]).await;
        for call in 2..4 {
            let known = world.get(OWN).await;
            assert_eq!(told(&known), "MISS 304", "{preset:?}");
            assert_eq!(world.seen(call, "if-none-match"), ["\"a\""]);
            assert!(world.seen(call, "if-modified-since").is_empty());
        }
        assert_eq!(told(&world.get(&[]).await), "MISS 200 1", "{preset:?}");
    }
}

/// §4.3.4: a 304 selects by its tag, or else by its date.
#[tokio::test]
async fn section_4_3_4_a_304_of_something_else_freshens_nothing() {
    const LATER: (&str, &str) = ("last-modified", "Thu, 22 Oct 2015 07:28:00 GMT");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.4: another date", &[(200, &[TEN, DATED]), (304, &[TEN, LATER]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(0, &[], "MISS 200 3")]),
        ("4.3.4: a date, where only a tag is stored", &[(200, &[TEN, A]), (304, &[TEN, LATER]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(0, &[], "MISS 200 3")]),
        ("4.3.4: a tag, where only a date is stored", &[(200, &[TEN, DATED]), (304, &[TEN, B]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(0, &[], "MISS 200 3")]),
        ("4.3.4: the same date", &[(200, &[TEN, DATED]), (304, &[TEN, DATED])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

/// RFC 9110, 15.4.5, for a 304 that comes out of a validation.
#[tokio::test]
async fn section_4_3_2_a_304_out_of_a_validation_carries_etag_vary_and_date() {
    for preset in BOTH {
        let says: &[Says] = &[
            (
                200,
                &[
                    TEN,
                    A,
                    ("vary", "x-a"),
                    ("date", "Thu, 01 Jan 2026 12:00:00 GMT"),
                ],
            ),
            (304, &[A, ("date", "Thu, 01 Jan 2026 12:00:10 GMT")]),
        ];
        let world = World::new(*preset, says);
        world.get(&[]).await;
        world.pass(10);
        for x_cache in ["MISS", "HIT"] {
            let answer = world.get(&[("if-none-match", "\"a\"")]).await;
            assert_eq!(told(&answer), format!("{x_cache} 304"), "{preset:?}");
            for (name, value) in [
                ("etag", "\"a\""),
                ("vary", "x-a"),
                ("cache-control", "max-age=10"),
                ("date", "Thu, 01 Jan 2026 12:00:10 GMT"),
            ] {
                assert_eq!(answer.field(name), value, "{preset:?} {x_cache} {name}");
            }
        }
    }
}

#[tokio::test]
async fn section_4_3_5_a_head_freshens_or_invalidates() {
    const ONE: (&str, &str) = ("content-length", "1");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.5: the same tag and length freshen", &[(200, &[TEN, A, ONE])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 10, &[], "MISS 200"), ask(9, &[], "HIT 200 1"), ask(1, &[], "MISS 200 3")]),
        ("4.3.5: the same tag without a length freshens", &[(200, &[TEN, A, ONE]), (200, &[TEN, A])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 10, &[], "MISS 200"), ask(9, &[], "HIT 200 1")]),
        ("4.3.5: the same length alone proves nothing", &[(200, &[TEN, ONE])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 5, &[("cache-control", "no-cache")], "MISS 200"), ask(4, &[], "HIT 200 1"), ask(1, &[], "MISS 200 3")]),
        ("4.3.5: another tag makes it stale", &[(200, &[TEN, A, ONE]), (200, &[TEN, B, ONE]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 10, &[], "MISS 200"), ask(0, &[], "MISS 200 3")]),
        ("4.3.5: another length makes it stale", &[(200, &[TEN, A, ONE]), (200, &[TEN, A, ("content-length", "2")]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 10, &[], "MISS 200"), ask(0, &[], "MISS 200 3")]),
        ("4.3.5: another date makes it stale", &[(200, &[TEN, DATED, ONE]), (200, &[TEN, ("last-modified", "Thu, 22 Oct 2015 07:28:00 GMT"), ONE]), (200, &[TEN])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 10, &[], "MISS 200"), ask(0, &[], "MISS 200 3")]),
        ("4.3.5: an error says nothing of it", &[(200, &[TEN, A, ONE]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 1, &[("cache-control", "no-cache")], "MISS 500"), ask(0, &[], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_4_3_5_what_a_head_of_one_person_brings_says_nothing_about_the_others() {
    const ONE: (&str, &str) = ("content-length", "1");
    const PUBLIC: (&str, &str) = ("cache-control", "public, max-age=10");
    const MINE: (&str, &str) = ("cache-control", "private");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.5: another length", &[(200, &[PUBLIC, A, ONE]), (200, &[PUBLIC, A, ("content-length", "2")])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 1, &[("authorization", "a"), ("cache-control", "no-cache")], "MISS 200 or BYPASS 200"), ask(0, &[], "HIT 200 1")]),
        ("4.3.5: private", &[(200, &[PUBLIC, A, ONE]), (200, &[MINE, A, ONE])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 1, &[("authorization", "a"), ("cache-control", "no-cache")], "MISS 200 or BYPASS 200"), ask(0, &[], "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_4_3_5_a_head_makes_stale_what_is_fresh() {
    const ONE: (&str, &str) = ("content-length", "1");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.5: a fresh one becomes stale, too", &[(200, &[TEN, A, ONE]), (200, &[TEN, B, ONE]), (200, &[TEN, B])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 1, &[("cache-control", "no-cache")], "MISS 200"), ask(0, &[], "MISS 200 3")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_4_3_4_a_head_updates_the_fields_of_what_it_freshens() {
    for preset in BOTH {
        let world = World::new(
            *preset,
            &[
                (200, &[TEN, A, ("content-length", "1"), ("x-n", "1")]),
                (
                    200,
                    &[
                        ("cache-control", "max-age=20"),
                        A,
                        ("content-length", "1"),
                        ("x-n", "2"),
                    ],
                ),
            ],
        );
        world.get(&[]).await;
        world.pass(10);
        let head = crate::support::request("HEAD", "/", &[]);
        crate::support::send(&world.app, head).await;
        world.pass(15);
        let answer = world.get(&[]).await;
        assert_eq!(told(&answer), "HIT 200 1", "{preset:?}");
        assert_eq!(answer.field("x-n"), "2", "{preset:?}");
        assert_eq!(answer.field("age"), "15", "{preset:?}");
    }
}

/// A cookie that comes with a 304 is that of one client, by default.
#[tokio::test]
async fn a_cookie_of_a_304_reaches_one_client() {
    let says: &[Says] = &[
        (200, &[TEN, A]),
        (304, &[A, ("set-cookie", "a=b")]),
        (200, &[TEN, A]),
    ];
    let world = World::new(Careful, says);
    world.get(&[]).await;
    world.pass(10);
    assert_eq!(told(&world.get(&[]).await), "MISS 200 1");
    for _ in 0..2 {
        let answer = world.get(&[]).await;
        assert_eq!(answer.text(), "3");
        assert_eq!(answer.field("set-cookie"), "");
    }
}

/// Those who wait for a validation that turns out to be one client's own.
#[tokio::test]
async fn a_cookie_of_a_304_reaches_nobody_who_waits() {
    let (cache, clock) = cache();
    let gate = Gate::shut();
    let door = gate.clone();
    let origin = Origin::new(move |call, request| {
        let door = door.clone();
        let condition = request.headers().contains_key("if-none-match");
        async move {
            if call == 1 {
                return response(200, &[TEN, A], "the text");
            }
            door.pass().await;
            let cookie = call.to_string();
            let fields = [A, TEN, ("set-cookie", cookie.as_str())];
            match condition {
                true => response(304, &fields, ""),
                false => response(200, &fields, "the text"),
            }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    settle().await;
    clock.advance(std::time::Duration::from_secs(10));
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { get(&app, "/").await })
        })
        .collect();
    settle().await;
    gate.open();
    let mut cookies = Vec::new();
    for asking in asking {
        let answer = asking.await.unwrap();
        assert_eq!(told(&answer), "MISS 200 the text");
        cookies.push(answer.field("set-cookie").to_owned());
    }
    let all = cookies.len();
    cookies.sort();
    cookies.dedup();
    assert_eq!(cookies.len(), all, "each has one of its own: {cookies:?}");
}

/// 4.3.4: the variant whose tag it is, not the one of another.
#[tokio::test]
async fn section_4_3_4_a_304_freshens_the_variant_that_was_validated() {
    const ONE: Fields = &[("x-a", "1")];
    const TWO: Fields = &[("x-a", "2")];
    const VARY: (&str, &str) = ("vary", "x-a");
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4.3.4: the other variant stays stale", &[(200, &[TEN, A, VARY]), (200, &[TEN, B, VARY]), (304, &[TEN, A, VARY]), (304, &[TEN, B, VARY])],
            &[ask(0, ONE, "MISS 200 1"), ask(0, TWO, "MISS 200 2"), ask(10, ONE, "MISS 200 1"), ask(0, ONE, "HIT 200 1"),
              ask(0, TWO, "MISS 200 2"), ask(0, TWO, "HIT 200 2"), ask(0, ONE, "HIT 200 1")]),
    ];
    check(BOTH, rows).await;
}

#[tokio::test]
async fn section_4_3_a_hundred_who_ask_for_what_is_stale_are_one_validation() {
    for preset in BOTH {
        let (cache, clock) = cache();
        let gate = Gate::shut();
        let door = gate.clone();
        let origin = Origin::new(move |call, request| {
            let door = door.clone();
            let condition = request.headers().contains_key("if-none-match");
            async move {
                if call > 1 {
                    door.pass().await;
                }
                match condition {
                    true => response(304, &[A], ""),
                    false => response(200, &[TEN, A], "the text"),
                }
            }
        });
        let app = origin.behind(&match preset {
            Careful => ResponseCacheLayer::new(&cache),
            Rfc9111 => ResponseCacheLayer::rfc9111(&cache),
        });
        get(&app, "/").await;
        settle().await;
        clock.advance(std::time::Duration::from_secs(10));
        let asking: Vec<_> = (0..100)
            .map(|number| {
                let app = app.clone();
                tokio::spawn(async move {
                    let tag = format!("\"{}\"", if number % 2 == 0 { "a" } else { "b" });
                    let asked = [("if-none-match", tag.as_str())];
                    told(&crate::support::get_with(&app, "/", &asked).await)
                })
            })
            .collect();
        settle().await;
        gate.open();
        for (number, asking) in asking.into_iter().enumerate() {
            let gets = ["MISS 304", "MISS 200 the text"][number % 2];
            assert_eq!(asking.await.unwrap(), gets, "{preset:?} {number}");
        }
        assert_eq!(origin.calls(), 2, "{preset:?}");
    }
}
