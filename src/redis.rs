//! `Cache::redis`: how a cache with Redis as its second tier is made.

mod duration;
mod settings;

use std::sync::Arc;

use crate::{
    builder::CacheBuilder,
    cache::Cache,
    clock::Clock,
    error::BuildError,
    store::redis::{DigestFn, Given, RedisStore},
    store::remote::Remote,
};

pub use self::settings::RedisSettings;

/// How many connections there are by default.
const POOL_SIZE: usize = 2;

/// What the builder was told of Redis.
#[derive(Debug, Clone)]
pub(crate) struct Redis {
    settings: Given,
    digest: Option<DigestFn>,
}

impl Redis {
    pub(crate) fn store(self, clock: Arc<dyn Clock>) -> Result<Arc<RedisStore>, BuildError> {
        let mut store = RedisStore::new(self.settings, clock)?;
        if let Some(digest) = self.digest {
            store = store.with_digest(digest);
        }
        Ok(Arc::new(store))
    }
}

impl From<RedisSettings> for Redis {
    fn from(settings: RedisSettings) -> Self {
        Self {
            settings: settings.into_given(),
            digest: None,
        }
    }
}

impl Cache {
    /// A cache whose second tier, behind memory, is Redis or Valkey.
    ///
    /// The same as [`Cache::builder().redis(url, namespace)`](CacheBuilder::redis), where the forms
    /// of the URL are told. Needs feature `redis`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn shutdown() {}
    /// let cache = Cache::redis("redis://127.0.0.1", "shop")
    ///     .version(env!("CARGO_PKG_VERSION"))
    ///     .build()?; // No network yet.
    /// if let Err(error) = cache.connect().await {
    ///     eprintln!("starting without Redis: {error}"); // The cache works all the same.
    /// }
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(ResponseCacheLayer::new(&cache));
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    /// axum::serve(listener, app).with_graceful_shutdown(shutdown()).await?;
    /// cache.close().await; // What waits is written, the connections are closed.
    /// # Ok(())
    /// # }
    /// ```
    pub fn redis(url: impl Into<String>, namespace: impl Into<String>) -> CacheBuilder {
        Self::builder().redis(url, namespace)
    }

    /// From now on connections to Redis are made with this password. Without meaning where there is
    /// no Redis.
    ///
    /// For passwords that change while the process runs. Connections are made anew with it at once; the
    /// present ones serve until that has succeeded, so the order in which Redis and its clients learn of
    /// the password does not matter. Where Redis takes two passwords for a time
    /// (`ACL SETUSER cache >new`, later `<old`), nothing is interrupted. The user stays the same, and so does
    /// a password of sentinels.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, RedisSettings};
    ///
    /// let settings = RedisSettings::new("redis://127.0.0.1", "shop").user("cache").password("of today");
    /// let cache = Cache::builder().redis_settings(settings).build()?;
    /// cache.set_redis_password("of tomorrow");
    /// assert!(!format!("{cache:?}").contains("of tomorrow"));
    /// # Ok::<(), tower_response_cache::BuildError>(())
    /// ```
    pub fn set_redis_password(&self, password: impl Into<String>) {
        let coherence = self.remote().and_then(Remote::coherence);
        if let Some(coherence) = coherence {
            coherence.channel().set_password(password.into());
        }
    }
}

impl CacheBuilder {
    /// Redis or Valkey as the second tier, behind memory. Default: none.
    ///
    /// The URL is `redis://user:password@host:6379/0`, of which only the host is needed;
    /// `rediss://` for TLS (feature `redis-tls`); `redis+unix:///path/to/socket?db=0`, also with
    /// `user` and `password`; `valkey` for `redis` in any of them. What is special in a password is
    /// percent-encoded. Of a cluster some nodes are named, `redis-cluster://host:6379,host2`, and of
    /// sentinels some of them and what they call the primary, `redis-sentinel://host:26379,host2/service`,
    /// each also with `rediss` for `redis`. What comes from a file of settings is easier told by
    /// [`redis_settings`](Self::redis_settings).
    ///
    /// The namespace, 1 to 64 letters, digits and `. _ - :`, comes first in every key there:
    /// services with the same one share their responses, so give each service its own, and a
    /// [`version`](Self::version) besides.
    ///
    /// Nothing is connected before the first request or [`Cache::connect`]. See
    /// [`docs::redis`](crate::docs::redis) for what is promised while Redis is in trouble. Errors
    /// in URL or namespace come from [`build`](Self::build).
    pub fn redis(mut self, url: impl Into<String>, namespace: impl Into<String>) -> Self {
        self.redis = Some(RedisSettings::new(url, namespace).into());
        self
    }

    /// The same by settings that may come from a file. Default: none.
    ///
    /// Their version, their life in memory and whether they purge, where they say so, take the place of
    /// [`version`](Self::version), [`memory_ttl`](Self::memory_ttl) and
    /// [`purge_invalidated`](Self::purge_invalidated). Errors come from [`build`](Self::build).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, RedisSettings};
    ///
    /// let settings = RedisSettings::new("redis://:word@127.0.0.1", "shop").password("another");
    /// let error = Cache::builder().redis_settings(settings).build().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "there is a password in the Redis URL and another beside it; give one of them",
    /// );
    /// ```
    pub fn redis_settings(mut self, mut settings: RedisSettings) -> Self {
        if let Some(version) = settings.take_version() {
            self = self.version(version);
        }
        if let Some(ttl) = settings.life_in_memory() {
            self = self.memory_ttl(ttl);
        }
        if let Some(purge) = settings.purges() {
            self = self.purge_invalidated(purge);
        }
        self.redis = Some(settings.into());
        self
    }

    /// How many connections to Redis there are, 1 to 64. To a cluster each of them is one to every primary. Default: 2; without meaning before
    /// [`redis`](Self::redis).
    ///
    /// Commands of many requests share a connection, so few are enough.
    pub fn pool_size(mut self, connections: usize) -> Self {
        if let Some(redis) = &mut self.redis {
            redis.settings.pool_size = connections;
        }
        self
    }

    /// Another digest for the names of keys, to test what happens when names collide.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    pub fn redis_digest(mut self, digest: fn(&[u8]) -> [u8; 16]) -> Self {
        if let Some(redis) = &mut self.redis {
            redis.digest = Some(digest);
        }
        self
    }
}
