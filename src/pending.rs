//! What is known of a request when nothing usable was found for it, and what it asks of the cache
//! until it is answered: flights, marks, another look.

use std::{hash::Hasher, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use tokio::{sync::Notify, time::Instant};

use crate::{
    admission::Lookup,
    answer::{Hit, may_answer},
    cache::{Cache, Standing},
    entry::{Entry, Millis, Origin, StoredHead},
    flight::{Flight, FlightId, Joined, Purpose, Terms, Ticket},
    head::HeadRef,
    headers::Forwarded,
    invalidation::{Names, Sequence, Verdict},
    judge::longest_frame,
    key::{Key, hasher},
    marks::Mark,
    nesting::remote_deadline,
    policy::{Failure, RequestDirectives, Reuse, VaryRule, has_validator, reuse, stands_in},
    router::matched_route,
    searches::Search,
    settings::Settings,
    status::{Forward, Reason},
    store::{
        lease::{Lease, Taken},
        memory::Found,
        remote::{Ask, DEADLINE, Looked, Remote},
    },
    stored_head::without_own,
    target::Subject,
    timer::after,
};

/// What is known of a request when nothing usable was found for it.
pub(crate) struct Pending {
    pub(crate) key: Key,
    /// The key of what is remembered about it (`marks.rs`).
    pub(crate) mark: u64,
    /// The same for the whole route, where there is one.
    pub(crate) route_mark: u64,
    pub(crate) subject: Subject,
    /// By what its variants are told apart, as far as is known.
    pub(crate) rule: Option<VaryRule>,
    pub(crate) forward: Forward,
    pub(crate) is_head: bool,
    /// It has conditions or a range.
    pub(crate) is_selective: bool,
    /// It wants an answer that is newer than the request: `no-cache`, or `max-age=0`.
    pub(crate) no_cache: bool,
    /// What else it demands.
    demands: RequestDirectives,
    /// Fills up to this number started before the request came.
    pub(crate) arrived: u64,
    /// Invalidations up to this number came before the request.
    invalidated: u64,
    pub(crate) personal: Option<Reason>,
    pub(crate) authorization: bool,
    /// Why the request may neither wait for others nor have them wait: it is personal, and nothing
    /// shareable is known of its key.
    pub(crate) alone: Option<Reason>,
    pub(crate) layer: u64,
    pub(crate) cache: Cache,
    pub(crate) fill_timeout: Duration,
    max_waiting: usize,
    /// For the remote store; `None` where there is none, or the layer's entries stay here.
    pub(crate) path: Option<String>,
    /// The right to fill it, among all nodes.
    pub(crate) lease: Option<Arc<Lease>>,
    /// Until when the request may wait for the remote store, nested layers included.
    pub(crate) remote_until: Option<Instant>,
    /// The longest frame that is read.
    frame_limit: usize,
    /// What memory has, where the remote store is to be asked before it is used.
    pub(crate) local: Option<Arc<Entry>>,
    /// What is stored and does not answer as it is: it is to be validated, and may stand in for a
    /// failure.
    pub(crate) stored: Option<Arc<Entry>>,
    /// What memory had, whatever became of it: its tags are those that its successor most likely has.
    hint: Option<Arc<Entry>>,
    /// What the layer's own validator says now.
    pub(crate) validator: Option<Box<str>>,
    /// Where a response is stored that says what of its query matters.
    search: Option<Search>,
    /// Whether any stale response stands in where the inner service cannot be reached (§4.2.4).
    is_standard: bool,
    pub(crate) otherwise: Otherwise,
    /// What is stored is fresh, and obtained anew all the same.
    pub(crate) is_ahead: bool,
}

/// What memory has for a request that it cannot answer.
#[derive(Default)]
pub(crate) struct Known {
    /// What it could answer with, where the remote store is to be asked first.
    pub(crate) local: Option<Arc<Entry>>,
    /// What may answer once it is validated, or stand in for a failure.
    pub(crate) stored: Option<Arc<Entry>>,
    /// Whatever it has.
    pub(crate) hint: Option<Arc<Entry>>,
}

/// What becomes of a request for which nothing is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    Fill,
    /// It is passed on as it came, for this reason.
    Pass(Reason),
    /// `only-if-cached`.
    Unsatisfied,
}

/// Fields of the request are those that the client sent.
impl Pending {
    pub(crate) fn new(
        settings: &Settings,
        head: HeadRef<'_>,
        lookup: &Lookup<'_>,
        remembered: Remembered,
        rule: Option<VaryRule>,
        forward: Forward,
        Known {
            local,
            stored,
            hint,
        }: Known,
    ) -> Self {
        let mark = remembered.key;
        let stored = stored.filter(|entry| is_candidate(&settings.cache, entry, lookup.personal));
        let is_shareable =
            local.is_some() || stored.is_some() || settings.cache.is_marked(Mark::Shareable, mark);
        let remote = settings
            .cache
            .remote()
            .filter(|_| !settings.has_own_entries());
        if let (Some(remote), None) = (remote, lookup.parts.content) {
            remote.learn_request(&lookup.parts);
        }
        Self {
            key: lookup.key.to_key(),
            mark,
            route_mark: remembered.route.unwrap_or(mark),
            subject: lookup.subject(settings),
            rule,
            forward,
            is_head: lookup.is_head,
            is_selective: lookup.is_selective(),
            no_cache: lookup.directives.no_cache || lookup.directives.max_age == Some(0),
            demands: RequestDirectives {
                no_cache: false,
                max_age: lookup.directives.max_age.filter(|age| *age > 0),
                ..lookup.directives
            },
            arrived: settings.cache.latest_fill(),
            invalidated: settings.cache.log().sequence().number(),
            personal: lookup.personal,
            authorization: lookup.authorization,
            alone: lookup.personal.filter(|_| !is_shareable),
            layer: settings.id,
            cache: settings.cache.clone(),
            fill_timeout: settings.fill_timeout,
            max_waiting: settings.max_waiting,
            path: remote.map(|_| lookup.parts.path.to_owned()),
            lease: None,
            remote_until: remote.map(|_| remote_end(head)),
            frame_limit: longest_frame(settings),
            local,
            stored,
            hint,
            validator: None,
            search: lookup.search.clone(),
            is_standard: !settings.storing.is_careful(),
            otherwise: Otherwise::Fill,
            is_ahead: false,
        }
    }

    pub(crate) fn is_marked(&self, mark: Mark) -> bool {
        let key = if mark == Mark::InnerLayer {
            self.route_mark
        } else {
            self.mark
        };
        self.cache.is_marked(mark, key)
    }

    /// The route, where it is known: its keys have much in common.
    pub(crate) fn route(&self) -> Option<u64> {
        (self.route_mark != self.mark).then_some(self.route_mark)
    }

    /// Nothing is known of the key, but of its route that nothing is storable.
    pub(crate) fn is_of_uncacheable_route(&self) -> bool {
        // What was stored once, and is not usable any more, is storable all the same.
        let is_cold = self.local.is_none() && self.hint.is_none() && self.rule.is_none();
        let routes = self.cache.routes();
        let is_uncacheable = |route| routes.is_uncacheable(route, self.cache.now());
        is_cold && self.route().is_some_and(is_uncacheable)
    }

    /// What stands in at once, where others have waited for longer than one does.
    pub(crate) fn known_slow(&self) -> Option<Hit> {
        let is_slow = self.stored.is_some() && self.is_marked(Mark::Slow);
        if is_slow {
            self.stand_in(Failure::Slow)
        } else {
            None
        }
    }

    /// A layer of the same cache further in is known to answer.
    pub(crate) fn is_answered_further_in(&self) -> bool {
        self.is_marked(Mark::InnerLayer)
    }

    /// Whether it is a HEAD, and somebody's fill is under way that it may wait for.
    pub(crate) fn may_join(&self, request: &HeaderMap) -> bool {
        self.otherwise == Otherwise::Pass(Reason::Head) && self.join_existing(request).is_some()
    }

    fn flight_id(&self, request: &HeaderMap, purpose: Purpose) -> FlightId {
        let key = match &self.rule {
            Some(rule) => self.key.with_variant(&rule.values(request)),
            None => self.key.clone(),
        };
        FlightId {
            layer: self.layer,
            purpose,
            key,
        }
    }

    fn fill_id(&self, request: &HeaderMap) -> FlightId {
        let purpose = match self.no_cache {
            true => Purpose::Forced,
            false => Purpose::Fill,
        };
        self.flight_id(request, purpose)
    }

    fn with_terms<T>(&self, ask: impl FnOnce(&Terms<'_>) -> T) -> T {
        let is_current = |flight: &Flight| {
            let now = Instant::now().into_std();
            now.saturating_duration_since(flight.started()) < self.fill_timeout
                && (self.came_before(flight) || self.may_get(flight, flight.head().as_deref()))
        };
        ask(&Terms {
            max_waiting: self.max_waiting,
            after: if self.no_cache { self.arrived } else { 0 },
            is_current: &is_current,
        })
    }

    /// Whether what a flight brings may answer this request: no invalidation that came before selects
    /// it. Before its head is known its tags are not; those of its predecessor are the best guess.
    pub(crate) fn may_get(&self, flight: &Flight, head: Option<&StoredHead>) -> bool {
        if self.came_before(flight) {
            return true;
        }
        let hint = || self.hint.as_ref().map(|entry| &*entry.head);
        let names = head
            .or_else(hint)
            .map_or_else(Names::default, StoredHead::names);
        let log = self.cache.log();
        log.judge(flight.sequence(), flight.subject(), names) == Verdict::Usable
    }

    /// No invalidation lies between the start of a flight and this request.
    fn came_before(&self, flight: &Flight) -> bool {
        flight.sequence().number() >= self.invalidated
    }

    /// Whether an invalidation with a higher number came before the request.
    pub(crate) fn is_outrun(&self, sequence: Sequence) -> bool {
        sequence.number() < self.invalidated
    }

    /// Joins the fill of the key, or starts it.
    pub(crate) fn join(&self, request: &HeaderMap) -> Joined {
        self.join_as(&self.fill_id(request))
    }

    /// Joins those who look only, or starts to.
    pub(crate) fn join_look_up(&self, request: &HeaderMap) -> Joined {
        self.join_as(&self.flight_id(request, Purpose::LookUp))
    }

    fn join_as(&self, id: &FlightId) -> Joined {
        self.with_terms(|terms| {
            self.cache
                .flights()
                .join(id, terms, || (self.origin(), Instant::now().into_std()))
        })
    }

    pub(crate) fn join_existing(&self, request: &HeaderMap) -> Option<Ticket> {
        let id = self.fill_id(request);
        self.with_terms(|terms| self.cache.flights().join_existing(&id, terms))
    }

    /// Of a fill that starts now. The sequence is read before anything else happens.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            sequence: self.cache.log().sequence(),
            fill: self.cache.next_fill(),
            subject: self.subject.clone(),
        }
    }

    /// What has been stored since the request was looked up.
    pub(crate) fn look(&self, request: &HeaderMap) -> Option<Hit> {
        match self
            .cache
            .memory()
            .find(&self.key.bytes, self.key.hash, request)
        {
            Found::Entry(entry) => self.hit(entry),
            Found::OtherVariants | Found::Nothing => None,
        }
    }

    /// The answer, if this entry may be it.
    fn hit(&self, entry: Arc<Entry>) -> Option<Hit> {
        let now = self.cache.now();
        let lifetime = entry.lifetime(self.cache.log())?;
        let staleness = &entry.head.staleness;
        let is_usable = reuse(&lifetime, staleness, &self.demands, now) == Reuse::Fresh
            && self.is_known(&entry, now)
            && may_answer(&entry.head, self.personal)
            && (!self.no_cache || entry.origin.fill > self.arrived)
            && !(self.is_ahead && self.is_stored(&entry));
        is_usable.then_some(Hit { entry, now })
    }

    /// Whether it is what was stored when the request came.
    fn is_stored(&self, entry: &Arc<Entry>) -> bool {
        let is_it = |stored: &Arc<Entry>| Arc::ptr_eq(stored, entry);
        self.stored.as_ref().is_some_and(is_it)
    }

    /// Whether the request itself accepts what is stale (§5.2.1.2).
    pub(crate) fn accepts_stale(&self) -> bool {
        self.demands.max_stale.is_some()
    }

    /// What memory has by now, where it may be served although it is stale: the remote store was asked
    /// for it, if there is one.
    pub(crate) fn look_stale(&self, request: &HeaderMap) -> Option<Hit> {
        let found = self
            .cache
            .memory()
            .find(&self.key.bytes, self.key.hash, request);
        let Found::Entry(entry) = found else {
            return None;
        };
        let now = self.cache.now();
        let lifetime = entry.lifetime(self.cache.log())?;
        let reuse = reuse(&lifetime, &entry.head.staleness, &self.demands, now);
        let is_usable = matches!(reuse, Reuse::Stale(_))
            && !self.no_cache
            && self.is_candidate(&entry)
            && self.is_known(&entry, now);
        is_usable.then_some(Hit { entry, now })
    }

    /// Whether memory may answer with it: by itself, or because the remote store was asked for it
    /// after the request came, however short the life in memory is.
    fn is_known(&self, entry: &Entry, now: Millis) -> bool {
        match self.cache.standing(entry, now) {
            Standing::Good => true,
            Standing::Gone => false,
            Standing::Ask => entry.was_asked_after(self.arrived),
        }
    }

    /// By what memory tells variants apart by now, so that those who want different ones ask each
    /// for theirs.
    pub(crate) fn learn_rule(&mut self) {
        let rule = self.cache.memory().rule(&self.key.bytes, self.key.hash);
        if rule.is_some() && rule != self.rule {
            self.rule = rule;
            self.forward = Forward::VaryMiss;
        }
    }

    /// Whether the remote store can be asked.
    pub(crate) fn may_fetch(&self) -> bool {
        self.wants_fetch() && self.cache.remote().is_some_and(Remote::is_askable)
    }

    /// The same, counted where the store is out of reach.
    pub(crate) fn may_fetch_now(&self) -> bool {
        let may_fetch = self.may_fetch();
        if let (false, true, Some(remote)) = (may_fetch, self.wants_fetch(), self.cache.remote()) {
            remote.skipped();
        }
        may_fetch
    }

    fn wants_fetch(&self) -> bool {
        self.path.is_some()
            && !self.no_cache
            && !self.is_ahead
            && self.alone.is_none()
            && self.remote_until.is_some_and(|end| Instant::now() < end)
    }

    /// Takes what the remote store has into memory; the answer, if there is one now.
    pub(crate) async fn fetch(&self, request: &HeaderMap, origin: Origin) -> Option<Hit> {
        let (Some(remote), Some(path), Some(deadline)) =
            (self.cache.remote(), &self.path, self.remote_until)
        else {
            return None;
        };
        let ask = Ask {
            path,
            key: &self.key,
            request,
            // However lately it is read, every fill of this node is newer; but not what was due, nor what
            // was invalidated, which is still in memory.
            origin: Origin {
                fill: self
                    .due()
                    .or(self.invalidated_hint())
                    .map_or(0, |known| known.origin.fill),
                ..origin
            },
            local: self.local.as_deref(),
            limit: self.frame_limit,
            deadline,
        };
        // Before it is asked: in between a write may arrive there.
        let is_there = |due: &&Arc<Entry>| due.is_known_elsewhere();
        let known = self.due().filter(is_there).cloned();
        let looked = remote.get(&ask).await;
        // Whoever came before now may rely on it.
        let number = self.cache.next_fill();
        match (looked, &self.local) {
            (Looked::Found(mut entry, rule), _) => {
                // What is the same as before has cost the same.
                if let Some(due) = self.due().filter(|due| due.body == entry.body) {
                    entry.cost = due.cost;
                }
                entry.set_asked(number);
                let entry = Arc::new(entry);
                let memory = self.cache.promote(&self.key, &rule, request, entry.clone());
                // Where something newer is there, that is the answer. Else this is, whether or not
                // there was room for it, and however soon it was taken for others.
                if memory != Err(Reason::Superseded) {
                    if let Some(hit) = self.hit(entry) {
                        return Some(hit);
                    }
                }
            }
            (Looked::Same, Some(local)) => {
                local.set_asked(number);
                local.answer_until(remote.memory_until(self.cache.now()));
                self.put_back(request, local);
                if let Some(hit) = self.hit(local.clone()) {
                    return Some(hit);
                }
            }
            (Looked::Nothing, Some(local)) if remote.coherence().is_some() => {
                // No invalidation selects it up to the moment at which this was asked.
                local.set_asked(number);
                local.answer_until(remote.memory_until(self.cache.now()));
                if let Some(hit) = self.hit(local.clone()) {
                    return Some(hit);
                }
            }
            (Looked::Nothing, None) if remote.coherence().is_some() => {}
            (Looked::Nothing, _) => {
                // Another node deleted it, or there was no room: what memory has is not used any more.
                // Not what is only on its way there.
                if let Some(known) = known {
                    known.set_gone();
                }
            }
            (Looked::Unknown, Some(_)) if remote.coherence().is_some() => {}
            (Looked::Unknown, Some(local)) => {
                local.set_asked(number);
                local.answer_until(remote.memory_until(self.cache.now()));
            }
            (Looked::Same | Looked::Unknown, None) => {}
        }
        self.look(request)
    }

    /// Asks for the lease of its key, for so long.
    pub(crate) async fn take_lease(&mut self, life: Duration) -> Option<Arc<Notify>> {
        let (Some(remote), Some(path)) = (self.cache.remote(), &self.path) else {
            return None;
        };
        match remote.lease(path, &self.key, life).await {
            Taken::Held(lease) => self.lease = Some(lease),
            Taken::Elsewhere(given_back) => return Some(given_back),
            Taken::Unknown => {}
        }
        None
    }

    /// Waits until other nodes know of the invalidations that this one does, as far as that takes no longer
    /// than a look-up may: what is filled then is newer than they are everywhere.
    pub(crate) async fn settled(&self) {
        if let (Some(remote), Some(end)) = (self.cache.remote(), self.remote_until) {
            remote.settled(end).await;
        }
    }

    /// It may ask the remote store once more.
    pub(crate) fn ask_again(&mut self) {
        self.remote_until = self.remote_until.map(|_| after(DEADLINE));
    }

    /// What memory had, where that was invalidated.
    fn invalidated_hint(&self) -> Option<&Arc<Entry>> {
        let hint = self.hint.as_ref()?;
        (hint.verdict(self.cache.log()) == Verdict::Unusable).then_some(hint)
    }

    /// What memory has and the remote store may have something newer for.
    fn due(&self) -> Option<&Arc<Entry>> {
        self.local.as_ref().or(self.stored.as_ref())
    }

    /// Whether a stored response could answer once it is validated.
    pub(crate) fn is_candidate(&self, entry: &Entry) -> bool {
        is_candidate(&self.cache, entry, self.personal)
    }

    /// Takes notice of what memory has by now.
    pub(crate) fn learn_stored(&mut self, request: &HeaderMap) {
        let found = self
            .cache
            .memory()
            .find(&self.key.bytes, self.key.hash, request);
        if let Found::Entry(entry) = found {
            if self.is_candidate(&entry) {
                self.forward = match entry.is_fresh(self.cache.log(), self.cache.now()) {
                    true => Forward::Request,
                    false => Forward::Stale,
                };
                self.stored = Some(entry);
            }
        }
    }

    /// What is to be validated, if anything is and can be.
    pub(crate) fn to_validate(&self) -> Option<Arc<Entry>> {
        let stored = self.stored.as_ref()?;
        let can_be = self.is_candidate(stored) && has_validator(&without_own(&stored.head));
        can_be.then(|| stored.clone())
    }

    /// What is stored, where the layer's own validator says that it still holds.
    pub(crate) fn confirmed(&self) -> Option<Arc<Entry>> {
        let stored = self.stored.as_ref()?;
        let is_same = self.validator.is_some() && stored.head.validator == self.validator;
        (is_same && !self.no_cache && self.is_candidate(stored)).then(|| stored.clone())
    }

    /// Takes what is stored out of memory when an answer with this status was refused: it is not what
    /// the inner service has now (§4.3.3). What was refused for one person says nothing, and what
    /// came too late neither.
    pub(crate) fn forget(&self, reason: Reason, status: StatusCode) {
        let says_nothing = status.is_server_error()
            || status == StatusCode::NOT_MODIFIED
            || reason == Reason::FillTimeout
            || self.personal.is_some();
        let Some(stored) = self.stored.as_ref().filter(|_| !says_nothing) else {
            return;
        };
        // What is fresh is good for its time, whatever one client made the inner service say.
        if !stored.is_fresh(self.cache.log(), self.cache.now()) {
            self.remove(stored);
        }
    }

    /// Takes an entry out of memory, and out of the remote store where it may be.
    pub(crate) fn remove(&self, entry: &Arc<Entry>) {
        let places = self.cache.memory().remove(&self.key, entry);
        if let (Some(remote), Some(path)) = (self.cache.remote(), &self.path) {
            remote.delete_at(path, &places);
        }
    }

    /// What is stored, where it may stand in for a failure of the inner service.
    pub(crate) fn stand_in(&self, failure: Failure) -> Option<Hit> {
        let entry = self.stored.as_ref()?;
        let now = self.cache.now();
        let demands = RequestDirectives {
            no_cache: self.no_cache,
            ..self.demands
        };
        let lifetime = entry.lifetime(self.cache.log())?;
        let staleness = &entry.head.staleness;
        let is_out_of_reach = failure == Failure::Error && self.is_standard;
        let may = self.is_candidate(entry)
            && stands_in(&lifetime, staleness, &demands, is_out_of_reach, now);
        may.then(|| Hit {
            entry: entry.clone(),
            now,
        })
    }

    /// Makes sure that memory has what it had: in between it may have needed the room.
    fn put_back(&self, request: &HeaderMap, local: &Arc<Entry>) {
        if Arc::strong_count(local) == 2 {
            // Memory's and ours, unless others wait.
            return;
        }
        let memory = self.cache.memory();
        let found = memory.find(&self.key.bytes, self.key.hash, request);
        if matches!(found, Found::Nothing) {
            let rule = VaryRule::default();
            let _ = self.cache.promote(&self.key, &rule, request, local.clone());
        }
    }

    /// Under which key a response with these fields is stored.
    pub(crate) fn key_of(&self, response: &HeaderMap) -> Key {
        match &self.search {
            Some(search) => search.key(self.cache.searches(), &self.key, response),
            None => self.key.clone(),
        }
    }

    /// The same, where it depends on them.
    pub(crate) fn searched_key_of(&self, response: &HeaderMap) -> Option<Key> {
        self.search.as_ref().map(|_| self.key_of(response))
    }

    /// Takes away what would hide a response that is stored under another key than was looked up.
    pub(crate) fn make_way(&self, key: &Key) {
        if let (Some(stored), true) = (&self.stored, *key != self.key) {
            self.cache.memory().remove(&self.key, stored);
        }
    }

    pub(crate) fn said(&self, detail: Option<Reason>) -> Forwarded {
        Forwarded {
            forward: Some(match self.alone {
                Some(_) => Forward::Bypass,
                None => self.forward,
            }),
            status: None,
            stored: false,
            collapsed: false,
            ttl: None,
            detail,
        }
    }
}

/// Under what something is remembered of a request that misses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered {
    /// Of its key.
    pub(crate) key: u64,
    /// Of its route, where that is known.
    pub(crate) route: Option<u64>,
}

impl Remembered {
    pub(crate) fn of(settings: &Settings, head: HeadRef<'_>, lookup: &Lookup<'_>) -> Self {
        let of_route = |route: &str| mark_of(settings, lookup, 0, route.as_bytes());
        Self {
            key: mark_of(settings, lookup, lookup.key.hash, &[]),
            route: matched_route(head.extensions).map(of_route),
        }
    }
}

fn mark_of(settings: &Settings, lookup: &Lookup<'_>, key: u64, text: &[u8]) -> u64 {
    let mut hasher = hasher();
    hasher.write_u64(settings.id);
    hasher.write_u64(u64::from(lookup.parts.depth));
    hasher.write_u64(key);
    hasher.write(text);
    hasher.finish()
}

/// Until when a request may wait for the remote store.
pub(crate) fn remote_end(head: HeadRef<'_>) -> Instant {
    remote_deadline(head.extensions).unwrap_or_else(|| after(DEADLINE))
}

/// Whether an entry may answer these requests as soon as it is validated.
fn is_candidate(cache: &Cache, entry: &Entry, personal: Option<Reason>) -> bool {
    !entry.is_gone()
        && entry.verdict(cache.log()) != Verdict::Unusable
        && may_answer(&entry.head, personal)
}
