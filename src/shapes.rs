//! Under which keys the layers of this cache store a resource, for deletions in a remote store.
//!
//! An invalidation selects resources, and a remote store knows keys. The plain ones follow from the
//! settings of a layer; those with a partition, cookies or fields in them do not, and are left to
//! the log of this cache and, for other nodes, to the end of their life.

use std::{
    borrow::Cow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::{
    key::{Key, KeyParts, normal_authority},
    query::Query,
    selector::Resource,
};

/// How many layers with different settings are known at most.
const MAX_SHAPES: usize = 64;
/// How many layers inside of each other are thought of.
const MAX_DEPTH: u8 = 4;

/// What of a layer's settings shapes its keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) fingerprint: String,
    pub(crate) ignore_host: bool,
    pub(crate) query: Option<Query>,
}

/// The shapes of all layers of a cache.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    known: Mutex<Vec<Shape>>,
    depth: AtomicU8,
}

impl Shapes {
    pub(crate) fn learn(&self, shape: Shape) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_SHAPES && !known.contains(&shape) {
            known.push(shape);
        }
    }

    pub(crate) fn learn_depth(&self, depth: u8) {
        self.depth
            .fetch_max(depth.min(MAX_DEPTH), Ordering::Relaxed);
    }

    /// The plain keys of a resource, for each scheme that a request may have named.
    pub(crate) fn keys(&self, resource: &Resource) -> Vec<Key> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let depth = self.depth.load(Ordering::Relaxed);
        let mut keys = Vec::new();
        for shape in &*known {
            let schemes = match shape.ignore_host {
                true => &[None][..],
                false => &[None, Some("http"), Some("https")][..],
            };
            for scheme in schemes {
                let authority = resource.authority().filter(|_| !shape.ignore_host);
                let reduced = |query| match &shape.query {
                    Some(settings) => settings.reduce(query),
                    None => Some(Cow::Borrowed(query)),
                };
                let mut parts = KeyParts {
                    fingerprint: &shape.fingerprint,
                    scheme: *scheme,
                    authority: authority.map(|authority| normal_authority(*scheme, authority)),
                    path: resource.path(),
                    query: resource.query().and_then(reduced),
                    ..KeyParts::default()
                };
                for depth in 0..=depth {
                    parts.depth = depth;
                    let (hash, len) = parts.hash();
                    keys.push(parts.to_key(hash, len));
                }
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: KeyParts<'_>) -> Key {
        let (hash, len) = parts.hash();
        parts.to_key(hash, len)
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
        assert_eq!(keys.len(), 4, "two layers, one of them by scheme");
        let host = || Some(Cow::Borrowed("example.com"));
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
        shapes.learn_depth(1);
        assert_eq!(shapes.keys(&resource).len(), 8);
    }
}
