//! The remote store as the rest of the cache sees it: something that may know a response, is asked
//! in bounded time, and cannot hurt.
//!
//! - *Reading* happens inside of a flight. All that a request does here has one [`DEADLINE`]; a
//!   [`Breaker`] ends even that wait while the store is in trouble.
//! - *Writing* goes through the [`Outbox`] and is waited for by nobody.
//! - Whether what was read may still be used is judged when it is read: an entry names its writer,
//!   and what another cache wrote counts as older than every invalidation of this one.

mod purging;
mod reading;
mod values;
mod writing;

pub(crate) use self::values::{AskValue, LookedValue, ReadValue};

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use tokio::{sync::Semaphore, time::Instant};

use self::{purging::Purger, writing::Job};
use crate::{
    clock::Clock,
    entry::{Entry, Millis, Origin, millis},
    error::{StoreError, StoreErrorKind},
    health::{Health, LogHealth},
    invalidation::Log,
    key::{Key, KeyParts},
    panics,
    policy::VaryRule,
    shapes::{Shape, Shapes},
    store::{
        Link, Store, StoreKey,
        breaker::{Breaker, Change, Permit},
        coherence::{Channel, Coherence, SURE_FOR},
        counters::{RemoteCounters, RemoteStats},
        outbox::Outbox,
        seal::Seal,
        walk::Walk,
    },
    timer::{after, until, within},
};

/// For all that one request does in the remote store, and for each write.
pub(crate) const DEADLINE: Duration = Duration::from_millis(50);
/// Reads and writes that are under way at the same time; more wait inside of their deadline.
const MAX_IN_FLIGHT: usize = 64;
/// Of the outbox.
const MAX_WAITING_BYTES: u64 = 16 << 20;
/// For how long memory answers without asking a store whose nodes do not tell each other what is
/// invalid.
const MEMORY_TTL: Duration = Duration::from_secs(5);
/// How long a write waits for a link that is being made for the first time.
const FIRST_LINK: Duration = Duration::from_millis(500);

/// A remote store, and what is known of it.
pub(crate) struct Remote {
    inner: Arc<Inner>,
}

impl Drop for Remote {
    /// Nobody is left to whom anything could be owed.
    fn drop(&mut self) {
        self.inner.is_abandoned.store(true, Ordering::Relaxed);
        if let Some(coherence) = &self.inner.coherence {
            coherence.end();
        }
    }
}

struct Inner {
    store: Arc<dyn Store>,
    seal: Option<Seal>,
    /// Tells the frames of this cache from others'.
    writer: u64,
    version: Option<String>,
    /// For how long memory answers without asking here; `None`: as long as it is sure.
    memory_ttl: Option<Millis>,
    clock: Arc<dyn Clock>,
    log: Arc<Log>,
    in_flight: Semaphore,
    reads: Breaker,
    writes: Breaker,
    outbox: Arc<Outbox<Job>>,
    shapes: Shapes,
    was_up: AtomicBool,
    is_closed: AtomicBool,
    is_abandoned: AtomicBool,
    last_error: std::sync::Mutex<Option<(StoreError, Millis)>>,
    counters: Arc<RemoteCounters>,
    /// Where nodes share a log of invalidations.
    coherence: Option<Arc<Coherence>>,
    /// Where what was invalidated is taken out.
    purger: Option<Purger>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.store.fmt(f)
    }
}

/// How a remote store is made: what the builder of the cache was told.
pub(crate) struct RemoteSettings {
    pub(crate) store: Arc<dyn Store>,
    /// Where the store keeps a log of invalidations, too.
    pub(crate) channel: Option<Arc<dyn Channel>>,
    /// Where what was invalidated is to be taken out of it.
    pub(crate) purge: Option<Arc<dyn Walk>>,
    pub(crate) seal: Option<Seal>,
    pub(crate) version: Option<String>,
    /// Default: [`MEMORY_TTL`], or with a log as long as it is sure.
    pub(crate) memory_ttl: Option<Duration>,
}

/// What is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) path: &'a str,
    /// The primary key.
    pub(crate) key: &'a Key,
    pub(crate) request: &'a HeaderMap,
    pub(crate) origin: Origin,
    /// What memory has, and asks for again.
    pub(crate) local: Option<&'a Entry>,
    /// A longer frame is not one.
    pub(crate) limit: usize,
    pub(crate) deadline: Instant,
}

/// What came of it.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would cost each read an allocation"
)]
pub(crate) enum Looked {
    /// An entry, and by what its variants are told apart.
    Found(Entry, VaryRule),
    /// The very frame that the entry in memory was read from.
    Same,
    /// The store has nothing that could be used.
    Nothing,
    /// It was not asked, or did not answer.
    Unknown,
}

impl Remote {
    pub(crate) fn new(settings: RemoteSettings, clock: Arc<dyn Clock>, log: Arc<Log>) -> Self {
        use std::hash::{BuildHasher, Hasher};
        // As random as the seed of a map.
        let writer = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        let counters = Arc::<RemoteCounters>::default();
        let coherence = settings.channel.map(|channel| {
            Coherence::new(
                channel,
                log.clone(),
                clock.clone(),
                writer,
                counters.clone(),
            )
        });
        let memory_ttl = match (settings.memory_ttl, &coherence) {
            (Some(ttl), _) => Some(ttl),
            (None, Some(_)) => None,
            (None, None) => Some(MEMORY_TTL),
        };
        Self {
            inner: Arc::new(Inner {
                store: settings.store,
                seal: settings.seal,
                writer,
                version: settings.version,
                memory_ttl: memory_ttl.map(millis),
                clock,
                log,
                in_flight: Semaphore::new(MAX_IN_FLIGHT),
                reads: Breaker::default(),
                writes: Breaker::default(),
                outbox: Outbox::new(MAX_WAITING_BYTES),
                shapes: Shapes::default(),
                was_up: AtomicBool::new(false),
                is_closed: AtomicBool::new(false),
                is_abandoned: AtomicBool::new(false),
                last_error: std::sync::Mutex::default(),
                counters,
                coherence,
                purger: settings.purge.map(Purger::new),
            }),
        }
    }

    /// Counts a look-up that is not tried.
    pub(crate) fn skipped(&self) {
        self.inner.counters.skipped.raise();
    }

    /// Whether a look-up would be sent now.
    pub(crate) fn is_askable(&self) -> bool {
        self.inner.is_up() && self.inner.reads.would_permit()
    }

    /// Until when memory answers on its own with what is known to be in the store, too.
    pub(crate) fn memory_until(&self, now: Millis) -> Millis {
        self.inner.memory_until(now)
    }

    /// Until when memory answers as long as no invalidation is heard of.
    pub(crate) fn sure_until(&self) -> Millis {
        self.inner.sure_until()
    }

    /// Waits until other nodes know of the invalidations that this one does, or cannot be told; until then
    /// at the longest.
    pub(crate) async fn settled(&self, end: Instant) {
        if let Some(coherence) = &self.inner.coherence {
            until(end, coherence.settled()).await;
        }
    }

    /// Where the log that nodes share is.
    pub(super) fn channel(&self) -> Option<&Arc<dyn Channel>> {
        Some(self.inner.coherence.as_ref()?.channel())
    }

    pub(super) fn place<'a>(&'a self, path: &'a str, key: &'a [u8]) -> StoreKey<'a> {
        self.inner.place(path, key)
    }

    /// The log that nodes share, where there is one.
    pub(crate) fn coherence(&self) -> Option<&Arc<Coherence>> {
        self.inner.coherence.as_ref()
    }

    /// Makes a layer known whose entries come here.
    pub(crate) fn learn(&self, shape: Shape) {
        self.inner.shapes.learn(shape);
    }

    /// Remembers in what manner a request came.
    pub(crate) fn learn_request(&self, parts: &KeyParts<'_>) {
        self.inner.shapes.learn_request(parts);
    }

    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        let connect = async {
            self.inner.store.connect().await?;
            let Some(coherence) = &self.inner.coherence else {
                return Ok(());
            };
            coherence.start();
            self.start_purger();
            coherence.catch_up().await
        };
        let connect = unpanicked(connect, StoreError::new);
        match within(FIRST_LINK + DEADLINE, connect).await {
            Some(result) => result,
            None => Err(StoreError::timeout(
                "the remote store did not answer within 500 ms; the cache works from memory until it does",
            )),
        }
    }

    /// Sends what waits, as far as that can be done until `end`, and ends the link.
    pub(crate) async fn close(&self, end: Instant) {
        let inner = &*self.inner;
        while self.start_worker() {}
        let end = match inner.is_up() {
            true => end,
            // What is owed to a store that is away is not worth a slow restart.
            false => end.min(after(FIRST_LINK)),
        };
        if let Some(coherence) = &inner.coherence {
            coherence.close(end).await;
        }
        if until(end, inner.outbox.is_empty()).await.is_none() {
            let left = inner.outbox.len();
            tracing::warn!(target: "tower_response_cache", "closed with {left} writes to the remote store unsent");
        }
        if inner.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(Err(error)) = within(FIRST_LINK, inner.store.close()).await {
            inner.note(&error);
        }
    }

    pub(crate) fn stats(&self) -> RemoteStats {
        self.inner.counters.read(self.inner.outbox.bytes())
    }

    pub(crate) fn health(&self) -> Health {
        let inner = &*self.inner;
        Health {
            link: Some(inner.store.link()),
            reads: inner.reads.state(),
            writes: inner.writes.state(),
            latency: inner.counters.latency(),
            last_error: inner.last_error().clone().map(|(error, at)| {
                let now = millis(inner.clock.elapsed());
                (error, Duration::from_millis(now.saturating_sub(at)))
            }),
            outbox_bytes: inner.outbox.bytes(),
            log: inner.coherence.as_ref().map(|coherence| LogHealth {
                is_hearing: coherence.is_hearing(),
                is_sure: coherence.is_sure(millis(inner.clock.elapsed())),
                waiting: coherence.waiting(),
            }),
        }
    }
}

impl Inner {
    /// Whether the link is there. One that has just come back deserves a try at once.
    fn is_up(&self) -> bool {
        let is_up = self.store.link() == Link::Up;
        if is_up != self.was_up.load(Ordering::Relaxed) {
            self.was_up.store(is_up, Ordering::Relaxed);
            if is_up {
                self.reads.hope();
                self.writes.hope();
            }
        }
        is_up
    }

    /// Until when memory answers as long as no invalidation is heard of; 0 where that is not enough.
    fn sure_until(&self) -> Millis {
        match (&self.coherence, self.memory_ttl) {
            (Some(coherence), None) => coherence.sure_until(),
            _ => 0,
        }
    }

    /// Until when memory answers on its own with what is known to be good now.
    fn memory_until(&self, now: Millis) -> Millis {
        let unsure = self.memory_ttl.unwrap_or(millis(SURE_FOR));
        now.saturating_add(unsure).max(self.sure_until())
    }

    /// The time of day by which frames are dated.
    fn time(&self) -> SystemTime {
        self.store.time().unwrap_or_else(|| self.clock.wall())
    }

    fn place<'a>(&'a self, path: &'a str, key: &'a [u8]) -> StoreKey<'a> {
        StoreKey::new(self.version.as_deref(), path, key)
    }

    // ---- what came of it ----

    fn settle(&self, which: &str, permit: Permit<'_>, error: Option<StoreError>) {
        let Some(error) = error else {
            if permit.succeeded() == Change::Closed {
                tracing::info!(target: "tower_response_cache", "the remote store is in use again: its {which} were left out");
            }
            return;
        };
        self.note(&error);
        if error.kind() == StoreErrorKind::Mismatched {
            self.store.renew();
        }
        if permit.failed() == Change::Opened {
            tracing::warn!(target: "tower_response_cache", "the remote store is left alone: its {which} fail: {error}");
        }
    }

    fn note(&self, error: &StoreError) {
        match error.kind() {
            StoreErrorKind::Timeout => self.counters.timeouts.raise(),
            StoreErrorKind::Mismatched => self.counters.mismatches.raise(),
            _ => self.counters.errors.raise(),
        }
        tracing::debug!(target: "tower_response_cache", "the remote store failed: {error}");
        let now = millis(self.clock.elapsed());
        *self.last_error() = Some((error.clone(), now));
    }

    fn last_error(&self) -> std::sync::MutexGuard<'_, Option<(StoreError, Millis)>> {
        self.last_error
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a store, or a seal, does wrong must not fail a request.
async fn unpanicked<T, E>(
    work: impl Future<Output = Result<T, E>>,
    error: impl Fn(&'static str) -> E,
) -> Result<T, E> {
    let worked = panics::unpanicked(work).await;
    worked.unwrap_or_else(|| Err(error("the remote store panicked")))
}

fn since_1970(time: SystemTime) -> Millis {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, millis)
}
