//! Bugs seen elsewhere, each with a test: streams, slow bodies, and clients that leave midway.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use crate::support::{
    self, Origin, app, cache, eventually, get,
    scripted::{broken, by_hand, frame, head_of, response},
    settle,
};
use axum::{
    Router,
    body::Body,
    response::sse::{Event, Sse},
    routing::get as route_get,
};
use futures_util::Stream;
use http_body_util::BodyExt;
use tower::util::BoxCloneSyncService;
use tower_response_cache::ResponseCacheLayer;

type Events = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;

#[tokio::test(start_paused = true)]
async fn the_head_of_an_event_stream_comes_before_its_first_event() {
    let (events, source) = tokio::sync::broadcast::channel::<String>(16);
    drop(source);
    let stream = events.clone();
    let router = Router::new().route(
        "/",
        route_get(move || {
            let mine = stream.subscribe();
            let events: Events = Box::pin(futures_util::stream::unfold(mine, |mut mine| async {
                let text = mine.recv().await.ok()?;
                Some((Ok(Event::default().data(text)), mine))
            }));
            std::future::ready(Sse::new(events))
        }),
    );
    let (cache, _clock) = cache();
    let app = app(
        &ResponseCacheLayer::new(&cache),
        BoxCloneSyncService::new(router),
    );
    // Both heads are here before any event; neither client waits for the other.
    let now = tokio::time::Instant::now();
    let mut first = head_of(&app, "/").await;
    let mut second = head_of(&app, "/").await;
    assert_eq!(now.elapsed(), Duration::ZERO);
    assert_eq!(first.headers()["content-type"], "text/event-stream");
    assert!(
        first.headers()["cache-status"]
            .to_str()
            .unwrap()
            .ends_with("detail=stream")
    );
    for text in ["one", "two"] {
        events.send(text.to_owned()).unwrap();
        for client in [&mut first, &mut second] {
            let event = frame(client.body_mut()).await.unwrap();
            assert_eq!(event, format!("data: {text}\n\n"));
        }
    }
    assert_eq!(events.receiver_count(), 2);
    drop(first);
    settle().await;
    assert_eq!(
        events.receiver_count(),
        1,
        "a stream ends when its client goes"
    );
    drop(second);
    settle().await;
    assert_eq!(events.receiver_count(), 0);
    assert_eq!(cache.stats().entries(), 0);
    assert_eq!(cache.stats().flights(), 0);
}

/// An origin that hands out one hand-made body, and the hand.
fn one_body(
    fields: &'static [(&'static str, &'static str)],
) -> (
    tokio::sync::mpsc::UnboundedSender<support::scripted::Frame>,
    Origin,
) {
    let (hand, body) = by_hand();
    let body = Mutex::new(Some(body));
    let origin = Origin::new(move |call, _| {
        let body = body.lock().unwrap().take();
        let body = body.unwrap_or_else(|| Body::from(format!("call {call}")));
        std::future::ready(response(200, fields, body))
    });
    (hand, origin)
}

#[tokio::test(start_paused = true)]
async fn the_head_and_the_first_bytes_of_a_slow_body_come_at_once() {
    for fields in [
        &[][..],
        &[("content-length", "15")],
        &[("cache-control", "no-store")],
        &[
            ("cache-control", "private"),
            ("content-type", "application/x-ndjson"),
        ],
    ] {
        let (hand, origin) = one_body(fields);
        let (cache, _clock) = cache();
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let now = tokio::time::Instant::now();
        let mut answer = head_of(&app, "/").await;
        hand.send(Ok("hello".into())).unwrap();
        assert_eq!(
            frame(answer.body_mut()).await.unwrap(),
            "hello",
            "{fields:?}"
        );
        hand.send(Ok("again".into())).unwrap();
        assert_eq!(frame(answer.body_mut()).await.unwrap(), "again");
        assert_eq!(now.elapsed(), Duration::ZERO);
        hand.send(Ok("-last".into())).unwrap();
        drop(hand);
        assert_eq!(frame(answer.body_mut()).await.unwrap(), "-last");
        assert_eq!(frame(answer.body_mut()).await, None);
    }
}

#[tokio::test]
async fn an_abandoned_fill_goes_on_and_stores_the_whole_body() {
    for fields in [&[][..], &[("content-length", "10")]] {
        let (hand, origin) = one_body(fields);
        let (cache, _clock) = cache();
        let app = origin.behind(&ResponseCacheLayer::new(&cache).detach(true));
        let mut answer = head_of(&app, "/").await;
        hand.send(Ok("first".into())).unwrap();
        assert_eq!(frame(answer.body_mut()).await.unwrap(), "first");
        drop(answer);
        settle().await;
        assert_eq!(cache.stats().entries(), 0, "nothing partial");
        hand.send(Ok("-last".into())).expect("somebody reads on");
        drop(hand);
        eventually("stored", || cache.stats().entries() == 1).await;
        let second = get(&app, "/").await;
        assert!(second.is_hit(), "{fields:?}");
        assert_eq!(second.text(), "first-last");
        assert_eq!(origin.calls(), 1);
    }
}

#[tokio::test]
async fn an_abandoned_fill_that_must_not_go_on_stores_nothing() {
    for fields in [&[][..], &[("content-length", "10")]] {
        let (hand, origin) = one_body(fields);
        let (cache, _clock) = cache();
        let app = origin.behind(&ResponseCacheLayer::new(&cache).detach(false));
        let mut answer = head_of(&app, "/").await;
        hand.send(Ok("first".into())).unwrap();
        assert_eq!(frame(answer.body_mut()).await.unwrap(), "first");
        drop(answer);
        eventually("the body is dropped as without a cache", || {
            hand.is_closed()
        })
        .await;
        settle().await;
        assert_eq!(cache.stats().entries(), 0);
        assert_eq!(cache.stats().flights(), 0);
        assert_eq!(cache.stats().buffered_bytes(), 0);
    }
    let (hand, origin) = one_body(&[]);
    let (cache, _clock) = cache();
    let app = origin.behind(&ResponseCacheLayer::new(&cache).detach(false));
    drop(head_of(&app, "/").await);
    eventually("the body is dropped as without a cache", || {
        hand.is_closed()
    })
    .await;
    let second = get(&app, "/").await;
    assert_eq!((second.is_hit(), second.text()), (false, "call 2"));
    assert_eq!(get(&app, "/").await.text(), "call 2");
}

#[tokio::test]
async fn a_reader_of_an_abandoned_fill_still_gets_the_whole_body() {
    for detach in [true, false] {
        let (hand, origin) = one_body(&[("content-length", "10")]);
        let (cache, _clock) = cache();
        let app = origin.behind(&ResponseCacheLayer::new(&cache).detach(detach));
        let mut starter = head_of(&app, "/").await;
        hand.send(Ok("first".into())).unwrap();
        assert_eq!(frame(starter.body_mut()).await.unwrap(), "first");
        let joined = tokio::spawn({
            let app = app.clone();
            async move { get(&app, "/").await }
        });
        settle().await;
        assert_eq!(origin.calls(), 1);
        drop(starter);
        settle().await;
        hand.send(Ok("-last".into())).expect("somebody reads on");
        drop(hand);
        assert_eq!(
            joined.await.unwrap().text(),
            "first-last",
            "detach({detach})"
        );
        assert_eq!(origin.calls(), 1);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_in_an_error_for_everybody_who_reads_it() {
    let (hand, origin) = one_body(&[("content-length", "10")]);
    let (cache, _clock) = cache();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let mut starter = head_of(&app, "/").await;
    let mut joined = head_of(&app, "/").await;
    assert_eq!(origin.calls(), 1);
    hand.send(Ok("first".into())).unwrap();
    for answer in [&mut starter, &mut joined] {
        assert_eq!(frame(answer.body_mut()).await.unwrap(), "first");
    }
    hand.send(broken()).unwrap();
    for answer in [&mut starter, &mut joined] {
        let end = answer.body_mut().frame().await;
        assert!(end.expect("no clean end").is_err());
    }
    assert_eq!(cache.stats().entries(), 0);
}

/// All of the declared bytes are there; what the origin does after them is no matter of the
/// client's.
#[tokio::test(start_paused = true)]
async fn the_last_bytes_of_a_declared_body_do_not_wait_for_an_origin_that_lingers() {
    let (hand, origin) = one_body(&[("content-length", "10")]);
    let (cache, _clock) = cache();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let mut answer = head_of(&app, "/").await;
    hand.send(Ok("first".into())).unwrap();
    assert_eq!(frame(answer.body_mut()).await.unwrap(), "first");
    let now = tokio::time::Instant::now();
    hand.send(Ok("-last".into())).unwrap();
    assert_eq!(frame(answer.body_mut()).await.unwrap(), "-last");
    // The length of a fill is 30 seconds; a client that can see its end must not wait for it.
    assert!(
        now.elapsed() < Duration::from_secs(30),
        "{:?}",
        now.elapsed()
    );
}
