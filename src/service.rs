//! `ResponseCache`: the flow of one request, from top to bottom.
//!
//! 1. *admit*: is it ours, may it share, what is its key (`admission.rs`)
//! 2. *look up* in memory and decide; a hit is answered here and now
//! 3. otherwise join the flight of the key, or start it (`miss.rs`)

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    admission::{Admission, Lookup, Said, admit, ask_closures, reduced},
    answer::{Hit, only_if_cached, reuse},
    body::ResponseBody,
    cache::{Cache, Standing},
    content::{QueryContent, is_query, unread},
    flight::Joined,
    future::{Detach, Lead, Leave, Passed, ResponseFuture},
    head::HeadRef,
    headers::Forwarded,
    marks::Mark,
    miss::Miss,
    nesting::{depth, pass, pass_deadline, stamp},
    pending::{Known, Otherwise, Pending, Remembered, remote_end},
    policy::{Reuse, is_ahead, is_for_origin},
    random,
    settings::Settings,
    status::{Forward, Reason},
    store::memory::Found,
    timer::{after, within},
    uncacheable::Uncacheable,
};

/// A service that answers repeated requests from a [`Cache`]; made by a
/// [`ResponseCacheLayer`](crate::ResponseCacheLayer).
///
/// It is always ready: hits are served while the inner service is saturated. A request that must
/// reach the inner service waits for its readiness then. Load shedding therefore belongs below this
/// layer. The error is the inner service's.
///
/// # With plain hyper
///
/// Spawn the connection as it is. Inside of an `async` block of its own rustc fails to prove that
/// some services are `Send` ([rust-lang/rust#102211]): "implementation of `Send` is not general
/// enough".
///
/// ```no_run
/// use std::convert::Infallible;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use hyper::{body::Incoming, server::conn::http1};
/// use hyper_util::{rt::TokioIo, service::TowerToHyperService};
/// use tower::Layer;
/// use tower_response_cache::{Cache, ResponseCacheLayer};
///
/// # #[tokio::main] async fn main() -> std::io::Result<()> {
/// let service = tower::service_fn(|_: Request<Incoming>| async {
///     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
/// });
/// let service = ResponseCacheLayer::new(Cache::in_memory()).layer(service);
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// loop {
///     let (stream, _) = listener.accept().await?;
///     let service = TowerToHyperService::new(service.clone());
///     let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
///     tokio::spawn(connection);
/// }
/// # }
/// ```
///
/// [rust-lang/rust#102211]: https://github.com/rust-lang/rust/issues/102211
#[derive(Clone)]
pub struct ResponseCache<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> ResponseCache<S> {
    pub(crate) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// The cache that the service answers from.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.settings.cache
    }
}

impl<S: fmt::Debug> fmt::Debug for ResponseCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseCache")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ResponseCache<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    ReqBody: Body + Send + 'static,
    ResBody: Body + Send + 'static,
    ResBody::Data: Send,
    ResBody::Error: Send,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody, ResBody>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Hits need nobody; see `future::Oneshot` for those who do.
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        self.answer(request, None)
    }
}

impl<S> ResponseCache<S> {
    /// The flow of one request; of a QUERY, when its content was read.
    #[inline]
    fn answer<ReqBody, ResBody>(
        &self,
        mut request: Request<ReqBody>,
        content: Option<&Bytes>,
    ) -> ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        ReqBody: Body + Send + 'static,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Send,
    {
        let settings = &self.settings;
        let depth = depth(request.extensions(), settings.cache.id());
        let leave = Leave {
            mode: settings.status_headers,
            stamp: (depth > 0).then(|| settings.cache.id()),
        };
        let is_ours = match *request.method() {
            Method::GET => settings.methods.get,
            Method::HEAD => settings.methods.head,
            _ => content.is_some(),
        };
        if !is_ours {
            if settings.methods.query && is_query(&request) {
                return self.query(request, leave);
            }
            let passed = Passed::of_method(&settings.cache, HeadRef::from(&request));
            return self.pass(request, passed, leave);
        }
        if !settings.cache.is_enabled() {
            return self.pass(request, Passed::Bypassed(Reason::Disabled), leave);
        }
        let mut said = Said::Nothing;
        if settings.has_closures() {
            let (head, body) = request.into_parts();
            said = ask_closures(settings, &head);
            request = Request::from_parts(head, body);
        }
        let head = HeadRef::from(&request);
        match self.step(head, request.body(), content, said, depth) {
            Step::Bypass(reason) => {
                settings.streaks.bypassed(head, reason);
                if !matches!(reason, Reason::BypassWhen | Reason::Partition) {
                    // A layer further in must not store under our key. One with closures, whose
                    // reasons these are, has keys of its own, and costs no allocation here.
                    pass(request.extensions_mut(), settings.cache.id());
                }
                if reason == Reason::InnerLayer {
                    request = reduced(settings, request);
                }
                self.pass(request, Passed::Bypassed(reason), leave)
            }
            Step::PassMissed(said) => {
                settings.cache.counters().miss();
                pass(request.extensions_mut(), settings.cache.id());
                let request = reduced(settings, request);
                self.pass(request, Passed::Missed(said), leave)
            }
            Step::PassUncacheable(mut uncacheable, remote_until) => {
                uncacheable.begin();
                settings.streaks.looked_up(head);
                pass(request.extensions_mut(), settings.cache.id());
                pass_deadline(request.extensions_mut(), remote_until);
                let request = reduced(settings, request);
                self.pass(request, Passed::Uncacheable(uncacheable), leave)
            }
            Step::Serve(hit, is_head, is_selective) => {
                settings.cache.counters().hit();
                settings.streaks.looked_up(head);
                let mode = settings.status_headers;
                let mut response = match is_selective {
                    false => hit.into_response(mode, is_head),
                    true => hit.into_selected(mode, is_head, head.headers),
                };
                stamp(response.extensions_mut(), leave.stamp);
                ResponseFuture::ready(response)
            }
            Step::Stale(hit, pending) => {
                settings.cache.counters().stale();
                settings.streaks.looked_up(head);
                let selective = pending.is_selective.then_some(head.headers);
                let is_head = pending.is_head;
                let mut response = hit.into_stale(settings.status_headers, is_head, selective);
                stamp(response.extensions_mut(), leave.stamp);
                if pending.otherwise == Otherwise::Fill {
                    self.refresh(request, pending, leave);
                }
                ResponseFuture::ready(response)
            }
            Step::Ahead(hit, pending) => {
                settings.cache.counters().hit();
                settings.streaks.looked_up(head);
                let mode = settings.status_headers;
                let mut response = match pending.is_selective {
                    false => hit.into_response(mode, false),
                    true => hit.into_selected(mode, false, head.headers),
                };
                stamp(response.extensions_mut(), leave.stamp);
                self.refresh(request, pending, leave);
                ResponseFuture::ready(response)
            }
            Step::Unsatisfied => {
                settings.cache.counters().miss();
                let mut response = only_if_cached(settings.status_headers);
                stamp(response.extensions_mut(), leave.stamp);
                ResponseFuture::ready(response)
            }
            Step::Work(pending) => {
                match pending.alone {
                    Some(reason) => settings.streaks.bypassed(head, reason),
                    None => settings.streaks.looked_up(head),
                }
                self.work(request, pending, leave)
            }
        }
    }
}

/// What is to be done with a request.
enum Step {
    Bypass(Reason),
    /// Nothing usable was found, and the request is passed on as it came.
    PassMissed(Forwarded),
    /// What is known not to be storable; until when a layer further in may wait for a remote store.
    PassUncacheable(Box<Uncacheable>, Option<Instant>),
    /// For a HEAD, if the former is true; with conditions or a range, if the latter is.
    Serve(Hit, bool, bool),
    /// With what is stale; a newer one is obtained meanwhile, if that is how it is to be filled.
    Stale(Hit, Box<Pending>),
    /// With what is fresh still, while a newer one is obtained.
    Ahead(Hit, Box<Pending>),
    /// `only-if-cached`, and nothing is.
    Unsatisfied,
    Work(Box<Pending>),
}

impl<S> ResponseCache<S> {
    /// Admission and look-up: what is to be done.
    #[inline]
    fn step(
        &self,
        head: HeadRef<'_>,
        body: &impl Body,
        content: Option<&Bytes>,
        said: Said,
        depth: u8,
    ) -> Step {
        let settings = &*self.settings;
        let cache = &settings.cache;
        let mut lookup = Lookup::default();
        lookup.parts.depth = depth;
        lookup.parts.content = content.map(|content| &content[..]);
        match admit(settings, head, body, said, &mut lookup) {
            Admission::Bypass(reason) => return Step::Bypass(reason),
            Admission::Lookup => {}
        }
        let (mut local, mut is_stored, mut is_stale) = (None, false, None);
        let mut found = cache
            .memory()
            .find(&lookup.key.bytes, lookup.key.hash, head.headers);
        if settings.no_vary_search && matches!(found, Found::Nothing) && lookup.search(settings) {
            let key = &lookup.key;
            found = cache.memory().find(&key.bytes, key.hash, head.headers);
        }
        let now = cache.now();
        let forward = match &found {
            Found::Entry(entry) => match reuse(cache, entry, &lookup, now) {
                Reuse::Fresh => {
                    let standing = cache.standing(entry, now);
                    let Found::Entry(entry) = found else {
                        unreachable!("matched just now");
                    };
                    match standing {
                        Standing::Good => {
                            let hit = Hit { entry, now };
                            if settings.refresh_ahead > 0.0 {
                                return self.serve_and_look_ahead(head, &lookup, hit);
                            }
                            return Step::Serve(hit, lookup.is_head, lookup.is_selective());
                        }
                        Standing::Ask => {
                            local = Some(entry.clone());
                            found = Found::Entry(entry);
                        }
                        Standing::Gone => found = Found::Entry(entry),
                    }
                    Forward::Miss
                }
                Reuse::Stale(refreshed) => {
                    is_stale = Some(refreshed);
                    Forward::Stale
                }
                Reuse::No(forward) => {
                    is_stored = true;
                    forward
                }
            },
            Found::OtherVariants => Forward::VaryMiss,
            Found::Nothing => Forward::UriMiss,
        };
        lookup.note_search(settings);
        if let (Some(refreshed), Found::Entry(entry)) = (is_stale, &found) {
            let hit = Hit {
                entry: entry.clone(),
                now,
            };
            if let Some(step) = self.stale(head, &lookup, hit, refreshed) {
                return step;
            }
            is_stored = true;
        }
        let stored = match &found {
            Found::Entry(entry) if is_stored => Some(entry.clone()),
            _ => None,
        };
        let hint = match &found {
            Found::Entry(entry) => Some(entry.clone()),
            _ => None,
        };
        let known = Known {
            local,
            stored,
            hint,
        };
        self.miss(head, &lookup, found, forward, known)
    }

    /// An answer that is fresh, and a refresh of it if it is near its end.
    #[inline(never)]
    fn serve_and_look_ahead(&self, head: HeadRef<'_>, lookup: &Lookup<'_>, hit: Hit) -> Step {
        let settings = &*self.settings;
        let Hit { entry, now } = &hit;
        let lifetime = &entry.head.lifetime;
        let left = lifetime.freshness.saturating_sub(lifetime.age(*now));
        let may_refresh = !lookup.is_head
            && !lookup.directives.only_if_cached
            && is_ahead(left, entry.cost, settings.refresh_ahead, random::fraction)
            && entry.try_ahead(*now)
            && self.can_refresh();
        let serve = |hit| Step::Serve(hit, lookup.is_head, lookup.is_selective());
        if !may_refresh {
            return serve(hit);
        }
        let memory = settings.cache.memory();
        let rule = memory.rule(&lookup.key.bytes, lookup.key.hash);
        let known = Known {
            stored: Some(entry.clone()),
            hint: Some(entry.clone()),
            local: None,
        };
        let mut pending = Pending::new(
            settings,
            head,
            lookup,
            Remembered::of(settings, head, lookup),
            rule,
            Forward::Stale,
            known,
        );
        if pending.is_answered_further_in() {
            return serve(hit);
        }
        pending.is_ahead = true;
        Step::Ahead(hit, Box::new(pending))
    }

    /// Whether anything can be obtained in the background.
    fn can_refresh(&self) -> bool {
        let settings = &*self.settings;
        settings.detach
            && !settings.cache.is_closed()
            && tokio::runtime::Handle::try_current().is_ok()
    }

    /// An answer that is stale, and what is to be done about that (RFC 5861, 3); nothing where it
    /// would have to be refreshed and cannot be.
    #[cold]
    fn stale(
        &self,
        head: HeadRef<'_>,
        lookup: &Lookup<'_>,
        hit: Hit,
        refreshed: bool,
    ) -> Option<Step> {
        let settings = &*self.settings;
        let rule = settings
            .cache
            .memory()
            .rule(&lookup.key.bytes, lookup.key.hash);
        let known = Known {
            stored: Some(hit.entry.clone()),
            hint: Some(hit.entry.clone()),
            local: None,
        };
        let mut pending = Pending::new(
            settings,
            head,
            lookup,
            Remembered::of(settings, head, lookup),
            rule,
            Forward::Stale,
            known,
        );
        if hit.entry.is_gone() || pending.is_answered_further_in() {
            return None;
        }
        if refreshed && !self.can_refresh() {
            return None;
        }
        let is_refreshed = refreshed && !lookup.is_head && !lookup.directives.only_if_cached;
        // Another node may have deleted it: whoever refreshes asks the remote store, the others here.
        if !is_refreshed && settings.cache.standing(&hit.entry, hit.now) != Standing::Good {
            return None;
        }
        pending.otherwise = match is_refreshed {
            true => Otherwise::Fill,
            false => Otherwise::Unsatisfied,
        };
        Some(Step::Stale(hit, Box::new(pending)))
    }

    /// What becomes of a request for which nothing usable is stored.
    #[cold]
    fn miss(
        &self,
        head: HeadRef<'_>,
        lookup: &Lookup<'_>,
        found: Found,
        forward: Forward,
        known: Known,
    ) -> Step {
        let settings = &*self.settings;
        let remembered = Remembered::of(settings, head, lookup);
        if matches!(found, Found::Nothing) {
            // The time is read again: to keep it until here would cost each hit something.
            let now = settings.cache.now();
            if let Some(uncacheable) = Uncacheable::known(settings, lookup, remembered, now) {
                let has_remote = !settings.has_own_entries() && settings.cache.remote().is_some();
                let remote_until = has_remote.then(|| remote_end(head));
                return Step::PassUncacheable(Box::new(uncacheable), remote_until);
            }
        }
        let passed = |detail| {
            Step::PassMissed(Forwarded {
                forward: Some(forward),
                status: None,
                stored: false,
                collapsed: false,
                ttl: None,
                detail: Some(detail),
            })
        };
        let rule = match found {
            Found::Nothing => None,
            Found::Entry(_) | Found::OtherVariants => settings
                .cache
                .memory()
                .rule(&lookup.key.bytes, lookup.key.hash),
        };
        let mut pending = Pending::new(settings, head, lookup, remembered, rule, forward, known);
        if pending.is_answered_further_in() {
            return Step::Bypass(Reason::InnerLayer);
        }
        // A fill takes the conditions off the request, and gets all of the response, which goes on
        // to the store when its starter has been told that nothing is new.
        let may_fill = || !lookup.is_head && settings.detach && !is_for_origin(head.headers);
        // What fills nothing is answered from the remote store, or from a fill under way if it is a
        // HEAD; otherwise:
        pending.otherwise = if lookup.directives.only_if_cached {
            Otherwise::Unsatisfied
        } else if lookup.range {
            Otherwise::Pass(Reason::Range)
        } else if lookup.conditional && (pending.alone.is_some() || !may_fill()) {
            Otherwise::Pass(Reason::Conditional)
        } else if lookup.is_head {
            Otherwise::Pass(Reason::Head)
        } else {
            Otherwise::Fill
        };
        if pending.otherwise == Otherwise::Fill && self.can_refresh() {
            // As if it were asked for within `stale-while-revalidate`.
            if let Some(hit) = pending.known_slow() {
                return Step::Stale(hit, Box::new(pending));
            }
        }
        let may_wait = || pending.may_fetch() || pending.may_join(head.headers);
        match (pending.otherwise, lookup.personal) {
            (Otherwise::Unsatisfied, _) if !may_wait() => return Step::Unsatisfied,
            (Otherwise::Pass(Reason::Range | Reason::Conditional), Some(reason))
                if pending.local.is_none() =>
            {
                return Step::Bypass(reason);
            }
            (Otherwise::Pass(Reason::Head), _) if pending.alone.is_some() => {
                return Step::Bypass(pending.alone.unwrap_or(Reason::Head));
            }
            // A HEAD says whether what is stored still holds (§4.3.5).
            (Otherwise::Pass(Reason::Head), _) if pending.stored.is_some() => {}
            (Otherwise::Pass(reason), _) if !may_wait() => return passed(reason),
            _ => {}
        }
        Step::Work(Box::new(pending))
    }

    /// A QUERY: its content is read first, where that can be handed on.
    #[cold]
    fn query<ReqBody, ResBody>(
        &self,
        request: Request<ReqBody>,
        leave: Leave,
    ) -> ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        ReqBody: Body + Send + 'static,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Send,
    {
        if !self.settings.cache.is_enabled() {
            return self.pass(request, Passed::Bypassed(Reason::Disabled), leave);
        }
        let content = self.settings.query_content.clone();
        let can_read = |content: &QueryContent| content.can_read(&request);
        let Some(content) = content.filter(can_read) else {
            return self.pass(request, Passed::Bypassed(Reason::RequestBody), leave);
        };
        let this = self.clone();
        let read = async move {
            let read = content.read(request);
            match within(this.settings.fill_timeout, read).await {
                Some(Ok((request, content))) => this.answer(request, Some(&content)).await,
                Some(Err(())) => Ok(unread(StatusCode::BAD_REQUEST, leave.mode)),
                None => Ok(unread(StatusCode::REQUEST_TIMEOUT, leave.mode)),
            }
        };
        ResponseFuture::working(Box::pin(read), Arc::default(), None)
    }

    /// Straight to the inner service: nothing boxed, nothing spawned.
    fn pass<ReqBody, ResBody>(
        &self,
        request: Request<ReqBody>,
        passed: Passed,
        leave: Leave,
    ) -> ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>> + Clone,
        ResBody: Body,
    {
        if let Passed::Bypassed(reason) = passed {
            self.settings.cache.counters().bypass(reason);
        }
        let settings = self.settings.clone();
        ResponseFuture::passed(self.inner.clone(), request, passed, leave, settings)
    }

    fn work<ReqBody, ResBody>(
        &self,
        request: Request<ReqBody>,
        pending: Box<Pending>,
        leave: Leave,
    ) -> ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        ReqBody: Body + Send + 'static,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Send,
    {
        let miss = self.to_miss(request, pending, leave);
        let lead = miss.lead.clone();
        let detach = self.settings.detach.then(|| Detach {
            cache: self.settings.cache.clone(),
            span: tracing::Span::current(),
        });
        ResponseFuture::working(Box::pin(miss.answer(None)), lead, detach)
    }

    /// Obtains a newer response in the background, if nobody does yet.
    #[cold]
    fn refresh<ReqBody, ResBody>(
        &self,
        request: Request<ReqBody>,
        pending: Box<Pending>,
        leave: Leave,
    ) where
        S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        ReqBody: Body + Send + 'static,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Send,
    {
        if pending.is_marked(Mark::NotRefreshed) {
            return;
        }
        let Joined::Lead(guard) = pending.join(request.headers()) else {
            return;
        };
        let miss = self.to_miss::<ReqBody, ResBody>(request, pending, leave);
        let refreshed = miss.refresh(guard);
        let span = tracing::Span::current();
        let cache = &self.settings.cache;
        cache.spawn(tracing::Instrument::instrument(refreshed, span));
    }

    fn to_miss<ReqBody, ResBody>(
        &self,
        request: Request<ReqBody>,
        pending: Box<Pending>,
        leave: Leave,
    ) -> Miss<S, ReqBody, ResBody>
    where
        S: Clone,
        ResBody: Body,
    {
        Miss {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
            request,
            pending,
            leave,
            lead: Arc::new(Lead::default()),
            patience: None,
            soft: self.settings.soft_timeout.map(after),
            failures: 0,
            is_refresh: false,
        }
    }
}
