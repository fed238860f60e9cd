//! How layers of one cache that are nested know of each other: the innermost decides.
//!
//! A request that a fill forwards carries the layers it has passed. A layer that gets such a
//! request stamps what it answers, and an outer one of the same cache hands a stamped response
//! on untouched.

use http::Extensions;
use smallvec::SmallVec;

/// In a request: the layers it has passed, each with its cache.
#[derive(Debug, Clone, Default)]
struct Passed(SmallVec<[(u64, u64); 2]>);

/// In a response: the caches whose layers have answered.
#[derive(Debug, Clone, Default)]
struct Stamps(SmallVec<[u64; 2]>);

/// What a request has passed before it came to a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Nesting {
    /// A layer of the same cache is further out, and wants answers stamped.
    pub(crate) is_inside: bool,
    /// How often the same layer is further out. Part of a flight's identity, so that nothing waits for
    /// itself.
    pub(crate) depth: u8,
}

impl Nesting {
    #[inline]
    pub(crate) fn of(request: &Extensions, cache: u64, layer: u64) -> Self {
        let Some(passed) = request.get::<Passed>() else {
            return Self::default();
        };
        let depth = passed.0.iter().filter(|(_, id)| *id == layer).count();
        Self {
            is_inside: passed.0.iter().any(|(id, _)| *id == cache),
            depth: u8::try_from(depth).unwrap_or(u8::MAX),
        }
    }
}

/// Says that a request has passed one more layer.
pub(crate) fn pass(request: &mut Extensions, cache: u64, layer: u64) {
    request
        .get_or_insert_default::<Passed>()
        .0
        .push((cache, layer));
}

/// Stamps a response, if an outer layer of the same cache wants to know.
#[inline]
pub(crate) fn stamp(response: &mut Extensions, cache: Option<u64>) {
    if let Some(cache) = cache {
        let stamps = response.get_or_insert_default::<Stamps>();
        if !stamps.0.contains(&cache) {
            stamps.0.push(cache);
        }
    }
}

/// Whether a layer of `cache` further in has answered.
pub(crate) fn is_stamped(response: &Extensions, cache: u64) -> bool {
    response
        .get::<Stamps>()
        .is_some_and(|stamps| stamps.0.contains(&cache))
}
