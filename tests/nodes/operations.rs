//! What those who run Redis do to it: passwords that change, and a memory that is full.

use std::time::Duration;

use tower_response_cache::{Cache, RedisSettings, Selector};

use crate::{
    node::{Data, Node, within_a_second},
    support::{
        eventually,
        redis_server::{RedisServer, Reply},
    },
};

fn acl(server: &RedisServer, rules: &[&str]) {
    let words = ["ACL", "SETUSER", "cache"].iter().chain(rules);
    server.command(&words.collect::<Vec<_>>()).ok();
}

/// Ends all connections of the cache's user, and waits until the node has new ones.
async fn comes_back(server: &RedisServer, node: &Node) {
    let killed = server.command(&["CLIENT", "KILL", "USER", "cache"]);
    assert!(killed.integer() > 0, "{killed:?}");
    // Two that carry commands and one on which messages come; the node may not know yet that the others
    // are gone.
    let has_new = || {
        let list = server.command(&["CLIENT", "LIST"]);
        list.text().matches(" user=cache ").count() == 3
    };
    eventually("there are new ones", has_new).await;
    let is_told = async || {
        let done = node.cache.invalidate(Selector::tag("nothing has it"));
        done.everywhere().await.is_ok()
    };
    let told = async {
        while !is_told().await {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    told.expect("the new ones are used");
    let is_good = || node.cache.health().is_good();
    eventually("they are used", is_good).await;
    node.hears().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_changes_interrupts_nothing() {
    let (server, data) = (RedisServer::start(), Data::default());
    acl(&server, &["on", ">first", "~*", "&*", "+@all"]);
    let settings = RedisSettings::new(server.url(), "rotated");
    let settings = settings.user("cache").password("first");
    let node = Node::connected(Cache::builder().redis_settings(settings), &data).await;

    // Redis is told before the node.
    acl(&server, &[">second"]);
    node.cache.set_redis_password("second");
    acl(&server, &["<first"]);
    comes_back(&server, &node).await;

    // The node is told before Redis: what it tries fails, and its connections serve.
    node.cache.set_redis_password("third");
    let has_tried = || server.command(&["ACL", "LOG"]) != Reply::Array(Vec::new());
    eventually("the new one is tried", has_tried).await;
    assert!(node.cache.health().is_good(), "{}", node.cache.health());
    let done = node.cache.invalidate(Selector::tag("data"));
    done.everywhere()
        .await
        .expect("told by a connection of before");
    acl(&server, &["<second", ">third"]);
    comes_back(&server, &node).await;

    let shown = format!("{:?} {}", node.cache, node.cache.health());
    assert!(!shown.contains("third"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_volatile_policy_entries_are_evicted_and_the_log_stays() {
    let full = ["--maxmemory", "8mb", "--maxmemory-policy", "volatile-lfu"];
    let (server, data) = (RedisServer::start_with(&full), Data::default());
    let first = Node::connected(Cache::redis(server.url(), "full"), &data).await;
    let second = Node::connected(Cache::redis(server.url(), "full"), &data).await;
    assert_eq!(first.shows("/page").await, 0);
    assert_eq!(second.shows("/page").await, 0);
    let large = "x".repeat(64 << 10);
    for number in 0..400_u32 {
        let value = first.cache.set(("large", number), large.clone());
        value.ttl(Duration::from_secs(600)).await.expect("kept");
        if number % 20 == 0 {
            first.is_written().await;
        }
    }
    first.is_written().await;
    let info = server.command(&["INFO", "stats"]);
    assert!(!info.text().contains("evicted_keys:0\r\n"), "too little");
    assert_eq!(first.cache.stats().remote().dropped(), 0);
    data.set(1);
    let done = first.cache.invalidate(Selector::tag("data"));
    done.everywhere().await.expect("told, though Redis is full");
    within_a_second(&second, "/page", 1).await;
    let keys = ["{full}:seq", "{full}:log"];
    let kept = server.command(&[&["EXISTS"][..], &keys].concat());
    assert_eq!(kept, Reply::Integer(2));
    let begun = |node: &Node| node.cache.stats().remote().begun_anew();
    assert_eq!(begun(&first) + begun(&second), 1, "at the start");
}
