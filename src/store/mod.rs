//! Where responses are kept: the memory tier, and behind it, if there is one, a remote store.
//!
//! [`Store`] is the whole of what a remote store has to be: bytes under keys, with a life. What the
//! bytes mean is the business of `codec.rs`; what happens when the store fails that of `remote.rs`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{error::StoreError, key::is_of_value};

pub(crate) mod breaker;
pub(crate) mod codec;
pub(crate) mod coherence;
pub(crate) mod counters;
pub(crate) mod lease;
pub(crate) mod memory;
mod outbox;
pub(crate) mod record;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod remote;
pub(crate) mod seal;
#[cfg_attr(
    not(feature = "redis"),
    expect(dead_code, reason = "only Redis can be walked through")
)]
pub(crate) mod walk;

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
    /// A key of its parts, for a store that hands keys on to another one.
    #[must_use]
    pub const fn new(version: Option<&'a str>, path: &'a str, bytes: &'a [u8]) -> Self {
        Self {
            version,
            path,
            key: bytes,
        }
    }

    /// The version of the service, if the cache was given one.
    #[must_use]
    pub fn version(&self) -> Option<&'a str> {
        self.version
    }

    /// What is kept under it.
    #[must_use]
    pub fn kind(&self) -> StoreKind {
        match is_of_value(self.key) {
            true => StoreKind::Value,
            false => StoreKind::Response,
        }
    }

    /// The path of the resource or the name of the value, for people who look at keys.
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

/// The kinds of what is kept in a store, which people who look at its keys want to tell apart.
///
/// ```
/// use tower_response_cache::StoreKind;
///
/// assert_eq!(StoreKind::Value.as_str(), "value");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreKind {
    /// A response, or the rule by which its variants are told apart.
    Response,
    /// A value.
    Value,
}

impl StoreKind {
    /// In one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Value => "value",
        }
    }
}

/// A frame as a store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    frame: Bytes,
    remaining: Option<Duration>,
}

impl Stored {
    /// A frame, or the start of one that is longer than the limit.
    #[must_use]
    pub fn new(frame: impl Into<Bytes>) -> Self {
        Self {
            frame: frame.into(),
            remaining: None,
        }
    }

    /// How long the store will keep it; what the frame itself says may be less. Default: unknown.
    #[must_use]
    pub fn remaining(mut self, remaining: Duration) -> Self {
        self.remaining = Some(remaining);
        self
    }
}

impl<B: Into<Bytes>> From<B> for Stored {
    fn from(frame: B) -> Self {
        Self::new(frame)
    }
}

/// The link to a remote store, as [`Store::link`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Link {
    /// Nobody has asked for it yet.
    Idle,
    /// It is being made, for the first time or again; why the last attempt failed, if one did.
    Connecting(Option<String>),
    /// In use.
    Up,
    /// Closed for good.
    Closed,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Connecting(None) => f.write_str("connecting"),
            Self::Connecting(Some(why)) => write!(f, "connecting ({why})"),
            Self::Up => f.write_str("up"),
            Self::Closed => f.write_str("closed"),
        }
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
/// - A frame is gone when its life is over. A store that keeps it longer does no harm: the frame
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
/// use std::{collections::HashMap, sync::Mutex, time::SystemTime};
/// use bytes::Bytes;
/// use tower_response_cache::{Cache, Store, StoreFuture, StoreKey, Stored};
///
/// #[derive(Debug, Default)]
/// struct InMap(Mutex<HashMap<Vec<u8>, Bytes>>);
///
/// impl Store for InMap {
///     fn get<'a>(&'a self, key: &'a StoreKey<'a>, _limit: usize) -> StoreFuture<'a, Option<Stored>> {
///         Box::pin(async move { Ok(self.0.lock().unwrap().get(key.bytes()).map(|frame| frame.clone().into())) })
///     }
///     fn set<'a>(&'a self, key: &'a StoreKey<'a>, frame: Bytes, _until: SystemTime) -> StoreFuture<'a, ()> {
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
    /// The frame under `key`; of one that is longer than `limit`, the first `limit + 1` bytes or
    /// all, as it is easier.
    ///
    /// # Errors
    ///
    /// When the store could not be asked, or what is there cannot be a frame
    /// ([`StoreError::not_a_frame`]).
    fn get<'a>(&'a self, key: &'a StoreKey<'a>, limit: usize) -> StoreFuture<'a, Option<Stored>>;

    /// Keeps `frame` under `key` until that time of day, by the store's own [`time`](Self::time).
    ///
    /// # Errors
    ///
    /// When the store could not be told, or refused.
    fn set<'a>(
        &'a self,
        key: &'a StoreKey<'a>,
        frame: Bytes,
        until: SystemTime,
    ) -> StoreFuture<'a, ()>;

    /// Forgets what is under `key`.
    ///
    /// # Errors
    ///
    /// When the store could not be told.
    fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()>;

    /// Makes the link, if there is one to be made, and waits until it can be used.
    ///
    /// # Errors
    ///
    /// Why it cannot be made, as one sentence. The store goes on trying all the same.
    fn connect(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Ends the store's connections. Called once, by [`Cache::close`](crate::Cache::close).
    ///
    /// # Errors
    ///
    /// When something went wrong on the way; the store is not used any more all the same.
    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The time of day by the clock that all who share this store have in common; frames are
    /// dated with it. Default: `None`, the wall time of the cache's own clock.
    fn time(&self) -> Option<SystemTime> {
        None
    }

    /// How the link is. While it is not [`Link::Up`], nothing is asked and requests go on at once;
    /// a link that is [`Link::Idle`] should begin to be made by this call, if there is a runtime.
    fn link(&self) -> Link {
        Link::Up
    }

    /// An answer cannot have been that to its question: connections should be made anew.
    fn renew(&self) {}

    /// A frame of another key was read: the link should be looked at, and made anew if it is the
    /// one that mixes things up.
    fn check(&self) {}
}
