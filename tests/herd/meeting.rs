//! Requests of another kind that meet a flight: HEAD, `no-cache`, another value of `Vary`.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tower::Layer;
use tower_response_cache::{ResponseCacheLayer, Selector};

use super::crowd::{answers, crowd, crowd_of};
use crate::support::{
    cache,
    feed::whole,
    inner::{Inner, ask, assert_idle, held, page, read},
    request, settle,
};

const CROWD: usize = 100;

fn head(_: usize) -> Request<Body> {
    request("HEAD", "/page", &[])
}

fn no_cache(_: usize) -> Request<Body> {
    request("GET", "/page", &[("cache-control", "no-cache")])
}

#[tokio::test(start_paused = true)]
async fn a_hundred_heads_join_the_flight_of_a_get_for_its_head() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let mut gets = crowd(&service, 1).await;
    let heads = crowd_of(&service, CROWD, head).await;
    gets.extend(crowd(&service, 1).await);
    assert_eq!(inner.calls(), 1);
    permits.add_permits(1);
    for head in answers(heads).await {
        assert_eq!(head.head.status, StatusCode::OK);
        assert_eq!((head.field("x-call"), head.complete()), ("1", ""));
    }
    for get in answers(gets).await {
        assert_eq!(get.complete(), "call 1: GET /page");
    }
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn heads_whose_flight_fails_go_on_alone_and_together() {
    // `private` and a panic of the GET: those who wanted its head call for themselves.
    for panics in [false, true] {
        let (cache, _) = cache();
        let permits = Arc::new(Semaphore::new(0));
        let held = permits.clone();
        let inner: Inner = Inner::new(move |call, request| {
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                assert!(!panics || call > 1, "told to");
                let body = whole(if request.method() == "HEAD" {
                    ""
                } else {
                    "a page"
                });
                Ok(Response::builder()
                    .header("cache-control", "private")
                    .header("x-call", call)
                    .body(body)
                    .unwrap())
            }
        });
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        let starter = crowd(&service, 1).await;
        let heads = crowd_of(&service, CROWD, head).await;
        assert_eq!(inner.calls(), 1);
        permits.add_permits(1);
        settle().await;
        permits.add_permits(1);
        settle().await;
        assert_eq!(
            inner.calls(),
            1 + CROWD,
            "all are in the handler; panics: {panics}"
        );
        permits.add_permits(CROWD);
        let mut seen: Vec<_> = answers(heads)
            .await
            .iter()
            .map(|head| head.field("x-call").to_owned())
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), CROWD, "each its own");
        for visit in starter {
            assert_eq!(visit.await.is_err(), panics);
        }
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_no_cache_requests_that_meet_a_flight_cost_two_calls_more_at_most() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let before = crowd(&service, CROWD).await;
    let demanding = crowd_of(&service, CROWD, no_cache).await;
    assert_eq!(
        inner.calls(),
        2,
        "what began before they came is not for them"
    );
    let after = crowd(&service, CROWD).await;
    permits.add_permits(1);
    for answer in answers(before).await {
        assert_eq!(answer.complete(), "call 1: GET /page");
    }
    permits.add_permits(2 * CROWD);
    for answer in answers(demanding).await {
        assert_ne!(answer.complete(), "call 1: GET /page");
    }
    answers(after).await;
    assert!(inner.calls() <= 3, "{} calls", inner.calls());
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(hit.field("x-cache"), "HIT");
    assert_ne!(hit.complete(), "call 1: GET /page", "the newest is kept");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_in_the_middle_of_a_crowd_makes_one_flight_for_all_who_come_later() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let before = crowd(&service, CROWD).await;
    cache.invalidate(Selector::resource("test", "/page"));
    let after = crowd(&service, CROWD).await;
    assert_eq!(inner.calls(), 2);
    // The later one ends first; the earlier one takes nothing away.
    permits.add_permits(2);
    for answer in answers(before).await {
        assert!(answer.complete().starts_with("call "));
    }
    for answer in answers(after).await {
        assert_eq!(answer.complete(), "call 2: GET /page");
    }
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(
        (hit.field("x-cache"), hit.complete()),
        ("HIT", "call 2: GET /page")
    );
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn those_with_another_value_of_vary_regroup_also_when_the_next_head_varies_on_more() {
    // The first head names one field, the others two: who regrouped regroups again.
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |call, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let value = |name| request.headers()[name].to_str().unwrap().to_owned();
            let vary = if call == 1 {
                "x-lang"
            } else {
                "x-lang, x-size"
            };
            let body = match call {
                1 => value("x-lang"),
                _ => value("x-lang") + " " + &value("x-size"),
            };
            Ok(Response::builder()
                .header("vary", vary)
                .body(whole(body))
                .unwrap())
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    const LANGS: [&str; 2] = ["en", "de"];
    const SIZES: [&str; 3] = ["s", "m", "l"];
    let (lang, size) = (|n: usize| LANGS[n % 2], |n: usize| SIZES[n / 2 % 3]);
    let ask_for = |n| request("GET", "/page", &[("x-lang", lang(n)), ("x-size", size(n))]);
    let visits = crowd_of(&service, 300, ask_for).await;
    assert_eq!(inner.calls(), 1);
    permits.add_permits(300);
    for (n, answer) in answers(visits).await.iter().enumerate() {
        let both = format!("{} {}", lang(n), size(n));
        assert!(
            answer.complete() == both || (n % 2 == 0 && answer.complete() == "en"),
            "{n}: {}",
            answer.complete()
        );
    }
    // One for the first, and one or two for each of the three of the other value.
    assert!(inner.calls() <= 1 + 3 + 1, "{} calls", inner.calls());
    assert_idle(&cache).await;
}
