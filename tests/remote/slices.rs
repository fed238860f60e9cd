//! Bodies are copied out of what was read, the longest once they are served as slices of it: nothing keeps a
//! connection's buffer.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use tower_response_cache::ManualClock;

use crate::support::{Origin, fake_store::FakeStore, get_with, settle};

const SHORT: usize = 100_000;
const LONG: usize = 200_000;
const GERMAN: [(&str, &str); 1] = [("accept-language", "de")];

/// Answers with a body of some such length, that begins with the number of the call.
fn origin(length: usize, vary: &'static str) -> Origin {
    Origin::new(move |call, _| async move {
        let body = format!("{call} {}", "x".repeat(length));
        let response = Response::builder().header("cache-control", "public, max-age=60");
        response
            .header("vary", vary)
            .body(Body::from(body))
            .unwrap()
    })
}

/// Puts copies of all frames into the store, that nobody else has yet.
fn renewed(store: &FakeStore) {
    for (frame, _) in store.frames().values_mut() {
        *frame = Bytes::copy_from_slice(frame);
    }
}

fn is_let_go(store: &FakeStore) -> bool {
    let frames = store.frames();
    assert!(!frames.is_empty());
    frames.values().all(|(frame, _)| frame.is_unique())
}

#[tokio::test]
async fn a_long_body_from_the_store_lets_go_of_what_was_read() {
    for vary in ["accept", "accept-language"] {
        let (store, clock, origin) = (FakeStore::default(), ManualClock::new(), origin(LONG, vary));
        let (_, one) = store.node(&clock, &origin);
        let filled = get_with(&one, "/a", &GERMAN).await;
        settle().await;
        renewed(&store);
        let (cache, two) = store.node(&clock, &origin);
        let first = get_with(&two, "/a", &GERMAN).await;
        assert!(first.is_hit() && first.text() == filled.text(), "{vary}");
        drop(first);
        settle().await;
        assert!(is_let_go(&store), "{vary}");
        let reads = store.reads();
        let second = get_with(&two, "/a", &GERMAN).await;
        assert!(second.is_hit() && second.text() == filled.text(), "{vary}");
        assert_eq!(store.reads(), reads, "memory has it");
        assert_eq!((cache.stats().evictions(), origin.calls()), (0, 1));
    }
}

#[tokio::test]
async fn a_body_that_is_not_very_long_is_no_slice_of_what_was_read() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    for (path, length, is_slice) in [("/short", SHORT, false), ("/long", LONG, true)] {
        let origin = origin(length, "accept");
        let (_, one) = store.node(&clock, &origin);
        let filled = get_with(&one, path, &GERMAN).await;
        settle().await;
        renewed(&store);
        let (_, two) = store.node(&clock, &origin);
        let hit = get_with(&two, path, &GERMAN).await;
        assert!(hit.is_hit() && hit.text() == filled.text(), "{path}");
        // The response is still held, and nothing ran in the background.
        assert_eq!(is_let_go(&store), !is_slice, "{path}");
    }
}
