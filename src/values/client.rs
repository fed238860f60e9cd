//! Reading and removing values by their keys.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
};

use super::{
    error::ValueError,
    key::{IntoValueKey, ValueKey},
    set::SetValue,
    stored::{CachedValue, Hit, StoredValue},
};
use crate::{
    cache::{Cache, Standing},
    invalidated::Invalidated,
    scope::{Made, Reading},
    selector::Selector,
};

/// # Values
///
/// What a program computes and loads besides its responses: kept in the same memory, under the same bound,
/// invalidated by the same selectors. [`ValueKey`] says how keys are made.
impl Cache {
    /// The value under a key, if it is there, fresh, and of this type.
    ///
    /// A hit in memory is a look-up and a reference count: nothing is parsed or copied. A value of another
    /// type is a miss.
    ///
    /// # Errors
    ///
    /// When there is no such key. A remote store that does not answer is a miss.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set(("user", 42), "Ada".to_owned()).await?;
    /// assert_eq!(cache.get::<String>("user:42").await?.as_deref().map(String::as_str), Some("Ada"));
    /// assert_eq!(cache.get::<u64>("user:42").await?, None);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub async fn get<V: CachedValue>(
        &self,
        key: impl IntoValueKey,
    ) -> Result<Option<Arc<V>>, ValueError> {
        let made;
        let key = match key.prepared() {
            Some(key) => key,
            None => {
                made = key.into_value_key()?;
                &made
            }
        };
        Ok(self.value::<V>(key).await)
    }

    /// Keeps a value under a key, for an hour unless the returned builder says otherwise.
    ///
    /// It counts as an invalidation of the key: a load that is under way cannot undo it. Change the data
    /// first, and call this second.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set("rate:eur", 1.09).await?;
    /// cache.set("rate:usd", 1.0).ttl(Duration::from_secs(5)).tags(["rates"]).await?;
    /// cache.set("motto", "onwards".to_owned()).forever().await?;
    ///
    /// cache.invalidate(Selector::tag("rates"));
    /// assert!(!cache.exists("rate:usd").await?);
    /// assert!(cache.exists("rate:eur").await?);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub fn set<V: CachedValue>(&self, key: impl IntoValueKey, value: V) -> SetValue<'_, V> {
        let made = key.into_value_key().map(|key| vec![(key, value)]);
        SetValue::new(self, made)
    }

    /// Keeps several values, all with the options of the returned builder.
    ///
    /// Nothing is kept if one of the keys makes no sense.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set_many([(("user", 1), "Ada".to_owned()), (("user", 2), "Grace".to_owned())]).tags(["users"]).await?;
    /// let users = cache.get_many::<String>([("user", 1), ("user", 2), ("user", 3)]).await?;
    /// assert_eq!(users.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub fn set_many<K: IntoValueKey, V: CachedValue>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> SetValue<'_, V> {
        let values = values.into_iter();
        let made = values.map(|(key, value)| Ok((key.into_value_key()?, value)));
        SetValue::new(self, made.collect())
    }

    /// Removes the value under a key, here and in the remote store.
    ///
    /// It is an invalidation: a load that is under way cannot bring the old value back. Change the data
    /// first, and call this second. What is returned says how far it has come, as that of
    /// [`invalidate`](Self::invalidate) does.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set("user:42", 1).await?;
    /// let done = cache.delete(("user", 42)).await?;
    /// assert!(!done.is_pending(), "there are no other nodes");
    /// assert_eq!(cache.get::<i32>("user:42").await?, None);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub async fn delete(&self, key: impl IntoValueKey) -> Result<Invalidated, ValueError> {
        let key = key.into_value_key()?;
        Ok(self.invalidate(key.selector()))
    }

    /// Removes the values under several keys; none, if one of the keys makes no sense.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set_many([("a", 1), ("b", 2), ("c", 3)]).await?;
    /// cache.delete_many(["a", "b"]).await?;
    /// assert_eq!(cache.get::<i32>("a").await?, None);
    /// assert_eq!(cache.get::<i32>("c").await?.as_deref(), Some(&3));
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub async fn delete_many<K: IntoValueKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Invalidated, ValueError> {
        let keys = prepared(keys)?;
        Ok(self.invalidate_all(keys.iter().map(ValueKey::selector)))
    }

    /// Removes all values whose keys fit, with `*` for any run of characters.
    ///
    /// The same as [`invalidate`](Self::invalidate) with [`Selector::values`]: it costs a record in the log,
    /// whatever is stored, and no response is selected.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set_many([("user:1", 1), ("user:2", 2), ("users_all", 3)]).await?;
    /// cache.delete_pattern("user:*").await;
    /// assert_eq!(cache.get_many::<i32>(["user:1", "user:2"]).await?, [None, None]);
    /// assert!(cache.exists("users_all").await?);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub async fn delete_pattern(&self, pattern: &str) -> Invalidated {
        self.invalidate(Selector::values(pattern))
    }

    /// Whether there is a value under a key, of whatever type.
    ///
    /// It may be gone when it is asked for.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set("none", None::<u32>).await?;
    /// assert!(cache.exists("none").await?);
    /// assert!(!cache.exists("nothing").await?);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub async fn exists(&self, key: impl IntoValueKey) -> Result<bool, ValueError> {
        let key = key.into_value_key()?;
        if !self.is_enabled() {
            return Ok(false);
        }
        let reading = Reading::begin(self);
        let made = match self.fresh_value(&key) {
            Some(stored) => Made::Stored(stored),
            None if self.may_fetch_value() => self.value_elsewhere(&key).await,
            None => Made::Nothing,
        };
        if let Some(reading) = reading {
            reading.end(self, &key, &made);
        }
        Ok(!matches!(made, Made::Nothing))
    }

    /// The values under several keys, in their order; what memory does not have is asked for at the same time.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// cache.set("b", 2).await?;
    /// let values = cache.get_many::<i32>(["a", "b"]).await?;
    /// assert_eq!(values, [None, Some(2.into())]);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_many<V: CachedValue>(
        &self,
        keys: impl IntoIterator<Item = impl IntoValueKey>,
    ) -> Result<Vec<Option<Arc<V>>>, ValueError> {
        let keys = prepared(keys)?;
        let values = keys.iter().map(|key| self.value::<V>(key));
        Ok(all(values).await)
    }

    /// A value that may be used, counted.
    async fn value<V: CachedValue>(&self, key: &ValueKey) -> Option<Arc<V>> {
        if !self.is_enabled() {
            return None;
        }
        let reading = Reading::begin(self);
        let mut found = self.value_in_memory(key);
        if found.is_none() && self.may_fetch_value() {
            // In a box: a hit in memory is not to carry it.
            let looked_up = Box::pin(self.look_up_value(key)).await;
            found = looked_up.filter(|hit| self.is_fresh_value(&hit.stored));
        }
        match found {
            Some(_) => self.counters().value_hit(),
            None => self.counters().value_miss(),
        }
        if let Some(reading) = reading {
            let stored = found.as_ref().map(|hit| hit.stored.clone());
            reading.end(self, key, &stored.map_or(Made::Nothing, Made::Stored));
        }
        found.map(|hit| hit.value)
    }

    /// A value that memory may use on its own.
    #[inline]
    pub(super) fn value_in_memory<V: CachedValue>(&self, key: &ValueKey) -> Option<Hit<V>> {
        self.fresh_value(key)?.hit()
    }

    #[inline]
    pub(super) fn fresh_value(&self, key: &ValueKey) -> Option<Arc<StoredValue>> {
        let stored = self.memory().find_value(&key.key)?;
        let now = self.now();
        let is_fresh = stored.lifetime(self.log())?.is_fresh(now);
        let is_good = is_fresh && self.standing(&stored, now) == Standing::Good;
        is_good.then_some(stored)
    }
}

/// The outputs of futures that are polled together, in their order.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut outputs: Vec<_> = pending.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, output) in pending.iter_mut().zip(&mut outputs) {
            let poll = future.as_mut().map(|future| future.as_mut().poll(cx));
            if let Some(Poll::Ready(ready)) = poll {
                *output = Some(ready);
                *future = None;
            }
        }
        match pending.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// All the keys, or why one of them is none.
fn prepared<K: IntoValueKey>(
    keys: impl IntoIterator<Item = K>,
) -> Result<Vec<ValueKey>, ValueError> {
    keys.into_iter().map(K::into_value_key).collect()
}
