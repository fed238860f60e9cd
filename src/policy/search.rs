//! `No-Vary-Search`: which parameters of a query make no difference
//! ([draft-ietf-httpbis-no-vary-search](https://datatracker.ietf.org/doc/draft-ietf-httpbis-no-vary-search/)).
//!
//! The sections are those of the draft. Whatever is wrong in the field leaves queries to be compared
//! as they are, which costs hits and nothing else (§4.1).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use super::structured::{Value, dictionary};

/// A rule of more names than that is none: it is a part of keys.
const LONGEST_RULE: usize = 1024;

pub(crate) const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// What of a query a response varies on: the URL search variance of §3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SearchVariance {
    params: Params,
    /// Whether the order of parameters with different names matters.
    vary_on_key_order: bool,
}

/// Which parameters matter; names are decoded, sorted, and each of them once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Params {
    AllBut(Box<[String]>),
    Only(Box<[String]>),
}

impl Default for SearchVariance {
    /// §3: everything matters.
    fn default() -> Self {
        Self {
            params: Params::AllBut(Box::default()),
            vary_on_key_order: true,
        }
    }
}

impl SearchVariance {
    /// What a response says (§4.2); the default if it says nothing that is valid.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let rule = Self::parse(headers).filter(|rule| rule.text().len() <= LONGEST_RULE);
        rule.unwrap_or_default()
    }

    /// Whether queries are compared as they are (§5).
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// §4.1
    fn parse(headers: &HeaderMap) -> Option<Self> {
        let keys = ["key-order", "params", "except"];
        let [key_order, params, except] = dictionary(headers, &NO_VARY_SEARCH, keys)?;
        let vary_on_key_order = match key_order {
            None => true,
            Some(Value::Boolean(makes_no_difference)) => !makes_no_difference,
            Some(_) => return None,
        };
        let params = match (params, except) {
            (None | Some(Value::Boolean(false)), None) => Params::AllBut(Box::default()),
            (Some(Value::Boolean(true)), None) => Params::Only(Box::default()),
            (Some(Value::Boolean(true)), Some(Value::InnerList(names))) => {
                Params::Only(names_of(&names)?)
            }
            (Some(Value::InnerList(names)), None) => Params::AllBut(names_of(&names)?),
            // An exception to what is no rule for all, or a value of another type.
            _ => return None,
        };
        Some(Self {
            params,
            vary_on_key_order,
        })
    }

    /// A query that stands for all that are equivalent to this one: two queries have the same if and
    /// only if the algorithm of §5 says so of them.
    ///
    /// By the default that is the query as it is, so that none differs from an empty one. Otherwise it
    /// is what is left of the parameters, each with a `=`; `None` if nothing is.
    pub(crate) fn canonical<'q>(&self, query: Option<&'q str>) -> Option<Cow<'q, str>> {
        if self.is_default() {
            return query.map(Cow::Borrowed);
        }
        let mut pairs: Vec<_> = pairs(query?)
            .filter(|(name, _)| self.varies_on(name))
            .collect();
        if !self.vary_on_key_order {
            // §5: by name alone, so that the values of one name keep their order. Which order it is
            // does not matter, as long as it is one: bytes in place of code units.
            pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        let mut canonical = String::new();
        for (name, value) in &pairs {
            if !canonical.is_empty() {
                canonical.push('&');
            }
            encode(name, &mut canonical);
            canonical.push('=');
            encode(value, &mut canonical);
        }
        // Of a pair there is a `=` at least.
        (!canonical.is_empty()).then_some(Cow::Owned(canonical))
    }

    /// The rule as a part of keys: rules that differ have texts that differ.
    pub(crate) fn text(&self) -> String {
        let (sign, names) = match &self.params {
            Params::AllBut(names) => ('-', names),
            Params::Only(names) => ('+', names),
        };
        let order = if self.vary_on_key_order { "o" } else { "" };
        let mut text = format!("{order}{sign}");
        for name in names {
            // Encoded, so that no name holds what stands between them.
            encode(name, &mut text);
            text.push('&');
        }
        text
    }

    fn varies_on(&self, name: &str) -> bool {
        let is_in = |names: &[String]| names.binary_search_by(|n| n.as_str().cmp(name)).is_ok();
        match &self.params {
            Params::AllBut(names) => !is_in(names),
            Params::Only(names) => is_in(names),
        }
    }
}

/// §4.1 and §4.3: strings, each decoded as a name in a query would be.
fn names_of(values: &[Value<'_>]) -> Option<Box<[String]>> {
    let decoded = values.iter().map(|value| match value {
        Value::String(name) => Some(decode(name).into_owned()),
        _ => None,
    });
    let mut names = decoded.collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names.into())
}

/// The parser of application/x-www-form-urlencoded (URL standard, 5.1): names and values.
fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    pieces.map(|piece| {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        (decode(name), decode(value))
    })
}

/// A plus is a space, then percent-decoding; what is no UTF-8 then is U+FFFD.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        decoded.push(match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, behind @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = behind;
                    high << 4 | low
                }
                // URL standard, 1.3: a sign alone stands for itself.
                _ => b'%',
            },
            _ => *byte,
        });
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// The other way round (URL standard, 5.2); only what stands for itself in every place does so here.
fn encode(text: &str, out: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                out.push(byte.into());
            }
            _ => out.extend([
                '%',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    fn lines(values: &[&str]) -> HeaderMap {
        let lines: Vec<_> = values.iter().map(|v| ("no-vary-search", *v)).collect();
        headers(&lines)
    }

    fn variance(params: Params, vary_on_key_order: bool) -> SearchVariance {
        SearchVariance {
            params,
            vary_on_key_order,
        }
    }

    fn all_but(names: &[&str]) -> Params {
        Params::AllBut(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn only(names: &[&str]) -> Params {
        Params::Only(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_field_is_a_rule_or_says_nothing() {
        #[rustfmt::skip]
        let rows: &[(&str, &[&str], SearchVariance)] = &[
            ("§4.2.1 all", &["params"], variance(only(&[]), true)),
            ("§4.2.1 some", &["params=(\"a\")"], variance(all_but(&["a"]), true)),
            ("§4.2.1 all but some", &["params, except=(\"x\")"], variance(only(&["x"]), true)),
            ("§1 order", &["key-order"], variance(all_but(&[]), false)),
            ("§4.2.1 spelled out", &["params=?1"], variance(only(&[]), true)),
            ("§4.2.1 order, spelled out", &["key-order=?1"], variance(all_but(&[]), false)),
            ("§4.2.1 in another order", &["params, key-order, except=(\"x\")"], variance(only(&["x"]), false)),
            ("all but nothing", &["params, except=()"], variance(only(&[]), true)),
            ("over several lines", &["params", "except=(\"x\")"], variance(only(&["x"]), true)),
            ("each name once", &["params=(\"b\" \"a\" \"b\")"], variance(all_but(&["a", "b"]), true)),
            ("§2 other keys are ignored", &["params, more=(1), other"], variance(only(&[]), true)),
            ("parameters are ignored", &["params;a=1, except=(\"x\";b);c"], variance(only(&["x"]), true)),
            ("RFC 9651 §3.2 of duplicates the last", &["params=x, params=(\"a\")"], variance(all_but(&["a"]), true)),
            ("§4.3.1 a name is decoded", &["params=(\"%C3%A9+%E6%B0%97\")"], variance(all_but(&["é 気"]), true)),
            ("§4.3 what is no UTF-8", &["params=(\"%f6\")"], variance(all_but(&["\u{FFFD}"]), true)),
        ];
        for (sentence, values, expected) in rows {
            let found = SearchVariance::read(&lines(values));
            assert_eq!(found, *expected, "{sentence}");
            assert!(!found.is_default(), "{sentence}");
        }
        #[rustfmt::skip]
        let default: &[(&str, &[&str])] = &[
            ("§4.1 not there", &[]),
            ("§4.1 empty", &[""]),
            ("§4.2.1 nothing", &["params=?0"]),
            ("§4.2.1 an empty list", &["params=()"]),
            ("§4.2.1 order matters", &["key-order=?0"]),
            ("§4.2.1 unknown", &["unknown-key"]),
            ("§4.2.1 key-order is no boolean", &["key-order=\"not a boolean\""]),
            ("§4.1 key-order is no boolean, beside what is right", &["params, key-order=1"]),
            ("§4.2.1 params is a string", &["params=\"not a boolean or inner list\""]),
            ("§4.2.1 params has a token", &["params=(not-a-string)"]),
            ("§4.1 params has a token beside a string", &["key-order, params=(\"a\" b)"]),
            ("§4.2.1 except with a list", &["params=(\"a\"), except=(\"x\")"]),
            ("§4.2.1 except with an empty list", &["params=(), except=()"]),
            ("§4.2.1 except with nothing", &["params=?0, except=(\"x\")"]),
            ("§4.2.1 except has a token", &["params, except=(not-a-string)"]),
            ("§4.2.1 except is a string", &["params, except=\"not an inner list\""]),
            ("§4.2.1 except is a boolean", &["params, except=?1"]),
            ("§4.2.1 except alone", &["except=(\"x\")"]),
            ("§4.2.1 except alone and empty", &["except=()"]),
            ("§4.1 except alone, beside what is right", &["key-order, except=()"]),
            ("RFC 9651 §4.2 no dictionary", &["params, "]),
            ("RFC 9651 §4.2 lists have no commas", &["params=(\"a\", \"b\")"]),
            ("RFC 9651 §4.2 a bad line spoils the others", &["params", "except=("]),
        ];
        for (sentence, values) in default {
            assert!(
                SearchVariance::read(&lines(values)).is_default(),
                "{sentence}"
            );
        }
    }

    #[test]
    fn queries_are_equivalent_as_the_draft_says() {
        type Query<'a> = Option<&'a str>;
        #[rustfmt::skip]
        let rows: &[(&str, &str, Query<'_>, Query<'_>, bool)] = &[
            ("§5 by default none differs from an empty one", "", None, Some(""), false),
            ("§5 by default nothing is decoded", "", Some("a=x"), Some("%61=x"), false),
            ("§5 by default nothing is dropped", "", Some("a=b&&&c"), Some("a=b&c="), false),
            ("§5 by default the same is the same", "", Some("a=b&&&c"), Some("a=b&&&c"), true),
            ("§5.1 none is as an empty one", "key-order", None, Some(""), true),
            ("§5.1 percent-decoding", "key-order", Some("a=x"), Some("%61=%78"), true),
            ("§5.1 of more than ASCII", "key-order", Some("a=é"), Some("a=%C3%A9"), true),
            ("§5.1 what is no UTF-8", "key-order", Some("a=%f6"), Some("a=%ef%bf%bd"), true),
            ("§5.1 empty pieces", "key-order", Some("a=x&&&&"), Some("a=x"), true),
            ("§5.1 no value", "key-order", Some("a="), Some("a"), true),
            ("§5.1 a plus is a space", "key-order", Some("a=%20"), Some("a=+"), true),
            ("an encoded plus is none", "key-order", Some("a=%2B"), Some("a=+"), false),
            ("a sign alone stands for itself", "key-order", Some("a=%zz%"), Some("a=%25zz%25"), true),
            ("an encoded & splits nothing", "key-order", Some("a=1%26b=2"), Some("a=1&b=2"), false),
            ("an encoded = splits nothing", "key-order", Some("a%3D1"), Some("a=1"), false),
            ("a second = is a part of the value", "key-order", Some("a=b=c"), Some("a=b%3Dc"), true),
            ("a pair of nothing is a pair", "key-order", Some("="), Some(""), false),
            ("§5 order of names", "key-order", Some("a=1&b=2"), Some("b=2&a=1"), true),
            ("§5 order of values", "key-order", Some("a=1&a=2"), Some("a=2&a=1"), false),
            ("§5 order of values among others", "key-order", Some("a=1&b=3&a=2"), Some("b=3&a=1&a=2"), true),
            ("§5 order matters where nothing is said of it", "params=(\"c\")", Some("a=1&b=2"), Some("b=2&a=1"), false),
            ("§5 case of names", "key-order", Some("a=1"), Some("A=1"), false),
            ("§1 a parameter that makes no difference", "params=(\"utm_source\")", Some("a=1&utm_source=x"), Some("a=1"), true),
            ("§1 another one", "params=(\"utm_source\")", Some("a=1&utm_sourc=x"), Some("a=1"), false),
            ("§4.3.1 one that is encoded", "params=(\"%C3%A9+%E6%B0%97\")", Some("é%20気=3"), Some("%C3%A9+%E6%B0%97=4"), true),
            ("§1 no parameter makes a difference", "params", Some("a=1&b"), None, true),
            ("§1 only this one does", "params, except=(\"id\")", Some("a=1&id=7&b"), Some("id=7"), true),
            ("§1 and it does", "params, except=(\"id\")", Some("id=7"), Some("id=8"), false),
            ("§5 how often it comes", "params, except=(\"id\")", Some("id=7&id=7"), Some("id=7"), false),
            ("§5 order of those that do", "params, except=(\"a\" \"b\")", Some("a&b"), Some("b&a"), false),
            ("§5 order of those that do, if it makes none", "params, except=(\"a\" \"b\"), key-order", Some("a&c&b"), Some("b&a"), true),
        ];
        for (sentence, field, one, other, expected) in rows {
            let rule = SearchVariance::read(&lines(&[field]));
            let is_same = rule.canonical(*one) == rule.canonical(*other);
            assert_eq!(is_same, *expected, "{sentence}");
            assert_eq!(equivalent(field, *one, *other), *expected, "{sentence}");
        }
    }

    #[test]
    fn the_canonical_query_is_one_that_may_be_sent() {
        let rule = SearchVariance::read(&lines(&["key-order, params=(\"x\")"]));
        #[rustfmt::skip]
        let rows: &[(&str, Option<&str>)] = &[
            ("b=2&a=1&x=3", Some("a=1&b=2")),
            ("b&a", Some("a=&b=")),
            ("a=é+%26%3d*-._~", Some("a=%C3%A9+%26%3D*-._%7E")),
            ("=", Some("=")),
            ("&&x", None),
            ("", None),
        ];
        for (query, expected) in rows {
            assert_eq!(rule.canonical(Some(query)).as_deref(), *expected, "{query}");
        }
        let default = SearchVariance::default();
        let as_it_is = default.canonical(Some("b=2&&a"));
        assert!(matches!(as_it_is, Some(Cow::Borrowed("b=2&&a"))));
    }

    /// §5, step by step, for the fields that the property test below makes.
    fn equivalent(field: &str, one: Option<&str>, other: Option<&str>) -> bool {
        let listed = |key: &str| -> Option<Vec<String>> {
            let (_, after) = field.split_once(&format!("{key}=("))?;
            let (inner, _) = after.split_once(')')?;
            let names = inner.split(' ').filter(|name| !name.is_empty());
            Some(
                names
                    .map(|name| decoded(name.trim_matches('"').as_bytes()))
                    .collect(),
            )
        };
        let no_vary = listed("params");
        let is_for_all = no_vary.is_none() && field.contains("params");
        let ignores_order = field.contains("key-order");
        if !ignores_order && !is_for_all && no_vary.as_ref().is_none_or(Vec::is_empty) {
            return one == other;
        }
        let search_params = |query: Option<&str>| {
            let mut all = Vec::new();
            for piece in query.unwrap_or("").as_bytes().split(|b| *b == b'&') {
                if !piece.is_empty() {
                    let at = piece.iter().position(|b| *b == b'=');
                    let (name, value) = match at {
                        Some(at) => (&piece[..at], &piece[at + 1..]),
                        None => (piece, &b""[..]),
                    };
                    all.push((decoded(name), decoded(value)));
                }
            }
            if let Some(no_vary) = &no_vary {
                all.retain(|(name, _)| !no_vary.contains(name));
            } else if is_for_all {
                let vary = listed("except").unwrap_or_default();
                all.retain(|(name, _)| vary.contains(name));
            }
            if ignores_order {
                // In code units, as it is written there.
                all.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
            }
            all
        };
        search_params(one) == search_params(other)
    }

    /// Percent-decoding in another way than above.
    fn decoded(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let pair = bytes.get(at + 1..at + 3);
            let number = pair
                .filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))
                .and_then(|pair| std::str::from_utf8(pair).ok())
                .and_then(|pair| u8::from_str_radix(pair, 16).ok());
            match (bytes[at], number) {
                (b'%', Some(number)) => {
                    out.push(number);
                    at += 2;
                }
                (b'+', _) => out.push(b' '),
                (byte, _) => out.push(byte),
            }
            at += 1;
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    const NAMES: &[&str] = &[
        "a", "%61", "b", "a+b", "a%20b", "A", "%C3%A9", "%f6", "%ff", "", "%", "%4", "%2561",
    ];

    fn random_field(random: &mut Random) -> String {
        let list = |random: &mut Random| {
            let names: Vec<_> = (0..random.below(4))
                .map(|_| format!("\"{}\"", random.pick(NAMES)))
                .collect();
            names.join(" ")
        };
        let mut members = Vec::new();
        match random.below(4) {
            0 => {}
            1 => members.push("params".to_owned()),
            2 => members.push(format!("params=({})", list(random))),
            _ => members.extend(["params".to_owned(), format!("except=({})", list(random))]),
        }
        if members.is_empty() || random.below(2) == 0 {
            members.insert(random.below(members.len() + 1), "key-order".to_owned());
        }
        members.join(", ")
    }

    fn random_query(random: &mut Random) -> Option<String> {
        if random.below(20) == 0 {
            return None;
        }
        let pieces: Vec<_> = (0..random.below(5))
            .map(|_| {
                let (name, value) = (random.pick(NAMES), random.pick(NAMES));
                match random.below(5) {
                    0 => name.to_owned(),
                    1 => String::new(),
                    2 => format!("{name}=1"),
                    3 => format!("{name}=={value}"),
                    _ => format!("{name}={value}"),
                }
            })
            .collect();
        Some(pieces.join("&"))
    }

    #[test]
    fn rules_that_differ_have_texts_that_differ() {
        let fields = [
            "key-order",
            "params",
            "params, key-order",
            "params, except=(\"a\")",
            "params=(\"a\")",
            "params=(\"a\"), key-order",
            "params=(\"a\" \"b\")",
            "params=(\"a&b\")",
            "params=(\"ab\")",
            "params=(\"a+b\")",
            "params=(\"A\")",
            "params=(\"\")",
        ];
        let texts = fields.map(|field| SearchVariance::read(&lines(&[field])).text());
        for (at, text) in texts.iter().enumerate() {
            assert!(!texts[..at].contains(text), "{}: {text}", fields[at]);
        }
    }

    #[test]
    fn canonical_queries_are_equal_exactly_where_the_draft_says_equivalent() {
        let mut random = Random::new(25);
        let mut equal = 0;
        for case in 0..100_000 {
            let field = random_field(&mut random);
            let one = random_query(&mut random);
            // Another one, or the same in another order or spelling.
            let other = match (random.below(3), &one) {
                (0, Some(query)) => {
                    let mut pieces: Vec<_> = query.split('&').collect();
                    let at = random.below(pieces.len());
                    pieces.rotate_left(at);
                    Some(pieces.join("&").replace("%61", "a"))
                }
                (1, Some(query)) => Some(format!("{query}&{}", random.pick(NAMES))),
                _ => random_query(&mut random),
            };
            let rule = SearchVariance::read(&lines(&[&field]));
            let (one, other) = (one.as_deref(), other.as_deref());
            let canonical = (rule.canonical(one), rule.canonical(other));
            let is_same = canonical.0 == canonical.1;
            equal += u32::from(is_same);
            let sentence = format!("case {case}: {field}: {one:?} and {other:?}");
            assert_eq!(is_same, equivalent(&field, one, other), "{sentence}");
            let again = rule.canonical(canonical.0.as_deref());
            assert_eq!(again, canonical.0, "{sentence}");
        }
        assert!((20_000..80_000).contains(&equal), "{equal}");
    }

    #[test]
    fn any_field_and_any_query_are_read_without_a_panic() {
        let mut random = Random::new(26);
        for _ in 0..20_000 {
            let mut map = HeaderMap::new();
            for _ in 0..=random.below(2) {
                map.append(NO_VARY_SEARCH, random.field_value(30));
            }
            let query = String::from_utf8_lossy(&random.field_bytes(40)).into_owned();
            for rule in [
                SearchVariance::read(&map),
                SearchVariance::read(&lines(&[&random_field(&mut random)])),
            ] {
                let canonical = rule.canonical(Some(&query));
                assert_eq!(rule.canonical(canonical.as_deref()), canonical, "{query}");
            }
        }
    }
}
