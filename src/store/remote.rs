//! The remote store as the rest of the cache sees it: something that may know a response, is asked
//! in bounded time, and cannot hurt.
//!
//! - *Reading* happens inside of a flight. All that a request does here has one [`DEADLINE`]; a
//!   [`Breaker`] ends even that wait while the store is in trouble.
//! - *Writing* goes through the [`Outbox`] and is waited for by nobody.
//! - Whether what was read may still be used is judged when it is read: an entry names its writer,
//!   and what another cache wrote counts as older than every invalidation of this one.

use std::{
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use crate::{
    clock::Clock,
    entry::{Entry, Lifetime, Millis, Origin, StoredHead, millis},
    error::{StoreError, StoreErrorKind},
    headers::{Strip, has_status_slot, stored_head},
    health::Health,
    invalidation::Log,
    key::{Key, KeyParts},
    policy::VaryRule,
    selector::Resource,
    shapes::{Shape, Shapes},
    status::FrameFault,
    store::{
        Link, Store, StoreKey, Stored,
        breaker::{Breaker, Change, Permit},
        codec::{Frame, ResponseFrame, decode, encode_response, encode_rule},
        counters::{RemoteCounters, RemoteStats},
        outbox::{Next, Outbox, Replace, Sending, Worker},
        seal::Seal,
    },
    timer::{after, pause, until, within},
};

/// For all that one request does in the remote store, and for each write.
pub(crate) const DEADLINE: Duration = Duration::from_millis(50);
/// Reads and writes that are under way at the same time; more wait inside of their deadline.
const MAX_IN_FLIGHT: usize = 64;
/// Of the outbox.
const MAX_WAITING_BYTES: u64 = 16 << 20;
/// How long a write waits for a link that is being made for the first time.
const FIRST_LINK: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(250);
/// The same for a deletion that the store has declined.
const RETRY_REFUSED: Duration = Duration::from_secs(5);
/// Names of selecting fields are kept longer than the response that brought them: other variants
/// may live longer.
const LEAST_LIFE_OF_RULES: Duration = Duration::from_secs(3600);

/// A remote store, and what is known of it.
pub(crate) struct Remote {
    inner: Arc<Inner>,
}

impl Drop for Remote {
    /// Nobody is left to whom anything could be owed.
    fn drop(&mut self) {
        self.inner.is_abandoned.store(true, Ordering::Relaxed);
    }
}

struct Inner {
    store: Arc<dyn Store>,
    seal: Option<Seal>,
    /// Tells the frames of this cache from others'.
    writer: u64,
    version: Option<String>,
    /// For how long memory answers without asking here.
    memory_ttl: Millis,
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
    counters: RemoteCounters,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.store.fmt(f)
    }
}

/// How a remote store is made: what the builder of the cache was told.
pub(crate) struct RemoteSettings {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) seal: Option<Seal>,
    pub(crate) version: Option<String>,
    pub(crate) memory_ttl: Duration,
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

/// Why a read brought nothing.
enum Missing {
    Nothing,
    Fault(FrameFault),
    Store(StoreError),
}

impl From<StoreError> for Missing {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::NotAFrame => Self::Fault(FrameFault::WrongType),
            _ => Self::Store(error),
        }
    }
}

impl From<FrameFault> for Missing {
    fn from(fault: FrameFault) -> Self {
        Self::Fault(fault)
    }
}

/// What is to be written.
#[derive(Debug)]
struct Job {
    path: Arc<str>,
    what: What,
    since: Instant,
    /// It took the place of a deletion: should it not be written, that is still owed.
    owes_deletion: bool,
}

impl Job {
    fn is_deletion(&self) -> bool {
        matches!(self.what, What::Delete)
    }
}

impl Replace for Job {
    fn replace(&mut self, older: Self) {
        self.owes_deletion |= older.owes_deletion || older.is_deletion();
    }
}

#[derive(Debug)]
enum What {
    Response(Arc<Entry>),
    /// The names of selecting fields, with the entry that brought them.
    Rule(Vec<HeaderName>, Arc<Entry>),
    Delete,
}

impl Remote {
    pub(crate) fn new(settings: RemoteSettings, clock: Arc<dyn Clock>, log: Arc<Log>) -> Self {
        use std::hash::{BuildHasher, Hasher};
        // As random as the seed of a map.
        let writer = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        Self {
            inner: Arc::new(Inner {
                store: settings.store,
                seal: settings.seal,
                writer,
                version: settings.version,
                memory_ttl: millis(settings.memory_ttl),
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
                counters: RemoteCounters::default(),
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
        now.saturating_add(self.inner.memory_ttl)
    }

    /// The response for a request, if the store has one and says so in time.
    pub(crate) async fn get(&self, ask: &Ask<'_>) -> Looked {
        let inner = &*self.inner;
        let permit = if inner.is_up() {
            inner.reads.permit()
        } else {
            None
        };
        let Some(permit) = permit else {
            inner.counters.skipped.raise();
            return Looked::Unknown;
        };
        self.start_worker();
        let panicked = |why| Missing::Store(StoreError::new(why));
        let look_up = unpanicked(inner.look_up(ask), panicked);
        let result = match until(ask.deadline, look_up).await {
            Some(result) => result,
            None => Err(Missing::Store(StoreError::timeout(
                "no answer within 50 ms",
            ))),
        };
        match result {
            Ok(looked) => {
                inner.settle("reads", permit, None);
                inner.counters.hits.raise();
                looked
            }
            Err(Missing::Nothing) => {
                inner.settle("reads", permit, None);
                Looked::Nothing
            }
            Err(Missing::Fault(fault)) => {
                inner.settle("reads", permit, None);
                inner.counters.fault(fault);
                if fault == FrameFault::OtherKey {
                    inner.store.check();
                }
                Looked::Nothing
            }
            Err(Missing::Store(error)) => {
                inner.settle("reads", permit, Some(error));
                Looked::Unknown
            }
        }
    }

    /// Writes an entry, some time soon; with a rule, as the variant of `request`.
    pub(crate) fn put(
        &self,
        path: &str,
        key: &Key,
        rule: &VaryRule,
        request: &HeaderMap,
        entry: Arc<Entry>,
    ) {
        if rule.is_empty() {
            return self.post(key, path.into(), What::Response(entry));
        }
        let path: Arc<str> = path.into();
        let variant = key.with_variant(&rule.values(request));
        let names = rule.names().to_vec();
        self.post(&variant, path.clone(), What::Response(entry.clone()));
        self.post(key, path, What::Rule(names, entry));
    }

    /// Deletes what is stored of a resource under the keys that every layer of this cache gives it,
    /// with those `variants` of a key that memory knows.
    pub(crate) fn delete(&self, resource: &Resource, variants: impl Fn(&Key) -> Vec<Key>) {
        let path: Arc<str> = resource.path().into();
        for key in self.inner.shapes.keys(resource) {
            for variant in variants(&key) {
                self.post(&variant, path.clone(), What::Delete);
            }
            self.post(&key, path.clone(), What::Delete);
        }
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
        let connect = unpanicked(self.inner.store.connect(), StoreError::new);
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
        }
    }

    fn post(&self, key: &Key, path: Arc<str>, what: What) {
        let inner = &self.inner;
        let is_urgent = matches!(what, What::Delete);
        if !is_urgent && inner.is_hopeless() {
            return inner.counters.skipped.raise();
        }
        let bytes = match &what {
            What::Response(entry) => entry.weight(0),
            What::Rule(names, _) => 64 * names.len() as u64,
            What::Delete => 0,
        } + path.len() as u64;
        let job = Job {
            path,
            what,
            since: Instant::now(),
            owes_deletion: false,
        };
        if inner
            .outbox
            .put(key.bytes.clone(), job, bytes, is_urgent)
            .is_err()
        {
            return inner.counters.dropped.raise();
        }
        self.start_worker();
    }

    /// One more that sends, if there is something for it to do; what was posted where there was no
    /// runtime, or in one that has ended, waits for this.
    fn start_worker(&self) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let worker = self.inner.outbox.worker();
        let is_needed = worker.is_some();
        if let Some(worker) = worker {
            runtime.spawn(work(self.inner.clone(), worker));
        }
        is_needed
    }
}

/// What came of a job.
enum Sent {
    /// It is done, or given up, or to be done again.
    Tried,
    /// It is owed, and cannot be tried as things are.
    NotNow,
}

/// Sends what waits until nothing does.
async fn work(inner: Arc<Inner>, mut worker: Worker<Job>) {
    loop {
        let rest = match worker.next() {
            Next::Send(sending, job) => match inner.send(sending, job).await {
                Sent::Tried => continue,
                // Whatever else waits would fare no better.
                Sent::NotNow => RETRY,
            },
            Next::Wait(time) => time.min(RETRY),
            Next::Nothing => return,
        };
        if !pause(rest).await {
            return;
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

    /// Whether a write need not even wait: the link has failed, or the store takes nothing.
    fn is_hopeless(&self) -> bool {
        match self.store.link() {
            Link::Up => !self.writes.would_permit(),
            Link::Idle | Link::Connecting(None) => false,
            Link::Connecting(Some(_)) | Link::Closed => true,
        }
    }

    /// The time of day by which frames are dated.
    fn time(&self) -> SystemTime {
        self.store.time().unwrap_or_else(|| self.clock.wall())
    }

    fn place<'a>(&'a self, path: &'a str, key: &'a [u8]) -> StoreKey<'a> {
        StoreKey::new(self.version.as_deref(), path, key)
    }

    // ---- reading ----

    /// Never in vain, and never unknown: both are errors here.
    async fn look_up(&self, ask: &Ask<'_>) -> Result<Looked, Missing> {
        // Never closed.
        let _place = self.in_flight.acquire().await;
        let key = &ask.key.bytes;
        let (frame, remaining) = self.read(ask, key).await?;
        if self.is_same(ask, &frame, remaining) {
            return Ok(Looked::Same);
        }
        let (frame, remaining, rule) = match decode(key, &frame, ask.limit)? {
            Frame::Response(frame) => (frame, remaining, VaryRule::default()),
            Frame::Rule(names) => {
                let rule = VaryRule::from_names(names);
                let variant = ask.key.with_variant(&rule.values(ask.request));
                let (frame, remaining) = self.read(ask, &variant.bytes).await?;
                match decode(&variant.bytes, &frame, ask.limit)? {
                    Frame::Response(frame) => (frame, remaining, rule),
                    Frame::Rule(_) => return Err(FrameFault::Malformed.into()),
                }
            }
        };
        let entry = self.entry(frame, remaining, ask.origin)?;
        Ok(Looked::Found(entry, rule))
    }

    /// The frame under a key, with the life that the store still gives it.
    async fn read(&self, ask: &Ask<'_>, key: &[u8]) -> Result<(Bytes, Option<Duration>), Missing> {
        self.counters.reads.raise();
        let started = Instant::now();
        let stored = self
            .store
            .get(&self.place(ask.path, key), ask.limit)
            .await?;
        self.counters.measured(started.elapsed());
        let Some(Stored { frame, remaining }) = stored else {
            return Err(Missing::Nothing);
        };
        if frame.len() > ask.limit {
            return Err(FrameFault::TooLarge.into());
        }
        let frame = match &self.seal {
            Some(seal) => seal.open(frame)?,
            None => frame,
        };
        Ok((frame, remaining))
    }

    /// Whether what was read would only make again what memory has: then that is kept, and nothing
    /// is copied. Not where the store gives it less life than it has, as in `entry`.
    fn is_same(&self, ask: &Ask<'_>, frame: &[u8], remaining: Option<Duration>) -> bool {
        let Some((local, mark)) = ask.local.and_then(|local| Some((local, local.frame?))) else {
            return false;
        };
        let now = millis(self.clock.elapsed());
        let left = local.head.lifetime.ends().saturating_sub(now);
        let least = remaining.map_or(left, |life| millis(life).saturating_add(1000));
        left > 0 && left <= least && mark.is_of(&ask.key.bytes, frame)
    }

    /// What was read as an entry of this cache.
    fn entry(
        &self,
        frame: ResponseFrame,
        remaining: Option<Duration>,
        origin: Origin,
    ) -> Result<Entry, Missing> {
        let (body, mark) = (frame.copy_body()?, frame.mark());
        let time = self.time();
        let resident = since_1970(time).saturating_sub(frame.response_time);
        let mut lifetime = Lifetime {
            response_time: millis(self.clock.elapsed()),
            initial_age: frame.initial_age.saturating_add(resident),
            freshness: frame.freshness,
        };
        if let Some(remaining) = remaining {
            // The smaller of both counts; what is below a second is the time that writing took.
            let ends = lifetime.initial_age.saturating_add(millis(remaining));
            if ends.saturating_add(1000) < lifetime.freshness {
                lifetime.freshness = ends;
            }
        }
        if !lifetime.is_fresh(lifetime.response_time) {
            return Err(Missing::Nothing);
        }
        let head = StoredHead {
            status: frame.status,
            version: frame.version,
            headers: stored_head(&frame.headers, Strip { fields: &[] }, time),
            status_slot: has_status_slot(&frame.headers),
            lifetime,
            shareable: frame.shareable,
            shareable_with_authorization: frame.shareable_with_authorization,
        };
        // Another cache's numbers mean nothing here.
        let is_ours = frame.writer == self.writer;
        let origin = Origin {
            sequence: if is_ours { frame.sequence } else { 0 },
            ..origin
        };
        let mut entry = Entry::new(Arc::new(head), body, origin);
        entry.frame = Some(mark);
        let until = lifetime.response_time.saturating_add(self.memory_ttl);
        entry.answer_until(until);
        Ok(entry)
    }

    // ---- writing ----

    async fn send(&self, sending: Sending<Job>, job: Job) -> Sent {
        if self.is_closed.load(Ordering::Acquire) {
            self.counters.skipped.raise();
            return Sent::Tried;
        }
        let permit = if self.is_up() {
            self.writes.permit()
        } else {
            None
        };
        let Some(permit) = permit else {
            // A response is worth a moment while the link is made for the first time.
            let is_first = !self.is_hopeless() && job.since.elapsed() < FIRST_LINK;
            if is_first && matches!(job.what, What::Response(_) | What::Rule(..)) {
                sending.again(job, FIRST_LINK / 20);
                return Sent::Tried;
            }
            return match self.give_up(sending, job, RETRY) {
                true => Sent::NotNow,
                false => Sent::Tried,
            };
        };
        let write = unpanicked(self.write(sending.key(), &job), StoreError::new);
        let result = match within(DEADLINE, write).await {
            Some(result) => result,
            None => Err(StoreError::timeout("nothing was written within 50 ms")),
        };
        match result {
            // Where there is no room for responses, deletions still succeed.
            Ok(true) if job.is_deletion() => {
                drop(permit);
                self.counters.writes.raise();
            }
            Ok(true) => {
                self.settle("writes", permit, None);
                self.counters.writes.raise();
                if let What::Response(entry) = &job.what {
                    let now = millis(self.clock.elapsed());
                    entry.answer_until(now.saturating_add(self.memory_ttl));
                }
            }
            Ok(false) => {
                self.give_up(sending, job, RETRY);
            }
            // It may be that only deletions are not permitted, which says nothing of writes; and
            // nobody will change that soon.
            Err(error) if job.is_deletion() && error.kind() == StoreErrorKind::Refused => {
                self.note(&error);
                drop(permit);
                self.give_up(sending, job, RETRY_REFUSED);
            }
            Err(error) => {
                self.settle("writes", permit, Some(error));
                self.give_up(sending, job, RETRY);
            }
        }
        Sent::Tried
    }

    /// Leaves a job undone. A deletion is owed, and tried until it is done or all is over; says
    /// whether it is one.
    fn give_up(&self, mut sending: Sending<Job>, job: Job, retry: Duration) -> bool {
        let is_owed = job.owes_deletion || job.is_deletion();
        let is_over = self.is_abandoned.load(Ordering::Relaxed)
            || self.is_closed.load(Ordering::Acquire)
            || self.store.link() == Link::Closed;
        if !is_owed || is_over {
            self.counters.skipped.raise();
            return false;
        }
        let job = Job {
            what: What::Delete,
            ..job
        };
        sending.shrink_to(job.path.len() as u64);
        sending.again(job, retry);
        true
    }

    /// Says whether there was anything to be written.
    async fn write(&self, key: &[u8], job: &Job) -> Result<bool, StoreError> {
        let place = self.place(&job.path, key);
        let _place = self.in_flight.acquire().await;
        let (entry, least) = match &job.what {
            What::Delete => return self.store.delete(&place).await.map(|()| true),
            What::Response(entry) => (entry, Duration::ZERO),
            What::Rule(_, entry) => (entry, LEAST_LIFE_OF_RULES),
        };
        let now = millis(self.clock.elapsed());
        let lifetime = entry.head.lifetime;
        let life = Duration::from_millis(lifetime.ends().saturating_sub(now));
        if life.is_zero() || !entry.is_usable(&self.log) {
            return Ok(false);
        }
        let time = self.time();
        let frame = match &job.what {
            What::Rule(names, _) => encode_rule(key, names),
            _ => {
                let resident = now.saturating_sub(lifetime.response_time);
                let response_time = since_1970(time).saturating_sub(resident);
                let named = (self.writer, entry.origin.sequence);
                encode_response(key, &entry.head, response_time, named, &entry.body)
            }
        };
        let frame = match &self.seal {
            Some(seal) => seal.seal(frame),
            None => frame,
        };
        let until = time.checked_add(life.max(least)).unwrap_or(time);
        self.store.set(&place, frame, until).await.map(|()| true)
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
    let mut work = pin!(work);
    poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| work.as_mut().poll(cx));
        // A future that has panicked is not polled again.
        catch_unwind(poll).unwrap_or_else(|_| Poll::Ready(Err(error("the remote store panicked"))))
    })
    .await
}

fn since_1970(time: SystemTime) -> Millis {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, millis)
}
