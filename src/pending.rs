//! What is known of a request when nothing usable was found for it, and what it asks of the cache
//! until it is answered: flights, marks, another look.

use std::{hash::Hasher, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;

use crate::{
    admission::Lookup,
    answer::{Hit, may_answer},
    cache::Cache,
    entry::Origin,
    flight::{FlightId, Guard, Joined, Terms, Ticket},
    head::HeadRef,
    headers::Forwarded,
    key::{Key, hasher},
    marks::Mark,
    policy::VaryRule,
    router::matched_route,
    selector::Target,
    settings::Settings,
    status::{Forward, Reason},
    store::memory::Found,
};

/// What is known of a request when nothing usable was found for it.
pub(crate) struct Pending {
    pub(crate) key: Key,
    /// The key of what is remembered about it (`marks.rs`).
    pub(crate) mark: u64,
    /// The same for the whole route, where there is one.
    pub(crate) route_mark: u64,
    pub(crate) target: Target,
    /// By what its variants are told apart, as far as is known.
    pub(crate) rule: Option<VaryRule>,
    pub(crate) forward: Forward,
    pub(crate) is_head: bool,
    pub(crate) no_cache: bool,
    /// Fills up to this number started before the request came.
    pub(crate) arrived: u64,
    pub(crate) personal: Option<Reason>,
    pub(crate) authorization: bool,
    /// Why the request may neither wait for others nor have them wait: it is personal, and nothing
    /// shareable is known of its key.
    pub(crate) alone: Option<Reason>,
    /// As the client sent them.
    pub(crate) headers: HeaderMap,
    pub(crate) layer: u64,
    pub(crate) cache: Cache,
    pub(crate) fill_timeout: Duration,
    /// For the remote store; `None` where there is none, or the layer's entries stay here.
    pub(crate) path: Option<String>,
}

impl Pending {
    pub(crate) fn new(
        settings: &Settings,
        head: HeadRef<'_>,
        lookup: &Lookup<'_>,
        rule: Option<VaryRule>,
        forward: Forward,
    ) -> Self {
        let mark_of = |text: &[u8], key: u64| {
            let mut hasher = hasher();
            hasher.write_u64(settings.id);
            hasher.write_u64(u64::from(lookup.parts.depth));
            hasher.write_u64(key);
            hasher.write(text);
            hasher.finish()
        };
        let mark = mark_of(&[], lookup.hash);
        let marks = settings.cache.marks();
        let is_shareable = marks.is_set(Mark::Shareable, mark, settings.cache.now());
        Self {
            key: lookup.parts.to_key(lookup.hash, lookup.key_len),
            mark,
            route_mark: matched_route(head.extensions)
                .map_or(mark, |route| mark_of(route.as_bytes(), 0)),
            target: lookup.target(settings),
            rule,
            forward,
            is_head: lookup.is_head,
            no_cache: lookup.directives.no_cache,
            arrived: settings.cache.latest_fill(),
            personal: lookup.personal,
            authorization: lookup.authorization,
            alone: lookup.personal.filter(|_| !is_shareable),
            headers: head.headers.clone(),
            layer: settings.id,
            cache: settings.cache.clone(),
            fill_timeout: settings.fill_timeout,
            path: (settings.cache.remote().is_some() && !settings.has_own_entries())
                .then(|| lookup.parts.path.to_owned()),
        }
    }

    pub(crate) fn is_marked(&self, mark: Mark) -> bool {
        let key = if mark == Mark::InnerLayer {
            self.route_mark
        } else {
            self.mark
        };
        self.cache.marks().is_set(mark, key, self.cache.now())
    }

    /// A layer of the same cache further in is known to answer.
    pub(crate) fn is_answered_further_in(&self) -> bool {
        self.is_marked(Mark::InnerLayer)
    }

    /// Whether somebody's fill is under way that a HEAD may wait for.
    pub(crate) fn is_joinable(&self) -> bool {
        self.join_existing().is_some()
    }

    pub(crate) fn flight_id(&self) -> FlightId {
        let key = match &self.rule {
            Some(rule) => self.key.with_variant(&rule.values(&self.headers)),
            None => self.key.clone(),
        };
        FlightId {
            layer: self.layer,
            is_forced: self.no_cache,
            key,
        }
    }

    pub(crate) fn with_terms<T>(&self, ask: impl FnOnce(&Terms<'_>) -> T) -> T {
        let now = Instant::now().into_std();
        let is_current = |origin: &Origin, started: std::time::Instant| {
            now.saturating_duration_since(started) < self.fill_timeout
                && self.cache.log().is_usable(origin.sequence, origin.target)
        };
        ask(&Terms {
            after: if self.no_cache { self.arrived } else { 0 },
            is_current: &is_current,
        })
    }

    pub(crate) fn join(&self) -> Joined {
        self.with_terms(|terms| {
            self.cache.flights().join(&self.flight_id(), terms, || {
                (self.origin(), Instant::now().into_std())
            })
        })
    }

    pub(crate) fn join_existing(&self) -> Option<Ticket> {
        self.with_terms(|terms| self.cache.flights().join_existing(&self.flight_id(), terms))
    }

    /// Of a fill that starts now. The sequence is read before anything else happens.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            sequence: self.cache.log().sequence(),
            fill: self.cache.next_fill(),
            target: self.target,
        }
    }

    /// What has been stored since the request was looked up.
    pub(crate) fn look(&self) -> Option<Hit> {
        let Found::Entry(entry) = self
            .cache
            .memory()
            .find(&self.key, self.key.hash, &self.headers)
        else {
            return None;
        };
        let now = self.cache.now();
        let is_usable = entry.head.lifetime.is_fresh(now)
            && entry.is_usable(self.cache.log())
            && may_answer(&entry.head, self.personal)
            && (!self.no_cache || entry.origin.fill > self.arrived);
        is_usable.then_some(Hit { entry, now })
    }

    /// Takes what the remote store has into memory; says whether there was anything.
    pub(crate) async fn fetch(&self, guard: &Guard) -> bool {
        let (Some(remote), Some(path), false) = (self.cache.remote(), &self.path, self.no_cache)
        else {
            return false;
        };
        let origin = guard.flight().origin;
        let moment = self.cache.moment();
        match remote
            .get(path, &self.key, &self.headers, origin, moment)
            .await
        {
            Ok(Some(read)) => {
                let entry = Arc::new(read.entry);
                let promoted = self
                    .cache
                    .promote(&self.key, &read.rule, &self.headers, entry);
                promoted.is_ok()
            }
            Ok(None) => false,
            Err(error) => {
                self.cache.store_failed(&error);
                false
            }
        }
    }

    pub(crate) fn said(&self, detail: Option<Reason>) -> Forwarded {
        Forwarded {
            forward: Some(match self.alone {
                Some(_) => Forward::Bypass,
                None => self.forward,
            }),
            status: None,
            stored: false,
            collapsed: false,
            detail,
        }
    }
}
