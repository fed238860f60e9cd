//! Which request fields choose among the responses of one resource
//! ([RFC 9111, section 4.1](https://www.rfc-editor.org/rfc/rfc9111#section-4.1)).
//!
//! `Vary` as it is said, and what a response gives away without saying it. How the values of those
//! fields are written down and compared is in `nominated.rs`.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE,
        CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, COOKIE, ORIGIN, VARY,
    },
};
use smallvec::SmallVec;

use super::{
    facts::{RequestFacts, StoringSettings},
    nominated::{self, Encoded},
    syntax::{members, trim},
};
use crate::status::Reason;

/// The request fields that a stored response was chosen by, sorted and each of them once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VaryRule {
    names: Box<[HeaderName]>,
}

impl VaryRule {
    /// Whether one response answers all requests.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// A rule over these fields, as [`names`](Self::names) gave them.
    pub(crate) fn from_names(mut names: Vec<HeaderName>) -> Self {
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        let names = names.into();
        Self { names }
    }

    /// The rule without one of its fields.
    pub(crate) fn without(self, name: &HeaderName) -> Self {
        if !self.names.contains(name) {
            return self;
        }
        let names = self.names.iter().filter(|known| *known != name);
        let names = names.cloned().collect();
        Self { names }
    }

    /// The values of a request, as [`write_values`](Self::write_values) writes them.
    pub(crate) fn values(&self, request: &HeaderMap) -> Encoded {
        let mut values = Encoded::new();
        self.write_values(request, &mut values);
        values
    }

    /// Writes the values that a request has for these fields, so that two requests that are
    /// answered by the same variant, and only they, write the same bytes.
    ///
    /// An empty rule writes nothing. What follows in `out` needs a length of its own.
    pub(crate) fn write_values(&self, request: &HeaderMap, out: &mut Encoded) {
        for name in &self.names {
            nominated::write(name, request, out);
        }
    }
}

/// The rule that a response states or implies.
///
/// # Errors
///
/// The reason why it cannot be stored for its `Vary`, or for what it leaves unsaid:
/// [`Reason::VaryAny`], [`Reason::VaryCredential`], [`Reason::CorsCredentials`] or
/// [`Reason::CspNonce`].
pub(crate) fn rule(
    request: &RequestFacts<'_>,
    settings: &StoringSettings,
    headers: &HeaderMap,
    silent: bool,
) -> Result<VaryRule, Reason> {
    let mut names = SmallVec::<[HeaderName; 4]>::new();
    // RFC 9110, section 7.6.1: what Connection lists is not kept. Once the rest was updated by a 304
    // (§3.2), nobody would know that it ever depended on anything.
    if headers.contains_key(VARY) && is_for_the_connection(&VARY, headers) {
        return Err(Reason::VaryAny);
    }
    // RFC 9110, section 5.3: all lines are one list.
    for line in headers.get_all(VARY) {
        for member in members(line.as_bytes()) {
            let name = nominated_field(member.unwrap_or(b"*"))?;
            names.extend(name);
        }
    }
    if settings.is_careful() {
        if names
            .iter()
            .any(|name| is_undeclared(name, request, settings))
        {
            return Err(Reason::VaryCredential);
        }
        unsaid(headers, silent, &mut names)?;
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Ok(VaryRule {
        names: names.into_vec().into_boxed_slice(),
    })
}

/// Whether `Connection` takes a field away on the way (RFC 9110, section 7.6.1).
pub(super) fn is_for_the_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    let lists = |line: &HeaderValue| {
        let mut listed = line.as_bytes().split(|&byte| byte == b',').map(trim);
        listed.any(|listed| listed.eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    headers.get_all(CONNECTION).iter().any(lists)
}

/// One member of `Vary`; nothing if it is empty.
fn nominated_field(member: &[u8]) -> Result<Option<HeaderName>, Reason> {
    // §4.1: `*` always fails to match, in whatever company; so does what cannot be a field name,
    // since nobody knows what it depends on.
    if member.contains(&b'*') {
        return Err(Reason::VaryAny);
    }
    if member.is_empty() {
        return Ok(None);
    }
    HeaderName::from_bytes(member)
        .map(Some)
        .map_err(|_| Reason::VaryAny)
}

/// Whether a field that makes a response personal was neither declared nor made part of the key.
fn is_undeclared(
    name: &HeaderName,
    request: &RequestFacts<'_>,
    settings: &StoringSettings,
) -> bool {
    if request.partitioned {
        return false;
    }
    if name == COOKIE {
        return !settings.cookies_declared;
    }
    name == AUTHORIZATION || (request.is_credential)(name.as_str())
}

/// What a response depends on without a word in `Vary`.
fn unsaid(
    headers: &HeaderMap,
    silent: bool,
    names: &mut SmallVec<[HeaderName; 4]>,
) -> Result<(), Reason> {
    // Fetch standard, "CORS protocol and HTTP caches": an origin that is echoed needs Vary: Origin.
    let specific = |origin: &HeaderValue| trim(origin.as_bytes()) != b"*";
    if headers
        .get_all(ACCESS_CONTROL_ALLOW_ORIGIN)
        .iter()
        .any(specific)
        && !names.contains(&ORIGIN)
    {
        // Made with somebody's credentials, for the one site that asked.
        if headers
            .get_all(ACCESS_CONTROL_ALLOW_CREDENTIALS)
            .iter()
            .any(|value| trim(value.as_bytes()).eq_ignore_ascii_case(b"true"))
        {
            return Err(Reason::CorsCredentials);
        }
        names.push(ORIGIN);
    }
    // RFC 9110, section 12.5.3: a coding was chosen.
    if headers.contains_key(CONTENT_ENCODING) {
        names.push(ACCEPT_ENCODING);
    }
    if !silent {
        return Ok(());
    }
    // RFC 9110, section 12.5.4: a language was chosen, perhaps.
    if headers.contains_key(CONTENT_LANGUAGE) {
        names.push(ACCEPT_LANGUAGE);
    }
    // CSP 3, section 2.3.1: a nonce is for one response.
    if [CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY]
        .iter()
        .flat_map(|name| headers.get_all(name))
        .any(|policy| has_nonce(policy.as_bytes()))
    {
        return Err(Reason::CspNonce);
    }
    Ok(())
}

fn has_nonce(policy: &[u8]) -> bool {
    const NONCE: &[u8] = b"'nonce-";
    policy
        .windows(NONCE.len())
        .any(|window| window.eq_ignore_ascii_case(NONCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    fn asked(
        settings: &StoringSettings,
        partitioned: bool,
        lines: &[(&str, &str)],
        silent: bool,
    ) -> Result<String, Reason> {
        let request = HeaderMap::new();
        let facts = RequestFacts {
            headers: &request,
            authorization: false,
            personal: None,
            partitioned,
            is_credential: &|name| name == "x-api-key",
        };
        rule(&facts, settings, &headers(lines), silent).map(|rule| {
            assert_eq!(rule.is_empty(), rule.names().is_empty());
            rule.names()
                .iter()
                .map(HeaderName::as_str)
                .collect::<Vec<_>>()
                .join(" ")
        })
    }

    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Result<&'a str, Reason>);

    fn check(settings: &StoringSettings, partitioned: bool, silent: bool, rows: &[Row<'_>]) {
        for (sentence, lines, expected) in rows {
            let found = asked(settings, partitioned, lines, silent);
            assert_eq!(
                found.as_deref(),
                expected.as_ref().map(|names| *names),
                "{sentence}"
            );
        }
    }

    #[test]
    fn vary_is_one_list_of_names() {
        #[rustfmt::skip]
        let rows: &[Row<'_>] = &[
            ("§4.1 no Vary", &[], Ok("")),
            ("§4.1 an empty Vary", &[("vary", " , ")], Ok("")),
            ("§4.1 one name", &[("vary", "Accept")], Ok("accept")),
            ("§4.1 sorted, each once, without case", &[("vary", "b, Accept , B")], Ok("accept b")),
            ("§4.1 several lines", &[("vary", "b"), ("vary", "a")], Ok("a b")),
            ("§4.1 *", &[("vary", "*")], Err(Reason::VaryAny)),
            ("§4.1 * with spaces", &[("vary", " * ")], Err(Reason::VaryAny)),
            ("§4.1 * in a list", &[("vary", "a, *")], Err(Reason::VaryAny)),
            ("§4.1 * on a second line", &[("vary", "a"), ("vary", "*")], Err(Reason::VaryAny)),
            ("§4.1 * in quotes", &[("vary", "\"*\"")], Err(Reason::VaryAny)),
            ("§4.1 * beside a credential", &[("vary", "authorization, *")], Err(Reason::VaryAny)),
            ("§4.1 what is no name", &[("vary", "a b")], Err(Reason::VaryAny)),
            ("§4.1 names in quotes", &[("vary", "\"a, b\"")], Err(Reason::VaryAny)),
            ("§4.1 an unterminated quote", &[("vary", "a, \"b")], Err(Reason::VaryAny)),
            ("§4.1 bytes above 0x7F", &[("vary", "é")], Err(Reason::VaryAny)),
        ];
        check(&StoringSettings::default(), false, false, rows);
    }

    #[test]
    fn vary_on_what_identifies_somebody_must_be_declared() {
        #[rustfmt::skip]
        let undeclared: &[Row<'_>] = &[
            ("Cookie", &[("vary", "Cookie")], Err(Reason::VaryCredential)),
            ("Cookie in a list", &[("vary", "Accept, cookie")], Err(Reason::VaryCredential)),
            ("Authorization", &[("vary", "AUTHORIZATION")], Err(Reason::VaryCredential)),
            ("a credential of the layer", &[("vary", "X-Api-Key")], Err(Reason::VaryCredential)),
            ("another field", &[("vary", "X-Api-Keys")], Ok("x-api-keys")),
        ];
        check(&StoringSettings::default(), false, false, undeclared);

        let cookies = StoringSettings {
            cookies_declared: true,
            ..StoringSettings::default()
        };
        #[rustfmt::skip]
        let declared: &[Row<'_>] = &[
            ("Cookie, declared", &[("vary", "Cookie")], Ok("cookie")),
            ("Authorization is not a cookie", &[("vary", "Cookie, Authorization")], Err(Reason::VaryCredential)),
            ("a credential is not a cookie", &[("vary", "X-Api-Key")], Err(Reason::VaryCredential)),
        ];
        check(&cookies, false, false, declared);

        #[rustfmt::skip]
        let partitioned: &[Row<'_>] = &[
            ("Cookie, partitioned", &[("vary", "Cookie")], Ok("cookie")),
            ("Authorization, partitioned", &[("vary", "Authorization")], Ok("authorization")),
            ("a credential, partitioned", &[("vary", "X-Api-Key")], Ok("x-api-key")),
            ("§4.1 *, partitioned", &[("vary", "*")], Err(Reason::VaryAny)),
        ];
        check(&StoringSettings::default(), true, false, partitioned);
    }

    #[test]
    fn unsaid_vary_counts_as_said() {
        #[rustfmt::skip]
        let both: &[Row<'_>] = &[
            ("Allow-Origin: *", &[("access-control-allow-origin", "*")], Ok("")),
            ("a specific Allow-Origin", &[("access-control-allow-origin", "https://a.example")], Ok("origin")),
            ("Allow-Origin: null", &[("access-control-allow-origin", "null")], Ok("origin")),
            ("a specific Allow-Origin beside *", &[("access-control-allow-origin", "*"), ("access-control-allow-origin", "https://a.example")], Ok("origin")),
            ("a specific Allow-Origin with Vary: Origin", &[("access-control-allow-origin", "https://a.example"), ("vary", "Origin")], Ok("origin")),
            ("Allow-Credentials unsaid", &[("access-control-allow-origin", "https://a.example"), ("access-control-allow-credentials", "true")], Err(Reason::CorsCredentials)),
            ("Allow-Credentials with another Vary", &[("access-control-allow-origin", "https://a.example"), ("access-control-allow-credentials", " TRUE "), ("vary", "Accept")], Err(Reason::CorsCredentials)),
            ("Allow-Credentials with Vary: Origin", &[("access-control-allow-origin", "https://a.example"), ("access-control-allow-credentials", "true"), ("vary", "Origin")], Ok("origin")),
            ("Allow-Credentials: false", &[("access-control-allow-origin", "https://a.example"), ("access-control-allow-credentials", "false")], Ok("origin")),
            ("Allow-Credentials for any origin, which browsers refuse", &[("access-control-allow-origin", "*"), ("access-control-allow-credentials", "true")], Ok("")),
            ("Content-Encoding", &[("content-encoding", "gzip")], Ok("accept-encoding")),
            ("Content-Encoding said", &[("content-encoding", "gzip"), ("vary", "Accept-Encoding")], Ok("accept-encoding")),
            ("no Content-Encoding", &[("content-type", "text/plain")], Ok("")),
            ("a CSP without a nonce", &[("content-security-policy", "script-src 'self'")], Ok("")),
        ];
        check(&StoringSettings::default(), false, true, both);
        check(&StoringSettings::default(), false, false, both);
    }

    #[test]
    fn silent_responses_vary_on_language_and_are_refused_for_a_nonce() {
        #[rustfmt::skip]
        let silent: &[Row<'_>] = &[
            ("silent: Content-Language", &[("content-language", "de")], Ok("accept-language")),
            ("silent: a nonce", &[("content-security-policy", "script-src 'nonce-r4nd'")], Err(Reason::CspNonce)),
            ("silent: a nonce in capitals", &[("content-security-policy", "script-src 'NONCE-r4nd'")], Err(Reason::CspNonce)),
            ("silent: a nonce that is only reported", &[("content-security-policy-report-only", "script-src 'nonce-r4nd'")], Err(Reason::CspNonce)),
            ("silent: a nonce on a second line", &[("content-security-policy", "img-src *"), ("content-security-policy", "script-src 'nonce-r4nd'")], Err(Reason::CspNonce)),
        ];
        check(&StoringSettings::default(), false, true, silent);
        #[rustfmt::skip]
        let said: &[Row<'_>] = &[
            ("said: Content-Language", &[("content-language", "de")], Ok("")),
            ("said: a nonce", &[("content-security-policy", "script-src 'nonce-r4nd'")], Ok("")),
        ];
        check(&StoringSettings::default(), false, false, said);
    }

    #[test]
    fn several_fields_are_written_one_after_another() {
        let facts = RequestFacts {
            headers: &HeaderMap::new(),
            authorization: false,
            personal: None,
            partitioned: false,
            is_credential: &|_| false,
        };
        let settings = StoringSettings::default();
        let rule = rule(&facts, &settings, &headers(&[("vary", "a, b")]), false).expect("a rule");
        let written = |lines: &[(&str, &str)]| {
            let mut out = Encoded::new();
            rule.write_values(&headers(lines), &mut out);
            out
        };
        assert_eq!(
            written(&[("a", "1"), ("b", "2")]),
            written(&[("B", "2"), ("c", "3"), ("A", "1")])
        );
        assert_ne!(
            written(&[("a", "1"), ("b", "2")]),
            written(&[("a", "2"), ("b", "1")])
        );
        assert_ne!(written(&[("a", "1")]), written(&[("b", "1")]));
        assert_ne!(written(&[("a", "")]), written(&[]));
        let mut out = Encoded::new();
        VaryRule::default().write_values(&headers(&[("a", "1")]), &mut out);
        assert!(out.is_empty(), "no rule, no bytes");
    }

    #[test]
    fn any_vary_is_read_without_a_panic_and_no_star_is_overlooked() {
        let mut random = Random::new(5);
        let request = HeaderMap::new();
        let facts = RequestFacts {
            headers: &request,
            authorization: false,
            personal: None,
            partitioned: true,
            is_credential: &|_| false,
        };
        for _ in 0..20_000 {
            let mut map = HeaderMap::new();
            for _ in 0..=random.below(2) {
                map.append(VARY, random.field_value(20));
            }
            map.append(ACCESS_CONTROL_ALLOW_ORIGIN, random.field_value(5));
            map.append(CONTENT_SECURITY_POLICY, random.field_value(20));
            let star = map
                .get_all(VARY)
                .iter()
                .any(|line| line.as_bytes().contains(&b'*'));
            let found = rule(&facts, &StoringSettings::default(), &map, true);
            assert!(!star || found == Err(Reason::VaryAny), "{map:?}");
        }
    }
}
