//! Writes that reach the source before they are done: around the cache, and through it.

use std::sync::Arc;

use super::{Repository, SaveError, Source, Writing, source::Write};
use crate::{
    cache::Cache,
    invalidation::Sequence,
    values::{Terms, ValueKey},
};

impl<S: Source> Repository<S> {
    /// Writes a value to the source, and then has the cache forget what it had under the key, or, with
    /// [`write_through`](Self::write_through), keep this.
    ///
    /// It is an invalidation of the key: a load that is under way cannot bring back what was there, and responses
    /// that were made from it are not used any more. Where nodes share Redis, the others follow as they do for
    /// [`Cache::invalidate`].
    ///
    /// Dropped, it may or may not have written; what the cache had is forgotten all the same. A client that
    /// leaves drops its handler: spawn what must be done to its end.
    ///
    /// # Errors
    ///
    /// The error of the source, after which the cache has forgotten what it had: nobody knows whether the source
    /// has written. Or that the key or an option makes no sense; then nothing was written.
    pub async fn save(&self, key: S::Key, value: S::Value) -> Result<(), SaveError<S::Error>> {
        let value = Arc::new(Some(value));
        self.write(Write { key, value }).await
    }

    /// Removes a value from the source, and then from the cache.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    pub async fn delete(&self, key: S::Key) -> Result<(), SaveError<S::Error>> {
        let value = Arc::new(None);
        self.write(Write { key, value }).await
    }

    async fn write(&self, write: Write<S>) -> Result<(), SaveError<S::Error>> {
        let (key, terms) = (self.key(&write.key)?, self.terms()?);
        if let Writing::Behind(behind) = &self.writing {
            if behind.take(&key, &write, terms).await? {
                return Ok(());
            }
        }
        let mut saving = Saving::begin(&self.cache, &key);
        let written = write.write_to(&self.source).await;
        written.map_err(|error| SaveError::Source(Arc::new(error)))?;
        if !matches!(self.writing, Writing::Around) {
            saving.keep(&write.value, terms);
        }
        Ok(())
    }
}

/// A write under way. When it ends, in whatever way, the cache has forgotten what it had: the source may have
/// been written.
pub(super) struct Saving<'s> {
    cache: &'s Cache,
    key: &'s ValueKey,
    since: Sequence,
    is_done: bool,
}

impl<'s> Saving<'s> {
    pub(super) fn begin(cache: &'s Cache, key: &'s ValueKey) -> Self {
        Self {
            cache,
            key,
            since: cache.read_point(),
            is_done: false,
        }
    }

    /// Has the cache keep what was written.
    pub(super) fn keep<V>(&mut self, value: &Arc<Option<V>>, terms: &Terms<Option<V>>)
    where
        Option<V>: crate::values::CachedValue,
    {
        self.is_done = true;
        self.cache.keep_saved(self.key, value, terms, self.since);
    }
}

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.cache.invalidate(self.key.selector());
        }
    }
}
