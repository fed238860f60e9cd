//! How layers of one cache that are nested know of each other: the innermost decides.
//!
//! A request that a fill forwards carries the layers it has passed. A layer that gets such a
//! request stamps what it answers, and an outer one of the same cache hands a stamped response
//! on untouched.

use http::Extensions;
use smallvec::SmallVec;
use tokio::time::Instant;

/// In a request: the caches whose layers it has passed.
#[derive(Debug, Clone, Default)]
struct Passed {
    /// By cache, how many layers.
    layers: SmallVec<[(u64, u8); 2]>,
    /// Until when it may wait for remote stores, all layers together.
    remote_until: Option<Instant>,
}

/// In a response: the caches whose layers have answered.
#[derive(Debug, Clone, Default)]
struct Stamps(SmallVec<[u64; 2]>);

/// How many layers of `cache` are further out. Where there is one, it wants answers stamped; and
/// the number is part of the key, so that nothing waits for itself or answers for what is further
/// in.
#[inline]
pub(crate) fn depth(request: &Extensions, cache: u64) -> u8 {
    let Some(passed) = request.get::<Passed>() else {
        return 0;
    };
    let known = passed.layers.iter().find(|(id, _)| *id == cache);
    known.map_or(0, |(_, depth)| *depth)
}

/// Says that a request has passed one more layer of `cache`.
pub(crate) fn pass(request: &mut Extensions, cache: u64) {
    let passed = request.get_or_insert_default::<Passed>();
    match passed.layers.iter_mut().find(|(id, _)| *id == cache) {
        Some((_, depth)) => *depth = depth.saturating_add(1),
        None => passed.layers.push((cache, 1)),
    }
}

/// Until when a request may wait for remote stores, if a layer further out has said so.
pub(crate) fn remote_deadline(request: &Extensions) -> Option<Instant> {
    request.get::<Passed>()?.remote_until
}

/// Says so to the layers further in.
pub(crate) fn pass_deadline(request: &mut Extensions, until: Option<Instant>) {
    if until.is_some() {
        request.get_or_insert_default::<Passed>().remote_until = until;
    }
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
