//! S1: a storm before what is not there costs one call for each thing that is wanted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Response, StatusCode};
use tokio::{sync::Semaphore, task::yield_now};
use tower::Layer;
use tower_response_cache::ResponseCacheLayer;

use super::crowd::{answers, crowd, crowd_of};
use crate::support::{
    self, cache,
    feed::whole,
    inner::{Inner, ask, assert_idle, held, page, read},
    request, settle,
};

const CODINGS: [&str; 4] = ["gzip", "br", "zstd", "identity"];

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_for_one_cold_key_cost_one_call() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let visits = crowd(&service, 10_000).await;
    assert_eq!((inner.calls(), cache.stats().flights()), (1, 1));
    // Enough for all, should they want it.
    permits.add_permits(10_000);
    for answer in answers(visits).await {
        assert_eq!(answer.head.status, StatusCode::OK);
        assert_eq!(answer.complete(), "call 1: GET /page");
    }
    assert_eq!(inner.calls(), 1);
    assert_eq!(cache.stats().collapsed(), 9_999);
    assert_idle(&cache).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_requests_on_several_threads_cost_one_call() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let asking = Arc::<AtomicUsize>::default();
    let clients: Vec<_> = (0..10_000)
        .map(|_| {
            let (service, asking) = (service.clone(), asking.clone());
            tokio::spawn(async move {
                asking.fetch_add(1, Ordering::SeqCst);
                read(ask(&service, page()).await).await
            })
        })
        .collect();
    // Some come before it ends, some after, and some just then.
    support::eventually("half of them ask", || {
        asking.load(Ordering::SeqCst) >= 5_000
    })
    .await;
    permits.add_permits(10_000);
    for client in clients {
        let answer = client.await.unwrap();
        assert_eq!(answer.head.status, StatusCode::OK);
        assert_eq!(answer.complete(), "call 1: GET /page");
    }
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

/// A service that counts the calls for each path, and takes some turns for each.
fn counting() -> (Arc<Mutex<HashMap<String, usize>>>, Inner) {
    let calls = Arc::<Mutex<HashMap<String, usize>>>::default();
    let counted = calls.clone();
    let inner = Inner::new(move |_, request| {
        let path = request.uri().path().to_owned();
        *counted.lock().unwrap().entry(path.clone()).or_default() += 1;
        async move {
            for _ in 0..3 {
                yield_now().await;
            }
            Ok(Response::new(whole(path)))
        }
    });
    (calls, inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_keys_that_expire_at_once_cost_at_most_one_fill_each() {
    const KEYS: usize = 1_000;
    // Those who find it stale wait for the fill, or are answered while it runs.
    for window in [0, 60] {
        let (cache, clock) = cache();
        let (calls, inner) = counting();
        let service = ResponseCacheLayer::new(&cache)
            .ttl(Duration::from_secs(10))
            .jitter(0.0)
            .stale_while_revalidate(Duration::from_secs(window))
            .layer(inner);
        for key in 0..KEYS {
            let path = format!("/{key}");
            read(ask(&service, request("GET", &path, &[])).await).await;
        }
        // Less than a minute: after that a remote store is asked for the time, which has not moved.
        clock.advance(Duration::from_secs(11));
        calls.lock().unwrap().clear();
        let clients: Vec<_> = (0..64)
            .map(|client| {
                let service = service.clone();
                tokio::spawn(async move {
                    for step in 0..KEYS {
                        // Half of them go through the keys together, the others each in an order of its own.
                        let offset = if client % 2 == 0 { 0 } else { client * 13 };
                        let path = format!("/{}", (step + offset) % KEYS);
                        let answer = read(ask(&service, request("GET", &path, &[])).await).await;
                        assert_eq!(answer.complete(), path);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        support::eventually("all is over", || cache.stats().flights() == 0).await;
        let calls = std::mem::take(&mut *calls.lock().unwrap());
        assert_eq!(calls.len(), KEYS, "each was made anew; window {window}");
        let most = calls.values().max();
        assert_eq!(most, Some(&1), "window {window}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_over_four_encodings_cost_at_most_five_calls() {
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |_, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let coding = request.headers()["accept-encoding"].clone();
            Ok(Response::builder()
                .header("vary", "Accept-Encoding")
                .header("content-encoding", &coding)
                .body(whole(format!("for {}", coding.to_str().unwrap())))
                .unwrap())
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let ask_for = |n: usize| request("GET", "/page", &[("accept-encoding", CODINGS[n % 4])]);
    let visits = crowd_of(&service, 1_000, ask_for).await;
    assert_eq!(inner.calls(), 1, "nobody knows yet that it varies");
    permits.add_permits(1);
    settle().await;
    // Those with another value have regrouped, and wait for one flight of each.
    let stats = cache.stats();
    let at_once = inner.calls() - 1;
    assert!((3..=4).contains(&at_once), "{at_once} calls; {stats}");
    assert_eq!(stats.flights(), at_once as u64, "{stats}");
    permits.add_permits(1_000);
    for (n, answer) in answers(visits).await.into_iter().enumerate() {
        assert_eq!(answer.field("content-encoding"), CODINGS[n % 4]);
        assert_eq!(answer.complete(), format!("for {}", CODINGS[n % 4]));
    }
    assert!(inner.calls() <= 5, "{} calls", inner.calls());
    assert_idle(&cache).await;
}
