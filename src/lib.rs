//! A response cache for axum, tower and hyper.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

mod admission;
mod answer;
mod body;
mod budget;
mod builder;
mod cache;
mod clock;
mod entry;
mod error;
mod fill;
mod flight;
mod future;
mod head;
mod headers;
mod invalidation;
mod judge;
mod key;
mod layer;
mod marks;
mod miss;
mod nesting;
mod pending;
mod personal;
mod policy;
mod router;
mod selector;
mod service;
mod settings;
mod stats;
mod status;
mod store;
mod streaks;

pub mod docs;

pub use body::{BodyError, ResponseBody};
pub use builder::CacheBuilder;
pub use cache::Cache;
pub use clock::Clock;
#[cfg(any(feature = "test-util", test))]
pub use clock::ManualClock;
pub use error::{BuildError, StoreError};
pub use future::ResponseFuture;
pub use headers::StatusHeaders;
pub use invalidation::Invalidated;
pub use key::Query;
pub use layer::{ANALYTICS_COOKIES, ResponseCacheLayer};
pub use personal::Credentials;
pub use policy::CachePolicy;
pub use selector::{RequestHead, Selector};
pub use service::ResponseCache;
pub use stats::Stats;
pub use status::{Forward, Reason};
pub use store::{Store, StoreFuture, StoreKey};
