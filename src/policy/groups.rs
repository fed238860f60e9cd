//! Groups of responses that are invalidated together
//! ([RFC 9875](https://www.rfc-editor.org/rfc/rfc9875)).
//!
//! What the two fields say, and no more: that groups belong to one origin, and that only responses to
//! unsafe methods invalidate, is for who asks. Names are opaque and compared as they are.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName};

use super::structured::{Value, list};

/// The groups that a response belongs to (§2).
pub(crate) const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
/// The groups that a response to an unsafe method invalidates (§3).
pub(crate) const CACHE_GROUP_INVALIDATION: HeaderName =
    HeaderName::from_static("cache-group-invalidation");

/// The groups that a response belongs to, each of them once.
pub(crate) fn cache_groups(headers: &HeaderMap) -> Vec<String> {
    groups(headers, &CACHE_GROUPS)
}

/// The groups that a response invalidates, each of them once.
///
/// §3: on a response to a safe method the field is to be ignored, which is not known here.
pub(crate) fn cache_group_invalidation(headers: &HeaderMap) -> Vec<String> {
    groups(headers, &CACHE_GROUP_INVALIDATION)
}

/// §2 and §3: a list of strings. One member of another type, and the field is no such list (RFC 9651,
/// section 4.2: it is ignored as a whole).
fn groups(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let Some(members) = list(headers, name) else {
        return Vec::new();
    };
    let mut groups: Vec<String> = Vec::new();
    let mut known = HashSet::new();
    for member in members {
        let Value::String(group) = member else {
            return Vec::new();
        };
        if known.insert(group.clone()) {
            groups.push(group.into_owned());
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    fn both(values: &[&str]) -> Vec<String> {
        let named = |name| headers(&values.iter().map(|v| (name, *v)).collect::<Vec<_>>());
        let found = cache_groups(&named("cache-groups"));
        let invalidated = cache_group_invalidation(&named("cache-group-invalidation"));
        assert_eq!(found, invalidated, "{values:?}");
        let other = cache_groups(&named("cache-group-invalidation"));
        assert_eq!(other, [""; 0], "one field is not the other");
        found
    }

    #[test]
    fn groups_are_a_list_of_strings_or_none() {
        #[rustfmt::skip]
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("not there", &[], &[]),
            ("empty", &[""], &[]),
            ("§2 one group", &["\"scripts\""], &["scripts"]),
            ("§3 two groups", &["\"eurovision-results\", \"australia\""], &["eurovision-results", "australia"]),
            ("§2 over several lines", &["\"a\"", "\"b\", \"c\""], &["a", "b", "c"]),
            ("§2 parameters are ignored", &["\"a\";revalidate, \"b\";x=1"], &["a", "b"]),
            ("§2.1 case counts", &["\"a\", \"A\""], &["a", "A"]),
            ("§2.1 spaces count", &["\"a\", \" a\", \"\""], &["a", " a", ""]),
            ("§2 each once", &["\"a\", \"b\", \"a\""], &["a", "b"]),
            ("RFC 9651 §3.3.3 a comma, a quote and a backslash", &["\"a, \\\"b\\\"\\\\\""], &["a, \"b\"\\"]),
            ("§2 a token is no string", &["\"a\", b"], &[]),
            ("§2 a number is no string", &["1, \"a\""], &[]),
            ("§2 a list is no string", &["\"a\", (\"b\")"], &[]),
            ("§2 a display string is no string", &["%\"a\""], &[]),
            ("RFC 9651 §4.2 no list", &["\"a\" \"b\""], &[]),
            ("RFC 9651 §4.2 a comma too many", &["\"a\","], &[]),
            ("RFC 9651 §4.2 an open quote", &["\"a\", \"b"], &[]),
            ("RFC 9651 §4.2 on the second line", &["\"a\"", "b\""], &[]),
            ("RFC 9651 §3.3.3 beyond ASCII", &["\"é\""], &[]),
        ];
        for (sentence, values, expected) in rows {
            assert_eq!(both(values), *expected, "{sentence}");
        }
    }

    #[test]
    fn all_groups_are_read_however_many_and_long() {
        let names: Vec<_> = (0..5_000).map(|at| format!("{at:032}")).collect();
        let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let list = quoted.join(", ");
        assert_eq!(both(&[&list]), names);
        assert_eq!(both(&[&list, &list]), names, "each once");
        assert_eq!(
            both(&[&(list + ", token")]),
            [""; 0],
            "behind the last: no list"
        );
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let mut random = Random::new(24);
        let mut understood = 0;
        for _ in 0..20_000 {
            let mut list: Vec<String> = (0..random.below(40))
                .map(|_| format!("\"{}\"", random.below(50)))
                .collect();
            if random.below(2) == 0 {
                let noise = random.field_bytes(10);
                let noise = noise.iter().filter(|byte| byte.is_ascii());
                list.push(noise.map(|byte| char::from(*byte)).collect());
            }
            let found = both(&[&list.join(",")]);
            understood += usize::from(!found.is_empty());
            assert!(found.len() <= list.len(), "{list:?}");
        }
        assert!(understood > 5_000, "{understood}");
    }
}
