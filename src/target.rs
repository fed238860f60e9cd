//! By what a stored response can be selected: digests of its resource, path, groups and tags.
//!
//! Digests serve as keys of the invalidation log, because a collision only makes one more miss.

use std::{borrow::Cow, hash::Hasher, str, sync::Arc};

use smallvec::SmallVec;

use crate::{
    dependencies::name_of,
    key::{Part, hasher, normal_authority, parts_of},
};

/// An authority, a path and a query, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    authority: String,
    path: String,
    query: Option<String>,
}

/// What a record of the log is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Target(pub(crate) u64);

/// What kind of name an entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    /// The path of a response.
    Path,
    /// The text of a value's key.
    Value,
}

/// An entry as selectors see it, before its tags are known.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// Its resource, or the whole key of a value.
    pub(crate) target: Target,
    /// The digest of its authority: groups belong to an origin (RFC 9875, 2.1).
    pub(crate) origin: u64,
    pub(crate) space: Space,
    pub(crate) name: Arc<str>,
}

impl Resource {
    pub(crate) fn new(authority: Option<&str>, path: &str, query: Option<&str>) -> Self {
        Self {
            authority: comparable(authority).into_owned(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
        }
    }

    pub(crate) fn authority(&self) -> Option<&str> {
        (!self.authority.is_empty()).then_some(&*self.authority)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Every target under which an entry of this resource may have been stored.
    pub(crate) fn targets(&self) -> [Target; 4] {
        let authority = Some(self.authority.as_str());
        let query = Some(self.query.as_deref());
        [
            target(authority, &self.path, query),
            target(authority, &self.path, None),
            target(None, &self.path, query),
            target(None, &self.path, None),
        ]
    }
}

impl Subject {
    /// A stored response; `None` for the authority or the query where its layer does not tell them
    /// apart.
    pub(crate) fn response(
        authority: Option<Option<&str>>,
        path: &str,
        query: Option<Option<&str>>,
    ) -> Self {
        let authority = authority.map(comparable);
        Self {
            target: target(authority.as_deref(), path, query),
            origin: origin(authority.as_deref()),
            space: Space::Path,
            name: path.into(),
        }
    }
}

impl Subject {
    /// A value, by the text of its key.
    pub(crate) fn value(text: &str) -> Self {
        Self {
            target: Target::named(Space::Value, text),
            origin: 0,
            space: Space::Value,
            name: text.into(),
        }
    }
}

/// What the key of an entry says of it, for somebody who does not know the layer that has stored it.
pub(crate) struct Keyed<'k> {
    /// The path of a response, the name of a value.
    pub(crate) path: &'k str,
    /// As one of these it was stored: whether authority and query are told apart is not in the key.
    pub(crate) subjects: SmallVec<[Subject; 4]>,
}

impl<'k> Keyed<'k> {
    pub(crate) fn of(key: &'k [u8]) -> Option<Self> {
        let (mut authority, mut path, mut query) = (None, None, None);
        for (part, bytes) in parts_of(key) {
            let text = || str::from_utf8(bytes).ok();
            match part {
                Part::Value => {
                    let text = text()?;
                    return Some(Self {
                        path: name_of(text),
                        subjects: SmallVec::from_iter([Subject::value(text)]),
                    });
                }
                Part::Authority => authority = text(),
                Part::Path => path = text(),
                Part::Query => query = text(),
                _ => {}
            }
        }
        let path = path?;
        let mut subjects = SmallVec::new();
        for query in [Some(query), None] {
            subjects.push(Subject::response(Some(authority), path, query));
            if authority.is_none() {
                subjects.push(Subject::response(None, path, query));
            }
        }
        Some(Self { path, subjects })
    }
}

impl Target {
    /// Everything with this name, whatever else is in its key.
    pub(crate) fn named(space: Space, name: &str) -> Self {
        match space {
            Space::Path => digest(&[(5, name.as_bytes())]),
            Space::Value => digest(&[(6, name.as_bytes())]),
        }
    }

    /// Every value with this name in front of its arguments.
    pub(crate) fn values_of(name: &str) -> Self {
        digest(&[(10, name.as_bytes())])
    }

    /// Everything with this tag.
    pub(crate) fn tag(name: &str) -> Self {
        digest(&[(7, name.as_bytes())])
    }

    /// The members of a group of an origin (RFC 9875), by the digest of that.
    pub(crate) fn group(origin: u64, name: &str) -> Self {
        digest(&[(8, &origin.to_le_bytes()), (9, name.as_bytes())])
    }

    /// The members of a group of `authority`, and of layers that do not tell authorities apart.
    pub(crate) fn groups_of(authority: Option<&str>, name: &str) -> [Self; 2] {
        let authority = comparable(authority);
        [
            Self::group(origin(Some(&authority)), name),
            Self::group(origin(None), name),
        ]
    }
}

/// Over-invalidating is harmless, so both default ports are dropped whatever the scheme is.
fn comparable(authority: Option<&str>) -> Cow<'_, str> {
    let authority = authority.unwrap_or("");
    let without = authority.strip_suffix(":80").unwrap_or(authority);
    normal_authority(Some("https"), without)
}

fn origin(authority: Option<&str>) -> u64 {
    match authority {
        Some(authority) => digest(&[(1, authority.as_bytes())]).0,
        None => 0,
    }
}

fn target(authority: Option<&str>, path: &str, query: Option<Option<&str>>) -> Target {
    let authority = authority.map(|authority| (1, authority.as_bytes()));
    let query = match query {
        Some(Some(query)) => Some((3, query.as_bytes())),
        Some(None) => Some((4, &b""[..])),
        None => None,
    };
    let path = Some((2, path.as_bytes()));
    digest_of(authority.into_iter().chain(path).chain(query))
}

fn digest(parts: &[(u8, &[u8])]) -> Target {
    digest_of(parts.iter().copied())
}

/// Each part with its kind and its length in front.
fn digest_of<'p>(parts: impl Iterator<Item = (u8, &'p [u8])>) -> Target {
    let mut hasher = hasher();
    for (kind, bytes) in parts {
        hasher.write_u64(u64::from(kind) << 56 | bytes.len() as u64);
        hasher.write(bytes);
    }
    Target(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, KeyParts};

    fn stored(authority: Option<Option<&str>>, path: &str, query: Option<Option<&str>>) -> Target {
        Subject::response(authority, path, query).target
    }

    #[test]
    fn a_resource_selects_what_layers_store_of_it() {
        let resource = Resource::new(Some("Example.com:443"), "/a", Some("q"));
        let targets = resource.targets();
        let host = Some("example.com");
        for stored in [
            stored(Some(host), "/a", Some(Some("q"))),
            stored(Some(host), "/a", None),
            stored(None, "/a", Some(Some("q"))),
            stored(None, "/a", None),
        ] {
            assert!(targets.contains(&stored));
        }
        for other in [
            stored(Some(host), "/b", Some(Some("q"))),
            stored(Some(host), "/a", Some(Some("r"))),
            stored(Some(host), "/a", Some(None)),
            stored(Some(host), "/a", Some(Some(""))),
            stored(Some(Some("other.com")), "/a", Some(Some("q"))),
            stored(Some(None), "/a", Some(Some("q"))),
        ] {
            assert!(!targets.contains(&other));
        }
    }

    #[test]
    fn names_tags_and_groups_are_no_names_of_each_other() {
        let subject = |authority| Subject::response(authority, "/a", None);
        let [of_host, of_any] = Target::groups_of(Some("Example.com:80"), "a");
        assert_eq!(
            of_host,
            Target::group(subject(Some(Some("example.com"))).origin, "a")
        );
        assert_eq!(of_any, Target::group(subject(None).origin, "a"));
        let all = [
            of_host,
            of_any,
            Target::group(subject(Some(Some("b.com"))).origin, "a"),
            Target::group(subject(Some(None)).origin, "a"),
            Target::tag("a"),
            Target::named(Space::Path, "a"),
            Target::named(Space::Value, "a"),
            stored(None, "a", None),
        ];
        for (at, target) in all.iter().enumerate() {
            assert!(!all[..at].contains(target), "row {at}");
        }
    }

    #[test]
    fn a_key_says_as_what_its_entry_may_have_been_stored() {
        let parts = |authority: Option<&'static str>, query: Option<&'static str>| KeyParts {
            authority: authority.map(|it| it.as_bytes().into()),
            path: "/a",
            query: query.map(Into::into),
            ..KeyParts::default()
        };
        for authority in [Some("h"), None] {
            for query in [Some("q"), Some(""), None] {
                let key = parts(authority, query).write().to_key();
                let keyed = Keyed::of(&key.bytes).expect("a key of a response");
                assert_eq!(keyed.path, "/a");
                let targets: Vec<_> = keyed.subjects.iter().map(|it| it.target).collect();
                let mut expected = vec![
                    stored(Some(authority), "/a", Some(query)),
                    stored(Some(authority), "/a", None),
                ];
                if authority.is_none() {
                    expected.push(stored(None, "/a", Some(query)));
                    expected.push(stored(None, "/a", None));
                }
                assert_eq!(targets.len(), expected.len());
                assert!(expected.iter().all(|target| targets.contains(target)));
            }
        }
        let key = Key::of_value("user:42:x");
        let keyed = Keyed::of(&key.bytes).expect("a key of a value");
        let expected = Subject::value("user:42:x");
        assert_eq!((keyed.path, keyed.subjects.len()), ("user", 1));
        assert_eq!(keyed.subjects[0].target, expected.target);
        for other in [&b""[..], b"x", &key.bytes[..7]] {
            assert!(Keyed::of(other).is_none(), "{other:?}");
        }
    }
}
