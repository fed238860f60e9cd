//! What comes of a refresh: of a response that was served already, obtained anew in the background.

use std::sync::Arc;

use http::HeaderMap;

use crate::{
    cache::Cache, entry::Entry, key::Key, marks::Mark, pending::Pending, store::memory::Found,
};

/// A refresh under way. However it ends, by a panic or by being dropped as well, it is noted whether
/// it brought anything.
pub(crate) struct Refreshing {
    cache: Cache,
    key: Key,
    mark: u64,
    request: HeaderMap,
    /// What was served.
    served: Option<Arc<Entry>>,
    is_personal: bool,
}

impl Refreshing {
    pub(crate) fn new(pending: &Pending, request: &HeaderMap) -> Self {
        let cache = pending.cache.clone();
        let is_personal = pending.personal.is_some();
        match is_personal {
            // What one person gets says nothing about the others.
            true => cache
                .marks()
                .set(Mark::NotRefreshed, pending.mark, cache.now()),
            false => cache.marks().refresh_begins(pending.mark, cache.now()),
        }
        Self {
            cache,
            key: pending.key.clone(),
            mark: pending.mark,
            request: request.clone(),
            served: pending.stored.clone(),
            is_personal,
        }
    }
}

impl Drop for Refreshing {
    fn drop(&mut self) {
        let (cache, key) = (&self.cache, &self.key);
        let Found::Entry(entry) = cache.memory().find(&key.bytes, key.hash, &self.request) else {
            return;
        };
        let now = cache.now();
        let is_fresh = entry.is_fresh(cache.log(), now);
        let is_newer = |served: &Arc<Entry>| {
            // What came from the remote store has the number of what was there.
            entry.origin.fill > served.origin.fill
                || (is_fresh && !served.is_fresh(cache.log(), now))
        };
        match self.served.as_ref().is_none_or(is_newer) {
            true => cache.marks().stored(self.mark, is_fresh, now),
            false if self.is_personal => {}
            false => cache.marks().refresh_failed(self.mark, now),
        }
    }
}
