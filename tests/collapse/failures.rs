//! What becomes of those who wait when the one call fails.

use std::{convert::Infallible, sync::Arc, time::Duration};

use crate::support::{
    self, cache,
    feed::{FeedBody, whole},
    inner::{Inner, Read, assert_idle, at_once, page, read},
    settle,
};
use axum::body::Body;
use http::{Response, StatusCode};
use tokio::{sync::Semaphore, task::JoinHandle, time::advance};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_response_cache::{Cache, ResponseCache, ResponseCacheLayer};

/// The inner service's own error.
#[derive(Debug, PartialEq, Eq)]
struct Away(usize);

type Fallible = ResponseCache<Inner<FeedBody, Away>>;

/// Asks in a task of its own; an error of the inner service comes back as it is.
async fn try_client(service: &Fallible) -> JoinHandle<Result<Read, Away>> {
    let service = service.clone();
    let task = tokio::spawn(async move { Ok(read(service.oneshot(page()).await?).await) });
    settle().await;
    task
}

/// Each call waits for a permit; then it fails if `fails` says so, else answers with its number.
fn failing(
    cache: &Cache,
    fails: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> (Arc<Semaphore>, Inner<FeedBody, Away>, Fallible) {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner = Inner::new(move |call, _| {
        let held = held.clone();
        let fails = fails(call);
        async move {
            held.acquire().await.unwrap().forget();
            if fails {
                Err(Away(call))
            } else {
                Ok(Response::new(whole(format!("call {call}"))))
            }
        }
    });
    let service = ResponseCacheLayer::new(cache).layer(inner.clone());
    (permits, inner, service)
}

// ---- Err ----

#[tokio::test(start_paused = true)]
async fn after_an_error_one_of_those_waiting_leads_again() {
    let (cache, _) = cache();
    let (permits, inner, service) = failing(&cache, |call| call == 1);
    let starter = try_client(&service).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(try_client(&service).await);
    }
    permits.add_permits(1);
    let error = at_once("the error", starter).await.unwrap().unwrap_err();
    assert_eq!(error, Away(1));
    settle().await;
    assert_eq!(inner.calls(), 2, "one leads, the others wait for it");
    permits.add_permits(20);
    for client in waiting {
        let answer = at_once("an answer", client).await.unwrap().unwrap();
        assert_eq!(answer.complete(), "call 2");
    }
    assert_eq!(inner.calls(), 2);
    assert_eq!(cache.stats().failed_fills(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn after_two_errors_all_still_waiting_run_alone_in_parallel() {
    let (cache, _) = cache();
    let (permits, inner, service) = failing(&cache, |call| call <= 2);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(try_client(&service).await);
    }
    permits.add_permits(1);
    settle().await;
    assert_eq!(inner.calls(), 2);
    permits.add_permits(1);
    settle().await;
    assert_eq!(
        inner.calls(),
        20,
        "the other 18 are held in the handler at once"
    );
    // For a second nobody collapses.
    let newcomers = [try_client(&service).await, try_client(&service).await];
    assert_eq!(inner.calls(), 22);
    permits.add_permits(20);
    let mut errors = 0;
    let mut bodies = Vec::new();
    for client in clients.into_iter().chain(newcomers) {
        match at_once("an answer", client).await.unwrap() {
            Ok(answer) => bodies.push(answer.complete().to_owned()),
            Err(error) => {
                assert!(error == Away(1) || error == Away(2));
                errors += 1;
            }
        }
    }
    assert_eq!(errors, 2);
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 20, "each its own");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_failed_twice_collapses_again_after_a_second() {
    let (cache, clock) = cache();
    let (permits, inner, service) = failing(&cache, |call| call <= 5);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(try_client(&service).await);
    }
    permits.add_permits(5);
    let mut errors = Vec::new();
    for client in clients {
        let Away(call) = at_once("an error", client).await.unwrap().unwrap_err();
        errors.push(call);
    }
    errors.sort_unstable();
    assert_eq!(errors, [1, 2, 3, 4, 5], "each its own");
    assert_eq!(inner.calls(), 5);
    clock.advance(Duration::from_millis(1100));
    advance(Duration::from_millis(1100)).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(try_client(&service).await);
    }
    assert_eq!(inner.calls(), 6);
    permits.add_permits(1);
    for client in clients {
        let answer = at_once("an answer", client).await.unwrap().unwrap();
        assert_eq!(answer.complete(), "call 6");
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_is_not_stored_nor_shared() {
    let (cache, _) = cache();
    let (permits, inner, service) = failing(&cache, |call| call == 1);
    permits.add_permits(2);
    let error = service.clone().oneshot(page()).await.err();
    assert_eq!(error, Some(Away(1)));
    let next = read(service.clone().oneshot(page()).await.unwrap()).await;
    assert_eq!((next.field("x-cache"), next.complete()), ("MISS", "call 2"));
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_after_its_starter_left_lets_one_of_those_waiting_lead() {
    let (cache, _) = cache();
    let (permits, inner, service) = failing(&cache, |call| call == 1);
    let starter = try_client(&service).await;
    let waiting = [try_client(&service).await, try_client(&service).await];
    starter.abort();
    settle().await;
    permits.add_permits(3);
    for client in waiting {
        let answer = at_once("an answer", client).await.unwrap().unwrap();
        assert_eq!(answer.complete(), "call 2");
    }
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

// ---- panic ----

/// A page whose call panics if `panics` says so, with `CatchPanic` outside.
fn panicking(
    cache: &Cache,
    panics: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> (Arc<Semaphore>, Inner, support::App) {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |call, _| {
        let held = held.clone();
        let panics = panics(call);
        async move {
            held.acquire().await.unwrap().forget();
            assert!(!panics, "the handler's own words");
            Ok(Response::new(whole(format!("call {call}"))))
        }
    });
    let app = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        .layer(CatchPanicLayer::custom(
            |error: Box<dyn std::any::Any + Send>| {
                let words = error.downcast_ref::<&str>().expect("words");
                let mut response = Response::new(Body::from((*words).to_owned()));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            },
        ))
        .layer(ResponseCacheLayer::new(cache))
        .service(inner.clone());
    (permits, inner, support::App::new(app))
}

async fn app_client(app: &support::App) -> JoinHandle<(u16, String)> {
    let app = app.clone();
    let task = tokio::spawn(async move {
        let answer = support::send(&app, page()).await;
        (answer.status.as_u16(), answer.text().to_owned())
    });
    settle().await;
    task
}

#[tokio::test(start_paused = true)]
async fn a_panic_reaches_catch_panic_and_one_of_those_waiting_leads_again() {
    let (cache, _) = cache();
    let (permits, inner, app) = panicking(&cache, |call| call == 1);
    let starter = app_client(&app).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(app_client(&app).await);
    }
    assert_eq!(inner.calls(), 1);
    permits.add_permits(1);
    let (status, words) = at_once("the panic", starter).await.unwrap();
    assert_eq!((status, &*words), (500, "the handler's own words"));
    settle().await;
    assert_eq!(inner.calls(), 2);
    permits.add_permits(20);
    for client in waiting {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer, (200, "call 2".to_owned()));
    }
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_always_panics_fails_everybody_and_leaves_nothing_behind() {
    let (cache, _) = cache();
    let (permits, inner, app) = panicking(&cache, |_| true);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(app_client(&app).await);
    }
    permits.add_permits(20);
    for client in clients {
        let (status, words) = at_once("a panic", client).await.unwrap();
        assert_eq!((status, &*words), (500, "the handler's own words"));
    }
    assert_eq!(inner.calls(), 20);
    assert_eq!(cache.stats().stored(), 0);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_after_its_starter_left_lets_one_of_those_waiting_lead() {
    let (cache, _) = cache();
    let (permits, inner, app) = panicking(&cache, |call| call == 1);
    let starter = app_client(&app).await;
    let waiting = [app_client(&app).await, app_client(&app).await];
    starter.abort();
    settle().await;
    permits.add_permits(3);
    for client in waiting {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer, (200, "call 2".to_owned()));
    }
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_or_that_nobody_polls_any_more_is_a_failed_fill() {
    let (cache, _) = cache();
    let (permits, inner, app) = panicking(&cache, |call| call == 1);
    permits.add_permits(1);
    let panicked = app.clone().oneshot(page()).await.unwrap();
    assert_eq!(panicked.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(cache.stats().failed_fills(), 1);

    let service = ResponseCacheLayer::new(&cache).detach(false).layer(inner);
    let left = tokio::spawn(service.clone().oneshot(page()));
    settle().await;
    assert_eq!(cache.stats().fills(), 2);
    left.abort();
    settle().await;
    assert_eq!(cache.stats().failed_fills(), 2);

    permits.add_permits(1);
    let answered = read(service.oneshot(page()).await.unwrap()).await;
    assert_eq!(answered.complete(), "call 3");
    assert_eq!(
        (cache.stats().fills(), cache.stats().failed_fills()),
        (3, 2)
    );
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_call_itself_reaches_catch_panic_too() {
    let (cache, _) = cache();
    let inner: Inner = Inner::new(|call, _| {
        assert!(call > 1, "the handler's own words");
        async move { Ok(Response::new(whole(format!("call {call}")))) }
    });
    let app = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        .layer(CatchPanicLayer::new())
        .layer(ResponseCacheLayer::new(&cache))
        .service(inner.clone());
    let app = support::App::new(app);
    assert_eq!(support::send(&app, page()).await.status, 500);
    assert_eq!(support::send(&app, page()).await.text(), "call 2");
    assert_idle(&cache).await;
}

/// A body that panics when it is read.
struct Panicking;

impl http_body::Body for Panicking {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
        panic!("the body's own words")
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_is_no_clean_end_and_leaves_nothing_behind() {
    use http_body_util::BodyExt;

    let (cache, _) = cache();
    let inner: Inner<Panicking> = Inner::new(|_, _| async { Ok(Response::new(Panicking)) });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    for call in 1..=2 {
        let service = service.clone();
        let client = tokio::spawn(async move {
            let response = service.oneshot(page()).await.unwrap();
            response.into_body().collect().await.is_ok()
        });
        // A panic, as without us, or an error.
        let ended_well = at_once("an end", client).await.unwrap_or(false);
        assert!(!ended_well);
        assert_eq!(inner.calls(), call);
    }
    assert_eq!(cache.stats().stored(), 0);
    assert_idle(&cache).await;
}
