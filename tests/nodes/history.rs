//! V5: values and the pages that are made from them, on nodes that write, read and tell events at random.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::body::Body;
use http::Response;
use tower_response_cache::{Cache, CacheBuilder, Repository, ResponseCacheLayer, Selector, Source};

use crate::support::{
    App, Origin,
    dice::Dice,
    eventually,
    fault_proxy::{Fault, FaultProxy},
    get, get_with,
    redis_server::RedisServer,
};

const KEYS: usize = 5;
/// What the nodes promise, with half a second for a machine that does other things.
const SOON: Duration = Duration::from_millis(1_500);

/// The rows of all nodes: versions, of which a later one is never replaced by an earlier one.
#[derive(Clone, Default)]
struct Rows(Arc<Mutex<BTreeMap<usize, u64>>>);

impl Rows {
    fn next(&self) -> u64 {
        let mut rows = self.0.lock().unwrap();
        let next = rows.entry(KEYS).or_default();
        *next += 1;
        *next
    }

    fn put(&self, key: usize, version: u64) {
        let mut rows = self.0.lock().unwrap();
        let row = rows.entry(key).or_default();
        *row = version.max(*row);
    }
}

impl Source for Rows {
    type Key = usize;
    type Value = u64;
    type Error = Infallible;

    async fn load(&self, key: &usize) -> Result<Option<u64>, Infallible> {
        let row = self.0.lock().unwrap().get(key).copied();
        // Others come in between.
        tokio::task::yield_now().await;
        Ok(Some(row.unwrap_or_default()))
    }
    async fn save(&self, key: &usize, version: &u64) -> Result<(), Infallible> {
        self.put(*key, *version);
        Ok(())
    }
    async fn delete(&self, _: &usize) -> Result<(), Infallible> {
        unreachable!("nothing is deleted")
    }
}

struct Changed(usize);

struct Node {
    cache: Cache,
    rows: Repository<Rows>,
    app: App,
}

impl Node {
    async fn connected(builder: CacheBuilder, table: &Rows) -> Self {
        let cache = builder.build().expect("good settings");
        cache.connect().await.expect("Redis is there");
        cache.on(|event: &Changed| [Selector::values(&format!("row:{}", event.0))]);
        let rows = cache.repository("row", table.clone());
        let read = rows.clone();
        let origin = Origin::new(move |_, request| {
            let rows = read.clone();
            async move {
                let key = request.uri().path()[1..].parse().expect("a number");
                let row = rows.get(key).await.expect("it never fails");
                Response::new(Body::from(row.unwrap_or_default().to_string()))
            }
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let node = Self { cache, rows, app };
        node.hears().await;
        node
    }

    /// Waits until messages come.
    async fn hears(&self) {
        let hears = || self.cache.health().is_hearing() == Some(true);
        eventually("messages come", hears).await;
    }

    /// Asks for the page of row 0 until it shows a version, which was acknowledged then.
    async fn shows_soon(&self, version: u64, acknowledged: Instant) {
        loop {
            let asked = acknowledged.elapsed();
            let shown = get(&self.app, "/0").await.text().to_owned();
            if shown == version.to_string() {
                return;
            }
            assert!(
                asked < SOON,
                "it shows {shown} after {asked:?}, not {version}"
            );
            tokio::task::yield_now().await;
        }
    }
}

/// Which version of which key, when, and by which node.
type Write = (usize, u64, Instant, usize);

/// What was acknowledged.
#[derive(Clone, Default)]
struct Acknowledged(Arc<Mutex<Vec<Write>>>);

impl Acknowledged {
    fn note(&self, key: usize, version: u64, node: usize) {
        self.0
            .lock()
            .unwrap()
            .push((key, version, Instant::now(), node));
    }

    /// The oldest version that a node may show from now on.
    fn least(&self, key: usize, node: usize) -> u64 {
        let now = Instant::now();
        let all = self.0.lock().unwrap();
        let counts = |at: Instant, by| by == node || now - at > SOON;
        let of_key = all
            .iter()
            .filter(|(of, _, at, by)| *of == key && counts(*at, *by));
        of_key
            .map(|(_, version, ..)| *version)
            .max()
            .unwrap_or_default()
    }
}

async fn history(node: &Node, number: usize, table: &Rows, acknowledged: &Acknowledged) -> usize {
    let mut dice = Dice::new(40 + number as u64);
    let mut hits = 0;
    for step in 0..600 {
        let key = dice.below(KEYS);
        match dice.below(20) {
            // Some rows are only written, of some only events tell, and of some both.
            0 if key != 0 => {
                let version = table.next();
                node.rows.save(key, version).await.expect("it never fails");
                acknowledged.note(key, version, number);
            }
            1 if key != 1 => {
                let version = table.next();
                table.put(key, version);
                node.cache.emit(&Changed(key)).await;
                acknowledged.note(key, version, number);
            }
            0..=9 => {
                let least = acknowledged.least(key, number);
                let shown = node
                    .rows
                    .get(key)
                    .await
                    .expect("it never fails")
                    .unwrap_or_default();
                assert!(
                    shown >= least,
                    "node {number}, step {step}: row {key} is {shown}, not {least}"
                );
            }
            _ => {
                let least = acknowledged.least(key, number);
                let answer = get(&node.app, &format!("/{key}")).await;
                hits += usize::from(answer.is_hit());
                let shown: u64 = answer.text().parse().expect("a version");
                assert!(
                    shown >= least,
                    "node {number}, step {step}: page {key} shows {shown}, not {least}"
                );
            }
        }
        // Spread over some seconds: what is promised here is promised of time.
        let pause = Duration::from_millis(dice.below(16) as u64);
        tokio::time::sleep(pause).await; // Real time, in which messages are under way.
    }
    hits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_history_on_three_nodes_shows_nothing_older_than_was_acknowledged() {
    let (server, table) = (RedisServer::start(), Rows::default());
    let proxy = FaultProxy::start(server.addr());
    let node = |url: String| Node::connected(Cache::redis(url, "rows"), &table);
    let nodes = [
        node(server.url()).await,
        node(server.url()).await,
        node(proxy.url()).await,
    ];
    let late = Duration::from_millis(500);
    proxy.set(Fault::Delay(late..late));
    let acknowledged = Acknowledged::default();
    let [one, other, slow] = &nodes;
    let hits = tokio::join!(
        history(one, 0, &table, &acknowledged),
        history(other, 1, &table, &acknowledged),
        history(slow, 2, &table, &acknowledged),
    );
    assert!(
        hits.0 > 50 && hits.1 > 50,
        "there was something to be wrong: {hits:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_made_from_an_old_value_on_another_node_is_new_as_soon_as_that_hears_of_the_change()
{
    let (server, table) = (RedisServer::start(), Rows::default());
    let proxy = FaultProxy::start(server.addr());
    let writer = Node::connected(Cache::redis(server.url(), "old"), &table).await;
    let reader = Node::connected(Cache::redis(proxy.url(), "old"), &table).await;
    for version in 1..=3 {
        reader.rows.get(0).await.expect("it never fails");
        let late = Duration::from_millis(500);
        proxy.set(Fault::Delay(late..late));
        writer.rows.save(0, version).await.expect("it never fails");
        // Made now, from what memory has: the message is on its way.
        let begin = Instant::now();
        get(&reader.app, "/0").await;
        reader.shows_soon(version, begin).await;
        proxy.set(Fault::None);
        reader.hears().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_made_from_an_old_value_looks_no_newer_than_that_though_its_node_has_seen_a_later_number()
 {
    let (server, table) = (RedisServer::start(), Rows::default());
    let proxy = FaultProxy::start(server.addr());
    let writer = Node::connected(Cache::redis(server.url(), "seen"), &table).await;
    let reader = Node::connected(Cache::redis(proxy.url(), "seen"), &table).await;
    let mut made_from_old = 0;
    for version in 1..=8 {
        reader.rows.get(0).await.expect("it never fails");
        proxy.set(Fault::DelayMessages(Duration::from_millis(500)));
        writer.rows.save(0, version).await.expect("it never fails");
        let done = writer.cache.invalidate(Selector::tag("to be told"));
        done.everywhere().await.expect("told");
        let acknowledged = Instant::now();
        // The answer to this has a later number than the record of the row, which is still on its way.
        let done = reader.cache.invalidate(Selector::tag("other"));
        done.everywhere().await.expect("told");
        // Not looked up in Redis, whose answer would have the log read.
        let anew = get_with(&reader.app, "/0", &[("cache-control", "no-cache")]);
        made_from_old += usize::from(anew.await.text() != version.to_string());
        reader.shows_soon(version, acknowledged).await;
        proxy.set(Fault::None);
        reader.hears().await;
    }
    assert!(made_from_old > 0, "no page was made from an old value");
}
