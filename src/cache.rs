//! `Cache`: the handle that layers, handlers and background work share.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    budget::{Budget, Reservation},
    clock::{Clock, SystemClock},
    entry::{Entry, Millis, millis},
    error::BuildError,
    flight::Table,
    invalidation::{Invalidated, Log},
    key::Key,
    marks::{Mark, Marks},
    policy::VaryRule,
    selector::Selector,
    stats::{Counters, Gauges, Stats},
    status::Reason,
    store::memory::Memory,
};

const DEFAULT_MEMORY: u64 = 64 << 20;
const LEAST_MEMORY: u64 = 64 << 10;
const MOST_MEMORY: u64 = 1 << 46;
/// Fills that go on without their starter, and other work that nobody waits for.
const MAX_BACKGROUND: usize = 1024;
/// How long `close` waits for background work.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A response cache: a cheaply cloned handle to what its layers share.
///
/// Clones are the same cache. It needs no runtime to be made; timers start with the first request. Put it into
/// an axum `State` to invalidate from handlers.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, routing::get};
/// use tower_response_cache::{Cache, ResponseCacheLayer};
///
/// // 64 MiB; responses that say nothing about it are fresh for 60 seconds.
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(ResponseCacheLayer::new(Cache::in_memory()));
///
/// let cache = Cache::builder().memory(256 << 20).build()?;
/// let layer = ResponseCacheLayer::new(&cache).ttl(Duration::from_secs(5));
/// # let _ = (app, layer);
/// # Ok::<(), tower_response_cache::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Cache {
    core: Arc<Core>,
}

struct Core {
    id: u64,
    version: Option<String>,
    memory: Memory,
    flights: Arc<Table>,
    log: Log,
    marks: Marks,
    counters: Counters,
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
    is_enabled: AtomicBool,
    fills: AtomicU64,
    sweeper: Mutex<Option<JoinHandle<()>>>,
    background: Arc<Background>,
}

#[derive(Default)]
struct Background {
    running: AtomicUsize,
    ended: Notify,
    is_closed: AtomicBool,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("version", &self.core.version)
            .field("is_enabled", &self.is_enabled())
            .field("memory", &self.core.memory)
            .finish_non_exhaustive()
    }
}

impl From<&Cache> for Cache {
    fn from(cache: &Cache) -> Self {
        cache.clone()
    }
}

impl Cache {
    /// A cache of 64 MiB in this process.
    #[must_use]
    pub fn in_memory() -> Self {
        CacheBuilder::default().assemble()
    }

    /// A cache with other settings than the defaults.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// A cache that passes everything through until it is [enabled](Self::set_enabled).
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// let cache = if std::env::var_os("NO_CACHE").is_some() { Cache::disabled() } else { Cache::in_memory() };
    /// # let _ = cache;
    /// assert!(!Cache::disabled().is_enabled());
    /// ```
    #[must_use]
    pub fn disabled() -> Self {
        let cache = Self::in_memory();
        cache.core.is_enabled.store(false, Ordering::Release);
        cache
    }

    /// Switches the cache off or on while the service runs; for 3 a.m.
    ///
    /// Off: nothing is looked up or stored, responses say `X-Cache: BYPASS`, and what was stored is forgotten, so that
    /// switching on starts cold.
    pub fn set_enabled(&self, enabled: bool) {
        let was = self.core.is_enabled.swap(enabled, Ordering::AcqRel);
        if was && !enabled {
            // A fill that is under way may still store; the record makes that unusable.
            self.invalidate(Selector::all());
            self.core.memory.clear();
        }
        if was != enabled {
            let state = if enabled { "on" } else { "off" };
            tracing::info!(target: "tower_response_cache", "the response cache was switched {state}");
        }
    }

    /// Whether the cache answers and stores.
    #[must_use]
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.core.is_enabled.load(Ordering::Acquire)
    }

    /// Makes stored responses unusable, and those of fills that are under way.
    ///
    /// Takes effect before it returns, on this node. Change the data first and invalidate second, or a fill in between
    /// may store what was read before the change. Costs a few hash look-ups, whatever is stored.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// let cache = Cache::in_memory();
    /// // db.update(user)?;
    /// cache.invalidate(Selector::resource("example.com", "/users/42"));
    /// ```
    pub fn invalidate(&self, selector: impl Into<Selector>) -> Invalidated {
        self.core.log.add(&selector.into())
    }

    /// What the cache has done and what it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let memory = &self.core.memory;
        self.core.counters.read(Gauges {
            bytes: memory.bytes(),
            capacity: memory.capacity(),
            entries: memory.entries(),
            flights: self.core.flights.len() as u64,
            buffered: self.core.budget.used(),
            evictions: memory.evictions(),
            expirations: memory.expirations(),
        })
    }

    /// Ends what runs in the background, after the server has stopped accepting.
    ///
    /// Waits up to 5 seconds for fills that go on without their clients; new ones are not started any more. The cache
    /// itself goes on working.
    pub async fn close(&self) {
        let background = &self.core.background;
        background.is_closed.store(true, Ordering::Release);
        let all_ended = async {
            loop {
                let mut ended = std::pin::pin!(background.ended.notified());
                ended.as_mut().enable();
                if background.running.load(Ordering::Acquire) == 0 {
                    return;
                }
                ended.await;
            }
        };
        if tokio::time::timeout(CLOSE_WITHIN, all_ended).await.is_err() {
            let running = background.running.load(Ordering::Acquire);
            tracing::warn!(target: "tower_response_cache", "closed with {running} fills still under way");
        }
        let sweeper = self
            .core
            .sweeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(sweeper) = sweeper {
            sweeper.abort();
        }
    }

    // ---- for the layers ----

    pub(crate) fn id(&self) -> u64 {
        self.core.id
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.core.memory
    }

    pub(crate) fn log(&self) -> &Log {
        &self.core.log
    }

    pub(crate) fn flights(&self) -> &Arc<Table> {
        &self.core.flights
    }

    pub(crate) fn marks(&self) -> &Marks {
        &self.core.marks
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.core.counters
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.core.clock
    }

    #[inline]
    pub(crate) fn now(&self) -> Millis {
        millis(self.core.clock.elapsed())
    }

    /// The number of the latest fill.
    pub(crate) fn latest_fill(&self) -> u64 {
        self.core.fills.load(Ordering::Acquire)
    }

    pub(crate) fn next_fill(&self) -> u64 {
        self.core.fills.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(crate) fn reserve_room(&self, bytes: u64) -> Option<Reservation> {
        self.core.budget.reserve(bytes)
    }

    /// Stores a complete response; `mark` is the key of what is remembered about it.
    pub(crate) fn store(
        &self,
        key: &Key,
        rule: &VaryRule,
        request: &HeaderMap,
        entry: Arc<Entry>,
        mark: u64,
    ) {
        if !self.is_enabled() {
            return;
        }
        self.core.marks.lift(Mark::Uncacheable, mark);
        if entry.head.shareable {
            self.core.marks.set(Mark::Shareable, mark, self.now());
        }
        match self.core.memory.put(key, rule, request, entry) {
            Ok(()) => {
                self.core.counters.stored();
                self.start_sweeper();
            }
            Err(reason) => self.refuse(reason, mark),
        }
    }

    /// Counts a response that is not stored, and remembers it where the next will not be either.
    pub(crate) fn refuse(&self, reason: Reason, mark: u64) {
        self.core.counters.refusal(reason);
        let is_lasting = !matches!(
            reason,
            Reason::BodyError
                | Reason::BodyLength
                | Reason::NoRoom
                | Reason::FillTimeout
                | Reason::Superseded
                | Reason::NotShareable
                | Reason::InnerError
        );
        if is_lasting {
            self.core.marks.set(Mark::Uncacheable, mark, self.now());
        }
    }

    /// Runs work that nobody waits for; beyond the bound it is dropped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let background = self.core.background.clone();
        let running = background.running.fetch_add(1, Ordering::AcqRel);
        let place = Place(background);
        if running >= MAX_BACKGROUND || place.0.is_closed.load(Ordering::Acquire) {
            return;
        }
        runtime.spawn(async move {
            let _place = place;
            work.await;
        });
    }

    /// Starts what gives expired bytes back, unless it runs; it ends when nothing is left to expire,
    /// and with its runtime.
    fn start_sweeper(&self) {
        let mut sweeper = self
            .core
            .sweeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if sweeper
            .as_ref()
            .is_some_and(|running| !running.is_finished())
        {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            *sweeper = Some(runtime.spawn(sweep(Arc::downgrade(&self.core))));
        }
    }
}

/// A place among the background work, given back however the work ends.
struct Place(Arc<Background>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}

async fn sweep(core: Weak<Core>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(core) = core.upgrade() else {
            return;
        };
        if core.memory.sweep(millis(core.clock.elapsed())) {
            continue;
        }
        // Who stores takes this lock after it has stored: either it sees that we are gone, or we see its entry.
        let mut sweeper = core.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
        if !core.memory.sweep(millis(core.clock.elapsed())) {
            *sweeper = None;
            return;
        }
    }
}

/// Settings of a [`Cache`] that differ from the defaults; [`build`](Self::build) checks them.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CacheBuilder {
    memory: u64,
    clock: Arc<dyn Clock>,
    version: Option<String>,
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            memory: DEFAULT_MEMORY,
            clock: Arc::new(SystemClock::new()),
            version: None,
        }
    }
}

impl CacheBuilder {
    /// The bound of the memory tier in bytes: keys, heads, bodies and overhead of everything
    /// stored, and besides a quarter of it for bodies that are being read.
    ///
    /// Default: 64 MiB. At least 64 KiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// What tells the time. Default: the system's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The version of the service, such as `env!("CARGO_PKG_VERSION")`.
    ///
    /// Part of the key in a store that outlives the process, so that a deployment which changed the shape of its responses starts
    /// cold; without meaning for memory. Default: none.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Makes the cache.
    ///
    /// # Errors
    ///
    /// When a setting makes no sense; the message says what to change.
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// let error = Cache::builder().memory(10).build().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "a memory of 10 bytes holds nothing; give at least 65536, or use Cache::disabled()",
    /// );
    /// ```
    pub fn build(self) -> Result<Cache, BuildError> {
        if self.memory < LEAST_MEMORY {
            return Err(BuildError::too_little_memory(self.memory, LEAST_MEMORY));
        }
        if self.memory > MOST_MEMORY {
            return Err(BuildError::too_much_memory(self.memory, MOST_MEMORY));
        }
        if let Some(version) = &self.version {
            let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
            if version.is_empty() || version.len() > 64 || !version.bytes().all(is_good) {
                return Err(BuildError::version(version));
            }
        }
        Ok(self.assemble())
    }

    fn assemble(self) -> Cache {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Cache {
            core: Arc::new(Core {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                version: self.version,
                memory: Memory::new(self.memory),
                flights: Arc::default(),
                log: Log::default(),
                marks: Marks::default(),
                counters: Counters::default(),
                budget: Budget::new(self.memory / 4),
                clock: self.clock,
                is_enabled: AtomicBool::new(true),
                fills: AtomicU64::new(0),
                sweeper: Mutex::default(),
                background: Arc::default(),
            }),
        }
    }
}
