//! What a hit from Redis costs through the layer, against the same commands sent by hand.
//!
//! By hand means: `PTTL` and `GETRANGE` of the very keys that the layer reads, and `GET` of the number of
//! the shared log, in one pipeline,
//! through the same client with the same settings, over as many connections, from the same tasks of
//! the same runtime with two workers, to the same server. Both sides hold the bytes of the answer in
//! their hands in the end; the layer makes a response of them, too.
//!
//! Every request that counts is answered by Redis: hits of the remote store are counted, and the
//! inner service is never called. Three kinds of it, each key once a round: of a key that memory has,
//! and has had for so long that Redis is asked (`redis_hit`); of one that memory has not seen yet
//! (`redis_first_hit`), with a new cache for each round; and of one that memory had to let go
//! (`redis_evicted_hit`), as in a service that runs for long: the memory of its one cache is full of
//! other keys, and would hold no more than a quarter of these.
//!
//! What is first or was evicted is checked and copied into memory besides. `redis_kept_by_hand` shows what
//! that alone costs: the commands by hand, the checksum, and a copy that is kept.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fred::{
    clients::Client,
    interfaces::{ClientLike, KeysInterface},
    types::{
        RespVersion, Value,
        config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig},
    },
};
use http::{
    HeaderName, HeaderValue, Request, Response, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Full};
use tokio::{runtime::Runtime, sync::Barrier};
use tower::{Layer, Service};
use tower_response_cache::{BreakerState, Cache, ManualClock, ResponseCache, ResponseCacheLayer};
use twox_hash::XxHash3_64;

use crate::{redis_server::RedisServer, support::Row};

/// What memory knows of a key that is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Known,
    New,
    Evicted,
}

/// A name, the size of bodies, how many tasks ask, and by how much the layer may cost more.
type Promise = (&'static str, usize, usize, State, f64);

const PROMISES: [Promise; 12] = [
    ("redis_hit_1_kib", 1024, 1, State::Known, 1.15),
    ("redis_hit_64_kib", 65_536, 1, State::Known, 1.15),
    ("redis_hit_1_kib_64_tasks", 1024, 64, State::Known, 1.3),
    ("redis_hit_64_kib_64_tasks", 65_536, 64, State::Known, 1.3),
    ("redis_first_hit_1_kib", 1024, 1, State::New, 1.15),
    ("redis_first_hit_64_kib", 65_536, 1, State::New, 1.15),
    ("redis_first_hit_1_kib_64", 1024, 64, State::New, 1.3),
    ("redis_first_hit_64_kib_64", 65_536, 64, State::New, 1.3),
    ("redis_evicted_hit_1_kib", 1024, 1, State::Evicted, 1.15),
    ("redis_evicted_hit_64_kib", 65_536, 1, State::Evicted, 1.15),
    ("redis_evicted_hit_1_kib_64", 1024, 64, State::Evicted, 1.3),
    (
        "redis_evicted_hit_64_kib_64",
        65_536,
        64,
        State::Evicted,
        1.3,
    ),
];

/// Shown beside those: a name and the size of bodies.
const KEPT: [(&str, usize); 2] = [
    ("redis_kept_by_hand_1_kib", 1024),
    ("redis_kept_by_hand_64_kib", 65_536),
];

/// Names of the rows.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let kept = KEPT.iter().map(|kept| kept.0);
    PROMISES.iter().map(|promise| promise.0).chain(kept)
}

/// As many connections as the layer has by default.
const CONNECTIONS: usize = 2;
const WORKERS: usize = 2;
/// Asked for in each round, each once.
const KEYS: usize = 1024;
/// Of which memory is full where these are evicted: twice as many as there is room for.
const OTHERS: Range<usize> = KEYS..KEYS + KEYS / 2;
const ROUNDS: usize = 120;
/// So many requests are made at a time by a task that is alone.
const BATCH: usize = 16;
/// Longer than memory answers on its own.
const DUE: Duration = Duration::from_secs(6);
/// As the layer asks for bodies of up to 1 MiB.
const LIMIT: usize = 2 << 20;
const MEMORY: u64 = 512 << 20;
/// What an entry of these weighs besides its body, by and large.
const HEAD: usize = 4096;

impl State {
    /// How much memory its caches have, for bodies of that size.
    fn memory(self, size: usize) -> u64 {
        match self {
            Self::Known | Self::New => MEMORY,
            Self::Evicted => (KEYS / 4 * (size + HEAD)) as u64,
        }
    }
}

/// An inner service whose body begins with the path.
#[derive(Clone)]
struct Origin {
    size: usize,
    calls: Arc<AtomicUsize>,
}

impl Service<Request<Empty<Bytes>>> for Origin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut body = request.uri().path().as_bytes().to_vec();
        body.resize(self.size, b'x');
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("cache-control", "public, max-age=3600")
            .header("server", "bench")
            .header("x-content-type-options", "nosniff")
            .header("x-frame-options", "no-referrer-when-downgrade")
            .header("referrer-policy", "no-referrer")
            .header("etag", "\"400\"")
            .header("content-length", self.size)
            .body(Full::new(Bytes::from(body)));
        ready(Ok(response.expect("fields are good")))
    }
}

fn path(key: usize) -> String {
    format!("/page/{key:06}")
}

/// What a browser sends, as hyper hands it on: path and values are slices of one buffer.
fn request(key: usize) -> Request<Empty<Bytes>> {
    const FIELDS: [(HeaderName, &str); 5] = [
        (HOST, "example.com"),
        (
            USER_AGENT,
            "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
        ),
        (
            ACCEPT,
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        (ACCEPT_LANGUAGE, "en-US,en;q=0.5"),
        (ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
    ];
    let mut read = path(key);
    let path_len = read.len();
    for (_, value) in &FIELDS {
        read.push_str(value);
    }
    let mut read = Bytes::from(read);
    let uri = Uri::from_maybe_shared(read.split_to(path_len)).expect("a good path");
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    request.headers_mut().reserve(FIELDS.len());
    for (name, value) in FIELDS {
        let value = HeaderValue::from_maybe_shared(read.split_to(value.len()));
        request
            .headers_mut()
            .append(name, value.expect("a good value"));
    }
    request
}

/// Runs `ask` for each of its keys, in tasks that begin together; the time from the first start to the
/// last end, less what a task says does not count.
async fn timed<A, F, K>(tasks: usize, keys: &[K], ask: A) -> f64
where
    A: Fn(Vec<K>) -> F,
    F: Future<Output = Duration> + Send + 'static,
    K: Clone,
{
    let barrier = Arc::new(Barrier::new(tasks));
    let mut running = Vec::new();
    for task in 0..tasks {
        let work = ask(keys.iter().skip(task).step_by(tasks).cloned().collect());
        let barrier = barrier.clone();
        running.push(tokio::spawn(async move {
            barrier.wait().await;
            // By those who work: who only watches may not be running just then.
            let start = Instant::now();
            let uncounted = work.await;
            (start, Instant::now() - uncounted)
        }));
    }
    let mut times = Vec::new();
    for task in running {
        times.push(task.await.expect("no request fails"));
    }
    let first = times.iter().map(|times| times.0).min();
    let last = times.iter().map(|times| times.1).max();
    let (first, last) = first.zip(last).expect("there are tasks");
    (last - first).as_nanos() as f64 / keys.len() as f64
}

/// The commands sent by hand.
struct ByHand {
    clients: Vec<Client>,
    /// The paths, and the names that the layer has given to their keys.
    names: Vec<(usize, Arc<str>)>,
    next: Arc<AtomicUsize>,
    /// The key of the number of the shared log.
    seq: Arc<str>,
    size: usize,
}

impl ByHand {
    async fn new(server: &RedisServer, namespace: &str, size: usize) -> Self {
        let names = server.keys(&format!("{namespace}:*"));
        assert!(names.len() >= KEYS, "all are stored");
        // Sorted by their paths, which come first.
        let names = names
            .into_iter()
            .take(KEYS)
            .map(Into::into)
            .enumerate()
            .collect();
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = client(server.port());
            client.init().await.expect("the server is there");
            clients.push(client);
        }
        Self {
            clients,
            names,
            next: Arc::default(),
            seq: format!("{{{namespace}}}:seq").into(),
            size,
        }
    }

    async fn round(&self, tasks: usize) -> f64 {
        self.round_with(tasks, None).await
    }

    /// The same; with bodies that are checked, and copied to there.
    async fn round_with(&self, tasks: usize, keep: Option<&Arc<Mutex<Vec<Bytes>>>>) -> f64 {
        timed(tasks, &self.names, |names| {
            let (clients, next, size) = (self.clients.clone(), self.next.clone(), self.size);
            let (seq, keep) = (self.seq.clone(), keep.cloned());
            async move {
                for (key, name) in names {
                    let client = &clients[next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS];
                    let frame = read(client, &name, &seq).await;
                    let path = path(key);
                    let body = &frame[frame.len() - size..];
                    assert!(body.starts_with(path.as_bytes()), "{name}");
                    if let Some(keep) = &keep {
                        let own = Bytes::copy_from_slice(body);
                        black_box(XxHash3_64::oneshot(&own));
                        keep.lock().expect("nobody panics with it").push(own);
                    }
                    drop(black_box(frame));
                }
                Duration::ZERO
            }
        })
        .await
    }
}

async fn read(client: &Client, name: &str, seq: &str) -> Bytes {
    let pipeline = client.pipeline();
    let _: () = pipeline.pttl(name).await.expect("queued");
    let _: () = pipeline.getrange(name, 0, LIMIT).await.expect("queued");
    let _: () = pipeline.get(seq).await.expect("queued");
    let mut replies = pipeline.try_all::<Value>().await.into_iter();
    match (replies.next(), replies.next()) {
        (Some(Ok(Value::Integer(life))), Some(Ok(Value::Bytes(frame)))) if life > 0 => frame,
        (Some(Ok(Value::Integer(life))), Some(Ok(Value::String(frame)))) if life > 0 => {
            frame.into_inner()
        }
        other => panic!("{name}: {other:?}"),
    }
}

/// With the settings of `src/store/redis/settings.rs`, but for the time limit of a command: a pause
/// of this machine is to be a slow round here, not the end. It is a timer all the same.
fn client(port: u16) -> Client {
    let config = Config {
        server: ServerConfig::new_centralized("127.0.0.1", port),
        version: RespVersion::RESP3,
        ..Config::default()
    };
    let performance = PerformanceConfig {
        default_command_timeout: Duration::from_secs(10),
        ..PerformanceConfig::default()
    };
    let connection = ConnectionConfig {
        max_command_attempts: 1,
        max_command_buffer_len: 1024,
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    Client::new(config, Some(performance), Some(connection), None)
}

/// The layer in front of the same keys.
struct Layered {
    cache: Cache,
    clock: ManualClock,
    service: ResponseCache<Origin>,
    calls: Arc<AtomicUsize>,
    size: usize,
    state: State,
}

impl Layered {
    async fn new(server: &RedisServer, namespace: &str, size: usize, state: State) -> Self {
        let clock = ManualClock::new();
        let cache = Cache::redis(server.url(), namespace)
            .pool_size(CONNECTIONS)
            .memory(state.memory(size))
            // Not as long as it is sure: each is to be asked for.
            .memory_ttl(Duration::from_secs(5))
            .clock(clock.clone())
            .build()
            .expect("the settings are good");
        cache.connect().await.expect("the server is there");
        let calls = Arc::<AtomicUsize>::default();
        let origin = Origin {
            size,
            calls: calls.clone(),
        };
        Self {
            service: ResponseCacheLayer::new(&cache).layer(origin),
            cache,
            clock,
            calls,
            size,
            state,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// One that has seen all keys; and where they are to be evicted, others first.
    async fn warm(server: &RedisServer, namespace: &str, size: usize, state: State) -> Self {
        let layered = Self::new(server, namespace, size, state).await;
        if state == State::Evicted {
            layered.ask_for(OTHERS, 1).await;
            while layered.cache.stats().remote().outbox_bytes() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        layered.ask_for_all(1).await;
        layered
    }

    /// Asks for every key once.
    async fn ask_for_all(&self, tasks: usize) -> f64 {
        self.ask_for(0..KEYS, tasks).await
    }

    async fn ask_for(&self, keys: Range<usize>, tasks: usize) -> f64 {
        let keys: Vec<usize> = keys.collect();
        timed(tasks, &keys, |keys| {
            // Requests are the server's work: not counted, and where many tasks run made beforehand.
            let before = if tasks > 1 { keys.len() } else { 0 };
            let ready: Vec<_> = keys[..before].iter().copied().map(request).collect();
            let (mut service, size) = (self.service.clone(), self.size);
            async move {
                let mut ready = VecDeque::from(ready);
                let mut uncounted = Duration::ZERO;
                for (place, &key) in keys.iter().enumerate() {
                    if ready.is_empty() {
                        let start = Instant::now();
                        let some = keys[place..].iter().take(BATCH).copied();
                        ready.extend(some.map(request));
                        uncounted += start.elapsed();
                    }
                    let request = ready.pop_front().expect("just made");
                    let response = service.call(request).await;
                    let response = response.unwrap_or_else(|never| match never {});
                    let mut body = response.into_body();
                    let frame = body.frame().await.expect("a body").expect("all of it");
                    let frame = frame.into_data().expect("bytes");
                    let path = path(key);
                    assert!(frame.len() == size && frame.starts_with(path.as_bytes()));
                    drop(black_box((frame, body)));
                }
                uncounted
            }
        })
        .await
    }

    /// Of each hit from Redis. `None` when not each was one, or the inner service was called: Redis,
    /// or we, stood still for so long that a time limit was met. Most rounds must count.
    async fn round(&self, tasks: usize) -> Option<f64> {
        // After such a pause Redis is left alone for a moment.
        while self.cache.health().reads() != BreakerState::Closed {
            self.clock.advance(DUE);
            self.ask_for_all(1).await;
        }
        match self.state {
            State::Known | State::New => self.clock.advance(DUE),
            // Those that memory prefers. No time passes: what it has of the others it answers
            // itself, and is not taken for evicted.
            State::Evicted => {
                self.ask_for(OTHERS, 1).await;
            }
        }
        let (before, calls) = (self.cache.stats(), self.calls());
        let time = self.ask_for_all(tasks).await;
        let after = self.cache.stats();
        let hits = after.remote().hits() - before.remote().hits();
        // Which keys memory prefers is its own business: should it have some of these, the time that
        // they took counts, and they do not.
        let least = match self.state {
            State::Known | State::New => KEYS,
            State::Evicted => KEYS / 2,
        };
        if hits < least as u64 || self.calls() != calls {
            let why = self.cache.health();
            eprintln!(
                "{tasks} tasks, a round that does not count:\n  {before}\n  {after}\n  {why:?}"
            );
            return None;
        }
        Some(time * KEYS as f64 / hits as f64)
    }
}

async fn measure(server: &RedisServer, promise: Promise) -> Row {
    let (name, size, tasks, state, most) = promise;
    let namespace = format!("bench-{size}");
    let first = Layered::new(server, &namespace, size, State::New).await;
    if server.keys(&format!("{namespace}:*")).is_empty() {
        first.ask_for_all(1).await;
        assert_eq!(first.calls(), KEYS);
        first.cache.close().await;
    }
    let by_hand = ByHand::new(server, &namespace, size).await;
    let mut layered = Layered::warm(server, &namespace, size, state).await;
    let (mut reference, mut figure) = (f64::INFINITY, f64::INFINITY);
    let mut counted = 0;
    for _ in 0..ROUNDS {
        reference = reference.min(by_hand.round(tasks).await);
        // The one before goes when the round is over: the room of a whole cache given back before
        // would be taken from the system again, as it is in no service that runs.
        let mut former = None;
        if state == State::New {
            layered.cache.close().await;
            let new = Layered::new(server, &namespace, size, state).await;
            former = Some(std::mem::replace(&mut layered, new));
        }
        if let Some(time) = layered.round(tasks).await {
            figure = figure.min(time);
            counted += 1;
        }
        drop(former);
    }
    assert!(counted > ROUNDS / 2, "{name}: this machine is too busy");
    layered.cache.close().await;
    for client in &by_hand.clients {
        let _ = client.quit().await;
    }
    Row {
        name,
        reference,
        figure,
        bound: Some(most * reference),
    }
}

/// By hand, and by hand with what memory needs of it, in turns.
async fn measure_kept(server: &RedisServer, name: &'static str, size: usize) -> Row {
    let namespace = format!("bench-{size}");
    let first = Layered::new(server, &namespace, size, State::New).await;
    if server.keys(&format!("{namespace}:*")).is_empty() {
        first.ask_for_all(1).await;
    }
    first.cache.close().await;
    let by_hand = ByHand::new(server, &namespace, size).await;
    let (mut reference, mut figure) = (f64::INFINITY, f64::INFINITY);
    let keep = Arc::new(Mutex::new(Vec::with_capacity(KEYS)));
    for _ in 0..ROUNDS {
        reference = reference.min(by_hand.round(1).await);
        figure = figure.min(by_hand.round_with(1, Some(&keep)).await);
        keep.lock().expect("nobody panics with it").clear();
    }
    for client in &by_hand.clients {
        let _ = client.quit().await;
    }
    Row {
        name,
        reference,
        figure,
        bound: None,
    }
}

/// Nanoseconds by hand and through the layer, in turns, and the best round of each.
pub(crate) fn rows(is_selected: impl Fn(&str) -> bool) -> Vec<Row> {
    let server = RedisServer::start();
    let runtime = runtime();
    let promised = PROMISES.into_iter();
    let promised = promised.filter(|promise| is_selected(promise.0));
    let promised = promised.map(|promise| runtime.block_on(measure(&server, promise)));
    let kept = KEPT.into_iter().filter(|kept| is_selected(kept.0));
    let kept = kept.map(|(name, size)| runtime.block_on(measure_kept(&server, name, size)));
    promised.chain(kept).collect()
}

/// One side alone, for profilers: `--by-hand`, `--layered`, `--first` or `--evicted`, then size and
/// number of tasks.
pub(crate) fn profile(side: &str, size: usize, tasks: usize) {
    let rounds = std::env::var("ROUNDS").map_or(20, |rounds| rounds.parse().unwrap_or(20));
    let server = RedisServer::start();
    runtime().block_on(async {
        let state = match side {
            "--first" => State::New,
            "--evicted" => State::Evicted,
            _ => State::Known,
        };
        let mut layered = Layered::new(&server, "bench", size, State::New).await;
        layered.ask_for_all(1).await;
        while layered.cache.stats().remote().writes() < KEYS as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        layered = Layered::warm(&server, "bench", size, state).await;
        let by_hand = ByHand::new(&server, "bench", size).await;
        let mut best = f64::INFINITY;
        for _ in 0..rounds {
            best = best.min(match side {
                "--by-hand" => by_hand.round(tasks).await,
                "--first" => {
                    let new = Layered::new(&server, "bench", size, state).await;
                    let time = new.round(tasks).await;
                    layered = new;
                    time.unwrap_or(f64::INFINITY)
                }
                _ => layered.round(tasks).await.unwrap_or(f64::INFINITY),
            });
        }
        println!("{side}: {best:.0} ns");
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .expect("threads can be made")
}
