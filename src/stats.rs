//! Counters, by the words of `status.rs`.

use std::{
    array, fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{invalidation::LogSize, status::Reason, store::counters::RemoteStats};

const REASONS: usize = Reason::ALL.len();

/// One counter, alone on its cache line: the ones raised on every request must not fight.
#[derive(Default)]
#[repr(align(64))]
struct Line(AtomicU64);

/// What a cache counts.
pub(crate) struct Counters {
    hits: Line,
    stale: AtomicU64,
    misses: Line,
    collapsed: AtomicU64,
    fills: AtomicU64,
    stored: AtomicU64,
    failed_fills: AtomicU64,
    validated: AtomicU64,
    turned_away: AtomicU64,
    value_hits: Line,
    value_misses: Line,
    value_loads: AtomicU64,
    value_collapsed: AtomicU64,
    failed_writes: AtomicU64,
    lost_writes: AtomicU64,
    bypasses: [AtomicU64; REASONS],
    refusals: [AtomicU64; REASONS],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            hits: Line::default(),
            stale: AtomicU64::default(),
            misses: Line::default(),
            collapsed: AtomicU64::default(),
            fills: AtomicU64::default(),
            stored: AtomicU64::default(),
            failed_fills: AtomicU64::default(),
            validated: AtomicU64::default(),
            turned_away: AtomicU64::default(),
            value_hits: Line::default(),
            value_misses: Line::default(),
            value_loads: AtomicU64::default(),
            value_collapsed: AtomicU64::default(),
            failed_writes: AtomicU64::default(),
            lost_writes: AtomicU64::default(),
            bypasses: array::from_fn(|_| AtomicU64::default()),
            refusals: array::from_fn(|_| AtomicU64::default()),
        }
    }
}

fn raise(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    #[inline]
    pub(crate) fn hit(&self) {
        raise(&self.hits.0);
    }
    pub(crate) fn stale(&self) {
        raise(&self.stale);
    }
    pub(crate) fn validated(&self) {
        raise(&self.validated);
    }
    pub(crate) fn turned_away(&self) {
        raise(&self.turned_away);
    }
    pub(crate) fn miss(&self) {
        raise(&self.misses.0);
    }
    pub(crate) fn collapsed(&self) {
        raise(&self.collapsed);
    }
    pub(crate) fn fill(&self) {
        raise(&self.fills);
    }
    pub(crate) fn stored(&self) {
        raise(&self.stored);
    }
    pub(crate) fn failed_fill(&self) {
        raise(&self.failed_fills);
    }
    #[inline]
    pub(crate) fn value_hit(&self) {
        raise(&self.value_hits.0);
    }
    pub(crate) fn value_miss(&self) {
        raise(&self.value_misses.0);
    }
    pub(crate) fn value_load(&self) {
        raise(&self.value_loads);
    }
    pub(crate) fn value_collapsed(&self) {
        raise(&self.value_collapsed);
    }
    pub(crate) fn failed_write(&self) {
        raise(&self.failed_writes);
    }
    pub(crate) fn lost_writes(&self, count: u64) {
        self.lost_writes.fetch_add(count, Ordering::Relaxed);
    }
    #[inline]
    pub(crate) fn bypass(&self, reason: Reason) {
        raise(&self.bypasses[reason as usize]);
    }
    pub(crate) fn refusal(&self, reason: Reason) {
        raise(&self.refusals[reason as usize]);
    }

    pub(crate) fn read(&self, gauges: Gauges) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            hits: load(&self.hits.0),
            stale: load(&self.stale),
            misses: load(&self.misses.0),
            collapsed: load(&self.collapsed),
            fills: load(&self.fills),
            stored: load(&self.stored),
            failed_fills: load(&self.failed_fills),
            validated: load(&self.validated),
            turned_away: load(&self.turned_away),
            value_hits: load(&self.value_hits.0),
            value_misses: load(&self.value_misses.0),
            value_loads: load(&self.value_loads),
            value_collapsed: load(&self.value_collapsed),
            failed_writes: load(&self.failed_writes),
            lost_writes: load(&self.lost_writes),
            bypasses: array::from_fn(|i| load(&self.bypasses[i])),
            refusals: array::from_fn(|i| load(&self.refusals[i])),
            gauges,
        }
    }
}

/// What is counted elsewhere and read when asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    pub(crate) bytes: u64,
    pub(crate) capacity: u64,
    pub(crate) entries: u64,
    pub(crate) flights: u64,
    pub(crate) buffered: u64,
    pub(crate) evictions: u64,
    pub(crate) expirations: u64,
    pub(crate) invalidations: u64,
    pub(crate) log: LogSize,
    pub(crate) remote: RemoteStats,
}

/// What a cache has done since it was made, and what it holds.
///
/// A snapshot: counters only grow, gauges ([`bytes`](Self::bytes), [`entries`](Self::entries),
/// [`flights`](Self::flights), [`buffered_bytes`](Self::buffered_bytes)) go up and down. `Display`
/// writes one line for a log.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, Reason};
///
/// let stats = Cache::in_memory().stats();
/// assert_eq!(stats.hits(), 0);
/// assert_eq!(stats.bypasses(Reason::Cookie), 0);
/// assert_eq!(stats.hit_ratio(), 0.0);
/// ```
#[derive(Clone)]
pub struct Stats {
    hits: u64,
    stale: u64,
    misses: u64,
    collapsed: u64,
    fills: u64,
    stored: u64,
    failed_fills: u64,
    validated: u64,
    turned_away: u64,
    value_hits: u64,
    value_misses: u64,
    value_loads: u64,
    value_collapsed: u64,
    failed_writes: u64,
    lost_writes: u64,
    bypasses: [u64; REASONS],
    refusals: [u64; REASONS],
    gauges: Gauges,
}

impl Stats {
    /// Requests answered from the store, fresh.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Requests answered from the store although stale: while a newer response was obtained, because
    /// they accepted that, or (then they count as [`misses`](Self::misses), too) because the inner
    /// service failed.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.stale
    }

    /// Requests that were looked up and then waited for the inner service, be it for a call of
    /// their own or for somebody else's.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Those of the [`misses`](Self::misses) that were answered by somebody else's call.
    #[must_use]
    pub fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// Calls of the inner service that could have filled the store.
    #[must_use]
    pub fn fills(&self) -> u64 {
        self.fills
    }

    /// Responses that were stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Those of the [`fills`](Self::fills) that found what was stored still good (304).
    #[must_use]
    pub fn validated(&self) -> u64 {
        self.validated
    }

    /// Fills that ended with an error of the inner service, a panic, or because nobody polled them.
    #[must_use]
    pub fn failed_fills(&self) -> u64 {
        self.failed_fills
    }

    /// Those of the [`misses`](Self::misses) that were answered with 503, because they could not wait
    /// for somebody else's call ([`Overflow::Unavailable`](crate::Overflow::Unavailable)).
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// Values that were found, stale ones that stood in included.
    #[must_use]
    pub fn value_hits(&self) -> u64 {
        self.value_hits
    }

    /// Values that were asked for and not found; each waited for a load, where there was one.
    #[must_use]
    pub fn value_misses(&self) -> u64 {
        self.value_misses
    }

    /// Loads of values, those in the background included.
    #[must_use]
    pub fn value_loads(&self) -> u64 {
        self.value_loads
    }

    /// Those of the [`value_misses`](Self::value_misses) that were answered by somebody else's load.
    #[must_use]
    pub fn value_collapsed(&self) -> u64 {
        self.value_collapsed
    }

    /// Writes behind the cache that failed, and were or will be tried again
    /// ([`Repository::write_behind`](crate::Repository::write_behind)).
    #[must_use]
    pub fn failed_writes(&self) -> u64 {
        self.failed_writes
    }

    /// Writes behind the cache that had not been done when it was closed.
    #[must_use]
    pub fn lost_writes(&self) -> u64 {
        self.lost_writes
    }

    /// Requests that were not looked up for this reason, or were and then passed on for it.
    #[must_use]
    pub fn bypasses(&self, reason: Reason) -> u64 {
        self.bypasses[reason as usize]
    }

    /// Responses that were not stored for this reason.
    #[must_use]
    pub fn refusals(&self, reason: Reason) -> u64 {
        self.refusals[reason as usize]
    }

    /// Bytes that the memory tier holds: keys, heads, bodies and overhead.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.gauges.bytes
    }

    /// The bound of [`bytes`](Self::bytes).
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.gauges.capacity
    }

    /// Entries that the memory tier holds: variants count one by one, and a key that has variants
    /// counts once more for their list.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.gauges.entries
    }

    /// Fills under way that others may join.
    #[must_use]
    pub fn flights(&self) -> u64 {
        self.gauges.flights
    }

    /// Bytes of bodies that are being read, and of those that were and still have a reader.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        self.gauges.buffered
    }

    /// Entries removed for lack of room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.gauges.evictions
    }

    /// Entries removed because nothing could be done with them any more.
    #[must_use]
    pub fn expirations(&self) -> u64 {
        self.gauges.expirations
    }

    /// Invalidations since the cache was made.
    #[must_use]
    pub fn invalidations(&self) -> u64 {
        self.gauges.invalidations
    }

    /// Records that the log of invalidations holds: one for each thing that was selected, whatever
    /// the number of times; four for a resource, two for a group.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.gauges.log.records
    }

    /// Records that left the log because there were more than 100,000, or more than 1,000 patterns.
    /// Of what was stored before them nobody knows any more whether it is usable: after a pattern all of it is
    /// a miss, after another record a four-thousandth.
    #[must_use]
    pub fn forgotten_records(&self) -> u64 {
        self.gauges.log.forgotten
    }

    /// Failures of the remote store, timeouts included; none of them made a request fail.
    #[must_use]
    pub fn store_errors(&self) -> u64 {
        let remote = &self.gauges.remote;
        remote.timeouts() + remote.errors() + remote.mismatches()
    }

    /// What was said to the remote store, and what it answered.
    #[must_use]
    pub fn remote(&self) -> &RemoteStats {
        &self.gauges.remote
    }

    /// Hits as a part of hits and misses, between 0 and 1; 0 where there were none of both.
    /// Bypasses do not count.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        let all = self.hits + self.misses;
        if all == 0 {
            0.0
        } else {
            self.hits as f64 / all as f64
        }
    }
}

fn by_reason(counts: &[u64; REASONS]) -> impl Iterator<Item = (Reason, u64)> {
    Reason::ALL
        .iter()
        .map(|reason| (*reason, counts[*reason as usize]))
        .filter(|(_, count)| *count > 0)
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gauges {
            bytes,
            capacity,
            entries,
            flights,
            buffered,
            evictions,
            expirations,
            invalidations,
            log: LogSize { records, forgotten },
            ref remote,
        } = self.gauges;
        write!(
            f,
            "hits={} stale={} misses={} collapsed={} fills={} validated={} stored={} failed={} \
             store_errors={} \
             bytes={bytes}/{capacity} entries={entries} flights={flights} buffered={buffered} \
             evictions={evictions} expirations={expirations} invalidations={invalidations} \
             records={records} forgotten_records={forgotten}",
            self.hits,
            self.stale,
            self.misses,
            self.collapsed,
            self.fills,
            self.validated,
            self.stored,
            self.failed_fills,
            self.store_errors(),
        )?;
        if self.turned_away > 0 {
            write!(f, " turned_away={}", self.turned_away)?;
        }
        if self.value_hits + self.value_misses + self.value_loads > 0 {
            write!(
                f,
                " value_hits={} value_misses={} value_loads={} value_collapsed={}",
                self.value_hits, self.value_misses, self.value_loads, self.value_collapsed,
            )?;
        }
        if *remote != RemoteStats::default() {
            write!(f, "{remote}")?;
        }
        for (reason, count) in by_reason(&self.bypasses) {
            write!(f, " bypass.{reason}={count}")?;
        }
        for (reason, count) in by_reason(&self.refusals) {
            write!(f, " refused.{reason}={count}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stats({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_what_is_read() {
        let counters = Counters::default();
        counters.hit();
        counters.hit();
        counters.miss();
        counters.bypass(Reason::Cookie);
        counters.refusal(Reason::SetCookie);
        counters.refusal(Reason::SetCookie);
        counters.turned_away();
        counters.value_hit();
        counters.value_hit();
        counters.value_miss();
        counters.value_load();
        let stats = counters.read(Gauges::default());
        assert_eq!((stats.hits(), stats.misses()), (2, 1));
        assert_eq!(stats.bypasses(Reason::Cookie), 1);
        assert_eq!(stats.bypasses(Reason::SetCookie), 0);
        assert_eq!(stats.refusals(Reason::SetCookie), 2);
        assert!((stats.hit_ratio() - 2.0 / 3.0).abs() < 1e-9);
        let line = stats.to_string();
        assert!(line.contains("hits=2 stale=0 misses=1"), "{line}");
        assert!(line.contains(" turned_away=1 "), "{line}");
        assert_eq!((stats.value_hits(), stats.value_misses()), (2, 1));
        assert!(
            line.contains(" value_hits=2 value_misses=1 value_loads=1 value_collapsed=0 "),
            "{line}"
        );
        assert!(
            line.contains("bypass.cookie=1 refused.set-cookie=2"),
            "{line}"
        );
    }
}
