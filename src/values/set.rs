//! Storing values by their keys.

use std::{
    fmt,
    future::{IntoFuture, Ready, ready},
    sync::Arc,
    time::Duration,
};

use super::{
    error::ValueError,
    key::ValueKey,
    stored::{CachedValue, FOREVER, Life, StoredValue, life, measure},
    terms::{Terms, checked_tags, checked_ttl},
};
use crate::{
    cache::Cache,
    entry::{Millis, Origin, Staleness, Watched},
    invalidation::{Names, Sequence, Verdict},
    selector::Tag,
};

/// Values that are about to be kept: made by [`Cache::set`] and [`Cache::set_many`], done when awaited.
///
/// # Errors
///
/// When a key, the ttl or a tag makes no sense, or a value cannot be serialized or is over the limit
/// ([`CacheBuilder::max_value_size`](crate::CacheBuilder::max_value_size)). Nothing is kept then. What a value
/// that cannot be kept was to replace is gone all the same.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{Cache, ValueError};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::in_memory();
/// let error = cache.set("a", 1).ttl(Duration::ZERO).await.unwrap_err();
/// assert_eq!(error, ValueError::NoTtl);
/// # });
/// ```
#[must_use = "nothing is kept until it is awaited"]
pub struct SetValue<'c, V> {
    cache: &'c Cache,
    made: Result<Vec<(ValueKey, V)>, ValueError>,
    ttl: Result<Millis, ValueError>,
    tags: Result<Box<[Box<str>]>, ValueError>,
}

impl<'c, V> SetValue<'c, V> {
    pub(super) fn new(cache: &'c Cache, made: Result<Vec<(ValueKey, V)>, ValueError>) -> Self {
        Self {
            cache,
            made,
            ttl: Ok(cache.value_settings().ttl),
            tags: Ok(Box::default()),
        }
    }

    /// For how long it is fresh. Default: an hour, or what
    /// [`CacheBuilder::value_ttl`](crate::CacheBuilder::value_ttl) said. Less than a millisecond and more
    /// than a hundred years are errors.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = checked_ttl(ttl);
        self
    }

    /// Until it is deleted, invalidated or evicted.
    pub fn forever(mut self) -> Self {
        self.ttl = Ok(FOREVER);
        self
    }

    /// Names under which it is invalidated together with other values and with responses
    /// ([`Selector::tag`](crate::Selector::tag)): up to 32 of 256 bytes. Default: none.
    pub fn tags<T: Into<Tag>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = checked_tags(tags);
        self
    }
}

impl<V> fmt::Debug for SetValue<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetValue").finish_non_exhaustive()
    }
}

impl<V: CachedValue> IntoFuture for SetValue<'_, V> {
    type Output = Result<(), ValueError>;
    type IntoFuture = Ready<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        ready(self.keep())
    }
}

impl<V: CachedValue> SetValue<'_, V> {
    fn keep(self) -> Result<(), ValueError> {
        let (made, ttl, tags) = (self.made?, self.ttl?, self.tags?);
        let mut kept = Vec::with_capacity(made.len());
        let mut result = Ok(());
        for (key, value) in made {
            let origin = self.cache.record_of(&key);
            let record = origin.sequence.local;
            let mut watched = Watched::new(origin);
            watched.record = Some(record);
            let staleness = Staleness::default();
            let life = Life {
                lifetime: life(self.cache.now(), ttl, staleness),
                staleness,
                tags: tags.clone(),
            };
            let value = self.cache.checked_value(Arc::new(value), life, watched);
            kept.push((key, value.map_err(|error| result = Err(error)).ok()));
        }
        for (key, value) in kept {
            match value.filter(|_| result.is_ok()) {
                Some(value) => self.cache.keep_value(&key, value),
                None => self.cache.forget_value(&key.key, key.name()),
            }
        }
        result
    }
}

impl Cache {
    /// Keeps what was written to where it comes from, by a write that began at `since`; what was there before is
    /// forgotten in any case.
    ///
    /// It is kept only if nothing else has selected the key since then: of two writes that overlap nobody knows
    /// which one the source has. What other nodes have selected meanwhile may be heard of later: it is kept as of
    /// `since`, so that this makes it unusable, and is not written for others before it would have been heard.
    pub(crate) fn keep_saved<V: CachedValue>(
        &self,
        key: &ValueKey,
        value: &Arc<V>,
        terms: &Terms<V>,
        since: Sequence,
    ) {
        let names = Names {
            groups: &[],
            tags: &terms.tags,
        };
        let judged_at = self.log().sequence().local;
        let is_alone = self.log().judge(since, &key.subject, names) == Verdict::Usable;
        let mut origin = self.record_of(key);
        origin.sequence.shared = since.shared;
        // What came between these two lines may have been the same key.
        let is_next = origin.sequence.local == judged_at + 1;
        let life = terms.life_of(value, self.now());
        let kept = life.filter(|_| is_alone && is_next).map(|life| {
            let mut watched = Watched::new(origin.clone());
            watched.record = Some(origin.sequence.local);
            watched.is_sole = true;
            self.checked_value(value.clone(), life, watched)
        });
        match kept {
            Some(Ok(kept)) => self.keep_value(key, kept),
            Some(Err(error)) => {
                self.not_kept(key, &error);
                self.forget_value(&key.key, key.name());
            }
            None => self.forget_value(&key.key, key.name()),
        }
    }

    /// Of a value that is set now. The record first: whatever a load under way stores, it started before it.
    fn record_of(&self, key: &ValueKey) -> Origin {
        let record = self.record(&key.selector()).sequence();
        let mut origin = self.origin_of(key);
        origin.sequence.local = record;
        origin
    }

    /// A value as it is kept, if it can be.
    pub(super) fn checked_value<V: CachedValue>(
        &self,
        value: Arc<V>,
        life: Life,
        watched: Watched,
    ) -> Result<Arc<StoredValue>, ValueError> {
        let bytes = measure(&*value)?;
        let limit = self.longest_value();
        if bytes > limit {
            return Err(ValueError::TooLarge { bytes, limit });
        }
        Ok(Arc::new(StoredValue::new(value, bytes, life, watched)))
    }
}
