//! QUERY (RFC 10008), and which methods are answered at all.

use std::{
    future::ready,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tower_response_cache::{Cache, CacheableMethod, ResponseCacheLayer, Selector};

use crate::support::{Answer, App, Origin, cache, get, request, send};

/// Answers with the number of the call and the content.
fn echo() -> (Origin, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_it = seen.clone();
    let origin = Origin::new(move |call, request: Request<Body>| {
        let seen = seen_by_it.clone();
        async move {
            let method = request.method().to_string();
            let content = request.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(content.to_vec()).unwrap();
            seen.lock().unwrap().push(text.clone());
            Response::new(Body::from(format!("{call} {method} {text}")))
        }
    });
    (origin, seen)
}

fn layer(cache: &Cache) -> ResponseCacheLayer {
    ResponseCacheLayer::new(cache).query_content(Body::from)
}

async fn query(app: &App, fields: &[(&str, &str)], content: impl Into<Bytes>) -> Answer {
    let content: Bytes = content.into();
    send(
        app,
        request("QUERY", "/contacts", fields).map(|_| Body::from(content)),
    )
    .await
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn the_same_query_is_a_hit_and_another_content_is_another_query() {
    let (cache, _) = cache();
    let (origin, seen) = echo();
    let app = origin.behind(&layer(&cache));
    for content in ["limit=1", "limit=2", ""] {
        let miss = query(&app, &[JSON], content).await;
        assert_eq!((miss.x_cache(), miss.status), ("MISS", StatusCode::OK));
        assert!(
            miss.text().ends_with(&format!("QUERY {content}")),
            "{}",
            miss.text()
        );
        let hit = query(&app, &[JSON], content).await;
        assert_eq!((hit.x_cache(), &hit.body), ("HIT", &miss.body));
    }
    assert_eq!(origin.calls(), 3);
    assert_eq!(*seen.lock().unwrap(), ["limit=1", "limit=2", ""]);
}

#[tokio::test]
async fn what_says_how_the_content_is_to_be_read_tells_queries_apart() {
    let rows: [&[(&str, &str)]; 5] = [
        &[JSON],
        &[],
        &[("content-type", "text/plain")],
        &[JSON, ("content-encoding", "identity")],
        &[JSON, ("content-language", "en")],
    ];
    let (cache, _) = cache();
    let (origin, _) = echo();
    let app = origin.behind(&layer(&cache));
    for (number, fields) in rows.into_iter().enumerate() {
        assert_eq!(
            query(&app, fields, "q").await.x_cache(),
            "MISS",
            "{fields:?}"
        );
        assert_eq!(
            query(&app, fields, "q").await.x_cache(),
            "HIT",
            "{fields:?}"
        );
        assert_eq!(origin.calls(), number + 1);
    }
}

#[tokio::test]
async fn a_query_and_a_get_do_not_answer_for_each_other() {
    let (cache, _) = cache();
    let (origin, _) = echo();
    let app = origin.behind(&layer(&cache));
    let queried = query(&app, &[], "").await;
    assert_eq!(queried.text(), "1 QUERY ");
    assert_eq!(get(&app, "/contacts").await.text(), "2 GET ");
    let head = send(&app, request("HEAD", "/contacts", &[])).await;
    assert_eq!((head.x_cache(), head.field("content-length")), ("HIT", "6"));
    assert_eq!(query(&app, &[], "").await.body, queried.body);
}

#[tokio::test]
async fn conditions_of_a_query_are_answered_from_the_store() {
    let (cache, _) = cache();
    let (origin, _) = echo();
    let app = origin.behind(&layer(&cache));
    let tag = query(&app, &[], "q").await.field("etag").to_owned();
    let known = query(&app, &[("if-none-match", &tag)], "q").await;
    assert_eq!(
        (known.status, known.x_cache()),
        (StatusCode::NOT_MODIFIED, "HIT")
    );
    let other = query(&app, &[("if-none-match", &tag)], "other").await;
    assert_eq!((other.status, other.x_cache()), (StatusCode::OK, "MISS"));
}

#[tokio::test]
async fn a_personal_query_is_nobodys_else() {
    let (cache, _) = cache();
    let (origin, _) = echo();
    let app = origin.behind(&layer(&cache));
    for call in 1..3 {
        let answer = query(&app, &[("cookie", "a=b")], "q").await;
        assert_eq!(answer.x_cache(), "BYPASS");
        assert_eq!(answer.text(), format!("{call} QUERY q"));
    }
    assert_eq!(query(&app, &[], "q").await.x_cache(), "MISS");
}

#[tokio::test]
async fn an_invalidation_of_the_resource_covers_its_queries() {
    let (cache, _) = cache();
    let (origin, _) = echo();
    let app = origin.behind(&layer(&cache));
    query(&app, &[], "a").await;
    query(&app, &[], "b").await;
    cache.invalidate(Selector::resource("test", "/contacts"));
    for content in ["a", "b"] {
        assert_eq!(query(&app, &[], content).await.x_cache(), "MISS");
    }
    // QUERY is safe: it invalidates nothing itself (RFC 9110, 9.2.1).
    assert_eq!(query(&app, &[], "a").await.x_cache(), "HIT");
}

#[tokio::test]
async fn a_query_is_passed_on_unread_where_it_cannot_be_a_key() {
    let (cache, _) = cache();
    let (origin, seen) = echo();
    let app = origin.behind(&layer(&cache));
    let long = "x".repeat(8 * 1024 + 1);
    for _ in 0..2 {
        let answer = query(&app, &[], long.clone()).await;
        assert_eq!(answer.x_cache(), "BYPASS");
        assert!(answer.cache_status().contains("request-body"));
    }
    assert_eq!(*seen.lock().unwrap(), [long.clone(), long]);
    // A key has other parts as well.
    let nearly = "x".repeat(8 * 1024 - 10);
    for _ in 0..2 {
        let answer = query(&app, &[], nearly.clone()).await;
        assert!(answer.cache_status().contains("key-too-long"), "{answer:?}");
        assert!(answer.text().ends_with(&nearly));
    }
    let streamed = Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("a")]));
    let answer = send(&app, request("QUERY", "/contacts", &[]).map(|_| streamed)).await;
    assert_eq!((answer.x_cache(), answer.text()), ("BYPASS", "5 QUERY a"));
}

/// Says that it has more than comes.
struct BreaksOff(bool);

impl http_body::Body for BreaksOff {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from("half")))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(8)
    }
}

#[tokio::test]
async fn a_query_that_breaks_off_reaches_nobody() {
    assert_eq!(BreaksOff(false).size_hint().exact(), Some(8));
    let (cache, _) = cache();
    let (origin, _) = echo();
    let app = origin.behind(&layer(&cache));
    let broken = request("QUERY", "/contacts", &[]).map(|_| Body::new(BreaksOff(false)));
    let answer = send(&app, broken).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!((origin.calls(), cache.stats().entries()), (0, 0));
}

/// Says that it has 8 bytes, and never ends.
struct Endless(Arc<AtomicUsize>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.0.fetch_add(1, Ordering::SeqCst) > 1000 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1024])))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(8)
    }
}

#[tokio::test]
async fn of_a_query_that_is_longer_than_it_says_no_more_is_read_than_a_key_may_have() {
    let (cache, _) = cache();
    let (origin, _) = echo();
    let app = origin.behind(&layer(&cache));
    let frames = Arc::new(AtomicUsize::new(0));
    let endless = Body::new(Endless(frames.clone()));
    let answer = send(&app, request("QUERY", "/contacts", &[]).map(|_| endless)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(frames.load(Ordering::SeqCst) < 10, "{frames:?}");
    assert_eq!((origin.calls(), cache.stats().entries()), (0, 0));
}

#[tokio::test]
async fn without_being_asked_for_queries_are_passed_on_untouched() {
    let (cache, _) = cache();
    let (origin, _) = echo();
    let layers = [
        ResponseCacheLayer::new(&cache),
        layer(&cache).methods([CacheableMethod::Get, CacheableMethod::Head]),
    ];
    for layer in layers {
        let app = origin.behind(&layer);
        let before = origin.calls();
        for _ in 0..2 {
            let answer = query(&app, &[], "q").await;
            assert_eq!((answer.x_cache(), answer.cache_status()), ("", ""));
        }
        assert_eq!(origin.calls(), before + 2);
    }
    // Another type of body than the layer gets: passed on, and said so.
    let app = origin.behind(&ResponseCacheLayer::new(&cache).query_content(|bytes| bytes));
    for _ in 0..2 {
        let answer = query(&app, &[], "q").await;
        assert_eq!(
            (answer.x_cache(), answer.status),
            ("BYPASS", StatusCode::OK)
        );
        assert!(answer.text().ends_with("QUERY q"), "{}", answer.text());
    }
}

#[tokio::test]
async fn only_the_chosen_methods_are_answered() {
    let (cache, _) = cache();
    let origin = Origin::new(|call, _| ready(Response::new(Body::from(call.to_string()))));
    let template = layer(&cache);
    let app = origin.behind(&template.clone().methods([CacheableMethod::Get]));
    assert_eq!(get(&app, "/").await.x_cache(), "MISS");
    assert_eq!(send(&app, request("HEAD", "/", &[])).await.x_cache(), "");
    assert_eq!(query(&app, &[], "q").await.x_cache(), "");
    assert_eq!(get(&app, "/").await.x_cache(), "HIT");
    let app = origin.behind(&template.methods([CacheableMethod::Query]));
    assert_eq!(get(&app, "/").await.x_cache(), "");
    for x_cache in ["MISS", "HIT"] {
        assert_eq!(query(&app, &[], "q").await.x_cache(), x_cache);
    }
}
