//! Functions whose results are kept: by their arguments, under a name.

use std::{convert::Infallible, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    error::{LoadError, ValueError},
    key::{IntoValueKey, ValueKey},
    load::Asked,
    options::{Making, change, options, set_ttl},
    stored::CachedValue,
    terms::{Terms, Ttl},
    text::push_args,
};
use crate::{cache::Cache, invalidated::Invalidated};

type Loading<V, E> = Pin<Box<dyn Future<Output = Result<V, E>> + Send>>;
type LoadFn<A, V, E> = dyn Fn(A) -> Loading<V, E> + Send + Sync;
type KeyFn<A> = dyn Fn(&A) -> Result<ValueKey, ValueError> + Send + Sync;

/// A function whose results are kept: made by [`Cache::wrap`] and [`Cache::try_wrap`], cheap to clone.
///
/// Its options are said when it is made. What makes no sense, a name with a `:` or a ttl of nothing, is the
/// error of every call.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::Cache;
///
/// async fn find(id: u64) -> Result<Option<String>, std::io::Error> {
///     Ok((id == 42).then(|| "Ada".to_owned()))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::in_memory();
/// let users = cache
///     .try_wrap("user", Duration::from_secs(300), find)
///     .cache_absent(Duration::from_secs(10))
///     .stale_if_error(Duration::from_secs(3600));
///
/// assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
/// assert_eq!(users.get(43).await?.as_deref(), None);
/// assert!(cache.exists("user:42").await?);
/// users.forget(42).await?;
/// assert!(!cache.exists("user:42").await?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "nothing is loaded until it is called"]
pub struct CachedFn<A, V, E = Infallible> {
    cache: Cache,
    key: Arc<KeyFn<A>>,
    load: Arc<LoadFn<A, V, E>>,
    terms: Making<V>,
}

impl<A, V, E> Clone for CachedFn<A, V, E> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            key: self.key.clone(),
            load: self.load.clone(),
            terms: self.terms.clone(),
        }
    }
}

impl<A, V, E> fmt::Debug for CachedFn<A, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedFn")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// # Functions
impl Cache {
    /// A function whose results are kept under `name` and its argument, each for `ttl`.
    ///
    /// The key of `42` is that of `("user", 42)`; a tuple is several arguments, `()` is none. A result of
    /// `None` or `Err` is returned and not kept, unless [`cache_absent`](CachedFn::cache_absent) says that `None`
    /// is. An error that serde does not know is for [`try_wrap`](Self::try_wrap).
    ///
    /// All who call it with one argument at the same time get what one call brings, which goes on in a task
    /// when they are dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// let lengths = cache.wrap("length", Duration::from_secs(60), |word: String| async move { word.len() });
    /// assert_eq!(*lengths.get("four".to_owned()).await?, 4);
    ///
    /// cache.set(("length", "four"), 5_usize).await?;
    /// assert_eq!(*lengths.get("four".to_owned()).await?, 5);
    /// assert_eq!(*lengths.refresh("four".to_owned()).await?, 4);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub fn wrap<A, V, F, Loaded>(
        &self,
        name: impl Into<String>,
        ttl: Duration,
        load: F,
    ) -> CachedFn<A, V>
    where
        A: Serialize + Send + 'static,
        V: CachedValue,
        F: Fn(A) -> Loaded + Send + Sync + 'static,
        Loaded: Future<Output = V> + Send + 'static,
    {
        self.try_wrap(name, ttl, move |argument| {
            let loading = load(argument);
            async { Ok(loading.await) }
        })
    }

    /// The same for a function that may fail: its errors are those of all who wait, and are not kept.
    pub fn try_wrap<A, V, E, F, Loaded>(
        &self,
        name: impl Into<String>,
        ttl: Duration,
        load: F,
    ) -> CachedFn<A, V, E>
    where
        A: Serialize + Send + 'static,
        V: CachedValue,
        E: Send + Sync + 'static,
        F: Fn(A) -> Loaded + Send + Sync + 'static,
        Loaded: Future<Output = Result<V, E>> + Send + 'static,
    {
        let name = name.into();
        let mut terms = Ok(Arc::new(Terms::of_ttl(Ttl::Fixed(0))));
        change(&mut terms, |terms| set_ttl(terms, ttl));
        CachedFn {
            cache: self.clone(),
            key: Arc::new(move |argument| {
                ValueKey::of_args(&name, |text| push_args(text, argument))
            }),
            load: Arc::new(move |argument| Box::pin(load(argument))),
            terms,
        }
    }
}

impl<A, V, E> CachedFn<A, V, E>
where
    A: Send + 'static,
    V: CachedValue,
    E: Send + Sync + 'static,
{
    options!(V);

    /// Makes the key in another way, in place of the name and the whole argument.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Cache;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// let greet = |(id, name): (u64, String)| async move { format!("{name} is {id}") };
    /// let greetings = cache
    ///     .wrap("greeting", Duration::from_secs(60), greet)
    ///     .key(|(id, _)| ("greeting", *id));
    /// greetings.get((1, "Ada".to_owned())).await?;
    /// assert!(cache.exists("greeting:1").await?);
    /// # Ok::<(), tower_response_cache::ValueError>(())
    /// # }).unwrap();
    /// ```
    pub fn key<K: IntoValueKey>(mut self, key: impl Fn(&A) -> K + Send + Sync + 'static) -> Self {
        self.key = Arc::new(move |argument| key(argument).into_value_key());
        self
    }

    /// The result for an argument: what is kept, or what a call brings.
    ///
    /// # Errors
    ///
    /// The error of the function, or that the key or an option makes no sense, a call took longer than its
    /// hard limit, or the cache was closed during the call.
    pub async fn get(&self, argument: A) -> Result<Arc<V>, LoadError<E>> {
        self.call(argument, false).await
    }

    /// The result of a call that starts now, kept in place of what was there. Those who refresh one argument
    /// at the same time share a call that started after they asked.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); nothing stands in for an error here.
    pub async fn refresh(&self, argument: A) -> Result<Arc<V>, LoadError<E>> {
        self.call(argument, true).await
    }

    /// Forgets the result for an argument, as [`Cache::delete`] does.
    ///
    /// # Errors
    ///
    /// When the argument makes no key.
    pub async fn forget(&self, argument: A) -> Result<Invalidated, ValueError> {
        self.cache.delete((self.key)(&argument)?).await
    }

    /// Calls the function itself: nothing is looked up or kept.
    ///
    /// # Errors
    ///
    /// Those of the function.
    pub async fn uncached(&self, argument: A) -> Result<V, E> {
        (self.load)(argument).await
    }

    async fn call(&self, argument: A, is_forced: bool) -> Result<Arc<V>, LoadError<E>> {
        let key = (self.key)(&argument)?;
        let terms = self.terms.as_ref().map_err(ValueError::clone)?;
        let asked = Asked {
            is_detached: true,
            is_forced,
            ..Asked::default()
        };
        let load = self.load.clone();
        let load = move || load(argument);
        self.cache.load_detached(&key, terms, asked, load).await
    }
}
