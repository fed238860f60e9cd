//! For how long a value is kept, how it can be selected, and what may stand in for it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    error::ValueError,
    stored::{CachedValue, FOREVER, Life, Outcome, life, outcome_of},
};
use crate::{
    entry::{Millis, Staleness, millis},
    selector::Tag,
};

/// As for responses: so many tags, and none of more bytes.
const MOST_TAGS: usize = 32;

/// A time to live, or the function that says it of a value.
pub(crate) enum Ttl<V> {
    Fixed(Millis),
    By(Arc<dyn Fn(&V) -> Duration + Send + Sync>),
}

impl<V> Clone for Ttl<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Fixed(ttl) => Self::Fixed(*ttl),
            Self::By(ttl) => Self::By(ttl.clone()),
        }
    }
}

/// A time to live that makes sense.
///
/// # Errors
///
/// One that is shorter than a millisecond, or longer than a hundred years.
pub(crate) fn checked_ttl(ttl: Duration) -> Result<Millis, ValueError> {
    if ttl < Duration::from_millis(1) {
        return Err(ValueError::NoTtl);
    }
    match millis(ttl) {
        ttl if ttl < FOREVER => Ok(ttl),
        _ => Err(ValueError::LongTtl(ttl)),
    }
}

/// A window that may be nothing, and ends where the ttl must.
pub(crate) fn window(window: Duration) -> Millis {
    millis(window).min(FOREVER)
}

/// Tags that are kept.
pub(crate) fn checked_tags<T: Into<Tag>>(
    tags: impl IntoIterator<Item = T>,
) -> Result<Box<[Box<str>]>, ValueError> {
    let mut checked: Vec<Box<str>> = Vec::new();
    for tag in tags {
        let tag = tag.into();
        let text = tag.as_str();
        tag.check().map_err(ValueError::BadTag)?;
        if !checked.iter().any(|known| **known == *text) {
            checked.push(text.into());
        }
    }
    match checked.len() {
        count if count > MOST_TAGS => Err(ValueError::TooManyTags(count)),
        _ => Ok(checked.into()),
    }
}

/// What is known of a value before it is loaded.
pub(crate) struct Terms<V> {
    pub(crate) ttl: Ttl<V>,
    /// For how long `None` is kept; not at all where nobody asked for it.
    pub(crate) absent: Option<Millis>,
    pub(crate) tags: Box<[Box<str>]>,
    pub(crate) staleness: Staleness,
    /// How eagerly it is refreshed before its end; 0: not at all.
    pub(crate) eagerness: f64,
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Option<Duration>,
}

impl<V> Terms<V> {
    pub(crate) fn of_ttl(ttl: Ttl<V>) -> Self {
        Self {
            ttl,
            absent: None,
            tags: Box::default(),
            staleness: Staleness::default(),
            eagerness: 0.0,
            soft: None,
            hard: None,
        }
    }
}

impl<V: CachedValue> Terms<V> {
    /// For how long a value is kept from now on; `None` if it is not.
    pub(crate) fn life_of(&self, value: &V, now: Millis) -> Option<Life> {
        let ttl = match (outcome_of(value), &self.ttl) {
            (Outcome::Failed, _) => None,
            (Outcome::Absent, _) => self.absent,
            (Outcome::Some, Ttl::Fixed(ttl)) => Some(*ttl),
            (Outcome::Some, Ttl::By(ttl)) => Some(millis(ttl(value)).min(FOREVER)),
        };
        let ttl = ttl.filter(|ttl| *ttl > 0)?;
        Some(Life {
            lifetime: life(now, ttl, self.staleness),
            staleness: self.staleness,
            tags: self.tags.clone(),
        })
    }
}

impl<V> Clone for Terms<V> {
    fn clone(&self) -> Self {
        Self {
            ttl: self.ttl.clone(),
            tags: self.tags.clone(),
            ..*self
        }
    }
}

impl<V> fmt::Debug for Terms<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("tags", &self.tags)
            .field("staleness", &self.staleness)
            .finish_non_exhaustive()
    }
}
