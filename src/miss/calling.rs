//! A request that calls the inner service, for itself and for all who wait: the first of its key, one that
//! goes alone, and one that refreshes what is stale.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

use http::{
    Request, Response, StatusCode,
    header::{ETAG, IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE},
};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::Miss;
use crate::{
    admission::reduced,
    answer::{judged, only_if_cached},
    body::ResponseBody,
    cache::{Cache, Placement},
    fill::{Filled, Job, fill_body},
    flight::{Ending, Guard},
    future::{Answer, Oneshot, Passed, pass_on},
    headers::{Forwarded, say_forwarded, without_own},
    invalidate::hear,
    judge::{Judged, Started, judge, longest_body},
    marks::Mark,
    nesting::{is_stamped, pass, pass_deadline, stamp},
    policy::{Failure, ask, take_conditions},
    refreshing::Refreshing,
    scope,
    status::Reason,
    timer::{after, until},
    validate::{Asked, confirmed_once, standing_in, unshared, version},
};

/// Counts a call that ends without an answer: by an error, by a panic, or because nobody polls it.
struct Unanswered<'a>(Option<&'a Cache>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(cache) = self.0 {
            cache.counters().failed_fill();
        }
    }
}

impl<S, ReqBody, ResBody> Miss<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body,
    ResBody: Body + Send + 'static,
    ResBody::Data: Send,
    ResBody::Error: Send,
{
    /// Obtains what is newer than a stale response that was served already (RFC 5861, 3).
    pub(crate) async fn refresh(mut self: Box<Self>, guard: Guard) {
        self.is_refresh = true;
        // The client has its answer: these were about that.
        for name in [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE] {
            self.request.headers_mut().remove(name);
        }
        let _refreshing = Refreshing::new(&self.pending, self.request.headers());
        let _answer = self.lead(guard).await;
    }

    /// The first of its key: fills, and the others wait.
    pub(super) async fn lead(mut self: Box<Self>, guard: Guard) -> Answer<ResBody, S::Error> {
        // Between the look-up and the start of this flight another one may have ended.
        if let Some(hit) = self.pending.look(self.request.headers()) {
            guard.end(Ending::Look, Vec::new());
            return Ok(self.hit(hit));
        }
        let deadline = after(self.settings.fill_timeout);
        self.lead.set(Some(deadline));
        if self.pending.may_fetch_now() {
            let origin = guard.flight().origin();
            let fetch = Box::pin(self.pending.fetch(self.request.headers(), origin));
            if let Some(hit) = fetch.await {
                guard.end(Ending::Look, Vec::new());
                return Ok(self.hit(hit));
            }
            if self.pending.accepts_stale() && !self.is_refresh {
                if let Some(hit) = self.pending.look_stale(self.request.headers()) {
                    guard.end(Ending::Look, Vec::new());
                    return Ok(self.stale(hit));
                }
            }
            guard
                .flight()
                .begin_fill(self.pending.cache.log().sequence());
            self.pending.learn_stored(self.request.headers());
        }
        Box::pin(self.fill(guard, deadline, None)).await
    }

    /// A fill that nobody waits for; what it brings is judged and stored all the same.
    pub(super) async fn fill_alone(
        self: Box<Self>,
        why: Option<Reason>,
    ) -> Answer<ResBody, S::Error> {
        let guard = Guard::alone(self.pending.origin(), Instant::now().into_std());
        let deadline = after(self.settings.fill_timeout);
        Box::pin(self.fill(guard, deadline, why)).await
    }

    /// Each for itself, but known to have passed here: a layer further in collapses them.
    pub(super) async fn pass_further_in(mut self: Box<Self>) -> Answer<ResBody, S::Error> {
        let settings = &self.settings;
        pass(self.request.extensions_mut(), settings.cache.id());
        pass_deadline(self.request.extensions_mut(), self.pending.remote_until);
        self.pending.cache.counters().bypass(Reason::InnerLayer);
        self.pass_on(Passed::Bypassed(Reason::InnerLayer)).await
    }

    pub(super) async fn pass_on(self: Box<Self>, passed: Passed) -> Answer<ResBody, S::Error> {
        let request = reduced(&self.settings, self.request);
        let response = Oneshot::new(self.inner, request).await?;
        Ok(pass_on(response, passed, self.leave, &self.settings))
    }

    async fn fill(
        self: Box<Self>,
        mut guard: Guard,
        deadline: Instant,
        why: Option<Reason>,
    ) -> Answer<ResBody, S::Error> {
        let Self {
            inner,
            settings,
            mut request,
            mut pending,
            leave,
            lead,
            soft,
            is_refresh,
            ..
        } = *self;
        let cache = pending.cache.clone();
        let headers = request.headers().clone();
        let validator = settings.validator.as_ref();
        if let Some(validator) = validator.filter(|_| pending.alone.is_none()) {
            // In a box, for those who have one: it is large.
            let version = Box::pin(version(validator, request, deadline));
            (request, pending.validator) = version.await;
            if let Some(stored) = pending.confirmed() {
                if !is_refresh {
                    cache.counters().hit();
                }
                let conditions = take_conditions(request.headers_mut());
                let asked = Asked {
                    settings: &settings,
                    said: pending.said(None),
                    pending: *pending,
                    request: headers,
                    started: Started {
                        wall: cache.clock().wall(),
                        // What it costs to make it anew is what it cost.
                        at: cache.now().saturating_sub(stored.cost),
                        deadline,
                    },
                    leave,
                };
                return Ok(judged(asked.confirmed(guard, stored), &conditions));
            }
        }
        match pending.alone {
            _ if is_refresh => {}
            Some(reason) => cache.counters().bypass(reason),
            None => cache.counters().miss(),
        }
        cache.counters().fill();
        let mut unanswered = Unanswered(Some(&cache));
        request = reduced(&settings, request);
        let stored = pending.to_validate();
        // Who waits wants all of it, whatever the starter has, and what is stored has conditions of
        // its own. Alone it goes as it came.
        let is_replaced = stored.is_some() || (pending.is_selective && guard.is_joinable());
        let conditions = is_replaced.then(|| take_conditions(request.headers_mut()));
        if let Some(stored) = &stored {
            ask(request.headers_mut(), &without_own(&stored.head));
        }
        // A refresh has nobody to be answered, nor has a fill whose starter left.
        let has_nobody = || is_refresh || lead.is_left();
        let stand_in = |failure| match has_nobody() {
            true => None,
            false => standing_in(&pending, failure, &headers, leave),
        };
        let judged = |response| match &conditions {
            Some(conditions) => judged(response, conditions),
            None => response,
        };
        pass(request.extensions_mut(), cache.id());
        pass_deadline(request.extensions_mut(), pending.remote_until);
        let started = Started {
            wall: cache.clock().wall(),
            at: cache.now(),
            deadline,
        };
        let mut call = pin!(scope::open(&cache, Oneshot::new(inner, request)));
        let mut called = None;
        let is_bounded = |soft: &Instant| *soft < deadline && !is_refresh;
        if let Some(soft) = soft.filter(is_bounded) {
            called = until(soft, call.as_mut()).await;
            let slow = called.is_none().then_some(Failure::Slow);
            if let Some(response) = slow.and_then(stand_in) {
                cache.marks().refresh_begins(pending.mark, cache.now());
                if !guard.is_joinable() || !settings.detach || cache.is_closed() {
                    lead.set(None);
                    guard.expire();
                    return Ok(response);
                }
                // The fill goes on for those who come later.
                lead.answer(response);
            }
        }
        if called.is_none() {
            called = until(deadline, call.as_mut()).await;
        }
        if has_nobody() {
            // Before those who wait are woken, and ask again. What is stored lifts it.
            cache.marks().refresh_failed(pending.mark, cache.now());
        }
        let called = match called {
            Some(called) => called,
            None => {
                // It runs on for its client alone; should that leave, it is dropped.
                lead.set(None);
                guard.expire();
                if has_nobody() {
                    if pending.stand_in(Failure::Slow).is_some() {
                        cache.marks().set(Mark::Slow, pending.mark, cache.now());
                    }
                    return Ok(only_if_cached(leave.mode));
                }
                if let Some(response) = stand_in(Failure::Slow) {
                    cache.marks().refresh_begins(pending.mark, cache.now());
                    return Ok(response);
                }
                call.as_mut().await
            }
        };
        let mut response = match called {
            Ok(response) => response,
            Err(error) => {
                guard.end(Ending::Failed, Vec::new());
                return stand_in(Failure::Error).ok_or(error);
            }
        };
        unanswered.0 = None;
        if let Some(reads) = scope::reads(call) {
            response.extensions_mut().insert(reads);
        }
        hear(&settings, &mut response);
        let (mut head, body) = response.into_parts();
        if is_stamped(&head.extensions, cache.id()) {
            cache
                .marks()
                .set(Mark::InnerLayer, pending.route_mark, cache.now());
            guard.end(Ending::InnerLayer, Vec::new());
            if let (Some(stored), StatusCode::NOT_MODIFIED) = (&stored, head.status) {
                // It answers what was asked for here; from now on it is asked as the client asks.
                pending.remove(stored);
                return Ok(judged(confirmed_once(&pending, head, stored, leave)));
            }
            let response = Response::from_parts(head, ResponseBody::inner(body));
            return Ok(judged(response));
        }
        if head.status.is_server_error() {
            let failure = Failure::Status(head.status);
            if has_nobody() && pending.stand_in(failure).is_some() {
                // Only for those who wait for it.
                guard.end(Ending::ServerError(head.status), Vec::new());
                return Ok(Response::from_parts(head, ResponseBody::inner(body)));
            }
            if let Some(response) = stand_in(failure) {
                guard.end(Ending::ServerError(head.status), Vec::new());
                return Ok(response);
            }
        }
        let mut said = Forwarded {
            status: Some(head.status.as_u16()),
            ..pending.said(why)
        };
        if let (Some(stored), StatusCode::NOT_MODIFIED) = (stored, head.status) {
            let asked = Asked {
                settings: &settings,
                pending: *pending,
                request: headers,
                started,
                said,
                leave,
            };
            return Ok(judged(asked.not_modified(guard, head, stored)));
        }
        let exact = body.size_hint().exact();
        let body = match judge(&settings, &pending, &headers, &mut head, exact, started) {
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
                        key,
                        path: pending.path,
                        request: headers,
                        mark: pending.mark,
                        is_personal: pending.personal.is_some(),
                    },
                    is_stored,
                    is_tagged: is_stored
                        && settings.storing.weak_etags
                        && !head.headers.contains_key(ETAG)
                        && !settings.strip_fields.contains(&ETAG),
                    max_body_size: longest_body(&settings, &cache),
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
                    guard = unshared(&cache, guard, reason, &job.shared, pending.mark);
                }
                // What reads the body is no future: in this one it would take its size again.
                let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
                let mut context = Context::from_waker(&waker);
                let filled = fill_body(&mut context, guard, job, body, length);
                let Filled { body, refused, tag } = filled;
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
        Ok(judged(Response::from_parts(head, body)))
    }
}
