//! N4 on a primary that is watched by sentinels: another server takes over.

use tower_response_cache::{Cache, Selector};

use crate::{
    cluster::Loaded,
    node::{Data, Node, within_a_second},
    support::{
        deployment::{SERVICE, Watched, cut_off_replicas},
        eventually,
        redis_server::Reply,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_that_sentinels_name_is_used() {
    let (watched, data) = (Watched::start(), Data::default());
    let first = Node::connected(Cache::redis(watched.url(), "named"), &data).await;
    // Some that are no longer there stand before the others.
    watched.sentinels[0].kill();
    let second = Node::connected(Cache::redis(watched.url(), "named"), &data).await;
    assert_eq!(first.shows("/page").await, 0);
    first.is_written().await;
    assert_eq!(second.shows("/page").await, 0);
    assert_eq!(second.origin.calls(), 0, "it is shared");
    data.set(1);
    let done = second.cache.invalidate(Selector::tag("data"));
    done.everywhere().await.expect("told");
    within_a_second(&first, "/page", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_sentinels_hurts_nobody() {
    let watched = Watched::start();
    let loaded = Loaded::start(&watched.url()).await;
    watched.servers[0].kill();
    let primary = watched.until_one_is_primary(&[1, 2]);
    loaded.shares("after the failover").await;
    // The old one comes back as a replica, and the next failover is by hand, of a primary that lives.
    watched.servers[0].restart();
    loaded.suffer(1_000).await;
    let failover = || {
        let command = ["SENTINEL", "FAILOVER", SERVICE];
        watched.sentinels[0].command(&command) == Reply::Simple("OK".to_owned())
    };
    eventually("it may be done again", failover).await;
    let others: Vec<_> = (0..3).filter(|at| *at != primary).collect();
    watched.until_one_is_primary(&others);
    loaded.shares("after the second").await;
    loaded.ends_well("failover").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_lagging_replica_takes_over_nobody_shows_what_was_invalidated() {
    let (watched, data) = (Watched::start(), Data::default());
    let first = Node::connected(Cache::redis(watched.url(), "lagging"), &data).await;
    let second = Node::connected(Cache::redis(watched.url(), "lagging"), &data).await;
    assert_eq!(first.shows("/page").await, 0);
    first.is_written().await;
    assert_eq!(second.shows("/page").await, 0);
    for replica in &watched.servers[1..] {
        replica.stop();
    }
    cut_off_replicas(&watched.servers[0]);
    data.set(1);
    let done = first.cache.invalidate(Selector::tag("data"));
    done.everywhere().await.expect("told");
    watched.servers[0].kill();
    for replica in &watched.servers[1..] {
        replica.cont();
    }
    watched.until_one_is_primary(&[1, 2]);
    within_a_second(&second, "/page", 1).await;
    assert_eq!(first.shows("/page").await, 1);
    second.hears().await;
    let third = Node::connected(Cache::redis(watched.url(), "lagging"), &data).await;
    within_a_second(&third, "/page", 1).await; // When the others have told it again.
}
