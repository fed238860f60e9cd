//! How a `Cache` is made.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    cache::{Cache, ValueSettings},
    clock::{Clock, SystemClock},
    entry::millis,
    error::BuildError,
    store::{
        Store, coherence::Channel, memory::Memory, remote::RemoteSettings, seal::Seal, walk::Walk,
    },
    values::checked_ttl,
};

const DEFAULT_MEMORY: u64 = 64 << 20;
const LEAST_MEMORY: u64 = 64 << 10;
const MOST_MEMORY: u64 = 1 << 46;
const VALUE_TTL: Duration = Duration::from_secs(3600);
const MAX_VALUE: u64 = 1 << 20;

impl Cache {
    /// A cache of 64 MiB in this process.
    ///
    /// Meant for a tokio runtime with timers, as `#[tokio::main]` makes it. Without timers nothing
    /// is limited in time and expired bytes wait for room to be needed; without tokio only bodies
    /// that are ready at once are stored.
    #[must_use]
    pub fn in_memory() -> Self {
        CacheBuilder::default().assemble()
    }

    /// A cache with other settings than the defaults.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// A cache that passes everything through until it is [enabled](Self::set_enabled).
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// let cache = if std::env::var_os("NO_CACHE").is_some() { Cache::disabled() } else { Cache::in_memory() };
    /// # let _ = cache;
    /// assert!(!Cache::disabled().is_enabled());
    /// ```
    #[must_use]
    pub fn disabled() -> Self {
        let cache = Self::in_memory();
        cache.set_enabled(false);
        cache
    }
}

/// Settings of a [`Cache`] that differ from the defaults; [`build`](Self::build) checks them.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CacheBuilder {
    memory: u64,
    clock: Arc<dyn Clock>,
    version: Option<String>,
    store: Option<Arc<dyn Store>>,
    seal: Option<Seal>,
    memory_ttl: Option<Duration>,
    channel: Option<Arc<dyn Channel>>,
    purge_invalidated: bool,
    purge: Option<Arc<dyn Walk>>,
    #[cfg(feature = "test-util")]
    is_alone: bool,
    value_ttl: Duration,
    max_value: u64,
    #[cfg(feature = "redis")]
    pub(crate) redis: Option<crate::redis::Redis>,
    #[cfg(feature = "test-util")]
    wrap: Option<Wrap>,
}

#[cfg(feature = "test-util")]
type WrapFn = dyn FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync;

#[cfg(feature = "test-util")]
struct Wrap(Box<WrapFn>);

#[cfg(feature = "test-util")]
impl std::fmt::Debug for Wrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wrap")
    }
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            memory: DEFAULT_MEMORY,
            clock: Arc::new(SystemClock::new()),
            version: None,
            store: None,
            seal: None,
            memory_ttl: None,
            channel: None,
            purge_invalidated: false,
            purge: None,
            #[cfg(feature = "test-util")]
            is_alone: false,
            value_ttl: VALUE_TTL,
            max_value: MAX_VALUE,
            #[cfg(feature = "redis")]
            redis: None,
            #[cfg(feature = "test-util")]
            wrap: None,
        }
    }
}

impl CacheBuilder {
    /// The bound of the memory tier in bytes: keys, heads, bodies and overhead of everything
    /// stored, and besides a quarter of it for bodies that are being read.
    ///
    /// Default: 64 MiB. At least 64 KiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// What tells the time. Default: the system's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The version of the service, such as `env!("CARGO_PKG_VERSION")`.
    ///
    /// Part of the key in a store that outlives the process, so that a deployment which changed the
    /// shape of its responses starts cold; without meaning for memory. Default: none.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// A store outside of this process, behind memory. Default: none.
    ///
    /// What memory does not have is looked up there, once per key; what is stored here goes there
    /// as well, in the background. Entries of layers with closures without a name (`bypass_when`,
    /// `store_when`) stay in memory: another process cannot know that its closures are the same.
    /// Those of `partition_by` go there under its name.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// For how long memory answers without asking the remote store. Default: with Redis as long as
    /// this node is sure to have heard of all invalidations, and for 1 second where it is not; 5
    /// seconds with a store of your own; without meaning where there is no remote store.
    ///
    /// With Redis nodes tell each other what is invalid, so there is nothing to be gained by less than
    /// the default. More counts while the link is down: so long memory then answers after a response
    /// was obtained, and so long an invalidation of another node may be overlooked.
    ///
    /// With a store of your own another node may go on for so long with what was deleted there or
    /// replaced by something newer. What such a store does not have, and everything while it cannot be
    /// reached, memory answers to the end of its life.
    pub fn memory_ttl(mut self, ttl: Duration) -> Self {
        self.memory_ttl = Some(ttl);
        self
    }

    /// Whether what was invalidated is taken out of Redis, in the background. Default: no; without meaning
    /// where there is no Redis.
    ///
    /// An invalidation searches and deletes nothing: what it selects cannot be used any more, is replaced when
    /// it is asked for again, and otherwise takes room in Redis to the end of its life. That is right where lives
    /// are short, or Redis evicts. Where they are long and room is dear, this frees it: a second or two after an
    /// invalidation one of the nodes walks through all keys of the namespace and [`version`](Self::version)
    /// (`SCAN`, on every primary of a cluster), reads the first kilobyte of each, and takes out (`UNLINK`) what no
    /// node can use. What became stale by a soft invalidation stays.
    ///
    /// One node walks at a time, mostly it rests, and it stops where the link or Redis is in trouble. Counted in [`RemoteStats::purged`](crate::RemoteStats::purged). Of [sealed](Self::seal) frames,
    /// which have to be read as a whole, those above 64 KiB stay. The user of Redis needs `+scan` for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// # #[cfg(feature = "redis")] {
    /// let cache = Cache::redis("redis://127.0.0.1", "shop").purge_invalidated(true).build()?;
    /// assert_eq!(cache.stats().remote().purged(), 0);
    /// # }
    /// # Ok::<(), tower_response_cache::BuildError>(())
    /// ```
    pub fn purge_invalidated(mut self, purge: bool) -> Self {
        self.purge_invalidated = purge;
        self
    }

    /// For how long values are fresh where [`Cache::set`] or an option says nothing else. Default: an hour.
    /// At least a millisecond, at most a hundred years.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Cache;
    ///
    /// assert!(Cache::builder().value_ttl(Duration::from_secs(300)).build().is_ok());
    /// assert!(Cache::builder().value_ttl(Duration::ZERO).build().is_err());
    /// ```
    pub fn value_ttl(mut self, ttl: Duration) -> Self {
        self.value_ttl = ttl;
        self
    }

    /// The longest value that is kept, in bytes of its encoding. Default: 1 MiB; never more than one part of
    /// the memory holds.
    ///
    /// [`Cache::set`] of a longer one is an error. What a load brings is returned and not kept, and counted as
    /// [`Reason::BodyTooLarge`](crate::Reason::BodyTooLarge).
    ///
    /// ```
    /// use tower_response_cache::{Cache, ValueError};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().max_value_size(10).build()?;
    /// let error = cache.set("text", "longer than that".to_owned()).await.unwrap_err();
    /// assert_eq!(error, ValueError::TooLarge { bytes: 18, limit: 10 });
    /// # Ok::<(), tower_response_cache::BuildError>(())
    /// # }).unwrap();
    /// ```
    pub fn max_value_size(mut self, bytes: u64) -> Self {
        self.max_value = bytes;
        self
    }

    /// Two functions around each frame on its way to the remote store and back, so that the store
    /// sees nothing of what it keeps. Default: none.
    ///
    /// An AEAD is what they should be: it hides the frame, and refuses one that somebody changed.
    /// The frame holds its full key, so nothing has to be added against frames put under other
    /// keys. Names of keys in the store are not sealed, and neither is the length.
    ///
    /// `open` returns `None` for what was not sealed with the same secret: that is a miss, counted
    /// as [`FrameFault::Unsealed`](crate::FrameFault::Unsealed).
    ///
    /// # Examples
    ///
    /// A random nonce of 24 bytes stands in front of what is encrypted:
    ///
    /// ```
    /// use bytes::Bytes;
    /// use chacha20poly1305::{AeadCore, KeyInit, XChaCha20Poly1305, aead::{Aead, OsRng}};
    ///
    /// let secret = [7; 32]; // Yours comes from where your secrets are.
    /// let cipher = XChaCha20Poly1305::new(&secret.into());
    /// let opener = cipher.clone();
    ///
    /// let seal = move |frame: Bytes| {
    ///     let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
    ///     let sealed = cipher.encrypt(&nonce, &*frame).expect("far below the longest message");
    ///     Bytes::from([&nonce[..], &sealed].concat())
    /// };
    /// let open = move |sealed: Bytes| {
    ///     let (nonce, sealed) = sealed.split_at_checked(24)?;
    ///     opener.decrypt(nonce.into(), sealed).ok().map(Bytes::from)
    /// };
    ///
    /// assert_eq!(open(seal(Bytes::from("a frame"))).unwrap(), "a frame");
    /// assert_eq!(open(Bytes::from("somebody else's bytes, sealed or not")), None);
    /// ```
    pub fn seal(
        mut self,
        seal: impl Fn(Bytes) -> Bytes + Send + Sync + 'static,
        open: impl Fn(Bytes) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.seal = Some(Seal::new(seal, open));
        self
    }

    /// Leaves out the log that nodes share, for tests in whose runtime time stands still: what is asked of
    /// it there would always come too late.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    pub fn without_shared_log(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Puts something around the store that was chosen, such as a store that hands everything on.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    pub fn wrap_store(
        mut self,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync + 'static,
    ) -> Self {
        self.wrap = Some(Wrap(Box::new(wrap)));
        self
    }

    /// Makes the cache.
    ///
    /// # Errors
    ///
    /// When a setting makes no sense; the message says what to change.
    ///
    /// ```
    /// use tower_response_cache::Cache;
    ///
    /// let error = Cache::builder().memory(10).build().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "a memory of 10 bytes holds nothing; give at least 65536, or use Cache::disabled()",
    /// );
    /// ```
    pub fn build(self) -> Result<Cache, BuildError> {
        if self.memory < LEAST_MEMORY {
            return Err(BuildError::too_little_memory(self.memory, LEAST_MEMORY));
        }
        if self.memory > MOST_MEMORY {
            return Err(BuildError::too_much_memory(self.memory, MOST_MEMORY));
        }
        if let Some(version) = &self.version {
            let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
            if version.is_empty() || version.len() > 64 || !version.bytes().all(is_good) {
                return Err(BuildError::version(version));
            }
        }
        checked_ttl(self.value_ttl).map_err(|error| BuildError::value_ttl(&error))?;
        Ok(self.with_store()?.assemble())
    }

    /// Makes the store that was described, and puts around it what was to be.
    #[cfg_attr(not(any(feature = "redis", feature = "test-util")), expect(unused_mut))]
    fn with_store(mut self) -> Result<Self, BuildError> {
        #[cfg(feature = "redis")]
        if let Some(redis) = self.redis.take() {
            let store = redis.store(self.clock.clone())?;
            self.channel = Some(store.clone());
            if self.purge_invalidated {
                self.purge = Some(store.clone());
            }
            self.store = Some(store);
        }
        #[cfg(feature = "test-util")]
        if self.is_alone {
            self.channel = None;
            self.purge = None;
        }
        #[cfg(feature = "test-util")]
        if let Some(Wrap(wrap)) = self.wrap.take() {
            self.store = self.store.map(wrap);
        }
        Ok(self)
    }

    fn assemble(self) -> Cache {
        let (seal, version, memory_ttl) = (self.seal, self.version, self.memory_ttl);
        let (channel, purge) = (self.channel, self.purge);
        let remote = self.store.map(|store| RemoteSettings {
            store,
            channel,
            purge,
            seal,
            version,
            memory_ttl,
        });
        let values = ValueSettings {
            ttl: millis(self.value_ttl),
            limit: self.max_value,
        };
        Cache::new(
            Memory::new(self.memory),
            self.memory / 4,
            remote,
            self.clock,
            values,
        )
    }
}
