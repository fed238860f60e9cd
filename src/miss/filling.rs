//! A fill under way: what becomes of the answer of the inner service, or of its absence.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response, StatusCode, header::ETAG};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Instant, Sleep},
};
use tower_service::Service;

use crate::{
    answer::{judged, only_if_cached},
    body::ResponseBody,
    cache::{Cache, Placement},
    entry::Entry,
    fill::{Filled, Job, fill_body},
    flight::{Ending, Guard},
    future::{Answer, Lead, Leave, Oneshot},
    headers::{Forwarded, say_forwarded},
    invalidate::hear,
    judge::{Judged, Started, judge, longest_body},
    marks::Mark,
    nesting::{is_stamped, stamp},
    pending::Pending,
    policy::Failure,
    scope::{self, Slot},
    settings::Settings,
    status::Reason,
    timer::timer,
    validate::{Asked, confirmed_once, standing_in, unshared},
};

/// Counts a call that ends without an answer: by an error, by a panic, or because nobody polls it.
pub(super) struct Unanswered(pub(super) Option<Cache>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(cache) = &self.0 {
            cache.counters().failed_fill();
        }
    }
}

pin_project! {
    /// The call of a fill, until its client has an answer.
    ///
    /// Written by hand, because it is made for each miss: an `async` block holds what it is given twice.
    pub(super) struct Filling<S, R, B>
    where
        S: Service<Request<R>, Response = Response<B>>,
        B: Body,
    {
        // In this order: a call that is dropped has ended before its flight does.
        #[pin]
        call: TaskLocalFuture<Slot, Oneshot<S, R>>,
        fill: Option<Fill<B>>,
        limit: Limit,
        // Of the limit, once the call has been waited for.
        #[pin]
        sleep: Option<Sleep>,
        is_timed: bool,
    }
}

/// How long a call is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Then its client gets what is stale, if that may stand in.
    Soft(Instant),
    /// Then it is nobody's but its client's.
    Hard(Instant),
    None,
}

impl<S, R, B> Filling<S, R, B>
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body,
{
    pub(super) fn new(
        call: TaskLocalFuture<Slot, Oneshot<S, R>>,
        fill: Fill<B>,
        soft: Option<Instant>,
    ) -> Self {
        Self {
            limit: soft.map_or(Limit::Hard(fill.started.deadline), Limit::Soft),
            call,
            fill: Some(fill),
            sleep: None,
            is_timed: false,
        }
    }
}

impl<S, R, B> Future for Filling<S, R, B>
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Output = Answer<B, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let called = this.call.as_mut().poll(cx);
            let fill = this.fill.as_mut().expect("polled after it was ready");
            if let Poll::Ready(mut called) = called {
                if let (Ok(response), Some(reads)) = (&mut called, scope::reads(this.call.as_mut()))
                {
                    response.extensions_mut().insert(reads);
                }
                if *this.limit != Limit::None {
                    fill.is_over();
                }
                let fill = this.fill.take().expect("it was there just now");
                return Poll::Ready(fill.ended(called));
            }
            let (Limit::Soft(end) | Limit::Hard(end)) = *this.limit else {
                return Poll::Pending;
            };
            // Only now: most work is ready at once.
            if !std::mem::replace(this.is_timed, true) {
                this.sleep.set(timer(end));
            }
            match this.sleep.as_mut().as_pin_mut() {
                Some(sleep) => ready!(sleep.poll(cx)),
                None => return Poll::Pending,
            }
            *this.is_timed = false;
            let answered = match *this.limit {
                Limit::Soft(_) => {
                    *this.limit = Limit::Hard(fill.started.deadline);
                    fill.is_slow()
                }
                Limit::Hard(_) | Limit::None => {
                    *this.limit = Limit::None;
                    fill.is_over();
                    fill.is_too_slow()
                }
            };
            if let Some(response) = answered {
                return Poll::Ready(Ok(response));
            }
        }
    }
}

/// A fill whose inner service is working: what is to be done with its answer.
///
/// No future: what reads the answer would only make that larger which waits for it.
pub(super) struct Fill<B: Body> {
    pub(super) settings: Arc<Settings>,
    pub(super) pending: Box<Pending>,
    /// The fields that the client sent.
    pub(super) request: HeaderMap,
    /// Those of its conditions that the inner service was not told.
    pub(super) conditions: Option<HeaderMap>,
    /// What the inner service was asked to confirm.
    pub(super) stored: Option<Arc<Entry>>,
    pub(super) unanswered: Unanswered,
    pub(super) guard: Guard,
    pub(super) started: Started,
    /// Why it goes alone.
    pub(super) why: Option<Reason>,
    pub(super) leave: Leave,
    pub(super) lead: Arc<Lead<B>>,
    pub(super) is_refresh: bool,
}

impl<B> Fill<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    /// A refresh has nobody to be answered, nor has a fill whose starter left.
    fn has_nobody(&self) -> bool {
        self.is_refresh || self.lead.is_left()
    }

    fn stand_in(&self, failure: Failure) -> Option<Response<ResponseBody<B>>> {
        match self.has_nobody() {
            true => None,
            false => standing_in(&self.pending, failure, &self.request, self.leave),
        }
    }

    /// The call has ended, or is not waited for any longer. A refresh that brings nothing is not tried
    /// again at once: that is said before those who wait are woken, and what is stored lifts it.
    fn is_over(&self) {
        if self.has_nobody() {
            let (cache, mark) = (&self.settings.cache, self.pending.mark);
            cache.marks().refresh_failed(mark, cache.now());
        }
    }

    /// It takes longer than its client waits, if something stale may stand in.
    fn is_slow(&mut self) -> Option<Response<ResponseBody<B>>> {
        let response = self.stand_in(Failure::Slow)?;
        let cache = &self.settings.cache;
        cache.marks().refresh_begins(self.pending.mark, cache.now());
        if !self.guard.is_joinable() || !self.settings.detach || cache.is_closed() {
            self.lead.set(None);
            self.guard.expire();
            return Some(response);
        }
        // The fill goes on for those who come later.
        self.lead.answer(response);
        None
    }

    /// It takes longer than anybody waits: it runs on for its client alone; should that leave, it is
    /// dropped.
    fn is_too_slow(&mut self) -> Option<Response<ResponseBody<B>>> {
        self.lead.set(None);
        self.guard.expire();
        let (cache, mark) = (&self.settings.cache, self.pending.mark);
        if self.has_nobody() {
            if self.pending.stand_in(Failure::Slow).is_some() {
                cache.marks().set(Mark::Slow, mark, cache.now());
            }
            return Some(only_if_cached(self.leave.mode));
        }
        let response = self.stand_in(Failure::Slow)?;
        cache.marks().refresh_begins(mark, cache.now());
        Some(response)
    }

    /// The inner service has answered, or failed to.
    fn ended<E>(mut self, called: Result<Response<B>, E>) -> Answer<B, E> {
        let mut response = match called {
            Ok(response) => response,
            Err(error) => {
                let response = self.stand_in(Failure::Error);
                self.guard.end(Ending::Failed, Vec::new());
                return response.ok_or(error);
            }
        };
        self.unanswered.0 = None;
        hear(&self.settings, &mut response);
        let status = response.status();
        if status.is_server_error() && !is_stamped(response.extensions(), self.settings.cache.id())
        {
            let failure = Failure::Status(status);
            let (ending, has_nobody) = (Ending::ServerError(status), self.has_nobody());
            if has_nobody && self.pending.stand_in(failure).is_some() {
                // Only for those who wait for it.
                self.guard.end(ending, Vec::new());
                return Ok(response.map(ResponseBody::inner));
            }
            if let Some(response) = self.stand_in(failure) {
                self.guard.end(ending, Vec::new());
                return Ok(response);
            }
        }
        let conditions = self.conditions.take();
        let response = self.answered(response);
        Ok(match &conditions {
            Some(conditions) => judged(response, conditions),
            None => response,
        })
    }

    /// The answer of its client; what others may have of it is stored and shared.
    fn answered(self, response: Response<B>) -> Response<ResponseBody<B>> {
        let Self {
            settings,
            pending,
            request,
            stored,
            mut guard,
            started,
            why,
            leave,
            ..
        } = self;
        let cache = &settings.cache;
        let (mut head, body) = response.into_parts();
        if is_stamped(&head.extensions, cache.id()) {
            let mark = pending.route_mark;
            cache.marks().set(Mark::InnerLayer, mark, cache.now());
            guard.end(Ending::InnerLayer, Vec::new());
            if let (Some(stored), StatusCode::NOT_MODIFIED) = (&stored, head.status) {
                // It answers what was asked for here; from now on it is asked as the client asks.
                pending.remove(stored);
                return confirmed_once(&pending, head, stored, leave);
            }
            return Response::from_parts(head, ResponseBody::inner(body));
        }
        let mut said = Forwarded {
            status: Some(head.status.as_u16()),
            ..pending.said(why)
        };
        if let (Some(stored), StatusCode::NOT_MODIFIED) = (stored, head.status) {
            let asked = Asked {
                settings: &settings,
                pending: *pending,
                request,
                started,
                said,
                leave,
            };
            return asked.not_modified(guard, head, stored);
        }
        let exact = body.size_hint().exact();
        let body = match judge(&settings, &pending, &request, &mut head, exact, started) {
            Judged::Share(shared, is_stored) => {
                if let Some(sequence) = shared.read_at {
                    guard.flight().lower_to(sequence);
                }
                if let (true, Some(route)) = (is_stored, pending.route()) {
                    cache.routes().storable(route);
                }
                let length = shared.length;
                let key = pending.key_of(&head.headers);
                pending.make_way(&key);
                let job = Job {
                    cache: cache.clone(),
                    shared,
                    place: Placement {
                        lease: pending.lease,
                        key,
                        path: pending.path,
                        request,
                        mark: pending.mark,
                        is_personal: pending.personal.is_some(),
                    },
                    is_stored,
                    is_tagged: is_stored
                        && settings.storing.weak_etags
                        && !head.headers.contains_key(ETAG)
                        && !settings.strip_fields.contains(&ETAG),
                    max_body_size: longest_body(&settings, cache),
                    began: started.at,
                    deadline: started.deadline,
                    detach: settings.detach,
                };
                if !is_stored {
                    // Shared with those who wait already, and with nobody else.
                    guard.leave();
                }
                let unfit = job.shared.unfit;
                if let Some(reason) = unfit {
                    guard = unshared(cache, guard, reason, &job.shared, pending.mark);
                }
                let Filled { body, refused, tag } = fill_body(guard, job, body, length);
                if let Some(tag) = tag {
                    head.headers.insert(ETAG, tag);
                }
                said.stored = is_stored && refused.is_none();
                said.detail = if is_stored {
                    refused.or(unfit).or(why)
                } else {
                    Some(Reason::Status)
                };
                body
            }
            Judged::Refuse(reason) => {
                let ending = if head.status.is_server_error() {
                    cache.counters().refusal(reason);
                    Ending::ServerError(head.status)
                } else {
                    let is_for_all = pending.personal.is_none();
                    cache.refuse_head(
                        reason,
                        head.status,
                        is_for_all,
                        pending.mark,
                        pending.route(),
                    );
                    Ending::Refused(reason)
                };
                pending.forget(reason, head.status);
                guard.end(ending, Vec::new());
                said.detail = Some(pending.alone.unwrap_or(reason));
                ResponseBody::inner(body)
            }
        };
        say_forwarded(&mut head.headers, said, leave.mode);
        stamp(&mut head.extensions, leave.stamp);
        Response::from_parts(head, body)
    }
}
