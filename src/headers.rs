//! Every field that the cache adds, rewrites or strips.
//!
//! A stored head starts with three slots, `Age`, `Cache-Status` and `X-Cache`, so that a hit is
//! a clone of the head with two values put in their places. Everything a response may say is
//! decided in `policy/`, never here.

use std::time::SystemTime;

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AGE, CONNECTION, DATE, ETAG, Entry, InvalidHeaderValue, SET_COOKIE},
};
use smallvec::SmallVec;
use twox_hash::XxHash3_64;

use crate::{
    entry::StoredHead,
    field_values::{
        DATE_LENGTH, NAME, age_value, collapsed_value, date_value, hit_value, interned,
        refused_value, stored_value, write_date,
    },
    outline::{Line, Lines, Manner, learn, outlined},
    status::{Forward, Reason},
};

/// `X-Cache`, which every operator knows.
pub(crate) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// `Cache-Status` ([RFC 9211](https://www.rfc-editor.org/rfc/rfc9211)).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

// Statics of bytes, not literals: each has an address of its own, which tells our words from
// everybody else's (see `is_answered_by_inner_layer`).
static HIT: [u8; 3] = *b"HIT";
static MISS: [u8; 4] = *b"MISS";
static BYPASS: [u8; 6] = *b"BYPASS";
static STALE: [u8; 5] = *b"STALE";

fn word(bytes: &'static [u8]) -> HeaderValue {
    HeaderValue::from_static(std::str::from_utf8(bytes).unwrap_or_default())
}

/// Which fields tell the client what the cache did.
///
/// Default: [`Full`](Self::Full). The counters of [`Cache::stats`](crate::Cache::stats) do not
/// depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StatusHeaders {
    /// Neither `X-Cache` nor `Cache-Status`; `Age` stays, RFC 9111 demands it.
    None,
    /// `X-Cache: HIT`, `STALE`, `MISS` or `BYPASS`.
    XCache,
    /// `X-Cache`, and `Cache-Status` with the reason ([RFC
    /// 9211](https://www.rfc-editor.org/rfc/rfc9211)).
    #[default]
    Full,
}

/// What `Cache-Status` says of a request that reached the inner service, or waited for one that
/// did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarded {
    /// `None` where nothing was forwarded.
    pub(crate) forward: Option<Forward>,
    /// What the inner service answered; `None` where the cache answered for it.
    pub(crate) status: Option<u16>,
    pub(crate) stored: bool,
    pub(crate) collapsed: bool,
    /// The seconds that the answer is still fresh, where it comes from the store after all; negative
    /// where it is stale.
    pub(crate) ttl: Option<i64>,
    pub(crate) detail: Option<Reason>,
}

/// Fields that identify the request that happened to fill.
fn is_of_one_exchange(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "x-request-id" | "x-correlation-id" | "traceparent" | "tracestate" | "server-timing"
    ) || name.starts_with("ratelimit")
        || name.starts_with("x-ratelimit-")
}

/// RFC 9111, 3.1: fields of the connection, and those that we put in their places.
fn is_of_the_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "age"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authentication-info"
            | "x-cache"
    )
}

/// How a stored head differs from the response it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strip<'a> {
    /// Fields of the layer's `strip_fields`.
    pub(crate) fields: &'a [HeaderName],
    /// And those that belong to one exchange, though RFC 9111, 3.1 wants them stored.
    pub(crate) of_one_exchange: bool,
    pub(crate) set_cookie: bool,
}

impl Strip<'_> {
    /// What was stored already lacks what is not stored.
    pub(crate) const NOTHING: Self = Self {
        fields: &[],
        of_one_exchange: false,
        set_cookie: false,
    };
}

/// How many slots a stored head has at the most.
pub(crate) const SLOTS: usize = 3;

/// Whether a field at the start of a stored head is a slot and no field of the response.
pub(crate) fn is_slot(name: &HeaderName, status_slot: bool) -> bool {
    *name == AGE || *name == X_CACHE || (status_slot && *name == CACHE_STATUS)
}

/// The fields to store of a response, behind the slots for our own.
pub(crate) fn stored_head(response: &HeaderMap, strip: Strip<'_>, now: SystemTime) -> HeaderMap {
    let manner = Manner {
        strip,
        now: Some(now),
    };
    if let Ok(Some(stored)) = outlined(response, manner) {
        return stored;
    }
    let stored = new_stored_head(response, strip, now);
    learn(response, manner, &stored);
    stored
}

/// The same, whatever was stored before.
pub(crate) fn new_stored_head(
    response: &HeaderMap,
    strip: Strip<'_>,
    now: SystemTime,
) -> HeaderMap {
    let listed = listed_by(response.get_all(CONNECTION).iter().map(AsRef::as_ref));
    let size = response.values().map(HeaderValue::len).sum();
    let mut stored = Stored::new(response.len(), size, has_status_slot(response));
    for (name, value) in response {
        if !is_left_out(name, strip, &listed) {
            stored.keep(name, value);
        }
    }
    if !stored.head.contains_key(DATE) {
        stored.add_date(now);
    }
    stored.head
}

/// A field of a frame: its name has bytes of its own, the value may have not.
pub(crate) struct Field<'v> {
    pub(crate) name: HeaderName,
    pub(crate) value: &'v [u8],
}

/// As many as nearly every response has at the most.
pub(crate) type Fields<'v> = SmallVec<[Field<'v>; 24]>;

impl Lines for Fields<'_> {
    fn count(&self) -> usize {
        self.len()
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.iter().map(|field| Line {
            name: &field.name,
            value: field.value,
            is_sensitive: false,
        })
    }
}

/// The same for fields that were stored before, by any release, and nobody has looked at. Whether
/// there is a slot for `Cache-Status` is said as well; the `Date` is left to the caller.
pub(crate) fn stored_fields(fields: Fields<'_>) -> Result<(HeaderMap, bool), InvalidHeaderValue> {
    let manner = Manner {
        // What was stored already lacks what is not stored.
        strip: Strip::NOTHING,
        now: None,
    };
    let status_slot = fields.iter().all(|field| field.name != CACHE_STATUS);
    if let Some(stored) = outlined(&fields, manner)? {
        return Ok((stored, status_slot));
    }
    let of_connection = fields.iter().filter(|field| field.name == CONNECTION);
    let listed = listed_by(of_connection.map(|field| field.value));
    let size = fields.iter().map(|field| field.value.len()).sum();
    let mut stored = Stored::new(fields.len(), size, status_slot);
    for line in fields.lines() {
        if !is_left_out(line.name, manner.strip, &listed) {
            // The name has bytes of its own.
            stored
                .head
                .append(line.name.clone(), stored.values.own(line)?);
        }
    }
    learn(&fields, manner, &stored.head);
    Ok((stored.head, status_slot))
}

pub(crate) fn is_left_out(name: &HeaderName, strip: Strip<'_>, listed: &[String]) -> bool {
    is_of_the_connection(name)
        || (strip.of_one_exchange && is_of_one_exchange(name))
        || (strip.set_cookie && *name == SET_COOKIE)
        || strip.fields.contains(name)
        || listed.iter().any(|listed| listed == name.as_str())
}

/// A head that is being made to be stored.
struct Stored {
    head: HeaderMap,
    values: Values,
}

impl Stored {
    /// With the slots, and room for so many fields with values of so many bytes.
    ///
    /// The lines of caches behind us come first (RFC 9211, section 2); ours is appended to them on
    /// each hit. Where there are such, there is no slot for ours.
    fn new(fields: usize, size: usize, status_slot: bool) -> Self {
        let mut head = HeaderMap::with_capacity(SLOTS + fields + 1);
        head.append(AGE, HeaderValue::from_static("0"));
        if status_slot {
            head.append(CACHE_STATUS, HeaderValue::from_static(NAME));
        }
        head.append(X_CACHE, word(&HIT));
        let values = Values::with_capacity(size);
        Self { head, values }
    }

    /// A field of a response; both its parts may share a buffer with a connection.
    fn keep(&mut self, name: &HeaderName, value: &HeaderValue) {
        let own = self.values.own(Line {
            name,
            value: value.as_bytes(),
            is_sensitive: value.is_sensitive(),
        });
        self.head
            .append(own_name(name), own.unwrap_or_else(|_| value.clone()));
    }

    /// A response without a date is as old as its arrival here.
    fn add_date(&mut self, now: SystemTime) {
        self.head.insert(DATE, self.values.date(now));
    }
}

/// Those values of a head that is being made which are not shared with others, in one buffer.
pub(crate) struct Values(BytesMut);

impl Values {
    /// With room for values of so many bytes, and a date.
    pub(crate) fn with_capacity(size: usize) -> Self {
        Self(BytesMut::with_capacity(size + DATE_LENGTH))
    }

    /// A value that shares no buffer with a connection.
    pub(crate) fn own(&mut self, line: Line<'_>) -> Result<HeaderValue, InvalidHeaderValue> {
        let shared = match line.is_sensitive {
            true => None,
            false => interned(line.name, line.value),
        };
        if let Some(shared) = shared {
            return Ok(shared);
        }
        self.0.extend_from_slice(line.value);
        let mut own = self.last()?;
        own.set_sensitive(line.is_sensitive);
        Ok(own)
    }

    /// The date of a response that came now.
    pub(crate) fn date(&mut self, now: SystemTime) -> HeaderValue {
        write_date(now, &mut self.0);
        self.last().expect("an HTTP date is visible ASCII")
    }

    /// What was written last, as a value: a piece of the one buffer of this head.
    fn last(&mut self) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_maybe_shared(self.0.split().freeze())
    }
}

/// The names of fields that belong to one connection by its own word.
pub(crate) fn listed_by<'v>(lines: impl Iterator<Item = &'v [u8]>) -> Vec<String> {
    lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect()
}

/// A response without a date is as old as its arrival here.
pub(crate) fn add_date(head: &mut HeaderMap, now: SystemTime) {
    if !head.contains_key(DATE) {
        head.insert(DATE, date_value(now));
    }
}

/// Whether the second slot of a stored head is `Cache-Status`.
pub(crate) fn has_status_slot(response: &HeaderMap) -> bool {
    !response.contains_key(&CACHE_STATUS)
}

/// A name that shares no buffer with a connection.
pub(crate) fn own_name(name: &HeaderName) -> HeaderName {
    HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone())
}

/// Puts this hit's values into a clone of a stored head.
#[inline]
pub(crate) fn fill_slots(
    head: &mut HeaderMap,
    status_slot: bool,
    age: u64,
    ttl: i64,
    mode: StatusHeaders,
) {
    let mut slots = head.values_mut();
    if let Some(slot) = slots.next() {
        *slot = age_value(age);
    }
    match (mode, status_slot, slots.next()) {
        (StatusHeaders::Full, true, Some(slot)) => *slot = hit_value(ttl),
        (StatusHeaders::Full, ..) => {
            head.append(CACHE_STATUS, hit_value(ttl));
        }
        _ => without_slots(head, status_slot, mode),
    }
}

/// Takes out the slots that a layer does not want.
fn without_slots(head: &mut HeaderMap, status_slot: bool, mode: StatusHeaders) {
    if status_slot {
        head.remove(&CACHE_STATUS);
    }
    if mode == StatusHeaders::None {
        head.remove(&X_CACHE);
    }
}

/// Turns a clone of a stored head into that of a request that waited for somebody else's fill.
pub(crate) fn fill_slots_collapsed(
    head: &mut HeaderMap,
    status_slot: bool,
    age: u64,
    forwarded: Forwarded,
    mode: StatusHeaders,
) {
    if mode == StatusHeaders::Full && status_slot {
        let said = word(word_of(forwarded));
        let values = [age_value(age), forwarded_value(forwarded), said];
        for (slot, value) in head.values_mut().zip(values) {
            *slot = value;
        }
        return;
    }
    head.insert(AGE, age_value(age));
    if status_slot {
        head.remove(&CACHE_STATUS);
    }
    head.remove(&X_CACHE);
    say_forwarded(head, forwarded, mode);
}

/// Says of an answer from the store that it is stale: `X-Cache: STALE`.
pub(crate) fn say_stale(head: &mut HeaderMap) {
    if let Some(said) = head.get_mut(&X_CACHE) {
        *said = word(&STALE);
    }
}

/// Says of an answer that was made ready as that of a fill that it is a hit after all.
pub(crate) fn say_hit(head: &mut HeaderMap, ttl: i64, mode: StatusHeaders) {
    head.insert(AGE, age_value(0));
    if let Some(said) = head.get_mut(&X_CACHE) {
        *said = word(&HIT);
    }
    say_instead(head, || hit_value(ttl), mode);
}

/// Replaces our line of `Cache-Status`, which is the last.
fn say_instead(head: &mut HeaderMap, said: impl FnOnce() -> HeaderValue, mode: StatusHeaders) {
    if mode != StatusHeaders::Full {
        return;
    }
    if let Entry::Occupied(mut lines) = head.entry(CACHE_STATUS) {
        if let Some(ours) = lines.iter_mut().last() {
            *ours = said();
        }
    }
}

/// Says of a stale answer that it stands in for a failure.
pub(crate) fn say_standing_in(head: &mut HeaderMap, said: Forwarded, mode: StatusHeaders) {
    say_instead(head, || forwarded_value(said), mode);
}

/// The fields of a stored head without those that are ours: the slots, and an entity tag.
pub(crate) fn without_own(stored: &StoredHead) -> HeaderMap {
    let mut fields = stored.headers.clone();
    fields.remove(AGE);
    fields.remove(&X_CACHE);
    if stored.status_slot {
        fields.remove(&CACHE_STATUS);
    }
    if stored.own_tag {
        fields.remove(ETAG);
    }
    fields
}

/// A weak entity tag for a body that has none (RFC 9110, 8.8.1): who made the response promised
/// nothing, so it is not byte for byte that clients may combine it.
pub(crate) fn weak_tag(body: &[u8]) -> HeaderValue {
    let tag = format!("W/\"{:016x}{:x}\"", XxHash3_64::oneshot(body), body.len());
    HeaderValue::try_from(tag).expect("hexadecimal digits")
}

/// Who only ever bypasses has not been looked up, as far as the client can tell.
fn word_of(forwarded: Forwarded) -> &'static [u8] {
    match forwarded.forward {
        Some(Forward::Bypass) => &BYPASS,
        _ => &MISS,
    }
}

/// Says on a response that comes from the inner service what the cache did.
pub(crate) fn say_forwarded(head: &mut HeaderMap, forwarded: Forwarded, mode: StatusHeaders) {
    if mode == StatusHeaders::None {
        return;
    }
    head.insert(X_CACHE, word(word_of(forwarded)));
    if mode == StatusHeaders::Full {
        head.append(CACHE_STATUS, forwarded_value(forwarded));
    }
}

/// The same on a response that was passed on as it came, and may stem from a layer further in.
pub(crate) fn say_passed(head: &mut HeaderMap, forwarded: Forwarded, mode: StatusHeaders) {
    if !is_answered_by_inner_layer(head) {
        say_forwarded(head, forwarded, mode);
    }
}

/// Says on a response that the cache had nothing to do with it, and why; a layer further in that
/// has spoken already is left its word.
#[inline]
pub(crate) fn say_bypass(head: &mut HeaderMap, reason: Reason, mode: StatusHeaders) {
    if mode == StatusHeaders::None || is_answered_by_inner_layer(head) {
        return;
    }
    head.insert(X_CACHE, word(&BYPASS));
    if mode == StatusHeaders::Full {
        head.append(
            CACHE_STATUS,
            HeaderValue::from_static(reason.bypass_status()),
        );
    }
}

/// Whether an `X-Cache` was put there by a layer of this process: its value is then one of our
/// statics, which one that came over a network can never be. Costs no allocation, unlike an
/// extension.
fn is_answered_by_inner_layer(head: &HeaderMap) -> bool {
    head.get(&X_CACHE).is_some_and(|value| {
        let at = value.as_bytes().as_ptr();
        [HIT.as_ptr(), MISS.as_ptr(), BYPASS.as_ptr(), STALE.as_ptr()].contains(&at)
    })
}

fn forwarded_value(said: Forwarded) -> HeaderValue {
    match said {
        // What is said of nearly every fill is written once.
        Forwarded {
            forward: Some(forward),
            status: Some(200),
            stored: true,
            collapsed: false,
            ttl: None,
            detail: None,
        } => stored_value(forward, || forwarded_text(said)),
        Forwarded {
            forward: Some(forward),
            status: Some(200),
            stored: false,
            collapsed: true,
            ttl: None,
            detail: None,
        } => collapsed_value(forward, || forwarded_text(said)),
        Forwarded {
            forward: Some(Forward::UriMiss),
            status: Some(200),
            stored: false,
            collapsed: false,
            ttl: None,
            detail: Some(reason),
        } => refused_value(reason, || forwarded_text(said)),
        said => HeaderValue::try_from(forwarded_text(said)).expect("made of tokens and numbers"),
    }
}

fn forwarded_text(said: Forwarded) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(96);
    text.push_str(NAME);
    if let Some(forward) = said.forward {
        text.push_str("; fwd=");
        text.push_str(forward.as_str());
    }
    if let Some(status) = said.status {
        let _ = write!(text, "; fwd-status={status}");
    }
    if said.stored {
        text.push_str("; stored");
    }
    if said.collapsed {
        text.push_str("; collapsed");
    }
    if let Some(ttl) = said.ttl {
        let _ = write!(text, "; ttl={ttl}");
    }
    if let Some(detail) = said.detail {
        text.push_str("; detail=");
        text.push_str(detail.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    fn lines<'a>(map: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        map.get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap())
            .collect()
    }

    #[test]
    fn fields_of_one_exchange_are_not_stored() {
        let response = head(&[
            ("connection", "X-Hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("x-request-id", "7"),
            ("traceparent", "7"),
            ("server-timing", "db;dur=1"),
            ("ratelimit-remaining", "7"),
            ("x-ratelimit-limit", "7"),
            ("x-cache", "HIT from elsewhere"),
            ("age", "5"),
            ("x-mine", "1"),
            ("link", "<a>"),
            ("link", "<b>"),
            ("content-type", "text/plain"),
        ]);
        let strip = [HeaderName::from_static("x-mine")];
        let stored = stored_head(
            &response,
            Strip {
                fields: &strip,
                of_one_exchange: true,
                set_cookie: true,
            },
            SystemTime::UNIX_EPOCH,
        );
        let mut names: Vec<_> = stored.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "age",
                "cache-status",
                "content-type",
                "date",
                "link",
                "x-cache"
            ]
        );
        assert_eq!(lines(&stored, "link"), ["<a>", "<b>"]);
        assert_eq!(lines(&stored, "date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
    }

    #[test]
    fn a_hit_says_age_and_ttl_in_the_slots() {
        let stored = stored_head(
            &head(&[("etag", "\"a\"")]),
            Strip::NOTHING,
            SystemTime::now(),
        );
        for (mode, x_cache, status) in [
            (
                StatusHeaders::Full,
                vec!["HIT"],
                vec!["tower-response-cache; hit; ttl=57"],
            ),
            (StatusHeaders::XCache, vec!["HIT"], vec![]),
            (StatusHeaders::None, vec![], vec![]),
        ] {
            let mut hit = stored.clone();
            fill_slots(&mut hit, true, 3, 57, mode);
            assert_eq!(lines(&hit, "age"), ["3"], "{mode:?}");
            assert_eq!(lines(&hit, "x-cache"), x_cache, "{mode:?}");
            assert_eq!(lines(&hit, "cache-status"), status, "{mode:?}");
            assert_eq!(lines(&hit, "etag"), ["\"a\""]);
        }
        let mut old = stored.clone();
        fill_slots(&mut old, true, 9_000_000, 5_000_000, StatusHeaders::Full);
        assert_eq!(lines(&old, "age"), ["9000000"]);
        assert_eq!(
            lines(&old, "cache-status"),
            ["tower-response-cache; hit; ttl=5000000"]
        );
    }

    #[test]
    fn the_lines_of_caches_behind_us_come_before_ours() {
        let response = head(&[("cache-status", "origin; hit")]);
        let mut hit = stored_head(&response, Strip::NOTHING, SystemTime::now());
        assert!(!has_status_slot(&response));
        fill_slots(&mut hit, false, 3, 57, StatusHeaders::Full);
        assert_eq!(
            lines(&hit, "cache-status"),
            ["origin; hit", "tower-response-cache; hit; ttl=57"]
        );
        assert_eq!(lines(&hit, "age"), ["3"]);
    }

    #[test]
    fn what_is_written_once_says_what_is_said() {
        for forward in [Forward::UriMiss, Forward::Partial, Forward::UriMiss] {
            let said = Forwarded {
                forward: Some(forward),
                status: Some(200),
                stored: true,
                collapsed: false,
                ttl: None,
                detail: None,
            };
            for said in [
                said,
                Forwarded {
                    status: Some(404),
                    ..said
                },
                Forwarded {
                    stored: false,
                    ..said
                },
                Forwarded {
                    detail: Some(Reason::Head),
                    ..said
                },
                Forwarded {
                    stored: false,
                    detail: Some(Reason::NoStore),
                    ..said
                },
                Forwarded {
                    stored: false,
                    detail: Some(Reason::Private),
                    ..said
                },
                Forwarded {
                    stored: false,
                    collapsed: true,
                    ..said
                },
                said,
            ] {
                let value = forwarded_value(said);
                assert_eq!(value, forwarded_text(said).as_str(), "{said:?}");
            }
        }
    }

    #[test]
    fn only_a_word_of_ours_is_left_by_an_outer_layer() {
        let mut ours = HeaderMap::new();
        ours.insert(X_CACHE, word(&HIT));
        say_bypass(&mut ours, Reason::Cookie, StatusHeaders::Full);
        assert_eq!(lines(&ours, "x-cache"), ["HIT"]);
        assert!(lines(&ours, "cache-status").is_empty());
        let mut foreign = head(&[("x-cache", "HIT")]);
        say_bypass(&mut foreign, Reason::Cookie, StatusHeaders::Full);
        assert_eq!(lines(&foreign, "x-cache"), ["BYPASS"]);
        assert_eq!(
            lines(&foreign, "cache-status"),
            ["tower-response-cache; fwd=bypass; detail=cookie"]
        );
    }
}
