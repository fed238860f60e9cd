//! What the answers say of the cache: Cache-Status (RFC 9211) and X-Cache.

use std::time::Duration;

use crate::support::{
    Answer, Origin, cache, get, get_with, request,
    scripted::{Gate, response},
    send, settle,
    story::{BOTH, Careful, Fields, Preset, Rfc9111, Says, World},
};
use tower_response_cache::{ResponseCacheLayer, StatusHeaders};

const TEN: (&str, &str) = ("cache-control", "max-age=10");
const A: (&str, &str) = ("etag", "\"a\"");

fn layer(preset: Preset, cache: &tower_response_cache::Cache) -> ResponseCacheLayer {
    match preset {
        Careful => ResponseCacheLayer::new(cache),
        Rfc9111 => ResponseCacheLayer::rfc9111(cache),
    }
}

/// Our member of `Cache-Status`, taken apart: its parameters, in alphabetical order.
fn parameters(answer: &Answer) -> Vec<String> {
    let lines = answer.fields("cache-status");
    let ours = lines.last().expect("a Cache-Status");
    let mut parts = ours.split(';').map(|part| part.trim().to_owned());
    assert_eq!(
        parts.next().as_deref(),
        Some("tower-response-cache"),
        "{ours}"
    );
    let mut parameters: Vec<_> = parts.collect();
    parameters.sort();
    // RFC 9211, 2: each at most once, and a hit is not forwarded.
    let mut names: Vec<_> = parameters.iter().map(|p| p.split('=').next()).collect();
    names.dedup();
    assert_eq!(names.len(), parameters.len(), "{ours}");
    let has = |name| names.contains(&Some(name));
    assert!(has("hit") != has("fwd"), "{ours}");
    assert!(
        has("fwd") || !(has("stored") || has("collapsed") || has("fwd-status")),
        "{ours}"
    );
    parameters
}

/// A sentence, what the inner service says, what was asked before, what is asked after how many
/// seconds, `X-Cache`, and the parameters.
type Line = (
    &'static str,
    &'static [Says],
    &'static [Fields],
    (u64, &'static str, Fields),
    &'static str,
    &'static [&'static str],
);

async fn check(presets: &[Preset], rows: &[Line], worlds: Vec<World>) {
    let mut wrong = Vec::new();
    let mut worlds = worlds.into_iter();
    for preset in presets {
        for (sentence, _, before, (after, method, fields), x_cache, expected) in rows {
            let world = worlds.next().expect("one for each");
            for fields in *before {
                world.get(fields).await;
            }
            world.pass(*after);
            let answer = send(&world.app, request(method, "/", fields)).await;
            let said = parameters(&answer);
            if answer.x_cache() != *x_cache || said != *expected {
                let is = answer.x_cache();
                wrong.push(format!(
                    "{preset:?}: {sentence}: {is} {said:?}, not {x_cache} {expected:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn worlds(presets: &[Preset], rows: &[Line]) -> Vec<World> {
    let mut worlds = Vec::new();
    for preset in presets {
        for row in rows {
            worlds.push(World::new(*preset, row.1));
        }
    }
    worlds
}

#[tokio::test]
async fn rfc_9211_each_answer_says_what_happened() {
    const LATE: Fields = &[(
        "cache-control",
        "max-age=10, stale-while-revalidate=20, stale-if-error=20",
    )];
    const ONCE: &[Fields] = &[&[]];
    #[rustfmt::skip]
    let rows: &[Line] = &[
        ("2.1, 2.4: hit with the life that is left", &[(200, &[TEN])], ONCE, (3, "GET", &[]), "HIT", &["hit", "ttl=7"]),
        ("2.1: a HEAD is a hit", &[(200, &[TEN])], ONCE, (3, "HEAD", &[]), "HIT", &["hit", "ttl=7"]),
        ("2.1: a 304 is a hit", &[(200, &[TEN, A])], ONCE, (3, "GET", &[("if-none-match", "\"a\"")]), "HIT", &["hit", "ttl=7"]),
        ("2.1: a part is a hit", &[(200, &[TEN, A])], ONCE, (3, "GET", &[("range", "bytes=0-0")]), "HIT", &["hit", "ttl=7"]),
        ("2.4: the last moment", &[(200, &[TEN])], ONCE, (9, "GET", &[]), "HIT", &["hit", "ttl=1"]),
        ("2.4: negative when stale", &[(200, LATE)], ONCE, (15, "GET", &[]), "STALE", &["hit", "ttl=-5"]),
        ("2.4: zero when just stale", &[(200, LATE)], ONCE, (10, "GET", &[]), "STALE", &["hit", "ttl=0"]),
        ("2.2: uri-miss", &[(200, &[TEN])], &[], (0, "GET", &[]), "MISS", &["fwd-status=200", "fwd=uri-miss", "stored"]),
        ("2.2: vary-miss", &[(200, &[TEN, ("vary", "x-a")])], ONCE, (0, "GET", &[("x-a", "1")]), "MISS", &["fwd-status=200", "fwd=vary-miss", "stored"]),
        ("2.2: stale", &[(200, &[TEN])], ONCE, (10, "GET", &[]), "MISS", &["fwd-status=200", "fwd=stale", "stored"]),
        ("2.2: request", &[(200, &[TEN])], ONCE, (3, "GET", &[("cache-control", "no-cache")]), "MISS", &["fwd-status=200", "fwd=request", "stored"]),
        ("2.3: the status of the validation, not that of the answer", &[(200, &[TEN, A]), (304, &[A])], ONCE, (10, "GET", &[]), "MISS", &["fwd-status=304", "fwd=stale", "stored"]),
        ("2.3: the status of an error that was hidden", &[(200, &[("cache-control", "max-age=10, stale-if-error=20")]), (503, &[])], ONCE, (15, "GET", &[]), "STALE", &["detail=inner-error", "fwd-status=503", "fwd=stale", "ttl=-5"]),
        ("2.3: the status of an error", &[(404, &[])], &[], (0, "GET", &[]), "MISS", &["detail=silent", "fwd-status=404", "fwd=uri-miss"]),
        ("2.5: not stored, and why", &[(200, &[("cache-control", "no-store")])], &[], (0, "GET", &[]), "MISS", &["detail=no-store", "fwd-status=200", "fwd=uri-miss"]),
        ("2.5: private", &[(200, &[("cache-control", "private, max-age=60")])], &[], (0, "GET", &[]), "MISS", &["detail=private", "fwd-status=200", "fwd=uri-miss"]),
        ("2.2: bypass", &[(200, &[TEN])], &[], (0, "GET", &[("cache-control", "no-store")]), "BYPASS", &["detail=request-no-store", "fwd=bypass"]),
        ("2.2: bypass for a credential", &[(200, &[TEN])], ONCE, (0, "GET", &[("authorization", "a")]), "BYPASS", &["detail=authorization", "fwd-status=200", "fwd=bypass"]),
        ("2.2: a HEAD that finds nothing", &[(200, &[TEN])], &[], (0, "HEAD", &[]), "MISS", &["detail=head", "fwd=uri-miss"]),
        ("2.2: a Range that finds nothing", &[(206, &[TEN, ("content-range", "bytes 0-0/2")])], &[], (0, "GET", &[("range", "bytes=0-0")]), "MISS", &["detail=range", "fwd=uri-miss"]),
    ];
    check(BOTH, rows, worlds(BOTH, rows)).await;
    #[rustfmt::skip]
    let rows: &[Line] = &[
        ("2.2: request, for its max-age", &[(200, &[TEN])], ONCE, (3, "GET", &[("cache-control", "max-age=1")]), "MISS", &["fwd-status=200", "fwd=request", "stored"]),
        ("2.2: request, for its min-fresh", &[(200, &[TEN])], ONCE, (3, "GET", &[("cache-control", "min-fresh=9")]), "MISS", &["fwd-status=200", "fwd=request", "stored"]),
        ("2.2: request, for Pragma", &[(200, &[TEN])], ONCE, (3, "GET", &[("pragma", "no-cache")]), "MISS", &["fwd-status=200", "fwd=request", "stored"]),
        ("2.4: negative for max-stale", &[(200, &[TEN])], ONCE, (13, "GET", &[("cache-control", "max-stale=5")]), "STALE", &["hit", "ttl=-3"]),
        ("2.5: nothing said is not stored", &[(200, &[])], &[], (0, "GET", &[]), "MISS", &["detail=silent", "fwd-status=200", "fwd=uri-miss"]),
    ];
    check(&[Rfc9111], rows, worlds(&[Rfc9111], rows)).await;
    #[rustfmt::skip]
    let rows: &[Line] = &[
        ("2.2: bypass for a cookie", &[(200, &[TEN])], ONCE, (0, "GET", &[("cookie", "a=b")]), "BYPASS", &["detail=cookie", "fwd-status=200", "fwd=bypass"]),
        ("2.5: a cookie that is set", &[(200, &[TEN, ("set-cookie", "a=b")])], &[], (0, "GET", &[]), "MISS", &["detail=set-cookie", "fwd-status=200", "fwd=uri-miss"]),
    ];
    check(&[Careful], rows, worlds(&[Careful], rows)).await;
}

/// 2.2: `partial` and `method` do not occur: a range is cut from a whole response or forwarded as
/// it came, and no word is said to other methods.
#[tokio::test]
async fn rfc_9211_other_methods_are_passed_on_without_a_word() {
    const SAYS: &[Says] = &[(
        200,
        &[TEN, ("x-cache", "theirs"), ("cache-status", "origin; hit")],
    )];
    for preset in BOTH {
        let world = World::new(*preset, SAYS);
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"] {
            let answer = send(&world.app, request(method, "/", &[])).await;
            assert_eq!(answer.x_cache(), "theirs", "{preset:?} {method}");
            assert_eq!(answer.cache_status(), "origin; hit");
            assert_eq!(answer.field("age"), "");
        }
    }
}

/// 2: a cache appends its member, so that the one next to the client is the last.
#[tokio::test]
async fn rfc_9211_section_2_our_member_comes_after_those_of_caches_behind_us() {
    const SAYS: &[Says] = &[(
        200,
        &[
            TEN,
            ("cache-status", "origin; hit; ttl=5"),
            ("cache-status", "cdn; fwd=miss, shield; hit"),
            ("x-cache", "theirs"),
        ],
    )];
    for preset in BOTH {
        let world = World::new(*preset, SAYS);
        for (x_cache, ours) in [("MISS", "fwd=uri-miss"), ("HIT", "hit; ttl=10")] {
            let answer = world.get(&[]).await;
            let status = answer.fields("cache-status").join(", ");
            let members: Vec<_> = status.split(", ").collect();
            assert_eq!(
                members[..3],
                ["origin; hit; ttl=5", "cdn; fwd=miss", "shield; hit"]
            );
            let last = format!("tower-response-cache; {ours}");
            assert!(members[3].starts_with(&last), "{preset:?} {status}");
            assert_eq!(members.len(), 4, "{status}");
            assert_eq!(answer.fields("x-cache"), [x_cache]);
        }
    }
}

/// 2.6: all but one who wait for a call say so.
#[tokio::test]
async fn rfc_9211_section_2_6_those_who_share_a_call_are_collapsed() {
    for preset in BOTH {
        for before in [0, 1] {
            let (cache, clock) = cache();
            let gate = Gate::shut();
            let door = gate.clone();
            let origin = Origin::new(move |call, _| {
                let door = door.clone();
                async move {
                    if call > before {
                        door.pass().await;
                    }
                    response(200, &[TEN, A], call.to_string())
                }
            });
            let app = origin.behind(&layer(*preset, &cache));
            if before == 1 {
                get(&app, "/").await;
                settle().await;
                clock.advance(Duration::from_secs(10));
            }
            let asking: Vec<_> = (0..10)
                .map(|_| {
                    let app = app.clone();
                    tokio::spawn(async move { get(&app, "/").await })
                })
                .collect();
            settle().await;
            gate.open();
            let fwd = ["fwd=uri-miss", "fwd=stale"][before];
            let mut collapsed = 0;
            for asking in asking {
                let answer = asking.await.unwrap();
                let said = parameters(&answer);
                assert_eq!(answer.x_cache(), "MISS");
                assert!(said.iter().any(|p| p == fwd), "{preset:?} {said:?}");
                collapsed += usize::from(said.iter().any(|p| p == "collapsed"));
            }
            assert_eq!(collapsed, 9, "{preset:?}");
            assert_eq!(origin.calls(), before + 1);
        }
    }
}

#[tokio::test]
async fn only_if_cached_says_that_nothing_was_forwarded() {
    for preset in BOTH {
        let world = World::new(*preset, &[(200, &[TEN])]);
        let answer = world.get(&[("cache-control", "only-if-cached")]).await;
        assert_eq!(answer.status, 504);
        let status = answer.cache_status();
        // Neither was it a hit, nor did it go anywhere: 2.2 has no word for it.
        assert!(!status.contains("fwd-status"), "{status}");
        assert!(!status.contains("; stored"), "{status}");
        assert!(!status.contains("; hit"), "{status}");
        assert_eq!(world.origin.calls(), 0);
    }
}

#[tokio::test]
async fn rfc_9211_a_layer_says_as_much_as_it_is_told_to() {
    for preset in BOTH {
        for (headers, x_cache, has_status) in [
            (StatusHeaders::None, "", false),
            (StatusHeaders::XCache, "STALE", false),
            (StatusHeaders::Full, "STALE", true),
        ] {
            let says: &[Says] = &[(
                200,
                &[("cache-control", "max-age=10, stale-while-revalidate=20")],
            )];
            let world = World::with(*preset, says, |layer| layer.status_headers(headers));
            world.get(&[]).await;
            world.pass(11);
            let answer = world.get(&[]).await;
            assert_eq!(answer.x_cache(), x_cache, "{preset:?}");
            assert_eq!(!answer.cache_status().is_empty(), has_status, "{preset:?}");
            assert_eq!(answer.field("age"), "11");
        }
    }
}

/// 2.7: nothing of the key is told, and what is told are tokens.
#[tokio::test]
async fn rfc_9211_the_key_is_not_told() {
    for preset in BOTH {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(&[TEN]);
        let app = origin.behind(&layer(*preset, &cache));
        for _ in 0..2 {
            let answer = get_with(&app, "/secret?token=hidden", &[]).await;
            let status = answer.cache_status();
            assert!(!status.contains("secret") && !status.contains("hidden"));
            assert!(!status.contains("key"), "{status}");
        }
    }
}
