//! Mistakes that were made on the way here, found late.

use crate::support::{
    self, Origin, cache,
    fake_store::FakeStore,
    feed::{Feed, feed},
    get, get_with,
    inner::{End, Inner, ask, client, held, next, page, read},
    request, settle,
};
use axum::body::Body;
use http::{Request, Response};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tower::Layer;
use tower_response_cache::{Cache, ResponseCacheLayer};

fn cookie_origin() -> Origin {
    Origin::new(|_, request: Request<Body>| async move {
        let who = request
            .headers()
            .get("cookie")
            .map_or("nobody".to_owned(), |c| c.to_str().unwrap().to_owned());
        tokio::time::sleep(Duration::from_millis(10)).await; // of paused time
        Response::builder()
            .header("cache-control", "public, max-age=60")
            .header("vary", "Cookie")
            .body(Body::from(format!("for {who}")))
            .unwrap()
    })
}

#[tokio::test(start_paused = true)]
async fn vary_cookie_still_holds_for_people_with_other_cookies() {
    let (cache, _) = cache();
    let app = cookie_origin().behind(&ResponseCacheLayer::new(&cache).ignore_cookies(["_ga"]));
    assert_eq!(get(&app, "/").await.text(), "for nobody");
    let alice = get_with(&app, "/", &[("cookie", "session=alice")]).await;
    assert_eq!(alice.text(), "for session=alice", "{alice:?}");
}

#[tokio::test(start_paused = true)]
async fn vary_cookie_still_holds_for_people_who_wait() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache).vary_on_cookie("lang");
    let app = cookie_origin().behind(&layer);
    // Learn the mark.
    get_with(&app, "/", &[("cookie", "session=bob")]).await;
    cache.invalidate(tower_response_cache::Selector::all());
    let a = app.clone();
    let anon = tokio::spawn(async move { get(&a, "/").await });
    settle().await;
    let alice = get_with(&app, "/", &[("cookie", "session=alice")]).await;
    assert_eq!(anon.await.unwrap().text(), "for nobody");
    assert_eq!(alice.text(), "for session=alice", "{alice:?}");
}

fn fed(status: u16, length: impl Into<Option<u64>>) -> (Arc<Mutex<Vec<Feed>>>, Inner) {
    let feeds = Arc::new(Mutex::new(Vec::new()));
    let give = feeds.clone();
    let length = length.into();
    let inner: Inner = Inner::new(move |_, _| {
        let (f, body) = feed(length);
        give.lock().unwrap().push(f);
        let mut r = Response::new(body);
        *r.status_mut() = http::StatusCode::from_u16(status).unwrap();
        async move { Ok(r) }
    });
    (feeds, inner)
}

#[tokio::test(start_paused = true)]
async fn those_who_stream_along_are_not_cut_off_for_want_of_64_bytes() {
    let cache = support::builder().memory(64 << 10).build().unwrap(); // 16 KiB for bodies under way
    let (feeds, inner) = fed(200, 8_000);
    let service = ResponseCacheLayer::new(&cache).layer(inner);
    let starter = ask(&service, page()).await;
    let waiter = ask(&service, page()).await;
    let begun = client(&service, request("GET", "/other", &[])).await;
    println!("buffered {}", cache.stats().buffered_bytes());
    {
        let f = feeds.lock().unwrap().remove(0);
        for _ in 0..80 {
            f.data(vec![b'x'; 100]);
        }
    }
    let (s, w) = tokio::join!(read(starter), read(waiter));
    feeds.lock().unwrap()[0].data(vec![b'y'; 8_000]);
    let _ = begun.await;
    assert_eq!(s.end, End::Clean);
    assert_eq!((w.body.len(), w.end), (8_000, End::Clean));
}

#[test]
fn without_timers_the_last_frame_is_handed_out_all_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let cache = support::in_memory();
    let (feeds, inner) = fed(200, 4);
    let service = ResponseCacheLayer::new(&cache).layer(inner);
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let answer = ask(&service, page()).await;
            feeds.lock().unwrap()[0].data("full");
            let mut body = answer.into_body();
            let frame = next(&mut body).await;
            done.send(frame).unwrap();
        })
    });
    let got = finished.recv_timeout(Duration::from_secs(3));
    assert_eq!(got.expect("the frame, as without a cache"), "full");
}

#[tokio::test(start_paused = true)]
async fn an_unstorable_body_is_not_read_on_for_nobody() {
    let (cache, _) = cache();
    let (feeds, inner) = fed(500, 1000);
    let service = ResponseCacheLayer::new(&cache).layer(inner);
    let answer = ask(&service, page()).await;
    settle().await;
    drop(answer);
    settle().await;
    assert!(
        feeds.lock().unwrap()[0].is_gone(),
        "read on, though it is never stored and nobody can join"
    );
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_the_body_of_a_fill_without_its_client() {
    let (cache, _) = cache();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let g = gate.clone();
    let feeds: Arc<Mutex<Vec<Feed>>> = Arc::default();
    let give = feeds.clone();
    let inner: Inner = Inner::new(move |_, _| {
        let (g, give) = (g.clone(), give.clone());
        async move {
            g.acquire().await.unwrap().forget();
            let (f, body) = feed(4);
            give.lock().unwrap().push(f);
            Ok(Response::new(body))
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner);
    let c = client(&service, page()).await;
    c.abort();
    settle().await;
    let closing = cache.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    settle().await;
    assert!(!closing.is_finished());
    gate.add_permits(1);
    settle().await;
    feeds.lock().unwrap()[0].data("full");
    closing.await.unwrap();
    settle().await;
    assert_eq!(
        cache.stats().stored(),
        1,
        "closed waited for the head and then cut the body"
    );
}

#[tokio::test]
async fn endless_entries_are_read_back_from_the_store() {
    let store = FakeStore::default();
    for expected in ["MISS", "HIT"] {
        let cache = Cache::builder().store(store.clone()).build().unwrap();
        let app =
            Origin::with_fields(&[]).behind(&ResponseCacheLayer::new(&cache).ttl(Duration::MAX));
        let answer = get(&app, "/").await;
        assert_eq!(answer.x_cache(), expected);
        settle().await;
        assert_eq!(store.frames().len(), 1);
    }
}

#[test]
fn a_runtime_without_timers_takes_none_from_the_next_on_its_thread() {
    for with_time in [false, true] {
        let mut b = tokio::runtime::Builder::new_current_thread();
        if with_time {
            b.enable_all().start_paused(true);
        }
        let runtime = b.build().unwrap();
        runtime.block_on(async {
            let (cache, _) = cache();
            let (permits, inner, service) =
                held(ResponseCacheLayer::new(&cache).wait_timeout(Duration::from_millis(50)));
            let a = client(&service, page()).await;
            let b = client(&service, page()).await;
            if with_time {
                tokio::time::sleep(Duration::from_millis(500)).await; // of paused time
                assert_eq!(inner.calls(), 2, "the second waits no longer than 50 ms");
            }
            permits.add_permits(2);
            a.await.unwrap();
            b.await.unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nobody_joins_what_is_being_given_up() {
    let mut bad = 0;
    // Each with a cache of its own; with Redis each has connections of its own as well.
    let rounds = if support::is_on_redis() { 200 } else { 20_000 };
    for _ in 0..rounds {
        let (feeds, inner) = fed(200, 8);
        let cache = support::in_memory();
        let service = ResponseCacheLayer::new(&cache).detach(false).layer(inner);
        let first = ask(&service, page()).await;
        let s = service.clone();
        let fe = feeds.clone();
        let second = tokio::spawn(async move {
            let a = ask(&s, page()).await;
            for f in fe.lock().unwrap().drain(..) {
                f.data("complete");
            }
            read(a).await
        });
        let dropper = tokio::spawn(async move { drop(first) });
        dropper.await.unwrap();
        if second.await.unwrap().end != End::Clean {
            bad += 1;
        }
    }
    assert_eq!(bad, 0, "answers that broke off, of {rounds}");
}
