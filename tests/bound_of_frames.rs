//! That small frames take no more memory than is reserved for them: alone in its process, as the
//! process is measured, and a backtrace of another test would load 50 MB of symbols into it.

mod support;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use support::*;
use tokio::sync::Notify;
use tower::ServiceExt;
use tower_response_cache::{Reason, ResponseCacheLayer};

fn rss() -> usize {
    let s = std::fs::read_to_string("/proc/self/statm").unwrap();
    s.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn small_frames_take_no_more_room_than_is_reserved() {
    let (cache, _c) = cache();
    let gate = Arc::new(Notify::new());
    let origin = Origin::new({
        let gate = gate.clone();
        move |_, _| {
            let gate = gate.clone();
            async move {
                let first = stream::once(async {
                    tokio::task::yield_now().await;
                    Bytes::new()
                });
                let many = stream::iter(0..1_000_000).map(|_| Bytes::from(vec![b'x'; 1]));
                let last = stream::once(async move {
                    gate.notified().await;
                    Bytes::new()
                });
                Response::new(Body::from_stream(
                    first
                        .chain(many)
                        .chain(last)
                        .map(Ok::<_, std::convert::Infallible>),
                ))
            }
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let before = rss();
    let mut all = Vec::new();
    for n in 0..8 {
        all.push(
            app.clone()
                .oneshot(request("GET", &format!("/{n}"), &[]))
                .await
                .unwrap(),
        );
    }
    // Each byte comes in a frame that costs more than itself: none of the bodies finds room.
    eventually("read as far as there is room", || {
        let stats = cache.stats();
        assert!(stats.buffered_bytes() <= 16 << 20, "{stats}");
        stats.refusals(Reason::NoRoom) == 8
    })
    .await;
    let grown = rss() - before;
    assert!(grown < 64 << 20, "{grown} bytes for 16 MiB of room");
}
