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

use tokio::{task::JoinHandle, time::Instant};
use tracing::{Instrument, Span};

use super::{
    answer::{Answer, Brought, finished, shared},
    error::{LoadError, ValueError},
    key::ValueKey,
    stored::{CachedValue, Hit, Outcome as Returned, outcome_of, watched},
    terms::Terms,
};
use crate::{
    cache::{Cache, Standing},
    entry::{Millis, Origin},
    flight::{self, Ending, Flight, FlightId, Guard, Joined, Outcome, Purpose, Ticket},
    invalidation::{Names, Verdict},
    key::Key,
    policy::{Tagged, is_ahead},
    random::fraction,
    scope::{Made, MadeOf, Reads, noting},
    status::Reason,
    store::remote::{DEADLINE, Remote},
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
    Fresh(Hit<V>),
    /// To be used, and perhaps refreshed by whoever found it.
    Old(Hit<V>, bool),
    Nothing,
}

/// What there is for somebody who waits for nobody.
pub(crate) enum Found<V> {
    Value(Hit<V>),
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
    /// The remote store has just been asked for it.
    pub(crate) is_looked_up: bool,
}

/// What comes of asking.
pub(super) enum Step<V, E> {
    Answer(Answer<V, E>),
    /// Answered, with a refresh to be started.
    Refresh(Hit<V>, Lead<V>),
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
    ) -> Step<V, E> {
        let alone = |asked, is_kept| {
            let started = Instant::now().into_std();
            let guard = Guard::alone(self.origin_of(key), started);
            Step::Lead(self.lead_with(key, terms, asked, guard, is_kept))
        };
        if !self.is_enabled() {
            return alone(asked, false);
        }
        let mut asked = asked;
        if !asked.is_forced {
            let look;
            (look, asked.is_looked_up) = self.look_further(key, terms, asked).await;
            match look {
                Look::Fresh(hit) => {
                    self.counters().value_hit();
                    return Step::Answer(Answer::hit(hit));
                }
                Look::Old(hit, is_refreshed) => {
                    self.counters().value_hit();
                    let asked = Asked {
                        is_forced: true,
                        ..asked
                    };
                    let joined =
                        is_refreshed.then(|| self.join_value(key, &terms.tags, Purpose::Fill, 0));
                    return match joined {
                        Some(Joined::Lead(guard)) => {
                            Step::Refresh(hit, self.lead_with(key, terms, asked, guard, true))
                        }
                        _ => Step::Answer(Answer::hit(hit)),
                    };
                }
                Look::Nothing => {}
            }
        }
        if Loading::holds(self.id(), &key.key) {
            return alone(asked, false);
        }
        let (purpose, newer_than) = match asked.is_forced {
            true => (Purpose::Forced, self.latest_fill()),
            false => (Purpose::Fill, 0),
        };
        let end = after(WAIT);
        let soft = terms.soft.map(after);
        let asked_at = self.log().sequence();
        let mut was_outrun = false;
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
                            if let Some(hit) = self.standing_in(key) {
                                self.counters().value_miss();
                                return Step::Answer(Answer::hit(hit));
                            }
                        }
                    }
                    let Some(ending) = ended(&ticket, end).await else {
                        break;
                    };
                    match ticket.flight().carried() {
                        Some(carried) => match shared::<V, E>(carried) {
                            // It has read what had been invalidated when this one came: another load has not.
                            Some(answer)
                                if !was_outrun && answer.made.is_outrun(self, asked_at) =>
                            {
                                was_outrun = true;
                            }
                            Some(answer) => {
                                self.counters().value_miss();
                                self.counters().value_collapsed();
                                return Step::Answer(answer.or(|| {
                                    let may_stand_in = !asked.is_forced;
                                    may_stand_in.then(|| self.standing_in(key)).flatten()
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
            Some(hit) => {
                self.counters().value_miss();
                Step::Answer(Answer::hit(hit))
            }
            None => alone(asked, true),
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
            if let Look::Fresh(hit) = self.look(key, terms, Asked::default()) {
                self.counters().value_hit();
                return Found::Value(hit);
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

    /// What memory has; where something old would do, what the remote store has, and whether that was asked.
    async fn look_further<V: CachedValue>(
        &self,
        key: &ValueKey,
        terms: &Terms<V>,
        asked: Asked,
    ) -> (Look<V>, bool) {
        let look = self.look(key, terms, asked);
        let may_be_old = terms.staleness.while_revalidate > 0 || terms.eagerness > 0.0;
        let may_ask = || self.remote().is_some_and(Remote::is_askable);
        if !matches!(look, Look::Nothing) || !asked.is_detached || !may_be_old || !may_ask() {
            return (look, false);
        }
        let found = Box::pin(self.look_up_value(key)).await;
        let look = found.map_or(Look::Nothing, |hit| self.use_of(hit, terms, asked));
        (look, true)
    }

    fn look<V: CachedValue>(&self, key: &ValueKey, terms: &Terms<V>, asked: Asked) -> Look<V> {
        match self.usable_value(key) {
            Some((hit, _)) => self.use_of(hit, terms, asked),
            None => Look::Nothing,
        }
    }

    /// What can be done with a value that was not invalidated.
    fn use_of<V: CachedValue>(&self, hit: Hit<V>, terms: &Terms<V>, asked: Asked) -> Look<V> {
        let stored = &hit.stored;
        let now = self.now();
        let Some(lifetime) = stored.lifetime(self.log()) else {
            return Look::Nothing;
        };
        match lifetime.stale_for(now) {
            None => {
                let left = stored.lifetime.freshness - stored.lifetime.age(now);
                let is_ahead =
                    asked.is_detached && is_ahead(left, stored.cost, terms.eagerness, fraction);
                match is_ahead && stored.try_ahead(now) {
                    true => Look::Old(hit, true),
                    false => Look::Fresh(hit),
                }
            }
            Some(stale) if asked.is_detached && stale < stored.staleness.while_revalidate => {
                // Where that fails, the next one tries a second later.
                let is_refreshed = stored.try_ahead(now);
                Look::Old(hit, is_refreshed)
            }
            Some(_) => Look::Nothing,
        }
    }

    /// What stands in for a load that fails, or takes too long.
    fn standing_in<V: CachedValue>(&self, key: &ValueKey) -> Option<Hit<V>> {
        let (hit, stale) = self.usable_value(key)?;
        let may_stand_in = stale.is_none_or(|stale| stale < hit.stored.staleness.if_error);
        may_stand_in.then_some(hit)
    }

    /// A value that was not invalidated, and for how long it has been stale.
    fn usable_value<V: CachedValue>(&self, key: &ValueKey) -> Option<(Hit<V>, Option<Millis>)> {
        let stored = self.memory().find_value(&key.key)?;
        let now = self.now();
        let stale = stored.lifetime(self.log())?.stale_for(now);
        if self.standing(&stored, now) != Standing::Good {
            return None;
        }
        Some((stored.hit()?, stale))
    }

    /// Keeps what was loaded, where it can be kept.
    fn keep_loaded<V: CachedValue>(
        &self,
        key: &ValueKey,
        value: &Arc<V>,
        terms: &Terms<V>,
        (origin, made_of): (Origin, &MadeOf),
        cost: Millis,
    ) {
        let mut life = match terms.life_of(&**value, self.now()) {
            Some(life) => life,
            None if outcome_of(&**value) == Returned::Failed => {
                return self.counters().refusal(Reason::InnerError);
            }
            None => return,
        };
        // As a response is tagged with what it was made from, and no newer than that.
        match self.tags_of(made_of) {
            Ok(tags) => life.tags = tags,
            Err(reason) => return self.counters().refusal(reason),
        }
        let origin = Origin {
            sequence: made_of
                .lowest
                .map_or(origin.sequence, |lowest| lowest.min(origin.sequence)),
            ..origin
        };
        match self.checked_value(value.clone(), life, watched(origin, cost)) {
            // An invalidation came while it was loaded.
            Ok(stored) if stored.verdict(self.log()) == Verdict::Unusable => {}
            Ok(stored) => self.keep_value(key, stored),
            Err(error) => self.not_kept(key, &error),
        }
    }

    fn tags_of(&self, made_of: &MadeOf) -> Result<Box<[Box<str>]>, Reason> {
        let dependencies = made_of.dependencies.as_ref().ok_or(Reason::TooManyTags)?;
        let dependencies = dependencies.iter().map(|dependency| &**dependency);
        let tagged = Tagged::default().made_of(dependencies, &made_of.tags)?;
        Ok(tagged.tags)
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

impl<V: CachedValue> Lead<V> {
    /// Loads, polled by whoever asked.
    pub(super) async fn run<R, E, F, Loaded>(self, load: F) -> Answer<V, E>
    where
        R: Into<Arc<V>>,
        E: Send + Sync + 'static,
        F: FnOnce() -> Loaded,
        Loaded: Future<Output = Result<R, E>>,
    {
        if let Some(hit) = self.look_again().await {
            self.guard.bring(Ok(Brought::hit(&hit)));
            return Answer::hit(hit);
        }
        self.cache.counters().value_load();
        let began = self.cache.now();
        let reads = Reads::of_load(&self.cache);
        let load = noting(reads.clone(), async { load().await });
        let load = LOADING.scope(self.loading(self.outer.clone()), load);
        let loaded = limited(self.terms.hard, load).await;
        self.bring(loaded.map(Into::into), began, &reads)
    }

    pub(crate) fn key(&self) -> &ValueKey {
        &self.key
    }

    /// What has come between the look-up and the start of this flight, or is in the remote store.
    async fn look_again(&self) -> Option<Hit<V>> {
        let (cache, key, guard) = (&self.cache, &self.key, &self.guard);
        if self.asked.is_forced || !cache.is_enabled() {
            return None;
        }
        let mut found = cache.value_in_memory::<V>(key);
        let is_looked_up = self.asked.is_looked_up;
        if found.is_none() && (is_looked_up || cache.may_fetch_value()) {
            if !is_looked_up {
                let origin = guard.flight().origin();
                let fetched = Box::pin(cache.fetch_value(key, origin)).await;
                found = fetched.filter(|hit| cache.is_fresh_value(&hit.stored));
            }
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

    /// Keeps what a load has brought that began then and has read this, and tells those who wait.
    fn bring<E: Send + Sync + 'static>(
        self,
        loaded: Result<Arc<V>, LoadError<E>>,
        began: Millis,
        reads: &Reads,
    ) -> Answer<V, E> {
        let Self {
            cache,
            key,
            terms,
            guard,
            asked,
            is_kept,
            ..
        } = self;
        let origin = guard.flight().origin();
        let made_of = reads.made_of().by_load(&terms.tags, origin.sequence);
        let made_of = Arc::new(made_of);
        let made = Made::Loaded(made_of.clone());
        match &loaded {
            Ok(value) => {
                if is_kept {
                    let cost = cache.now().saturating_sub(began);
                    cache.keep_loaded(&key, value, &terms, (origin, &made_of), cost);
                }
                guard.bring(Ok(Arc::new(Brought {
                    what: value.clone(),
                    made: made.clone(),
                })));
            }
            Err(error) => guard.bring(Err(Arc::new(Brought {
                what: error.clone(),
                made: made.clone(),
            }))),
        }
        let answer = Answer {
            result: loaded,
            made,
        };
        answer.or(|| {
            let may_stand_in = !asked.is_forced;
            may_stand_in.then(|| cache.standing_in(&key)).flatten()
        })
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
                Some(joined) => return finished(joined).unwrap_or_else(Answer::closed),
                None => {
                    if let Some(hit) = cache.standing_in(&key) {
                        return Answer::hit(hit);
                    }
                }
            }
        }
        finished(task.await).unwrap_or_else(Answer::closed)
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
/// What it reads is noted for each of them.
pub(crate) async fn load_together<V, E, F, Loading>(
    leads: Vec<Lead<Option<V>>>,
    load: F,
) -> Vec<Answer<Option<V>, E>>
where
    Option<V>: CachedValue,
    E: Send + Sync + 'static,
    F: FnOnce(Vec<usize>) -> Loading,
    Loading: Future<Output = Result<Vec<Arc<Option<V>>>, E>>,
{
    let mut answers = Vec::with_capacity(leads.len());
    let mut missing = Vec::new();
    for (at, lead) in leads.into_iter().enumerate() {
        let found = lead.look_again().await;
        match &found {
            Some(hit) => lead.guard.bring(Ok(Brought::hit(hit))),
            None => missing.push((at, lead)),
        }
        answers.push(found.map(Answer::hit));
    }
    let Some((_, first)) = missing.first() else {
        return answers.into_iter().flatten().collect();
    };
    let (cache, hard) = (first.cache.clone(), first.terms.hard);
    let began = cache.now();
    let mut loading = first.outer.clone();
    for (_, lead) in &missing {
        cache.counters().value_load();
        loading = Some(lead.loading(loading));
    }
    let reads = Reads::of_load(&cache);
    let load = load(missing.iter().map(|(at, _)| *at).collect());
    let load = noting(reads.clone(), load);
    let loaded = match loading {
        Some(loading) => limited(hard, LOADING.scope(loading, load)).await,
        None => limited(hard, load).await,
    };
    let (error, mut loaded) = match loaded {
        Ok(loaded) => (None, loaded.into_iter()),
        Err(error) => (Some(error), Vec::new().into_iter()),
    };
    for (at, lead) in missing {
        let loaded = match &error {
            Some(error) => Err(error.clone()),
            None => Ok(loaded.next().unwrap_or_default()),
        };
        answers[at] = Some(lead.bring(loaded, began, &reads));
    }
    answers.into_iter().flatten().collect()
}
