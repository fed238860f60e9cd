//! `Cache-Control`, of responses and of requests
//! ([RFC 9111, section 5.2](https://www.rfc-editor.org/rfc/rfc9111#section-5.2)).
//!
//! All field lines are one list. Whatever can be read in two ways is read in the stricter one
//! (§4.2.1: what is invalid is encouraged to count as stale). What the directives lead to is not
//! decided here.

use std::cell::RefCell;

use http::{
    HeaderMap,
    header::{CACHE_CONTROL, PRAGMA},
};

use super::syntax::{MAX_SECONDS, cut, delta_seconds, is_token, members};

/// What a response says in `Cache-Control` (§5.2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ResponseDirectives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) immutable: bool,
    /// Times are in seconds, at most 2^31; one that cannot be read is 0.
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
    /// They come from a targeted field (RFC 9213), so that `Expires` does not count.
    pub(crate) targeted: bool,
}

impl ResponseDirectives {
    /// Reads all `Cache-Control` lines of a response.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        /// Longer lines are not remembered.
        const MAX_LINE: usize = 128;
        thread_local! {
            static LAST: RefCell<(Vec<u8>, ResponseDirectives)> = RefCell::default();
        }
        let mut lines = headers.get_all(CACHE_CONTROL).iter();
        let only = match (lines.next(), lines.next()) {
            (None, _) => return Self::default(),
            (Some(line), None) => Some(line.as_bytes()),
            (Some(_), Some(_)) => None,
        };
        let Some(line) = only.filter(|line| line.len() <= MAX_LINE) else {
            return Self::parse_anew(headers);
        };
        // One line, and mostly the same as that of the response before.
        LAST.with_borrow_mut(|(known, directives)| {
            if known != line {
                *directives = Self::parse_anew(headers);
                known.clear();
                known.extend_from_slice(line);
            }
            *directives
        })
    }

    fn parse_anew(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        let readable = each(headers, |name, argument| directives.apply(name, argument));
        // §5.2: an open quote may hide any directive, so the strongest is assumed.
        directives.no_store |= !readable;
        directives
    }

    fn apply(&mut self, name: &[u8], argument: Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("max-age") {
            // §5.2.2.1; §4.2.1: of duplicates the smaller.
            smaller(&mut self.max_age, argument.seconds().unwrap_or(0));
        } else if is("s-maxage") {
            // §5.2.2.10
            smaller(&mut self.s_maxage, argument.seconds().unwrap_or(0));
        } else if is("no-store") {
            // §5.2.2.5: "no-store=junk" as well; an argument takes nothing away from it.
            self.no_store = true;
        } else if is("no-cache") {
            // §5.2.2.4: the qualified form as the unqualified one.
            self.no_cache = true;
        } else if is("private") {
            // §5.2.2.7: the qualified form as the unqualified one.
            self.private = true;
        } else if is("public") {
            // §5.2.2.9: it widens, so only the form that is defined counts.
            self.public |= argument == Argument::None;
        } else if is("must-revalidate") {
            // §5.2.2.2
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            // §5.2.2.8
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            // §5.2.2.3
            self.must_understand = true;
        } else if is("immutable") {
            // RFC 8246, section 2: it widens, too.
            self.immutable |= argument == Argument::None;
        } else if is("stale-while-revalidate") {
            // RFC 5861, section 3: a window that cannot be read is no window.
            smaller(
                &mut self.stale_while_revalidate,
                argument.seconds().unwrap_or(0),
            );
        } else if is("stale-if-error") {
            // RFC 5861, section 4
            smaller(&mut self.stale_if_error, argument.seconds().unwrap_or(0));
        }
        // §5.2.3: unknown directives are ignored.
    }
}

/// What a request demands in `Cache-Control` (§5.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    /// `Some(None)`: any staleness is accepted.
    pub(crate) max_stale: Option<Option<u64>>,
}

impl RequestDirectives {
    /// Whether nothing is demanded.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Without those that every reload of a browser sends, and those that accept less than the
    /// response says (`rules.md`: only where a layer asks for them).
    pub(crate) fn without_ages(self) -> Self {
        Self {
            max_age: None,
            min_fresh: None,
            max_stale: None,
            ..self
        }
    }

    /// §5.4: `Pragma: no-cache` counts where there is no `Cache-Control`.
    pub(crate) fn from_pragma(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(PRAGMA).into_iter();
        let no_cache = lines
            .flat_map(|line| members(line.as_bytes()))
            .any(|member| member.is_ok_and(|member| member.eq_ignore_ascii_case(b"no-cache")));
        Self {
            no_cache,
            ..Self::default()
        }
    }

    /// Reads all `Cache-Control` lines of a request.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            return directives;
        }
        let readable = each(headers, |name, argument| directives.apply(name, argument));
        // §5.2: an open quote may hide any directive, so the strongest is assumed.
        directives.no_store |= !readable;
        directives
    }

    fn apply(&mut self, name: &[u8], argument: Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("no-cache") {
            // §5.2.1.4
            self.no_cache = true;
        } else if is("no-store") {
            // §5.2.1.5
            self.no_store = true;
        } else if is("only-if-cached") {
            // §5.2.1.7: the strict reading would be a 504; junk is not worth an error.
            self.only_if_cached |= argument != Argument::Unreadable;
        } else if is("max-age") {
            // §5.2.1.1: what cannot be read accepts no age.
            smaller(&mut self.max_age, argument.seconds().unwrap_or(0));
        } else if is("min-fresh") {
            // §5.2.1.3: the larger demand is the stricter one.
            let seconds = argument.seconds().unwrap_or(MAX_SECONDS);
            self.min_fresh = Some(self.min_fresh.map_or(seconds, |known| known.max(seconds)));
        } else if is("max-stale") {
            // §5.2.1.2: without an argument any staleness; the smaller limit wins.
            let limit = match argument {
                Argument::None => None,
                _ => Some(argument.seconds().unwrap_or(0)),
            };
            self.max_stale = Some(match (self.max_stale.flatten(), limit) {
                (Some(known), Some(limit)) => Some(known.min(limit)),
                (known, limit) => known.or(limit),
            });
        }
    }
}

/// What follows the name of a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Argument<'a> {
    None,
    /// A token, or what stands between the quotes.
    Value(&'a [u8]),
    /// The name was found in a member that is no directive: `private; max-age=60`.
    Unreadable,
}

impl Argument<'_> {
    fn seconds(self) -> Option<u64> {
        match self {
            // §5.2: `max-age="60"` is to be accepted as `max-age=60`.
            Self::Value(value) => delta_seconds(value),
            Self::None | Self::Unreadable => None,
        }
    }
}

/// Hands out each directive; `false` if a line ends within a quoted string.
fn each(headers: &HeaderMap, mut apply: impl FnMut(&[u8], Argument<'_>)) -> bool {
    let mut readable = true;
    for line in headers.get_all(CACHE_CONTROL) {
        for member in members(line.as_bytes()) {
            match member {
                Ok(member) => match directive(member) {
                    Some((name, argument)) => apply(name, argument),
                    // Semicolons, missing commas, spaces around `=`, stray quotes: each word is
                    // heard, but none of them is believed to allow anything.
                    None => words(member).for_each(|word| apply(word, Argument::Unreadable)),
                },
                Err(_) => readable = false,
            }
        }
    }
    readable
}

/// §5.2: `token [ "=" ( token / quoted-string ) ]`, without whitespace.
fn directive(member: &[u8]) -> Option<(&[u8], Argument<'_>)> {
    let (name, value) = cut(member, b'=');
    // Single quotes may stand in a token, but no directive has one: somebody meant quotes.
    if !is_token(name) || name.contains(&b'\'') {
        return None;
    }
    let argument = match value {
        None => Argument::None,
        Some([b'"', rest @ ..]) => Argument::Value(quoted(rest)?),
        Some(value) if is_token(value) => Argument::Value(value),
        Some(_) => return None,
    };
    Some((name, argument))
}

/// What stands before the closing quote, if nothing follows that quote.
fn quoted(after_quote: &[u8]) -> Option<&[u8]> {
    let mut escaped = false;
    let end = after_quote.iter().position(|&byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    (end + 1 == after_quote.len()).then(|| &after_quote[..end])
}

fn words(member: &[u8]) -> impl Iterator<Item = &[u8]> {
    member
        .split(|&byte| !(byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'))
        .filter(|word| !word.is_empty())
}

fn smaller(known: &mut Option<u64>, seconds: u64) {
    *known = Some(known.map_or(seconds, |known| known.min(seconds)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    const NONE: ResponseDirectives = ResponseDirectives {
        no_store: false,
        no_cache: false,
        private: false,
        public: false,
        must_revalidate: false,
        proxy_revalidate: false,
        must_understand: false,
        immutable: false,
        max_age: None,
        s_maxage: None,
        stale_while_revalidate: None,
        stale_if_error: None,
        targeted: false,
    };
    const NO_STORE: ResponseDirectives = ResponseDirectives {
        no_store: true,
        ..NONE
    };
    const NO_CACHE: ResponseDirectives = ResponseDirectives {
        no_cache: true,
        ..NONE
    };
    const PRIVATE: ResponseDirectives = ResponseDirectives {
        private: true,
        ..NONE
    };
    const PUBLIC: ResponseDirectives = ResponseDirectives {
        public: true,
        ..NONE
    };

    const fn max_age(seconds: u64) -> ResponseDirectives {
        ResponseDirectives {
            max_age: Some(seconds),
            ..NONE
        }
    }

    fn lines(values: &[&str]) -> HeaderMap {
        headers(
            &values
                .iter()
                .map(|value| ("cache-control", *value))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn response_directives_are_read_as_a_list_over_all_lines() {
        #[rustfmt::skip]
        let rows: &[(&str, &[&str], ResponseDirectives)] = &[
            ("nothing", &[], NONE),
            ("an empty line", &[""], NONE),
            ("§5.2.2.1 max-age", &["max-age=60"], max_age(60)),
            ("§5.2.2.2 must-revalidate", &["must-revalidate"], ResponseDirectives { must_revalidate: true, ..NONE }),
            ("§5.2.2.3 must-understand", &["must-understand"], ResponseDirectives { must_understand: true, ..NONE }),
            ("§5.2.2.4 no-cache", &["no-cache"], NO_CACHE),
            ("§5.2.2.5 no-store", &["no-store"], NO_STORE),
            ("§5.2.2.7 private", &["private"], PRIVATE),
            ("§5.2.2.8 proxy-revalidate", &["proxy-revalidate"], ResponseDirectives { proxy_revalidate: true, ..NONE }),
            ("§5.2.2.9 public", &["public"], PUBLIC),
            ("§5.2.2.10 s-maxage", &["s-maxage=9"], ResponseDirectives { s_maxage: Some(9), ..NONE }),
            ("RFC 8246 immutable", &["immutable"], ResponseDirectives { immutable: true, ..NONE }),
            ("RFC 5861 §3", &["stale-while-revalidate=5"], ResponseDirectives { stale_while_revalidate: Some(5), ..NONE }),
            ("RFC 5861 §4", &["stale-if-error=6"], ResponseDirectives { stale_if_error: Some(6), ..NONE }),
            ("§5.2: names have no case", &["Max-AGE=60, PUBLIC"], ResponseDirectives { public: true, ..max_age(60) }),
            ("RFC 9110 §5.3: lines are one list", &["public", "MAX-age=60"], ResponseDirectives { public: true, ..max_age(60) }),
            ("RFC 9110 §5.6.1: empty members, whitespace", &[" ,\t, max-age=60 ,,"], max_age(60)),
            ("§5.2.3: unknown directives are ignored", &["max-age=60, x-new=\"a, b\", community=ucl"], max_age(60)),
            ("a longer name is another name", &["no-stores, x-private, max-age2=4"], NONE),
            ("bytes above 0x7F are nothing", &["é, max-age=60"], max_age(60)),
        ];
        for (sentence, values, expected) in rows {
            assert_eq!(
                ResponseDirectives::parse(&lines(values)),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_read_in_the_stricter_one() {
        #[rustfmt::skip]
        let rows: &[(&str, &[&str], ResponseDirectives)] = &[
            ("§4.2.1: of duplicates the smaller", &["max-age=60, max-age=5"], max_age(5)),
            ("§4.2.1: of duplicates the smaller, over lines", &["max-age=5", "max-age=60"], max_age(5)),
            ("§4.2.1: of duplicates the invalid", &["max-age=60, max-age=x"], max_age(0)),
            ("§4.2.1: letters are stale", &["max-age=abc"], max_age(0)),
            ("§4.2.1: trailing letters are stale", &["max-age=60s"], max_age(0)),
            ("§4.2.1: an empty value is stale", &["max-age="], max_age(0)),
            ("§4.2.1: an empty quoted value is stale", &["max-age=\"\""], max_age(0)),
            ("§4.2.1: a missing value is stale", &["max-age"], max_age(0)),
            ("§4.2.1: negative is stale", &["max-age=-1"], max_age(0)),
            ("§4.2.1: a fraction is stale", &["max-age=1.5"], max_age(0)),
            ("§4.2.1: single quotes are stale", &["max-age='60'"], max_age(0)),
            ("§4.2.1: s-maxage likewise", &["s-maxage=abc"], ResponseDirectives { s_maxage: Some(0), ..NONE }),
            ("§5.2: no whitespace before =", &["max-age =60"], max_age(0)),
            ("§5.2: no whitespace after =", &["max-age= 60"], max_age(0)),
            ("§5.2: a quoted value is accepted", &["max-age=\"60\""], max_age(60)),
            ("§5.2: a quoted value with an escape is not", &["max-age=\"6\\0\""], max_age(0)),
            ("§1.2.2: too large is 2^31", &["max-age=99999999999999999999"], max_age(1 << 31)),
            ("§5.2.2.4: qualified as unqualified", &["no-cache=\"set-cookie\""], NO_CACHE),
            ("§5.2.2.7: qualified as unqualified", &["private=\"x, y\""], PRIVATE),
            ("§5.2.2.7: qualified by a token", &["private=x"], PRIVATE),
            ("§5.2.2.5: no-store with junk", &["no-store=junk"], NO_STORE),
            ("§5.2.2.5: no-store with nothing", &["no-store="], NO_STORE),
            ("§5.2.2.5: no-store in quotes is no hiding place", &["\"no-store\""], NO_STORE),
            ("§5.2.2.9: public with an argument does not widen", &["public=yes"], NONE),
            ("RFC 8246: immutable with an argument does not widen", &["immutable=yes"], NONE),
            ("§5.2: single quotes hide nothing", &["'no-store'"], NO_STORE),
            ("§5.2: single quotes around several hide nothing", &["'max-age=60, private'"], ResponseDirectives { private: true, ..max_age(0) }),
            ("§5.2: single quotes allow nothing", &["'public', 'max-age=60'"], max_age(0)),
            ("§5.2: typographic quotes hide nothing", &["“no-store”"], NO_STORE),
            ("§5.2: semicolons hide nothing", &["private; max-age=60"], ResponseDirectives { private: true, ..max_age(0) }),
            ("§5.2: semicolons allow nothing", &["public; max-age=60"], max_age(0)),
            ("§5.2: a missing comma hides nothing", &["max-age=60 no-store"], ResponseDirectives { no_store: true, ..max_age(0) }),
            ("§5.2: a missing comma after quotes hides nothing", &["x=\"a\"private"], PRIVATE),
            ("§5.2: a stray quoted comma hides nothing", &["x\"a, no-store\""], NO_STORE),
            ("§5.2: an unterminated quote", &["max-age=60, x=\"a"], ResponseDirectives { no_store: true, ..max_age(60) }),
            ("§5.2: an unterminated quote by an escape", &["x=\"a\\\""], NO_STORE),
            ("§5.2: an unterminated quote ends with its line", &["x=\"a", "max-age=60"], ResponseDirectives { no_store: true, ..max_age(60) }),
            ("RFC 5861: an invalid window is none", &["stale-if-error=x"], ResponseDirectives { stale_if_error: Some(0), ..NONE }),
        ];
        for (sentence, values, expected) in rows {
            assert_eq!(
                ResponseDirectives::parse(&lines(values)),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_well_formed_quoted_string_is_no_directive() {
        #[rustfmt::skip]
        let rows: &[(&str, &str, ResponseDirectives)] = &[
            ("before", "x=\"max-age=3600\", max-age=1", max_age(1)),
            ("after", "max-age=1, x=\"no-store, private\"", max_age(1)),
            ("with escaped quotes", "x=\"\\\"no-store\\\"\", max-age=1", max_age(1)),
        ];
        for (sentence, value, expected) in rows {
            assert_eq!(
                ResponseDirectives::parse(&lines(&[value])),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn request_directives_are_read_in_the_stricter_way() {
        let none = RequestDirectives::default();
        let no_store = RequestDirectives {
            no_store: true,
            ..none
        };
        let max_stale = |limit| RequestDirectives {
            max_stale: Some(limit),
            ..none
        };
        #[rustfmt::skip]
        let rows: &[(&str, &[&str], RequestDirectives)] = &[
            ("nothing", &[], none),
            ("§5.2.1.4 no-cache", &["No-Cache"], RequestDirectives { no_cache: true, ..none }),
            ("§5.2.1.5 no-store", &["no-store"], no_store),
            ("§5.2.1.5 no-store on a second line", &["x", "no-store"], no_store),
            ("§5.2.1.7 only-if-cached", &["only-if-cached"], RequestDirectives { only_if_cached: true, ..none }),
            ("§5.2.1.7 junk is not worth a 504", &["only-if-cached; x"], none),
            ("§5.2.1.1 max-age", &["max-age=0"], RequestDirectives { max_age: Some(0), ..none }),
            ("§5.2.1.1 the smaller", &["max-age=9, max-age=4"], RequestDirectives { max_age: Some(4), ..none }),
            ("§5.2.1.1 invalid accepts no age", &["max-age=x"], RequestDirectives { max_age: Some(0), ..none }),
            ("§5.2.1.3 the larger", &["min-fresh=4, min-fresh=9"], RequestDirectives { min_fresh: Some(9), ..none }),
            ("§5.2.1.3 invalid demands all", &["min-fresh=x"], RequestDirectives { min_fresh: Some(MAX_SECONDS), ..none }),
            ("§5.2.1.2 any staleness", &["max-stale"], max_stale(None)),
            ("§5.2.1.2 a limit", &["max-stale=7"], max_stale(Some(7))),
            ("§5.2.1.2 the limit wins over any", &["max-stale, max-stale=7, max-stale"], max_stale(Some(7))),
            ("§5.2.1.2 the smaller", &["max-stale=7, max-stale=3"], max_stale(Some(3))),
            ("§5.2.1.2 invalid accepts none", &["max-stale=x"], max_stale(Some(0))),
            ("§5.2: an unterminated quote", &["x=\"no-cache"], no_store),
            ("a response's directive means nothing", &["private, s-maxage=5, public"], none),
        ];
        for (sentence, values, expected) in rows {
            assert_eq!(
                RequestDirectives::parse(&lines(values)),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_within_bounds() {
        let mut random = Random::new(2);
        for _ in 0..20_000 {
            let mut map = HeaderMap::new();
            for _ in 0..=random.below(2) {
                map.append(CACHE_CONTROL, random.field_value(60));
            }
            let directives = ResponseDirectives::parse(&map);
            assert!(
                directives
                    .max_age
                    .is_none_or(|seconds| seconds <= MAX_SECONDS),
                "{map:?}"
            );
            assert!(
                directives
                    .s_maxage
                    .is_none_or(|seconds| seconds <= MAX_SECONDS),
                "{map:?}"
            );
            let directives = RequestDirectives::parse(&map);
            assert!(
                directives
                    .min_fresh
                    .is_none_or(|seconds| seconds <= MAX_SECONDS),
                "{map:?}"
            );
        }
    }

    #[test]
    fn no_store_is_heard_wherever_it_stands_in_a_list() {
        const MEMBERS: &[&str] = &[
            "max-age=60",
            "public",
            "x=\"a, b\"",
            "x=\"\\\",\"",
            "private=\"no-store\"",
            "",
            "  ",
            "immutable",
            "community=\"é\"",
            "s-maxage=\"5\"",
        ];
        let mut random = Random::new(3);
        for _ in 0..20_000 {
            let mut list: Vec<&str> = (0..random.below(6)).map(|_| random.pick(MEMBERS)).collect();
            assert!(
                !ResponseDirectives::parse(&lines(&[&list.join(",")])).no_store,
                "{list:?}"
            );
            let at = random.below(list.len() + 1);
            list.insert(
                at,
                random.pick(&["no-store", "NO-Store", " no-store ", "no-store=\"x\""]),
            );
            let separator = random.pick(&[",", ", ", " ,\t"]);
            let (one, two) = list.split_at(random.below(list.len() + 1));
            let two_lines = [one.join(separator), two.join(separator)];
            for values in [&[list.join(separator)][..], &two_lines] {
                let values: Vec<_> = values.iter().map(String::as_str).collect();
                assert!(
                    ResponseDirectives::parse(&lines(&values)).no_store,
                    "{values:?}"
                );
                assert!(
                    RequestDirectives::parse(&lines(&values)).no_store,
                    "{values:?}"
                );
            }
        }
    }
}
