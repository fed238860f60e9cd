//! Bugs seen elsewhere, each with a test: long, broken and empty bodies.

use std::convert::Infallible;

use crate::support::{
    self, Origin, cache, get, get_with, request,
    scripted::{broken, by_hand, detail, frame, head_of, in_frames, response},
    settle,
};
use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower_response_cache::{Reason, ResponseCacheLayer};

/// Bytes of which every position can be told from its neighbours.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i % 251) as u8).collect()
}

#[tokio::test]
async fn a_body_over_the_limit_arrives_intact_and_is_not_stored() {
    const LIMIT: usize = 100_000;
    for (length, declared, is_stored) in [
        (LIMIT - 1, true, true),
        (LIMIT, true, true),
        (LIMIT, false, true),
        (LIMIT + 1, true, false),
        (LIMIT + 1, false, false),
        (30 * LIMIT, true, false),
        (30 * LIMIT, false, false),
    ] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |_, _| {
            let chunks = pattern(length);
            let chunks = (0..length).step_by(7_000).map(move |start| {
                Ok::<_, std::io::Error>(chunks.slice(start..length.min(start + 7_000)))
            });
            let mut answer = response(200, &[], in_frames(chunks.collect()));
            if declared {
                let length = HeaderValue::from(length);
                answer.headers_mut().insert("content-length", length);
            }
            std::future::ready(answer)
        });
        let layer = ResponseCacheLayer::new(&cache).max_body_size(LIMIT as u64);
        let app = origin.behind(&layer);
        for round in 0..3 {
            let answer = get(&app, "/").await;
            assert_eq!(answer.status, 200);
            assert!(
                answer.body == pattern(length),
                "{length} bytes, round {round}"
            );
            assert_eq!(
                answer.is_hit(),
                is_stored && round > 0,
                "{length}, {declared}"
            );
            if declared && !is_stored && round == 0 {
                assert_eq!(detail(&answer), "body-too-large");
            }
        }
        assert_eq!(origin.calls(), if is_stored { 1 } else { 3 });
        assert_eq!(cache.stats().entries(), u64::from(is_stored));
        let refused = cache.stats().refusals(Reason::BodyTooLarge);
        assert_eq!(refused > 0, !is_stored);
        settle().await;
        assert_eq!(cache.stats().buffered_bytes(), 0);
    }
}

#[tokio::test]
async fn clients_that_waited_for_a_body_over_the_limit_all_have_it_intact() {
    const LENGTH: usize = 50_000;
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| {
        let chunks = pattern(LENGTH);
        let chunks = (0..LENGTH)
            .step_by(500)
            .map(|start| Ok(chunks.slice(start..start + 500)));
        std::future::ready(response(200, &[], in_frames(chunks.collect())))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache).max_body_size(10_000));
    let asked: Vec<_> = (0..10)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { get(&app, "/").await })
        })
        .collect();
    for asked in asked {
        assert!(asked.await.unwrap().body == pattern(LENGTH));
    }
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    for fields in [
        &[][..],
        &[("content-length", "10")],
        &[("cache-control", "max-age=600")],
    ] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |call, _| {
            std::future::ready(if call == 1 {
                let frames = vec![Ok("first".into()), broken()];
                response(200, fields, in_frames(frames))
            } else {
                response(200, fields, "first-last")
            })
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let mut answer = head_of(&app, "/").await;
        assert_eq!(frame(answer.body_mut()).await.unwrap(), "first");
        let failure = answer.body_mut().frame().await.expect("no clean end");
        assert!(failure.is_err(), "{fields:?}");
        settle().await;
        assert_eq!(cache.stats().entries(), 0);
        assert_eq!(cache.stats().refusals(Reason::BodyError), 1);
        let second = get(&app, "/").await;
        assert_eq!((second.is_hit(), second.text()), (false, "first-last"));
        assert!(get(&app, "/").await.is_hit(), "a failure is not remembered");
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_declared_is_not_stored() {
    for sent in ["short", "longer than declared"] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |_, _| {
            let body = in_frames(vec![Ok(sent.into())]);
            std::future::ready(response(200, &[("content-length", "10")], body))
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        for call in 1..=2 {
            // Whatever its own client makes of it, nobody else sees it.
            let _ = head_of(&app, "/").await.into_body().collect().await;
            settle().await;
            assert_eq!(origin.calls(), call);
            assert_eq!(cache.stats().entries(), 0, "{sent}");
        }
        assert!(cache.stats().refusals(Reason::BodyLength) >= 1, "{sent}");
    }
}

#[tokio::test]
async fn empty_bodies_and_streams_are_stored() {
    type Make = fn() -> Response<Body>;
    let rows: [(&str, Make, &str); 8] = [
        ("an empty body", || response(200, &[], ""), ""),
        ("no content", || response(204, &[], Body::empty()), ""),
        (
            "a redirect without a body",
            || response(308, &[("location", "/")], Body::empty()),
            "",
        ),
        (
            "an empty stream",
            || response(200, &[], in_frames(vec![])),
            "",
        ),
        (
            "an empty stream that says so",
            || response(200, &[("content-length", "0")], in_frames(vec![])),
            "",
        ),
        (
            "a stream with a declared length",
            || {
                let body = in_frames(vec![Ok("ab".into()), Ok("".into()), Ok("cd".into())]);
                response(200, &[("content-length", "4")], body)
            },
            "abcd",
        ),
        (
            "a stream of unknown length",
            || response(200, &[], in_frames(vec![Ok("ab".into()), Ok("cd".into())])),
            "abcd",
        ),
        ("a whole body", || response(200, &[], "abcd"), "abcd"),
    ];
    for (sentence, make, body) in rows {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |_, _| std::future::ready(make()));
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = get(&app, "/").await;
        // Read to the end, ask again: a hit, without a turn of the scheduler between.
        let second = get(&app, "/").await;
        assert!(second.is_hit(), "{sentence}: {}", second.cache_status());
        assert_eq!((first.text(), second.text()), (body, body), "{sentence}");
        assert_eq!(first.status, second.status);
        assert_eq!(
            first.fields("content-length"),
            second.fields("content-length")
        );
        assert_eq!(origin.calls(), 1, "{sentence}");
    }
}

#[tokio::test]
async fn an_empty_body_is_stored_before_its_head_is_seen() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let empty = Origin::new(|_, _| std::future::ready(response(204, &[], Body::empty())));
    for (origin, entries) in [(empty, 1), (origin, 1)] {
        cache.invalidate(tower_response_cache::Selector::all());
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = head_of(&app, "/").await;
        assert!(cache.stats().entries() >= entries);
        assert!(get(&app, "/").await.is_hit());
        drop(first);
    }
}

#[tokio::test]
async fn trailers_are_passed_on_and_not_stored() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("c"));
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from("text"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames).then(|frame| async {
            tokio::task::yield_now().await;
            frame
        }));
        std::future::ready(response(200, &[], Body::new(body)))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for call in 1..=2 {
        let whole = head_of(&app, "/")
            .await
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(whole.trailers().unwrap()["x-checksum"], "c");
        assert_eq!(whole.to_bytes(), "text");
        assert_eq!(origin.calls(), call);
    }
    assert_eq!(cache.stats().entries(), 0);
    assert!(cache.stats().refusals(Reason::Trailers) >= 1);
}

#[tokio::test]
async fn a_request_body_is_passed_on_unread() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, request: http::Request<Body>| async move {
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let sent = String::from_utf8_lossy(&sent).into_owned();
        response(200, &[], format!("{call} {sent}"))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for call in 1..=2 {
        let (hand, body) = by_hand();
        let mut asked = request("GET", "/", &[("transfer-encoding", "chunked")]);
        *asked.body_mut() = body;
        let answer = tokio::spawn({
            let app = app.clone();
            async move { support::send(&app, asked).await }
        });
        settle().await;
        assert_eq!(
            origin.calls(),
            call,
            "the handler runs while the body is still sent"
        );
        hand.send(Ok("a query".into())).unwrap();
        drop(hand);
        let answer = answer.await.unwrap();
        assert_eq!(answer.text(), format!("{call} a query"));
        assert_eq!(
            (answer.x_cache(), &*detail(&answer)),
            ("BYPASS", "request-body")
        );
    }
    assert_eq!(
        get_with(&app, "/", &[("content-length", "0")]).await.text(),
        "3 "
    );
    assert!(get(&app, "/").await.is_hit());
}
