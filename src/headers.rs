//! What the cache says in fields of its own: `Age`, `Cache-Status` and `X-Cache`.
//!
//! Everything a response may say is decided in `policy/`, never here.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AGE, Entry},
};

use crate::{
    field_values::{NAME, age_value, collapsed_value, hit_value, refused_value, stored_value},
    status::{Forward, Reason},
};

/// `X-Cache`, which every operator knows.
pub(crate) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// `Cache-Status` ([RFC 9211](https://www.rfc-editor.org/rfc/rfc9211)).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

// Statics of bytes, not literals: each has an address of its own, which tells our words from
// everybody else's (see `is_answered_by_inner_layer`).
pub(crate) static HIT: [u8; 3] = *b"HIT";
static MISS: [u8; 4] = *b"MISS";
static BYPASS: [u8; 6] = *b"BYPASS";
static STALE: [u8; 5] = *b"STALE";

pub(crate) fn word(bytes: &'static [u8]) -> HeaderValue {
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
pub(crate) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        stored_head::{has_status_slot, stored_head},
        strip::Strip,
    };

    pub(crate) fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    pub(crate) fn lines<'a>(map: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        map.get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap())
            .collect()
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
