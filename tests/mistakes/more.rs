//! More mistakes that were made on the way here, and ugly ends that leave nothing behind.
use crate::support::*;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::Response;
use http_body_util::BodyExt;
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tower::{ServiceExt, util::BoxCloneSyncService};
use tower_response_cache::*;

#[tokio::test]
async fn an_inner_layer_sees_the_reduced_request_of_the_outer_one_each_time() {
    let (cache, _c) = cache();
    let origin = Origin::with_fields(&[]);
    let inner = origin.behind(&ResponseCacheLayer::new(&cache));
    let app = app(
        &ResponseCacheLayer::new(&cache).query(Query::ignore(["utm_*"])),
        inner,
    );
    assert_eq!(get(&app, "/?utm_a=1").await.text(), "1 GET /");
    let second = get(&app, "/?utm_a=2").await;
    assert_eq!((second.x_cache(), second.text()), ("HIT", "1 GET /"));
}

#[tokio::test]
async fn what_stands_between_two_layers_is_not_jumped_over() {
    let (cache, _c) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let inner = Origin::with_fields(&[]).behind(&layer);
    let guard = BoxCloneSyncService::new(tower::service_fn(move |request: http::Request<Body>| {
        let inner = inner.clone();
        async move {
            if request.headers().contains_key("x-sso-user") {
                return inner.oneshot(request).await;
            }
            let mut r = Response::new(Body::from("forbidden"));
            *r.status_mut() = http::StatusCode::FORBIDDEN;
            Ok(r)
        }
    }));
    let app = app(&layer, guard);
    assert_eq!(get(&app, "/").await.status, 403);
    assert_eq!(
        get_with(&app, "/", &[("x-sso-user", "alice")]).await.status,
        200
    );
    let anonymous = get(&app, "/").await;
    assert_eq!(
        anonymous.status,
        403,
        "{} {}",
        anonymous.x_cache(),
        anonymous.text()
    );
}

#[tokio::test]
async fn panics_leave_nothing_behind() {
    let (cache, _c) = cache();
    let where_ = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new({
        let w = where_.clone();
        move |_, _| {
            let w = w.load(Ordering::SeqCst);
            async move {
                if w == 1 {
                    panic!("handler")
                }
                tokio::task::yield_now().await;
                if w == 2 {
                    panic!("handler later")
                }
                let parts = stream::once(async move {
                    if w == 3 {
                        panic!("first frame")
                    }
                    Bytes::from("a")
                })
                .chain(stream::once(async move {
                    tokio::task::yield_now().await;
                    if w == 4 {
                        panic!("second frame")
                    }
                    Bytes::from("b")
                }));
                Response::new(Body::from_stream(
                    parts.map(Ok::<_, std::convert::Infallible>),
                ))
            }
        }
    });
    let (w1, w2, w3) = (where_.clone(), where_.clone(), where_.clone());
    let layer = ResponseCacheLayer::new(&cache)
        .bypass_when(move |_| {
            assert_ne!(w1.load(Ordering::SeqCst), 5);
            false
        })
        .store_when(move |_| {
            assert_ne!(w2.load(Ordering::SeqCst), 6);
            true
        })
        .partition_by("p", move |_| {
            assert_ne!(w3.load(Ordering::SeqCst), 7);
            Some("x".into())
        });
    let app = origin.behind(&layer);
    for w in 1..=7 {
        where_.store(w, Ordering::SeqCst);
        let asks = (0..20).map(|_| {
            let app = app.clone();
            AssertUnwindSafe(async move {
                let r = app
                    .oneshot(request("GET", &format!("/{w}"), &[]))
                    .await
                    .unwrap();
                r.into_body()
                    .collect()
                    .await
                    .map(|b| b.to_bytes())
                    .map_err(|_| ())
            })
            .catch_unwind()
        });
        let all =
            tokio::time::timeout(Duration::from_secs(4), futures_util::future::join_all(asks))
                .await
                .expect("no hang");
        assert!(all.iter().all(|a| !matches!(a, Ok(Ok(_)))), "{w}: {all:?}");
        settle().await;
        let s = cache.stats();
        assert_eq!(
            (s.flights(), s.buffered_bytes(), s.entries()),
            (0, 0, 0),
            "{w}"
        );
        where_.store(0, Ordering::SeqCst);
        assert_eq!(get(&app, &format!("/{w}")).await.text(), "ab");
        cache.set_enabled(false);
        cache.set_enabled(true);
    }
}

#[test]
fn a_runtime_that_goes_away_ends_its_fills() {
    let (cache, _c) = cache();
    let origin = Origin::new(|call, _| async move {
        if call == 1 {
            std::future::pending::<()>().await;
        }
        let open =
            stream::once(std::future::ready(Bytes::from("a"))).chain(stream::once(async move {
                if call == 2 {
                    std::future::pending::<()>().await;
                }
                Bytes::from("b")
            }));
        Response::new(Body::from_stream(
            open.map(Ok::<_, std::convert::Infallible>),
        ))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let new = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let one = new();
    let client = app.clone();
    let task = one.spawn(async move { get(&client, "/head").await });
    // Not until there is a flight: that may still be asking Redis, and then the next request would
    // be the first call.
    while origin.calls() == 0 {
        std::thread::yield_now();
    }
    task.abort();
    let mut body = one
        .block_on(app.clone().oneshot(request("GET", "/body", &[])))
        .unwrap()
        .into_body();
    one.shutdown_timeout(Duration::from_secs(1));
    let two = new();
    two.block_on(async {
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "a"
        );
        let rest = tokio::time::timeout(Duration::from_secs(2), body.frame())
            .await
            .expect("no hang");
        assert!(rest.unwrap().is_err());
        assert_eq!(get(&app, "/head").await.text(), "ab");
        assert_eq!(get(&app, "/body").await.text(), "ab");
    });
    assert_eq!(
        (cache.stats().flights(), cache.stats().buffered_bytes()),
        (0, 0)
    );
}

#[tokio::test]
async fn only_if_cached_is_answered_by_the_layer_that_has_it() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let origin = Origin::with_fields(&[]);
    let app = app(&layer, origin.behind(&layer));
    let only = [("cache-control", "only-if-cached")];
    assert_eq!(get_with(&app, "/", &only).await.status, 504);
    get(&app, "/").await;
    let answer = get_with(&app, "/", &only).await;
    assert_eq!((answer.status.as_u16(), answer.x_cache()), (200, "HIT"));
    assert_eq!(origin.calls(), 1);
}
