//! Events, and what is invalidated after a commit.

use std::time::Duration;

use tokio::{sync::oneshot, time::advance};
use tower_response_cache::{Cache, Selector};

use crate::support::{in_memory, is_on_redis, settle};

struct UserUpdated(u64);
struct Nothing;

async fn is_there(cache: &Cache, key: &str) -> bool {
    cache.exists(key).await.unwrap()
}

async fn filled() -> Cache {
    let cache = in_memory();
    let values = ["user:1", "user:2", "list"].map(|key| (key, 1_u64));
    cache.set_many(values).tags(["all"]).await.unwrap();
    cache
}

#[tokio::test]
async fn an_event_invalidates_what_was_said_of_it_and_nothing_else() {
    let cache = filled().await;
    cache.on(|event: &UserUpdated| [Selector::values(&format!("user:{}", event.0))]);
    let before = cache.sequence();
    let done = cache.emit(&Nothing).await;
    assert_eq!(
        (done.sequence(), done.is_pending()),
        (before.number(), false)
    );
    assert_eq!(cache.sequence(), before, "nothing was said of it");
    let done = cache.emit(&UserUpdated(1)).await;
    // The store of the second pass has no log, and says so.
    assert_eq!(done.everywhere().await.is_ok(), !is_on_redis());
    assert!(!is_there(&cache, "user:1").await);
    assert!(is_there(&cache, "user:2").await && is_there(&cache, "list").await);

    // What is said later counts besides, and clones are the same cache.
    cache
        .clone()
        .on(|event: &UserUpdated| (event.0 > 1).then(|| Selector::values("list")));
    let done = cache.emit(&UserUpdated(2)).await;
    assert_eq!(done.sequence(), cache.sequence().number());
    assert!(!is_there(&cache, "user:2").await && !is_there(&cache, "list").await);
}

#[tokio::test]
async fn nothing_is_invalidated_before_a_commit_has_succeeded() {
    let cache = filled().await;
    let (commit, committed) = oneshot::channel();
    let after = tokio::spawn({
        let cache = cache.clone();
        async move { cache.after_commit(committed, [Selector::tag("all")]).await }
    });
    settle().await;
    assert!(is_there(&cache, "list").await);
    commit.send(7).unwrap();
    let (result, done) = after.await.unwrap().unwrap();
    assert_eq!((result, done.sequence()), (7, cache.sequence().number()));
    assert!(!is_there(&cache, "list").await);

    let cache = filled().await;
    let failing = async { Err::<(), _>("rolled back") };
    let failed = cache.after_commit(failing, [Selector::tag("all")]).await;
    assert_eq!(failed.unwrap_err(), "rolled back");
    assert!(is_there(&cache, "list").await);

    // Who is dropped does not know what the database has done.
    let (_commit, committed) = oneshot::channel::<u64>();
    let after = tokio::spawn({
        let cache = cache.clone();
        async move {
            cache
                .after_commit(committed, [Selector::tag("all")])
                .await
                .is_ok()
        }
    });
    settle().await;
    after.abort();
    assert!(after.await.is_err());
    assert!(!is_there(&cache, "list").await);
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_is_repeated_after_the_lag_of_replicas_or_when_the_cache_is_closed() {
    let lag = Duration::from_secs(2);
    // Memory alone: the time stands still.
    let cache = Cache::in_memory();
    let done = cache.invalidate(Selector::values("a")).again_after(lag);
    assert_eq!(done.sequence(), 1);
    // Read from a replica that had not heard of the change.
    cache.set("a", 1).await.unwrap();
    settle().await;
    advance(lag - Duration::from_millis(1)).await;
    settle().await;
    assert!(is_there(&cache, "a").await);
    advance(Duration::from_millis(1)).await;
    settle().await;
    assert!(!is_there(&cache, "a").await);

    cache.on(|_: &Nothing| [Selector::values("a"), Selector::values("b")]);
    cache.set_many([("a", 1), ("b", 1)]).await.unwrap();
    let done = cache.emit(&Nothing).await;
    drop(done.again_after(lag));
    cache.set_many([("a", 1), ("b", 1)]).await.unwrap();
    let begin = tokio::time::Instant::now();
    cache.close().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert!(!is_there(&cache, "a").await && !is_there(&cache, "b").await);

    // Nobody would do it later.
    let done = cache.emit(&Nothing).await;
    cache.set("a", 1).await.unwrap();
    drop(done.again_after(lag));
    settle().await;
    assert!(!is_there(&cache, "a").await, "closed already");
}
