//! Answers from the store: whether a stored response may be reused, and what it looks like then.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Body;

use crate::{
    admission::Lookup,
    body::ResponseBody,
    cache::Cache,
    entry::{Entry, Millis, StoredHead},
    headers::{Forwarded, StatusHeaders, fill_slots, say_forwarded},
    status::{Forward, Reason},
};

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
            let headers = head_only(head, headers, Some(body.len() as u64));
            return respond(head, headers, ResponseBody::empty());
        }
        respond(head, headers, ResponseBody::stored(body))
    }
}

/// The fields of a GET for a HEAD: how long the body would be is said if it is known (RFC 9110,
/// 8.6).
pub(crate) fn head_only(
    head: &StoredHead,
    mut headers: HeaderMap,
    length: Option<u64>,
) -> HeaderMap {
    // RFC 9110, 8.6: not where there can be no content.
    let has_content = !matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if let Some(length) = length.filter(|_| has_content) {
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
pub(crate) fn only_if_cached<B: Body>(mode: StatusHeaders) -> Response<ResponseBody<B>> {
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
