//! Repositories: what a database has, kept by the cache under its keys, and written past it, through it or
//! behind it.
//!
//! Reads are those of values that are loaded: one load for all who ask, and none that brings back what an
//! invalidation has outrun. Here is what is peculiar to repositories: where values come from ([`source`]),
//! and in which order a write reaches the source and the cache ([`saving`], [`behind`]).

mod behind;
mod error;
mod many;
mod queue;
mod saving;
mod source;

use std::{fmt, sync::Arc};

use self::behind::Behind;

pub use self::{
    behind::WriteBehind,
    error::SaveError,
    source::{BatchError, Source, Write},
};
use crate::{
    cache::Cache,
    invalidated::Invalidated,
    values::{Asked, LoadError, Making, Terms, Ttl, ValueError, ValueKey, options},
};

/// How a write reaches the source and the cache.
enum Writing<S: Source> {
    /// The source first; then the cache forgets what it had.
    Around,
    /// The source first; then the cache has what was written.
    Through,
    /// The cache first, and the source later.
    Behind(Arc<Behind<S>>),
}

impl<S: Source> Clone for Writing<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Around => Self::Around,
            Self::Through => Self::Through,
            Self::Behind(behind) => Self::Behind(behind.clone()),
        }
    }
}

impl<S: Source> fmt::Debug for Writing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Around => "Around",
            Self::Through => "Through",
            Self::Behind(_) => "Behind",
        })
    }
}

/// What a [`Source`] has, kept by the cache: made by [`Cache::repository`], cheap to clone.
///
/// Reads go through the cache (*read-through*): what it has not is loaded, once for all who ask at the same
/// time. Writes go to the source first, and then make the cache forget what it had (*cache-aside*); with
/// [`write_through`](Self::write_through) it keeps what was written instead. [`docs::patterns`](crate::docs::patterns)
/// helps to choose.
///
/// Its options are said when it is made. What makes no sense, a name with a `:` or a ttl of nothing, is the error
/// of every call.
///
/// # Examples
///
/// ```
/// use std::{collections::BTreeMap, convert::Infallible, sync::Mutex, time::Duration};
/// use tower_response_cache::{Cache, Source};
///
/// /// Stands for a table.
/// #[derive(Default)]
/// struct Users(Mutex<BTreeMap<u64, String>>);
///
/// impl Source for Users {
///     type Key = u64;
///     type Value = String;
///     type Error = Infallible;
///
///     async fn load(&self, id: &u64) -> Result<Option<String>, Infallible> {
///         Ok(self.0.lock().unwrap().get(id).cloned())
///     }
///     async fn save(&self, id: &u64, name: &String) -> Result<(), Infallible> {
///         self.0.lock().unwrap().insert(*id, name.clone());
///         Ok(())
///     }
///     async fn delete(&self, id: &u64) -> Result<(), Infallible> {
///         self.0.lock().unwrap().remove(id);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::in_memory();
/// let users = cache.repository("user", Users::default()).ttl(Duration::from_secs(300));
///
/// users.save(42, "Ada".to_owned()).await?;
/// assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
/// assert!(cache.exists("user:42").await?);
///
/// users.save(42, "Grace".to_owned()).await?;
/// assert_eq!(users.get(42).await?.as_deref(), Some("Grace"));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "cache-aside")]
#[doc(alias = "read-through")]
#[must_use = "nothing is read or written until it is asked to"]
pub struct Repository<S: Source> {
    cache: Cache,
    name: Arc<str>,
    source: Arc<S>,
    terms: Making<Option<S::Value>>,
    writing: Writing<S>,
}

impl<S: Source> Clone for Repository<S> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            name: self.name.clone(),
            source: self.source.clone(),
            terms: self.terms.clone(),
            writing: self.writing.clone(),
        }
    }
}

impl<S: Source> fmt::Debug for Repository<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("name", &self.name)
            .field("terms", &self.terms)
            .field("writing", &self.writing)
            .finish_non_exhaustive()
    }
}

/// # Repositories
impl Cache {
    /// What a source has, kept under `name:key`.
    ///
    /// Default for how long: an hour, or what [`CacheBuilder::value_ttl`](crate::CacheBuilder::value_ttl) said.
    pub fn repository<S: Source>(&self, name: impl Into<String>, source: S) -> Repository<S> {
        let ttl = Ttl::Fixed(self.value_settings().ttl);
        Repository {
            cache: self.clone(),
            name: name.into().into(),
            source: Arc::new(source),
            terms: Ok(Arc::new(Terms::of_ttl(ttl))),
            writing: Writing::Around,
        }
    }
}

/// What `options!` knows of the type that is kept.
type Kept<S> = Option<<S as Source>::Value>;

impl<S: Source> Repository<S> {
    options!(Kept<S>);

    /// Keeps what was written, in place of forgetting what it replaced: who reads it next gets a hit.
    ///
    /// Nothing is kept where another write or invalidation of the key came while the source was being written:
    /// nobody knows then which of them the source has. So it is for nodes that share Redis with its log, as soon
    /// as they have heard of each other's writes, within a second; a store without a log may go on with the value of
    /// the one that was told last.
    #[doc(alias = "write-through")]
    pub fn write_through(mut self) -> Self {
        self.writing = Writing::Through;
        self
    }

    /// The source, for what is asked of it without the cache.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.source
    }

    /// What the source has under a key, or the cache.
    ///
    /// `None` is returned and not kept, unless [`cache_absent`](Self::cache_absent) said so.
    ///
    /// # Errors
    ///
    /// The error of the source, which is that of all who wait and kept for nobody; or that the key or an option
    /// makes no sense, the load took longer than its hard limit, or the cache was closed during it.
    pub async fn get(&self, key: S::Key) -> Result<Arc<Option<S::Value>>, LoadError<S::Error>> {
        self.read(key, false).await
    }

    /// What the source has from now on, kept in place of what was there.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); nothing stands in for an error here.
    pub async fn refresh(&self, key: S::Key) -> Result<Arc<Option<S::Value>>, LoadError<S::Error>> {
        self.read(key, true).await
    }

    /// Forgets what the cache has under a key, as [`Cache::delete`] does: for what was written elsewhere.
    ///
    /// # Errors
    ///
    /// When the key makes no sense.
    pub async fn forget(&self, key: S::Key) -> Result<Invalidated, ValueError> {
        self.cache.delete(self.key(&key)?).await
    }

    async fn read(
        &self,
        key: S::Key,
        is_forced: bool,
    ) -> Result<Arc<Option<S::Value>>, LoadError<S::Error>> {
        let (text, terms) = (self.key(&key)?, self.terms()?);
        let asked = Asked {
            is_detached: true,
            is_forced,
            ..Asked::default()
        };
        let this = self.clone();
        let load_key = text.clone();
        let load = || async move {
            match this.newest(&load_key) {
                Some(value) => Ok(value),
                None => this.source.load(&key).await.map(Arc::new),
            }
        };
        self.cache.load_detached(&text, terms, asked, load).await
    }

    /// What waits to be written under a key: the source will have it, whatever it has now.
    fn newest(&self, key: &ValueKey) -> Option<Arc<Kept<S>>> {
        match &self.writing {
            Writing::Behind(behind) => behind.queue.newest(key),
            _ => None,
        }
    }

    fn key(&self, key: &S::Key) -> Result<ValueKey, ValueError> {
        ValueKey::of_argument(&self.name, key)
    }

    fn terms(&self) -> Result<&Arc<Terms<Option<S::Value>>>, ValueError> {
        self.terms.as_ref().map_err(ValueError::clone)
    }
}
