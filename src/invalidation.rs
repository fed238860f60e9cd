//! The invalidation log: numbered records, against which an entry is judged when it is read.
//!
//! Two numbers, never mixed. The *sequence* orders fills and records: a fill starts with the
//! highest sequence known, and its response is usable only if no record with a higher one selects
//! it. So an invalidation during a fill always wins, and tags may come with the response. The
//! *generation* is raised after a record became visible: an entry that was checked at the present
//! generation needs no other check, which makes the price of the log on a hit one atomic load.
//!
//! There is one record per selector, and their number is bounded. When the oldest leave, a *floor*
//! rises to them, and entries below it are misses: for a pattern that of all, for others that of some few
//! thousandths, so that whoever invalidates many things does not empty the cache.
//!
//! This file knows nothing of tokio, of stores or of flights: it is told a number, and what an entry
//! may be selected by.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use crate::{
    pattern::Pattern,
    selector::{Kind, Selector},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    target::{Space, Subject, Target},
};

/// How many records are kept before the oldest leave.
const MAX_RECORDS: usize = 100_000;
/// How many patterns with a `*` among them: each is compared, one after the other.
const MAX_PATTERNS: usize = 1_000;

/// How many soft records of one selector are told apart.
const MAX_SOFT: usize = 8;
/// For targets whose records have left, there is a floor for each part of them.
const FLOORS: usize = 4096;

/// Milliseconds on the cache's clock.
type Millis = u64;

/// What [`Cache::invalidate`](crate::Cache::invalidate) has done.
///
/// When it is returned, no later request on this node is answered with what was selected, nor with
/// the result of a fill that was under way; after a soft one, only as what is stale.
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

/// What the log says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Usable,
    /// A soft record selects it: it has been stale since then, at the latest.
    Stale(Millis),
    /// A hard record selects it, or records have left that may have.
    Unusable,
}

/// The names by which an entry may be selected besides its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Names<'n> {
    /// Of its origin, each a tag as well.
    pub(crate) groups: &'n [Box<str>],
    pub(crate) tags: &'n [Box<str>],
}

/// The numbers of the records of one selector; zero where there is none.
#[derive(Debug, Clone, Default)]
struct Numbers {
    hard: u64,
    /// In their order: what was selected twice is stale since the first time.
    soft: Vec<Soft>,
}

#[derive(Debug, Clone, Copy)]
struct Soft {
    sequence: u64,
    at: Millis,
}

impl Numbers {
    fn note(&mut self, sequence: u64, soft: Option<Millis>) {
        match soft {
            None => self.hard = sequence,
            Some(at) => {
                if self.soft.len() == MAX_SOFT {
                    // Both at the time of the first: rather stale too early than too late.
                    let first = self.soft.remove(0);
                    self.soft[0].at = first.at;
                }
                self.soft.push(Soft { sequence, at });
            }
        }
    }

    fn latest(&self) -> u64 {
        let soft = self.soft.last().map_or(0, |soft| soft.sequence);
        self.hard.max(soft)
    }

    /// Of what started at `sequence` and is selected by this.
    fn judge(&self, sequence: u64) -> Verdict {
        if self.hard > sequence {
            return Verdict::Unusable;
        }
        let first = self.soft.iter().find(|soft| soft.sequence > sequence);
        first.map_or(Verdict::Usable, |soft| Verdict::Stale(soft.at))
    }
}

impl Verdict {
    /// The stricter of both.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unusable, _) | (_, Self::Unusable) => Self::Unusable,
            (Self::Stale(one), Self::Stale(other)) => Self::Stale(one.min(other)),
            (Self::Stale(at), Self::Usable) | (Self::Usable, Self::Stale(at)) => Self::Stale(at),
            (Self::Usable, Self::Usable) => Self::Usable,
        }
    }
}

/// The record of a pattern with a `*`.
struct PatternRecord {
    space: Space,
    pattern: Pattern,
    numbers: Numbers,
    /// At which generation it came: who was checked later knows it already.
    generation: u64,
}

#[derive(Default)]
struct Records {
    by_target: HashMap<Target, Numbers, PrehashedBuilder>,
    /// In the order of their numbers; one whose target has a newer number by now is void.
    order: VecDeque<(u64, Target)>,
    /// Those with a `*`, the latest last.
    patterns: Vec<PatternRecord>,
    all: Numbers,
    /// Of what any pattern may have selected that has left.
    floor: u64,
    /// The same for targets, by their digests; empty until one has left.
    floors: Vec<u64>,
    /// How many have left.
    forgotten: u64,
}

/// The log of one cache.
#[derive(Default)]
pub(crate) struct Log {
    records: RwLock<Records>,
    sequence: AtomicU64,
    generation: AtomicU64,
}

/// How full a log is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogSize {
    pub(crate) records: u64,
    pub(crate) forgotten: u64,
}

impl Log {
    /// The sequence that a fill starting now carries.
    #[inline]
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// The generation at which a check done now would hold.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a record; when this returns, every reader sees it.
    pub(crate) fn add(&self, selector: &Selector, now: Millis) -> Invalidated {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let sequence = self.sequence.load(Ordering::Relaxed) + 1;
        let had_all = records.forgotten == 0;
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        records.note(selector, (sequence, generation), now);
        records.shrink_to(MAX_RECORDS, MAX_PATTERNS);
        let has_forgotten = had_all && records.forgotten > 0;
        // The number first: a fill that starts now and sees it must not see an older generation
        // later. Both under the lock, so that records appear in the order of their numbers.
        self.sequence.store(sequence, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
        drop(records);
        if has_forgotten {
            tracing::warn!(
                target: "tower_response_cache",
                "more than {MAX_RECORDS} different things, or {MAX_PATTERNS} patterns with a *, were invalidated: some of what was stored before the oldest of them is a miss from now on, after patterns all of it; fewer, wider selectors (a tag) avoid that"
            );
        }
        Invalidated { sequence }
    }

    /// Whether what started at `sequence` may still be used, judged against all records.
    #[cold]
    pub(crate) fn judge(&self, sequence: u64, subject: &Subject, names: Names<'_>) -> Verdict {
        self.judge_again(sequence, subject, names, 0)
    }

    /// The same of what was found usable at a generation: of the patterns, which are compared one by
    /// one, only those that came since then.
    pub(crate) fn judge_again(
        &self,
        sequence: u64,
        subject: &Subject,
        names: Names<'_>,
        since: u64,
    ) -> Verdict {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        records.judge(sequence, subject, names, since)
    }

    pub(crate) fn size(&self) -> LogSize {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        LogSize {
            records: (records.by_target.len() + records.patterns.len()) as u64,
            forgotten: records.forgotten,
        }
    }
}

impl Records {
    fn note(&mut self, selector: &Selector, (sequence, generation): (u64, u64), now: Millis) {
        let soft = selector.is_soft.then_some(now);
        match &selector.kind {
            Kind::All => {
                self.all.note(sequence, soft);
                if soft.is_none() {
                    // Everything older is covered by this one.
                    self.by_target.clear();
                    self.order.clear();
                    self.patterns.clear();
                    self.floors.clear();
                }
            }
            Kind::Resource(resource) => {
                for target in resource.targets() {
                    self.note_target(target, sequence, soft);
                }
            }
            Kind::Tag(tag) => self.note_target(Target::tag(tag.as_str()), sequence, soft),
            Kind::Group { authority, name } => {
                for target in Target::groups_of(authority.as_deref(), name) {
                    self.note_target(target, sequence, soft);
                }
            }
            Kind::Pattern(space, Pattern::Exact(name)) => {
                self.note_target(Target::named(*space, name), sequence, soft);
            }
            Kind::Pattern(space, pattern) => {
                let is_it =
                    |record: &PatternRecord| record.space == *space && record.pattern == *pattern;
                let known = self.patterns.iter().position(is_it);
                let mut record = match known {
                    Some(at) => self.patterns.remove(at),
                    None => PatternRecord {
                        space: *space,
                        pattern: pattern.clone(),
                        numbers: Numbers::default(),
                        generation,
                    },
                };
                record.numbers.note(sequence, soft);
                record.generation = generation;
                self.patterns.push(record);
            }
        }
    }

    fn note_target(&mut self, target: Target, sequence: u64, soft: Option<Millis>) {
        self.by_target
            .entry(target)
            .or_default()
            .note(sequence, soft);
        self.order.push_back((sequence, target));
    }

    fn judge(&self, sequence: u64, subject: &Subject, names: Names<'_>, since: u64) -> Verdict {
        if sequence < self.floor {
            return Verdict::Unusable;
        }
        let mut verdict = self.all.judge(sequence);
        let floors = &self.floors;
        let mut look = |target: Target| {
            if floors
                .get(bucket(target))
                .is_some_and(|floor| sequence < *floor)
            {
                verdict = Verdict::Unusable;
            }
            if let Some(numbers) = self.by_target.get(&target) {
                verdict = verdict.and(numbers.judge(sequence));
            }
        };
        if !self.by_target.is_empty() || !floors.is_empty() {
            look(subject.target);
            look(Target::named(subject.space, &subject.name));
            for group in names.groups {
                look(Target::group(subject.origin, group));
                look(Target::tag(group));
            }
            for tag in names.tags {
                look(Target::tag(tag));
            }
        }
        let patterns = self.patterns.iter().rev();
        for record in patterns.take_while(|record| record.generation > since) {
            let is_newer = record.numbers.latest() > sequence;
            let is_of_it = is_newer && record.space == subject.space;
            if is_of_it && record.pattern.fits(&subject.name) {
                verdict = verdict.and(record.numbers.judge(sequence));
            }
        }
        verdict
    }

    fn shrink_to(&mut self, records: usize, patterns: usize) {
        let surplus = self.patterns.len().saturating_sub(patterns);
        for oldest in self.patterns.drain(..surplus) {
            self.floor = self.floor.max(oldest.numbers.latest());
            self.forgotten += 1;
        }
        while self.by_target.len() > records {
            let Some((sequence, target)) = self.order.pop_front() else {
                return;
            };
            let is_latest = |numbers: &Numbers| numbers.latest() == sequence;
            if self.by_target.get(&target).is_some_and(is_latest) {
                self.by_target.remove(&target);
                self.floors.resize(FLOORS, 0);
                let floor = &mut self.floors[bucket(target)];
                *floor = sequence.max(*floor);
                self.forgotten += 1;
            }
        }
        if self.order.len() > 2 * records {
            let by_target = &self.by_target;
            self.order.retain(|(sequence, target)| {
                by_target
                    .get(target)
                    .is_some_and(|numbers| numbers.latest() == *sequence)
            });
        }
    }
}

/// Which of the floors is that of a target.
fn bucket(target: Target) -> usize {
    // Not the bits that choose a place in a map.
    (target.0 >> 40) as usize % FLOORS
}

#[cfg(test)]
mod tests;
