//! S7: data is read, changed and invalidated in any order of moments; no later request gets what was read
//! before.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use axum::body::Body;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_response_cache::{Cache, CachePolicy, ResponseCacheLayer, Selector, Sequence, Tags};

use crate::support::{
    App, Origin, in_memory, request,
    scripted::{in_frames, response},
};

const ROUNDS: usize = 10_000;
const PATHS: usize = 40;

/// A number below `bound`, by a counter: no two rounds have the same timing.
fn below(bound: usize) -> usize {
    static STATE: AtomicU64 = AtomicU64::new(24);
    let mut state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((state ^ state >> 31) % bound as u64) as usize
}

async fn pause() {
    for _ in 0..below(6) {
        tokio::task::yield_now().await;
    }
}

/// A page each, with its version as body, read at some moment of its call.
fn pages(versions: Arc<[AtomicU64]>) -> Origin {
    Origin::new(move |_, request| {
        let versions = versions.clone();
        async move {
            let path = request.uri().path().to_owned();
            let number: usize = path["/p/".len()..].parse().expect("a number");
            pause().await;
            let version = versions[number].load(Ordering::SeqCst).to_string();
            pause().await;
            let group = format!("\"group of {number}\"");
            let body = match below(3) {
                0 => Body::from(version),
                1 => in_frames(vec![Ok(version.into())]),
                _ => in_frames(version.bytes().map(|byte| Ok(vec![byte].into())).collect()),
            };
            let mut response = response(200, &[("cache-groups", &group)], body);
            response
                .extensions_mut()
                .insert(Tags::new([format!("page {number}")]));
            response
        }
    })
}

async fn version_at(app: &App, number: usize) -> (u64, bool) {
    let asked = request("GET", &format!("/p/{number}"), &[]);
    let response = app.clone().oneshot(asked).await.expect("infallible");
    let status = response.headers()["cache-status"].to_str().unwrap();
    let is_shared = status.contains("; hit") || status.contains("collapsed");
    let body = response.into_body().collect().await.expect("a whole body");
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    (text.parse().expect("a version"), is_shared)
}

fn selector(kind: usize, number: usize) -> Selector {
    match kind % 8 {
        0 => Selector::tag(format!("page {number}")),
        1 => Selector::tag(format!("group of {number}")),
        2 => Selector::resource("test", &format!("/p/{number}")),
        3 => Selector::path(&format!("/p/{number}")),
        4 => Selector::path(&format!("*/{number}")),
        5 => Selector::path_prefix(&format!("/p/{number}")),
        6 => Selector::tag(format!("page {number}")).soft(),
        _ => Selector::all(),
    }
}

async fn rounds(cache: Cache, app: App, versions: Arc<[AtomicU64]>) -> (usize, usize) {
    let (next, hits) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = Vec::new();
    for worker in 0..4 {
        let (cache, app, versions) = (cache.clone(), app.clone(), versions.clone());
        let (next, hits) = (next.clone(), hits.clone());
        workers.push(tokio::spawn(async move {
            loop {
                let round = next.fetch_add(1, Ordering::SeqCst);
                if round >= ROUNDS {
                    return;
                }
                // A page of its own, so that it knows its versions; the other pages are invalidated
                // meanwhile.
                let number = worker + 4 * (round % (PATHS / 4));
                let early = tokio::spawn({
                    let app = app.clone();
                    async move { version_at(&app, number).await }
                });
                pause().await;
                let version = versions[number].fetch_add(1, Ordering::SeqCst) + 1;
                cache.invalidate(selector(round, number));
                for _ in 0..3 {
                    let (seen, is_shared) = version_at(&app, number).await;
                    assert_eq!(
                        seen,
                        version,
                        "round {round}, {:?}",
                        selector(round, number)
                    );
                    hits.fetch_add(usize::from(is_shared), Ordering::SeqCst);
                }
                let (early, _) = early.await.expect("answered");
                assert!(early == version || early + 1 == version);
                let (seen, _) = version_at(&app, number).await;
                assert_eq!(seen, version, "round {round}, after the older fill ended");
            }
        }));
    }
    for worker in workers {
        worker.await.expect("every round holds");
    }
    (
        hits.load(Ordering::SeqCst),
        cache.stats().flights() as usize,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_round_serves_what_was_read_before_an_invalidation() {
    let versions: Arc<[AtomicU64]> = (0..PATHS).map(|_| AtomicU64::new(0)).collect();
    let cache = in_memory();
    let app = pages(versions.clone()).behind(&ResponseCacheLayer::new(&cache));
    let (shared, flights) = rounds(cache.clone(), app, versions).await;
    assert!(shared > ROUNDS, "it is a cache: {shared}");
    assert_eq!(flights, 0);
    assert_eq!(cache.stats().invalidations(), ROUNDS as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_round_shares_what_was_made_from_something_older() {
    // The handler keeps what it has read, for as long as it likes, and says when it was read.
    let version = Arc::new(AtomicU64::new(0));
    let cache = in_memory();
    let kept: Arc<Mutex<(Sequence, u64)>> = Arc::default();
    let origin = {
        let (version, cache) = (version.clone(), cache.clone());
        Origin::new(move |_, _| {
            let (version, cache, kept) = (version.clone(), cache.clone(), kept.clone());
            async move {
                pause().await;
                if below(2) == 0 {
                    let sequence = cache.sequence();
                    let read = version.load(Ordering::SeqCst);
                    *kept.lock().unwrap() = (sequence, read);
                }
                let (sequence, read) = *kept.lock().unwrap();
                pause().await;
                let mut response = response(200, &[], read.to_string());
                let policy = CachePolicy::new().tag("t").read_at(sequence);
                response.extensions_mut().insert(policy);
                response
            }
        })
    };
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let mut shared = 0;
    for round in 0..ROUNDS / 4 {
        let early = tokio::spawn({
            let app = app.clone();
            async move { version_at(&app, 0).await }
        });
        pause().await;
        let now = version.fetch_add(1, Ordering::SeqCst) + 1;
        let selector = match round % 3 {
            0 => Selector::tag("t"),
            1 => Selector::path("/p/*"),
            _ => Selector::all(),
        };
        cache.invalidate(selector);
        for _ in 0..4 {
            let (seen, is_shared) = version_at(&app, 0).await;
            // What its own call brings is what the handler had; what is shared is never that old.
            assert!(
                seen == now || !is_shared,
                "round {round}: {seen}, not {now}"
            );
            shared += usize::from(is_shared);
        }
        early.await.expect("answered");
    }
    assert!(shared > ROUNDS / 8, "it is a cache: {shared}");
}
