//! What a call of the service returns: an answer that is there, the inner service's, or the work
//! of a miss.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    cache::Cache,
    head::HeadRef,
    headers::{Forwarded, StatusHeaders, say_bypass, say_passed},
    invalidate::hear,
    nesting::stamp,
    policy::is_safe,
    settings::Settings,
    status::Reason,
    timer::until,
    uncacheable::Uncacheable,
    unsafe_method::UnsafeMethod,
};

pin_project! {
    /// Readies a clone of the inner service, and calls it.
    ///
    /// `poll_ready` of the cache is always ready, so that hits are served while the inner service
    /// is saturated; the clone is what makes that sound.
    #[project = OneshotProj]
    pub(crate) enum Oneshot<S: Service<Request<R>>, R> {
        Readying { service: S, request: Option<Request<R>> },
        Called { #[pin] future: S::Future },
    }
}

impl<S: Service<Request<R>>, R> Oneshot<S, R> {
    pub(crate) fn new(service: S, request: Request<R>) -> Self {
        Self::Readying {
            service,
            request: Some(request),
        }
    }

    /// Polls, and says when the service is called.
    fn poll_with(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut called: impl FnMut(),
    ) -> Poll<Result<S::Response, S::Error>> {
        loop {
            let future = match self.as_mut().project() {
                OneshotProj::Called { future } => return future.poll(cx),
                OneshotProj::Readying { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let request = request.take().expect("a request is called with once");
                    called();
                    service.call(request)
                }
            };
            self.set(Self::Called { future });
        }
    }
}

impl<S: Service<Request<R>>, R> Future for Oneshot<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(cx, || {})
    }
}

/// What is said on a response that the cache only passes on.
pub(crate) enum Passed {
    /// Nothing: another safe method.
    Untouched,
    /// Nothing: an unsafe method, which may invalidate. In a box, so that no other future is larger.
    Unsafe(Box<UnsafeMethod>),
    Bypassed(Reason),
    /// Looked up in vain, and passed on as it came.
    Missed(Forwarded),
    /// The same for what is known not to be storable. In a box for the same reason.
    Uncacheable(Box<Uncacheable>),
}

impl Passed {
    /// A request with a method that is never looked up.
    pub(crate) fn of_method(cache: &Cache, head: HeadRef<'_>) -> Self {
        match is_safe(head.method) {
            true => Self::Untouched,
            false => Self::Unsafe(Box::new(UnsafeMethod::new(cache, head))),
        }
    }

    fn called(&mut self) {
        if let Self::Unsafe(method) = self {
            method.called();
        }
    }

    fn failed(self) {
        if let Self::Unsafe(method) = self {
            method.failed();
        }
    }
}

/// How an answer leaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leave {
    pub(crate) mode: StatusHeaders,
    /// The cache whose outer layer wants to know that this one answered.
    pub(crate) stamp: Option<u64>,
}

pub(crate) type Answer<B, E> = Result<Response<ResponseBody<B>>, E>;
pub(crate) type Work<B, E> = Pin<Box<dyn Future<Output = Answer<B, E>> + Send>>;

pin_project! {
    /// The future of a [`ResponseCache`](crate::ResponseCache).
    pub struct ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
        ResBody: Body,
    {
        #[pin]
        kind: Kind<S, ReqBody, ResBody>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
        ResBody: Body,
    {
        Ready { response: Option<Response<ResponseBody<ResBody>>> },
        // In this order: a call that ends when it is dropped has ended before it is invalidated.
        Passed {
            #[pin] call: Oneshot<S, ReqBody>,
            passed: Passed,
            leave: Leave,
            settings: Arc<Settings>,
        },
        Working { work: Working<ResBody, S::Error> },
    }
}

/// The work of a miss, polled by the client's own task as long as the client is there.
struct Working<B: Body, E> {
    /// Taken out while polled, so that a panic drops it.
    work: Option<Work<B, E>>,
    lead: Arc<Lead<B>>,
    detach: Option<(Detach, SpawnWork<B, E>)>,
}

/// What the work of a miss and its client's future know of each other.
pub(crate) struct Lead<B: Body>(Mutex<Leading<B>>);

struct Leading<B: Body> {
    /// Whether the work is a fill that others may be waiting for, and until when.
    until: Option<Instant>,
    /// What the client gets before the work is done.
    answer: Option<Response<ResponseBody<B>>>,
    /// The client has left, or has its answer.
    is_left: bool,
}

impl<B: Body> Default for Lead<B> {
    fn default() -> Self {
        Self(Mutex::new(Leading {
            until: None,
            answer: None,
            is_left: false,
        }))
    }
}

impl<B: Body> Lead<B> {
    fn state(&self) -> MutexGuard<'_, Leading<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, until: Option<Instant>) {
        self.state().until = until;
    }

    /// Answers the client now; the work goes on as if it had left. To be called by the work while it
    /// is polled.
    pub(crate) fn answer(&self, response: Response<ResponseBody<B>>) {
        self.state().answer = Some(response);
    }

    /// Whether nobody waits for the answer of the work.
    pub(crate) fn is_left(&self) -> bool {
        self.state().is_left
    }

    fn take_answer(&self) -> Option<Response<ResponseBody<B>>> {
        self.state().answer.take()
    }

    /// The client leaves; until when the work goes on.
    fn leave(&self) -> Option<Instant> {
        let mut state = self.state();
        state.is_left = true;
        state.until
    }
}

type SpawnWork<B, E> = fn(Detach, Instant, Work<B, E>);

/// Where a fill goes on when its starter has left.
pub(crate) struct Detach {
    pub(crate) cache: Cache,
    pub(crate) span: tracing::Span,
}

/// Lets work go on in a task; its answer is dropped, and with it whatever hangs on it.
fn spawn_work<B, E>(detach: Detach, deadline: Instant, work: Work<B, E>)
where
    B: Body + Send + 'static,
    E: Send + 'static,
{
    let Detach { cache, span } = detach;
    let answered = async move {
        let _answer = work.await;
    };
    let ended = async move {
        until(deadline, answered).await;
    };
    cache.spawn(tracing::Instrument::instrument(ended, span));
}

impl<B: Body, E> Working<B, E> {
    /// Lets the work go on without its client, if it is to.
    fn leave(&mut self) {
        let Some(work) = self.work.take() else {
            return;
        };
        if let (Some(deadline), Some((detach, spawn))) = (self.lead.leave(), self.detach.take()) {
            spawn(detach, deadline, work);
        }
    }
}

impl<B: Body, E> Drop for Working<B, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<S, ReqBody, ResBody> ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
    ResBody: Body,
{
    pub(crate) fn ready(response: Response<ResponseBody<ResBody>>) -> Self {
        let response = Some(response);
        Self {
            kind: Kind::Ready { response },
        }
    }

    pub(crate) fn passed(
        service: S,
        request: Request<ReqBody>,
        passed: Passed,
        leave: Leave,
        settings: Arc<Settings>,
    ) -> Self {
        let call = Oneshot::new(service, request);
        Self {
            kind: Kind::Passed {
                call,
                passed,
                leave,
                settings,
            },
        }
    }

    pub(crate) fn working(
        work: Work<ResBody, S::Error>,
        lead: Arc<Lead<ResBody>>,
        detach: Option<Detach>,
    ) -> Self
    where
        ResBody: Send + 'static,
        S::Error: Send + 'static,
    {
        let work = Working {
            work: Some(work),
            lead,
            detach: detach.map(|detach| (detach, spawn_work as SpawnWork<ResBody, S::Error>)),
        };
        Self {
            kind: Kind::Working { work },
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Output = Answer<ResBody, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Ready { response } => {
                let response = response.take().expect("polled after it was ready");
                Poll::Ready(Ok(response))
            }
            KindProj::Passed {
                call,
                passed,
                leave,
                settings,
            } => {
                let result = ready!(call.poll_with(cx, || passed.called()));
                let passed = std::mem::replace(passed, Passed::Untouched);
                Poll::Ready(match result {
                    Ok(response) => Ok(pass_on(response, passed, *leave, settings)),
                    Err(error) => {
                        passed.failed();
                        Err(error)
                    }
                })
            }
            KindProj::Working { work } => {
                let mut current = work.work.take().expect("polled after it was ready");
                let polled = current.as_mut().poll(cx);
                if polled.is_ready() {
                    return polled;
                }
                work.work = Some(current);
                match work.lead.take_answer() {
                    None => Poll::Pending,
                    Some(response) => {
                        work.leave();
                        Poll::Ready(Ok(response))
                    }
                }
            }
        }
    }
}

/// The inner service's answer to a request that the cache leaves alone.
pub(crate) fn pass_on<B: Body>(
    mut response: Response<B>,
    passed: Passed,
    leave: Leave,
    settings: &Settings,
) -> Response<ResponseBody<B>> {
    hear(settings, &mut response);
    if let Passed::Uncacheable(uncacheable) = passed {
        let response = uncacheable.answered(settings, leave, response);
        return response.map(ResponseBody::inner);
    }
    let mut response = response.map(ResponseBody::inner);
    let head = response.headers_mut();
    match passed {
        Passed::Untouched | Passed::Uncacheable(_) => return response,
        Passed::Unsafe(method) => {
            method.answered(response.status(), response.headers());
            return response;
        }
        Passed::Bypassed(reason) => say_bypass(head, reason, leave.mode),
        Passed::Missed(said) => say_passed(head, said, leave.mode),
    }
    stamp(response.extensions_mut(), leave.stamp);
    response
}

impl<S, ReqBody, ResBody> fmt::Debug for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
    ResBody: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Ready { .. } => "Ready",
            Kind::Passed { .. } => "Passed",
            Kind::Working { .. } => "Working",
        };
        f.debug_struct("ResponseFuture")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}
