//! Under which keys the layers of this cache store a resource, for deletions in a remote store.
//!
//! An invalidation selects resources, and a remote store knows keys. Most follow from the settings
//! of a layer, and from what is the same in many requests: the scheme, and the fields that a proxy
//! adds. Those with a partition or cookies in them do not, and are left to the log of this cache
//! and, for other nodes, to the end of their life.

use std::{
    borrow::Cow,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use crate::{
    key::{FieldParts, Key, KeyParts, authority_part},
    query::Query,
    target::Resource,
};

/// How many layers with different settings are known at most.
const MAX_SHAPES: usize = 64;
/// How many layers inside of each other are thought of; and how many before a request has shown it.
const MAX_DEPTH: u8 = 4;
const LEAST_DEPTH: u8 = 1;
/// How many kinds of requests are remembered, the latest ones.
const MAX_MANNERS: usize = 16;
/// How many keys are deleted at most for one resource.
const MAX_KEYS: usize = 256;
/// Of longer fields nobody needs to know.
const MAX_MANNER: usize = 512;

/// What of a layer's settings shapes its keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) fingerprint: String,
    pub(crate) ignore_host: bool,
    pub(crate) query: Option<Query>,
}

/// What of a request is in its key, and the same in many others.
#[derive(Debug, Clone, PartialEq, Default)]
struct Manner {
    scheme: Option<Box<str>>,
    fields: Vec<(Box<str>, Box<[u8]>)>,
}

impl Manner {
    fn of_scheme(scheme: &str) -> Self {
        Self {
            scheme: Some(scheme.into()),
            fields: Vec::new(),
        }
    }

    fn is_of(&self, parts: &KeyParts<'_>) -> bool {
        self.scheme.as_deref() == parts.scheme
            && self.fields.len() == parts.unseen.len()
            && self.fields.iter().zip(&parts.unseen).all(
                |((name, value), (other_name, other_value))| {
                    &**name == *other_name && **value == **other_value
                },
            )
    }
}

/// The shapes of all layers of a cache.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    known: Mutex<Vec<Shape>>,
    /// The latest one last.
    manners: Mutex<Vec<Manner>>,
    depth: AtomicU8,
    is_warned: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shapes {
    pub(crate) fn learn(&self, shape: Shape) {
        let mut known = lock(&self.known);
        if known.contains(&shape) {
            return;
        }
        if known.len() < MAX_SHAPES {
            return known.push(shape);
        }
        if !self.is_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_response_cache",
                "one cache has more than {MAX_SHAPES} layers with different settings: invalidations delete nothing in Redis of those beyond"
            );
        }
    }

    /// Remembers in what manner a request came.
    pub(crate) fn learn_request(&self, parts: &KeyParts<'_>) {
        if parts.depth > LEAST_DEPTH {
            let depth = parts.depth.min(MAX_DEPTH);
            self.depth.fetch_max(depth, Ordering::Relaxed);
        }
        let length: usize = parts.unseen.iter().map(|(_, value)| value.len()).sum();
        if parts.unseen.is_empty() || length > MAX_MANNER {
            return;
        }
        let mut manners = lock(&self.manners);
        if manners.last().is_some_and(|last| last.is_of(parts)) {
            return;
        }
        let known = manners.iter().position(|manner| manner.is_of(parts));
        let manner = match known {
            Some(at) => manners.remove(at),
            None => Manner {
                scheme: parts.scheme.map(Into::into),
                fields: parts
                    .unseen
                    .iter()
                    .map(|(name, value)| ((*name).into(), value[..].into()))
                    .collect(),
            },
        };
        if manners.len() >= MAX_MANNERS {
            manners.remove(0);
        }
        manners.push(manner);
    }

    /// The keys of a resource in every manner in which requests may have come.
    pub(crate) fn keys(&self, resource: &Resource) -> Vec<Key> {
        let mut manners = vec![
            Manner::default(),
            Manner::of_scheme("http"),
            Manner::of_scheme("https"),
        ];
        manners.extend(lock(&self.manners).iter().cloned());
        let depth = self.depth.load(Ordering::Relaxed).max(LEAST_DEPTH);
        let mut keys = Vec::new();
        for shape in &*lock(&self.known) {
            for manner in &manners {
                let scheme = manner.scheme.as_deref();
                if shape.ignore_host && scheme.is_some() {
                    continue;
                }
                let authority = resource.authority().filter(|_| !shape.ignore_host);
                let reduced = |query| match &shape.query {
                    Some(settings) => settings.reduce(query),
                    None => Some(Cow::Borrowed(query)),
                };
                let mut parts = KeyParts {
                    fingerprint: &shape.fingerprint,
                    scheme,
                    authority: authority.map(|authority| authority_part(scheme, authority)),
                    path: resource.path(),
                    query: resource.query().and_then(reduced),
                    unseen: fields(manner),
                    ..KeyParts::default()
                };
                for depth in 0..=depth {
                    if keys.len() == MAX_KEYS {
                        return keys;
                    }
                    parts.depth = depth;
                    keys.push(parts.write().to_key());
                }
            }
        }
        keys
    }
}

fn fields(manner: &Manner) -> FieldParts<'_> {
    manner
        .fields
        .iter()
        .map(|(name, value)| (&**name, Cow::Borrowed(&**value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: KeyParts<'_>) -> Key {
        parts.write().to_key()
    }

    #[test]
    fn the_plain_keys_of_every_layer_are_found() {
        let shapes = Shapes::default();
        let plain = Shape {
            fingerprint: String::new(),
            ignore_host: false,
            query: None,
        };
        let reduced = Shape {
            fingerprint: "q".into(),
            ignore_host: true,
            query: Some(Query::ignore(["utm_*"])),
        };
        for shape in [&plain, &reduced, &plain] {
            shapes.learn(shape.clone());
        }
        let resource = Resource::new(Some("Example.com"), "/a", Some("utm_x=1&b=2"));
        let keys = shapes.keys(&resource);
        assert_eq!(
            keys.len(),
            8,
            "two layers and two depths, one of them by scheme"
        );
        let host = || Some(Cow::Borrowed(&b"example.com"[..]));
        for expected in [
            KeyParts {
                authority: host(),
                path: "/a",
                query: Some("utm_x=1&b=2".into()),
                ..KeyParts::default()
            },
            KeyParts {
                authority: host(),
                scheme: Some("https"),
                path: "/a",
                query: Some("utm_x=1&b=2".into()),
                ..KeyParts::default()
            },
            KeyParts {
                fingerprint: "q",
                path: "/a",
                query: Some("b=2".into()),
                ..KeyParts::default()
            },
        ] {
            assert!(keys.contains(&key(expected)));
        }
        let through_a_proxy = KeyParts {
            authority: host(),
            path: "/a",
            query: Some("utm_x=1&b=2".into()),
            unseen: [("x-forwarded-proto", Cow::Borrowed(&b"https"[..]))]
                .into_iter()
                .collect(),
            ..KeyParts::default()
        };
        for _ in 0..3 {
            shapes.learn_request(&through_a_proxy);
        }
        let keys = shapes.keys(&resource);
        assert_eq!(keys.len(), 12);
        assert!(keys.contains(&key(through_a_proxy)));
        for number in 0..100_u32 {
            let value = number.to_be_bytes();
            shapes.learn_request(&KeyParts {
                depth: 200,
                unseen: [("hx-target", Cow::Borrowed(&value[..]))]
                    .into_iter()
                    .collect(),
                ..KeyParts::default()
            });
        }
        let most = (3 + 1 + 2 * MAX_MANNERS) * (1 + usize::from(MAX_DEPTH));
        assert_eq!(shapes.keys(&resource).len(), most, "bounded");
    }
}
