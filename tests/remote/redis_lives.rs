//! What a second reader tried with a real server: a cache that is dropped, runtimes that end, keys
//! that may be written but not deleted.

use std::future::Future;

use crate::support::{Origin, eventually, get, redis_server::RedisServer};
use tower_response_cache::{Cache, ResponseCacheLayer, Selector};

fn in_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn cache(server: &RedisServer) -> Cache {
    Cache::redis(server.url(), "shop").build().unwrap()
}

/// Connections besides the one that asks.
fn connections(server: &RedisServer) -> usize {
    let list = server.command(&["CLIENT", "LIST"]);
    list.text().lines().count() - 1
}

#[tokio::test]
async fn a_cache_that_is_dropped_leaves_no_connection_behind() {
    let server = RedisServer::start();
    let before = connections(&server);
    let cache = cache(&server);
    cache.connect().await.unwrap();
    let app = Origin::with_fields(&[]).behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/a").await;
    cache.invalidate(Selector::resource("test", "/a"));
    eventually("it is connected", || connections(&server) > before).await;
    drop((cache, app));
    eventually("all are gone", || connections(&server) == before).await;
}

#[test]
fn a_cache_outlives_its_runtime() {
    let server = RedisServer::start();
    let origin = Origin::with_fields(&[]);
    let cache = cache(&server);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for round in 0..3 {
        in_a_runtime(async {
            cache.connect().await.unwrap();
            let path = format!("/{round}");
            get(&app, &path).await;
            let written = || server.keys("shop:*").len() == round + 1;
            eventually("it is written", written).await;
        });
    }
    in_a_runtime(cache.close());
}

#[tokio::test]
async fn what_may_not_be_deleted_does_not_keep_anything_from_being_written() {
    let server = RedisServer::start();
    let rules = [
        "ACL", "SETUSER", "me", "on", ">word", "~*", "+@all", "-unlink", "-del",
    ];
    server.command(&rules).ok();
    let url = server.url().replace("redis://", "redis://me:word@");
    let cache = Cache::redis(url, "shop").build().unwrap();
    cache.connect().await.unwrap();
    let app = Origin::with_fields(&[]).behind(&ResponseCacheLayer::new(&cache));
    for n in 0..50 {
        cache.invalidate(Selector::resource("test", &format!("/{n}")));
    }
    let failing = || cache.stats().store_errors() > 20;
    eventually("deletions fail", failing).await;
    for n in 0..50 {
        get(&app, &format!("/new-{n}")).await;
    }
    let written = || server.keys("shop:*").len() == 50;
    eventually("all are written", written).await;
}
