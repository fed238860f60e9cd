//! Which requests are looked up, which may share, and what their key is made of.
//!
//! One pass over the fields of a request finds everything that matters here: a head has some
//! dozen fields, the rules name some sixty. Whether a *response* may be stored is decided in
//! `policy/`.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderValue, Method, Request, Version,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use http_body::Body;

use crate::{
    head::HeadRef,
    key::{FieldParts, KeyParts, MAX_KEY, WrittenKey, authority_part, host_part},
    personal::{Field, meaning},
    policy::RequestDirectives,
    searches::Search,
    selector::original_uri,
    settings::{HonoredDirectives, Settings},
    status::Reason,
    target::Subject,
};

/// What a request is to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Not looked up, for this reason.
    Bypass(Reason),
    /// Looked up, as the [`Lookup`] says.
    Lookup,
}

/// What the closures of a layer said of a request; they want a whole head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Nothing,
    Bypass(Reason),
    Partition(String),
}

/// Asks the closures of the layer.
pub(crate) fn ask_closures(settings: &Settings, head: &Parts) -> Said {
    if settings.bypass_when.iter().any(|condition| condition(head)) {
        return Said::Bypass(Reason::BypassWhen);
    }
    match &settings.partition_by {
        Some(by) => match (by.of)(head) {
            Some(value) => Said::Partition(value),
            None => Said::Bypass(Reason::Partition),
        },
        None => Said::Nothing,
    }
}

/// A request that is looked up.
#[derive(Debug, Default)]
pub(crate) struct Lookup<'a> {
    pub(crate) parts: KeyParts<'a>,
    pub(crate) key: WrittenKey,
    pub(crate) is_head: bool,
    pub(crate) directives: RequestDirectives,
    /// They demand something.
    pub(crate) is_demanding: bool,
    /// It has cookies or credentials, and nothing lifts that: only what is explicitly shareable
    /// may answer it.
    pub(crate) personal: Option<Reason>,
    pub(crate) authorization: bool,
    pub(crate) range: bool,
    pub(crate) conditional: bool,
    /// The query as it came, where responses may say what of it matters.
    pub(crate) search: Option<Search>,
}

impl Lookup<'_> {
    /// Looks for what was stored by the rule of its path; `false` if there is none.
    #[cold]
    pub(crate) fn search(&mut self, settings: &Settings) -> bool {
        let search = Search::new(settings.id, &self.parts);
        let mut is_applied = search.apply(settings.cache.searches(), &mut self.parts);
        if is_applied {
            self.parts.write_to(&mut self.key);
        }
        if self.key.bytes.len() > MAX_KEY {
            // Written anew it is too long; as it came it was not.
            is_applied = false;
            search.undo(&mut self.parts);
            self.parts.write_to(&mut self.key);
        }
        self.search = Some(search);
        is_applied
    }

    /// Remembers the query as it came for what will be stored.
    pub(crate) fn note_search(&mut self, settings: &Settings) {
        if settings.no_vary_search && self.search.is_none() {
            self.search = Some(Search::new(settings.id, &self.parts));
        }
    }

    /// Whether the answer may be 304, or a part.
    pub(crate) fn is_selective(&self) -> bool {
        self.range || self.conditional
    }

    /// What invalidations of the resource are compared with.
    pub(crate) fn subject(&self, settings: &Settings) -> Subject {
        let parts = &self.parts;
        let authority = parts.authority.as_deref();
        let authority = authority.and_then(|authority| std::str::from_utf8(authority).ok());
        Subject::response(
            (!settings.ignore_host).then_some(authority),
            parts.path,
            (settings.query.is_none() && self.search.is_none()).then_some(parts.query.as_deref()),
        )
    }
}

/// Decides over one request; the order is that of design and cost, the first reason counts.
///
/// `lookup` is filled in where it lies: it is large, and a hit is over soon.
#[inline]
pub(crate) fn admit<'a, B: Body>(
    settings: &'a Settings,
    head: HeadRef<'a>,
    body: &B,
    said: Said,
    lookup: &mut Lookup<'a>,
) -> Admission {
    lookup.is_head = *head.method == Method::HEAD;
    match said {
        Said::Nothing => {}
        Said::Bypass(reason) => return Admission::Bypass(reason),
        Said::Partition(value) => lookup.parts.partition = Some(value),
    }
    match look_at(settings, head, body, lookup) {
        Ok(()) => Admission::Lookup,
        Err(reason) => Admission::Bypass(reason),
    }
}

fn look_at<'a, B: Body>(
    settings: &'a Settings,
    head: HeadRef<'a>,
    body: &B,
    lookup: &mut Lookup<'a>,
) -> Result<(), Reason> {
    let mut seen = Seen::default();
    seen.scan(settings, head, lookup)?;
    match lookup.parts.content {
        Some(_) => add_content_fields(head.headers, &mut lookup.parts.unseen),
        None if has_body(head, &seen, body) => return Err(Reason::RequestBody),
        None => {}
    }
    if seen.cache_control || seen.pragma {
        lookup.directives = demands(settings, head.headers, seen.cache_control);
        lookup.is_demanding = !lookup.directives.is_empty();
        if lookup.directives.no_store {
            // §5.2.1.5: nothing of this exchange may be stored.
            return Err(Reason::RequestNoStore);
        }
    }
    key_parts(settings, head, seen.host, &mut lookup.parts)?;
    let mut personal = seen.credential.then_some(Reason::Credential);
    if seen.cookie && settings.cookies.are_declared() && seen.cookie_bytes > MAX_KEY {
        // They would have to be taken apart, one by one.
        return Err(Reason::KeyTooLong);
    }
    if seen.cookie {
        let (cookies, has_others) = settings.cookies.read(head.headers);
        lookup.parts.cookies = cookies;
        if has_others && settings.storing.is_careful() {
            personal = personal.or(Some(Reason::Cookie));
        }
    }
    // Last: what may answer a request with `Authorization` alone need not do for the others.
    personal = personal.or(seen.authorization.then_some(Reason::Authorization));
    // A partition has answered the question of who may share.
    if lookup.parts.partition.is_none() {
        lookup.personal = personal;
        lookup.authorization = seen.authorization;
    }
    lookup.parts.write_to(&mut lookup.key);
    if lookup.key.bytes.len() > MAX_KEY {
        return Err(Reason::KeyTooLong);
    }
    Ok(())
}

/// What a request demands, as far as the layer wants to hear it.
#[cold]
fn demands(settings: &Settings, headers: &HeaderMap, cache_control: bool) -> RequestDirectives {
    if !cache_control {
        return match settings.request_directives {
            HonoredDirectives::All => RequestDirectives::from_pragma(headers),
            HonoredDirectives::Common | HonoredDirectives::OnlyIfCached => {
                RequestDirectives::default()
            }
        };
    }
    let said = RequestDirectives::parse(headers);
    match settings.request_directives {
        HonoredDirectives::All => said,
        HonoredDirectives::Common => said.without_ages(),
        HonoredDirectives::OnlyIfCached => RequestDirectives {
            only_if_cached: said.only_if_cached,
            ..RequestDirectives::default()
        },
    }
}

/// What the fields of a request say.
#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a HeaderValue>,
    cookie: bool,
    cookie_bytes: usize,
    authorization: bool,
    credential: bool,
    cache_control: bool,
    pragma: bool,
    content_length: bool,
    transfer_encoding: bool,
}

impl<'a> Seen<'a> {
    fn scan(
        &mut self,
        settings: &Settings,
        head: HeadRef<'a>,
        lookup: &mut Lookup<'a>,
    ) -> Result<(), Reason> {
        let unseen = &mut lookup.parts.unseen;
        let is_careful = settings.storing.is_careful();
        for (name, value) in head.headers {
            self.credential |= settings.credentials.adds(name);
            match meaning(name.as_str()) {
                Field::Other => {}
                Field::Credential => {
                    self.credential |= is_careful && !settings.credentials.allows(name);
                }
                Field::Authorization => self.authorization = true,
                Field::Cookie => {
                    self.cookie = is_careful || settings.cookies.are_declared();
                    self.cookie_bytes += value.len();
                }
                Field::CacheControl => self.cache_control = true,
                Field::Pragma => self.pragma = true,
                Field::Range => lookup.range = true,
                Field::Conditional => lookup.conditional = true,
                Field::ContentLength => self.content_length |= value.as_bytes() != b"0",
                Field::TransferEncoding => self.transfer_encoding = true,
                Field::Upgrade => return Err(Reason::Upgrade),
                // RFC 9112, 3.2: more than one Host is an attack or a mistake.
                Field::Host if self.host.is_some() => return Err(Reason::HostConflict),
                Field::Host => self.host = Some(value),
                Field::Unseen | Field::Forwarded | Field::Origin if !is_careful => {}
                Field::Unseen => unseen.push((name.as_str(), Cow::Borrowed(value.as_bytes()))),
                Field::Forwarded => unseen.push((name.as_str(), host_and_proto(value))),
                Field::Origin => unseen.push((name.as_str(), Cow::Borrowed(&[]))),
            }
        }
        if unseen.len() > 1 {
            // Stable: the lines of one field keep their order.
            unseen.sort_by_key(|(name, _)| *name);
        }
        Ok(())
    }
}

/// What of `Forwarded` shapes a response (RFC 7239, section 4): all but `for` and `by`, each in the
/// place of its element, since a handler may read the first or the last. What is unknown here
/// separates.
fn host_and_proto(value: &HeaderValue) -> Cow<'_, [u8]> {
    let value = value.as_bytes();
    if value.contains(&b'"') {
        // A quoted string may hold separators; what is not taken apart cannot be confused.
        return Cow::Borrowed(value);
    }
    let mut kept = Vec::new();
    for element in value.split(|b| *b == b',') {
        for pair in element.split(|b| *b == b';').map(<[u8]>::trim_ascii) {
            let name = pair
                .split(|b| *b == b'=')
                .next()
                .unwrap_or(pair)
                .trim_ascii();
            let is_node = name.eq_ignore_ascii_case(b"for") || name.eq_ignore_ascii_case(b"by");
            if !is_node && !pair.is_empty() {
                kept.extend_from_slice(pair);
                kept.push(b';');
            }
        }
        kept.push(b',');
    }
    Cow::Owned(kept)
}

/// What says how the content of a QUERY is to be read belongs to it (RFC 10008).
#[cold]
fn add_content_fields<'a>(headers: &'a HeaderMap, fields: &mut FieldParts<'a>) {
    for name in [&CONTENT_ENCODING, &CONTENT_LANGUAGE, &CONTENT_TYPE] {
        for value in headers.get_all(name) {
            fields.push((name.as_str(), Cow::Borrowed(value.as_bytes())));
        }
    }
    fields.sort_by_key(|(name, _)| *name);
}

/// HTTP/1 says by its fields whether there is a body; HTTP/2 and later by the end of the stream. A
/// body that knows of its bytes is one whatever the fields say.
fn has_body<B: Body>(head: HeadRef<'_>, seen: &Seen<'_>, body: &B) -> bool {
    if seen.content_length || seen.transfer_encoding || body.size_hint().lower() > 0 {
        return true;
    }
    let is_framed_by_fields = head.version <= Version::HTTP_11;
    let is_empty = || body.is_end_stream() || body.size_hint().exact() == Some(0);
    // `Content-Length: 0` counts as said.
    !is_framed_by_fields && !is_empty() && !head.headers.contains_key(CONTENT_LENGTH)
}

fn key_parts<'a>(
    settings: &'a Settings,
    head: HeadRef<'a>,
    host: Option<&'a HeaderValue>,
    parts: &mut KeyParts<'a>,
) -> Result<(), Reason> {
    let uri = original_uri(head.extensions, head.uri);
    let scheme = uri.scheme_str();
    let host = match host {
        Some(host) => Some(host_part(scheme, host.as_bytes()).ok_or(Reason::HostConflict)?),
        None => None,
    };
    let authority = match uri.authority() {
        Some(authority) => {
            let authority = authority_part(scheme, authority.as_str());
            // RFC 9112, 3.2.2: the absolute form wins, and who sends another Host is up to
            // something.
            if host.is_some_and(|host| host != authority) {
                return Err(Reason::HostConflict);
            }
            Some(authority)
        }
        None => host,
    };
    parts.fingerprint = &settings.fingerprint;
    if !settings.ignore_host {
        parts.scheme = scheme;
        parts.authority = authority;
    }
    parts.path = uri.path();
    let reduced = |query: &'a str| match &settings.query {
        Some(settings) => settings.reduce(query),
        None => Some(Cow::Borrowed(query)),
    };
    parts.query = uri.query().and_then(reduced);
    // A nested router takes a prefix off the path; anything else means that somebody rewrote the
    // URI, perhaps by something that is not in the key.
    let is_nested = || uri.path().ends_with(head.uri.path()) && uri.query() == head.uri.query();
    if !std::ptr::eq(uri, head.uri) && !is_nested() {
        let query = head.uri.query().and_then(reduced);
        parts.rewritten = Some((head.uri.path(), query));
    }
    Ok(())
}

/// The request such as its key says: without the query parameters and cookies that do not count.
pub(crate) fn reduced<B>(settings: &Settings, request: Request<B>) -> Request<B> {
    if settings.query.is_none() && !settings.cookies.are_declared() {
        return request;
    }
    let (mut head, body) = request.into_parts();
    reduce(settings, &mut head);
    Request::from_parts(head, body)
}

fn reduce(settings: &Settings, head: &mut Parts) {
    settings.cookies.reduce(&mut head.headers);
    let Some(query) = &settings.query else {
        return;
    };
    let reduced = |uri: &http::Uri| {
        let before = uri.query()?;
        let after = query.reduce(before);
        if after.as_deref() == Some(before) {
            return None;
        }
        let path_and_query = match after {
            Some(query) => format!("{}?{query}", uri.path()),
            None => uri.path().to_owned(),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path_and_query.parse().ok()?);
        http::Uri::from_parts(parts).ok()
    };
    if let Some(uri) = crate::router::original_uri(&head.extensions).and_then(reduced) {
        crate::router::set_original_uri(&mut head.extensions, uri);
    }
    if let Some(uri) = reduced(&head.uri) {
        head.uri = uri;
    }
}
