//! `Cache`: the handle that layers, handlers and background work share.

mod background;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use tokio::task::JoinHandle;

pub(crate) use self::background::AtClose;
use self::background::Background;
use crate::{
    budget::{Budget, Reservation},
    clock::Clock,
    entry::{Entry, Millis, Watched, millis},
    error::StoreError,
    events::Events,
    flight::Table,
    health::Health,
    invalidated::{Invalidated, Others},
    invalidation::{Log, Sequence},
    key::Key,
    marks::{Mark, Marks},
    pattern::Pattern,
    policy::VaryRule,
    routes::Routes,
    searches::Searches,
    selector::{Kind, Selector},
    stats::{Counters, Gauges, Stats},
    status::Reason,
    store::{
        lease::Lease,
        memory::Memory,
        remote::{Remote, RemoteSettings},
    },
    target::Space,
    timer::{after, pause, until, within},
    values::{StoredValue, ValueKey},
};

/// How long `close` waits for background work.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long it then waits until what has not ended is dropped.
const DROPPED_WITHIN: Duration = Duration::from_millis(100);
/// How often hits look whether a remote store that cannot be asked can be again, in milliseconds.
const LOOK_AT_LINK: Millis = 100;
/// What a value weighs besides itself, at the most: key, tags, overhead.
const LONGEST_REST: u64 = 24 << 10;
/// What of that writes to the remote store have in any case.
const LEAST_FLUSH: Duration = Duration::from_millis(500);

/// A response cache: a cheaply cloned handle to what its layers share.
///
/// Clones are the same cache. It needs no runtime to be made; timers start with the first request.
/// Put it into an axum `State` to invalidate from handlers.
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
    memory: Memory,
    remote: Option<Remote>,
    flights: Arc<Table>,
    log: Arc<Log>,
    marks: Marks,
    routes: Routes,
    searches: Searches,
    counters: Counters,
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
    values: ValueSettings,
    is_enabled: AtomicBool,
    fills: AtomicU64,
    sweeper: Mutex<Option<JoinHandle<()>>>,
    background: Arc<Background>,
    /// Nobody any more, once it was closed.
    closers: Mutex<Option<Vec<Weak<dyn AtClose>>>>,
    events: Events,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("remote", &self.core.remote)
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
    pub(crate) fn new(
        memory: Memory,
        room: u64,
        remote: Option<RemoteSettings>,
        clock: Arc<dyn Clock>,
        values: ValueSettings,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let log = Arc::new(Log::default());
        let remote = remote.map(|settings| Remote::new(settings, clock.clone(), log.clone()));
        Self {
            core: Arc::new(Core {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                memory,
                remote,
                flights: Arc::default(),
                log,
                marks: Marks::default(),
                routes: Routes::default(),
                searches: Searches::default(),
                counters: Counters::default(),
                budget: Budget::new(room),
                clock,
                values,
                is_enabled: AtomicBool::new(true),
                fills: AtomicU64::new(0),
                sweeper: Mutex::default(),
                background: Arc::default(),
                closers: Mutex::new(Some(Vec::new())),
                events: Events::default(),
            }),
        }
    }

    /// Switches the cache off or on while the service runs; for 3 a.m.
    ///
    /// Off: nothing is looked up or stored, responses say `X-Cache: BYPASS`, and what was stored is
    /// forgotten, so that switching on starts cold. Nothing is deleted in a remote store: what other
    /// processes stored there stays unused by this one until it has stored its own.
    pub fn set_enabled(&self, enabled: bool) {
        let was = self.core.is_enabled.swap(enabled, Ordering::AcqRel);
        if was && !enabled {
            // A fill that is under way may still store; the record makes that unusable.
            self.core.log.add(&Selector::all(), self.now());
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
    /// Takes effect before it returns, on this node; where nodes share Redis, on the others as soon as
    /// they hear of it, one second later at the latest ([`Invalidated`] says how far it has come).
    /// Change the data first and invalidate second, or a fill in between may store what was read
    /// before the change. Costs a few hash look-ups, whatever is stored.
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
        let selector = selector.into();
        if let Err(why) = selector.check() {
            tracing::warn!(target: "tower_response_cache", "nothing was invalidated: {why}");
            return Invalidated::new(self.sequence().number(), Others::Refused(why));
        }
        let done = self.record(&selector);
        // What became stale may still be served: it stays where it is.
        if let (Some(remote), Kind::Resource(resource), false) =
            (self.remote(), &selector.kind, selector.is_soft)
        {
            remote.delete(resource, |key| self.core.memory.variants(key));
        }
        if let (Kind::Pattern(Space::Value, Pattern::Exact(text)), false) =
            (&selector.kind, selector.is_soft)
        {
            let name = text.split_once(':').map_or(&**text, |(name, _)| name);
            self.forget_value(&Key::of_value(text), name);
        }
        done.of(self, selector)
    }

    /// Up to which invalidation this node knows them.
    ///
    /// For handlers that keep values of their own: read it before the value, and tell the cache when the
    /// value is used ([`CachePolicy::read_at`](crate::CachePolicy::read_at)).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// let cache = Cache::in_memory();
    /// assert_eq!(cache.sequence().number(), 0);
    /// let done = cache.invalidate(Selector::tag("users"));
    /// assert_eq!(cache.sequence().number(), done.sequence());
    /// ```
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.core.log.sequence()
    }

    /// Makes the link to the remote store, and waits until it is there, half a second at the most.
    ///
    /// Not needed: the link is made with the first request, and until it is there the cache works
    /// from memory. Good for a service that should start warm, or say at once that it cannot reach
    /// its store. Without a remote store there is nothing to do.
    ///
    /// # Errors
    ///
    /// Why there is no link, as one sentence that says what to do. The cache works all the same,
    /// and goes on trying.
    pub async fn connect(&self) -> Result<(), StoreError> {
        match self.remote() {
            Some(remote) => remote.connect().await,
            None if self.has_remote() => Err(StoreError::new(
                "the cache was closed, which ended its link for good; build a new one",
            )),
            None => Ok(()),
        }
    }

    /// How the link to the remote store is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        match &self.core.remote {
            Some(remote) => remote.health(),
            None => Health::memory_only(),
        }
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
            invalidations: self.core.log.sequence().number(),
            log: self.core.log.size(),
            remote: self
                .core
                .remote
                .as_ref()
                .map(Remote::stats)
                .unwrap_or_default(),
        })
    }

    /// Ends what runs in the background, after the server has stopped accepting.
    ///
    /// Waits up to 5 seconds for what repositories have to write behind
    /// ([`Repository::write_behind`](crate::Repository::write_behind)), for fills that go on without their clients
    /// and for what is on its way to the remote store, then drops what is left of the fills, handlers included, and ends the link;
    /// nothing of the kind is started any more. The cache itself goes on working, from memory.
    pub async fn close(&self) {
        let background = &self.core.background;
        let end = after(CLOSE_WITHIN);
        // First of all: what this writes invalidates, of which the other nodes are told.
        self.run_closers(end).await;
        background.is_closed.store(true, Ordering::Release);
        if until(end, background.ended(true)).await.is_none() {
            let running = background.running.load(Ordering::Acquire)
                + background.bodies.load(Ordering::Acquire);
            tracing::warn!(target: "tower_response_cache", "closed with {running} fills still under way");
        }
        background.is_over.store(true, Ordering::Release);
        background.over.notify_waiters();
        // Each has to be polled once more to be dropped. One that keeps its thread is not waited for.
        within(DROPPED_WITHIN, background.ended(false)).await;
        if let Some(remote) = &self.core.remote {
            remote.close(end.max(after(LEAST_FLUSH))).await;
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

    // ---- for the layers and the values ----

    /// Adds a record to the log, and no more.
    pub(crate) fn record(&self, selector: &Selector) -> Invalidated {
        let remote = self.remote();
        if let Some(coherence) = remote.and_then(Remote::coherence) {
            let sequence = coherence.invalidate(selector);
            remote.inspect(|remote| remote.start_purger());
            return Invalidated::new(sequence, Others::Told(coherence.clone()));
        }
        let others = remote.map_or(Others::Nobody, |_| Others::Untold);
        Invalidated::new(self.core.log.add(selector, self.now()), others)
    }

    /// What is found usable from now on, no invalidation up to this one selects.
    ///
    /// Of the shared order that is what this node has heard all of, not what it has seen: an answer may name a
    /// number whose record has not come yet.
    pub(crate) fn read_point(&self) -> Sequence {
        let sequence = self.core.log.sequence();
        match self.remote().and_then(Remote::coherence) {
            Some(coherence) => Sequence {
                shared: coherence.caught().min(sequence.shared),
                ..sequence
            },
            None => sequence,
        }
    }

    pub(crate) fn value_settings(&self) -> &ValueSettings {
        &self.core.values
    }

    /// The longest value that is kept, encoded.
    pub(crate) fn longest_value(&self) -> u64 {
        // With its key and the rest of its weight.
        let room = self.core.memory.heaviest().saturating_sub(LONGEST_REST);
        self.core.values.limit.min(room)
    }

    /// Keeps a value in memory, and in the remote store if there is one.
    pub(crate) fn keep_value(&self, key: &ValueKey, value: Arc<StoredValue>) {
        if !self.is_enabled() {
            return;
        }
        if let Err(reason) = self.promote_value(key, value.clone()) {
            return self.core.counters.refusal(reason);
        }
        if let Some(remote) = self.remote() {
            remote.put_value(key.name(), &key.key, value);
        }
    }

    /// Puts a value into memory.
    pub(crate) fn promote_value(
        &self,
        key: &ValueKey,
        value: Arc<StoredValue>,
    ) -> Result<(), Reason> {
        let now = self.now();
        if let Some(remote) = self.remote().filter(|remote| remote.coherence().is_some()) {
            value.answer_until(remote.memory_until(now));
        }
        self.core.memory.put_value(&key.key, value, now)?;
        self.start_sweeper();
        Ok(())
    }

    /// Takes a value out of memory, and out of the remote store.
    pub(crate) fn forget_value(&self, key: &Key, name: &str) {
        self.core.memory.remove_value(key);
        if let Some(remote) = self.remote() {
            remote.delete_at(name, std::slice::from_ref(key));
        }
    }

    pub(crate) fn events(&self) -> &Events {
        &self.core.events
    }

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

    pub(crate) fn is_marked(&self, mark: Mark, key: u64) -> bool {
        let until = self.core.marks.until(mark, key);
        until.is_some_and(|until| self.now() < until)
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.core.routes
    }

    pub(crate) fn searches(&self) -> &Searches {
        &self.core.searches
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

    /// What memory may do with an entry that is fresh and was not invalidated.
    #[inline]
    pub(crate) fn standing(&self, entry: &Watched, now: Millis) -> Standing {
        if !entry.is_due(now) {
            return Standing::Good;
        }
        self.standing_of_due(entry, now)
    }

    #[cold]
    fn standing_of_due(&self, entry: &Watched, now: Millis) -> Standing {
        if entry.is_gone() {
            return Standing::Gone;
        }
        let remote = self.remote();
        if let Some((remote, coherence)) = remote.and_then(|it| Some((it, it.coherence()?))) {
            // As long as this node has heard of every invalidation, the log says all there is to say.
            let sure_until = remote.sure_until();
            if now < sure_until {
                entry.answer_until(sure_until);
                return Standing::Good;
            }
            coherence.start();
            return match remote.is_askable() {
                true => Standing::Ask,
                false => Standing::Gone,
            };
        }
        if remote.is_some_and(Remote::is_askable) {
            Standing::Ask
        } else {
            // Bounded by its life, as without a remote store. How the link is takes locks to know:
            // not for every hit.
            entry.answer_until(now.saturating_add(LOOK_AT_LINK));
            Standing::Good
        }
    }

    /// Whether there ever was a remote store.
    pub(crate) fn has_remote(&self) -> bool {
        self.core.remote.is_some()
    }

    /// The remote store, until the cache is closed.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        self.core
            .remote
            .as_ref()
            .filter(|_| !self.core.background.is_closed.load(Ordering::Acquire))
    }

    /// Stores a complete response in memory, and sends it to the remote store if there is one.
    pub(crate) fn store(&self, place: &Placement, rule: &VaryRule, entry: Arc<Entry>, now: Millis) {
        if !self.is_enabled() {
            return;
        }
        let is_fresh = entry.is_fresh(&self.core.log, now);
        self.core.marks.stored(place.mark, is_fresh, now);
        if entry.head.shareable {
            self.core.marks.set(Mark::Shareable, place.mark, now);
        }
        if let Err(reason) = self.put(&place.key, rule, &place.request, entry.clone(), now) {
            return self.refuse(reason, place.lasting_mark());
        }
        self.core.counters.stored();
        if let (Some(remote), Some(path)) = (self.remote(), &place.path) {
            let lease = place.lease.clone();
            remote.put(path, &place.key, rule, &place.request, entry, lease);
        }
    }

    /// Puts an entry into memory.
    pub(crate) fn promote(
        &self,
        key: &Key,
        rule: &VaryRule,
        request: &HeaderMap,
        entry: Arc<Entry>,
    ) -> Result<(), Reason> {
        self.put(key, rule, request, entry, self.now())
    }

    fn put(
        &self,
        key: &Key,
        rule: &VaryRule,
        request: &HeaderMap,
        entry: Arc<Entry>,
        now: Millis,
    ) -> Result<(), Reason> {
        if let Some(remote) = self.remote().filter(|remote| remote.coherence().is_some()) {
            entry.answer_until(remote.memory_until(now));
        }
        self.core.memory.put(key, rule, request, entry, now)?;
        self.start_sweeper();
        Ok(())
    }

    /// Counts a response that is not stored, and remembers it where the next will not be either.
    pub(crate) fn refuse(&self, reason: Reason, mark: Option<u64>) {
        self.refuse_by(reason, mark, false);
    }

    /// The same for the head of a response, which says something of its route, too.
    ///
    /// `is_for_all`: it was made for nobody in particular.
    pub(crate) fn refuse_head(
        &self,
        reason: Reason,
        status: StatusCode,
        is_for_all: bool,
        mark: u64,
        route: Option<u64>,
    ) {
        // That a client has it already says nothing about those who have not.
        let is_said = reason != Reason::Status || status != StatusCode::NOT_MODIFIED;
        let lasts = is_said && is_for_all;
        self.refuse_by(reason, lasts.then_some(mark), true);
        // What is not there says nothing of what is.
        let is_of_route = lasts && status.is_success() && reason.is_of_route();
        if let (true, Some(route)) = (is_of_route, route) {
            self.core.routes.refused(route, mark, self.now());
        }
    }

    fn refuse_by(&self, reason: Reason, mark: Option<u64>, by_head: bool) {
        self.core.counters.refusal(reason);
        let Some(mark) = mark else {
            return;
        };
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
            self.core.marks.set_uncacheable(mark, by_head, self.now());
        }
    }

    /// Starts what gives expired bytes back, unless it runs; it ends when nothing is left to
    /// expire, and with its runtime.
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

/// What holds for all values of a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueSettings {
    /// Where nobody says another.
    pub(crate) ttl: Millis,
    /// The longest one, encoded, in bytes.
    pub(crate) limit: u64,
}

/// What memory may do with a usable entry, where there is a remote store, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It answers on its own.
    Good,
    /// The remote store is asked first: another node may have stored something newer, or deleted
    /// it.
    Ask,
    /// The remote store has it no more; or invalidations may have been missed, and nobody can be asked.
    Gone,
}

/// Where a response is stored, and what is remembered where it is not.
pub(crate) struct Placement {
    /// The primary key.
    pub(crate) key: Key,
    /// For the remote store, if the entry goes there.
    pub(crate) path: Option<String>,
    /// Given back when the entry is there, or will not be.
    pub(crate) lease: Option<Arc<Lease>>,
    /// The fields that the client sent, from which variants are told.
    pub(crate) request: HeaderMap,
    /// The key of marks.
    pub(crate) mark: u64,
    /// The request carries cookies or credentials.
    pub(crate) is_personal: bool,
}

impl Placement {
    /// The mark for what is remembered as not storable. What was refused to one person says
    /// nothing about the others.
    pub(crate) fn lasting_mark(&self) -> Option<u64> {
        (!self.is_personal).then_some(self.mark)
    }
}

async fn sweep(core: Weak<Core>) {
    loop {
        if !pause(Duration::from_secs(1)).await {
            return;
        }
        let Some(core) = core.upgrade() else {
            return;
        };
        if core.memory.sweep(millis(core.clock.elapsed())) {
            continue;
        }
        // Who stores takes this lock after it has stored: either it sees that we are gone, or we
        // see its entry.
        let mut sweeper = core.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
        if !core.memory.sweep(millis(core.clock.elapsed())) {
            *sweeper = None;
            return;
        }
    }
}
