//! Targeted fields ([RFC 9213](https://www.rfc-editor.org/rfc/rfc9213)), as `CDN-Cache-Control`: what
//! `Cache-Control` says, for some caches only.
//!
//! Which fields are listened to is a setting. They are structured fields: whatever is wrong in one
//! takes it out of consideration as a whole, where `Cache-Control` would be read in the stricter way.

use http::{HeaderMap, HeaderName};

use super::{
    directives::ResponseDirectives,
    structured::{Value, dictionary},
    syntax::MAX_SECONDS,
};

/// What the first of these fields says that is there, not empty, and valid. It is heard in place of
/// `Cache-Control` and `Expires` (§2.2).
pub(crate) fn read(headers: &HeaderMap, names: &[HeaderName]) -> Option<ResponseDirectives> {
    names.iter().find_map(|name| directives(headers, name))
}

/// §2.1: the types of values are those of the directives; a field that violates one is ignored, as
/// is one with an error of syntax. `None` then.
fn directives(headers: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    #[rustfmt::skip]
    let [
        no_store, no_cache, private, public, must_revalidate, proxy_revalidate, must_understand,
        immutable, max_age, s_maxage, stale_while_revalidate, stale_if_error,
    ] = dictionary(headers, name, [
        "no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate", "must-understand",
        "immutable", "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error",
    ])?;
    Some(ResponseDirectives {
        no_store: flag(no_store)?,
        no_cache: qualified(no_cache)?,
        private: qualified(private)?,
        public: flag(public)?,
        must_revalidate: flag(must_revalidate)?,
        proxy_revalidate: flag(proxy_revalidate)?,
        must_understand: flag(must_understand)?,
        immutable: flag(immutable)?,
        max_age: seconds(max_age)?,
        s_maxage: seconds(s_maxage)?,
        stale_while_revalidate: seconds(stale_while_revalidate)?,
        stale_if_error: seconds(stale_if_error)?,
        targeted: true,
    })
}

/// §2.1: a directive without a value is true. "No" is no value that any of them has.
fn flag(value: Option<Value<'_>>) -> Option<bool> {
    match value {
        None => Some(false),
        Some(Value::Boolean(true)) => Some(true),
        Some(_) => None,
    }
}

/// RFC 9111, 5.2.2.4 and 5.2.2.7: with the names of fields, as a string or as a list, it counts as if
/// it were without.
fn qualified(value: Option<Value<'_>>) -> Option<bool> {
    let is_name = |value: &Value<'_>| matches!(value, Value::String(_) | Value::Token(_));
    match value {
        Some(Value::String(_)) => Some(true),
        Some(Value::InnerList(names)) => names.iter().all(is_name).then_some(true),
        value => flag(value),
    }
}

/// RFC 9111, 1.2.2: what is larger than 2^31 counts as 2^31.
fn seconds(value: Option<Value<'_>>) -> Option<Option<u64>> {
    match value {
        None => Some(None),
        Some(Value::Integer(seconds)) => {
            let seconds = u64::try_from(seconds).ok()?;
            Some(Some(seconds.min(MAX_SECONDS)))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    const NAMES: [HeaderName; 2] = [
        HeaderName::from_static("example-cache-control"),
        HeaderName::from_static("cdn-cache-control"),
    ];

    /// Nothing, in a field that is there.
    const SAID: ResponseDirectives = ResponseDirectives {
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
        targeted: true,
    };

    fn max_age(seconds: u64) -> ResponseDirectives {
        ResponseDirectives {
            max_age: Some(seconds),
            ..SAID
        }
    }

    #[test]
    fn a_targeted_field_has_the_types_of_its_directives_or_is_not_there() {
        let none = SAID;
        let no_store = ResponseDirectives {
            no_store: true,
            ..none
        };
        let no_cache = ResponseDirectives {
            no_cache: true,
            ..none
        };
        let private = ResponseDirectives {
            private: true,
            ..none
        };
        #[rustfmt::skip]
        let rows: &[(&str, &[&str], Option<ResponseDirectives>)] = &[
            ("not there", &[], None),
            ("§2.1 empty", &[""], None),
            ("§2.1 max-age", &["max-age=60"], Some(max_age(60))),
            ("§2.1 max-age of 0", &["max-age=0"], Some(max_age(0))),
            ("RFC 9111 §1.2.2 capped", &["max-age=999999999999999"], Some(max_age(1 << 31))),
            ("§2.1 a decimal", &["max-age=60.0"], None),
            ("§2.1 a string", &["max-age=\"60\""], None),
            ("§2.1 a token", &["max-age=x"], None),
            ("§2.1 no value", &["max-age"], None),
            ("§2.1 a list", &["max-age=(60)"], None),
            ("§2.1 negative", &["max-age=-1"], None),
            ("RFC 9651 §3.3.1 too many digits", &["max-age=9999999999999999"], None),
            ("§2.1 a date", &["max-age=@60"], None),
            ("s-maxage", &["s-maxage=9"], Some(ResponseDirectives { s_maxage: Some(9), ..none })),
            ("s-maxage, negative", &["s-maxage=-9"], None),
            ("RFC 5861 §3", &["stale-while-revalidate=5"], Some(ResponseDirectives { stale_while_revalidate: Some(5), ..none })),
            ("RFC 5861 §3, no number", &["stale-while-revalidate"], None),
            ("RFC 5861 §4", &["stale-if-error=6"], Some(ResponseDirectives { stale_if_error: Some(6), ..none })),
            ("RFC 5861 §4, no number", &["stale-if-error=x"], None),
            ("§2.2 no-store", &["no-store"], Some(no_store)),
            ("§2.1 no-store, spelled out", &["no-store=?1"], Some(no_store)),
            ("§2.1 no-store is always true", &["no-store=?0"], None),
            ("§2.1 no-store has no value", &["no-store=1"], None),
            ("§2.2 no-cache", &["no-cache"], Some(no_cache)),
            ("§2.1 no-cache with a string", &["no-cache=\"set-cookie, x\""], Some(no_cache)),
            ("no-cache with a list", &["no-cache=(\"x\" y)"], Some(no_cache)),
            ("no-cache with a list of something else", &["no-cache=(\"x\" 1)"], None),
            ("no-cache with a token", &["no-cache=x"], None),
            ("no-cache with a number", &["no-cache=0"], None),
            ("no-cache is not false", &["no-cache=?0"], None),
            ("§2.2 private", &["private"], Some(private)),
            ("private with a string", &["private=\"x\""], Some(private)),
            ("private with a list", &["private=()"], Some(private)),
            ("private with a date", &["private=@0"], None),
            ("§2.2 must-revalidate", &["must-revalidate"], Some(ResponseDirectives { must_revalidate: true, ..none })),
            ("must-revalidate with a string", &["must-revalidate=\"x\""], None),
            ("proxy-revalidate", &["proxy-revalidate"], Some(ResponseDirectives { proxy_revalidate: true, ..none })),
            ("must-understand", &["must-understand"], Some(ResponseDirectives { must_understand: true, ..none })),
            ("public", &["public"], Some(ResponseDirectives { public: true, ..none })),
            ("public with a value", &["public=1, max-age=60"], None),
            ("immutable", &["immutable"], Some(ResponseDirectives { immutable: true, ..none })),
            ("§2.2 unknown directives are ignored", &["none"], Some(none)),
            ("§2.2 of any type", &["x=(1 2), max-age=60, y=1.5"], Some(max_age(60))),
            ("§2.1 parameters are ignored", &["max-age=60;x=1;y, no-store;z"], Some(ResponseDirectives { no_store: true, ..max_age(60) })),
            ("§2.1 one bad member is enough", &["no-store, max-age=x"], None),
            ("§2.1 an error of syntax is enough", &["no-store, x="], None),
            ("§2.1 names have a case here", &["Max-Age=60"], None),
            ("RFC 9651 §3.2 of duplicates the last", &["max-age=60, max-age=5"], Some(max_age(5))),
            ("RFC 9651 §3.2 of duplicates the last, be it larger", &["max-age=5, max-age=60"], Some(max_age(60))),
            ("RFC 9651 §3.2 what is overwritten was never there", &["max-age=x, max-age=60"], Some(max_age(60))),
            ("RFC 9651 §4.2 lines are one dictionary", &["no-store", "max-age=60"], Some(ResponseDirectives { no_store: true, ..max_age(60) })),
            ("RFC 9651 §4.2 a bad line spoils the others", &["no-store", "max-age=60,"], None),
        ];
        for (sentence, values, expected) in rows {
            let lines: Vec<_> = values.iter().map(|v| ("cdn-cache-control", *v)).collect();
            assert_eq!(read(&headers(&lines), &NAMES), *expected, "{sentence}");
        }
    }

    #[test]
    fn the_first_field_of_the_list_that_is_valid_counts() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<u64>);
        #[rustfmt::skip]
        let rows: &[Row<'_>] = &[
            ("§2.2 neither", &[("cache-control", "max-age=1"), ("expires", "{+9}")], None),
            ("§2.2 the first", &[("cdn-cache-control", "max-age=2"), ("example-cache-control", "max-age=1")], Some(1)),
            ("§2.2 the second", &[("cdn-cache-control", "max-age=2")], Some(2)),
            ("§2.1 the second, where the first is empty", &[("cdn-cache-control", "max-age=2"), ("example-cache-control", "")], Some(2)),
            ("§2.1 the second, where the first is invalid", &[("cdn-cache-control", "max-age=2"), ("example-cache-control", "max-age=1, no-store=no")], Some(2)),
            ("§2.1 neither, where both are invalid", &[("cdn-cache-control", "max-age"), ("example-cache-control", "1")], None),
            ("§2.2 one that is not in the list", &[("other-cache-control", "max-age=3")], None),
        ];
        for (sentence, lines, expected) in rows {
            let found = read(&headers(lines), &NAMES);
            assert_eq!(found.and_then(|said| said.max_age), *expected, "{sentence}");
            assert_eq!(read(&headers(lines), &[]), None, "{sentence}, no list");
        }
    }

    #[test]
    fn whatever_is_valid_says_here_what_it_says_in_cache_control() {
        let mut random = Random::new(22);
        let mut valid = 0;
        for _ in 0..20_000 {
            #[rustfmt::skip]
            let members: Vec<_> = (0..=random.below(4)).map(|_| random.pick(&[
                "no-store", "no-cache", "private", "public", "immutable", "must-revalidate",
                "no-cache=\"a, b\"", "private=\"a\"", "max-age=5", "s-maxage=7", "stale-if-error=8",
                "stale-while-revalidate=9", "x-unknown", "x=1", "proxy-revalidate", "must-understand",
                "max-age=-1", "public=yes", "MAX-AGE=9", "max-age=x",
            ])).collect();
            let value = members.join(random.pick(&[",", ", ", " ,\t"]));
            let lines = headers(&[("cdn-cache-control", &value), ("cache-control", &value)]);
            let names: Vec<_> = members.iter().map(|m| m.split('=').next()).collect();
            let is_unique = (1..names.len()).all(|at| !names[..at].contains(&names[at]));
            if let (Some(said), true) = (read(&lines, &NAMES), is_unique) {
                valid += 1;
                let elsewhere = ResponseDirectives {
                    targeted: true,
                    ..ResponseDirectives::parse(&lines)
                };
                assert_eq!(said, elsewhere, "{value}");
            }
        }
        assert!(valid > 5_000, "{valid}");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_within_bounds() {
        let mut random = Random::new(23);
        for _ in 0..20_000 {
            let mut map = HeaderMap::new();
            for _ in 0..=random.below(2) {
                map.append(NAMES[random.below(2)].clone(), random.field_value(40));
            }
            if let Some(said) = read(&map, &NAMES) {
                let times = [said.max_age, said.s_maxage, said.stale_if_error];
                assert!(
                    times.iter().flatten().all(|time| *time <= MAX_SECONDS),
                    "{map:?}"
                );
            }
        }
    }
}
