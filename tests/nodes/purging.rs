//! What was invalidated is taken out of Redis where that is wanted, and nothing else is.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tower_response_cache::{Cache, CacheBuilder, CachePolicy, ResponseCacheLayer, Selector};

use crate::support::{
    App, Origin,
    deployment::Cluster,
    eventually, get, get_with,
    redis_server::{RedisServer, Reply},
};

/// A cache in front of pages that are tagged by the first segment of their path, as long as they are named in
/// `/long` by thirty more; those in `/vary` have variants.
struct Pages {
    cache: Cache,
    origin: Origin,
    app: App,
}

impl Pages {
    async fn connected(builder: CacheBuilder) -> Self {
        let cache = builder.build().expect("good settings");
        let origin = Origin::new(|_, request| async move {
            let path = request.uri().path().to_owned();
            let mut response = Response::new(Bytes::from(path.clone()).into());
            let mut policy = CachePolicy::ttl(Duration::from_secs(600));
            if path.ends_with("/long") {
                for number in 0..30 {
                    policy = policy.tag(format!("{number}-{}", "t".repeat(200)));
                }
            }
            if path.ends_with("/vary") {
                let vary = "accept-language".parse().expect("a field name");
                response.headers_mut().insert("vary", vary);
            }
            let tag = path.split('/').nth(1).unwrap_or_default().to_owned();
            response.extensions_mut().insert(policy.tag(tag));
            response
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        cache.connect().await.expect("Redis is there");
        Self { cache, origin, app }
    }

    async fn shows(&self, path: &str) {
        assert_eq!(get(&self.app, path).await.text(), path);
    }

    async fn is_written(&self) {
        let is_written = || self.cache.stats().remote().outbox_bytes() == 0;
        eventually("it is written", is_written).await;
    }

    fn purged(&self) -> u64 {
        self.cache.stats().remote().purged()
    }

    async fn invalidate(&self, selector: Selector) {
        let done = self.cache.invalidate(selector);
        done.everywhere().await.expect("told");
    }
}

/// Waits until one of these has walked for all that was invalidated so far.
async fn walk(nodes: &[&Pages]) {
    let purges = || -> u64 {
        let stats = nodes.iter().map(|node| node.cache.stats());
        stats.map(|stats| stats.remote().purges()).sum()
    };
    // A walk that ends after the first may have begun before it, and the next has not.
    for tag in ["nothing has it", "nor this"] {
        let before = purges();
        nodes[0].invalidate(Selector::tag(tag)).await;
        eventually("one walks", || purges() > before).await;
    }
}

fn purging(url: &str) -> CacheBuilder {
    Cache::redis(url, "shop").purge_invalidated(true)
}

fn put_junk(server: &RedisServer, count: usize) {
    let script =
        "for i = 1, ARGV[1] do redis.call('SET', 'shop:response:/junk/' .. i .. ':0', 'x') end";
    let reply = server.command(&["EVAL", script, "0", &count.to_string()]);
    assert_eq!(reply, Reply::Nil, "{reply:?}");
}

fn exists(server: &RedisServer, key: &str) -> bool {
    server.command(&["EXISTS", key]).integer() == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_invalidated_is_purged_and_nothing_else_is() {
    let server = RedisServer::start();
    let pages = Pages::connected(purging(&server.url())).await;
    // Of one log with it, and of another; neither walks.
    let version = Cache::redis(server.url(), "shop").version("v1");
    let version = Pages::connected(version).await;
    let other = Pages::connected(Cache::redis(server.url(), "shop:eu")).await;
    for (at, node) in [&pages, &version, &other].into_iter().enumerate() {
        for number in 0..300 {
            node.shows(&format!("/gone/{number}")).await;
        }
        for path in ["/gone/long", "/kept/long", "/kept/1", "/soft/1"] {
            node.shows(path).await;
        }
        for language in ["en", "de"] {
            let fields = [("accept-language", language)];
            get_with(&node.app, "/gone/vary", &fields).await;
        }
        // Another key for each, as what is set is invalidated for all versions.
        for name in ["gone", "kept"] {
            node.cache.set((name, at), 1_u64).await.expect("kept");
        }
        node.is_written().await;
    }
    let entries = |pattern: &str| server.keys(pattern).len();
    assert_eq!(entries("shop:response:/gone/*"), 300 + 1 + 3);
    // Under our names, but not ours: bytes of somebody, another type, and a frame that is another one's.
    let frame = server.keys("shop:response:/gone/7:*").remove(0);
    let stranger = frame.replace("/gone/7", "/strange/7");
    server.command(&["COPY", &frame, &stranger]);
    server
        .command(&["SET", "shop:response:/strange/8:0", "TRC"])
        .ok();
    server.command(&["HSET", "shop:value:strange:0", "a", "b"]);
    let namespaces = ["shop:v1:*", "shop:eu:*", "{*"];
    let before = namespaces.map(|pattern| server.keys(pattern));

    pages.invalidate(Selector::tag("soft").soft()).await;
    pages.invalidate(Selector::tag("gone")).await;
    pages.invalidate(Selector::values("gone:*")).await;
    walk(&[&pages]).await;
    // Names of fields have no tags.
    let rule = server.keys("shop:response:/gone/*");
    assert_eq!(rule.len(), 1, "{rule:?}");
    assert!(rule[0].starts_with("shop:response:/gone/vary:"), "{rule:?}");
    assert!(server.keys("shop:value:gone:*").is_empty());
    assert_eq!(pages.purged(), 300 + 1 + 2 + 1);
    for kept in [
        "shop:response:/kept/long:*",
        "shop:response:/kept/1:*",
        "shop:response:/soft/1:*",
        "shop:value:kept:*",
    ] {
        assert_eq!(entries(kept), 1, "{kept}");
    }
    for strange in [
        &*stranger,
        "shop:response:/strange/8:0",
        "shop:value:strange:0",
    ] {
        assert!(exists(&server, strange), "{strange}");
    }
    for (pattern, before) in namespaces.iter().zip(before) {
        let now = server.keys(pattern);
        assert!(
            before.iter().all(|key| now.contains(key)),
            "{pattern}: {now:?}"
        );
    }
    assert_eq!(pages.cache.stats().remote().purges_broken_off(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_filled_again_is_not_purged() {
    let server = RedisServer::start();
    let one = Pages::connected(purging(&server.url())).await;
    let other = Pages::connected(purging(&server.url())).await;
    for round in 0..20 {
        one.shows("/page/1").await;
        one.shows(&format!("/page/once/{round}")).await;
        one.is_written().await;
        // Filled again by each of them, while some walk or another may be under way.
        one.invalidate(Selector::tag("page")).await;
        let again = if round % 2 == 0 { &one } else { &other };
        again.shows("/page/1").await;
        again.is_written().await;
        assert_eq!(server.keys("shop:response:/page/1:*").len(), 1, "{round}");
    }
    let once = || server.keys("shop:response:/page/once/*").is_empty();
    eventually("the others are gone", once).await;
    walk(&[&one, &other]).await;
    assert_eq!(server.keys("shop:response:/page/1:*").len(), 1);
    let third = Pages::connected(purging(&server.url())).await;
    third.shows("/page/1").await;
    assert_eq!(third.origin.calls(), 0, "it is a hit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_purged_unless_that_is_wanted_and_not_for_what_only_one_node_knows() {
    let server = RedisServer::start();
    let one = Pages::connected(Cache::redis(server.url(), "other")).await;
    one.shows("/gone/1").await;
    one.is_written().await;
    one.invalidate(Selector::tag("gone")).await;
    // Switched off and on a node knows nothing good any more, which is nothing to others.
    let pages = Pages::connected(purging(&server.url())).await;
    let good = Pages::connected(Cache::redis(server.url(), "shop")).await;
    good.shows("/good/1").await;
    good.is_written().await;
    pages.cache.set_enabled(false);
    pages.cache.set_enabled(true);
    walk(&[&pages]).await;
    assert_eq!(server.keys("shop:response:/good/1:*").len(), 1);
    assert_eq!(server.keys("other:response:/gone/1:*").len(), 1);
    let remote = one.cache.stats().remote().clone();
    assert_eq!((remote.purges(), remote.purged()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_entries_are_purged_unless_they_are_long() {
    let server = RedisServer::start();
    let turned = |bytes: Bytes| bytes.iter().map(|byte| !byte).collect::<Bytes>();
    let builder = purging(&server.url());
    let builder = builder.seal(turned, move |bytes| Some(turned(bytes)));
    let pages = Pages::connected(builder).await;
    pages.shows("/gone/1").await;
    pages.shows("/kept/1").await;
    let long = pages.cache.set("gone:1", "x".repeat(80 << 10));
    long.await.expect("kept");
    pages.is_written().await;
    pages.invalidate(Selector::tag("gone")).await;
    pages.invalidate(Selector::values("gone:*")).await;
    walk(&[&pages]).await;
    assert!(server.keys("shop:response:/gone/*").is_empty());
    assert_eq!(server.keys("shop:response:/kept/*").len(), 1);
    assert_eq!(server.keys("shop:value:gone:*").len(), 1);
    assert_eq!(pages.purged(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_primary_of_a_cluster_is_purged() {
    let cluster = Cluster::start();
    let pages = Pages::connected(purging(&cluster.url())).await;
    for number in 0..100 {
        pages.shows(&format!("/gone/{number}")).await;
        pages.shows(&format!("/kept/{number}")).await;
    }
    pages.is_written().await;
    let count = |pattern: &str| -> usize {
        let primaries = cluster.nodes[..3].iter();
        primaries.map(|node| node.keys(pattern).len()).sum()
    };
    assert_eq!(count("shop:response:/gone/*"), 100);
    pages.invalidate(Selector::tag("gone")).await;
    walk(&[&pages]).await;
    assert_eq!(count("shop:response:/gone/*"), 0);
    assert_eq!(count("shop:response:/kept/*"), 100);
    assert_eq!(pages.purged(), 100);
    assert_eq!(pages.cache.stats().remote().purges_broken_off(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_that_redis_leaves_is_broken_off_and_begun_again() {
    let server = RedisServer::start();
    let pages = Pages::connected(purging(&server.url())).await;
    pages.shows("/gone/1").await;
    pages.is_written().await;
    put_junk(&server, 30_000);
    let before = server.calls("scan");
    pages.invalidate(Selector::tag("gone")).await;
    eventually("it walks", || server.calls("scan") > before + 2).await;
    server.stop();
    let broken_off = || pages.cache.stats().remote().purges_broken_off();
    eventually("it is broken off", || broken_off() > 0).await;
    pages.shows("/gone/1").await;
    pages.shows("/another").await;
    server.cont();
    let purges = || pages.cache.stats().remote().purges();
    let before = purges();
    eventually("it walks to its end", || purges() > before).await;
    // Taken out, or replaced by what was filled in between.
    assert!(exists(&server, "shop:response:/junk/1:0"));
    let other = Pages::connected(Cache::redis(server.url(), "shop")).await;
    other.shows("/gone/1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_right_to_walk_is_told_so() {
    let server = RedisServer::start();
    let without_scan = ["on", ">open", "~*", "&*", "+@all", "-scan"];
    let rules = [&["ACL", "SETUSER", "cache"][..], &without_scan].concat();
    server.command(&rules).ok();
    let url = server.url().replace("redis://", "redis://cache:open@");
    let pages = Pages::connected(purging(&url)).await;
    pages.shows("/gone/1").await;
    pages.invalidate(Selector::tag("gone")).await;
    let said = || {
        let error = pages.cache.health().last_error().map(ToString::to_string);
        error.unwrap_or_default()
    };
    eventually("it is said", || said().contains("scan")).await;
    assert!(pages.cache.stats().remote().purges_broken_off() > 0);
    assert_eq!(
        (pages.purged(), pages.cache.stats().remote().purges()),
        (0, 0)
    );
    pages.shows("/gone/1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_ends_a_walk() {
    let server = RedisServer::start();
    let pages = Pages::connected(purging(&server.url())).await;
    put_junk(&server, 30_000);
    let before = server.calls("scan");
    pages.invalidate(Selector::tag("gone")).await;
    eventually("it walks", || server.calls("scan") > before + 2).await;
    let purges = pages.cache.stats().remote().purges();
    pages.cache.close().await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    eventually("nothing runs any more", || tasks() == 0).await;
    let remote = pages.cache.stats().remote().clone();
    assert_eq!((remote.purges(), remote.purges_broken_off()), (purges, 0));
}
