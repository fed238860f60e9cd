//! N4 on a cluster of six: nodes that are killed or halted, and slots that move.

use std::time::{Duration, Instant};

use tower_response_cache::{Cache, ResponseCacheLayer, Selector};

use crate::{
    node::{Data, Node, within_a_second},
    support::{
        App, Origin,
        deployment::{Cluster, cut_off_replicas, slot_of},
        eventually,
        load::{Load, ask, origin},
        redis_server::{RedisServer, free_port},
    },
};

/// How long after all is well again it is in use at the latest; a busy machine is given some more.
const BACK: Duration = Duration::from_secs(10);

/// A cache under load that asks Redis each time, and another one that shares with it.
pub(crate) struct Loaded {
    pub(crate) cache: Cache,
    app: App,
    load: Load,
    other: (Cache, Origin, App),
}

fn cached(url: &str) -> (Cache, Origin, App) {
    let cache = Cache::redis(url, "loaded").memory_ttl(Duration::ZERO);
    let cache = cache.build().expect("good settings");
    let origin = origin();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    (cache, origin, app)
}

impl Loaded {
    pub(crate) async fn start(url: &str) -> Self {
        let (cache, _, app) = cached(url);
        cache.connect().await.expect("Redis is there");
        let other = cached(url);
        let load = Load::start(&app, || 0);
        let loaded = Self {
            cache,
            app,
            load,
            other,
        };
        loaded.shares("at the start").await;
        loaded
    }

    /// Waits until each finds 30 times in a row what the other has stored; says how long that took.
    pub(crate) async fn shares(&self, when: &str) -> Duration {
        let begin = Instant::now();
        let (_, origin, other) = &self.other;
        let mut in_a_row = 0;
        for turn in 0.. {
            let path = format!("/{}/{turn}", when.replace(' ', "-"));
            ask(&self.app, &path).await;
            let stats = || self.cache.stats().remote().clone();
            let end = Instant::now() + Duration::from_millis(200);
            eventually("it is written or given up", || {
                stats().outbox_bytes() == 0 || Instant::now() > end
            })
            .await;
            let calls = origin.calls();
            let is_hit = ask(other, &path).await.is_hit() && origin.calls() == calls;
            in_a_row = if is_hit { in_a_row + 1 } else { 0 };
            if in_a_row == 30 {
                println!("{when}: shares after {:?}", begin.elapsed());
                return begin.elapsed();
            }
            let health = (self.cache.health(), self.other.0.health());
            assert!(
                begin.elapsed() < BACK,
                "{when}: nothing is shared; {} {}",
                health.0,
                health.1
            );
        }
        unreachable!("it is asked for ever")
    }

    /// Asks on, so that what is wrong may hurt somebody.
    pub(crate) async fn suffer(&self, requests: u64) {
        let before = self.load.sum().requests;
        eventually("more was asked", || {
            self.load.sum().requests > before + requests
        })
        .await;
    }

    pub(crate) async fn ends_well(self, what: &str) {
        let sum = self.load.end().await;
        println!("{what}: {sum:?}; {}", self.cache.health());
        println!("{:?}", self.cache.stats().remote());
        assert_eq!((sum.failures, sum.wrong, sum.late), (0, 0, 0), "{what}");
        assert!(sum.hits > 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_what_is_in_a_cluster_and_hear_of_each_other() {
    let (cluster, data) = (Cluster::start(), Data::default());
    let first = Node::connected(Cache::redis(cluster.url(), "shared"), &data).await;
    let second = Node::connected(Cache::redis(cluster.url(), "shared"), &data).await;
    let pages: Vec<_> = (0..50).map(|page| format!("/page/{page}")).collect();
    for version in 0..3 {
        data.set(version);
        let done = first.cache.invalidate(Selector::tag("data"));
        done.everywhere().await.expect("told");
        within_a_second(&second, "/page", version).await;
        for page in &pages {
            assert_eq!(first.shows(page).await, version);
        }
        first.is_written().await;
        let calls = second.origin.calls();
        for page in &pages {
            assert_eq!(second.shows(page).await, version);
        }
        assert_eq!(second.origin.calls(), calls, "all are in Redis");
    }
    for node in &cluster.nodes {
        assert!(
            !node.keys("shared:response:*").is_empty(),
            "they are spread"
        );
    }
    assert!(second.cache.stats().remote().heard() >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_node_that_is_killed_hurts_nobody() {
    let cluster = Cluster::start();
    let loaded = Loaded::start(&cluster.url()).await;
    let log = cluster.owner("{loaded}:seq", 0);
    // One that has only entries, and then the one that has the log as well.
    for (what, node) in [("entries", (log + 1) % 3), ("the log", log)] {
        cluster.nodes[node].kill();
        cluster.until_primary(node + 3);
        loaded.shares(&format!("without {what}")).await;
        cluster.nodes[node].restart();
        loaded.suffer(1_000).await;
    }
    loaded.ends_well("killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_node_that_is_halted_hurts_nobody() {
    // The others answer all the time.
    let cluster = Cluster::start_with(&["--cluster-require-full-coverage", "no"]);
    let loaded = Loaded::start(&cluster.url()).await;
    // One that has none of what a connection is tried with.
    let log = cluster.owner("{loaded}:seq", 0);
    let tried = cluster.owner("loaded:response:", 0);
    let halted = (0..3).find(|node| ![log, tried].contains(node));
    let halted = halted.expect("one of three is neither");
    cluster.nodes[halted].stop();
    cluster.until_primary(halted + 3);
    // Its connections are there still.
    loaded.shares("without a halted node").await;
    cluster.nodes[halted].cont();
    loaded.suffer(1_000).await;
    loaded.shares("when it goes on").await;
    loaded.ends_well("halted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_hurt_nobody() {
    let cluster = Cluster::start();
    let loaded = Loaded::start(&cluster.url()).await;
    let from = cluster.owner("{loaded}:seq", 0);
    let to = (from + 1) % 3;
    let log = slot_of(&cluster.nodes[from], "{loaded}:seq");
    let keys = cluster.nodes[from].keys("loaded:response:/hot/*");
    let mut slots: Vec<_> = keys
        .iter()
        .map(|key| slot_of(&cluster.nodes[from], key))
        .collect();
    assert!(!slots.is_empty(), "some pages that are asked for are there");
    slots.push(log);
    slots.sort_unstable();
    slots.dedup();
    for slot in &slots {
        cluster.begin_to_move(*slot, from, to);
        loaded.suffer(20).await; // While the one sends those who ask to the other.
        let health = loaded.cache.health().to_string();
        assert!(health.starts_with("link up"), "connections stay: {health}");
        cluster.end_moving(*slot, from, to);
        loaded.suffer(20).await;
    }
    assert_eq!(cluster.owner("{loaded}:seq", from), to);
    loaded.shares("after the move").await;
    loaded.ends_well("moved").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_replica_takes_over_nobody_shows_what_was_invalidated() {
    let (cluster, data) = (Cluster::start(), Data::default());
    let first = Node::connected(Cache::redis(cluster.url(), "failing"), &data).await;
    let second = Node::connected(Cache::redis(cluster.url(), "failing"), &data).await;
    let pages: Vec<_> = (0..30).map(|page| format!("/page/{page}")).collect();
    for page in &pages {
        assert_eq!(first.shows(page).await, 0);
    }
    first.is_written().await;
    for page in &pages {
        assert_eq!(second.shows(page).await, 0);
    }
    let log = cluster.owner("{failing}:seq", 0);
    let replica = &cluster.nodes[log + 3];
    // The replica lags: what is acknowledged now is lost with the primary.
    replica.stop();
    cut_off_replicas(&cluster.nodes[log]);
    data.set(1);
    let done = first.cache.invalidate(Selector::tag("data"));
    done.everywhere().await.expect("told");
    cluster.nodes[log].kill();
    replica.cont();
    cluster.until_primary(log + 3);
    for page in &pages {
        within_a_second(&second, page, 1).await;
        assert_eq!(first.shows(page).await, 1);
    }
    second.hears().await;
    let third = Node::connected(Cache::redis(cluster.url(), "failing"), &data).await;
    within_a_second(&third, "/page/0", 1).await; // When the others have told it again.
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_of_the_wrong_kind_is_told_from_a_server_that_is_away() {
    let (alone, sentinel) = (
        RedisServer::start(),
        RedisServer::start_with(&["--sentinel"]),
    );
    let bus = free_port().to_string();
    let node = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let node = RedisServer::start_with(&node); // Without any slot.
    let (alone, sentinel, node) = (alone.addr(), sentinel.addr(), node.addr());
    for (url, says) in [
        (
            format!("redis://{node}"),
            "write the URL as redis-cluster://",
        ),
        (format!("redis-cluster://{alone}"), "is no cluster; write"),
        (format!("redis-cluster://{node}"), "is not whole; check"),
        (
            format!("redis-sentinel://{sentinel}/shop"),
            "check the name of the service",
        ),
        (
            format!("redis-sentinel://{alone}/shop"),
            "is no sentinel; check",
        ),
        (
            "redis-sentinel://127.0.0.1:1,127.0.0.1:2/shop".to_owned(),
            "nobody to ask for shop",
        ),
    ] {
        let cache = Cache::redis(&url, "wrong").build().expect("a good URL");
        let error = cache.connect().await.expect_err("of the wrong kind");
        let error = error.to_string();
        assert!(error.contains(says), "{url}: {error}");
        assert!(!error.contains('\n') && !error.contains(". "), "{error}");
    }
}
