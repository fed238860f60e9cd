//! N4: many nodes, all of which lose their connections at the same moment.

use tower_response_cache::{Cache, Selector};

use crate::{
    node::{Data, Node, within_a_second},
    support::{eventually, redis_server::RedisServer},
};

const NODES: usize = 50;
/// Two for commands, and one on which messages come.
const CONNECTIONS: usize = 3;

fn accepted(server: &RedisServer) -> usize {
    let info = server.command(&["INFO", "stats"]);
    let mut lines = info.text().lines();
    let count = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
    let count = count.and_then(|count| count.parse().ok());
    count.expect("Redis counts them")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_nodes_come_back_after_a_restart_without_a_storm() {
    let (server, data) = (RedisServer::start(), Data::default());
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(Node::connected(Cache::redis(server.url(), "many"), &data).await);
    }
    for node in &nodes {
        assert_eq!(node.shows("/page").await, 0);
    }
    server.restart();
    for node in &nodes {
        node.hears().await;
    }
    // Each connection is made once, with a few more where a busy machine was late; besides one for
    // each question of this test.
    let made = accepted(&server);
    println!("{made} connections of {NODES} nodes");
    assert!(made >= NODES * CONNECTIONS, "{made}");
    assert!(made <= 2 * NODES * CONNECTIONS, "{made}");
    data.set(1);
    let done = nodes[0].cache.invalidate(Selector::tag("data"));
    done.everywhere().await.expect("told");
    for node in &nodes {
        within_a_second(node, "/page", 1).await;
    }
    let is_told = || nodes.iter().all(|node| node.cache.health().is_good());
    eventually("all are well", is_told).await;
}
