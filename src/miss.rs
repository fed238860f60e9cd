//! A request for which nothing usable is stored: it waits for the fill of its key, or does it.
//!
//! All of this is one future, polled by the client's own task, so that task-locals, spans and
//! panics are as without a cache. Only when the client leaves a fill that others may be waiting for does it
//! move to a task (`future.rs`).

use std::{
    future::{Future, poll_fn},
    hash::Hasher,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response, response};
use http_body::Body;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    CachePolicy,
    admission::{HeadRef, Lookup, reduce_request},
    body::ResponseBody,
    entry::{Entry, Lifetime, Origin, StoredHead, millis},
    fill::{Filled, Job, fill_body},
    flight::{Ending, FlightId, Guard, Joined, Outcome, Shared, Terms, Ticket},
    future::{Answer, Leave, Oneshot, Passed, pass_on},
    headers::{
        Forwarded, Strip, fill_slots_collapsed, has_status_slot, say_forwarded, stored_head,
    },
    key::{Key, hasher},
    layer::Settings,
    marks::Mark,
    nesting::{Nesting, is_stamped, pass, stamp},
    policy::{self, Decision, Plan, RequestFacts, VaryRule},
    router::matched_route,
    selector::Target,
    service::{Hit, head_only, may_answer, respond},
    status::{Forward, Reason},
    store::memory::Found,
};

/// How long those who wait for a body of unknown length wait for its end.
const OPEN_BODY_WAIT: Duration = Duration::from_millis(250);
/// How often a request asks again before it goes alone: each time it found another rule of
/// variants, or a fill that had failed.
const MAX_ROUNDS: u32 = 8;

/// What is known of a request when nothing usable was found for it.
pub(crate) struct Pending {
    key: Key,
    /// The key of what is remembered about it (`marks.rs`).
    mark: u64,
    /// The same for the whole route, where there is one.
    route_mark: u64,
    target: Target,
    /// By what its variants are told apart, as far as is known.
    rule: Option<VaryRule>,
    pub(crate) forward: Forward,
    nesting: Nesting,
    is_head: bool,
    no_cache: bool,
    /// Fills up to this number started before the request came.
    arrived: u64,
    personal: Option<Reason>,
    authorization: bool,
    /// As the client sent them.
    headers: HeaderMap,
    layer: u64,
    cache: crate::Cache,
    fill_timeout: u64,
}

impl Pending {
    pub(crate) fn new(
        settings: &Settings,
        head: HeadRef<'_>,
        lookup: &Lookup<'_>,
        rule: Option<VaryRule>,
        forward: Forward,
        nesting: Nesting,
    ) -> Self {
        let mark_of = |text: &[u8], key: u64| {
            let mut hasher = hasher();
            hasher.write_u64(settings.id);
            hasher.write_u64(u64::from(nesting.depth));
            hasher.write_u64(key);
            hasher.write(text);
            hasher.finish()
        };
        let mark = mark_of(&[], lookup.hash);
        Self {
            key: lookup.parts.to_key(lookup.hash, lookup.key_len),
            mark,
            route_mark: matched_route(head.extensions)
                .map_or(mark, |route| mark_of(route.as_bytes(), 0)),
            target: lookup.target(settings),
            rule,
            forward,
            nesting,
            is_head: lookup.is_head,
            no_cache: lookup.directives.no_cache,
            arrived: settings.cache.latest_fill(),
            personal: lookup.personal,
            authorization: lookup.authorization,
            headers: head.headers.clone(),
            layer: settings.id,
            cache: settings.cache.clone(),
            fill_timeout: millis(settings.fill_timeout),
        }
    }

    fn is_marked(&self, mark: Mark) -> bool {
        let key = if mark == Mark::InnerLayer {
            self.route_mark
        } else {
            self.mark
        };
        self.cache.marks().is_set(mark, key, self.cache.now())
    }

    /// A layer of the same cache further in is known to answer.
    pub(crate) fn is_answered_further_in(&self) -> bool {
        self.is_marked(Mark::InnerLayer)
    }

    /// Whether somebody's fill is under way that a HEAD may wait for.
    pub(crate) fn is_joinable(&self) -> bool {
        self.join_existing().is_some()
    }

    /// Why the request may neither wait for others nor have them wait.
    pub(crate) fn personal_alone(&self) -> Option<Reason> {
        self.personal.filter(|_| !self.is_marked(Mark::Shareable))
    }

    fn flight_id(&self) -> FlightId {
        let key = match &self.rule {
            Some(rule) => self.key.with_variant(&values(rule, &self.headers)),
            None => self.key.clone(),
        };
        FlightId {
            layer: self.layer,
            depth: self.nesting.depth,
            is_forced: self.no_cache,
            key,
        }
    }

    fn with_terms<T>(&self, ask: impl FnOnce(&Terms<'_>) -> T) -> T {
        let now = self.cache.now();
        let is_current = |origin: &Origin, started: u64| {
            now.saturating_sub(started) <= self.fill_timeout
                && self.cache.log().is_usable(origin.sequence, origin.target)
        };
        ask(&Terms {
            after: if self.no_cache { self.arrived } else { 0 },
            is_current: &is_current,
        })
    }

    fn join(&self) -> Joined {
        self.with_terms(|terms| {
            self.cache.flights().join(&self.flight_id(), terms, || {
                (self.origin(), self.cache.now())
            })
        })
    }

    fn join_existing(&self) -> Option<Ticket> {
        self.with_terms(|terms| self.cache.flights().join_existing(&self.flight_id(), terms))
    }

    /// Of a fill that starts now. The sequence is read before anything else happens.
    fn origin(&self) -> Origin {
        Origin {
            sequence: self.cache.log().sequence(),
            fill: self.cache.next_fill(),
            target: self.target,
        }
    }

    /// What has been stored since the request was looked up.
    fn look(&self) -> Option<Hit> {
        let Found::Entry(entry) = self
            .cache
            .memory()
            .find(&self.key, self.key.hash, &self.headers)
        else {
            return None;
        };
        let now = self.cache.now();
        let is_usable = entry.head.lifetime.is_fresh(now)
            && entry.is_usable(self.cache.log())
            && may_answer(&entry.head, self.personal)
            && (!self.no_cache || entry.origin.fill > self.arrived);
        is_usable.then_some(Hit { entry, now })
    }

    fn said(&self, detail: Option<Reason>) -> Forwarded {
        Forwarded {
            forward: Some(match self.personal {
                Some(_) => Forward::Bypass,
                None => self.forward,
            }),
            status: None,
            stored: false,
            collapsed: false,
            detail,
        }
    }
}

fn values(rule: &VaryRule, headers: &HeaderMap) -> SmallVec<[u8; 128]> {
    let mut values = SmallVec::new();
    rule.write_values(headers, &mut values);
    values
}

/// A request on its way to an answer.
pub(crate) struct Miss<S, ReqBody> {
    pub(crate) inner: S,
    pub(crate) settings: Arc<Settings>,
    pub(crate) request: Request<ReqBody>,
    pub(crate) pending: Pending,
    pub(crate) leave: Leave,
    pub(crate) is_leading: Arc<AtomicBool>,
}

/// What waiting for a flight came to.
enum Waited<B: Body> {
    Answered(Response<ResponseBody<B>>),
    /// Ask again.
    Again,
    Alone(Reason),
    /// A layer further in answers each for itself.
    InnerLayer,
}

impl<S, ReqBody, ResBody> Miss<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body,
    ResBody: Body + Send + 'static,
    ResBody::Data: Send,
    ResBody::Error: Send,
{
    pub(crate) async fn answer(mut self) -> Answer<ResBody, S::Error> {
        if let Some(reason) = self.pending.personal_alone() {
            return self.fill_alone(Some(reason)).await;
        }
        let mut failures = 0;
        for round in 0..MAX_ROUNDS {
            if round > 0 {
                if let Some(hit) = self.pending.look() {
                    return Ok(self.hit(hit));
                }
            }
            if self.pending.is_head {
                let Some(ticket) = self.pending.join_existing() else {
                    break;
                };
                match self.follow(ticket, &mut failures).await {
                    Waited::Answered(response) => return Ok(response),
                    Waited::Again => continue,
                    Waited::Alone(_) | Waited::InnerLayer => break,
                }
            }
            if self.pending.is_marked(Mark::Uncacheable) || self.pending.is_marked(Mark::Failing) {
                return self.fill_alone(None).await;
            }
            let waited = match self.pending.join() {
                Joined::Lead(guard) => return self.lead(guard).await,
                Joined::Follow(ticket) => self.follow(ticket, &mut failures).await,
                Joined::Behind(ticket) => self.follow_to_end(ticket).await,
                Joined::Full => Waited::Alone(Reason::TooManyWaiting),
            };
            match waited {
                Waited::Answered(response) => return Ok(response),
                Waited::Again => {}
                Waited::Alone(reason) => return self.fill_alone(Some(reason)).await,
                Waited::InnerLayer => return self.pass_further_in().await,
            }
        }
        if self.pending.is_head {
            let said = self.pending.said(Some(Reason::Head));
            self.pending.cache.counters().miss();
            return self.pass_on(Passed::Missed(said)).await;
        }
        self.fill_alone(Some(Reason::NotCollapsed)).await
    }

    fn hit(&self, hit: Hit) -> Response<ResponseBody<ResBody>> {
        self.pending.cache.counters().hit();
        let mut response = hit.into_response(self.leave.mode, self.pending.is_head);
        stamp(response.extensions_mut(), self.leave.stamp);
        response
    }

    // ---- waiting for somebody else's fill ----

    async fn follow(&mut self, ticket: Ticket, failures: &mut u32) -> Waited<ResBody> {
        let head = poll_fn(|cx| ticket.poll_head(cx));
        let Some(outcome) = within(self.settings.wait_timeout, head).await else {
            return Waited::Alone(Reason::WaitTimeout);
        };
        let (shared, entry) = match outcome {
            Outcome::Streaming(shared) => (shared, None),
            Outcome::Open(shared) => (shared, None),
            Outcome::Complete(shared, entry) => (shared, Some(entry)),
            Outcome::Ended(Ending::Refused(reason)) => return Waited::Alone(reason),
            Outcome::Ended(Ending::InnerLayer) => return Waited::InnerLayer,
            Outcome::Ended(Ending::Broken) => return Waited::Alone(Reason::InnerError),
            Outcome::Ended(Ending::Look) => return Waited::Again,
            Outcome::Ended(Ending::Failed) => {
                *failures += 1;
                if *failures < 2 {
                    return Waited::Again;
                }
                let (cache, mark) = (&self.pending.cache, self.pending.mark);
                cache.marks().set(Mark::Failing, mark, cache.now());
                return Waited::Alone(Reason::InnerError);
            }
        };
        if !shared.rule.is_empty() && shared.values != values(&shared.rule, &self.pending.headers) {
            // Those who want another variant regroup, a flight for each.
            self.pending.rule = Some(shared.rule.clone());
            self.pending.forward = Forward::VaryMiss;
            return Waited::Again;
        }
        if !may_answer(&shared.head, self.pending.personal) {
            return Waited::Alone(self.pending.personal.unwrap_or(Reason::NotShareable));
        }
        if entry.is_some() || shared.length.is_some() || self.pending.is_head {
            return Waited::Answered(self.share(&ticket, &shared, entry.as_deref()));
        }
        let end = poll_fn(|cx| ticket.poll_end(cx));
        match within(OPEN_BODY_WAIT, end).await {
            Some(Outcome::Complete(shared, entry)) => {
                Waited::Answered(self.share(&ticket, &shared, Some(&entry)))
            }
            Some(Outcome::Ended(Ending::Refused(reason))) => Waited::Alone(reason),
            Some(_) => Waited::Alone(Reason::InnerError),
            None => Waited::Alone(Reason::WaitTimeout),
        }
    }

    /// Waits until a fill is over that started before a request that wants a newer one.
    async fn follow_to_end(&mut self, ticket: Ticket) -> Waited<ResBody> {
        let end = poll_fn(|cx| ticket.poll_end(cx));
        match within(self.settings.wait_timeout, end).await {
            Some(_) => Waited::Again,
            None => Waited::Alone(Reason::WaitTimeout),
        }
    }

    /// The answer of one who waited.
    fn share(
        &self,
        ticket: &Ticket,
        shared: &Shared,
        entry: Option<&Entry>,
    ) -> Response<ResponseBody<ResBody>> {
        let counters = self.pending.cache.counters();
        counters.miss();
        counters.collapsed();
        let head = &*shared.head;
        let mut headers = head.headers.clone();
        let said = Forwarded {
            status: Some(head.status.as_u16()),
            collapsed: true,
            ..self.pending.said(None)
        };
        let age = head.lifetime.age(self.pending.cache.now()) / 1000;
        fill_slots_collapsed(&mut headers, head.status_slot, age, said, self.leave.mode);
        let length = entry.map_or(shared.length, |entry| Some(entry.body.len() as u64));
        let mut response = if self.pending.is_head {
            respond(head, head_only(headers, length), ResponseBody::empty())
        } else {
            let body = match entry {
                Some(entry) => ResponseBody::stored(entry.body.clone()),
                None => ResponseBody::shared(ticket.flight().reader(), length),
            };
            respond(head, headers, body)
        };
        stamp(response.extensions_mut(), self.leave.stamp);
        response
    }

    // ---- calling the inner service ----

    /// The first of its key: fills, and the others wait.
    async fn lead(self, guard: Guard) -> Answer<ResBody, S::Error> {
        // Between the look-up and the start of this flight another one may have ended.
        if let Some(hit) = self.pending.look() {
            guard.end(Ending::Look, Vec::new());
            return Ok(self.hit(hit));
        }
        self.is_leading.store(true, Ordering::Relaxed);
        self.fill(guard, None).await
    }

    /// A fill that nobody waits for; what it brings is judged and stored all the same.
    async fn fill_alone(self, why: Option<Reason>) -> Answer<ResBody, S::Error> {
        let guard = Guard::alone(self.pending.origin(), self.pending.cache.now());
        self.fill(guard, why).await
    }

    /// Each for itself, but known to have passed here: a layer further in collapses them.
    async fn pass_further_in(mut self) -> Answer<ResBody, S::Error> {
        let settings = &self.settings;
        pass(
            self.request.extensions_mut(),
            settings.cache.id(),
            settings.id,
        );
        self.pending.cache.counters().bypass(Reason::InnerLayer);
        self.pass_on(Passed::Bypassed(Reason::InnerLayer)).await
    }

    async fn pass_on(self, passed: Passed) -> Answer<ResBody, S::Error> {
        let response = Oneshot::new(self.inner, self.request).await?;
        Ok(pass_on(response, passed, self.leave))
    }

    async fn fill(self, guard: Guard, why: Option<Reason>) -> Answer<ResBody, S::Error> {
        let Self {
            inner,
            settings,
            request,
            pending,
            leave,
            ..
        } = self;
        let cache = pending.cache.clone();
        match pending.personal {
            Some(reason) if pending.personal_alone().is_some() => cache.counters().bypass(reason),
            _ => cache.counters().miss(),
        }
        cache.counters().fill();
        let (mut head, body) = request.into_parts();
        reduce_request(&settings, &mut head);
        pass(&mut head.extensions, cache.id(), settings.id);
        let started = Started {
            wall: cache.clock().wall(),
            deadline: Instant::now() + settings.fill_timeout,
        };
        let request = Request::from_parts(head, body);
        let response = match Oneshot::new(inner, request).await {
            Ok(response) => response,
            Err(error) => {
                cache.counters().failed_fill();
                guard.end(Ending::Failed, Vec::new());
                return Err(error);
            }
        };
        let (mut head, body) = response.into_parts();
        if is_stamped(&head.extensions, cache.id()) {
            cache
                .marks()
                .set(Mark::InnerLayer, pending.route_mark, cache.now());
            guard.end(Ending::InnerLayer, Vec::new());
            return Ok(Response::from_parts(head, ResponseBody::inner(body)));
        }
        let mut said = Forwarded {
            status: Some(head.status.as_u16()),
            ..pending.said(why)
        };
        let body = match judge(&settings, &pending, &mut head, &body, started) {
            Judged::Share(shared, is_stored) => {
                let length = shared.length;
                let job = Job {
                    cache: cache.clone(),
                    shared,
                    key: pending.key,
                    request: pending.headers,
                    is_stored,
                    max_body_size: settings.storing.max_body_size,
                    deadline: started.deadline,
                    mark: pending.mark,
                };
                let mut guard = guard;
                if !is_stored {
                    // Shared with those who wait already, and with nobody else.
                    guard.leave();
                }
                let Filled { body, refused } = fill_body(guard, job, body, length).await;
                said.stored = is_stored && refused.is_none();
                said.detail = if is_stored {
                    refused.or(why)
                } else {
                    Some(Reason::Status)
                };
                body
            }
            Judged::Refuse(reason) => {
                if head.status.is_server_error() {
                    cache.counters().refusal(reason);
                } else {
                    cache.refuse(reason, pending.mark);
                }
                guard.end(Ending::Refused(reason), Vec::new());
                said.detail = Some(pending.personal.unwrap_or(reason));
                ResponseBody::inner(body)
            }
        };
        say_forwarded(&mut head.headers, said, leave.mode);
        stamp(&mut head.extensions, leave.stamp);
        Ok(Response::from_parts(head, body))
    }
}

/// When the inner service was called.
#[derive(Clone, Copy)]
struct Started {
    wall: std::time::SystemTime,
    /// Later than this nothing is stored or shared.
    deadline: Instant,
}

/// What is done with a response.
enum Judged {
    /// Shared with those who wait; and stored, if true.
    Share(Arc<Shared>, bool),
    Refuse(Reason),
}

/// Judges the head of a response.
fn judge<B: Body>(
    settings: &Settings,
    pending: &Pending,
    head: &mut response::Parts,
    body: &B,
    started: Started,
) -> Judged {
    let cache = &pending.cache;
    let handler_policy = head.extensions.remove::<CachePolicy>();
    if Instant::now() > started.deadline {
        return Judged::Refuse(Reason::FillTimeout);
    }
    let is_credential = |name: &str| settings.credentials.contains(name);
    let facts = RequestFacts {
        headers: &pending.headers,
        authorization: pending.authorization,
        personal: pending.personal,
        partitioned: settings.partition_by.is_some(),
        is_credential: &is_credential,
    };
    let response_time = cache.clock().wall();
    let decision = policy::decide(
        &settings.storing,
        &facts,
        head.status,
        &head.headers,
        handler_policy.as_ref(),
        started.wall,
        response_time,
    );
    let (plan, is_stored) = match decision {
        Decision::Store(plan) => (plan, true),
        Decision::ShareOnly(plan) => (plan, false),
        Decision::Refuse(reason) => return Judged::Refuse(reason),
    };
    if is_stored && !settings.store_when.iter().all(|condition| condition(head)) {
        return Judged::Refuse(Reason::StoreWhen);
    }
    let length = match policy::declared_length(&head.headers) {
        Ok(Some(length)) => Some(length),
        Ok(None) => body.size_hint().exact(),
        Err(reason) => return Judged::Refuse(reason),
    };
    if length.is_some_and(|length| length > settings.storing.max_body_size) {
        return Judged::Refuse(Reason::BodyTooLarge);
    }
    Judged::Share(
        shared(settings, pending, head, *plan, length, response_time),
        is_stored,
    )
}

fn shared(
    settings: &Settings,
    pending: &Pending,
    head: &response::Parts,
    plan: Plan,
    length: Option<u64>,
    response_time: std::time::SystemTime,
) -> Arc<Shared> {
    let strip = Strip {
        fields: &settings.strip_fields,
    };
    let stored = StoredHead {
        status: head.status,
        version: head.version,
        headers: stored_head(&head.headers, strip, response_time),
        status_slot: has_status_slot(&head.headers),
        lifetime: Lifetime {
            response_time: pending.cache.now(),
            initial_age: millis(plan.initial_age),
            freshness: millis(plan.freshness.lifetime),
        },
        shareable: plan.shareable,
        shareable_with_authorization: plan.shareable_with_authorization,
    };
    Arc::new(Shared {
        head: Arc::new(stored),
        values: values(&plan.vary, &pending.headers),
        rule: plan.vary,
        length,
    })
}

/// The output of `future`, unless it takes longer; without a runtime there is no clock to stop it.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Some(future.await);
    }
    tokio::time::timeout(limit, future).await.ok()
}
