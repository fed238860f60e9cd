//! Values on several nodes: what one sets, deletes or invalidates, no other has in an older form.

use std::time::{Duration, Instant};

use tower_response_cache::{Cache, Selector};

use crate::{
    node::{Data, Node},
    support::{
        eventually,
        fault_proxy::{Fault, FaultProxy},
        redis_server::RedisServer,
    },
};

async fn two(server: &RedisServer) -> (Cache, Cache) {
    let data = Data::default();
    let node = || async {
        Node::connected(Cache::redis(server.url(), "values"), &data)
            .await
            .cache
    };
    (node().await, node().await)
}

/// Asks until a node has this value, or has none; it is never one that is older than a second.
async fn has(cache: &Cache, key: &str, value: Option<u64>) {
    let begin = Instant::now();
    loop {
        let asked = begin.elapsed();
        let known = cache.get::<u64>(key).await.expect("a good key");
        if known.as_deref() == value.as_ref() {
            return;
        }
        assert!(
            known.is_none() || asked < Duration::from_millis(1_500),
            "{key} is {known:?} after {asked:?}, not {value:?}",
        );
        assert!(
            asked < Duration::from_secs(30),
            "{key} is not {value:?}: {}",
            cache.stats()
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_set_one_key_in_turn_have_the_latest_value() {
    let server = RedisServer::start();
    let (one, other) = two(&server).await;
    for round in 0..50 {
        let (here, there) = if round % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        here.set("user:42", round).await.unwrap();
        assert_eq!(here.get("user:42").await.unwrap().as_deref(), Some(&round));
        has(there, "user:42", Some(round)).await;
    }
    one.delete("user:42").await.unwrap();
    assert_eq!(one.get::<u64>("user:42").await.unwrap(), None);
    has(&other, "user:42", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_selected_on_one_node_is_loaded_anew_on_the_other() {
    let server = RedisServer::start();
    let (one, other) = two(&server).await;
    for round in 0..30_u64 {
        let load = || async move { round };
        let minute = Duration::from_secs(60);
        for cache in [&one, &other] {
            let loaded = cache.get_or_set(("user", 42), minute, load).await.unwrap();
            assert_eq!(*loaded, round);
        }
        let selector = match round % 3 {
            0 => Selector::values("user:*"),
            1 => Selector::values("user:42"),
            _ => Selector::all(),
        };
        one.invalidate(selector).everywhere().await.expect("told");
        assert_eq!(one.get::<u64>("user:42").await.unwrap(), None);
        has(&other, "user:42", None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_set_while_messages_are_late_is_read_within_a_second() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let data = Data::default();
    let slow = Node::connected(Cache::redis(proxy.url(), "values"), &data)
        .await
        .cache;
    let (writer, _) = two(&server).await;
    writer.set("key", 0_u64).await.unwrap();
    has(&slow, "key", Some(0)).await;
    let late = Duration::from_millis(500);
    proxy.set(Fault::Delay(late..late));
    writer.set("key", 1_u64).await.unwrap();
    let begin = Instant::now();
    while slow.get::<u64>("key").await.unwrap().as_deref() == Some(&0) {
        assert!(
            begin.elapsed() < Duration::from_millis(1_500),
            "{}",
            slow.health()
        );
        tokio::task::yield_now().await;
    }
    proxy.set(Fault::None);
    has(&slow, "key", Some(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_invalidated_while_its_own_record_is_on_its_way_is_nowhere() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let data = Data::default();
    let writer = Node::connected(Cache::redis(proxy.url(), "values"), &data)
        .await
        .cache;
    let (other, _) = two(&server).await;
    let late = Duration::from_millis(15);
    proxy.set(Fault::Delay(late..late));
    for round in 0..30_u64 {
        let key = format!("key:{round}");
        // While this one is told, those after it wait and are told together.
        writer.invalidate(Selector::values("another"));
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        writer.set(&*key, round).tags(["page"]).await.unwrap();
        // Its write begins, and waits until its record was told.
        eventually("it is being written", || {
            writer.stats().remote().outbox_bytes() > 0
        })
        .await;
        let invalidated = writer.invalidate(Selector::tag("page"));
        invalidated.everywhere().await.expect("told");
        eventually("it was written, or is not to be", || {
            writer.stats().remote().outbox_bytes() == 0
        })
        .await;
        for (who, cache) in [("the writer", &writer), ("the other", &other)] {
            let known = cache.get::<u64>(&*key).await.unwrap();
            assert_eq!(known, None, "{who} has what was invalidated");
        }
    }
    proxy.set(Fault::None);
    writer.set("after", 1_u64).tags(["page"]).await.unwrap();
    has(&other, "after", Some(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_while_redis_was_away_is_not_older_than_what_others_have() {
    let server = RedisServer::start();
    let (one, other) = two(&server).await;
    one.set("key", 1_u64).await.unwrap();
    has(&other, "key", Some(1)).await;
    server.kill();
    one.set("key", 2_u64).await.unwrap();
    assert_eq!(
        one.get::<u64>("key").await.unwrap().as_deref(),
        Some(&2),
        "here at once"
    );
    server.restart();
    eventually("they are told", || one.health().untold() == 0).await;
    // The value itself was not written; nobody has the old one.
    let begin = Instant::now();
    loop {
        match other.get::<u64>("key").await.unwrap().as_deref() {
            None | Some(2) => break,
            Some(known) => assert!(begin.elapsed() < Duration::from_secs(2), "still {known}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_of_a_value_is_invalidated_with_it_on_every_node() {
    let server = RedisServer::start();
    let (one, other) = two(&server).await;
    let minute = Duration::from_secs(60);
    let sum = async |cache: &Cache| {
        let part = || async { *cache.get::<u64>("part").await.unwrap().unwrap_or_default() };
        let half = || async { *cache.get_or_set("half", minute, part).await.unwrap() };
        *cache.get_or_set("sum", minute, half).await.unwrap()
    };
    for round in 1..=20_u64 {
        let (here, there) = if round % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        here.set("part", round).await.unwrap();
        let selected = here.invalidate(Selector::tag("told after that"));
        selected.everywhere().await.expect("told");
        assert_eq!(sum(here).await, round, "at once on the same node");
        eventually("it is written", || {
            here.stats().remote().outbox_bytes() == 0
        })
        .await;
        let begin = Instant::now();
        loop {
            let asked = begin.elapsed();
            let known = sum(there).await;
            if known == round {
                break;
            }
            assert!(asked < Duration::from_millis(1_500), "{known}, not {round}");
            tokio::task::yield_now().await;
        }
    }
    // Its tags went to the store with it: there the node has it from.
    let loads = |cache: &Cache| cache.stats().value_loads();
    assert!(loads(&one) + loads(&other) < 80, "nothing is shared");
}
