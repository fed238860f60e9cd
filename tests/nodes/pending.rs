//! N5: what a node does that cannot tell the others.

use tower_response_cache::{Cache, Selector};

use crate::{
    node::{Data, Node, within_a_second},
    support::{eventually, redis_server::RedisServer},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_an_invalidation_is_pending_and_works_here_at_once() {
    let (server, data) = (RedisServer::start(), Data::default());
    let first = Node::connected(Cache::redis(server.url(), "pending"), &data).await;
    let second = Node::connected(Cache::redis(server.url(), "pending"), &data).await;
    assert_eq!(first.shows("/page").await, 0);
    assert_eq!(second.shows("/page").await, 0);
    let done = first.cache.invalidate(Selector::tag("nothing has it"));
    done.everywhere().await.expect("told");
    assert!(!done.is_pending());

    server.kill();
    data.set(1);
    let done = first.cache.invalidate(Selector::tag("data"));
    assert!(done.is_pending());
    let error = done.everywhere().await.expect_err("nobody can be told");
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(done.is_pending());
    assert_eq!(first.shows("/page").await, 1, "here at once");
    within_a_second(&second, "/page", 1).await; // It is not sure of what it has.

    let of_values = [
        first.cache.delete("user:42").await.unwrap(),
        first.cache.delete_many(["a", "b"]).await.unwrap(),
        first.cache.delete_pattern("user:*").await,
    ];
    assert!(of_values.iter().all(|done| done.is_pending()));

    server.restart();
    eventually("they are told", || !done.is_pending()).await;
    for done in of_values {
        done.everywhere().await.expect("told");
    }
    done.everywhere().await.expect("told");
    assert_eq!(second.shows("/page").await, 1);
    assert!(first.cache.stats().remote().told() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_invalidated_while_redis_was_halted_is_heard_of_when_it_goes_on() {
    let (server, data) = (RedisServer::start(), Data::default());
    let first = Node::connected(Cache::redis(server.url(), "halted"), &data).await;
    let second = Node::connected(Cache::redis(server.url(), "halted"), &data).await;
    assert_eq!(second.shows("/page").await, 0);
    second.is_written().await;
    server.stop();
    data.set(1);
    let done = first.cache.invalidate(Selector::tag("data"));
    assert!(done.everywhere().await.is_err());
    server.cont();
    eventually("they are told", || !done.is_pending()).await;
    within_a_second(&second, "/page", 1).await;
    let third = Node::connected(Cache::redis(server.url(), "halted"), &data).await;
    assert_eq!(third.shows("/page").await, 1, "what is in Redis is older");
}

#[tokio::test]
async fn a_cache_without_other_nodes_has_nobody_to_tell() {
    let cache = Cache::in_memory();
    let done = cache.invalidate(Selector::all());
    assert!(!done.is_pending());
    done.everywhere().await.expect("nobody else");
}
