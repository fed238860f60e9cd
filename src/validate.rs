//! What is stored, and the inner service: whether it still holds
//! ([RFC 9111, section 4.3](https://www.rfc-editor.org/rfc/rfc9111#section-4.3)), and where it stands in
//! for a failure (4.2.4; RFC 5861, 4).
//!
//! What is asked and what an answer means is decided in `policy/validation.rs` and
//! `policy/reuse.rs`; here is what follows from it.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{AGE, ETAG},
    response::Parts,
};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    answer::respond,
    body::ResponseBody,
    cache::{Cache, Placement},
    dependencies::Dependency,
    entry::{Entry, Origin, StoredHead},
    field_values::age_value,
    flight::{Ending, Guard, Shared},
    future::Leave,
    headers::{Forwarded, say_forwarded, say_hit, say_standing_in},
    judge::{Judged, Started, judge},
    key::Key,
    marks::Mark,
    nesting::stamp,
    pending::Pending,
    policy::{CachePolicy, Failure, Tags, is_same_by_head, says_tags, speaks_of, updated},
    settings::{Settings, Validator},
    status::Reason,
    store::codec::MAX_TEXT,
    stored_head::without_own,
    timer::{after, until},
};

/// How long the validator of a layer may take before it has said nothing.
const VALIDATOR_WAIT: Duration = Duration::from_secs(1);

/// What is stored, in place of what failed; if it may.
pub(crate) fn standing_in<B: Body>(
    pending: &Pending,
    failure: Failure,
    request: &HeaderMap,
    leave: Leave,
) -> Option<Response<ResponseBody<B>>> {
    let hit = pending.stand_in(failure)?;
    if failure == Failure::Slow {
        // Those who come next do not wait as long.
        pending.cache.marks().set(Mark::Slow, pending.mark, hit.now);
    }
    let status = match failure {
        Failure::Status(status) => Some(status.as_u16()),
        Failure::Error | Failure::Slow => None,
    };
    pending.cache.counters().stale();
    let said = Forwarded {
        status,
        ttl: Some(hit.entry.ttl(hit.now)),
        ..pending.said(Some(Reason::InnerError))
    };
    let selective = pending.is_selective.then_some(request);
    let mut response = hit.into_stale(leave.mode, pending.is_head, selective);
    say_standing_in(response.headers_mut(), said, leave.mode);
    stamp(response.extensions_mut(), leave.stamp);
    Some(response)
}

/// What the validator of a layer says to a request, if it says so in time.
pub(crate) async fn version<R>(
    validator: &Validator,
    request: Request<R>,
    deadline: Instant,
) -> (Request<R>, Option<Box<str>>) {
    let (head, body) = request.into_parts();
    let asked = validator(&head);
    // What hangs must not keep those waiting who would be answered without it.
    let said = until(deadline.min(after(VALIDATOR_WAIT)), asked)
        .await
        .flatten();
    let said = said.filter(|said| !said.is_empty() && said.len() <= MAX_TEXT);
    (Request::from_parts(head, body), said.map(Into::into))
}

/// The stored response, which an answer without content says is still good; unstored, and as it was.
pub(crate) fn confirmed_once<B: Body>(
    pending: &Pending,
    answer: Parts,
    stored: &Entry,
    leave: Leave,
) -> Response<ResponseBody<B>> {
    let said = Forwarded {
        status: Some(answer.status.as_u16()),
        ..pending.said(None)
    };
    let age = stored.head.lifetime.age(pending.cache.now()) / 1000;
    let mut head = updated_head(stored, answer, false);
    head.headers.insert(AGE, age_value(age));
    let body = ResponseBody::stored(stored.body.clone());
    let mut response = respond(&stored.head, head.headers, body);
    *response.extensions_mut() = head.extensions;
    say_forwarded(response.headers_mut(), said, leave.mode);
    response
}

/// Those who wait get nothing of a response that answers nobody before it was validated; it is
/// stored all the same.
pub(crate) fn unshared(
    cache: &Cache,
    guard: Guard,
    reason: Reason,
    shared: &Shared,
    mark: u64,
) -> Guard {
    let origin = guard.flight().origin();
    if shared.head.staleness.while_revalidate == 0 {
        // The next who come each ask for themselves.
        cache.marks().set(Mark::Uncacheable, mark, cache.now());
    }
    guard.end(Ending::Refused(reason), Vec::new());
    Guard::alone(origin, Instant::now().into_std())
}

/// A request that asked whether a stored response still holds.
pub(crate) struct Asked<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) pending: Pending,
    /// The fields that the client sent.
    pub(crate) request: HeaderMap,
    pub(crate) started: Started,
    pub(crate) said: Forwarded,
    pub(crate) leave: Leave,
}

impl Asked<'_> {
    /// The stored response, which the layer's own validator says is still good: as if the inner service
    /// had said so, and a hit for whoever asked.
    pub(crate) fn confirmed<B: Body>(
        self,
        guard: Guard,
        stored: Arc<Entry>,
    ) -> Response<ResponseBody<B>> {
        let mode = self.leave.mode;
        let (answer, ()) = Response::new(()).into_parts();
        let (mut response, ttl) = self.freshened(guard, answer, stored);
        say_hit(response.headers_mut(), ttl, mode);
        response
    }

    /// §4.3.3, §4.3.4: the stored response, updated by this answer and stored so.
    pub(crate) fn not_modified<B: Body>(
        self,
        guard: Guard,
        answer: Parts,
        stored: Arc<Entry>,
    ) -> Response<ResponseBody<B>> {
        self.freshened(guard, answer, stored).0
    }

    /// The same, and for how many seconds it is fresh now.
    fn freshened<B: Body>(
        self,
        guard: Guard,
        answer: Parts,
        stored: Arc<Entry>,
    ) -> (Response<ResponseBody<B>>, i64) {
        let Self {
            settings,
            pending,
            request,
            started,
            mut said,
            leave,
        } = self;
        let cache = pending.cache.clone();
        cache.counters().validated();
        let is_of_it = speaks_of(&answer.headers, &without_own(&stored.head));
        let mut head = updated_head(&stored, answer, is_of_it);
        if !is_of_it {
            let age = stored.head.lifetime.age(cache.now()) / 1000;
            head.headers.insert(AGE, age_value(age));
        }
        let length = Some(stored.body.len() as u64);
        let judged = match is_of_it {
            true => judge(settings, &pending, &request, &mut head, length, started),
            // What was asked for still holds, but nobody knows how: it answers this once.
            false => Judged::Refuse(Reason::Status),
        };
        let mut ttl = 0;
        match judged {
            Judged::Share(shared, true) => {
                ttl = shared.head.lifetime.ttl(cache.now());
                if let Some(sequence) = shared.read_at {
                    guard.flight().lower_to(sequence);
                }
                let origin = guard.flight().origin();
                let updated = with_tag_of(&stored.head, &shared.head, &mut head.headers);
                let now = cache.now();
                let cost = now.saturating_sub(started.at);
                let entry = Entry::new(updated, stored.body.clone(), origin).with_cost(cost);
                let entry = Arc::new(entry);
                let (rule, unfit, mark) = (shared.rule.clone(), shared.unfit, pending.mark);
                let key = pending.key_of(&head.headers);
                pending.make_way(&key);
                let place = placement(&pending, key, request);
                cache.store(&place, &rule, entry.clone(), now);
                match unfit {
                    None => guard.complete(shared, entry, Vec::new()),
                    Some(reason) => drop(unshared(&cache, guard, reason, &shared, mark)),
                }
                said.stored = true;
                said.detail = unfit.or(said.detail);
            }
            Judged::Share(_, false) | Judged::Refuse(_) => {
                let reason = match judged {
                    Judged::Refuse(reason) => reason,
                    Judged::Share(..) => Reason::Status,
                };
                pending.forget(reason, StatusCode::OK);
                let mark = pending.personal.is_none().then_some(pending.mark);
                cache.refuse(reason, mark.filter(|_| is_of_it));
                guard.end(Ending::Refused(reason), Vec::new());
                said.detail = Some(reason);
            }
        }
        let mut response = respond(
            &stored.head,
            head.headers,
            ResponseBody::stored(stored.body.clone()),
        );
        *response.extensions_mut() = head.extensions;
        say_forwarded(response.headers_mut(), said, leave.mode);
        stamp(response.extensions_mut(), leave.stamp);
        (response, ttl)
    }
}

/// A stored head as a response again, with the fields and extensions of an answer without content.
fn updated_head(stored: &Entry, answer: Parts, is_of_it: bool) -> Parts {
    let head = &*stored.head;
    let own = without_own(head);
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = head.status;
    parts.version = head.version;
    parts.headers = match is_of_it {
        true => updated(&own, &answer.headers),
        false => own,
    };
    parts.extensions = answer.extensions;
    if is_of_it && parts.extensions.get::<CachePolicy>().is_none() {
        let ttl = head.said.ttl.map(Duration::from_millis);
        if let Some(said) = CachePolicy::said_before(ttl, head.said.public) {
            parts.extensions.insert(said);
        }
    }
    // The body is what it was made from, whatever else is said of it now.
    let says = says_tags(&parts.extensions);
    let kept = head
        .tags
        .iter()
        .filter(|tag| !says || Dependency::of(tag).is_some());
    let kept: Vec<String> = kept.map(ToString::to_string).collect();
    if !says || !kept.is_empty() {
        let tags = parts.extensions.get_or_insert_default::<Tags>();
        tags.join(Tags::new(kept));
    }
    parts
}

/// An updated head with the entity tag that was made for the stored one: the body is the same. The
/// answer gets it, too.
fn with_tag_of(
    stored: &StoredHead,
    updated: &Arc<StoredHead>,
    answer: &mut HeaderMap,
) -> Arc<StoredHead> {
    let tag = stored.headers.get(ETAG).filter(|_| stored.own_tag);
    let Some(tag) = tag.filter(|_| !updated.headers.contains_key(ETAG)) else {
        return updated.clone();
    };
    answer.insert(ETAG, tag.clone());
    let mut updated = StoredHead::clone(updated);
    updated.headers.insert(ETAG, tag.clone());
    updated.own_tag = true;
    Arc::new(updated)
}

fn placement(pending: &Pending, key: Key, request: HeaderMap) -> Placement {
    Placement {
        key,
        lease: pending.lease.clone(),
        path: pending.path.clone(),
        request,
        mark: pending.mark,
        is_personal: pending.personal.is_some(),
    }
}

/// §4.3.5: the answer to a HEAD updates the stored response to a GET, or says that it is not that any
/// more.
pub(crate) fn hear_head<B>(
    settings: &Settings,
    pending: &Pending,
    request: &HeaderMap,
    answer: &Response<B>,
    started: Started,
    origin: Origin,
) {
    // What one person is told says nothing about the others; and an invalidation may have come.
    let candidate = pending
        .stored
        .as_ref()
        .filter(|stored| pending.is_candidate(stored));
    let Some(stored) = candidate.filter(|_| pending.personal.is_none()) else {
        return;
    };
    let cache = &pending.cache;
    if answer.status() != StatusCode::OK || stored.head.status != StatusCode::OK {
        return;
    }
    let length = stored.body.len() as u64;
    match is_same_by_head(answer.headers(), &stored.head.headers, length) {
        None => return,
        Some(false) => return pending.remove(stored),
        Some(true) => {}
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.headers = answer.headers().clone();
    parts.extensions = answer.extensions().clone();
    let mut head = updated_head(stored, parts, true);
    let judged = judge(settings, pending, request, &mut head, Some(length), started);
    let shared = match judged {
        Judged::Share(shared, true) => shared,
        Judged::Refuse(Reason::FillTimeout) => return,
        Judged::Share(..) | Judged::Refuse(_) => return pending.remove(stored),
    };
    let updated = with_tag_of(&stored.head, &shared.head, &mut head.headers);
    let origin = origin.read_at(shared.read_at);
    let entry = Entry::new(updated, stored.body.clone(), origin).with_cost(stored.cost);
    let entry = Arc::new(entry);
    let place = placement(pending, pending.key_of(&head.headers), request.clone());
    cache.store(&place, &shared.rule, entry, cache.now());
}
