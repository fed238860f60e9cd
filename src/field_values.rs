//! Field values that are written once and cloned ever after, without a reference count.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{OnceLock, PoisonError, RwLock},
    time::SystemTime,
};

use bytes::BytesMut;
use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue};

use crate::status::{Forward, Reason};

/// The name under which the cache speaks in `Cache-Status`.
pub(crate) const NAME: &str = "tower-response-cache";

/// Now as an HTTP date.
pub(crate) fn date_value(now: SystemTime) -> HeaderValue {
    HeaderValue::try_from(httpdate::fmt_http_date(now)).expect("an HTTP date is visible ASCII")
}

/// How long such a date is (RFC 9110, 5.6.7).
pub(crate) const DATE_LENGTH: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();

/// The same behind what is in `out`; each thread makes it once a second.
pub(crate) fn write_date(now: SystemTime, out: &mut BytesMut) {
    thread_local! {
        static LAST: RefCell<(Option<u64>, String)> = const { RefCell::new((None, String::new())) };
    }
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since.ok().map(|since| since.as_secs());
    LAST.with_borrow_mut(|(written, text)| {
        if second.is_none() || *written != second {
            *text = httpdate::fmt_http_date(now);
            *written = second;
        }
        out.extend_from_slice(text.as_bytes());
    });
}

/// Values that are the same on thousands of responses live once, for ever: cloning them on a hit
/// touches no reference count. The table is bounded, and only fields with few values take part.
///
/// No sensitive ones: what is kept here is not.
pub(crate) fn interned(name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
    static TABLE: OnceLock<Table> = OnceLock::new();
    interned_in(TABLE.get_or_init(RwLock::default), name, value)
}

/// By their bytes, so that what is found needs no second look at them.
type Table = RwLock<HashMap<&'static [u8], HeaderValue, RandomState>>;

/// Compared as text, which is a jump to those of the same length.
fn is_of_few_values(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-type"
            | "cache-control"
            | "vary"
            | "content-encoding"
            | "content-language"
            | "server"
            | "via"
            | "accept-ranges"
            | "alt-svc"
            | "access-control-allow-credentials"
            | "access-control-allow-headers"
            | "access-control-allow-methods"
            | "access-control-allow-origin"
            | "access-control-expose-headers"
            | "content-security-policy"
            | "referrer-policy"
            | "strict-transport-security"
            | "x-content-type-options"
            | "x-frame-options"
    )
}

fn interned_in(table: &Table, name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
    const MAX_VALUES: usize = 512;
    const MAX_LENGTH: usize = 96;

    if value.len() > MAX_LENGTH || !is_of_few_values(name) {
        return None;
    }
    if let Some(known) = table
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(value)
    {
        return Some(known.clone());
    }
    let parsed = HeaderValue::from_bytes(value).ok()?;
    let text = parsed.to_str().ok()?;
    let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = table.get(value) {
        return Some(known.clone());
    }
    if table.len() >= MAX_VALUES {
        return None;
    }
    let kept: &'static str = Box::leak(text.into());
    let known = HeaderValue::from_static(kept);
    table.insert(kept.as_bytes(), known.clone());
    Some(known)
}

/// Small numbers are written once; most ages and lifetimes are below an hour.
const SMALL: usize = 3601;

#[inline]
pub(crate) fn age_value(seconds: u64) -> HeaderValue {
    static TABLE: [OnceLock<HeaderValue>; SMALL] = [const { OnceLock::new() }; SMALL];
    let write = || HeaderValue::from(seconds);
    match TABLE.get(usize::try_from(seconds).unwrap_or(usize::MAX)) {
        Some(known) => known.get_or_init(|| permanent(seconds.to_string())).clone(),
        None => write(),
    }
}

#[inline]
pub(crate) fn hit_value(ttl: i64) -> HeaderValue {
    static TABLE: [OnceLock<HeaderValue>; SMALL] = [const { OnceLock::new() }; SMALL];
    let text = || format!("{NAME}; hit; ttl={ttl}");
    match TABLE.get(usize::try_from(ttl).unwrap_or(usize::MAX)) {
        Some(known) => known.get_or_init(|| permanent(text())).clone(),
        None => HeaderValue::try_from(text()).expect("a name and a number"),
    }
}

/// What `Cache-Status` says of a response that was stored and was a 200; `text` writes it.
pub(crate) fn stored_value(forward: Forward, text: impl FnOnce() -> String) -> HeaderValue {
    static TABLE: [OnceLock<HeaderValue>; Forward::COUNT] =
        [const { OnceLock::new() }; Forward::COUNT];
    let known = &TABLE[forward as usize];
    known.get_or_init(|| permanent(text())).clone()
}

/// The same of a 200 that somebody else's call brought.
pub(crate) fn collapsed_value(forward: Forward, text: impl FnOnce() -> String) -> HeaderValue {
    static TABLE: [OnceLock<HeaderValue>; Forward::COUNT] =
        [const { OnceLock::new() }; Forward::COUNT];
    let known = &TABLE[forward as usize];
    known.get_or_init(|| permanent(text())).clone()
}

/// The same of a 200 that was not stored, for this reason; nothing was there for its URI.
pub(crate) fn refused_value(reason: Reason, text: impl FnOnce() -> String) -> HeaderValue {
    static TABLE: [OnceLock<HeaderValue>; Reason::ALL.len()] =
        [const { OnceLock::new() }; Reason::ALL.len()];
    let known = &TABLE[reason as usize];
    known.get_or_init(|| permanent(text())).clone()
}

/// A value for one of the tables, which live as long as the process.
fn permanent(text: String) -> HeaderValue {
    HeaderValue::from_static(Box::leak(text.into_boxed_str()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_date_is_that_of_its_second() {
        let date = |seconds: u64| {
            let mut out = BytesMut::from("x");
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 999);
            write_date(now, &mut out);
            assert_eq!(out.len(), 1 + DATE_LENGTH);
            out
        };
        assert_eq!(date(0), "xThu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(0), "xThu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(1), "xThu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(date(0), "xThu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn values_that_every_response_repeats_are_kept_once() {
        let table = Table::default();
        let interned = |name: &HeaderName, value: &[u8]| interned_in(&table, name, value);
        let name = http::header::CONTENT_TYPE;
        let value = b"text/x-interned";
        let first = interned(&name, value).unwrap();
        let second = interned(&name, value).unwrap();
        assert_eq!(first.as_bytes().as_ptr(), second.as_bytes().as_ptr());
        assert!(interned(&http::header::ETAG, value).is_none());
        assert!(interned(&name, &[b'a'; 200]).is_none());
        assert!(interned(&name, b"caf\xe9").is_none());
    }
}
