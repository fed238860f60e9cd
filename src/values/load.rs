//! A value that is not there: who loads it, who waits for that, and what stands in.
//!
//! The flights are those of responses, and so is what they promise: one load for all who ask for a key at
//! the same time, and nobody who comes after an invalidation is answered by an older load. What differs:
//! a load may borrow, and is then polled by whoever started it; when that one is dropped, the next of
//! those who wait runs its own. A load that fails is not tried again by those who waited: all get its error.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tracing::{Instrument, Span};

use super::{
    error::{LoadError, ValueError},
    key::ValueKey,
    stored::{CachedValue, Outcome as Returned, StoredValue, outcome_of, watched},
    terms::Terms,
};
use crate::{
    cache::{Cache, Standing},
    entry::{Millis, Origin},
    flight::{self, Carried, Ending, Flight, FlightId, Guard, Joined, Outcome, Purpose, Ticket},
    invalidation::{Names, Verdict},
    key::Key,
    policy::is_ahead,
    random::fraction,
    scope::Reading,
    status::Reason,
    store::remote::DEADLINE,
    timer::{after, until, within},
};

/// How long somebody waits for somebody else's load, and how old one may be to be joined.
const WAIT: Duration = Duration::from_secs(5);
/// How many wait for one load; more load for themselves.
const MAX_WAITING: usize = 16_384;
/// The numbers of layers begin with 1.
const VALUES: u64 = 0;

tokio::task_local! {
    /// What this task is loading just now.
    static LOADING: Arc<Loading>;
}

/// A load under way in a task, and the one that asked for it.
struct Loading {
    cache: u64,
    key: Key,
    outer: Option<Arc<Loading>>,
}

impl Loading {
    fn current() -> Option<Arc<Self>> {
        LOADING.try_with(Arc::clone).ok()
    }

    /// Whether this task is loading that key already: to wait for it were to wait for oneself.
    fn holds(cache: u64, key: &Key) -> bool {
        let mut next = Self::current();
        while let Some(loading) = next {
            if loading.cache == cache && loading.key == *key {
                return true;
            }
            next = loading.outer.clone();
        }
        false
    }
}

/// What memory has for somebody who would load.
enum Look<V> {
    Fresh(Arc<V>),
    /// To be used, and perhaps refreshed by whoever found it.
    Old(Arc<V>, bool),
    Nothing,
}

/// What there is for somebody who waits for nobody.
pub(crate) enum Found<V> {
    Value(Arc<V>),
    /// Nobody else loads it.
    Lead(Box<Lead<V>>),
    /// Somebody is loading it.
    UnderWay,
}

/// How a value is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// Its load can go on by itself: what is stale may be used while it does.
    pub(crate) is_detached: bool,
    /// Only a load that starts from now on will do.
    pub(crate) is_forced: bool,
}

/// What a caller gets in the end.
type Answer<V, E> = Result<Arc<V>, LoadError<E>>;

/// What comes of asking.
pub(super) enum Step<V, E> {
    Answer(Answer<V, E>),
    /// Answered, with a refresh to be started.
    Refresh(Arc<V>, Lead<V>),
    /// Nobody else loads it.
    Lead(Lead<V>),
}

/// The duty to load a value, for all who wait.
pub(crate) struct Lead<V> {
    cache: Cache,
    key: ValueKey,
    terms: Arc<Terms<V>>,
    guard: Guard,
    asked: Asked,
    /// Nothing is kept of a load inside of a load of the same key.
    is_kept: bool,
    outer: Option<Arc<Loading>>,
}

impl Cache {
    /// Answers from memory or by somebody else's load, or hands out the duty to load.
    pub(super) async fn approach<V: CachedValue, E: Send + Sync + 'static>(
        &self,
        key: &ValueKey,
        terms: &Arc<Terms<V>>,
        asked: Asked,
        reading: &mut Option<Reading>,
    ) -> Step<V, E> {
        let alone = |is_kept| {
            let started = Instant::now().into_std();
            let guard = Guard::alone(self.origin_of(key), started);
            Step::Lead(self.lead_with(key, terms, asked, guard, is_kept))
        };
        if !self.is_enabled() {
            return alone(false);
        }
        if !asked.is_forced {
            match self.look(key, terms, asked) {
                Look::Fresh(value) => {
                    self.counters().value_hit();
                    return Step::Answer(Ok(value));
                }
                Look::Old(value, is_refreshed) => {
                    self.counters().value_hit();
                    let asked = Asked {
                        is_forced: true,
                        ..asked
                    };
                    let joined =
                        is_refreshed.then(|| self.join_value(key, &terms.tags, Purpose::Fill, 0));
                    return match joined {
                        Some(Joined::Lead(guard)) => {
                            Step::Refresh(value, self.lead_with(key, terms, asked, guard, true))
                        }
                        _ => Step::Answer(Ok(value)),
                    };
                }
                Look::Nothing => {}
            }
        }
        if Loading::holds(self.id(), &key.key) {
            return alone(false);
        }
        let (purpose, newer_than) = match asked.is_forced {
            true => (Purpose::Forced, self.latest_fill()),
            false => (Purpose::Fill, 0),
        };
        let end = after(WAIT);
        let soft = terms.soft.map(after);
        let mut failures = 0;
        while failures < 2 {
            match self.join_value(key, &terms.tags, purpose, newer_than) {
                Joined::Lead(guard) => {
                    return Step::Lead(self.lead_with(key, terms, asked, guard, true));
                }
                Joined::Full => break,
                Joined::Behind(ticket) => {
                    if ended(&ticket, end).await.is_none() {
                        break;
                    }
                }
                Joined::Follow(ticket) => {
                    if let Some(soft) = soft.filter(|soft| *soft < end) {
                        if ended(&ticket, soft).await.is_none() {
                            if let Some(value) = self.standing_in(key) {
                                self.counters().value_miss();
                                return Step::Answer(Ok(value));
                            }
                        }
                    }
                    let Some(ending) = ended(&ticket, end).await else {
                        break;
                    };
                    if let Some(reading) = reading {
                        // What it has read may be older than what is known by now.
                        reading.lower_to(ticket.flight().sequence());
                    }
                    match ticket.flight().carried() {
                        Some(carried) => match shared(carried) {
                            Some(answer) => {
                                self.counters().value_miss();
                                self.counters().value_collapsed();
                                return Step::Answer(answer.or_else(|error| {
                                    let may_stand_in = !asked.is_forced;
                                    let value = may_stand_in.then(|| self.standing_in(key));
                                    value.flatten().ok_or(error)
                                }));
                            }
                            // Of another type than was asked for.
                            None => break,
                        },
                        // It panicked. Who was merely dropped has not failed.
                        None => failures += usize::from(ending == Ending::Failed),
                    }
                }
            }
        }
        match self.standing_in(key).filter(|_| !asked.is_forced) {
            Some(value) => {
                self.counters().value_miss();
                Step::Answer(Ok(value))
            }
            None => alone(true),
        }
    }

    /// What memory has, or the duty to load it; neither, where somebody else is loading it. Nobody is waited for.
    pub(crate) fn lead_or_look<V: CachedValue>(
        &self,
        key: &ValueKey,
        terms: &Arc<Terms<V>>,
    ) -> Found<V> {
        let lead = |guard, is_kept| {
            let lead = self.lead_with(key, terms, Asked::default(), guard, is_kept);
            Found::Lead(Box::new(lead))
        };
        if self.is_enabled() {
            if let Look::Fresh(value) = self.look(key, terms, Asked::default()) {
                self.counters().value_hit();
                return Found::Value(value);
            }
            if !Loading::holds(self.id(), &key.key) {
                return match self.join_value(key, &terms.tags, Purpose::Fill, 0) {
                    Joined::Lead(guard) => lead(guard, true),
                    Joined::Follow(_) | Joined::Behind(_) | Joined::Full => Found::UnderWay,
                };
            }
        }
        let guard = Guard::alone(self.origin_of(key), Instant::now().into_std());
        lead(guard, false)
    }

    fn lead_with<V>(
        &self,
        key: &ValueKey,
        terms: &Arc<Terms<V>>,
        asked: Asked,
        guard: Guard,
        is_kept: bool,
    ) -> Lead<V> {
        Lead {
            cache: self.clone(),
            key: key.clone(),
            terms: terms.clone(),
            guard,
            asked,
            is_kept,
            outer: Loading::current(),
        }
    }

    /// Of a load that starts now. The sequence is read before anything else happens.
    pub(super) fn origin_of(&self, key: &ValueKey) -> Origin {
        Origin {
            sequence: self.log().sequence(),
            fill: self.next_fill(),
            subject: key.subject.clone(),
        }
    }

    pub(super) fn join_value(
        &self,
        key: &ValueKey,
        tags: &[Box<str>],
        purpose: Purpose,
        newer_than: u64,
    ) -> Joined {
        let names = Names { groups: &[], tags };
        let now = Instant::now().into_std();
        let is_current = |flight: &Flight| {
            let age = now.saturating_duration_since(flight.started());
            let verdict = || self.log().judge(flight.sequence(), flight.subject(), names);
            age < WAIT && verdict() == Verdict::Usable
        };
        let id = FlightId {
            layer: VALUES,
            purpose,
            key: key.key.clone(),
        };
        let terms = flight::Terms {
            max_waiting: MAX_WAITING,
            after: newer_than,
            is_current: &is_current,
        };
        self.flights()
            .join(&id, &terms, || (self.origin_of(key), now))
    }

    fn look<V: CachedValue>(&self, key: &ValueKey, terms: &Terms<V>, asked: Asked) -> Look<V> {
        let Some((stored, value, stale)) = self.usable_value(key) else {
            return Look::Nothing;
        };
        let now = self.now();
        match stale {
            None => {
                let left = stored.lifetime.freshness - stored.lifetime.age(now);
                let is_ahead =
                    asked.is_detached && is_ahead(left, stored.cost, terms.eagerness, fraction);
                match is_ahead && stored.try_ahead(now) {
                    true => Look::Old(value, true),
                    false => Look::Fresh(value),
                }
            }
            Some(stale) if asked.is_detached && stale < stored.staleness.while_revalidate => {
                // Where that fails, the next one tries a second later.
                Look::Old(value, stored.try_ahead(now))
            }
            Some(_) => Look::Nothing,
        }
    }

    /// What stands in for a load that fails, or takes too long.
    fn standing_in<V: CachedValue>(&self, key: &ValueKey) -> Option<Arc<V>> {
        let (stored, value, stale) = self.usable_value(key)?;
        let may_stand_in = stale.is_none_or(|stale| stale < stored.staleness.if_error);
        may_stand_in.then_some(value)
    }

    /// A value that was not invalidated, and for how long it has been stale.
    fn usable_value<V: CachedValue>(
        &self,
        key: &ValueKey,
    ) -> Option<(Arc<StoredValue>, Arc<V>, Option<Millis>)> {
        let stored = self.memory().find_value(&key.key)?;
        let now = self.now();
        let stale = stored.lifetime(self.log())?.stale_for(now);
        if self.standing(&stored, now) != Standing::Good {
            return None;
        }
        let value = stored.get()?;
        Some((stored, value, stale))
    }

    /// Keeps what was loaded, where it can be kept.
    fn keep_loaded<V: CachedValue>(
        &self,
        key: &ValueKey,
        value: &Arc<V>,
        terms: &Terms<V>,
        origin: Origin,
        cost: Millis,
    ) {
        let life = match terms.life_of(&**value, self.now()) {
            Some(life) => life,
            None if outcome_of(&**value) == Returned::Failed => {
                return self.counters().refusal(Reason::InnerError);
            }
            None => return,
        };
        match self.checked_value(value.clone(), life, watched(origin, cost)) {
            // An invalidation came while it was loaded.
            Ok(stored) if stored.verdict(self.log()) == Verdict::Unusable => {}
            Ok(stored) => self.keep_value(key, stored),
            Err(error) => self.not_kept(key, &error),
        }
    }

    pub(super) fn not_kept(&self, key: &ValueKey, error: &ValueError) {
        tracing::debug!(target: "tower_response_cache", "{key:?} is not kept: {error}");
        self.counters().refusal(match error {
            ValueError::TooLarge { .. } => Reason::BodyTooLarge,
            _ => Reason::NotSerializable,
        });
    }
}

/// How a flight ended, if it did in time.
async fn ended(ticket: &Ticket, end: Instant) -> Option<Ending> {
    let outcome = until(end, poll_fn(|cx| ticket.poll_end(cx))).await?;
    match outcome {
        Outcome::Ended(ending) => Some(ending),
        // Flights of values have no body.
        Outcome::Streaming(_) | Outcome::Open(_) | Outcome::Complete(..) => Some(Ending::Look),
    }
}

/// What somebody else's load brought, as the types that this one expects.
fn shared<V: CachedValue, E: Send + Sync + 'static>(carried: Carried) -> Option<Answer<V, E>> {
    match carried {
        Ok(value) => value.downcast().ok().map(Ok),
        Err(error) => {
            let error = error.downcast::<LoadError<E>>().ok()?;
            Some(Err(LoadError::clone(&error)))
        }
    }
}

impl<V: CachedValue> Lead<V> {
    /// Loads, polled by whoever asked.
    pub(super) async fn run<R, E, F, Loaded>(self, load: F) -> Answer<V, E>
    where
        R: Into<Arc<V>>,
        E: Send + Sync + 'static,
        F: FnOnce() -> Loaded,
        Loaded: Future<Output = Result<R, E>>,
    {
        if let Some(value) = self.look_again().await {
            self.guard.bring(Ok(value.clone()));
            return Ok(value);
        }
        self.cache.counters().value_load();
        let began = self.cache.now();
        let load = LOADING.scope(self.loading(self.outer.clone()), async { load().await });
        let loaded = limited(self.terms.hard, load).await;
        self.bring(loaded.map(Into::into), began)
    }

    pub(crate) fn key(&self) -> &ValueKey {
        &self.key
    }

    /// What has come between the look-up and the start of this flight, or is in the remote store.
    async fn look_again(&self) -> Option<Arc<V>> {
        let (cache, key, guard) = (&self.cache, &self.key, &self.guard);
        if self.asked.is_forced || !cache.is_enabled() {
            return None;
        }
        let mut found = cache.value_in_memory::<V>(key);
        if found.is_none() && cache.may_fetch_value() {
            let origin = guard.flight().origin();
            found = Box::pin(cache.fetch_value(key, origin)).await;
            if let (None, Some(remote)) = (&found, cache.remote()) {
                remote.settled(after(DEADLINE)).await;
            }
            // Nothing was read for it before now: no earlier invalidation concerns what it brings.
            guard.flight().begin_fill(cache.log().sequence());
        }
        match found {
            Some(_) => cache.counters().value_hit(),
            None => cache.counters().value_miss(),
        }
        found
    }

    fn loading(&self, outer: Option<Arc<Loading>>) -> Arc<Loading> {
        Arc::new(Loading {
            cache: self.cache.id(),
            key: self.key.key.clone(),
            outer,
        })
    }

    /// Keeps what a load has brought that began then, and tells those who wait.
    fn bring<E: Send + Sync + 'static>(
        self,
        loaded: Result<Arc<V>, LoadError<E>>,
        began: Millis,
    ) -> Result<Arc<V>, LoadError<E>> {
        let Self {
            cache,
            key,
            terms,
            guard,
            asked,
            is_kept,
            ..
        } = self;
        match loaded {
            Ok(value) => {
                if is_kept {
                    let cost = cache.now().saturating_sub(began);
                    cache.keep_loaded(&key, &value, &terms, guard.flight().origin(), cost);
                }
                guard.bring(Ok(value.clone()));
                Ok(value)
            }
            Err(error) => {
                guard.bring(Err(Arc::new(error.clone())));
                let may_stand_in = !asked.is_forced;
                let value = may_stand_in.then(|| cache.standing_in(&key));
                value.flatten().ok_or(error)
            }
        }
    }

    /// Loads in a task, which goes on when whoever asked is dropped.
    pub(super) async fn run_detached<R, E, F, Loaded>(self, load: F) -> Answer<V, E>
    where
        R: Into<Arc<V>> + Send + 'static,
        E: Send + Sync + 'static,
        F: FnOnce() -> Loaded + Send + 'static,
        Loaded: Future<Output = Result<R, E>> + Send + 'static,
    {
        let (cache, key, soft) = (self.cache.clone(), self.key.clone(), self.terms.soft);
        let Some(detached) = cache.detached() else {
            return self.run(load).await;
        };
        let mut task: JoinHandle<_> = detached.spawn(self.run(load).instrument(Span::current()));
        if let Some(soft) = soft {
            match within(soft, &mut task).await {
                Some(joined) => return finished(joined),
                None => {
                    if let Some(value) = cache.standing_in(&key) {
                        return Ok(value);
                    }
                }
            }
        }
        finished(task.await)
    }

    /// Loads in a task for which nobody waits.
    pub(super) fn run_behind<R, E, F, Loaded>(self, load: F)
    where
        R: Into<Arc<V>> + Send + 'static,
        E: Send + Sync + 'static,
        F: FnOnce() -> Loaded + Send + 'static,
        Loaded: Future<Output = Result<R, E>> + Send + 'static,
    {
        if let Some(detached) = self.cache.detached() {
            detached.spawn(self.run(load).instrument(Span::current()));
        }
    }
}

/// What a load brings within its hard limit.
async fn limited<V, E>(
    hard: Option<Duration>,
    load: impl Future<Output = Result<V, E>>,
) -> Result<V, LoadError<E>> {
    let of_load = |loaded: Result<V, E>| loaded.map_err(|error| LoadError::Load(Arc::new(error)));
    match hard {
        None => of_load(load.await),
        Some(hard) => match within(hard, load).await {
            Some(loaded) => of_load(loaded),
            None => Err(ValueError::TooSlow(hard).into()),
        },
    }
}

/// Loads for several keys together, which are led all at once; `load` is told which of them are needed.
pub(crate) async fn load_together<V, E, F, Loading>(
    leads: Vec<Lead<Option<V>>>,
    load: F,
) -> Result<Vec<Arc<Option<V>>>, LoadError<E>>
where
    Option<V>: CachedValue,
    E: Send + Sync + 'static,
    F: FnOnce(Vec<usize>) -> Loading,
    Loading: Future<Output = Result<Vec<Arc<Option<V>>>, E>>,
{
    let mut values = Vec::with_capacity(leads.len());
    let mut missing = Vec::new();
    for (at, lead) in leads.into_iter().enumerate() {
        let found = lead.look_again().await;
        match &found {
            Some(value) => lead.guard.bring(Ok(value.clone())),
            None => missing.push((at, lead)),
        }
        values.push(found);
    }
    let Some((_, first)) = missing.first() else {
        return Ok(values.into_iter().flatten().collect());
    };
    let (cache, hard) = (first.cache.clone(), first.terms.hard);
    let began = cache.now();
    let mut loading = first.outer.clone();
    for (_, lead) in &missing {
        cache.counters().value_load();
        loading = Some(lead.loading(loading));
    }
    let load = load(missing.iter().map(|(at, _)| *at).collect());
    let loaded = match loading {
        Some(loading) => limited(hard, LOADING.scope(loading, load)).await,
        None => limited(hard, load).await,
    };
    let mut failed = None;
    let (error, mut loaded) = match loaded {
        Ok(loaded) => (None, loaded.into_iter()),
        Err(error) => (Some(error), Vec::new().into_iter()),
    };
    for (at, lead) in missing {
        let loaded = match &error {
            Some(error) => Err(error.clone()),
            None => Ok(loaded.next().unwrap_or_default()),
        };
        match lead.bring(loaded, began) {
            Ok(value) => values[at] = Some(value),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(values.into_iter().flatten().collect()),
    }
}

/// What came of a task: its panic is that of whoever waits for it.
pub(crate) fn finished<T, E>(
    joined: Result<Option<Result<T, LoadError<E>>>, JoinError>,
) -> Result<T, LoadError<E>> {
    match joined {
        Ok(Some(answer)) => answer,
        Ok(None) => Err(ValueError::Closed.into()),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ValueError::Closed.into()),
        },
    }
}
