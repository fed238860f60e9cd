//! N1: an invalidation beats a fill, across nodes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower_response_cache::{
    Cache, Invalidated, Link, Selector, Store, StoreFuture, StoreKey, Stored,
};

use crate::{
    node::{Data, Node, within_a_second},
    support::{
        eventually,
        fault_proxy::{Fault, FaultProxy},
        get,
        redis_server::RedisServer,
    },
};

/// Waits until all nodes are told, however often that fails at first.
async fn told_everywhere(done: &Invalidated) {
    for _ in 0..100 {
        if done.everywhere().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // Redis is away for a moment.
    }
    panic!("nobody was told: {done:?}");
}

fn selector(round: u64, path: &str) -> Selector {
    match round % 5 {
        0 => Selector::tag("data"),
        1 => Selector::resource("test", path),
        2 => Selector::path("/page/*"),
        3 => Selector::path_prefix("/page/"),
        _ => Selector::all(),
    }
}

/// One round: read at the old version on the first node, changed, invalidated on the second, and only
/// then the fill ends.
async fn round(nodes: &[Node], data: &Data, round: u64, outage: Option<&RedisServer>) {
    let path = format!("/page/{round}");
    let before = data.read();
    let [first, second, third] = nodes else {
        panic!("three nodes");
    };
    // So that there is something old everywhere, in half of the rounds.
    if round % 4 < 2 {
        for node in nodes {
            assert_eq!(node.shows(&path).await, before, "round {round}");
        }
        first.is_written().await;
        // The fill starts because this node forgets it.
        let gone = first.cache.invalidate(Selector::resource("test", &path));
        told_everywhere(&gone).await;
    }
    first.shut();
    let reads = first.reads();
    let filling = {
        let (app, path) = (first.app.clone(), path.clone());
        tokio::spawn(async move { get(&app, &path).await })
    };
    eventually("the handler has read", || first.reads() > reads).await;
    data.set(before + 1);
    if let Some(server) = outage {
        server.stop();
    }
    let done = second.cache.invalidate(selector(round, &path));
    assert_eq!(
        second.shows(&path).await,
        before + 1,
        "round {round}: the same node"
    );
    if let Some(server) = outage {
        tokio::time::sleep(Duration::from_millis(300)).await; // So long Redis is away.
        server.cont();
    }
    told_everywhere(&done).await;
    first.let_one_in();
    let filled = filling.await.expect("an answer").text().to_owned();
    assert!(
        filled.ends_with(&format!("v{before}")),
        "it was read before: {filled}"
    );
    first.open();
    assert_eq!(
        second.shows(&path).await,
        before + 1,
        "round {round}: the same node"
    );
    for node in [first, third] {
        within_a_second(node, &path, before + 1).await;
        assert_eq!(
            node.shows(&path).await,
            before + 1,
            "round {round}: nor later"
        );
    }
}

async fn three(server: &RedisServer, data: &Data) -> [Node; 3] {
    let node = || Node::connected(Cache::redis(server.url(), "wins"), data);
    [node().await, node().await, node().await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_on_one_node_beats_a_fill_on_another() {
    let (server, data) = (RedisServer::start(), Data::default());
    let nodes = three(&server, &data).await;
    for number in 0..100 {
        round(&nodes, &data, number, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_beats_a_fill_while_redis_is_halted() {
    let (server, data) = (RedisServer::start(), Data::default());
    let nodes = three(&server, &data).await;
    for number in 0..100 {
        round(&nodes, &data, number, Some(&server)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_come_half_a_second_late_are_overtaken_by_what_is_read() {
    let (server, data) = (RedisServer::start(), Data::default());
    let proxy = FaultProxy::start(server.addr());
    let slow = Node::connected(Cache::redis(proxy.url(), "late"), &data).await;
    let other = Node::connected(Cache::redis(server.url(), "late"), &data).await;
    assert_eq!(slow.shows("/page").await, 0);
    slow.is_written().await;
    let late = Duration::from_millis(500);
    for version in 1..=3 {
        proxy.set(Fault::Delay(late..late));
        data.set(version);
        let done = other.cache.invalidate(Selector::tag("data"));
        done.everywhere().await.expect("told");
        assert_eq!(other.shows("/page").await, version);
        within_a_second(&slow, "/page", version).await;
        proxy.set(Fault::None);
        slow.hears().await;
    }
}

/// Writes leave late: as if they had been held up on the way, with nobody waiting for them any more.
#[derive(Debug)]
struct Held {
    store: Arc<dyn Store>,
    door: Arc<Semaphore>,
}

impl Store for Held {
    fn get<'a>(&'a self, key: &'a StoreKey<'a>, limit: usize) -> StoreFuture<'a, Option<Stored>> {
        self.store.get(key, limit)
    }

    fn set<'a>(
        &'a self,
        key: &'a StoreKey<'a>,
        frame: Bytes,
        until: SystemTime,
    ) -> StoreFuture<'a, ()> {
        let (store, door) = (self.store.clone(), self.door.clone());
        let (path, bytes) = (key.path().to_owned(), key.bytes().to_owned());
        tokio::spawn(async move {
            door.acquire().await.expect("never closed").forget();
            let key = StoreKey::new(None, &path, &bytes);
            store.set(&key, frame, until).await.expect("written");
        });
        Box::pin(async { Ok(()) })
    }

    fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()> {
        self.store.delete(key)
    }

    fn connect(&self) -> StoreFuture<'_, ()> {
        self.store.connect()
    }

    fn link(&self) -> Link {
        self.store.link()
    }

    fn time(&self) -> Option<SystemTime> {
        self.store.time()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_late_never_comes_back_to_life() {
    let (server, data) = (RedisServer::start(), Data::default());
    let door = Arc::new(Semaphore::new(0));
    let held = door.clone();
    let slow =
        Cache::redis(server.url(), "held").wrap_store(|store| Arc::new(Held { store, door: held }));
    let slow = Node::connected(slow, &data).await;
    let other = Node::connected(Cache::redis(server.url(), "held"), &data).await;
    assert_eq!(slow.shows("/page").await, 0);
    slow.is_written().await;
    data.set(1);
    let done = other.cache.invalidate(Selector::tag("data"));
    done.everywhere().await.expect("told");
    assert!(server.keys("held:response:*").is_empty());
    door.add_permits(1);
    let is_there = || !server.keys("held:response:*").is_empty();
    eventually("the old one is there", is_there).await;
    assert_eq!(other.shows("/page").await, 1, "not what came late");
    let late = Node::connected(Cache::redis(server.url(), "held"), &data).await;
    assert_eq!(
        late.shows("/page").await,
        1,
        "nor to a node that knows nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_from_redis_is_never_older_than_what_all_were_told() {
    let (server, data) = (RedisServer::start(), Data::default());
    let rules = [
        "ACL",
        "SETUSER",
        "deaf",
        "on",
        ">word",
        "~*",
        "+@all",
        "resetchannels",
    ];
    server.command(&rules).ok();
    // No messages come to this one: it knows what it reads, ten times a second and with each look-up.
    let url = server.url().replace("redis://", "redis://deaf:word@");
    let deaf = Node::new(Cache::redis(url, "read"), &data);
    deaf.cache.connect().await.expect("Redis is there");
    let other = Node::connected(Cache::redis(server.url(), "read"), &data).await;
    for version in 1..=50 {
        let path = format!("/page/{version}");
        assert_eq!(other.shows(&path).await, version - 1);
        other.is_written().await;
        data.set(version);
        let done = other.cache.invalidate(Selector::tag("data"));
        done.everywhere().await.expect("told");
        assert_eq!(deaf.shows(&path).await, version, "at once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_filled_right_after_an_invalidation_is_a_hit_on_other_nodes() {
    let (server, data) = (RedisServer::start(), Data::default());
    let one = Node::connected(Cache::redis(server.url(), "after"), &data).await;
    let other = Node::connected(Cache::redis(server.url(), "after"), &data).await;
    // What it has made itself is still in its memory when it is invalidated.
    assert_eq!(other.shows("/page").await, 0);
    for version in 1..=20 {
        data.set(version);
        // As a client does that reads what it has just changed.
        let done = one.cache.invalidate(Selector::tag("data"));
        assert_eq!(one.shows("/page").await, version);
        one.is_written().await;
        done.everywhere().await.expect("told");
        assert_eq!(other.shows("/page").await, version);
        assert_eq!(
            other.origin.calls(),
            1,
            "what the other node has made is as new"
        );
    }
}
