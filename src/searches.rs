//! Which parameters of a query make no difference, as responses have said it in `No-Vary-Search`.
//!
//! A response that says so is stored under a key in which the query is written as
//! [`SearchVariance::canonical`] has it, next to the rule itself; so none answers for a query that is not
//! equivalent by its own rule. What is remembered here is only which rule to try for a path: where it
//! is wrong or lost, requests are answered all the same, with more calls of the inner service.

use std::{
    collections::HashMap,
    hash::Hasher,
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderMap;

use crate::{
    invalidation::PrehashedBuilder,
    key::{Key, KeyParts, MAX_KEY, hasher},
    policy::SearchVariance,
};

/// The rules of so many paths are kept; when there are more, all are forgotten.
const MAX_PATHS: usize = 4096;

/// The latest rule of each path.
#[derive(Debug, Default)]
pub(crate) struct Searches(Mutex<HashMap<u64, Arc<SearchVariance>, PrehashedBuilder>>);

impl Searches {
    fn get(&self, place: u64) -> Option<Arc<SearchVariance>> {
        let rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rules.get(&place).cloned()
    }

    fn learn(&self, place: u64, rule: SearchVariance) {
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.len() >= MAX_PATHS {
            rules.clear();
        }
        rules.insert(place, Arc::new(rule));
    }
}

/// The query of a request as it came, and the path whose rule counts for it.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    place: u64,
    query: Option<String>,
}

impl Search {
    pub(crate) fn new(layer: u64, parts: &KeyParts<'_>) -> Self {
        let mut hasher = hasher();
        hasher.write_u64(layer);
        hasher.write_u64(u64::from(parts.depth));
        hasher.write(parts.authority.as_deref().unwrap_or_default());
        hasher.write_u8(0);
        hasher.write(parts.path.as_bytes());
        Self {
            place: hasher.finish(),
            query: parts.query.as_deref().map(str::to_owned),
        }
    }

    /// Writes the query into `parts` as the rule of the path has it; `false` if there is none.
    pub(crate) fn apply(&self, known: &Searches, parts: &mut KeyParts<'_>) -> bool {
        let Some(rule) = known.get(self.place) else {
            return false;
        };
        let canonical = rule.canonical(self.query.as_deref());
        parts.query = canonical.map(|query| query.into_owned().into());
        parts.search = Some(rule.text());
        true
    }

    /// Writes the query as it came.
    pub(crate) fn undo(&self, parts: &mut KeyParts<'_>) {
        parts.query = self.query.clone().map(Into::into);
        parts.search = None;
    }

    /// Where a response to this request is stored, by what it says itself.
    pub(crate) fn key(&self, known: &Searches, key: &Key, response: &HeaderMap) -> Key {
        let rule = SearchVariance::read(response);
        if rule.is_default() {
            return key.with_search(self.query.as_deref(), None);
        }
        let canonical = rule.canonical(self.query.as_deref());
        let searched = key.with_search(canonical.as_deref(), Some(&rule.text()));
        if searched.bytes.len() > MAX_KEY {
            return key.with_search(self.query.as_deref(), None);
        }
        known.learn(self.place, rule);
        searched
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn there_are_never_more_rules_than_paths_may_have() {
        let known = Searches::default();
        let mut said = HeaderMap::new();
        said.insert("no-vary-search", HeaderValue::from_static("params"));
        for place in 0..3 * MAX_PATHS as u64 {
            known.learn(place, SearchVariance::read(&said));
            assert!(known.get(place).is_some());
            let rules = known.0.lock().unwrap();
            assert!(rules.len() <= MAX_PATHS);
        }
    }

    #[test]
    fn layers_hosts_and_paths_have_rules_of_their_own() {
        let place = |layer, authority: &'static str, path: &'static str, depth| {
            let parts = KeyParts {
                authority: Some(authority.as_bytes().into()),
                path,
                depth,
                ..KeyParts::default()
            };
            Search::new(layer, &parts).place
        };
        let places = [
            place(1, "a", "/", 0),
            place(2, "a", "/", 0),
            place(1, "b", "/", 0),
            place(1, "a", "/b", 0),
            place(1, "a/", "/", 0),
            place(1, "a", "/", 1),
        ];
        for (at, one) in places.iter().enumerate() {
            assert!(!places[..at].contains(one), "{at}");
        }
    }
}
