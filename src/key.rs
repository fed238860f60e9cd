//! The cache key: what tells one stored response from another
//! ([RFC 9111, section 4](https://www.rfc-editor.org/rfc/rfc9111#section-4)).
//!
//! A key is a list of parts, each with a mark of its kind and its length, so that no two lists
//! give the same bytes. The parts are borrowed from the request and visited by a [`Sink`]: one
//! hashes them, one compares them with stored bytes, one writes those bytes. A hit therefore
//! builds no string, and what is compared can never differ from what was stored.
//!
//! What belongs into the key is collected by `admission.rs`; which settings shape it is said by
//! [`Query`] and the options of the layer.

use std::{
    borrow::Cow,
    hash::{BuildHasher, Hasher},
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
}

impl Part {
    const ALL: [Self; 16] = [
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
    ];
}

/// Something that takes the parts of a key, one after the other.
pub(crate) trait Sink {
    fn part(&mut self, kind: Part, bytes: &[u8]);
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
    /// `None` where the request names none, or `ignore_host` is set.
    pub(crate) authority: Option<Cow<'a, str>>,
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
    /// Shows every part to `sink`, in an order that is part of the format.
    #[inline]
    pub(crate) fn visit(&self, sink: &mut impl Sink) {
        if self.depth > 0 {
            sink.part(Part::Depth, &[self.depth]);
        }
        sink.part(Part::Fingerprint, self.fingerprint.as_bytes());
        if let Some(scheme) = self.scheme {
            sink.part(Part::Scheme, scheme.as_bytes());
        }
        if let Some(authority) = &self.authority {
            sink.part(Part::Authority, authority.as_bytes());
        }
        sink.part(Part::Path, self.path.as_bytes());
        if let Some(query) = &self.query {
            sink.part(Part::Query, query.as_bytes());
        }
        if let Some((path, query)) = &self.rewritten {
            sink.part(Part::RewrittenPath, path.as_bytes());
            if let Some(query) = query {
                sink.part(Part::RewrittenQuery, query.as_bytes());
            }
        }
        if let Some(partition) = &self.partition {
            sink.part(Part::Partition, partition.as_bytes());
        }
        for (name, value) in &self.cookies {
            sink.part(Part::CookieName, name.as_bytes());
            sink.part(Part::CookieValue, value);
        }
        for (name, value) in &self.unseen {
            sink.part(Part::FieldName, name.as_bytes());
            sink.part(Part::FieldValue, value);
        }
        if let Some(content) = self.content {
            sink.part(Part::Content, content);
        }
        if let Some(search) = &self.search {
            sink.part(Part::Search, search.as_bytes());
        }
    }

    /// The hash of the primary key, and its length in bytes.
    #[inline]
    pub(crate) fn hash(&self) -> (u64, usize) {
        let mut sink = HashSink {
            hasher: SEED.build_hasher(),
            len: 0,
        };
        self.visit(&mut sink);
        (sink.hasher.finish(), sink.len)
    }

    /// Whether `stored` holds this key, followed by `variant`.
    #[inline]
    pub(crate) fn matches(&self, variant: &[u8], stored: &[u8]) -> bool {
        let mut sink = CompareSink {
            rest: stored,
            equal: true,
        };
        self.visit(&mut sink);
        sink.equal && sink.rest == variant
    }

    /// The key with bytes of its own, for a request that found nothing.
    pub(crate) fn to_key(&self, hash: u64, len: usize) -> Key {
        let mut sink = WriteSink(Vec::with_capacity(len));
        self.visit(&mut sink);
        Key {
            hash,
            bytes: sink.0.into(),
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
        let (mut hash, mut bytes) = (
            HashSink {
                hasher: SEED.build_hasher(),
                len: 0,
            },
            WriteSink(Vec::with_capacity(self.bytes.len())),
        );
        let mut add = |kind: Part, part: &[u8]| {
            hash.part(kind, part);
            bytes.part(kind, part);
        };
        for (kind, part) in parts_of(&self.bytes) {
            match kind {
                Part::Query | Part::Search => {}
                kind => add(kind, part),
            }
            // In its place behind the path, as `visit` shows it.
            if let (Part::Path, Some(query)) = (kind, query) {
                add(Part::Query, query.as_bytes());
            }
        }
        if let Some(rule) = rule {
            add(Part::Search, rule.as_bytes());
        }
        Self {
            hash: hash.hasher.finish(),
            bytes: bytes.0.into(),
        }
    }
}

/// The parts that were written into a key.
fn parts_of(mut bytes: &[u8]) -> impl Iterator<Item = (Part, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<5>()?;
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

struct HashSink<H> {
    hasher: H,
    len: usize,
}

impl<H: Hasher> Sink for HashSink<H> {
    #[inline]
    fn part(&mut self, kind: Part, bytes: &[u8]) {
        self.hasher
            .write_u64((kind as u64) << 56 | bytes.len() as u64);
        self.hasher.write(bytes);
        self.len += 5 + bytes.len();
    }
}

struct CompareSink<'s> {
    rest: &'s [u8],
    equal: bool,
}

impl Sink for CompareSink<'_> {
    #[inline]
    fn part(&mut self, kind: Part, bytes: &[u8]) {
        if !self.equal {
            return;
        }
        let Some((head, rest)) = self.rest.split_first_chunk::<5>() else {
            self.equal = false;
            return;
        };
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        self.equal = head[0] == kind as u8 && len == bytes.len() && rest.get(..len) == Some(bytes);
        if self.equal {
            self.rest = &rest[len..];
        }
    }
}

struct WriteSink(Vec<u8>);

impl Sink for WriteSink {
    fn part(&mut self, kind: Part, bytes: &[u8]) {
        self.0.push(kind as u8);
        self.0
            .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }
}

/// An authority in the form in which it is compared: lower case, without the default port of
/// its scheme ([RFC 9110, section 4.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-4.2.3)).
pub(crate) fn normal_authority<'a>(scheme: Option<&str>, authority: &'a str) -> Cow<'a, str> {
    let authority = match scheme {
        Some("http") => authority.strip_suffix(":80").unwrap_or(authority),
        Some("https") => authority.strip_suffix(":443").unwrap_or(authority),
        _ => authority,
    };
    // Over all bytes without a way out: the compiler takes many at once.
    let has_upper = authority
        .bytes()
        .fold(false, |found, b| found | b.is_ascii_uppercase());
    if has_upper {
        Cow::Owned(authority.to_ascii_lowercase())
    } else {
        Cow::Borrowed(authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(path: &'a str, query: Option<&'a str>) -> KeyParts<'a> {
        KeyParts {
            path,
            query: query.map(Cow::Borrowed),
            authority: Some(Cow::Borrowed("example.com")),
            ..KeyParts::default()
        }
    }

    #[test]
    fn the_written_key_is_the_one_that_matches() {
        let mut key = parts("/a", Some("q=1"));
        key.unseen.push(("hx-request", Cow::Borrowed(b"true")));
        key.cookies.push(("lang", b"de"));
        let (hash, len) = key.hash();
        let stored = key.to_key(hash, len);
        assert_eq!(stored.bytes.len(), len);
        assert!(key.matches(b"", &stored.bytes));
        assert!(!key.matches(b"x", &stored.bytes));
        for cut in 0..stored.bytes.len() {
            assert!(!key.matches(b"", &stored.bytes[..cut]), "cut at {cut}");
        }
        let variant = stored.with_variant(b"gzip");
        assert!(key.matches(&variant_suffix(b"gzip"), &variant.bytes));
        assert!(!key.matches(b"", &variant.bytes));
        assert_ne!(variant.hash, stored.hash);
    }

    #[test]
    fn keys_that_look_alike_differ() {
        let lone = |key: KeyParts<'_>| {
            let (hash, len) = key.hash();
            key.to_key(hash, len)
        };
        let with_authority = |authority: &'static str, path: &'static str| KeyParts {
            authority: Some(Cow::Borrowed(authority)),
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
        }
    }
}
