//! Says once, in a warning, that a route is bypassed again and again, and which option to look at.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    head::HeadRef, invalidation::PrehashedBuilder, key::hasher, router::matched_route,
    status::Reason,
};

/// So many bypasses in a row are worth a word.
const STREAK: u32 = 20;
/// So many look-ups of other routes in between end all streaks.
const MAX_OTHERS: u32 = 10_000;
/// Routes that are watched; later ones are not, rather than taking memory without end.
const MAX_ROUTES: usize = 1024;

/// The bypasses in a row of the routes of one layer.
#[derive(Default)]
pub(crate) struct Streaks {
    routes: Mutex<Routes>,
    /// How many streaks are running; a hit looks no further while there are none.
    running: AtomicUsize,
}

#[derive(Default)]
struct Routes {
    streaks: HashMap<u64, Streak, PrehashedBuilder>,
    /// Look-ups of other routes since a streak began or ended.
    others: u32,
}

#[derive(Clone, Copy)]
struct Streak {
    reason: Reason,
    length: u32,
    is_said: bool,
}

impl Streaks {
    /// Counts a bypass of the route of `head`.
    pub(crate) fn bypassed(&self, head: HeadRef<'_>, reason: Reason) {
        let Some(hint) = hint(reason) else {
            return;
        };
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = route_hash(head);
        if routes.streaks.len() >= MAX_ROUTES && !routes.streaks.contains_key(&route) {
            self.forget(&mut routes);
            if routes.streaks.len() >= MAX_ROUTES {
                return;
            }
        }
        routes.others = 0;
        let streak = routes.streaks.entry(route).or_insert(Streak {
            reason,
            length: 0,
            is_said: false,
        });
        if streak.is_said {
            return;
        }
        if streak.length == 0 {
            self.running.fetch_add(1, Ordering::Relaxed);
        }
        streak.length = if streak.reason == reason {
            streak.length + 1
        } else {
            1
        };
        streak.reason = reason;
        if streak.length >= STREAK {
            streak.is_said = true;
            self.running.fetch_sub(1, Ordering::Relaxed);
            drop(routes);
            let route = matched_route(head.extensions).unwrap_or(head.uri.path());
            tracing::warn!(
                target: "tower_response_cache",
                "{} {route}: the last {STREAK} requests were not answered from the cache: {reason}; {hint}",
                head.method,
            );
        }
    }

    /// The route of `head` was looked up: its streak is over.
    #[inline]
    pub(crate) fn looked_up(&self, head: HeadRef<'_>) {
        if self.running.load(Ordering::Relaxed) > 0 {
            self.end(head);
        }
    }

    #[cold]
    fn end(&self, head: HeadRef<'_>) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = route_hash(head);
        match routes.streaks.get(&route) {
            Some(streak) if !streak.is_said => {
                routes.streaks.remove(&route);
                routes.others = 0;
                self.running.fetch_sub(1, Ordering::Relaxed);
            }
            _ => routes.others += 1,
        }
        // Paths that came once must not make every hit look here for ever.
        if routes.others >= MAX_OTHERS {
            self.forget(&mut routes);
        }
    }

    /// Forgets the streaks that are running.
    fn forget(&self, routes: &mut Routes) {
        routes.streaks.retain(|_, streak| streak.is_said);
        routes.others = 0;
        self.running.store(0, Ordering::Relaxed);
    }
}

/// Which option to look at; reasons that were asked for need none.
fn hint(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::Cookie => Some("see ignore_cookies or vary_on_cookie, or partition_by"),
        Reason::Authorization => {
            Some("see partition_by, or CachePolicy::public if the answer is the same for everybody")
        }
        Reason::Credential => Some("see partition_by or credentials"),
        Reason::Partition => Some("partition_by returned None"),
        Reason::RequestBody => Some("a GET with a body is not cached"),
        Reason::HostConflict => Some("the request names two authorities"),
        Reason::KeyTooLong => Some("its URI and fields are longer than 8 KiB"),
        _ => None,
    }
}

fn route_hash(head: HeadRef<'_>) -> u64 {
    let mut hasher = hasher();
    head.method.hash(&mut hasher);
    let route = matched_route(head.extensions).unwrap_or(head.uri.path());
    hasher.write(route.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str) -> http::Request<()> {
        http::Request::get(path).body(()).unwrap()
    }

    fn length(streaks: &Streaks, path: &str) -> Option<(u32, bool)> {
        let routes = streaks.routes.lock().unwrap();
        routes
            .streaks
            .get(&route_hash(HeadRef::from(&head(path))))
            .map(|streak| (streak.length, streak.is_said))
    }

    #[test]
    fn twenty_in_a_row_are_said_once() {
        let streaks = Streaks::default();
        for round in 1..STREAK {
            streaks.bypassed(HeadRef::from(&head("/a")), Reason::Cookie);
            assert_eq!(length(&streaks, "/a"), Some((round, false)));
        }
        streaks.looked_up(HeadRef::from(&head("/a")));
        assert_eq!(length(&streaks, "/a"), None);
        for _ in 0..2 * STREAK {
            streaks.bypassed(HeadRef::from(&head("/a")), Reason::Cookie);
        }
        assert_eq!(length(&streaks, "/a"), Some((STREAK, true)));
        assert_eq!(streaks.running.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn routes_that_came_once_are_forgotten() {
        let streaks = Streaks::default();
        for number in 0..3 * MAX_ROUTES {
            let path = format!("/{number}");
            streaks.bypassed(HeadRef::from(&head(&path)), Reason::Cookie);
        }
        assert!(streaks.routes.lock().unwrap().streaks.len() <= MAX_ROUTES);
        for _ in 0..MAX_OTHERS {
            streaks.looked_up(HeadRef::from(&head("/other")));
        }
        assert_eq!(streaks.running.load(Ordering::Relaxed), 0);
        assert!(streaks.routes.lock().unwrap().streaks.is_empty());
    }

    #[test]
    fn another_route_or_reason_is_another_streak() {
        let streaks = Streaks::default();
        for _ in 0..10 {
            streaks.bypassed(HeadRef::from(&head("/a")), Reason::Cookie);
        }
        streaks.looked_up(HeadRef::from(&head("/b")));
        assert_eq!(length(&streaks, "/a"), Some((10, false)));
        streaks.bypassed(HeadRef::from(&head("/a")), Reason::Authorization);
        assert_eq!(length(&streaks, "/a"), Some((1, false)));
        streaks.bypassed(HeadRef::from(&head("/a")), Reason::BypassWhen);
        assert_eq!(
            length(&streaks, "/a"),
            Some((1, false)),
            "what was asked for is no surprise"
        );
    }
}
