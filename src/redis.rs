//! `Cache::redis`: how a cache with Redis as its second tier is made.

use std::sync::Arc;

use crate::{
    builder::CacheBuilder,
    cache::Cache,
    clock::Clock,
    error::BuildError,
    store::redis::{DigestFn, RedisSettings, RedisStore},
};

/// How many connections there are by default.
const POOL_SIZE: usize = 2;

/// What the builder was told of Redis.
#[derive(Debug, Clone)]
pub(crate) struct Redis {
    settings: RedisSettings,
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

impl Cache {
    /// A cache whose second tier, behind memory, is one Redis or Valkey server.
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
}

impl CacheBuilder {
    /// One Redis or Valkey server as the second tier, behind memory. Default: none.
    ///
    /// The URL is `redis://user:password@host:6379/0`, of which only the host is needed;
    /// `rediss://` for TLS (feature `redis-tls`); `redis+unix:///path/to/socket?db=0`, also with
    /// `user` and `password`; `valkey` for `redis` in any of them. What is special in a password is
    /// percent-encoded.
    ///
    /// The namespace, 1 to 64 letters, digits and `. _ - :`, comes first in every key there:
    /// services with the same one share their responses, so give each service its own, and a
    /// [`version`](Self::version) besides.
    ///
    /// Nothing is connected before the first request or [`Cache::connect`]. See
    /// [`docs::redis`](crate::docs::redis) for what is promised while Redis is in trouble. Errors
    /// in URL or namespace come from [`build`](Self::build).
    pub fn redis(mut self, url: impl Into<String>, namespace: impl Into<String>) -> Self {
        self.redis = Some(Redis {
            settings: RedisSettings {
                url: url.into(),
                namespace: namespace.into(),
                pool_size: POOL_SIZE,
            },
            digest: None,
        });
        self
    }

    /// How many connections to Redis there are, 1 to 64. Default: 2; without meaning before
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
