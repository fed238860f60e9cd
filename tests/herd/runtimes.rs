//! A runtime that goes down takes nobody of another one with it.

use std::{sync::Arc, thread};

use axum::body::Body;
use http::{Request, Response};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, oneshot},
};
use tower::{Layer, ServiceExt};
use tower_response_cache::ResponseCacheLayer;

use super::crowd::{Alive, Service, answers, crowd, outcomes, visit};
use crate::support::{
    self, cache,
    feed::{Feed, feed, whole},
    inner::{End, Inner, ask, assert_idle, at_once, page, read},
    settle,
};

const CROWD: usize = 20;

fn another() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Ends it while those here are not polled.
fn shut_down(runtime: Runtime) {
    thread::spawn(move || drop(runtime))
        .join()
        .expect("it ends");
}

/// The first call waits for ever, the others answer at once.
fn hanging() -> (Alive, Inner) {
    let running = Alive::default();
    let alive = running.clone();
    let inner = Inner::new(move |call, _: Request<Body>| {
        let one = alive.one();
        async move {
            let _one = one;
            if call == 1 {
                std::future::pending::<()>().await;
            }
            Ok(Response::new(whole(format!("call {call}"))))
        }
    });
    (running, inner)
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_down_with_its_starter_leaves_the_lead_to_one_of_those_on_another() {
    for leaves in [false, true] {
        let (cache, _) = cache();
        let (running, inner) = hanging();
        let service: Service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        let elsewhere = another();
        let starting = service.clone();
        let starter = elsewhere.spawn(async move {
            let _ = starting.oneshot(page()).await;
        });
        support::eventually("it is called", || inner.calls() == 1).await;
        if leaves {
            // Its call goes on in the background there.
            starter.abort();
            support::eventually("it has left", || starter.is_finished()).await;
        }
        let visits = crowd(&service, CROWD).await;
        assert_eq!(inner.calls(), 1, "they wait");
        shut_down(elsewhere);
        for answer in answers(visits).await {
            assert_eq!(answer.complete(), "call 2", "left: {leaves}");
        }
        assert_eq!((inner.calls(), running.count()), (2, 0), "left: {leaves}");
        assert_idle(&cache).await;
    }
}

/// A body in the hands of the test, of a starter that waits elsewhere with its head.
async fn streaming_elsewhere(
    declared: Option<u64>,
) -> (Runtime, Feed, Inner, Service, tower_response_cache::Cache) {
    let (cache, _) = cache();
    let (hand, body) = feed(declared);
    let bodies = std::sync::Mutex::new(Some(body));
    let inner: Inner = Inner::new(move |call, _| {
        let body = bodies.lock().unwrap().take();
        let body = body.unwrap_or_else(|| whole(format!("call {call}")));
        std::future::ready(Ok(Response::new(body)))
    });
    let service: Service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let elsewhere = another();
    let (tell, told) = oneshot::channel();
    let starting = service.clone();
    elsewhere.spawn(async move {
        let response = ask(&starting, page()).await;
        let _ = tell.send(());
        read(response).await
    });
    // No pause here: the time stands still only while somebody could run.
    let mut told = told;
    support::eventually("the head is there", || told.try_recv().is_ok()).await;
    hand.data("first");
    support::eventually("it is read", || hand.taken() == 1).await;
    (elsewhere, hand, inner, service, cache)
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_down_in_the_body_ends_it_for_its_readers_elsewhere() {
    let (elsewhere, _hand, inner, service, cache) = streaming_elsewhere(Some(10)).await;
    let visits = crowd(&service, CROWD).await;
    shut_down(elsewhere);
    for outcome in outcomes(visits).await {
        let read = outcome.unwrap().unwrap();
        // They have the beginning: what cannot be finished is no clean end.
        assert_eq!((read.text(), &read.end), ("first", &End::Incomplete));
    }
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
    let next = at_once("an answer", visit(&service, page())).await.unwrap();
    assert_eq!(next.unwrap().complete(), "call 2");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_down_in_the_body_lets_those_who_wait_for_its_end_call_again() {
    let (elsewhere, _hand, inner, service, cache) = streaming_elsewhere(None).await;
    let visits = crowd(&service, CROWD).await;
    assert_eq!(inner.calls(), 1);
    shut_down(elsewhere);
    for answer in answers(visits).await {
        assert_eq!(answer.complete(), "call 2");
    }
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_cache_goes_on_in_the_next_runtime() {
    // The timers and tasks of the first are gone; what it stored is not, and the bounds hold.
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |call, _: Request<Body>| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            Ok(Response::new(whole(format!("call {call}"))))
        }
    });
    let service: Service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let elsewhere = another();
    let first = service.clone();
    let abandoned = elsewhere.spawn(async move { first.oneshot(page()).await.is_ok() });
    support::eventually("it is called", || inner.calls() == 1).await;
    abandoned.abort();
    shut_down(elsewhere);
    assert_idle(&cache).await;
    let visits = crowd(&service, CROWD).await;
    assert_eq!(inner.calls(), 2);
    visits[0].abort();
    settle().await;
    permits.add_permits(1);
    for answer in answers(visits.into_iter().skip(1).collect()).await {
        assert_eq!(answer.complete(), "call 2");
    }
    assert_idle(&cache).await;
}
