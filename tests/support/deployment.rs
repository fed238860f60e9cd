//! Redis in many processes: a cluster, and a primary that is watched by sentinels. Each process is
//! started and ended by its own handle; dropping a deployment ends all.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::redis_server::{RedisServer, Reply, free_port};

/// The end of every wait, for a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);
const SLOTS: usize = 16_384;
const PRIMARIES: usize = 3;

/// What sentinels call the primary.
pub(crate) const SERVICE: &str = "the-primary";
/// Of the servers; sentinels have none.
const PASSWORD: &str = "word";

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "still not: {what}");
        // A politeness to the servers, on a machine of few cores.
        thread::park_timeout(Duration::from_millis(10));
    }
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Not where there is no answer: a server that changes its role ends its connections.
fn info_says(server: &RedisServer, line: &str) -> bool {
    let info = server.ask(&["INFO", "replication"]);
    info.is_ok_and(|info| info.text().lines().any(|said| said == line))
}

/// Ends the connections of halted replicas, to which more would come otherwise even then.
pub(crate) fn cut_off_replicas(primary: &RedisServer) {
    let kill = ["CLIENT", "KILL", "TYPE", "REPLICA"];
    assert!(primary.command(&kill).integer() > 0, "they were connected");
}

fn comma_separated(servers: &[RedisServer]) -> String {
    let hosts = servers.iter().map(|server| server.addr().to_string());
    hosts.collect::<Vec<_>>().join(",")
}

/// Three primaries with a replica each.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// First those that are primaries at the beginning, then their replicas in the same order.
    pub(crate) nodes: Vec<RedisServer>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for each node.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let mut buses = Vec::new();
        let nodes: Vec<_> = (0..2 * PRIMARIES)
            .map(|_| {
                let bus = free_port().to_string();
                let mut all = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
                all.extend(["--cluster-node-timeout", "1000"]);
                all.extend(["--repl-diskless-sync-delay", "0"]);
                all.extend(arguments);
                let server = RedisServer::start_with(&all);
                buses.push(bus);
                server
            })
            .collect();
        for (at, node) in nodes.iter().enumerate() {
            let epoch = (at + 1).to_string();
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).ok();
        }
        let first = nodes[0].port().to_string();
        for node in &nodes[1..] {
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &first, &buses[0]];
            node.command(&meet).ok();
        }
        for (at, node) in nodes[..PRIMARIES].iter().enumerate() {
            let slots = SLOTS * at / PRIMARIES..SLOTS * (at + 1) / PRIMARIES;
            let mut add = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
            add.extend(slots.map(|slot| slot.to_string()));
            node.command(&words(&add)).ok();
        }
        let cluster = Self { nodes };
        let all = format!("cluster_known_nodes:{}", cluster.nodes.len());
        until("all know all", || cluster.all_say(&all));
        for (primary, replica) in cluster.nodes[..PRIMARIES]
            .iter()
            .zip(&cluster.nodes[PRIMARIES..])
        {
            let id = id_of(primary);
            until("it may follow", || {
                replica.command(&["CLUSTER", "REPLICATE", &id]) == Reply::Simple("OK".to_owned())
            });
        }
        for replica in &cluster.nodes[PRIMARIES..] {
            until("replicas have all", || {
                info_says(replica, "master_link_status:up")
            });
        }
        until("all is well", || cluster.all_say("cluster_state:ok"));
        cluster
    }

    fn all_say(&self, line: &str) -> bool {
        self.nodes.iter().all(|node| {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.text().lines().any(|said| said == line)
        })
    }

    /// With three of the six.
    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://{}", comma_separated(&self.nodes[2..5]))
    }

    /// Which node has the slot of a key now, asked of one that runs.
    pub(crate) fn owner(&self, key: &str, asked: usize) -> usize {
        let slot = slot_of(&self.nodes[asked], key);
        let Reply::Array(ranges) = self.nodes[asked].command(&["CLUSTER", "SLOTS"]) else {
            panic!("no list of slots");
        };
        let port = ranges.iter().find_map(|range| {
            let Reply::Array(parts) = range else {
                panic!("no range: {range:?}");
            };
            let has_it = (parts[0].integer()..=parts[1].integer()).contains(&slot);
            let Reply::Array(primary) = &parts[2] else {
                panic!("no node: {parts:?}");
            };
            has_it.then(|| primary[1].integer())
        });
        let is_it = |node: &RedisServer| Some(i64::from(node.port())) == port;
        self.nodes
            .iter()
            .position(is_it)
            .expect("one of them has the slot")
    }

    /// Waits until a node is a primary, and a running one sees the cluster whole.
    pub(crate) fn until_primary(&self, node: usize) {
        let node = &self.nodes[node];
        until("it has taken over", || info_says(node, "role:master"));
        until("the cluster is whole", || {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.text().contains("cluster_state:ok")
        });
    }

    /// The first of two steps of moving a slot: its keys are at the new node, and the old one sends
    /// those who ask for them there.
    pub(crate) fn begin_to_move(&self, slot: i64, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let slot = slot.to_string();
        let (from_id, to_id) = (id_of(from), id_of(to));
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])
            .ok();
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])
            .ok();
        let port = to.port().to_string();
        loop {
            let Reply::Array(keys) = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"])
            else {
                panic!("no list of keys");
            };
            if keys.is_empty() {
                return;
            }
            for key in keys {
                from.command(&["MIGRATE", "127.0.0.1", &port, key.text(), "0", "5000"]);
            }
        }
    }

    /// The second: all nodes know.
    pub(crate) fn end_moving(&self, slot: i64, from: usize, to: usize) {
        let id = id_of(&self.nodes[to]);
        for node in [to, from] {
            let slot = slot.to_string();
            self.nodes[node]
                .command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id])
                .ok();
        }
    }
}

fn id_of(node: &RedisServer) -> String {
    node.command(&["CLUSTER", "MYID"]).text().to_owned()
}

pub(crate) fn slot_of(node: &RedisServer, key: &str) -> i64 {
    node.command(&["CLUSTER", "KEYSLOT", key]).integer()
}

/// A primary, two replicas, three sentinels.
#[derive(Debug)]
pub(crate) struct Watched {
    /// First the one that is the primary at the beginning.
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) sentinels: Vec<RedisServer>,
}

impl Watched {
    pub(crate) fn start() -> Self {
        let servers: Vec<_> = (0..3)
            .map(|_| {
                RedisServer::start_with(&[
                    "--repl-diskless-sync-delay",
                    "0",
                    "--requirepass",
                    PASSWORD,
                    "--masterauth",
                    PASSWORD,
                ])
            })
            .collect();
        let port = servers[0].port().to_string();
        for replica in &servers[1..] {
            replica.command(&["REPLICAOF", "127.0.0.1", &port]).ok();
        }
        for replica in &servers[1..] {
            until("replicas have all", || {
                info_says(replica, "master_link_status:up")
            });
        }
        let sentinels: Vec<_> = (0..3)
            .map(|_| RedisServer::start_with(&["--sentinel"]))
            .collect();
        for sentinel in &sentinels {
            let monitor = ["SENTINEL", "MONITOR", SERVICE, "127.0.0.1", &port, "2"];
            sentinel.command(&monitor).ok();
            for (name, value) in [
                ("auth-pass", PASSWORD),
                ("down-after-milliseconds", "1000"),
                ("failover-timeout", "2000"),
            ] {
                let set = ["SENTINEL", "SET", SERVICE, name, value];
                sentinel.command(&set).ok();
            }
        }
        let watched = Self { servers, sentinels };
        until("sentinels know each other and the replicas", || {
            watched.sentinels.iter().all(|sentinel| {
                let count = |what| match sentinel.command(&["SENTINEL", what, SERVICE]) {
                    Reply::Array(found) => found.len(),
                    other => panic!("no list: {other:?}"),
                };
                count("SENTINELS") == 2 && count("REPLICAS") == 2
            })
        });
        watched
    }

    pub(crate) fn url(&self) -> String {
        let sentinels = comma_separated(&self.sentinels);
        format!("redis-sentinel://:{PASSWORD}@{sentinels}/{SERVICE}")
    }

    /// Waits until one of these is the primary; which.
    pub(crate) fn until_one_is_primary(&self, candidates: &[usize]) -> usize {
        let mut found = None;
        until("one has taken over", || {
            let is_primary = |at: &&usize| info_says(&self.servers[**at], "role:master");
            found = candidates.iter().find(is_primary).copied();
            found.is_some()
        });
        found.expect("waited for")
    }
}
