//! A request that calls the inner service, for itself and for all who wait: the first of its key, one that
//! goes alone, and one that refreshes what is stale.

use std::time::Duration;

use http::{
    Request, Response,
    header::{IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE},
};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Miss, Turn,
    filling::{Fill, Filling, Unanswered},
};
use crate::{
    admission::reduced,
    answer::judged,
    body::ResponseBody,
    flight::{Ending, Guard},
    future::{Answer, Oneshot, Passed, pass_on},
    judge::Started,
    nesting::{pass, pass_deadline},
    policy::{Failure, ask, take_conditions},
    refreshing::Refreshing,
    scope,
    status::Reason,
    stored_head::without_own,
    timer::{after, later, until},
    validate::{Asked, version},
};

/// How often one looks whether another node has stored what it fills.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl<S, ReqBody, ResBody> Miss<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body,
    ResBody: Body + Send + 'static,
    ResBody::Data: Send,
    ResBody::Error: Send,
{
    /// Obtains what is newer than a stale response that was served already (RFC 5861, 3).
    pub(crate) async fn refresh(mut self, guard: Guard) {
        self.is_refresh = true;
        // The client has its answer: these were about that.
        for name in [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE] {
            self.request.headers_mut().remove(name);
        }
        let _refreshing = Refreshing::new(&self.pending, self.request.headers());
        let _answer = self.answer(Some(guard)).await;
    }

    /// The first of its key: fills, and the others wait.
    pub(super) async fn lead(&mut self, guard: Guard) -> Turn<ResBody> {
        // Between the look-up and the start of this flight another one may have ended.
        if let Some(hit) = self.pending.look(self.request.headers()) {
            guard.end(Ending::Look, Vec::new());
            return Turn::Answered(self.hit(hit));
        }
        let deadline = self.deadline(&guard);
        self.lead.set(Some(deadline));
        if self.pending.may_fetch_now() {
            let origin = guard.flight().origin();
            let fetch = Box::pin(self.pending.fetch(self.request.headers(), origin));
            if let Some(hit) = fetch.await {
                guard.end(Ending::Look, Vec::new());
                return Turn::Answered(self.hit(hit));
            }
            if self.pending.accepts_stale() && !self.is_refresh {
                if let Some(hit) = self.pending.look_stale(self.request.headers()) {
                    guard.end(Ending::Look, Vec::new());
                    return Turn::Answered(self.stale(hit));
                }
            }
            if let Some(within) = self.settings.lease.filter(|_| !self.is_refresh) {
                let other = Box::pin(self.fill_of_other_node(&guard, within)).await;
                if let Some(response) = other {
                    guard.end(Ending::Look, Vec::new());
                    return Turn::Answered(response);
                }
            }
            self.pending.settled().await;
            guard
                .flight()
                .begin_fill(self.pending.cache.log().sequence());
            self.pending.learn_stored(self.request.headers());
        }
        Turn::Fill(guard, deadline, None)
    }

    /// Takes the lease of the key, or waits for what the node stores that has it; nothing where this node
    /// is to fill.
    async fn fill_of_other_node(
        &mut self,
        guard: &Guard,
        within: Duration,
    ) -> Option<Response<ResponseBody<ResBody>>> {
        let end = after(within);
        loop {
            let given_back = self.pending.take_lease(within).await;
            let is_to_fill = given_back.is_none();
            if let Some(given_back) = given_back {
                if let Some(hit) = self.pending.stand_in(Failure::Slow) {
                    return Some(self.stale(hit));
                }
                // A message may be missed.
                until(end.min(after(LOOK_EVERY)), given_back.notified()).await;
            }
            // Who had it may have stored something since this was asked for.
            self.pending.ask_again();
            let origin = guard.flight().origin();
            let hit = self.pending.fetch(self.request.headers(), origin).await;
            if let Some(hit) = hit {
                return Some(self.hit(hit));
            }
            if is_to_fill || Instant::now() >= end {
                return None;
            }
        }
    }

    /// Until when a fill is waited for, by anybody.
    fn deadline(&self, guard: &Guard) -> Instant {
        let started = Instant::from_std(guard.flight().started());
        later(started, self.settings.fill_timeout)
    }

    /// A fill that nobody waits for; what it brings is judged and stored all the same.
    pub(super) fn alone(&self, why: Option<Reason>) -> Turn<ResBody> {
        let guard = Guard::alone(self.pending.origin(), Instant::now().into_std());
        let deadline = self.deadline(&guard);
        Turn::Fill(guard, deadline, why)
    }

    /// Each for itself, but known to have passed here: a layer further in collapses them.
    pub(super) async fn pass_further_in(mut self) -> Answer<ResBody, S::Error> {
        let settings = &self.settings;
        pass(self.request.extensions_mut(), settings.cache.id());
        pass_deadline(self.request.extensions_mut(), self.pending.remote_until);
        self.pending.cache.counters().bypass(Reason::InnerLayer);
        self.pass_on(Passed::Bypassed(Reason::InnerLayer)).await
    }

    pub(super) async fn pass_on(self, passed: Passed) -> Answer<ResBody, S::Error> {
        let request = reduced(&self.settings, self.request);
        let response = Oneshot::new(self.inner, request).await?;
        Ok(pass_on(response, passed, self.leave, &self.settings))
    }

    /// Whether the layer has a validator that may say that what is stored is good.
    pub(super) fn has_validator(&self) -> bool {
        self.settings.validator.is_some() && self.pending.alone.is_none()
    }

    /// Asks it.
    pub(super) async fn confirm(
        mut self,
        guard: Guard,
        deadline: Instant,
    ) -> Confirmed<S, ReqBody, ResBody> {
        let Some(validator) = &self.settings.validator else {
            return Confirmed::No(Box::new(self), guard);
        };
        let request;
        (request, self.pending.validator) = version(validator, self.request, deadline).await;
        self.request = request;
        let Some(stored) = self.pending.confirmed() else {
            return Confirmed::No(Box::new(self), guard);
        };
        let headers = self.request.headers().clone();
        let cache = &self.settings.cache;
        if !self.is_refresh {
            cache.counters().hit();
        }
        let conditions = take_conditions(self.request.headers_mut());
        let asked = Asked {
            settings: &self.settings,
            said: self.pending.said(None),
            started: Started {
                // What it costs to make it anew is what it cost.
                at: cache.now().saturating_sub(stored.cost),
                deadline,
            },
            pending: *self.pending,
            request: headers,
            leave: self.leave,
        };
        let response = judged(asked.confirmed(guard, stored), &conditions);
        Confirmed::Yes(Box::new(response))
    }

    /// What is asked of the inner service, and what is to be known when it answers.
    pub(super) fn begin(
        self,
        guard: Guard,
        deadline: Instant,
        why: Option<Reason>,
    ) -> Filling<S, ReqBody, ResBody> {
        let Self {
            inner,
            settings,
            request,
            pending,
            leave,
            lead,
            soft,
            is_refresh,
            ..
        } = self;
        let cache = &settings.cache;
        match pending.alone {
            _ if is_refresh => {}
            Some(reason) => cache.counters().bypass(reason),
            None => cache.counters().miss(),
        }
        cache.counters().fill();
        let unanswered = Unanswered(Some(cache.clone()));
        let headers = request.headers().clone();
        let mut request = reduced(&settings, request);
        let stored = pending.to_validate();
        // Who waits wants all of it, whatever the starter has, and what is stored has conditions of
        // its own. Alone it goes as it came.
        let is_replaced = stored.is_some() || (pending.is_selective && guard.is_joinable());
        let conditions = is_replaced.then(|| take_conditions(request.headers_mut()));
        if let Some(stored) = &stored {
            ask(request.headers_mut(), &without_own(&stored.head));
        }
        pass(request.extensions_mut(), cache.id());
        pass_deadline(request.extensions_mut(), pending.remote_until);
        let call = scope::open(cache, Oneshot::new(inner, request));
        let fill = Fill {
            started: Started {
                at: cache.now(),
                deadline,
            },
            settings,
            pending,
            request: headers,
            conditions,
            stored,
            unanswered,
            guard,
            why,
            leave,
            lead,
            is_refresh,
        };
        let soft = soft.filter(|soft| *soft < deadline && !is_refresh);
        Filling::new(call, fill, soft)
    }
}

/// What the layer's own validator came to.
pub(super) enum Confirmed<S, ReqBody, ResBody: Body> {
    /// The stored response, which is good.
    Yes(Box<Response<ResponseBody<ResBody>>>),
    No(Box<Miss<S, ReqBody, ResBody>>, Guard),
}
