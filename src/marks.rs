//! What is remembered about keys that are *not* stored: short, bounded, and only ever a hint.
//!
//! Wherever a mark is wrong or lost, requests are answered all the same, only with more or
//! fewer calls of the inner service. That is why hashes serve as keys.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
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
    /// It could not be refreshed just now: what is stale is served without another try.
    NotRefreshed,
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
            Self::InnerLayer => 600_000,
        }
    }
}

/// The marks of one cache.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<HashMap<u64, Millis, PrehashedBuilder>>);

/// One table for all marks: each kind moves the hash to a place of its own.
fn place(mark: Mark, key: u64) -> u64 {
    key ^ (mark as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Marks {
    pub(crate) fn set(&self, mark: Mark, key: u64, now: Millis) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() >= MAX_MARKS {
            marks.clear();
        }
        marks.insert(place(mark, key), now + mark.life());
    }

    /// Until when it is remembered. Most is not, and then nobody needs to know what time it is.
    pub(crate) fn until(&self, mark: Mark, key: u64) -> Option<Millis> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.get(&place(mark, key)).copied()
    }

    pub(crate) fn lift(&self, mark: Mark, key: u64) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.remove(&place(mark, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_told_from_others_and_ends() {
        let marks = Marks::default();
        marks.set(Mark::Failing, 7, 100);
        assert_eq!(marks.until(Mark::Failing, 7), Some(1_100));
        assert_eq!(marks.until(Mark::Uncacheable, 7), None);
        assert_eq!(marks.until(Mark::Failing, 8), None);
        marks.lift(Mark::Failing, 7);
        assert_eq!(marks.until(Mark::Failing, 7), None);
    }

    #[test]
    fn marks_are_bounded() {
        let marks = Marks::default();
        for key in 0..3 * MAX_MARKS as u64 {
            marks.set(Mark::Uncacheable, key, 0);
        }
        assert!(marks.0.lock().unwrap().len() <= MAX_MARKS);
    }
}
