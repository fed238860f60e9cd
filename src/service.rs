//! `ResponseCache`: the flow of one request, from top to bottom.
//!
//! 1. *admit*: is it ours, may it share, what is its key (`admission.rs`)
//! 2. *look up* in memory and decide; a hit is answered here and now
//! 3. otherwise join the flight of the key, or start it (`miss.rs`)

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Body;
use tower_service::Service;

use crate::{
    admission::{Admission, HeadRef, Lookup, Said, admit, ask_closures},
    body::ResponseBody,
    cache::Cache,
    entry::{Entry, Millis, StoredHead},
    future::{Detach, Leave, Passed, ResponseFuture},
    headers::{Forwarded, StatusHeaders, fill_slots, say_forwarded},
    layer::Settings,
    miss::{Miss, Pending},
    nesting::{Nesting, pass, stamp},
    status::{Forward, Reason},
    store::memory::Found,
};

/// A service that answers repeated requests from a [`Cache`]; made by a
/// [`ResponseCacheLayer`](crate::ResponseCacheLayer).
///
/// It is always ready: hits are served while the inner service is saturated. A request that must reach the inner service waits for its
/// readiness then. Load shedding therefore belongs below this layer. The error is the inner service's.
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

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let mut request = request;
        let settings = &self.settings;
        let nesting = Nesting::of(request.extensions(), settings.cache.id(), settings.id);
        let leave = Leave {
            mode: settings.status_headers,
            stamp: nesting.is_inside.then(|| settings.cache.id()),
        };
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
        match self.step(head, request.body(), said, nesting) {
            Step::NotOurs => self.pass(request, Passed::Untouched, leave),
            Step::Bypass(reason) => {
                settings.streaks.bypassed(head, reason);
                if reason == Reason::InnerLayer {
                    pass(request.extensions_mut(), settings.cache.id(), settings.id);
                }
                self.pass(request, Passed::Bypassed(reason), leave)
            }
            Step::PassMissed(said) => {
                settings.cache.counters().miss();
                self.pass(request, Passed::Missed(said), leave)
            }
            Step::Serve(hit, is_head) => {
                settings.cache.counters().hit();
                settings.streaks.looked_up(head);
                let mut response = hit.into_response(settings.status_headers, is_head);
                stamp(response.extensions_mut(), leave.stamp);
                ResponseFuture::ready(response)
            }
            Step::Unsatisfied => {
                settings.cache.counters().miss();
                let mut response = only_if_cached(settings.status_headers);
                stamp(response.extensions_mut(), leave.stamp);
                ResponseFuture::ready(response)
            }
            Step::Work(pending) => {
                match pending.personal_alone() {
                    Some(reason) => settings.streaks.bypassed(head, reason),
                    None => settings.streaks.looked_up(head),
                }
                self.work(request, *pending, leave)
            }
        }
    }
}

/// What is to be done with a request.
enum Step {
    NotOurs,
    Bypass(Reason),
    /// Nothing usable was found, and the request is passed on as it came.
    PassMissed(Forwarded),
    Serve(Hit, bool),
    /// `only-if-cached`, and nothing is.
    Unsatisfied,
    Work(Box<Pending>),
}

impl<S> ResponseCache<S> {
    /// Admission and look-up: what is to be done.
    #[inline]
    fn step(&self, head: HeadRef<'_>, body: &impl Body, said: Said, nesting: Nesting) -> Step {
        let settings = &*self.settings;
        let cache = &settings.cache;
        let mut lookup = Lookup::default();
        match admit(settings, head, body, said, &mut lookup) {
            Admission::NotOurs => return Step::NotOurs,
            Admission::Bypass(reason) => return Step::Bypass(reason),
            Admission::Lookup => {}
        }
        let found = cache
            .memory()
            .find(&lookup.parts, lookup.hash, head.headers);
        let now = cache.now();
        let forward = match &found {
            Found::Entry(entry) => match reuse(cache, entry, &lookup, now) {
                Ok(()) => {
                    let Found::Entry(entry) = found else {
                        unreachable!("matched just now");
                    };
                    return Step::Serve(Hit { entry, now }, lookup.is_head);
                }
                Err(forward) => forward,
            },
            Found::OtherVariants(_) => Forward::VaryMiss,
            Found::Nothing => Forward::UriMiss,
        };
        self.miss(head, &lookup, found, forward, nesting)
    }

    /// What becomes of a request for which nothing usable is stored.
    #[cold]
    fn miss(
        &self,
        head: HeadRef<'_>,
        lookup: &Lookup<'_>,
        found: Found,
        forward: Forward,
        nesting: Nesting,
    ) -> Step {
        let settings = &*self.settings;
        if lookup.directives.only_if_cached {
            return Step::Unsatisfied;
        }
        let passed = |detail| {
            Step::PassMissed(Forwarded {
                forward: Some(forward),
                status: None,
                stored: false,
                collapsed: false,
                detail: Some(detail),
            })
        };
        if lookup.range {
            return passed(Reason::Range);
        }
        if lookup.conditional {
            return passed(Reason::Conditional);
        }
        let rule = match found {
            Found::OtherVariants(rule) => Some(rule),
            Found::Entry(_) | Found::Nothing => None,
        };
        let pending = Pending::new(settings, head, lookup, rule, forward, nesting);
        if pending.is_answered_further_in() {
            return Step::Bypass(Reason::InnerLayer);
        }
        if lookup.is_head && !pending.is_joinable() {
            return passed(Reason::Head);
        }
        Step::Work(Box::new(pending))
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
        ResponseFuture::passed(self.inner.clone(), request, passed, leave)
    }

    fn work<ReqBody, ResBody>(
        &self,
        request: Request<ReqBody>,
        pending: Pending,
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
        let is_leading = Arc::new(AtomicBool::new(false));
        let detach = self.settings.detach.then(|| Detach {
            cache: self.settings.cache.clone(),
            timeout: self.settings.fill_timeout,
            span: tracing::Span::current(),
        });
        let miss = Miss {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
            request,
            pending,
            leave,
            is_leading: is_leading.clone(),
        };
        ResponseFuture::working(Box::pin(miss.answer()), is_leading, detach)
    }
}

/// Whether a stored response may answer a request now; if not, why it is forwarded (§4).
#[inline]
pub(crate) fn reuse(
    cache: &Cache,
    entry: &Entry,
    lookup: &Lookup<'_>,
    now: Millis,
) -> Result<(), Forward> {
    if lookup.directives.no_cache {
        // §5.2.1.4: not without validation.
        return Err(Forward::Request);
    }
    if !entry.head.lifetime.is_fresh(now) || !entry.is_usable(cache.log()) {
        return Err(Forward::Stale);
    }
    if !may_answer(&entry.head, lookup.personal) {
        return Err(Forward::Bypass);
    }
    Ok(())
}

/// Whether a response may answer a request that carries cookies or credentials (§3.5; `rules.md`).
#[inline]
pub(crate) fn may_answer(head: &StoredHead, personal: Option<Reason>) -> bool {
    match personal {
        None => true,
        Some(Reason::Authorization) => head.shareable_with_authorization,
        Some(_) => head.shareable,
    }
}

/// A stored response that answers a request.
pub(crate) struct Hit {
    pub(crate) entry: Arc<Entry>,
    pub(crate) now: Millis,
}

impl Hit {
    /// The answer: a clone of the stored head with this moment's age, and the stored body.
    #[inline]
    pub(crate) fn into_response<B: Body>(
        self,
        mode: StatusHeaders,
        is_head: bool,
    ) -> Response<ResponseBody<B>> {
        let head = &*self.entry.head;
        let mut headers = head.headers.clone();
        let age = head.lifetime.age(self.now) / 1000;
        fill_slots(
            &mut headers,
            head.status_slot,
            age,
            head.lifetime.ttl(self.now),
            mode,
        );
        let body = self.entry.body.clone();
        if is_head {
            return respond(
                head,
                head_only(headers, Some(body.len() as u64)),
                ResponseBody::empty(),
            );
        }
        respond(head, headers, ResponseBody::stored(body))
    }
}

/// The fields of a GET for a HEAD: how long the body would be is said if it is known (RFC 9110, 8.6).
pub(crate) fn head_only(mut headers: HeaderMap, length: Option<u64>) -> HeaderMap {
    if let Some(length) = length {
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| length.into());
    }
    headers
}

#[inline]
pub(crate) fn respond<B>(head: &StoredHead, headers: HeaderMap, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    *response.headers_mut() = headers;
    response
}

/// §5.2.1.7: nothing is stored, and the client wants nothing else.
fn only_if_cached<B: Body>(mode: StatusHeaders) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    let said = Forwarded {
        forward: None,
        status: None,
        stored: false,
        collapsed: false,
        detail: Some(Reason::OnlyIfCached),
    };
    say_forwarded(response.headers_mut(), said, mode);
    response
}
