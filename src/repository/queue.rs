//! What waits to be written behind: one write per key, the newest, and never two of one key under way.
//!
//! No I/O and no task in here: it is told what comes and what became of it, and says what is next.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    behind::WriteBehind,
    error::SaveError,
    source::{BatchError, Source, Write},
};
use crate::{
    invalidation::Sequence,
    values::{Terms, ValueKey},
};

/// When a write is due, and which came first.
type Place = (Instant, u64);
pub(super) type KeptTerms<S> = Arc<Terms<Option<<S as Source>::Value>>>;

/// A write that waits or is under way.
struct Slot<S: Source> {
    write: Write<S>,
    terms: KeptTerms<S>,
    /// When the cache was told of it.
    since: Sequence,
    /// None while it is under way.
    place: Option<Place>,
    /// A newer one came while it was under way.
    is_newer: bool,
    failures: u32,
    /// It was in a batch that failed as a whole.
    is_alone: bool,
    /// Somebody waits until it was tried.
    is_flushed: bool,
}

struct State<S: Source> {
    slots: HashMap<ValueKey, Slot<S>>,
    due: BTreeMap<Place, ValueKey>,
    next: u64,
    /// How many slots somebody waits for.
    flushed: usize,
    is_hurried: bool,
    has_worker: bool,
    is_over: bool,
    error: Option<SaveError<S::Error>>,
}

/// See the [module](self).
pub(super) struct Queue<S: Source> {
    state: Mutex<State<S>>,
    pub(super) settings: WriteBehind,
    /// Something came, or became of something.
    pub(super) changed: Notify,
}

/// Why a write does not wait here.
pub(super) enum Unplaced {
    /// There is no room for one more key.
    Full,
    /// Nothing is written behind any more.
    Over,
}

/// What a worker does next.
pub(super) enum Next<S: Source> {
    Write(Vec<Taken<S>>),
    Wait(Instant),
    Nothing,
}

/// A write that is under way.
pub(super) struct Taken<S: Source> {
    pub(super) key: ValueKey,
    pub(super) write: Write<S>,
    pub(super) terms: KeptTerms<S>,
    pub(super) since: Sequence,
}

impl<S: Source> Queue<S> {
    pub(super) fn new(settings: WriteBehind) -> Self {
        Self {
            state: Mutex::new(State {
                slots: HashMap::new(),
                due: BTreeMap::new(),
                next: 0,
                flushed: 0,
                is_hurried: false,
                has_worker: false,
                is_over: false,
                error: None,
            }),
            settings,
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a write, in place of an older one of its key.
    pub(super) fn put(
        &self,
        key: &ValueKey,
        write: Write<S>,
        terms: &KeptTerms<S>,
    ) -> Result<(), Unplaced> {
        let mut state = self.state();
        let state = &mut *state;
        // Under the lock: what comes after it has been counted what is left would be lost without a word.
        if state.is_over {
            return Err(Unplaced::Over);
        }
        if let Some(slot) = state.slots.get_mut(key) {
            slot.write = write;
            slot.terms = terms.clone();
            slot.is_newer = slot.place.is_none();
            return Ok(());
        }
        if state.slots.len() >= self.settings.capacity {
            return Err(Unplaced::Full);
        }
        let delay = match state.is_hurried {
            true => Duration::ZERO,
            false => self.settings.delay,
        };
        let place = state.place(Instant::now() + delay);
        state.due.insert(place, key.clone());
        let slot = Slot {
            write,
            terms: terms.clone(),
            since: Sequence::default(),
            place: Some(place),
            is_newer: false,
            failures: 0,
            is_alone: false,
            is_flushed: false,
        };
        state.slots.insert(key.clone(), slot);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The cache was told of what waits under a key.
    pub(super) fn told(&self, key: &ValueKey, since: Sequence) {
        if let Some(slot) = self.state().slots.get_mut(key) {
            slot.since = since;
        }
    }

    /// What the source will have under a key.
    pub(super) fn newest(&self, key: &ValueKey) -> Option<Arc<Option<S::Value>>> {
        let state = self.state();
        state.slots.get(key).map(|slot| slot.write.value.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.state().slots.len()
    }

    /// What has not been written.
    pub(super) fn unwritten(&self) -> Vec<Write<S>> {
        let state = self.state();
        state
            .slots
            .values()
            .map(|slot| slot.write.clone())
            .collect()
    }

    pub(super) fn error(&self) -> Option<SaveError<S::Error>> {
        self.state().error.clone()
    }

    /// Whether a worker has to be started, which is then counted as running.
    pub(super) fn needs_worker(&self) -> bool {
        let mut state = self.state();
        let needs = !state.has_worker && !state.slots.is_empty() && !state.is_over;
        state.has_worker |= needs;
        needs
    }

    pub(super) fn worker_is_gone(&self) {
        self.state().has_worker = false;
        self.changed.notify_waiters();
    }

    /// From now on nothing waits for its delay.
    pub(super) fn hurry(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.is_hurried = true;
        let now = Instant::now();
        for (key, slot) in &mut state.slots {
            // Not before those that have failed: these keep their pauses.
            let is_early = |place: &Place| place.0 > now && slot.failures == 0;
            if let Some(place) = slot.place.filter(is_early) {
                state.due.remove(&place);
                slot.place = Some((now, place.1));
                state.due.insert((now, place.1), key.clone());
            }
        }
        self.changed.notify_waiters();
    }

    /// Nothing is written any more; how much is left.
    pub(super) fn end(&self) -> usize {
        let mut state = self.state();
        state.is_over = true;
        self.changed.notify_waiters();
        state.slots.len()
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// Makes all that waits due now, pauses after failures included.
    pub(super) fn flush(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let now = Instant::now();
        state.error = None;
        for (key, slot) in &mut state.slots {
            state.flushed += usize::from(!slot.is_flushed);
            slot.is_flushed = true;
            if let Some(place) = slot.place.filter(|place| place.0 > now) {
                state.due.remove(&place);
                let sooner = (now, place.1);
                slot.place = Some(sooner);
                state.due.insert(sooner, key.clone());
            }
        }
        self.changed.notify_waiters();
    }

    /// Whether all that was to be flushed has been tried.
    pub(super) fn is_flushed(&self) -> bool {
        self.state().flushed == 0
    }

    /// What is to be written next; it is under way from now on.
    pub(super) fn next(&self) -> Next<S> {
        let mut state = self.state();
        let state = &mut *state;
        if state.is_over || state.slots.is_empty() {
            // Under the lock: who puts something in after this starts another worker.
            state.has_worker = false;
            return Next::Nothing;
        }
        let now = Instant::now();
        // Others wait for the room.
        let is_full = state.slots.len() >= self.settings.capacity;
        let Some((first, key)) = state.due.first_key_value() else {
            return Next::Wait(now + self.settings.delay);
        };
        let is_first_try = |slot: &Slot<S>| slot.failures == 0;
        let slots = &state.slots;
        let may_go = |key: &ValueKey| is_full && slots.get(key).is_some_and(is_first_try);
        if first.0 > now && !may_go(key) {
            return Next::Wait(first.0);
        }
        let mut taken = Vec::new();
        for (place, key) in &state.due {
            let Some(slot) = slots.get(key) else { continue };
            // Those whose time has not come fill the batch, but for pauses after failures.
            if taken.len() == self.settings.batch {
                break;
            }
            if place.0 > now && slot.failures > 0 {
                continue;
            }
            if slot.is_alone {
                if taken.is_empty() {
                    taken.push((*place, key.clone()));
                    break;
                }
                continue;
            }
            taken.push((*place, key.clone()));
        }
        let mut writes = Vec::with_capacity(taken.len());
        for (place, key) in taken {
            state.due.remove(&place);
            if let Some(slot) = state.slots.get_mut(&key) {
                slot.place = None;
                slot.is_newer = false;
                writes.push(Taken {
                    write: slot.write.clone(),
                    terms: slot.terms.clone(),
                    since: slot.since,
                    key,
                });
            }
        }
        Next::Write(writes)
    }

    /// A write was done; says whether it was the newest of its key.
    pub(super) fn written(&self, key: &ValueKey) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let Some(slot) = state.slots.get_mut(key) else {
            return false;
        };
        if slot.is_newer {
            slot.failures = 0;
            slot.is_alone = false;
            let due = Instant::now();
            state.again(key, due);
            return false;
        }
        if slot.is_flushed {
            state.flushed -= 1;
        }
        state.slots.remove(key);
        self.changed.notify_waiters();
        true
    }

    /// A write failed: it is tried again after a pause, or the newer one is that has come.
    pub(super) fn failed(&self, key: &ValueKey, error: SaveError<S::Error>, is_alone: bool) {
        let mut state = self.state();
        let state = &mut *state;
        state.error = Some(error);
        let Some(slot) = state.slots.get_mut(key) else {
            return;
        };
        slot.failures = slot.failures.saturating_add(1);
        slot.is_alone |= is_alone;
        let pause = self.settings.pause(slot.failures);
        let due = Instant::now() + pause;
        if slot.is_flushed {
            slot.is_flushed = false;
            state.flushed -= 1;
        }
        state.again(key, due);
        self.changed.notify_waiters();
    }

    /// Nobody knows what became of it: whoever was writing it is gone.
    pub(super) fn given_up(&self, key: &ValueKey) {
        self.state().again(key, Instant::now());
    }
}

impl<S: Source> State<S> {
    fn place(&mut self, due: Instant) -> Place {
        self.next += 1;
        (due, self.next)
    }

    fn again(&mut self, key: &ValueKey, due: Instant) {
        let place = self.place(due);
        if let Some(slot) = self.slots.get_mut(key) {
            slot.place = Some(place);
            self.due.insert(place, key.clone());
        }
    }
}

impl WriteBehind {
    /// After so many failures.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
        self.first_pause
            .saturating_mul(doubled)
            .min(self.longest_pause)
    }
}

/// Why a write failed, and whether all of its batch did.
pub(super) type Failed<E> = (SaveError<E>, bool);

/// What became of a batch, write by write; nothing is known where the source panicked.
pub(super) fn outcomes<E>(
    count: usize,
    result: Option<Result<(), BatchError<E>>>,
) -> Vec<Option<Failed<E>>> {
    match result {
        Some(Ok(())) => vec![None; count],
        Some(Err(BatchError::All(error))) => {
            vec![Some((SaveError::Source(Arc::new(error)), true)); count]
        }
        Some(Err(BatchError::Some(failed))) => {
            let mut outcomes = vec![None; count];
            for (at, error) in failed {
                if let Some(outcome) = outcomes.get_mut(at) {
                    *outcome = Some((SaveError::Source(Arc::new(error)), false));
                }
            }
            outcomes
        }
        None => vec![Some((SaveError::Panicked, true)); count],
    }
}
