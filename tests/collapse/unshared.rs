//! What becomes of those who wait when the one answer may not be stored or shared.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::support::{
    cache,
    feed::whole,
    inner::{Inner, Read, Shared, ask, assert_idle, at_once, client, page, read},
};
use http::{Response, StatusCode};
use tokio::sync::{Barrier, Semaphore};
use tower::Layer;
use tower_response_cache::{Cache, Reason, ResponseCacheLayer};

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_an_uncacheable_page_and_the_next_wave_run_in_parallel() {
    #[rustfmt::skip]
    let rows = [
        ("cache-control", "private", Reason::Private),
        ("cache-control", "no-store", Reason::NoStore),
        ("set-cookie", "session=1", Reason::SetCookie),
        ("vary", "*", Reason::VaryAny),
    ];
    for (name, value, reason) in rows {
        let (cache, _) = cache();
        let permits = Arc::new(Semaphore::new(0));
        let held = permits.clone();
        // After the first call none goes on before 19 are there.
        let together = Arc::new(Barrier::new(19));
        let second_wave = Arc::new(Barrier::new(20));
        let inner: Inner = Inner::new(move |call, _| {
            let (held, together) = (held.clone(), together.clone());
            let second_wave = second_wave.clone();
            async move {
                match call {
                    1 => held.acquire().await.unwrap().forget(),
                    2..=20 => _ = together.wait().await,
                    _ => _ = second_wave.wait().await,
                }
                Ok(Response::builder()
                    .header(name, value)
                    .header("x-call", call)
                    .body(whole(format!("call {call}")))
                    .unwrap())
            }
        });
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(client(&service, page()).await);
        }
        assert_eq!(inner.calls(), 1, "before the head nobody knows");
        permits.add_permits(1);
        for wave in 1..=2 {
            let mut seen = Vec::new();
            for client in clients.drain(..) {
                let answer = at_once("an answer", client).await.unwrap();
                assert_eq!(
                    answer.complete(),
                    format!("call {}", answer.field("x-call"))
                );
                assert_eq!(answer.field(name), value);
                seen.push(answer.text().to_owned());
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 20, "{value}: each its own, wave {wave}");
            assert_eq!(inner.calls(), 20 * wave);
            assert_eq!(cache.stats().refusals(reason), 20 * wave as u64, "{value}");
            if wave == 1 {
                for _ in 0..20 {
                    clients.push(client(&service, page()).await);
                }
            }
        }
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_storable_head_lifts_the_mark_of_an_uncacheable_page() {
    let (cache, clock) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let is_private = Arc::new(AtomicBool::new(true));
    let private = is_private.clone();
    let inner: Inner = Inner::new(move |call, _| {
        let (held, private) = (held.clone(), private.clone());
        async move {
            held.acquire().await.unwrap().forget();
            let mut response = Response::new(whole(format!("call {call}")));
            let control = if private.load(Ordering::SeqCst) {
                "private"
            } else {
                "max-age=10"
            };
            response
                .headers_mut()
                .insert("cache-control", control.parse().unwrap());
            Ok(response)
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    permits.add_permits(1);
    assert_eq!(read(ask(&service, page()).await).await.complete(), "call 1");
    is_private.store(false, Ordering::SeqCst);
    // The first that may be stored says so, and the next is.
    permits.add_permits(1);
    let first = read(ask(&service, page()).await).await;
    assert_eq!(first.complete(), "call 2");
    assert_eq!(
        first.field("cache-status"),
        "tower-response-cache; fwd=uri-miss; fwd-status=200"
    );
    let clients = [
        client(&service, page()).await,
        client(&service, page()).await,
    ];
    assert_eq!(inner.calls(), 3, "they wait for one");
    permits.add_permits(1);
    for client in clients {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), "call 3");
    }
    let hit = read(ask(&service, page()).await).await;
    assert_eq!((hit.field("x-cache"), hit.complete()), ("HIT", "call 3"));

    // And cold again, they wait for one.
    clock.advance(Duration::from_secs(11));
    let clients = [
        client(&service, page()).await,
        client(&service, page()).await,
        client(&service, page()).await,
    ];
    assert_eq!(inner.calls(), 4);
    permits.add_permits(1);
    for client in clients {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), "call 4");
    }
    assert_idle(&cache).await;
}

/// The answers to five who ask at once, of which the first starts: status, the fields given, and
/// `call N`.
async fn answered_together(
    status: u16,
    fields: &'static [(&'static str, &'static str)],
) -> (Cache, Inner, Shared, Vec<Read>) {
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |call, _| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let mut response = Response::new(whole(format!("call {call}")));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in fields {
                response.headers_mut().append(*name, value.parse().unwrap());
            }
            Ok(response)
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(client(&service, page()).await);
    }
    assert_eq!(inner.calls(), 1);
    permits.add_permits(100);
    let mut answers = Vec::new();
    for client in clients {
        answers.push(at_once("an answer", client).await.unwrap());
    }
    (cache, inner, service, answers)
}

#[tokio::test(start_paused = true)]
async fn a_5xx_is_shared_with_those_already_waiting_and_never_stored() {
    for status in [500, 502, 503] {
        let (cache, inner, service, answers) =
            answered_together(status, &[("retry-after", "1")]).await;
        for answer in answers {
            assert_eq!(answer.head.status, status);
            assert_eq!(answer.complete(), "call 1");
            assert_eq!(answer.field("retry-after"), "1");
        }
        assert_eq!(inner.calls(), 1);
        let next = read(ask(&service, page()).await).await;
        assert_eq!((next.field("x-cache"), next.complete()), ("MISS", "call 2"));
        assert_eq!(cache.stats().stored(), 0);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_5xx_is_not_shared_when_it_is_somebodys_own() {
    const ROWS: [&[(&str, &str)]; 4] = [
        &[("set-cookie", "session=1")],
        &[("cache-control", "private")],
        &[("cache-control", "no-store")],
        &[("vary", "*")],
    ];
    for fields in ROWS {
        let (cache, inner, _, answers) = answered_together(500, fields).await;
        let mut seen: Vec<_> = answers.iter().map(|answer| answer.complete()).collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            ["call 1", "call 2", "call 3", "call 4", "call 5"],
            "{fields:?}"
        );
        assert_eq!(inner.calls(), 5);
        assert_eq!(cache.stats().stored(), 0);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_5xx_is_not_remembered_as_uncacheable() {
    let (cache, _) = cache();
    let (permits, inner, service) = {
        let permits = Arc::new(Semaphore::new(1));
        let held = permits.clone();
        let inner: Inner = Inner::new(move |call, _| {
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                let mut response = Response::new(whole(format!("call {call}")));
                if call == 1 {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                Ok(response)
            }
        });
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        (permits, inner, service)
    };
    assert_eq!(read(ask(&service, page()).await).await.complete(), "call 1");
    let clients = [
        client(&service, page()).await,
        client(&service, page()).await,
    ];
    assert_eq!(inner.calls(), 2, "they wait for one");
    permits.add_permits(1);
    for client in clients {
        assert_eq!(
            at_once("an answer", client).await.unwrap().complete(),
            "call 2"
        );
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_cookie_or_a_page_of_ones_own_reaches_nobody_else() {
    const ROWS: [(u16, &[(&str, &str)]); 5] = [
        (200, &[("set-cookie", "session=1")]),
        (
            200,
            &[
                ("cache-control", "public, max-age=60"),
                ("set-cookie", "session=1"),
            ],
        ),
        (200, &[("cache-control", "private, max-age=60")]),
        (400, &[("cache-control", "public, max-age=60")]),
        (401, &[("www-authenticate", "Basic")]),
    ];
    for (status, fields) in ROWS {
        let (cache, _, _, answers) = answered_together(status, fields).await;
        let mut seen: Vec<_> = answers.iter().map(|answer| answer.complete()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 5, "{status} {fields:?}");
        assert_eq!(cache.stats().stored(), 0);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_store_without_set_cookie_only_the_starter_gets_its_cookie() {
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |call, _| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            Ok(Response::builder()
                .header("set-cookie", format!("session={call}"))
                .body(whole(format!("call {call}")))
                .unwrap())
        }
    });
    let service = ResponseCacheLayer::new(&cache)
        .store_without_set_cookie()
        .layer(inner.clone());
    let starter = client(&service, page()).await;
    let follower = client(&service, page()).await;
    permits.add_permits(1);
    let starter = at_once("an answer", starter).await.unwrap();
    let follower = at_once("an answer", follower).await.unwrap();
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(starter.field("set-cookie"), "session=1");
    assert_eq!(
        (follower.field("set-cookie"), follower.complete()),
        ("", "call 1")
    );
    assert_eq!((hit.field("set-cookie"), hit.complete()), ("", "call 1"));
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}
