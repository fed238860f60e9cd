//! N3: one fill for all nodes, where a layer asks for it.

use std::time::Duration;

use tokio::task::JoinSet;
use tower_response_cache::{Cache, CachePolicy, ResponseCacheLayer};

use crate::{
    node::{Data, Node},
    support::{
        App, Origin, eventually,
        fault_proxy::{Fault, FaultProxy},
        get,
        redis_server::RedisServer,
        scripted::response,
    },
};

const WITHIN: Duration = Duration::from_secs(2);

fn leased(layer: ResponseCacheLayer) -> ResponseCacheLayer {
    layer.lease(WITHIN)
}

/// A thousand clients on three nodes ask for one cold key; how often handlers are called.
async fn calls_for_a_cold_key(
    namespace: &str,
    layer: fn(ResponseCacheLayer) -> ResponseCacheLayer,
    expected: u64,
) -> u64 {
    const CLIENTS: usize = 1_000;
    let (server, data) = (RedisServer::start(), Data::default());
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let builder = Cache::redis(server.url(), namespace);
        nodes.push(Node::connected_with(builder, &data, layer).await);
    }
    for node in &nodes {
        node.shut();
    }
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let app = nodes[number % nodes.len()].app.clone();
        clients.spawn(async move { get(&app, "/page").await.text().to_owned() });
    }
    let reads = || nodes.iter().map(Node::reads).sum::<u64>();
    // The handlers wait until every node has asked, and nobody else is called.
    let all_wait = || {
        let misses = nodes.iter().map(|node| node.cache.stats().remote().reads());
        reads() == expected && misses.min() > Some(0)
    };
    eventually("every node wants it", all_wait).await;
    for node in &nodes {
        node.open();
    }
    while let Some(answer) = clients.join_next().await {
        assert_eq!(answer.expect("an answer"), "/page v0");
    }
    reads()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_on_three_nodes_cost_one_call_with_the_lease_and_three_without() {
    assert_eq!(calls_for_a_cold_key("without", |layer| layer, 3).await, 3);
    assert_eq!(calls_for_a_cold_key("with", leased, 1).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_node_that_fills_is_cut_off_the_rest_go_on_within_the_limit() {
    let (server, data) = (RedisServer::start(), Data::default());
    let proxy = FaultProxy::start(server.addr());
    let dead = Node::connected_with(Cache::redis(proxy.url(), "dead"), &data, leased).await;
    let builder = || Cache::redis(server.url(), "dead");
    let first = Node::connected_with(builder(), &data, leased).await;
    let second = Node::connected_with(builder(), &data, leased).await;
    dead.shut();
    let app = dead.app.clone();
    let hangs = tokio::spawn(async move { get(&app, "/page").await });
    eventually("it fills", || dead.reads() == 1).await;
    assert_eq!(server.keys("dead:lease:*").len(), 1);
    proxy.set(Fault::BlackHole);
    let (one, other) = tokio::join!(first.shows("/page"), second.shows("/page"));
    assert_eq!((one, other), (0, 0));
    assert!(
        first.reads() + second.reads() <= 2,
        "each for itself at the most"
    );
    assert_eq!(dead.reads(), 1);
    hangs.abort();
}

/// A node whose handler fails when it is called for the first time on any.
fn failing(server: &RedisServer, failed: &'static std::sync::Once) -> (Cache, Origin, App) {
    let cache = Cache::redis(server.url(), "failing").build().unwrap();
    let origin = Origin::new(move |_, _| async move {
        let mut is_first = false;
        failed.call_once(|| is_first = true);
        match is_first {
            true => response(500, &[], "broken"),
            false => response(200, &[("cache-control", "max-age=60")], "good"),
        }
    });
    // So long that it does not end by itself while this is tested.
    let layer = ResponseCacheLayer::new(&cache).lease(Duration::from_secs(600));
    let app = origin.behind(&layer);
    (cache, origin, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_given_back_when_its_fill_is_not_stored() {
    static FAILED: std::sync::Once = std::sync::Once::new();
    let server = RedisServer::start();
    let (cache, _, app) = failing(&server, &FAILED);
    let (other, ..) = failing(&server, &FAILED);
    cache.connect().await.unwrap();
    other.connect().await.unwrap();
    assert_eq!(get(&app, "/page").await.status, 500);
    let is_free = || server.keys("failing:lease:*").is_empty();
    eventually("it is given back", is_free).await;
    assert_eq!(get(&app, "/page").await.text(), "good");
    eventually("and again", is_free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_would_wait_gets_what_is_stale_where_that_may_stand_in() {
    let server = RedisServer::start();
    let stale = |layer: ResponseCacheLayer| leased(layer).stale_if_error(Duration::from_secs(600));
    let node = |data: Data| {
        let cache = Cache::redis(server.url(), "stale").build().unwrap();
        let origin = Origin::new(move |_, _| {
            let version = data.read();
            async move {
                let mut response = response(200, &[], format!("v{version}"));
                let policy = CachePolicy::ttl(Duration::from_millis(1));
                response.extensions_mut().insert(policy);
                response
            }
        });
        let app = origin.behind(&stale(ResponseCacheLayer::new(&cache)));
        (cache, origin, app)
    };
    let (cache, origin, app) = node(Data::default());
    cache.connect().await.unwrap();
    assert_eq!(get(&app, "/page").await.text(), "v0");
    eventually("it is written", || {
        cache.stats().remote().outbox_bytes() == 0
    })
    .await;
    let is_free = || server.keys("stale:lease:*").is_empty();
    eventually("it is given back", is_free).await;
    // Another node fills, as its lease says.
    let names = server.keys("stale:response:*");
    let lease = names[0].replacen(":response:", ":lease:response:", 1);
    server.command(&["SET", &lease, "1"]).ok();
    let stale = get(&app, "/page").await;
    assert_eq!((stale.text(), origin.calls()), ("v0", 1));
    assert!(
        stale.cache_status().contains("hit"),
        "{}",
        stale.cache_status()
    );
}
