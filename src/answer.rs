//! Answers from the store: whether a stored response may be reused, and what it looks like then.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    mem,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
        CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED, RETRY_AFTER,
    },
};
use http_body::Body;

use crate::{
    admission::Lookup,
    body::ResponseBody,
    cache::Cache,
    entry::{Entry, Millis, StoredHead},
    headers::{Forwarded, StatusHeaders, fill_slots, say_forwarded, say_stale},
    policy::{self, Reuse, Selected, has_not_changed, is_not_modified, select},
    status::{Forward, Reason},
};

/// What a stored response is to a request now (§4).
#[inline]
pub(crate) fn reuse(cache: &Cache, entry: &Entry, lookup: &Lookup<'_>, now: Millis) -> Reuse {
    let head = &*entry.head;
    let is_plain =
        !lookup.is_demanding && head.lifetime.is_fresh(now) && entry.is_checked(cache.log());
    let reuse = match is_plain {
        true => Reuse::Fresh,
        false => judged_reuse(cache, entry, lookup, now),
    };
    match reuse {
        Reuse::No(forward) => Reuse::No(forward),
        _ if !may_answer(head, lookup.personal) => Reuse::No(Forward::Bypass),
        reuse => reuse,
    }
}

#[cold]
fn judged_reuse(cache: &Cache, entry: &Entry, lookup: &Lookup<'_>, now: Millis) -> Reuse {
    match entry.lifetime(cache.log()) {
        Some(lifetime) => policy::reuse(&lifetime, &entry.head.staleness, &lookup.directives, now),
        None => Reuse::No(Forward::Stale),
    }
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
        let age = head.lifetime.age(self.now);
        let ttl = self.entry.ttl_at(self.now, age);
        fill_slots(&mut headers, head.status_slot, age / 1000, ttl, mode);
        let body = self.entry.body.clone();
        if is_head {
            let headers = head_only(head, headers, Some(body.len() as u64));
            return respond(head, headers, ResponseBody::empty());
        }
        respond(head, headers, ResponseBody::stored(body))
    }
}

impl Hit {
    /// The answer to a request with these fields: all of it, or what its conditions and range come
    /// to where it has any.
    #[cold]
    pub(crate) fn into_stale<B: Body>(
        self,
        mode: StatusHeaders,
        is_head: bool,
        selective: Option<&HeaderMap>,
    ) -> Response<ResponseBody<B>> {
        let mut response = match selective {
            None => self.into_response(mode, is_head),
            Some(request) => self.into_selected(mode, is_head, request),
        };
        say_stale(response.headers_mut());
        response
    }

    /// The answer to a request with conditions or a range: 304, a part, or all of it.
    #[cold]
    pub(crate) fn into_selected<B: Body>(
        self,
        mode: StatusHeaders,
        is_head: bool,
        request: &HeaderMap,
    ) -> Response<ResponseBody<B>> {
        let entry = self.entry.clone();
        let (stored, body) = (&entry.head.headers, &entry.body);
        let mut response = self.into_response(mode, is_head);
        // RFC 9110, 13.2.1: of what is no success nobody has anything.
        if entry.head.status.is_success() && is_not_modified(request, stored) {
            return not_modified(response);
        }
        // RFC 9110, 14.2: a range is one of a 200 to a GET.
        if is_head || entry.head.status != StatusCode::OK {
            return response;
        }
        match select(request, stored, body.len()) {
            Selected::Whole => response,
            Selected::Unsatisfiable => {
                let headers = response.headers_mut();
                without_representation(headers);
                without_freshness(headers);
                headers.insert(CONTENT_RANGE, value(format!("bytes */{}", body.len())));
                replaced(response, StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new())
            }
            Selected::Parts(parts) => {
                let headers = response.headers_mut();
                for name in OF_CONTENT {
                    headers.remove(name);
                }
                let part = match parts.as_slice() {
                    [part] => {
                        headers.insert(CONTENT_RANGE, content_range(part, body.len()));
                        body.slice(part.clone())
                    }
                    parts => {
                        let kind = headers.remove(CONTENT_TYPE);
                        let (boundary, parts) = multipart(parts, kind.as_ref(), body);
                        let kind = format!("multipart/byteranges; boundary={boundary}");
                        headers.insert(CONTENT_TYPE, value(kind));
                        parts
                    }
                };
                headers.insert(CONTENT_LENGTH, part.len().into());
                replaced(response, StatusCode::PARTIAL_CONTENT, part)
            }
        }
    }
}

/// What an answer comes to for those conditions that its request was sent on without.
pub(crate) fn judged<B: Body>(
    response: Response<ResponseBody<B>>,
    request: &HeaderMap,
) -> Response<ResponseBody<B>> {
    match response.status().is_success() && has_not_changed(request, response.headers()) {
        true => not_modified(response),
        false => response,
    }
}

/// An answer without what the client has already.
fn not_modified<B: Body>(mut response: Response<ResponseBody<B>>) -> Response<ResponseBody<B>> {
    let headers = response.headers_mut();
    without_representation(headers);
    if headers.contains_key(ETAG) {
        // RFC 9110, 15.4.5: of use only to those who have nothing better.
        headers.remove(LAST_MODIFIED);
    }
    replaced(response, StatusCode::NOT_MODIFIED, Bytes::new())
}

/// Fields about the bytes that are sent, not about what they are a part of (RFC 9530, 2).
const OF_CONTENT: [HeaderName; 3] = [
    CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
];

/// Takes out what describes a representation that is not sent (RFC 9110, 8 and 15.4.5).
fn without_representation(headers: &mut HeaderMap) {
    for name in [
        CONTENT_TYPE,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_RANGE,
        HeaderName::from_static("repr-digest"),
        HeaderName::from_static("digest"),
    ] {
        headers.remove(name);
    }
    for name in OF_CONTENT {
        headers.remove(name);
    }
}

/// Takes out by what somebody could store an answer that is not that of its URI.
fn without_freshness(headers: &mut HeaderMap) {
    let targeted: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().ends_with("cache-control"))
        .cloned()
        .collect();
    for name in targeted {
        headers.remove(name);
    }
    for name in [
        EXPIRES,
        ETAG,
        LAST_MODIFIED,
        CONTENT_LOCATION,
        HeaderName::from_static("surrogate-control"),
    ] {
        headers.remove(name);
    }
}

fn replaced<B: Body>(
    mut response: Response<ResponseBody<B>>,
    status: StatusCode,
    body: Bytes,
) -> Response<ResponseBody<B>> {
    *response.status_mut() = status;
    response.map(|_| match body.is_empty() {
        true => ResponseBody::empty(),
        false => ResponseBody::stored(body),
    })
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits, letters and a few signs")
}

fn content_range(part: &Range<usize>, length: usize) -> HeaderValue {
    // No part is empty.
    value(format!("bytes {}-{}/{length}", part.start, part.end - 1))
}

/// Several parts as one body (RFC 9110, 14.6), and the boundary between them.
fn multipart(parts: &[Range<usize>], kind: Option<&HeaderValue>, body: &Bytes) -> (String, Bytes) {
    let mut boundary = String::new();
    // Random, so that no body can hold it on purpose; and looked for all the same.
    while boundary.is_empty()
        || body
            .windows(boundary.len())
            .any(|w| w == boundary.as_bytes())
    {
        boundary = format!("{:016x}", RandomState::new().build_hasher().finish());
    }
    let mut out = BytesMut::new();
    for part in parts {
        out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        if let Some(kind) = kind {
            out.extend_from_slice(b"Content-Type: ");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"Content-Range: ");
        out.extend_from_slice(content_range(part, body.len()).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&body[part.clone()]);
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (boundary, out.freeze())
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
    // What was there is an empty map, which owns nothing: to drop it would cost fifty instructions.
    mem::forget(mem::replace(response.headers_mut(), headers));
    response
}

/// To a request that cannot wait for somebody else's fill (RFC 9110, 15.6.4 and 10.2.3).
pub(crate) fn unavailable<B: Body>(
    reason: Reason,
    retry_after: Duration,
    mode: StatusHeaders,
) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    // Whole seconds, and not too early.
    let part = u64::from(retry_after.subsec_nanos() > 0);
    let seconds = retry_after.as_secs().saturating_add(part);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, seconds.into());
    let said = Forwarded {
        forward: None,
        status: None,
        stored: false,
        collapsed: false,
        ttl: None,
        detail: Some(reason),
    };
    say_forwarded(headers, said, mode);
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
        ttl: None,
        detail: Some(Reason::OnlyIfCached),
    };
    say_forwarded(response.headers_mut(), said, mode);
    response
}
