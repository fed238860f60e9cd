//! Routes of which no response is storable, so that nobody waits for another's cold key there.
//!
//! Only a hint, as the marks of `marks.rs` are: wherever it is wrong, requests are answered all the same,
//! only with more or fewer calls of the inner service.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{entry::Millis, invalidation::PrehashedBuilder};

/// So many routes are known; when there are more, all are forgotten.
const MAX_ROUTES: usize = 1024;
/// So many different keys in a row have to be refused before a route is known for that.
const KEYS: usize = 8;
/// How long it is known, and after how long without a refusal they are no row.
const LIFE: Millis = 60_000;

#[derive(Debug, Default)]
struct Route {
    /// The keys that were refused, up to [`KEYS`].
    refused: Vec<u64>,
    latest: Millis,
}

/// The routes of one cache.
#[derive(Debug, Default)]
pub(crate) struct Routes(Mutex<HashMap<u64, Route, PrehashedBuilder>>);

impl Routes {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Route, PrehashedBuilder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A response to this key of the route may not be stored, for a reason that lasts.
    pub(crate) fn refused(&self, route: u64, key: u64, now: Millis) {
        let mut routes = self.table();
        if routes.len() >= MAX_ROUTES && !routes.contains_key(&route) {
            routes.clear();
        }
        let route = routes.entry(route).or_default();
        if now >= route.latest + LIFE {
            route.refused.clear();
        }
        route.latest = now;
        if route.refused.len() < KEYS && !route.refused.contains(&key) {
            route.refused.push(key);
        }
    }

    /// A response of the route may be stored.
    pub(crate) fn storable(&self, route: u64) {
        self.table().remove(&route);
    }

    /// Whether nobody should wait for a key of the route that is cold.
    pub(crate) fn is_uncacheable(&self, route: u64, now: Millis) -> bool {
        self.table()
            .get(&route)
            .is_some_and(|route| route.refused.len() >= KEYS && now < route.latest + LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_different_keys_in_a_row_make_a_route_uncacheable_for_a_minute() {
        let routes = Routes::default();
        for key in 0..8 {
            assert!(!routes.is_uncacheable(1, 100), "{key}");
            for _ in 0..3 {
                routes.refused(1, key, 100);
            }
        }
        assert!(routes.is_uncacheable(1, 60_099) && !routes.is_uncacheable(1, 60_100));
        assert!(!routes.is_uncacheable(2, 100), "another route");
        // As long as there are refusals it goes on.
        routes.refused(1, 0, 60_099);
        assert!(routes.is_uncacheable(1, 120_098));
        // And after a pause they have to be eight again.
        routes.refused(1, 0, 200_000);
        assert!(!routes.is_uncacheable(1, 200_000));
    }

    #[test]
    fn a_storable_response_ends_the_row() {
        let routes = Routes::default();
        for key in 0..7 {
            routes.refused(1, key, 0);
        }
        routes.storable(1);
        for key in 7..14 {
            routes.refused(1, key, 0);
        }
        assert!(!routes.is_uncacheable(1, 0));
        routes.refused(1, 14, 0);
        assert!(routes.is_uncacheable(1, 0));
        routes.storable(1);
        assert!(!routes.is_uncacheable(1, 0));
    }

    #[test]
    fn routes_are_bounded() {
        let routes = Routes::default();
        for route in 0..3 * MAX_ROUTES as u64 {
            for key in 0..20 {
                routes.refused(route, key, 0);
            }
        }
        let table = routes.table();
        assert!(table.len() <= MAX_ROUTES);
        assert!(table.values().all(|route| route.refused.len() <= KEYS));
    }
}
