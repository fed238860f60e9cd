//! What an unsafe method invalidates
//! ([RFC 9111, section 4.4](https://www.rfc-editor.org/rfc/rfc9111#section-4.4)): which methods and
//! which answers do, and which other URIs an answer names.
//!
//! References are resolved as [RFC 3986, section 5](https://www.rfc-editor.org/rfc/rfc3986#section-5)
//! says, against what is known of the target URI: a request in origin form names no scheme.
//!
//! What `Cache-Group-Invalidation` (RFC 9875) says is read in `groups.rs`.

use http::{
    HeaderMap, HeaderName, Method, StatusCode, Uri,
    header::{CONTENT_LOCATION, LOCATION},
};

use crate::key::normal_authority;

/// Whether a method asks for nothing to be changed.
///
/// RFC 9110, 9.2.1, and RFC 10008 for QUERY. §4.4: a method whose safety is unknown is not safe;
/// names have case (RFC 9110, 9.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY"
    )
}

/// §4.4: a response that is not an error has a 2xx or 3xx status.
pub(crate) fn is_no_error(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// The target URI of a request (RFC 9110, 7.1), as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetUri<'a> {
    pub(crate) scheme: Option<&'a str>,
    pub(crate) authority: Option<&'a str>,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
}

impl<'a> TargetUri<'a> {
    /// Of the URI that a client sent, and the authority if that stood elsewhere.
    pub(crate) fn new(uri: &'a Uri, authority: Option<&'a str>) -> Self {
        Self {
            scheme: uri.scheme_str(),
            authority,
            path: uri.path(),
            query: uri.query(),
        }
    }
}

/// The path and query of a URI whose origin is that of the target URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SameOrigin {
    pub(crate) path: String,
    pub(crate) query: Option<String>,
}

/// The other URIs that an answer to an unsafe method invalidates.
pub(crate) fn named_by<'a>(
    headers: &'a HeaderMap,
    target: TargetUri<'a>,
) -> impl Iterator<Item = SameOrigin> + 'a {
    [LOCATION, CONTENT_LOCATION]
        .into_iter()
        .filter_map(move |name| resolve(target, the_only(headers, &name)?))
}

/// Both fields have one value (RFC 9110, 8.7 and 10.2.2); several say nothing.
fn the_only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    std::str::from_utf8(line.as_bytes()).ok()
}

/// Resolves a reference (RFC 3986, 5.2.2); `None` where it is none, or of another origin.
fn resolve(target: TargetUri<'_>, reference: &str) -> Option<SameOrigin> {
    if reference.bytes().any(|b| b <= b' ' || b == 0x7F) {
        return None;
    }
    let (reference, _fragment) = cut(reference, '#');
    let (before_query, query) = cut(reference, '?');
    let (scheme, rest) = split_scheme(before_query)?;
    let resolved = |path: &str, query: Option<&str>| SameOrigin {
        path: path.to_owned(),
        query: query.map(str::to_owned),
    };
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(authority), path)
        }
        None => (None, rest),
    };
    if scheme.is_some() || authority.is_some() {
        // §4.4: never a URI of another origin, or one site could empty another's cache. What has a
        // scheme and no authority has no origin that could be ours.
        if !is_same_origin(target, scheme, authority?) {
            return None;
        }
        // RFC 9110, 4.2.3: an empty path is `/`.
        return Some(resolved(&without_dots(path), query));
    }
    if path.is_empty() {
        return Some(resolved(target.path, query.or(target.query)));
    }
    let path = if path.starts_with('/') {
        without_dots(path)
    } else {
        // RFC 3986, 5.2.3: in the place of what follows the last slash.
        let folder = target.path.rfind('/').map_or("", |at| &target.path[..at]);
        without_dots(&format!("{folder}/{path}"))
    };
    Some(resolved(&path, query))
}

fn cut(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// The scheme of a reference, if it has one, and what follows. `None`: RFC 3986, 4.2 permits no
/// colon in the first segment of a relative path.
fn split_scheme(reference: &str) -> Option<(Option<&str>, &str)> {
    let first = reference.find('/').unwrap_or(reference.len());
    let Some((scheme, rest)) = reference.split_once(':').filter(|(s, _)| s.len() < first) else {
        return Some((None, reference));
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme.then_some((Some(scheme), rest))
}

/// RFC 9110, 4.3.1: the same scheme, host and port; the scheme where both are known.
fn is_same_origin(target: TargetUri<'_>, scheme: Option<&str>, authority: &str) -> bool {
    let Some(own) = target.authority else {
        return false;
    };
    let scheme = scheme.map(str::to_ascii_lowercase);
    let (given, known) = (scheme.as_deref(), target.scheme);
    let is_same_scheme = match (given, known) {
        (Some(given), Some(known)) => given.eq_ignore_ascii_case(known),
        (Some(given), None) => matches!(given, "http" | "https"),
        (None, _) => true,
    };
    is_same_scheme
        && host_and_port(given.or(known), own) == host_and_port(given.or(known), authority)
}

fn host_and_port<'a>(scheme: Option<&str>, authority: &'a str) -> std::borrow::Cow<'a, str> {
    // RFC 3986, 3.2.1: who asks is no part of where. 3.2.3: an empty port is the default one.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, at)| at);
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    normal_authority(scheme, authority)
}

/// RFC 3986, 5.2.4, for a path that starts with a slash or is empty.
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut is_folder = true;
    for segment in path.split('/').skip(1) {
        is_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    if is_folder {
        segments.push("");
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    #[test]
    fn methods_are_safe_or_not() {
        #[rustfmt::skip]
        let rows: &[(&str, &str, bool)] = &[
            ("RFC 9110, 9.2.1: GET is safe", "GET", true),
            ("RFC 9110, 9.2.1: HEAD is safe", "HEAD", true),
            ("RFC 9110, 9.2.1: OPTIONS is safe", "OPTIONS", true),
            ("RFC 9110, 9.2.1: TRACE is safe", "TRACE", true),
            ("RFC 10008: QUERY is safe", "QUERY", true),
            ("RFC 9110, 9.2.1: POST is not", "POST", false),
            ("RFC 9110, 9.2.1: PUT is not", "PUT", false),
            ("RFC 9110, 9.2.1: DELETE is not", "DELETE", false),
            ("RFC 9110, 9.2.1: CONNECT is not", "CONNECT", false),
            ("RFC 5789, 2: PATCH is not", "PATCH", false),
            ("§4.4: what is unknown is not", "FROBNICATE", false),
            ("RFC 9110, 9.1: names have case", "get", false),
        ];
        for (sentence, method, expected) in rows {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(is_safe(&method), *expected, "{sentence}");
        }
    }

    #[test]
    fn answers_are_errors_or_not() {
        #[rustfmt::skip]
        let rows: &[(&str, u16, bool)] = &[
            ("§4.4: 200 is no error", 200, true),
            ("§4.4: 201 is no error", 201, true),
            ("§4.4: 299 is no error", 299, true),
            ("§4.4: 303 is no error", 303, true),
            ("§4.4: 399 is no error", 399, true),
            ("§4.4: 400 is an error", 400, false),
            ("§4.4: 404 is an error", 404, false),
            ("§4.4: 500 is an error", 500, false),
            ("§4.4: 101 is neither 2xx nor 3xx", 101, false),
            ("§4.4: 600 is neither 2xx nor 3xx", 600, false),
        ];
        for (sentence, status, expected) in rows {
            let status = StatusCode::from_u16(*status).unwrap();
            assert_eq!(is_no_error(status), *expected, "{sentence}");
        }
    }

    /// The base of RFC 3986, 5.4, as a request in absolute form, in origin form, and without `Host`.
    fn base<'a>(scheme: Option<&'a str>, authority: Option<&'a str>) -> TargetUri<'a> {
        TargetUri {
            scheme,
            authority,
            path: "/b/c/d;p",
            query: Some("q"),
        }
    }

    fn resolved(target: TargetUri<'_>, reference: &str) -> Option<String> {
        let found = resolve(target, reference)?;
        Some(match found.query {
            Some(query) => format!("{}?{query}", found.path),
            None => found.path,
        })
    }

    #[test]
    fn references_are_resolved_against_the_target_uri() {
        #[rustfmt::skip]
        let rows: &[(&str, &str, Option<&str>)] = &[
            ("RFC 3986, 5.4.1: another scheme without authority", "g:h", None),
            ("RFC 3986, 5.4.1: in the same folder", "g", Some("/b/c/g")),
            ("RFC 3986, 5.4.1: a dot before it", "./g", Some("/b/c/g")),
            ("RFC 3986, 5.4.1: a slash after it", "g/", Some("/b/c/g/")),
            ("RFC 3986, 5.4.1: an absolute path", "/g", Some("/g")),
            ("RFC 3986, 5.4.1: another authority", "//g", None),
            ("RFC 3986, 5.4.1: a query alone", "?y", Some("/b/c/d;p?y")),
            ("RFC 3986, 5.4.1: a path with a query", "g?y", Some("/b/c/g?y")),
            ("RFC 3986, 5.4.1: a fragment alone", "#s", Some("/b/c/d;p?q")),
            ("RFC 3986, 5.4.1: a fragment is left away", "g#s", Some("/b/c/g")),
            ("RFC 3986, 5.4.1: a query and a fragment", "g?y#s", Some("/b/c/g?y")),
            ("RFC 3986, 5.4.1: parameters are part of a segment", ";x", Some("/b/c/;x")),
            ("RFC 3986, 5.4.1: the same document", "", Some("/b/c/d;p?q")),
            ("RFC 3986, 5.4.1: this folder", ".", Some("/b/c/")),
            ("RFC 3986, 5.4.1: this folder, with a slash", "./", Some("/b/c/")),
            ("RFC 3986, 5.4.1: one folder up", "..", Some("/b/")),
            ("RFC 3986, 5.4.1: one folder up, with a slash", "../", Some("/b/")),
            ("RFC 3986, 5.4.1: in the folder above", "../g", Some("/b/g")),
            ("RFC 3986, 5.4.1: two folders up", "../..", Some("/")),
            ("RFC 3986, 5.4.1: two folders up and down", "../../g", Some("/g")),
            ("RFC 3986, 5.4.2: not above the root", "../../../../g", Some("/g")),
            ("RFC 3986, 5.4.2: dots in an absolute path", "/./g/../h", Some("/h")),
            ("RFC 3986, 5.4.2: dots as parts of names", "..g./g..", Some("/b/c/..g./g..")),
            ("RFC 3986, 5.4.2: dots behind a name", "g;x=1/../y", Some("/b/c/y")),
            ("RFC 3986, 5.4.2: dots in a query mean nothing", "g?y/../x", Some("/b/c/g?y/../x")),
            ("RFC 3986, 5.4.2: a scheme makes it absolute", "http:g", None),
            ("RFC 3986, 3.3: an empty segment is one", "/a//b", Some("/a//b")),
            ("RFC 3986, 3.4: an empty query is one", "g?", Some("/b/c/g?")),
            ("RFC 3986, 3.4: a query may hold question marks", "g?a?b", Some("/b/c/g?a?b")),
            ("RFC 3986, 4.2: a colon in the first segment", "1:2", None),
            ("RFC 3986, 4.2: a colon before anything", ":g", None),
            ("RFC 3986, 4.2: a colon in a later segment", "./a:b", Some("/b/c/a:b")),
            ("RFC 3986, 3.4: a colon in a query", "?a:b", Some("/b/c/d;p?a:b")),
            ("RFC 3986, 2: a space is no part of a URI", "a b", None),
            ("RFC 3986, 2: nor is a tab", "a\tb", None),
            ("nothing is decoded: keys are not, either", "%7Eg", Some("/b/c/%7Eg")),
        ];
        for (sentence, reference, expected) in rows {
            let target = base(Some("http"), Some("a"));
            assert_eq!(
                resolved(target, reference).as_deref(),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn only_what_has_the_origin_of_the_target_uri_is_named() {
        let known = base(Some("http"), Some("Example.com"));
        let secure = base(Some("https"), Some("example.com"));
        let unknown = base(None, Some("example.com"));
        let with_port = base(None, Some("example.com:443"));
        let nameless = base(None, None);
        #[rustfmt::skip]
        let rows: &[(&str, TargetUri<'_>, &str, bool)] = &[
            ("§4.4: the same scheme, host and port", known, "http://example.com/x", true),
            ("§4.4: another host", known, "http://other.com/x", false),
            ("§4.4: a host that begins alike", known, "http://example.com.other.com/x", false),
            ("§4.4: a host that ends alike", known, "http://www.example.com/x", false),
            ("§4.4: another port", known, "http://example.com:8080/x", false),
            ("§4.4: another scheme", known, "https://example.com/x", false),
            ("§4.4: another scheme, the other way round", secure, "http://example.com/x", false),
            ("RFC 9110, 4.2.3: hosts and schemes have no case", known, "HTTP://EXAMPLE.com/x", true),
            ("RFC 9110, 4.2.3: the default port", known, "http://example.com:80/x", true),
            ("RFC 9110, 4.2.3: the default port of https", secure, "https://example.com:443/x", true),
            ("RFC 9110, 4.2.3: that of another scheme is not", known, "http://example.com:443/x", false),
            ("RFC 3986, 3.2.3: an empty port", known, "http://example.com:/x", true),
            ("RFC 3986, 3.2.1: userinfo is no part of an origin", known, "http://me@example.com/x", true),
            ("RFC 3986, 3.2.1: nor does it make one", known, "http://example.com@other.com/x", false),
            ("RFC 3986, 4.2: no scheme, the same authority", known, "//example.com/x", true),
            ("RFC 3986, 4.2: no scheme, another authority", known, "//other.com/x", false),
            ("an unknown scheme may be http", unknown, "http://example.com/x", true),
            ("an unknown scheme may be https", unknown, "https://example.com:443/x", true),
            ("an unknown scheme is no other one", unknown, "ftp://example.com/x", false),
            ("an unknown scheme, another host", unknown, "https://other.com/x", false),
            ("an unknown scheme, another port", unknown, "https://example.com:80/x", false),
            ("a default port of our own", with_port, "https://example.com/x", true),
            ("a port of our own that is not the default", with_port, "http://example.com/x", false),
            ("an unknown authority is that of nobody", nameless, "http://example.com/x", false),
            ("an unknown authority has paths", nameless, "/x", true),
            ("an empty authority is another one", known, "http:///x", false),
            ("no origin", known, "mailto:x", false),
        ];
        for (sentence, target, reference, expected) in rows {
            let path = resolve(*target, reference).map(|found| found.path);
            assert_eq!(path.as_deref(), expected.then_some("/x"), "{sentence}");
        }
        let root = resolve(known, "http://example.com?x").unwrap();
        assert_eq!(root.path, "/", "RFC 9110, 4.2.3: an empty path is the root");
    }

    #[test]
    fn location_and_content_location_are_the_fields_that_name() {
        type Row = (
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static [&'static str],
        );
        #[rustfmt::skip]
        let rows: &[Row] = &[
            ("§4.4: neither", &[("link", "</x>")], &[]),
            ("§4.4: Location", &[("location", "/x")], &["/x"]),
            ("§4.4: Content-Location", &[("content-location", "/y")], &["/y"]),
            ("§4.4: both", &[("content-location", "/y"), ("location", "/x")], &["/x", "/y"]),
            ("RFC 9110, 10.2.2: several are none", &[("location", "/x"), ("location", "/z")], &[]),
            ("RFC 9110, 8.7: several of one say nothing of the other",
                &[("content-location", "/y"), ("content-location", "/y"), ("location", "/x")], &["/x"]),
            ("one of another origin says nothing of the other",
                &[("location", "http://other.com/x"), ("content-location", "/y")], &["/y"]),
        ];
        for (sentence, lines, expected) in rows {
            let found: Vec<_> = named_by(&headers(lines), base(None, Some("example.com")))
                .map(|found| found.path)
                .collect();
            assert_eq!(found, *expected, "{sentence}");
        }
    }

    #[test]
    fn any_bytes_are_resolved_to_a_path_or_to_nothing() {
        let mut random = Random::new(9);
        let pieces = [
            "http:", "//", "a", "/", ".", "..", "?", "#", ":", "@", "ü", "%2F",
        ];
        let targets = ["/b/c", "/", "", "*", "/ü/.."];
        for _ in 0..20_000 {
            let mut reference = String::new();
            for _ in 0..random.below(10) {
                reference.push_str(random.pick(&pieces));
            }
            let target = TargetUri {
                path: random.pick(&targets),
                ..base(Some("http"), Some("a"))
            };
            if let Some(found) = resolve(target, &reference) {
                let is_own = found.path == target.path;
                assert!(found.path.starts_with('/') || is_own, "{reference:?}");
                assert!(!found.path.contains(['?', '#']), "{reference:?}");
                assert!(
                    is_own || !found.path.split('/').any(|s| s == ".."),
                    "{reference:?}"
                );
            }
            let mut fields = HeaderMap::new();
            fields.insert(LOCATION, random.field_value(40));
            assert!(named_by(&fields, target).count() <= 1);
        }
    }
}
