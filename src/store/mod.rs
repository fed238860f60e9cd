//! Where responses are kept: the memory tier, and behind it, if there is one, a remote store.
//!
//! [`Store`] is the whole of what a remote store has to be: bytes under keys, with a life. What the
//! bytes mean is the business of `codec.rs`; what happens when the store fails that of `remote.rs`.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;

use crate::error::StoreError;

pub(crate) mod codec;
pub(crate) mod memory;
pub(crate) mod remote;

/// Where a frame is kept.
///
/// A store makes a name of its own kind from it: all of [`version`](Self::version) and
/// [`bytes`](Self::bytes) must go into that, at least as a digest; the path only makes it readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreKey<'a> {
    version: Option<&'a str>,
    path: &'a str,
    key: &'a [u8],
}

impl<'a> StoreKey<'a> {
    /// The version of the service, if the cache was given one.
    #[must_use]
    pub fn version(&self) -> Option<&'a str> {
        self.version
    }

    /// The path of the resource, for people who look at keys.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The whole cache key; at most some 16 KiB of any bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.key
    }
}

/// What a [`Store`] returns: a boxed future, so that a store can be an object.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store outside of this process, behind the memory tier.
///
/// # Contract
///
/// - `get` returns what the last `set` of the same key stored, or `None`; it may forget at any
///   time.
/// - An entry is gone when its life is over. A store that keeps it longer does no harm: the frame
///   itself says when it ends.
/// - Two keys may end up in the same place, by a digest that collides or a client that mixes up its
///   replies: what is read is compared with the full key inside the frame.
/// - Nothing here is waited for longer than the cache's own deadline: the future is dropped then,
///   at any await point.
/// - What another cache wrote counts as older than every invalidation of this one: after
///   [`Cache::invalidate`](crate::Cache::invalidate) its frames of that resource are misses here
///   until this cache has written its own.
/// - An error is a miss, never the failure of a request. It is counted in
///   [`Stats::store_errors`](crate::Stats::store_errors).
///
/// # Examples
///
/// A store in a map, as tests use it:
///
/// ```
/// use std::{collections::HashMap, sync::Mutex, time::Duration};
/// use bytes::Bytes;
/// use tower_response_cache::{Cache, Store, StoreFuture, StoreKey};
///
/// #[derive(Debug, Default)]
/// struct InMap(Mutex<HashMap<Vec<u8>, Bytes>>);
///
/// impl Store for InMap {
///     fn get<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, Option<Bytes>> {
///         Box::pin(async move { Ok(self.0.lock().unwrap().get(key.bytes()).cloned()) })
///     }
///     fn set<'a>(&'a self, key: &'a StoreKey<'a>, frame: Bytes, _life: Duration) -> StoreFuture<'a, ()> {
///         Box::pin(async move {
///             self.0.lock().unwrap().insert(key.bytes().to_owned(), frame);
///             Ok(())
///         })
///     }
///     fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()> {
///         Box::pin(async move {
///             self.0.lock().unwrap().remove(key.bytes());
///             Ok(())
///         })
///     }
/// }
///
/// let cache = Cache::builder().store(InMap::default()).build()?;
/// # let _ = cache;
/// # Ok::<(), tower_response_cache::BuildError>(())
/// ```
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The frame under `key`.
    ///
    /// # Errors
    ///
    /// When the store could not be asked.
    fn get<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, Option<Bytes>>;

    /// Keeps `frame` under `key` for `life`.
    ///
    /// # Errors
    ///
    /// When the store could not be told.
    fn set<'a>(
        &'a self,
        key: &'a StoreKey<'a>,
        frame: Bytes,
        life: Duration,
    ) -> StoreFuture<'a, ()>;

    /// Forgets what is under `key`.
    ///
    /// # Errors
    ///
    /// When the store could not be told.
    fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()>;

    /// Ends the store's connections. Called once, by [`Cache::close`](crate::Cache::close).
    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
