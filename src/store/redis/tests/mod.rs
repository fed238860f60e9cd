//! Against a redis-server of their own.

use std::{
    io::Read,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;

use super::{Given, RedisStore};
use crate::{
    clock::{ManualClock, SystemClock},
    error::{StoreError, StoreErrorKind},
    store::{
        Link, Store, StoreKey, Stored,
        coherence::Channel,
        walk::{Place, Taken, Walk},
    },
    timer::within,
};

#[allow(dead_code, unreachable_pub)]
#[path = "../../../../tests/support/fault_proxy.rs"]
mod fault_proxy;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../../tests/support/log.rs"]
mod log;
#[path = "../../../../tests/support/redis_server.rs"]
mod redis_server;

mod faults;
mod walking;

use redis_server::RedisServer;

const LIMIT: usize = 1 << 20;
const KEY: StoreKey<'static> = StoreKey::new(None, "/users", b"GET http://host/users");
const FRAME: Bytes = Bytes::from_static(b"a frame \xff\x00");

fn store(url: &str) -> RedisStore {
    let settings = Given {
        url: url.to_owned(),
        namespace: "shop".to_owned(),
        pool_size: 2,
        ..Given::default()
    };
    RedisStore::new(settings, Arc::new(SystemClock::new())).expect("a good URL")
}

fn in_a_minute(store: &RedisStore) -> SystemTime {
    store.time().expect("it is up") + Duration::from_secs(60)
}

async fn connected(url: &str) -> RedisStore {
    let store = store(url);
    eventually("it is up", || store.link() == Link::Up).await;
    store
}

/// Reads as the cache does: whoever reads has a limit in time, the store has none.
async fn read(store: &RedisStore, key: &StoreKey<'_>) -> Result<Option<Stored>, StoreError> {
    let in_time = within(Duration::from_millis(50), store.get(key, LIMIT)).await;
    in_time.unwrap_or_else(|| Err(StoreError::timeout("no answer within 50 ms")))
}

/// What `connect` says when it does not work out.
async fn complaint(url: &str) -> String {
    let error = store(url).connect().await.unwrap_err();
    error.to_string()
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, async || condition()).await;
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < end, "still not so: {what}");
        tokio::task::yield_now().await;
    }
}

/// Sets and gets, within the 2 s that are promised.
async fn works_again(store: &RedisStore) {
    let began = Instant::now();
    until("it works again", async || {
        store.link() == Link::Up
            && store.set(&KEY, FRAME, in_a_minute(store)).await.is_ok()
            && read(store, &KEY).await.is_ok_and(|found| found.is_some())
    })
    .await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Asks until the connections are taken for lost.
async fn until_given_up(store: &RedisStore) {
    until("it is down", async || {
        let _ = read(store, &KEY).await;
        store.link() != Link::Up
    })
    .await;
}

#[test]
fn keys_can_be_read_and_have_no_braces() {
    let store = store("redis://host");
    let name = |version, path, key: &[u8]| store.name(&StoreKey::new(version, path, key));
    let plain = name(None, "/users/1?a=b", b"key");
    let (start, digest) = plain.rsplit_once(':').expect("colons");
    assert_eq!(start, "shop:response:/users/1?a=b".replace('?', "%3F"));
    assert_eq!(digest.len(), 32);
    assert!(digest.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(name(Some("1.2.3"), "/", b"key").starts_with("shop:1.2.3:response:/:"));
    let odd = name(None, "/{a}*[b]\\ \n\u{e9}", b"key");
    assert!(
        odd.starts_with("shop:response:/%7Ba%7D%2A%5Bb%5D%5C%20%0A%C3%A9:"),
        "{odd}"
    );
    let long = "/\u{e9}".repeat(100);
    let cut = format!("shop:response:{}:", "/%C3%A9".repeat(66) + "/");
    assert!(name(None, &long, b"key").starts_with(&cut));
    let value = crate::key::Key::of_value("user:42");
    assert!(name(None, "user", &value.bytes).starts_with("shop:value:user:"));
}

#[test]
fn version_and_whole_key_are_in_the_digest() {
    let store = store("redis://host");
    let digest = |version, key: &[u8]| {
        let name = store.name(&StoreKey::new(version, "/", key));
        name.rsplit_once(':').expect("colons").1.to_owned()
    };
    let all = [
        digest(None, b""),
        digest(Some(""), b""),
        digest(None, b"1"),
        digest(Some("1"), b""),
        digest(Some("1"), b"1"),
        digest(Some("11"), b""),
        digest(None, b"11"),
    ];
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    let store = store.with_digest(|_| [7; 16]);
    assert!(store.name(&KEY).ends_with(&"07".repeat(16)));
}

#[test]
fn debug_shows_no_password() {
    let store = store("redis://me:secret@host");
    assert!(!format!("{store:?}").contains("secret"));
}

#[test]
fn nothing_happens_outside_of_a_runtime() {
    let store = store("redis://127.0.0.1:1");
    assert_eq!(store.link(), Link::Idle);
    assert_eq!(store.time(), None);
}

#[tokio::test]
async fn what_is_set_is_there_until_it_is_deleted_or_over() {
    let server = RedisServer::start();
    for url in [
        server.url(),
        server.url() + "/3",
        server.unix_url() + "?db=2",
    ] {
        let store = connected(&url).await;
        store.connect().await.expect("it is up");
        assert_eq!(store.get(&KEY, LIMIT).await, Ok(None));
        store
            .set(&KEY, FRAME, in_a_minute(&store))
            .await
            .expect("set");
        let found = store.get(&KEY, LIMIT).await.expect("got").expect("there");
        let life = found.remaining.expect("it ends");
        // The time of Redis is known to some milliseconds, its answers come later.
        let is_a_minute = Duration::from_secs(30)..Duration::from_secs(61);
        assert!(is_a_minute.contains(&life), "{life:?}");
        assert_eq!(found.frame, FRAME);
        store.delete(&KEY).await.expect("deleted");
        assert_eq!(store.get(&KEY, LIMIT).await, Ok(None));
        store.delete(&KEY).await.expect("nothing to delete");
        store
            .set(&KEY, FRAME, in_a_minute(&store))
            .await
            .expect("set");
        let over = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        store.set(&KEY, FRAME, over).await.expect("set");
        assert_eq!(store.get(&KEY, LIMIT).await, Ok(None));
    }
}

#[tokio::test]
async fn what_others_put_at_the_key_is_told_apart() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    let name = store.name(&KEY);
    server.command(&["RPUSH", &name, "an", "element"]);
    let error = store.get(&KEY, LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotAFrame);
    // A write replaces whatever it is.
    store
        .set(&KEY, FRAME, in_a_minute(&store))
        .await
        .expect("set");
    server.command(&["PERSIST", &name]);
    assert_eq!(store.get(&KEY, LIMIT).await, Ok(Some(Stored::new(FRAME))));
    server.command(&["SETRANGE", &name, "50000000", "!"]);
    let found = store.get(&KEY, LIMIT).await.expect("got").expect("there");
    assert_eq!(found.frame.len(), LIMIT + 1);
    assert_eq!(store.link(), Link::Up);
}

#[tokio::test]
async fn time_is_that_of_redis() {
    let server = RedisServer::start();
    let settings = Given {
        url: server.url(),
        namespace: "shop".to_owned(),
        pool_size: 1,
        ..Given::default()
    };
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(1000));
    let store = RedisStore::new(settings, Arc::new(clock.clone())).expect("a good URL");
    store.connect().await.expect("it is up");
    let time = store.time().expect("it is up");
    let off = SystemTime::now()
        .duration_since(time)
        .expect("it was read before");
    assert!(off < Duration::from_secs(30), "{off:?}");
    clock.advance(Duration::from_secs(5));
    assert_eq!(store.time(), Some(time + Duration::from_secs(5)));
}

#[tokio::test]
async fn a_wrong_password_is_named_until_it_is_right() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let store = store(&url);
    let error = store.connect().await.unwrap_err().to_string();
    assert!(
        error.contains("refuses the user or the password"),
        "{error}"
    );
    assert!(!error.contains("wrong"), "{error}");
    let none = complaint(&format!("redis://127.0.0.1:{}", server.port())).await;
    assert!(none.contains("wants a password"), "{none}");
    server
        .command(&["CONFIG", "SET", "requirepass", "wrong"])
        .ok();
    works_again(&store).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_one_sentence() {
    let server = RedisServer::start();
    let error = complaint(&format!("{}/99", server.url())).await;
    assert!(error.contains("database 99 is out of range"), "{error}");

    server
        .command(&["ACL", "SETUSER", "me", "on", ">word", "~other:*", "+@all"])
        .ok();
    let error = complaint(&format!("redis://me:word@127.0.0.1:{}", server.port())).await;
    assert!(
        error.contains("NOPERM") && error.contains("~shop:*"),
        "{error}"
    );

    let error = complaint("redis://does-not-exist.invalid").await;
    assert!(error.contains("does-not-exist.invalid:6379"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("redis://{}", listener.local_addr().expect("bound"));
    let error = complaint(&url).await;
    assert!(error.contains("did not answer within 500 ms"), "{error}");

    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let (mut from, mut buffer) = (&connection, [0; 64]);
            let _ = from.read(&mut buffer);
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            let _ = std::io::Write::write_all(&mut from, answer);
        }
    });
    let error = complaint(&url).await;
    assert!(error.contains("is not Redis"), "{error}");
}

/// What the guide says that a user needs; the scripts need what they do.
const RIGHTS: &str = "~shop:* ~{shop}:* &shop:invalidated* +@connection +time +pttl +getrange +get \
    +set +unlink +eval +subscribe +publish +zadd +zscore +zcard +zrange +zrangebyscore \
    +zremrangebyscore";

#[tokio::test]
async fn a_user_of_few_rights_is_enough() {
    let server = RedisServer::start();
    let mut command = vec!["ACL", "SETUSER", "me", "on", ">word", "-@all"];
    command.extend(RIGHTS.split(' '));
    server.command(&command).ok();
    let store = connected(&format!("redis://me:word@127.0.0.1:{}", server.port())).await;
    works_again(&store).await;
    eventually("messages come", || Channel::is_hearing(&store)).await;
    let added = store
        .add(1, 0, vec![b"record".to_vec()])
        .await
        .expect("added");
    let message = store.heard().await.expect("it is heard of");
    assert_eq!((message.writer, message.number), (1, added.number));
    assert_eq!(store.page(0).await.expect("read").records.len(), 2);
    // Without channels the log can be read all the same.
    server
        .command(&["ACL", "SETUSER", "me", "resetchannels"])
        .ok();
    eventually("no messages come", || !Channel::is_hearing(&store)).await;
    works_again(&store).await;
    // To purge, one more is needed.
    let place = Place::default();
    let error = store.names(None, &place).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    server.command(&["ACL", "SETUSER", "me", "+scan"]).ok();
    let found = store.names(None, &place).await.expect("allowed");
    let starts = store.starts(&found.names, 1).await.expect("allowed");
    let turn = walking::turn(1, 1);
    let life = Duration::from_secs(60);
    assert_eq!(store.turn(&turn, life).await.expect("allowed"), Taken::Held);
    let those: Vec<_> = found.names.into_iter().zip(starts).collect();
    assert_eq!(store.take_out(&those).await.expect("allowed"), 1);
    store.walked(&turn).await.expect("allowed");
    works_again(&store).await;
    let second = store
        .add(1, 0, vec![b"other".to_vec()])
        .await
        .expect("added");
    assert_eq!(second.previous, added.number);
    assert_eq!(store.number().await.expect("read"), Some(second.number));
    server.command(&["ACL", "SETUSER", "me", "-set"]).ok();
    let error = store
        .set(&KEY, FRAME, in_a_minute(&store))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(store.get(&KEY, LIMIT).await.expect("got").is_some());
    assert_eq!(store.link(), Link::Up);
}

/// The connections that Redis has, without the one that asks.
fn clients(server: &RedisServer) -> usize {
    let list = server.command(&["CLIENT", "LIST", "TYPE", "normal"]);
    list.text().lines().count() - 1
}

#[tokio::test]
async fn closing_and_dropping_end_the_connections() {
    let server = RedisServer::start();
    let closed = connected(&server.url()).await;
    let dropped = connected(&server.url()).await;
    eventually("all are there", || clients(&server) == 4).await;
    closed.close().await.expect("closed");
    assert_eq!(closed.link(), Link::Closed);
    assert!(closed.get(&KEY, LIMIT).await.is_err());
    assert!(closed.connect().await.is_err());
    eventually("two are gone", || clients(&server) == 2).await;
    drop(dropped);
    eventually("all are gone", || clients(&server) == 0).await;
}

#[tokio::test]
async fn closing_does_not_wait_for_a_halted_server() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    server.stop();
    let began = Instant::now();
    store.close().await.expect("closed");
    assert!(began.elapsed() < Duration::from_secs(1));
    server.cont();
}

#[test]
fn another_runtime_begins_anew() {
    let server = RedisServer::start();
    let store = store(&server.url());
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(works_again(&store));
        drop(runtime);
        assert_ne!(store.link(), Link::Up);
    }
}

#[test]
fn a_runtime_without_timers_is_told_to_have_them() {
    let store = store("redis://127.0.0.1:1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let link = runtime.block_on(async { store.link() });
    let Link::Connecting(Some(why)) = link else {
        panic!("{link:?}");
    };
    assert!(why.contains("enable_all()"), "{why}");
    let error = runtime.block_on(store.connect()).unwrap_err();
    assert!(error.to_string().contains("enable_all()"), "{error}");
}

#[tokio::test]
async fn commands_may_be_dropped_at_any_moment() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    store
        .set(&KEY, FRAME, in_a_minute(&store))
        .await
        .expect("set");
    for polls in 0..200 {
        let mut left = polls % 4;
        let mut get = store.get(&KEY, LIMIT);
        std::future::poll_fn(|cx| match left {
            0 => std::task::Poll::Ready(()),
            _ => {
                left -= 1;
                cx.waker().wake_by_ref();
                get.as_mut().poll(cx).map(|_| ())
            }
        })
        .await;
    }
    for _ in 0..20 {
        let found = store.get(&KEY, LIMIT).await.expect("got").expect("there");
        assert_eq!(found.frame, FRAME);
    }
}

#[tokio::test]
async fn a_task_that_has_used_up_its_turn_reads_all_the_same() {
    use std::{future::poll_fn, pin::pin, task::Poll};
    use tokio::task::coop::{consume_budget, has_budget_remaining};
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    // tokio lets what it offers wait then, until the task has let others have a turn.
    let read = poll_fn(|cx| {
        while has_budget_remaining() {
            let _ = pin!(consume_budget()).poll(cx);
        }
        Poll::Ready(store.get(&KEY, LIMIT))
    });
    assert_eq!(read.await.await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_at_once_is_no_timeout() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    for _ in 0..5_000 {
        let began = Instant::now();
        // On a machine that halts for so long, there may be a true one.
        if let Err(error) = store.get(&KEY, LIMIT).await {
            assert!(began.elapsed() > Duration::from_millis(30), "{error}");
        }
    }
}
