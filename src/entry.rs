//! What the store holds: a response with everything that decides over its reuse, digested when
//! it was stored, so that a hit parses nothing.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};

use crate::{
    invalidation::{Log, Names, Sequence, Verdict},
    store::codec::Mark,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    target::Subject,
};

/// Milliseconds on the cache's clock.
pub(crate) type Millis = u64;

/// A duration in milliseconds, at most some centuries.
#[inline]
pub(crate) fn millis(duration: Duration) -> Millis {
    let seconds = duration.as_secs().min(u64::MAX / 4000);
    seconds * 1000 + u64::from(duration.subsec_millis())
}

/// How old a response is, and how long it may be reused without asking
/// ([RFC 9111, section 4.2](https://www.rfc-editor.org/rfc/rfc9111#section-4.2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// When the response arrived, on the cache's clock.
    pub(crate) response_time: Millis,
    /// How old it was then (§4.2.3).
    pub(crate) initial_age: Millis,
    /// For how long it is fresh, counted from age zero (§4.2.1); zero: never without validation.
    pub(crate) freshness: Millis,
    /// For how long it is kept once it is stale: to be validated, or served stale.
    pub(crate) kept: Millis,
}

impl Lifetime {
    /// §4.2.3: current_age = corrected_initial_age + resident_time.
    #[inline]
    pub(crate) fn age(&self, now: Millis) -> Millis {
        self.initial_age + now.saturating_sub(self.response_time)
    }

    /// §4.2: fresh as long as the lifetime exceeds the age.
    #[inline]
    pub(crate) fn is_fresh(&self, now: Millis) -> bool {
        self.freshness > self.age(now)
    }

    /// The seconds left, as `Cache-Status; ttl` says them (RFC 9211, 2.4).
    #[inline]
    pub(crate) fn ttl(&self, now: Millis) -> i64 {
        self.ttl_at(self.age(now))
    }

    /// The same by its age.
    #[inline]
    fn ttl_at(&self, age: Millis) -> i64 {
        let left = self.freshness as i64 - age as i64;
        left.div_euclid(1000)
    }

    /// For how long it has been stale, if it is.
    pub(crate) fn stale_for(&self, now: Millis) -> Option<Millis> {
        self.age(now).checked_sub(self.freshness)
    }

    /// The same, but stale since then at the latest; kept as long as ever.
    fn stale_since(self, at: Millis) -> Self {
        // What was read from a remote store, or was under way, came later than that; if it was not even
        // made then, it counts as so much older.
        let before = self.response_time.saturating_sub(at);
        let older = before.saturating_sub(self.initial_age);
        let freshness = self.freshness.min(self.age(at).saturating_sub(before));
        Self {
            freshness,
            initial_age: self.initial_age + older,
            kept: self.kept.saturating_add(self.freshness - freshness + older),
            ..self
        }
    }

    /// What is left of it by what the log says; nothing of what is not usable.
    pub(crate) fn under(self, verdict: Verdict) -> Option<Self> {
        match verdict {
            Verdict::Usable => Some(self),
            Verdict::Stale(at) => Some(self.stale_since(at)),
            Verdict::Unusable => None,
        }
    }

    /// When nothing can be done with the response any more.
    pub(crate) fn ends(&self) -> Millis {
        let life = self.freshness.saturating_add(self.kept);
        self.response_time
            .saturating_add(life.saturating_sub(self.initial_age))
    }
}

/// What may be done with a response once it is stale
/// ([RFC 9111, section 4.2.4](https://www.rfc-editor.org/rfc/rfc9111#section-4.2.4)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Staleness {
    /// For how long it is served while a newer one is obtained (RFC 5861, 3).
    pub(crate) while_revalidate: Millis,
    /// For how long it stands in for a failure (RFC 5861, 4).
    pub(crate) if_error: Millis,
    /// Nothing forbids to serve it stale: to a request that accepts that (§5.2.1.2), or where the
    /// inner service cannot be reached.
    pub(crate) allowed: bool,
}

/// What a handler's [`CachePolicy`](crate::CachePolicy) said, should a 304 not repeat it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) ttl: Option<Millis>,
    pub(crate) public: bool,
}

/// The head of a stored response, shared by the flight that fills it and the entry.
#[derive(Debug, Clone)]
pub(crate) struct StoredHead {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    /// With the slots of `headers.rs` in front.
    pub(crate) headers: HeaderMap,
    pub(crate) status_slot: bool,
    /// Its `ETag` was made here: clients may ask by it, but the inner service does not know it.
    pub(crate) own_tag: bool,
    /// What the layer's own validator said when it was filled.
    pub(crate) validator: Option<Box<str>>,
    pub(crate) lifetime: Lifetime,
    pub(crate) staleness: Staleness,
    /// The groups it belongs to (RFC 9875), for invalidations by group and by tag.
    pub(crate) groups: Box<[Box<str>]>,
    /// Its other tags.
    pub(crate) tags: Box<[Box<str>]>,
    pub(crate) said: Said,
    /// May answer a request with cookies or credentials (`public`, `s-maxage`).
    pub(crate) shareable: bool,
    /// May answer a request with `Authorization` (§3.5).
    pub(crate) shareable_with_authorization: bool,
}

impl StoredHead {
    /// What it has allocated.
    fn heap_size(&self) -> usize {
        let names = self.groups.iter().chain(&self.tags);
        let names: usize = names.map(|name| name.len() + size_of::<Box<str>>()).sum();
        let validator = self
            .validator
            .as_ref()
            .map_or(0, |validator| validator.len());
        heap_size(&self.headers) + names + validator
    }

    /// What invalidations may select it by.
    pub(crate) fn names(&self) -> Names<'_> {
        Names {
            groups: &self.groups,
            tags: &self.tags,
        }
    }
}

/// Where an entry comes from, and what can make it unusable.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The number of its fill on this node: a later fill has a higher one.
    pub(crate) fill: u64,
    /// The highest sequence of the invalidation log when the fill started, or when what it was made
    /// from was read.
    pub(crate) sequence: Sequence,
    /// The resource it is stored for.
    pub(crate) subject: Subject,
}

impl Origin {
    /// The same of what was made from something older.
    pub(crate) fn read_at(mut self, sequence: Option<Sequence>) -> Self {
        self.sequence = sequence.map_or(self.sequence, |read| read.min(self.sequence));
        self
    }
}

/// No time at which memory answers.
const GONE: Millis = 0;
/// No generation of the log.
const NOT_YET: u64 = u64::MAX;
/// No time at which something became stale.
const NEVER: Millis = Millis::MAX;

/// What becomes of something stored, whatever it is: where it comes from, what the log has been asked about
/// it, and what the remote store has said of it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) origin: Origin,
    /// The frame that it was read from, if it was.
    pub(crate) frame: Option<Mark>,
    /// The record of its own key with which it was set: other nodes have to know that first.
    pub(crate) record: Option<u64>,
    /// It is what a source has only if nobody else's record of its key came since its own sequence.
    pub(crate) is_sole: bool,
    /// The generation of the log at which it was found usable.
    checked: AtomicU64,
    /// Since when a soft invalidation has made it stale; [`NEVER`] where none has.
    stale_since: AtomicU64,
    /// Until when memory answers with it on its own, where a remote store has it, too; one more
    /// than that, as 0 is [`GONE`].
    memory_until: AtomicU64,
    /// The number of the last answer of the remote store about it; 0 before the first.
    asked: AtomicU64,
    /// How long its fill took; 0 where that is not known, as for what the remote store had.
    pub(crate) cost: Millis,
    /// From when on it may be refreshed ahead of its end.
    ahead_from: AtomicU64,
}

/// A complete response in the memory tier.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) head: Arc<StoredHead>,
    pub(crate) body: Bytes,
    /// What the head has allocated; an entry is weighed more than once.
    fields: u32,
    watched: Watched,
}

impl Deref for Entry {
    type Target = Watched;

    #[inline]
    fn deref(&self) -> &Watched {
        &self.watched
    }
}

impl DerefMut for Entry {
    fn deref_mut(&mut self) -> &mut Watched {
        &mut self.watched
    }
}

impl Watched {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            frame: None,
            record: None,
            is_sole: false,
            checked: AtomicU64::new(NOT_YET),
            stale_since: AtomicU64::new(NEVER),
            memory_until: AtomicU64::new(Millis::MAX),
            asked: AtomicU64::new(0),
            cost: 0,
            ahead_from: AtomicU64::new(0),
        }
    }

    /// Whether it may be refreshed ahead of its end; if so, nobody else tries for a second.
    pub(crate) fn try_ahead(&self, now: Millis) -> bool {
        const PAUSE: Millis = 1_000;
        let from = self.ahead_from.load(Ordering::Relaxed);
        let is_first = |from| {
            let next = now.saturating_add(PAUSE);
            let relaxed = Ordering::Relaxed;
            let swapped = self
                .ahead_from
                .compare_exchange(from, next, relaxed, relaxed);
            swapped.is_ok()
        };
        now >= from && is_first(from)
    }

    /// Lets memory answer with it until then; after that the remote store is asked first.
    ///
    /// Without this call, which is made when the remote store is known to have it, memory answers
    /// as if there were no such store. What is gone stays so.
    pub(crate) fn answer_until(&self, until: Millis) {
        let later = |known| (known != GONE).then_some(until.saturating_add(1));
        let relaxed = Ordering::Relaxed;
        let _ = self.memory_until.fetch_update(relaxed, relaxed, later);
    }

    /// Notes that the remote store was asked for it; numbers are those of fills.
    pub(crate) fn set_asked(&self, number: u64) {
        self.asked.fetch_max(number, Ordering::Relaxed);
    }

    /// Whether the remote store was asked for it later than that.
    pub(crate) fn was_asked_after(&self, number: u64) -> bool {
        self.asked.load(Ordering::Relaxed) > number
    }

    /// Whether the remote store is to be asked before this is used.
    #[inline]
    pub(crate) fn is_due(&self, now: Millis) -> bool {
        now >= self.memory_until.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Whether a remote store is known to have had it.
    pub(crate) fn is_known_elsewhere(&self) -> bool {
        self.memory_until.load(Ordering::Relaxed) != Millis::MAX
    }

    /// The remote store has it no more: another node deleted it, or there was no room.
    pub(crate) fn set_gone(&self) {
        self.memory_until.store(GONE, Ordering::Relaxed);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.memory_until.load(Ordering::Relaxed) == GONE
    }

    /// Whether it is known that no invalidation selects it: one load of the log, and one here.
    #[inline]
    pub(crate) fn is_checked(&self, log: &Log) -> bool {
        self.checked.load(Ordering::Relaxed) == log.generation()
    }

    /// What the log says of it, with these names.
    pub(crate) fn judged(&self, log: &Log, names: Names<'_>) -> Verdict {
        let generation = log.generation();
        let checked = self.checked.load(Ordering::Relaxed);
        if checked == generation {
            return Verdict::Usable;
        }
        let since = if checked == NOT_YET { 0 } else { checked };
        let Origin {
            sequence, subject, ..
        } = &self.origin;
        let verdict = log.judge_again(*sequence, subject, names, since);
        match verdict {
            // Loaded before the records were read: should one have come in between, the
            // generation differs and the next request looks again.
            Verdict::Usable => self.checked.store(generation, Ordering::Relaxed),
            Verdict::Stale(at) => {
                let since = self.stale_since.fetch_min(at, Ordering::Relaxed).min(at);
                return Verdict::Stale(since);
            }
            Verdict::Unusable => {}
        }
        verdict
    }
}

impl Entry {
    pub(crate) fn new(head: Arc<StoredHead>, body: Bytes, origin: Origin) -> Self {
        Self {
            fields: u32::try_from(head.heap_size()).unwrap_or(u32::MAX),
            head,
            body,
            watched: Watched::new(origin),
        }
    }

    /// The same, where its fill took so long.
    pub(crate) fn with_cost(mut self, cost: Millis) -> Self {
        self.cost = cost;
        self
    }

    /// What the log says of it.
    pub(crate) fn verdict(&self, log: &Log) -> Verdict {
        self.judged(log, self.head.names())
    }

    /// How long it is fresh, whatever has been invalidated softly; nothing where it is not usable.
    pub(crate) fn lifetime(&self, log: &Log) -> Option<Lifetime> {
        self.head.lifetime.under(self.verdict(log))
    }

    /// Whether it would be fresh, were it asked for now.
    pub(crate) fn is_fresh(&self, log: &Log, now: Millis) -> bool {
        self.lifetime(log)
            .is_some_and(|lifetime| lifetime.is_fresh(now))
    }

    /// The seconds for which it is fresh yet, as [`Lifetime::ttl`] has them.
    pub(crate) fn ttl(&self, now: Millis) -> i64 {
        self.ttl_at(now, self.head.lifetime.age(now))
    }

    /// The same, where its age is known.
    #[inline]
    pub(crate) fn ttl_at(&self, now: Millis, age: Millis) -> i64 {
        let lifetime = &self.head.lifetime;
        match self.stale_since.load(Ordering::Relaxed) {
            NEVER => lifetime.ttl_at(age),
            at => lifetime.stale_since(at).ttl(now),
        }
    }

    /// The bytes that this entry occupies, with the key it is stored under.
    pub(crate) fn weight(&self, key: usize) -> u64 {
        (OVERHEAD + key + self.body.len() + self.fields as usize) as u64
    }
}

/// What an entry costs besides key, fields and body: the two allocations that hold it with
/// their counts, the map's slots with the room that growing tables hold in reserve, the place
/// in the queue of expiry, and the headers of the allocator's blocks.
pub(crate) const OVERHEAD: usize = 528;

/// What a header map has allocated, for one whose values have bytes of their own.
fn heap_size(headers: &HeaderMap) -> usize {
    // As in `http` 1.x: an index of 4 bytes, an entry of a name, a value, a hash and links.
    const ENTRY: usize = 104;
    let values: usize = headers.iter().map(|(_, value)| value.len()).sum();
    let names: usize = headers.keys().map(|name| name.as_str().len()).sum();
    let slots = headers.capacity().max(headers.keys_len());
    slots * (ENTRY + 6) + (headers.len() - headers.keys_len()) * ENTRY + values + names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stale_since_a_moment_is_kept_as_long_as_before() {
        let lifetime = Lifetime {
            response_time: 10_000,
            initial_age: 5_000,
            freshness: 60_000,
            kept: 30_000,
        };
        for (sentence, at, freshness) in [
            ("later than it is stale anyway", 70_000, 60_000),
            ("while it is here", 20_000, 15_000),
            ("as it came here", 10_000, 5_000),
            ("before it came here", 8_000, 3_000),
            ("before it was made", 4_000, 0),
        ] {
            let stale = lifetime.stale_since(at);
            assert_eq!(stale.freshness, freshness, "{sentence}");
            assert_eq!(stale.ends(), lifetime.ends(), "{sentence}");
            let since = at.min(lifetime.response_time + 55_000);
            assert_eq!(stale.stale_for(90_000), Some(90_000 - since), "{sentence}");
        }
    }

    #[test]
    fn age_counts_from_what_the_response_brought_along() {
        let lifetime = Lifetime {
            response_time: 10_000,
            initial_age: 5_000,
            freshness: 60_000,
            kept: 0,
        };
        for (now, age, fresh, ttl) in [
            (10_000, 5_000, true, 55),
            (10_001, 5_001, true, 54),
            (64_999, 59_999, true, 0),
            (65_000, 60_000, false, 0),
            (65_001, 60_001, false, -1),
            (75_000, 70_000, false, -10),
        ] {
            assert_eq!(lifetime.age(now), age);
            assert_eq!(lifetime.is_fresh(now), fresh, "at {now}");
            assert_eq!(lifetime.ttl(now), ttl, "at {now}");
            assert_eq!(lifetime.stale_for(now).is_none(), fresh, "at {now}");
        }
        assert_eq!(lifetime.stale_for(75_000), Some(10_000));
        assert_eq!(lifetime.ends(), 65_000);
        let kept = Lifetime {
            kept: 7_000,
            ..lifetime
        };
        assert_eq!(kept.ends(), 72_000);
    }

    #[test]
    fn what_was_stale_when_it_came_is_kept_as_long_as_is_left() {
        let lifetime = Lifetime {
            response_time: 10_000,
            initial_age: 5_000,
            freshness: 0,
            kept: 60_000,
        };
        assert!(!lifetime.is_fresh(10_000));
        assert_eq!(lifetime.stale_for(10_000), Some(5_000));
        assert_eq!(lifetime.ends(), 65_000);
    }

    #[test]
    fn parts_of_a_second_count() {
        assert_eq!(millis(Duration::from_micros(1_234_999)), 1_234);
    }

    #[test]
    fn durations_beyond_all_sense_stay_in_bounds() {
        let forever = Lifetime {
            response_time: 10,
            initial_age: 0,
            freshness: millis(Duration::MAX),
            kept: millis(Duration::MAX),
        };
        assert!(forever.is_fresh(forever.ends() / 3));
        assert!(forever.ttl(0) > 0);
    }
}
