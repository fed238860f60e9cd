//! A request for which nothing usable is stored: it waits for the fill of its key, or does it.
//!
//! All of this is one future, polled by the client's own task, so that task-locals, spans and
//! panics are as without a cache. Only when the client leaves a fill that others may be waiting for
//! does it move to a task (`future.rs`).

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    admission::reduced,
    answer::{Hit, head_only, judged, may_answer, only_if_cached, respond, unavailable},
    body::ResponseBody,
    entry::Entry,
    flight::{Ending, Guard, Joined, Outcome, Shared, Ticket},
    future::{Answer, Lead, Leave, Oneshot, Passed, pass_on},
    headers::{Forwarded, fill_slots_collapsed},
    invalidate::hear,
    judge::Started,
    marks::Mark,
    nesting::{is_stamped, pass, pass_deadline, stamp},
    pending::{Otherwise, Pending},
    policy::Failure,
    settings::{Overflow, Settings},
    status::{Forward, Reason},
    store::remote::DEADLINE,
    timer::{after, until, within},
    validate::{hear_head, standing_in},
};

mod calling;
mod filling;

use calling::Confirmed;

/// How long those who wait for a body of unknown length wait for its end.
const OPEN_BODY_WAIT: Duration = Duration::from_millis(250);
/// How often a request asks again before it goes alone: each time it found another rule of
/// variants, or a fill that had failed.
const MAX_ROUNDS: u32 = 8;

/// A request on its way to an answer.
pub(crate) struct Miss<S, ReqBody, ResBody: Body> {
    pub(crate) inner: S,
    pub(crate) settings: Arc<Settings>,
    pub(crate) request: Request<ReqBody>,
    pub(crate) pending: Box<Pending>,
    pub(crate) leave: Leave,
    pub(crate) lead: Arc<Lead<ResBody>>,
    /// For all waiting together, however often it begins anew; from the first time on.
    pub(crate) patience: Option<Instant>,
    /// When it gets what is stale instead, if that may stand in.
    pub(crate) soft: Option<Instant>,
    /// Fills of others that it waited for in vain.
    pub(crate) failures: u32,
    /// Its client was answered already, with what is stale.
    pub(crate) is_refresh: bool,
}

/// What becomes of a request that nobody else answers, or of one that is answered.
enum Turn<B: Body> {
    Answered(Response<ResponseBody<B>>),
    /// It calls the inner service and fills, until then at the latest; and why it goes alone.
    Fill(Guard, Instant, Option<Reason>),
    /// It is passed on as it came.
    Pass(Reason),
    /// Each for itself: a layer further in answers.
    PassFurtherIn,
}

/// What waiting for a flight came to.
enum Waited<B: Body> {
    Answered(Box<Response<ResponseBody<B>>>),
    /// Ask again.
    Again,
    Alone(Reason),
    /// It cannot wait, or not any longer, for a service that is slow.
    Slow(Reason),
    /// A layer further in answers each for itself.
    InnerLayer,
}

impl<S, ReqBody, ResBody> Miss<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body,
    ResBody: Body + Send + 'static,
    ResBody::Data: Send,
    ResBody::Error: Send,
{
    /// Its answer; of one that leads already, if there is a guard.
    pub(crate) fn answer(
        self,
        guard: Option<Guard>,
    ) -> impl Future<Output = Answer<ResBody, S::Error>> {
        // What a block captures it holds once, what an `async fn` is given twice.
        let mut this = self;
        async move {
            let turn = match guard {
                Some(guard) => this.lead(guard).await,
                None => this.turn().await,
            };
            match turn {
                Turn::Answered(response) => Ok(response),
                Turn::Fill(mut guard, deadline, why) => {
                    if this.has_validator() {
                        // In a box, for those who have one: it is large.
                        match Box::pin(this.confirm(guard, deadline)).await {
                            Confirmed::Yes(response) => return Ok(*response),
                            Confirmed::No(that, held) => (this, guard) = (*that, held),
                        }
                    }
                    this.begin(guard, deadline, why).await
                }
                Turn::Pass(reason) => Box::pin(this.pass_missed(reason)).await,
                Turn::PassFurtherIn => Box::pin(this.pass_further_in()).await,
            }
        }
    }

    /// What is to be done, when all was waited for that others do.
    async fn turn(&mut self) -> Turn<ResBody> {
        if let Some(reason) = self.pending.alone {
            return self.alone(Some(reason));
        }
        if !self.pending.is_head && self.pending.otherwise != Otherwise::Fill {
            return Box::pin(self.look_only()).await;
        }
        if self.pending.known_slow().is_some() && self.pending.is_marked(Mark::NotRefreshed) {
            // Just now somebody waited in vain.
            if let Some(response) = self.stood_in(Failure::Slow) {
                return Turn::Answered(response);
            }
        }
        for round in 0..MAX_ROUNDS {
            if round > 0 {
                if let Some(hit) = self.pending.look(self.request.headers()) {
                    return Turn::Answered(self.hit(hit));
                }
            }
            if self.pending.is_head {
                let Some(ticket) = self.pending.join_existing(self.request.headers()) else {
                    return Box::pin(self.look_only()).await;
                };
                match self.follow(ticket).await {
                    Waited::Answered(response) => return Turn::Answered(*response),
                    Waited::Again => continue,
                    Waited::Slow(reason) => match self.overflow(reason) {
                        Some(response) => return Turn::Answered(response),
                        None => break,
                    },
                    Waited::Alone(_) | Waited::InnerLayer => break,
                }
            }
            // What memory has is good, should the remote store have it as well.
            let is_marked = |mark| self.pending.local.is_none() && self.pending.is_marked(mark);
            if is_marked(Mark::Uncacheable) || is_marked(Mark::Failing) {
                return self.alone(None);
            }
            if self.pending.is_of_uncacheable_route() {
                // Another node may know better.
                if let Some(response) = Box::pin(self.look_up()).await {
                    return Turn::Answered(response);
                }
                return self.alone(None);
            }
            let waited = match self.pending.join(self.request.headers()) {
                Joined::Lead(guard) => return self.lead(guard).await,
                Joined::Follow(_) if self.pending.known_slow().is_some() => {
                    Waited::Slow(Reason::WaitTimeout)
                }
                Joined::Follow(ticket) => self.follow(ticket).await,
                Joined::Behind(ticket) => self.follow_to_end(ticket).await,
                Joined::Full => Waited::Slow(Reason::TooManyWaiting),
            };
            match waited {
                Waited::Answered(response) => return Turn::Answered(*response),
                Waited::Again => {}
                Waited::Slow(reason) => {
                    return match self.overflow(reason) {
                        Some(response) => Turn::Answered(response),
                        None => self.alone(Some(reason)),
                    };
                }
                Waited::Alone(reason) => return self.alone(Some(reason)),
                Waited::InnerLayer => return Turn::PassFurtherIn,
            }
        }
        if self.pending.is_head {
            return Turn::Pass(Reason::Head);
        }
        self.alone(Some(Reason::NotCollapsed))
    }

    /// What the remote store has, if there is one; asked once for all who look.
    async fn look_up(&mut self) -> Option<Response<ResponseBody<ResBody>>> {
        if !self.pending.may_fetch() {
            return None;
        }
        match self.pending.join_look_up(self.request.headers()) {
            Joined::Lead(guard) => {
                let origin = guard.flight().origin();
                let hit = self.pending.fetch(self.request.headers(), origin).await;
                guard.end(Ending::Look, Vec::new());
                if let Some(hit) = hit {
                    return Some(self.hit(hit));
                }
            }
            Joined::Follow(ticket) | Joined::Behind(ticket) => {
                let end = poll_fn(|cx| ticket.poll_end(cx));
                let deadline = self.pending.remote_until;
                until(deadline.unwrap_or_else(|| after(DEADLINE)), end).await;
            }
            Joined::Full => {}
        }
        if let Some(hit) = self.pending.look(self.request.headers()) {
            return Some(self.hit(hit));
        }
        let hit = self.pending.look_stale(self.request.headers())?;
        Some(self.stale(hit))
    }

    /// For a request that fills nothing: what the remote store has, or it goes its way.
    async fn look_only(&mut self) -> Turn<ResBody> {
        if let Some(response) = self.look_up().await {
            return Turn::Answered(response);
        }
        match self.pending.otherwise {
            Otherwise::Pass(reason) => Turn::Pass(reason),
            Otherwise::Fill => Turn::Pass(Reason::Head),
            Otherwise::Unsatisfied => {
                self.pending.cache.counters().miss();
                let mut response = only_if_cached(self.leave.mode);
                stamp(response.extensions_mut(), self.leave.stamp);
                Turn::Answered(response)
            }
        }
    }

    /// As it came, to the inner service.
    async fn pass_missed(mut self, reason: Reason) -> Answer<ResBody, S::Error> {
        let said = self.pending.said(Some(reason));
        let extensions = self.request.extensions_mut();
        pass(extensions, self.pending.cache.id());
        pass_deadline(extensions, self.pending.remote_until);
        self.pending.cache.counters().miss();
        if self.pending.is_head && self.pending.stored.is_some() {
            return Box::pin(self.pass_head(said)).await;
        }
        self.pass_on(Passed::Missed(said)).await
    }

    /// A HEAD, whose answer says whether what is stored still holds (§4.3.5).
    async fn pass_head(self, said: Forwarded) -> Answer<ResBody, S::Error> {
        let Self {
            inner,
            settings,
            request,
            pending,
            leave,
            ..
        } = self;
        let headers = request.headers().clone();
        let started = Started {
            at: pending.cache.now(),
            deadline: after(settings.fill_timeout),
        };
        let origin = pending.origin();
        let mut response = Oneshot::new(inner, reduced(&settings, request)).await?;
        hear(&settings, &mut response);
        if !is_stamped(response.extensions(), pending.cache.id()) {
            hear_head(&settings, &pending, &headers, &response, started, origin);
        }
        Ok(pass_on(response, Passed::Missed(said), leave, &settings))
    }

    fn hit(&self, hit: Hit) -> Response<ResponseBody<ResBody>> {
        if !self.is_refresh {
            self.pending.cache.counters().hit();
        }
        let (mode, is_head) = (self.leave.mode, self.pending.is_head);
        let mut response = match self.pending.is_selective {
            false => hit.into_response(mode, is_head),
            true => hit.into_selected(mode, is_head, self.request.headers()),
        };
        stamp(response.extensions_mut(), self.leave.stamp);
        response
    }

    /// An answer that is stale, and may be; whoever asks so brings no newer one.
    fn stale(&self, hit: Hit) -> Response<ResponseBody<ResBody>> {
        self.pending.cache.counters().stale();
        let request = self.request.headers();
        let selective = self.pending.is_selective.then_some(request);
        let mut response = hit.into_stale(self.leave.mode, self.pending.is_head, selective);
        stamp(response.extensions_mut(), self.leave.stamp);
        response
    }

    // ---- waiting for somebody else's fill ----

    /// The answer of one who cannot wait, or not any longer: rather stale than one more on a service
    /// that is slow; `None` if it goes alone.
    fn overflow(&self, reason: Reason) -> Option<Response<ResponseBody<ResBody>>> {
        if let Some(response) = self.stood_in(Failure::Slow) {
            return Some(response);
        }
        let Overflow::Unavailable { retry_after } = self.settings.overflow else {
            return None;
        };
        let counters = self.pending.cache.counters();
        counters.miss();
        counters.turned_away();
        let mut response = unavailable(reason, retry_after, self.leave.mode);
        stamp(response.extensions_mut(), self.leave.stamp);
        Some(response)
    }

    /// Until when it waits for others.
    fn patience(&mut self) -> Instant {
        let timeout = self.settings.wait_timeout;
        *self.patience.get_or_insert_with(|| after(timeout))
    }

    async fn follow(&mut self, ticket: Ticket) -> Waited<ResBody> {
        let patience = self.patience();
        if let Some(soft) = self.soft.filter(|soft| *soft < patience) {
            let head = poll_fn(|cx| ticket.poll_head(cx).map(drop));
            if until(soft, head).await.is_none() {
                if let Some(response) = self.stood_in(Failure::Slow) {
                    return Waited::Answered(Box::new(response));
                }
            }
        }
        let head = poll_fn(|cx| ticket.poll_head(cx));
        let Some(outcome) = until(patience, head).await else {
            return Waited::Slow(Reason::WaitTimeout);
        };
        let (shared, entry) = match outcome {
            Outcome::Streaming(shared) => (shared, None),
            Outcome::Open(shared) => (shared, None),
            Outcome::Complete(shared, entry) => (shared, Some(entry)),
            Outcome::Ended(ending) => return self.after(ending),
        };
        if !self.pending.may_get(ticket.flight(), Some(&shared.head)) {
            // An invalidation came before the request and after the fill began, by a tag that only the
            // head has told: whoever came so late shares a newer flight.
            if !shared.rule.is_empty() {
                self.pending.rule = Some(shared.rule.clone());
            }
            // Unless its handler made it from something older, which the next call may do as well.
            let is_made_of_old = shared.read_at.is_some_and(|at| self.pending.is_outrun(at));
            return match is_made_of_old {
                true => self.once_more(Reason::NotCollapsed),
                false => Waited::Again,
            };
        }
        if !shared.rule.is_empty() && shared.values != shared.rule.values(self.request.headers()) {
            // Those who want another variant regroup, a flight for each.
            self.pending.rule = Some(shared.rule.clone());
            self.pending.forward = Forward::VaryMiss;
            return Waited::Again;
        }
        if shared.place.is_some()
            && shared.place != self.pending.searched_key_of(&shared.head.headers)
        {
            // Its rule is not the one by which the queries were thought to be the same.
            return Waited::Alone(Reason::NotCollapsed);
        }
        if !may_answer(&shared.head, self.pending.personal) {
            return Waited::Alone(self.pending.personal.unwrap_or(Reason::NotShareable));
        }
        if entry.is_some() || shared.length.is_some() || self.pending.is_head {
            return Waited::Answered(Box::new(self.share(&ticket, &shared, entry.as_deref())));
        }
        let end = poll_fn(|cx| ticket.poll_end(cx));
        match within(OPEN_BODY_WAIT, end).await {
            Some(Outcome::Complete(shared, entry)) => {
                Waited::Answered(Box::new(self.share(&ticket, &shared, Some(&entry))))
            }
            Some(Outcome::Ended(ending)) => self.after(ending),
            Some(_) => Waited::Alone(Reason::InnerError),
            None => Waited::Alone(Reason::WaitTimeout),
        }
    }

    /// What becomes of one who waited for a fill that ended with nothing to share. After a failure: a
    /// stale response where one may stand in, else one of those who wait leads again, and after a second
    /// failure each goes alone.
    fn after(&mut self, ending: Ending) -> Waited<ResBody> {
        let failure = match ending {
            Ending::Look => {
                self.pending.learn_rule();
                return Waited::Again;
            }
            Ending::Refused(reason) => return Waited::Alone(reason),
            Ending::InnerLayer => return Waited::InnerLayer,
            Ending::ServerError(status) => Some(Failure::Status(status)),
            Ending::Failed => Some(Failure::Error),
            Ending::Expired => Some(Failure::Slow),
            // Its head was there: that it breaks off is no reason for what is stale.
            Ending::Broken(Reason::BodyError | Reason::BodyLength) => None,
            Ending::Broken(_) => return Waited::Alone(Reason::InnerError),
            // Nothing failed but the patience of a client.
            Ending::Left => None,
        };
        if let Some(response) = failure.and_then(|failure| self.stood_in(failure)) {
            return Waited::Answered(Box::new(response));
        }
        self.once_more(Reason::InnerError)
    }

    /// Another fill may do better; one after the other would be a chain.
    fn once_more(&mut self, reason: Reason) -> Waited<ResBody> {
        self.failures += 1;
        if self.failures < 2 {
            return Waited::Again;
        }
        let (cache, mark) = (&self.pending.cache, self.pending.mark);
        cache.marks().set(Mark::Failing, mark, cache.now());
        Waited::Alone(reason)
    }

    /// Waits until a fill is over that started before a request that wants a newer one.
    async fn follow_to_end(&mut self, ticket: Ticket) -> Waited<ResBody> {
        let end = poll_fn(|cx| ticket.poll_end(cx));
        match until(self.patience(), end).await {
            Some(_) => Waited::Again,
            None => Waited::Slow(Reason::WaitTimeout),
        }
    }

    /// What is stored, in place of what failed, for one who waited.
    fn stood_in(&self, failure: Failure) -> Option<Response<ResponseBody<ResBody>>> {
        let request = self.request.headers();
        let response = standing_in(&self.pending, failure, request, self.leave)?;
        // Whoever calls the inner service is counted there.
        self.pending.cache.counters().miss();
        Some(response)
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
        let head = entry.map_or(&*shared.head, |entry| &*entry.head);
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
            respond(
                head,
                head_only(head, headers, length),
                ResponseBody::empty(),
            )
        } else {
            let body = match entry {
                Some(entry) => ResponseBody::stored(entry.body.clone()),
                None => ResponseBody::shared(ticket.flight().reader(), length),
            };
            respond(head, headers, body)
        };
        stamp(response.extensions_mut(), self.leave.stamp);
        match self.pending.is_selective {
            true => judged(response, self.request.headers()),
            false => response,
        }
    }
}
