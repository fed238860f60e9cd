//! The values of the fields that `Vary` nominates, in one form for all that mean the same
//! ([RFC 9111, section 4.1](https://www.rfc-editor.org/rfc/rfc9111#section-4.1)).
//!
//! The form is part of the cache key and is what two requests are compared by, so it is injective:
//! every part has its length in front, and a tag says in which way the value was read.

use std::{cell::RefCell, hash::Hasher};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, GetAll},
};
use smallvec::SmallVec;

use super::syntax::{Quotes, cut, is_token, members, trim};
use crate::key::hasher;

/// The bytes that requests are compared by; usual ones need no heap.
pub(crate) type Encoded = SmallVec<[u8; 128]>;

/// The field is not there, which differs from an empty one.
const ABSENT: u8 = 0;
/// All lines as one list, without the spaces around commas; `Accept-Encoding` and
/// `Accept-Language` are written so only where they could not be understood.
const LIST: u8 = 1;
/// Members by what they mean.
const MEANING: u8 = 2;
/// Lines in which a quoted string does not end, as they are, each with its length.
const RAW: u8 = 3;

/// Writes one field of a request: name, tag, value.
pub(super) fn write(name: &HeaderName, request: &HeaderMap, out: &mut Encoded) {
    let text = name.as_str().as_bytes();
    // `HeaderName` is shorter than 2^16 bytes.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text);

    let lines = request.get_all(name);
    let mut each = lines.iter();
    let Some(first) = each.next() else {
        out.push(ABSENT);
        return;
    };
    let is_weighted = name == ACCEPT_ENCODING || name == ACCEPT_LANGUAGE;
    if is_weighted && each.next().is_none() && first.len() <= MAX_REMEMBERED {
        remembered(name, first.as_bytes(), out, |out| {
            write_lines(name, &lines, out)
        });
    } else {
        write_lines(name, &lines, out);
    }
}

/// Tag, length, value.
fn write_lines(name: &HeaderName, lines: &GetAll<'_, HeaderValue>, out: &mut Encoded) {
    let tag = out.len();
    out.push(ABSENT);
    let length = out.len();
    push_length(0, out);
    let value = out.len();
    out[tag] = write_value(name, lines, out);
    let written = length_bytes(out.len() - value);
    out[length..value].copy_from_slice(&written);
}

/// Longer lists are taken apart each time.
const MAX_REMEMBERED: usize = 256;

/// A list of weights, and what it came to.
struct Remembered {
    name: HeaderName,
    list: Box<[u8]>,
    written: Box<[u8]>,
}

/// Clients send one of a few lists with every request. Each thread remembers those that it took
/// apart last: comparing one is a tenth of the work.
fn remembered(name: &HeaderName, list: &[u8], out: &mut Encoded, write: impl FnOnce(&mut Encoded)) {
    thread_local! {
        static LISTS: RefCell<[Option<Remembered>; 32]> = const { RefCell::new([const { None }; 32]) };
    }
    let mut hasher = hasher();
    hasher.write(list);
    let place = hasher.finish() as usize % 32;
    LISTS.with_borrow_mut(|lists| {
        let known = &mut lists[place];
        if let Some(known) = known {
            if *known.list == *list && known.name == *name {
                out.extend_from_slice(&known.written);
                return;
            }
        }
        let start = out.len();
        write(out);
        *known = Some(Remembered {
            name: name.clone(),
            list: list.into(),
            written: out[start..].into(),
        });
    });
}

fn write_value(name: &HeaderName, lines: &GetAll<'_, HeaderValue>, out: &mut Encoded) -> u8 {
    let start = out.len();
    let understood = if name == ACCEPT_ENCODING {
        write_codings(lines, out)
    } else if name == ACCEPT_LANGUAGE {
        write_languages(lines, out)
    } else {
        None
    };
    if understood.is_some() {
        return MEANING;
    }
    // RFC 9110, sections 5.1 and 12.5: these have no case outside of quotes; others may.
    let lower = [ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name);
    if write_list(lines, lower, out).is_some() {
        return LIST;
    }
    out.truncate(start);
    for line in lines {
        push_length(line.len(), out);
        out.extend_from_slice(line.as_bytes());
    }
    RAW
}

/// RFC 9110, section 5.3: lines are one list; section 5.6.1: spaces around commas mean nothing.
fn write_list(lines: &GetAll<'_, HeaderValue>, lower: bool, out: &mut Encoded) -> Option<()> {
    let mut first = true;
    for line in lines {
        for member in members(line.as_bytes()) {
            let member = member.ok()?;
            if !first {
                out.push(b',');
            }
            first = false;
            if !lower {
                out.extend_from_slice(member);
                continue;
            }
            let mut quotes = Quotes::default();
            out.extend(member.iter().map(|byte| match quotes.inside(*byte) {
                true => *byte,
                false => byte.to_ascii_lowercase(),
            }));
        }
    }
    Some(())
}

/// A member of `Accept-Encoding` or `Accept-Language`, with its weight in thousandths.
#[derive(Debug, Clone, Copy)]
struct Weighted<'a> {
    name: &'a [u8],
    weight: u16,
}

type Members<'a> = SmallVec<[Weighted<'a>; 16]>;

/// RFC 9110, section 12.5.3: the order does not matter, the weights do.
fn write_codings(lines: &GetAll<'_, HeaderValue>, out: &mut Encoded) -> Option<()> {
    let mut codings = weighted_members(lines)?;
    for coding in &mut codings {
        // RFC 9110, section 8.4.1.3: x-gzip is gzip.
        if coding.name.eq_ignore_ascii_case(b"x-gzip") {
            coding.name = b"gzip";
        }
    }
    codings.sort_unstable_by(|a, b| lower(a.name).cmp(lower(b.name)));
    codings.dedup_by(|a, b| a.weight == b.weight && a.name.eq_ignore_ascii_case(b.name));
    // One coding with two weights: which of them counts is for the handler to say.
    if codings
        .windows(2)
        .any(|pair| pair[0].name.eq_ignore_ascii_case(pair[1].name))
    {
        return None;
    }
    codings.sort_unstable_by(|a, b| {
        b.weight
            .cmp(&a.weight)
            .then_with(|| lower(a.name).cmp(lower(b.name)))
    });
    write_weighted(&codings, out);
    Some(())
}

/// RFC 9110, section 12.5.4: among equal weights the order is left as it is, since servers use it.
fn write_languages(lines: &GetAll<'_, HeaderValue>, out: &mut Encoded) -> Option<()> {
    let mut languages = weighted_members(lines)?;
    languages.sort_by_key(|language| std::cmp::Reverse(language.weight));
    write_weighted(&languages, out);
    Some(())
}

/// All members of all lines; `None` if one of them is nothing but `name` and `q`.
fn weighted_members<'a>(lines: &'a GetAll<'a, HeaderValue>) -> Option<Members<'a>> {
    let mut all = Members::new();
    for line in lines {
        for member in members(line.as_bytes()) {
            let member = member.ok()?;
            if !member.is_empty() {
                all.push(weighted(member)?);
            }
        }
    }
    Some(all)
}

/// RFC 9110, section 12.4.2: `name [ OWS ";" OWS "q=" qvalue ]`.
fn weighted(member: &[u8]) -> Option<Weighted<'_>> {
    let (name, parameter) = cut(member, b';');
    let name = trim(name);
    let weight = match parameter.map(trim) {
        None => 1000,
        Some([b'q' | b'Q', b'=', value @ ..]) => thousandths(value)?,
        Some(_) => return None,
    };
    is_token(name).then_some(Weighted { name, weight })
}

/// RFC 9110, section 12.4.2: from 0 to 1, at most three digits after the point.
fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, digits) = match value {
        [whole] => (whole, &[][..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut fraction = 0;
    for place in 0..3 {
        let digit = digits.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        fraction = fraction * 10 + u16::from(digit - b'0');
    }
    match (whole, fraction) {
        (b'0', _) => Some(fraction),
        (b'1', 0) => Some(1000),
        _ => None,
    }
}

fn write_weighted(all: &[Weighted<'_>], out: &mut Encoded) {
    for (at, member) in all.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend(lower(member.name));
        if member.weight < 1000 {
            out.extend_from_slice(b";q=");
            for unit in [100, 10, 1] {
                // A digit, so it fits.
                out.push(b'0' + (member.weight / unit % 10) as u8);
            }
        }
    }
}

fn lower(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(u8::to_ascii_lowercase)
}

fn push_length(length: usize, out: &mut Encoded) {
    out.extend_from_slice(&length_bytes(length));
}

/// A head with a value of 4 GiB does not arrive.
fn length_bytes(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    fn written(name: &str, values: &[&str]) -> Encoded {
        let lines: Vec<_> = values.iter().map(|value| (name, *value)).collect();
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a test gives field names");
        let mut out = Encoded::new();
        write(&name, &headers(&lines), &mut out);
        out
    }

    type Row<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str]);

    #[test]
    fn what_is_remembered_is_told_apart_by_name_and_list() {
        let lists: Vec<String> = (0..200).map(|n| format!("en;q=0.{n}, de")).collect();
        let cold: Vec<_> = lists
            .iter()
            .map(|list| written("accept-language", &[list]))
            .collect();
        for _ in 0..2 {
            for (list, cold) in lists.iter().zip(&cold) {
                assert_eq!(written("accept-language", &[list]), *cold);
                let encoding = written("accept-encoding", &[list]);
                assert!(encoding.starts_with(b"\x00\x0faccept-encoding"));
            }
        }
    }

    #[test]
    fn values_that_mean_the_same_are_written_alike() {
        #[rustfmt::skip]
        let rows: &[Row<'_>] = &[
            ("RFC 9110 §5.3 lines are one list", "x", &["a", "b"], &["a,b"]),
            ("RFC 9110 §5.6.1 spaces around commas", "x", &["a ,\t b "], &["a,b"]),
            ("spaces around the whole", "x", &["  a "], &["a"]),
            ("case of Accept", "accept", &["Text/HTML, */*"], &["text/html,*/*"]),
            ("case of Accept-Charset", "accept-charset", &["UTF-8"], &["utf-8"]),
            ("codings: order", "accept-encoding", &["br, gzip"], &["gzip, br"]),
            ("codings: lines", "accept-encoding", &["gzip", "br"], &["br, gzip"]),
            ("codings: case", "accept-encoding", &["GZip"], &["gzip"]),
            ("codings: x-gzip", "accept-encoding", &["X-gzip, br"], &["br, gzip"]),
            ("codings: duplicates", "accept-encoding", &["gzip, br, x-gzip, GZIP"], &["br, gzip"]),
            ("codings: q=1", "accept-encoding", &["gzip;q=1, br;q=1.000"], &["gzip, br;q=1."]),
            ("codings: q in one form", "accept-encoding", &["gzip ; Q=0.50"], &["gzip;q=0.5"]),
            ("codings: order by weight", "accept-encoding", &["a;q=0.1, b;q=0.9"], &["b;q=0.9, a;q=0.1"]),
            ("codings: empty members", "accept-encoding", &[",gzip,,"], &["gzip"]),
            ("languages: case, spaces", "accept-language", &["de-DE , EN;q=0.50"], &["de-de,en;q=0.5"]),
            ("languages: by weight", "accept-language", &["en;q=0.5, de"], &["de, en;q=0.500"]),
            ("an unparsed coding: case, spaces", "accept-encoding", &["GZIP;level=9 , br"], &["gzip;level=9,br"]),
        ];
        for (sentence, name, one, other) in rows {
            assert_eq!(written(name, one), written(name, other), "{sentence}");
        }
    }

    #[test]
    fn values_that_may_mean_something_else_are_written_apart() {
        #[rustfmt::skip]
        let rows: &[Row<'_>] = &[
            ("absent and empty", "x", &[], &[""]),
            ("absent and empty Accept-Encoding", "accept-encoding", &[], &[""]),
            ("[A,B] and [AB]", "x", &["A,B"], &["AB"]),
            ("[A][B] and [AB]", "x", &["A", "B"], &["AB"]),
            ("order", "x", &["a, b"], &["b, a"]),
            ("case where there may be one", "x", &["A"], &["a"]),
            ("an empty line more", "x", &["a"], &["a", ""]),
            ("spaces within a member", "x", &["a b"], &["a  b"]),
            ("RFC 9110 §5.6.4 spaces in quotes", "x", &["\"a, b\""], &["\"a,b\""]),
            ("RFC 9110 §5.6.4 a quoted comma", "x", &["\"a\",\"b\""], &["\"a,b\""]),
            ("RFC 9110 §5.6.4 case in quotes", "accept", &["a/b;p=\"X\""], &["a/b;p=\"x\""]),
            ("an open quote on two lines", "x", &["\"a", "b\""], &["\"a,b\""]),
            ("codings: another weight", "accept-encoding", &["gzip"], &["gzip;q=0.9"]),
            ("codings: refused", "accept-encoding", &["gzip;q=0"], &["gzip"]),
            ("codings: one more", "accept-encoding", &["gzip"], &["gzip, br"]),
            ("codings: two weights, two orders", "accept-encoding", &["br;q=0, br"], &["br, br;q=0"]),
            ("codings: two weights", "accept-encoding", &["br;q=0, br"], &["br"]),
            ("codings: too exact", "accept-encoding", &["br;q=0.1234"], &["br;q=0.123"]),
            ("codings: too heavy", "accept-encoding", &["br;q=1.1"], &["br"]),
            ("codings: no weight", "accept-encoding", &["br;q="], &["br"]),
            ("codings: a bare q is no coding's weight", "accept-encoding", &["br;q"], &["br"]),
            ("codings: another parameter", "accept-encoding", &["br;x=1"], &["br"]),
            ("codings: unparsed keeps its order", "accept-encoding", &["b;x, a"], &["a, b;x"]),
            ("codings: what is no name keeps its order", "accept-encoding", &["b c, a"], &["a, b c"]),
            ("codings: bytes above 0x7F", "accept-encoding", &["é"], &["è"]),
            ("languages: order of equals", "accept-language", &["de, en"], &["en, de"]),
            ("languages: another weight", "accept-language", &["de, en;q=0.5"], &["de, en;q=0.4"]),
            ("languages: two weights", "accept-language", &["de;q=0.1, de"], &["de"]),
        ];
        for (sentence, name, one, other) in rows {
            assert_ne!(written(name, one), written(name, other), "{sentence}");
        }
        assert_ne!(
            written("x", &["a"]),
            written("y", &["a"]),
            "the name is part of it"
        );
    }

    #[test]
    fn a_field_is_written_as_its_name_a_tag_and_its_value() {
        #[rustfmt::skip]
        let rows: &[(&str, &str, &[&str], u8, &str)] = &[
            ("a list", "x", &["b , A", "c"], LIST, "b,A,c"),
            ("an empty field", "x", &[""], LIST, ""),
            ("codings", "accept-encoding", &["br;q=0.5, x-gzip, zstd"], MEANING, "gzip,zstd,br;q=500"),
            ("languages", "accept-language", &["en;q=0.5, de, fr"], MEANING, "de,fr,en;q=500"),
            ("languages that are no list of languages", "accept-language", &["DE;x"], LIST, "de;x"),
            ("an open quote", "x", &["a", " \"B , c"], RAW, "\0\0\0\u{1}a\0\0\0\u{7} \"B , c"),
        ];
        for (sentence, name, values, tag, value) in rows {
            let mut expected = vec![0, name.len() as u8];
            expected.extend_from_slice(name.as_bytes());
            expected.extend_from_slice(&[*tag, 0, 0, 0, value.len() as u8]);
            expected.extend_from_slice(value.as_bytes());
            assert_eq!(written(name, values).as_slice(), expected, "{sentence}");
        }
        assert_eq!(
            written("x", &[]).as_slice(),
            [0, 1, b'x', ABSENT],
            "an absent field"
        );
    }

    #[test]
    fn an_unparsed_value_never_looks_like_one_that_was_understood() {
        // "gzip;q=500" is what a weight of a half would be written as without the tag.
        assert_ne!(
            written("accept-encoding", &["gzip;q=500"]),
            written("accept-encoding", &["gzip;q=0.5"])
        );
        assert_ne!(
            written("accept-language", &["de;q=500"]),
            written("accept-language", &["de;q=0.5"])
        );
    }

    #[test]
    fn usual_values_need_no_heap() {
        let request = headers(&[
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("accept-language", "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7"),
        ]);
        let mut out = Encoded::new();
        write(&ACCEPT_ENCODING, &request, &mut out);
        write(&ACCEPT_LANGUAGE, &request, &mut out);
        assert!(!out.spilled(), "{} bytes", out.len());
    }

    #[test]
    fn weights_are_read_in_thousandths() {
        let rows: &[(&str, Option<u16>)] = &[
            ("0", Some(0)),
            ("0.", Some(0)),
            ("0.5", Some(500)),
            ("0.05", Some(50)),
            ("0.999", Some(999)),
            ("1", Some(1000)),
            ("1.000", Some(1000)),
            ("1.001", None),
            ("0.0000", None),
            ("2", None),
            ("", None),
            (".5", None),
            ("0,5", None),
            ("0.x", None),
            ("-0", None),
        ];
        for (text, expected) in rows {
            assert_eq!(thousandths(text.as_bytes()), *expected, "{text}");
        }
    }

    #[test]
    fn any_value_is_written_without_a_panic_and_in_a_way_that_ends_where_it_says() {
        let mut random = Random::new(6);
        for _ in 0..20_000 {
            let name = random.pick(&["accept", "accept-encoding", "accept-language", "x"]);
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            let mut map = HeaderMap::new();
            for _ in 0..=random.below(2) {
                map.append(name.clone(), random.field_value(40));
            }
            let mut out = Encoded::new();
            write(&name, &map, &mut out);
            let at = 2 + name.as_str().len() + 1;
            let length = u32::from_be_bytes(out[at..at + 4].try_into().expect("four bytes"));
            assert_eq!(out.len(), at + 4 + length as usize, "{map:?}");
        }
    }

    #[test]
    fn meanings_survive_shuffling_and_other_spelling() {
        let mut random = Random::new(7);
        for _ in 0..20_000 {
            let names = ["br", "gzip", "zstd", "deflate", "identity", "*"];
            let mut codings: Vec<(&str, usize)> = names[..random.below(6)]
                .iter()
                .map(|name| (*name, random.below(11)))
                .collect();
            let spell = |random: &mut Random, codings: &[(&str, usize)]| {
                let members: Vec<_> = codings
                    .iter()
                    .map(|(name, tenths)| {
                        let name = if random.below(2) == 0 {
                            name.to_uppercase()
                        } else {
                            (*name).to_owned()
                        };
                        let weight = match (*tenths, random.below(3)) {
                            (10, 0) => String::new(),
                            (10, 1) => ";q=1.0".to_owned(),
                            (10, _) => " ; Q=1".to_owned(),
                            (tenths, 0) => format!(";q=0.{tenths}"),
                            (tenths, 1) => format!("; Q=0.{tenths}0"),
                            (tenths, _) => format!(" ;q=0.{tenths}00"),
                        };
                        name + &weight
                    })
                    .collect();
                members.join(random.pick(&[",", ", ", " ,, "]))
            };
            let one = spell(&mut random, &codings);
            for at in (1..codings.len()).rev() {
                codings.swap(at, random.below(at + 1));
            }
            let other = spell(&mut random, &codings);
            assert_eq!(
                written("accept-encoding", &[&one]),
                written("accept-encoding", &[&other]),
                "{one} | {other}"
            );
            if let Some((_, tenths)) = codings.first_mut() {
                *tenths = (*tenths + 1) % 11;
                let changed = spell(&mut random, &codings);
                assert_ne!(
                    written("accept-encoding", &[&one]),
                    written("accept-encoding", &[&changed]),
                    "{one} | {changed}"
                );
            }
        }
    }
}
