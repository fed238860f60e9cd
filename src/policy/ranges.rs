//! Ranges of a stored response ([RFC 9110, section 14](https://www.rfc-editor.org/rfc/rfc9110#section-14)).

use std::{ops::Range, time::Duration};

use http::{
    HeaderMap,
    header::{ACCEPT_RANGES, CONTENT_ENCODING, DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE},
};
use smallvec::SmallVec;

use super::{
    syntax::members,
    validation::{EntityTag, date, is_for_origin, only_line},
};

/// More ranges than that are no wish that anybody has.
const MOST: usize = 32;

/// What of a body is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selected {
    /// All of it: no range was asked for, or one that is to be ignored.
    Whole,
    /// One part or several that do not touch.
    Parts(SmallVec<[Range<usize>; 1]>),
    /// Nothing that there is.
    Unsatisfiable,
}

/// What a GET wants of a stored body of so many bytes.
pub(crate) fn select(request: &HeaderMap, stored: &HeaderMap, length: usize) -> Selected {
    // It is no list: of several lines none is believed.
    let Some(range) = only_line(request, &RANGE) else {
        return Selected::Whole;
    };
    let refuses = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"none");
    if stored.get(ACCEPT_RANGES).is_some_and(refuses)
        || !is_still_that(request, stored)
        // It may be about another version, and whole it is seen to be.
        || is_for_origin(request)
    {
        return Selected::Whole;
    }
    match parts(range.as_bytes(), length) {
        // Of several parts each is encoded, but not what they are sent in.
        Some(Selected::Parts(parts)) if parts.len() > 1 && is_encoded(stored) => Selected::Whole,
        selected => selected.unwrap_or(Selected::Whole),
    }
}

fn is_encoded(stored: &HeaderMap) -> bool {
    stored.contains_key(CONTENT_ENCODING)
}

/// RFC 9110, 13.1.5: whether the client has parts of this very response.
fn is_still_that(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if !request.contains_key(IF_RANGE) {
        return true;
    }
    let Some(condition) = only_line(request, &IF_RANGE) else {
        return false;
    };
    if let Some(tag) = EntityTag::read(condition.as_bytes()) {
        let stored = stored.get(ETAG).map(|value| value.as_bytes());
        return stored
            .and_then(EntityTag::read)
            .is_some_and(|stored| stored.is_strongly(tag));
    }
    let known = |name| stored.get(name).and_then(date);
    match (date(condition), known(LAST_MODIFIED), known(DATE)) {
        // RFC 9110, 8.8.2.2: strong only if it cannot have changed again within that second.
        (Some(asked), Some(changed), Some(made)) => {
            asked == changed && changed + Duration::from_secs(1) <= made
        }
        _ => false,
    }
}

/// `None` for what is no range of bytes.
fn parts(range: &[u8], length: usize) -> Option<Selected> {
    let at = range.iter().position(|b| *b == b'=')?;
    let (unit, set) = range.split_at(at);
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut wanted: SmallVec<[Range<usize>; 1]> = SmallVec::new();
    let mut count = 0;
    for member in members(&set[1..]) {
        let member = member.ok()?;
        if member.is_empty() {
            continue;
        }
        count += 1;
        if count > MOST {
            return None;
        }
        wanted.extend(part(member, length)?);
    }
    if count == 0 {
        return None;
    }
    if wanted.is_empty() {
        return Some(Selected::Unsatisfiable);
    }
    merge(&mut wanted);
    Some(match length {
        0 => Selected::Whole,
        _ => Selected::Parts(wanted),
    })
}

/// One range; `Some(None)` if there is nothing of it (RFC 9110, 14.1.2).
fn part(member: &[u8], length: usize) -> Option<Option<Range<usize>>> {
    let at = member.iter().position(|b| *b == b'-')?;
    let (first, last) = (&member[..at], &member[at + 1..]);
    if first.is_empty() {
        let suffix = number(last)?;
        return Some((suffix > 0).then(|| length.saturating_sub(suffix)..length));
    }
    let first = number(first)?;
    let end = match last {
        [] => length,
        last => {
            let last = number(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(length)
        }
    };
    Some((first < length).then_some(first..end))
}

/// Decimals; beyond all bodies is beyond all bodies.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_usize, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

/// RFC 9110, 15.3.7.2: ranges that overlap or touch become one; others keep their order.
fn merge(wanted: &mut SmallVec<[Range<usize>; 1]>) {
    let meets =
        |one: &Range<usize>, other: &Range<usize>| one.start <= other.end && other.start <= one.end;
    let mut at = 0;
    while at < wanted.len() {
        let other = (at + 1..wanted.len()).find(|other| meets(&wanted[at], &wanted[*other]));
        match other {
            Some(other) => {
                let other = wanted.remove(other);
                wanted[at].start = wanted[at].start.min(other.start);
                wanted[at].end = wanted[at].end.max(other.end);
                // It may meet an earlier one now.
                at = 0;
            }
            None => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::headers;

    const STORED: &[(&str, &str)] = &[
        ("etag", "\"v1\""),
        ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("date", "Thu, 22 Oct 2015 07:28:00 GMT"),
    ];

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
    fn ranges_select_parts_of_ten_bytes() {
        let part = |ranges: &[Range<usize>]| Selected::Parts(ranges.iter().cloned().collect());
        let rows = [
            ("bytes=0-3", part(&[0..4])),
            ("bytes=3-3", part(&[3..4])),
            ("bytes=4-", part(&[4..10])),
            ("bytes=0-", part(&[0..10])),
            ("bytes=8-99", part(&[8..10])),
            ("bytes=-4", part(&[6..10])),
            ("bytes=-99", part(&[0..10])),
            ("BYTES=0-3", part(&[0..4])),
            ("bytes= 0-3 ,\t5-6", part(&[0..4, 5..7])),
            ("bytes=,0-3,", part(&[0..4])),
            ("bytes=7-8,0-1", part(&[7..9, 0..2])),
            ("bytes=0-3,2-5", part(&[0..6])),
            ("bytes=0-3,4-5", part(&[0..6])),
            ("bytes=0-1,8-9,1-8", part(&[0..10])),
            ("bytes=0-3,20-", part(&[0..4])),
            ("bytes=0-3,-0", part(&[0..4])),
            ("bytes=9-99999999999999999999999999", part(&[9..10])),
            ("bytes=0-4,6-9,0-9", part(&[0..10])),
            ("bytes=10-", Selected::Unsatisfiable),
            ("bytes=99999999999999999999999999-", Selected::Unsatisfiable),
            ("bytes=-0", Selected::Unsatisfiable),
            ("bytes=10-,-0", Selected::Unsatisfiable),
            ("bytes=3-2", Selected::Whole),
            ("bytes=0-3,3-2", Selected::Whole),
            ("bytes=a-3", Selected::Whole),
            ("bytes=0-b", Selected::Whole),
            ("bytes=0", Selected::Whole),
            ("bytes=-", Selected::Whole),
            ("bytes=", Selected::Whole),
            ("bytes=,", Selected::Whole),
            ("bytes", Selected::Whole),
            ("bytes=0-3-5", Selected::Whole),
            ("bytes=+0-3", Selected::Whole),
            ("bytes=\"0-3", Selected::Whole),
            ("lines=0-3", Selected::Whole),
            ("bytes =0-3", Selected::Whole),
            ("", Selected::Whole),
        ];
        for (range, expected) in rows {
            let selected = select(&headers(&[("range", range)]), &headers(STORED), 10);
            assert_eq!(selected, expected, "{range:?}");
        }
        let many = format!("bytes={}", vec!["0-0"; MOST + 1].join(","));
        let selected = select(&headers(&[("range", &many)]), &headers(STORED), 10);
        assert_eq!(selected, Selected::Whole, "too many");
        for (range, expected) in [("0-", Selected::Unsatisfiable), ("-1", Selected::Whole)] {
            let range = format!("bytes={range}");
            let selected = select(&headers(&[("range", &range)]), &headers(STORED), 0);
            assert_eq!(selected, expected, "{range} of nothing");
        }
    }

    #[test]
    fn a_range_counts_only_if_the_response_is_still_that() {
        let just_made = &[STORED[0], STORED[1], ("date", STORED[1].1)];
        let weak = &[("etag", "W/\"v1\""), STORED[1], STORED[2]];
        let refuses = &[STORED[0], ("accept-ranges", "None")];
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let rows: [(&str, Option<&str>, Fields<'_>, bool); 12] = [
            ("no condition", None, STORED, true),
            ("the same tag", Some("\"v1\""), STORED, true),
            ("another tag", Some("\"v2\""), STORED, false),
            ("a weak tag (13.1.5)", Some("W/\"v1\""), STORED, false),
            ("of a weak response", Some("\"v1\""), weak, false),
            ("the same date", Some(STORED[1].1), STORED, true),
            (
                "an older date",
                Some("Wed, 21 Oct 2015 07:27:59 GMT"),
                STORED,
                false,
            ),
            (
                "a newer date",
                Some("Wed, 21 Oct 2015 07:28:01 GMT"),
                STORED,
                false,
            ),
            ("a weak date (8.8.2.2)", Some(STORED[1].1), just_made, false),
            ("neither tag nor date", Some("v1"), STORED, false),
            ("a list of tags", Some("\"v1\", \"v2\""), STORED, false),
            ("Accept-Ranges: none", None, refuses, false),
        ];
        for (name, condition, stored, is_part) in rows {
            let mut request = headers(&[("range", "bytes=0-3")]);
            if let Some(condition) = condition {
                request.insert(IF_RANGE, condition.parse().expect("a value"));
            }
            let selected = select(&request, &headers(stored), 10);
            assert_eq!(selected != Selected::Whole, is_part, "{name}");
        }
        let encoded = headers(&[("content-encoding", "gzip")]);
        for (range, is_part) in [("bytes=0-1", true), ("bytes=0-1,4-5", false)] {
            let selected = select(&headers(&[("range", range)]), &encoded, 10);
            assert_eq!(selected != Selected::Whole, is_part, "encoded, {range}");
        }
        for name in ["if-match", "if-unmodified-since"] {
            let request = headers(&[("range", "bytes=0-3"), (name, "\"v0\"")]);
            assert_eq!(
                select(&request, &headers(STORED), 10),
                Selected::Whole,
                "{name}"
            );
        }
        let twice = headers(&[("range", "bytes=0-3"), ("range", "bytes=0-3")]);
        assert_eq!(select(&twice, &headers(STORED), 10), Selected::Whole);
    }
}
