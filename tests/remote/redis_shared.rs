//! Keys that share a name in Redis, and many who want what only Redis has.

use std::{sync::Arc, time::Duration};

use crate::support::{
    App, Origin, eventually,
    load::{ask, body_of, origin},
    redis_server::RedisServer,
};
use tokio::{sync::Barrier, task::JoinSet};
use tower_response_cache::{Cache, CacheBuilder, FrameFault, ResponseCacheLayer};

fn node(builder: CacheBuilder) -> (Cache, Origin, App) {
    let cache = builder.build().expect("good settings");
    let origin = origin();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    (cache, origin, app)
}

async fn until_written(cache: &Cache, writes: u64) {
    eventually("it is written", || {
        cache.stats().remote().writes() >= writes
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls_whose_names_collide_keep_their_own_bodies() {
    const ALTERNATIONS: u64 = 1_000;
    let server = RedisServer::start();
    let builder = || {
        Cache::redis(server.url(), "colliding")
            .redis_digest(|_| [0; 16])
            .memory_ttl(Duration::ZERO)
    };
    let (first, _, app) = node(builder());
    let (second, _, other) = node(builder());
    first.connect().await.unwrap();
    second.connect().await.unwrap();
    for turn in 1..=ALTERNATIONS {
        let (here, there) = match turn % 2 {
            0 => ("/page?user=ann", "/page?user=bob"),
            _ => ("/page?user=bob", "/page?user=ann"),
        };
        ask(&app, here).await;
        // So that another node finds the wrong one in the place, and at times the right one.
        if turn % 4 < 2 {
            ask(&other, there).await;
        }
        ask(&other, here).await;
        // What is not written yet would be answered from memory.
        for cache in [&first, &second] {
            let is_written = || cache.stats().remote().outbox_bytes() == 0;
            eventually("it is written", is_written).await;
        }
    }
    assert_eq!(server.keys("colliding*").len(), 1, "they collide");
    for cache in [&first, &second] {
        let stats = cache.stats();
        let collisions = stats.remote().refused_frames(FrameFault::OtherKey);
        assert!(collisions > ALTERNATIONS / 10, "{stats}");
        assert!(stats.remote().hits() > 0, "{stats}");
        assert!(cache.health().is_good(), "{}", cache.health());
        cache.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_want_what_only_redis_has_are_one_read() {
    const REQUESTS: usize = 1_000;
    let server = RedisServer::start();
    let builder = || Cache::redis(server.url(), "shared");
    let (writer, ..) = {
        let (writer, origin, app) = node(builder());
        writer.connect().await.unwrap();
        ask(&app, "/page").await;
        until_written(&writer, 1).await;
        (writer, origin, app)
    };
    let (cache, origin, app) = node(builder());
    cache.connect().await.unwrap();
    let before = server.calls("getrange");
    let start = Arc::new(Barrier::new(REQUESTS));
    let mut requests = JoinSet::new();
    for _ in 0..REQUESTS {
        let (app, start) = (app.clone(), start.clone());
        requests.spawn(async move {
            start.wait().await;
            ask(&app, "/page").await
        });
    }
    let answers = requests.join_all().await;
    assert_eq!(answers.len(), REQUESTS);
    for answer in &answers {
        assert_eq!(answer.body, body_of("/page"));
        assert!(answer.is_hit(), "{}", answer.cache_status());
    }
    assert_eq!(server.calls("getrange"), before + 1);
    assert_eq!(origin.calls(), 0);
    let stats = cache.stats();
    assert_eq!((stats.remote().reads(), stats.remote().hits()), (1, 1));
    cache.close().await;
    writer.close().await;
}
