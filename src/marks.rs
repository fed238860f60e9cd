//! What is remembered about keys that are *not* stored: short, bounded, and only ever a hint.
//!
//! Wherever a mark is wrong or lost, requests are answered all the same, only with more or
//! fewer calls of the inner service. That is why hashes serve as keys.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{entry::Millis, invalidation::PrehashedBuilder};

/// So many are kept; when there are more, all are forgotten.
const MAX_MARKS: usize = 8192;

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Its responses are not storable: nobody should wait for one.
    Uncacheable,
    /// Its fills failed in a row.
    Failing,
    /// It could not be refreshed just now: what is stored is served without another try.
    NotRefreshed,
    /// Its fills take longer than one waits, and something stale may stand in: nobody waits again.
    Slow,
    /// Its responses are explicitly shareable: requests with cookies may wait for one.
    Shareable,
    /// A layer further in answers.
    InnerLayer,
}

impl Mark {
    /// How long it is remembered, in milliseconds.
    const fn life(self) -> Millis {
        match self {
            Self::Failing | Self::NotRefreshed => 1_000,
            Self::Uncacheable | Self::Shareable => 60_000,
            // Longer than the longest pause and a call after it, which sets it anew.
            Self::Slow => 120_000,
            Self::InnerLayer => 600_000,
        }
    }
}

/// The longest pause between two tries to refresh, in milliseconds.
const LONGEST_PAUSE: Millis = 60_000;

/// How long nobody tries again after so many failures in a row: 1 s, 2 s, 4 s, and so on.
fn pause_after(failures: u8) -> Millis {
    let doubled = u32::from(failures.saturating_sub(1)).min(16);
    (Mark::NotRefreshed.life() << doubled).min(LONGEST_PAUSE)
}

/// Whether the responses of a key may be stored, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storability {
    Unknown,
    /// None of them, as the head of the latest told; `is_due`: half of the time has gone for which that
    /// is remembered.
    NoneByHead {
        is_due: bool,
    },
    /// Not all that is known came from a head, or a layer further in answers.
    Otherwise,
}

/// What is remembered, and until when.
#[derive(Debug, Clone, Copy)]
struct Known {
    until: Millis,
    /// How often a refresh failed in a row; for [`Mark::NotRefreshed`].
    failures: u8,
    /// The head of a response told it; for [`Mark::Uncacheable`].
    by_head: bool,
}

/// The marks of one cache.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<HashMap<u64, Known, PrehashedBuilder>>);

/// One table for all marks: each kind moves the hash to a place of its own.
fn place(mark: Mark, key: u64) -> u64 {
    key ^ (mark as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Marks {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Known, PrehashedBuilder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, mark: Mark, key: u64, now: Millis) {
        self.set_by(mark, key, false, now);
    }

    /// The responses of a key are not storable; whether their heads tell.
    pub(crate) fn set_uncacheable(&self, key: u64, by_head: bool, now: Millis) {
        self.set_by(Mark::Uncacheable, key, by_head, now);
    }

    fn set_by(&self, mark: Mark, key: u64, by_head: bool, now: Millis) {
        let known = Known {
            until: now + mark.life(),
            failures: 0,
            by_head,
        };
        insert(&mut self.table(), place(mark, key), known);
    }

    /// A response to this key may be stored after all.
    pub(crate) fn lift_uncacheable(&self, key: u64) {
        self.table().remove(&place(Mark::Uncacheable, key));
    }

    /// What is known of storing the responses of a key, and who answers on its route.
    pub(crate) fn storability(&self, key: u64, route: u64, now: Millis) -> Storability {
        let marks = self.table();
        let holds = |mark, key| {
            let known = marks.get(&place(mark, key));
            known.filter(|known| now < known.until)
        };
        if holds(Mark::InnerLayer, route).is_some() {
            return Storability::Otherwise;
        }
        match holds(Mark::Uncacheable, key) {
            None => Storability::Unknown,
            Some(known) if known.by_head => Storability::NoneByHead {
                is_due: known.until < now + Mark::Uncacheable.life() / 2,
            },
            Some(_) => Storability::Otherwise,
        }
    }

    /// Until when it is remembered. Most is not, and then nobody needs to know what time it is.
    pub(crate) fn until(&self, mark: Mark, key: u64) -> Option<Millis> {
        let marks = self.table();
        marks.get(&place(mark, key)).map(|known| known.until)
    }

    /// A refresh begins: should it fail, nobody tries again for a while, which grows with each
    /// failure until something is [`stored`](Self::stored).
    pub(crate) fn refresh_begins(&self, key: u64, now: Millis) {
        let place = place(Mark::NotRefreshed, key);
        let mut marks = self.table();
        let before = marks.get(&place).map_or(0, |known| known.failures);
        let failures = before.saturating_add(1);
        let until = now + pause_after(failures);
        let known = Known {
            until,
            failures,
            by_head: false,
        };
        insert(&mut marks, place, known);
    }

    /// A refresh has failed: the pause counts from now.
    pub(crate) fn refresh_failed(&self, key: u64, now: Millis) {
        if let Some(known) = self.table().get_mut(&place(Mark::NotRefreshed, key)) {
            known.until = now + pause_after(known.failures);
        }
    }

    /// A response was stored. Where that is stale from the start, it is refreshed once a second at
    /// the most.
    pub(crate) fn stored(&self, key: u64, is_fresh: bool, now: Millis) {
        let refreshed = place(Mark::NotRefreshed, key);
        let mut marks = self.table();
        marks.remove(&place(Mark::Slow, key));
        if is_fresh {
            marks.remove(&refreshed);
            marks.remove(&place(Mark::Uncacheable, key));
        } else if let Some(known) = marks.get_mut(&refreshed) {
            known.until = now + Mark::NotRefreshed.life();
            known.failures = 0;
        }
    }
}

/// A new mark takes the room of all others where there is none left.
fn insert(marks: &mut HashMap<u64, Known, PrehashedBuilder>, place: u64, known: Known) {
    if marks.len() >= MAX_MARKS && !marks.contains_key(&place) {
        marks.clear();
    }
    marks.insert(place, known);
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Marks {
        fn is_set(&self, mark: Mark, key: u64, now: Millis) -> bool {
            self.until(mark, key).is_some_and(|until| now < until)
        }
    }

    #[test]
    fn a_mark_is_told_from_others_and_ends() {
        let marks = Marks::default();
        marks.set(Mark::Failing, 7, 100);
        assert!(marks.is_set(Mark::Failing, 7, 1_099));
        assert!(!marks.is_set(Mark::Failing, 7, 1_100));
        assert!(!marks.is_set(Mark::Uncacheable, 7, 100));
        assert!(!marks.is_set(Mark::Failing, 8, 100));
    }

    #[test]
    fn what_a_head_told_is_due_after_half_of_its_time() {
        let marks = Marks::default();
        let of = |now| marks.storability(7, 8, now);
        assert_eq!(of(0), Storability::Unknown);
        marks.set_uncacheable(7, true, 0);
        let rows = [
            (0, Storability::NoneByHead { is_due: false }),
            (30_000, Storability::NoneByHead { is_due: false }),
            (30_001, Storability::NoneByHead { is_due: true }),
            (59_999, Storability::NoneByHead { is_due: true }),
            (60_000, Storability::Unknown),
        ];
        for (now, expected) in rows {
            assert_eq!(of(now), expected, "{now}");
        }
        marks.lift_uncacheable(7);
        assert_eq!(of(0), Storability::Unknown);
        marks.set_uncacheable(7, false, 0);
        assert_eq!(of(0), Storability::Otherwise, "by its body");
        marks.set_uncacheable(7, true, 0);
        marks.set(Mark::InnerLayer, 8, 0);
        assert_eq!(of(0), Storability::Otherwise, "further in");
    }

    #[test]
    fn what_is_stored_fresh_is_not_uncacheable() {
        let marks = Marks::default();
        marks.set(Mark::Uncacheable, 7, 0);
        marks.stored(7, false, 0);
        assert!(marks.is_set(Mark::Uncacheable, 7, 0));
        marks.stored(7, true, 0);
        assert!(!marks.is_set(Mark::Uncacheable, 7, 0));
    }

    #[test]
    fn each_failed_refresh_doubles_the_pause_up_to_a_minute() {
        let marks = Marks::default();
        let is_set = |now| marks.is_set(Mark::NotRefreshed, 7, now);
        let mut now = 0;
        for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            marks.refresh_begins(7, now);
            assert!(is_set(now + pause - 1) && !is_set(now + pause), "{pause}");
            // However long it takes, the pause is after it.
            now += 500_000;
            marks.refresh_failed(7, now);
            assert!(is_set(now + pause - 1) && !is_set(now + pause), "{pause}");
            now += pause;
        }
        for _ in 0..300 {
            marks.refresh_begins(7, now);
        }
        assert!(is_set(now + 59_999) && !is_set(now + 60_000));
        marks.stored(7, true, now);
        assert!(!is_set(now));
        marks.refresh_begins(7, now);
        assert!(is_set(now + 999) && !is_set(now + 1_000), "from the start");
    }

    #[test]
    fn what_is_stale_from_the_start_has_not_failed() {
        let marks = Marks::default();
        for now in [0, 1_000, 2_000] {
            marks.refresh_begins(7, now);
            marks.stored(7, false, now);
            assert!(marks.is_set(Mark::NotRefreshed, 7, now + 999));
            assert!(!marks.is_set(Mark::NotRefreshed, 7, now + 1_000));
        }
        marks.stored(8, false, 0);
        assert!(!marks.is_set(Mark::NotRefreshed, 8, 0), "nobody refreshed");
    }

    #[test]
    fn marks_are_bounded() {
        let marks = Marks::default();
        for key in 0..3 * MAX_MARKS as u64 {
            marks.set(Mark::Uncacheable, key, 0);
            marks.refresh_begins(key, 0);
        }
        assert!(marks.0.lock().unwrap().len() <= MAX_MARKS);
    }
}
