//! The promises of the invalidation log, the same in memory, in Redis and in both: a row is a selector, a column a
//! store.

use std::time::Duration;

use tower_response_cache::{Cache, CacheBuilder, Selector};

use crate::{
    node::{Data, Node, within_a_second},
    support::{eventually, redis_server::RedisServer},
};

/// Where entries are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Memory,
    /// Memory is as small as it may be, and nothing is answered from it.
    Redis,
    Both,
}

const PLACES: [Place; 3] = [Place::Memory, Place::Redis, Place::Both];

impl Place {
    fn builder(self, server: &RedisServer) -> CacheBuilder {
        match self {
            Self::Memory => Cache::builder(),
            Self::Both => Cache::redis(server.url(), "both"),
            Self::Redis => Cache::redis(server.url(), "redis")
                .memory(64 << 10)
                .memory_ttl(Duration::ZERO),
        }
    }

    async fn node(self, server: &RedisServer, data: &Data) -> Node {
        match self {
            Self::Memory => Node::new(self.builder(server), data),
            Self::Redis | Self::Both => Node::connected(self.builder(server), data).await,
        }
    }

    /// The node that invalidates, and another one where there may be any.
    async fn nodes(self, server: &RedisServer, data: &Data) -> (Node, Option<Node>) {
        let first = self.node(server, data).await;
        let has_others = self != Self::Memory;
        let second = has_others.then(|| self.node(server, data));
        let second = match second {
            Some(second) => Some(second.await),
            None => None,
        };
        (first, second)
    }
}

const PAGES: [&str; 4] = ["/users/1", "/users/1/posts", "/users/2", "/posts"];
const VALUES: [&str; 3] = ["user:1", "user:2", "post:1"];

async fn value(node: &Node, key: &str, data: &Data) -> u64 {
    let load = || async { data.read() };
    let value = node
        .cache
        .get_or_set(key, Duration::from_secs(600), load)
        .await;
    *value.expect("a good key")
}

async fn told(node: &Node, selector: Selector) {
    node.cache
        .invalidate(selector)
        .everywhere()
        .await
        .expect("told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_selector_selects_the_same_in_memory_in_redis_and_in_both() {
    #[rustfmt::skip]
    let rows: &[(&str, Selector, &[&str])] = &[
        ("a resource", Selector::resource("test", "/users/1"), &["/users/1"]),
        ("that of another host", Selector::resource("other", "/users/1"), &[]),
        ("a path", Selector::path("/users/2"), &["/users/2"]),
        ("paths", Selector::path("/users/*"), &["/users/1", "/users/1/posts", "/users/2"]),
        ("the end of paths", Selector::path("*/posts"), &["/users/1/posts", "/posts"]),
        ("a prefix of paths", Selector::path_prefix("/users/1"), &["/users/1", "/users/1/posts"]),
        ("a star in a prefix", Selector::path_prefix("/users/*"), &[]),
        ("a tag", Selector::tag("data"), &PAGES),
        ("a tag that nobody has", Selector::tag("dat"), &[]),
        ("a value", Selector::values("user:1"), &["user:1"]),
        ("values", Selector::values("user:*"), &["user:1", "user:2"]),
        ("a prefix of values", Selector::value_prefix("post"), &["post:1"]),
        ("everything", Selector::all(), &["/users/1", "/users/1/posts", "/users/2", "/posts", "user:1", "user:2", "post:1"]),
    ];
    let server = RedisServer::start();
    for place in PLACES {
        let data = Data::default();
        let (node, other) = place.nodes(&server, &data).await;
        let mut version = 0;
        for (sentence, selector, selected) in rows {
            // Without a window in which it may be served, what is soft is as hard.
            for selector in [selector.clone(), selector.clone().soft()] {
                told(&node, Selector::all()).await;
                version += 1;
                data.set(version);
                for page in PAGES {
                    assert_eq!(
                        node.shows(page).await,
                        version,
                        "{place:?}, {sentence}: {page}"
                    );
                }
                for key in VALUES {
                    assert_eq!(value(&node, key, &data).await, version);
                }
                node.is_written().await;
                let before = version;
                version += 1;
                data.set(version);
                told(&node, selector).await;
                let expected = |name| {
                    if selected.contains(&name) {
                        version
                    } else {
                        before
                    }
                };
                for page in PAGES {
                    let (shown, expected) = (node.shows(page).await, expected(page));
                    assert_eq!(shown, expected, "{place:?}, {sentence}: {page}");
                }
                for key in VALUES {
                    let (found, expected) = (value(&node, key, &data).await, expected(key));
                    assert_eq!(found, expected, "{place:?}, {sentence}: {key}");
                }
                node.is_written().await;
                for page in PAGES {
                    if let Some(other) = &other {
                        within_a_second(other, page, expected(page)).await;
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_began_before_an_invalidation_is_unusable_and_what_began_after_it_is_not_wherever_it_is()
 {
    let server = RedisServer::start();
    for place in PLACES {
        let data = Data::default();
        let (node, other) = place.nodes(&server, &data).await;
        for round in 0..20 {
            let page = format!("/page/{round}");
            data.set(2 * round);
            node.shut();
            let (app, path, reads) = (node.app.clone(), page.clone(), node.reads());
            let filling = tokio::spawn(async move { crate::support::get(&app, &path).await });
            eventually("it has read", || node.reads() > reads).await;
            data.set(2 * round + 1);
            told(&node, Selector::tag("data")).await;
            node.open();
            filling.await.expect("an answer");
            node.is_written().await;
            assert_eq!(node.shows(&page).await, 2 * round + 1, "{place:?}");
            node.is_written().await;
            // What began after it is a hit.
            let reads = node.reads();
            assert_eq!(node.shows(&page).await, 2 * round + 1, "{place:?}");
            assert_eq!(node.reads(), reads, "{place:?}");
            if let Some(other) = &other {
                within_a_second(other, &page, 2 * round + 1).await;
                assert_eq!(other.reads(), 0, "{place:?}: all are in Redis");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_floor_everything_is_a_miss_and_above_it_nothing_is_wherever_it_is() {
    let server = RedisServer::start();
    for place in PLACES {
        let data = Data::default();
        let (node, _) = place.nodes(&server, &data).await;
        assert_eq!(node.shows("/below").await, 0);
        node.is_written().await;
        data.set(1);
        // One more than are kept.
        for number in 0..=1_000 {
            node.cache
                .invalidate(Selector::path(&format!("/nothing/{number}/*")));
            if number == 500 {
                told(&node, Selector::tag("nothing")).await;
                assert_eq!(node.shows("/above").await, 1);
                node.is_written().await;
            }
        }
        data.set(2);
        told(&node, Selector::tag("nothing")).await;
        assert!(node.cache.stats().forgotten_records() > 0, "{place:?}");
        assert_eq!(node.shows("/below").await, 2, "{place:?}");
        assert_eq!(node.shows("/above").await, 1, "{place:?}");
    }
}
