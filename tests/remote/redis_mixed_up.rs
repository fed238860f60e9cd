//! Replies that change places, are lost or come twice: a miss at worst, and never another key's
//! body.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    self, App,
    fault_proxy::{Fault, FaultProxy},
    load::{CLIENTS, body_of, origin},
    redis_server::RedisServer,
};
use tokio::{task::JoinSet, time::sleep};
use tower_response_cache::{Cache, FrameFault, RemoteStats, ResponseCacheLayer};

/// So many requests ask Redis, in all three tests together.
const REQUESTS: u64 = 100_000;
/// Caches, each with connections of its own: after a mix-up one leaves Redis alone for a while.
const NODES: usize = 8;
const KEYS: u64 = 400;

fn node(url: &str) -> (Cache, App) {
    let cache = Cache::redis(url, "mixed")
        .memory_ttl(Duration::ZERO)
        .build()
        .expect("good settings");
    let app = origin().behind(&ResponseCacheLayer::new(&cache));
    (cache, app)
}

/// Asks for all keys in turn, until the clients together have asked Redis often enough.
async fn client(cache: Cache, app: App, turn: Arc<AtomicU64>, left: Arc<AtomicU64>) {
    while left.load(Ordering::Relaxed) > 0 {
        let before = cache.stats().remote().reads();
        let number = turn.fetch_add(1, Ordering::Relaxed);
        let path = format!("/page/{}", number.wrapping_mul(7919) % KEYS);
        let answer = support::get(&app, &path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.body == body_of(&path),
            "{path} was answered with {}",
            answer.text().lines().next().unwrap_or_default(),
        );
        if cache.stats().remote().reads() > before {
            let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        } else {
            sleep(Duration::from_millis(5)).await; // The link is being made anew.
        }
    }
}

/// Asks through a line on which this goes wrong.
async fn mixes_up(fault: Fault) {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let nodes: Vec<_> = (0..NODES).map(|_| node(&proxy.url())).collect();
    let name = format!("{fault:?}");
    proxy.set(fault);
    let left = Arc::new(AtomicU64::new(REQUESTS.div_ceil(3)));
    let turn = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (cache, app) = nodes[number % NODES].clone();
        clients.spawn(client(cache, app, turn.clone(), left.clone()));
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("each answer is right");
    }
    let counts = proxy.counts();
    let sum = |count: fn(&RemoteStats) -> u64| -> u64 {
        let counted = nodes.iter().map(|(cache, _)| count(cache.stats().remote()));
        counted.sum()
    };
    let (reads, hits) = (sum(RemoteStats::reads), sum(RemoteStats::hits));
    let other_keys = sum(|stats| stats.refused_frames(FrameFault::OtherKey));
    let (mismatches, timeouts) = (sum(RemoteStats::mismatches), sum(RemoteStats::timeouts));
    let said = format!(
        "{name}: {turn:?} requests, {reads} reads, {hits} hits, {other_keys} of other keys, \
         {mismatches} mismatches, {timeouts} timeouts, {counts:?}",
    );
    println!("{said}");
    assert!(counts.mangled() > 20, "{said}");
    assert!(other_keys + mismatches + timeouts > 0, "{said}");
    assert!(hits > reads / 2, "of little use: {said}");
    proxy.set(Fault::None);
    for (cache, app) in &nodes {
        let begin = Instant::now();
        while !cache.health().is_good() {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{}",
                cache.health()
            );
            // Something has to try, and memory knows the pages.
            let number = turn.fetch_add(1, Ordering::Relaxed);
            support::get(app, &format!("/again/{number}")).await;
            sleep(Duration::from_millis(1)).await; // As fast as it can, it would store millions.
        }
        cache.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_change_places_are_no_mix_up() {
    mixes_up(Fault::SwapReplies(0.001)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_are_lost_are_no_mix_up() {
    mixes_up(Fault::DropReply(0.001)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_come_twice_are_no_mix_up() {
    mixes_up(Fault::InsertReply(0.001)).await;
}
