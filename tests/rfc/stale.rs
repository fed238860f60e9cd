//! Stale responses (RFC 5861; RFC 9111, 4.2.4): while a newer one is obtained, and when there is none.

use std::{sync::Arc, time::Duration};

use crate::support::{
    App, Origin, cache,
    feed::{Broken, FeedBody, whole},
    get,
    inner::{Inner, ask as ask_inner, assert_idle, page, read, soon},
    scripted::{Gate, response},
    settle,
    story::{BOTH, Careful, Fields, Preset, Rfc9111, Row, World, ask, by, check, check_with, told},
};
use http::Response;
use tokio::{sync::Semaphore, time::advance};
use tower::{Layer, ServiceExt};
use tower_response_cache::{Cache, HonoredDirectives, ResponseCacheLayer, StatusHeaders};

const A: (&str, &str) = ("etag", "\"a\"");
const WHILE: Fields = &[("cache-control", "max-age=10, stale-while-revalidate=20")];
const IF_ERROR: Fields = &[("cache-control", "max-age=10, stale-if-error=20")];
const WHILE_A: Fields = &[WHILE[0], A];
const IF_ERROR_A: Fields = &[IF_ERROR[0], A];
const WINDOW: Duration = Duration::from_secs(20);

fn layer(preset: Preset, cache: &Cache) -> ResponseCacheLayer {
    match preset {
        Careful => ResponseCacheLayer::new(cache),
        Rfc9111 => ResponseCacheLayer::rfc9111(cache),
    }
}

#[tokio::test]
async fn rfc_5861_section_3_stale_is_served_while_it_is_revalidated() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3: within the window", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "STALE 200 1"), ask(0, &[], "HIT 200 2"), ask(9, &[], "HIT 200 2")]),
        ("3: at its end", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(29, &[], "STALE 200 1"), ask(0, &[], "HIT 200 2")]),
        ("3: behind it", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(31, &[], "MISS 200 2")]),
        ("3: a 304 in the background", &[(200, WHILE_A), (304, &[A]), (200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "STALE 200 1"), ask(0, &[], "HIT 200 1"), ask(9, &[], "HIT 200 1"), ask(1, &[], "STALE 200 1"), ask(0, &[], "HIT 200 3")]),
        ("3: a 304 with another tag in the background leads to a whole response", &[(200, WHILE_A), (304, &[("etag", "\"b\"")]), (200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "STALE 200 1"), ask(0, &[], "HIT 200 3 or STALE 200 1 or MISS 200 3")]),
        ("3: a HEAD gets it, too", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 10, &[], "STALE 200"), ask(0, &[], "STALE 200 1 or HIT 200 2")]),
        ("3: one who has it, too", &[(200, WHILE_A)],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[("if-none-match", "\"a\"")], "STALE 304"), ask(0, &[], "HIT 200 2")]),
        ("3: only-if-cached gets it without asking anybody, or nothing", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[("cache-control", "only-if-cached")], "STALE 200 1 or MISS 504")]),
        ("3: the window is that of the newest response", &[(200, WHILE), (200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "STALE 200 1"), ask(0, &[], "HIT 200 2"), ask(10, &[], "MISS 200 3")]),
        ("3: Age counts as ever", &[(200, &[("cache-control", "max-age=10, stale-while-revalidate=20"), ("age", "9")])],
            &[ask(0, &[], "MISS 200 1"), ask(1, &[], "STALE 200 1")]),
        ("3: s-maxage forbids what others add (9111, 5.2.2.10), not what it says itself", &[(200, &[("cache-control", "s-maxage=10, stale-while-revalidate=20")])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1"), ask(0, &[], "HIT 200 2")]),
        ("3: zero is no window", &[(200, &[("cache-control", "max-age=10, stale-while-revalidate=0")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("3: what is no number is no window", &[(200, &[("cache-control", "max-age=10, stale-while-revalidate=a")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("3: without a number it is no window", &[(200, &[("cache-control", "max-age=10, stale-while-revalidate")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("3: what may not be stored any more in the background", &[(200, WHILE), (200, &[("cache-control", "no-store")])],
            &[ask(0, &[], "MISS 200 1"), ask(10, &[], "STALE 200 1"), ask(0, &[], "STALE 200 1 or MISS 200 3")]),
    ];
    check(BOTH, rows).await;
}

/// What a GET gets that waits for nothing but the store.
async fn at_once(app: &App) -> String {
    let app = app.clone();
    let asking = tokio::spawn(async move { told(&get(&app, "/").await) });
    settle().await;
    assert!(asking.is_finished(), "it waits");
    asking.await.unwrap()
}

#[tokio::test]
async fn stale_served_while_the_refresh_runs_and_when_it_returns_500() {
    for preset in BOTH {
        let (cache, clock) = cache();
        let gate = Gate::shut();
        let door = gate.clone();
        let origin = Origin::new(move |call, _| {
            let door = door.clone();
            async move {
                match call {
                    1 => response(200, WHILE, "old"),
                    2 => {
                        door.pass().await;
                        response(500, &[], "failed")
                    }
                    _ => response(200, WHILE, "new"),
                }
            }
        });
        let app = origin.behind(&layer(*preset, &cache));
        get(&app, "/").await;
        settle().await;
        clock.advance(Duration::from_secs(11));
        for _ in 0..3 {
            assert_eq!(at_once(&app).await, "STALE 200 old", "{preset:?}");
        }
        assert_eq!(origin.calls(), 2, "one refresh, which runs");
        gate.open();
        settle().await;
        // It has failed: the window is open still, and somebody tries again.
        assert_eq!(told(&get(&app, "/").await), "STALE 200 old", "{preset:?}");
        clock.advance(Duration::from_secs(5));
        let after = told(&get(&app, "/").await);
        assert!(
            ["STALE 200 old", "HIT 200 new"].contains(&&*after),
            "{after}"
        );
        settle().await;
        assert_eq!(told(&get(&app, "/").await), "HIT 200 new", "{preset:?}");
        assert_eq!(origin.calls(), 3);
    }
}

#[tokio::test]
async fn a_hundred_at_once_are_one_refresh_and_nobody_waits_for_it() {
    for preset in BOTH {
        let (cache, clock) = cache();
        let gate = Gate::shut();
        let door = gate.clone();
        let origin = Origin::new(move |call, _| {
            let door = door.clone();
            async move {
                if call > 1 {
                    door.pass().await;
                }
                response(200, WHILE, call.to_string())
            }
        });
        let app = origin.behind(&layer(*preset, &cache));
        get(&app, "/").await;
        settle().await;
        clock.advance(Duration::from_secs(15));
        let asking: Vec<_> = (0..100)
            .map(|_| {
                let app = app.clone();
                tokio::spawn(async move { told(&get(&app, "/").await) })
            })
            .collect();
        settle().await;
        for asking in asking {
            assert!(asking.is_finished(), "{preset:?}: nobody waits");
            assert_eq!(asking.await.unwrap(), "STALE 200 1", "{preset:?}");
        }
        assert_eq!(origin.calls(), 2, "{preset:?}");
        gate.open();
        settle().await;
        assert_eq!(told(&get(&app, "/").await), "HIT 200 2", "{preset:?}");
        assert_idle(&cache).await;
    }
}

#[tokio::test]
async fn rfc_5861_section_4_stale_stands_in_for_an_error() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("4: 500", &[(200, IF_ERROR), (500, &[])], &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1"), ask(0, &[], "STALE 200 1")]),
        ("4: 502", &[(200, IF_ERROR), (502, &[])], &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1")]),
        ("4: 503", &[(200, IF_ERROR), (503, &[])], &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1")]),
        ("4: 504", &[(200, IF_ERROR), (504, &[])], &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1")]),
        ("4: an error that may be stored does not take its place", &[(200, IF_ERROR), (503, &[("cache-control", "max-age=60")])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1"), ask(0, &[], "STALE 200 1")]),
        ("4: 404 is no error of this kind", &[(200, IF_ERROR), (404, &[])], &[ask(0, &[], "MISS 200 1"), ask(15, &[], "MISS 404 2")]),
        ("4: 429 is none", &[(200, IF_ERROR), (429, &[])], &[ask(0, &[], "MISS 200 1"), ask(15, &[], "MISS 429 2")]),
        ("4: at the end of the window", &[(200, IF_ERROR), (500, &[])], &[ask(0, &[], "MISS 200 1"), ask(29, &[], "STALE 200 1")]),
        ("4: behind the window", &[(200, IF_ERROR), (500, &[])], &[ask(0, &[], "MISS 200 1"), ask(31, &[], "MISS 500 2")]),
        ("4: when it is well again, the new one counts", &[(200, IF_ERROR), (500, &[]), (200, IF_ERROR)],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1"), ask(0, &[], "MISS 200 3"), ask(0, &[], "HIT 200 3")]),
        ("4: it is asked first", &[(200, IF_ERROR_A), (304, &[A])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "MISS 200 1"), ask(0, &[], "HIT 200 1")]),
        ("4: a fresh one is not asked about", &[(200, IF_ERROR), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(9, &[], "HIT 200 1")]),
        ("4: for a HEAD", &[(200, IF_ERROR), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), by("HEAD", 15, &[], "STALE 200 or MISS 500")]),
        ("4: for one who has it", &[(200, IF_ERROR_A), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[("if-none-match", "\"a\"")], "STALE 304")]),
        ("4: what one client made it say says nothing of what is fresh", &[(200, IF_ERROR), (200, &[("cache-control", "private")])],
            &[ask(0, &[], "MISS 200 1"), ask(1, &[("cache-control", "no-cache")], "MISS 200 2"), ask(0, &[], "HIT 200 1")]),
        ("4: a 304 that nobody asked for leaves it", &[(200, IF_ERROR), (304, &[]), (503, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "MISS 304"), ask(0, &[], "STALE 200 1")]),
        ("4: nothing is stored", &[(500, IF_ERROR)], &[ask(0, &[], "MISS 500 1")]),
        ("3 and 4: an error behind the window of the one, within that of the other",
            &[(200, &[("cache-control", "max-age=10, stale-while-revalidate=5, stale-if-error=20")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(12, &[], "STALE 200 1"), ask(5, &[], "STALE 200 1"), ask(14, &[], "MISS 500 4 or MISS 500 5")]),
    ];
    check(BOTH, rows).await;
}

/// The layer's own windows are for responses that have none.
#[tokio::test]
async fn the_layer_may_add_windows() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("while it is refreshed", &[(200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1"), ask(0, &[], "HIT 200 2")]),
        ("behind the window", &[(200, &[("cache-control", "max-age=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(31, &[], "MISS 200 2")]),
        ("the window of the response counts, and it is shorter", &[(200, &[("cache-control", "max-age=10, stale-while-revalidate=2")])],
            &[ask(0, &[], "MISS 200 1"), ask(13, &[], "MISS 200 2")]),
        ("s-maxage forbids it", &[(200, &[("cache-control", "s-maxage=10")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("must-revalidate forbids it", &[(200, &[("cache-control", "max-age=10, must-revalidate")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("proxy-revalidate forbids it", &[(200, &[("cache-control", "max-age=10, proxy-revalidate")])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 200 2")]),
        ("no-cache forbids it", &[(200, &[("cache-control", "max-age=10, no-cache"), A])],
            &[ask(0, &[], "MISS 200 1"), ask(1, &[], "MISS 200 2")]),
    ];
    check_with(BOTH, rows, |layer| layer.stale_while_revalidate(WINDOW)).await;
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("when it fails", &[(200, &[("cache-control", "max-age=10")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[], "STALE 200 1"), ask(16, &[], "MISS 500 3")]),
        ("the window of the response counts, and it is shorter", &[(200, &[("cache-control", "max-age=10, stale-if-error=2")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(13, &[], "MISS 500 2")]),
        ("s-maxage forbids it", &[(200, &[("cache-control", "s-maxage=10")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 500 2")]),
        ("must-revalidate forbids it", &[(200, &[("cache-control", "max-age=10, must-revalidate")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 500 2")]),
        ("proxy-revalidate forbids it", &[(200, &[("cache-control", "max-age=10, proxy-revalidate")]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[], "MISS 500 2")]),
        ("no-cache forbids it", &[(200, &[("cache-control", "max-age=10, no-cache"), A]), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(1, &[], "MISS 500 2")]),
    ];
    check_with(BOTH, rows, |layer| layer.stale_if_error(WINDOW)).await;
}

/// Windows of the response: 9111, 4.2.4 lets these forbid them, whatever else stands there.
#[tokio::test]
async fn section_4_2_4_what_forbids_stale_forbids_it_beside_a_window() {
    const BOTH_WINDOWS: &str = "stale-while-revalidate=60, stale-if-error=60";
    for preset in BOTH {
        for forbids in [
            "must-revalidate",
            "proxy-revalidate",
            "Must-Revalidate",
            "must-revalidate=\"x\"",
        ] {
            for status in [200, 500] {
                let (cache, clock) = cache();
                let said = format!("max-age=10, {BOTH_WINDOWS}, {forbids}");
                let origin = Origin::new(move |call, _| {
                    let status = if call == 1 { 200 } else { status };
                    let fields = [("cache-control", said.as_str())];
                    std::future::ready(response(status, &fields, call.to_string()))
                });
                let layer = layer(*preset, &cache).stale_if_error(WINDOW);
                let app = origin.behind(&layer.request_directives(HonoredDirectives::All));
                get(&app, "/").await;
                settle().await;
                clock.advance(Duration::from_secs(11));
                let told = told(&get(&app, "/").await);
                assert_eq!(told, format!("MISS {status} 2"), "{preset:?} {forbids}");
            }
        }
    }
}

/// What a client demands for itself, no window overrules.
#[tokio::test]
async fn a_client_that_wants_it_checked_gets_nothing_stale_at_once() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("no-cache waits", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "no-cache")], "MISS 200 2")]),
        ("no-cache gets the error", &[(200, IF_ERROR), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "no-cache")], "MISS 500 2")]),
        ("no-store gets the error", &[(200, IF_ERROR), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "no-store")], "BYPASS 500 2")]),
        ("no-store goes alone", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "no-store")], "BYPASS 200 2")]),
    ];
    check(BOTH, rows).await;
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("max-age gets the error", &[(200, IF_ERROR), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "max-age=60")], "MISS 500 2")]),
        ("min-fresh gets the error", &[(200, IF_ERROR), (500, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(11, &[("cache-control", "min-fresh=0")], "MISS 500 2")]),
    ];
    check_with(BOTH, rows, |layer| {
        layer.request_directives(HonoredDirectives::All)
    })
    .await;
}

/// What was refused for one person says nothing of what is stored for all.
#[tokio::test]
async fn what_is_refused_for_one_person_leaves_what_is_stored_for_all() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("a cookie", &[(200, &[("cache-control", "public, max-age=10, stale-if-error=20")]), (200, &[("cache-control", "private")]), (503, &[])],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[("cookie", "a=b")], "MISS 200 2"), ask(0, &[], "STALE 200 1")]),
    ];
    check(&[Careful], rows).await;
}

/// Our line is the last one, and the only one that is ours to change.
#[tokio::test]
async fn what_stands_in_keeps_the_lines_of_caches_further_in() {
    const SAYS: &[(u16, Fields)] = &[
        (200, &[IF_ERROR[0], ("cache-status", "origin; fwd=miss")]),
        (503, &[]),
    ];
    for mode in [StatusHeaders::Full, StatusHeaders::XCache] {
        let world = World::with(Careful, SAYS, |layer| layer.status_headers(mode));
        world.get(&[]).await;
        world.pass(15);
        let answer = world.get(&[]).await;
        assert_eq!(answer.x_cache(), "STALE");
        let lines = answer.fields("cache-status");
        assert_eq!(lines[0], "origin; fwd=miss", "{mode:?}");
        let ours = lines[1..].iter().filter(|line| line.contains("fwd=stale"));
        let expected = usize::from(mode == StatusHeaders::Full);
        assert_eq!((lines.len() - 1, ours.count()), (expected, expected));
    }
}

/// An inner service that answers once, then fails each time.
fn failing(fields: Fields) -> Inner<FeedBody, Broken> {
    Inner::new(move |call, _| {
        let mut response = Response::new(whole("the text"));
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        let answer = match call {
            1 => Ok(response),
            _ => Err(Broken("gone")),
        };
        std::future::ready(answer)
    })
}

/// 4.2.4: a cache that reaches nobody is disconnected, and may serve what is stale.
#[tokio::test]
async fn stale_stands_in_for_an_error_of_the_inner_service() {
    #[rustfmt::skip]
    let rows: &[(&str, &str, u64, [bool; 2])] = &[
        ("a window of the response", "max-age=10, stale-if-error=20", 11, [true, true]),
        ("behind the window", "max-age=10, stale-if-error=20", 31, [false, false]),
        ("nothing said: only the preset does it", "max-age=10", 11, [false, true]),
        ("nothing said, though there is something to validate", "max-age=10, x-tag", 11, [false, true]),
        ("must-revalidate", "max-age=10, must-revalidate, stale-if-error=20", 11, [false, false]),
        ("proxy-revalidate", "max-age=10, proxy-revalidate, stale-if-error=20", 11, [false, false]),
        ("s-maxage", "s-maxage=10", 11, [false, false]),
    ];
    for (preset, index) in [(Careful, 0), (Rfc9111, 1)] {
        for (sentence, said, after, stands_in) in rows {
            let (cache, clock) = cache();
            let fields = vec![("cache-control", *said), A];
            let inner = failing(match said.ends_with("x-tag") {
                true => fields.leak(),
                false => fields[..1].to_vec().leak(),
            });
            let service = layer(preset, &cache).layer(inner.clone());
            read(ask_inner(&service, page()).await).await;
            settle().await;
            clock.advance(Duration::from_secs(*after));
            let answer = service.clone().oneshot(page()).await;
            // A window of the response that has ended forbids nothing to a cache that is cut off.
            if preset == Rfc9111 && *sentence == "behind the window" {
                continue;
            }
            match answer {
                Ok(answer) => {
                    let answer = read(answer).await;
                    assert!(stands_in[index], "{preset:?} {sentence}: {answer:?}");
                    assert_eq!(answer.field("x-cache"), "STALE");
                    assert_eq!(answer.complete(), "the text");
                }
                Err(error) => {
                    assert!(!stands_in[index], "{preset:?} {sentence}");
                    assert_eq!(error, Broken("gone"));
                }
            }
            assert_eq!(inner.calls(), 2, "it was asked first");
        }
    }
}

#[tokio::test]
async fn an_error_in_the_background_is_nobodys() {
    let (cache, clock) = cache();
    let inner = failing(WHILE);
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    read(ask_inner(&service, page()).await).await;
    settle().await;
    clock.advance(Duration::from_secs(11));
    for _ in 0..2 {
        let answer = read(ask_inner(&service, page()).await).await;
        assert_eq!(answer.field("x-cache"), "STALE");
        assert_eq!(answer.complete(), "the text");
        assert_idle(&cache).await;
    }
    assert!(inner.calls() >= 2);
}

#[tokio::test(start_paused = true)]
async fn stale_stands_in_for_a_fill_that_takes_too_long() {
    for preset in BOTH {
        let (cache, clock) = cache();
        let permits = Arc::new(Semaphore::new(1));
        let held = permits.clone();
        let inner = Inner::<FeedBody>::new(move |call, _| {
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                let mut response = Response::new(whole(call.to_string()));
                let said = "max-age=10, stale-if-error=20".parse().unwrap();
                response.headers_mut().insert("cache-control", said);
                Ok(response)
            }
        });
        let layer = layer(*preset, &cache).fill_timeout(Duration::from_secs(2));
        let service = layer.layer(inner.clone());
        assert_eq!(
            read(ask_inner(&service, page()).await).await.complete(),
            "1"
        );
        clock.advance(Duration::from_secs(11));
        let asking = crate::support::inner::client(&service, page()).await;
        advance(Duration::from_millis(1_999)).await;
        settle().await;
        assert!(!asking.is_finished(), "{preset:?}: it is waited for");
        advance(Duration::from_millis(2)).await;
        let answer = soon("an answer", asking).await.unwrap();
        assert_eq!(answer.field("x-cache"), "STALE", "{preset:?}");
        assert_eq!(answer.complete(), "1");
        assert_eq!(inner.calls(), 2);
    }
}

/// 5.2.1.2 and RFC 5861: the client's own allowance and the window of the response.
#[tokio::test]
async fn max_stale_of_a_client_and_a_window_of_the_response() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("a window is no bound for who takes more", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(40, &[("cache-control", "max-stale=100")], "STALE 200 1 or MISS 200 2")]),
        ("within a window: stale in either case", &[(200, WHILE)],
            &[ask(0, &[], "MISS 200 1"), ask(15, &[("cache-control", "max-stale=100")], "STALE 200 1")]),
    ];
    check(&[Rfc9111], rows).await;
}

/// What one client has or wants a part of is not what all wait for.
#[tokio::test]
async fn a_refresh_asks_for_the_whole_by_the_stored_validators() {
    #[rustfmt::skip]
    let asked: &[(Fields, u16)] = &[
        (&[], 200),
        (&[("if-none-match", "\"z\"")], 200),
        (&[("if-none-match", "\"a\"")], 304),
        (&[("range", "bytes=0-0")], 206),
        (&[("range", "bytes=0-0"), ("if-range", "\"a\"")], 206),
        (&[("if-modified-since", "Thu, 01 Jan 2026 11:00:00 GMT")], 200),
        (&[("if-match", "\"z\"")], 200),
        (&[("if-unmodified-since", "Thu, 01 Jan 2015 11:00:00 GMT")], 200),
    ];
    for preset in BOTH {
        for (fields, status) in asked {
            let world = World::new(*preset, &[(200, WHILE_A)]);
            world.get(&[]).await;
            world.pass(11);
            let answer = world.get(fields).await;
            assert_eq!(
                (answer.x_cache(), answer.status.as_u16()),
                ("STALE", *status)
            );
            if world.origin.calls() == 1 {
                // A part, or a condition, may leave it to others to begin.
                world.get(&[]).await;
            }
            for name in [
                "range",
                "if-range",
                "if-modified-since",
                "if-match",
                "if-unmodified-since",
            ] {
                assert!(world.seen(2, name).is_empty(), "{preset:?} {fields:?}");
            }
            let tags = world.seen(2, "if-none-match");
            assert_eq!(tags, ["\"a\""], "{preset:?} {fields:?}");
            assert_eq!(told(&world.get(&[]).await), "HIT 200 2", "{preset:?}");
        }
    }
}

/// Each key has a refresh of its own, and each variant.
#[tokio::test]
async fn variants_are_refreshed_each_by_itself() {
    const VARIES: Fields = &[WHILE[0], ("vary", "x-a")];
    for preset in BOTH {
        let world = World::new(*preset, &[(200, VARIES)]);
        for value in ["1", "2"] {
            world.get(&[("x-a", value)]).await;
        }
        world.pass(11);
        for (value, told_first) in [("1", "STALE 200 1"), ("2", "STALE 200 2")] {
            let answer = world.get(&[("x-a", value)]).await;
            assert_eq!(told(&answer), told_first, "{preset:?}");
        }
        settle().await;
        for value in ["1", "2"] {
            let answer = world.get(&[("x-a", value)]).await;
            assert_eq!(answer.x_cache(), "HIT", "{preset:?}");
        }
        assert_eq!(world.origin.calls(), 4);
        let seen: Vec<_> = [3, 4].map(|call| world.seen(call, "x-a").concat()).into();
        assert!(seen == ["1", "2"] || seen == ["2", "1"], "{seen:?}");
    }
}
