//! Entity tags that the cache makes for bodies that have none.

use std::{future::ready, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use tower_response_cache::ResponseCacheLayer;

use crate::support::{Answer, Origin, cache, feed, get, get_with, inner, request, send, settle};

fn is_weak_tag(tag: &str) -> bool {
    tag.starts_with("W/\"") && tag.ends_with('"') && tag.len() > 12
}

#[tokio::test]
async fn a_body_that_is_there_at_once_has_the_same_tag_on_the_miss_and_on_each_hit() {
    let (cache, clock) = cache();
    let origin = Origin::new(|_, _| ready(Response::new(Body::from("the same for ever"))));
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let miss = get(&app, "/").await;
    let tag = miss.field("etag").to_owned();
    assert!(is_weak_tag(&tag), "{tag}");
    assert_eq!(get(&app, "/").await.field("etag"), tag);
    let known = get_with(&app, "/", &[("if-none-match", &tag)]).await;
    assert_eq!((known.status, known.text()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!((known.x_cache(), known.field("etag")), ("HIT", &*tag));
    // As long as the body is the same, the tag is, whoever has made it anew.
    clock.advance(Duration::from_secs(61));
    let known = get_with(&app, "/", &[("if-none-match", &tag)]).await;
    assert_eq!(
        (known.status, known.x_cache()),
        (StatusCode::NOT_MODIFIED, "MISS")
    );
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn another_body_has_another_tag_and_no_body_has_none() {
    let (cache, _) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let tags = [get(&app, "/a").await, get(&app, "/b").await].map(|a| a.field("etag").to_owned());
    assert!(tags.iter().all(|tag| is_weak_tag(tag)));
    assert_ne!(tags[0], tags[1]);
    let empty = Origin::new(|_, _| ready(Response::new(Body::empty())));
    let app = empty.behind(&ResponseCacheLayer::new(&cache).ignore_host());
    for _ in 0..2 {
        assert_eq!(get(&app, "/empty").await.field("etag"), "");
    }
}

#[tokio::test]
async fn a_tag_of_the_handlers_own_is_left_alone() {
    let (cache, _) = cache();
    let origin = Origin::with_fields(&[("etag", "\"mine\"")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for _ in 0..2 {
        assert_eq!(get(&app, "/").await.field("etag"), "\"mine\"");
    }
}

#[tokio::test]
async fn some_responses_get_none() {
    type Layered = fn(ResponseCacheLayer) -> ResponseCacheLayer;
    let rows: [(&str, u16, Layered, &str); 4] = [
        ("opted out", 200, |layer| layer.weak_etags(false), ""),
        (
            "404",
            404,
            |layer| layer.negative_ttl(Duration::from_secs(9)),
            "",
        ),
        ("not stored", 200, |layer| layer.ttl(Duration::ZERO), ""),
        ("not stored, said so", 200, |layer| layer, "no-store"),
    ];
    for (sentence, status, layered, cache_control) in rows {
        let (cache, _) = cache();
        let origin = Origin::new(move |_, _| {
            let response = Response::builder().status(status);
            let response = response.header("cache-control", cache_control);
            ready(response.body(Body::from("body")).unwrap())
        });
        let app = origin.behind(&layered(ResponseCacheLayer::new(&cache)));
        for _ in 0..2 {
            assert_eq!(get(&app, "/").await.field("etag"), "", "{sentence}");
        }
    }
    let (cache, _) = cache();
    let origin = Origin::with_fields(&[("cache-control", "max-age=9")]);
    let app = origin.behind(&ResponseCacheLayer::rfc9111(&cache));
    for _ in 0..2 {
        assert_eq!(get(&app, "/").await.field("etag"), "", "rfc9111()");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_streams_has_its_tag_from_the_first_hit_on() {
    let (cache, _) = cache();
    let (sender, body) = feed::feed(None);
    let inner = inner::script(&[], vec![body]);
    let service = inner::behind(ResponseCacheLayer::new(&cache), &inner);
    let starter = inner::client(&service, inner::page()).await;
    sender.data("a part, ");
    settle().await;
    sender.data("and the rest");
    drop(sender);
    let miss = inner::at_once("an answer", starter).await.unwrap();
    assert_eq!(
        (miss.complete(), miss.field("etag")),
        ("a part, and the rest", "")
    );
    let hit = inner::client(&service, inner::page()).await.await.unwrap();
    assert_eq!(hit.field("x-cache"), "HIT");
    assert!(is_weak_tag(hit.field("etag")), "{hit:?}");
    let tag = hit.field("etag").to_owned();
    let known = request("GET", "/page", &[("if-none-match", &tag)]);
    let known = inner::client(&service, known).await.await.unwrap();
    assert_eq!(known.head.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn the_handler_is_not_asked_by_a_tag_that_it_never_made() {
    let (cache, clock) = cache();
    let origin = Origin::new(|call, request| {
        let headers = request.headers();
        assert!(!headers.contains_key("if-none-match"), "call {call}");
        let is_asked = headers.contains_key("if-modified-since");
        assert_eq!(is_asked, call > 1, "call {call}");
        let response = Response::builder()
            .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            .status(if is_asked { 304 } else { 200 });
        let body = if is_asked {
            Bytes::new()
        } else {
            Bytes::from("body")
        };
        ready(response.body(Body::from(body)).unwrap())
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let tag = get(&app, "/").await.field("etag").to_owned();
    assert!(is_weak_tag(&tag));
    for call in 2..4 {
        clock.advance(Duration::from_secs(61));
        let validated: Answer = get(&app, "/").await;
        assert_eq!((validated.x_cache(), validated.text()), ("MISS", "body"));
        assert_eq!((validated.field("etag"), origin.calls()), (&*tag, call));
        let hit = send(&app, request("GET", "/", &[("if-none-match", &tag)])).await;
        assert_eq!(
            (hit.status, hit.x_cache()),
            (StatusCode::NOT_MODIFIED, "HIT")
        );
    }
}
