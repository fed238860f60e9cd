//! A node of a service: what it reads, and what it shows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use tokio::sync::Semaphore;
use tower_response_cache::{Cache, CacheBuilder, CachePolicy, ResponseCacheLayer};

use crate::support::{App, Origin, eventually, get};

/// What the service tells: one number, which all nodes read from the same place.
#[derive(Clone, Default)]
pub(crate) struct Data(Arc<AtomicU64>);

impl Data {
    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, version: u64) {
        self.0.store(version, Ordering::SeqCst);
    }
}

/// A node; its handler tags its pages with `data` and shows the version that it has read.
pub(crate) struct Node {
    pub(crate) cache: Cache,
    pub(crate) app: App,
    pub(crate) origin: Origin,
    /// While it is shut, a handler that has read the data waits for a permit before it answers.
    pub(crate) door: Arc<Semaphore>,
    reads: Arc<AtomicU64>,
}

impl Node {
    /// A node whose link is there.
    pub(crate) async fn connected(builder: CacheBuilder, data: &Data) -> Self {
        Self::connected_with(builder, data, |layer| layer).await
    }

    /// The same with a layer of other settings.
    pub(crate) async fn connected_with(
        builder: CacheBuilder,
        data: &Data,
        layer: impl FnOnce(ResponseCacheLayer) -> ResponseCacheLayer,
    ) -> Self {
        let node = Self::with(builder, data, layer);
        node.cache.connect().await.expect("Redis is there");
        node.hears().await;
        node
    }

    pub(crate) fn new(builder: CacheBuilder, data: &Data) -> Self {
        Self::with(builder, data, |layer| layer)
    }

    fn with(
        builder: CacheBuilder,
        data: &Data,
        layer: impl FnOnce(ResponseCacheLayer) -> ResponseCacheLayer,
    ) -> Self {
        let cache = builder.build().expect("good settings");
        let door = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let reads = Arc::new(AtomicU64::new(0));
        let shared = (data.clone(), door.clone(), reads.clone());
        let origin = Origin::new(move |_, request| {
            let (data, held, reads) = shared.clone();
            async move {
                let version = data.read();
                reads.fetch_add(1, Ordering::SeqCst);
                held.acquire().await.expect("never closed").forget();
                let body = format!("{} v{version}", request.uri().path());
                let mut response = Response::new(Bytes::from(body).into());
                let policy = CachePolicy::ttl(Duration::from_secs(600)).tag("data");
                response.extensions_mut().insert(policy);
                response
            }
        });
        let app = origin.behind(&layer(ResponseCacheLayer::new(&cache)));
        Self {
            cache,
            app,
            origin,
            door,
            reads,
        }
    }

    /// How often its handler has read the data.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Waits until messages come.
    pub(crate) async fn hears(&self) {
        let hears = || self.cache.health().is_hearing() == Some(true);
        eventually("messages come", hears).await;
    }

    /// The version that a page shows.
    pub(crate) async fn shows(&self, path: &str) -> u64 {
        let answer = get(&self.app, path).await;
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text();
        let version = text
            .strip_prefix(path)
            .and_then(|rest| rest.strip_prefix(" v"));
        let version = version.and_then(|version| version.parse().ok());
        version.unwrap_or_else(|| panic!("{path} was answered with {text}"))
    }

    /// Shuts the door: handlers that are called from now on wait behind it.
    pub(crate) fn shut(&self) {
        self.door.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Opens it for one.
    pub(crate) fn let_one_in(&self) {
        self.door.add_permits(1);
    }

    /// Opens it for good.
    pub(crate) fn open(&self) {
        let missing = Semaphore::MAX_PERMITS - self.door.available_permits();
        self.door.add_permits(missing);
    }

    /// What it has stored is in Redis.
    pub(crate) async fn is_written(&self) {
        let is_written = || self.cache.stats().remote().outbox_bytes() == 0;
        eventually("it is written", is_written).await;
    }
}

/// Asks until a page shows a version; panics when that takes longer than the nodes promise, with
/// half a second for a machine that does other things.
pub(crate) async fn within_a_second(node: &Node, path: &str, version: u64) {
    let begin = Instant::now();
    loop {
        let asked = begin.elapsed();
        let shown = node.shows(path).await;
        if shown == version {
            return;
        }
        assert!(
            asked < Duration::from_millis(1_500),
            "{path} still shows v{shown} after {asked:?}, not v{version}: {} {}",
            node.cache.stats(),
            node.cache.health(),
        );
        tokio::task::yield_now().await;
    }
}
