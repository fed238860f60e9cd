//! How a `Cache` is made.

use std::sync::Arc;

use crate::{
    cache::Cache,
    clock::{Clock, SystemClock},
    error::BuildError,
    store::{Store, memory::Memory, remote::Remote},
};

const DEFAULT_MEMORY: u64 = 64 << 20;
const LEAST_MEMORY: u64 = 64 << 10;
const MOST_MEMORY: u64 = 1 << 46;

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
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            memory: DEFAULT_MEMORY,
            clock: Arc::new(SystemClock::new()),
            version: None,
            store: None,
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
    /// as well, in the background. Entries of layers with closures (`bypass_when`, `store_when`,
    /// `partition_by`) stay in memory: another process cannot know that its closures are the same.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
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
        Ok(self.assemble())
    }

    fn assemble(self) -> Cache {
        let remote = self
            .store
            .map(|store| Remote::new(store, self.version.as_deref()));
        Cache::new(
            Memory::new(self.memory),
            self.memory / 4,
            remote,
            self.clock,
        )
    }
}
