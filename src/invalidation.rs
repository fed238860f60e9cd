//! The invalidation log: numbered records, against which an entry is judged when it is read.
//!
//! Two numbers, never mixed. The *sequence* orders fills and records: a fill starts with the
//! highest sequence known, and its response is usable only if no record with a higher one selects
//! it. So an invalidation during a fill always wins, and tags may come with the response. The
//! *generation* is raised after a record became visible: an entry that was checked at the present
//! generation needs no other check, which makes the price of the log on a hit one atomic load.
//!
//! A [`Sequence`] is told twice: in the order in which records came to this node, and in the order
//! that all nodes share, where there is one. Either is enough for an entry to be newer than a record.
//! A record of this node has no shared number until it was told to the others.
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

use smallvec::SmallVec;

use crate::{
    dependencies::{Dependency, name_of},
    pattern::Pattern,
    selector::{Kind, Selector},
    sync::{
        PoisonError, RwLock, RwLockWriteGuard,
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

/// Up to which invalidation something is known: what was read at a sequence is unusable as soon as a
/// later one selects it.
///
/// See [`Cache::sequence`](crate::Cache::sequence). The default is older than all invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sequence {
    /// In the order of this node.
    pub(crate) local: u64,
    /// In the order that all nodes share; 0 where nothing is known of that.
    pub(crate) shared: u64,
}

impl Sequence {
    /// How many invalidations this node knew of.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.local
    }

    /// The older of both: of what was made from two things.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            local: self.local.min(other.local),
            shared: self.shared.min(other.shared),
        }
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

/// When records that select the same came, of which only the latest matters; zero where there is
/// none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Number {
    local: u64,
    /// The highest that is known.
    shared: u64,
    /// The local number of the latest that has no shared one yet.
    pending: u64,
}

impl Number {
    /// Whether what started at `sequence` is older.
    fn outruns(&self, sequence: Sequence) -> bool {
        sequence.local < self.local && (self.pending > 0 || sequence.shared < self.shared)
    }

    /// Both: older than either is older than this.
    fn and(&mut self, later: Self) {
        self.local = self.local.max(later.local);
        self.shared = self.shared.max(later.shared);
        self.pending = self.pending.max(later.pending);
    }

    /// The records of this node up to `local` have shared numbers up to `shared`.
    fn settle(&mut self, local: u64, shared: u64) {
        if (1..=local).contains(&self.pending) {
            self.pending = 0;
            self.shared = self.shared.max(shared);
        }
    }
}

/// The numbers of the records of one selector.
#[derive(Debug, Clone, Default)]
struct Numbers {
    hard: Number,
    /// In the order in which they came: what was selected twice is stale since the first time.
    soft: Vec<Soft>,
}

#[derive(Debug, Clone, Copy)]
struct Soft {
    number: Number,
    at: Millis,
}

impl Numbers {
    fn note(&mut self, number: Number, soft: Option<Millis>) {
        match soft {
            None => self.hard.and(number),
            Some(at) => {
                if self.soft.len() == MAX_SOFT {
                    // Both at the time of the first: rather stale too early than too late.
                    let first = self.soft.remove(0);
                    self.soft[0].at = first.at;
                }
                self.soft.push(Soft { number, at });
            }
        }
    }

    fn latest(&self) -> u64 {
        let soft = self.soft.last().map_or(0, |soft| soft.number.local);
        self.hard.local.max(soft)
    }

    /// All of them in one.
    fn together(&self) -> Number {
        let mut number = self.hard;
        for soft in &self.soft {
            number.and(soft.number);
        }
        number
    }

    /// Of what is selected by this and older than the numbers that `outruns` says.
    fn judge(&self, outruns: &impl Fn(&Number) -> bool) -> Verdict {
        if outruns(&self.hard) {
            return Verdict::Unusable;
        }
        let outran = self.soft.iter().filter(|soft| outruns(&soft.number));
        let since = outran.map(|soft| soft.at).min();
        since.map_or(Verdict::Usable, Verdict::Stale)
    }

    fn settle(&mut self, local: u64, shared: u64) {
        self.hard.settle(local, shared);
        for soft in &mut self.soft {
            soft.number.settle(local, shared);
        }
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
    floor: Number,
    /// The same for targets, by their digests; empty until one has left.
    floors: Vec<Number>,
    /// How many have left.
    forgotten: u64,
}

/// The log of one cache.
#[derive(Default)]
pub(crate) struct Log {
    records: RwLock<Records>,
    /// The local number of the latest record.
    sequence: AtomicU64,
    /// The highest shared number that was seen anywhere.
    shared: AtomicU64,
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
    pub(crate) fn sequence(&self) -> Sequence {
        Sequence {
            local: self.sequence.load(Ordering::Acquire),
            shared: self.shared.load(Ordering::Acquire),
        }
    }

    /// The generation at which a check done now would hold.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a record of this node, which every reader sees when this returns; its local number.
    pub(crate) fn add(&self, selector: &Selector, now: Millis) -> u64 {
        let mut records = self.records();
        let sequence = self.sequence.load(Ordering::Relaxed) + 1;
        let number = Number {
            local: sequence,
            shared: 0,
            pending: sequence,
        };
        self.note(&mut records, selector, number, now);
        sequence
    }

    /// Adds a record of another node, with its shared number; `at` is when it was made.
    pub(crate) fn hear(&self, selector: &Selector, shared: u64, at: Millis) {
        let mut records = self.records();
        let number = Number {
            local: self.sequence.load(Ordering::Relaxed) + 1,
            shared,
            pending: 0,
        };
        // Before the record is visible: a fill that starts after it carries this number.
        self.saw(shared);
        self.note(&mut records, selector, number, at);
    }

    /// These records of this node have got a shared number, `local` being the last of them, and so has
    /// everything before them.
    pub(crate) fn settle<'s>(
        &self,
        selectors: impl Iterator<Item = &'s Selector>,
        local: u64,
        shared: u64,
    ) {
        let mut records = self.records();
        self.saw(shared);
        for selector in selectors {
            records.settle(selector, local, shared);
        }
        records.floor.settle(local, shared);
        for floor in &mut records.floors {
            floor.settle(local, shared);
        }
    }

    /// Some answer had this number in it.
    pub(crate) fn saw(&self, shared: u64) {
        self.shared.fetch_max(shared, Ordering::AcqRel);
    }

    fn records(&self) -> RwLockWriteGuard<'_, Records> {
        self.records.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, records: &mut Records, selector: &Selector, number: Number, at: Millis) {
        let had_all = records.forgotten == 0;
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        records.note(selector, (number, generation), at);
        records.shrink_to(MAX_RECORDS, MAX_PATTERNS);
        // The number first: a fill that starts now and sees it must not see an older generation
        // later. Both under the lock, so that records appear in the order of their numbers.
        self.sequence.store(number.local, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
        if had_all && records.forgotten > 0 {
            tracing::warn!(
                target: "tower_response_cache",
                "more than {MAX_RECORDS} different things, or {MAX_PATTERNS} patterns with a *, were invalidated: some of what was stored before the oldest of them is a miss from now on, after patterns all of it; fewer, wider selectors (a tag) avoid that"
            );
        }
    }

    /// Whether what started at `sequence` may still be used, judged against all records.
    #[cold]
    pub(crate) fn judge(&self, sequence: Sequence, subject: &Subject, names: Names<'_>) -> Verdict {
        self.judge_again(sequence, subject, names, 0)
    }

    /// The same of what was found usable at a generation: of the patterns, which are compared one by
    /// one, only those that came since then.
    pub(crate) fn judge_again(
        &self,
        sequence: Sequence,
        subject: &Subject,
        names: Names<'_>,
        since: u64,
    ) -> Verdict {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        records.judge(sequence, subject, names, since)
    }

    /// Whether no node that knows the shared log may use what started at this shared number.
    ///
    /// What only this node knows says nothing of others; and of records that have left, nobody knows
    /// any more what they selected.
    pub(crate) fn is_over_for_all(&self, shared: u64, subject: &Subject, names: Names<'_>) -> bool {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let outruns = |number: &Number| shared < number.shared;
        let no_floor = (&Number::default(), &[][..]);
        records.judge_by(&outruns, no_floor, subject, names, 0) == Verdict::Unusable
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
    fn note(&mut self, selector: &Selector, (number, generation): (Number, u64), at: Millis) {
        let soft = selector.is_soft.then_some(at);
        match &selector.kind {
            Kind::All => {
                self.all.note(number, soft);
                // A record of another node says nothing of those that came later there.
                if soft.is_none() && number.pending > 0 {
                    // Everything older is covered by this one.
                    self.by_target.clear();
                    self.order.clear();
                    self.patterns.clear();
                    self.floors.clear();
                }
            }
            Kind::Pattern(space, pattern) if !matches!(pattern, Pattern::Exact(_)) => {
                let known = self.pattern(*space, pattern);
                let mut record = match known {
                    Some(at) => self.patterns.remove(at),
                    None => PatternRecord {
                        space: *space,
                        pattern: pattern.clone(),
                        numbers: Numbers::default(),
                        generation,
                    },
                };
                record.numbers.note(number, soft);
                record.generation = generation;
                self.patterns.push(record);
            }
            kind => {
                for target in targets(kind) {
                    self.by_target.entry(target).or_default().note(number, soft);
                    self.order.push_back((number.local, target));
                }
            }
        }
    }

    fn pattern(&self, space: Space, pattern: &Pattern) -> Option<usize> {
        let is_it = |record: &PatternRecord| record.space == space && record.pattern == *pattern;
        self.patterns.iter().position(is_it)
    }

    fn settle(&mut self, selector: &Selector, local: u64, shared: u64) {
        match &selector.kind {
            Kind::All => self.all.settle(local, shared),
            Kind::Pattern(space, pattern) if !matches!(pattern, Pattern::Exact(_)) => {
                if let Some(at) = self.pattern(*space, pattern) {
                    self.patterns[at].numbers.settle(local, shared);
                }
            }
            kind => {
                for target in targets(kind) {
                    if let Some(numbers) = self.by_target.get_mut(&target) {
                        numbers.settle(local, shared);
                    }
                }
            }
        }
    }

    fn judge(
        &self,
        sequence: Sequence,
        subject: &Subject,
        names: Names<'_>,
        since: u64,
    ) -> Verdict {
        let outruns = |number: &Number| number.outruns(sequence);
        let floors = (&self.floor, &self.floors[..]);
        self.judge_by(&outruns, floors, subject, names, since)
    }

    fn judge_by(
        &self,
        outruns: &impl Fn(&Number) -> bool,
        (floor, floors): (&Number, &[Number]),
        subject: &Subject,
        names: Names<'_>,
        since: u64,
    ) -> Verdict {
        if outruns(floor) {
            return Verdict::Unusable;
        }
        let mut verdict = self.all.judge(outruns);
        let mut look = |target: Target| {
            if floors.get(bucket(target)).is_some_and(outruns) {
                verdict = Verdict::Unusable;
            }
            if let Some(numbers) = self.by_target.get(&target) {
                verdict = verdict.and(numbers.judge(outruns));
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
                match Dependency::of(tag) {
                    None => {}
                    Some(Dependency::Value(text)) => look(Target::named(Space::Value, text)),
                    Some(Dependency::Name(name)) => look(Target::values_of(name)),
                }
            }
        }
        let patterns = self.patterns.iter().rev();
        for record in patterns.take_while(|record| record.generation > since) {
            let judged = record.numbers.judge(outruns);
            let is_of_it = || record.space == subject.space && record.pattern.fits(&subject.name);
            let is_made_of_it = || {
                let mut made_of = names.tags.iter().filter_map(|tag| Dependency::of(tag));
                record.space == Space::Value
                    && made_of.any(|dependency| dependency.is_selected(&record.pattern))
            };
            if judged != Verdict::Usable && (is_of_it() || is_made_of_it()) {
                verdict = verdict.and(judged);
            }
        }
        verdict
    }

    fn shrink_to(&mut self, records: usize, patterns: usize) {
        let surplus = self.patterns.len().saturating_sub(patterns);
        for oldest in self.patterns.drain(..surplus) {
            self.floor.and(oldest.numbers.together());
            self.forgotten += 1;
        }
        while self.by_target.len() > records {
            let Some((sequence, target)) = self.order.pop_front() else {
                return;
            };
            let is_latest = |numbers: &Numbers| numbers.latest() == sequence;
            if self.by_target.get(&target).is_some_and(is_latest) {
                let left = self.by_target.remove(&target).unwrap_or_default();
                self.floors.resize(FLOORS, Number::default());
                self.floors[bucket(target)].and(left.together());
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

/// What a selector that is neither a pattern with a `*` nor everything is found by.
fn targets(kind: &Kind) -> SmallVec<[Target; 4]> {
    match kind {
        Kind::Resource(resource) => SmallVec::from(resource.targets()),
        Kind::Tag(tag) => SmallVec::from_slice(&[Target::tag(tag.as_str())]),
        Kind::Group { authority, name } => {
            SmallVec::from_slice(&Target::groups_of(authority.as_deref(), name))
        }
        Kind::Pattern(Space::Value, Pattern::Exact(text)) => SmallVec::from_slice(&[
            Target::named(Space::Value, text),
            // For what depends on all values of the name.
            Target::values_of(name_of(text)),
        ]),
        Kind::Pattern(space, Pattern::Exact(name)) => {
            SmallVec::from_slice(&[Target::named(*space, name)])
        }
        Kind::Pattern(..) | Kind::All => SmallVec::new(),
    }
}

/// Which of the floors is that of a target.
fn bucket(target: Target) -> usize {
    // Not the bits that choose a place in a map.
    (target.0 >> 40) as usize % FLOORS
}

#[cfg(test)]
mod tests;
