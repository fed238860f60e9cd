//! Ranges of a stored response ([RFC 9110, section 14](https://www.rfc-editor.org/rfc/rfc9110#section-14)).

use std::{ops::Range, time::Duration};

use http::{
    HeaderMap,
    header::{ACCEPT_RANGES, CONTENT_ENCODING, DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE},
};
use smallvec::SmallVec;

use super::{
    syntax::{members, trim},
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
    if refuses_ranges(stored)
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

/// RFC 9110, 14.3: `none`, be it one of several.
fn refuses_ranges(stored: &HeaderMap) -> bool {
    let lines = stored.get_all(ACCEPT_RANGES).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|unit| trim(unit).eq_ignore_ascii_case(b"none"))
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
        let stored = only_line(stored, &ETAG).map(|value| value.as_bytes());
        return stored
            .and_then(EntityTag::read)
            .is_some_and(|stored| stored.is_strongly(tag));
    }
    let known = |name| only_line(stored, name).and_then(date);
    match (date(condition), known(&LAST_MODIFIED), known(&DATE)) {
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
    use crate::policy::testing::{Random, headers};

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
        let refuses_too = &[
            STORED[0],
            ("accept-ranges", "bytes"),
            ("accept-ranges", "x, none "),
        ];
        let two_tags = &[STORED[0], ("etag", "\"v2\"")];
        let two_dates = &[STORED[1], STORED[1], STORED[2]];
        let backslash = &[("etag", "\"v\\\"")];
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let rows: [(&str, Option<&str>, Fields<'_>, bool); 16] = [
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
            ("Accept-Ranges: none (14.3)", None, refuses_too, false),
            ("several tags stored", Some("\"v1\""), two_tags, false),
            ("several dates stored", Some(STORED[1].1), two_dates, false),
            (
                "a tag with a backslash (8.8.3)",
                Some("\"v\\\""),
                backslash,
                true,
            ),
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

    /// One range, and which of ten bytes it asks for (RFC 9110, 14.1.2); `None` if it is no range.
    fn random_range(random: &mut Random) -> (String, Option<Vec<usize>>) {
        let (first, last) = (random.below(14), random.below(14));
        let bytes = |wanted: Range<usize>| Some(wanted.filter(|at| *at < 10).collect());
        match random.below(6) {
            0 => (format!("-{last}"), bytes(10_usize.saturating_sub(last)..10)),
            1 => (format!("{first}-"), bytes(first..10)),
            _ if last < first => (format!("{first}-{last}"), None),
            2 => (format!("00{first}-0{last}"), bytes(first..last + 1)),
            _ => (format!("{first}-{last}"), bytes(first..last + 1)),
        }
    }

    #[test]
    fn ranges_select_the_bytes_that_each_of_them_asks_for_and_no_others() {
        let mut random = Random::new(32);
        let mut selected = [0; 3];
        for _ in 0..20_000 {
            let ranges: Vec<_> = (0..=random.below(5))
                .map(|_| random_range(&mut random))
                .collect();
            let texts: Vec<_> = ranges.iter().map(|(text, _)| text.as_str()).collect();
            let value = format!("bytes={}", texts.join(random.pick(&[",", " , ", ",,"])));
            let wanted: Option<Vec<_>> = ranges.into_iter().map(|(_, wanted)| wanted).collect();
            let found = select(&headers(&[("range", &value)]), &headers(STORED), 10);
            let Some(wanted) = wanted else {
                selected[0] += 1;
                assert_eq!(found, Selected::Whole, "{value}");
                continue;
            };
            let mut wanted = wanted.concat();
            wanted.sort_unstable();
            wanted.dedup();
            match found {
                Selected::Parts(parts) => {
                    selected[1] += 1;
                    let mut bytes: Vec<_> = parts.iter().cloned().flatten().collect();
                    bytes.sort_unstable();
                    assert_eq!(bytes, wanted, "{value}");
                    for (at, part) in parts.iter().enumerate() {
                        let touches = |other: &Range<usize>| {
                            other.start <= part.end && part.start <= other.end
                        };
                        assert!(!parts[at + 1..].iter().any(touches), "{value}: {parts:?}");
                    }
                }
                Selected::Unsatisfiable => {
                    selected[2] += 1;
                    assert!(wanted.is_empty(), "{value}");
                }
                Selected::Whole => panic!("{value} is a range"),
            }
        }
        assert!(selected.iter().all(|times| *times > 200), "{selected:?}");
    }

    #[test]
    fn any_range_is_read_without_a_panic_and_within_the_body() {
        let mut random = Random::new(33);
        let mut parts_found = 0;
        for _ in 0..20_000 {
            let mut value = b"bytes=".to_vec();
            for _ in 0..=random.below(2) {
                value.extend_from_slice(random_range(&mut random).0.as_bytes());
                value.push(b',');
            }
            let noise = random.field_bytes(6);
            let at = random.below(value.len() + 1);
            value.splice(at..at + random.below(value.len() - at + 1), noise);
            let mut request = HeaderMap::new();
            let value = http::HeaderValue::from_bytes(&value).expect("a value");
            request.append(RANGE, value);
            if random.below(3) == 0 {
                request.append(IF_RANGE, random.field_value(8));
            }
            let length = random.below(12);
            if let Selected::Parts(parts) = select(&request, &headers(STORED), length) {
                parts_found += 1;
                assert!(!parts.is_empty() && parts.len() <= MOST, "{request:?}");
                let is_within = |part: &Range<usize>| part.start < part.end && part.end <= length;
                assert!(parts.iter().all(is_within), "{request:?}: {parts:?}");
            }
        }
        assert!(parts_found > 200, "{parts_found}");
    }
}
