//! A refresh in the background where another node may have refreshed already.

use std::time::Duration;

use http::Response;
use tower_response_cache::{Cache, ManualClock, ResponseCacheLayer};

use crate::support::{App, Origin, fake_store::FakeStore, get, scripted::response, settle};

const SECOND: Duration = Duration::from_secs(1);

/// A cache in front of the store, whose responses are fresh for ten seconds and then stale for 100.
fn node(store: &FakeStore, clock: &ManualClock, origin: &Origin) -> App {
    let builder = Cache::builder().store(store.clone()).clock(clock.clone());
    let layer = ResponseCacheLayer::new(builder.build().unwrap())
        .ttl(10 * SECOND)
        .stale_while_revalidate(100 * SECOND)
        .jitter(0.0);
    origin.behind(&layer)
}

async fn seen(app: &App) -> (String, String) {
    let answer = get(app, "/a").await;
    let seen = (answer.x_cache().to_owned(), answer.text().to_owned());
    settle().await;
    seen
}

fn says(x_cache: &str, text: &str) -> (String, String) {
    (x_cache.to_owned(), text.to_owned())
}

#[tokio::test]
async fn a_refresh_that_finds_what_another_node_has_obtained_has_not_failed() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let origin = Origin::new(|call, _| async move {
        match call {
            1 | 2 => Response::new(call.to_string().into()),
            _ => response(503, &[], ""),
        }
    });
    let (one, other) = (node(&store, &clock, &origin), node(&store, &clock, &origin));
    assert_eq!(seen(&one).await, says("MISS", "1"));
    assert_eq!(seen(&other).await, says("HIT", "1"));
    clock.advance(10 * SECOND);
    for app in [&one, &other] {
        assert_eq!(seen(app).await, says("STALE", "1"));
        assert_eq!(seen(app).await, says("HIT", "2"));
    }
    assert_eq!(origin.calls(), 2, "one of them has called");
    clock.advance(10 * SECOND);
    // From now on it fails; the pause after a first failure is one second.
    for calls in [3, 4] {
        assert_eq!(seen(&other).await, says("STALE", "2"));
        assert_eq!(origin.calls(), calls);
        assert_eq!(seen(&other).await, says("STALE", "2"));
        assert_eq!(origin.calls(), calls, "not at once again");
        clock.advance(SECOND);
    }
}
