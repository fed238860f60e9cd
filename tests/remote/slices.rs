//! Bodies are copied out of what was read: nothing keeps a connection's buffer.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use tower_response_cache::ManualClock;

use crate::support::{Origin, fake_store::FakeStore, get_with, settle};

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
async fn a_body_from_the_store_keeps_nothing_of_what_was_read() {
    for (length, vary) in [
        (1, "accept"),
        (100_000, "accept-language"),
        (1_000_000, "accept"),
    ] {
        let (store, clock, origin) = (
            FakeStore::default(),
            ManualClock::new(),
            origin(length, vary),
        );
        let (_, one) = store.node(&clock, &origin);
        let filled = get_with(&one, "/a", &GERMAN).await;
        settle().await;
        renewed(&store);
        let (_, two) = store.node(&clock, &origin);
        let first = get_with(&two, "/a", &GERMAN).await;
        assert!(first.is_hit() && first.text() == filled.text(), "{vary}");
        // The response is still held, and nothing ran in the background.
        assert!(is_let_go(&store), "{length} {vary}");
        let reads = store.reads();
        let second = get_with(&two, "/a", &GERMAN).await;
        assert!(second.is_hit() && second.text() == filled.text(), "{vary}");
        assert_eq!((store.reads(), origin.calls()), (reads, 1), "memory has it");
    }
}
