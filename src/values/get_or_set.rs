//! A value, loaded where it is not there; the load may borrow.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use super::{
    answer::Answer,
    error::{LoadError, ValueError},
    key::IntoValueKey,
    load::{Asked, Step},
    stored::CachedValue,
    terms::{Terms, Ttl, checked_ttl},
};
use crate::{cache::Cache, scope::Reading};

/// # Values that are loaded
impl Cache {
    /// The value under a key; where it is not there, what `load` brings, which is then kept for `ttl`.
    ///
    /// All who ask for one key at the same time get what one load brings. It is polled by its caller, so it
    /// may borrow; when that caller is dropped, the next one of those who wait runs its own. Nobody waits
    /// longer than 5 seconds for another's load. A load that asks for the key that it loads runs once more,
    /// alone; a task that it spawns is not known to belong to it, and waits.
    ///
    /// `None` is returned and not kept, unless [`entry`](Self::entry) says so; an `Err` never is
    /// ([`try_get_or_set`](Self::try_get_or_set) is for those).
    ///
    /// # Errors
    ///
    /// When the key or the ttl makes no sense: less than a millisecond, more than a hundred years.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// let hour = Duration::from_secs(3600);
    /// let numbers = vec![1, 2, 3];
    /// let sum = cache.get_or_set("sum", hour, || async { numbers.iter().sum::<u32>() }).await?;
    /// assert_eq!(*sum, 6);
    /// let again = cache.get_or_set("sum", hour, || async { unreachable!("it is there") }).await?;
    /// assert_eq!(sum, again);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_or_set<V, F, Loaded>(
        &self,
        key: impl IntoValueKey,
        ttl: Duration,
        load: F,
    ) -> Result<Arc<V>, ValueError>
    where
        V: CachedValue,
        F: FnOnce() -> Loaded,
        Loaded: Future<Output = V>,
    {
        let load = || async { Ok::<V, Infallible>(load().await) };
        let answer = self.try_get_or_set(key, ttl, load).await;
        answer.map_err(LoadError::into_value)
    }

    /// The same with a load that may fail: its error is kept for nobody, and is that of all who wait.
    ///
    /// # Errors
    ///
    /// The error of the load, or what [`get_or_set`](Self::get_or_set) says.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, LoadError};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// let minute = Duration::from_secs(60);
    /// let parse = |text: &'static str| move || async move { text.parse::<u16>() };
    ///
    /// let failed = cache.try_get_or_set("port", minute, parse("high")).await;
    /// assert!(matches!(failed, Err(LoadError::Load(_))));
    /// let port = cache.try_get_or_set("port", minute, parse("8080")).await?;
    /// assert_eq!(*port, 8080);
    /// # Ok::<(), LoadError<std::num::ParseIntError>>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_get_or_set<V, E, F, Loaded>(
        &self,
        key: impl IntoValueKey,
        ttl: Duration,
        load: F,
    ) -> Result<Arc<V>, LoadError<E>>
    where
        V: CachedValue,
        E: Send + Sync + 'static,
        F: FnOnce() -> Loaded,
        Loaded: Future<Output = Result<V, E>>,
    {
        let ttl = checked_ttl(ttl)?;
        let key = key.into_value_key()?;
        let terms = Arc::new(Terms::of_ttl(Ttl::Fixed(ttl)));
        let reading = Reading::begin(self);
        let step = self.approach(&key, &terms, Asked::default());
        let answer = match step.await {
            Step::Answer(answer) => answer,
            // Only what is detached is refreshed.
            Step::Refresh(hit, _) => Answer::hit(hit),
            Step::Lead(lead) => lead.run(load).await,
        };
        answer.noted(self, &key, reading)
    }
}
