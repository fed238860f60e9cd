//! S5: what those who wait see of a body that is being made.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    sync::Barrier,
    task::JoinHandle,
    time::{Instant, advance},
};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_response_cache::{Reason, ResponseCacheLayer};

use super::crowd::{Service, crowd, outcomes};
use crate::support::{
    App, Origin, cache,
    feed::{feed, whole},
    inner::{End, Inner, ask, assert_idle, at_once, page, soon},
    request,
    scripted::{broken, frame, head_of},
    send, settle,
};

const CROWD: usize = 100;
const PIECE: &str = "a piece of the page. ";

/// A page whose handler meets its clients at a barrier in the middle of the body.
fn meeting(barrier: &Arc<Barrier>, is_declared: bool) -> Origin {
    let barrier = barrier.clone();
    Origin::new(move |call, _| {
        let barrier = barrier.clone();
        async move {
            let frames = futures_util::stream::iter(0..2).then(move |n| {
                let barrier = barrier.clone();
                async move {
                    if n == 1 && call == 1 {
                        barrier.wait().await;
                    }
                    Ok::<_, Infallible>(Bytes::from(PIECE))
                }
            });
            let mut response = Response::new(Body::from_stream(frames));
            if is_declared {
                let length = 2 * PIECE.len();
                response
                    .headers_mut()
                    .insert("content-length", length.into());
            }
            response
        }
    })
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_have_the_first_byte_while_the_handler_is_held_in_mid_body() {
    // Nobody comes by it who has not read the first byte: the starter, a hundred others, and the handler.
    let barrier = Arc::new(Barrier::new(1 + CROWD + 1));
    let (cache, _) = cache();
    let origin = meeting(&barrier, true);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let clients: Vec<JoinHandle<()>> = (0..=CROWD)
        .map(|_| {
            let (app, barrier) = (app.clone(), barrier.clone());
            tokio::spawn(async move {
                let mut body = head_of(&app, "/page").await.into_body();
                assert_eq!(frame(&mut body).await.unwrap(), PIECE);
                barrier.wait().await;
                assert_eq!(body.collect().await.unwrap().to_bytes(), PIECE);
            })
        })
        .collect();
    for client in clients {
        at_once("an answer", client).await.unwrap();
    }
    assert_eq!(origin.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn with_an_unknown_length_a_hundred_go_on_alone_after_250_ms_and_the_fill_goes_on() {
    let barrier = Arc::new(Barrier::new(2));
    let (cache, _) = cache();
    let origin = meeting(&barrier, false);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let mut starter = head_of(&app, "/page").await.into_body();
    assert_eq!(frame(&mut starter).await.unwrap(), PIECE);
    let begin = Instant::now();
    let clients: Vec<JoinHandle<usize>> = (0..CROWD)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { send(&app, page()).await.body.len() })
        })
        .collect();
    settle().await;
    advance(Duration::from_millis(249)).await;
    settle().await;
    assert_eq!(origin.calls(), 1);
    for client in clients {
        assert_eq!(soon("an answer", client).await.unwrap(), 2 * PIECE.len());
    }
    let waited = begin.elapsed();
    assert!((250..=252).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(origin.calls(), 1 + CROWD);
    barrier.wait().await;
    assert_eq!(
        at_once("the rest", starter.collect())
            .await
            .unwrap()
            .to_bytes(),
        PIECE
    );
    assert!(send(&app, page()).await.is_hit());
    assert_idle(&cache).await;
}

/// Asks for a compressed page and reads it to its end; says whether that was clean.
fn compressed(app: &App) -> JoinHandle<bool> {
    let app = app.clone();
    let request: Request<Body> = request("GET", "/page", &[("accept-encoding", "gzip")]);
    tokio::spawn(async move {
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], "gzip");
        response.into_body().collect().await.is_ok()
    })
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_midway_is_an_error_for_a_hundred_readers_also_behind_compression() {
    // Of a declared length all read along; of an unknown one, and with one beyond the limit, the starter does.
    for (declared, limit, readers) in [
        (Some(4_000), 1 << 20, CROWD),
        (None, 1 << 20, 0),
        (None, 100, 0),
    ] {
        for is_compressed in [true, false] {
            let row = format!("declared {declared:?}, limit {limit}, compressed {is_compressed}");
            let (cache, _) = cache();
            let (hand, body) = feed(declared);
            let first = std::sync::Mutex::new(Some(body));
            let inner: Inner = Inner::new(move |_, _| {
                let body = first.lock().unwrap().take();
                let mut response = Response::new(body.unwrap_or_else(|| whole("x".repeat(4_000))));
                let text = "text/plain".parse().unwrap();
                response.headers_mut().insert("content-type", text);
                std::future::ready(Ok(response))
            });
            let service: Service = ResponseCacheLayer::new(&cache)
                .max_body_size(limit)
                .layer(inner.clone());
            if is_compressed {
                let compressing = ServiceBuilder::new()
                    .map_response(|response: Response<_>| response.map(Body::new))
                    .layer(CompressionLayer::new())
                    .service(service);
                let app = App::new(compressing);
                let starter = compressed(&app);
                settle().await;
                let others: Vec<_> = (0..CROWD).map(|_| compressed(&app)).collect();
                settle().await;
                hand.data("x".repeat(2_000));
                settle().await;
                hand.fail("the disk is gone");
                drop(hand);
                assert!(!at_once("an end", starter).await.unwrap(), "{row}");
                let mut failed = 0;
                for other in others {
                    failed += usize::from(!at_once("an end", other).await.unwrap());
                }
                assert_eq!(failed, readers, "{row}");
            } else {
                let mut visits = crowd(&service, 1).await;
                visits.extend(crowd(&service, CROWD).await);
                hand.data("x".repeat(2_000));
                settle().await;
                hand.fail("the disk is gone");
                drop(hand);
                let mut failed = Vec::new();
                for outcome in outcomes(visits).await {
                    let read = outcome.unwrap().unwrap();
                    match read.end {
                        End::Clean => assert_eq!(read.body.len(), 4_000, "{row}"),
                        end => failed.push((end, read.body.len())),
                    }
                }
                assert_eq!(failed.len(), 1 + readers, "{row}: {failed:?}");
                let own = failed
                    .iter()
                    .filter(|(end, _)| matches!(end, End::Inner(_)));
                assert_eq!(own.count(), 1, "{row}: one has the error itself");
            }
            assert_idle(&cache).await;
        }
    }
    // What else breaks a body of an application is no clean end either.
    let (cache, _) = cache();
    let origin = Origin::new(|_, _| {
        let frames = vec![Ok(Bytes::from(PIECE)), broken()];
        std::future::ready(Response::new(crate::support::scripted::in_frames(frames)))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    assert!(
        head_of(&app, "/page")
            .await
            .into_body()
            .collect()
            .await
            .is_err()
    );
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_starter_of_a_body_over_the_limit_is_not_buffered_for_and_holds_nobody_up() {
    let (cache, _) = cache();
    let (hand, body) = feed(None);
    let first = std::sync::Mutex::new(Some(body));
    let inner: Inner = Inner::new(move |call, _| {
        let body = first.lock().unwrap().take();
        let body = body.unwrap_or_else(|| whole(format!("call {call}")));
        std::future::ready(Ok(Response::new(body)))
    });
    let service: Service = ResponseCacheLayer::new(&cache)
        .max_body_size(1_000)
        .layer(inner.clone());
    let starter = ask(&service, page()).await;
    let visits = crowd(&service, CROWD).await;
    for _ in 0..1_000 {
        hand.data(vec![b'x'; 100]);
    }
    settle().await;
    for outcome in outcomes(visits).await {
        assert!(outcome.unwrap().unwrap().complete().starts_with("call "));
    }
    // Nobody reads: not much more than the limit was taken from the handler.
    let taken = hand.taken();
    assert!((10..=13).contains(&taken), "{taken} frames");
    assert!(cache.stats().buffered_bytes() < 2_000, "{}", cache.stats());
    assert_eq!(cache.stats().flights(), 0);
    assert!(cache.stats().refusals(Reason::BodyTooLarge) >= 1);
    // Who reads at last has all of it, frame by frame.
    let mut body = starter.into_body();
    let mut read = 0;
    while read < 50_000 {
        read += crate::support::inner::next(&mut body).await.len();
        let ahead = hand.taken() * 100 - read;
        assert!(ahead <= 1_300, "{ahead} bytes ahead of its reader");
    }
    drop(hand);
    read += at_once("the rest", body.collect())
        .await
        .unwrap()
        .to_bytes()
        .len();
    assert_eq!(read, 100_000);
    assert_idle(&cache).await;
}
