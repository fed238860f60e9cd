//! A value with all that can be said of it, loaded where it is not there.

use std::{convert::Infallible, fmt, future::Future, sync::Arc};

use super::{
    answer::Answer,
    error::{LoadError, ValueError},
    key::{IntoValueKey, ValueKey},
    load::{Asked, Step},
    options::{Making, options},
    stored::CachedValue,
    terms::{Terms, Ttl},
};
use crate::{cache::Cache, scope::Reading};

/// A value under a key that is about to be asked for: made by [`Cache::entry`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{Cache, Selector};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Token {
///     text: String,
///     expires_in: u64,
/// }
///
/// async fn sign_in() -> Result<Token, std::io::Error> {
///     Ok(Token { text: "secret".to_owned(), expires_in: 300 })
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::in_memory();
/// let token = cache
///     .entry("token")
///     .ttl_by(|token: &Token| Duration::from_secs(token.expires_in))
///     .stale_while_revalidate(Duration::from_secs(30))
///     .hard_limit(Duration::from_secs(10))
///     .tags(["sessions"])
///     .try_get_or_set(sign_in)
///     .await?;
/// assert_eq!(token.text, "secret");
///
/// cache.invalidate(Selector::tag("sessions"));
/// assert!(!cache.exists("token").await?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "nothing is asked for until it is loaded"]
pub struct ValueEntry<'c, V> {
    cache: &'c Cache,
    key: Result<ValueKey, ValueError>,
    terms: Making<V>,
}

impl<V> fmt::Debug for ValueEntry<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueEntry")
            .field("key", &self.key)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// The value under a key, with options: how long it is fresh, its tags, what may stand in for it.
    ///
    /// Unlike [`get_or_set`](Self::get_or_set) its load goes on by itself when its caller is dropped, and so
    /// cannot borrow. Default for how long: an hour, or what
    /// [`CacheBuilder::value_ttl`](crate::CacheBuilder::value_ttl) said.
    pub fn entry<V: CachedValue>(&self, key: impl IntoValueKey) -> ValueEntry<'_, V> {
        ValueEntry {
            cache: self,
            key: key.into_value_key(),
            terms: Ok(Arc::new(Terms::of_ttl(Ttl::Fixed(
                self.value_settings().ttl,
            )))),
        }
    }
}

impl<V: CachedValue> ValueEntry<'_, V> {
    options!(V);

    /// The value; where it is not there, what `load` brings.
    ///
    /// # Errors
    ///
    /// When the key or an option makes no sense, the load takes longer than its hard limit, or the cache is
    /// closed while it is loaded.
    pub async fn get_or_set<F, Loaded>(self, load: F) -> Result<Arc<V>, ValueError>
    where
        F: FnOnce() -> Loaded + Send + 'static,
        Loaded: Future<Output = V> + Send + 'static,
    {
        let load = || async { Ok::<V, Infallible>(load().await) };
        let answer = self.try_get_or_set(load).await;
        answer.map_err(LoadError::into_value)
    }

    /// The same with a load that may fail.
    ///
    /// # Errors
    ///
    /// The error of the load, or what [`get_or_set`](Self::get_or_set) says.
    pub async fn try_get_or_set<E, F, Loaded>(self, load: F) -> Result<Arc<V>, LoadError<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce() -> Loaded + Send + 'static,
        Loaded: Future<Output = Result<V, E>> + Send + 'static,
    {
        let (key, terms) = (self.key?, self.terms?);
        let asked = Asked {
            is_detached: true,
            ..Asked::default()
        };
        self.cache.load_detached(&key, &terms, asked, load).await
    }
}

impl Cache {
    /// A value, by a load that goes on by itself.
    pub(crate) async fn load_detached<V, R, E, F, Loaded>(
        &self,
        key: &ValueKey,
        terms: &Arc<Terms<V>>,
        asked: Asked,
        load: F,
    ) -> Result<Arc<V>, LoadError<E>>
    where
        V: CachedValue,
        R: Into<Arc<V>> + Send + 'static,
        E: Send + Sync + 'static,
        F: FnOnce() -> Loaded + Send + 'static,
        Loaded: Future<Output = Result<R, E>> + Send + 'static,
    {
        let reading = Reading::begin(self);
        let answer = match self.approach(key, terms, asked).await {
            Step::Answer(answer) => answer,
            Step::Refresh(hit, lead) => {
                lead.run_behind(load);
                Answer::hit(hit)
            }
            Step::Lead(lead) => lead.run_detached(load).await,
        };
        answer.noted(self, key, reading)
    }
}
