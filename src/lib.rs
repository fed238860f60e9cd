//! A response cache for axum, tower and hyper: one layer in front of your handlers.
//!
//! [`ResponseCacheLayer`] answers repeated GET and HEAD requests from a [`Cache`]. By default it
//! keeps responses for 60 seconds in 64 MiB of memory, passes through whatever could be personal,
//! calls the handler once for all who ask for a cold key at the same time, and says in `X-Cache`
//! and `Cache-Status` what it did.
//!
//! # A tour
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Json, Router, extract::{Request, State}, response::IntoResponse, routing::get};
//! use tower_response_cache::{Cache, CachePolicy, ResponseCacheLayer, Selector};
//!
//! async fn list() -> &'static str {
//!     "all the users"
//! }
//!
//! // The data first, the invalidation second; it also beats a fill that is under way.
//! async fn create(State(cache): State<Cache>, request: Request) -> &'static str {
//!     cache.invalidate(Selector::request(&request));
//!     "created"
//! }
//!
//! // A handler may say itself how long: to the cache alone, the client sees nothing of it.
//! async fn rate() -> impl IntoResponse {
//!     (CachePolicy::ttl(Duration::from_secs(5)), Json(1.09))
//! }
//!
//! let cache = Cache::in_memory();
//! let layer = ResponseCacheLayer::new(&cache);
//! let app: Router = Router::new()
//!     .route("/users", get(list).post(create).layer(layer.clone().ttl(Duration::from_secs(300))))
//!     .route("/rate", get(rate).layer(layer))
//!     .with_state(cache.clone());
//! # let _ = app;
//! assert_eq!(cache.stats().entries(), 0);
//! ```
//!
//! # Where to look
//!
//! - [`docs::rules`]: what is stored, for whom, and for how long, one rule per line.
//! - [`docs::rfc9111`]: what the standards require, and what is done.
//! - [`docs::invalidation`]: by tag, path and pattern, hard and soft, and why a fill cannot win.
//! - [`docs::redis`]: one cache for several processes.
//! - [`docs::nodes`]: what several nodes promise, and what happens when something breaks.
//! - [`docs::patterns`]: values and databases: aside, through, behind, ahead, events.
//! - [`ResponseCacheLayer`]: the options of a route. [`Cache`]: the shared handle.
//! - [`CachePolicy`], [`Tags`], [`Invalidate`], [`Selector`], [`Query`], [`Credentials`]: what options and
//!   handlers take.
//! - [`Cache::get`], [`Cache::get_or_set`], [`Cache::entry`], [`Cache::wrap`]: values and functions in the same cache;
//!   [`ValueKey`] says how their keys are made.
//! - [`Stats`], [`Reason`], [`FrameFault`]: what happened, and why.
//! - [`Store`]: what a store outside of this process has to be; [`Health`] and [`RemoteStats`]: how
//!   the link to it is doing.
//!
//! # Features
//!
//! | feature | default | what it brings | what it costs |
//! |---|---|---|---|
//! | `axum` | yes | nested routers are told apart, warnings name the route, [`CachePolicy`], [`Tags`] and [`Invalidate`] as parts of an answer | nothing over axum itself |
//! | `redis` | no | [`Cache::redis`](crate::Cache): Redis or Valkey as the second tier behind memory | `fred` and what it needs: some 75 crates over axum, a third of them for URLs |
//! | `redis-tls` | no | the same over TLS | rustls with ring, 10 crates more, and a C compiler |
//! | `macros` | no | `#[cached]` on your functions: [`Cache::get_or_set`] by an attribute | `syn`, `quote` and `proc-macro2`, when it is compiled |
//! | `test-util` | no | `ManualClock`, `assert_cached!` | nothing at run time |
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

mod admission;
mod answer;
mod body;
mod budget;
mod builder;
mod cache;
mod clock;
mod content;
#[cfg(all(test, shuttle))]
mod cores;
mod dependencies;
mod entry;
mod error;
mod events;
mod field_values;
mod fill;
mod flight;
mod future;
mod head;
mod headers;
mod health;
mod invalidate;
mod invalidated;
mod invalidation;
mod judge;
mod key;
mod layer;
mod marks;
mod miss;
mod nesting;
mod outline;
mod panics;
#[cfg(feature = "axum")]
mod parts;
mod pattern;
mod pending;
mod personal;
mod policy;
mod query;
mod random;
#[cfg(feature = "redis")]
mod redis;
mod refreshing;
mod repository;
mod router;
mod routes;
mod scope;
mod searches;
mod selector;
mod service;
mod settings;
mod shapes;
mod stats;
mod status;
mod store;
mod stored_head;
mod streaks;
mod strip;
mod sync;
mod target;
mod timer;
mod uncacheable;
mod unsafe_method;
mod validate;
mod values;

pub mod docs;

pub use body::{BodyError, ResponseBody};
pub use builder::CacheBuilder;
pub use cache::Cache;
pub use clock::Clock;
#[cfg(any(fuzzing, feature = "test-util", test))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "test-util")]
mod test_util;
#[cfg(any(feature = "test-util", test))]
pub use clock::ManualClock;
pub use error::{BuildError, SelectorError, StoreError, StoreErrorKind};
pub use future::ResponseFuture;
pub use headers::StatusHeaders;
pub use health::Health;
pub use invalidate::Invalidate;
pub use invalidated::Invalidated;
pub use invalidation::Sequence;
pub use layer::{ANALYTICS_COOKIES, ResponseCacheLayer};
pub use personal::Credentials;
pub use policy::{CachePolicy, Tags};
pub use query::Query;
#[cfg(feature = "redis")]
pub use redis::RedisSettings;
pub use repository::{BatchError, Repository, SaveError, Source, Write, WriteBehind};
pub use scope::Scope;
pub use selector::{RequestHead, Selector, Tag};
pub use service::ResponseCache;
pub use settings::{CacheableMethod, HonoredDirectives, Overflow};
pub use stats::Stats;
pub use status::{Forward, FrameFault, Reason};
pub use store::{
    Link, Store, StoreFuture, StoreKey, StoreKind, Stored, breaker::BreakerState,
    counters::RemoteStats,
};
#[cfg(feature = "test-util")]
pub use test_util::Asked;
#[cfg(feature = "test-util")]
#[doc(hidden)]
pub use test_util::x_cache_of;

/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, LoadError, cached};
///
/// struct Users {
///     cache: Cache,
/// }
///
/// impl Users {
///     #[cached(cache = self.cache, prefix = "user", ttl = "5m")]
///     async fn find(&self, id: u64) -> Result<String, std::io::Error> {
///         Ok(format!("user {id}"))
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let users = Users { cache: Cache::in_memory() };
/// assert_eq!(*users.find(42).await?, "user 42");
/// assert!(users.cache.exists(("user", 42)).await?);
/// users.cache.delete("user:42").await?;
/// # Ok::<(), LoadError<std::io::Error>>(())
/// # }).unwrap();
/// ```
#[cfg(feature = "macros")]
pub use tower_response_cache_macros::cached;
pub use values::{
    CachedFn, CachedValue, IntoValueKey, LoadError, SetValue, ValueEntry, ValueError, ValueKey,
};

#[cfg(all(doctest, feature = "test-util", feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
