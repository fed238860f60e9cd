//! Servers that go away and come back, and connections on which things go wrong.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    fault_proxy::{Fault, FaultProxy},
    log::Log,
    *,
};

#[tokio::test]
async fn a_server_that_comes_late_is_used_by_itself() {
    let server = RedisServer::start();
    server.kill();
    let store = store(&server.url());
    assert!(matches!(store.link(), Link::Connecting(_)));
    let error = store.connect().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let at = format!("127.0.0.1:{}", server.port());
    assert!(error.to_string().contains(&at), "{error}");
    assert!(read(&store, &KEY).await.is_err());
    server.restart();
    works_again(&store).await;
}

#[tokio::test]
async fn a_killed_server_is_used_again_when_it_is_back() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    for _ in 0..3 {
        server.kill();
        eventually("it is down", || store.link() != Link::Up).await;
        server.restart();
        works_again(&store).await;
    }
}

#[tokio::test]
async fn a_halted_server_is_used_again_when_it_goes_on() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    server.stop();
    until_given_up(&store).await;
    server.cont();
    works_again(&store).await;
}

#[tokio::test]
async fn a_black_hole_ends_for_us_when_it_ends() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let store = connected(&proxy.url()).await;
    proxy.set(Fault::BlackHole);
    until_given_up(&store).await;
    proxy.set(Fault::None);
    works_again(&store).await;
}

#[tokio::test]
async fn large_writes_into_a_black_hole_do_not_pile_up() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let store = connected(&proxy.url()).await;
    proxy.set(Fault::BlackHole);
    let frame = Bytes::from(vec![b'x'; 1 << 20]);
    let mut sent = 0;
    let until_when = in_a_minute(&store);
    until("it is down", async || {
        let began = Instant::now();
        let result = store.set(&KEY, frame.clone(), until_when).await;
        let is_sent = result.is_err_and(|error| error.kind() == StoreErrorKind::Timeout);
        sent += usize::from(is_sent && began.elapsed() > Duration::from_millis(20));
        store.link() != Link::Up
    })
    .await;
    // 4 MiB for each of two connections, and what came between two looks on a busy machine.
    assert!(sent <= 16, "{sent} MiB went into the hole");
    proxy.set(Fault::None);
    works_again(&store).await;
}

#[tokio::test]
async fn slow_answers_are_no_reason_to_begin_anew() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let store = connected(&proxy.url()).await;
    eventually("messages come", || Channel::is_hearing(&store)).await;
    let before = proxy.counts().connections;
    let late = Duration::from_millis(100);
    proxy.set(Fault::Delay(late..late));
    let mut late = 0;
    for _ in 0..20 {
        // On a machine that halts for so long, an answer may be there when the time is looked at.
        match read(&store, &KEY).await {
            Ok(none) => assert!(none.is_none()),
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Timeout);
                late += 1;
            }
        }
    }
    assert!(late > 3, "{late}");
    proxy.set(Fault::None);
    works_again(&store).await;
    assert_eq!(proxy.counts().connections, before);
}

#[tokio::test]
async fn a_read_that_was_dropped_midway_leaves_its_answer_to_nobody() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let store = connected(&proxy.url()).await;
    let names: Vec<String> = (0..9).map(|number| format!("key {number}")).collect();
    let place = |turn: usize| StoreKey::new(None, "/", names[turn % names.len()].as_bytes());
    for (turn, name) in names.iter().enumerate() {
        let frame = Bytes::from(name.clone());
        let set = store.set(&place(turn), frame, in_a_minute(&store)).await;
        set.expect("set");
    }
    let late = Duration::from_millis(10);
    proxy.set(Fault::Delay(late..late));
    let mut read_well = 0;
    for turn in 0..60 {
        let key = place(turn);
        let mut dropped = store.get(&key, LIMIT);
        let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(dropped.as_mut().poll(cx)));
        assert!(begun.await.is_pending());
        drop(dropped);
        // One on each connection.
        for turn in [turn + 1, turn + 2] {
            match read(&store, &place(turn)).await {
                Ok(found) => {
                    let found = found.map(|found| found.frame);
                    assert_eq!(found.as_deref(), Some(place(turn).bytes()));
                    read_well += 1;
                }
                // A machine that is busy with other things.
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Timeout, "{error}"),
            }
        }
    }
    assert!(read_well > 10, "{read_well}");
}

#[tokio::test]
async fn cut_connections_are_made_again() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let store = connected(&proxy.url()).await;
    for _ in 0..3 {
        proxy.set(Fault::Cut);
        works_again(&store).await;
    }
    proxy.set(Fault::RandomCuts(0.3));
    for _ in 0..100 {
        let _ = read(&store, &KEY).await;
    }
    proxy.set(Fault::None);
    works_again(&store).await;
}

#[tokio::test]
async fn shifted_replies_are_noticed_and_renewed() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let store = connected(&proxy.url()).await;
    store
        .set(&KEY, FRAME, in_a_minute(&store))
        .await
        .expect("set");
    proxy.spare(0);
    proxy.set(Fault::InsertReply(1.0));
    until("an answer to something else", async || {
        let result = read(&store, &KEY).await;
        result.is_err_and(|error| error.kind() == StoreErrorKind::Mismatched)
    })
    .await;
    // Connections that were shifted from the start are never used.
    store.renew();
    eventually("it is down", || store.link() != Link::Up).await;
    assert!(store.connect().await.is_err());
    proxy.set(Fault::None);
    works_again(&store).await;
}

#[tokio::test]
async fn a_replica_is_read_and_refuses_to_be_written() {
    let server = RedisServer::start_with(&["--replica-serve-stale-data", "yes"]);
    let store = connected(&server.url()).await;
    store
        .set(&KEY, FRAME, in_a_minute(&store))
        .await
        .expect("set");
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).ok();
    for _ in 0..20 {
        let error = store
            .set(&KEY, FRAME, in_a_minute(&store))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}");
        assert!(read(&store, &KEY).await.expect("got").is_some());
        assert_eq!(store.link(), Link::Up);
    }
    server.command(&["REPLICAOF", "NO", "ONE"]).ok();
    works_again(&store).await;
}

#[tokio::test]
async fn one_line_is_said_for_each_change() {
    let log = Log::default();
    let _listening = log.listen();
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    server.kill();
    eventually("it is down", || store.link() != Link::Up).await;
    for _ in 0..100 {
        assert!(read(&store, &KEY).await.is_err());
    }
    server.restart();
    works_again(&store).await;
    store.close().await.expect("closed");
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let expected = [
        ("INFO", "is in use"),
        ("WARN", "not in use"),
        ("INFO", "is in use"),
    ];
    for (line, (level, text)) in lines.iter().zip(expected) {
        assert!(line.contains(level) && line.contains(text), "{line}");
    }
}

/// Reads and writes a key of its own whenever the link is up, and believes only its own frame.
async fn client(store: Arc<RedisStore>, number: usize, is_over: Arc<AtomicBool>) -> usize {
    let bytes = format!("key {number}");
    let key = StoreKey::new(None, "/load", bytes.as_bytes());
    let frame = Bytes::from(vec![u8::try_from(number).expect("64 of them"); 100_000]);
    let mut worked = 0;
    while !is_over.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
        if store.link() != Link::Up {
            continue;
        }
        let _ = store.set(&key, frame.clone(), in_a_minute(&store)).await;
        if let Ok(Some(found)) = read(&store, &key).await {
            assert!(found.frame == frame, "the frame of another key");
            worked += 1;
        }
    }
    worked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_outage_ends_within_2_s() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let store = Arc::new(connected(&proxy.url()).await);
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..64)
        .map(|number| tokio::spawn(client(store.clone(), number, is_over.clone())))
        .collect();
    for _ in 0..2 {
        server.kill();
        eventually("it is down", || store.link() != Link::Up).await;
        server.restart();
        works_again(&store).await;
        server.stop();
        eventually("it is down", || store.link() != Link::Up).await;
        server.cont();
        works_again(&store).await;
        proxy.set(Fault::BlackHole);
        eventually("it is down", || store.link() != Link::Up).await;
        proxy.set(Fault::None);
        works_again(&store).await;
        proxy.set(Fault::Cut);
        works_again(&store).await;
    }
    is_over.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.expect("no wrong frame") > 0);
    }
}
