//! A request for what is known not to be storable: it is passed on, and costs little more than one
//! that the cache has nothing to do with.
//!
//! The head of its response is judged on the way out. As long as that may not be stored, what is known
//! goes on; the first that may lifts it and is not stored itself: the next request fills.

use http::{HeaderMap, Response, response};
use http_body::Body;

use crate::{
    admission::Lookup,
    cache::Cache,
    entry::Millis,
    future::Leave,
    headers::{Forwarded, say_forwarded},
    judge::{Exchange, weigh},
    marks::{Mark, Storability},
    nesting::{is_stamped, stamp},
    pending::Remembered,
    policy::refused_at_once,
    settings::Settings,
    status::{Forward, Reason},
};

/// What is remembered of the key of such a request, and of its route.
pub(crate) struct Uncacheable {
    cache: Cache,
    mark: u64,
    route: Option<u64>,
    /// What is known of them is to be told anew, or it would be forgotten.
    is_due: bool,
    /// It was counted, and has no answer.
    is_unanswered: bool,
}

impl Uncacheable {
    /// What is known of a request for which memory has nothing; `None` where it has to go the way of
    /// all others.
    pub(crate) fn known(
        settings: &Settings,
        lookup: &Lookup<'_>,
        remembered: Remembered,
        now: Millis,
    ) -> Option<Self> {
        let is_plain = !lookup.is_head
            && !lookup.is_selective()
            && !lookup.is_demanding
            && lookup.personal.is_none()
            && lookup.search.is_none()
            && lookup.parts.content.is_none();
        if !is_plain || settings.validator.is_some() {
            return None;
        }
        let cache = &settings.cache;
        let Remembered { key: mark, route } = remembered;
        let known = cache.marks().storability(mark, route.unwrap_or(mark), now);
        let is_due = match known {
            Storability::NoneByHead { is_due } => is_due,
            Storability::Unknown => {
                // Of a key that is cold another node may know better.
                let may_ask = || !settings.has_own_entries() && cache.remote().is_some();
                let is_of_route = |route| cache.routes().is_uncacheable(route, now) && !may_ask();
                if !route.is_some_and(is_of_route) {
                    return None;
                }
                true
            }
            Storability::Otherwise => return None,
        };
        Some(Self {
            cache: cache.clone(),
            mark,
            route,
            is_due,
            is_unanswered: false,
        })
    }

    /// It is counted as what it is: a call that could fill the store.
    pub(crate) fn begin(&mut self) {
        self.is_unanswered = true;
        let counters = self.cache.counters();
        counters.miss();
        counters.fill();
    }

    /// Its response, with what is to be said of it.
    pub(crate) fn answered<B: Body>(
        mut self,
        settings: &Settings,
        leave: Leave,
        mut response: Response<B>,
    ) -> Response<B> {
        self.is_unanswered = false;
        let cache = &self.cache;
        if is_stamped(response.extensions(), cache.id()) {
            let route = self.route.unwrap_or(self.mark);
            cache.marks().set(Mark::InnerLayer, route, cache.now());
            return response;
        }
        let detail = match self.refused_again(settings, &response) {
            Some(reason) => Some(reason),
            None => {
                let (head, body) = response.into_parts();
                let detail = self.judge(settings, &head, body.size_hint().exact());
                response = Response::from_parts(head, body);
                detail
            }
        };
        let said = Forwarded {
            forward: Some(Forward::UriMiss),
            status: Some(response.status().as_u16()),
            stored: false,
            collapsed: false,
            ttl: None,
            detail,
        };
        say_forwarded(response.headers_mut(), said, leave.mode);
        stamp(response.extensions_mut(), leave.stamp);
        response
    }

    /// Why it is not stored, where that is seen at once and nothing has to be told anew.
    fn refused_again<B>(&self, settings: &Settings, response: &Response<B>) -> Option<Reason> {
        if self.is_due {
            return None;
        }
        let reason = refused_at_once(&settings.storing, response.status(), response.headers())?;
        self.cache.counters().refusal(reason);
        Some(reason)
    }

    /// Why it is not stored; `None` where the next may be.
    fn judge(
        &self,
        settings: &Settings,
        head: &response::Parts,
        exact: Option<u64>,
    ) -> Option<Reason> {
        let cache = &self.cache;
        let now = cache.clock().wall();
        let exchange = Exchange {
            request: &HeaderMap::new(),
            authorization: false,
            personal: None,
            times: [now, now],
        };
        match weigh(settings, &exchange, head, exact) {
            Err(reason) if head.status.is_server_error() => {
                cache.counters().refusal(reason);
                Some(reason)
            }
            Err(reason) => {
                cache.refuse_head(reason, head.status, true, self.mark, self.route);
                Some(reason)
            }
            Ok(weighed) if weighed.is_stored => {
                cache.marks().lift_uncacheable(self.mark);
                if let Some(route) = self.route {
                    cache.routes().storable(route);
                }
                None
            }
            // A failure says nothing of what is made otherwise.
            Ok(_) => Some(Reason::Status),
        }
    }
}

impl Drop for Uncacheable {
    fn drop(&mut self) {
        if self.is_unanswered {
            self.cache.counters().failed_fill();
        }
    }
}
