//! Taking out of the store what was invalidated, where that is wanted: nobody can use it any more, and it would
//! stay to the end of its life.
//!
//! A task waits for records that make something unusable, walks through all entries with some pauses, and judges
//! each by its start. It is in no hurry, and whatever goes wrong ends the walk; the next begins anew.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{runtime::Handle, time::Instant};

use super::{Inner, Remote, unpanicked};
use crate::{
    error::StoreError,
    invalidation::Verdict,
    random,
    store::{
        codec::{LONGEST_OUTLINE, Outline},
        coherence::Coherence,
        walk::{Place, Taken, Turn, Walk},
    },
    target::Keyed,
    timer::{self, pause, unless, within},
};

/// Before a walk, so that it is one for many records; a part of it by chance, so that one node is first.
const TOGETHER: Duration = Duration::from_secs(1);
/// For a part of a walk.
const PART_WITHIN: Duration = Duration::from_secs(2);
/// How long a turn lasts that is not kept.
const TURN: Duration = Duration::from_secs(10);
/// So many times as long as a part has taken is the pause after it.
const PAUSES: u32 = 9;
const LEAST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// After a walk, as long as it has taken, but not longer than this.
const MAX_REST: Duration = Duration::from_secs(300);
/// How much of an entry is read first: enough for nearly all.
const START: usize = 1 << 10;
/// So many of which more is to be read are read together.
const LONG_TOGETHER: usize = 8;
/// What is sealed is opened as a whole or not at all; longer ones stay to the end of their life.
const MAX_SEALED: usize = 64 << 10;

/// What a cache that purges has besides.
pub(super) struct Purger {
    walk: Arc<dyn Walk>,
    is_running: AtomicBool,
}

impl Purger {
    pub(super) fn new(walk: Arc<dyn Walk>) -> Self {
        Self {
            walk,
            is_running: AtomicBool::new(false),
        }
    }
}

/// The task; when it ends with its runtime, another may begin.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(purger) = &self.0.purger {
            purger.is_running.store(false, Ordering::Release);
        }
    }
}

/// Why a walk has no end.
enum Unfinished {
    /// Another node has taken the turn, before it or in it.
    Elsewhere,
    /// The store is in trouble, and is not to have more.
    InTrouble,
    Failed(StoreError),
}

impl From<StoreError> for Unfinished {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Remote {
    /// Lets somebody purge, if that is wanted, nobody does and there is a runtime.
    pub(crate) fn start_purger(&self) {
        let inner = &self.inner;
        let (Some(purger), Some(coherence)) = (&inner.purger, &inner.coherence) else {
            return;
        };
        if purger.is_running.load(Ordering::Acquire) || inner.is_closed.load(Ordering::Acquire) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        // Without pauses it does nothing.
        if !timer::is_there() || purger.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (running, coherence) = (Running(inner.clone()), coherence.clone());
        runtime.spawn(async move {
            unless(coherence.ended(), running.0.purge(&coherence)).await;
        });
    }
}

impl Inner {
    /// Walks whenever something was made unusable.
    async fn purge(&self, coherence: &Coherence) {
        let Some(Purger { walk, .. }) = &self.purger else {
            return;
        };
        let mut walked = 0;
        loop {
            coherence.hard_after(walked).await;
            pause(TOGETHER.mul_f64(1.0 + random::fraction())).await;
            let number = coherence.hard_after(walked).await;
            let began = Instant::now();
            match self.walk(&**walk, number).await {
                Ok(()) => {
                    walked = number;
                    pause(began.elapsed().min(MAX_REST)).await;
                }
                Err(Unfinished::Elsewhere | Unfinished::InTrouble) => {}
                // Told by `health`: it may be a right that is missing.
                Err(Unfinished::Failed(error)) => self.note(&error),
            }
        }
    }

    /// One walk for all records up to a number.
    async fn walk(&self, walk: &dyn Walk, number: u64) -> Result<(), Unfinished> {
        let turn = Turn {
            version: self.version.as_deref(),
            token: random::number(),
            number,
        };
        let mut from = Some(Place::default());
        let mut has_begun = false;
        while let Some(place) = from {
            let began = Instant::now();
            let panicked = |why| StoreError::new(why).into();
            let part = pin!(unpanicked(self.part(walk, &turn, &place), panicked));
            let part = match within(PART_WITHIN, part).await {
                Some(part) => part,
                None => Err(StoreError::timeout("a part of a walk took 2 s").into()),
            };
            match part {
                Ok(Some(next)) => from = next,
                // Somebody else has walked.
                Ok(None) => return Ok(()),
                Err(why) => {
                    if has_begun || matches!(why, Unfinished::Failed(_)) {
                        self.counters.purges_broken_off.raise();
                    }
                    return Err(why);
                }
            }
            has_begun = true;
            let rest = began.elapsed().saturating_mul(PAUSES);
            pause(rest.clamp(LEAST_PAUSE, MAX_PAUSE)).await;
        }
        self.counters.purges.raise();
        walk.walked(&turn).await?;
        Ok(())
    }

    /// A part of a walk, and where it goes on after that; `None` where nobody has to walk.
    async fn part(
        &self,
        walk: &dyn Walk,
        turn: &Turn<'_>,
        from: &Place,
    ) -> Result<Option<Option<Place>>, Unfinished> {
        if !(self.is_up() && self.reads.would_permit() && self.writes.would_permit()) {
            return Err(Unfinished::InTrouble);
        }
        match walk.turn(turn, TURN).await? {
            Taken::Held => {}
            Taken::Elsewhere => return Err(Unfinished::Elsewhere),
            Taken::Walked => return Ok(None),
        }
        let found = walk.names(turn.version, from).await?;
        let unusable = self.unusable(walk, &found.names).await?;
        if !unusable.is_empty() {
            let taken = walk.take_out(&unusable).await?;
            self.counters.purged.add(taken);
        }
        Ok(Some(found.next))
    }

    /// Those of these that nobody can use any more, each with the bytes by which that was judged.
    async fn unusable(
        &self,
        walk: &dyn Walk,
        names: &[Bytes],
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let (limit, together) = match &self.seal {
            Some(_) => (MAX_SEALED + 1, LONG_TOGETHER),
            None => (START, names.len().max(1)),
        };
        let (mut unusable, mut long) = (Vec::new(), Vec::new());
        for names in names.chunks(together) {
            for (name, start) in names.iter().zip(walk.starts(names, limit).await?) {
                match self.outline(&start) {
                    Some((outline, length)) if self.is_over(walk, name, &outline) => {
                        unusable.push((name.clone(), start.slice(..length)));
                    }
                    Some(_) => {}
                    // Whatever it is, more of it may say.
                    None if self.seal.is_none() && start.len() == START => long.push(name.clone()),
                    None => {}
                }
            }
        }
        for names in long.chunks(LONG_TOGETHER) {
            for (name, start) in names.iter().zip(walk.starts(names, LONGEST_OUTLINE).await?) {
                if let Some((outline, length)) = self.outline(&start) {
                    if self.is_over(walk, name, &outline) {
                        unusable.push((name.clone(), start.slice(..length)));
                    }
                }
            }
        }
        Ok(unusable)
    }

    /// What the start of an entry says, and how much of it has said so.
    fn outline(&self, start: &Bytes) -> Option<(Outline, usize)> {
        match &self.seal {
            None => {
                let outline = Outline::of(start).ok()?;
                let length = outline.length;
                Some((outline, length))
            }
            Some(_) if start.len() > MAX_SEALED => None,
            Some(seal) => {
                let frame = seal.open(start.clone()).ok()?;
                Some((Outline::of(&frame).ok()?, start.len()))
            }
        }
    }

    /// Whether nobody can use an entry any more: judged as when it is read, and by what all nodes know. Its writer
    /// may still, where it began after a record that it had not told yet; then it has it in memory.
    fn is_over(&self, walk: &dyn Walk, name: &Bytes, outline: &Outline) -> bool {
        let Some(keyed) = Keyed::of(&outline.key) else {
            return false;
        };
        // That of another cache whose names begin like ours: its log is another one.
        if walk.name_of(&self.place(keyed.path, &outline.key)) != *name {
            return false;
        }
        let sequence = self.sequence_of(outline.writer, outline.sequence);
        let names = outline.names();
        keyed.subjects.iter().all(|subject| {
            self.log.judge(sequence, subject, names) == Verdict::Unusable
                && self.log.is_over_for_all(sequence.shared, subject, names)
        })
    }
}
