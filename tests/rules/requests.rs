//! What a request may demand: `no-cache`, `no-store`, `only-if-cached`; and `bypass_when`.

use std::time::Duration;

use crate::support::{
    self, App, Origin, cache, get, get_with,
    scripted::{Gate, detail, response},
    settle,
};
use http::StatusCode;
use tower_response_cache::{Reason, ResponseCacheLayer};

const NO_CACHE: &[(&str, &str)] = &[("cache-control", "no-cache")];
const NO_STORE: &[(&str, &str)] = &[("cache-control", "no-store")];
const ONLY_IF_CACHED: &[(&str, &str)] = &[("cache-control", "only-if-cached")];

#[tokio::test]
async fn no_cache_asks_the_origin_and_refreshes_what_is_stored() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    assert_eq!(get(&app, "/").await.text(), "1 GET /");
    let fresh = get_with(&app, "/", NO_CACHE).await;
    assert_eq!((fresh.x_cache(), fresh.text()), ("MISS", "2 GET /"));
    assert!(
        fresh.cache_status().contains("fwd=request"),
        "{}",
        fresh.cache_status()
    );
    assert!(fresh.cache_status().contains("; stored"));
    let next = get(&app, "/").await;
    assert_eq!((next.is_hit(), next.text()), (true, "2 GET /"));
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn no_cache_is_found_in_any_case_and_on_any_line() {
    for lines in [
        &[("cache-control", "No-Cache")][..],
        &[
            ("cache-control", "max-age=5"),
            ("cache-control", "x=\"a,b\", NO-CACHE"),
        ],
    ] {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(&[]);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/").await;
        assert_eq!(
            get_with(&app, "/", lines).await.text(),
            "2 GET /",
            "{lines:?}"
        );
    }
}

fn ask(
    app: &App,
    fields: &'static [(&'static str, &'static str)],
) -> tokio::task::JoinHandle<support::Answer> {
    let app = app.clone();
    tokio::spawn(async move { get_with(&app, "/", fields).await })
}

/// An origin of which each call waits before a door of its own.
fn doors(count: usize) -> (Vec<Gate>, Origin) {
    let doors: Vec<_> = (0..count).map(|_| Gate::shut()).collect();
    let held = doors.clone();
    let origin = Origin::new(move |call, _| {
        let door = held[call - 1].clone();
        async move {
            door.pass().await;
            response(200, &[], format!("call {call}"))
        }
    });
    (doors, origin)
}

#[tokio::test]
async fn no_cache_does_not_join_a_flight_that_started_before_it_came() {
    let (cache, _clock) = cache();
    let (doors, origin) = doors(2);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let early = ask(&app, &[]);
    settle().await;
    let demanding = ask(&app, NO_CACHE);
    settle().await;
    doors[0].open();
    assert_eq!(early.await.unwrap().text(), "call 1");
    doors[1].open();
    assert_eq!(demanding.await.unwrap().text(), "call 2");
    assert_eq!(origin.calls(), 2);
    let next = get(&app, "/").await;
    assert_eq!(
        (next.is_hit(), next.text()),
        (true, "call 2"),
        "the later one is kept"
    );
}

#[tokio::test]
async fn an_earlier_fill_that_ends_later_does_not_replace_what_no_cache_fetched() {
    let (cache, _clock) = cache();
    let (doors, origin) = doors(3);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let early = ask(&app, &[]);
    settle().await;
    let demanding = ask(&app, NO_CACHE);
    settle().await;
    doors[1].open();
    settle().await;
    doors[0].open();
    assert_eq!(early.await.unwrap().text(), "call 1");
    assert_eq!(demanding.await.unwrap().text(), "call 2");
    assert_eq!(get(&app, "/").await.text(), "call 2");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn many_no_cache_requests_at_once_are_collapsed() {
    let (cache, _clock) = cache();
    let (doors, origin) = doors(100);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = ask(&app, NO_CACHE);
    settle().await;
    assert_eq!(origin.calls(), 1);
    // All of these come while the first call runs: one call that starts after them answers all.
    let rest: Vec<_> = (0..50).map(|_| ask(&app, NO_CACHE)).collect();
    settle().await;
    for door in &doors {
        door.open();
    }
    assert_eq!(first.await.unwrap().text(), "call 1");
    for rest in rest {
        assert_eq!(rest.await.unwrap().text(), "call 2");
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn others_beside_a_no_cache_request_cost_one_call_at_most() {
    let (cache, _clock) = cache();
    let (doors, origin) = doors(52);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let demanding = ask(&app, NO_CACHE);
    settle().await;
    let others: Vec<_> = (0..50).map(|_| ask(&app, &[])).collect();
    settle().await;
    for door in &doors {
        door.open();
    }
    assert_eq!(demanding.await.unwrap().text(), "call 1");
    let mut seen = Vec::new();
    for other in others {
        seen.push(other.await.unwrap().body);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "they are answered together");
    assert!(origin.calls() <= 2);
}

#[tokio::test]
async fn no_store_neither_takes_nor_leaves_anything() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("cache-control", "public, max-age=600")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let alone = get_with(&app, "/", NO_STORE).await;
    assert_eq!((alone.x_cache(), alone.text()), ("BYPASS", "1 GET /"));
    assert_eq!(detail(&alone), "request-no-store");
    assert_eq!(cache.stats().entries(), 0);
    assert_eq!(get(&app, "/").await.text(), "2 GET /");
    assert_eq!(get_with(&app, "/", NO_STORE).await.text(), "3 GET /");
    let stored = get(&app, "/").await;
    assert_eq!((stored.is_hit(), stored.text()), (true, "2 GET /"));
    assert_eq!(cache.stats().bypasses(Reason::RequestNoStore), 2);
}

#[tokio::test]
async fn no_store_does_not_wait_for_a_flight() {
    let (cache, _clock) = cache();
    let (doors, origin) = doors(2);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let early = ask(&app, &[]);
    settle().await;
    doors[1].open();
    assert_eq!(get_with(&app, "/", NO_STORE).await.text(), "call 2");
    doors[0].open();
    assert_eq!(early.await.unwrap().text(), "call 1");
    assert_eq!(get(&app, "/").await.text(), "call 1");
}

#[tokio::test]
async fn only_if_cached_never_reaches_the_origin() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let none = get_with(&app, "/", ONLY_IF_CACHED).await;
    assert_eq!(none.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(detail(&none), "only-if-cached");
    assert_eq!(origin.calls(), 0);
    get(&app, "/").await;
    let stored = get_with(&app, "/", ONLY_IF_CACHED).await;
    assert_eq!((stored.is_hit(), stored.text()), (true, "1 GET /"));
    assert_eq!(get_with(&app, "/b", ONLY_IF_CACHED).await.status, 504);
    clock.advance(Duration::from_secs(61));
    assert_eq!(
        get_with(&app, "/", ONLY_IF_CACHED).await.status,
        504,
        "it is stale"
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn bypass_when_sees_the_head_and_passes_straight_to_the_origin() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("cache-control", "public, max-age=600")]);
    let layer = ResponseCacheLayer::new(&cache)
        .bypass_when(|head| head.uri.path().starts_with("/admin"))
        .bypass_when(|head| head.headers.contains_key("x-preview"));
    let app = origin.behind(&layer);
    for (path, fields, is_bypassed) in [
        ("/admin/a", &[][..], true),
        ("/a", &[("x-preview", "1")][..], true),
        ("/admin/a", &[("x-preview", "1")][..], true),
        ("/a", &[][..], false),
        ("/b/admin", &[][..], false),
    ] {
        let calls = origin.calls();
        let first = get_with(&app, path, fields).await;
        let second = get_with(&app, path, fields).await;
        assert_eq!(second.is_hit(), !is_bypassed, "{path} {fields:?}");
        assert_eq!(origin.calls() - calls, if is_bypassed { 2 } else { 1 });
        if is_bypassed {
            assert_eq!(
                (first.x_cache(), &*detail(&first)),
                ("BYPASS", "bypass-when")
            );
        }
    }
    let preview = get_with(&app, "/a", &[("x-preview", "1")]).await;
    assert!(!preview.is_hit(), "not even of what others have stored");
    assert_eq!(cache.stats().bypasses(Reason::BypassWhen), 7);
}

#[tokio::test(start_paused = true)]
async fn waiting_is_bounded_in_all_however_often_it_begins_anew() {
    let (cache, _clock) = cache();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let origin = Origin::new({
        let gate = gate.clone();
        move |call, _| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                http::Response::new(axum::body::Body::from(call.to_string()))
            }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let ask = || {
        let app = app.clone();
        tokio::spawn(async move { get_with(&app, "/", &[("cache-control", "no-cache")]).await })
    };
    let first = ask();
    settle().await;
    // Both want a fill that starts after they came: one of them will lead it, the other wait again.
    let (second, third) = (ask(), ask());
    settle().await;
    assert_eq!(origin.calls(), 1);
    tokio::time::advance(std::time::Duration::from_secs(4)).await;
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().text(), "1");
    settle().await;
    assert_eq!(origin.calls(), 2);
    tokio::time::advance(std::time::Duration::from_millis(900)).await;
    settle().await;
    assert_eq!(origin.calls(), 2, "4.9 seconds are not 5");
    tokio::time::advance(std::time::Duration::from_millis(200)).await;
    settle().await;
    assert_eq!(
        origin.calls(),
        3,
        "waited for 5 seconds in all, then went alone"
    );
    gate.add_permits(2);
    let texts =
        [second.await.unwrap(), third.await.unwrap()].map(|answer| answer.text().to_owned());
    assert!(
        texts.contains(&"2".to_owned()) && texts.contains(&"3".to_owned()),
        "{texts:?}"
    );
}
