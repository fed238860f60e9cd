//! Which parameters of a query count, and the patterns in which names are given.

use std::borrow::Cow;

/// Which parameters of the query are part of the cache key.
///
/// The handler sees the same reduced query, so that a response can never depend on a parameter
/// that its key does not hold. Names are compared as they stand in the URI, without decoding;
/// a `*` in a pattern stands for any number of characters. Parameters keep their order unless
/// [`sort`](Self::sort) is asked for. Default: everything counts, nothing is re-ordered.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, Query, ResponseCacheLayer};
///
/// let cache = Cache::in_memory();
/// // Campaign parameters do not make a page of its own.
/// let pages = ResponseCacheLayer::new(&cache).query(Query::ignore(["utm_*", "fbclid"]));
/// // The order of parameters does not matter: `Query::default().sort()`. Here, too:
/// // Only these two decide what is shown, in whatever order they come.
/// let search = ResponseCacheLayer::new(&cache).query(Query::only(["q", "page"]).sort());
/// # assert_ne!(format!("{pages:?}"), format!("{search:?}"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    ignore: Vec<String>,
    except: Vec<String>,
    only: Option<Vec<String>>,
    sort: bool,
}

impl Query {
    /// Every parameter but those whose name matches one of `patterns`.
    pub fn ignore<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Self {
            ignore: patterns.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// No parameter but those whose name matches one of `patterns`.
    pub fn only<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Self {
            only: Some(patterns.into_iter().map(Into::into).collect()),
            ..Self::default()
        }
    }

    /// Takes names that match one of `patterns` out of what is ignored.
    ///
    /// ```
    /// use tower_response_cache::Query;
    ///
    /// let query = Query::ignore(["utm_*"]).except(["utm_language"]);
    /// # assert_ne!(query, Query::ignore(["utm_*"]));
    /// ```
    #[must_use]
    pub fn except<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        self.except.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Orders the parameters by name; those of equal name keep their order.
    #[must_use]
    pub fn sort(mut self) -> Self {
        self.sort = true;
        self
    }

    fn keeps(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|p| glob(p, name));
        if any(&self.except) {
            return true;
        }
        self.only.as_deref().is_none_or(any) && !any(&self.ignore)
    }

    /// `query` without what does not count; borrowed where nothing changes, `None` where nothing
    /// is left of it.
    pub(crate) fn reduce<'q>(&self, query: &'q str) -> Option<Cow<'q, str>> {
        let name = |pair: &'q str| pair.split('=').next().unwrap_or(pair);
        let all = || query.split('&');
        let unchanged =
            all().all(|pair| self.keeps(name(pair))) && (!self.sort || all().map(name).is_sorted());
        if unchanged {
            return Some(Cow::Borrowed(query));
        }
        let mut kept: Vec<&str> = all().filter(|pair| self.keeps(name(pair))).collect();
        if self.sort {
            kept.sort_by_key(|pair| name(pair));
        }
        (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any number of characters.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    // The leftmost place of each piece in turn leaves the most room for those behind it.
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_reduced_as_the_settings_say() {
        let utm = Query::ignore(["utm_*", "fbclid"]);
        let only = Query::only(["q", "page"]).sort();
        let but = Query::ignore(["*"]).except(["a"]);
        for (query, given, expected) in [
            (&utm, "a=1&b=2", Some("a=1&b=2")),
            (&utm, "utm_source=x&a=1&fbclid=9&utm_=", Some("a=1")),
            (&utm, "utm_source=x", None),
            (&utm, "", Some("")),
            (&utm, "a=1&&b", Some("a=1&&b")),
            (&only, "page=2&q=x&other=1&q=a", Some("page=2&q=x&q=a")),
            (&only, "q=x&page=2", Some("page=2&q=x")),
            (&only, "x=1", None),
            (&but, "b=1&a=2&c", Some("a=2")),
        ] {
            assert_eq!(query.reduce(given).as_deref(), expected, "{given}");
        }
        assert!(matches!(utm.reduce("a=1"), Some(Cow::Borrowed("a=1"))));
    }

    #[test]
    fn a_star_stands_for_any_number_of_characters() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("**", "x", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }
}
