//! What a client has already (RFC 9111, 4.3.2): conditional requests, answered from the store.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    self, Answer, Origin, cache, eventually, get, get_with, request,
    scripted::{Gate, detail, response},
    send, settle,
};
use http::StatusCode;
use tower_response_cache::{ResponseCacheLayer, StatusHeaders};

const CHANGED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const MADE: &str = "Thu, 22 Oct 2015 07:28:00 GMT";
const HAS_IT: &[(&str, &str)] = &[("if-none-match", "\"v1\"")];

fn tagged() -> Origin {
    Origin::new(|_, _| {
        let fields = [
            ("etag", "\"v1\""),
            ("last-modified", CHANGED),
            ("date", MADE),
            ("cache-control", "public, max-age=9999999999"),
            ("expires", "Fri, 21 Oct 2050 07:28:00 GMT"),
            ("vary", "accept-language"),
            ("content-location", "/page.en"),
            ("content-type", "text/plain"),
            ("content-language", "en"),
            ("content-encoding", "identity"),
            ("content-length", "14"),
            ("access-control-allow-origin", "*"),
            ("link", "</a>; rel=preload"),
            ("link", "</b>; rel=preload"),
        ];
        std::future::ready(response(200, &fields, "the whole text"))
    })
}

fn not_modified(answer: &Answer) -> bool {
    let is = answer.status == StatusCode::NOT_MODIFIED;
    assert_eq!(is, answer.body.is_empty(), "{answer:?}");
    is
}

#[tokio::test]
async fn a_304_carries_what_a_200_would_but_nothing_of_the_body() {
    let (cache, clock) = cache();
    let origin = tagged();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let whole = get(&app, "/").await;
    clock.advance(Duration::from_secs(7));
    let answer = get_with(&app, "/", HAS_IT).await;
    assert!(answer.is_hit() && not_modified(&answer));
    for name in [
        "etag",
        "date",
        "cache-control",
        "expires",
        "vary",
        "content-location",
        "access-control-allow-origin",
        "link",
    ] {
        assert_eq!(answer.fields(name), whole.fields(name), "{name}");
        assert!(!answer.fields(name).is_empty(), "{name}");
    }
    // RFC 9110, 15.4.5: what describes the body that is not there, and what ETag says better.
    for name in [
        "content-type",
        "content-language",
        "content-encoding",
        "content-length",
        "last-modified",
    ] {
        assert_eq!(answer.fields(name), Vec::<&str>::new(), "{name}");
    }
    let resident: u64 = answer.field("age").parse().expect("an age");
    let before: u64 = get(&app, "/").await.field("age").parse().expect("an age");
    assert_eq!(resident, before);
    assert!(answer.cache_status().contains("; hit; ttl="));
    let next = get(&app, "/").await;
    assert_eq!(
        (next.status, next.text()),
        (StatusCode::OK, "the whole text")
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn if_none_match_beats_if_modified_since() {
    let (cache, _clock) = cache();
    let origin = tagged();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let rows = [
        ("\"v1\"", "Wed, 21 Oct 2015 07:27:59 GMT", true),
        ("\"v2\"", CHANGED, false),
        ("W/\"v1\"", "no date", true),
        ("\"v2\"", "no date", false),
    ];
    for (tag, since, is_same) in rows {
        let asked = [("if-none-match", tag), ("if-modified-since", since)];
        let answer = get_with(&app, "/", &asked).await;
        assert!(answer.is_hit());
        assert_eq!(not_modified(&answer), is_same, "{tag} {since}");
    }
    assert!(not_modified(
        &get_with(&app, "/", &[("if-modified-since", CHANGED)]).await
    ));
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_head_has_conditions_too() {
    let (cache, _clock) = cache();
    let origin = tagged();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let answer = send(&app, request("HEAD", "/", HAS_IT)).await;
    assert!(answer.is_hit());
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    assert_eq!(answer.field("content-length"), "");
    let other = send(&app, request("HEAD", "/", &[("if-none-match", "\"v2\"")])).await;
    assert_eq!(
        (other.status, other.field("content-length")),
        (StatusCode::OK, "14")
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn only_if_cached_and_a_tag_come_to_304() {
    let (cache, _clock) = cache();
    let app = tagged().behind(&ResponseCacheLayer::new(&cache));
    let asked = [HAS_IT[0], ("cache-control", "only-if-cached")];
    assert_eq!(
        get_with(&app, "/", &asked).await.status,
        StatusCode::GATEWAY_TIMEOUT
    );
    get(&app, "/").await;
    assert!(not_modified(&get_with(&app, "/", &asked).await));
}

/// RFC 9110, 13.2.1: conditions are about what would be a success.
#[tokio::test]
async fn what_is_no_success_is_never_304() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| {
        let fields = [("etag", "\"v1\""), ("cache-control", "max-age=60")];
        std::future::ready(response(404, &fields, "nothing"))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    for asked in [HAS_IT, &[("if-none-match", "*")]] {
        let answer = get_with(&app, "/", asked).await;
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::NOT_FOUND, "nothing")
        );
        assert!(answer.is_hit());
    }
}

#[tokio::test]
async fn each_variant_is_compared_with_its_own_tag() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, request| {
        let language = request.headers().get("accept-language");
        let language = language
            .map_or("none", |value| value.to_str().unwrap())
            .to_owned();
        let tag = format!("\"{language}\"");
        let fields = [("etag", tag.as_str()), ("vary", "accept-language")];
        std::future::ready(response(200, &fields, language.clone()))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for language in ["de", "en"] {
        get_with(&app, "/", &[("accept-language", language)]).await;
    }
    for (language, tag, is_same) in [
        ("de", "\"de\"", true),
        ("de", "\"en\"", false),
        ("en", "\"en\"", true),
        ("en", "\"de\"", false),
    ] {
        let asked = [("accept-language", language), ("if-none-match", tag)];
        let answer = get_with(&app, "/", &asked).await;
        assert!(answer.is_hit());
        assert_eq!(not_modified(&answer), is_same, "{language} {tag}");
    }
    assert_eq!(origin.calls(), 2);
}

/// A tag that somebody guesses shows nothing of what is not for them.
#[tokio::test]
async fn what_may_not_answer_a_request_is_not_compared_for_it() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| {
        let fields = [("etag", "\"v1\""), ("cache-control", "max-age=60")];
        std::future::ready(response(200, &fields, format!("call {call}")))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let asked = [HAS_IT[0], ("authorization", "Bearer x")];
    let answer = get_with(&app, "/", &asked).await;
    assert_eq!((answer.x_cache(), answer.text()), ("BYPASS", "call 2"));
}

#[tokio::test]
async fn a_304_says_no_more_of_the_cache_than_the_layer_wants() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).status_headers(StatusHeaders::None);
    let app = tagged().behind(&layer);
    get(&app, "/").await;
    let answer = get_with(&app, "/", HAS_IT).await;
    assert!(not_modified(&answer));
    assert_eq!((answer.x_cache(), answer.cache_status()), ("", ""));
    assert!(!answer.field("age").is_empty());
}

/// Whoever has the response makes it be stored for those who have not.
#[tokio::test]
async fn a_condition_on_a_miss_fills_and_comes_to_304() {
    let (cache, _clock) = cache();
    let conditions = Arc::new(Mutex::new(Vec::new()));
    let seen = conditions.clone();
    let origin = Origin::new(move |_, request| {
        let has_any = ["if-none-match", "if-modified-since"]
            .iter()
            .any(|name| request.headers().contains_key(*name));
        seen.lock().unwrap().push(has_any);
        let fields = [
            ("etag", "\"v1\""),
            ("vary", "accept-language"),
            ("content-type", "text/plain"),
        ];
        std::future::ready(response(200, &fields, "the whole text"))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let asked = [HAS_IT[0], ("if-modified-since", CHANGED)];
    let answer = get_with(&app, "/", &asked).await;
    assert!(not_modified(&answer));
    assert_eq!(
        (answer.x_cache(), answer.field("content-type")),
        ("MISS", "")
    );
    assert!(
        answer
            .cache_status()
            .contains("; fwd=uri-miss; fwd-status=200; stored"),
        "{answer:?}"
    );
    for (path, tag, is_same) in [
        ("/", "\"v1\"", true),
        ("/", "\"v2\"", false),
        ("/b", "\"v2\"", false),
    ] {
        let answer = get_with(&app, path, &[("if-none-match", tag)]).await;
        assert_eq!(not_modified(&answer), is_same, "{path} {tag}");
        assert_eq!(answer.is_hit(), path == "/");
    }
    assert_eq!(get(&app, "/").await.text(), "the whole text");
    assert_eq!(
        *conditions.lock().unwrap(),
        [false, false],
        "no fill has conditions"
    );
}

#[tokio::test]
async fn a_hundred_with_conditions_of_their_own_are_one_call() {
    let (cache, _clock) = cache();
    let gate = Gate::shut();
    let door = gate.clone();
    let origin = Origin::new(move |_, _| {
        let door = door.clone();
        async move {
            door.pass().await;
            let fields = [("etag", "\"v1\""), ("content-length", "14")];
            response(200, &fields, "the whole text")
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let asking: Vec<_> = (0..100)
        .map(|number| {
            let app = app.clone();
            tokio::spawn(async move {
                let tag = format!("\"v{}\"", number % 2);
                let answer = get_with(&app, "/", &[("if-none-match", tag.as_str())]).await;
                assert_eq!(not_modified(&answer), number % 2 == 1, "{number}");
                assert!(number % 2 == 1 || answer.text() == "the whole text");
            })
        })
        .collect();
    settle().await;
    gate.open();
    for asking in asking {
        asking.await.expect("the right answer");
    }
    assert_eq!(origin.calls(), 1);
}

/// A body that is not there at once is read on for the store, though its starter wants none of it.
#[tokio::test]
async fn a_304_on_a_miss_stores_a_body_that_streams() {
    let (cache, _clock) = cache();
    let gate = Gate::shut();
    let door = gate.clone();
    let origin = Origin::new(move |_, _| {
        let door = door.clone();
        let frame = async move {
            door.pass().await;
            Ok::<_, std::convert::Infallible>("the whole text")
        };
        let body = axum::body::Body::from_stream(futures_util::stream::once(frame));
        std::future::ready(response(200, &[("etag", "\"v1\"")], body))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    assert!(not_modified(&get_with(&app, "/", HAS_IT).await));
    gate.open();
    eventually("it is stored", || cache.stats().stored() == 1).await;
    let whole = get(&app, "/").await;
    assert_eq!((whole.is_hit(), whole.text()), (true, "the whole text"));
    assert_eq!(origin.calls(), 1);
}

/// What is not stored is judged by the conditions of its one client, and later goes as it came.
#[tokio::test]
async fn conditions_on_something_uncacheable_are_kept() {
    let (cache, _clock) = cache();
    let conditions = Arc::new(Mutex::new(Vec::new()));
    let seen = conditions.clone();
    let origin = Origin::new(move |_, request| {
        let condition = request.headers().contains_key("if-none-match");
        seen.lock().unwrap().push(condition);
        let fields = [("etag", "\"v1\""), ("cache-control", "no-store")];
        std::future::ready(match condition {
            true => response(304, &fields, ""),
            false => response(200, &fields, "the whole text"),
        })
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for _ in 0..3 {
        assert!(not_modified(&get_with(&app, "/", HAS_IT).await));
    }
    assert_eq!(*conditions.lock().unwrap(), [false, true, true]);
}

/// RFC 9110, 13.1.1 and 13.1.4: these are the origin's to judge, so they reach it.
#[tokio::test]
async fn conditions_for_origins_are_passed_on() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, request| {
        let has = |name: &str| request.headers().contains_key(name);
        let failed = has("if-match") || has("if-unmodified-since");
        let status = if failed { 412 } else { 200 };
        std::future::ready(response(status, &[("etag", "\"v1\"")], "text"))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for name in ["if-match", "if-unmodified-since"] {
        let answer = get_with(&app, "/", &[(name, "\"v2\"")]).await;
        assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(detail(&answer), "conditional");
    }
    assert_eq!(cache.stats().stored(), 0);
}

/// Where a starter that leaves ends its fill, one that wants no body has left.
#[tokio::test]
async fn without_detached_fills_conditions_are_passed_on() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, request| {
        let status = if request.headers().contains_key("if-none-match") {
            304
        } else {
            200
        };
        std::future::ready(response(status, &[("etag", "\"v1\"")], ""))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache).detach(false));
    let answer = get_with(&app, "/", HAS_IT).await;
    assert!(not_modified(&answer));
    assert_eq!(detail(&answer), "conditional");
}

#[tokio::test]
async fn nested_layers_judge_conditions_once() {
    let (cache, _clock) = cache();
    let origin = tagged();
    let layer = ResponseCacheLayer::new(&cache);
    let app = support::app(
        &layer,
        origin.behind(&layer.clone().ttl(Duration::from_secs(5))),
    );
    for expected in ["MISS", "HIT", "HIT"] {
        let answer = get_with(&app, "/", HAS_IT).await;
        assert!(not_modified(&answer));
        assert_eq!(answer.x_cache(), expected);
    }
    assert_eq!(get(&app, "/").await.text(), "the whole text");
    assert_eq!(origin.calls(), 1);
}

/// A 304 to one who went alone says nothing of whether the response could be stored.
#[tokio::test]
async fn clients_that_only_revalidate_do_not_keep_a_key_from_being_stored() {
    let (cache, clock) = cache();
    let conditions = Arc::new(Mutex::new(Vec::new()));
    let seen = conditions.clone();
    let origin = Origin::new(move |call, request| {
        let condition = request.headers().contains_key("if-none-match");
        seen.lock().unwrap().push(condition);
        let tag = ("etag", "\"v1\"");
        std::future::ready(match (call, condition) {
            (1, _) => response(200, &[tag, ("cache-control", "no-store")], "the whole text"),
            (_, true) => response(304, &[tag], ""),
            (_, false) => response(200, &[tag], "the whole text"),
        })
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    clock.advance(Duration::from_secs(40));
    assert!(not_modified(&get_with(&app, "/", HAS_IT).await));
    clock.advance(Duration::from_secs(21));
    for expected in ["MISS", "HIT"] {
        let answer = get_with(&app, "/", HAS_IT).await;
        assert!(not_modified(&answer));
        assert_eq!(answer.x_cache(), expected);
    }
    assert_eq!(*conditions.lock().unwrap(), [false, true, false]);
}
