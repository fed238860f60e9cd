//! One key that several save at once: what the source has in the end, the cache shows.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use tower_response_cache::{Cache, Repository, Selector, Source};

use crate::{
    node::{Data, Node},
    support::{
        eventually,
        fault_proxy::{Fault, FaultProxy},
        redis_server::RedisServer,
    },
};

/// A row; a save that is held has written it, and has not returned.
#[derive(Clone)]
struct Row {
    value: Arc<AtomicU64>,
    loads: Arc<AtomicUsize>,
    holds_next: Arc<AtomicBool>,
    is_held: Arc<AtomicBool>,
    door: Arc<Semaphore>,
}

impl Row {
    fn new() -> Self {
        Self {
            value: Arc::default(),
            loads: Arc::default(),
            holds_next: Arc::default(),
            is_held: Arc::default(),
            door: Arc::new(Semaphore::new(0)),
        }
    }

    /// Begins a save, and returns when it has written.
    async fn begin_save(&self, rows: &Repository<Self>, value: u64) -> tokio::task::JoinHandle<()> {
        self.holds_next.store(true, Ordering::SeqCst);
        let rows = rows.clone();
        let saving =
            tokio::spawn(async move { rows.save(0, value).await.expect("it never fails") });
        let is_held = || self.is_held.swap(false, Ordering::SeqCst);
        eventually("it has written", is_held).await;
        saving
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

impl Source for Row {
    type Key = u64;
    type Value = u64;
    type Error = Infallible;

    async fn load(&self, _: &u64) -> Result<Option<u64>, Infallible> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        Ok(Some(self.value.load(Ordering::SeqCst)))
    }
    async fn save(&self, _: &u64, value: &u64) -> Result<(), Infallible> {
        self.value.store(*value, Ordering::SeqCst);
        if self.holds_next.swap(false, Ordering::SeqCst) {
            self.is_held.store(true, Ordering::SeqCst);
            self.door.acquire().await.expect("never closed").forget();
        }
        Ok(())
    }
    async fn delete(&self, _: &u64) -> Result<(), Infallible> {
        unreachable!("nothing is deleted")
    }
}

async fn shown(rows: &Repository<Row>) -> u64 {
    rows.get(0).await.expect("it never fails").expect("a row")
}

async fn is_written(cache: &Cache) {
    let is_written = || cache.stats().remote().outbox_bytes() == 0;
    eventually("it is written", is_written).await;
}

async fn connected(url: String) -> Cache {
    let data = Data::default();
    let node = Node::connected(Cache::redis(url, "saves"), &data).await;
    node.cache
}

async fn all_are_told(cache: &Cache) {
    let done = cache.invalidate(Selector::tag("told after that"));
    done.everywhere().await.expect("told");
}

#[tokio::test]
async fn of_two_saves_at_once_the_later_one_to_return_does_not_bring_back_the_older_value() {
    let (cache, row) = (Cache::in_memory(), Row::new());
    let rows = cache.repository("row", row.clone()).write_through();
    let older = row.begin_save(&rows, 1).await;
    rows.save(0, 2).await.expect("it never fails");
    row.door.add_permits(1);
    older.await.unwrap();
    assert_eq!(shown(&rows).await, 2);
    assert_eq!(shown(&rows).await, 2);
    assert_eq!(row.loads(), 1, "nobody knew, so it was loaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_saves_on_two_nodes_at_once_both_have_what_the_source_has() {
    let server = RedisServer::start();
    // What one node tells is on its way to the other one for a moment.
    let proxy = FaultProxy::start(server.addr());
    let row = Row::new();
    let (one, other) = (connected(proxy.url()).await, connected(server.url()).await);
    let rows = |cache: &Cache| cache.repository("row", row.clone()).write_through();
    let (here, there) = (rows(&one), rows(&other));
    proxy.set(Fault::Delay(
        Duration::from_millis(12)..Duration::from_millis(12),
    ));
    for round in 0..20 {
        let (first, second) = (10 * round + 1, 10 * round + 2);
        // Each in turn is the one that returns last with what is not there any more.
        let (older, newer) = match round % 2 {
            0 => (&here, (&there, &other)),
            _ => (&there, (&here, &one)),
        };
        let older = row.begin_save(older, first).await;
        newer.0.save(0, second).await.expect("it never fails");
        all_are_told(newer.1).await;
        row.door.add_permits(1);
        older.await.unwrap();
        let begin = Instant::now();
        all_are_told(&one).await;
        all_are_told(&other).await;
        is_written(&one).await;
        is_written(&other).await;
        loop {
            let asked = begin.elapsed();
            let known = (shown(&here).await, shown(&there).await);
            if known == (second, second) {
                break;
            }
            assert!(
                asked < Duration::from_millis(1_500),
                "round {round}: {known:?} after {asked:?}, not {second}"
            );
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_at_a_time_saves_is_a_hit_on_all() {
    let server = RedisServer::start();
    let row = Row::new();
    let (one, other) = (connected(server.url()).await, connected(server.url()).await);
    let rows = |cache: &Cache| cache.repository("row", row.clone()).write_through();
    let (here, there) = (rows(&one), rows(&other));
    let mut loads = 0;
    for round in 1..=20 {
        let (saver, reader) = match round % 2 {
            0 => ((&here, &one), (&there, &other)),
            _ => ((&there, &other), (&here, &one)),
        };
        saver.0.save(0, round).await.expect("it never fails");
        let before = row.loads();
        assert_eq!(shown(saver.0).await, round);
        assert_eq!(row.loads(), before, "written through");
        is_written(saver.1).await;
        all_are_told(reader.1).await;
        let begin = Instant::now();
        while shown(reader.0).await != round {
            assert!(begin.elapsed() < Duration::from_millis(1_500));
            tokio::task::yield_now().await;
        }
        loads += row.loads() - before;
    }
    assert!(
        loads <= 5,
        "{loads} loads of 20 values that were written through"
    );
}
