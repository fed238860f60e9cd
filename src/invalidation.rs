//! The invalidation log: numbered records, against which an entry is judged when it is read.
//!
//! Two numbers, never mixed. The *sequence* orders fills and records: a fill starts with the
//! highest sequence known, and its response is usable only if no record with a higher one selects
//! it. So an invalidation during a fill always wins. The *generation* is raised after a record
//! became visible: an entry that was checked at the present generation needs no other check, which
//! makes the price of the log on a hit one atomic load.
//!
//! The number of records is bounded. When the oldest leave, the *floor* rises to them, and
//! entries below the floor are misses.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use crate::{
    selector::{Kind, Selector, Target},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many records are kept before the oldest leave.
const MAX_RECORDS: usize = 100_000;

/// What [`Cache::invalidate`](crate::Cache::invalidate) has done.
///
/// When it is returned, no later request on this node is answered with what was selected, nor with
/// the result of a fill that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invalidated {
    sequence: u64,
}

impl Invalidated {
    /// The number of the record; later invalidations have higher ones.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// The hash is made already.
#[derive(Default)]
pub(crate) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = self.0.rotate_left(5) ^ hash;
    }
}

pub(crate) type PrehashedBuilder = BuildHasherDefault<Prehashed>;

#[derive(Default)]
struct Records {
    by_target: HashMap<Target, u64, PrehashedBuilder>,
    /// In the order of their numbers; one whose target has a newer number by now is void.
    order: VecDeque<(u64, Target)>,
    all: u64,
    floor: u64,
}

/// The log of one cache.
#[derive(Default)]
pub(crate) struct Log {
    records: RwLock<Records>,
    sequence: AtomicU64,
    generation: AtomicU64,
}

impl Log {
    /// The sequence that a fill starting now carries.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// The generation at which a check done now would hold.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a record; when this returns, every reader sees it.
    pub(crate) fn add(&self, selector: &Selector) -> Invalidated {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let sequence = self.sequence.load(Ordering::Relaxed) + 1;
        match &selector.0 {
            Kind::All => {
                records.all = sequence;
                // Everything older is covered by this one.
                records.by_target.clear();
                records.order.clear();
            }
            Kind::Resource(resource) => {
                for target in resource.targets() {
                    records.by_target.insert(target, sequence);
                    records.order.push_back((sequence, target));
                }
            }
        }
        records.shrink_to(MAX_RECORDS);
        // The number first: a fill that starts now and sees it must not see an older generation
        // later. Both under the lock, so that records appear in the order of their numbers.
        self.sequence.store(sequence, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        Invalidated { sequence }
    }

    /// Whether what started at `sequence` may still be used, judged against all records.
    #[cold]
    pub(crate) fn is_usable(&self, sequence: u64, target: Target) -> bool {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        sequence >= records.floor
            && sequence >= records.all
            && records
                .by_target
                .get(&target)
                .is_none_or(|&record| sequence >= record)
    }
}

impl Records {
    fn shrink_to(&mut self, limit: usize) {
        while self.by_target.len() > limit {
            let Some((sequence, target)) = self.order.pop_front() else {
                return;
            };
            if self.by_target.get(&target) == Some(&sequence) {
                self.by_target.remove(&target);
                self.floor = self.floor.max(sequence);
            }
        }
        if self.order.len() > 2 * limit {
            let by_target = &self.by_target;
            self.order
                .retain(|(sequence, target)| by_target.get(target) == Some(sequence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Resource;

    fn resource(path: &str) -> Selector {
        Selector(Kind::Resource(Resource::new(Some("h"), path, None)))
    }

    fn target(path: &str) -> Target {
        Target::of(Some(Some("h")), path, Some(None))
    }

    #[test]
    fn a_record_judges_what_started_before_it() {
        let log = Log::default();
        let before = log.sequence();
        let generation = log.generation();
        let done = log.add(&resource("/a"));
        assert!(log.generation() > generation);
        assert_eq!(log.sequence(), done.sequence());
        assert!(!log.is_usable(before, target("/a")));
        assert!(log.is_usable(before, target("/b")));
        assert!(log.is_usable(log.sequence(), target("/a")));
        log.add(&Selector::all());
        assert!(!log.is_usable(done.sequence(), target("/b")));
        assert!(log.is_usable(log.sequence(), target("/b")));
    }

    #[test]
    fn the_oldest_records_leave_and_the_floor_rises_to_them() {
        let mut records = Records::default();
        for sequence in 1..=10 {
            let target = Target(sequence);
            records.by_target.insert(target, sequence);
            records.order.push_back((sequence, target));
            records.shrink_to(4);
        }
        assert_eq!(records.by_target.len(), 4);
        assert_eq!(records.floor, 6);
        assert!(records.order.len() <= 8);
    }

    #[test]
    fn a_repeated_record_takes_no_more_room() {
        let mut records = Records::default();
        for sequence in 1..=1000 {
            records.by_target.insert(Target(7), sequence);
            records.order.push_back((sequence, Target(7)));
            records.shrink_to(4);
        }
        assert_eq!(records.by_target.len(), 1);
        assert!(records.order.len() <= 9, "{}", records.order.len());
        assert_eq!(records.floor, 0);
    }
}
