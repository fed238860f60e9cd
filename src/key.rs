//! The cache key: what tells one stored response from another
//! ([RFC 9111, section 4](https://www.rfc-editor.org/rfc/rfc9111#section-4)).
//!
//! A key is a list of parts, each with a mark of its kind and its length, so that no two lists
//! give the same bytes. The parts are borrowed from the request and written once, on the stack: these
//! bytes are hashed, compared with stored ones and, where nothing is found, stored. A hit therefore
//! allocates nothing, and what is compared can never differ from what was stored.
//!
//! What belongs into the key is collected by `admission.rs`; which settings shape it is said by
//! [`Query`] and the options of the layer.

use std::{
    borrow::Cow,
    hash::{BuildHasher, Hasher},
    ops::Deref,
    sync::{Arc, LazyLock},
};

use smallvec::SmallVec;

/// The longest cache key, in bytes; a request with a longer one is not looked up.
pub(crate) const MAX_KEY: usize = 8 * 1024;

/// Seeded once per process, so that nobody can prepare keys that collide.
static SEED: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);

/// A hasher with the seed of this process.
pub(crate) fn hasher() -> impl Hasher {
    SEED.build_hasher()
}

/// The kind of a part; never renumbered, because stored keys hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    Fingerprint = 1,
    Scheme = 2,
    Authority = 3,
    Path = 4,
    Query = 5,
    RewrittenPath = 6,
    RewrittenQuery = 7,
    Partition = 8,
    CookieName = 9,
    CookieValue = 10,
    FieldName = 11,
    FieldValue = 12,
    Variant = 13,
    Depth = 14,
    Content = 15,
    Search = 16,
    Value = 17,
}

impl Part {
    const ALL: [Self; 17] = [
        Self::Fingerprint,
        Self::Scheme,
        Self::Authority,
        Self::Path,
        Self::Query,
        Self::RewrittenPath,
        Self::RewrittenQuery,
        Self::Partition,
        Self::CookieName,
        Self::CookieValue,
        Self::FieldName,
        Self::FieldValue,
        Self::Variant,
        Self::Depth,
        Self::Content,
        Self::Search,
        Self::Value,
    ];
}

/// Declared cookies, by name.
pub(crate) type CookieParts<'a> = SmallVec<[(&'a str, &'a [u8]); 2]>;
/// Fields, by name.
pub(crate) type FieldParts<'a> = SmallVec<[(&'a str, Cow<'a, [u8]>); 4]>;

/// The parts of one request's key, borrowed from its head.
#[derive(Debug, Default)]
pub(crate) struct KeyParts<'a> {
    /// How many layers of the same cache are further out: between two layers a middleware may
    /// change everything, so that one must not answer from what the other stored.
    pub(crate) depth: u8,
    /// Of the key and admission settings of the layer; empty for the defaults.
    pub(crate) fingerprint: &'a str,
    pub(crate) scheme: Option<&'a str>,
    /// `None` where the request names none, or `ignore_host` is set. It is text.
    pub(crate) authority: Option<Cow<'a, [u8]>>,
    pub(crate) path: &'a str,
    /// Reduced as the settings say. `/q` has none, `/q?` has an empty one.
    pub(crate) query: Option<Cow<'a, str>>,
    /// The path and query that the inner service sees, where they are not those of the client.
    pub(crate) rewritten: Option<(&'a str, Option<Cow<'a, str>>)>,
    pub(crate) partition: Option<String>,
    pub(crate) cookies: CookieParts<'a>,
    /// Fields that a handler may read without saying so in `Vary`, sorted by name.
    pub(crate) unseen: FieldParts<'a>,
    /// What a QUERY asks by (RFC 10008), where it is one.
    pub(crate) content: Option<&'a [u8]>,
    /// By which rule the query was written (`searches.rs`), where one was applied.
    pub(crate) search: Option<String>,
}

impl KeyParts<'_> {
    /// The primary key.
    pub(crate) fn write(&self) -> WrittenKey {
        let mut key = WrittenKey::default();
        self.write_to(&mut key);
        key
    }

    /// Writes the primary key where it is to lie, in an order of parts that is a part of the format.
    #[inline]
    pub(crate) fn write_to(&self, key: &mut WrittenKey) {
        let out = &mut key.bytes;
        out.clear();
        if self.depth > 0 {
            write_part(out, Part::Depth, &[self.depth]);
        }
        write_part(out, Part::Fingerprint, self.fingerprint.as_bytes());
        if let Some(scheme) = self.scheme {
            write_part(out, Part::Scheme, scheme.as_bytes());
        }
        if let Some(authority) = &self.authority {
            write_part(out, Part::Authority, authority);
        }
        write_part(out, Part::Path, self.path.as_bytes());
        if let Some(query) = &self.query {
            write_part(out, Part::Query, query.as_bytes());
        }
        self.write_seldom(out);
        key.hash = hash(out);
    }

    /// What most keys do not have.
    #[inline]
    fn write_seldom(&self, out: &mut KeyBytes) {
        if let Some((path, query)) = &self.rewritten {
            write_part(out, Part::RewrittenPath, path.as_bytes());
            if let Some(query) = query {
                write_part(out, Part::RewrittenQuery, query.as_bytes());
            }
        }
        if let Some(partition) = &self.partition {
            write_part(out, Part::Partition, partition.as_bytes());
        }
        for (name, value) in &self.cookies {
            write_part(out, Part::CookieName, name.as_bytes());
            write_part(out, Part::CookieValue, value);
        }
        for (name, value) in &self.unseen {
            write_part(out, Part::FieldName, name.as_bytes());
            write_part(out, Part::FieldValue, value);
        }
        if let Some(content) = self.content {
            write_part(out, Part::Content, content);
        }
        if let Some(search) = &self.search {
            write_part(out, Part::Search, search.as_bytes());
        }
    }
}

/// Longer keys go to the heap.
const SHORT: usize = 192;

/// The bytes of a key that is being written.
#[derive(Debug, Clone)]
pub(crate) struct KeyBytes {
    len: usize,
    short: [u8; SHORT],
    /// All of it, if it is too long for the stack.
    long: Vec<u8>,
}

impl Default for KeyBytes {
    #[inline]
    fn default() -> Self {
        Self {
            len: 0,
            short: [0; SHORT],
            long: Vec::new(),
        }
    }
}

impl KeyBytes {
    #[inline]
    fn clear(&mut self) {
        self.len = 0;
        self.long.clear();
    }
}

impl Deref for KeyBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self.len <= SHORT {
            true => &self.short[..self.len],
            false => &self.long,
        }
    }
}

#[inline]
fn write_part(out: &mut KeyBytes, kind: Part, bytes: &[u8]) {
    let end = out.len + HEAD + bytes.len();
    let Some(room) = out.short.get_mut(out.len..end) else {
        return write_long(out, kind, bytes);
    };
    room[..HEAD].copy_from_slice(&head_of(kind, bytes));
    room[HEAD..].copy_from_slice(bytes);
    out.len = end;
}

#[cold]
fn write_long(out: &mut KeyBytes, kind: Part, bytes: &[u8]) {
    if out.len <= SHORT {
        out.long.extend_from_slice(&out.short[..out.len]);
    }
    out.long.extend_from_slice(&head_of(kind, bytes));
    out.long.extend_from_slice(bytes);
    out.len = out.long.len();
}

/// In front of each part: its kind, and its length.
const HEAD: usize = 5;

#[inline]
fn head_of(kind: Part, bytes: &[u8]) -> [u8; HEAD] {
    let [a, b, c, d] = (bytes.len() as u32).to_le_bytes();
    [kind as u8, a, b, c, d]
}

#[inline]
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SEED.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

/// The primary key of a request that is being looked up.
#[derive(Debug, Default)]
pub(crate) struct WrittenKey {
    pub(crate) hash: u64,
    pub(crate) bytes: KeyBytes,
}

impl WrittenKey {
    /// With bytes of its own, for a request that found nothing.
    pub(crate) fn to_key(&self) -> Key {
        Key {
            hash: self.hash,
            bytes: (&*self.bytes).into(),
        }
    }
}

/// A key that owns its bytes: the primary key, with the variant behind it where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) hash: u64,
    pub(crate) bytes: Arc<[u8]>,
}

impl Key {
    /// This primary key with the encoded values of the selecting fields behind it.
    pub(crate) fn with_variant(&self, values: &[u8]) -> Self {
        let suffix = variant_suffix(values);
        Self {
            hash: variant_hash(self.hash, &suffix),
            bytes: [&self.bytes, &suffix[..]].concat().into(),
        }
    }
}

impl Key {
    /// This primary key with another query, and the rule by which that was written.
    pub(crate) fn with_search(&self, query: Option<&str>, rule: Option<&str>) -> Self {
        let mut out = KeyBytes::default();
        for (kind, part) in parts_of(&self.bytes) {
            match kind {
                Part::Query | Part::Search => {}
                kind => write_part(&mut out, kind, part),
            }
            // In its place behind the path, as `write` has it.
            if let (Part::Path, Some(query)) = (kind, query) {
                write_part(&mut out, Part::Query, query.as_bytes());
            }
        }
        if let Some(rule) = rule {
            write_part(&mut out, Part::Search, rule.as_bytes());
        }
        let written = WrittenKey {
            hash: hash(&out),
            bytes: out,
        };
        written.to_key()
    }
}

impl Key {
    /// The key of a value, by its text.
    pub(crate) fn of_value(text: &str) -> Self {
        let mut out = KeyBytes::default();
        write_part(&mut out, Part::Value, text.as_bytes());
        Self {
            hash: hash(&out),
            bytes: (&*out).into(),
        }
    }
}

/// Whether it is that of a value.
pub(crate) fn is_of_value(key: &[u8]) -> bool {
    key.first() == Some(&(Part::Value as u8))
}

/// The parts that were written into a key.
pub(crate) fn parts_of(mut bytes: &[u8]) -> impl Iterator<Item = (Part, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (part, rest) = rest.split_at_checked(len)?;
        bytes = rest;
        let kind = Part::ALL.into_iter().find(|kind| *kind as u8 == head[0])?;
        Some((kind, part))
    })
}

/// The encoded values of selecting fields as a part of a key.
pub(crate) fn variant_suffix(values: &[u8]) -> SmallVec<[u8; 128]> {
    let mut suffix = SmallVec::new();
    suffix.push(Part::Variant as u8);
    suffix.extend_from_slice(&(values.len() as u32).to_le_bytes());
    suffix.extend_from_slice(values);
    suffix
}

/// The hash of a variant, from that of its primary key.
pub(crate) fn variant_hash(primary: u64, suffix: &[u8]) -> u64 {
    let mut hasher = SEED.build_hasher();
    hasher.write_u64(primary);
    hasher.write(suffix);
    hasher.finish()
}

/// An authority in the form in which it is compared: lower case, without the default port of
/// its scheme ([RFC 9110, section 4.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-4.2.3)).
pub(crate) fn normal_authority<'a>(scheme: Option<&str>, authority: &'a str) -> Cow<'a, str> {
    let authority = match scheme {
        Some("http") => authority.strip_suffix(":80").unwrap_or(authority),
        Some("https") => authority.strip_suffix(":443").unwrap_or(authority),
        _ => authority,
    };
    if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(authority.to_ascii_lowercase())
    } else {
        Cow::Borrowed(authority)
    }
}

/// The same as bytes, for a key.
pub(crate) fn authority_part<'a>(scheme: Option<&str>, authority: &'a str) -> Cow<'a, [u8]> {
    match normal_authority(scheme, authority) {
        Cow::Borrowed(authority) => Cow::Borrowed(authority.as_bytes()),
        Cow::Owned(authority) => Cow::Owned(authority.into_bytes()),
    }
}

/// The same for a `Host` that nobody has looked at; `None` if it is no text.
pub(crate) fn host_part<'a>(scheme: Option<&str>, host: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    // Nearly every host is written as it is compared: one look at each byte says so.
    let is_plain = |byte: &u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if scheme.is_none() && host.iter().all(is_plain) {
        return Some(Cow::Borrowed(host));
    }
    let host = std::str::from_utf8(host).ok()?;
    Some(authority_part(scheme, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(path: &'a str, query: Option<&'a str>) -> KeyParts<'a> {
        KeyParts {
            path,
            query: query.map(Cow::Borrowed),
            authority: Some(Cow::Borrowed(b"example.com")),
            ..KeyParts::default()
        }
    }

    #[test]
    fn what_is_written_is_what_is_stored() {
        let mut key = parts("/a", Some("q=1"));
        key.unseen.push(("hx-request", Cow::Borrowed(b"true")));
        key.cookies.push(("lang", b"de"));
        let written = key.write();
        let stored = written.to_key();
        assert_eq!(
            (stored.hash, &*stored.bytes),
            (written.hash, &*written.bytes)
        );
        let names: Vec<_> = parts_of(&stored.bytes).collect();
        assert_eq!(
            names,
            [
                (Part::Fingerprint, &b""[..]),
                (Part::Authority, b"example.com"),
                (Part::Path, b"/a"),
                (Part::Query, b"q=1"),
                (Part::CookieName, b"lang"),
                (Part::CookieValue, b"de"),
                (Part::FieldName, b"hx-request"),
                (Part::FieldValue, b"true"),
            ]
        );
        let variant = stored.with_variant(b"gzip");
        assert_eq!(
            variant.bytes.strip_prefix(&*stored.bytes),
            Some(&variant_suffix(b"gzip")[..])
        );
        assert_ne!(variant.hash, stored.hash);
        assert_ne!(variant.hash, stored.with_variant(b"br").hash);
    }

    #[test]
    fn a_long_key_is_written_like_a_short_one() {
        for len in [0, SHORT - 60, SHORT, SHORT + 1, 5_000] {
            let path = format!("/{}", "x".repeat(len));
            let key = parts(&path, Some("q=1")).write();
            let written: Vec<_> = parts_of(&key.bytes).collect();
            assert_eq!(written[2], (Part::Path, path.as_bytes()), "{len}");
            assert_eq!(written[3], (Part::Query, &b"q=1"[..]), "{len}");
            assert_eq!(written.len(), 4, "{len}");
        }
    }

    #[test]
    fn a_key_with_another_query_is_the_key_of_that_query() {
        let mut key = parts("/a", Some("q=1"));
        key.unseen.push(("hx-request", Cow::Borrowed(b"true")));
        let one = key.write().to_key();
        key.query = Some(Cow::Borrowed("q=2"));
        key.search = Some("rule".into());
        let other = key.write().to_key();
        assert_eq!(one.with_search(Some("q=2"), Some("rule")), other);
        assert_eq!(other.with_search(Some("q=1"), None), one);
        key.query = None;
        assert_eq!(one.with_search(None, Some("rule")), key.write().to_key());
    }

    #[test]
    fn keys_that_look_alike_differ() {
        let lone = |key: KeyParts<'_>| key.write().to_key();
        let with_authority = |authority: &'static str, path: &'static str| KeyParts {
            authority: Some(Cow::Borrowed(authority.as_bytes())),
            path,
            ..KeyParts::default()
        };
        let keys = [
            lone(parts("/a", None)),
            lone(parts("/a", Some(""))),
            lone(parts("/a", Some("b"))),
            lone(parts("/a?b", None)),
            lone(parts("/b", None)),
            lone(with_authority("a", "b/c")),
            lone(with_authority("ab", "/c")),
            lone(KeyParts {
                scheme: Some("https"),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                depth: 1,
                ..parts("/a", None)
            }),
            lone(KeyParts {
                content: Some(b""),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                content: Some(b"b"),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                content: Some(b"b"),
                rewritten: Some(("/x", None)),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                rewritten: Some(("/x", Some(Cow::Borrowed("b")))),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                search: Some("b".into()),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                fingerprint: "f",
                ..parts("/a", None)
            }),
            lone(KeyParts {
                partition: Some("f".into()),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                rewritten: Some(("/x", None)),
                ..parts("/a", None)
            }),
            lone(KeyParts {
                rewritten: Some(("/x", Some(Cow::Borrowed("")))),
                ..parts("/a", None)
            }),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a.bytes, b.bytes);
                assert_ne!(a.hash, b.hash);
            }
        }
    }

    #[test]
    fn authorities_are_compared_without_case_and_default_port() {
        for (scheme, given, expected) in [
            (None, "Example.COM:80", "example.com:80"),
            (Some("http"), "Example.COM:80", "example.com"),
            (Some("http"), "example.com:443", "example.com:443"),
            (Some("https"), "example.com:443", "example.com"),
            (Some("https"), "[::1]:8443", "[::1]:8443"),
        ] {
            assert_eq!(normal_authority(scheme, given), expected);
            let host = host_part(scheme, given.as_bytes());
            assert_eq!(host.as_deref(), Some(expected.as_bytes()), "{given}");
        }
    }

    #[test]
    fn a_host_is_text() {
        let host = |host: &'static [u8]| host_part(None, host);
        assert_eq!(host(b"plain").as_deref(), Some(&b"plain"[..]));
        assert_eq!(
            host(b"B\xc3\xbccher").as_deref(),
            Some(&b"b\xc3\xbccher"[..])
        );
        assert_eq!(host(b"b\xfccher"), None);
    }
}
