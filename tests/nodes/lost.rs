//! N2: messages that are lost, and a log that is.

use std::time::Duration;

use tower_response_cache::{Cache, Selector};

use crate::{
    node::{Data, Node, within_a_second},
    support::{
        eventually,
        fault_proxy::{Fault, FaultProxy},
        redis_server::{RedisServer, Reply},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_50_000_invalidations_none_is_lost_though_the_line_breaks() {
    const BURST: u64 = 50_000;
    let (server, data) = (RedisServer::start(), Data::default());
    let proxy = FaultProxy::start(server.addr());
    let far = Node::connected(Cache::redis(proxy.url(), "burst"), &data).await;
    let near = Node::connected(Cache::redis(server.url(), "burst"), &data).await;
    let pages: Vec<_> = (0..200).map(|page| format!("/page/{page}")).collect();
    for page in &pages {
        assert_eq!(far.shows(page).await, 0);
    }
    data.set(1);
    let mut last = None;
    for number in 0..BURST {
        // One in 250 is of a page that is there.
        let path = match number % 250 {
            0 => pages[(number / 250) as usize].clone(),
            _ => format!("/other/{number}"),
        };
        last = Some(near.cache.invalidate(Selector::resource("test", &path)));
        match number {
            10_000 => proxy.set(Fault::Cut),
            20_000 => proxy.set(Fault::None),
            _ => {}
        }
        if number % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let last = last.expect("there were some");
    eventually("all are told", || !last.is_pending()).await;
    for page in &pages {
        within_a_second(&far, page, 1).await;
    }
    let remote = near.cache.stats().remote().clone();
    assert_eq!(remote.told(), BURST, "{remote:?}");
    let remote = far.cache.stats().remote().clone();
    assert!(remote.caught_up() > 0, "{remote:?}");
    assert!(remote.heard() < BURST, "{remote:?}");
    // What was not invalidated is a hit as before.
    far.hears().await;
    assert_eq!(far.shows("/fresh").await, 1);
    let calls = far.origin.calls();
    assert_eq!(far.shows("/fresh").await, 1);
    assert_eq!(far.origin.calls(), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_lost_doubled_or_change_places_are_made_up_for() {
    for fault in [
        Fault::DropReply(0.3),
        Fault::InsertReply(0.3),
        Fault::SwapReplies(0.3),
    ] {
        let (server, data) = (RedisServer::start(), Data::default());
        let proxy = FaultProxy::start(server.addr());
        let far = Node::connected(Cache::redis(proxy.url(), "mangled"), &data).await;
        let near = Node::connected(Cache::redis(server.url(), "mangled"), &data).await;
        proxy.set(fault);
        for version in 1..=30 {
            far.shows("/page").await;
            data.set(version);
            let done = near.cache.invalidate(Selector::tag("data"));
            done.everywhere().await.expect("told");
            within_a_second(&far, "/page", version).await;
        }
    }
}

/// All nodes stop showing what they cannot vouch for, and hit again afterwards.
async fn all_begin_anew(nodes: &[&Node], data: &Data) {
    for node in nodes {
        within_a_second(node, "/page", data.read()).await;
    }
    for node in nodes {
        node.hears().await;
        node.shows("/page").await;
        let calls = node.origin.calls();
        for _ in 0..10 {
            assert_eq!(node.shows("/page").await, data.read());
        }
        assert!(node.origin.calls() <= calls + 1, "they are hits again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_flushall_nobody_shows_what_may_have_been_invalidated() {
    let (server, data) = (RedisServer::start(), Data::default());
    let first = Node::connected(Cache::redis(server.url(), "flushed"), &data).await;
    let second = Node::connected(Cache::redis(server.url(), "flushed"), &data).await;
    assert_eq!(first.shows("/page").await, 0);
    assert_eq!(second.shows("/page").await, 0);
    // Whatever was invalidated in between is gone with the log.
    data.set(1);
    server.command(&["FLUSHALL"]).ok();
    all_begin_anew(&[&first, &second], &data).await;
    let anew = |node: &Node| node.cache.stats().remote().begun_anew();
    assert!(
        anew(&first) + anew(&second) >= 2,
        "once at the start, and once more"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_empty_restart_nobody_shows_what_may_have_been_invalidated() {
    let (server, data) = (RedisServer::start(), Data::default());
    let first = Node::connected(Cache::redis(server.url(), "restarted"), &data).await;
    let second = Node::connected(Cache::redis(server.url(), "restarted"), &data).await;
    assert_eq!(first.shows("/page").await, 0);
    assert_eq!(second.shows("/page").await, 0);
    data.set(1);
    server.restart();
    all_begin_anew(&[&first, &second], &data).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_went_back_is_repaired() {
    let (server, data) = (RedisServer::start(), Data::default());
    let first = Node::connected(Cache::redis(server.url(), "behind"), &data).await;
    let second = Node::connected(Cache::redis(server.url(), "behind"), &data).await;
    first
        .cache
        .invalidate(Selector::tag("x"))
        .everywhere()
        .await
        .expect("told");
    assert_eq!(first.shows("/page").await, 0);
    assert_eq!(second.shows("/page").await, 0);
    data.set(1);
    // As a replica that was behind would have it.
    server.command(&["SET", "{behind}:seq", "1000"]).ok();
    all_begin_anew(&[&first, &second], &data).await;
    let reply = server.command(&["GET", "{behind}:seq"]);
    let number: u64 = reply.text().parse().expect("a number");
    assert!(
        number > 1_700_000_000_000_000,
        "it is a time again: {number}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_evicted_is_begun_anew() {
    let (server, data) = (RedisServer::start(), Data::default());
    let first = Node::connected(Cache::redis(server.url(), "evicted"), &data).await;
    assert_eq!(first.shows("/page").await, 0);
    first.is_written().await;
    assert_eq!(server.command(&["DEL", "{evicted}:log"]), Reply::Integer(1));
    data.set(1);
    // Who comes without having heard anything cannot know what the log had.
    let late = Node::connected(Cache::redis(server.url(), "evicted"), &data).await;
    assert_eq!(late.shows("/page").await, 1);
    within_a_second(&first, "/page", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rights_for_the_channel_the_log_is_read() {
    let (server, data) = (RedisServer::start(), Data::default());
    let rules = [
        "ACL",
        "SETUSER",
        "me",
        "on",
        ">word",
        "~*",
        "+@all",
        "resetchannels",
    ];
    server.command(&rules).ok();
    let url = server.url().replace("redis://", "redis://me:word@");
    let node = |url: String| Node::new(Cache::redis(url, "deaf"), &data);
    let (deaf, other) = (node(url.clone()), node(url));
    deaf.cache.connect().await.expect("Redis is there");
    other.cache.connect().await.expect("Redis is there");
    for version in 1..=5 {
        deaf.shows("/page").await;
        data.set(version);
        let done = other.cache.invalidate(Selector::tag("data"));
        done.everywhere().await.expect("told");
        within_a_second(&deaf, "/page", version).await;
        let calls = deaf.origin.calls();
        assert_eq!(deaf.shows("/page").await, version);
        assert_eq!(deaf.origin.calls(), calls, "a hit");
    }
    assert_eq!(deaf.cache.health().is_hearing(), Some(false));
    assert_eq!(deaf.cache.stats().remote().heard(), 0);
    tokio::time::sleep(Duration::from_millis(1_200)).await; // Longer than it is ever sure at once.
    let calls = deaf.origin.calls();
    assert_eq!(deaf.shows("/page").await, 5);
    assert_eq!(
        deaf.origin.calls(),
        calls,
        "it asks often enough to be sure"
    );
}
