//! The same tests a second time, with Redis behind memory: `TEST_STORE=redis`.
//!
//! Many tests run in paused time, which jumps to the next timer when a runtime has nothing to do
//! but wait for a socket. So the store does its work in a runtime of its own, and is waited for in
//! a blocking task: paused time stands still while there is one.

use std::{
    collections::HashMap,
    io::Write,
    panic::Location,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use tokio::runtime::{Handle, Id, Runtime};
use tower_response_cache::{
    Cache, CacheBuilder, Link, Store, StoreError, StoreFuture, StoreKey, Stored,
};

use super::redis_server::RedisServer;

/// In front of the Redis of this process, under a namespace that no other cache has.
#[track_caller]
pub(super) fn builder() -> CacheBuilder {
    let file = Location::caller().file();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let namespace = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Cache::builder()
        .redis(RedisServer::shared().url(), namespace)
        // A second one would be made, and ask Redis for the time, while the test moves its clock.
        .pool_size(1)
        .without_shared_log()
        .wrap_store(move |store| {
            connect(Arc::clone(&store));
            note(file, "connected");
            Arc::new(Elsewhere { store, file })
        })
}

/// Whether anybody in this runtime waits for the store.
pub(super) fn is_busy() -> bool {
    let Ok(here) = Handle::try_current() else {
        return false;
    };
    waiting().lock().unwrap().contains_key(&here.id())
}

/// Without it, a test that believes it has Redis would do without, and pass.
fn connect(store: Arc<dyn Store>) {
    // A runtime that is being driven may not wait for another one: from a thread of its own.
    let connecting = std::thread::spawn(move || runtime().block_on(store.connect()));
    let connected = connecting.join().expect("connecting does not panic");
    connected.unwrap_or_else(|error| panic!("no Redis for this test: {error}"));
}

fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("elsewhere")
                .enable_all()
                .build()
                .expect("a runtime")
        })
        .handle()
}

/// How many wait for the store, by the runtime that they wait in.
fn waiting() -> &'static Mutex<HashMap<Id, usize>> {
    static WAITING: OnceLock<Mutex<HashMap<Id, usize>>> = OnceLock::new();
    WAITING.get_or_init(Mutex::default)
}

/// Counts one that waits, until it is dropped.
struct Waiting(Id);

impl Waiting {
    fn start(here: Id) -> Self {
        *waiting().lock().unwrap().entry(here).or_default() += 1;
        Self(here)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = waiting().lock().unwrap();
        if let Some(count) = waiting.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.0);
            }
        }
    }
}

/// A store whose work is done in the other runtime.
#[derive(Debug)]
struct Elsewhere {
    store: Arc<dyn Store>,
    /// Of the test that made it.
    file: &'static str,
}

impl Elsewhere {
    fn run<T, F>(&self, work: impl FnOnce(Arc<dyn Store>) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>>,
    {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let Ok(here) = Handle::try_current() else {
                return Err(StoreError::new("there is no runtime to wait in"));
            };
            let waiting = Waiting::start(here.id());
            let working = here.spawn_blocking(move || runtime().block_on(work(store)));
            let answer = working.await;
            drop(waiting);
            answer.unwrap_or_else(|_| Err(StoreError::new("the runtime of the test ends")))
        })
    }
}

type Answer<T> = StoreFuture<'static, T>;

/// A key that is nobody else's.
struct Key {
    version: Option<String>,
    path: String,
    bytes: Vec<u8>,
}

impl Key {
    fn of(key: &StoreKey<'_>) -> Self {
        Self {
            version: key.version().map(str::to_owned),
            path: key.path().to_owned(),
            bytes: key.bytes().to_owned(),
        }
    }

    fn lend(&self) -> StoreKey<'_> {
        StoreKey::new(self.version.as_deref(), &self.path, &self.bytes)
    }
}

impl Store for Elsewhere {
    fn get<'a>(&'a self, key: &'a StoreKey<'a>, limit: usize) -> StoreFuture<'a, Option<Stored>> {
        let (key, file) = (Key::of(key), self.file);
        self.run(async move |store: Arc<dyn Store>| {
            let read = store.get(&key.lend(), limit).await?;
            if read.is_some() {
                note(file, "read");
            }
            Ok(read)
        })
    }

    fn set<'a>(
        &'a self,
        key: &'a StoreKey<'a>,
        frame: Bytes,
        until: SystemTime,
    ) -> StoreFuture<'a, ()> {
        let (key, file) = (Key::of(key), self.file);
        self.run(async move |store: Arc<dyn Store>| {
            store.set(&key.lend(), frame, until).await?;
            note(file, "written");
            Ok(())
        })
    }

    fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()> {
        let key = Key::of(key);
        self.run(async move |store: Arc<dyn Store>| store.delete(&key.lend()).await)
    }

    fn connect(&self) -> StoreFuture<'_, ()> {
        self.run(async |store: Arc<dyn Store>| store.connect().await)
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.run(async |store: Arc<dyn Store>| store.close().await)
    }

    fn time(&self) -> Option<SystemTime> {
        let _guard = runtime().enter();
        self.store.time()
    }

    fn link(&self) -> Link {
        let _guard = runtime().enter();
        self.store.link()
    }

    fn renew(&self) {
        let _guard = runtime().enter();
        self.store.renew();
    }

    fn check(&self) {
        let _guard = runtime().enter();
        self.store.check();
    }
}

/// Notes once for each file of tests that Redis was reached, read or written, in the file that
/// `TEST_STORE_LOG` names: so that `second_pass.sh` sees whether the second pass was one.
fn note(file: &'static str, what: &'static str) {
    static NOTED: Mutex<Vec<(&str, &str)>> = Mutex::new(Vec::new());
    let mut noted = NOTED.lock().unwrap();
    let Some(log) = std::env::var_os("TEST_STORE_LOG") else {
        return;
    };
    if noted.contains(&(file, what)) {
        return;
    }
    noted.push((file, what));
    let keys = RedisServer::shared().command(&["DBSIZE"]).integer();
    let mut log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .expect("a file to note it in");
    // One write for the line: several programs may write.
    log.write_all(format!("{file} {what} {keys}\n").as_bytes())
        .expect("room for a line");
}
