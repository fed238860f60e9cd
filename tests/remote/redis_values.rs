//! Values in Redis, as two processes of one service see them.

use std::time::Duration;

use tower_response_cache::{Cache, LoadError};

use crate::support::{eventually, loads::Loads, redis_server::RedisServer};

const MINUTE: Duration = Duration::from_secs(60);

async fn node(server: &RedisServer) -> Cache {
    let cache = Cache::redis(server.url(), "shop").build().unwrap();
    cache.connect().await.unwrap();
    cache
}

async fn until_written(cache: &Cache) {
    let is_written = || cache.stats().remote().outbox_bytes() == 0;
    eventually("it is written", is_written).await;
}

#[tokio::test]
async fn values_have_names_that_say_what_they_are_and_a_life_of_their_own() {
    let server = RedisServer::start();
    let (one, other) = (node(&server).await, node(&server).await);
    one.set(("user", "ada@example.com"), 7_usize)
        .ttl(MINUTE)
        .await
        .unwrap();
    until_written(&one).await;
    let names = server.keys("shop:value:*");
    assert_eq!(names.len(), 1);
    let digest = names[0].strip_prefix("shop:value:user:");
    assert_eq!(digest.map(str::len), Some(32), "{names:?}");
    let life = server.command(&["PTTL", &names[0]]).integer();
    assert!((50_000..=60_000).contains(&life), "{life}");

    let key = ("user", "ada@example.com");
    assert_eq!(other.get::<usize>(key).await.unwrap().as_deref(), Some(&7));
    one.delete(key).await.unwrap();
    until_written(&one).await;
    assert_eq!(server.keys("shop:value:*").len(), 0);
    one.set("forever", 1).forever().await.unwrap();
    until_written(&one).await;
    assert_eq!(server.keys("shop:value:forever:*").len(), 1);
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn with_redis_away_functions_run_and_memory_keeps() {
    let server = RedisServer::start();
    let cache = node(&server).await;
    server.kill();
    let loads = Loads::default();
    let users = {
        let loads = loads.clone();
        cache.try_wrap("user", MINUTE, move |id: u64| {
            let call = loads.at_once();
            async move {
                match id {
                    0 => Err("nobody".to_owned()),
                    _ => Ok(call),
                }
            }
        })
    };
    for _ in 0..3 {
        assert_eq!(*users.get(42).await.unwrap(), 1);
    }
    let error = users.get(0).await.unwrap_err();
    assert!(matches!(error, LoadError::Load(_)), "{error}");
    users.forget(42).await.unwrap();
    assert_eq!(*users.get(42).await.unwrap(), 3);
    assert!(!cache.health().is_good());
    cache.close().await;
}
