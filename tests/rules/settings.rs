//! What the options of a layer and the policy of a handler do to storing and to what is answered.

use std::time::Duration;

use crate::support::{
    App, Origin, cache, get, get_with,
    scripted::{detail, in_frames, response},
};
use axum::body::Body;
use http::{HeaderName, Response, StatusCode};
use tower_response_cache::{CachePolicy, ManualClock, ResponseCacheLayer, StatusHeaders};

type Fields = &'static [(&'static str, &'static str)];
type Layered = fn(ResponseCacheLayer) -> ResponseCacheLayer;

const SECOND: Duration = Duration::from_secs(1);

fn scripted(status: u16, fields: Fields, policy: Option<CachePolicy>) -> Origin {
    Origin::new(move |call, _| {
        let body = if status == 204 {
            String::new()
        } else {
            format!("call {call}")
        };
        let mut answer = response(status, fields, body);
        if let Some(policy) = policy.clone() {
            answer.extensions_mut().insert(policy);
        }
        std::future::ready(answer)
    })
}

/// For how many seconds a response of this origin is fresh; `None` if it is not stored at all.
async fn lifetime(app: &App, clock: &ManualClock, origin: &Origin, fields: Fields) -> Option<u64> {
    get_with(app, "/", fields).await;
    let calls = origin.calls();
    get_with(app, "/", fields).await;
    if origin.calls() > calls {
        return None;
    }
    for seconds in 1..=3600 {
        clock.advance(SECOND);
        get_with(app, "/", fields).await;
        if origin.calls() > calls {
            return Some(seconds);
        }
    }
    panic!("fresh for more than an hour");
}

#[tokio::test]
async fn the_lifetime_is_that_of_the_first_in_the_order_of_who_wins() {
    const MINUTES: u64 = 60;
    let policy = |seconds| Some(CachePolicy::ttl(Duration::from_secs(seconds)));
    let plain: Layered = |layer| layer;
    let ttl: Layered = |layer| layer.ttl(7 * SECOND);
    let none: Layered = |layer| layer.ttl(Duration::ZERO);
    let forced: Layered = |layer| layer.ttl(7 * SECOND).force_ttl(9 * SECOND);
    let unforced: Layered = |layer| layer.force_ttl(Duration::ZERO);
    let negative: Layered = |layer| layer.ttl(7 * SECOND).negative_ttl(5 * SECOND);
    let some: Fields = &[("cache-control", "max-age=20")];
    let several: Fields = &[
        ("cache-control", "max-age=20, s-maxage=30"),
        ("expires", "Thu, 01 Jan 2026 12:00:40 GMT"),
    ];
    let aged: Fields = &[
        ("cache-control", "max-age=20"),
        ("expires", "Thu, 01 Jan 2026 12:00:40 GMT"),
    ];
    let expires: Fields = &[("expires", "Thu, 01 Jan 2026 12:00:40 GMT")];
    #[rustfmt::skip]
    let rows: Vec<(_, Layered, u16, Fields, _, Option<u64>)> = vec![
        ("the default of silent responses", plain, 200, &[], None, Some(MINUTES)),
        ("ttl for silent responses", ttl, 200, &[], None, Some(7)),
        ("ttl for what is public alone", ttl, 200, &[("cache-control", "public")], None, Some(7)),
        ("ttl = 0: silent responses are not stored", none, 200, &[], None, None),
        ("ttl = 0 leaves explicit ones", none, 200, some, None, Some(20)),
        ("max-age over ttl", ttl, 200, some, None, Some(20)),
        ("s-maxage over max-age and Expires", ttl, 200, several, None, Some(30)),
        ("max-age over Expires", ttl, 200, aged, None, Some(20)),
        ("Expires over ttl", ttl, 200, expires, None, Some(40)),
        ("force_ttl over s-maxage", forced, 200, several, None, Some(9)),
        ("force_ttl over ttl", forced, 200, &[], None, Some(9)),
        ("force_ttl over max-age=0", forced, 200, &[("cache-control", "max-age=0")], None, Some(9)),
        ("force_ttl over an Expires in the past", forced, 200, &[("expires", "0")], None, Some(9)),
        ("force_ttl = 0 stores nothing", unforced, 200, some, None, None),
        ("no force_ttl against no-store", forced, 200, &[("cache-control", "no-store")], None, None),
        ("no force_ttl against private", forced, 200, &[("cache-control", "private")], None, None),
        ("no force_ttl against no-cache", forced, 200, &[("cache-control", "no-cache")], None, None),
        ("no force_ttl against Set-Cookie", forced, 200, &[("set-cookie", "a=b")], None, None),
        ("no force_ttl against Vary: *", forced, 200, &[("vary", "*")], None, None),
        ("no force_ttl for a 500", forced, 500, &[], None, None),
        ("no force_ttl for a 403", forced, 403, some, None, None),
        ("negative_ttl for a silent 404", negative, 404, &[], None, Some(5)),
        ("negative_ttl for a silent 410", negative, 410, &[], None, Some(5)),
        ("max-age over negative_ttl", negative, 404, some, None, Some(20)),
        ("no negative_ttl for a 200", negative, 200, &[], None, Some(7)),
        ("no negative_ttl for a 403", negative, 403, &[], None, None),
        ("no negative_ttl for a 500", negative, 500, &[], None, None),
        ("no ttl for a 404", ttl, 404, &[], None, None),
        ("a policy over ttl", ttl, 200, &[], policy(3), Some(3)),
        ("a policy over s-maxage", ttl, 200, several, policy(3), Some(3)),
        ("a policy over Expires in the past", ttl, 200, &[("expires", "0")], policy(3), Some(3)),
        ("a policy over force_ttl", forced, 200, several, policy(3), Some(3)),
        ("a policy over no-cache", plain, 200, &[("cache-control", "no-cache")], policy(3), Some(3)),
        ("a policy of zero", plain, 200, some, policy(0), None),
        ("a policy of no-store", plain, 200, some, Some(CachePolicy::no_store()), None),
        ("a policy of no-store over force_ttl", forced, 200, some, Some(CachePolicy::no_store()), None),
        ("a policy that says nothing", ttl, 200, some, Some(CachePolicy::new()), Some(20)),
        ("a policy for a 404", plain, 404, &[], policy(3), Some(3)),
        ("no policy for a 500", plain, 500, &[], policy(3), None),
        ("no policy for a 401", plain, 401, &[], policy(3), None),
        ("no policy against no-store", plain, 200, &[("cache-control", "no-store")], policy(3), None),
        ("no policy against private", plain, 200, &[("cache-control", "private")], policy(3), None),
        ("no policy against Set-Cookie", plain, 200, &[("set-cookie", "a=b")], policy(3), None),
        ("no policy against Vary: *", plain, 200, &[("vary", "*")], policy(3), None),
        ("no policy against a stream", plain, 200, &[("content-type", "text/event-stream")], policy(3), None),
    ];
    let mut wrong = Vec::new();
    for (sentence, layered, status, fields, policy, expected) in rows {
        let (cache, clock) = cache();
        let origin = scripted(status, fields, policy);
        let app = origin.behind(&layered(ResponseCacheLayer::new(&cache).jitter(0.0)));
        let seen = lifetime(&app, &clock, &origin, &[]).await;
        if seen != expected {
            wrong.push(format!("{sentence}: {seen:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_policy_makes_a_response_shareable_only_by_its_public() {
    let signed_in: Fields = &[("authorization", "a")];
    let ttl = CachePolicy::ttl(3 * SECOND);
    for (policy, expected) in [
        (ttl.clone(), None),
        (ttl.public(), Some(3)),
        (CachePolicy::new().public(), Some(60)),
        (CachePolicy::new(), None),
        (CachePolicy::no_store().public(), None),
    ] {
        let (cache, clock) = cache();
        let origin = scripted(200, &[], Some(policy.clone()));
        let app = origin.behind(&ResponseCacheLayer::new(&cache).jitter(0.0));
        assert_eq!(
            lifetime(&app, &clock, &origin, signed_in).await,
            expected,
            "{policy:?}"
        );
    }
}

#[tokio::test]
async fn a_policy_changes_no_field_that_the_client_sees() {
    let (cache, _clock) = cache();
    let policy = CachePolicy::ttl(3 * SECOND).public();
    let origin = scripted(
        200,
        &[("cache-control", "max-age=20"), ("x-a", "b")],
        Some(policy),
    );
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for _ in 0..2 {
        let answer = get(&app, "/").await;
        assert_eq!(answer.field("cache-control"), "max-age=20");
        let ours = [
            "x-cache",
            "cache-status",
            "age",
            "date",
            "cache-control",
            "x-a",
            "etag",
        ];
        for name in answer.headers.keys() {
            assert!(ours.contains(&name.as_str()), "{name}");
        }
    }
}

#[tokio::test]
async fn a_handler_of_axum_may_answer_with_its_policy() {
    use axum::{Router, routing::get as route_get};
    use tower::util::BoxCloneSyncService;
    let (cache, clock) = cache();
    let router = Router::new()
        .route(
            "/hot",
            route_get(|| async { (CachePolicy::ttl(2 * SECOND), "hot") }),
        )
        .route(
            "/never",
            route_get(|| async { (CachePolicy::no_store(), "never") }),
        )
        .layer(ResponseCacheLayer::new(&cache));
    let app: App = BoxCloneSyncService::new(router);
    get(&app, "/hot").await;
    clock.advance(SECOND);
    assert!(get(&app, "/hot").await.is_hit());
    clock.advance(SECOND);
    assert!(!get(&app, "/hot").await.is_hit());
    assert_eq!(detail(&get(&app, "/never").await), "policy");
    assert!(!get(&app, "/never").await.is_hit());
}

#[tokio::test]
async fn store_when_only_narrows() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache)
        .store_when(|head| !head.headers.contains_key("x-debug"))
        .store_when(|head| head.status == StatusCode::OK);
    #[rustfmt::skip]
    let rows: [(&str, u16, Fields, Option<&str>); 5] = [
        ("/a", 200, &[], None),
        ("/b", 200, &[("x-debug", "1")], Some("store-when")),
        ("/c", 203, &[], Some("store-when")),
        ("/d", 200, &[("cache-control", "no-store")], Some("no-store")),
        ("/e", 200, &[("set-cookie", "a=b")], Some("set-cookie")),
    ];
    for (path, status, fields, refused) in rows {
        let app = scripted(status, fields, None).behind(&layer);
        let first = get(&app, path).await;
        let second = get(&app, path).await;
        assert_eq!(second.is_hit(), refused.is_none(), "{path}");
        assert_eq!(detail(&first), refused.unwrap_or_default(), "{path}");
    }
}

#[tokio::test]
async fn max_body_size_is_the_longest_body_that_is_stored() {
    for (limit, length, is_stored) in [(10, 10, true), (10, 11, false), (0, 0, true), (0, 1, false)]
    {
        let whole = move |_: usize| Body::from("b".repeat(length));
        let framed = move |_: usize| in_frames((0..length).map(|_| Ok("b".into())).collect());
        let bodies: [&(dyn Fn(usize) -> Body + Sync); 2] = [&whole, &framed];
        for (kind, make) in bodies.into_iter().enumerate() {
            let (cache, _clock) = cache();
            let bodies: std::sync::Mutex<Vec<Body>> = (0..2).map(make).collect::<Vec<_>>().into();
            let origin = Origin::new(move |_, _| {
                let body = bodies.lock().unwrap().pop().unwrap();
                std::future::ready(Response::new(body))
            });
            let app = origin.behind(&ResponseCacheLayer::new(&cache).max_body_size(limit));
            assert_eq!(get(&app, "/").await.body.len(), length);
            let second = get(&app, "/").await;
            assert_eq!(second.body.len(), length);
            assert_eq!(
                second.is_hit(),
                is_stored,
                "{length} of {limit}, kind {kind}"
            );
        }
    }
}

#[tokio::test]
async fn strip_fields_are_for_the_first_client_alone() {
    let (cache, _clock) = cache();
    let origin = scripted(
        200,
        &[("x-node", "7"), ("x-node", "8"), ("x-kept", "yes")],
        None,
    );
    let layer = ResponseCacheLayer::new(&cache).strip_fields([HeaderName::from_static("x-node")]);
    let app = origin.behind(&layer);
    assert_eq!(get(&app, "/").await.fields("x-node"), ["7", "8"]);
    let second = get(&app, "/").await;
    assert!(second.is_hit());
    assert_eq!(second.fields("x-node"), [""; 0]);
    assert_eq!(second.field("x-kept"), "yes");
}

#[tokio::test]
async fn strip_fields_hide_nothing_from_the_rules() {
    let (cache, _clock) = cache();
    let origin = scripted(200, &[("set-cookie", "a=b")], None);
    let layer = ResponseCacheLayer::new(&cache).strip_fields([http::header::SET_COOKIE]);
    let app = origin.behind(&layer);
    assert_eq!(detail(&get(&app, "/").await), "set-cookie");
    assert!(!get(&app, "/").await.is_hit());
}

#[tokio::test]
async fn status_headers_say_as_much_as_they_are_told() {
    for (setting, x_cache, cache_status) in [
        (StatusHeaders::None, false, false),
        (StatusHeaders::XCache, true, false),
        (StatusHeaders::Full, true, true),
    ] {
        let (cache, clock) = cache();
        let origin = scripted(200, &[], None);
        let app = origin.behind(&ResponseCacheLayer::new(&cache).status_headers(setting));
        for (fields, word) in [
            (&[][..], "MISS"),
            (&[][..], "HIT"),
            (&[("authorization", "a")][..], "BYPASS"),
        ] {
            clock.advance(SECOND);
            let answer = get_with(&app, "/", fields).await;
            assert_eq!(answer.x_cache(), if x_cache { word } else { "" });
            assert_eq!(!answer.cache_status().is_empty(), cache_status);
            assert_eq!(answer.field("age"), if word == "HIT" { "1" } else { "" });
        }
        assert_eq!((cache.stats().hits(), cache.stats().misses()), (1, 1));
    }
}

#[tokio::test]
async fn a_layer_with_other_rules_does_not_serve_what_this_one_stored() {
    let (cache, _clock) = cache();
    let origin = scripted(200, &[], None);
    let plain = ResponseCacheLayer::new(&cache);
    get(&origin.behind(&plain), "/").await;
    let same = plain
        .clone()
        .ttl(5 * SECOND)
        .max_body_size(7)
        .status_headers(StatusHeaders::Full);
    assert!(
        get(&origin.behind(&same), "/").await.is_hit(),
        "a ttl or a limit makes no difference"
    );
    for other in [
        plain.clone().ignore_cookies(["a"]),
        plain.clone().vary_on_cookie("a"),
        plain.clone().ignore_host(),
        plain
            .clone()
            .query(tower_response_cache::Query::ignore(["a"])),
        plain.clone().store_without_set_cookie(),
        plain.clone().strip_fields([http::header::ETAG]),
        plain.clone().bypass_when(|_| false),
        plain.clone().store_when(|_| true),
    ] {
        assert!(
            !get(&origin.behind(&other), "/").await.is_hit(),
            "{other:?}"
        );
    }
}

#[tokio::test]
async fn only_the_layers_own_ttl_is_shortened_and_by_no_more_than_was_said() {
    let ttls = |layered: Layered, fields: Fields| async move {
        let (cache, _) = cache();
        let layer = ResponseCacheLayer::new(&cache).ttl(1000 * SECOND);
        let app = scripted(200, fields, None).behind(&layered(layer));
        let mut ttls = Vec::new();
        for page in 0..50 {
            let path = format!("/{page}");
            get(&app, &path).await;
            let hit = get(&app, &path).await;
            let (_, ttl) = hit.cache_status().rsplit_once("ttl=").expect("a hit");
            ttls.push(ttl.parse::<u64>().expect("seconds"));
        }
        ttls.sort_unstable();
        (ttls[0], ttls[49])
    };
    let (least, most) = ttls(|layer| layer.jitter(0.5), &[]).await;
    assert!((500..700).contains(&least) && (800..=1000).contains(&most));
    let (least, most) = ttls(|layer| layer, &[]).await;
    assert!(least >= 900 && least < most, "{least} to {most}");
    let exact = [
        ttls(|layer| layer.jitter(0.0), &[]).await,
        ttls(|layer| layer.jitter(0.5).force_ttl(1000 * SECOND), &[]).await,
        ttls(
            |layer| layer.jitter(0.5),
            &[("cache-control", "max-age=1000")],
        )
        .await,
    ];
    assert_eq!(exact, [(1000, 1000); 3]);
}

#[tokio::test]
async fn what_a_handler_said_counts_again_after_a_304_that_says_nothing() {
    let (cache, clock) = cache();
    let origin = Origin::new(|call, _| {
        let mut answer = response(
            if call == 1 { 200 } else { 304 },
            &[("etag", "\"a\"")],
            if call == 1 { "body" } else { "" },
        );
        if call == 1 {
            let policy = CachePolicy::ttl(300 * SECOND).public();
            answer.extensions_mut().insert(policy);
        }
        std::future::ready(answer)
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    for calls in 2..4 {
        clock.advance(300 * SECOND);
        assert_eq!(get(&app, "/").await.text(), "body");
        assert_eq!(origin.calls(), calls);
        clock.advance(299 * SECOND);
        let hit = get_with(&app, "/", &[("cookie", "a=b")]).await;
        assert_eq!((hit.x_cache(), origin.calls()), ("HIT", calls));
        clock.advance(SECOND);
    }
}
